//! A service without ports for tests: a real database in a folder of its own, the real router, real signatures.

use std::{collections::BTreeMap, sync::OnceLock};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
    response::Response,
};
use fleet_api::{PublishMetadata, RepositoryKeys, TokenScope};
use fleet_store::{AccountScope, DeviceEvent, EnrolmentRule, NewAuthority, NewToken, Parent, PresenceFact, Promise};
use http_body_util::BodyExt;
use protocol_release::{
    document::{Component, FormatOne, Health, Kind, Release},
    metadata::PublicKey,
    signing::{Algorithm, Holders, RootDraft, SignedFile, SigningKey, TargetsDraft},
};
use protocol_types::{
    AccountName, AppName, Digest, EndpointName, ReleaseVersion, SecurityVersion, TargetPath, UnixSeconds,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    Addresses, Clock, Config, Random, alerts,
    fleet::Fleet,
    jobs, operations,
    rest::{self, access::secret::TokenSecret},
    run,
};

pub(crate) struct TestService {
    pub(crate) fleet: Fleet,
    /// Made once, when it is asked for: it comes with the whole description of the API.
    router: OnceLock<Router>,
    folder: tempfile::TempDir,
}

impl TestService {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings.
    pub(crate) async fn start_with(set: impl FnOnce(&mut Config)) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), set).await
    }

    /// Ends as a killed process does, and starts again on what lies on the disk.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same, with other settings.
    pub(crate) async fn restart_with(self, set: impl FnOnce(&mut Config)) -> Self {
        let Self { fleet, router, folder } = self;
        drop(router);
        fleet.stop.cancel();
        fleet.store.close().await;
        Self::in_folder(folder, set).await
    }

    async fn in_folder(folder: tempfile::TempDir, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        set(&mut config);
        let listen = config.listen.clone();
        let addresses = Addresses {
            api: listen.api,
            bootstrap: listen.bootstrap,
            lwm2m: listen.lwm2m,
            artifacts: listen.artifacts,
            public_hosts: config.public_hosts.clone(),
            pid: 0,
        };
        let system = (Clock::system(), Random::system());
        let fleet = run::open(config, addresses, system, CancellationToken::new()).await.unwrap();
        Self { fleet, router: OnceLock::new(), folder }
    }

    pub(crate) fn router(&self) -> Router {
        self.router.get_or_init(|| rest::router(self.fleet.clone())).clone()
    }

    pub(crate) fn now(&self) -> UnixSeconds {
        self.fleet.clock.now()
    }

    pub(crate) async fn account(&self, name: &str) -> AccountScope {
        let name = AccountName::new(name).unwrap();
        self.fleet.store.ensure_account(&name, "", self.now()).await.unwrap();
        self.fleet.store.account(&name)
    }

    /// A token of the account, made past the API.
    pub(crate) async fn token(&self, account: &str, scopes: &[TokenScope]) -> String {
        self.token_until(account, scopes, None).await.0
    }

    async fn token_until(
        &self,
        account: &str,
        scopes: &[TokenScope],
        expires: Option<UnixSeconds>,
    ) -> (String, String) {
        let secret = TokenSecret::new(&self.fleet.random).unwrap();
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let token = NewToken {
            id: secret.id(),
            name: "test".into(),
            hash: secret.hash(),
            scopes: scopes.join(" "),
            expires,
            is_first: false,
            principal: None,
        };
        self.account(account).await.create_token(&token, None, self.now()).await.unwrap();
        (secret.reveal().to_owned(), token.id)
    }

    pub(crate) async fn revoked_token(&self) -> String {
        let (secret, id) = self.token_until("default", &[TokenScope::Admin], None).await;
        self.account("default").await.revoke_token(&id, self.now()).await.unwrap();
        secret
    }

    pub(crate) async fn expired_token(&self) -> String {
        self.token_until("default", &[TokenScope::Admin], Some(UnixSeconds(1))).await.0
    }

    /// A caller with every right in the account.
    pub(crate) async fn caller(&self, account: &str) -> Caller {
        Caller { router: self.router(), token: self.token(account, &[TokenScope::Admin]).await }
    }

    /// Puts a registered device into the directory, as the device ports do.
    pub(crate) async fn device(&self, account: &str, endpoint: &str) -> EndpointName {
        let scope = self.account(account).await;
        let endpoint = EndpointName::new(endpoint).unwrap();
        let authority = NewAuthority {
            name: endpoint.to_string(),
            subject: "CN=factory".into(),
            fingerprint: Digest::of(endpoint.as_str().as_bytes()).hex(),
            certificate: b"certificate".to_vec(),
            not_after: UnixSeconds(u64::from(u32::MAX)),
        };
        let authority = scope.add_authority(&authority, None, self.now()).await.unwrap().id;
        let rule = EnrolmentRule::new(Some(endpoint.clone()), None).unwrap();
        scope.add_enrolment(&rule, self.now()).await.unwrap();
        for what in [
            DeviceEvent::Joins { authority, serial: "f1".into(), fingerprint: [0; 32] },
            DeviceEvent::Certified {
                serial: "o1".into(),
                parent: Parent::Factory("f1".into()),
                not_after: UnixSeconds(u64::from(u32::MAX)),
            },
            DeviceEvent::Registers { serial: "o1".into(), session: 1, promise: Promise::new(300, false) },
        ] {
            self.presence(account, &endpoint, what).await;
        }
        endpoint
    }

    pub(crate) async fn presence(&self, account: &str, endpoint: &EndpointName, what: DeviceEvent) {
        let account = AccountName::new(account).unwrap();
        let fact = PresenceFact { account, endpoint: endpoint.clone(), what };
        for verdict in self.fleet.store.service_wide().record_presence(&[fact], self.now()).await.unwrap() {
            verdict.unwrap().unwrap();
        }
    }

    /// One of everything in the account; answers its name by the path of the collection that it is in.
    pub(crate) async fn fill(&self, account: &str) -> BTreeMap<&'static str, String> {
        let caller = self.caller(account).await;
        let endpoint = self.device(account, "gate-1").await;
        let mut publisher = Publisher::new(&caller).await;
        let digest = publisher.publish("1.0.0").await;
        let make = async |path: &str, body: Value| {
            let (status, made) = caller.post(path, &body).await;
            assert_eq!(status, StatusCode::CREATED, "{path}: {made}");
            made
        };
        make("/groups", json!({"name": "doors", "members": ["gate-1"]})).await;
        make("/filters", json!({"name": "lab", "filter": "tag = \"lab\""})).await;
        make("/service-accounts", json!({"name": "ci"})).await;
        make("/subscriptions", json!({"name": "desk"})).await;
        let rule = json!({"name": "here", "severity": "info", "condition": {"kind": "state", "filter": "connected = true"}, "for_s": 0});
        make("/alert-rules", rule).await;
        alerts::round(&self.fleet).await.unwrap();
        make("/silences", json!({"until": self.now().0 + 600, "reason": "test"})).await;
        let binding = make("/role-bindings", json!({"principal": "service/ci", "role": "viewer"})).await;
        make("/users", json!({"name": "anna", "email": "anna@example.com"})).await;
        let rollout = make("/rollouts", json!({"release": "1.0.0", "audience": "all"})).await;
        let policy = json!({"policy": "permit(principal, action == Action::\"list_groups\", resource);"});
        assert_eq!(caller.send(Caller::json("PUT", "/policies/own", &policy)).await.0, StatusCode::CREATED);
        for path in ["/configuration", "/groups/doors/configuration", "/devices/gate-1/configuration"] {
            let saved = json!({"document": {"hostname": "gate"}});
            assert_eq!(caller.send(Caller::json("PUT", path, &saved)).await.0, StatusCode::OK, "{path}");
        }
        let print = "0f".repeat(32);
        let list = Request::post("/listed-certificates").header(header::CONTENT_TYPE, "text/csv");
        let list = list.body(Body::from(format!("fingerprint\n{print}\n"))).unwrap();
        assert_eq!(caller.send(list).await.0, StatusCode::ACCEPTED);
        while operations::round(&self.fleet).await.unwrap() {}
        let (status, command) = caller.post("/devices/gate-1/read", &json!({"path": "/3/0/13"})).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{command}");
        let (status, job) = caller.post("/jobs/probe", &json!({"filter": "", "probe": "disk"})).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        while jobs::round(&self.fleet).await.unwrap() {}
        let first = async |path: &str| caller.get(path).await.1["items"][0]["id"].as_str().unwrap().to_owned();
        BTreeMap::from([
            ("accounts", account.to_owned()),
            ("alert-rules", "here".to_owned()),
            ("alerts", "al-1".to_owned()),
            ("artifacts", digest.hex()),
            ("authorities", first("/authorities").await),
            ("commands", command["id"].as_str().unwrap().to_owned()),
            ("devices", endpoint.to_string()),
            ("enrolments", first("/enrolments").await),
            ("filters", "lab".to_owned()),
            ("groups", "doors".to_owned()),
            ("jobs", job["id"].as_str().unwrap().to_owned()),
            ("listed-certificates", print),
            ("operations", "op-1".to_owned()),
            ("policies", "own".to_owned()),
            ("releases", "1.0.0".to_owned()),
            ("repository/metadata", "timestamp.json".to_owned()),
            ("role-bindings", binding["id"].as_str().unwrap().to_owned()),
            ("rollouts", rollout["id"].as_str().unwrap().to_owned()),
            ("service-accounts", "ci".to_owned()),
            ("silences", "si-1".to_owned()),
            ("subscriptions", "desk".to_owned()),
            ("tokens", first("/tokens").await),
            ("users", "anna".to_owned()),
        ])
    }
}

/// Somebody with a token.
#[derive(Clone)]
pub(crate) struct Caller {
    router: Router,
    token: String,
}

impl Caller {
    pub(crate) fn with_token(service: &TestService, token: &str) -> Self {
        Self { router: service.router(), token: token.to_owned() }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let answer = self.raw(request).await;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Sends a request to a path below the API's; the answer as it comes.
    pub(crate) async fn raw(&self, mut request: Request<Body>) -> Response {
        let bearer = format!("Bearer {}", self.token).parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let (path, rest) = (request.uri().path().to_owned(), request.uri().query().map(|q| format!("?{q}")));
        *request.uri_mut() = format!("/api/v1{path}{}", rest.unwrap_or_default()).parse().unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> (StatusCode, Value) {
        self.send(Self::json("POST", path, body)).await
    }

    pub(crate) async fn act(&self, path: &str) -> (StatusCode, Value) {
        self.send(Request::post(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) fn json(method: &str, path: &str, body: &impl Serialize) -> Request<Body> {
        let body = Body::from(serde_json::to_vec(body).unwrap());
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        let request = if method == "POST" { request } else { request.header(header::IF_MATCH, "*") };
        request.body(body).unwrap()
    }

    /// Sends one piece of an upload.
    pub(crate) async fn piece(&self, digest: &Digest, offset: u64, bytes: &[u8]) -> (StatusCode, Value) {
        let request = Request::patch(format!("/artifacts/{}", digest.hex()))
            .header(header::CONTENT_TYPE, fleet_api::UPLOAD_CONTENT_TYPE)
            .header(fleet_api::UPLOAD_OFFSET, offset)
            .body(Body::from(bytes.to_vec()))
            .unwrap();
        self.send(request).await
    }

    /// Uploads an artifact in one piece.
    pub(crate) async fn upload(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let (status, answer) =
            self.post("/artifacts", &serde_json::json!({"digest": digest, "size": bytes.len()})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        if answer["complete"] == false {
            let (status, answer) = self.piece(&digest, 0, bytes).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            assert_eq!(answer["complete"], true);
        }
        digest
    }
}

/// Somebody with the account's offline keys.
pub(crate) struct Publisher {
    caller: Caller,
    root: SigningKey,
    targets: SigningKey,
    draft: TargetsDraft,
    keys: RepositoryKeys,
}

const FAR: UnixSeconds = UnixSeconds(4_000_000_000);

impl Publisher {
    pub(crate) async fn new(caller: &Caller) -> Self {
        let (status, repository) = caller.get("/repository").await;
        assert_eq!(status, StatusCode::OK);
        let key = || SigningKey::generate(Algorithm::Ed25519).unwrap();
        Self {
            caller: caller.clone(),
            root: key(),
            targets: key(),
            draft: TargetsDraft::new(0, FAR),
            keys: serde_json::from_value(repository["keys"].clone()).unwrap(),
        }
    }

    /// Root 1, naming these keys as the service's.
    pub(crate) async fn root(&self, keys: &RepositoryKeys) -> SignedFile {
        let public = |value: &Value| serde_json::from_value::<PublicKey>(value.clone()).unwrap();
        let draft = RootDraft {
            version: 1,
            expires: FAR,
            root: Holders::one(self.root.public()),
            targets: Holders::one(self.targets.public()),
            snapshot: Holders::one(&public(&keys.snapshot)),
            timestamp: Holders::one(&public(&keys.timestamp)),
        };
        draft.sign(&[self.root.source()]).await.unwrap()
    }

    /// The bytes of a release with one configuration, and the configuration's.
    pub(crate) fn release(version: &str) -> (Release, Vec<u8>) {
        let configuration = format!("configuration of {version}").into_bytes();
        let component = Component {
            kind: Kind::Configuration { name: AppName::new("base").unwrap() },
            path: TargetPath::new(format!("configuration/base/{version}.json")).unwrap(),
            digest: Digest::of(&configuration),
            size: configuration.len() as u64,
            version: version.parse().unwrap(),
            boards: Vec::new(),
            architectures: Vec::new(),
            minimum_updater: 1,
        };
        let release = Release {
            format: FormatOne,
            version: version.parse::<ReleaseVersion>().unwrap(),
            security_version: SecurityVersion(1),
            raises_floor: false,
            health: Health { time_limit_s: 90, no_contact_limit_s: 600 },
            components: vec![component],
        };
        (release, configuration)
    }

    /// Lists a release in the next targets.
    pub(crate) fn list(&mut self, version: &str) -> [Vec<u8>; 2] {
        let (release, configuration) = Self::release(version);
        let document = release.to_bytes().unwrap();
        self.draft.insert(release.target_path().unwrap(), &document);
        self.draft.insert(release.components[0].path.clone(), &configuration);
        [document, configuration]
    }

    /// Takes a release out of the next targets.
    pub(crate) fn withdraw(&mut self, version: &str) {
        self.draft.entries.remove(&TargetPath::new(format!("releases/{version}.json")).unwrap());
    }

    /// Signs root and the next targets and sends them.
    pub(crate) async fn send(&mut self) -> (StatusCode, Value) {
        self.draft.version += 1;
        let targets = self.draft.sign(&[self.targets.source()]).await.unwrap();
        let root = self.root(&self.keys).await;
        self.send_files([root, targets]).await
    }

    /// Sends the present targets once more.
    pub(crate) async fn again(&self) -> (StatusCode, Value) {
        self.send_files([self.targets().await]).await
    }

    /// The present targets; version 1 if there are none yet.
    pub(crate) async fn targets(&self) -> SignedFile {
        let mut draft = self.draft.clone();
        draft.version = draft.version.max(1);
        draft.sign(&[self.targets.source()]).await.unwrap()
    }

    /// Signs the next targets with another key.
    pub(crate) async fn send_forged(&mut self) -> (StatusCode, Value) {
        let stranger = SigningKey::generate(Algorithm::Ed25519).unwrap();
        self.draft.version += 1;
        let targets = self.draft.sign(&[stranger.source()]).await.unwrap();
        self.draft.version -= 1;
        self.send_files([targets]).await
    }

    pub(crate) async fn send_files(&self, files: impl IntoIterator<Item = SignedFile>) -> (StatusCode, Value) {
        let files: BTreeMap<String, String> =
            files.into_iter().map(|file| (file.name, String::from_utf8(file.bytes).unwrap())).collect();
        self.caller.post("/repository/metadata", &PublishMetadata { files }).await
    }

    /// Uploads and publishes a release; answers the digest of its document.
    pub(crate) async fn publish(&mut self, version: &str) -> Digest {
        let [document, configuration] = self.list(version);
        self.caller.upload(&configuration).await;
        let digest = self.caller.upload(&document).await;
        let (status, answer) = self.send().await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        digest
    }
}
