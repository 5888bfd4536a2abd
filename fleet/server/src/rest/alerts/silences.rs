//! `/silences`: times in which alerts are not told of.

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{CreateSilence, Page, PageQuery, Silence, forms};
use fleet_store::{NewSilence, SilenceRow};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        groups::filters,
        numbered::number_in,
        paging::Paging,
    },
};

const REASON_CHARACTERS: usize = 200;
/// Longest silence: a year. What nobody ever wants to hear of is a rule that should not be there.
const LONGEST_S: u64 = 366 * 24 * 60 * 60;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show)).routes(routes!(end))
}

fn number(id: &str) -> Reply<u64> {
    number_in(id, ("silence", "si-"))
}

fn view(row: SilenceRow) -> Silence {
    Silence {
        id: row.id(),
        rule: row.rule,
        filter: row.filter.to_string(),
        until: row.until,
        reason: row.reason,
        made_by: row.made_by,
        created: row.created,
    }
}

/// The silences of the account, the newest first, those that are over too.
#[utoipa::path(get, path = "/silences", tag = "alerts", operation_id = "list_silences", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of silences", body = forms::SilencePage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Silence>>> {
    let paging = Paging::read(&query)?;
    let before = Some(paging.after_number()?).filter(|before| *before > 0);
    let rows = who.account.silences_before(before, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), view)))
}

/// Makes a silence. Alerts are raised all the same; those that are still raised when it is over are told of then.
#[utoipa::path(post, path = "/silences", tag = "alerts", operation_id = "create_silence", request_body = CreateSilence,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 201, description = "The silence", body = Silence)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<CreateSilence>,
) -> Reply<(StatusCode, Json<Silence>)> {
    let CreateSilence { rule, filter, until, reason } = body.value;
    let now = fleet.clock.now();
    if until <= now || until.0 - now.0 > LONGEST_S {
        return Err(Refusal::value("until", format!("a silence ends in the future, within {LONGEST_S} s")));
    }
    if !(1..=REASON_CHARACTERS).contains(&reason.chars().count()) {
        return Err(Refusal::value("reason", format!("a reason has 1 to {REASON_CHARACTERS} characters")));
    }
    let made_by = who.caller.subject.to_string();
    let wanted = NewSilence { rule, filter: filters::read("filter", &filter)?, until, reason, made_by };
    let row = who.account.create_silence(&wanted, body.key.as_ref(), now).await?;
    Ok((StatusCode::CREATED, Json(view(row))))
}

/// One silence.
#[utoipa::path(get, path = "/silences/{id}", tag = "alerts", operation_id = "show_silence",
    params(("id" = String, Path, description = "The silence")),
    security(("token" = ["read"])), responses((status = 200, description = "The silence", body = Silence)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<String>) -> Reply<Json<Silence>> {
    Ok(Json(view(who.account.silence(number(&id)?).await?)))
}

/// Ends a silence now; one that is over stays as it is.
#[utoipa::path(post, path = "/silences/{id}/end", tag = "alerts", operation_id = "end_silence",
    params(("id" = String, Path, description = "The silence")),
    security(("token" = ["operate"])), responses((status = 200, description = "The silence", body = Silence)))]
async fn end(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(id): Segments<String>,
) -> Reply<Json<Silence>> {
    Ok(Json(view(who.account.end_silence(number(&id)?, fleet.clock.now()).await?)))
}
