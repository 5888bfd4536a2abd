//! Certificate authorities: whose signature makes a factory certificate of the account.

use protocol_types::UnixSeconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// A factory authority of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Authority {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The subject of its certificate.
    pub subject: String,
    /// SHA-256 of the DER certificate in lower-case hexadecimal digits.
    pub fingerprint: String,
    /// When the certificate ends, in Unix seconds.
    #[schema(value_type = u64)]
    pub not_after: UnixSeconds,
    /// When it was uploaded, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When it was revoked: since then its certificates enrol nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub revoked: Option<UnixSeconds>,
}

/// Uploads a factory authority. A certificate that it signs counts only if its subject names this account, so uploading somebody
/// else's authority gains nothing and no proof of possession is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadAuthority {
    /// What people call it; 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// One certificate as PEM, at most 16 KiB.
    #[schema(max_length = 16384)]
    pub certificate: String,
}

impl Client {
    /// The factory authorities of the account, revoked ones too.
    pub async fn authorities(&self, page: &PageQuery) -> Result<Page<Authority>, ClientError> {
        self.get("/authorities", page).await
    }

    /// One factory authority.
    pub async fn authority(&self, id: &str) -> Result<Authority, ClientError> {
        self.get(&format!("/authorities/{id}"), &()).await
    }

    /// Uploads a factory authority.
    pub async fn upload_authority(&self, authority: &UploadAuthority) -> Result<Authority, ClientError> {
        self.post("/authorities", authority).await
    }

    /// Lets a factory authority enrol nobody from now on. Devices that it enrolled before stay.
    pub async fn revoke_authority(&self, id: &str) -> Result<Authority, ClientError> {
        self.post_empty(&format!("/authorities/{id}/revoke")).await
    }
}
