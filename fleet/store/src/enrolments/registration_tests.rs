//! Joining, certificates and registrations together, as a device goes through them.

use protocol_types::{
    EndpointName, ReasonCode, Standing, UnixSeconds,
    boot_record::Format1,
    recovery::{RecoveryKey, Sealed, SealedRecoveryKey},
};

use serde_json::Value;

use crate::{
    AccountScope, DeviceChange, DeviceEvent, EnrolmentRule, FactoryIdentity, Filter, ListBatch, ListLine,
    ListedCertificate, MAX_TAGS, NewAuthority, NewCertificate, OperationRequest, Parent, PresenceFact, Promise,
    RecoveryRow, StoreError, Verdict,
    tests::{Database, NOW},
};

fn name(text: &str) -> EndpointName {
    EndpointName::new(text).unwrap()
}

async fn trusting(db: &Database, account: &str) -> (AccountScope, String) {
    let scope = db.account(account).await;
    let authority = NewAuthority {
        name: "factory".into(),
        subject: "CN=factory".into(),
        fingerprint: "00".repeat(32),
        certificate: vec![0x30, 0x00],
        not_after: NOW,
    };
    let id = scope.add_authority(&authority, None, NOW).await.unwrap().id;
    (scope, id)
}

/// The account `one`, whose enrolled authority has let `gate-1` in.
async fn admitted() -> (Database, AccountScope, String) {
    let db = Database::new().await;
    let (scope, ca) = trusting(&db, "one").await;
    scope.add_enrolment(&EnrolmentRule::Authority(ca.clone()), NOW).await.unwrap();
    admit(&scope, "gate-1", &ca).await.unwrap();
    (db, scope, ca)
}

async fn admit(scope: &AccountScope, endpoint: &str, authority: &str) -> Verdict {
    let endpoint = name(endpoint);
    scope
        .admit(FactoryIdentity { endpoint: &endpoint, authority, serial: "f0", fingerprint: &[0; 32] }, NOW)
        .await
        .unwrap()
}

async fn issue(scope: &AccountScope, endpoint: &str, serial: &str, parent: Parent<&str>) -> Verdict {
    let not_after = UnixSeconds(NOW.0 + 1000);
    scope.record_certificate(&name(endpoint), NewCertificate { serial, parent, not_after }, NOW).await.unwrap()
}

async fn register(db: &Database, scope: &AccountScope, endpoint: &str, serial: &str) -> Verdict {
    let what = DeviceEvent::Registers { serial: serial.into(), session: 7, promise: Promise::new(300, false) };
    let fact = PresenceFact { account: scope.name().clone(), endpoint: name(endpoint), what };
    db.store.service_wide().record_presence(&[fact], NOW).await.unwrap().remove(0).unwrap()
}

async fn kinds(scope: &AccountScope) -> Vec<String> {
    scope.events_after(0, 100).await.unwrap().into_iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn only_an_enrolment_of_the_own_account_admits_a_device() {
    let db = Database::new().await;
    let (one, ca) = trusting(&db, "one").await;
    let (two, _) = trusting(&db, "two").await;
    two.add_enrolment(&EnrolmentRule::Endpoint(name("gate-1")), NOW).await.unwrap();
    assert_eq!(admit(&one, "gate-1", &ca).await, Err(ReasonCode::NotEnrolled));
    one.add_enrolment(&EnrolmentRule::Endpoint(name("gate-1")), NOW).await.unwrap();
    assert_eq!(admit(&one, "gate-1", &ca).await, Ok(Standing::Active));
    assert_eq!(admit(&one, "gate-2", &ca).await, Err(ReasonCode::NotEnrolled));
    assert!(matches!(two.device(&name("gate-1")).await, Err(StoreError::NotFound { .. })));
    let denied = one.denials_before(None, 10).await.unwrap();
    let seen: Vec<_> = denied.iter().map(|d| (d.endpoint.as_str(), d.reason.as_str(), d.attempts)).collect();
    assert_eq!(seen, [("gate-1", "not_enrolled", 1), ("gate-2", "not_enrolled", 1)]);
}

#[tokio::test]
async fn an_enrolled_authority_admits_every_device_until_it_is_revoked() {
    let db = Database::new().await;
    let (scope, ca) = trusting(&db, "one").await;
    scope.add_enrolment(&EnrolmentRule::Authority(ca.clone()), NOW).await.unwrap();
    assert_eq!(admit(&scope, "gate-1", &ca).await, Ok(Standing::Active));
    assert_eq!(admit(&scope, "gate-1", "ca-9").await, Err(ReasonCode::NotEnrolled));
    scope.revoke_authority(&ca, NOW).await.unwrap();
    assert_eq!(admit(&scope, "gate-2", &ca).await, Err(ReasonCode::NotEnrolled));
    assert_eq!(db.store.service_wide().trusted_authorities().await.unwrap(), []);
}

#[tokio::test]
async fn a_device_registers_with_a_recorded_certificate_only() {
    let db = Database::new().await;
    let (scope, ca) = trusting(&db, "one").await;
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::NotEnrolled));
    scope.add_enrolment(&EnrolmentRule::Authority(ca.clone()), NOW).await.unwrap();
    admit(&scope, "gate-1", &ca).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::CertificateUnknown));
    issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
    assert!(scope.device(&name("gate-1")).await.unwrap().connected);
    scope.suspend_device(&name("gate-1"), "stolen", NOW).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::Suspended));
    assert_eq!(admit(&scope, "gate-1", &ca).await, Err(ReasonCode::Suspended));
    assert_eq!(issue(&scope, "gate-1", "02", Parent::Factory("f0")).await, Err(ReasonCode::Suspended));
    scope.resume_device(&name("gate-1"), NOW).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
}

#[tokio::test]
async fn a_factory_reset_is_told_until_the_device_took_it_or_enrols_anew() {
    let (_db, scope, _) = admitted().await;
    let gate = name("gate-1");
    assert!(!scope.begin_reset(&gate).await.unwrap(), "nobody asked");
    assert_eq!(scope.ask_reset(&gate, NOW).await.unwrap().reset_asked, Some(NOW));
    scope.ask_reset(&gate, NOW).await.unwrap();
    // A yes to what was never told belongs to an earlier reset.
    scope.reset_taken(&gate, NOW).await.unwrap();
    assert!(scope.begin_reset(&gate).await.unwrap());
    assert!(scope.begin_reset(&gate).await.unwrap(), "an answer that was lost is asked for again");
    scope.reset_taken(&gate, NOW).await.unwrap();
    assert!(!scope.begin_reset(&gate).await.unwrap());

    scope.ask_reset(&gate, NOW).await.unwrap();
    issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
    assert!(scope.begin_reset(&gate).await.unwrap(), "it enrolled before it could hear of the reset");
    issue(&scope, "gate-1", "02", Parent::Operational("01")).await.unwrap();
    assert!(scope.begin_reset(&gate).await.unwrap(), "it renewed, so its state is there");
    issue(&scope, "gate-1", "03", Parent::Factory("f0")).await.unwrap();
    assert!(!scope.begin_reset(&gate).await.unwrap(), "it enrolled anew after it had heard");
    let told = kinds(&scope).await;
    let count = |kind| told.iter().filter(|told| *told == kind).count();
    assert_eq!((count("device.reset_asked"), count("device.reset_taken")), (2, 2));
    assert!(scope.ask_reset(&name("gate-2"), NOW).await.is_err());
}

fn recovery_key(volume: u8, byte: u8) -> SealedRecoveryKey {
    SealedRecoveryKey {
        format: Format1,
        recipient: RecoveryKey::from_bytes([7; 32]),
        volume: format!("7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c{volume:02x}").parse().unwrap(),
        sealed: Sealed::new(&[byte; 32], &[byte; 80]).unwrap(),
    }
}

#[tokio::test]
async fn recovery_keys_are_kept_for_the_newest_volumes_and_each_fetch_is_on_record() {
    let (_db, scope, _) = admitted().await;
    let gate = name("gate-1");
    assert!(scope.fetch_recovery_keys(&gate, "t1", NOW).await.unwrap().is_empty());
    let first = recovery_key(1, 1);
    for _ in 0..3 {
        scope.keep_recovery_key(&gate, &first, NOW).await.unwrap();
    }
    // The slot of the same volume was made anew.
    let again = recovery_key(1, 2);
    scope.keep_recovery_key(&gate, &again, NOW).await.unwrap();
    let fetched = scope.fetch_recovery_keys(&gate, "t1", NOW).await.unwrap();
    assert_eq!(fetched, [RecoveryRow { sealed: again, received: NOW }]);
    for volume in 2..=6 {
        scope.keep_recovery_key(&gate, &recovery_key(volume, 1), NOW).await.unwrap();
    }
    let kept: Vec<SealedRecoveryKey> =
        scope.fetch_recovery_keys(&gate, "t2", NOW).await.unwrap().into_iter().map(|row| row.sealed).collect();
    assert_eq!(kept, [6, 5, 4, 3].map(|volume| recovery_key(volume, 1)));
    let events = scope.events_after(0, 100).await.unwrap();
    let by = |kind: &str| events.iter().filter(|event| event.kind == kind).collect::<Vec<_>>();
    assert_eq!(by("device.recovery_key_kept").len(), 7);
    let fetches: Vec<&Value> = by("device.recovery_key_fetched").iter().map(|event| &event.data["by"]).collect();
    assert_eq!(fetches, ["t1", "t2"]);
    scope.delete_device(&gate, NOW).await.unwrap();
    assert!(scope.fetch_recovery_keys(&gate, "t1", NOW).await.is_err(), "they go with the device");
}

#[tokio::test]
async fn an_older_certificate_after_a_newer_one_was_used_quarantines_the_identity() {
    let (db, scope, _) = admitted().await;
    issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
    issue(&scope, "gate-1", "02", Parent::Operational("01")).await.unwrap();
    // The answer was lost on the way: the device still has the old one and asks again.
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
    issue(&scope, "gate-1", "03", Parent::Operational("01")).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "03").await, Ok(Standing::Active));
    assert!(!kinds(&scope).await.contains(&"device.quarantined".to_owned()), "an honest device was quarantined");
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Quarantined));
    assert_eq!(issue(&scope, "gate-1", "04", Parent::Operational("03")).await, Err(ReasonCode::Quarantined));
    assert!(kinds(&scope).await.contains(&"device.quarantined".to_owned()));
}

#[tokio::test]
async fn a_renewal_from_a_replaced_certificate_quarantines_and_issues_nothing() {
    let (db, scope, _) = admitted().await;
    issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
    issue(&scope, "gate-1", "02", Parent::Factory("f0")).await.unwrap();
    register(&db, &scope, "gate-1", "02").await.unwrap();
    assert_eq!(issue(&scope, "gate-1", "03", Parent::Operational("01")).await, Err(ReasonCode::Quarantined));
    let serials: Vec<_> = scope.device_certificates(&name("gate-1"), NOW).await.unwrap();
    assert_eq!(serials.iter().map(|c| c.serial.as_str()).collect::<Vec<_>>(), ["02", "01"]);
    assert_eq!(scope.device(&name("gate-1")).await.unwrap().standing, Standing::Quarantined);
}

#[tokio::test]
async fn asking_for_certificates_without_using_them_fills_no_table() {
    let (_db, scope, _) = admitted().await;
    for n in 0..40 {
        issue(&scope, "gate-1", &format!("{n:02}"), Parent::Factory("f0")).await.unwrap();
    }
    let kept = scope.device_certificates(&name("gate-1"), NOW).await.unwrap();
    assert_eq!((kept.len(), kept[0].serial.as_str()), (16, "39"));
}

#[tokio::test]
async fn a_deleted_device_takes_its_certificates_with_it() {
    let (db, scope, ca) = admitted().await;
    issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
    scope.delete_device(&name("gate-1"), NOW).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::NotEnrolled));
    admit(&scope, "gate-1", &ca).await.unwrap();
    assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::CertificateUnknown));
}

#[tokio::test]
async fn presence_is_told_once_and_nobody_is_connected_after_a_restart() {
    let (db, scope, _) = admitted().await;
    issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
    for _ in 0..3 {
        register(&db, &scope, "gate-1", "01").await.unwrap();
    }
    let told = |kinds: Vec<String>, kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!(told(kinds(&scope).await, "device.connected"), 1);
    let left = |session| PresenceFact {
        account: scope.name().clone(),
        endpoint: name("gate-1"),
        what: DeviceEvent::Left { session },
    };
    db.store.service_wide().record_presence(&[left(6)], NOW).await.unwrap();
    assert!(scope.device(&name("gate-1")).await.unwrap().connected, "an older connection ended the newer one");
    db.store.service_wide().record_presence(&[left(7), left(7)], NOW).await.unwrap();
    assert_eq!(told(kinds(&scope).await, "device.disconnected"), 1);
    register(&db, &scope, "gate-1", "01").await.unwrap();
    let db = db.reopen().await;
    assert_eq!(db.store.service_wide().nobody_is_connected(NOW).await.unwrap(), 1);
    assert!(!db.account("one").await.device(&name("gate-1")).await.unwrap().connected);
}

#[tokio::test]
async fn of_devices_that_come_together_one_that_fails_leaves_nothing_behind_and_the_others_as_they_are() {
    let db = Database::new().await;
    let (scope, ca) = trusting(&db, "one").await;
    let listed = |(n, tags): (u8, u64)| {
        let labels = DeviceChange { add_tags: (0..tags).map(|n| format!("t{n}")).collect(), ..DeviceChange::default() };
        let listed = ListedCertificate { fingerprint: [n; 32], endpoint: None, labels };
        ListLine { line: u64::from(n) + 1, read: Ok(listed) }
    };
    let lines = [(1, 1), (2, MAX_TAGS + 1), (3, 1)].map(listed);
    let request = OperationRequest::EnrolList { file: "list".into() };
    let operation = scope.create_operation(&request, None, None, NOW).await.unwrap().number;
    let batch = ListBatch { at: "", lines: &lines, next: "3", is_end: true };
    scope.enrol_listed(operation, &batch, NOW).await.unwrap();
    let before = scope.last_event().await.unwrap();
    let joins = |n: u8| {
        let what = DeviceEvent::Joins { authority: ca.clone(), serial: "f0".into(), fingerprint: [n; 32] };
        PresenceFact { account: scope.name().clone(), endpoint: name(&format!("gate-{n}")), what }
    };
    let verdicts = db.store.service_wide().record_presence(&[1, 2, 3, 4].map(joins), NOW).await.unwrap();
    assert!(
        matches!(
            &verdicts[..],
            [
                Ok(Ok(Standing::Active)),
                Err(StoreError::TooMany { what: "tags", .. }),
                Ok(Ok(Standing::Active)),
                Ok(Err(ReasonCode::NotEnrolled))
            ]
        ),
        "{verdicts:?}"
    );
    let devices = scope.devices_after("", &Filter::every_device(), NOW, 10).await.unwrap();
    let devices: Vec<_> = devices.iter().map(|device| device.endpoint.as_str()).collect();
    assert_eq!(devices, ["gate-1", "gate-3"]);
    let told = scope.events_after(before, 100).await.unwrap();
    assert!(told.iter().zip(before + 1..).all(|(event, id)| event.id == id), "events are numbered without a gap");
    let subjects: Vec<_> = told.iter().map(|event| (event.kind.as_str(), event.subject.as_str())).collect();
    let joined = |device| [("device.enrolled", device), ("device.changed", device)];
    let expected = [joined("devices/gate-1"), joined("devices/gate-3")].concat();
    assert_eq!(subjects, [expected, vec![("device.denied", "devices/gate-4")]].concat());
    assert_eq!(scope.listed_certificate(&[2; 32]).await.unwrap().joined, None);
}
