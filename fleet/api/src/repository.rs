//! The account's repository of signed metadata, and the releases that it lists.

use std::collections::BTreeMap;

use protocol_types::{Digest, ReleaseVersion, SecurityVersion, TargetPath, UnixSeconds};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// The public keys with which the service signs what is current, in the form that TUF metadata carries them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryKeys {
    /// Of the role `snapshot`.
    #[schema(value_type = Object)]
    pub snapshot: Value,
    /// Of the role `timestamp`.
    #[schema(value_type = Object)]
    pub timestamp: Value,
}

/// Which versions are current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryState {
    /// Version of the root.
    pub root_version: u64,
    /// Version of the targets.
    pub targets_version: u64,
    /// Version of the snapshot.
    pub snapshot_version: u64,
    /// Version of the timestamp.
    pub timestamp_version: u64,
    /// When the timestamp ends, in Unix seconds; the service signs the next one well before.
    #[schema(value_type = u64)]
    pub timestamp_expires: UnixSeconds,
    /// When somebody last published, in Unix seconds.
    #[schema(value_type = u64)]
    pub published: UnixSeconds,
}

/// The repository of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repository {
    /// The service's own keys, to be named in the root.
    pub keys: RepositoryKeys,
    /// Which versions are current; absent before the first publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RepositoryState>,
}

/// Publishes signed metadata: all of it, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishMetadata {
    /// The files by their names, as in `2.targets.json`: roots, targets and files of delegated roles, each the exact text that was signed.
    pub files: BTreeMap<String, String>,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Its version.
    #[schema(value_type = String)]
    pub version: ReleaseVersion,
    /// Its path in the targets.
    #[schema(value_type = String)]
    pub path: TargetPath,
    /// Digest of its document.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Devices whose floor is higher refuse it.
    #[schema(value_type = u32)]
    pub security_version: SecurityVersion,
    /// Whether the current targets list it; only then a rollout can begin.
    pub listed: bool,
    /// When it was first published, in Unix seconds.
    #[schema(value_type = u64)]
    pub published: UnixSeconds,
    /// The document itself, as `docs/formats/release.md` describes it.
    #[schema(value_type = Object)]
    pub document: Value,
}

impl Client {
    /// The service's keys and the state of the repository.
    pub async fn repository(&self) -> Result<Repository, ClientError> {
        self.get("/repository", &()).await
    }

    /// The public keys with which the service signs snapshot and timestamp.
    pub async fn repository_keys(&self) -> Result<RepositoryKeys, ClientError> {
        Ok(self.repository().await?.keys)
    }

    /// Publishes signed metadata.
    pub async fn publish_metadata(&self, metadata: &PublishMetadata) -> Result<Repository, ClientError> {
        self.post("/repository/metadata", metadata).await
    }

    /// A metadata file as devices fetch it, as in `timestamp.json` or `1.root.json`; the caller checks its signatures.
    pub async fn metadata_file(&self, name: &str) -> Result<Vec<u8>, ClientError> {
        let path = format!("/repository/metadata/{name}");
        let answer = self.send(&path, self.request(Method::GET, &path)).await?;
        Ok(answer.bytes().await.map_err(|e| self.unreachable(e))?.to_vec())
    }

    /// The releases of the account, also those that are listed no more.
    pub async fn releases(&self, page: &PageQuery) -> Result<Page<Release>, ClientError> {
        self.get("/releases", page).await
    }

    /// One release.
    pub async fn release(&self, version: &ReleaseVersion) -> Result<Release, ClientError> {
        self.get(&format!("/releases/{version}"), &()).await
    }
}
