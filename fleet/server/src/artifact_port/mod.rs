//! The port from which devices fetch metadata, artifacts and the time: HTTP/1.1 with a device certificate, and only what belongs
//! to the account in that certificate. Never serves an artifact whose digest was not checked.

mod range;

use std::{future::ready, io, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use fleet_store::StoreError;
use futures_util::{StreamExt as _, stream};
use protocol_types::{Digest, ReasonCode, SignedTime};
use rustls::ServerConnection;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::range::Wanted;
use crate::{
    artifact_store::ByteStream, authority::CertificateFacts, crowd::Crowd, fleet::Fleet, metrics::HandshakeLabels,
    tls::Peer,
};

/// The port's name in logs and metrics.
pub(crate) const NAME: &str = "artifacts";
/// Answers under way at a time; each one holds no more than a few pieces in memory, however slowly its device reads.
const TRANSFERS: usize = 1024;
/// Connections of one device.
const OF_ONE_DEVICE: u8 = 8;
/// Seconds after which a device that found no room asks again.
const RETRY_AFTER_S: &str = "5";
/// Longest name of a metadata file.
const MAX_NAME_BYTES: usize = 128;
/// Hexadecimal digits of a nonce: enough that none comes twice.
const NONCE_DIGITS: std::ops::RangeInclusive<usize> = 32..=64;

/// What all requests share.
#[derive(Clone)]
struct Shop {
    fleet: Fleet,
    transfers: Arc<Semaphore>,
}

/// Who comes in, and what they find there. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admission {
    router: Router,
    crowd: Crowd,
}

impl Admission {
    pub(crate) fn new(fleet: Fleet) -> Self {
        let shop = Shop { fleet, transfers: Arc::new(Semaphore::new(TRANSFERS)) };
        let router = Router::new()
            .route("/v1/metadata/{name}", get(metadata))
            .route("/v1/artifacts/{digest}", get(artifact))
            .route_layer(middleware::from_fn_with_state(shop.clone(), only_who_may_install))
            .route("/v1/time", get(time))
            .with_state(shop);
        Self { router, crowd: Crowd::new(OF_ONE_DEVICE) }
    }

    /// The router for one connection of a device; none if it has too many of them.
    pub(crate) fn of(&self, peer: Peer) -> Option<Router> {
        // The router lives as long as the connection, and the place with it.
        let present = Arc::new(self.crowd.enter(&peer.facts.identity)?);
        Some(self.router.clone().layer(Extension(Arc::new(peer.facts))).layer(Extension(present)))
    }
}

/// The router for the connection of one device, made from what its handshake proved.
pub(crate) fn admission(fleet: Fleet) -> impl Fn(&ServerConnection) -> Option<Router> + Clone + Send + Sync + 'static {
    let admission = Admission::new(fleet.clone());
    move |tls| {
        let count = |result| {
            fleet.metrics.handshakes.get_or_create(&HandshakeLabels { port: NAME, result }).inc();
        };
        match fleet.trust.issuers.peer(tls, fleet.clock.now()) {
            Ok(peer) => {
                let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                count(if resumed { "resumed" } else { "full" });
                admission.of(peer)
            }
            Err(error) => {
                tracing::debug!(port = NAME, %error, "a resumed session is no longer trusted");
                count("refused");
                None
            }
        }
    }
}

/// Why a request gets nothing.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The account has nothing of that name.
    Nothing,
    /// The device may not install.
    Forbidden(ReasonCode),
    /// The request has no sense.
    Malformed(&'static str),
    /// Too many answers are under way.
    Busy,
    /// The service failed; its log says more.
    Failed,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Nothing => (StatusCode::NOT_FOUND, ReasonCode::NotFound.as_str()).into_response(),
            Self::Forbidden(reason) => (StatusCode::FORBIDDEN, reason.as_str()).into_response(),
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, why).into_response(),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER_S)], "try again later")
                .into_response(),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, ReasonCode::Internal.as_str()).into_response(),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::NotFound { .. }) {
            return Self::Nothing;
        }
        tracing::error!(error = %crate::Chain(&error), "a device was not served");
        Self::Failed
    }
}

/// Turns devices away that were suspended, quarantined or deleted after their certificate was issued.
async fn only_who_may_install(
    State(shop): State<Shop>,
    Extension(who): Extension<Arc<CertificateFacts>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if who.not_after <= shop.fleet.clock.now() {
        return Err(Refusal::Forbidden(ReasonCode::CertificateUnknown));
    }
    let account = shop.fleet.store.account(&who.identity.account);
    match account.may_install(&who.identity.endpoint, &who.serial).await? {
        Ok(()) => Ok(next.run(request).await),
        Err(reason) => {
            shop.fleet.metrics.refused(reason);
            let identity = &who.identity;
            tracing::info!(account = %identity.account, device = %identity.endpoint, %reason, "artifacts refused");
            Err(Refusal::Forbidden(reason))
        }
    }
}

async fn metadata(
    State(shop): State<Shop>,
    Extension(who): Extension<Arc<CertificateFacts>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Refusal::Nothing);
    }
    let transfer = shop.transfer()?;
    let file = shop.fleet.store.account(&who.identity.account).metadata_file(&name).await?;
    let bytes = Bytes::from(file.ok_or(Refusal::Nothing)?);
    let (size, tag) = (u64::try_from(bytes.len()).unwrap_or(u64::MAX), Digest::of(&bytes));
    let wanted = range::wanted(&headers, &tag, size);
    let range = wanted.range(size);
    // A file of metadata is in memory, so its positions are.
    let range = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(bytes.len()));
    let piece = stream::once(ready(Ok(bytes.slice(range[0]..range[1])))).boxed();
    Ok(answer((wanted, size, tag), ("application/json", piece), transfer))
}

async fn artifact(
    State(shop): State<Shop>,
    Extension(who): Extension<Arc<CertificateFacts>>,
    Path(hex): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest = Digest::from_hex(&hex).map_err(|_| Refusal::Nothing)?;
    let transfer = shop.transfer()?;
    let account = &who.identity.account;
    let row = shop.fleet.store.account(account).artifact(&digest).await?;
    if !row.complete {
        return Err(Refusal::Nothing);
    }
    let wanted = range::wanted(&headers, &digest, row.size);
    let opened = shop.fleet.artifacts.stream(account, &digest, wanted.range(row.size)).await;
    let bytes = opened.map_err(|error| {
        tracing::error!(%account, %digest, error = %crate::Chain(&error), "an artifact cannot be opened");
        // An object store that is away comes back; the device asks again.
        if error.kind() == io::ErrorKind::NotConnected { Refusal::Busy } else { Refusal::Failed }
    })?;
    Ok(answer((wanted, row.size, digest), ("application/octet-stream", bytes), transfer))
}

impl Shop {
    fn transfer(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.transfers.clone().try_acquire_owned().map_err(|_| Refusal::Busy)
    }
}

/// Sends what is wanted of `size` bytes, which is what `bytes` brings. The place is held until the last byte has left.
fn answer(
    (wanted, size, tag): (Wanted, u64, Digest),
    (kind, bytes): (&'static str, ByteStream),
    transfer: OwnedSemaphorePermit,
) -> Response {
    let length = wanted.length(size);
    let stream = bytes.map(move |chunk| {
        let _held = &transfer;
        chunk
    });
    let mut response = match wanted {
        Wanted::Nothing => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
        Wanted::Whole | Wanted::Part { .. } => Body::from_stream(stream).into_response(),
    };
    let (status, content_range) = match wanted {
        Wanted::Whole => (StatusCode::OK, None),
        Wanted::Part { first, last } => (StatusCode::PARTIAL_CONTENT, Some(format!("bytes {first}-{last}/{size}"))),
        Wanted::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{size}"))),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let texts = [(header::ETAG, Some(range::entity_tag(&tag))), (header::CONTENT_RANGE, content_range)];
    for (name, text) in texts {
        // Digits, dashes and quotation marks: always a header value.
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeQuery {
    nonce: String,
}

/// The present, signed for the asker's nonce. Open to every device with a certificate: it tells nothing.
async fn time(
    State(shop): State<Shop>,
    query: Result<Query<TimeQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<SignedTime>, Refusal> {
    let Ok(Query(TimeQuery { nonce })) = query else { return Err(Refusal::Malformed("send one nonce=HEX")) };
    if !NONCE_DIGITS.contains(&nonce.len()) || !nonce.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Refusal::Malformed("a nonce has 32 to 64 hexadecimal digits"));
    }
    let told = shop.fleet.authority.time.sign(shop.fleet.clock.now(), nonce).map_err(|error| {
        tracing::error!(error = %crate::Chain(&error), "the time was not signed");
        Refusal::Failed
    })?;
    Ok(Json(told))
}
