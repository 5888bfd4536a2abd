//! The REST API: one file a resource, each with one `router`. Handlers understand, decide, answer; they never see SQL.

mod access;
mod accounts;
mod alert_rules;
mod alerts;
mod answer;
mod artifacts;
mod audit;
mod authorities;
mod body;
mod caller;
mod command_wait;
mod commands;
mod configuration;
mod description;
mod device_edits;
mod devices;
mod dry_run;
mod effective_configuration;
mod enrolments;
mod event_socket;
mod events;
mod examples;
mod filters;
mod follower;
pub(crate) mod gate;
mod groups;
mod health;
mod identity_provider;
mod inventory;
mod invitations;
mod jobs;
mod listed_certificates;
mod metrics;
mod numbered;
mod observe;
mod operations;
mod outsider;
mod paging;
mod quotas;
mod repository;
mod role_bindings;
mod rollout_form;
mod rollouts;
pub(crate) mod secret;
mod secrets;
mod service;
mod service_accounts;
mod sessions;
mod silences;
mod single_sign_on;
mod subscriptions;
mod tokens;
mod unread;
mod users;
mod why;

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
        .merge(alert_rules::router())
        .merge(alerts::router())
        .merge(audit::router())
        .merge(role_bindings::router())
        .merge(service_accounts::router())
        .merge(sessions::router())
        .merge(users::router())
        .merge(silences::router())
        .merge(single_sign_on::router())
        .merge(subscriptions::router())
        .merge(artifacts::router())
        .merge(commands::router())
        .merge(configuration::router())
        .merge(effective_configuration::router())
        .merge(secrets::router())
        .merge(events::router())
        .merge(event_socket::router())
        .merge(filters::router())
        .merge(groups::router())
        .merge(identity_provider::router())
        .merge(inventory::router())
        .merge(metrics::router())
        .merge(invitations::router())
        .merge(jobs::router())
        .merge(operations::router())
        .merge(device_edits::router())
        .merge(listed_certificates::router())
        .merge(quotas::router())
        .merge(repository::router())
        .merge(rollouts::router())
        .merge(dry_run::router())
        .merge(why::router())
        .merge(authorities::router())
        .merge(devices::router())
        .merge(enrolments::router())
        .merge(service::router())
        .merge(tokens::router());
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
mod access_tests;
#[cfg(test)]
mod command_tests;
#[cfg(test)]
mod configuration_tests;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod job_tests;
#[cfg(test)]
mod journey_tests;
#[cfg(test)]
mod operation_tests;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod rollout_tests;
#[cfg(test)]
mod route_tests;
#[cfg(test)]
mod single_sign_on_tests;
#[cfg(test)]
mod stranger_tests;
#[cfg(test)]
mod user_tests;
