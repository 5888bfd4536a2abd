//! The service as a process under bad conditions: kills, slow and oversized senders, garbage, a full disk, an orderly stop.

use std::{
    fs,
    io::{Cursor, Read as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fleet_api::{Client, ClientConfig, CreateGroup, CreateToken, PageQuery, TokenScope, UPLOAD_CONTENT_TYPE};
use futures_util::StreamExt as _;
use protocol_types::Digest;
use rustls::{ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer};
use serde_json::Value;
use testbed::{Running, Service, programs::program, until};

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn token(data_dir: &Path) -> String {
    fs::read_to_string(data_dir.join("first-token")).unwrap().trim().to_owned()
}

fn authority(data_dir: &Path) -> String {
    fs::read_to_string(data_dir.join("service-authority.pem")).unwrap()
}

fn client_of(api: SocketAddr, data_dir: &Path) -> Client {
    let config = ClientConfig {
        address: format!("https://{api}"),
        authority_pem: authority(data_dir),
        token: Some(token(data_dir)),
    };
    Client::new(&config).unwrap()
}

fn client(service: &Service) -> Client {
    client_of(service.addresses().api, service.data_dir())
}

/// A service whose patience with slow senders is a second.
fn impatient(folder: &Path) -> Service {
    let config = folder.join("service.toml");
    fs::write(&config, "[limits]\nslow_sender_s = 1\n").unwrap();
    Service::start_with(&folder.join("service"), &["--config", config.to_str().unwrap()]).unwrap()
}

/// A connection over TLS on which a test can be as rude as it likes.
fn dial(service: &Service) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let pem = pem::parse(authority(service.data_dir())).unwrap();
    roots.add(CertificateDer::from(pem.into_contents())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let api = service.addresses().api;
    let socket = TcpStream::connect(api).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(tls), api.ip().into()).unwrap(), socket)
}

/// Everything that the service says before it closes the connection.
fn last_words(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> String {
    let mut said = Vec::new();
    // A connection that is cut without TLS's own goodbye is closed too.
    drop(stream.read_to_end(&mut said));
    String::from_utf8_lossy(&said).into_owned()
}

fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Uploads an artifact of 24 MB to a service that is killed six times meanwhile, and reads it back; its digest.
pub(crate) fn upload_through_kills(service: &mut Service) -> Digest {
    let bytes: Vec<u8> = (0..24_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let digest = Digest::of(&bytes);
    let (client, runtime) = (client(service), runtime());
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (uploader, told) = (client.clone(), acknowledged.clone());
    let source = bytes.clone();
    let upload = runtime.spawn(async move {
        let size = source.len() as u64;
        let progress = |offset| {
            let before = told.swap(offset, Ordering::SeqCst);
            assert!(offset >= before, "the service had acknowledged {before} bytes and now has {offset}");
        };
        uploader.upload_artifact((digest, size), Cursor::new(source), progress).await
    });
    for kill in 1..=6_u64 {
        // Each kill falls somewhere in the middle of what is sent at that moment.
        drop(until(Duration::from_millis(37 * kill), "some bytes", || Ok(None::<()>)));
        service.restart().unwrap();
    }
    let artifact = runtime.block_on(upload).unwrap().unwrap();
    assert!(artifact.complete);
    let content = runtime.block_on(async {
        let mut pieces = std::pin::pin!(client.artifact_content(&digest).await.unwrap());
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await {
            content.extend_from_slice(&piece.unwrap());
        }
        content
    });
    assert_eq!(Digest::of(&content), digest);
    assert_eq!(content.len(), bytes.len());
    digest
}

#[test]
fn fleet_loses_no_acknowledged_byte_of_an_upload_that_is_killed_six_times() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(&folder.path().join("service")).unwrap();
    upload_through_kills(&mut service);
}

#[test]
fn fleet_waits_for_slow_senders_no_longer_than_it_says_and_serves_the_others_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let service = impatient(folder.path());
    let (client, runtime) = (client(&service), runtime());
    let token = token(service.data_dir());

    let mut heads: Vec<_> = (0..20).map(|_| dial(&service)).collect();
    for stream in &mut heads {
        std::io::Write::write_all(stream, b"GET /healthz HTTP/1.1\r\nhost: x\r\n").unwrap();
    }
    let mut body = dial(&service);
    let head = format!(
        "POST /api/v1/groups HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    std::io::Write::write_all(&mut body, head.as_bytes()).unwrap();
    let begun = Instant::now();
    assert!(runtime.block_on(client.groups(&PageQuery::default())).is_ok(), "others are served");
    let said = last_words(&mut body);
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("too_slow"), "{said}");
    for stream in &mut heads {
        last_words(stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());

    // The client's connection has rested for longer than this service allows, and may be closed under its next request.
    let client = client_of(service.addresses().api, service.data_dir());
    let digest = Digest::of(b"slow bytes");
    runtime.block_on(client.begin_artifact(digest, 10)).unwrap();
    let mut upload = dial(&service);
    let head = format!(
        "PATCH /api/v1/artifacts/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: {UPLOAD_CONTENT_TYPE}\r\nupload-offset: 0\r\ncontent-length: 10\r\n\r\nslow",
        digest.hex()
    );
    std::io::Write::write_all(&mut upload, head.as_bytes()).unwrap();
    let said = last_words(&mut upload);
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert_eq!(runtime.block_on(client.artifact(&digest)).unwrap().offset, 4, "what arrived stays");
    runtime.block_on(client.send_piece(&digest, 4, b" bytes".to_vec())).unwrap();
}

#[test]
fn fleet_refuses_bodies_without_end_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("service")).unwrap();
    let pid = service.id().unwrap();
    let token = token(service.data_dir());
    let before = peak_memory_kib(pid);
    for path in ["groups", "repository/metadata", "tokens"] {
        let mut stream = dial(&service);
        let head = format!(
            "POST /api/v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x1_0000], b"\r\n"].concat();
        // The service stops listening long before; how the break shows at this end does not matter.
        for _ in 0..4096 {
            if std::io::Write::write_all(&mut stream, &chunk).is_err() {
                break;
            }
        }
        let said = last_words(&mut stream);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 413"), "{path}: {said}");
    }
    let grown = peak_memory_kib(pid).saturating_sub(before);
    assert!(grown < 64 * 1024, "the service grew by {grown} KiB");
    assert!(runtime().block_on(client(&service).ready()).unwrap());
}

#[test]
fn fleet_goes_on_after_garbage_on_its_ports() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = impatient(folder.path());
    let addresses = service.addresses().clone();
    let noise: Vec<u8> = (0..5000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    for port in [addresses.api, addresses.bootstrap, addresses.lwm2m, addresses.artifacts] {
        for bytes in [&noise[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b""] {
            let mut socket = TcpStream::connect(port).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            drop(std::io::Write::write_all(&mut socket, bytes));
            drop(socket.shutdown(std::net::Shutdown::Write));
            drop(socket.read_to_end(&mut Vec::new()));
        }
    }
    assert!(runtime().block_on(client(&service).ready()).unwrap());
    assert_eq!(service.stop().unwrap().map(|status| status.success()), Some(true));
}

#[test]
fn fleet_stops_in_time_and_in_order_while_streams_are_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(&folder.path().join("service")).unwrap();
    let (client, runtime) = (client(&service), runtime());
    let mut events = Box::pin(client.event_stream(Some(0)));
    let first = runtime.block_on(events.next()).unwrap().unwrap();
    assert_eq!(first.position(), Some(1));
    let begun = Instant::now();
    let status = service.stop().unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert!(!service.data_dir().join("addresses.json").exists(), "nobody dials a service that is gone");

    service.restart().unwrap();
    let group = CreateGroup {
        name: "doors".parse().unwrap(),
        title: String::new(),
        members: Vec::new(),
        filter: None,
        include: Vec::new(),
    };
    runtime.block_on(client.create_group(&group)).unwrap();
    let found = async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.kind == "group.created" {
                return event;
            }
        }
    };
    let event = runtime.block_on(async { tokio::time::timeout(PATIENCE, found).await }).unwrap();
    assert_eq!(event.subject, "groups/doors", "the stream was taken up again");
}

#[test]
fn fleet_keeps_a_second_service_out_of_its_data_directory() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("service")).unwrap();
    let mut second = Command::new(program("mbl-service").unwrap());
    second.args(["run", "--listen-api", "127.0.0.1:0", "--data-dir"]).arg(service.data_dir());
    let output = second.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another service works in"), "{said}");
    assert!(service.data_dir().join("addresses.json").exists(), "the first one's addresses are still there");
    assert!(runtime().block_on(client(&service).ready()).unwrap());
}

#[test]
fn fleet_lets_an_operator_who_lost_every_token_back_in_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("service")).unwrap();
    let file = service.data_dir().join("first-token");
    let (first, runtime) = (client(&service), runtime());
    let wish = CreateToken { name: "mine".into(), scopes: vec![TokenScope::Admin], expires: None, principal: None };
    let secret = runtime.block_on(first.create_token(&wish)).unwrap().secret.unwrap();
    let config = ClientConfig {
        address: format!("https://{}", service.addresses().api),
        authority_pem: authority(service.data_dir()),
        token: Some(secret),
    };
    let mine = Client::new(&config).unwrap();
    runtime.block_on(mine.tokens(&PageQuery::default())).unwrap();
    assert!(!file.exists(), "the successor was used");
    let refused = runtime.block_on(first.tokens(&PageQuery::default())).unwrap_err();
    assert_eq!(refused.problem().unwrap().code, "token_revoked");

    assert!(service.command("first-token").unwrap().status().unwrap().success());
    runtime.block_on(client(&service).tokens(&PageQuery::default())).unwrap();
}

#[test]
fn fleet_makes_no_token_in_a_directory_that_holds_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("mbl-service").unwrap());
    let output = command.args(["first-token", "--data-dir"]).arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("there is no embedded database at"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made there");
}

/// A service whose data directory is a file system of 24 MiB in a mount namespace of its own.
struct Cramped {
    process: Running,
    data_dir: PathBuf,
}

impl Cramped {
    fn start(folder: &Path) -> Self {
        let inside = folder.join("service");
        fs::create_dir(&inside).unwrap();
        let script = "mount -t tmpfs -o size=24m,mode=700 tmpfs \"$1\" && exec \"$2\" run --data-dir \"$1\" \
                      --listen-api 127.0.0.1:0 --listen-bootstrap 127.0.0.1:0 --listen-lwm2m 127.0.0.1:0 --listen-artifacts 127.0.0.1:0";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(&inside).arg(program("mbl-service").unwrap());
        let process = Running::start("mbl-service", &mut command, &folder.join("service.log")).unwrap();
        // Another mount namespace is looked into through the process that lives there.
        let seen = format!("/proc/{}/root{}", process.id(), inside.display());
        Self { process, data_dir: PathBuf::from(seen) }
    }

    fn api(&self) -> SocketAddr {
        let addresses: Value = until(PATIENCE, "the service to listen", || {
            let text = fs::read(self.data_dir.join("addresses.json"));
            Ok(text.ok().and_then(|text| serde_json::from_slice(&text).ok()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", self.process.output().unwrap()));
        addresses["api"].as_str().unwrap().parse().unwrap()
    }
}

#[test]
fn fleet_says_that_its_disk_is_full_and_goes_on_with_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let cramped = Cramped::start(folder.path());
    let (client, runtime) = (client_of(cramped.api(), &cramped.data_dir), runtime());
    let large = vec![7_u8; 40 << 20];
    let digest = Digest::of(&large);
    let refused =
        runtime.block_on(client.upload_artifact((digest, large.len() as u64), Cursor::new(large), |_| ())).unwrap_err();
    let problem = refused.problem().unwrap_or_else(|| panic!("{refused:?}"));
    assert_eq!((problem.status, problem.code.as_str()), (507, "no_room"));

    let offset = runtime.block_on(client.artifact(&digest)).unwrap().offset;
    assert!(offset > 0, "what was acknowledged is still there");
    let group = CreateGroup {
        name: "doors".parse().unwrap(),
        title: String::new(),
        members: Vec::new(),
        filter: None,
        include: Vec::new(),
    };
    runtime.block_on(client.create_group(&group)).unwrap();
    assert!(runtime.block_on(client.ready()).unwrap());
}
