//! Repositories, good and bad, with the verdict that each of three clients must reach.

use protocol_release::{
    metadata::{Delegate, TIMESTAMP_FILE, snapshot_file},
    signing::{Entry, Holders, TargetsDraft},
    workflow::Wish,
};
use protocol_types::UnixSeconds;
use serde_json::json;

use crate::world::{DAY, Served, World, damaged, hello, key, path, resign, signed_part, sources};

/// What a foreign client says: whether it delivers the release and all its components with the digests that were signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Accepts,
    Refuses,
}
use Says::{Accepts, Refuses};

/// One repository as it was at each visit of a device.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// `verified` or the code of the refusal.
    pub(crate) ours: &'static str,
    pub(crate) python_tuf: Says,
    pub(crate) tough: Says,
    /// Why the verdicts differ, where they do: each is a settled difference.
    pub(crate) because: &'static str,
    pub(crate) world: World,
    /// What was served at each visit.
    pub(crate) visits: Vec<Served>,
    pub(crate) wish: Wish,
}

const SAME: &str = "";
const FREEZE: &str = "an expired timestamp or snapshot is a warning (design, sections 3 and 11)";
const LAZY: &str =
    "tough loads every delegation at once; a device loads those that the release names (design, section 11)";
const DEVICE: &str = "what fits a device is beyond The Update Framework";
const LENGTH: &str = "tough takes the length of a target as an upper bound";
const VERSION: &str = "tough does not look at `spec_version`";
const STRICT: &str = "a component must stand in the role that its kind asks for (design, section 11)";

/// All cases, judged at `now`, which must be the present: the foreign clients have clocks of their own.
pub(crate) fn all(now: UnixSeconds) -> Vec<Case> {
    let mut cases = Cases { now, list: Vec::new() };
    good(&mut cases);
    signatures(&mut cases);
    rollback(&mut cases);
    mix_and_match(&mut cases);
    expiry(&mut cases);
    delegations(&mut cases);
    bytes(&mut cases);
    cases.list
}

struct Cases {
    now: UnixSeconds,
    list: Vec<Case>,
}

impl Cases {
    /// A case that `build` makes from an account that has published release 1.0.0. What it pushes was served at earlier visits.
    fn add(
        &mut self,
        name: &'static str,
        (ours, python_tuf, tough, because): (&'static str, Says, Says, &'static str),
        build: impl FnOnce(&mut World, &mut Vec<Served>) -> Wish,
    ) {
        let mut world = World::new(self.now);
        let mut visits = Vec::new();
        let wish = build(&mut world, &mut visits);
        visits.push(world.served.clone());
        self.list.push(Case { name, ours, python_tuf, tough, because, world, visits, wish });
    }

    fn good(&mut self, name: &'static str, build: impl FnOnce(&mut World, &mut Vec<Served>) -> Wish) {
        self.add(name, ("verified", Accepts, Accepts, SAME), build);
    }

    fn bad(
        &mut self,
        name: &'static str,
        code: &'static str,
        build: impl FnOnce(&mut World, &mut Vec<Served>) -> Wish,
    ) {
        self.add(name, (code, Refuses, Refuses, SAME), build);
    }
}

fn good(cases: &mut Cases) {
    cases.good("a first visit", |world, _| world.wish("1.0.0"));
    cases.good("a second visit to the same repository", |world, visits| {
        visits.push(world.served.clone());
        world.wish("1.0.0")
    });
    cases.good("a newer release", |world, visits| {
        visits.push(world.served.clone());
        world.publish_release("1.1.0")
    });
    cases.good("an older release that is still listed", |world, visits| {
        world.publish_release("1.1.0");
        visits.push(world.served.clone());
        world.wish("1.0.0")
    });
    cases.good("twenty rotations of the root at once", |world, visits| {
        visits.push(world.served.clone());
        for n in 0..20 {
            let old = world.officers.clone();
            world.officers[n % 3] = key();
            world.root.root.keys = world.officers.iter().map(|k| k.public().clone()).collect();
            let signers: Vec<_> = old.iter().chain(&world.officers).collect();
            let mut distinct = Vec::new();
            for signer in signers {
                if !distinct.iter().any(|other: &&protocol_release::signing::SigningKey| other.id() == signer.id()) {
                    distinct.push(signer);
                }
            }
            world.rotate_signed_by(&distinct.into_iter().cloned().collect::<Vec<_>>().iter().collect::<Vec<_>>());
        }
        world.publish_release("1.1.0")
    });
    cases.good("new keys for the service", |world, visits| {
        visits.push(world.served.clone());
        world.replace_service_keys();
        world.sign_online();
        world.wish("1.0.0")
    });
    cases.good("a new release key", |world, visits| {
        visits.push(world.served.clone());
        world.release_key = key();
        world.root.targets = Holders::one(world.release_key.public());
        world.rotate();
        world.publish_release("1.1.0")
    });
    cases.good("a new key of the OS publisher", |world, visits| {
        visits.push(world.served.clone());
        world.os_key = key();
        world.targets.delegations.insert(Delegate::Os, Holders::one(world.os_key.public()));
        world.publish_release("1.1.0")
    });
    cases.good("a third signature that is damaged beside two good ones", |world, _| {
        let third = world.officers[2].clone();
        world.rotate();
        let file = world.served.metadata.get_mut("2.root.json").unwrap();
        let more = crate::world::block_on(protocol_release::signing::add_signatures(file, &sources([&third]))).unwrap();
        *file = damaged_last(&more);
        world.wish("1.0.0")
    });
    cases.good("versions that a thief ran far ahead, after the officers replaced the keys", |world, visits| {
        visits.push(world.served.clone());
        let honest = world.online.clone();
        world.online.last_timestamp = 1 << 60;
        world.online.last_snapshot = 1 << 60;
        world.sign_online();
        visits.push(world.served.clone());
        world.online = honest;
        world.replace_service_keys();
        world.sign_online();
        world.wish("1.0.0")
    });
}

fn signatures(cases: &mut Cases) {
    cases.bad("a timestamp signed by a stranger", "unknown_key", |world, _| {
        let signed = signed_part(world.timestamp());
        *world.timestamp() = resign(signed, &[&key()]);
        world.wish("1.0.0")
    });
    cases.bad("a timestamp with a damaged signature", "bad_signature", |world, _| {
        *world.timestamp() = damaged(world.timestamp());
        world.wish("1.0.0")
    });
    cases.bad("a timestamp without signatures", "below_threshold", |world, _| {
        let signed = signed_part(world.timestamp());
        *world.timestamp() = resign(signed, &[]);
        world.wish("1.0.0")
    });
    cases.bad("a timestamp changed after signing", "bad_signature", |world, _| {
        let mut file: serde_json::Value = serde_json::from_slice(world.timestamp()).unwrap();
        file["signed"]["version"] = json!(world.online.last_timestamp + 1);
        *world.timestamp() = serde_json::to_vec(&file).unwrap();
        world.wish("1.0.0")
    });
    cases.bad("a snapshot signed by a stranger", "unknown_key", |world, _| {
        world.snapshot_key = key();
        world.sign_online();
        world.wish("1.0.0")
    });
    cases.bad("targets signed by a thief of the service's keys", "unknown_key", |world, visits| {
        visits.push(world.served.clone());
        world.release_key = world.snapshot_key.clone();
        world.publish_release("6.6.6")
    });
    cases.bad("targets signed by the OS publisher", "unknown_key", |world, _| {
        world.release_key = world.os_key.clone();
        world.publish_release("1.1.0")
    });
    cases.bad("an OS signed by an application's team", "unknown_key", |world, _| {
        world.os_key = world.hello_key.clone();
        world.publish_release("1.1.0")
    });
    cases.bad("a root that one officer signed where two must", "below_threshold", |world, _| {
        let first = world.officers[0].clone();
        world.rotate_signed_by(&[&first]);
        world.wish("1.0.0")
    });
    cases.bad("a root that only its new officers signed", "unknown_key", |world, _| {
        let strangers = [key(), key()];
        world.root.root = Holders { keys: strangers.iter().map(|k| k.public().clone()).collect(), threshold: 2 };
        world.rotate_signed_by(&[&strangers[0], &strangers[1]]);
        world.wish("1.0.0")
    });
    cases.bad("a root that only its old officers signed", "unknown_key", |world, _| {
        let strangers = [key(), key()];
        world.root.root = Holders { keys: strangers.iter().map(|k| k.public().clone()).collect(), threshold: 2 };
        world.rotate();
        world.wish("1.0.0")
    });
    cases.bad("one signature that counts twice", "malformed_metadata", |world, _| {
        let first = world.officers[0].clone();
        world.rotate_signed_by(&[&first]);
        let file = world.served.metadata.get_mut("2.root.json").unwrap();
        let mut value: serde_json::Value = serde_json::from_slice(file).unwrap();
        let again = value["signatures"][0].clone();
        value["signatures"].as_array_mut().unwrap().push(again);
        *file = serde_json::to_vec(&value).unwrap();
        world.wish("1.0.0")
    });
}

fn rollback(cases: &mut Cases) {
    cases.bad("an older timestamp", "metadata_rollback", |world, visits| {
        let old = world.timestamp().clone();
        world.publish_release("1.1.0");
        visits.push(world.served.clone());
        *world.timestamp() = old;
        world.wish("1.0.0")
    });
    cases.bad("an older timestamp that names the same snapshot", "metadata_rollback", |world, visits| {
        let old = world.timestamp().clone();
        let number = world.online.last_snapshot;
        let snapshot = world.served.metadata[&snapshot_file(number)].clone();
        world.forge_timestamp(number, &snapshot);
        visits.push(world.served.clone());
        *world.timestamp() = old;
        world.wish("1.0.0")
    });
    cases.bad("a newer timestamp that names an older snapshot", "metadata_rollback", |world, visits| {
        let number = world.online.last_snapshot;
        let old = world.served.metadata[&snapshot_file(number)].clone();
        world.publish_release("1.1.0");
        visits.push(world.served.clone());
        world.forge_timestamp(number, &old);
        world.wish("1.0.0")
    });
    for (case, file) in [
        ("a newer snapshot that names older targets", "targets.json"),
        ("a newer snapshot that names an older delegated role", "os.json"),
    ] {
        cases.bad(case, "metadata_rollback", |world, visits| {
            let old = world.online.files[file].clone();
            world.publish_release("1.1.0");
            visits.push(world.served.clone());
            world.online.files.insert(file.to_owned(), old);
            world.sign_online();
            world.wish("1.0.0")
        });
    }
    cases.bad("a newer snapshot that no longer names a delegated role", "metadata_rollback", |world, visits| {
        visits.push(world.served.clone());
        world.online.files.remove("app-hello.json");
        world.sign_online();
        world.wish("1.0.0")
    });
    cases.bad("the trusted root again under the next name", "metadata_rollback", |world, _| {
        world.served.metadata.insert("2.root.json".to_owned(), world.first_root.clone());
        world.wish("1.0.0")
    });
    cases.bad("a root that skips a version", "mix_and_match", |world, _| {
        world.root.version = 2;
        world.rotate();
        let file = world.served.metadata.remove("3.root.json").unwrap();
        world.served.metadata.insert("2.root.json".to_owned(), file);
        world.wish("1.0.0")
    });
}

fn mix_and_match(cases: &mut Cases) {
    cases.bad("a snapshot of another day", "mix_and_match", |world, _| {
        let other = world.online.last_snapshot;
        let old = world.served.metadata[&snapshot_file(other)].clone();
        world.publish_release("1.1.0");
        let name = snapshot_file(world.online.last_snapshot);
        // White space makes up for the length, so that the digest alone must tell them apart.
        let value: serde_json::Value = serde_json::from_slice(&old).unwrap();
        let mut padded = serde_json::to_vec(&value).unwrap();
        padded.resize(world.served.metadata[&name].len(), b' ');
        world.served.metadata.insert(name, padded);
        world.wish("1.0.0")
    });
    cases.bad("targets with another version than the snapshot names", "mix_and_match", |world, _| {
        let file = world.served.metadata["1.targets.json"].clone();
        world.served.metadata.insert("7.targets.json".to_owned(), file);
        world.forge_snapshot(|meta| meta["targets.json"] = json!({ "version": 7 }));
        world.wish("1.0.0")
    });
    cases.bad("a snapshot with another version than the timestamp names", "mix_and_match", |world, _| {
        let number = world.online.last_snapshot;
        let file = world.served.metadata[&snapshot_file(number)].clone();
        world.forge_timestamp(number + 5, &file);
        world.served.metadata.insert(snapshot_file(number + 5), file);
        world.wish("1.0.0")
    });
    cases.bad("a snapshot that does not name a delegated role", "mix_and_match", |world, _| {
        world.online.files.remove("os.json");
        world.sign_online();
        world.wish("1.0.0")
    });
    cases.bad("a timestamp where a snapshot should be", "malformed_metadata", |world, _| {
        let mut signed = signed_part(world.timestamp());
        let number = world.online.last_snapshot + 1;
        signed["version"] = json!(number);
        let bytes = resign(signed, &[&world.snapshot_key]);
        world.forge_timestamp(number, &bytes);
        world.served.metadata.insert(snapshot_file(number), bytes);
        world.wish("1.0.0")
    });
    let verdicts = ("malformed_metadata", Refuses, Accepts, VERSION);
    cases.add("a timestamp of another major version of the specification", verdicts, |world, _| {
        let mut signed = signed_part(world.timestamp());
        signed["spec_version"] = json!("2.0.0");
        *world.timestamp() = resign(signed, &[&world.timestamp_key]);
        world.wish("1.0.0")
    });
}

fn expiry(cases: &mut Cases) {
    let past = UnixSeconds(cases.now.0 - DAY);
    cases.add("an expired timestamp", ("verified", Refuses, Refuses, FREEZE), |world, _| {
        world.online.timestamp_expires = past;
        world.sign_online();
        world.wish("1.0.0")
    });
    cases.add("an expired snapshot", ("verified", Refuses, Refuses, FREEZE), |world, _| {
        world.online.snapshot_expires = past;
        world.sign_online();
        world.wish("1.0.0")
    });
    cases.bad("expired targets", "metadata_expired", |world, _| {
        world.targets.expires = past;
        world.publish_release("1.1.0")
    });
    cases.bad("an expired delegated role", "metadata_expired", |world, _| {
        world.delegated.get_mut(&Delegate::Os).unwrap().expires = past;
        world.publish_release("1.1.0")
    });
    cases.bad("an expired root", "metadata_expired", |world, _| {
        world.root.expires = past;
        world.rotate();
        world.wish("1.0.0")
    });
    cases.good("an expired root with a successor", |world, _| {
        world.root.expires = past;
        world.rotate();
        world.root.expires = UnixSeconds(world.now.0 + DAY);
        world.rotate();
        world.wish("1.0.0")
    });
}

fn delegations(cases: &mut Cases) {
    let camera = || Delegate::App("camera".parse().unwrap());
    cases.add("a faulty role that the release does not use", ("verified", Accepts, Refuses, LAZY), |world, _| {
        let signer = key();
        world.targets.delegations.insert(camera(), Holders::one(signer.public()));
        let draft = TargetsDraft::new(1, world.targets.expires);
        let file = crate::world::block_on(draft.sign_as(&camera(), &sources([&key()]))).unwrap();
        world.hold("app-camera", 1, file);
        world.next_versions();
        world.publish();
        world.wish("1.0.0")
    });
    cases.add(
        "a role without any file that the release does not use",
        ("verified", Accepts, Refuses, LAZY),
        |world, _| {
            world.targets.delegations.insert(camera(), Holders::one(key().public()));
            world.next_versions();
            world.publish();
            world.wish("1.0.0")
        },
    );
    cases.bad("a release with an application of which nobody was told", "not_delegated", |world, _| {
        world.targets.delegations.remove(&hello());
        world.next_versions();
        world.publish();
        world.wish("1.0.0")
    });
    cases.bad("an OS that its publisher does not list", "not_delegated", |world, _| {
        world.delegated.get_mut(&Delegate::Os).unwrap().entries.clear();
        world.next_versions();
        world.publish();
        world.wish("1.0.0")
    });
    cases.bad("an OS that its publisher lists with another digest", "not_delegated", |world, _| {
        let os = world.delegated.get_mut(&Delegate::Os).unwrap();
        os.entries.insert(path("os/host/1.0.0.json"), Entry::of(b"another index"));
        world.next_versions();
        world.publish();
        world.wish("1.0.0")
    });
    cases.bad("an OS that an application's team lists", "not_delegated", |world, _| {
        let os = world.delegated[&Delegate::Os].entries.clone();
        world.delegated.get_mut(&hello()).unwrap().entries.extend(os);
        world.delegated.get_mut(&Delegate::Os).unwrap().entries.clear();
        world.next_versions();
        world.publish();
        world.wish("1.0.0")
    });
    cases.bad("an OS outside of the paths that are delegated to its publisher", "not_delegated", |world, _| {
        world.publish_targets(|targets| targets["delegations"]["roles"][0]["paths"] = json!(["os/rpi4/*.json"]));
        world.wish("1.0.0")
    });
    cases.bad("an OS whose path an earlier delegation covers", "not_delegated", |world, _| {
        world.publish_targets(|targets| {
            let roles = targets["delegations"]["roles"].as_array_mut().unwrap();
            roles.reverse();
            roles[0]["paths"] = json!(["apps/hello/*.json", "os/*/*.json"]);
        });
        world.wish("1.0.0")
    });
    cases.add(
        "an OS that its publisher lists with another length",
        ("not_delegated", Refuses, Accepts, LENGTH),
        |world, _| {
            let os = world.delegated.get_mut(&Delegate::Os).unwrap();
            os.entries.get_mut(&path("os/host/1.0.0.json")).unwrap().size += 1;
            world.next_versions();
            world.publish();
            world.wish("1.0.0")
        },
    );
    cases.add("an OS that the release key lists itself", ("not_delegated", Accepts, Accepts, STRICT), |world, _| {
        let os = world.delegated[&Delegate::Os].entries.clone();
        world.targets.entries.extend(os);
        world.next_versions();
        world.publish();
        world.wish("1.0.0")
    });
    cases.bad("a release that is no longer listed", "not_in_targets", |world, visits| {
        visits.push(world.served.clone());
        let wish = world.wish("1.0.0");
        world.targets.entries.remove(&wish.release);
        world.next_versions();
        world.publish();
        wish
    });
    cases.bad("another document under the path of the release", "not_in_targets", |world, _| {
        let wish = world.wish("1.0.0");
        world.targets.insert(wish.release.clone(), b"another document");
        world.next_versions();
        world.publish();
        wish
    });
}

fn bytes(cases: &mut Cases) {
    for (name, file) in [
        ("no timestamp", TIMESTAMP_FILE),
        ("no snapshot", "SNAPSHOT"),
        ("no targets", "1.targets.json"),
        ("no file of a role that the release uses", "1.os.json"),
    ] {
        cases.bad(name, "not_found", |world, _| {
            let number = world.online.last_snapshot;
            let file = if file == "SNAPSHOT" { snapshot_file(number) } else { file.to_owned() };
            world.served.metadata.remove(&file).unwrap();
            world.wish("1.0.0")
        });
    }
    cases.bad("targets cut short", "truncated", |world, _| {
        world.served.metadata.get_mut("1.targets.json").unwrap().truncate(100);
        world.wish("1.0.0")
    });
    cases.bad("targets with more bytes than the snapshot names", "oversized", |world, _| {
        world.served.metadata.get_mut("1.targets.json").unwrap().push(b' ');
        world.wish("1.0.0")
    });
    cases.bad("a timestamp that is no JSON", "malformed_metadata", |world, _| {
        world.timestamp().truncate(100);
        world.wish("1.0.0")
    });
    cases.bad("a release document cut short", "truncated", |world, _| {
        let wish = world.wish("1.0.0");
        world.served.artifacts.get_mut(&wish.digest).unwrap().pop();
        wish
    });
    cases.bad("a release document with a byte more", "oversized", |world, _| {
        let wish = world.wish("1.0.0");
        world.served.artifacts.get_mut(&wish.digest).unwrap().push(b' ');
        wish
    });
    cases.bad("a release document with another byte", "digest_mismatch", |world, _| {
        let wish = world.wish("1.0.0");
        world.served.artifacts.get_mut(&wish.digest).unwrap()[0] = b' ';
        wish
    });
    cases.bad("an OS index with another byte", "digest_mismatch", |world, _| {
        let digest = world.delegated[&Delegate::Os].entries[&path("os/host/1.0.0.json")].digest;
        world.served.artifacts.get_mut(&digest).unwrap()[0] = b' ';
        world.wish("1.0.0")
    });
    cases.bad("a release document that is not there", "not_found", |world, _| {
        let wish = world.wish("1.0.0");
        world.served.artifacts.remove(&wish.digest);
        wish
    });
    cases.add("a release for another board", ("wrong_board", Accepts, Accepts, DEVICE), |world, _| {
        let mut release = world.release("1.1.0");
        release.components[0].boards = vec!["qemu-arm64".parse().unwrap()];
        let wish = world.list(&release);
        world.next_versions();
        world.publish();
        wish
    });
    cases.add(
        "a release with a field that nobody knows",
        ("malformed_release", Accepts, Accepts, DEVICE),
        |world, _| {
            let release = world.release("1.1.0");
            let mut value = serde_json::to_value(&release).unwrap();
            value["install_hook"] = json!("rm -rf /");
            let wish = world.list_bytes(release.target_path().unwrap(), &serde_json::to_vec(&value).unwrap());
            world.next_versions();
            world.publish();
            wish
        },
    );
}

/// The same file with its last signature damaged.
fn damaged_last(file: &[u8]) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(file).unwrap();
    let last = value["signatures"].as_array().unwrap().len() - 1;
    let sig = value["signatures"][last]["sig"].as_str().unwrap();
    let turned = if sig.ends_with('0') { "1" } else { "0" };
    value["signatures"][last]["sig"] = json!(format!("{}{turned}", &sig[..sig.len() - 1]));
    serde_json::to_vec(&value).unwrap()
}
