//! An account with all its keys, which can publish, rotate and be robbed.

use std::{collections::BTreeMap, future::Future};

use protocol_release::{
    document::{Blocks, Component, Health, Kind, OsIndex, Release, Section, SectionName},
    metadata::{Delegate, TIMESTAMP_FILE, root_file, snapshot_file, targets_file},
    signing::{Algorithm, Holders, OnlineDraft, RootDraft, SignedFile, SigningKey, TargetsDraft, sign},
    workflow::{Device, TrustedState, Wish},
};
use protocol_types::{AppName, Digest, Network, RunSettings, SecurityVersion, TargetPath, UnixSeconds};
use serde_json::{Value, json};
use tough::key_source::KeySource;

pub(crate) const DAY: u64 = 86_400;
pub(crate) const YEAR: u64 = 365 * DAY;

/// What a server can hand out: metadata by name, artifacts by digest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    pub(crate) artifacts: BTreeMap<Digest, Vec<u8>>,
}

/// An account: its keys, its drafts and what is served.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: UnixSeconds,
    pub(crate) officers: Vec<SigningKey>,
    pub(crate) release_key: SigningKey,
    pub(crate) os_key: SigningKey,
    pub(crate) hello_key: SigningKey,
    pub(crate) snapshot_key: SigningKey,
    pub(crate) timestamp_key: SigningKey,
    pub(crate) root: RootDraft,
    pub(crate) targets: TargetsDraft,
    pub(crate) delegated: BTreeMap<Delegate, TargetsDraft>,
    pub(crate) online: OnlineDraft,
    pub(crate) served: Served,
    pub(crate) first_root: Vec<u8>,
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn sources<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> Vec<Box<dyn KeySource>> {
    keys.into_iter().map(SigningKey::source).collect()
}

pub(crate) fn key() -> SigningKey {
    SigningKey::generate(Algorithm::Ed25519).unwrap()
}

pub(crate) fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

pub(crate) fn hello() -> Delegate {
    Delegate::App(AppName::new("hello").unwrap())
}

pub(crate) fn device() -> Device {
    Device {
        board: "host".parse().unwrap(),
        architecture: "x86_64".parse().unwrap(),
        updater: 1,
        highest_floor: SecurityVersion(u32::MAX),
    }
}

impl World {
    /// An account that has published release 1.0.0 at `now`.
    pub(crate) fn new(now: UnixSeconds) -> Self {
        let officers = vec![key(), SigningKey::generate(Algorithm::EcdsaP256).unwrap(), key()];
        let snapshot_key = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
        let (release_key, os_key, hello_key, timestamp_key) = (key(), key(), key(), key());
        let later = UnixSeconds(now.0 + 2 * YEAR);
        let root = RootDraft {
            version: 1,
            expires: UnixSeconds(now.0 + 5 * YEAR),
            root: Holders { keys: officers.iter().map(|k| k.public().clone()).collect(), threshold: 2 },
            targets: Holders::one(release_key.public()),
            snapshot: Holders::one(snapshot_key.public()),
            timestamp: Holders::one(timestamp_key.public()),
        };
        let mut targets = TargetsDraft::new(1, later);
        targets.delegations.insert(Delegate::Os, Holders::one(os_key.public()));
        targets.delegations.insert(hello(), Holders::one(hello_key.public()));
        let delegated = [Delegate::Os, hello()].map(|role| (role, TargetsDraft::new(1, later)));
        let online = OnlineDraft {
            now,
            last_snapshot: 0,
            last_timestamp: 0,
            snapshot_expires: UnixSeconds(now.0 + 7 * DAY),
            timestamp_expires: UnixSeconds(now.0 + DAY),
            files: BTreeMap::new(),
        };
        let mut world = Self {
            now,
            officers,
            release_key,
            os_key,
            hello_key,
            snapshot_key,
            timestamp_key,
            root,
            targets,
            delegated: delegated.into(),
            online,
            served: Served::default(),
            first_root: Vec::new(),
        };
        let file = block_on(world.root.sign(&sources(&world.officers[..2]))).unwrap();
        world.first_root = file.bytes.clone();
        world.serve(file);
        let release = world.release("1.0.0");
        world.list(&release);
        world.publish();
        world
    }

    /// A release whose components are put into their targets and served, but which is not listed itself yet.
    pub(crate) fn release(&mut self, version: &str) -> Release {
        let index = os_index(version).to_bytes().unwrap();
        let image = format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"version\":\"{version}\"}}}}");
        let settings = format!("{{\"of\":\"{version}\"}}");
        let os = self.component(Kind::Os, &format!("os/host/{version}.json"), &index, version);
        let run = RunSettings { network: Network::None, memory_bytes: 1 << 25, pids: 32, ready: None };
        let kind = Kind::Application { name: AppName::new("hello").unwrap(), run };
        let app = self.component(kind, &format!("apps/hello/{version}.json"), image.as_bytes(), version);
        let kind = Kind::Configuration { name: AppName::new("base").unwrap() };
        let base = self.component(kind, &format!("configuration/base/{version}.json"), settings.as_bytes(), version);
        Release {
            format: Default::default(),
            version: version.parse().unwrap(),
            security_version: SecurityVersion(1),
            raises_floor: false,
            health: Health { time_limit_s: 90, no_contact_limit_s: 600 },
            components: vec![os, app, base],
        }
    }

    fn component(&mut self, kind: Kind, at: &str, bytes: &[u8], version: &str) -> Component {
        let mut component = Component {
            kind,
            path: path(at),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            version: version.parse().unwrap(),
            boards: vec![],
            architectures: vec!["x86_64".parse().unwrap()],
            minimum_updater: 1,
        };
        if component.kind == Kind::Os {
            component.boards.push("host".parse().unwrap());
        }
        self.served.artifacts.insert(component.digest, bytes.to_vec());
        match component.delegate() {
            Some(role) => self.delegated.get_mut(&role).unwrap().insert(component.path.clone(), bytes),
            None => self.targets.insert(component.path.clone(), bytes),
        }
        component
    }

    /// Lists `release` in the draft of the targets and serves its document.
    pub(crate) fn list(&mut self, release: &Release) -> Wish {
        let bytes = release.to_bytes().unwrap();
        let at = release.target_path().unwrap();
        self.list_bytes(at, &bytes)
    }

    pub(crate) fn list_bytes(&mut self, at: TargetPath, bytes: &[u8]) -> Wish {
        self.targets.insert(at.clone(), bytes);
        self.served.artifacts.insert(Digest::of(bytes), bytes.to_vec());
        Wish { release: at, digest: Digest::of(bytes) }
    }

    /// Signs and serves every draft, without changing a version of what is signed offline.
    pub(crate) fn publish(&mut self) {
        let targets = block_on(self.targets.sign(&sources([&self.release_key]))).unwrap();
        self.hold("targets", self.targets.version, targets);
        for (role, draft) in self.delegated.clone() {
            let signer = if role == Delegate::Os { &self.os_key } else { &self.hello_key };
            let file = block_on(draft.sign_as(&role, &sources([signer]))).unwrap();
            self.hold(&role.to_string(), draft.version, file);
        }
        self.sign_online();
    }

    /// Publishes the next version of everything, with release `version` in it.
    pub(crate) fn publish_release(&mut self, version: &str) -> Wish {
        let release = self.release(version);
        let wish = self.list(&release);
        self.next_versions();
        self.publish();
        wish
    }

    pub(crate) fn next_versions(&mut self) {
        self.targets.version += 1;
        for draft in self.delegated.values_mut() {
            draft.version += 1;
        }
    }

    /// Puts a file of the kind `targets` into what the next snapshot says, and serves it.
    pub(crate) fn hold(&mut self, role: &str, version: u64, file: SignedFile) {
        self.online.files.insert(format!("{role}.json"), (version, file.bytes.clone()));
        self.serve(file);
    }

    /// Publishes the next version of the targets, changed by `edit` in a way that no draft can express.
    pub(crate) fn publish_targets(&mut self, edit: impl FnOnce(&mut Value)) {
        self.targets.version += 1;
        self.publish();
        let name = targets_file("targets", self.targets.version);
        let mut signed = signed_part(&self.served.metadata[&name]);
        edit(&mut signed);
        let bytes = resign(signed, &[&self.release_key]);
        self.hold("targets", self.targets.version, SignedFile { name, bytes });
        self.sign_online();
    }

    /// The service says what is current.
    pub(crate) fn sign_online(&mut self) {
        let keys = (sources([&self.snapshot_key]), sources([&self.timestamp_key]));
        let files = block_on(self.online.sign(&keys.0, &keys.1)).unwrap();
        self.online.last_snapshot = files.snapshot.name.split('.').next().unwrap().parse().unwrap();
        let timestamp: serde_json::Value = serde_json::from_slice(&files.timestamp.bytes).unwrap();
        self.online.last_timestamp = timestamp["signed"]["version"].as_u64().unwrap();
        self.serve(files.snapshot);
        self.serve(files.timestamp);
    }

    /// Signs and serves the next root with `signers`.
    pub(crate) fn rotate_signed_by(&mut self, signers: &[&SigningKey]) {
        self.root.version += 1;
        let file = block_on(self.root.sign(&sources(signers.iter().copied()))).unwrap();
        self.serve(file);
    }

    /// Signs and serves the next root with the two officers that it needs.
    pub(crate) fn rotate(&mut self) {
        let officers = self.officers.clone();
        self.rotate_signed_by(&[&officers[0], &officers[1]]);
    }

    /// The officers sign a next root that is changed by `edit` in a way that no draft can express.
    pub(crate) fn rotate_edited(&mut self, edit: impl FnOnce(&mut Value)) {
        self.rotate();
        let name = root_file(self.root.version);
        let mut signed = signed_part(&self.served.metadata[&name]);
        edit(&mut signed);
        let bytes = resign(signed, &[&self.officers[0], &self.officers[1]]);
        self.serve(SignedFile { name, bytes });
    }

    /// The officers replace both keys of the service.
    pub(crate) fn replace_service_keys(&mut self) {
        (self.snapshot_key, self.timestamp_key) = (key(), key());
        self.root.snapshot = Holders::one(self.snapshot_key.public());
        self.root.timestamp = Holders::one(self.timestamp_key.public());
        self.rotate();
    }

    pub(crate) fn serve(&mut self, file: SignedFile) {
        self.served.metadata.insert(file.name, file.bytes);
    }

    /// The time goes on, and the service signs afresh.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = UnixSeconds(self.now.0 + seconds);
        self.online.now = self.now;
        self.online.snapshot_expires = UnixSeconds(self.now.0 + 7 * DAY);
        self.online.timestamp_expires = UnixSeconds(self.now.0 + DAY);
        self.sign_online();
    }

    /// A device fresh from the factory.
    pub(crate) fn provisioned(&self) -> TrustedState {
        TrustedState::from_root(&self.first_root).unwrap()
    }

    /// The wish for a release that is listed.
    pub(crate) fn wish(&self, version: &str) -> Wish {
        let release = path(&format!("releases/{version}.json"));
        Wish { digest: self.targets.entries[&release].digest, release }
    }

    pub(crate) fn timestamp(&mut self) -> &mut Vec<u8> {
        self.served.metadata.get_mut(TIMESTAMP_FILE).unwrap()
    }
}

/// What a thief of the service's keys can do.
impl World {
    /// Signs and serves a snapshot whose `meta` is changed by `edit`, and a timestamp that names it, as the next versions.
    pub(crate) fn forge_snapshot(&mut self, edit: impl FnOnce(&mut Value)) {
        let number = self.online.last_snapshot;
        let mut signed = signed_part(&self.served.metadata[&snapshot_file(number)]);
        signed["version"] = json!(number + 1);
        edit(&mut signed["meta"]);
        let bytes = resign(signed, &[&self.snapshot_key]);
        self.forge_timestamp(number + 1, &bytes);
        self.serve(SignedFile { name: snapshot_file(number + 1), bytes });
    }

    /// Signs and serves the next timestamp, which names `snapshot` as version `number`.
    pub(crate) fn forge_timestamp(&mut self, number: u64, snapshot: &[u8]) {
        let mut signed = signed_part(&self.served.metadata[TIMESTAMP_FILE]);
        self.online.last_timestamp += 1;
        self.online.last_snapshot = number;
        signed["version"] = json!(self.online.last_timestamp);
        let hashes = json!({ "sha256": Digest::of(snapshot).hex() });
        signed["meta"]["snapshot.json"] = json!({ "version": number, "length": snapshot.len(), "hashes": hashes });
        *self.timestamp() = resign(signed, &[&self.timestamp_key]);
    }

    /// The name of the current file of `role`, `targets` or a delegated one.
    pub(crate) fn current(&self, role: &str) -> String {
        targets_file(role, self.online.files[&format!("{role}.json")].0)
    }
}

/// The signed part of a file.
pub(crate) fn signed_part(file: &[u8]) -> Value {
    serde_json::from_slice::<Value>(file).unwrap()["signed"].take()
}

/// A file with this signed part.
pub(crate) fn resign(signed: Value, keys: &[&SigningKey]) -> Vec<u8> {
    block_on(sign(signed, &sources(keys.iter().copied()))).unwrap()
}

/// The same file with the first signature damaged.
pub(crate) fn damaged(file: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(file).unwrap();
    let sig = value["signatures"][0]["sig"].as_str().unwrap();
    let turned = if sig.ends_with('0') { "1" } else { "0" };
    value["signatures"][0]["sig"] = json!(format!("{}{turned}", &sig[..sig.len() - 1]));
    serde_json::to_vec(&value).unwrap()
}

fn os_index(version: &str) -> OsIndex {
    let section = |name, size| Section {
        name,
        digest: Digest::of(format!("{version} {name:?}").as_bytes()),
        size,
        blocks: Blocks {
            digest: Digest::of(format!("{version} {name:?} blocks").as_bytes()),
            size: Blocks::size_for(size),
        },
    };
    OsIndex {
        format: Default::default(),
        board: "host".parse().unwrap(),
        version: version.parse().unwrap(),
        sections: vec![section(SectionName::Root, 41_943_040), section(SectionName::Uki, 412)],
        root_hash: None,
    }
}
