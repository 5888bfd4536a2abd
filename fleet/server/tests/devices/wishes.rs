//! What a device should run reaches it, whether it is there when the wish is made or comes later, and whatever dies in between.

use std::{path::Path, sync::Arc};

use fleet_api::{Audience, CreateRollout, PageQuery, RolloutDeviceQuery};
use fleet_store::{MetadataFile, Publication, ReleaseRow, RepositoryRow, Store};
use protocol_lwm2m::client::Reading;
use protocol_types::{AccountName, DeviceState, Digest, ReasonCode, RolloutAction, SecurityVersion, UnixSeconds};

use crate::{
    device::{Device, FULL, News, Order},
    service::{Service, until},
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const DOCUMENT: &str = r#"{"format":1}"#;

/// A release in the directory, as if its metadata had been published: how it was signed is another test's matter.
async fn publish(data_dir: &Path) {
    let store = Store::open_file(&data_dir.join("mbl.db"), Arc::new(()), NOW).await.unwrap();
    let account = AccountName::new("default").unwrap();
    store.ensure_account(&account, "", NOW).await.unwrap();
    let file = |name: &str, role: &str| MetadataFile {
        name: name.to_owned(),
        role: role.to_owned(),
        version: 1,
        bytes: b"{}".to_vec(),
    };
    let release = ReleaseRow {
        version: "1.1.0".parse().unwrap(),
        path: "releases/1.1.0.json".parse().unwrap(),
        digest: Digest::of(DOCUMENT.as_bytes()),
        security_version: SecurityVersion(1),
        document: DOCUMENT.to_owned(),
        listed: true,
        published: NOW,
    };
    let state = RepositoryRow {
        root_version: 1,
        targets_version: 1,
        snapshot_version: 1,
        timestamp_version: 1,
        timestamp_expires: UnixSeconds(NOW.0 * 2),
        published: NOW,
    };
    let publication = Publication {
        made_from: None,
        uploaded: Vec::new(),
        online: [file("1.snapshot.json", "snapshot"), file("timestamp.json", "timestamp")],
        state,
        releases: Some(vec![release]),
    };
    store.account(&account).publish(&publication, NOW).await.unwrap();
    store.close().await;
}

async fn roll_out(service: &Service) -> String {
    let wanted = CreateRollout::new("1.1.0".parse().unwrap(), Audience::All);
    let rollout = service.admin.create_rollout(&wanted, None).await.unwrap();
    service.admin.act_on_rollout(&rollout.id, RolloutAction::Start).await.unwrap();
    rollout.id.to_string()
}

async fn hear_wish(device: &mut Device) -> (String, String, String) {
    device
        .hear("what it should run", |news| match news {
            News::Wish { path, digest, rollout } => Some((path.clone(), digest.clone(), rollout.clone())),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_wish_reaches_a_connected_device_and_its_yes_is_on_record() {
    let service = Service::start_with(publish).await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    let rollout = roll_out(&service).await;
    let digest = Digest::of(DOCUMENT.as_bytes()).to_string();
    assert_eq!(hear_wish(&mut device).await, ("releases/1.1.0.json".to_owned(), digest, rollout.clone()));
    let desired = until("the yes is on record", async || {
        service.device("gate-42").await?.desired.filter(|desired| desired.acknowledged)
    })
    .await;
    assert_eq!(desired.rollout.unwrap().as_str(), rollout);
}

#[tokio::test]
async fn a_rollout_reaches_an_absent_device_when_it_returns_even_if_the_service_was_killed_meanwhile() {
    let mut service = Service::start_with(publish).await;
    let factory = service.trusted_factory().await;
    let identity = factory.device("default", "gate-42");
    let mut device = Device::start(&service, identity.clone(), "gate-42");
    device.registered().await;
    device.order(Order::Vanish).await;
    until("the device is gone", async || service.device("gate-42").await.filter(|d| !d.device.connected)).await;
    let rollout = roll_out(&service).await;
    service.crash_and_restart().await;
    let mut returned = Device::start(&service, identity, "gate-42");
    assert_eq!(hear_wish(&mut returned).await.2, rollout);
}

#[tokio::test]
async fn a_quarantined_device_is_told_nothing_until_it_is_resumed() {
    let service = Service::start_with(publish).await;
    let factory = service.trusted_factory().await;
    let identity = factory.device("default", "gate-42");
    let stolen = crate::wire::enrol(&service, &identity, "gate-42").await;
    let mut device = Device::start(&service, identity, "gate-42");
    device.registered().await;
    let mut thief = crate::clones::register(&service, &stolen, "gate-42").await;
    until("the clone is noticed", async || {
        let standing = service.device("gate-42").await?.device.standing;
        (standing == protocol_types::Standing::Quarantined).then_some(())
    })
    .await;
    roll_out(&service).await;
    // The thief hears reads and observes alone, until the real device takes its place.
    device.registered().await;
    while thief.receive().await.is_ok_and(|message| {
        assert!(message.code != protocol_lwm2m::coap::Code::POST, "the thief was told what to run: {message:?}");
        true
    }) {}
    assert_eq!(service.device("gate-42").await.unwrap().desired.filter(|wish| wish.acknowledged), None);
    service.admin.resume_device(&"gate-42".parse().unwrap()).await.unwrap();
    assert_eq!(hear_wish(&mut device).await.0, "releases/1.1.0.json");
}

#[tokio::test]
async fn a_recovery_key_that_a_device_reports_is_handed_out_as_it_came_and_with_an_event() {
    let service = Service::start_with(publish).await;
    let factory = service.trusted_factory().await;
    let name = "gate-42".parse().unwrap();
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    assert!(service.admin.recovery_keys(&name).await.unwrap().items.is_empty());
    let sealed = format!(
        r#"{{"format":1,"recipient":"x25519:{}","volume":"7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c11","sealed":"{}"}}"#,
        "ab".repeat(32),
        "cd".repeat(112)
    );
    for said in ["no key", &sealed] {
        device.order(Order::Set(15, Reading::from(said))).await;
    }
    let mut kept = until("the key is kept", async || {
        let items = service.admin.recovery_keys(&name).await.ok()?.items;
        (!items.is_empty()).then_some(items)
    })
    .await;
    assert_eq!(kept.pop().unwrap().into_sealed().to_json(), sealed);
    assert!(kept.is_empty(), "what is no key is not kept");
    let events = service.admin.events(&PageQuery { limit: Some(500), ..PageQuery::default() }).await.unwrap().items;
    let fetched = events.iter().rfind(|event| event.kind == "device.recovery_key_fetched").unwrap();
    assert!(fetched.data["by"].is_string() && fetched.subject == "devices/gate-42", "{fetched:?}");
}

#[tokio::test]
async fn a_device_that_cannot_keep_a_wish_says_why_and_the_rollout_fails_on_it() {
    let service = Service::start_with(publish).await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", "gate-42"), "gate-42");
    device.registered().await;
    until("the first report", async || service.device("gate-42").await?.device.report).await;
    device.order(Order::Set(FULL, "".into())).await;
    let rollout = roll_out(&service).await.parse().unwrap();
    let failed = until("the rollout fails on the device", async || {
        let devices = service.admin.rollout_devices(&rollout, &RolloutDeviceQuery::default()).await.unwrap().items;
        devices.into_iter().find(|device| device.state == DeviceState::Failed)
    })
    .await;
    assert_eq!(failed.reason.unwrap().code, ReasonCode::NoRoom);
    let report = service.device("gate-42").await.unwrap().device.report.unwrap();
    assert_eq!(report.running_version.as_deref(), Some("1.0.0"), "what runs is as it was");
}

async fn hear_reset(device: &mut Device) {
    device.hear("a factory reset", |news| (*news == News::FactoryReset).then_some(())).await;
}

#[tokio::test]
async fn a_factory_reset_reaches_a_device_once_whether_it_is_there_or_comes_later() {
    let mut service = Service::start_with(publish).await;
    let factory = service.trusted_factory().await;
    let (identity, name) = (factory.device("default", "gate-42"), "gate-42".parse().unwrap());
    let mut device = Device::start(&service, identity.clone(), "gate-42");
    device.registered().await;
    service.admin.reset_device(&name).await.unwrap();
    hear_reset(&mut device).await;
    let taken = async || service.device("gate-42").await.filter(|shown| shown.device.reset_asked.is_none());
    until("its yes is on record", taken).await;
    device.order(Order::Vanish).await;
    until("the device is gone", async || service.device("gate-42").await.filter(|d| !d.device.connected)).await;
    assert!(service.admin.reset_device(&name).await.unwrap().reset_asked.is_some());
    service.crash_and_restart().await;
    let mut returned = Device::start(&service, identity, "gate-42");
    hear_reset(&mut returned).await;
    let taken = async || service.device("gate-42").await.filter(|shown| shown.device.reset_asked.is_none());
    until("its second yes is on record", taken).await;
}
