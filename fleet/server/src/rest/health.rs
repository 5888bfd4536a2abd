//! Whether the service lives, whether it can work, and what it has counted. Open to everybody who reaches the port: the
//! answers name no account and no device.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use fleet_api::ProblemCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{Refusal, Reply},
};

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(alive)).routes(routes!(ready)).routes(routes!(metrics))
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It answers", body = String)))]
async fn alive() -> &'static str {
    "ok\n"
}

/// Whether the service can do its work: the database answers and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, description = "It can work", body = String)))]
async fn ready(State(fleet): State<Fleet>) -> Reply<&'static str> {
    if fleet.stop.is_cancelled() {
        return Err(Refusal::new(ProblemCode::Unavailable, "the service is stopping"));
    }
    if fleet.store.ready().await.is_err() {
        return Err(Refusal::new(ProblemCode::Unavailable, "the database does not answer"));
    }
    Ok("ready\n")
}

/// Counters in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, description = "OpenMetrics",
    body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(fleet): State<Fleet>) -> Reply<impl IntoResponse> {
    let text = fleet.metrics.text().map_err(|e| Refusal::internal(&e))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text))
}
