//! Factory certificates that may join because a list names them (`docs/formats/enrolment-list.md`).

use std::collections::BTreeMap;

use protocol_types::{EndpointName, UnixSeconds};
use reqwest::{Body, Method, header};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use utoipa::ToSchema;

use crate::{AttributeValue, Client, ClientError, Operation, Page, PageQuery};

/// Content type of an enrolment list.
pub const LIST_CONTENT_TYPE: &str = "text/csv";

/// A factory certificate that may join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedCertificate {
    /// SHA-256 of the certificate in 64 hexadecimal digits.
    pub fingerprint: String,
    /// The only name under which it may join; absent for the one in the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<EndpointName>,
    /// Tags that the device gets when it joins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Attributes that the device gets when it joins.
    #[serde(default)]
    pub attributes: BTreeMap<String, AttributeValue>,
    /// When it was listed, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When a device last joined with it, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub joined: Option<UnixSeconds>,
}

impl Client {
    /// The listed certificates of the account, in the order of their fingerprints.
    pub async fn listed_certificates(&self, page: &PageQuery) -> Result<Page<ListedCertificate>, ClientError> {
        self.get("/listed-certificates", page).await
    }

    /// Sends a list; the operation that goes through it. A `key` that nobody used before makes the call safe to repeat.
    pub async fn enrol_list(&self, list: File, key: Option<&str>) -> Result<Operation, ClientError> {
        let path = "/listed-certificates";
        let request =
            self.request(Method::POST, path).header(header::CONTENT_TYPE, LIST_CONTENT_TYPE).body(Body::from(list));
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        self.json(path, request).await
    }

    /// Takes a certificate off the list.
    pub async fn delete_listed_certificate(&self, fingerprint: &str) -> Result<(), ClientError> {
        self.delete(&format!("/listed-certificates/{fingerprint}")).await
    }
}
