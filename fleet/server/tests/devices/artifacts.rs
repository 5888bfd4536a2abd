//! The port that serves artifacts, metadata and time: only what belongs to the account, only to devices in good standing.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use bytes::Bytes;
use data_encoding::BASE64;
use fleet_api::{CreateAccount, SuspendDevice};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use protocol_types::{AccountName, Digest, EndpointName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    factory::Identity,
    service::{Service, client},
    wire::{connect, enrol, tls},
};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

async fn get(service: &Service, identity: &Identity, path: &str, headers: &[(&str, &str)]) -> Answer {
    let stream =
        connect(service.addresses.artifacts, tls(&service.authority_pem, Some(identity), b"http/1.1")).await.unwrap();
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::get(path).header("host", "127.0.0.1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = requests.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driver.abort();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn upload(client: &fleet_api::Client, bytes: &[u8]) -> String {
    let digest = Digest::of(bytes);
    client.begin_artifact(digest, bytes.len().try_into().unwrap()).await.unwrap();
    client.send_piece(&digest, 0, bytes.to_vec()).await.unwrap();
    format!("/v1/artifacts/{}", digest.hex())
}

async fn enrolled(service: &Service) -> Identity {
    let factory = service.trusted_factory().await;
    enrol(service, &factory.device("default", "gate-42"), "gate-42").await
}

#[tokio::test]
async fn an_artifact_is_served_whole_and_in_ranges() {
    let service = Service::start().await;
    let device = enrolled(&service).await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let path = upload(&service.admin, &bytes).await;
    let whole = get(&service, &device, &path, &[]).await;
    assert_eq!((whole.status, &whole.body[..]), (StatusCode::OK, &bytes[..]));
    assert_eq!(whole.headers["accept-ranges"], "bytes");
    for (range, expected, content_range) in [
        ("bytes=0-0", &bytes[..1], "bytes 0-0/200000"),
        ("bytes=199999-", &bytes[199_999..], "bytes 199999-199999/200000"),
        ("bytes=65530-131080", &bytes[65_530..131_081], "bytes 65530-131080/200000"),
        ("bytes=-5", &bytes[199_995..], "bytes 199995-199999/200000"),
        ("bytes=199990-999999", &bytes[199_990..], "bytes 199990-199999/200000"),
    ] {
        let part = get(&service, &device, &path, &[("range", range)]).await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(part.headers["content-range"], content_range);
        assert!(part.body[..] == *expected, "{range} gave other bytes");
    }
    let behind = get(&service, &device, &path, &[("range", "bytes=200000-")]).await;
    assert_eq!(behind.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!((&behind.headers["content-range"], behind.body.len()), (&"bytes */200000".parse().unwrap(), 0));
    let odd = get(&service, &device, &path, &[("range", "bytes=5-1")]).await;
    assert_eq!((odd.status, odd.body.len()), (StatusCode::OK, bytes.len()));
}

#[tokio::test]
async fn nothing_of_another_account_and_nothing_unchecked_is_served() {
    let service = Service::start().await;
    let device = enrolled(&service).await;
    let wanted = CreateAccount { name: AccountName::new("other").unwrap(), title: String::new(), parent: None };
    let made = service.admin.create_account(&wanted).await.unwrap();
    let other = client(&service.addresses, &service.authority_pem, made.token.secret.unwrap());
    let theirs = upload(&other, b"theirs").await;
    assert_eq!(get(&service, &device, &theirs, &[]).await.status, StatusCode::NOT_FOUND);
    let digest = Digest::of(b"unfinished");
    service.admin.begin_artifact(digest, 10).await.unwrap();
    service.admin.send_piece(&digest, 0, b"unfin".to_vec()).await.unwrap();
    let unfinished = format!("/v1/artifacts/{}", digest.hex());
    assert_eq!(get(&service, &device, &unfinished, &[]).await.status, StatusCode::NOT_FOUND);
    for path in [
        "/v1/artifacts/..%2f..%2fmbl.db",
        "/v1/artifacts/",
        "/v1/artifacts/00",
        "/v1/metadata/..%2fservice.pem",
        "/v1/metadata/root.json",
        "/v1/metadata/1.root.json",
        "/",
        "/api/v1/devices",
    ] {
        assert_eq!(get(&service, &device, path, &[]).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let ours = upload(&service.admin, b"ours").await;
    assert_eq!(get(&service, &device, &ours, &[]).await.status, StatusCode::OK);
    let upper = ours.to_uppercase().replace("/V1/ARTIFACTS/", "/v1/artifacts/");
    assert_eq!(get(&service, &device, &upper, &[]).await.status, StatusCode::NOT_FOUND, "a digest has one spelling");
}

#[tokio::test]
async fn a_device_that_was_suspended_or_deleted_gets_no_artifacts() {
    let service = Service::start().await;
    let device = enrolled(&service).await;
    let path = upload(&service.admin, b"artifact").await;
    let endpoint = EndpointName::new("gate-42").unwrap();
    assert_eq!(get(&service, &device, &path, &[]).await.status, StatusCode::OK);
    service.admin.suspend_device(&endpoint, &SuspendDevice::default()).await.unwrap();
    let refused = get(&service, &device, &path, &[]).await;
    assert_eq!((refused.status, &refused.body[..]), (StatusCode::FORBIDDEN, &b"suspended"[..]));
    service.admin.delete_device(&endpoint).await.unwrap();
    let refused = get(&service, &device, &path, &[]).await;
    assert_eq!((refused.status, &refused.body[..]), (StatusCode::FORBIDDEN, &b"not_enrolled"[..]));
}

#[tokio::test]
async fn time_is_signed_for_the_nonce_of_the_asker() {
    let service = Service::start().await;
    let device = enrolled(&service).await;
    let nonce = "00ff10".repeat(6);
    let answer = get(&service, &device, &format!("/v1/time?nonce={nonce}"), &[]).await;
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let signature = BASE64.decode(said["signature"].as_str().unwrap().as_bytes()).unwrap();
    let pem = std::fs::read_to_string(service.folder.path().join("service/time-key.pem")).unwrap();
    let spki = pem::parse(pem).unwrap().into_contents();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki[spki.len() - 65..]);
    let signed = format!("mbl-time-v1\n{}\n{nonce}", said["time"]);
    key.verify(signed.as_bytes(), &signature).unwrap();
    let (short, long, odd) = ("0".repeat(31), "0".repeat(65), "x".repeat(32));
    for query in [
        String::new(),
        "?nonce=".to_owned(),
        format!("?nonce={short}"),
        format!("?nonce={long}"),
        format!("?nonce={odd}"),
        format!("?nonce={nonce}&nonce={nonce}"),
        format!("?nonce={nonce}&x=1"),
    ] {
        let refused = get(&service, &device, &format!("/v1/time{query}"), &[]).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_factory_certificate_or_none_opens_no_connection() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let device = factory.device("default", "gate-42");
    for identity in [Some(&device), None] {
        let Ok(mut stream) =
            connect(service.addresses.artifacts, tls(&service.authority_pem, identity, b"http/1.1")).await
        else {
            continue;
        };
        // The service may have closed already.
        drop(stream.write_all(b"GET /v1/time?nonce=00 HTTP/1.1\r\nhost: x\r\n\r\n").await);
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said).await);
        assert_eq!(said, b"", "the service answered a client that is no enrolled device");
    }
}

#[tokio::test]
async fn a_flood_of_headers_is_cut_off() {
    let service = Service::start().await;
    let device = enrolled(&service).await;
    let mut stream =
        connect(service.addresses.artifacts, tls(&service.authority_pem, Some(&device), b"http/1.1")).await.unwrap();
    stream.write_all(b"GET /v1/time?nonce=00 HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    for n in 0..100_000 {
        // Sooner or later the service has heard enough.
        if stream.write_all(format!("x-{n}: {}\r\n", "y".repeat(100)).as_bytes()).await.is_err() {
            return;
        }
    }
    panic!("the service took ten megabytes of headers");
}
