//! Bytes of strangers: garbage, floods and patience games. The service goes on serving whoever behaves.

use std::time::Duration;

use protocol_lwm2m::coap::{Code, ContentFormat, Message};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    clones::register,
    device::Device,
    service::{SOON, Service},
    wire::{Wire, enrol},
};

/// A device that behaves still gets through.
async fn still_serves(service: &Service, factory: &crate::factory::Factory) {
    let mut device = Device::start(service, factory.device("default", "honest"), "honest");
    device.registered().await;
}

#[tokio::test]
async fn garbage_instead_of_tls_is_dropped_and_harms_nobody() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    for port in [service.addresses.bootstrap, service.addresses.lwm2m, service.addresses.artifacts] {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 4096], b"\x16\x03\x01\xff\xff"] {
            let mut socket = TcpStream::connect(port).await.unwrap();
            // The service may have closed already.
            drop(socket.write_all(garbage).await);
            let mut rest = Vec::new();
            let read = timeout(SOON, socket.read_to_end(&mut rest)).await;
            assert!(read.is_ok(), "the service waits for more of {garbage:02x?}");
        }
    }
    still_serves(&service, &factory).await;
}

#[tokio::test]
async fn a_device_that_leaves_what_was_asked_unanswered_loses_its_connection() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let operational = enrol(&service, &factory.device("default", "gate-42"), "gate-42").await;
    let mut wire = register(&service, &operational, "gate-42").await;
    // Longer than the 30 seconds that an answer may take.
    while wire.receive_within(Duration::from_secs(45)).await.is_ok_and(|message| message.code != Code::RELEASE) {}
    let rest = timeout(SOON, wire.stream.read_to_end(&mut Vec::new())).await;
    assert!(rest.is_ok(), "the service waits for a device that does not answer");
}

#[tokio::test]
async fn malformed_coap_after_a_good_handshake_is_answered_with_an_abort() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let device = factory.device("default", "gate-42");
    for malformed in [
        // A token of nine bytes.
        &[0x09, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9][..],
        // An option whose length is reserved.
        &[0x10, 0x01, 0xff - 0x10 + 0x0f],
        // A payload marker without a payload.
        &[0x10, 0x01, 0xff],
        // A message of four gigabytes.
        &[0xf0, 0xff, 0xff, 0xff, 0xff, 0x01],
    ] {
        let mut wire = Wire::open(service.addresses.bootstrap, &service.authority_pem, &device).await.unwrap();
        wire.stream.write_all(malformed).await.unwrap();
        let said = wire.closed().await;
        assert_eq!(said.last().map(|message| message.code), Some(Code::ABORT), "{malformed:02x?}");
    }
    still_serves(&service, &factory).await;
}

#[tokio::test]
async fn a_message_longer_than_the_service_takes_is_refused_before_it_has_arrived() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let operational = enrol(&service, &factory.device("default", "gate-42"), "gate-42").await;
    let mut wire = Wire::open(service.addresses.lwm2m, &service.authority_pem, &operational).await.unwrap();
    let long = Message::new(Code::POST).path("/rd").content(ContentFormat::LINK, vec![b'x'; 64 * 1024]);
    // The service may close while the message is still on its way.
    drop(wire.send(&long).await);
    let said = wire.closed().await;
    assert!(said.iter().all(|message| message.code.is_signal()), "{said:?}");
    still_serves(&service, &factory).await;
}

#[tokio::test]
async fn a_registration_that_cannot_be_read_changes_nothing() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let operational = enrol(&service, &factory.device("default", "gate-42"), "gate-42").await;
    let mut wire = Wire::open(service.addresses.lwm2m, &service.authority_pem, &operational).await.unwrap();
    let register = || Message::new(Code::POST).path("/rd").query("ep=gate-42");
    for (broken, code) in [
        (register().query("lt=-1").query("lwm2m=1.1"), Code::BAD_REQUEST),
        (register().query("lt=1").query("lwm2m=1.1"), Code::BAD_REQUEST),
        (register().query("lt=300").query("lwm2m=9.9"), Code::PRECONDITION_FAILED),
        (register().query("lt=300").query("lwm2m=1.1").content(ContentFormat::LINK, "</3/0"), Code::BAD_REQUEST),
        (Message::new(Code::POST).path("/rd").query("ep=../../etc").query("lt=300"), Code::BAD_REQUEST),
        (Message::new(Code::POST).path("/rd/unknown"), Code::NOT_FOUND),
        (Message::new(Code::POST).path("/bs").query("ep=gate-42"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::GET).path("/no/such/thing"), Code::NOT_FOUND),
    ] {
        let answer = wire.ask(broken.clone()).await.unwrap();
        assert_eq!(answer.code, code, "{broken:?}: {}", answer.diagnostic());
    }
    assert!(!service.device("gate-42").await.unwrap().device.connected);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_not_waited_for() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    // Without TLS, inside TLS before the first message, and in the middle of the first message.
    let mut mute = TcpStream::connect(service.addresses.lwm2m).await.unwrap();
    let device = factory.device("default", "gate-42");
    let tls = crate::wire::tls(&service.authority_pem, Some(&device), b"coap");
    let mut silent = crate::wire::connect(service.addresses.bootstrap, tls.clone()).await.unwrap();
    let mut slow = crate::wire::connect(service.addresses.bootstrap, tls).await.unwrap();
    slow.write_all(&[0xe0]).await.unwrap();
    let patience = Duration::from_secs(45);
    let mut rest = Vec::new();
    timeout(patience, mute.read_to_end(&mut rest)).await.expect("a socket without a handshake stays open").unwrap_or(0);
    timeout(patience, silent.read_to_end(&mut rest)).await.expect("a silent device stays connected").unwrap_or(0);
    timeout(patience, slow.read_to_end(&mut rest)).await.expect("half a message stays open").unwrap_or(0);
    still_serves(&service, &factory).await;
}
