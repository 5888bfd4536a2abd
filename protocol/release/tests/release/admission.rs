//! What the service lets an account publish: what is stored is what every device accepts.

use std::collections::BTreeMap;

use protocol_release::{
    metadata::{Delegate, TIMESTAMP_FILE},
    publish::{Accepted, Lifetimes, Repository, admit},
    signing::Holders,
};
use protocol_types::{Reason, UnixSeconds};

use crate::{
    device::visit,
    world::{DAY, Served, World, block_on, damaged, hello, key, path, signed_part, sources},
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const LIFETIMES: Lifetimes = Lifetimes { snapshot_s: 7 * DAY, timestamp_s: DAY };

/// What the account signed: everything that is served but the service's own files.
fn uploaded(world: &World) -> BTreeMap<String, Vec<u8>> {
    let own = |name: &str| name == TIMESTAMP_FILE || name.ends_with(".snapshot.json");
    world.served.metadata.iter().filter(|(name, _)| !own(name)).map(|(n, b)| (n.clone(), b.clone())).collect()
}

/// The service stores an accepted upload and signs it.
fn store(served: &mut Served, accepted: &Accepted, world: &World) {
    let online = accepted.repository.online(world.now, LIFETIMES).unwrap();
    let signed = block_on(online.sign(&sources([&world.snapshot_key]), &sources([&world.timestamp_key]))).unwrap();
    accepted.repository.check_online(&signed).unwrap();
    for file in accepted.files.iter().chain([&signed.snapshot, &signed.timestamp]) {
        served.metadata.insert(file.name.clone(), file.bytes.clone());
    }
}

fn read(served: &Served) -> Repository {
    Repository::read(served.metadata.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))).unwrap()
}

/// An account whose first release was uploaded to the service.
fn published() -> (World, Served) {
    let world = World::new(NOW);
    let mut served = Served { artifacts: world.served.artifacts.clone(), ..Served::default() };
    let accepted = admit(&Repository::empty(), &uploaded(&world), NOW).unwrap();
    store(&mut served, &accepted, &world);
    (world, served)
}

fn code(judged: Result<Accepted, Reason>) -> &'static str {
    judged.map_or_else(|reason| reason.code.as_str(), |_| "accepted")
}

#[test]
fn a_device_accepts_what_the_service_accepted() {
    let (mut world, mut served) = published();
    let first = visit(&served, world.provisioned(), &world.wish("1.0.0"), NOW);
    assert_eq!(first.verdict(), "verified", "{:?}", first.outcome);

    let wish = world.publish_release("1.1.0");
    world.rotate();
    let accepted = admit(&read(&served), &uploaded(&world), NOW).unwrap();
    let names: Vec<_> = accepted.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        ["2.root.json", "2.targets.json", "2.os.json", "2.app-hello.json"],
        "what is stored stays as it is"
    );
    store(&mut served, &accepted, &world);
    served.artifacts = world.served.artifacts.clone();
    assert_eq!(visit(&served, first.state, &wish, NOW).verdict(), "verified");
}

#[test]
fn the_artifacts_of_every_listed_path_are_named() {
    let (world, served) = published();
    let listed: Vec<_> = read(&served).artifacts().into_iter().map(|artifact| artifact.path.to_string()).collect();
    let expected =
        ["apps/hello/1.0.0.json", "configuration/base/1.0.0.json", "os/host/1.0.0.json", "releases/1.0.0.json"];
    assert_eq!(listed, expected);
    for artifact in read(&served).artifacts() {
        assert_eq!(world.served.artifacts[&artifact.digest].len() as u64, artifact.size);
    }
}

#[test]
fn a_release_that_no_device_would_take_is_known_before_one_asks() {
    let (mut world, served) = published();
    let document = |world: &World, version| world.served.artifacts[&world.wish(version).digest].clone();
    let first = document(&world, "1.0.0");
    assert_eq!(read(&served).release(&first).unwrap().version.to_string(), "1.0.0");
    assert_eq!(Repository::empty().release(&first).unwrap_err().code.as_str(), "not_in_targets");

    world.publish_release("1.1.0");
    let second = document(&world, "1.1.0");
    assert_eq!(read(&served).release(&second).unwrap_err().code.as_str(), "not_in_targets");
    let mut upload = uploaded_newest(&world);
    upload.remove("2.app-hello.json");
    let accepted = admit(&read(&served), &upload, NOW).unwrap();
    assert_eq!(accepted.repository.release(&second).unwrap_err().code.as_str(), "not_delegated");
}

#[test]
fn the_same_upload_again_changes_nothing() {
    let (world, served) = published();
    let again = admit(&read(&served), &uploaded(&world), NOW).unwrap();
    assert!(again.files.is_empty());
}

#[test]
fn versions_of_snapshot_and_timestamp_rise_and_are_at_least_the_time() {
    let (world, mut served) = published();
    let (mut last, mut last_timestamp) = (0, 0);
    for _ in 0..3 {
        let repository = read(&served);
        let online = repository.online(world.now, LIFETIMES).unwrap();
        let signed = block_on(online.sign(&sources([&world.snapshot_key]), &sources([&world.timestamp_key]))).unwrap();
        let version: u64 = signed.snapshot.name.split('.').next().unwrap().parse().unwrap();
        assert!(version > last && version >= NOW.0, "{version} after {last}");
        last = version;
        let timestamp = signed_part(&signed.timestamp.bytes)["version"].as_u64().unwrap();
        assert!(timestamp > last_timestamp && timestamp >= NOW.0, "{timestamp} after {last_timestamp}");
        last_timestamp = timestamp;
        served.metadata.insert(signed.snapshot.name, signed.snapshot.bytes);
        served.metadata.insert(signed.timestamp.name, signed.timestamp.bytes);
    }
}

#[test]
fn the_service_notices_that_a_root_does_not_name_its_keys() {
    let (mut world, served) = published();
    world.replace_service_keys();
    let repository = admit(&read(&served), &uploaded(&world), NOW).unwrap().repository;
    let online = repository.online(NOW, LIFETIMES).unwrap();
    let (right, wrong) = (sources([&world.snapshot_key, &world.timestamp_key]), sources([&key()]));
    for (snapshot, timestamp, expected) in
        [(&right, &right, None), (&wrong, &right, Some("unknown_key")), (&right, &wrong, Some("unknown_key"))]
    {
        let signed = block_on(online.sign(snapshot, timestamp)).unwrap();
        assert_eq!(repository.check_online(&signed).err().map(|reason| reason.code.as_str()), expected);
    }
}

#[test]
fn a_bad_file_is_refused_with_the_code_that_a_device_would_give() {
    let (world, served) = published();
    let repository = read(&served);
    let after = |change: &dyn Fn(&mut World)| {
        let mut world = world.clone();
        world.next_versions();
        change(&mut world);
        world.publish();
        code(admit(&repository, &uploaded(&world), NOW))
    };
    assert_eq!(after(&|_| {}), "accepted");
    assert_eq!(after(&|world| world.release_key = key()), "unknown_key");
    assert_eq!(after(&|world| world.os_key = key()), "unknown_key");
    assert_eq!(after(&|world| world.targets.expires = NOW), "metadata_expired");
    let expired_root = |world: &mut World| {
        world.root.expires = NOW;
        world.rotate();
    };
    assert_eq!(after(&expired_root), "metadata_expired");
    assert_eq!(after(&|world| world.delegated.get_mut(&hello()).unwrap().expires = NOW), "metadata_expired");
    assert_eq!(after(&|world| world.rotate_signed_by(&[&world.officers[0].clone()])), "below_threshold");
    assert_eq!(after(&|world| _ = world.targets.delegations.remove(&Delegate::Os)), "not_delegated");
}

#[test]
fn a_change_of_keys_must_bring_files_that_the_new_keys_signed() {
    let (mut world, served) = published();
    let repository = read(&served);
    world.release_key = key();
    world.root.targets = Holders::one(world.release_key.public());
    world.rotate();
    let only_root = [("2.root.json".to_owned(), world.served.metadata["2.root.json"].clone())].into();
    assert_eq!(code(admit(&repository, &only_root, NOW)), "unknown_key");
    world.targets.version += 1;
    world.os_key = key();
    world.targets.delegations.insert(Delegate::Os, Holders::one(world.os_key.public()));
    world.publish();
    let mut without_os = uploaded(&world);
    without_os.remove("1.os.json");
    assert_eq!(code(admit(&repository, &without_os, NOW)), "unknown_key");
}

#[test]
fn the_officers_can_replace_stolen_keys_although_the_targets_have_expired() {
    let (mut world, served) = published();
    let later = UnixSeconds(world.targets.expires.0 + DAY);
    world.replace_service_keys();
    let root = [("2.root.json".to_owned(), world.served.metadata["2.root.json"].clone())].into();
    assert_eq!(code(admit(&read(&served), &root, later)), "accepted");
}

#[test]
fn a_fast_forwarded_version_is_left_behind_when_the_keys_are_replaced() {
    let (mut world, mut served) = published();
    world.online.last_timestamp = u64::MAX - 1;
    world.online.last_snapshot = u64::MAX - 1;
    world.sign_online();
    served.metadata.insert(TIMESTAMP_FILE.to_owned(), world.timestamp().clone());
    world.replace_service_keys();
    let accepted = admit(&read(&served), &uploaded(&world), NOW).unwrap();
    let online = accepted.repository.online(NOW, LIFETIMES).unwrap();
    assert_eq!((online.last_snapshot, online.last_timestamp), (0, 0));
}

#[test]
fn a_published_file_is_never_replaced() {
    let (mut world, served) = published();
    let repository = read(&served);
    world.targets.insert(path("releases/9.9.9.json"), b"another");
    world.publish();
    assert_eq!(code(admit(&repository, &uploaded(&world), NOW)), "metadata_rollback");
}

#[test]
fn an_older_file_is_refused() {
    let (mut world, mut served) = published();
    let old = world.served.metadata["1.targets.json"].clone();
    world.publish_release("1.1.0");
    let accepted = admit(&read(&served), &uploaded_newest(&world), NOW).unwrap();
    store(&mut served, &accepted, &world);
    let upload = [("1.targets.json".to_owned(), old)].into();
    assert_eq!(code(admit(&read(&served), &upload, NOW)), "metadata_rollback");
}

#[test]
fn an_upload_of_files_that_belong_to_nobody_is_refused() {
    let (world, served) = published();
    let repository = read(&served);
    let bytes = world.served.metadata["1.targets.json"].clone();
    for name in [
        "timestamp.json",
        "3.snapshot.json",
        "../1.root.json",
        "01.root.json",
        "1.other.json",
        "+1.os.json",
        "1.app-.json",
        "",
    ] {
        let upload = [(name.to_owned(), bytes.clone())].into();
        assert_eq!(code(admit(&repository, &upload, NOW)), "malformed_metadata", "{name}");
    }
    for name in ["2.targets.json", "2.os.json"] {
        let upload = [(name.to_owned(), bytes.clone())].into();
        assert_ne!(code(admit(&repository, &upload, NOW)), "accepted", "{name} holds version 1");
    }
    let two = [("2.targets.json".to_owned(), bytes.clone()), ("3.targets.json".to_owned(), bytes)].into();
    assert_eq!(code(admit(&repository, &two, NOW)), "mix_and_match");
}

#[test]
fn a_first_upload_needs_a_root_and_targets() {
    let world = World::new(NOW);
    for missing in ["1.root.json", "1.targets.json"] {
        let mut upload = uploaded(&world);
        upload.remove(missing);
        assert_eq!(code(admit(&Repository::empty(), &upload, NOW)), "not_found", "{missing}");
    }
    let mut upload = uploaded(&world);
    let root = upload.get_mut("1.root.json").unwrap();
    *root = damaged(root);
    assert_eq!(code(admit(&Repository::empty(), &upload, NOW)), "bad_signature");
}

/// As [`uploaded`], but only the newest file of each role.
fn uploaded_newest(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut upload = uploaded(world);
    upload.retain(|name, _| name.starts_with("2."));
    upload
}
