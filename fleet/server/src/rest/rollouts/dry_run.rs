//! `/rollouts/dry-run`: what a rollout would do if it were started now. Makes nothing.

use axum::{Json, extract::State};
use fleet_api::{CreateRollout, DryRun, HeldDevices};
use fleet_store::{RolloutRow, Subject};
use protocol_release::document::Release;
use protocol_types::Digest;
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    repository::weight,
    rest::{
        Refusal, Reply,
        body::Body,
        caller::{Caller, need},
        rollouts::form::understand,
    },
    rollouts::{Preview, Why, preview},
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
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
    let (target, bytes_per_device) = match &wanted.subject {
        Subject::Release(version) => {
            let release = who.account.release(version).await?;
            let document = Release::parse(release.document.as_bytes()).map_err(|error| Refusal::internal(&error))?;
            let bytes = weight(&fleet, &who.account, &document).await?;
            ((Some(release.path), release.digest), bytes)
        }
        // A device is given one document for all its levels; this one stands for its length.
        Subject::Configuration { level, revision } => {
            let row = who.account.configuration_revision(level, *revision).await?;
            let text = Value::Object(row.document).to_string();
            ((None, Digest::of(text.as_bytes())), u64::try_from(text.len()).unwrap_or(u64::MAX))
        }
    };
    let classes = who.account.audience_in_classes(&wanted, &target.1, now).await?;
    let rollout = RolloutRow::imagined(wanted, target, now)?;
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
