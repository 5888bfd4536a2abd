//! `/filters`: filters that the account keeps under a name.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{ChangeFilter, CreateFilter, Page, PageQuery, Problem, ProblemCode, SavedFilter, forms};
use fleet_store::{Filter, SavedFilterRow};
use protocol_types::GroupName;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, Parameters, Segments, etag, titled},
        caller::{Caller, need},
        paging::Paging,
    },
};

type Tagged = ([(HeaderName, String); 1], Json<SavedFilter>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, change, delete))
}

/// The filter in a field of a request; a refusal points at the characters.
pub(crate) fn read(field: &str, text: &str) -> Reply<Filter> {
    text.parse().map_err(|error: fleet_store::FilterError| {
        let mut problem = Problem::new(ProblemCode::MalformedFilter, error.to_string()).in_field(field);
        problem.at = u32::try_from(error.at).ok();
        problem.length = u32::try_from(error.length).ok();
        if !error.hint.is_empty() {
            problem = problem.with_hint(error.hint);
        }
        Refusal::from(problem)
    })
}

fn view(row: SavedFilterRow) -> SavedFilter {
    let SavedFilterRow { name, title, filter, created, revision } = row;
    SavedFilter { name, title, filter: filter.to_string(), created, revision }
}

fn tagged(row: SavedFilterRow) -> Tagged {
    (etag(row.revision), Json(view(row)))
}

/// The filters that the account keeps.
#[utoipa::path(get, path = "/filters", tag = "filters", operation_id = "list_filters", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of filters", body = forms::SavedFilterPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<SavedFilter>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.saved_filters_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.name.to_string(), view)))
}

/// Keeps a filter.
#[utoipa::path(post, path = "/filters", tag = "filters", operation_id = "create_filter", request_body = CreateFilter,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 201, description = "The filter", body = SavedFilter)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<CreateFilter>,
) -> Reply<(StatusCode, Tagged)> {
    let CreateFilter { name, title, filter } = body.value;
    let filter = read("filter", &filter)?;
    let row =
        who.account.create_filter((&name, titled(&title)?), &filter, body.key.as_ref(), fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, tagged(row)))
}

/// One filter.
#[utoipa::path(get, path = "/filters/{name}", tag = "filters", operation_id = "show_filter",
    params(("name" = String, Path, description = "The filter")),
    security(("token" = ["read"])), responses((status = 200, description = "The filter", body = SavedFilter)))]
async fn show(who: Caller<need::Read>, Segments(name): Segments<GroupName>) -> Reply<Tagged> {
    Ok(tagged(who.account.saved_filter(&name).await?))
}

/// Changes a filter.
#[utoipa::path(patch, path = "/filters/{name}", tag = "filters", operation_id = "change_filter", request_body = ChangeFilter,
    params(("name" = String, Path, description = "The filter"),
           ("if-match" = String, Header, description = "`ETag` that the filter must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The filter", body = SavedFilter)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
    body: Body<ChangeFilter>,
) -> Reply<Tagged> {
    let title = body.value.title.as_deref().map(titled).transpose()?;
    let filter = body.value.filter.as_deref().map(|text| read("filter", text)).transpose()?;
    let row = who.account.change_filter(&name, (title, filter.as_ref()), at, fleet.clock.now()).await?;
    Ok(tagged(row))
}

/// Forgets a filter.
#[utoipa::path(delete, path = "/filters/{name}", tag = "filters", operation_id = "delete_filter",
    params(("name" = String, Path, description = "The filter"),
           ("if-match" = String, Header, description = "`ETag` that the filter must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    who.account.delete_filter(&name, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
