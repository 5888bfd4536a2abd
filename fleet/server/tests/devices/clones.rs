//! One identity in two places: noticed, recorded, told, and held until an operator has looked.

use fleet_api::PageQuery;
use protocol_lwm2m::coap::{Code, ContentFormat, Message};
use protocol_types::{EndpointName, Standing};

use crate::{
    device::{Device, News, Order},
    factory::Identity,
    service::{Service, until},
    wire::{Wire, enrol},
};

pub(crate) async fn register(service: &Service, identity: &Identity, endpoint: &str) -> Wire {
    register_with(service, identity, (endpoint, &[])).await
}

/// Registers with further queries.
pub(crate) async fn register_with(
    service: &Service,
    identity: &Identity,
    (endpoint, queries): (&str, &[&str]),
) -> Wire {
    let mut wire = Wire::open(service.addresses.lwm2m, &service.authority_pem, identity).await.unwrap();
    let registration = queries.iter().fold(registration(endpoint), |message, query| message.query(query));
    let answer = wire.ask(registration).await.unwrap();
    assert_eq!(answer.code, Code::CREATED, "{}", answer.diagnostic());
    wire
}

fn registration(endpoint: &str) -> Message {
    Message::new(Code::POST)
        .path("/rd")
        .query(&format!("ep={endpoint}"))
        .query("lt=300")
        .query("lwm2m=1.1")
        .query("b=T")
        .content(ContentFormat::LINK, "</1/1>,</3/0>,</26241/0>")
}

async fn standing(service: &Service) -> Standing {
    service.device("gate-42").await.unwrap().device.standing
}

async fn events(service: &Service) -> Vec<String> {
    let page = PageQuery { cursor: None, limit: Some(500) };
    service.admin.events(&page).await.unwrap().items.into_iter().map(|event| event.kind).collect()
}

fn quarantines(events: &[String]) -> usize {
    events.iter().filter(|kind| kind.contains("quarantined")).count()
}

#[tokio::test]
async fn a_copied_certificate_that_was_replaced_since_quarantines_the_identity_and_tells() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let device = factory.device("default", "gate-42");
    let stolen = enrol(&service, &device, "gate-42").await;
    drop(register(&service, &stolen, "gate-42").await);
    let renewed = enrol(&service, &device, "gate-42").await;
    drop(register(&service, &renewed, "gate-42").await);
    assert_eq!(standing(&service).await, Standing::Active);
    let mut thief = register(&service, &stolen, "gate-42").await;
    assert_eq!(standing(&service).await, Standing::Quarantined);
    assert_eq!(quarantines(&events(&service).await), 1);
    let request = Message::new(Code::POST)
        .path("/.well-known/est/sren")
        .content(ContentFormat::PKCS10, device.request("default", "gate-42"));
    let answer = thief.ask(request).await.unwrap();
    assert_eq!((answer.code, answer.diagnostic().as_str()), (Code::FORBIDDEN, "quarantined"));
    assert!(
        thief.orders.iter().all(|order| order.code == Code::GET),
        "a quarantined device was told what to do: {:?}",
        thief.orders
    );
}

#[tokio::test]
async fn a_device_that_answers_in_two_places_is_quarantined() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let identity = factory.device("default", "gate-42");
    let mut first = Device::start(&service, identity.clone(), "gate-42");
    first.registered().await;
    let operational = enrol(&service, &identity, "gate-42").await;
    let mut second = register(&service, &operational, "gate-42").await;
    until("the clone is noticed", async || {
        // The copy goes on as any device would, while the original answers.
        drop(second.receive_within(std::time::Duration::from_millis(5)).await);
        (standing(&service).await == Standing::Quarantined).then_some(())
    })
    .await;
    assert_eq!(quarantines(&events(&service).await), 1);
}

#[tokio::test]
async fn a_copy_that_refuses_every_request_is_noticed_all_the_same() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let operational = enrol(&service, &factory.device("default", "gate-42"), "gate-42").await;
    let mut first = register(&service, &operational, "gate-42").await;
    let _second = register(&service, &operational, "gate-42").await;
    // Reads are answered with 4.04.
    while first.order().await.is_ok() {}
    assert_eq!(standing(&service).await, Standing::Quarantined);
}

#[tokio::test]
async fn a_device_that_lost_its_connection_and_returns_is_no_clone() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let identity = factory.device("default", "gate-42");
    let operational = enrol(&service, &identity, "gate-42").await;
    // The first connection stays open on the service's side but nobody answers on it: as after a change of network.
    let _silent = register(&service, &operational, "gate-42").await;
    let mut returned = register(&service, &operational, "gate-42").await;
    let mut silent = _silent;
    let said = {
        // The service gives the old connection up by itself.
        let mut closed = Vec::new();
        while let Ok(message) = silent.receive().await {
            closed.push(message.code);
        }
        closed
    };
    assert!(!said.is_empty(), "the old connection was not probed");
    assert_eq!(standing(&service).await, Standing::Active);
    assert!(
        service.device("gate-42").await.unwrap().device.connected,
        "the end of the old connection ended the new one"
    );
    let update = Message::new(Code::GET).path("/.well-known/est/crts");
    assert_eq!(returned.ask(update).await.unwrap().code, Code::CONTENT);
}

#[tokio::test]
async fn an_operator_who_has_looked_lets_a_quarantined_device_go_on() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let identity = factory.device("default", "gate-42");
    let stolen = enrol(&service, &identity, "gate-42").await;
    let mut device = Device::start(&service, identity.clone(), "gate-42");
    device.registered().await;
    drop(register(&service, &stolen, "gate-42").await);
    until("the clone is noticed", async || (standing(&service).await == Standing::Quarantined).then_some(())).await;
    // The real device comes back by itself, held.
    device.registered().await;
    service.admin.resume_device(&EndpointName::new("gate-42").unwrap()).await.unwrap();
    device
        .hear("where artifacts are, now that it is free again", |news| {
            matches!(news, News::ArtifactServer(_)).then_some(())
        })
        .await;
    device.order(Order::Renew).await;
    device.enrolled().await;
    device.registered().await;
    assert_eq!(standing(&service).await, Standing::Active);
}
