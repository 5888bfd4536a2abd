//! `/service`: what a factory writes into a device so that the device finds the service and knows it.

use axum::{Json, extract::State};
use fleet_api::ServiceFacts;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Reply,
        caller::{Caller, need},
    },
};

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(show))
}

/// What a factory needs to know of the service.
#[utoipa::path(get, path = "/service", tag = "service", operation_id = "show_service",
    security(("token" = ["read"])), responses((status = 200, description = "The service", body = ServiceFacts)))]
async fn show(State(fleet): State<Fleet>, who: Caller<need::Read>) -> Reply<Json<ServiceFacts>> {
    let addresses = &fleet.addresses;
    Ok(Json(ServiceFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        account: who.account.name().clone(),
        bootstrap_uri: format!("coaps+tcp://{}:{}", addresses.public_host(), addresses.bootstrap.port()),
        authority: fleet.authority.service.certificate_pem().to_owned(),
        time_key: fleet.authority.time.public_key_pem(),
    }))
}
