//! Claims about alert rules, alerts and silences, on both databases.

use protocol_types::{
    AlertState, GroupName, Severity, UnixSeconds,
    metrics::{Batch, Metric, Readings, Sample},
};
use serde_json::json;

use crate::{
    AccountScope, AlertCondition, AlertFacts, AlertNews, AlertRuleChange, EventDraft, Filter, MetricReport,
    NewAlertRule, NewSilence, OpenAlert, Patience, Side, Sight, StoreError,
    tests::{Database, NOW},
};

fn name(text: &str) -> GroupName {
    text.parse().unwrap()
}

fn later(seconds: u64) -> UnixSeconds {
    UnixSeconds(NOW.0 + seconds)
}

/// Raises at once, resolves at once, and keeps quiet when silenced: what is claimed here is what the store does with a decision.
fn at_once(facts: &AlertFacts) -> (Option<OpenAlert>, Option<AlertNews>) {
    match (facts.open, facts.sight) {
        (None, Sight::Met) if facts.silenced => (Some(OpenAlert::Raised { told: None, clear_since: None }), None),
        (None, Sight::Met) => (Some(OpenAlert::Raised { told: Some(NOW), clear_since: None }), Some(AlertNews::Raised)),
        (Some(_), Sight::Clear) => (None, Some(AlertNews::Resolved)),
        (open, _) => (open, None),
    }
}

async fn rule(account: &AccountScope, of: &str, filter: &str, condition: AlertCondition) {
    let wanted = NewAlertRule {
        name: name(of),
        title: "Look".into(),
        severity: Severity::Warning,
        filter: filter.parse().unwrap(),
        condition,
        patience: Patience { for_s: 0, clear_for_s: 0, remind_s: 0 },
    };
    account.create_alert_rule(&wanted, None, NOW).await.unwrap();
}

fn state(filter: &str) -> AlertCondition {
    AlertCondition::State { filter: filter.parse().unwrap() }
}

/// Looks at a rule; who has a raised alert of it then.
async fn look(account: &AccountScope, of: &str, now: UnixSeconds) -> Vec<String> {
    let rule = account.alert_rule(&name(of)).await.unwrap();
    account.evaluate_alert_rule(&rule, at_once, now).await.unwrap();
    let rows = account.alerts_before((Some(AlertState::Raised), Some(&name(of))), None, 2000).await.unwrap();
    let mut who: Vec<String> =
        rows.iter().map(|row| row.device.as_ref().map(ToString::to_string).unwrap_or_default()).collect();
    who.sort_unstable();
    who
}

async fn kinds_after(account: &AccountScope, after: u64) -> Vec<(String, String)> {
    let rows = account.events_after(after, 100).await.unwrap();
    rows.into_iter().map(|row| (row.kind, row.subject)).collect()
}

#[tokio::test]
async fn a_rule_raises_one_alert_a_device_and_resolves_it_when_the_condition_ends() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    rule(&one, "here", "name != \"gate-2\"", state("connected = true")).await;
    let before = one.last_event().await.unwrap();
    assert_eq!(look(&one, "here", NOW).await, ["gate-1"]);
    assert_eq!(look(&one, "here", later(5)).await, ["gate-1"], "a second look raises nothing more");
    assert_eq!(one.alert_rule(&name("here")).await.unwrap().raised, 1);
    let told = kinds_after(&one, before).await;
    assert_eq!(told, [("alert.raised".to_owned(), "alerts/al-1/devices/gate-1".to_owned())]);
    let mut tx = db.store.write().await.unwrap();
    sqlx::query("UPDATE devices SET connected = 0").execute(tx.sql()).await.unwrap();
    tx.commit().await.unwrap();
    assert!(look(&one, "here", later(10)).await.is_empty());
    let over = one.alert(1).await.unwrap();
    assert_eq!((over.state, over.resolved, over.told), (AlertState::Resolved, Some(later(10)), Some(NOW)));
    assert_eq!(kinds_after(&one, before).await.last().unwrap().0, "alert.resolved");
    let history = one.device_history(&"gate-1".parse().unwrap(), None, 10).await.unwrap();
    assert!(history.iter().any(|event| event.kind == "alert.raised"), "the device's own history tells it, too");
}

#[tokio::test]
async fn absence_is_about_active_devices_that_have_broken_their_promise() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    rule(&one, "gone", "", AlertCondition::Absence {}).await;
    assert!(look(&one, "gone", NOW).await.is_empty());
    let mut tx = db.store.write().await.unwrap();
    let sql = "UPDATE devices SET connected = 0, late_at = $1, lost_at = $2";
    sqlx::query(sql)
        .bind(i64::try_from(later(60).0).unwrap())
        .bind(i64::try_from(later(600).0).unwrap())
        .execute(tx.sql())
        .await
        .unwrap();
    sqlx::query("UPDATE devices SET standing = 'suspended' WHERE endpoint = 'gate-2'").execute(tx.sql()).await.unwrap();
    tx.commit().await.unwrap();
    assert!(look(&one, "gone", later(59)).await.is_empty());
    assert_eq!(look(&one, "gone", later(60)).await, ["gate-1"]);
    assert_eq!(look(&one, "gone", later(6000)).await, ["gate-1"]);
}

#[tokio::test]
async fn a_rate_counts_events_of_its_kinds_within_its_time_for_each_device_or_all() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let rate = |whole_account| AlertCondition::Rate {
        kinds: vec!["x.*".to_owned()],
        events: 3,
        clear_below: 2,
        within_s: 60,
        whole_account,
    };
    rule(&one, "each", "", rate(false)).await;
    rule(&one, "all", "", rate(true)).await;
    let mut tx = db.store.write().await.unwrap();
    for (at, kind, device) in
        [(0, "x.a", "gate-1"), (10, "x.b", "gate-1"), (20, "y", "gate-1"), (20, "x.a", "gate-2"), (30, "x.a", "gate-1")]
    {
        let draft = EventDraft { kind, subject: format!("devices/{device}"), data: json!({}) };
        crate::events::append(&mut tx, &one, later(at), draft).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(look(&one, "each", later(30)).await, ["gate-1"]);
    assert_eq!(look(&one, "all", later(30)).await, [""], "the alert is about the account");
    assert_eq!(look(&one, "each", later(65)).await, ["gate-1"], "two events do not raise it, but hold it");
    assert!(look(&one, "each", later(75)).await.is_empty());
    assert!(look(&one, "all", later(200)).await.is_empty());
}

#[tokio::test]
async fn a_silence_holds_for_its_rule_its_devices_and_its_time() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    rule(&one, "here", "", state("connected = true")).await;
    let silence = NewSilence {
        rule: Some(name("here")),
        filter: "name = \"gate-1\"".parse().unwrap(),
        until: later(100),
        reason: "works".into(),
        made_by: "token/t".into(),
    };
    let made = one.create_silence(&silence, None, NOW).await.unwrap();
    let wrong = NewSilence { rule: Some(name("nothing")), ..silence };
    assert!(matches!(one.create_silence(&wrong, None, NOW).await, Err(StoreError::NotFound { .. })));
    let silenced = async |now| {
        let rule = one.alert_rule(&name("here")).await.unwrap();
        let seen = std::sync::Mutex::new(Vec::new());
        let note = |facts: &AlertFacts| {
            seen.lock().unwrap().push(facts.silenced);
            (facts.open, None)
        };
        one.evaluate_alert_rule(&rule, note, now).await.unwrap();
        seen.into_inner().unwrap()
    };
    assert_eq!(silenced(NOW).await, [true, false]);
    assert_eq!(silenced(later(100)).await, [false, false], "its time is over");
    let ended = one.end_silence(made.number, later(50)).await.unwrap();
    assert_eq!(ended.until, later(50));
    assert_eq!(silenced(later(50)).await, [false, false]);
    assert_eq!(
        one.end_silence(made.number, later(70)).await.unwrap().until,
        later(50),
        "a second time changes nothing"
    );
    let everything = NewSilence {
        rule: None,
        filter: Filter::every_device(),
        until: later(100),
        reason: "x".into(),
        made_by: "y".into(),
    };
    one.create_silence(&everything, None, NOW).await.unwrap();
    assert_eq!(silenced(NOW).await, [true, true]);
}

#[tokio::test]
async fn an_alert_is_acknowledged_once_and_only_while_it_is_raised() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    rule(&one, "here", "name = \"gate-1\"", state("connected = true")).await;
    look(&one, "here", NOW).await;
    let known = one.acknowledge_alert(1, ("token/a", "on my way"), later(1)).await.unwrap();
    assert_eq!(known.acknowledged, Some((later(1), "token/a".to_owned(), "on my way".to_owned())));
    let again = one.acknowledge_alert(1, ("token/b", "me too"), later(2)).await.unwrap();
    assert_eq!(again, known, "the first one counts");
    one.delete_alert_rule(&name("here"), None, later(3)).await.unwrap();
    assert_eq!(one.alert(1).await.unwrap().state, AlertState::Resolved, "a rule that is gone leaves no alert behind");
    rule(&one, "here", "name = \"gate-1\"", state("connected = true")).await;
    look(&one, "here", later(4)).await;
    let off = AlertRuleChange { enabled: Some(false), ..AlertRuleChange::default() };
    one.change_alert_rule(&name("here"), &off, None, later(5)).await.unwrap();
    let over = one.acknowledge_alert(2, ("token/a", ""), later(6)).await.unwrap_err();
    assert!(matches!(over, StoreError::WrongState { kind: "alert", .. }), "{over}");
    assert!(db.store.service_wide().enabled_alert_rules().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rule_that_was_changed_while_somebody_looked_is_left_for_the_next_look() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    rule(&one, "here", "", state("connected = true")).await;
    let old = one.alert_rule(&name("here")).await.unwrap();
    let change = AlertRuleChange { title: Some("Other".into()), ..AlertRuleChange::default() };
    one.change_alert_rule(&name("here"), &change, None, NOW).await.unwrap();
    assert_eq!(one.evaluate_alert_rule(&old, at_once, NOW).await.unwrap(), 0);
    assert!(one.alerts_before((None, None), None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn so_many_alerts_of_a_rule_are_open_and_no_more_and_that_is_told() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let mut tx = db.store.write().await.unwrap();
    for n in 0..1005 {
        sqlx::query("INSERT INTO devices (account, endpoint, connected, created) VALUES ('one', $1, 1, 0)")
            .bind(format!("many-{n:04}"))
            .execute(tx.sql())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    rule(&one, "here", "", state("connected = true")).await;
    assert_eq!(look(&one, "here", NOW).await.len(), 1000);
    assert!(one.alert_rule(&name("here")).await.unwrap().is_full);
    let before = one.last_event().await.unwrap();
    assert_eq!(look(&one, "here", later(5)).await.len(), 1000);
    assert_eq!(one.last_event().await.unwrap(), before, "it is told once");
    let mut tx = db.store.write().await.unwrap();
    sqlx::query("UPDATE devices SET connected = 0 WHERE endpoint LIKE 'many-00%'").execute(tx.sql()).await.unwrap();
    tx.commit().await.unwrap();
    look(&one, "here", later(10)).await;
    assert_eq!(look(&one, "here", later(15)).await.len(), 907, "those that had to wait have their turn");
    assert!(!one.alert_rule(&name("here")).await.unwrap().is_full);
}

#[tokio::test]
async fn another_account_reaches_neither_rules_nor_alerts_nor_silences() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let two = db.account("two").await;
    rule(&one, "here", "", state("connected = true")).await;
    look(&one, "here", NOW).await;
    let silence = NewSilence {
        rule: None,
        filter: Filter::every_device(),
        until: later(9),
        reason: "x".into(),
        made_by: "y".into(),
    };
    one.create_silence(&silence, None, NOW).await.unwrap();
    let before =
        (one.alert_rule(&name("here")).await.unwrap(), one.alert(1).await.unwrap(), one.silence(1).await.unwrap());
    for refused in [
        two.alert_rule(&name("here")).await.map(drop),
        two.change_alert_rule(&name("here"), &AlertRuleChange::default(), None, NOW).await.map(drop),
        two.delete_alert_rule(&name("here"), None, NOW).await,
        two.alert(1).await.map(drop),
        two.acknowledge_alert(1, ("x", ""), NOW).await.map(drop),
        two.silence(1).await.map(drop),
        two.end_silence(1, NOW).await.map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    }
    assert_eq!(two.evaluate_alert_rule(&before.0, at_once, NOW).await.unwrap(), 0);
    assert!(two.alerts_before((None, None), None, 10).await.unwrap().is_empty());
    let after =
        (one.alert_rule(&name("here")).await.unwrap(), one.alert(1).await.unwrap(), one.silence(1).await.unwrap());
    assert_eq!(after, before);
}

/// A device says how hot it is, in tenths of a degree.
async fn hot(db: &Database, device: &str, tenths: i64, now: UnixSeconds) {
    let readings = Readings::default().with(Metric::Temperature, tenths);
    let batch = Batch { epoch: 1, dropped: 0, samples: vec![Sample { number: now.0, age_s: 0, readings }] };
    let (account, endpoint) = ("one".parse().unwrap(), device.parse().unwrap());
    let report = MetricReport { account, endpoint, batch, least_gap_s: 1 };
    db.store.service_wide().record_metrics(&[report], now).await.unwrap();
}

#[tokio::test]
async fn a_threshold_raises_at_one_value_and_ends_at_another_and_old_values_do_neither() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let condition = |side, raise, clear| AlertCondition::Threshold {
        metric: Metric::Temperature,
        side,
        raise,
        clear,
        fresh_s: 3600,
    };
    rule(&one, "hot", "", condition(Side::Above, 800, 750)).await;
    rule(&one, "cold", "name = \"gate-2\"", condition(Side::Below, -100, -50)).await;
    assert!(look(&one, "hot", NOW).await.is_empty(), "nobody has said anything");
    hot(&db, "gate-1", 800, later(10)).await;
    hot(&db, "gate-2", -101, later(10)).await;
    assert!(look(&one, "hot", later(10)).await.is_empty(), "the threshold itself is not beyond it");
    assert_eq!(look(&one, "cold", later(10)).await, ["gate-2"]);
    hot(&db, "gate-1", 801, later(20)).await;
    assert_eq!(look(&one, "hot", later(20)).await, ["gate-1"]);
    hot(&db, "gate-1", 760, later(30)).await;
    hot(&db, "gate-2", -51, later(30)).await;
    assert_eq!(look(&one, "hot", later(30)).await, ["gate-1"], "between the two nothing changes");
    assert_eq!(look(&one, "cold", later(30)).await, ["gate-2"]);
    hot(&db, "gate-1", 750, later(40)).await;
    hot(&db, "gate-2", 900, later(40)).await;
    assert_eq!(look(&one, "hot", later(40)).await, ["gate-2"]);
    assert!(look(&one, "cold", later(40)).await.is_empty());
    assert_eq!(look(&one, "hot", later(40 + 3600)).await, ["gate-2"]);
    assert_eq!(look(&one, "hot", later(90_000)).await, ["gate-2"], "a device that says nothing is not cool");
    hot(&db, "gate-1", 900, later(100)).await;
    assert_eq!(look(&one, "hot", later(90_000)).await, ["gate-2"], "what was hot a day ago raises nothing");
    let mut tx = db.store.write().await.unwrap();
    let retire = "UPDATE devices SET standing = 'decommissioned' WHERE endpoint = 'gate-2'";
    sqlx::query(retire).execute(tx.sql()).await.unwrap();
    tx.commit().await.unwrap();
    assert!(look(&one, "hot", later(90_000)).await.is_empty(), "a device that is taken out of service");
}

#[tokio::test]
async fn of_two_changes_of_a_rule_the_later_one_is_checked_against_the_earlier() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    rule(&one, "here", "", state("connected = true")).await;
    let change = |filter: &str| AlertRuleChange { filter: Some(filter.parse().unwrap()), ..AlertRuleChange::default() };
    let first = one.change_alert_rule(&name("here"), &change("name = \"a\""), Some(1), NOW).await.unwrap();
    assert_eq!((first.revision, first.filter.as_str()), (2, "name = \"a\""));
    let (a, b) = (change("name = \"b\""), change("name = \"c\""));
    let here = name("here");
    let both =
        tokio::join!(one.change_alert_rule(&here, &a, Some(2), NOW), one.change_alert_rule(&here, &b, Some(2), NOW));
    let outcomes = [both.0, both.1];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(StoreError::Stale { now: 3, .. }))), "{outcomes:?}");
    assert!(matches!(one.change_alert_rule(&name("gone"), &a, None, NOW).await, Err(StoreError::NotFound { .. })));
}
