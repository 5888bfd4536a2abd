//! Signing in and out, and what a person signs in with. A session is a token that belongs to a user.

use std::fmt;

use protocol_types::{AccountName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, CreatedToken, TokenScope};

/// An invitation as a file (TOML): everything that somebody needs who has nothing yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationFile {
    /// Address of the API, as in `https://service.example:8443`.
    pub service: String,
    /// PEM certificates that the service's certificate must chain to.
    pub authority: String,
    /// The secret of the invitation.
    pub invitation: String,
}

/// Shows an invitation's secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowInvitation {
    /// The secret of the invitation.
    pub invitation: String,
}

/// What an invitation is for, and what the authenticator must hold.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// The account of the user.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// The name with which they will sign in.
    pub name: String,
    /// What people call them.
    pub title: String,
    /// Their address for mail.
    pub email: String,
    /// When it stops working, in Unix seconds.
    #[schema(value_type = u64)]
    pub expires: UnixSeconds,
    /// The secret for the authenticator (RFC 6238: SHA-1, 6 digits, 30 seconds), in base 32.
    pub totp_secret: String,
    /// The same as an `otpauth` address, for authenticators that read one.
    pub totp_address: String,
}

/// Accepts an invitation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitation {
    /// The secret of the invitation.
    pub invitation: String,
    /// The password: at least 12 characters, at most 256 bytes, and not with the name in it.
    #[schema(min_length = 12, max_length = 256)]
    pub password: String,
    /// The code that the authenticator shows.
    #[schema(pattern = "^[0-9]{6}$")]
    pub code: String,
}

/// A user who can sign in from now on, and has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcceptedInvitation {
    /// The account of the user.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// The name with which they sign in.
    pub name: String,
    /// The first session.
    pub session: CreatedToken,
    /// Codes that each stand once for the authenticator, shown this once.
    pub recovery_codes: Vec<String>,
}

/// Signs in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The account of the user.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// Their name.
    pub name: String,
    /// Their password.
    #[schema(max_length = 256)]
    pub password: String,
    /// The code that the authenticator shows, or a recovery code.
    #[schema(max_length = 64)]
    pub code: String,
    /// What the session allows at most; without it, all that the user's roles allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<TokenScope>>,
}

/// Sets another password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The password until now.
    #[schema(max_length = 256)]
    pub password: String,
    /// The code that the authenticator shows, or a recovery code.
    #[schema(max_length = 64)]
    pub code: String,
    /// The password from now on, by the rules of [`AcceptInvitation`].
    #[schema(min_length = 12, max_length = 256)]
    pub new_password: String,
}

/// Types with secrets in them show none of their fields.
macro_rules! secret {
    ($($name:ident),+) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        })+
    };
}
secret!(InvitationFile, ShowInvitation, Invitation, AcceptInvitation, AcceptedInvitation, SignIn, ChangePassword);

impl Client {
    /// What an invitation is for.
    pub async fn invitation(&self, secret: &str) -> Result<Invitation, ClientError> {
        self.post("/invitation", &ShowInvitation { invitation: secret.to_owned() }).await
    }

    /// Sets password and authenticator, and begins the first session.
    pub async fn accept_invitation(&self, accepted: &AcceptInvitation) -> Result<AcceptedInvitation, ClientError> {
        self.post("/invitation/accept", accepted).await
    }

    /// Begins a session.
    pub async fn sign_in(&self, shown: &SignIn) -> Result<CreatedToken, ClientError> {
        self.post("/sessions", shown).await
    }

    /// Ends the session of this client.
    pub async fn sign_out(&self) -> Result<(), ClientError> {
        self.delete("/session").await
    }

    /// Sets another password for the user of this client, and ends their other sessions and tokens.
    pub async fn change_password(&self, change: &ChangePassword) -> Result<(), ClientError> {
        let path = "/session/password";
        self.send(path, self.request(reqwest::Method::PUT, path).json(change)).await.map(drop)
    }
}
