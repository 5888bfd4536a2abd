//! Claims about secrets: which of them a device has, what is kept of them, and when they go.

use protocol_types::{AppName, EndpointName, SecretName, recovery::RecoveryKey};

use crate::{
    AccountScope, ConfigurationLevel, GroupChange, SealedRow, SentSecret, StoreError,
    tests::{Database, NOW, fleet},
};

fn named(application: &str, name: &str) -> (AppName, SecretName) {
    (application.parse().unwrap(), name.parse().unwrap())
}

async fn set(one: &AccountScope, level: &ConfigurationLevel, name: &str, before: u64, sealed: &str) -> u64 {
    let (application, name) = named("hello", name);
    one.set_secret(level, (&application, &name), (before, sealed), NOW).await.unwrap().version
}

/// A secret of a level, and the same as it is sealed to a device.
async fn sealed_to(
    one: &AccountScope,
    level: &ConfigurationLevel,
    name: &str,
    recipient: RecoveryKey,
) -> (SealedRow, SentSecret) {
    let (application, name) = named("hello", name);
    let from = one.sealed_secret(level, (&application, &name)).await.unwrap().unwrap();
    let (source, version, sealed) = (level.source(), from.secret.version, format!("{} for a device", from.sealed));
    (from, SentSecret { application, name, source, version, recipient, sealed })
}

/// Name, sealed value and level of each secret that a device has.
async fn had(one: &AccountScope, device: &str) -> Vec<(String, String, String)> {
    let rows = one.secrets_of_device(&device.parse().unwrap(), NOW).await.unwrap();
    rows.into_iter().map(|row| (row.secret.name.to_string(), row.sealed, row.secret.level.source())).collect()
}

fn three(name: &str, sealed: &str, level: &str) -> (String, String, String) {
    (name.to_owned(), sealed.to_owned(), level.to_owned())
}

#[tokio::test]
async fn of_secrets_with_one_name_a_device_has_that_of_its_nearest_level() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let members = GroupChange { add: vec!["gate-1".parse().unwrap()], ..GroupChange::default() };
    for name in ["a-doors", "b-lab"] {
        one.create_group(&name.parse().unwrap(), &members, None, NOW).await.unwrap();
    }
    let group = |name: &str| ConfigurationLevel::Group(name.parse().unwrap());
    let device = ConfigurationLevel::Device("gate-2".parse().unwrap());
    set(&one, &ConfigurationLevel::Account, "token", 0, "of all").await;
    set(&one, &ConfigurationLevel::Account, "other", 0, "other").await;
    set(&one, &group("a-doors"), "token", 0, "of doors").await;
    set(&one, &group("b-lab"), "token", 0, "of lab").await;
    set(&one, &device, "token", 0, "of gate-2").await;
    let other = three("other", "other", "account/");
    assert_eq!(had(&one, "gate-1").await, [other.clone(), three("token", "of lab", "group/b-lab")]);
    assert_eq!(had(&one, "gate-2").await, [other, three("token", "of gate-2", "device/gate-2")]);
    one.save_configuration(&group("a-doors"), (&serde_json::Map::new(), Some(200)), None, NOW).await.unwrap();
    assert_eq!(had(&one, "gate-1").await[1], three("token", "of doors", "group/a-doors"), "its priority is higher now");
    one.delete_group(&"a-doors".parse().unwrap(), None, NOW).await.unwrap();
    one.create_group(&"a-doors".parse().unwrap(), &members, None, NOW).await.unwrap();
    assert_eq!(had(&one, "gate-1").await[1], three("token", "of lab", "group/b-lab"), "they went with the group");
}

#[tokio::test]
async fn each_value_of_a_secret_has_a_version_and_two_who_set_it_at_once_do_not_both_win() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let level = ConfigurationLevel::Account;
    assert_eq!(set(&one, &level, "token", 0, "first").await, 1);
    assert_eq!(set(&one, &level, "token", 1, "second").await, 2);
    let (application, name) = named("hello", "token");
    for before in [0, 1] {
        let late = one.set_secret(&level, (&application, &name), (before, "late"), NOW).await;
        assert!(matches!(late, Err(StoreError::Stale { .. })), "{late:?}");
    }
    assert_eq!(one.sealed_secret(&level, (&application, &name)).await.unwrap().unwrap().sealed, "second");
    let told = one.events_after(0, 500).await.unwrap();
    let told: Vec<_> = told.iter().filter(|event| event.kind == "configuration.secret_set").collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|event| !event.data.to_string().contains("first")), "{told:?}");
    one.delete_secret(&level, (&application, &name), NOW).await.unwrap();
    assert!(matches!(one.delete_secret(&level, (&application, &name), NOW).await, Err(StoreError::NotFound { .. })));
    assert!(one.secrets(&level).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_level_has_so_many_secrets_and_a_foreign_account_none_of_them() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let two = db.account("two").await;
    for number in 0..ConfigurationLevel::MAX_SECRETS {
        set(&one, &ConfigurationLevel::Account, &format!("s{number}"), 0, "x").await;
    }
    let (application, name) = named("hello", "one-more");
    let refused = one.set_secret(&ConfigurationLevel::Account, (&application, &name), (0, "x"), NOW).await;
    assert!(matches!(refused, Err(StoreError::TooMany { .. })), "{refused:?}");
    assert!(two.secrets(&ConfigurationLevel::Account).await.unwrap().is_empty());
    assert!(had(&two, "gate-1").await.is_empty());
}

#[tokio::test]
async fn the_key_of_a_device_and_what_was_sealed_to_it_go_with_the_device() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let gate = "gate-1".parse().unwrap();
    let key = |byte| RecoveryKey::from_bytes([byte; 32]);
    assert_eq!(one.sealing_key(&gate).await.unwrap(), None);
    one.record_sealing_key(&gate, &key(1), NOW).await.unwrap();
    let before = one.last_event().await.unwrap();
    one.record_sealing_key(&gate, &key(1), NOW).await.unwrap();
    assert_eq!(one.last_event().await.unwrap(), before, "the same key is no news");
    one.record_sealing_key(&gate, &key(2), NOW).await.unwrap();
    assert_eq!(one.sealing_key(&gate).await.unwrap(), Some(key(2)));
    set(&one, &ConfigurationLevel::Account, "token", 0, "x").await;
    let (from, sent) = sealed_to(&one, &ConfigurationLevel::Account, "token", key(2)).await;
    one.keep_sent_secrets(&gate, &[(&from, &sent)]).await.unwrap();
    one.keep_sent_secrets(&gate, &[(&from, &sent)]).await.unwrap();
    assert_eq!(one.sent_secrets(&gate).await.unwrap(), [sent]);
    one.delete_device(&gate, NOW).await.unwrap();
    assert_eq!((one.sealing_key(&gate).await.unwrap(), one.sent_secrets(&gate).await.unwrap()), (None, Vec::new()));
}

#[tokio::test]
async fn what_was_sealed_of_a_secret_goes_with_the_secret_or_its_group() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let gate: EndpointName = "gate-1".parse().unwrap();
    let doors = "doors".parse().unwrap();
    let members = GroupChange { add: vec![gate.clone()], ..GroupChange::default() };
    one.create_group(&doors, &members, None, NOW).await.unwrap();
    let (account, group) = (ConfigurationLevel::Account, ConfigurationLevel::Group(doors.clone()));
    let recipient = RecoveryKey::from_bytes([1; 32]);
    let mut all = Vec::new();
    for (level, secret) in [(&account, "other"), (&account, "token"), (&group, "of-doors")] {
        set(&one, level, secret, 0, "x").await;
        all.push(sealed_to(&one, level, secret, recipient).await);
    }
    let sent: Vec<_> = all.iter().map(|(from, sent)| (from, sent)).collect();
    one.keep_sent_secrets(&gate, &sent).await.unwrap();
    let kept = async || {
        let rows = one.sent_secrets(&gate).await.unwrap();
        rows.into_iter().map(|row| row.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kept().await, ["of-doors", "other", "token"]);
    let (application, name) = named("hello", "token");
    one.delete_secret(&account, (&application, &name), NOW).await.unwrap();
    assert_eq!(kept().await, ["of-doors", "other"], "the next secret of this name is another one");
    one.delete_group(&doors, None, NOW).await.unwrap();
    assert_eq!(kept().await, ["other"]);
    set(&one, &account, "token", 0, "y").await;
    set(&one, &account, "other", 1, "y").await;
    one.keep_sent_secrets(&gate, &sent).await.unwrap();
    assert_eq!(kept().await, [] as [&str; 0], "what was read before is of secrets that are gone");
}
