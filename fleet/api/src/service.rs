//! The service itself: what a factory writes into a device so that the device finds the service and knows it.

use protocol_types::AccountName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError};

/// What a factory document says about the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceFacts {
    /// Version of the service.
    pub version: String,
    /// The account of the token.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// Address of the bootstrap server, as in `coaps+tcp://service.example:5684`.
    pub bootstrap_uri: String,
    /// PEM certificate that every certificate of the service chains to.
    pub authority: String,
    /// PEM public key that signs nonce-bound time.
    pub time_key: String,
}

impl Client {
    /// What a factory needs to know of the service.
    pub async fn service_facts(&self) -> Result<ServiceFacts, ClientError> {
        self.get("/service", &()).await
    }
}
