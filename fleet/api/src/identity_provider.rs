//! The identity provider of an account: with whom its users sign in (OpenID Connect).

use std::{collections::BTreeMap, fmt};

use protocol_types::UnixSeconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError};

/// With whom the users of an account sign in. The client secret is never told.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, and they go together in every way")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IdentityProvider {
    /// The issuer of its tokens, as in `https://login.example.com`.
    pub issuer: String,
    /// Who the service is there.
    pub client_id: String,
    /// Whether there is a client secret.
    pub has_secret: bool,
    /// Scopes that are asked for beside `openid`.
    pub scopes: Vec<String>,
    /// The claim that says which user it is.
    pub user_claim: String,
    /// Domains of addresses for mail that are let in; without any, every one.
    pub domains: Vec<String>,
    /// The claim whose values are roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_claim: Option<String>,
    /// The role of each value.
    pub roles: BTreeMap<String, String>,
    /// Whether somebody who is no user becomes one.
    pub create_users: bool,
    /// The role of those who have no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_role: Option<String>,
    /// Whether users do not sign in with a password.
    pub required: bool,
    /// The one who may nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<String>,
    /// The address that the provider has to send browsers back to: register it there.
    pub redirect_uri: String,
    /// When it was last changed, in Unix seconds.
    #[schema(value_type = u64)]
    pub changed: UnixSeconds,
    /// Counts every change; the `ETag` is made of it.
    pub revision: i64,
}

/// Says with whom the users of the account sign in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveIdentityProvider {
    /// The issuer of its tokens, exactly as it names itself. `/.well-known/openid-configuration` below it is asked for at once.
    #[schema(max_length = 2000)]
    pub issuer: String,
    /// Who the service is there.
    #[schema(min_length = 1, max_length = 255)]
    pub client_id: String,
    /// The client secret. Without it the one that is there stays, as long as `issuer` and `client_id` are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1024)]
    pub client_secret: Option<String>,
    /// Scopes to ask for beside `openid`; without it, `email` and `profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// The claim that says which user it is at the first sign-in; without it, `email`: the address that an administrator wrote down. Any
    /// other claim holds the name of the user. A name that begins with `/` is a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 100)]
    pub user_claim: Option<String>,
    /// Domains of addresses for mail that are let in, if the provider has verified the address. Needed where `user_claim` is `email`.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The claim whose values are roles: a text or a list of texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 100)]
    pub role_claim: Option<String>,
    /// The role of each value of `role_claim`. At each sign-in a user gets the roles of their values and loses those of others.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Whether somebody who is no user becomes one at the first sign-in.
    #[serde(default)]
    pub create_users: bool,
    /// The role of those whose claims bring none; without `role_claim`, of those who become users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_role: Option<String>,
    /// Whether users of the account no longer sign in with a password. It needs `break_glass`.
    #[serde(default)]
    pub required: bool,
    /// A user with a password and an authenticator, who may sign in with them nevertheless: the way in if the provider is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<String>,
}

impl fmt::Debug for SaveIdentityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaveIdentityProvider").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

const PATH: &str = "/identity-provider";

impl Client {
    /// The identity provider of the account.
    pub async fn identity_provider(&self) -> Result<IdentityProvider, ClientError> {
        self.get(PATH, &()).await
    }

    /// Saves it, if it is still at `revision` (0 for none), or whatever is there.
    pub async fn save_identity_provider(
        &self,
        wanted: &SaveIdentityProvider,
        revision: Option<i64>,
    ) -> Result<IdentityProvider, ClientError> {
        self.put(PATH, wanted, revision).await
    }

    /// Forgets it, if it is still at `revision`, or whatever is there.
    pub async fn delete_identity_provider(&self, revision: Option<i64>) -> Result<(), ClientError> {
        self.delete_at(PATH, revision).await
    }
}
