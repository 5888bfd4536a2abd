//! `/rollouts/{id}/why` and `/devices/{endpoint}/why`: why a device is not on the release that somebody wants it to run.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use fleet_api::{DeviceWhy, Page, PageQuery, WhyNot, forms};
use fleet_store::{AccountScope, RolloutRow};
use protocol_types::{EndpointName, RolloutId, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Reply,
        body::{Parameters, Segments},
        caller::{Caller, need},
        paging::Paging,
        rollouts::form::brought,
    },
    rollouts::{Why, ended, explain, not_in_audience},
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(of_rollout)).routes(routes!(of_device)).routes(routes!(forgive))
}

fn view(rollout: &RolloutRow, why: Why) -> WhyNot {
    let Why { endpoint, state, rule, evidence, text, next, hint } = why;
    let (release, configuration) = brought(rollout.wanted.subject.clone());
    WhyNot {
        endpoint,
        rollout: rollout.id.clone(),
        release,
        configuration,
        state,
        rule: rule.to_owned(),
        text,
        evidence: evidence.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        next_attempt: next,
        hint,
    }
}

/// Why devices of a rollout are not on its release, in the order of their names.
#[utoipa::path(get, path = "/rollouts/{id}/why", tag = "rollouts", operation_id = "explain_rollout",
    params(("id" = String, Path, description = "The rollout"), PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of answers", body = forms::WhyNotPage)))]
async fn of_rollout(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(id): Segments<RolloutId>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<WhyNot>>> {
    let paging = Paging::read(&query)?;
    let now = fleet.clock.now();
    let facts = who.account.facts_of_rollout(&id, now).await?;
    let behind = who.account.rollout_left_behind(&id, paging.after(), paging.rows()).await?;
    let open = explain(&facts, now).into_iter().filter(|why| why.endpoint.as_str() > paging.after());
    // Both are in the order of their names, so the page is complete as far as it goes.
    let all: BTreeMap<EndpointName, Why> =
        behind.iter().filter_map(ended).chain(open).map(|why| (why.endpoint.clone(), why)).collect();
    let rows = all.into_values().take(usize::try_from(paging.rows()).unwrap_or(usize::MAX)).collect();
    Ok(Json(paging.page(rows, |why: &Why| why.endpoint.to_string(), |why| view(&facts.rollout, why))))
}

/// Why a device is not on the release that rollouts want it to run.
#[utoipa::path(get, path = "/devices/{endpoint}/why", tag = "devices", operation_id = "explain_device",
    params(("endpoint" = String, Path, description = "The device")),
    security(("token" = ["read"])), responses((status = 200, description = "The answers", body = DeviceWhy)))]
async fn of_device(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<DeviceWhy>> {
    Ok(Json(answers(&who.account, endpoint, fleet.clock.now()).await?))
}

/// Lets a device that is held back because it kept failing take part in rollouts again. Asking again changes nothing.
#[utoipa::path(post, path = "/devices/{endpoint}/forgive", tag = "devices", operation_id = "forgive_device",
    params(("endpoint" = String, Path, description = "The device")),
    security(("token" = ["operate"])), responses((status = 200, description = "The answers now", body = DeviceWhy)))]
async fn forgive(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<DeviceWhy>> {
    let now = fleet.clock.now();
    who.account.forgive_failures(&endpoint, now).await?;
    Ok(Json(answers(&who.account, endpoint, now).await?))
}

async fn answers(account: &AccountScope, endpoint: EndpointName, now: UnixSeconds) -> Reply<DeviceWhy> {
    let device = account.device(&endpoint).await?;
    let mut reasons = Vec::new();
    for id in account.rollouts_for(&endpoint).await? {
        let facts = account.facts_of_rollout(&id, now).await?;
        let open = explain(&facts, now).into_iter().find(|why| why.endpoint == endpoint);
        let why = match (open, account.rollout_device(&id, &endpoint).await?) {
            (Some(why), _) => Some(why),
            (None, Some(row)) => ended(&row),
            (None, None) => Some(not_in_audience(&facts.rollout, endpoint.clone())),
        };
        reasons.extend(why.map(|why| view(&facts.rollout, why)));
    }
    let running = device.report.and_then(|(report, _)| report.running_version).map(String::from);
    Ok(DeviceWhy { endpoint, running, reasons })
}
