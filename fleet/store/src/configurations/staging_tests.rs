//! Claims about revisions that are not in force: which devices have them, how far their rollouts see them, and what brings them in force.

use protocol_types::{
    ConfigurationState, Consent, DeviceState, Digest, EndpointName, OnFailure, Phase, Reason, ReasonCode,
    RevisionStanding, RolloutAction, RolloutId, RolloutState,
};
use serde_json::{Map, Value, json};

use crate::{
    AccountScope, Audience, ConfigurationLevel, ConfigurationReport, Decision, DeviceFacts, DeviceStep,
    GivenConfiguration, GroupChange, NewRollout, Policy, Released, RolloutFacts, StoreError, Subject, Tally, Threshold,
    WishStep,
    tests::{Database, NOW, fleet},
};

const ACCOUNT: ConfigurationLevel = ConfigurationLevel::Account;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn endpoint(name: &str) -> EndpointName {
    name.parse().unwrap()
}

async fn stage(one: &AccountScope, level: &ConfigurationLevel, document: Value) -> i64 {
    let row = one.stage_configuration(level, (&map(document), None), NOW).await.unwrap();
    assert_eq!(row.standing, RevisionStanding::Staged);
    row.revision
}

fn of(level: &ConfigurationLevel, revision: i64, audience: Audience) -> NewRollout {
    NewRollout {
        name: String::new(),
        subject: Subject::Configuration { level: level.clone(), revision },
        audience,
        threshold: Threshold::Count(1),
        on_failure: OnFailure::Return,
        max_in_flight: None,
        window: None,
        consent: Consent::Automatic,
        priority: 50,
        policy: Policy::default(),
    }
}

async fn started(one: &AccountScope, wanted: &NewRollout) -> RolloutId {
    let id = one.create_rollout(wanted, None, NOW).await.unwrap().id;
    one.act_on_rollout(&id, RolloutAction::Start, (None, "t1"), NOW).await.unwrap();
    id
}

/// The devices that there are facts of go to one state, if their name is among those given.
fn to(names: &'static [&'static str], state: DeviceState, wish: WishStep) -> impl Fn(&RolloutFacts) -> Decision {
    move |facts| {
        let step = |device: &DeviceFacts| DeviceStep {
            endpoint: device.endpoint.clone(),
            to: state,
            waiting_for: None,
            reason: None,
            wish,
            wave: 0,
            attempt: device.attempt,
            failed: 0,
            not_before: None,
            tally: Tally::Leave,
        };
        let chosen = facts.devices.iter().filter(|device| names.contains(&device.endpoint.as_str()));
        Decision { devices: chosen.map(step).collect(), ..Decision::default() }
    }
}

fn ends(state: RolloutState) -> impl Fn(&RolloutFacts) -> Decision {
    move |_| Decision { rollout: Some((state, None)), ..Decision::default() }
}

/// What the documents of a device say at this moment, in their order, and what rollouts have released to it.
async fn had(one: &AccountScope, name: &str) -> (Vec<(i64, Value)>, Vec<Released>) {
    let device = endpoint(name);
    let mut all = one.configuration_layers(std::slice::from_ref(&device), NOW).await.unwrap();
    let layers = all.remove(&device).unwrap();
    let released = layers.iter().filter_map(|row| row.released.clone()).collect();
    (layers.into_iter().map(|row| (row.revision, Value::Object(row.document))).collect(), released)
}

async fn give(one: &AccountScope, name: &str) -> GivenConfiguration {
    let (layers, released) = had(one, name).await;
    let text = layers.last().map_or_else(|| "{}".to_owned(), |(_, document)| document.to_string());
    one.give_configuration(&endpoint(name), &text, &released, NOW).await.unwrap().unwrap()
}

async fn says(one: &AccountScope, name: &str, given: &GivenConfiguration, state: ConfigurationState) {
    let digest = (state != ConfigurationState::Undone).then_some(given.digest);
    let reason = (state == ConfigurationState::Undone).then(|| Reason::new(ReasonCode::NoContact, "not reached"));
    let report = ConfigurationReport { state, generation: given.generation, digest, reason };
    one.acknowledge_configuration(&endpoint(name), given.generation).await.unwrap();
    one.record_configuration(&endpoint(name), &report, NOW).await.unwrap();
}

async fn facts(one: &AccountScope, id: &RolloutId, name: &str) -> DeviceFacts {
    let all = one.facts_of_rollout(id, NOW).await.unwrap().devices;
    all.into_iter().find(|device| device.endpoint.as_str() == name).expect("a device of the rollout")
}

#[tokio::test]
async fn a_staged_revision_is_in_force_on_the_devices_that_a_rollout_gave_it_and_nowhere_else() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    one.save_configuration(&ACCOUNT, (&map(json!({ "hostname": "old" })), None), None, NOW).await.unwrap();
    let revision = stage(&one, &ACCOUNT, json!({ "hostname": "new" })).await;
    assert_eq!(stage(&one, &ACCOUNT, json!({ "hostname": "new" })).await, revision, "the same again makes none");
    assert_eq!(one.configuration(&ACCOUNT).await.unwrap().revision, 1);
    let id = started(&one, &of(&ACCOUNT, revision, Audience::All)).await;
    one.reconcile_rollout(&id, to(&["gate-1"], DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    let (first, second) = (had(&one, "gate-1").await, had(&one, "gate-2").await);
    assert_eq!(first.0, [(2, json!({ "hostname": "new" }))]);
    assert_eq!(first.1, [Released { rollout: id.clone(), attempt: 1, generation: None }]);
    assert_eq!(second, (vec![(1, json!({ "hostname": "old" }))], Vec::new()));

    // Nobody puts another document in force under the feet of the rollout.
    let refused = one.save_configuration(&ACCOUNT, (&map(json!({})), None), None, NOW).await;
    assert!(
        matches!(&refused, Err(StoreError::WrongState { state, .. }) if state.contains(id.as_str())),
        "{refused:?}"
    );

    one.reconcile_rollout(&id, to(&["gate-1"], DeviceState::Queued, WishStep::Clear), NOW).await.unwrap();
    assert_eq!(had(&one, "gate-1").await, second, "taken back");
}

#[tokio::test]
async fn a_rollout_that_ends_well_puts_its_revision_in_force_for_all_whom_it_was_for() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    one.save_configuration(&ACCOUNT, (&map(json!({ "hostname": "old" })), None), None, NOW).await.unwrap();
    let lab = Audience::Filter("name = \"gate-1\"".parse().unwrap());
    let revision = stage(&one, &ACCOUNT, json!({ "hostname": "new" })).await;
    let part = started(&one, &of(&ACCOUNT, revision, lab)).await;
    one.reconcile_rollout(&part, to(&["gate-1"], DeviceState::Succeeded, WishStep::Set), NOW).await.unwrap();
    one.reconcile_rollout(&part, ends(RolloutState::Finished), NOW).await.unwrap();
    assert_eq!(one.configuration(&ACCOUNT).await.unwrap().revision, 1, "a part of the devices is not all");
    assert_eq!(had(&one, "gate-1").await.0, [(2, json!({ "hostname": "new" }))], "that part keeps it");

    let older = started(&one, &of(&ACCOUNT, revision, Audience::All)).await;
    let newest = stage(&one, &ACCOUNT, json!({ "hostname": "newest" })).await;
    let whole = started(&one, &of(&ACCOUNT, newest, Audience::All)).await;
    one.reconcile_rollout(&whole, to(&["gate-1"], DeviceState::Succeeded, WishStep::Set), NOW).await.unwrap();
    one.reconcile_rollout(&whole, ends(RolloutState::Finished), NOW).await.unwrap();
    let row = one.configuration(&ACCOUNT).await.unwrap();
    assert_eq!((row.revision, row.document), (3, map(json!({ "hostname": "newest" }))));
    for name in ["gate-1", "gate-2"] {
        assert_eq!(had(&one, name).await, (vec![(3, json!({ "hostname": "newest" }))], Vec::new()), "{name}");
    }
    assert_eq!(one.rollout(&older).await.unwrap().state, RolloutState::Aborted, "what it brings is the past");
    let again = one.create_rollout(&of(&ACCOUNT, revision, Audience::All), None, NOW).await;
    assert!(matches!(again, Err(StoreError::WrongState { .. })), "{again:?}");
}

#[tokio::test]
async fn what_a_device_makes_of_the_revision_is_what_its_rollout_hears() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let revision = stage(&one, &ACCOUNT, json!({ "hostname": "new" })).await;
    let before = give(&one, "gate-1").await;
    says(&one, "gate-1", &before, ConfigurationState::Confirmed).await;
    let id = started(&one, &of(&ACCOUNT, revision, Audience::All)).await;
    one.reconcile_rollout(&id, to(&["gate-1"], DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    let seen = facts(&one, &id, "gate-1").await;
    assert_eq!((seen.wish.map(|wish| wish.taken), seen.said), (Some(false), None), "it knows nothing of it yet");
    let given = give(&one, "gate-1").await;
    assert_eq!(given.generation, before.generation + 1);
    assert_eq!(facts(&one, &id, "gate-1").await.said, None, "what it said was about the settings of before");
    for (state, phase) in [
        (ConfigurationState::Trial, Phase::Trial),
        (ConfigurationState::Confirmed, Phase::Succeeded),
        (ConfigurationState::Undone, Phase::RolledBack),
    ] {
        says(&one, "gate-1", &given, state).await;
        let seen = facts(&one, &id, "gate-1").await;
        assert!(seen.wish.unwrap().taken);
        let said = seen.said.unwrap();
        assert_eq!((said.phase, said.attempt, said.rollout.as_ref()), (phase, 1, Some(&id)), "{state}");
    }
    // The next try is a generation of its own, although the document is the same: the device does not try one again.
    one.reconcile_rollout(&id, to(&["gate-1"], DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    let next = give(&one, "gate-1").await;
    assert_eq!((next.generation, next.digest), (given.generation + 1, given.digest));
    assert_eq!(facts(&one, &id, "gate-1").await.said, None);

    // A device that has other settings in force than it confirmed with has not succeeded.
    let digest = Some(Digest::of(b"by hand"));
    let state = ConfigurationState::Confirmed;
    let drifted = ConfigurationReport { state, generation: next.generation, digest, reason: None };
    one.record_configuration(&endpoint("gate-1"), &drifted, NOW).await.unwrap();
    assert_eq!(facts(&one, &id, "gate-1").await.said.unwrap().phase, Phase::Failed);
}

#[tokio::test]
async fn a_revision_that_changes_nothing_for_a_device_is_there_at_once() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    one.save_configuration(&ACCOUNT, (&map(json!({ "hostname": "x" })), None), None, NOW).await.unwrap();
    let given = give(&one, "gate-1").await;
    says(&one, "gate-1", &given, ConfigurationState::Confirmed).await;
    let revision = stage(&one, &ACCOUNT, json!({ "hostname": "x" })).await;
    let id = started(&one, &of(&ACCOUNT, revision, Audience::All)).await;
    one.reconcile_rollout(&id, to(&["gate-1"], DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    assert_eq!(give(&one, "gate-1").await.generation, given.generation);
    assert_eq!(facts(&one, &id, "gate-1").await.said.unwrap().phase, Phase::Succeeded);
}

#[tokio::test]
async fn settings_that_cannot_be_given_count_as_a_failure_of_the_rollout() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let revision = stage(&one, &ACCOUNT, json!({ "network": { "eth0": { "gateway": "192.0.2.1" } } })).await;
    let id = started(&one, &of(&ACCOUNT, revision, Audience::All)).await;
    one.reconcile_rollout(&id, to(&["gate-1"], DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    let (_, released) = had(&one, "gate-1").await;
    one.refuse_released(&endpoint("gate-1"), &released, "no address").await.unwrap();
    let said = facts(&one, &id, "gate-1").await.said.unwrap();
    assert_eq!((said.phase, said.reason.unwrap().code), (Phase::Failed, ReasonCode::InvalidConfiguration));
}

#[tokio::test]
async fn rollouts_of_different_documents_and_of_releases_do_not_supersede_each_other() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let device = ConfigurationLevel::Device(endpoint("gate-1"));
    let of_account = of(&ACCOUNT, stage(&one, &ACCOUNT, json!({ "hostname": "a" })).await, Audience::All);
    let of_device = of(&device, stage(&one, &device, json!({ "hostname": "b" })).await, Audience::All);
    let of_release = NewRollout { subject: Subject::Release("1.0.0".parse().unwrap()), ..of_account.clone() };
    let mut ids = Vec::new();
    for wanted in [&of_account, &of_device, &of_release, &of_account] {
        let id = started(&one, wanted).await;
        one.reconcile_rollout(&id, to(&["gate-1", "gate-2"], DeviceState::Queued, WishStep::Leave), NOW).await.unwrap();
        ids.push(id);
    }
    let above = async |id: &RolloutId| facts(&one, id, "gate-1").await.outranked_by;
    assert_eq!([above(&ids[1]).await, above(&ids[2]).await, above(&ids[3]).await], [None, None, None]);
    assert_eq!(above(&ids[0]).await, Some(ids[3].clone()), "of the same document the later start decides");
    let devices = one.facts_of_rollout(&ids[1], NOW).await.unwrap().devices;
    assert_eq!(devices.len(), 1, "the document of a device is for no other");
}

#[tokio::test]
async fn a_device_that_left_the_group_is_no_longer_meant_and_a_group_that_goes_ends_its_rollouts() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let name = "doors".parse().unwrap();
    let members = GroupChange { add: vec![endpoint("gate-1"), endpoint("gate-2")], ..GroupChange::default() };
    one.create_group(&name, &members, None, NOW).await.unwrap();
    let level = ConfigurationLevel::Group(name.clone());
    let revision = stage(&one, &level, json!({ "hostname": "a" })).await;
    let id = started(&one, &of(&level, revision, Audience::All)).await;
    one.reconcile_rollout(&id, to(&["gate-1", "gate-2"], DeviceState::Queued, WishStep::Set), NOW).await.unwrap();
    let leaves = GroupChange { remove: vec![endpoint("gate-2")], ..GroupChange::default() };
    one.change_group(&name, &leaves, None, NOW).await.unwrap();
    assert_eq!([facts(&one, &id, "gate-1").await.meant, facts(&one, &id, "gate-2").await.meant], [true, false]);
    assert!(had(&one, "gate-2").await.0.is_empty());
    one.delete_group(&name, None, NOW).await.unwrap();
    assert_eq!(one.rollout(&id).await.unwrap().state, RolloutState::Aborted);
    assert!(had(&one, "gate-1").await.0.is_empty());
}

#[tokio::test]
async fn a_rollout_that_failed_takes_back_what_it_gave_and_the_one_of_before_is_there_again() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let lab = || Audience::Filter("name = \"gate-1\"".parse().unwrap());
    let first = stage(&one, &ACCOUNT, json!({ "hostname": "first" })).await;
    let earlier = started(&one, &of(&ACCOUNT, first, lab())).await;
    one.reconcile_rollout(&earlier, to(&["gate-1"], DeviceState::Succeeded, WishStep::Set), NOW).await.unwrap();
    let second = stage(&one, &ACCOUNT, json!({ "hostname": "second" })).await;
    let later = started(&one, &of(&ACCOUNT, second, lab())).await;
    one.reconcile_rollout(&later, to(&["gate-1"], DeviceState::Succeeded, WishStep::Set), NOW).await.unwrap();
    assert_eq!(had(&one, "gate-1").await.0, [(second, json!({ "hostname": "second" }))]);
    one.reconcile_rollout(&later, ends(RolloutState::Stopped), NOW).await.unwrap();
    assert_eq!(one.facts_of_rollout(&later, NOW).await.unwrap().returnable, 1);
    let back = |_: &RolloutFacts| Decision { brings_back: true, ..Decision::default() };
    one.reconcile_rollout(&later, back, NOW).await.unwrap();
    assert_eq!(had(&one, "gate-1").await.0, [(first, json!({ "hostname": "first" }))]);
    assert_eq!(one.facts_of_rollout(&later, NOW).await.unwrap().returnable, 0, "once");
}
