//! Enrolments: which devices may join the account, and which were turned away.

use protocol_types::{EndpointName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// Lets a device, or every device of an authority, join the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrolment {
    /// Its id.
    pub id: String,
    /// The only endpoint name that it allows; absent if it allows any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<EndpointName>,
    /// The only authority whose certificates it allows; absent if it allows those of every authority of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
}

/// Asks for an enrolment; at least one of the two fields must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrolment {
    /// Allows this endpoint name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<EndpointName>,
    /// Allows certificates of this authority alone; without `endpoint`, every one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// A device that proved its identity and was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Denial {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// The reason code that it was told.
    pub reason: String,
    /// First time, in Unix seconds.
    #[schema(value_type = u64)]
    pub first: UnixSeconds,
    /// Last time, in Unix seconds.
    #[schema(value_type = u64)]
    pub last: UnixSeconds,
    /// How often.
    pub attempts: u64,
}

impl Client {
    /// The enrolments of the account.
    pub async fn enrolments(&self, page: &PageQuery) -> Result<Page<Enrolment>, ClientError> {
        self.get("/enrolments", page).await
    }

    /// One enrolment.
    pub async fn enrolment(&self, id: &str) -> Result<Enrolment, ClientError> {
        self.get(&format!("/enrolments/{id}"), &()).await
    }

    /// Makes an enrolment.
    pub async fn create_enrolment(&self, enrolment: &CreateEnrolment) -> Result<Enrolment, ClientError> {
        self.post("/enrolments", enrolment).await
    }

    /// Takes an enrolment away. Devices that joined by it stay, but cannot bootstrap again.
    pub async fn delete_enrolment(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/enrolments/{id}")).await
    }

    /// Devices that were turned away, the most recent first.
    pub async fn denials(&self, page: &PageQuery) -> Result<Page<Denial>, ClientError> {
        self.get("/denials", page).await
    }
}
