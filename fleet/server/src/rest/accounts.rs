//! `/accounts`: administrators of the account `default` make further accounts; every other token sees its own alone.

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{Account, CreateAccount, CreateToken, CreatedAccount, Page, PageQuery, ProblemCode, TokenScope, forms};
use fleet_store::{AccountRow, AccountScope, StoreError};
use protocol_types::AccountName;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusal, Reply,
    body::{Body, Parameters, Segments, titled},
    caller::{Caller, need},
    paging::Paging,
    tokens,
};
use crate::fleet::Fleet;

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show))
}

fn view(row: AccountRow) -> Account {
    Account { name: row.name, title: row.title, created: row.created }
}

fn governs_all(account: &AccountScope) -> bool {
    account.name().as_str() == Fleet::FIRST_ACCOUNT
}

/// The accounts that the token may see.
#[utoipa::path(get, path = "/accounts", tag = "accounts", operation_id = "list_accounts", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of accounts", body = forms::AccountPage)))]
async fn list(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<Account>>> {
    let paging = Paging::read(&query)?;
    let rows = if governs_all(&who.account) {
        fleet.store.service_wide().accounts_after(paging.after(), paging.rows()).await?
    } else {
        let own = who.account.account_row().await?;
        if own.name.as_str() > paging.after() { vec![own] } else { Vec::new() }
    };
    Ok(Json(paging.page(rows, |row| row.name.to_string(), view)))
}

/// One account.
#[utoipa::path(get, path = "/accounts/{name}", tag = "accounts", operation_id = "show_account",
    params(("name" = String, Path, description = "The account")),
    security(("token" = ["read"])), responses((status = 200, description = "The account", body = Account)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(name): Segments<AccountName>,
) -> Reply<Json<Account>> {
    if name != *who.account.name() && !governs_all(&who.account) {
        return Err(StoreError::NotFound { kind: "account", id: name.to_string() }.into());
    }
    Ok(Json(view(fleet.store.account(&name).account_row().await?)))
}

/// Makes an account, with an administrator's token in it. Only administrators of the account `default` may.
#[utoipa::path(post, path = "/accounts", tag = "accounts", operation_id = "create_account", request_body = CreateAccount,
    security(("token" = ["admin"])), responses((status = 201, description = "The account", body = CreatedAccount)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    body: Body<CreateAccount>,
) -> Reply<(StatusCode, Json<CreatedAccount>)> {
    if !governs_all(&who.account) {
        let detail = "only administrators of the account `default` make accounts";
        return Err(Refusal::new(ProblemCode::ScopeMissing, detail));
    }
    let wanted = body.value;
    titled(&wanted.title)?;
    let now = fleet.clock.now();
    let row = fleet.store.create_account(&who.account, (&wanted.name, &wanted.title), body.key.as_ref(), now).await?;
    let first = CreateToken { name: "first token".to_owned(), scopes: vec![TokenScope::Admin], expires: None };
    let token = tokens::make(&fleet, &fleet.store.account(&row.name), first, body.key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(CreatedAccount { account: view(row), token })))
}
