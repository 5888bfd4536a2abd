//! The typed client of the REST API, used by the command line and the journeys. Each resource adds its calls in its own file.

use std::{fmt, time::Duration};

use protocol_types::AccountName;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::{ACCOUNT_HEADER, BASE_PATH, Problem};

/// Where the service is, how to know it, and who asks.
#[derive(Clone)]
pub struct ClientConfig {
    /// As in `https://service.example:8443`.
    pub address: String,
    /// PEM certificates of the only authority that the service's certificate may chain to.
    pub authority_pem: String,
    /// The token's secret; without one only the open paths answer.
    pub token: Option<String>,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why a call did not bring what it was to bring.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration is not usable.
    #[error("cannot use the service's certificate authority")]
    Authority(#[source] reqwest::Error),
    /// The service could not be reached, or the connection broke.
    #[error("cannot reach the service at {address}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why it failed.
        source: reqwest::Error,
    },
    /// The service refused, and said why.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// Something answered, but not with what the contract promises.
    #[error("the answer of {path} with status {status} does not follow the contract of this version")]
    Unexpected {
        /// What was asked.
        path: String,
        /// The status of the answer.
        status: u16,
    },
    /// A local file could not be read for upload.
    #[error("cannot read the file to upload")]
    Read(#[source] std::io::Error),
}

impl ClientError {
    /// The refusal, if the service refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            Self::Authority(_) | Self::Unreachable { .. } | Self::Unexpected { .. } | Self::Read(_) => None,
        }
    }
}

/// Longest silence of the service in the middle of an answer. Event streams send a sign of life more often than that.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may rest before it is no longer used: less than the service waits for the next request, so that no request
/// meets a connection that is being closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the service. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: String,
    token: Option<String>,
    account: Option<AccountName>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that trusts the given authority and no other.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let roots =
            reqwest::Certificate::from_pem_bundle(config.authority_pem.as_bytes()).map_err(ClientError::Authority)?;
        let http = reqwest::Client::builder()
            .tls_certs_only(roots)
            .https_only(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(IDLE_CONNECTION)
            .build()
            .map_err(ClientError::Authority)?;
        let address = config.address.trim_end_matches('/').to_owned();
        Ok(Self { http, address, token: config.token.clone(), account: None })
    }

    /// The same client, which asks about an account below its own.
    #[must_use]
    pub fn in_account(self, account: AccountName) -> Self {
        Self { account: Some(account), ..self }
    }

    /// Whether the service is ready to answer.
    pub async fn ready(&self) -> Result<bool, ClientError> {
        let answer = self.http.get(format!("{}/readyz", self.address)).send().await.map_err(|e| self.unreachable(e))?;
        Ok(answer.status() == StatusCode::OK)
    }

    /// A request with the token, to a path below [`BASE_PATH`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{BASE_PATH}{path}", self.address));
        let request = match &self.account {
            Some(account) => request.header(ACCOUNT_HEADER, account.as_str()),
            None => request,
        };
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; a refusal becomes an error.
    pub(crate) async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response, ClientError> {
        let answer = request.send().await.map_err(|e| self.unreachable(e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|e| self.unreachable(e))?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => ClientError::Refused(Box::new(problem)),
            Err(_) => ClientError::Unexpected { path: path.to_owned(), status: status.as_u16() },
        })
    }

    /// Sends a request and reads the JSON of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let answer = self.send(path, request).await?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(|e| self.unreachable(e))?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Unexpected { path: path.to_owned(), status })
    }

    /// `GET` with query parameters.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, ClientError> {
        self.json(path, self.request(Method::GET, path).query(query)).await
    }

    /// `POST` with a JSON body.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.json(path, self.request(Method::POST, path).json(body)).await
    }

    /// `POST` with a JSON body and the key under which a repetition makes nothing more.
    pub(crate) async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::POST, path).json(body);
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        self.json(path, request).await
    }

    /// `POST` without a body.
    pub(crate) async fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(path, self.request(Method::POST, path)).await
    }

    /// `PATCH` with a JSON body, if the resource is still at `revision`, or whatever it is.
    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        revision: Option<i64>,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::PATCH, path).json(body).header(header::IF_MATCH, entity_tag(revision));
        self.json(path, request).await
    }

    /// `PUT` with a JSON body, if the resource is still at `revision`, or in place of whatever is there.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        revision: Option<i64>,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::PUT, path).json(body).header(header::IF_MATCH, entity_tag(revision));
        self.json(path, request).await
    }

    /// `DELETE` whatever is there; the answer has no body.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.delete_at(path, None).await
    }

    /// `DELETE` what is there, if it is still at `revision`, or whatever it is; the answer has no body.
    pub(crate) async fn delete_at(&self, path: &str, revision: Option<i64>) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, path).header(header::IF_MATCH, entity_tag(revision));
        self.send(path, request).await.map(drop)
    }

    pub(crate) fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { address: self.address.clone(), source }
    }
}

/// What `If-Match` says: this revision, or any.
fn entity_tag(revision: Option<i64>) -> String {
    revision.map_or_else(|| "*".to_owned(), |revision| format!("\"{revision}\""))
}
