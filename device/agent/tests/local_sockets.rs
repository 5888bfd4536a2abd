//! The agent's side of the local sockets against real sockets, real TLS and misbehaving peers.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod artifacts;
mod pki;

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use artifacts::artifact_server;
use device_agent::{
    apps_link::keep_apps_link,
    clock::{SystemClock, VerificationClock},
    configuration::InForce,
    facts::{Facts, ToldTime},
    key_store::DeviceKey,
    network::TlsNetwork,
    orders::{Orders, Wish},
    relay::{Source, relay},
    tls::{ALPN_HTTP, Trust, Validity, provider},
    updater_link::keep_updater_link,
};
use pki::World;
use protocol_types::{
    Configuration, Digest, LogLevel, SignedTime, UnixSeconds,
    socket::{
        AgentToApps, AgentToUpdater, AppsSettings, AppsToAgent, Contact, Fetch, FetchError, FrameReader, Greeting,
        MAX_FETCH, MAX_FRAME, MAX_LOG, PROTOCOL, Role, UpdaterSettings, UpdaterToAgent, encode,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The root process's end of a connection.
struct Peer {
    stream: UnixStream,
    frames: FrameReader,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap().unwrap();
        Self { stream, frames: FrameReader::new() }
    }

    async fn say<M: Serialize>(&mut self, message: &M) {
        self.stream.write_all(&encode(message).unwrap()).await.unwrap();
    }

    /// The next message, or none if the agent hung up.
    async fn hear<M: DeserializeOwned>(&mut self) -> Option<M> {
        timeout(Duration::from_secs(20), async {
            loop {
                if let Some(message) = self.frames.take().unwrap() {
                    return Some(message);
                }
                let mut piece = vec![0; 65_536];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(n) => self.frames.push(&piece[..n]),
                }
            }
        })
        .await
        .unwrap()
    }

    async fn greet(&mut self, role: Role) {
        let greeting: Greeting = self.hear().await.unwrap();
        assert_eq!((greeting.protocol, greeting.role), (PROTOCOL, Role::Agent));
        self.say(&Greeting { protocol: PROTOCOL, role, version: "1".to_owned() }).await;
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    listener: UnixListener,
    facts: Arc<Facts>,
    _stop: DropGuard,
}

/// An agent that keeps its link to the updater, or to `mbl-apps`, whose part the test plays.
fn bench(role: Role, orders: Orders) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("peer.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (facts, restarts) = Facts::new(orders);
    let (facts, stop) = (Arc::new(facts), CancellationToken::new());
    let (asker, task) = relay(facts.source.subscribe(), Arc::new(TlsNetwork));
    tokio::spawn(task.run(stop.clone()));
    let (path, told) = (socket.clone(), facts.clone());
    let stopped = stop.clone();
    tokio::spawn(async move {
        match role {
            Role::Apps => keep_apps_link(&path, told, asker, stopped).await,
            _ => keep_updater_link(&path, told, (asker, restarts), stopped).await,
        }
    });
    Bench { _folder: folder, socket, listener, facts, _stop: stop.drop_guard() }
}

fn wanting(version: &str) -> Orders {
    let digest = Digest::of(version.as_bytes()).to_string();
    Orders::default()
        .with([(0, &*format!("releases/{version}.json")), (1, &digest), (2, "r-1"), (16, "device until 7")])
        .unwrap()
}

fn desire(orders: &Orders) -> AgentToUpdater {
    match orders.wish.clone().unwrap() {
        Wish::Release { release, digest, rollout, consent } => {
            AgentToUpdater::Desire { release, digest, rollout, consent }
        }
        Wish::Rest => AgentToUpdater::Rest,
    }
}

/// A time that came `ago`; the agent hands it on as it came.
fn told(ago: Duration) -> ToldTime {
    let said = SignedTime { time: UnixSeconds(1_800_000_000), nonce: "00ff".to_owned(), signature: "MEUC".to_owned() };
    ToldTime { said, at: Instant::now() - ago }
}

/// Everything that the agent repeats on a new connection, in whatever order.
async fn repeated(peer: &mut Peer, count: usize) -> Vec<AgentToUpdater> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(peer.hear().await.unwrap());
    }
    messages
}

#[tokio::test]
async fn the_newest_wish_contact_and_time_are_repeated_on_every_new_connection() {
    let bench = bench(Role::Updater, wanting("1.1.0"));
    let told = told(Duration::ZERO);
    bench.facts.signed_time.send_replace(Some(told.clone()));
    for _ in 0..2 {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(Role::Updater).await;
        let messages = repeated(&mut peer, 3).await;
        assert!(messages.contains(&desire(&wanting("1.1.0"))), "{messages:?}");
        assert!(messages.contains(&AgentToUpdater::Contact(Contact { registered: false, network: false })));
        assert!(messages.contains(&AgentToUpdater::TrustedTime(told.said.clone())), "{messages:?}");
    }
    assert!(!*bench.facts.time_wanted.borrow());
}

#[tokio::test]
async fn an_old_time_is_not_repeated_and_a_new_one_is_wanted() {
    let bench = bench(Role::Updater, wanting("1.1.0"));
    bench.facts.signed_time.send_replace(Some(told(Duration::from_secs(301))));
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    let messages = repeated(&mut peer, 2).await;
    assert!(!messages.iter().any(|message| matches!(message, AgentToUpdater::TrustedTime(_))), "{messages:?}");
    let mut wanted = bench.facts.time_wanted.subscribe();
    timeout(Duration::from_secs(20), wanted.wait_for(|wanted| *wanted)).await.unwrap().unwrap();
    let new = told(Duration::ZERO);
    bench.facts.signed_time.send_replace(Some(new.clone()));
    assert_eq!(peer.hear().await, Some(AgentToUpdater::TrustedTime(new.said)));
}

#[tokio::test]
async fn the_root_processes_hear_what_is_in_force_before_any_wish_and_again_when_it_changes() {
    let settings = |text: &str| Some(InForce::from(Configuration::parse(text.as_bytes()).unwrap()));
    let (first, second) = (
        r#"{"log_levels":{"updater":"warn","apps":"debug"},"update_window":{"from":"22:00","to":"04:00"},"applications":{"hello":{"a":1}}}"#,
        r#"{"log_levels":{"apps":"error"}}"#,
    );
    let updater = bench(Role::Updater, wanting("1.1.0"));
    updater.facts.settings.send_replace(settings(first));
    for _ in 0..2 {
        let mut peer = Peer::accept(&updater.listener).await;
        peer.greet(Role::Updater).await;
        let Some(AgentToUpdater::Settings(heard)) = peer.hear().await else { panic!("something else came first") };
        assert_eq!(heard.log_level, Some(LogLevel::Warn));
        assert!(heard.update_window.is_some_and(|window| window.is_open(0) && !window.is_open(12 * 60)));
        repeated(&mut peer, 2).await;
        updater.facts.settings.send_replace(settings(second));
        assert_eq!(peer.hear().await, Some(AgentToUpdater::Settings(UpdaterSettings::default())));
        updater.facts.settings.send_replace(settings(first));
    }
    let apps = bench(Role::Apps, Orders::default());
    apps.facts.settings.send_replace(settings(first));
    let mut peer = Peer::accept(&apps.listener).await;
    peer.greet(Role::Apps).await;
    let Some(AgentToApps::Settings(heard)) = peer.hear().await else { panic!("something else came first") };
    assert_eq!(heard.log_level, Some(LogLevel::Debug));
    let given = &heard.applications[&"hello".parse().unwrap()];
    assert_eq!(given.settings.as_deref(), Some(r#"{"a":1}"#));
    apps.facts.settings.send_replace(settings(second));
    let only = AppsSettings { log_level: Some(LogLevel::Error), ..AppsSettings::default() };
    assert_eq!(peer.hear().await, Some(AgentToApps::Settings(only)));
}

#[tokio::test]
async fn a_newer_wish_and_a_wish_to_restart_follow_at_once() {
    let bench = bench(Role::Updater, wanting("1.1.0"));
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    repeated(&mut peer, 2).await;
    bench.facts.orders.send_replace(wanting("1.2.0"));
    assert_eq!(peer.hear().await, Some(desire(&wanting("1.2.0"))));
    bench.facts.orders.send_replace(Orders::default().with([(0, "")]).unwrap());
    assert_eq!(peer.hear().await, Some(AgentToUpdater::Rest));
    assert!(bench.facts.wish_restart());
    assert_eq!(peer.hear().await, Some(AgentToUpdater::Restart));
}

#[tokio::test]
async fn a_wish_to_restart_is_repeated_until_the_updater_says_that_it_restarts() {
    let bench = bench(Role::Updater, Orders::default());
    assert!(bench.facts.wish_restart());
    for _ in 0..2 {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(Role::Updater).await;
        assert!(repeated(&mut peer, 2).await.contains(&AgentToUpdater::Restart), "it was lost with the connection");
    }
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    let mut restarting = bench.facts.restarting.subscribe();
    peer.say(&UpdaterToAgent::Restarting).await;
    timeout(Duration::from_secs(10), restarting.wait_for(|restarting| *restarting)).await.unwrap().unwrap();
    assert!(!bench.facts.is_restart_wished(), "whatever comes of it, it is not asked for twice");
}

#[tokio::test]
async fn an_ordered_factory_reset_is_repeated_until_the_state_is_gone() {
    let bench = bench(Role::Updater, Orders::default());
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    repeated(&mut peer, 1).await;
    bench.facts.reset.send_replace(true);
    assert_eq!(peer.hear().await, Some(AgentToUpdater::FactoryReset));
    drop(peer);
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    assert!(repeated(&mut peer, 2).await.contains(&AgentToUpdater::FactoryReset));
}

#[tokio::test]
async fn a_device_that_was_never_told_anything_wishes_nothing() {
    let bench = bench(Role::Updater, Orders::default());
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    let only = repeated(&mut peer, 1).await;
    assert_eq!(only, [AgentToUpdater::Contact(Contact { registered: false, network: false })]);
    bench.facts.orders.send_replace(Orders::default().with([(14, "https://127.0.0.1:1")]).unwrap());
    assert!(bench.facts.wish_restart());
    assert_eq!(peer.hear().await, Some(AgentToUpdater::Restart), "an artifact address is no wish");
}

#[tokio::test]
async fn a_peer_with_another_role_or_version_is_left_without_a_word() {
    let bench = bench(Role::Updater, wanting("1.1.0"));
    for (protocol, role) in [(PROTOCOL + 1, Role::Updater), (PROTOCOL, Role::Apps)] {
        let mut peer = Peer::accept(&bench.listener).await;
        let _: Greeting = peer.hear().await.unwrap();
        peer.say(&Greeting { protocol, role, version: String::new() }).await;
        assert_eq!(peer.hear::<AgentToUpdater>().await, None, "{protocol} {role:?}");
    }
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    assert_eq!(repeated(&mut peer, 2).await.len(), 2, "a good peer is served after bad ones");
}

#[tokio::test]
async fn an_oversized_or_senseless_frame_ends_the_connection_and_nothing_else() {
    let bench = bench(Role::Updater, Orders::default());
    let oversized = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes().to_vec();
    let senseless = [3_u32.to_be_bytes().as_slice(), b"\xff\xff\xff"].concat();
    for bad in [oversized, senseless] {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(Role::Updater).await;
        repeated(&mut peer, 1).await;
        peer.stream.write_all(&bad).await.unwrap();
        assert_eq!(peer.hear::<AgentToUpdater>().await, None);
    }
}

#[tokio::test]
async fn a_socket_of_an_unprivileged_stranger_is_not_spoken_to() {
    if !rustix::process::getuid().is_root() {
        return; // Only root can play another user.
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let socket = folder.path().join("updater.sock");
    // The kernel notes who listens when the socket begins to; a thread of another user does so here.
    let (up, is_up) = std::sync::mpsc::channel();
    let path = socket.clone();
    let stranger = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        up.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 16]).unwrap()
    });
    is_up.recv().unwrap();
    let (facts, restarts) = Facts::new(Orders::default());
    let facts = Arc::new(facts);
    let (asker, _task) = relay(facts.source.subscribe(), Arc::new(TlsNetwork));
    let stop = CancellationToken::new();
    let link = {
        let (stop, facts) = (stop.clone(), facts.clone());
        tokio::spawn(async move { keep_updater_link(&socket, facts, (asker, restarts), stop).await })
    };
    let heard = tokio::task::spawn_blocking(move || stranger.join().unwrap());
    assert_eq!(heard.await.unwrap(), 0, "the stranger read not one byte");
    stop.cancel();
    link.await.unwrap();
}

/// A source with a factory certificate of `issuer`, which is as good as any for a server that knows it.
fn source(world: &World, issuer: &pki::Authority, address: &str) -> Source {
    let key = DeviceKey::generate().unwrap();
    let request = key.request(&"acme".parse().unwrap(), &"gate-42".parse().unwrap()).unwrap();
    let request = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", request.as_ref()));
    let certificate = issuer.sign_request(&request, (2020, 2120));
    let chain = vec![rustls_pki_types::CertificateDer::from(::pem::parse(certificate).unwrap().into_contents())];
    let clock = Arc::new(VerificationClock::new(Arc::new(SystemClock::new()), UnixSeconds(1_767_225_600)));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.service.der.clone()).unwrap();
    let trust = Trust::new(provider(), Arc::new(roots), clock).unwrap();
    let tls = trust.client(key.with_chain(chain), ALPN_HTTP, Validity::Strict).unwrap();
    Source::Server { address: address.parse().unwrap(), tls }
}

static ARTIFACT: [u8; 600_000] = [0xa5; 600_000];

/// A server that knows one artifact and serves its ranges.
fn well_behaved(head: &str) -> Vec<u8> {
    if !head.starts_with("GET /v1/artifacts/") {
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone".to_vec();
    }
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = (last.parse::<usize>().unwrap() + 1).min(ARTIFACT.len());
    let Some(body) = ARTIFACT.get(first..end).filter(|body| !body.is_empty()) else {
        return b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n".to_vec();
    };
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {first}-{}/{}\r\n\r\n",
        body.len(),
        end - 1,
        ARTIFACT.len()
    );
    [head.as_bytes(), body].concat()
}

/// Promises and sends more than was asked for, without end in sight.
fn flooding(_head: &str) -> Vec<u8> {
    let head = "HTTP/1.1 206 Partial Content\r\ncontent-length: 900000000\r\ncontent-range: bytes 0-899999999/900000000\r\n\r\n";
    [head.as_bytes(), &[0; 700_000]].concat()
}

fn hanging_up(_head: &str) -> Vec<u8> {
    Vec::new()
}

async fn ask(peer: &mut Peer, id: u64, offset: u64, length: u32) {
    let what = Fetch::Artifact { digest: Digest::of(&ARTIFACT), offset, length };
    peer.say(&UpdaterToAgent::Fetch { id, what }).await;
}

async fn answered(peer: &mut Peer) -> (u64, Result<Vec<u8>, FetchError>) {
    loop {
        match peer.hear().await.unwrap() {
            AgentToUpdater::Fetched(fetched) => return (fetched.id, fetched.result),
            _ => continue,
        }
    }
}

#[tokio::test]
async fn pieces_of_an_artifact_reach_the_updater_over_one_kept_connection() {
    let world = World::new();
    let (address, connections) = artifact_server(&world, well_behaved).await;
    let bench = bench(Role::Updater, Orders::default());
    bench.facts.source.send_replace(source(&world, &world.issuing, &address));
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    // More questions than are relayed at once: all are answered in the end.
    for id in 0..12 {
        ask(&mut peer, id, id * 100_000, MAX_FETCH).await;
    }
    let mut seen = Vec::new();
    for _ in 0..12 {
        let (id, result) = answered(&mut peer).await;
        let left = ARTIFACT.len().saturating_sub(usize::try_from(id).unwrap() * 100_000);
        assert_eq!(result.unwrap().len(), left.min(MAX_FETCH as usize), "piece {id}");
        seen.push(id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    let what = Fetch::Metadata { name: "9.root.json".to_owned(), max_bytes: 1000, offset: 0 };
    peer.say(&UpdaterToAgent::Fetch { id: 77, what }).await;
    assert_eq!(answered(&mut peer).await, (77, Err(FetchError::NotFound)));
}

#[tokio::test]
async fn a_server_that_floods_is_cut_off_and_one_that_hangs_up_is_unreachable() {
    let world = World::new();
    let bench = bench(Role::Updater, Orders::default());
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    for (server, error) in
        [(flooding as fn(&str) -> Vec<u8>, FetchError::TooLong), (hanging_up, FetchError::Unreachable)]
    {
        let (address, _) = artifact_server(&world, server).await;
        bench.facts.source.send_replace(source(&world, &world.issuing, &address));
        ask(&mut peer, 1, 0, 1000).await;
        assert_eq!(answered(&mut peer).await, (1, Err(error)));
    }
}

#[tokio::test]
async fn bytes_come_from_the_authority_of_the_factory_document_only_and_only_with_a_certificate_it_takes() {
    let (world, stranger) = (World::new(), World::new());
    let bench = bench(Role::Updater, Orders::default());
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Updater).await;
    ask(&mut peer, 1, 0, 1000).await;
    assert_eq!(answered(&mut peer).await, (1, Err(FetchError::Unreachable)), "no source is known");
    let (elsewhere, _) = artifact_server(&stranger, well_behaved).await;
    bench.facts.source.send_replace(source(&world, &world.issuing, &elsewhere));
    ask(&mut peer, 2, 0, 1000).await;
    assert_eq!(answered(&mut peer).await, (2, Err(FetchError::Unreachable)), "a server of another authority");
    let (address, _) = artifact_server(&world, well_behaved).await;
    bench.facts.source.send_replace(source(&world, &stranger.issuing, &address));
    ask(&mut peer, 3, 0, 1000).await;
    assert_eq!(answered(&mut peer).await, (3, Err(FetchError::Refused)), "a certificate of another authority");
    bench.facts.source.send_replace(Source::Forbidden);
    ask(&mut peer, 4, 0, 1000).await;
    assert_eq!(answered(&mut peer).await, (4, Err(FetchError::Refused)), "a damaged identity");
}

#[tokio::test]
async fn applications_fetch_and_report_over_their_own_socket_and_a_lost_one_is_made_again() {
    let world = World::new();
    let (address, _) = artifact_server(&world, well_behaved).await;
    let mut bench = bench(Role::Apps, Orders::default());
    bench.facts.source.send_replace(source(&world, &world.issuing, &address));
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Apps).await;
    let what = Fetch::Artifact { digest: Digest::of(&ARTIFACT), offset: 0, length: 10 };
    peer.say(&AppsToAgent::Fetch { id: 5, what }).await;
    let Some(AgentToApps::Fetched(fetched)) = peer.hear().await else { panic!("no answer") };
    assert_eq!((fetched.id, fetched.result), (5, Ok(vec![0xa5; 10])));
    drop(peer);
    std::fs::remove_file(&bench.socket).unwrap();
    bench.listener = UnixListener::bind(&bench.socket).unwrap();
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Apps).await;
    let mut applications = bench.facts.applications.subscribe();
    peer.say(&AppsToAgent::Status(vec![protocol_types::socket::ApplicationStatus {
        name: "hello".parse().unwrap(),
        digest: Digest::of(b"hello"),
        state: protocol_types::socket::ApplicationState::Ready,
        restarts: 0,
        reason: None,
    }]))
    .await;
    timeout(Duration::from_secs(10), applications.changed()).await.unwrap().unwrap();
    assert_eq!(applications.borrow().len(), 1);
}

#[tokio::test]
async fn a_log_of_an_application_is_asked_for_until_it_is_answered_and_not_again() {
    let bench = bench(Role::Apps, Orders::default());
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Apps).await;
    bench.facts.log_wish.send_replace(Some((1, "hello".parse().unwrap())));
    let asked = AgentToApps::Log { id: 1, application: "hello".parse().unwrap(), max_bytes: MAX_LOG };
    assert_eq!(peer.hear().await, Some(asked.clone()));
    drop(peer);
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Apps).await;
    assert_eq!(peer.hear().await, Some(asked), "the answer was lost with the connection");
    let mut answers = bench.facts.log_answer.subscribe();
    peer.say(&AppsToAgent::Log { id: 1, result: Ok("one\n".to_owned()) }).await;
    timeout(Duration::from_secs(10), answers.changed()).await.unwrap().unwrap();
    assert_eq!(*answers.borrow(), Some((1, Ok("one\n".to_owned()))));
    drop(peer);
    let mut peer = Peer::accept(&bench.listener).await;
    peer.greet(Role::Apps).await;
    bench.facts.log_wish.send_replace(Some((2, "other".parse().unwrap())));
    let next = AgentToApps::Log { id: 2, application: "other".parse().unwrap(), max_bytes: MAX_LOG };
    assert_eq!(peer.hear().await, Some(next), "what was answered is asked again");
}
