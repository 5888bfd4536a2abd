//! Tokens: who may act in an account, and how far.

use std::{fmt, str::FromStr};

use protocol_types::UnixSeconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenScope {
    /// See everything of the account.
    Read,
    /// Change groups, rollouts and the standing of devices.
    Operate,
    /// Upload artifacts and publish signed metadata.
    Publish,
    /// Change certificate authorities and enrolments.
    Enrol,
    /// All of the above, and tokens and accounts.
    Admin,
}

impl TokenScope {
    /// All scopes, from the least to the most.
    pub const ALL: &[Self] = &[Self::Read, Self::Operate, Self::Publish, Self::Enrol, Self::Admin];

    /// The scope as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Publish => "publish",
            Self::Enrol => "enrol",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope is read, operate, publish, enrol or admin")]
pub struct UnknownScope;

impl FromStr for TokenScope {
    type Err = UnknownScope;
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its public name in addresses and logs.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<TokenScope>,
    /// Whose it is, as in `service/ci`; absent if it is the account's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When it stops working by itself, in Unix seconds; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub expires: Option<UnixSeconds>,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub last_used: Option<UnixSeconds>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub revoked: Option<UnixSeconds>,
}

/// Asks for a new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What people call it; 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// What it allows; at least one scope.
    #[schema(min_items = 1)]
    pub scopes: Vec<TokenScope>,
    /// Whose it is, as in `service/ci`: it then allows what both its scopes and the roles of that principal allow. Without it the
    /// token is the account's own, and its scopes alone decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// When it stops working by itself, in Unix seconds; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub expires: Option<UnixSeconds>,
}

/// A new token and its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token.
    pub token: Token,
    /// The secret, `mblt_` and 52 characters, shown this once: the service keeps only its digest. Absent when the request is a
    /// repetition under the same `Idempotency-Key`; then revoke the token and make another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedToken").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Client {
    /// The tokens of the account, revoked ones too.
    pub async fn tokens(&self, page: &PageQuery) -> Result<Page<Token>, ClientError> {
        self.get("/tokens", page).await
    }

    /// One token.
    pub async fn token(&self, id: &str) -> Result<Token, ClientError> {
        self.get(&format!("/tokens/{id}"), &()).await
    }

    /// Makes a token in the account of this one.
    pub async fn create_token(&self, token: &CreateToken) -> Result<CreatedToken, ClientError> {
        self.post("/tokens", token).await
    }

    /// Makes a token useless from now on.
    pub async fn revoke_token(&self, id: &str) -> Result<Token, ClientError> {
        self.post_empty(&format!("/tokens/{id}/revoke")).await
    }
}
