//! Secrets of applications: given once, never shown again. What is shown is whose they are and which version they have.

use std::fmt;

use protocol_types::{AppName, SecretName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, ConfigurationLevel, ConfigurationOf, Page};

/// A secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Whose it is.
    pub level: ConfigurationLevel,
    /// Name of the group or device; empty for the account.
    pub level_name: String,
    /// The application that is given it.
    #[schema(value_type = String)]
    pub application: AppName,
    /// Its name, which is also the name of its file.
    #[schema(value_type = String)]
    pub name: SecretName,
    /// Counts the values that it has had; the same value again counts nothing.
    pub version: u64,
    /// When it got the present value, in Unix seconds.
    #[schema(value_type = u64)]
    pub changed: UnixSeconds,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretEncoding {
    /// As it is.
    #[default]
    Text,
    /// In base64 with padding (RFC 4648, section 4).
    Base64,
}

/// Gives a secret a value, or takes it away.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSecret {
    /// The application that is given it.
    #[schema(value_type = String)]
    pub application: AppName,
    /// Its name.
    #[schema(value_type = String)]
    pub name: SecretName,
    /// Its value, at most 1024 bytes; null takes the secret away.
    #[serde(default)]
    pub value: Option<String>,
    /// How the value is written.
    #[serde(default)]
    pub encoding: SecretEncoding,
}

impl fmt::Debug for ChangeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeSecret")
            .field("application", &self.application)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The secrets of a level, without their values.
    pub async fn secrets(&self, of: &ConfigurationOf) -> Result<Page<Secret>, ClientError> {
        self.get(&format!("{}/secrets", of.path()), &()).await
    }

    /// Gives a secret of a level a value, or takes it away; the secrets that there are then.
    pub async fn change_secret(
        &self,
        of: &ConfigurationOf,
        change: &ChangeSecret,
    ) -> Result<Page<Secret>, ClientError> {
        let path = format!("{}/secrets", of.path());
        self.json(&path, self.request(reqwest::Method::PATCH, &path).json(change)).await
    }
}
