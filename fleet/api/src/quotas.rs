//! Quotas: how much of something an account and those below it may have together.

use protocol_types::AccountName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError};

/// A quota, and what stands against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// What it counts: `devices`, `artifact_bytes`, `groups`, `principals` or `tokens`.
    pub kind: String,
    /// How much the account and those below it may have together; absent if only the accounts above set a ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// How much they have.
    pub used: u64,
}

/// The quotas of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quotas {
    /// One of each kind.
    pub items: Vec<Quota>,
}

/// Sets quotas of an account. What is absent or `null` has none from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuotas {
    /// Devices that were not decommissioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u64>,
    /// Bytes of artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_bytes: Option<u64>,
    /// Groups of devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<u64>,
    /// Users and service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principals: Option<u64>,
    /// Tokens and sessions that still work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

impl SetQuotas {
    /// The quota of that kind; `None` if there is no such kind.
    pub fn named(&mut self, kind: &str) -> Option<&mut Option<u64>> {
        match kind {
            "devices" => Some(&mut self.devices),
            "artifact_bytes" => Some(&mut self.artifact_bytes),
            "groups" => Some(&mut self.groups),
            "principals" => Some(&mut self.principals),
            "tokens" => Some(&mut self.tokens),
            _ => None,
        }
    }
}

impl Client {
    /// The quotas of an account.
    pub async fn quotas(&self, account: &AccountName) -> Result<Quotas, ClientError> {
        self.get(&format!("/accounts/{account}/quotas"), &()).await
    }

    /// Sets all quotas of an account below this one's.
    pub async fn set_quotas(&self, account: &AccountName, wanted: &SetQuotas) -> Result<Quotas, ClientError> {
        let path = format!("/accounts/{account}/quotas");
        self.json(&path, self.request(reqwest::Method::PUT, &path).json(wanted)).await
    }
}
