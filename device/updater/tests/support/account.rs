//! An account with real keys that signs and publishes releases: the other end of what the updater verifies.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
};

use protocol_release::{
    document::{Blocks, Component, FormatOne, Health, HostUki, Kind, OsIndex, Release, Section, SectionName},
    metadata::Delegate,
    signing::{Algorithm, Holders, OnlineDraft, RootDraft, SigningKey, TargetsDraft},
};
use protocol_types::{
    AccountName, AppName, Architecture, BoardName, Digest, EndpointName, FactoryDocument, Network, ReleaseVersion,
    RunSettings, SecurityVersion, TargetPath, UnixSeconds,
    socket::{Fetch, FetchError},
};

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const FAR: UnixSeconds = UnixSeconds(2_000_000_000);

/// What a release of these tests consists of.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) version: &'static str,
    pub(crate) security_version: u32,
    pub(crate) raises_floor: bool,
    pub(crate) os: Option<Vec<u8>>,
    /// An application called `hello` with this index, if any.
    pub(crate) application: Option<&'static str>,
    /// A configuration with this name and text, if any.
    pub(crate) configuration: Option<(&'static str, &'static str)>,
    pub(crate) health: Health,
}

impl Contents {
    pub(crate) fn new(version: &'static str, os: Vec<u8>) -> Self {
        let health = Health { time_limit_s: 20, no_contact_limit_s: 60 };
        Self {
            version,
            security_version: 1,
            raises_floor: false,
            os: Some(os),
            application: None,
            configuration: None,
            health,
        }
    }
}

/// Keys, metadata and artifacts.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    officer: SigningKey,
    release: SigningKey,
    publisher: SigningKey,
    team: SigningKey,
    online: SigningKey,
    targets: TargetsDraft,
    os: TargetsDraft,
    app: TargetsDraft,
    last: u64,
    /// The board of its devices.
    pub(crate) board: BoardName,
    /// Its images have hash trees and unified kernel images, whose command line is this one behind the root hash.
    pub(crate) trees: Option<&'static str>,
    /// The command line of a second profile of these images, behind the root hash.
    pub(crate) profile: Option<&'static str>,
    /// Its operating systems bring this firmware image package.
    pub(crate) firmware: Option<Vec<u8>>,
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    pub(crate) artifacts: BTreeMap<Digest, Vec<u8>>,
}

/// Runs a future that never waits: all keys are in memory.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a key in memory made somebody wait"),
    }
}

fn hello() -> AppName {
    AppName::new("hello").unwrap()
}

impl Account {
    pub(crate) fn new() -> Self {
        let [officer, release, publisher, team, online] =
            [(); 5].map(|()| SigningKey::generate(Algorithm::Ed25519).unwrap());
        let mut account = Self {
            officer,
            release,
            publisher,
            team,
            online,
            targets: TargetsDraft::new(0, FAR),
            os: TargetsDraft::new(0, FAR),
            app: TargetsDraft::new(0, FAR),
            last: 0,
            board: BoardName::new("host").unwrap(),
            trees: None,
            profile: None,
            firmware: None,
            metadata: BTreeMap::new(),
            artifacts: BTreeMap::new(),
        };
        let root = RootDraft {
            version: 1,
            expires: FAR,
            root: Holders::one(account.officer.public()),
            targets: Holders::one(account.release.public()),
            snapshot: Holders::one(account.online.public()),
            timestamp: Holders::one(account.online.public()),
        };
        let root = now(root.sign(&[account.officer.source()])).unwrap();
        account.metadata.insert(root.name, root.bytes);
        account
    }

    /// The factory document of a device of this account.
    pub(crate) fn factory_document(&self) -> FactoryDocument {
        FactoryDocument {
            format: 1,
            endpoint: EndpointName::new("test-1").unwrap(),
            account: AccountName::new("test").unwrap(),
            board: self.board.clone(),
            architecture: Architecture::new("x86_64").unwrap(),
            bootstrap_uri: "coaps+tcp://127.0.0.1:1".to_owned(),
            service_authority: String::new(),
            tuf_root: String::from_utf8(self.metadata["1.root.json"].clone()).unwrap(),
            time_key: String::new(),
            provisioned: UnixSeconds(NOW.0 - 1000),
            recovery_key: None,
        }
    }

    fn store(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.artifacts.insert(digest, bytes);
        digest
    }

    fn section(&mut self, name: SectionName, bytes: Vec<u8>) -> Section {
        let list = block_list(&bytes);
        let size = bytes.len() as u64;
        let blocks = Blocks { size: list.len() as u64, digest: self.store(list) };
        Section { name, digest: self.store(bytes), size, blocks }
    }

    /// The sections of an operating system, as an image builder makes them.
    pub(crate) fn os_index(&mut self, version: &str, image: &[u8]) -> OsIndex {
        let root = self.section(SectionName::Root, image.to_vec());
        let board = self.board.clone();
        let (mut sections, mut root_hash) = (vec![root], None);
        let uki = if let Some(words) = self.trees {
            let (tree, hash) = hash_tree(image);
            sections.push(self.section(SectionName::Verity, tree));
            root_hash = Some(hash);
            let line = |words| format!("roothash={} {words}", hash.hex());
            unified_kernel_image(&line(words), self.profile.map(line).as_deref())
        } else {
            let os_release = [("VERSION_ID".to_owned(), version.to_owned())].into();
            HostUki { root: sections[0].blocks.digest, size: sections[0].size, os_release }.to_bytes().unwrap()
        };
        sections.push(self.section(SectionName::Uki, uki));
        if let Some(package) = self.firmware.clone() {
            sections.push(self.section(SectionName::Firmware, package));
        }
        OsIndex { format: FormatOne, board, version: version.parse().unwrap(), sections, root_hash }
    }

    fn component(&mut self, kind: Kind, path: &str, version: &str, bytes: Vec<u8>) -> Component {
        let path = TargetPath::new(path).unwrap();
        match &kind {
            Kind::Os => self.os.insert(path.clone(), &bytes),
            Kind::Application { .. } => self.app.insert(path.clone(), &bytes),
            Kind::Configuration { .. } => self.targets.insert(path.clone(), &bytes),
        }
        let size = bytes.len() as u64;
        let digest = self.store(bytes);
        let version: ReleaseVersion = version.parse().unwrap();
        Component { kind, path, digest, size, version, boards: vec![], architectures: vec![], minimum_updater: 1 }
    }

    /// Signs and publishes a release; returns its path and digest.
    pub(crate) fn publish(&mut self, contents: &Contents) -> (TargetPath, Digest) {
        let mut components = Vec::new();
        let version = contents.version;
        if let Some(image) = &contents.os {
            let index = self.os_index(version, image).to_bytes().unwrap();
            components.push(self.component(Kind::Os, &format!("os/{}/{version}.json", self.board), version, index));
        }
        if let Some(index) = contents.application {
            let run = RunSettings { network: Network::None, memory_bytes: 1 << 20, pids: 8, ready: None };
            let kind = Kind::Application { name: hello(), run };
            let path = format!("apps/hello/{version}.json");
            components.push(self.component(kind, &path, version, index.as_bytes().to_vec()));
        }
        if let Some((name, text)) = contents.configuration {
            let kind = Kind::Configuration { name: AppName::new(name).unwrap() };
            let path = format!("configuration/{name}/{version}.json");
            components.push(self.component(kind, &path, version, text.as_bytes().to_vec()));
        }
        let release = Release {
            format: FormatOne,
            version: version.parse().unwrap(),
            security_version: SecurityVersion(contents.security_version),
            raises_floor: contents.raises_floor,
            health: contents.health,
            components,
        };
        let (path, bytes) = (release.target_path().unwrap(), release.to_bytes().unwrap());
        self.targets.insert(path.clone(), &bytes);
        let digest = self.store(bytes);
        self.sign();
        (path, digest)
    }

    /// Signs everything anew, with the next versions.
    fn sign(&mut self) {
        self.last += 1;
        for draft in [&mut self.targets, &mut self.os, &mut self.app] {
            draft.version = self.last;
        }
        self.targets.delegations = BTreeMap::from([
            (Delegate::Os, Holders::one(self.publisher.public())),
            (Delegate::App(hello()), Holders::one(self.team.public())),
        ]);
        let app = Delegate::App(hello());
        let signed = [
            ("targets.json".to_owned(), now(self.targets.sign(&[self.release.source()])).unwrap()),
            ("os.json".to_owned(), now(self.os.sign_as(&Delegate::Os, &[self.publisher.source()])).unwrap()),
            (format!("{app}.json"), now(self.app.sign_as(&app, &[self.team.source()])).unwrap()),
        ];
        let files = signed.iter().map(|(name, file)| (name.clone(), (self.last, file.bytes.clone()))).collect();
        let online = OnlineDraft {
            now: UnixSeconds(NOW.0 + self.last),
            last_snapshot: 0,
            last_timestamp: 0,
            snapshot_expires: FAR,
            timestamp_expires: FAR,
            files,
        };
        let keys = [self.online.source()];
        let online = now(online.sign(&keys, &keys)).unwrap();
        let named = signed.into_iter().map(|(_, file)| file).chain([online.snapshot, online.timestamp]);
        self.metadata.extend(named.map(|file| (file.name, file.bytes)));
    }

    /// Answers as the service does through the agent.
    pub(crate) fn fetch(&self, what: &Fetch) -> Result<Vec<u8>, FetchError> {
        match what {
            Fetch::Metadata { name, max_bytes, .. } => match self.metadata.get(name) {
                Some(bytes) if bytes.len() as u64 > u64::from(*max_bytes) => Err(FetchError::TooLong),
                Some(bytes) => Ok(bytes.clone()),
                None => Err(FetchError::NotFound),
            },
            Fetch::Artifact { digest, offset, length } => {
                let bytes = self.artifacts.get(digest).ok_or(FetchError::NotFound)?;
                let rest = bytes.get(usize::try_from(*offset).unwrap()..).unwrap_or_default();
                Ok(rest[..rest.len().min(usize::try_from(*length).unwrap())].to_vec())
            }
        }
    }

    /// Writes an exported release, as for a stick.
    pub(crate) fn export(&self, folder: &Path, (path, digest): &(TargetPath, Digest)) {
        for name in ["metadata", "artifacts"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for (name, bytes) in &self.metadata {
            fs::write(folder.join("metadata").join(name), bytes).unwrap();
        }
        self.write_artifacts(folder);
        let wish = format!(r#"{{"release":"{path}","digest":"{digest}"}}"#);
        fs::write(folder.join("wish.json"), wish).unwrap();
    }

    /// Writes an operating system, as an image builder does.
    pub(crate) fn write_os(&mut self, folder: &Path, version: &str, image: &[u8]) {
        fs::create_dir_all(folder.join("artifacts")).unwrap();
        let index = self.os_index(version, image);
        fs::write(folder.join("os.json"), index.to_bytes().unwrap()).unwrap();
        self.write_artifacts(folder);
    }

    fn write_artifacts(&self, folder: &Path) {
        for (digest, bytes) in &self.artifacts {
            fs::write(folder.join("artifacts").join(digest.hex()), bytes).unwrap();
        }
    }
}

/// The block list of a section, written once more from the words of the format page.
fn block_list(section: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    for block in section.chunks(4096) {
        let mut padded = block.to_vec();
        padded.resize(4096, 0);
        list.extend_from_slice(Digest::of(&padded).as_bytes());
    }
    list
}

/// A dm-verity tree of one level over `image`, with its super block, and its root hash; once more from the words of the kernel's
/// documentation.
fn hash_tree(image: &[u8]) -> (Vec<u8>, Digest) {
    let salted = |block: &[u8]| Digest::of(&[b"salt", block].concat());
    let mut tree = b"verity\0\0".to_vec();
    tree.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    tree.extend([7; 16]);
    tree.extend(b"sha256");
    tree.resize(64, 0);
    tree.extend([0, 16, 0, 0, 0, 16, 0, 0]);
    tree.extend((image.len() as u64).div_ceil(4096).to_le_bytes());
    tree.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    tree.extend(b"salt");
    tree.resize(4096, 0);
    for block in image.chunks(4096) {
        let mut padded = block.to_vec();
        padded.resize(4096, 0);
        tree.extend_from_slice(salted(&padded).as_bytes());
    }
    tree.resize(8192, 0);
    let root_hash = salted(&tree[4096..]);
    (tree, root_hash)
}

/// The root hash of the tree that a slot holds, and how many blocks of its root have their digest in there; none if one has not.
pub(crate) fn verified(root: &[u8], tree: &[u8]) -> Option<(Digest, u64)> {
    let blocks = u64::from_le_bytes(tree.get(72..80)?.try_into().ok()?);
    let top = tree.get(4096..8192).filter(|_| tree.starts_with(b"verity\0\0"))?;
    let salted = |block: &[u8]| Digest::of(&[b"salt", block].concat());
    let mut pairs = root.chunks(4096).zip(top.chunks(32)).take(usize::try_from(blocks).ok()?);
    let whole = blocks > 0 && pairs.all(|(block, digest)| salted(block).as_bytes() == digest);
    whole.then(|| (salted(top), blocks))
}

/// A PE file with a section `.cmdline`, and with profiles if it has a second one (UAPI.5, "Multi-Profile UKIs"), as far as anybody but the
/// firmware looks at it.
fn unified_kernel_image(cmdline: &str, second: Option<&str>) -> Vec<u8> {
    let line = |text: &str| (*b".cmdline", text.as_bytes().to_vec());
    let profile = |id: &[u8]| (*b".profile", id.to_vec());
    let mut sections = vec![line(cmdline)];
    if let Some(second) = second {
        sections.extend([profile(b"ID=main\n"), profile(b"ID=factory-reset\n"), line(second)]);
    }
    let mut bytes = b"MZ".to_vec();
    bytes.resize(0x3c, 0);
    bytes.extend([0x40, 0, 0, 0]);
    bytes.extend(b"PE\0\0\x64\xaa");
    bytes.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
    bytes.resize(0x40 + 24, 0);
    for (at, (name, content)) in (1..).zip(&sections) {
        bytes.extend(name);
        for field in [content.len(), 0x1000, 4096, at * 4096] {
            bytes.extend(u32::try_from(field).unwrap().to_le_bytes());
        }
        bytes.extend([0; 16]);
    }
    for (at, (_, content)) in (1..).zip(sections) {
        bytes.resize(at * 4096, 0);
        bytes.extend(content);
    }
    bytes.resize(bytes.len().max(9000), 0);
    bytes
}

/// An image of `blocks` blocks and a bit, whose blocks `changed` differ from the one with another `seed`.
pub(crate) fn image(blocks: usize, changed: &[usize], seed: u8) -> Vec<u8> {
    let mut image: Vec<u8> = (0..blocks * 4096 + 100).map(|at| (at / 4096 + at % 251).to_le_bytes()[0]).collect();
    for block in changed {
        let at = block * 4096;
        image[at..at + 64].fill(seed);
    }
    image
}
