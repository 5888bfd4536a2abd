//! The real program against a service played over real TLS: enrolment, registration, orders, reports, renewal, refusals.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod pki;
mod service;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pki::{World, provisioned};
use protocol_lwm2m::{
    coap::{Code, ContentFormat, Message, OptionNumber, Token},
    formats::Value,
};
use protocol_types::{
    Digest, Phase, RunningRelease, SecurityVersion, Slot, UpdateStatus,
    socket::{AgentToUpdater, Fetch, FetchError, FrameReader, Greeting, PROTOCOL, Role, UpdaterToAgent, encode},
};
use service::{Peer, Port, release_entries};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

const LIFETIME: u32 = 60;

/// A provisioned device, its service, and the folder of both.
struct Bench {
    world: World,
    folder: tempfile::TempDir,
    bootstrap: Port,
    management: Port,
}

/// The agent as a process of its own, killed with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "certificates of the test must fit the clock of the process under test"
    )]
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A month that began yesterday.
fn month() -> (u64, u64) {
    (now() - 86_400, now() + 29 * 86_400)
}

async fn bench() -> Bench {
    let world = World::new();
    let (bootstrap, management) = (Port::open(&world).await, Port::open(&world).await);
    let folder = tempfile::tempdir().unwrap();
    provisioned(&world, folder.path(), &bootstrap.uri());
    fs::create_dir_all(folder.path().join("state/agent")).unwrap();
    fs::write(folder.path().join("state/agent/config.toml"), "retry_ceiling_s = 1\n").unwrap();
    fs::create_dir(folder.path().join("run")).unwrap();
    Bench { world, folder, bootstrap, management }
}

impl Bench {
    fn start(&self) -> Agent {
        let agent = Command::new(env!("CARGO_BIN_EXE_mbl-agent"))
            .args(["run", "--device-dir"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stderr(fs::File::options().create(true).append(true).open(self.log()).unwrap())
            .spawn()
            .unwrap();
        Agent(agent)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("agent.log")
    }

    /// Bootstraps, enrols with a certificate of this validity, and registers; the management connection.
    async fn enrolled(&self, validity: (u64, u64)) -> Peer {
        let mut peer = self.bootstrap.accept().await;
        peer.bootstrap(&self.management.uri(), LIFETIME).await;
        peer.enrol(&self.world.issuing, validity).await;
        let mut peer = self.management.accept().await;
        peer.register().await;
        peer
    }

    /// Enrols with a certificate that expires while the agent is off; the first second in which it is over.
    async fn expired_while_off(&self) -> u64 {
        let expiry = now() + 4;
        let agent = self.start();
        // Just issued, so that renewal is not due before its end comes near.
        drop(self.enrolled((now() - 1, expiry)).await);
        drop(agent);
        while now() <= expiry {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        expiry
    }
}

fn subject(der: &[u8]) -> (String, String) {
    use x509_parser::prelude::*;
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    (certificate.subject().to_string(), certificate.issuer().to_string())
}

/// Waits for a process to end.
async fn ended(agent: &mut Agent) -> std::process::ExitStatus {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = agent.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < until, "the agent does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn terminate(agent: &Agent) {
    let pid = rustix::process::Pid::from_child(&agent.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// The device is registered and answers.
async fn is_there(peer: &mut Peer) {
    let read = peer.ask(Message::new(Code::GET).path("3/0/2").accept(ContentFormat::TEXT)).await;
    assert_eq!((read.code, &read.payload[..]), (Code::CONTENT, &b"gate-42"[..]));
}

/// The updater's end of the local socket.
struct Updater {
    stream: UnixStream,
    frames: FrameReader,
}

impl Updater {
    fn listen(folder: &Path) -> UnixListener {
        UnixListener::bind(folder.join("run/updater.sock")).unwrap()
    }

    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
        let mut updater = Self { stream, frames: FrameReader::new() };
        let _: Greeting = updater.hear().await;
        updater.say(&Greeting { protocol: PROTOCOL, role: Role::Updater, version: "1".to_owned() }).await;
        updater
    }

    async fn say<M: serde::Serialize>(&mut self, message: &M) {
        self.stream.write_all(&encode(message).unwrap()).await.unwrap();
    }

    async fn hear<M: serde::de::DeserializeOwned>(&mut self) -> M {
        timeout(Duration::from_secs(20), async {
            loop {
                if let Some(message) = self.frames.take().unwrap() {
                    return message;
                }
                let mut piece = vec![0; 4096];
                let n = self.stream.read(&mut piece).await.unwrap();
                assert!(n > 0, "the agent hung up");
                self.frames.push(&piece[..n]);
            }
        })
        .await
        .unwrap()
    }

    /// The next message that `wanted` picks.
    async fn hear_until<T>(&mut self, wanted: impl Fn(AgentToUpdater) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear().await) {
                return found;
            }
        }
    }
}

fn status(phase: Phase, version: &str) -> UpdateStatus {
    UpdateStatus {
        phase,
        rollout: None,
        wanted: None,
        reason: None,
        progress: None,
        running: RunningRelease {
            version: version.parse().unwrap(),
            digest: None,
            slot: Slot::A,
            os_version: version.to_owned(),
            os_digest: Digest::of(version.as_bytes()),
            applications: Vec::new(),
            firmware: None,
        },
        floor: SecurityVersion(0),
        question: None,
    }
}

#[tokio::test]
async fn a_new_device_bootstraps_enrols_with_its_own_key_and_registers() {
    let bench = bench().await;
    let _agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    assert_eq!(subject(&peer.certificate()), ("O=acme, CN=gate-42".to_owned(), "CN=factory authority".to_owned()));
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, month()).await;
    let factory = peer.certificate();

    let mut peer = bench.management.accept().await;
    assert_eq!(subject(&peer.certificate()), ("O=acme, CN=gate-42".to_owned(), "CN=issuing authority".to_owned()));
    let key = |der: &[u8]| {
        use x509_parser::prelude::*;
        X509Certificate::from_der(der).unwrap().1.public_key().raw.to_vec()
    };
    assert_eq!(key(&peer.certificate()), key(&factory), "one key, which never left the device");
    let registration = peer.register().await;
    let queries: Vec<_> = registration.queries().collect();
    for query in [("ep", "gate-42"), ("lt", "60"), ("lwm2m", "1.1"), ("b", "T")] {
        assert!(queries.contains(&query), "{query:?} is missing in {queries:?}");
    }
    let links = String::from_utf8(registration.payload).unwrap();
    for link in ["</1/1>", "</3/0>", "</4/0>", "</5/0>", "</26241/0>"] {
        assert!(links.contains(link), "{link} is missing in {links}");
    }
    assert!(!links.contains("</0"), "object 0 is never shown: {links}");
}

#[tokio::test]
async fn an_order_that_was_acknowledged_survives_the_loss_of_power() {
    let bench = bench().await;
    let mut agent = bench.start();
    let mut peer = bench.enrolled(month()).await;
    let digest = Digest::of(b"release").to_string();
    let order = [(0, "releases/1.1.0.json"), (1, &*digest), (2, "r-9")];
    assert_eq!(peer.write_release(&order).await.code, Code::CHANGED);
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();

    let listener = Updater::listen(bench.folder.path());
    let _agent = bench.start();
    let mut updater = Updater::accept(&listener).await;
    let wish = updater
        .hear_until(|message| match message {
            AgentToUpdater::Desire { release, digest, rollout, .. } => Some((release, digest, rollout)),
            _ => None,
        })
        .await;
    let expected = ("releases/1.1.0.json".parse().unwrap(), digest.parse().unwrap(), Some("r-9".parse().unwrap()));
    assert_eq!(wish, expected);
    // The enrolment survived, too: the device goes straight to its management server.
    bench.management.accept().await.register().await;
}

#[tokio::test]
async fn what_a_server_may_not_do_is_refused_and_changes_nothing() {
    let bench = bench().await;
    let _agent = bench.start();
    let mut peer = bench.enrolled(month()).await;
    for bad in [
        vec![(0, "../../etc/passwd"), (1, "sha256:00")],
        vec![(0, "releases/1.1.0.json"), (1, "md5:00")],
        vec![(14, "http://plain.example:80")],
    ] {
        assert_eq!(peer.write_release(&bad).await.code, Code::BAD_REQUEST, "{bad:?}");
    }
    let to = |code, path: &str| Message::new(code).path(path).content(ContentFormat::TEXT, "https://evil.example/fw");
    for (request, refusal) in [
        (to(Code::PUT, "5/0/1"), Code::METHOD_NOT_ALLOWED),
        (to(Code::PUT, "26241/0/9"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::POST).path("5/0/2"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::GET).path("0/1/5"), Code::UNAUTHORIZED),
        (Message::new(Code::GET).path("77/0"), Code::NOT_FOUND),
        (Message::new(Code::POST).path("26241/0").content(ContentFormat::SENML_CBOR, [0xff; 40]), Code::BAD_REQUEST),
        (Message::new(Code::POST).path("26241/0").content(ContentFormat(999), "x"), Code::UNSUPPORTED_CONTENT_FORMAT),
    ] {
        let path = request.uri_path();
        assert_eq!(peer.ask(request).await.code, refusal, "{path}");
    }
    assert!(!bench.folder.path().join("state/agent/orders.json").exists());
    is_there(&mut peer).await;
}

#[tokio::test]
async fn reports_of_the_updater_reach_whoever_observes_the_release() {
    let bench = bench().await;
    let listener = Updater::listen(bench.folder.path());
    let _agent = bench.start();
    let mut updater = Updater::accept(&listener).await;
    let mut peer = bench.enrolled(month()).await;
    updater
        .hear_until(|message| matches!(message, AgentToUpdater::Contact(contact) if contact.registered).then_some(()))
        .await;
    updater.say(&UpdaterToAgent::Status(Box::new(status(Phase::Idle, "1.0.0")))).await;

    let token = Token::new(b"watch").unwrap();
    let observe = Message::new(Code::GET)
        .path("26241/0")
        .accept(ContentFormat::SENML_CBOR)
        .with_uint(OptionNumber::OBSERVE, 0)
        .with_token(token);
    peer.send(&observe).await;
    let reads = |message: &Message, id: u16| {
        let entries = release_entries(message);
        entries.into_iter().find(|entry| entry.path.ids() == [26_241, 0, id]).map(|entry| entry.value)
    };
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let mut first = peer.notified(token).await;
    assert_eq!(first.code, Code::CONTENT);
    if reads(&first, 9).is_none() {
        // The report was still on its way; then it is news.
        first = peer.notified(token).await;
    }
    assert_eq!((reads(&first, 3), reads(&first, 9)), (text("idle"), text("1.0.0")));
    updater.say(&UpdaterToAgent::Status(Box::new(status(Phase::Trial, "1.1.0")))).await;
    let second = peer.notified(token).await;
    assert_eq!((reads(&second, 3), reads(&second, 9)), (text("trial"), text("1.1.0")));
    assert_eq!(peer.ask(Message::new(Code::POST).path("3/0/4")).await.code, Code::CHANGED);
    updater.hear_until(|message| (message == AgentToUpdater::Restart).then_some(())).await;
}

#[tokio::test]
async fn a_device_that_stops_or_restarts_says_goodbye() {
    let bench = bench().await;
    let listener = Updater::listen(bench.folder.path());
    let mut agent = bench.start();
    let mut updater = Updater::accept(&listener).await;
    let mut peer = bench.enrolled(month()).await;
    is_there(&mut peer).await;
    updater.say(&UpdaterToAgent::Restarting).await;
    let goodbye = peer.expect(Code::DELETE, "/rd/7").await;
    peer.answer(&goodbye, Message::new(Code::DELETED)).await;
    assert_eq!(peer.receive_or_end().await, None, "the connection is closed after the goodbye");
    // Nothing came of the restart: the updater is back, and so is the device.
    drop(updater);
    let _updater = Updater::accept(&listener).await;
    let mut peer = bench.management.accept().await;
    peer.register().await;
    is_there(&mut peer).await;
    terminate(&agent);
    let goodbye = peer.expect(Code::DELETE, "/rd/7").await;
    peer.answer(&goodbye, Message::new(Code::DELETED)).await;
    assert!(ended(&mut agent).await.success());
}

#[tokio::test]
async fn a_certificate_is_renewed_on_the_management_connection_at_two_thirds() {
    let bench = bench().await;
    let agent = bench.start();
    // 60 of 90 seconds have passed: it is due at once.
    let mut peer = bench.enrolled((now() - 62, now() + 28)).await;
    let before = peer.certificate();
    peer.issue("/.well-known/est/sren", &bench.world.issuing, month()).await;
    let kept = bench.folder.path().join("state/agent/enrolment.json");
    let month_from_now = |text: &str| {
        let kept: serde_json::Value = serde_json::from_str(text).unwrap();
        let certificate = ::pem::parse(kept["value"]["certificate"].as_str().unwrap()).unwrap().into_contents();
        certificate != before.as_ref()
    };
    until("the renewed certificate is not kept", || month_from_now(&fs::read_to_string(&kept).unwrap())).await;
    drop(agent);
    let _agent = bench.start();
    let peer = bench.management.accept().await;
    assert_ne!(peer.certificate(), before, "the next connection uses the renewed certificate");
}

#[tokio::test]
async fn a_renewed_certificate_that_cannot_be_kept_is_not_used() {
    let bench = bench().await;
    let agent = bench.start();
    let mut peer = bench.enrolled((now() - 62, now() + 28)).await;
    let before = peer.certificate();
    let_nothing_be_kept(&bench);
    peer.issue("/.well-known/est/sren", &bench.world.issuing, month()).await;
    let says_so = || fs::read_to_string(bench.log()).unwrap().contains("cannot be kept");
    until("nobody says that it cannot be kept", says_so).await;
    drop(agent);
    let _agent = bench.start();
    let peer = bench.management.accept().await;
    assert_eq!(peer.certificate(), before, "the service would take it for a copy");
}

/// From now on no certificate can be kept: in the place of the file that would become the new one there is something else. A disk that is
/// full ends the same way.
fn let_nothing_be_kept(bench: &Bench) {
    fs::create_dir_all(bench.folder.path().join("state/agent/.enrolment.json.new/full")).unwrap();
}

#[tokio::test]
async fn a_device_whose_state_cannot_be_written_registers_with_a_certificate_that_lasts_until_it_restarts() {
    let bench = bench().await;
    let agent = bench.start();
    let_nothing_be_kept(&bench);
    let peer = bench.enrolled(month()).await;
    assert!(fs::read_to_string(bench.log()).unwrap().contains("lasts until the agent restarts only"));
    drop((agent, peer));
    let _agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    assert_eq!(subject(&peer.certificate()).1, "CN=factory authority");
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, month()).await;
    bench.management.accept().await.register().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_kept_takes_the_place_of_none_but_one_that_is_over() {
    let bench = bench().await;
    let expiry = bench.expired_while_off().await;
    let_nothing_be_kept(&bench);
    let _agent = bench.start();
    // The former one was good until a day after this one began, whatever the clock here says: a restart would go back to it.
    let mut peer = bench.bootstrap.accept().await;
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, month()).await;
    let refuses = || fs::read_to_string(bench.log()).unwrap().contains("no operational certificate was issued");
    until("it is used although a restart forgets it", refuses).await;
    let mut peer = bench.bootstrap.accept().await;
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, (expiry, expiry + 86_400)).await;
    bench.management.accept().await.register().await;
}

#[tokio::test]
async fn a_new_key_is_told_as_done_once_the_device_is_registered_with_it() {
    let bench = bench().await;
    let _agent = bench.start();
    let mut peer = bench.enrolled(month()).await;
    let before = peer.certificate();
    peer.give_job("a-1", "rotate-key").await;
    peer.issue("/.well-known/est/sren", &bench.world.issuing, month()).await;
    let mut peer = bench.management.accept().await;
    assert_ne!(peer.certificate(), before);
    let request = peer.expect(Code::POST, "/rd").await;
    peer.answer(&request, Message::refusal(Code::SERVICE_UNAVAILABLE, "in trouble")).await;
    // It comes back after a wait, and the job is still under way.
    let mut peer = bench.management.accept().await;
    let jobs = || fs::read_to_string(bench.folder.path().join("state/agent/jobs.json")).unwrap();
    assert!(jobs().contains(r#""last":null"#), "{}", jobs());
    peer.register().await;
    assert_eq!(peer.job_ended("a-1").await, "done");
    assert!(!jobs().contains(r#""last":null"#), "{}", jobs());
}

#[tokio::test]
async fn a_device_whose_certificate_expired_while_it_was_off_enrols_again_with_its_factory_certificate() {
    let bench = bench().await;
    bench.expired_while_off().await;
    let _agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    assert_eq!(subject(&peer.certificate()).1, "CN=factory authority");
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, month()).await;
    bench.management.accept().await.register().await;
}

#[tokio::test]
async fn a_device_refused_at_registration_or_by_tls_goes_back_to_bootstrap() {
    let bench = bench().await;
    let _agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, month()).await;
    for _ in 0..3 {
        let mut peer = bench.management.accept().await;
        let request = peer.expect(Code::POST, "/rd").await;
        peer.answer(&request, Message::refusal(Code::FORBIDDEN, "suspended")).await;
    }
    let mut peer = bench.bootstrap.accept().await;
    // A second management server that takes certificates of another authority only.
    let other = pki::Authority::new("issuing authority");
    let strict = Port::with(bench.world.server_config_from(b"coap", 2020, &[&other])).await;
    peer.bootstrap(&strict.uri(), LIFETIME).await;
    peer.enrol(&bench.world.issuing, month()).await;
    for _ in 0..3 {
        assert!(strict.accept_silent().await.is_none(), "the server refuses the certificate");
    }
    let mut peer = bench.bootstrap.accept().await;
    peer.bootstrap(&strict.uri(), LIFETIME).await;
    peer.enrol(&other, month()).await;
    strict.accept().await.register().await;
}

#[tokio::test]
async fn an_issued_certificate_that_is_not_for_this_device_is_not_taken() {
    let bench = bench().await;
    let _agent = bench.start();
    let mut peer = bench.bootstrap.accept().await;
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    let request = peer.expect(Code::GET, "/.well-known/est/crts").await;
    let authority = &bench.world.issuing;
    peer.answer(&request, Message::new(Code::CONTENT).content(ContentFormat::PKIX_CERT, authority.der.as_ref())).await;
    let request = peer.expect(Code::POST, "/.well-known/est/sen").await;
    let stranger = device_agent::key_store::DeviceKey::generate().unwrap();
    let stranger = stranger.request(&"acme".parse().unwrap(), &"gate-42".parse().unwrap()).unwrap();
    let wrong = authority.sign_der(&stranger, month());
    peer.answer(&request, Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, wrong.as_ref())).await;
    let mut peer = bench.bootstrap.accept().await;
    assert!(!bench.folder.path().join("state/agent/enrolment.json").exists());
    peer.bootstrap(&bench.management.uri(), LIFETIME).await;
    peer.enrol(authority, month()).await;
    bench.management.accept().await.register().await;
}

#[tokio::test]
async fn a_message_that_is_no_coap_or_too_long_ends_the_connection_and_the_device_comes_back() {
    let bench = bench().await;
    let agent = bench.start();
    let mut peer = bench.enrolled(month()).await;
    // A token of 9 bytes; a frame that announces 4 GiB.
    for bad in [&[0x09_u8, 0x01][..], &[0xf0, 0xff, 0xff, 0xff, 0xff, 0x01][..]] {
        peer.send_raw(bad).await;
        let abort = peer.receive_or_end().await.expect("an abort comes before the end");
        assert_eq!(abort.code, Code::ABORT);
        assert_eq!(peer.receive_or_end().await, None);
        peer = bench.management.accept().await;
        peer.register().await;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    assert!(resident.parse::<u64>().unwrap() < 60_000, "{resident} kB resident after what announced 4 GiB");
}

#[tokio::test]
async fn a_device_with_an_altered_factory_document_neither_enrols_nor_installs_but_runs() {
    let bench = bench().await;
    let listener = Updater::listen(bench.folder.path());
    let path = bench.folder.path().join("factory/factory.json");
    let altered = fs::read_to_string(&path).unwrap().replace("\"acme\"", "\"evil\"");
    fs::remove_file(&path).unwrap();
    fs::write(&path, altered).unwrap();
    let mut agent = bench.start();
    let mut updater = Updater::accept(&listener).await;
    let what = Fetch::Artifact { digest: Digest::of(b"x"), offset: 0, length: 10 };
    updater.say(&UpdaterToAgent::Fetch { id: 1, what }).await;
    let result = updater
        .hear_until(|message| if let AgentToUpdater::Fetched(fetched) = message { Some(fetched.result) } else { None })
        .await;
    assert_eq!(result, Err(FetchError::Refused));
    assert!(bench.bootstrap.is_left_alone_for(Duration::from_secs(2)).await);
    assert!(agent.0.try_wait().unwrap().is_none(), "it runs on");
    assert!(fs::read_to_string(bench.log()).unwrap().contains("state_damaged"));
}

#[tokio::test]
async fn an_unprovisioned_device_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mbl-agent"))
        .args(["run", "--device-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not provisioned"));
}
