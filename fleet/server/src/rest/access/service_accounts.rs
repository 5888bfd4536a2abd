//! `/service-accounts`: programs that hold roles. They act with tokens that are made for them.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{ChangeServiceAccount, CreateServiceAccount, Page, PageQuery, ServiceAccount, forms};
use fleet_store::{PrincipalKind, PrincipalName, PrincipalRow, StoreError};
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

type Tagged = ([(HeaderName, String); 1], Json<ServiceAccount>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, change, delete))
}

fn view(row: PrincipalRow) -> ServiceAccount {
    let PrincipalRow { who, title, created, disabled, revision, .. } = row;
    ServiceAccount { name: who.name().to_owned(), title, created, disabled, revision }
}

fn tagged(row: PrincipalRow) -> Tagged {
    (etag(row.revision), Json(view(row)))
}

/// The service account that a path names. A name that breaks the rules names none.
fn named(name: String) -> Reply<PrincipalName> {
    let missing = |_| StoreError::NotFound { kind: "service account", id: name.chars().take(80).collect() };
    Ok(PrincipalName::new(PrincipalKind::Service, &name).map_err(missing)?)
}

/// The service accounts of the account.
#[utoipa::path(get, path = "/service-accounts", tag = "access", operation_id = "list_service_accounts", params(PageQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "A page of service accounts", body = forms::ServiceAccountPage)))]
async fn list(who: Caller<need::Admin>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<ServiceAccount>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.principals_after(PrincipalKind::Service, paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.who.name().to_owned(), view)))
}

/// Makes a service account without any role.
#[utoipa::path(post, path = "/service-accounts", tag = "access", operation_id = "create_service_account",
    request_body = CreateServiceAccount,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["admin"])), responses((status = 201, description = "The service account", body = ServiceAccount)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    body: Body<CreateServiceAccount>,
) -> Reply<(StatusCode, Tagged)> {
    let CreateServiceAccount { name, title } = body.value;
    let refused = |error: fleet_store::NotAPrincipal| Refusal::value("name", error.to_string());
    let name = PrincipalName::new(PrincipalKind::Service, &name).map_err(refused)?;
    let row = who.account.create_principal((&name, titled(&title)?), body.key.as_ref(), fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, tagged(row)))
}

/// One service account.
#[utoipa::path(get, path = "/service-accounts/{name}", tag = "access", operation_id = "show_service_account",
    params(("name" = String, Path, description = "The service account")),
    security(("token" = ["admin"])), responses((status = 200, description = "The service account", body = ServiceAccount)))]
async fn show(who: Caller<need::Admin>, Segments(name): Segments<String>) -> Reply<Tagged> {
    Ok(tagged(who.account.principal(&named(name)?).await?))
}

/// Takes away a service account's right to act, or gives it back. Its roles and tokens stay.
#[utoipa::path(patch, path = "/service-accounts/{name}", tag = "access", operation_id = "change_service_account",
    params(("name" = String, Path, description = "The service account"),
           ("if-match" = String, Header, description = "`ETag` that the service account must still have, or `*`")),
    request_body = ChangeServiceAccount,
    security(("token" = ["admin"])), responses((status = 200, description = "The service account", body = ServiceAccount)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<String>,
    IfMatch(at): IfMatch,
    body: Body<ChangeServiceAccount>,
) -> Reply<Tagged> {
    let row = who.account.disable_principal(&named(name)?, (body.value.disabled, at), fleet.clock.now()).await?;
    Ok(tagged(row))
}

/// Forgets a service account with its roles, and revokes its tokens.
#[utoipa::path(delete, path = "/service-accounts/{name}", tag = "access", operation_id = "delete_service_account",
    params(("name" = String, Path, description = "The service account"),
           ("if-match" = String, Header, description = "`ETag` that the service account must still have, or `*`")),
    security(("token" = ["admin"])), responses((status = 204, description = "It is forgotten")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<String>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    who.account.delete_principal(&named(name)?, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
