//! Publishes signed metadata: what a device would refuse, or could not fetch, is not stored; the rest becomes visible at once.

use std::collections::{BTreeMap, BTreeSet};

use fleet_api::{Problem, ProblemCode};
use fleet_store::{AccountScope, MetadataFile, Publication, ReleaseRow, RepositoryRow, StoreError};
use protocol_release::{
    publish::{Accepted, Lifetimes, ListedArtifact, Repository, admit},
    signing::{OnlineFiles, SignedFile},
    workflow::{Check, Clock, Device, Step, TrustedState, Wish},
};
use protocol_types::{
    Architecture, BoardName, Digest, Reason, ReasonCode, SecurityVersion, TargetPath, UnixSeconds, socket::FetchError,
};

use super::{
    keys::{OnlineKeys, online_keys},
    parts::{DEPTH, DOCUMENT_BYTES, Part, named},
};
use crate::{fleet::Fleet, rest::Refusal};

const DAY: u64 = 24 * 60 * 60;
/// A device that hears nothing newer for this long reports that it may be held away from news.
pub(super) const LIFETIMES: Lifetimes = Lifetimes { snapshot_s: 14 * DAY, timestamp_s: 2 * DAY };
/// How often a publication is made again because the repository changed in between.
const TRIES: u32 = 5;
/// Missing artifacts that a refusal names; it says how many more there are.
const NAMED: usize = 20;

/// Judges an upload and makes it the newest state of the repository. Uploading the same again changes nothing.
pub(crate) async fn publish(
    fleet: &Fleet,
    account: &AccountScope,
    upload: &BTreeMap<String, Vec<u8>>,
) -> Result<(), Refusal> {
    for _ in 0..TRIES {
        match try_publish(fleet, account, upload).await {
            Err(Failure::Overtaken) => {}
            Err(Failure::Refused(refusal)) => return Err(refusal),
            Ok(()) => return Ok(()),
        }
    }
    Err(Refusal::new(ProblemCode::Unavailable, "the repository keeps changing; publish again"))
}

enum Failure {
    /// Somebody else published, or the timestamp was renewed, while this was under way.
    Overtaken,
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

async fn try_publish(fleet: &Fleet, account: &AccountScope, upload: &BTreeMap<String, Vec<u8>>) -> Result<(), Failure> {
    let now = fleet.clock.now();
    let before = account.repository().await?;
    let stored = account.newest_metadata().await?;
    let current = read(&stored)?;
    let accepted = admit(&current, upload, now).map_err(|reason| Problem::refused_release(&reason))?;
    if accepted.files.is_empty() && before.is_some() {
        return Ok(());
    }
    let documents = complete(fleet, account, &accepted.artifacts).await?;
    let releases = releases(&accepted, &documents, now)?;
    let online = sign(account, &accepted.repository, now).await?;
    prove(&stored, &accepted, &online, now).map_err(|reason| Problem::refused_release(&reason))?;
    let publication = publication(before, &accepted, online, Some(releases), now)?;
    store(account, &publication, now).await
}

/// The repository as it was stored.
pub(super) fn read(stored: &[(String, Vec<u8>)]) -> Result<Repository, Refusal> {
    let files = stored.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    Repository::read(files).map_err(|reason| Refusal::internal(&reason))
}

/// Signs what is current.
pub(super) async fn sign(
    account: &AccountScope,
    repository: &Repository,
    now: UnixSeconds,
) -> Result<(OnlineFiles, u64), Refusal> {
    let OnlineKeys { snapshot, timestamp } = online_keys(account, now).await.map_err(|e| Refusal::internal(&e))?;
    let draft = repository.online(now, LIFETIMES).map_err(|reason| Problem::refused_release(&reason))?;
    let targets = draft.files.get("targets.json").map_or(0, |(version, _)| *version);
    let files = draft.sign(&[snapshot.source()], &[timestamp.source()]).await.map_err(|e| Refusal::internal(&e))?;
    Ok((files, targets))
}

/// Looks for every artifact that the targets list, and for what those name in turn. Answers the listed documents by digest.
async fn complete(
    fleet: &Fleet,
    account: &AccountScope,
    listed: &[ListedArtifact],
) -> Result<BTreeMap<Digest, Vec<u8>>, Refusal> {
    let (mut documents, mut missing) = (BTreeMap::new(), BTreeSet::new());
    for artifact in listed {
        let mut level = BTreeSet::from([Part { digest: artifact.digest, size: artifact.size }]);
        for depth in 0..=DEPTH {
            let mut deeper = BTreeSet::new();
            for part in level {
                if !is_here(account, part).await? {
                    missing.insert(part.digest);
                    continue;
                }
                let Some(bytes) = document(fleet, account, part).await? else { continue };
                let inside = named(&artifact.path, &bytes).map_err(|why| malformed(&artifact.path, &why))?;
                if depth == 0 {
                    documents.insert(part.digest, bytes);
                }
                for blob in inside.blobs {
                    if !is_here(account, blob).await? {
                        missing.insert(blob.digest);
                    }
                }
                deeper.extend(inside.documents);
            }
            level = deeper;
        }
    }
    if missing.is_empty() { Ok(documents) } else { Err(missing_artifacts(&missing)) }
}

fn malformed(path: &TargetPath, why: &str) -> Refusal {
    let code =
        if path.as_str().starts_with("apps/") { ReasonCode::MalformedImage } else { ReasonCode::MalformedRelease };
    Problem::refused_release(&Reason::new(code, format!("`{path}`: {why}"))).into()
}

fn missing_artifacts(missing: &BTreeSet<Digest>) -> Refusal {
    let named: Vec<String> = missing.iter().take(NAMED).map(ToString::to_string).collect();
    let more = missing.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Refusal::new(ProblemCode::ArtifactsMissing, format!("these artifacts are not uploaded: {}{more}", named.join(", ")))
}

async fn is_here(account: &AccountScope, part: Part) -> Result<bool, Refusal> {
    match account.artifact(&part.digest).await {
        Ok(row) => Ok(row.complete && row.size == part.size),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

/// A document is small; anything longer names nothing.
pub(super) async fn document(fleet: &Fleet, account: &AccountScope, part: Part) -> Result<Option<Vec<u8>>, Refusal> {
    if part.size > DOCUMENT_BYTES {
        return Ok(None);
    }
    let bytes = fleet.artifacts.read(account.name(), &part.digest).await.map_err(|e| Refusal::storage(&e))?;
    Ok(Some(bytes))
}

/// Every listed release, read and checked as a device would.
fn releases(
    accepted: &Accepted,
    documents: &BTreeMap<Digest, Vec<u8>>,
    now: UnixSeconds,
) -> Result<Vec<ReleaseRow>, Refusal> {
    let listed = accepted.artifacts.iter().filter(|artifact| artifact.path.as_str().starts_with("releases/"));
    listed
        .map(|artifact| {
            let bytes = documents.get(&artifact.digest).map(Vec::as_slice).unwrap_or_default();
            let release = accepted.repository.release(bytes).map_err(|reason| Problem::refused_release(&reason))?;
            if release.target_path().ok().as_ref() != Some(&artifact.path) {
                let text = format!("`{}` holds release {}", artifact.path, release.version);
                return Err(Problem::refused_release(&Reason::new(ReasonCode::MalformedRelease, text)).into());
            }
            Ok(ReleaseRow {
                version: release.version,
                path: artifact.path.clone(),
                digest: artifact.digest,
                security_version: release.security_version,
                document: String::from_utf8_lossy(bytes).into_owned(),
                listed: true,
                published: now,
            })
        })
        .collect()
}

/// Loads the new state with the devices' own code. It asks for a release that nothing lists, so the one right answer is that the
/// targets do not list it; any other means that devices could not follow, for example because the root names other online keys.
fn prove(
    stored: &[(String, Vec<u8>)],
    accepted: &Accepted,
    (online, _): &(OnlineFiles, u64),
    now: UnixSeconds,
) -> Result<(), Reason> {
    let internal = |why: &str| Reason::new(ReasonCode::Internal, why);
    let mut files: BTreeMap<&str, &[u8]> =
        stored.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let signed = accepted.files.iter().chain([&online.snapshot, &online.timestamp]);
    files.extend(signed.map(|file| (file.name.as_str(), file.bytes.as_slice())));
    let root = accepted.repository.root().ok_or_else(|| internal("the repository has no root"))?;
    let wish = Wish {
        release: TargetPath::new("releases/none.json").map_err(|_| internal("the probe has no path"))?,
        digest: Digest::of(b""),
    };
    let device = Device {
        board: BoardName::new("none").map_err(|_| internal("the probe has no board"))?,
        architecture: Architecture::new("none").map_err(|_| internal("the probe has no architecture"))?,
        updater: u32::MAX,
        highest_floor: SecurityVersion(u32::MAX),
    };
    let clock = Clock { now, not_before: now };
    let (mut check, mut step) = Check::begin(TrustedState::from_root(root)?, wish, device, clock);
    loop {
        step = match step {
            Step::FetchMetadata { name, max_bytes } => {
                let answer = files.get(name.as_str()).ok_or(FetchError::NotFound);
                let fits = |bytes: &&[u8]| u32::try_from(bytes.len()).is_ok_and(|length| length <= max_bytes);
                check.answer(
                    answer
                        .copied()
                        .map(<[u8]>::to_vec)
                        .and_then(|bytes| if fits(&bytes.as_slice()) { Ok(bytes) } else { Err(FetchError::TooLong) }),
                )
            }
            Step::Refused(reason) if reason.code == ReasonCode::NotInTargets => return Ok(()),
            Step::Refused(reason) => return Err(reason),
            Step::FetchArtifact { .. } | Step::Verified(_) => return Err(internal("the probe found a release")),
        };
    }
}

/// What the store is to hold.
pub(super) fn publication(
    before: Option<RepositoryRow>,
    accepted: &Accepted,
    (online, targets_version): (OnlineFiles, u64),
    releases: Option<Vec<ReleaseRow>>,
    now: UnixSeconds,
) -> Result<Publication, Refusal> {
    let snapshot = metadata_file(online.snapshot)?;
    // The one file whose name does not carry its version.
    let timestamp_version = version_of(&online.timestamp.bytes)?;
    let timestamp = MetadataFile {
        name: online.timestamp.name,
        role: "timestamp".to_owned(),
        version: timestamp_version,
        bytes: online.timestamp.bytes,
    };
    let state = RepositoryRow {
        root_version: accepted.repository.root_version().ok_or_else(|| broken("the repository has no root"))?,
        targets_version,
        snapshot_version: snapshot.version,
        timestamp_version,
        timestamp_expires: UnixSeconds(now.0.saturating_add(LIFETIMES.timestamp_s)),
        published: before.filter(|_| releases.is_none()).map_or(now, |before| before.published),
    };
    let uploaded = accepted.files.iter().cloned().map(metadata_file).collect::<Result<_, _>>()?;
    let made_from = before.map(|before| before.timestamp_version);
    Ok(Publication { made_from, uploaded, online: [snapshot, timestamp], state, releases })
}

/// What the repository itself has made, or accepted, is not as it must be.
fn broken(why: impl AsRef<str>) -> Refusal {
    Refusal::internal(&Reason::new(ReasonCode::Internal, why))
}

fn metadata_file(file: SignedFile) -> Result<MetadataFile, Refusal> {
    let parts = file.name.strip_suffix(".json").and_then(|name| name.split_once('.'));
    let parts = parts.and_then(|(version, role)| Some((version.parse().ok()?, role.to_owned())));
    let (version, role) = parts.ok_or_else(|| broken(format!("`{}` has no version", file.name)))?;
    Ok(MetadataFile { role, version, name: file.name, bytes: file.bytes })
}

fn version_of(bytes: &[u8]) -> Result<u64, Refusal> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| Refusal::internal(&e))?;
    let version = value.pointer("/signed/version").and_then(serde_json::Value::as_u64);
    version.ok_or_else(|| broken("a timestamp has no version"))
}

async fn store(account: &AccountScope, publication: &Publication, now: UnixSeconds) -> Result<(), Failure> {
    match account.publish(publication, now).await {
        Ok(()) => Ok(()),
        Err(StoreError::Stale { .. }) => Err(Failure::Overtaken),
        Err(other) => Err(other.into()),
    }
}
