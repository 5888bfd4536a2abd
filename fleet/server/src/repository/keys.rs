//! The online keys of an account: made at first need, kept in the store, and good for snapshot and timestamp alone.

use fleet_api::RepositoryKeys;
use fleet_store::{AccountScope, OnlineRole, StoreError};
use protocol_release::signing::{Algorithm, KeyError, SigningKey};
use protocol_types::UnixSeconds;

/// Why an account has no online keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OnlineKeyError {
    /// The store refused.
    #[error("cannot keep the online keys")]
    Store(#[from] StoreError),
    /// A key could not be made or read.
    #[error("cannot use the online keys")]
    Key(#[from] KeyError),
    /// A public key has no JSON form.
    #[error("cannot show the online keys")]
    Form(#[from] serde_json::Error),
}

/// Both keys of an account.
pub(super) struct OnlineKeys {
    pub(super) snapshot: SigningKey,
    pub(super) timestamp: SigningKey,
}

pub(super) async fn online_keys(account: &AccountScope, now: UnixSeconds) -> Result<OnlineKeys, OnlineKeyError> {
    Ok(OnlineKeys {
        snapshot: key(account, OnlineRole::Snapshot, now).await?,
        timestamp: key(account, OnlineRole::Timestamp, now).await?,
    })
}

async fn key(account: &AccountScope, role: OnlineRole, now: UnixSeconds) -> Result<SigningKey, OnlineKeyError> {
    let pkcs8 = match account.stored_online_key(role).await? {
        Some(pkcs8) => pkcs8,
        None => account.online_key(role, SigningKey::generate(Algorithm::Ed25519)?.to_pkcs8(), now).await?,
    };
    Ok(SigningKey::from_pkcs8(&zeroize::Zeroizing::new(pkcs8))?)
}

/// The public halves, for the root to name.
pub(crate) async fn public_keys(account: &AccountScope, now: UnixSeconds) -> Result<RepositoryKeys, OnlineKeyError> {
    let keys = online_keys(account, now).await?;
    Ok(RepositoryKeys {
        snapshot: serde_json::to_value(keys.snapshot.public())?,
        timestamp: serde_json::to_value(keys.timestamp.public())?,
    })
}
