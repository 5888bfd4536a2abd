//! Devices whose clocks are wrong by decades, run in this process with keys in memory: what they still believe and what not.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod artifacts;
mod pki;
mod service;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use artifacts::artifact_server;
use device_agent::{
    clock::{Clock, VerificationClock},
    enrolment::Enrolment,
    facts::Facts,
    identity::Identity,
    key_store::DeviceKey,
    network::TlsNetwork,
    objects::About,
    orders::Orders,
    session::{Device, Session},
    state::Forgetful,
    tls::{Trust, provider},
};
use pki::World;
use protocol_lwm2m::{
    coap::Code,
    object::{Accounts, SecurityAccount, ServerAccount},
};
use protocol_types::UnixSeconds;
use rcgen::SigningKey;
use rustls_pki_types::CertificateDer;
use service::Port;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// 2099-01-01.
const FAR_AHEAD: u64 = 4_070_908_800;

/// The present, by which the test's service judges the certificates of devices.
fn present() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the service of the test has the clock of this machine")]
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A month that began yesterday.
fn month() -> (u64, u64) {
    (present() - 86_400, present() + 29 * 86_400)
}

/// A clock that shows any time and goes on from there.
#[derive(Debug)]
struct WrongClock {
    wall: u64,
    started: Instant,
}

impl Clock for WrongClock {
    fn wall(&self) -> UnixSeconds {
        UnixSeconds(self.wall + self.started.elapsed().as_secs())
    }
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

struct Simulated {
    facts: Arc<Facts>,
    clock: Arc<VerificationClock>,
    _stop: DropGuard,
}

/// A device whose wall clock shows `wall`; `managed_at` is for one that was enrolled before.
fn simulate(world: &World, wall: u64, bootstrap: &Port, managed_at: Option<&str>, orders: Orders) -> Simulated {
    let key = DeviceKey::generate().unwrap();
    let document = world.document("gate-42", "acme", &bootstrap.uri());
    let request = key.request(&document.account, &document.endpoint).unwrap();
    let operational = world.issuing.sign_der(&request, month());
    let factory = world.factory.sign_der(&request, (present() - 86_400, FAR_AHEAD * 2));
    let chain = ::pem::encode(&::pem::Pem::new("CERTIFICATE", factory.as_ref()));
    let provisioned = document.provisioned;
    let identity = Identity::check(document, &chain, key).unwrap();
    let clock = Arc::new(WrongClock { wall, started: Instant::now() });
    let clock = Arc::new(VerificationClock::new(clock, provisioned));
    let trust = Trust::new(provider(), identity.roots().clone(), clock.clone()).unwrap();
    let (facts, _restarts) = Facts::new(orders);
    let facts = Arc::new(facts);
    let about = About::new(&identity, "Acme");
    let enrolment = managed_at.map(|uri| enrolment(uri, operational));
    let device =
        Device { identity, trust, state: Arc::new(Forgetful), facts: facts.clone(), network: Arc::new(TlsNetwork) };
    let session = Session::new(device, about, enrolment, Duration::from_secs(1)).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(session.run(stop.clone()));
    Simulated { facts, clock, _stop: stop.drop_guard() }
}

fn enrolment(uri: &str, certificate: CertificateDer<'static>) -> Enrolment {
    let security = SecurityAccount::managed(uri.to_owned(), 1);
    let accounts = Accounts { security: [(1, security)].into(), servers: [(1, ServerAccount::default())].into() };
    Enrolment { accounts, chain: vec![certificate], key: None }
}

/// A server that tells the present, signed by `key`.
fn telling(key: &rcgen::KeyPair) -> impl Fn(&str) -> Vec<u8> + Send + Sync + 'static {
    let key = rcgen::KeyPair::try_from(key.serialize_der()).unwrap();
    move |head| {
        let nonce = head.strip_prefix("GET /v1/time?nonce=").unwrap().split_once(' ').unwrap().0;
        assert!((32..=64).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_hexdigit()), "{nonce}");
        let time = present();
        let signature = key.sign(format!("mbl-time-v1\n{time}\n{nonce}").as_bytes()).unwrap();
        let signature = data_encoding::BASE64.encode(&signature);
        let body = serde_json::json!({ "time": time, "nonce": nonce, "signature": signature }).to_string();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

async fn signed_time(device: &Simulated) -> UnixSeconds {
    let mut signed = device.facts.signed_time.subscribe();
    let told = timeout(Duration::from_secs(20), signed.wait_for(Option::is_some)).await.expect("no time was believed");
    told.unwrap().as_ref().unwrap().said.time
}

#[tokio::test]
async fn a_device_whose_clock_says_1970_reaches_a_service_of_later_years_and_learns_the_signed_time() {
    let world = World::new();
    // Server certificates from long after the device's provisioning: the floor alone would call them not yet valid.
    let of_2090 = || world.server_config_from(b"coap", 2090, &[&world.factory, &world.issuing]);
    let (bootstrap, management) = (Port::with(of_2090()).await, Port::with(of_2090()).await);
    let (address, _) = artifact_server(&world, telling(&world.time_key)).await;
    let device = simulate(&world, 0, &bootstrap, None, Orders::default());
    let mut peer = bootstrap.accept().await;
    peer.bootstrap(&management.uri(), 60).await;
    peer.enrol(&world.issuing, month()).await;
    let mut peer = management.accept().await;
    peer.register().await;
    assert_eq!(*device.facts.signed_time.borrow(), None, "the address of the artifact server is not known yet");
    assert_eq!(peer.write_release(&[(14, &address)]).await.code, Code::CHANGED);
    assert!(signed_time(&device).await.0.abs_diff(present()) < 30);
    assert!(device.clock.now().0.abs_diff(present()) < 30, "{}", device.clock.now());
}

#[tokio::test]
async fn a_device_whose_clock_says_2099_asks_the_time_and_then_believes_its_certificates_again() {
    let world = World::new();
    let (bootstrap, management) = (Port::open(&world).await, Port::open(&world).await);
    let (address, _) = artifact_server(&world, telling(&world.time_key)).await;
    let orders = Orders::default().with([(14, &*address)]).unwrap();
    let device = simulate(&world, FAR_AHEAD, &bootstrap, Some(&management.uri()), orders);
    assert!(bootstrap.accept_silent().await.is_none(), "in 2099 nothing of today is valid");
    assert!(signed_time(&device).await.0.abs_diff(present()) < 30);
    management.accept().await.register().await;
}

#[tokio::test]
async fn a_time_that_a_stranger_signed_changes_nothing() {
    let world = World::new();
    let (bootstrap, management) = (Port::open(&world).await, Port::open(&world).await);
    let stranger = rcgen::KeyPair::generate().unwrap();
    let (address, asked) = artifact_server(&world, telling(&stranger)).await;
    let orders = Orders::default().with([(14, &*address)]).unwrap();
    let device = simulate(&world, FAR_AHEAD, &bootstrap, Some(&management.uri()), orders);
    // By the third question the first two answers have been judged.
    while asked.load(Ordering::SeqCst) < 3 {
        assert!(bootstrap.accept_silent().await.is_none());
    }
    assert_eq!(*device.facts.signed_time.borrow(), None);
    assert!(device.clock.now().0 >= FAR_AHEAD);
}

#[tokio::test]
async fn a_registered_device_asks_the_time_anew_whenever_its_updater_lacks_one() {
    let world = World::new();
    let (bootstrap, management) = (Port::open(&world).await, Port::open(&world).await);
    let (address, asked) = artifact_server(&world, telling(&world.time_key)).await;
    let orders = Orders::default().with([(14, &*address)]).unwrap();
    let device = simulate(&world, present(), &bootstrap, Some(&management.uri()), orders);
    let mut peer = management.accept().await;
    device.facts.time_wanted.send_replace(true);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nobody is asked before the device is registered");
    peer.register().await;
    assert!(signed_time(&device).await.0.abs_diff(present()) < 30);
    assert!(!*device.facts.time_wanted.borrow());
    let mut told = device.facts.signed_time.subscribe();
    device.facts.time_wanted.send_replace(true);
    timeout(Duration::from_secs(20), told.changed()).await.expect("it was asked once only").unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn many_devices_live_in_one_process_each_with_its_own_key() {
    let world = World::new();
    let (bootstrap, management) = (Port::open(&world).await, Port::open(&world).await);
    let uri = management.uri();
    let devices: Vec<_> =
        (0..20).map(|_| simulate(&world, present(), &bootstrap, Some(&uri), Orders::default())).collect();
    let mut peers = Vec::new();
    for _ in &devices {
        let mut peer = management.accept().await;
        peer.register().await;
        peers.push(peer);
    }
    for device in &devices {
        let mut registered = device.facts.registered.subscribe();
        timeout(Duration::from_secs(20), registered.wait_for(|registered| *registered)).await.unwrap().unwrap();
    }
    let mut keys: Vec<_> = peers.iter().map(service::Peer::certificate).collect();
    keys.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    keys.dedup();
    assert_eq!(keys.len(), devices.len());
}
