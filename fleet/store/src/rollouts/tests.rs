//! Claims about rollouts beside each other, their waves, and devices that are brought back.

use std::sync::Mutex;

use protocol_types::{
    Consent, DeviceState, Digest, EndpointName, OnFailure, Phase, RolloutAction, RolloutId, RolloutState,
    SecurityVersion, UnixSeconds, WaitingFor,
};

use super::decision::by_name;
use crate::{
    AccountScope, Audience, DailyWindow, Decision, DeviceFacts, DeviceReport, DeviceStep, NewRollout, Policy,
    Publication, Rate, RolloutFacts, StoreError, Subject, Tally, Threshold, Wave, WishStep, Zone,
    tests::{Database, NOW, fleet, publication},
};

fn wanted(audience: Audience, priority: u8) -> NewRollout {
    NewRollout {
        name: String::new(),
        subject: Subject::Release("1.0.0".parse().unwrap()),
        audience,
        threshold: Threshold::Count(1),
        on_failure: OnFailure::Return,
        max_in_flight: None,
        window: None,
        consent: Consent::Automatic,
        priority,
        policy: Policy::default(),
    }
}

fn endpoint(name: &str) -> EndpointName {
    name.parse().unwrap()
}

async fn started(one: &AccountScope, wanted: &NewRollout) -> RolloutId {
    let id = one.create_rollout(wanted, None, NOW).await.unwrap().id;
    one.act_on_rollout(&id, RolloutAction::Start, (None, "t1"), NOW).await.unwrap();
    id
}

/// Every device that there are facts of goes to one state.
fn all_to(to: DeviceState, wish: WishStep) -> impl Fn(&RolloutFacts) -> Decision {
    move |facts| {
        let step = |device: &DeviceFacts| DeviceStep {
            endpoint: device.endpoint.clone(),
            to,
            waiting_for: None,
            reason: None,
            wish,
            wave: u32::from(device.matches.is_empty()),
            attempt: device.attempt,
            failed: device.failed,
            not_before: None,
            tally: if to == DeviceState::Failed { Tally::Failure } else { Tally::Leave },
        };
        Decision { devices: facts.devices.iter().map(step).collect(), ..Decision::default() }
    }
}

async fn seen(one: &AccountScope, id: &RolloutId) -> Vec<(String, Option<String>)> {
    let facts = one.facts_of_rollout(id, NOW).await.unwrap();
    facts.devices.iter().map(|d| (d.endpoint.to_string(), d.outranked_by.as_ref().map(ToString::to_string))).collect()
}

#[tokio::test]
async fn the_higher_priority_decides_while_it_goes_on_and_the_later_start_among_equals() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let urgent = started(&one, &wanted(Audience::Devices(vec![endpoint("gate-1")]), 90)).await;
    let usual = started(&one, &wanted(Audience::All, 50)).await;
    for id in [&urgent, &usual] {
        one.reconcile_rollout(id, all_to(DeviceState::Queued, WishStep::Leave), NOW).await.unwrap();
    }
    let held = [("gate-1".to_owned(), Some(urgent.to_string())), ("gate-2".to_owned(), None)];
    assert_eq!(seen(&one, &usual).await, held);
    assert_eq!(seen(&one, &urgent).await, [("gate-1".to_owned(), None)]);

    // What has given way stays away as long as the other one decides, and comes back with its end.
    one.reconcile_rollout(&usual, all_to(DeviceState::Superseded, WishStep::Leave), NOW).await.unwrap();
    assert_eq!(seen(&one, &usual).await, [("gate-2".to_owned(), None)]);
    one.act_on_rollout(&urgent, RolloutAction::Abort, (None, "t1"), NOW).await.unwrap();
    assert_eq!(seen(&one, &usual).await.len(), 2);
}

#[tokio::test]
async fn an_earlier_rollout_does_not_undo_what_a_later_one_has_done() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let earlier = started(&one, &wanted(Audience::All, 50)).await;
    let later = started(&one, &wanted(Audience::All, 50)).await;
    one.reconcile_rollout(&later, all_to(DeviceState::Succeeded, WishStep::Leave), NOW).await.unwrap();
    one.act_on_rollout(&later, RolloutAction::Abort, (None, "t1"), NOW).await.unwrap();
    let by = Some(later.to_string());
    assert_eq!(seen(&one, &earlier).await, [("gate-1".to_owned(), by.clone()), ("gate-2".to_owned(), by)]);
    let newest = started(&one, &wanted(Audience::All, 50)).await;
    assert!(seen(&one, &newest).await.iter().all(|(_, by)| by.is_none()), "nothing old is in the way of a new one");
}

#[tokio::test]
async fn an_open_rollout_is_retired_by_one_that_decides_for_its_whole_audience() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let earlier = started(&one, &wanted(Audience::All, 50)).await;
    let later = started(&one, &wanted(Audience::All, 50)).await;
    let retired = async || one.facts_of_rollout(&earlier, NOW).await.unwrap().retired_by;
    assert_eq!(retired().await, None, "it has not begun");
    one.reconcile_rollout(&later, all_to(DeviceState::Queued, WishStep::Leave), NOW).await.unwrap();
    assert_eq!(retired().await, None, "it is not through");
    one.reconcile_rollout(&later, all_to(DeviceState::Succeeded, WishStep::Leave), NOW).await.unwrap();
    assert_eq!(retired().await, Some(later));
}

#[tokio::test]
async fn facts_tell_waves_offers_and_failures_and_an_audience_that_is_closed_admits_nobody() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let mut wish = wanted(Audience::All, 50);
    wish.policy.waves = vec![Wave::Filter("name = \"gate-2\"".parse().unwrap()), Wave::Count(1)];
    wish.policy.rate = Some(Rate { per_hour: 9, growth: None });
    let id = started(&one, &wish).await;
    let facts = one.facts_of_rollout(&id, NOW).await.unwrap();
    let matches: Vec<&[u32]> = facts.devices.iter().map(|d| &d.matches[..]).collect();
    assert_eq!(matches, [&[][..], &[0][..]]);
    one.reconcile_rollout(&id, all_to(DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    let facts = one.facts_of_rollout(&id, NOW).await.unwrap();
    assert_eq!(facts.offers, [(NOW, 2)]);
    let waves: Vec<_> = facts.waves.iter().map(|count| (count.wave, count.devices)).collect();
    assert_eq!(waves, [(Some(0), 1), (Some(1), 1)]);

    one.reconcile_rollout(&id, all_to(DeviceState::Failed, WishStep::Clear), NOW).await.unwrap();
    one.act_on_rollout(&id, RolloutAction::Pause, (None, "t1"), NOW).await.unwrap();
    let row = one.act_on_rollout(&id, RolloutAction::Resume, (None, "t1"), NOW).await.unwrap();
    assert_eq!(row.excused, 2, "an operator has seen them");
    let next = started(&one, &wanted(Audience::All, 50)).await;
    let failures = async || {
        let facts = one.facts_of_rollout(&next, NOW).await.unwrap();
        facts.devices.iter().map(|d| d.failures).collect::<Vec<_>>()
    };
    assert_eq!(failures().await, [1, 1]);
    one.forgive_failures(&endpoint("gate-1"), NOW).await.unwrap();
    assert_eq!(failures().await, [0, 1]);
    one.act_on_rollout(&next, RolloutAction::Close, (None, "t1"), NOW).await.unwrap();
    assert_eq!(failures().await, [] as [u32; 0]);
}

#[tokio::test]
async fn who_started_a_rollout_cannot_be_who_approves_it() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let mut wish = wanted(Audience::All, 50);
    wish.policy.approval = true;
    let id = started(&one, &wish).await;
    let refused = one.act_on_rollout(&id, RolloutAction::Approve, (None, "t1"), NOW).await;
    assert!(matches!(refused, Err(StoreError::SecondPerson { .. })), "{refused:?}");
    let row = one.act_on_rollout(&id, RolloutAction::Approve, (None, "t2"), NOW).await.unwrap();
    assert_eq!((row.started_by.as_deref(), row.approved_by.as_deref()), (Some("t1"), Some("t2")));
    let other = started(&one, &wanted(Audience::All, 50)).await;
    let refused = one.act_on_rollout(&other, RolloutAction::Approve, (None, "t2"), NOW).await;
    assert!(matches!(refused, Err(StoreError::WrongState { .. })), "{refused:?}");
}

#[tokio::test]
async fn devices_that_ask_somebody_ask_again_when_an_operator_wants_that() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let mut wish = NewRollout { consent: Consent::Device, ..wanted(Audience::All, 50) };
    (wish.policy.consent_deadline, wish.policy.ask_again_s) = (Some(UnixSeconds(NOW.0 + 9)), 60);
    let id = started(&one, &wish).await;
    assert_eq!(one.rollout(&id).await.unwrap().wanted, wish);
    let asked = one.asked_at_device(&id).await.unwrap();
    assert_eq!(asked.unwrap().to_string(), format!("device until {}", NOW.0 + 9));
    assert_eq!(asked, wish.asked_at_device());
    assert_eq!(one.asked_at_device(&"r99".parse().unwrap()).await.unwrap(), None);
    let later = UnixSeconds(NOW.0 + 60);
    let refused = |facts: &RolloutFacts| {
        let mut decision = all_to(DeviceState::Waiting, WishStep::Clear)(facts);
        for (step, what) in decision.devices.iter_mut().zip([WaitingFor::Consent, WaitingFor::Retry]) {
            (step.waiting_for, step.not_before) = (Some(what), Some(later));
        }
        decision
    };
    one.reconcile_rollout(&id, refused, NOW).await.unwrap();
    one.act_on_rollout(&id, RolloutAction::AskAgain, (None, "t1"), NOW).await.unwrap();
    let facts = one.facts_of_rollout(&id, NOW).await.unwrap();
    assert_eq!(facts.devices.iter().map(|d| d.not_before).collect::<Vec<_>>(), [None, Some(later)]);
    let told = one.consent_to_rollout(&id, None, NOW).await;
    assert!(
        matches!(&told, Err(StoreError::WrongState { state, .. }) if state.contains("somebody at each device")),
        "{told:?}"
    );
    let other = started(&one, &wanted(Audience::All, 50)).await;
    assert_eq!(one.asked_at_device(&other).await.unwrap(), None);
    let nobody = one.act_on_rollout(&other, RolloutAction::AskAgain, (None, "t1"), NOW).await;
    assert!(matches!(nobody, Err(StoreError::WrongState { .. })), "{nobody:?}");
}

#[tokio::test]
async fn devices_are_brought_back_once_to_what_they_ran_before() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let ran = one.release(&"1.0.0".parse().unwrap()).await.unwrap().digest;
    for (name, digest) in [("gate-1", Some(ran)), ("gate-2", None::<Digest>)] {
        let report = DeviceReport { running_digest: digest, ..DeviceReport::idle() };
        one.record_report(&endpoint(name), &report, NOW).await.unwrap();
    }
    let id = started(&one, &wanted(Audience::All, 50)).await;
    one.reconcile_rollout(&id, all_to(DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    one.reconcile_rollout(&id, all_to(DeviceState::Succeeded, WishStep::Leave), NOW).await.unwrap();
    let stop = |_: &RolloutFacts| Decision { rollout: Some((RolloutState::Stopped, None)), ..Decision::default() };
    one.reconcile_rollout(&id, stop, NOW).await.unwrap();
    let under_way: Vec<_> = db.store.service_wide().rollouts_under_way().await.unwrap();
    assert_eq!(under_way, [(one.name().clone(), id.clone())], "devices wait to be brought back");
    let count = Mutex::new(Vec::new());
    let back = |facts: &RolloutFacts| {
        count.lock().unwrap().push(facts.returnable);
        Decision { brings_back: facts.returnable > 0, ..Decision::default() }
    };
    for _ in 0..2 {
        one.reconcile_rollout(&id, back, NOW).await.unwrap();
    }
    assert_eq!(*count.lock().unwrap(), [2, 2, 0]);
    let rollouts = one.rollouts_after(1, 9).await.unwrap();
    let [made] = &rollouts[..] else { panic!("one rollout brings back who can be: {rollouts:#?}") };
    assert_eq!((&made.brings_back, made.state, made.start_order), (&Some(id), RolloutState::Running, Some(1)));
    assert_eq!(
        made.wanted.audience,
        Audience::Devices(vec![endpoint("gate-1")]),
        "no release brings the other one back"
    );
    assert_eq!(seen(&one, &made.id).await, [("gate-1".to_owned(), None)]);
}

#[tokio::test]
async fn an_audience_in_classes_counts_each_device_once_and_tells_apart_what_rules_ask_about() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let digest = one.release(&"1.0.0".parse().unwrap()).await.unwrap().digest;
    let mut wish = wanted(Audience::All, 50);
    wish.policy.waves = vec![Wave::Filter("name = \"gate-2\"".parse().unwrap())];
    wish.window = Some(DailyWindow { from: 0, until: 60, zone: Zone::Device });
    let seen = async |wish: &NewRollout| {
        let classes = one.audience_in_classes(wish, &digest, NOW).await.unwrap();
        let mut found: Vec<_> = classes
            .into_iter()
            .map(|class| {
                let example = class.example;
                (example.endpoint.to_string(), class.devices, example.matches, example.outranked_by.is_some())
            })
            .collect();
        found.sort();
        found
    };
    assert_eq!(seen(&wish).await, [("gate-1".into(), 1, vec![], false), ("gate-2".into(), 1, vec![0], false)]);
    wish.policy.waves = Vec::new();
    assert_eq!(seen(&wish).await, [("gate-1".into(), 2, vec![], false)], "nothing tells them apart any more");
    let report = DeviceReport {
        phase: Phase::Succeeded,
        reason: None,
        progress: None,
        rollout: None,
        attempt: 1,
        digest: None,
        running_version: None,
        running_digest: Some(digest),
        slot: None,
        floor: SecurityVersion(0),
    };
    one.record_report(&endpoint("gate-1"), &report, NOW).await.unwrap();
    let classes = one.audience_in_classes(&wish, &digest, NOW).await.unwrap();
    let runs: Vec<_> = classes
        .iter()
        .map(|class| (class.example.endpoint.as_str(), class.devices, class.example.said.is_some()))
        .collect();
    assert_eq!(runs, [("gate-1", 1, true), ("gate-2", 1, false)]);
    wish.audience = Audience::Devices(vec![endpoint("gate-2"), endpoint("nobody")]);
    assert_eq!(seen(&wish).await, [("gate-2".into(), 1, vec![], false)]);
    let urgent = started(&one, &wanted(Audience::Devices(vec![endpoint("gate-2")]), 90)).await;
    one.reconcile_rollout(&urgent, all_to(DeviceState::Queued, WishStep::Leave), NOW).await.unwrap();
    assert_eq!(seen(&wish).await, [("gate-2".into(), 1, vec![], true)]);
}

#[tokio::test]
async fn many_devices_move_on_in_several_transactions_and_the_audience_closes_with_the_last() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let mut tx = db.store.write().await.unwrap();
    sqlx::query(
        "INSERT INTO devices (account, endpoint, connected, created)
         WITH RECURSIVE more(n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM more WHERE n < 2500)
         SELECT 'one', 'gate-' || n, 1, 0 FROM more",
    )
    .execute(tx.sql())
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let id = started(&one, &wanted(Audience::All, 50)).await;
    let looks = Mutex::new(Vec::new());
    let close = |facts: &RolloutFacts| {
        let mut decision = all_to(DeviceState::Queued, WishStep::Leave)(facts);
        let mut devices = facts.devices.iter();
        decision.devices.retain(|_| devices.next().is_some_and(|device| device.at.is_none()));
        decision.closes = !facts.rollout.closed;
        looks.lock().unwrap().push(decision.devices.len());
        decision
    };
    assert_eq!(one.reconcile_rollout(&id, close, NOW).await.unwrap(), 2_500);
    // Everything is read twice: to begin with, and by the transaction that closes the audience.
    assert_eq!(*looks.lock().unwrap(), [2_500, 500]);
    let facts = one.facts_of_rollout(&id, NOW).await.unwrap();
    assert!(facts.rollout.closed);
    assert_eq!(facts.devices.iter().filter(|d| d.at.is_some()).count(), 2_500);
}

#[tokio::test]
async fn a_device_of_which_something_else_is_known_by_then_waits_for_the_next_look() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let id = started(&one, &wanted(Audience::All, 50)).await;
    let downloads =
        |progress| DeviceReport { phase: Phase::Downloading, progress: Some(progress), ..DeviceReport::idle() };
    for name in ["gate-1", "gate-2"] {
        one.record_report(&endpoint(name), &downloads(1), NOW).await.unwrap();
    }
    let facts = one.facts_of_rollout(&id, NOW).await.unwrap();
    let steps = all_to(DeviceState::Queued, WishStep::Set)(&facts).devices;
    let known = by_name(&facts.devices);
    one.record_report(&endpoint("gate-1"), &downloads(2), NOW).await.unwrap();
    one.record_report(&endpoint("gate-2"), &DeviceReport::idle(), NOW).await.unwrap();
    assert_eq!(one.move_devices((&facts.rollout, &known), &steps, NOW).await.unwrap(), Some(1));
    let wish = async |name: &str| one.desired_release(&endpoint(name)).await.unwrap();
    assert!(wish("gate-1").await.is_some(), "a download that goes on is no other decision");
    assert_eq!(wish("gate-2").await, None);

    let facts = one.facts_of_rollout(&id, NOW).await.unwrap();
    let known = by_name(&facts.devices);
    one.act_on_rollout(&id, RolloutAction::Pause, (None, "t1"), NOW).await.unwrap();
    assert_eq!(one.move_devices((&facts.rollout, &known), &steps, NOW).await.unwrap(), None);
    assert_eq!(wish("gate-2").await, None, "a rollout that was paused meanwhile moves nobody");
}

#[tokio::test]
async fn a_release_that_was_withdrawn_since_is_neither_started_nor_resumed() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let draft = one.create_rollout(&wanted(Audience::All, 50), None, NOW).await.unwrap().id;
    let paused = started(&one, &wanted(Audience::All, 50)).await;
    one.act_on_rollout(&paused, RolloutAction::Pause, (None, "t1"), NOW).await.unwrap();
    one.publish(&Publication { releases: Some(Vec::new()), ..publication(Some(5), 6) }, NOW).await.unwrap();
    for (id, action) in [(&draft, RolloutAction::Start), (&paused, RolloutAction::Resume)] {
        let refused = one.act_on_rollout(id, action, (None, "t1"), NOW).await;
        assert!(matches!(refused, Err(StoreError::WrongState { kind: "release", .. })), "{refused:?}");
        one.act_on_rollout(id, RolloutAction::Abort, (None, "t1"), NOW).await.unwrap();
    }
}
