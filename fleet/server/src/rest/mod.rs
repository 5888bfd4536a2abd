//! The REST API: one folder a subject, one file a resource, each with one `router`. Handlers understand, decide, answer; they never see SQL.

pub(crate) mod access;
mod accounts;
mod alerts;
mod answer;
mod body;
mod caller;
mod commands;
mod configuration;
mod description;
mod devices;
mod enrolments;
mod events;
mod examples;
pub(crate) mod gate;
mod groups;
mod health;
mod jobs;
mod numbered;
mod observe;
mod operations;
mod outsider;
mod paging;
pub(crate) mod refusals;
mod releases;
mod rollouts;
mod service;
mod unread;

use axum::{Router, extract::DefaultBodyLimit, middleware};
use fleet_api::{BASE_PATH, Problem, ProblemCode};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{OpenApi as _, openapi::OpenApi};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use answer::{Refusal, Reply};

use crate::fleet::Fleet;

/// Longest JSON body, in bytes, where a resource says nothing else.
const BODY_BYTES: usize = 1 << 20;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Mbed Linux OS device management", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    components(schemas(Problem))
)]
struct Description;

/// All resources.
fn resources() -> OpenApiRouter<Fleet> {
    let resources = OpenApiRouter::new()
        .merge(access::router())
        .merge(accounts::router())
        .merge(alerts::router())
        .merge(commands::router())
        .merge(configuration::router())
        .merge(devices::router())
        .merge(enrolments::router())
        .merge(events::router())
        .merge(groups::router())
        .merge(jobs::router())
        .merge(operations::router())
        .merge(releases::router())
        .merge(rollouts::router())
        .merge(service::router());
    OpenApiRouter::with_openapi(Description::openapi()).merge(health::router()).nest(BASE_PATH, resources)
}

/// The description of the API, as `fleet/api/openapi.json` holds it.
pub fn openapi() -> OpenApi {
    let mut description = resources().into_openapi();
    description::complete(&mut description);
    description
}

/// The whole API, ready to serve.
pub(crate) fn router(fleet: Fleet) -> Router {
    let (router, _) = resources().split_for_parts();
    router
        .fallback(async || Refusal::new(ProblemCode::NotFound, "the API has no such path"))
        .method_not_allowed_fallback(async || {
            Refusal::new(ProblemCode::MethodNotAllowed, "this path does not know the method")
        })
        .layer(middleware::from_fn_with_state(fleet.clone(), gate::admit))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(CatchPanicLayer::custom(answer::panicked))
        .layer(middleware::from_fn_with_state(fleet.clone(), unread::take_in))
        .layer(middleware::from_fn_with_state(fleet.clone(), observe::request))
        .with_state(fleet)
}

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod journey_tests;
#[cfg(test)]
mod route_tests;
#[cfg(test)]
mod stranger_tests;
