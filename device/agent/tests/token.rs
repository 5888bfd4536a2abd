//! The device key in a token: SoftHSM, and a TPM in software behind the library that a board has.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod pki;
mod service;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pki::{World, begin_step, package};
use service::{Peer, Port};

/// A TPM in software. It serves one program at a time, as no board's does.
struct SoftwareTpm {
    folder: PathBuf,
    process: Child,
}

impl SoftwareTpm {
    fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let socket = folder.join("tpm.sock");
        drop(fs::remove_file(&socket));
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear", "--tpmstate"])
            .arg(format!("dir={}", folder.display()))
            .args(["--server".to_owned(), format!("type=unixio,path={}", socket.display())])
            .args(["--ctrl".to_owned(), format!("type=unixio,path={}.ctrl", socket.display())])
            .stdin(Stdio::null())
            .spawn()
            .expect("swtpm is in tools.txt");
        let until = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < until, "swtpm does not listen");
            std::thread::yield_now();
        }
        Self { folder: folder.to_owned(), process }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("tpm.sock")
    }

    /// A cut of power: no shutdown command comes before it.
    fn cut_power(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        *self = Self::start(&self.folder.clone());
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A token that was never used, with what its library wants to know.
struct Token {
    module: &'static str,
    environment: Vec<(&'static str, String)>,
    /// The folder of its keys, and the one in which each start of the agent has a copy of it, if it has.
    store: PathBuf,
    copy: Option<PathBuf>,
    tpm: Option<SoftwareTpm>,
}

fn softhsm(folder: &Path) -> Token {
    let (store, config) = (folder.join("store"), folder.join("softhsm.conf"));
    fs::create_dir_all(&store).unwrap();
    fs::write(&config, format!("directories.tokendir = {}\nobjectstore.backend = file\n", store.display())).unwrap();
    let environment = vec![("SOFTHSM2_CONF", config.to_str().unwrap().to_owned())];
    Token { module: "/usr/lib/softhsm/libsofthsm2.so", environment, store, copy: None, tpm: None }
}

fn tpm(folder: &Path) -> Token {
    let tpm = SoftwareTpm::start(&folder.join("tpm"));
    let store = folder.join("store");
    fs::create_dir_all(&store).unwrap();
    let environment = vec![
        ("TPM2_PKCS11_STORE", store.to_str().unwrap().to_owned()),
        ("TPM2_PKCS11_TCTI", format!("swtpm:path={}", tpm.socket().display())),
    ];
    // Debian puts it into a folder of the processor architecture, where the loader finds it by its name; a setting wants a path.
    let module = if cfg!(target_arch = "aarch64") {
        "/usr/lib/aarch64-linux-gnu/libtpm2_pkcs11.so.1"
    } else {
        "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1"
    };
    Token { module, environment, copy: Some(folder.join("copy")), store, tpm: Some(tpm) }
}

/// A device whose key is in a token, and its service.
struct Bench {
    world: World,
    folder: tempfile::TempDir,
    token: Token,
    bootstrap: Port,
}

/// The agent as a process of its own, killed with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Bench {
    async fn new(token: impl FnOnce(&Path) -> Token) -> Self {
        let world = World::new();
        let folder = tempfile::tempdir().unwrap();
        let token = token(&folder.path().join("token"));
        let bootstrap = Port::open(&world).await;
        let tpm = token.tpm.iter().map(|tpm| format!("tpm = '{}'\n", tpm.socket().display())).collect::<String>();
        let pin = folder.path().join("token/store/pin");
        let copy = token.copy.iter().map(|copy| format!("store = '{}/tpm2_pkcs11.sqlite3'\n", copy.display()));
        let settings = format!(
            "[key_store]\nmodule = '{}'\ntoken = 'mbl'\npin_file = '{}'\n{tpm}{}",
            token.module,
            pin.display(),
            copy.collect::<String>()
        );
        fs::write(folder.path().join("board.toml"), settings).unwrap();
        fs::create_dir_all(folder.path().join("device/run")).unwrap();
        Self { world, folder, token, bootstrap }
    }

    fn agent(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mbl-agent"));
        command.args([verb, "--device-dir"]).arg(self.folder.path().join("device"));
        command.arg("--board-settings").arg(self.folder.path().join("board.toml"));
        command.envs(self.token.environment.iter().map(|(name, value)| (name, value.as_str())));
        command
    }

    /// The key that asks for a certificate, as PEM request.
    fn provision(&self) {
        let step = begin_step(self.agent("factory"));
        let certificate = self.world.factory.sign_unnamed(&step.request, ("acme", "gate-42"));
        let output =
            step.finish(&package(&self.world.document("gate-42", "acme", &self.bootstrap.uri()), &certificate));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn start(&self) -> Agent {
        let mut agent = self.agent("run");
        if let Some(copy) = &self.token.copy {
            // As on a board, where the store of the factory is read-only.
            drop(fs::remove_dir_all(copy));
            fs::create_dir(copy).unwrap();
            for entry in fs::read_dir(&self.token.store).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
            }
            agent.env("TPM2_PKCS11_STORE", copy);
        }
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("agent.log")).unwrap();
        Agent(agent.stdin(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// RFC 5915: version 1, then the private key as an octet string of 32 bytes.
const BEFORE_A_PRIVATE_KEY: [u8; 5] = [2, 1, 1, 4, 32];

async fn is_born_signs_and_stays(token: impl FnOnce(&Path) -> Token) {
    let mut bench = Bench::new(token).await;
    let interrupted = begin_step(bench.agent("factory"));
    let born = interrupted.request.clone();
    assert!(!interrupted.finish("{").status.success());
    bench.provision();
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.folder.path().join("device/factory/factory.json")).unwrap()).unwrap();
    assert_eq!(document["endpoint"], "gate-42");

    // The handshake of the bootstrap connection ends only with a signature of the token; so does the request for a certificate.
    let agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    use x509_parser::prelude::*;
    let request = ::pem::parse(born).unwrap();
    let (_, request) = X509CertificationRequest::from_der(request.contents()).unwrap();
    let shown = peer.certificate();
    let (_, certificate) = X509Certificate::from_der(&shown).unwrap();
    assert_eq!(certificate.public_key().raw, request.certification_request_info.subject_pki.raw, "the key is another");
    peer.bootstrap("coaps+tcp://127.0.0.1:1", 60).await;
    let month = (1_767_225_600, 4_102_444_800);
    peer.enrol(&bench.world.issuing, month).await;
    drop(agent);

    for path in files_below(bench.folder.path()) {
        let Ok(bytes) = fs::read(&path) else { continue };
        let holds = |pattern: &[u8]| bytes.windows(pattern.len()).any(|part| part == pattern);
        assert!(!holds(b"PRIVATE KEY") && !holds(&BEFORE_A_PRIVATE_KEY), "{} holds a private key", path.display());
    }
    // The kernel takes from a killed program what it loaded into a TPM; here a restart does.
    bench.token.tpm.iter_mut().for_each(SoftwareTpm::cut_power);
    let again = begin_step(bench.agent("factory"));
    assert!(again.request.contains("this device was provisioned before"), "{}", again.request);
    assert!(!again.finish("").status.success());
}

#[tokio::test]
async fn a_key_in_softhsm_is_born_there_signs_and_stays() {
    is_born_signs_and_stays(softhsm).await;
}

#[tokio::test]
async fn a_key_in_a_tpm_is_born_there_signs_and_stays() {
    is_born_signs_and_stays(tpm).await;
}

fn public_key(certificate: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::*;
    X509Certificate::from_der(certificate).unwrap().1.public_key().raw.to_vec()
}

impl Bench {
    /// Waits until the agent has said this so often.
    async fn until_said(&self, words: &str, times: usize) {
        let log = self.folder.path().join("agent.log");
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let said = fs::read_to_string(&log).unwrap();
            if said.matches(words).count() >= times {
                return;
            }
            assert!(Instant::now() < until, "{said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the device that is registered with `peer` rotate its key, and the connection that it makes with the new one.
    async fn rotated(&self, mut peer: Peer, management: &Port, id: &str) -> Peer {
        peer.give_job(id, "rotate-key").await;
        peer.issue("/.well-known/est/sren", &self.world.issuing, CENTURY).await;
        let mut again = management.accept().await;
        again.register().await;
        assert_eq!(again.job_ended(id).await, "done");
        again
    }
}

/// A certificate that is not renewed by itself while a test runs.
const CENTURY: (u64, u64) = (1_767_225_600, 4_102_444_800);

async fn is_rotated_in_the_token(token: impl FnOnce(&Path) -> Token) {
    let mut bench = Bench::new(token).await;
    bench.provision();
    let management = Port::open(&bench.world).await;
    let agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    let device_key = public_key(&peer.certificate());
    peer.bootstrap(&management.uri(), 60).await;
    peer.enrol(&bench.world.issuing, CENTURY).await;
    let mut peer = management.accept().await;
    peer.register().await;
    assert_eq!(public_key(&peer.certificate()), device_key);

    let peer = bench.rotated(peer, &management, "a-1").await;
    let first = public_key(&peer.certificate());
    assert_ne!(first, device_key, "it is the key of before");
    let peer = bench.rotated(peer, &management, "a-2").await;
    let second = public_key(&peer.certificate());
    assert!(second != first && second != device_key);
    // The key before it goes once the new one has been used; there was none to remove after the first time.
    bench.until_said("keys that are no longer used were removed from the token", 1).await;
    let kept = fs::read_to_string(bench.folder.path().join("device/state/agent/enrolment.json")).unwrap();
    assert!(kept.contains("\"token_key\":\"") && !kept.contains("PRIVATE KEY"), "{kept}");

    // Neither the end of the process nor a loss of power brings another key back.
    drop(agent);
    bench.token.tpm.iter_mut().for_each(SoftwareTpm::cut_power);
    let agent = bench.start();
    let mut peer = management.accept().await;
    peer.register().await;
    assert_eq!(public_key(&peer.certificate()), second);
    drop((agent, peer));

    // Without its state it is the device of the factory, and what was left in the token goes.
    bench.token.tpm.iter_mut().for_each(SoftwareTpm::cut_power);
    fs::remove_dir_all(bench.folder.path().join("device/state")).unwrap();
    let _agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    assert_eq!(public_key(&peer.certificate()), device_key);
    peer.bootstrap(&management.uri(), 60).await;
    peer.enrol(&bench.world.issuing, CENTURY).await;
    let mut peer = management.accept().await;
    peer.register().await;
    assert_eq!(public_key(&peer.certificate()), device_key);
    if bench.token.copy.is_none() {
        bench.until_said("keys that are no longer used were removed from the token", 2).await;
    }
}

#[tokio::test]
async fn a_key_is_rotated_in_softhsm_and_the_one_before_goes_once_the_new_one_was_used() {
    Box::pin(is_rotated_in_the_token(softhsm)).await;
}

#[tokio::test]
async fn a_key_is_rotated_in_a_tpm_whose_store_is_the_one_of_the_factory_at_each_start() {
    Box::pin(is_rotated_in_the_token(tpm)).await;
}

#[tokio::test]
async fn a_damaged_copy_of_the_store_costs_the_rotated_key_and_not_the_device() {
    let mut bench = Bench::new(tpm).await;
    bench.provision();
    let management = Port::open(&bench.world).await;
    let agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    let device_key = public_key(&peer.certificate());
    peer.bootstrap(&management.uri(), 60).await;
    peer.enrol(&bench.world.issuing, CENTURY).await;
    let mut peer = management.accept().await;
    peer.register().await;
    drop(bench.rotated(peer, &management, "a-1").await);
    drop(agent);
    bench.token.tpm.iter_mut().for_each(SoftwareTpm::cut_power);
    let copy = bench.folder.path().join("device/state/agent/key-store.sqlite3");
    fs::write(&copy, "no data base").unwrap();
    let mut agent = bench.start();
    assert!(!agent.0.wait().unwrap().success(), "it goes on with a store that it cannot read");
    bench.until_said("the kept copy of the key store cannot be used and was given up", 1).await;
    assert!(!copy.exists());
    bench.token.tpm.iter_mut().for_each(SoftwareTpm::cut_power);
    let _agent = bench.start();
    let peer = bench.bootstrap.accept().await;
    assert_eq!(public_key(&peer.certificate()), device_key, "it enrols anew, as what it is");
}

#[tokio::test]
async fn a_tpm_that_loses_power_again_and_again_does_not_lock_the_device_out() {
    let mut bench = Bench::new(tpm).await;
    bench.provision();
    for cut in 0..6 {
        let agent = bench.start();
        assert!(bench.bootstrap.accept_silent().await.is_some(), "no handshake after {cut} cuts");
        drop(agent);
        bench.token.tpm.iter_mut().for_each(SoftwareTpm::cut_power);
    }
}

#[tokio::test]
async fn a_document_that_the_token_did_not_record_is_noticed() {
    let bench = Bench::new(softhsm).await;
    bench.provision();
    let path = bench.folder.path().join("device/factory/factory.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replace("gate-42", "gate-43")).unwrap();
    let _agent = bench.start();
    let log = bench.folder.path().join("agent.log");
    let until = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(&log).unwrap().contains("state_damaged: the factory data is not what was accepted") {
        assert!(Instant::now() < until, "{}", fs::read_to_string(&log).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bench.bootstrap.is_left_alone_for(Duration::from_millis(500)).await);
}
