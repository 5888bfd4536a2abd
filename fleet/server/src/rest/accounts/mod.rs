//! `/accounts`: the tree of accounts. Everybody sees their own account and those below; administrators of `default` see and make all.

pub(crate) mod audit;
pub(crate) mod quotas;

#[cfg(test)]
mod quota_tests;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{
    Account, ChangeAccount, CreateAccount, CreateToken, CreatedAccount, Page, PageQuery, ProblemCode, TokenScope, forms,
};
use fleet_store::{AccountRow, AccountScope, NewAccount, StoreError};
use protocol_types::AccountName;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        access::tokens,
        body::{Body, IfMatch, Parameters, Segments, etag, titled},
        caller::{Caller, need},
        paging::Paging,
    },
};

type Tagged<T> = ([(HeaderName, String); 1], Json<T>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(audit::router())
        .merge(quotas::router())
        .routes(routes!(list, create))
        .routes(routes!(show, change))
}

fn view(row: AccountRow) -> Account {
    let AccountRow { name, title, parent, created, revision } = row;
    Account { name, title, parent, created, revision }
}

fn tagged(row: AccountRow) -> Tagged<Account> {
    (etag(row.revision), Json(view(row)))
}

pub(crate) fn governs_all(account: &AccountScope) -> bool {
    account.name().as_str() == Fleet::FIRST_ACCOUNT
}

/// Refuses an account that is neither the caller's nor below it: it is not there.
pub(crate) async fn in_sight(fleet: &Fleet, own: &AccountScope, name: &AccountName) -> Reply<()> {
    if governs_all(own) || fleet.store.service_wide().account_path(name).await?.contains(own.name()) {
        return Ok(());
    }
    Err(StoreError::NotFound { kind: "account", id: name.to_string() }.into())
}

/// The account and those below it; for the account `default`, all.
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
        who.account.family_after(paging.after(), paging.rows()).await?
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
) -> Reply<Tagged<Account>> {
    in_sight(&fleet, &who.account, &name).await?;
    Ok(tagged(fleet.store.account(&name).account_row().await?))
}

/// Makes an account below the caller's or below one that is, with an administrator's token in it. Administrators of the account
/// `default` may also make one that stands below none.
#[utoipa::path(post, path = "/accounts", tag = "accounts", operation_id = "create_account", request_body = CreateAccount,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["admin"])), responses((status = 201, description = "The account", body = CreatedAccount)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    body: Body<CreateAccount>,
) -> Reply<(StatusCode, Tagged<CreatedAccount>)> {
    let CreateAccount { name, title, parent } = body.value;
    match &parent {
        Some(parent) => in_sight(&fleet, &who.account, parent).await?,
        None if governs_all(&who.account) => {}
        None => {
            let detail = "only administrators of the account `default` make accounts that stand below no other";
            return Err(Refusal::new(ProblemCode::ScopeMissing, detail));
        }
    }
    titled(&title)?;
    let wanted = NewAccount { name, title, parent };
    let row = fleet.store.create_account(&who.account, &wanted, body.key.as_ref(), fleet.clock.now()).await?;
    let first =
        CreateToken { name: "first token".to_owned(), scopes: vec![TokenScope::Admin], principal: None, expires: None };
    let scope = fleet.store.account_by(&row.name, &who.account);
    let token = tokens::make(&fleet, &scope, first, body.key.as_ref()).await?;
    Ok((StatusCode::CREATED, (etag(row.revision), Json(CreatedAccount { account: view(row), token }))))
}

/// Moves an account in the tree: one below the caller's own, to below the caller's own or one below that. Only administrators of
/// the account `default` put an account below none.
#[utoipa::path(patch, path = "/accounts/{name}", tag = "accounts", operation_id = "change_account",
    params(("name" = String, Path, description = "The account"),
           ("if-match" = String, Header, description = "`ETag` that the account must still have, or `*`")),
    request_body = ChangeAccount,
    security(("token" = ["admin"])), responses((status = 200, description = "The account", body = Account)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<AccountName>,
    IfMatch(at): IfMatch,
    body: Body<ChangeAccount>,
) -> Reply<Tagged<Account>> {
    in_sight(&fleet, &who.account, &name).await?;
    let parent = body.value.parent;
    let may_move = name != *who.account.name() && parent.is_some();
    if !may_move && !governs_all(&who.account) {
        let detail = "only administrators of the account `default` move their own account, or one to below none";
        return Err(Refusal::new(ProblemCode::AccessDenied, detail));
    }
    if let Some(parent) = &parent {
        in_sight(&fleet, &who.account, parent).await?;
    }
    let row = fleet.store.account(&name).move_account(&who.account, parent.as_ref(), at, fleet.clock.now()).await?;
    Ok(tagged(row))
}
