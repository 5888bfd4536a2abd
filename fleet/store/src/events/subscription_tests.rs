//! Claims about subscriptions and their positions, on both databases.

use protocol_types::{GroupName, UnixSeconds};
use serde_json::json;

use crate::{
    AccountScope, AfterFailure, EventDraft, EventSelection, FailedTry, NewSubscription, StoreError, SubscriptionChange,
    SubscriptionRow,
    tests::{Database, NOW},
};

fn name(text: &str) -> GroupName {
    text.parse().unwrap()
}

fn wanted(of: &str, webhook: bool) -> NewSubscription {
    NewSubscription {
        name: name(of),
        title: "Desk".into(),
        wanted: EventSelection::everything(),
        webhook: webhook.then(|| ("https://hook.example/in".to_owned(), b"\x00secret".to_vec())),
        after: None,
    }
}

async fn made(account: &AccountScope, of: &str, webhook: bool) -> SubscriptionRow {
    account.create_subscription(&wanted(of, webhook), None, NOW).await.unwrap().0
}

/// Tells `count` events; the position of the first one.
async fn tell(db: &Database, account: &AccountScope, kind: &str, count: u64) -> u64 {
    let mut tx = db.store.write().await.unwrap();
    for _ in 0..count {
        let draft = EventDraft { kind, subject: "devices/gate-1".into(), data: json!({}) };
        crate::events::append(&mut tx, account, NOW, draft).await.unwrap();
    }
    tx.commit().await.unwrap();
    account.last_event().await.unwrap() + 1 - count
}

fn failed(event: u64, tries: u32, then: AfterFailure) -> FailedTry {
    let reason = "the receiver answered 500".to_owned();
    FailedTry { event, tries, failures: tries, reason, next_try: UnixSeconds(NOW.0 + 60), then }
}

#[tokio::test]
async fn streams_of_one_account_have_positions_of_their_own() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let (a, b) = (made(&one, "a", true).await, made(&one, "b", false).await);
    let first = tell(&db, &one, "device.lost", 3).await;
    assert!(one.delivered(&name("a"), a.revision, first + 1, NOW).await.unwrap());
    assert_eq!(one.subscription(&name("a")).await.unwrap().position, first + 1);
    assert_eq!(one.subscription(&name("b")).await.unwrap().position, b.position);
    assert_eq!(one.acknowledge_events(&name("b"), first).await.unwrap().position, first);
    assert_eq!(one.acknowledge_events(&name("b"), 1).await.unwrap().position, first, "a reader never goes back");
    let ahead = one.acknowledge_events(&name("b"), first + 3).await.unwrap_err();
    assert!(matches!(ahead, StoreError::WrongState { .. }), "{ahead}");
    let sent = one.acknowledge_events(&name("a"), first).await.unwrap_err();
    assert!(matches!(sent, StoreError::WrongState { .. }), "{sent}");
    let db = db.reopen().await;
    let one = db.account("one").await;
    assert_eq!(one.subscription(&name("a")).await.unwrap().position, first + 1, "it survives a restart");
}

#[tokio::test]
async fn a_dead_letter_and_the_position_after_it_are_written_together_and_told() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let row = made(&one, "a", true).await;
    let first = tell(&db, &one, "device.lost", 2).await;
    let at = name("a");
    one.delivery_failed(&at, row.revision, &failed(first, 1, AfterFailure::Retry), NOW).await.unwrap();
    let waits = one.subscription(&at).await.unwrap();
    assert_eq!((waits.position, waits.tries, waits.dead_letters), (first - 1, 1, 0));
    one.delivery_failed(&at, row.revision, &failed(first, 2, AfterFailure::DeadLetter), NOW).await.unwrap();
    let passed = one.subscription(&at).await.unwrap();
    assert_eq!((passed.position, passed.tries, passed.failures, passed.dead_letters), (first, 0, 2, 1));
    let (letter, event) = one.dead_letters_after(&at, false, 0, 10).await.unwrap().remove(0);
    assert_eq!((letter.event, letter.tries, event.kind.as_str()), (first, 2, "device.lost"));
    let told = one.events_after(first + 1, 10).await.unwrap();
    assert_eq!((told[0].kind.as_str(), told.len()), ("subscription.dead_letter", 1));
    // The event that tells of it cannot be delivered either: the story ends there.
    one.delivery_failed(&at, row.revision, &failed(told[0].id, 2, AfterFailure::DeadLetter), NOW).await.unwrap();
    assert_eq!(one.last_event().await.unwrap(), told[0].id);
    assert_eq!(one.subscription(&at).await.unwrap().dead_letters, 2);
}

#[tokio::test]
async fn what_is_noted_after_somebody_has_changed_the_subscription_counts_for_nothing() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let row = made(&one, "a", true).await;
    let first = tell(&db, &one, "device.lost", 5).await;
    let at = name("a");
    assert!(one.delivered(&at, row.revision, first + 4, NOW).await.unwrap());
    let again = one.replay_events(&at, (Some(first), &[]), NOW).await.unwrap();
    assert_eq!(again.position, first);
    assert!(!one.delivered(&at, row.revision, first + 4, NOW).await.unwrap());
    one.delivery_failed(&at, row.revision, &failed(first + 3, 9, AfterFailure::DeadLetter), NOW).await.unwrap();
    let after = one.subscription(&at).await.unwrap();
    assert_eq!((after.position, after.dead_letters, after.failures), (first, 0, 0));
}

#[tokio::test]
async fn a_dead_letter_is_tried_again_only_when_asked_and_forgotten_only_when_accepted() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let row = made(&one, "a", true).await;
    let first = tell(&db, &one, "device.lost", 1).await;
    let at = name("a");
    one.delivery_failed(&at, row.revision, &failed(first, 3, AfterFailure::DeadLetter), NOW).await.unwrap();
    assert!(one.dead_letters_after(&at, true, 0, 10).await.unwrap().is_empty());
    let unknown = one.replay_events(&at, (None, &[first, first + 1]), NOW).await.unwrap_err();
    assert!(matches!(unknown, StoreError::NotFound { kind: "dead letter", .. }), "{unknown}");
    assert!(one.dead_letters_after(&at, true, 0, 10).await.unwrap().is_empty(), "a refusal changes nothing");
    one.replay_events(&at, (None, &[first]), NOW).await.unwrap();
    let due = db.store.service_wide().due_subscriptions().await.unwrap();
    assert!(due.iter().any(|due| due.name == at && due.asked));
    let revision = one.subscription(&at).await.unwrap().revision;
    one.dead_letter_failed(&at, revision - 1, &failed(first, 1, AfterFailure::Pause)).await.unwrap();
    assert_eq!(one.subscription(&at).await.unwrap().paused, None, "it was changed since");
    one.dead_letter_failed(&at, revision, &failed(first, 1, AfterFailure::Retry)).await.unwrap();
    assert_eq!(one.dead_letters_after(&at, true, 0, 10).await.unwrap().len(), 1, "its try goes on");
    one.dead_letter_failed(&at, revision, &failed(first, 2, AfterFailure::DeadLetter)).await.unwrap();
    assert!(one.dead_letters_after(&at, true, 0, 10).await.unwrap().is_empty());
    assert_eq!(one.subscription(&at).await.unwrap().dead_letters, 1, "it stays a dead letter");
    one.replay_events(&at, (None, &[first]), NOW).await.unwrap();
    one.dead_letter_delivered(&at, first).await.unwrap();
    assert_eq!(one.subscription(&at).await.unwrap().dead_letters, 0);
}

#[tokio::test]
async fn only_webhooks_that_are_behind_and_not_paused_are_due() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let row = made(&one, "a", true).await;
    made(&one, "b", false).await;
    let due = async || {
        let due = db.store.service_wide().due_subscriptions().await.unwrap();
        due.into_iter().map(|due| due.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(due().await, ["a"], "that they were made is an event, too");
    let last = one.last_event().await.unwrap();
    assert!(one.delivered(&name("a"), row.revision, last, NOW).await.unwrap());
    assert!(due().await.is_empty());
    tell(&db, &one, "device.lost", 1).await;
    assert_eq!(due().await, ["a"]);
    let pause = SubscriptionChange { paused: Some(true), ..SubscriptionChange::default() };
    let paused = one.change_subscription(&name("a"), &pause, None, NOW).await.unwrap();
    assert!(paused.paused.is_some() && due().await.is_empty());
    assert!(one.delivery(&name("a"), NOW).await.unwrap().is_none());
    let go_on = SubscriptionChange { paused: Some(false), ..SubscriptionChange::default() };
    assert_eq!(one.change_subscription(&name("a"), &go_on, None, NOW).await.unwrap().paused, None);
    assert_eq!(due().await, ["a"]);
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_former_one_until_its_time_is_over() {
    let db = Database::new().await;
    let one = db.account("one").await;
    made(&one, "a", true).await;
    let until = UnixSeconds(NOW.0 + 100);
    one.rotate_subscription_secret(&name("a"), b"new", until, NOW).await.unwrap();
    let secrets = async |now| one.delivery(&name("a"), now).await.unwrap().unwrap().secrets;
    assert_eq!(secrets(NOW).await, [b"new".to_vec(), b"\x00secret".to_vec()]);
    assert_eq!(secrets(until).await, [b"new".to_vec()]);
}

#[tokio::test]
async fn another_account_reaches_nothing_of_a_subscription() {
    let db = Database::new().await;
    let (one, two) = (db.account("one").await, db.account("two").await);
    let row = made(&one, "a", true).await;
    let first = tell(&db, &one, "device.lost", 1).await;
    let at = name("a");
    one.delivery_failed(&at, row.revision, &failed(first, 3, AfterFailure::DeadLetter), NOW).await.unwrap();
    let before = one.subscription(&at).await.unwrap();
    for refused in [
        two.subscription(&at).await.map(drop),
        two.change_subscription(&at, &SubscriptionChange::default(), None, NOW).await.map(drop),
        two.delete_subscription(&at, None, NOW).await,
        two.rotate_subscription_secret(&at, b"x", NOW, NOW).await.map(drop),
        two.replay_events(&at, (Some(0), &[]), NOW).await.map(drop),
        two.acknowledge_events(&at, 1).await.map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    }
    assert!(!two.delivered(&at, row.revision, first + 9, NOW).await.unwrap());
    assert!(two.dead_letters_after(&at, false, 0, 9).await.unwrap().is_empty());
    assert!(two.delivery(&at, NOW).await.unwrap().is_none());
    assert_eq!(one.subscription(&at).await.unwrap(), before);
}

#[tokio::test]
async fn there_are_only_so_many_subscriptions_and_a_repeated_request_makes_none() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let key = crate::RequestKey { key: "k".into(), request: protocol_types::Digest::of(b"r") };
    let (first, is_new) = one.create_subscription(&wanted("s0", true), Some(&key), NOW).await.unwrap();
    assert!(is_new);
    let (again, is_new) = one.create_subscription(&wanted("s0", true), Some(&key), NOW).await.unwrap();
    assert!(!is_new && again.name == first.name);
    let taken = one.create_subscription(&wanted("s0", true), None, NOW).await.unwrap_err();
    assert!(matches!(taken, StoreError::Exists { .. }), "{taken}");
    for n in 1..32 {
        made(&one, &format!("s{n}"), false).await;
    }
    let refused = one.create_subscription(&wanted("more", true), None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { most: 32, .. }), "{refused}");
    one.delete_subscription(&name("s0"), None, NOW).await.unwrap();
    made(&one, "more", true).await;
}

#[tokio::test]
async fn whoever_was_served_last_has_the_last_turn() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let rows = [made(&one, "a", true).await, made(&one, "b", true).await];
    let due = async || {
        let due = db.store.service_wide().due_subscriptions().await.unwrap();
        due.into_iter().map(|due| due.name.to_string()).collect::<Vec<_>>()
    };
    let first = tell(&db, &one, "device.lost", 3).await;
    assert_eq!(due().await, ["a", "b"]);
    assert!(one.delivered(&name("a"), rows[0].revision, first, NOW).await.unwrap());
    assert_eq!(due().await, ["b", "a"]);
}
