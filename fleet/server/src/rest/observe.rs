//! Counts and logs each request. Never logs a query, a header or a body.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderValue,
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use super::gate::RequestId;
use crate::{fleet::Fleet, metrics::RequestLabels};

/// Gives the request an id, which also stands in the answer, and notes how it ended.
pub(crate) async fn request(State(fleet): State<Fleet>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = fleet.random.bytes::<8>().map(hex::encode).unwrap_or_default();
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", %id, %method, route);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    if route.starts_with(fleet_api::BASE_PATH) {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        span.in_scope(|| tracing::info!(status, milliseconds, "request answered"));
    }
    fleet.metrics.requests.get_or_create(&RequestLabels { method: method.to_string(), route, status }).inc();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
