//! `/tokens`: who may act in the account. A secret is shown once, when it is made.

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{CreateToken, CreatedToken, Page, PageQuery, ProblemCode, Token, forms};
use fleet_store::{AccountScope, NewToken, PrincipalKind, RequestKey, TokenRow};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Subject,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        access::{role_bindings, secret::TokenSecret},
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        paging::Paging,
    },
};

const NAME_CHARACTERS: usize = 100;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show)).routes(routes!(revoke))
}

pub(crate) fn view(row: TokenRow) -> Token {
    Token {
        id: row.id,
        name: row.name,
        principal: row.principal.as_ref().map(ToString::to_string),
        scopes: row.scopes.split(' ').filter_map(|scope| scope.parse().ok()).collect(),
        created: row.created,
        expires: row.expires,
        last_used: row.last_used,
        revoked: row.revoked,
    }
}

/// The tokens of the account, revoked ones too.
#[utoipa::path(get, path = "/tokens", tag = "tokens", operation_id = "list_tokens", params(PageQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "A page of tokens", body = forms::TokenPage)))]
async fn list(who: Caller<need::Admin>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Token>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.tokens_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.id.clone(), view)))
}

/// One token.
#[utoipa::path(get, path = "/tokens/{id}", tag = "tokens", operation_id = "show_token",
    params(("id" = String, Path, description = "The token's id")),
    security(("token" = ["admin"])), responses((status = 200, description = "The token", body = Token)))]
async fn show(who: Caller<need::Admin>, Segments(id): Segments<String>) -> Reply<Json<Token>> {
    Ok(Json(view(who.account.token(&id).await?)))
}

/// Makes a token in the account of the caller.
#[utoipa::path(post, path = "/tokens", tag = "tokens", operation_id = "create_token", request_body = CreateToken,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["admin"])), responses((status = 201, description = "The token and its secret", body = CreatedToken)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    body: Body<CreateToken>,
) -> Reply<(StatusCode, Json<CreatedToken>)> {
    nobody_elses(&who, body.value.principal.as_deref())?;
    let made = make(&fleet, &who.account, body.value, body.key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Makes a token useless from now on.
#[utoipa::path(post, path = "/tokens/{id}/revoke", tag = "tokens", operation_id = "revoke_token",
    params(("id" = String, Path, description = "The token's id")),
    security(("token" = ["admin"])), responses((status = 200, description = "The token", body = Token)))]
async fn revoke(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(id): Segments<String>,
) -> Reply<Json<Token>> {
    Ok(Json(view(who.account.revoke_token(&id, fleet.clock.now()).await?)))
}

/// Refuses a token of a person for anybody but that person: it would act in their name.
fn nobody_elses(who: &Caller<need::Admin>, principal: Option<&str>) -> Reply<()> {
    let Some(wanted) = principal.map(role_bindings::principal).transpose()? else { return Ok(()) };
    let own = Subject::Principal { home: who.account.name().clone(), who: wanted.clone() };
    if wanted.kind() == PrincipalKind::Service || who.caller.subject == own {
        return Ok(());
    }
    Err(Refusal::new(ProblemCode::AccessDenied, format!("only `{wanted}` makes tokens of `{wanted}`")))
}

/// Checks the wish and makes the token.
pub(crate) async fn make(
    fleet: &Fleet,
    account: &AccountScope,
    wanted: CreateToken,
    key: Option<&RequestKey>,
) -> Reply<CreatedToken> {
    let now = fleet.clock.now();
    if !(1..=NAME_CHARACTERS).contains(&wanted.name.chars().count()) {
        return Err(Refusal::value("name", format!("a name has 1 to {NAME_CHARACTERS} characters")));
    }
    if wanted.scopes.is_empty() {
        return Err(Refusal::value("scopes", "a token needs at least one scope"));
    }
    if wanted.expires.is_some_and(|expires| expires <= now) {
        return Err(Refusal::value("expires", "the time lies in the past"));
    }
    if wanted.expires.is_some_and(|expires| i64::try_from(expires.0).is_err()) {
        return Err(Refusal::value("expires", "no token lives so long; leave it out for one without an end"));
    }
    let mut scopes = wanted.scopes;
    scopes.sort_unstable();
    scopes.dedup();
    let scopes: Vec<&str> = scopes.into_iter().map(fleet_api::TokenScope::as_str).collect();
    let secret = TokenSecret::new(&fleet.random)?;
    let token = NewToken {
        id: secret.id(),
        name: wanted.name,
        hash: secret.hash(),
        scopes: scopes.join(" "),
        expires: wanted.expires,
        is_first: false,
        principal: wanted.principal.as_deref().map(role_bindings::principal).transpose()?,
    };
    let row = account.create_token(&token, key, now).await?;
    let is_new = row.id == token.id;
    Ok(CreatedToken { token: view(row), secret: is_new.then(|| secret.reveal().to_owned()) })
}
