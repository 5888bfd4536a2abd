//! An account with keys of its own that signs and publishes releases, and answers the updater as the service does through the agent.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
};

use anyhow::Context as _;
use protocol_release::{
    document::{BLOCK_BYTES, Blocks, Component, FormatOne, Health, Kind, OsIndex, Release, Section, SectionName},
    metadata::Delegate,
    signing::{Algorithm, Holders, OnlineDraft, RootDraft, SigningKey, TargetsDraft},
};
use protocol_types::{
    AccountName, Architecture, BoardName, Digest, EndpointName, FactoryDocument, TargetPath, UnixSeconds,
    socket::{Fetch, FetchError},
};

use super::systems::{BOARD, System};

/// When everything here happens.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const FAR: UnixSeconds = UnixSeconds(2_000_000_000);

/// Keys, signed metadata and artifacts.
#[derive(Debug)]
pub(crate) struct Account {
    release: SigningKey,
    publisher: SigningKey,
    online: SigningKey,
    targets: TargetsDraft,
    os: TargetsDraft,
    last: u64,
    metadata: BTreeMap<String, Vec<u8>>,
    artifacts: BTreeMap<Digest, Vec<u8>>,
}

/// Runs a future that never waits: all keys are in memory.
fn now<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => anyhow::bail!("a key in memory made somebody wait"),
    }
}

impl Account {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let key = || SigningKey::generate(Algorithm::Ed25519);
        let (officer, release, publisher, online) = (key()?, key()?, key()?, key()?);
        let root = RootDraft {
            version: 1,
            expires: FAR,
            root: Holders::one(officer.public()),
            targets: Holders::one(release.public()),
            snapshot: Holders::one(online.public()),
            timestamp: Holders::one(online.public()),
        };
        let root = now(root.sign(&[officer.source()]))??;
        let draft = || TargetsDraft::new(0, FAR);
        let (targets, os, artifacts) = (draft(), draft(), BTreeMap::new());
        let metadata = BTreeMap::from([(root.name, root.bytes)]);
        Ok(Self { release, publisher, online, targets, os, last: 0, metadata, artifacts })
    }

    /// The factory document of a device of this account.
    pub(crate) fn factory_document(&self) -> anyhow::Result<FactoryDocument> {
        let root = self.metadata.get("1.root.json").context("the account has no root")?;
        Ok(FactoryDocument {
            format: 1,
            endpoint: EndpointName::new("replay-1")?,
            account: AccountName::new("replay")?,
            board: BoardName::new(BOARD)?,
            architecture: Architecture::new("aarch64")?,
            bootstrap_uri: "coaps+tcp://127.0.0.1:1".to_owned(),
            service_authority: String::new(),
            tuf_root: String::from_utf8(root.clone())?,
            time_key: String::new(),
            provisioned: UnixSeconds(NOW.0 - 1000),
            recovery_key: None,
        })
    }

    fn store(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.artifacts.insert(digest, bytes.to_vec());
        digest
    }

    fn section(&mut self, name: SectionName, bytes: &[u8]) -> anyhow::Result<Section> {
        let block = usize::try_from(BLOCK_BYTES)?;
        let mut list = Vec::new();
        for piece in bytes.chunks(block) {
            let mut whole = piece.to_vec();
            whole.resize(block, 0);
            list.extend_from_slice(Digest::of(&whole).as_bytes());
        }
        let blocks = Blocks { size: list.len() as u64, digest: self.store(&list) };
        Ok(Section { name, digest: self.store(bytes), size: bytes.len() as u64, blocks })
    }

    /// Publishes a release of a system; returns what to wish for.
    pub(crate) fn publish(&mut self, system: &System, raises_floor: bool) -> anyhow::Result<(TargetPath, Digest)> {
        let version = system.version.parse().context("not a version")?;
        let board = BoardName::new(BOARD)?;
        let sections = vec![
            self.section(SectionName::Root, &system.root)?,
            self.section(SectionName::Verity, &system.tree)?,
            self.section(SectionName::Uki, &system.uki)?,
        ];
        let root_hash = Some(system.root_hash);
        let index = OsIndex { format: FormatOne, board, version, sections, root_hash }.to_bytes()?;
        let path = TargetPath::new(format!("os/{BOARD}/{}.json", system.version))?;
        self.os.insert(path.clone(), &index);
        let version = system.version.parse().context("not a version")?;
        let component = Component {
            kind: Kind::Os,
            path,
            digest: self.store(&index),
            size: index.len() as u64,
            version,
            boards: vec![],
            architectures: vec![],
            minimum_updater: 1,
        };
        let release = Release {
            format: FormatOne,
            version: system.version.parse().context("not a version")?,
            security_version: system.security_version,
            raises_floor,
            health: Health { time_limit_s: 60, no_contact_limit_s: 120 },
            components: vec![component],
        };
        let (path, bytes) = (release.target_path()?, release.to_bytes()?);
        self.targets.insert(path.clone(), &bytes);
        let digest = self.store(&bytes);
        self.sign()?;
        Ok((path, digest))
    }

    /// Signs everything anew, with the next versions.
    fn sign(&mut self) -> anyhow::Result<()> {
        self.last += 1;
        for draft in [&mut self.targets, &mut self.os] {
            draft.version = self.last;
        }
        self.targets.delegations = BTreeMap::from([(Delegate::Os, Holders::one(self.publisher.public()))]);
        let targets = now(self.targets.sign(&[self.release.source()]))??;
        let os = now(self.os.sign_as(&Delegate::Os, &[self.publisher.source()]))??;
        let version = |bytes: &Vec<u8>| (self.last, bytes.clone());
        let files = [("targets.json", version(&targets.bytes)), ("os.json", version(&os.bytes))];
        let draft = OnlineDraft {
            now: UnixSeconds(NOW.0 + self.last),
            last_snapshot: 0,
            last_timestamp: 0,
            snapshot_expires: FAR,
            timestamp_expires: FAR,
            files: files.into_iter().map(|(name, file)| (name.to_owned(), file)).collect(),
        };
        let keys = [self.online.source()];
        let online = now(draft.sign(&keys, &keys))??;
        let signed = [targets, os, online.snapshot, online.timestamp];
        self.metadata.extend(signed.into_iter().map(|file| (file.name, file.bytes)));
        Ok(())
    }

    /// Writes a release as `mbl release export` does, for a stick.
    pub(crate) fn export(&self, folder: &Path, (release, digest): &(TargetPath, Digest)) -> anyhow::Result<()> {
        for name in ["metadata", "artifacts"] {
            fs::create_dir_all(folder.join(name)).context("cannot make the folder of a release")?;
        }
        for (name, bytes) in &self.metadata {
            fs::write(folder.join("metadata").join(name), bytes).with_context(|| format!("cannot write {name}"))?;
        }
        for (digest, bytes) in &self.artifacts {
            fs::write(folder.join("artifacts").join(digest.hex()), bytes).context("cannot write an artifact")?;
        }
        let wish = format!("{{\"release\":\"{release}\",\"digest\":\"{digest}\"}}");
        fs::write(folder.join("wish.json"), wish).context("cannot write the wish")
    }

    /// Answers a request of the updater.
    pub(crate) fn fetch(&self, what: &Fetch) -> Result<Vec<u8>, FetchError> {
        match what {
            Fetch::Metadata { name, max_bytes, .. } => match self.metadata.get(name) {
                Some(bytes) if bytes.len() as u64 > u64::from(*max_bytes) => Err(FetchError::TooLong),
                Some(bytes) => Ok(bytes.clone()),
                None => Err(FetchError::NotFound),
            },
            Fetch::Artifact { digest, offset, length } => {
                let bytes = self.artifacts.get(digest).ok_or(FetchError::NotFound)?;
                let from = usize::try_from(*offset).unwrap_or(usize::MAX).min(bytes.len());
                let length = usize::try_from(*length).unwrap_or(usize::MAX).min(bytes.len() - from);
                Ok(bytes[from..from + length].to_vec())
            }
        }
    }
}
