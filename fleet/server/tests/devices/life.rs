//! The ordinary life of a device: it enrols, registers, hears, reports, renews, and comes back after a crash of the service.

use fleet_api::{DeviceQuery, SuspendDevice};
use protocol_lwm2m::client::Reading;
use protocol_types::{Digest, EndpointName, Phase};

use crate::{
    device::{Device, News, Order},
    service::{Service, until},
};

#[tokio::test]
async fn a_device_enrols_with_its_factory_certificate_registers_and_is_described() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.enrolled().await;
    device.registered().await;
    let server = device
        .hear("where artifacts are", |news| match news {
            News::ArtifactServer(address) => Some(address.clone()),
            _ => None,
        })
        .await;
    assert_eq!(server, format!("https://127.0.0.1:{}", service.addresses.artifacts.port()));
    let detail = until("the device is described", async || {
        service.device("gate-42").await.filter(|detail| detail.manufacturer.is_some() && detail.device.report.is_some())
    })
    .await;
    assert!(detail.device.connected);
    assert_eq!(detail.manufacturer.as_deref(), Some("Example Works"));
    assert_eq!(detail.certificates.len(), 1);
    assert!(detail.certificates[0].from_factory && detail.certificates[0].first_used.is_some());
    assert_eq!(detail.device.report.unwrap().running_version.as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn what_a_device_notifies_stands_in_the_directory() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    until("the first report", async || service.device("gate-42").await?.device.report).await;
    let digest = Digest::of(b"os");
    let components = Reading::Multiple(vec![(0, format!("os 1.1.0 {digest}").as_str().into())]);
    device.order(Order::Set(12, components)).await;
    device.order(Order::Set(4, "digest_mismatch".into())).await;
    device.order(Order::Set(3, "failed".into())).await;
    let detail = until("the report arrives", async || {
        service.device("gate-42").await.filter(|d| d.device.report.as_ref().is_some_and(|r| r.phase == Phase::Failed))
    })
    .await;
    assert_eq!(detail.device.report.unwrap().reason_code.as_deref(), Some("digest_mismatch"));
    assert_eq!((detail.components[0].name.as_str(), detail.components[0].digest), ("os", digest));
}

#[tokio::test]
async fn a_device_that_goes_away_is_seen_to_go() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    device.order(Order::Vanish).await;
    until("the device is gone", async || service.device("gate-42").await.filter(|d| !d.device.connected)).await;
    let query = DeviceQuery { connected: Some(true), ..DeviceQuery::default() };
    assert_eq!(service.admin.devices(&query).await.unwrap().items, []);
    let query = DeviceQuery { connected: Some(false), ..DeviceQuery::default() };
    assert_eq!(service.admin.devices(&query).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_renewed_certificate_names_its_parent_and_is_used_from_then_on() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    device.order(Order::Renew).await;
    device.enrolled().await;
    device.registered().await;
    let detail = service.device("gate-42").await.unwrap();
    let [new, old] = detail.certificates.as_slice() else { panic!("{:?}", detail.certificates) };
    assert_eq!(new.parent, old.serial);
    assert!(!new.from_factory && new.first_used.is_some());
    assert_eq!(detail.device.standing, protocol_types::Standing::Active);
}

#[tokio::test]
async fn a_fleet_comes_back_by_itself_after_the_service_was_killed() {
    let mut service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    service.crash_and_restart().await;
    device.registered().await;
    until("the device is connected", async || service.device("gate-42").await.filter(|d| d.device.connected)).await;
    assert_eq!(service.device("gate-42").await.unwrap().certificates.len(), 1, "the crash cost a certificate");
}

#[tokio::test]
async fn a_suspended_device_is_cut_off_at_once_and_returns_when_resumed() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    let endpoint = EndpointName::new("gate-42").unwrap();
    service.admin.suspend_device(&endpoint, &SuspendDevice { reason: "stolen".into() }).await.unwrap();
    let diagnostic = device
        .hear("that it was refused", |news| match news {
            News::Refused { diagnostic, .. } => Some(diagnostic.clone()),
            _ => None,
        })
        .await;
    assert_eq!(diagnostic, "suspended");
    service.admin.resume_device(&endpoint).await.unwrap();
    device.registered().await;
}

#[tokio::test]
async fn a_deleted_device_enrols_again_if_an_enrolment_still_allows_it() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    let first = device.enrolled().await;
    device.registered().await;
    service.admin.delete_device(&EndpointName::new("gate-42").unwrap()).await.unwrap();
    let second = device.enrolled().await;
    assert_ne!(first, second);
    device.registered().await;
}
