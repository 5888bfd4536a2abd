//! Somebody without a token, on paths that are open: how what they do goes on record.

use axum::{extract::FromRequestParts, http::request::Parts};
use fleet_store::{AccountScope, Acting, PrincipalName};
use protocol_types::UnixSeconds;

use crate::{
    fleet::Fleet,
    rest::{
        Reply,
        gate::{ClientAddress, RequestId},
    },
};

/// From where a request came, and its id.
#[derive(Clone, Debug)]
pub(super) struct Outsider {
    address: String,
    request: String,
}

impl FromRequestParts<Fleet> for Outsider {
    type Rejection = super::Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Fleet) -> Reply<Self> {
        Ok(Self {
            address: parts.extensions.get::<ClientAddress>().map(|address| address.0.to_string()).unwrap_or_default(),
            request: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
        })
    }
}

impl Outsider {
    /// On whose behalf the account is changed once this one is known to be `who`. `credential` is the id of the token that is made.
    pub(super) fn acting(
        &self,
        (account, who): (&AccountScope, &PrincipalName),
        (action, credential): (&str, &str),
        now: UnixSeconds,
    ) -> Acting {
        Acting {
            request: self.request.clone(),
            principal: who.to_string(),
            home: account.name().clone(),
            credential: credential.to_owned(),
            address: self.address.clone(),
            action: action.to_owned(),
            resource: format!("users/{}", who.name()),
            time: now,
        }
    }
}
