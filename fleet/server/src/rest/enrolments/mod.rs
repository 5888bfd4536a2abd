//! `/enrolments`: which devices may join the account; `/denials`: which were turned away.

pub(crate) mod authorities;
pub(crate) mod listed_certificates;

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{CreateEnrolment, Denial, Enrolment, Page, PageQuery, ProblemCode, forms};
use fleet_store::{DenialRow, EnrolmentRow, EnrolmentRule};
use protocol_types::UnixSeconds;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        paging::Paging,
    },
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(authorities::router())
        .merge(listed_certificates::router())
        .routes(routes!(list, create))
        .routes(routes!(show, delete))
        .routes(routes!(denials))
}

fn view(row: EnrolmentRow) -> Enrolment {
    Enrolment {
        id: row.id,
        endpoint: row.rule.endpoint().cloned(),
        authority: row.rule.authority().map(str::to_owned),
        created: row.created,
    }
}

fn denial_view(row: DenialRow) -> Denial {
    Denial { endpoint: row.endpoint, reason: row.reason, first: row.first, last: row.last, attempts: row.attempts }
}

/// The enrolments of the account.
#[utoipa::path(get, path = "/enrolments", tag = "enrolments", operation_id = "list_enrolments", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of enrolments", body = forms::EnrolmentPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Enrolment>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.enrolments_after(paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), view)))
}

/// One enrolment.
#[utoipa::path(get, path = "/enrolments/{id}", tag = "enrolments", operation_id = "show_enrolment",
    params(("id" = String, Path, description = "The enrolment's id")),
    security(("token" = ["read"])), responses((status = 200, description = "The enrolment", body = Enrolment)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<String>) -> Reply<Json<Enrolment>> {
    Ok(Json(view(who.account.enrolment(&id).await?)))
}

/// Lets a device, or every device of an authority, join the account. The same rule a second time is the same enrolment.
#[utoipa::path(post, path = "/enrolments", tag = "enrolments", operation_id = "create_enrolment", request_body = CreateEnrolment,
    security(("token" = ["enrol"])), responses((status = 201, description = "The enrolment", body = Enrolment)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Enrol>,
    body: Body<CreateEnrolment>,
) -> Reply<(StatusCode, Json<Enrolment>)> {
    let CreateEnrolment { endpoint, authority } = body.value;
    let rule = EnrolmentRule::new(endpoint, authority)
        .ok_or_else(|| Refusal::value("endpoint", "name an endpoint, an authority, or both"))?;
    Ok((StatusCode::CREATED, Json(view(who.account.add_enrolment(&rule, fleet.clock.now()).await?))))
}

/// Takes an enrolment away. Devices that joined by it stay, but cannot bootstrap again.
#[utoipa::path(delete, path = "/enrolments/{id}", tag = "enrolments", operation_id = "delete_enrolment",
    params(("id" = String, Path, description = "The enrolment's id")),
    security(("token" = ["enrol"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Enrol>,
    Segments(id): Segments<String>,
) -> Reply<StatusCode> {
    who.account.delete_enrolment(&id, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Devices that proved who they are and were turned away, the most recent first.
#[utoipa::path(get, path = "/denials", tag = "enrolments", operation_id = "list_denials", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of denials", body = forms::DenialPage)))]
async fn denials(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Denial>>> {
    let paging = Paging::read(&query)?;
    let before = match paging.after().split_once(' ') {
        None => None,
        Some((last, place)) => {
            let last = last
                .parse()
                .map_err(|_| Refusal::new(ProblemCode::MalformedRequest, "this is no cursor of this list"))?;
            Some((UnixSeconds(last), place))
        }
    };
    let rows = who.account.denials_before(before, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| format!("{} {} {}", row.last, row.endpoint, row.reason), denial_view)))
}
