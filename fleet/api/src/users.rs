//! Users: people who hold roles. An invitation makes one; what they sign in with they set themselves.

use protocol_types::UnixSeconds;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, Page, PageQuery};

/// How far a user has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UserState {
    /// Has not set a password yet, nor signed in with the identity provider.
    Invited,
    /// Can sign in.
    Active,
    /// May not act.
    Disabled,
}

/// How far a letter with an invitation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LetterState {
    /// It is sent again and again until the mail server takes it, or the invitation is over.
    Waiting,
    /// The mail server has taken it.
    Sent,
}

/// The letter with an open invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvitationLetter {
    /// How far it is.
    pub state: LetterState,
    /// When the mail server took it, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub sent: Option<UnixSeconds>,
    /// Tries that failed.
    pub tries: u64,
    /// Why the last of them did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// A person who can hold roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Their name; bindings and tokens call them `user/NAME`.
    pub name: String,
    /// What people call them.
    pub title: String,
    /// Their address for mail.
    pub email: String,
    /// How far they have come.
    pub state: UserState,
    /// When they were invited first, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When their right to act was taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disabled: Option<UnixSeconds>,
    /// When their open invitation ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub invited_until: Option<UnixSeconds>,
    /// The letter with their open invitation, if one was to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<InvitationLetter>,
    /// Since when they sign in with the identity provider of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub linked: Option<UnixSeconds>,
    /// When they set their password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub password_set: Option<UnixSeconds>,
    /// When they last signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub last_sign_in: Option<UnixSeconds>,
    /// Recovery codes that they have left.
    pub recovery_codes: u64,
    /// Counts every change that an administrator made; the `ETag` is made of it.
    pub revision: i64,
}

/// Asks for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteUser {
    /// Their name, with which they sign in: 1 to 64 of a-z, 0-9, `.`, `_`, `@`, `+` and `-`, beginning with a letter or digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9._@+-]{0,63}$")]
    pub name: String,
    /// Their address for mail.
    #[schema(max_length = 254)]
    pub email: String,
    /// What people call them; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
    /// A role for them in this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The devices that the role is for, in the filter language; without it, for the whole account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
    /// When the invitation stops working, in Unix seconds: at most 30 days ahead; 7 days without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub expires: Option<UnixSeconds>,
    /// Whether the invitation is also sent to `email`; without it, where the service has a mail server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<bool>,
}

/// How a user is reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResetUserQuery {
    /// Whether the invitation is also sent to the user's address; without it, where the service has a mail server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<bool>,
}

/// A user and the secret with which they begin.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvitedUser {
    /// The user.
    pub user: User,
    /// The secret of the invitation, `mbli_` and 52 characters, shown this once: the service keeps only its digest. Absent when the
    /// request is a repetition under the same `Idempotency-Key`; then reset the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
}

impl std::fmt::Debug for InvitedUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvitedUser").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Changes a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeUser {
    /// Whether their right to act is taken away. Their sessions and tokens then are refused.
    pub disabled: bool,
}

impl Client {
    /// The users of the account, by name.
    pub async fn users(&self, page: &PageQuery) -> Result<Page<User>, ClientError> {
        self.get("/users", page).await
    }

    /// Makes a user with an invitation.
    pub async fn invite_user(&self, wanted: &InviteUser) -> Result<InvitedUser, ClientError> {
        self.post("/users", wanted).await
    }

    /// One user.
    pub async fn user(&self, name: &str) -> Result<User, ClientError> {
        self.get(&format!("/users/{name}"), &()).await
    }

    /// Takes away a user's right to act, or gives it back, if they are still at `revision`, or whatever it is.
    pub async fn change_user(
        &self,
        name: &str,
        change: &ChangeUser,
        revision: Option<i64>,
    ) -> Result<User, ClientError> {
        self.patch(&format!("/users/{name}"), change, revision).await
    }

    /// Takes away what a user signs in with, and invites them anew.
    pub async fn reset_user(&self, name: &str, query: &ResetUserQuery) -> Result<InvitedUser, ClientError> {
        let path = format!("/users/{name}/reset");
        self.json(&path, self.request(reqwest::Method::POST, &path).query(query)).await
    }

    /// Forgets a user, their roles and their tokens, if they are still at `revision`, or whatever it is.
    pub async fn delete_user(&self, name: &str, revision: Option<i64>) -> Result<(), ClientError> {
        self.delete_at(&format!("/users/{name}"), revision).await
    }
}
