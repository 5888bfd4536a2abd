//! Sends spans to a collector (OTLP 1.x over HTTP, `application/x-protobuf`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use prost::Message as _;
use reqwest::{Client, StatusCode, Url, redirect::Policy};
use tokio::time::sleep;

use super::{TraceFault, TraceSettings};
use crate::{
    Random,
    endpoint::{self, EndpointFault},
};

/// How long a collector may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
/// Tries of one batch, and the longest wait after the first of them, which doubles.
const TRIES: u32 = 3;
const WAIT: Duration = Duration::from_secs(1);

/// Why the collector of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file that the settings name.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The settings make no sense.
    #[error(transparent)]
    Fault(#[from] TraceFault),
    /// The token has characters that no header may have.
    #[error("{} holds no token", .0.display())]
    Token(PathBuf),
    /// Not PEM, or a TLS that cannot be set up.
    #[error("cannot prepare TLS for the collector; `traces.authority_file` holds PEM certificates")]
    Tls(#[source] reqwest::Error),
}

/// The collector of the settings.
#[derive(Debug)]
pub(super) struct Collector {
    client: Client,
    address: Url,
    resource: ResourceAttributesWithSchema,
}

impl Collector {
    pub(super) fn new(settings: &TraceSettings, resource: &Resource) -> Result<Self, TraceError> {
        let address = endpoint::parse(&settings.endpoint).map_err(|fault| match fault {
            EndpointFault::None => TraceFault::Endpoint(settings.endpoint.clone()),
            EndpointFault::Open => TraceFault::Open,
        })?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))]);
        if let Some(path) = &settings.token_file {
            let text = read(path)?;
            let text = format!("Bearer {}", String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim());
            let mut token = HeaderValue::from_str(&text).map_err(|_| TraceError::Token(path.clone()))?;
            token.set_sensitive(true);
            headers.insert(AUTHORIZATION, token);
        }
        let mut client = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .redirect(Policy::none())
            .no_proxy();
        if let Some(path) = &settings.authority_file {
            client =
                client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(TraceError::Tls)?);
        }
        Ok(Self { client: client.build().map_err(TraceError::Tls)?, address, resource: resource.into() })
    }

    /// Sends spans; whether they were taken, after some tries.
    pub(super) async fn send(&self, spans: &[SpanData], random: &Random) -> bool {
        if spans.is_empty() {
            return true;
        }
        let resource_spans = group_spans_by_resource_and_scope(spans.to_vec(), &self.resource);
        let body = bytes::Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let mut wait = WAIT;
        for attempt in 1..=TRIES {
            let sent = self.client.post(self.address.clone()).body(body.clone()).send().await;
            let error = match sent {
                Ok(answer) if answer.status().is_success() => return true,
                Ok(answer) => {
                    let status = answer.status();
                    if !is_passing(status) {
                        tracing::warn!(%status, spans = spans.len(), "the collector refused spans");
                        return false;
                    }
                    status.to_string()
                }
                Err(error) => crate::Chain(&error.without_url()).to_string(),
            };
            if attempt == TRIES {
                tracing::warn!(error, spans = spans.len(), "the collector was not reached");
                return false;
            }
            // Between half of the wait and all of it, so that many services do not come back at once.
            let chance = random.bytes::<1>().map_or(0, |[byte]| u32::from(byte));
            sleep(wait - wait * chance / 512).await;
            wait *= 2;
        }
        false
    }
}

/// Whether the same spans may be taken later (OTLP, "retryable response codes").
fn is_passing(status: StatusCode) -> bool {
    [429, 502, 503, 504].contains(&status.as_u16())
}

fn read(path: &Path) -> Result<Vec<u8>, TraceError> {
    fs::read(path).map_err(|source| TraceError::Read { path: path.to_owned(), source })
}
