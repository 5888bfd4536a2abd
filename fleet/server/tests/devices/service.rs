//! A real service in a folder of its own, and an administrator who talks to it.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fleet_api::{Client, ClientConfig, CreateEnrolment, CreateToken, DeviceDetail, TokenScope, UploadAuthority};
use fleet_server::Addresses;
use protocol_types::EndpointName;

use crate::factory::Factory;

/// Longest wait for anything that the service should do soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Service {
    process: Child,
    pub(crate) addresses: Addresses,
    pub(crate) authority_pem: String,
    pub(crate) admin: Client,
    pub(crate) folder: tempfile::TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        // A test that fails must leave no process behind; nothing more can be done here.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn launch(data_dir: &Path, listen: [String; 4]) -> Child {
    let [api, bootstrap, lwm2m, artifacts] = listen;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data_dir.with_extension("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_mbl-service"))
        .arg("run")
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--public-host", "127.0.0.1", "--listen-api", &api, "--listen-bootstrap", &bootstrap])
        .args(["--listen-lwm2m", &lwm2m, "--listen-artifacts", &artifacts])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

async fn addresses(data_dir: &Path) -> Addresses {
    until("the service listens", async || {
        let text = std::fs::read(data_dir.join(Addresses::FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    })
    .await
}

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(async |_| {}).await
    }

    /// Starts after something was put into its data directory.
    pub(crate) async fn start_with(prepare: impl AsyncFnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("service");
        std::fs::create_dir(&data_dir).unwrap();
        prepare(&data_dir).await;
        let process = launch(&data_dir, ["127.0.0.1:0"; 4].map(str::to_owned));
        let addresses = addresses(&data_dir).await;
        let authority_pem = std::fs::read_to_string(data_dir.join("service-authority.pem")).unwrap();
        let token = std::fs::read_to_string(data_dir.join("first-token")).unwrap().trim().to_owned();
        let admin = client(&addresses, &authority_pem, token);
        let wanted =
            CreateToken { name: "test".into(), scopes: vec![TokenScope::Admin], expires: None, principal: None };
        let token = admin.create_token(&wanted).await.unwrap().secret.unwrap();
        let admin = client(&addresses, &authority_pem, token);
        Self { process, addresses, authority_pem, admin, folder }
    }

    /// SIGKILL, and a new process at the same addresses.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let data_dir = self.folder.path().join("service");
        std::fs::remove_file(data_dir.join(Addresses::FILE)).unwrap();
        let at = &self.addresses;
        let listen = [at.api, at.bootstrap, at.lwm2m, at.artifacts].map(|address| address.to_string());
        self.process = launch(&data_dir, listen);
        addresses(&data_dir).await;
    }

    /// Lets every device of a new factory join the account `default`.
    pub(crate) async fn trusted_factory(&self) -> Factory {
        let factory = Factory::new();
        let id = self.upload(&factory).await;
        self.admin.create_enrolment(&CreateEnrolment { endpoint: None, authority: Some(id) }).await.unwrap();
        factory
    }

    /// Uploads a factory's authority; answers its id.
    pub(crate) async fn upload(&self, factory: &Factory) -> String {
        let wanted = UploadAuthority { name: "factory".into(), certificate: factory.certificate_pem() };
        self.admin.upload_authority(&wanted).await.unwrap().id
    }

    pub(crate) async fn device(&self, endpoint: &str) -> Option<DeviceDetail> {
        self.admin.device(&EndpointName::new(endpoint).unwrap()).await.ok()
    }

    /// Reason codes of the devices that were turned away.
    pub(crate) async fn denials(&self) -> Vec<(String, String)> {
        let page = self.admin.denials(&fleet_api::PageQuery::default()).await.unwrap();
        page.items.into_iter().map(|denial| (denial.endpoint.to_string(), denial.reason)).collect()
    }
}

pub(crate) fn client(addresses: &Addresses, authority_pem: &str, token: String) -> Client {
    Client::new(&ClientConfig {
        address: format!("https://{}", addresses.api),
        authority_pem: authority_pem.to_owned(),
        token: Some(token),
    })
    .unwrap()
}
