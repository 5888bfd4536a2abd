//! Devices that may not join, and requests that nobody may make: each hears why, and nothing is left behind.

use fleet_api::{CreateAccount, CreateEnrolment, PageQuery, ProblemCode, UploadAuthority};
use protocol_lwm2m::coap::{Code, ContentFormat, Message};
use protocol_types::{AccountName, EndpointName};

use crate::{
    factory::Factory,
    service::{Service, client},
    wire::{Wire, connect, enrol, tls},
};

async fn bootstrap(service: &Service, identity: &crate::factory::Identity, endpoint: &str) -> (Code, String) {
    let mut wire = Wire::open(service.addresses.bootstrap, &service.authority_pem, identity).await.unwrap();
    let answer = wire.ask(Message::new(Code::POST).path("/bs").query(&format!("ep={endpoint}"))).await.unwrap();
    (answer.code, answer.diagnostic())
}

/// Whether the service talks to this identity at all.
async fn is_let_in(service: &Service, port: std::net::SocketAddr, identity: &crate::factory::Identity) -> bool {
    Wire::open(port, &service.authority_pem, identity).await.is_ok()
}

#[tokio::test]
async fn a_certificate_of_an_unknown_factory_does_not_pass_the_handshake() {
    let service = Service::start().await;
    let stranger = Factory::new().device("default", "gate-42");
    assert!(!is_let_in(&service, service.addresses.bootstrap, &stranger).await);
    let trusted = service.trusted_factory().await.device("default", "gate-42");
    assert!(is_let_in(&service, service.addresses.bootstrap, &trusted).await);
    assert!(!is_let_in(&service, service.addresses.lwm2m, &trusted).await, "a factory certificate manages nothing");
    assert!(service.device("gate-42").await.is_none());
}

#[tokio::test]
async fn a_factory_of_one_account_cannot_make_devices_of_another() {
    let service = Service::start().await;
    let wanted = CreateAccount { name: AccountName::new("other").unwrap(), title: String::new(), parent: None };
    let made = service.admin.create_account(&wanted).await.unwrap();
    let other = client(&service.addresses, &service.authority_pem, made.token.secret.unwrap());
    let theirs = Factory::new();
    let upload = UploadAuthority { name: "theirs".into(), certificate: theirs.certificate_pem() };
    let id = other.upload_authority(&upload).await.unwrap().id;
    other.create_enrolment(&CreateEnrolment { endpoint: None, authority: Some(id) }).await.unwrap();
    let ours = service.trusted_factory().await;
    assert!(!is_let_in(&service, service.addresses.bootstrap, &theirs.device("default", "gate-42")).await);
    assert!(!is_let_in(&service, service.addresses.bootstrap, &ours.device("other", "gate-42")).await);
    assert!(!is_let_in(&service, service.addresses.bootstrap, &ours.device("nobody", "gate-42")).await);
    enrol(&service, &ours.device("default", "gate-42"), "gate-42").await;
    let seen = other.device(&EndpointName::new("gate-42").unwrap()).await.unwrap_err();
    assert_eq!(seen.problem().unwrap().code, ProblemCode::NotFound.as_str(), "one account sees the devices of another");
}

#[tokio::test]
async fn an_authority_is_trusted_at_once_and_revoked_at_once() {
    let service = Service::start().await;
    let factory = Factory::new();
    let device = factory.device("default", "gate-42");
    let id = service.upload(&factory).await;
    assert_eq!(bootstrap(&service, &device, "gate-42").await, (Code::FORBIDDEN, "not_enrolled".into()));
    let enrolment =
        service.admin.create_enrolment(&CreateEnrolment { endpoint: None, authority: Some(id.clone()) }).await;
    assert_eq!(bootstrap(&service, &device, "gate-42").await.0, Code::CHANGED);
    service.admin.delete_enrolment(&enrolment.unwrap().id).await.unwrap();
    assert_eq!(bootstrap(&service, &device, "gate-42").await, (Code::FORBIDDEN, "not_enrolled".into()));
    service.admin.revoke_authority(&id).await.unwrap();
    assert!(!is_let_in(&service, service.addresses.bootstrap, &device).await);
    assert_eq!(service.denials().await, [("gate-42".to_owned(), "not_enrolled".to_owned())]);
}

#[tokio::test]
async fn only_the_endpoint_that_was_named_may_join() {
    let service = Service::start().await;
    let factory = Factory::new();
    service.upload(&factory).await;
    let endpoint = Some(EndpointName::new("gate-42").unwrap());
    service.admin.create_enrolment(&CreateEnrolment { endpoint, authority: None }).await.unwrap();
    let (named, other) = (factory.device("default", "gate-42"), factory.device("default", "gate-43"));
    assert_eq!(bootstrap(&service, &named, "gate-42").await.0, Code::CHANGED);
    assert_eq!(bootstrap(&service, &other, "gate-43").await, (Code::FORBIDDEN, "not_enrolled".into()));
    assert_eq!(bootstrap(&service, &other, "gate-42").await, (Code::FORBIDDEN, "identity_mismatch".into()));
}

#[tokio::test]
async fn a_device_registers_under_the_name_of_its_certificate_only() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let operational = enrol(&service, &factory.device("default", "gate-42"), "gate-42").await;
    let mut wire = Wire::open(service.addresses.lwm2m, &service.authority_pem, &operational).await.unwrap();
    let register = Message::new(Code::POST)
        .path("/rd")
        .query("ep=gate-43")
        .query("lt=300")
        .query("lwm2m=1.1")
        .query("b=T")
        .content(ContentFormat::LINK, "</3/0>");
    let answer = wire.ask(register).await.unwrap();
    assert_eq!((answer.code, answer.diagnostic().as_str()), (Code::FORBIDDEN, "identity_mismatch"));
    assert!(service.device("gate-43").await.is_none());
    assert!(!service.device("gate-42").await.unwrap().device.connected);
}

#[tokio::test]
async fn no_certificate_is_issued_for_another_name_a_wrong_key_or_without_bootstrap() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let device = factory.device("default", "gate-42");
    let mut wire = Wire::open(service.addresses.bootstrap, &service.authority_pem, &device).await.unwrap();
    let sen = |request: Vec<u8>| {
        Message::new(Code::POST)
            .path("/.well-known/est/sen")
            .accept(ContentFormat::PKIX_CERT)
            .content(ContentFormat::PKCS10, request)
    };
    let refused = async |wire: &mut Wire, request: Message| {
        let answer = wire.ask(request).await.unwrap();
        (answer.code, answer.diagnostic())
    };
    let early = refused(&mut wire, sen(device.request("default", "gate-42"))).await;
    assert_eq!(early, (Code::FORBIDDEN, "not_enrolled".into()), "a certificate without a bootstrap");
    let answer = wire.ask(Message::new(Code::POST).path("/bs").query("ep=gate-42")).await.unwrap();
    assert_eq!(answer.code, Code::CHANGED);
    while wire.orders.last().is_none_or(|order| order.uri_path() != "/bs") {
        wire.order().await.unwrap();
    }
    let other = refused(&mut wire, sen(device.request("default", "gate-43"))).await;
    assert_eq!(other, (Code::FORBIDDEN, "identity_mismatch".into()));
    let account = refused(&mut wire, sen(device.request("other", "gate-42"))).await;
    assert_eq!(account, (Code::FORBIDDEN, "identity_mismatch".into()));
    let mut forged = device.request("default", "gate-42");
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&mut wire, sen(forged)).await, (Code::BAD_REQUEST, "bad_certificate_request".into()));
    assert_eq!(service.device("gate-42").await.unwrap().certificates, []);
    // Four tries are what a connection has.
    let fifth = refused(&mut wire, sen(device.request("default", "gate-42"))).await;
    assert_eq!(fifth.0, Code::CHANGED);
    let sixth = refused(&mut wire, sen(device.request("default", "gate-42"))).await;
    assert_eq!(sixth.0, Code::FORBIDDEN);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_no_device() {
    let service = Service::start().await;
    for port in [service.addresses.bootstrap, service.addresses.lwm2m] {
        let stream = connect(port, tls(&service.authority_pem, None, b"coap")).await;
        if let Ok(mut stream) = stream {
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
            assert!(!matches!(read, Ok(1)), "the service talks to a client without a certificate");
        }
    }
}

#[tokio::test]
async fn a_wrong_authority_is_refused_with_the_field_that_is_to_blame() {
    let service = Service::start().await;
    let leaf = Factory::new().device("default", "gate-42");
    let leaf_pem = pem::encode(&pem::Pem::new("CERTIFICATE", leaf.certificate.to_vec()));
    let key_pem = pem::encode(&pem::Pem::new("PRIVATE KEY", vec![1, 2, 3]));
    let two = format!("{}{}", Factory::new().certificate_pem(), Factory::new().certificate_pem());
    let garbage = pem::encode(&pem::Pem::new("CERTIFICATE", vec![0x30, 0x80, 1]));
    for certificate in [String::new(), "garbage".into(), leaf_pem, key_pem, two, garbage] {
        let wanted = UploadAuthority { name: "factory".into(), certificate: certificate.clone() };
        let refused = service.admin.upload_authority(&wanted).await.unwrap_err();
        assert_eq!(
            refused.problem().and_then(|problem| problem.field.as_deref()),
            Some("certificate"),
            "{certificate}"
        );
    }
    assert_eq!(service.admin.authorities(&PageQuery::default()).await.unwrap().items, []);
    let factory = Factory::new();
    service.upload(&factory).await;
    let again = UploadAuthority { name: "again".into(), certificate: factory.certificate_pem() };
    let refused = service.admin.upload_authority(&again).await.unwrap_err();
    assert_eq!(refused.problem().unwrap().code, ProblemCode::AlreadyExists.as_str());
}
