//! `/alerts`: what rules have found, and who knows of it.

pub(crate) mod rules;
pub(crate) mod silences;

use axum::{Json, extract::State};
use fleet_api::{AcknowledgeAlert, Acknowledgement, Alert, AlertQuery, Page, PageQuery, ProblemCode, forms};
use fleet_store::AlertRow;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        numbered::number_in,
        paging::Paging,
    },
};

const NOTE_CHARACTERS: usize = 1000;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(rules::router())
        .merge(silences::router())
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(acknowledge))
}

fn number(id: &str) -> Reply<u64> {
    number_in(id, ("alert", "al-"))
}

fn view(row: AlertRow) -> Alert {
    Alert {
        id: row.id(),
        rule: row.rule,
        device: row.device,
        severity: row.severity,
        state: row.state,
        since: row.since,
        raised: row.raised,
        told: row.told,
        resolved: row.resolved,
        acknowledged: row.acknowledged.map(|(time, by, note)| Acknowledgement { time, by, note }),
    }
}

/// The alerts of the account, the newest first.
#[utoipa::path(get, path = "/alerts", tag = "alerts", operation_id = "list_alerts", params(AlertQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of alerts", body = forms::AlertPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<AlertQuery>) -> Reply<Json<Page<Alert>>> {
    let paging = Paging::read(&PageQuery { cursor: query.cursor, limit: query.limit })?;
    let before = Some(paging.after_number()?).filter(|before| *before > 0);
    let wanted = (query.state, query.rule.as_ref());
    let rows = who.account.alerts_before(wanted, before, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), view)))
}

/// One alert.
#[utoipa::path(get, path = "/alerts/{id}", tag = "alerts", operation_id = "show_alert",
    params(("id" = String, Path, description = "The alert")),
    security(("token" = ["read"])), responses((status = 200, description = "The alert", body = Alert)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<String>) -> Reply<Json<Alert>> {
    Ok(Json(view(who.account.alert(number(&id)?).await?)))
}

/// Says that somebody knows of an alert that is raised: there are no more reminders. A second time changes nothing.
#[utoipa::path(post, path = "/alerts/{id}/acknowledge", tag = "alerts", operation_id = "acknowledge_alert",
    request_body = AcknowledgeAlert, params(("id" = String, Path, description = "The alert")),
    security(("token" = ["operate"])), responses((status = 200, description = "The alert", body = Alert)))]
async fn acknowledge(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(id): Segments<String>,
    body: Body<AcknowledgeAlert>,
) -> Reply<Json<Alert>> {
    let note = body.value.note;
    if note.chars().count() > NOTE_CHARACTERS {
        let detail = format!("a note has at most {NOTE_CHARACTERS} characters");
        return Err(Refusal::new(ProblemCode::InvalidValue, detail));
    }
    let by = who.caller.subject.to_string();
    Ok(Json(view(who.account.acknowledge_alert(number(&id)?, (&by, &note), fleet.clock.now()).await?)))
}
