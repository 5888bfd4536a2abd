//! Counts and logs each request. Never logs a query, a header or a body.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{fleet::Fleet, metrics::RequestLabels, rest::gate::RequestId, traces};

tokio::task_local! {
    /// The id of the request that is being answered.
    static REQUEST: String;
}

/// The name of the request that is being answered, for its problem.
pub(super) fn instance() -> Option<String> {
    REQUEST.try_with(|id| format!("urn:mbl:request:{id}")).ok()
}

/// The method, as it is counted for ever: whoever asks may make up any word of any length.
const fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Gives the request an id, which also stands in the answer, and notes how it ended.
pub(crate) async fn request(State(fleet): State<Fleet>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = fleet.random.bytes::<8>().map(hex::encode).unwrap_or_default();
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    // Probes and scrapes come again and again, and tell nobody anything.
    let is_api = route.starts_with(fleet_api::BASE_PATH);
    let span = if is_api { tracing::info_span!("request", %id, method, route) } else { Span::none() };
    if let Some(place) = request.headers().get(traces::HEADER).and_then(|value| value.to_str().ok()) {
        traces::adopt(&span, place);
    }
    let answered = REQUEST.scope(id.clone(), next.run(request).instrument(span.clone()));
    let mut response = answered.await;
    let status = response.status().as_u16();
    span.set_attribute("http.response.status_code", i64::from(status));
    if is_api {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        span.in_scope(|| tracing::info!(status, milliseconds, "request answered"));
    }
    fleet.metrics.requests.get_or_create(&RequestLabels { method, route, status }).inc();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
