//! `/role-bindings`: which principal has which role, for the whole account or for some devices.

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{CreateRoleBinding, Page, PageQuery, RoleBinding, forms};
use fleet_store::{BindingRow, NewBinding, NotAPrincipal, PrincipalName};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Role,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        groups::filters,
        paging::Paging,
    },
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete))
}

pub(crate) fn view(row: BindingRow) -> RoleBinding {
    let NewBinding { home, who, role, filter } = row.binding;
    RoleBinding {
        id: row.id,
        account: row.account,
        principal: who.to_string(),
        home,
        role,
        filter: filter.map(String::from),
        created: row.created,
    }
}

/// The principal in a field of a request.
pub(crate) fn principal(text: &str) -> Reply<PrincipalName> {
    text.parse().map_err(|error: NotAPrincipal| Refusal::value("principal", error.to_string()))
}

/// The role bindings that were made in the account. Those of the accounts above hold here, too.
#[utoipa::path(get, path = "/role-bindings", tag = "access", operation_id = "list_role_bindings", params(PageQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "A page of bindings", body = forms::RoleBindingPage)))]
async fn list(who: Caller<need::Admin>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<RoleBinding>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.bindings_after(paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), view)))
}

/// Gives a principal of this account, or of one above it, a role in this account and all below it.
#[utoipa::path(post, path = "/role-bindings", tag = "access", operation_id = "create_role_binding",
    request_body = CreateRoleBinding,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["admin"])), responses((status = 201, description = "The binding", body = RoleBinding)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    body: Body<CreateRoleBinding>,
) -> Reply<(StatusCode, Json<RoleBinding>)> {
    let CreateRoleBinding { principal: name, home, role, filter } = body.value;
    let Some(role) = Role::named(&role) else {
        return Err(Refusal::value("role", "there is no such role; `GET /roles` lists them"));
    };
    let wanted = NewBinding {
        home: home.unwrap_or_else(|| who.account.name().clone()),
        who: principal(&name)?,
        role: role.name.to_owned(),
        filter: filter.map(|text| filters::read("filter", &text)).transpose()?,
    };
    let row = who.account.bind_role(&wanted, body.key.as_ref(), fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, Json(view(row))))
}

/// One role binding.
#[utoipa::path(get, path = "/role-bindings/{id}", tag = "access", operation_id = "show_role_binding",
    params(("id" = String, Path, description = "The binding's id")),
    security(("token" = ["admin"])), responses((status = 200, description = "The binding", body = RoleBinding)))]
async fn show(who: Caller<need::Admin>, Segments(id): Segments<String>) -> Reply<Json<RoleBinding>> {
    Ok(Json(view(who.account.binding(&id).await?)))
}

/// Takes a role away, from the next request on.
#[utoipa::path(delete, path = "/role-bindings/{id}", tag = "access", operation_id = "delete_role_binding",
    params(("id" = String, Path, description = "The binding's id")),
    security(("token" = ["admin"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(id): Segments<String>,
) -> Reply<StatusCode> {
    who.account.unbind_role(&id, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
