//! Attackers with the network, with the service, or with its keys, and what is left after the officers have recovered.

use protocol_release::{
    metadata::{Delegate, snapshot_file},
    signing::Holders,
    workflow::{Check, Clock, Step},
};
use protocol_types::{UnixSeconds, socket::FetchError};
use serde_json::json;

use crate::{
    device::visit,
    world::{World, device, key, path, resign, signed_part},
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

#[test]
fn a_thief_of_the_services_keys_can_choose_among_signed_releases_but_ship_none() {
    let mut world = World::new(NOW);
    world.publish_release("1.1.0");
    let state = world.running();
    let mut thief = world.clone();
    (thief.release_key, thief.os_key, thief.hello_key) = (key(), key(), key());
    thief.targets.delegations.insert(Delegate::Os, Holders::one(thief.os_key.public()));
    let wish = thief.publish_release("6.6.6");
    assert_eq!(visit(&thief.served, state.clone(), &wish, NOW).verdict(), "unknown_key");
    // What the account signed stays installable, whoever delivers it.
    world.sign_online();
    assert_eq!(visit(&world.served, state, &world.wish("1.0.0"), NOW).verdict(), "verified");
}

#[test]
fn versions_run_ahead_by_a_thief_hold_a_device_until_the_keys_are_replaced() {
    let mut world = World::new(NOW);
    let state = world.running();
    let honest = world.clone();
    world.online.last_snapshot = u64::MAX - 9;
    world.online.last_timestamp = u64::MAX - 9;
    world.forge_online_targets(u64::MAX);
    let robbed = visit(&world.served, state, &world.wish("1.0.0"), NOW);
    assert_eq!(robbed.verdict(), "not_found", "the thief cannot sign targets of that version");

    let mut world = honest;
    world.sign_online();
    let held = visit(&world.served, robbed.state, &world.wish("1.0.0"), NOW);
    assert_eq!(held.verdict(), "metadata_rollback");
    world.replace_service_keys();
    world.sign_online();
    let recovered = visit(&world.served, held.state, &world.wish("1.0.0"), NOW);
    assert_eq!(recovered.verdict(), "verified", "{:?}", recovered.outcome);
}

#[test]
fn a_targets_version_run_ahead_by_a_stolen_release_key_is_forgotten_when_that_key_is_replaced() {
    let mut world = World::new(NOW);
    let honest = world.clone();
    world.targets.version = 1 << 40;
    world.publish();
    let robbed = visit(&world.served, world.provisioned(), &world.wish("1.0.0"), NOW);
    assert_eq!(robbed.verdict(), "verified");
    let mut world = honest;
    world.release_key = key();
    world.root.targets = Holders::one(world.release_key.public());
    world.replace_service_keys();
    let wish = world.publish_release("1.1.0");
    assert_eq!(visit(&world.served, robbed.state, &wish, NOW).verdict(), "verified");
}

#[test]
fn a_thief_of_new_service_keys_cannot_bring_back_targets_from_before_the_rotation() {
    let mut world = World::new(NOW);
    let old = world.online.files.clone();
    world.publish_release("1.1.0");
    let state = world.running();
    world.replace_service_keys();
    for role in ["targets", "os", "app-hello"] {
        let mut robbed = world.clone();
        let name = format!("{role}.json");
        robbed.online.files.insert(name.clone(), old[&name].clone());
        robbed.sign_online();
        let wish = robbed.wish("1.0.0");
        assert_eq!(visit(&robbed.served, state.clone(), &wish, NOW).verdict(), "metadata_rollback", "{role}");
    }
}

#[test]
fn a_new_key_of_a_delegated_role_starts_its_versions_afresh() {
    let mut world = World::new(NOW);
    world.delegated.get_mut(&Delegate::Os).unwrap().version = 1 << 40;
    world.publish();
    let robbed = visit(&world.served, world.provisioned(), &world.wish("1.0.0"), NOW);
    assert_eq!(robbed.verdict(), "verified");
    world.os_key = key();
    world.targets.delegations.insert(Delegate::Os, Holders::one(world.os_key.public()));
    world.delegated.get_mut(&Delegate::Os).unwrap().version = 2;
    world.targets.version += 1;
    world.replace_service_keys();
    world.publish();
    let recovered = visit(&world.served, robbed.state, &world.wish("1.0.0"), NOW);
    assert_eq!(recovered.verdict(), "verified", "{:?}", recovered.outcome);
}

#[test]
fn an_application_team_cannot_sign_for_another_application_or_the_os() {
    let mut world = World::new(NOW);
    let mut release = world.release("1.1.0");
    // The team of `hello` lists a component of `camera`, and the release names it.
    let mut camera = release.components[1].clone();
    camera.path = path("apps/camera/1.1.0.json");
    if let protocol_release::document::Kind::Application { name, .. } = &mut camera.kind {
        *name = "camera".parse().unwrap();
    }
    let bytes = world.served.artifacts[&camera.digest].clone();
    for draft in world.delegated.values_mut() {
        draft.insert(camera.path.clone(), &bytes);
    }
    release.components.push(camera);
    let wish = world.list(&release);
    world.next_versions();
    world.publish();
    // Nobody delegates to `app-camera`: the snapshot cannot name it.
    assert_eq!(visit(&world.served, world.provisioned(), &wish, NOW).verdict(), "mix_and_match");
    // Nor does it help to name a file of that role.
    world.forge_snapshot(|meta| meta["app-camera.json"] = json!({ "version": 1 }));
    let file = world.served.metadata[&world.current("app-hello")].clone();
    world.served.metadata.insert("1.app-camera.json".to_owned(), file);
    assert_eq!(visit(&world.served, world.provisioned(), &wish, NOW).verdict(), "not_delegated");
}

#[test]
fn an_announced_length_beyond_the_limit_is_refused_before_a_byte_is_fetched() {
    let mut world = World::new(NOW);
    world.forge_snapshot(|meta| meta["targets.json"]["length"] = json!(1_u64 << 40));
    let refused = visit(&world.served, world.provisioned(), &world.wish("1.0.0"), NOW);
    assert_eq!(refused.verdict(), "oversized");
    assert!(!refused.asked.iter().any(|name| name.ends_with("targets.json")));
}

#[test]
fn every_file_that_cannot_be_reached_ends_the_check_as_unreachable() {
    let world = World::new(NOW);
    let requests = world.first_visit("1.0.0").asked.len();
    for fails_at in 0..requests {
        for (error, code) in [
            (FetchError::Unreachable, "unreachable"),
            (FetchError::Refused, "unreachable"),
            (FetchError::TooLong, "oversized"),
        ] {
            let clock = Clock { now: NOW, not_before: NOW };
            let (mut check, mut step) = Check::begin(world.provisioned(), world.wish("1.0.0"), device(), clock);
            for n in 0..=fails_at {
                let found = match step {
                    Step::FetchMetadata { name, .. } => world.served.metadata.get(&name).cloned(),
                    Step::FetchArtifact { digest, .. } => world.served.artifacts.get(&digest).cloned(),
                    ended => panic!("ended early: {ended:?}"),
                };
                step = check.answer(if n == fails_at { Err(error) } else { found.ok_or(FetchError::NotFound) });
            }
            let Step::Refused(reason) = step else { panic!("request {fails_at}: {step:?}") };
            assert_eq!(reason.code.as_str(), code, "request {fails_at}");
            let Step::Refused(again) = check.answer(Ok(vec![])) else { panic!("a check went on after its end") };
            assert_eq!(again.code.as_str(), "internal");
        }
    }
}

#[test]
fn a_timestamp_that_names_an_older_snapshot_is_not_trusted_itself() {
    let mut world = World::new(NOW);
    let number = world.online.last_snapshot;
    let old = world.served.metadata[&snapshot_file(number)].clone();
    world.publish_release("1.1.0");
    let state = world.running();
    let trusted = state.versions();
    world.forge_timestamp(number, &old);
    let refused = visit(&world.served, state, &world.wish("1.0.0"), NOW);
    assert_eq!(refused.verdict(), "metadata_rollback");
    assert_eq!(refused.state.versions(), trusted);
}

#[test]
fn another_timestamp_of_the_trusted_version_changes_nothing() {
    let mut world = World::new(NOW);
    let (state, wish) = (world.running(), world.wish("1.0.0"));
    // The service signs the same version again, for a snapshot that names newer targets.
    world.online.last_timestamp -= 1;
    world.publish_release("1.1.0");
    let mut signed = signed_part(world.timestamp());
    signed["version"] = json!(state.versions()["timestamp"]);
    *world.timestamp() = resign(signed, &[&world.timestamp_key]);
    let visit = visit(&world.served, state.clone(), &wish, NOW);
    assert_eq!(visit.verdict(), "verified");
    assert_eq!(visit.state.versions(), state.versions());
}

#[test]
fn a_rightly_signed_file_that_breaks_the_form_is_refused() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 5] = [
        ("a root without consistent snapshots", |world| {
            world.rotate_edited(|root| root["consistent_snapshot"] = json!(false))
        }),
        ("a root that asks for more signatures than it has keys", |world| {
            world.rotate_edited(|root| root["roles"]["snapshot"]["threshold"] = json!(2));
        }),
        ("a root without one of the roles", |world| {
            world.rotate_edited(|root| _ = root["roles"].as_object_mut().unwrap().remove("timestamp"));
        }),
        ("targets with two delegations of one name", |world| {
            world.publish_targets(|targets| {
                let roles = targets["delegations"]["roles"].as_array_mut().unwrap();
                roles.push(roles[0].clone());
            });
        }),
        ("a timestamp that names more than the snapshot", |world| {
            let mut signed = signed_part(world.timestamp());
            signed["meta"]["targets.json"] = json!({ "version": 1 });
            *world.timestamp() = resign(signed, &[&world.timestamp_key]);
        }),
    ];
    for (what, change) in changes {
        let mut world = World::new(NOW);
        change(&mut world);
        assert_eq!(world.first_visit("1.0.0").verdict(), "malformed_metadata", "{what}");
    }
}

#[test]
fn what_is_stored_is_not_fetched_again() {
    let world = World::new(NOW);
    let again = visit(&world.served, world.running(), &world.wish("1.0.0"), NOW);
    assert_eq!(again.verdict(), "verified");
    let metadata: Vec<_> = again.asked.iter().filter(|name| name.ends_with(".json")).collect();
    assert_eq!(metadata, ["2.root.json", "timestamp.json"]);
}

impl World {
    /// A snapshot that names targets of a version that nobody signed.
    fn forge_online_targets(&mut self, version: u64) {
        let bytes = self.online.files["targets.json"].1.clone();
        self.online.files.insert("targets.json".to_owned(), (version, bytes));
        self.sign_online();
    }
}
