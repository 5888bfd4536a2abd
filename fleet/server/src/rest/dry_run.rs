//! `/rollouts/dry-run`: what a rollout would do if it were started now. Makes nothing.

use axum::{Json, extract::State};
use fleet_api::{CreateRollout, DryRun, HeldDevices};
use fleet_store::RolloutRow;
use protocol_release::document::Release;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusal, Reply,
    body::Body,
    caller::{Caller, need},
    rollout_form::understand,
};
use crate::{
    fleet::Fleet,
    repository::weight,
    rollouts::{Preview, Why, preview},
};

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(dry_run))
}

fn held((why, devices): (Why, u64)) -> HeldDevices {
    let Why { endpoint: example, rule, evidence, text, next, hint, .. } = why;
    HeldDevices {
        rule: rule.to_owned(),
        devices,
        example,
        text,
        evidence: evidence.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        next_attempt: next,
        hint,
    }
}

/// What a rollout would do if it were started now: who, when, how many bytes, and who would be held by what. Makes nothing.
#[utoipa::path(post, path = "/rollouts/dry-run", tag = "rollouts", operation_id = "dry_run_rollout", request_body = CreateRollout,
    security(("token" = ["read"])), responses((status = 200, description = "What would happen", body = DryRun)))]
async fn dry_run(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    body: Body<CreateRollout>,
) -> Reply<Json<DryRun>> {
    let wanted = understand(body.value)?;
    if let fleet_store::Audience::Group(group) = &wanted.audience {
        who.account.group(group).await?;
    }
    let now = fleet.clock.now();
    let release = who.account.release(&wanted.release).await?;
    let classes = who.account.audience_in_classes(&wanted, &release.digest, now).await?;
    let document = Release::parse(release.document.as_bytes()).map_err(|error| Refusal::internal(&error))?;
    let bytes_per_device = weight(&fleet, &who.account, &document).await?;
    let rollout = RolloutRow::imagined(wanted, &release, now)?;
    let Preview { devices, already, ready, at_once, offers_take_s, waves, held: others } =
        preview(&rollout, &classes, now);
    Ok(Json(DryRun {
        devices,
        already_running: already,
        ready,
        at_once,
        offers_take_s,
        waves,
        held: others.into_iter().map(held).collect(),
        bytes_per_device,
        bytes: bytes_per_device.saturating_mul(devices - already),
    }))
}
