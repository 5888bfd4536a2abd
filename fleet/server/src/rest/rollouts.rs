//! `/rollouts`: make, start, pause, resume, abort and watch. What happens in between is decided in `rollouts/plan.rs`.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{
    Audience, Consent, CreateRollout, FailureThreshold, GiveConsent, Page, PageQuery, Rollout, RolloutDevice,
    RolloutDeviceQuery, Window, forms,
};
use fleet_store::{
    AccountScope, Counts, DailyWindow, NewRollout, RolloutAction, RolloutDeviceRow, RolloutRow, Threshold,
};
use protocol_types::RolloutId;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusal, Reply,
    body::{Body, IfMatch, Parameters, Segments, etag},
    caller::{Caller, need},
    filters,
    paging::Paging,
};
use crate::fleet::Fleet;

const NAME_CHARACTERS: usize = 100;
/// Devices that an audience may list.
const DEVICES: usize = 10_000;

type Tagged = ([(HeaderName, String); 1], Json<Rollout>);

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(devices))
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(abort))
        .routes(routes!(consent))
}

/// Checks a wish and turns it into what the store keeps.
fn understand(wanted: CreateRollout) -> Reply<NewRollout> {
    let CreateRollout { name, release, audience, failure_threshold, max_in_flight, window, consent } = wanted;
    let name = name.unwrap_or_default();
    if name.chars().count() > NAME_CHARACTERS {
        return Err(Refusal::value("name", format!("a name has at most {NAME_CHARACTERS} characters")));
    }
    if max_in_flight == Some(0) {
        return Err(Refusal::value("max_in_flight", "at least one device must be under way at a time"));
    }
    let audience = match audience {
        Audience::All => fleet_store::Audience::All,
        Audience::Group(group) => fleet_store::Audience::Group(group),
        Audience::Filter(text) => fleet_store::Audience::Filter(filters::read("audience", &text)?),
        Audience::Devices(devices) if (1..=DEVICES).contains(&devices.len()) => fleet_store::Audience::Devices(devices),
        Audience::Devices(_) => {
            return Err(Refusal::value("audience", format!("an audience lists 1 to {DEVICES} devices")));
        }
    };
    let threshold = match failure_threshold {
        FailureThreshold::Count(0) => {
            return Err(Refusal::value("failure_threshold", "a rollout stops at 1 failed device or later"));
        }
        FailureThreshold::Count(count) => Threshold::Count(count),
        FailureThreshold::Percent(percent @ 1..=100) => Threshold::Percent(percent),
        FailureThreshold::Percent(_) => {
            return Err(Refusal::value("failure_threshold", "a share of failed devices is 1 to 100 per cent"));
        }
    };
    let window = match window {
        None => None,
        Some(Window { from, until }) => Some(DailyWindow { from: minute(&from)?, until: minute(&until)? }),
    };
    let consent = match consent {
        Consent::Automatic => fleet_store::Consent::Automatic,
        Consent::Operator => fleet_store::Consent::Operator,
    };
    Ok(NewRollout { name, release, audience, threshold, max_in_flight, window, consent })
}

/// `22:30` as minutes after midnight.
fn minute(text: &str) -> Reply<u16> {
    let two = |digits: &str| {
        let fits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| digits.parse::<u16>().ok()).flatten()
    };
    text.split_once(':')
        .and_then(|(hours, minutes)| Some((two(hours)?, two(minutes)?)))
        .filter(|(hours, minutes)| *hours < 24 && *minutes < 60)
        .map(|(hours, minutes)| hours * 60 + minutes)
        .ok_or_else(|| Refusal::value("window", "a time of day is written as in `22:30`, in UTC"))
}

fn time_of_day(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn view(row: RolloutRow, counts: Counts) -> Rollout {
    let NewRollout { name, release, audience, threshold, max_in_flight, window, consent } = row.wanted;
    Rollout {
        id: row.id,
        name,
        release,
        digest: row.digest,
        audience: match audience {
            fleet_store::Audience::All => Audience::All,
            fleet_store::Audience::Group(group) => Audience::Group(group),
            fleet_store::Audience::Filter(filter) => Audience::Filter(filter.to_string()),
            fleet_store::Audience::Devices(devices) => Audience::Devices(devices),
        },
        failure_threshold: match threshold {
            Threshold::Count(count) => FailureThreshold::Count(count),
            Threshold::Percent(percent) => FailureThreshold::Percent(percent),
        },
        max_in_flight,
        window: window.map(|w| Window { from: time_of_day(w.from), until: time_of_day(w.until) }),
        consent: match consent {
            fleet_store::Consent::Automatic => Consent::Automatic,
            fleet_store::Consent::Operator => Consent::Operator,
        },
        state: row.state,
        reason: row.reason,
        created: row.created,
        started: row.started,
        changed: row.changed,
        revision: row.revision,
        devices: counts.0.into_iter().collect(),
    }
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
        let RolloutDeviceRow { endpoint, state, waiting_for, reason, progress, since } = row;
        RolloutDevice { endpoint, state, waiting_for, reason, progress, since }
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
            IfMatch(at): IfMatch,
        ) -> Reply<Tagged> {
            let row = who.account.act_on_rollout(&id, RolloutAction::$variant, at, fleet.clock.now()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_has_one_spelling() {
        assert_eq!(minute("22:30").unwrap(), 22 * 60 + 30);
        assert_eq!(time_of_day(minute("05:07").unwrap()), "05:07");
        for wrong in ["24:00", "1:00", "01:60", "0100", "", "-1:00", "01:00:00", "+1:00"] {
            assert!(minute(wrong).is_err(), "{wrong}");
        }
    }
}
