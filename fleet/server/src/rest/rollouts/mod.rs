//! `/rollouts`: make, start, pause, resume, abort and watch. What happens in between is decided in `rollouts/plan.rs`.

pub(crate) mod dry_run;
pub(crate) mod form;
pub(crate) mod why;

#[cfg(test)]
mod tests;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{CreateRollout, GiveConsent, Page, PageQuery, Rollout, RolloutDevice, RolloutDeviceQuery, forms};
use fleet_store::{AccountScope, RolloutDeviceRow, RolloutRow};
use protocol_types::{RolloutAction, RolloutId};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, MayMatch, Parameters, Segments, etag},
        caller::{Caller, need},
        paging::Paging,
        rollouts::form::{DEVICES, understand, view},
    },
};

type Tagged = ([(HeaderName, String); 1], Json<Rollout>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(dry_run::router())
        .merge(why::router())
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(devices))
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(abort))
        .routes(routes!(close))
        .routes(routes!(approve))
        .routes(routes!(ask_again))
        .routes(routes!(consent))
}

async fn tagged(account: &AccountScope, row: RolloutRow) -> Reply<Tagged> {
    let counts = account.rollout_counts(&row.id).await?;
    Ok((etag(row.revision), Json(view(row, counts))))
}

/// The rollouts of the account, in the order in which they were made.
#[utoipa::path(get, path = "/rollouts", tag = "rollouts", operation_id = "list_rollouts", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of rollouts", body = forms::RolloutPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Rollout>>> {
    let paging = Paging::read(&query)?;
    let mut rows = Vec::new();
    for row in who.account.rollouts_after(paging.after_number()?, paging.rows()).await? {
        let counts = who.account.rollout_counts(&row.id).await?;
        rows.push((row, counts));
    }
    Ok(Json(paging.page(rows, |(row, _)| row.number.to_string(), |(row, counts)| view(row, counts))))
}

/// Makes a rollout of a listed release. Nothing happens on any device before it is started.
#[utoipa::path(post, path = "/rollouts", tag = "rollouts", operation_id = "create_rollout", request_body = CreateRollout,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 201, description = "The rollout", body = Rollout)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<CreateRollout>,
) -> Reply<(StatusCode, Tagged)> {
    let wanted = understand(body.value)?;
    if let fleet_store::Audience::Group(group) = &wanted.audience {
        who.account.group(group).await?;
    }
    let row = who.account.create_rollout(&wanted, body.key.as_ref(), fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, tagged(&who.account, row).await?))
}

/// One rollout.
#[utoipa::path(get, path = "/rollouts/{id}", tag = "rollouts", operation_id = "show_rollout",
    params(("id" = String, Path, description = "The rollout")),
    security(("token" = ["read"])), responses((status = 200, description = "The rollout", body = Rollout)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<RolloutId>) -> Reply<Tagged> {
    let row = who.account.rollout(&id).await?;
    tagged(&who.account, row).await
}

/// How far a rollout is on each device.
#[utoipa::path(get, path = "/rollouts/{id}/devices", tag = "rollouts", operation_id = "list_rollout_devices",
    params(("id" = String, Path, description = "The rollout"), RolloutDeviceQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of devices", body = forms::RolloutDevicePage)))]
async fn devices(
    who: Caller<need::Read>,
    Segments(id): Segments<RolloutId>,
    Parameters(query): Parameters<RolloutDeviceQuery>,
) -> Reply<Json<Page<RolloutDevice>>> {
    let RolloutDeviceQuery { state, cursor, limit } = query;
    let paging = Paging::read(&PageQuery { cursor, limit })?;
    let rows = who.account.rollout_devices_after(&id, state, paging.after(), paging.rows()).await?;
    let view = |row: RolloutDeviceRow| {
        let RolloutDeviceRow { endpoint, state, waiting_for, reason, progress, since, wave, failed } = row;
        let wave = wave.map(|wave| wave + 1);
        RolloutDevice { endpoint, state, waiting_for, reason, progress, since, wave, failed_tries: failed }
    };
    Ok(Json(paging.page(rows, |row| row.endpoint.to_string(), view)))
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $variant:ident $path:literal $operation:literal;)+) => {
        $($(#[$doc])*
        #[utoipa::path(post, path = $path, tag = "rollouts", operation_id = $operation,
            params(("id" = String, Path, description = "The rollout"),
                   ("if-match" = Option<String>, Header, description = "`ETag` that the rollout must still have")),
            security(("token" = ["operate"])), responses((status = 200, description = "The rollout", body = Rollout)))]
        async fn $name(
            State(fleet): State<Fleet>,
            who: Caller<need::Operate>,
            Segments(id): Segments<RolloutId>,
            MayMatch(at): MayMatch,
        ) -> Reply<Tagged> {
            let by = who.caller.subject.to_string();
            let row = who.account.act_on_rollout(&id, RolloutAction::$variant, (at, &by), fleet.clock.now()).await?;
            tagged(&who.account, row).await
        })+
    };
}

actions! {
    /// Begins to offer the release. Asking again changes nothing.
    start Start "/rollouts/{id}/start" "start_rollout";
    /// Offers nothing new for now; devices under way go on. Asking again changes nothing.
    pause Pause "/rollouts/{id}/pause" "pause_rollout";
    /// Goes on after a pause. Asking again changes nothing.
    resume Resume "/rollouts/{id}/resume" "resume_rollout";
    /// Ends the rollout for good; devices that are switching go on to their own end. Asking again changes nothing.
    abort Abort "/rollouts/{id}/abort" "abort_rollout";
    /// Admits no further devices; the rollout ends once those that it has have come to an end. Asking again changes nothing.
    close Close "/rollouts/{id}/close" "close_rollout";
    /// Says yes to the whole rollout; whoever started it cannot. Asking again changes nothing.
    approve Approve "/rollouts/{id}/approve" "approve_rollout";
    /// Lets devices at which somebody said no ask again now. Asking again changes nothing more.
    ask_again AskAgain "/rollouts/{id}/ask-again" "ask_devices_again";
}

/// Says yes for devices that wait for an operator's consent. Asking again changes nothing.
#[utoipa::path(post, path = "/rollouts/{id}/consent", tag = "rollouts", operation_id = "consent_to_rollout",
    params(("id" = String, Path, description = "The rollout")), request_body = GiveConsent,
    security(("token" = ["operate"])), responses((status = 200, description = "The rollout", body = Rollout)))]
async fn consent(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(id): Segments<RolloutId>,
    body: Body<GiveConsent>,
) -> Reply<Tagged> {
    let devices = body.value.devices;
    if devices.as_ref().is_some_and(|devices| !(1..=DEVICES).contains(&devices.len())) {
        return Err(Refusal::value(
            "devices",
            format!("consent names 1 to {DEVICES} devices, or none for all that wait"),
        ));
    }
    let row = who.account.consent_to_rollout(&id, devices.as_deref(), fleet.clock.now()).await?;
    tagged(&who.account, row).await
}
