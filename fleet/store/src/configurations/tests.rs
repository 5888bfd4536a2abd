//! Claims about documents of configuration, and about what devices are given and say of it.

use protocol_types::{ConfigurationState, Digest, EndpointName, GroupName, Reason, ReasonCode};
use serde_json::{Map, Value, json};

use crate::{
    AccountScope, ConfigurationLevel, ConfigurationReport, GroupChange, StoreError,
    tests::{Database, NOW},
};

/// An account with devices.
async fn fleet(database: &Database, account: &str, endpoints: &[&str]) -> AccountScope {
    let scope = database.account(account).await;
    let mut tx = database.store.write().await.unwrap();
    for endpoint in endpoints {
        sqlx::query("INSERT INTO devices (account, endpoint, connected, created) VALUES ($1, $2, 1, 0)")
            .bind(account)
            .bind(*endpoint)
            .execute(tx.sql())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    scope
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn endpoint(name: &str) -> EndpointName {
    name.parse().unwrap()
}

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

async fn save(one: &AccountScope, level: &ConfigurationLevel, document: Value, at: Option<i64>) -> i64 {
    one.save_configuration(level, (&map(document), None), at, NOW).await.unwrap().revision
}

async fn layers_of(one: &AccountScope, device: &str) -> Vec<String> {
    let device = endpoint(device);
    let all = one.configuration_layers(std::slice::from_ref(&device), NOW).await.unwrap();
    all[&device].iter().map(|row| format!("{} {}", row.level.kind(), row.level.name())).collect()
}

#[tokio::test]
async fn each_change_of_a_document_is_a_revision_that_can_be_read_again() {
    let database = Database::new().await;
    let one = fleet(&database, "one", &["gate-1"]).await;
    let level = ConfigurationLevel::Account;
    assert_eq!(one.configuration(&level).await.unwrap().revision, 0);
    assert_eq!(save(&one, &level, json!({ "hostname": "a" }), Some(0)).await, 1);
    assert_eq!(save(&one, &level, json!({ "hostname": "b" }), Some(1)).await, 2);
    assert_eq!(save(&one, &level, json!({ "hostname": "b" }), None).await, 2, "the same document is no change");
    let stale = one.save_configuration(&level, (&map(json!({})), None), Some(1), NOW).await;
    assert!(matches!(stale, Err(StoreError::Stale { now: 2, .. })), "{stale:?}");
    let revisions = one.configuration_revisions_after(&level, 0, 10).await.unwrap();
    assert_eq!(revisions.iter().map(|row| row.revision).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(one.configuration_revision(&level, 1).await.unwrap().document, map(json!({ "hostname": "a" })));
    assert!(matches!(one.configuration_revision(&level, 3).await, Err(StoreError::NotFound { .. })));
    assert_eq!(one.configuration(&level).await.unwrap().document, map(json!({ "hostname": "b" })));
}

#[tokio::test]
async fn a_device_has_the_documents_of_its_account_its_groups_by_priority_and_its_own() {
    let database = Database::new().await;
    let one = fleet(&database, "one", &["gate-1", "gate-2"]).await;
    let members = GroupChange { add: vec![endpoint("gate-1")], ..GroupChange::default() };
    for name in ["a-doors", "b-lab", "c-else"] {
        one.create_group(&group(name), &members, None, NOW).await.unwrap();
    }
    let only_two = GroupChange { filter: Some(Some("name = \"gate-2\"".parse().unwrap())), ..GroupChange::default() };
    one.create_group(&group("two"), &only_two, None, NOW).await.unwrap();
    let says = map(json!({ "hostname": "x" }));
    for (name, priority) in [("a-doors", Some(200)), ("b-lab", None), ("c-else", None), ("two", None)] {
        let level = ConfigurationLevel::Group(group(name));
        one.save_configuration(&level, (&says, priority), None, NOW).await.unwrap();
    }
    save(&one, &ConfigurationLevel::Device(endpoint("gate-1")), json!({ "hostname": "own" }), None).await;
    save(&one, &ConfigurationLevel::Account, json!({ "hostname": "all" }), None).await;
    let all = ["account ", "group b-lab", "group c-else", "group a-doors", "device gate-1"];
    assert_eq!(layers_of(&one, "gate-1").await, all);
    assert_eq!(layers_of(&one, "gate-2").await, ["account ", "group two"]);
    // A document that says nothing is no layer, and neither is that of a group that is gone.
    save(&one, &ConfigurationLevel::Account, json!({}), None).await;
    one.delete_group(&group("b-lab"), None, NOW).await.unwrap();
    assert_eq!(layers_of(&one, "gate-1").await, ["group c-else", "group a-doors", "device gate-1"]);
    one.create_group(&group("b-lab"), &members, None, NOW).await.unwrap();
    let again = one.configuration(&ConfigurationLevel::Group(group("b-lab"))).await.unwrap();
    assert_eq!(again.revision, 0, "a new group of the same name begins anew");
}

#[tokio::test]
async fn one_account_never_sees_the_documents_of_another() {
    let database = Database::new().await;
    let one = fleet(&database, "one", &["gate-1"]).await;
    let two = fleet(&database, "two", &["gate-1"]).await;
    save(&one, &ConfigurationLevel::Account, json!({ "hostname": "a" }), None).await;
    save(&one, &ConfigurationLevel::Device(endpoint("gate-1")), json!({ "hostname": "b" }), None).await;
    one.give_configuration(&endpoint("gate-1"), "{}", &[], NOW).await.unwrap();
    assert_eq!(two.configuration(&ConfigurationLevel::Account).await.unwrap().revision, 0);
    assert!(layers_of(&two, "gate-1").await.is_empty());
    assert_eq!(two.given_configuration(&endpoint("gate-1")).await.unwrap(), None);
}

#[tokio::test]
async fn a_level_that_is_not_there_has_no_document() {
    let database = Database::new().await;
    let one = fleet(&database, "one", &["gate-1"]).await;
    for level in [ConfigurationLevel::Device(endpoint("gate-9")), ConfigurationLevel::Group(group("nobody"))] {
        assert!(matches!(one.configuration(&level).await, Err(StoreError::NotFound { .. })));
        let saved = one.save_configuration(&level, (&Map::new(), None), None, NOW).await;
        assert!(matches!(saved, Err(StoreError::NotFound { .. })), "{saved:?}");
    }
}

#[tokio::test]
async fn what_a_device_was_given_and_says_is_kept_by_generation() {
    let database = Database::new().await;
    let one = fleet(&database, "one", &["gate-1"]).await;
    let gate = endpoint("gate-1");
    let first = one.give_configuration(&gate, r#"{"hostname":"a"}"#, &[], NOW).await.unwrap().unwrap();
    let again = one.give_configuration(&gate, r#"{"hostname":"a"}"#, &[], NOW).await.unwrap().unwrap();
    assert_eq!((first.generation, again.generation), (1, 1), "the same document is not given twice");
    one.acknowledge_configuration(&gate, 1).await.unwrap();
    let confirmed = ConfigurationReport {
        state: ConfigurationState::Confirmed,
        generation: 1,
        digest: Some(first.digest),
        reason: None,
    };
    one.record_configuration(&gate, &confirmed, NOW).await.unwrap();
    let second = one.give_configuration(&gate, r#"{"hostname":"b"}"#, &[], NOW).await.unwrap().unwrap();
    assert_eq!((second.generation, second.acknowledged), (2, 1));
    let undone = ConfigurationReport {
        state: ConfigurationState::Undone,
        generation: 2,
        digest: Some(first.digest),
        reason: Some(Reason::new(ReasonCode::NoContact, "the service was not reached within 10 s")),
    };
    let before = one.last_event().await.unwrap();
    one.record_configuration(&gate, &undone, NOW).await.unwrap();
    one.record_configuration(&gate, &undone, NOW).await.unwrap();
    assert_eq!(one.last_event().await.unwrap(), before + 1, "the same report is told once");
    let given = one.given_configuration(&gate).await.unwrap().unwrap();
    assert_eq!(given.confirmed.as_deref(), Some(r#"{"hostname":"a"}"#));
    assert_eq!(given.report, Some((undone, NOW)));
    assert_eq!(given.digest, Digest::of(br#"{"hostname":"b"}"#));
    one.delete_device(&gate, NOW).await.unwrap();
    assert_eq!(one.given_configuration(&gate).await.unwrap(), None);
}

#[tokio::test]
async fn a_device_that_confirms_other_settings_than_it_was_given_is_told_as_drift() {
    let database = Database::new().await;
    let one = fleet(&database, "one", &["gate-1"]).await;
    let gate = endpoint("gate-1");
    let given = one.give_configuration(&gate, r#"{"hostname":"a"}"#, &[], NOW).await.unwrap().unwrap();
    for (digest, kind) in [
        (given.digest, "device.configuration_confirmed"),
        (Digest::of(b"changed by hand"), "device.configuration_drifted"),
        (given.digest, "device.configuration_confirmed"),
    ] {
        let state = ConfigurationState::Confirmed;
        let said = ConfigurationReport { state, generation: 1, digest: Some(digest), reason: None };
        one.record_configuration(&gate, &said, NOW).await.unwrap();
        let last = one.events_after(one.last_event().await.unwrap() - 1, 1).await.unwrap();
        assert_eq!(last[0].kind, kind);
    }
}
