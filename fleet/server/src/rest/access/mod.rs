//! `/roles`, `/policies`, `/access-schema` and `/access-check`: who may do what, as an administrator reads, extends and tests it.

pub(crate) mod identity_provider;
pub(crate) mod invitations;
pub(crate) mod role_bindings;
pub(crate) mod secret;
pub(crate) mod service_accounts;
pub(crate) mod sessions;
pub(crate) mod single_sign_on;
pub(crate) mod tokens;
pub(crate) mod users;

#[cfg(test)]
mod single_sign_on_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod user_tests;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use fleet_api::{
    AccessAnswer, AccessQuery, AccountPolicy, HeldRole, Policies, Policy, Problem, ProblemCode, Role, Roles, SavePolicy,
};
use fleet_store::{AccountScope, PolicyRow, PrincipalKind, StoreError};
use protocol_types::{AccountName, GroupName};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, Action, Asked, Fault, PolicyBook, ROLES, Subject},
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, IfMatchOrNew, Parameters, Segments, etag},
        caller::{Caller, need},
    },
};

type Tagged = ([(HeaderName, String); 1], Json<AccountPolicy>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(identity_provider::router())
        .merge(invitations::router())
        .merge(role_bindings::router())
        .merge(service_accounts::router())
        .merge(sessions::router())
        .merge(single_sign_on::router())
        .merge(tokens::router())
        .merge(users::router())
        .routes(routes!(roles))
        .routes(routes!(policies))
        .routes(routes!(show, save, delete))
        .routes(routes!(schema))
        .routes(routes!(check))
}

fn tagged(row: PolicyRow) -> Tagged {
    let PolicyRow { name, policy, created, revision, .. } = row;
    (etag(revision), Json(AccountPolicy { name, policy, created, revision }))
}

/// The policies of a book as people read them; those of the service have no account in their id.
fn texts(book: &PolicyBook) -> Vec<Policy> {
    let view = |text: access::PolicyText| Policy {
        builtin: !text.id.contains('/'),
        effect: if text.permits { "permit" } else { "forbid" }.to_owned(),
        id: text.id,
        policy: text.text,
    };
    book.texts().into_iter().map(view).collect()
}

/// The roles that principals can be bound to.
#[utoipa::path(get, path = "/roles", tag = "access", operation_id = "list_roles",
    security(("token" = ["read"])), responses((status = 200, description = "The roles", body = Roles)))]
async fn roles(_: Caller<need::Read>) -> Json<Roles> {
    let view = |role: &access::Role| Role { name: role.name.to_owned(), title: role.title.to_owned() };
    Json(Roles { items: ROLES.iter().map(view).collect() })
}

/// The policies that hold in the account: those of the service, its own, and those of the accounts above.
#[utoipa::path(get, path = "/policies", tag = "access", operation_id = "list_policies",
    security(("token" = ["read"])), responses((status = 200, description = "The policies", body = Policies)))]
async fn policies(State(fleet): State<Fleet>, who: Caller<need::Read>) -> Reply<Json<Policies>> {
    let path = fleet.store.service_wide().account_path(who.account.name()).await?;
    Ok(Json(Policies { items: texts(&*fleet.access.book(&fleet.store, &path).await?) }))
}

/// A policy that the account has added.
#[utoipa::path(get, path = "/policies/{name}", tag = "access", operation_id = "show_policy",
    params(("name" = String, Path, description = "The policy")),
    security(("token" = ["read"])), responses((status = 200, description = "The policy", body = AccountPolicy)))]
async fn show(who: Caller<need::Read>, Segments(name): Segments<GroupName>) -> Reply<Tagged> {
    Ok(tagged(who.account.policy(&name).await?))
}

/// Keeps a policy, in place of the one of that name. It also holds in all accounts below. A policy that cannot be read, that speaks
/// of what there is not, or with which the caller could not change policies any more, is refused.
#[utoipa::path(put, path = "/policies/{name}", tag = "access", operation_id = "save_policy", request_body = SavePolicy,
    params(("name" = String, Path, description = "The policy"),
           ("if-match" = Option<String>, Header, description = "`ETag` that the policy must still have, or `*`; without it the policy must be new")),
    security(("token" = ["admin"])),
    responses((status = 200, description = "The policy", body = AccountPolicy),
              (status = 201, description = "The policy, which is new", body = AccountPolicy)))]
async fn save(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<GroupName>,
    IfMatchOrNew(at): IfMatchOrNew,
    body: Body<SavePolicy>,
) -> Reply<(StatusCode, Tagged)> {
    let text = body.value.policy;
    fleet.access.check_policy(&text).map_err(faulty)?;
    keeps_the_way_back(&fleet, &who, (&name, &text)).await?;
    let (row, is_new) = who.account.save_policy((&name, &text), at, fleet.clock.now()).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, tagged(row)))
}

fn faulty(fault: Fault) -> Refusal {
    let mut problem = Problem::new(ProblemCode::MalformedPolicy, fault.message).in_field("policy");
    if let Some((at, length)) = fault.place {
        problem.at = u32::try_from(at).ok();
        problem.length = u32::try_from(length).ok();
    }
    if let Some(hint) = fault.hint {
        problem = problem.with_hint(&hint);
    }
    Refusal::from(problem)
}

/// Refuses a policy that would shut out whoever saves it.
async fn keeps_the_way_back(fleet: &Fleet, who: &Caller<need::Admin>, (name, text): (&GroupName, &str)) -> Reply<()> {
    let account = who.account.name();
    if who.caller.subject.home() != account {
        // For somebody from above the policies of the account do not decide about policies.
        return Ok(());
    }
    let path = fleet.store.service_wide().account_path(account).await?;
    let mut rows = fleet.store.service_wide().policies_of(&path).await?;
    rows.retain(|row| row.account != *account || row.name != *name);
    let now = fleet.clock.now();
    rows.push(PolicyRow {
        account: account.clone(),
        name: name.clone(),
        policy: text.to_owned(),
        created: now,
        revision: 0,
    });
    let book = fleet.access.book_with(&rows)?;
    for action in ["save_policy", "delete_policy"] {
        let action = named(fleet, action)?;
        let asked = Asked { caller: &who.caller, path: &path, action, endpoint: None, now };
        if !fleet.access.judge_by(&book, &fleet.store, &asked).await?.decision.allowed {
            return Err(Refusal::value("policy", "with this policy you could not change policies any more"));
        }
    }
    Ok(())
}

/// Forgets a policy that the account has added.
#[utoipa::path(delete, path = "/policies/{name}", tag = "access", operation_id = "delete_policy",
    params(("name" = String, Path, description = "The policy"),
           ("if-match" = String, Header, description = "`ETag` that the policy must still have, or `*`")),
    security(("token" = ["admin"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    who.account.delete_policy(&name, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What policies may speak of, in Cedar's schema language.
#[utoipa::path(get, path = "/access-schema", tag = "access", operation_id = "show_access_schema",
    security(("token" = ["read"])),
    responses((status = 200, description = "The schema", body = String, content_type = "text/plain")))]
async fn schema(State(fleet): State<Fleet>, _: Caller<need::Read>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], fleet.access.schema_text.clone())
}

/// Whether a principal may do something in the account, and why.
#[utoipa::path(get, path = "/access-check", tag = "access", operation_id = "check_access", params(AccessQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "The answer", body = AccessAnswer)))]
async fn check(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Parameters(query): Parameters<AccessQuery>,
) -> Reply<Json<AccessAnswer>> {
    let path = fleet.store.service_wide().account_path(who.account.name()).await?;
    let action = named(&fleet, &query.action)?;
    if action.on_device != query.device.is_some() {
        let detail = if action.on_device { "this action needs a device" } else { "this action is on no single device" };
        return Err(Refusal::value("device", detail));
    }
    if let Some(endpoint) = &query.device {
        who.account.device(endpoint).await?;
    }
    let home = query.home.as_ref().unwrap_or_else(|| who.account.name());
    if !path.contains(home) {
        return Err(StoreError::NotFound { kind: "account", id: home.to_string() }.into());
    }
    let caller = supposed(&fleet.store.account(home), home, &query.principal).await?;
    let asked = Asked { caller: &caller, path: &path, action, endpoint: query.device.clone(), now: fleet.clock.now() };
    let book = fleet.access.book(&fleet.store, asked.deciding()).await?;
    let verdict = fleet.access.judge_by(&book, &fleet.store, &asked).await?;
    let decision = verdict.decision;
    let mut policies = texts(&book);
    policies.retain(|policy| decision.deciding.contains(&policy.id));
    let held = |held: access::Held| HeldRole { binding: role_bindings::view(held.binding), applies: held.applies };
    Ok(Json(AccessAnswer {
        allowed: decision.allowed,
        because: decision.because(),
        policies,
        roles: verdict.held.into_iter().map(held).collect(),
        only: verdict.narrowed.map(String::from),
    }))
}

fn named<'a>(fleet: &'a Fleet, action: &str) -> Reply<&'a Action> {
    let missing = || Refusal::value("action", "an action is an `operationId` of openapi.json, as in `reset_device`");
    fleet.access.routes.named(action).ok_or_else(missing)
}

/// Somebody as if they asked: a principal as far as its roles go, a token as far as its scopes go, too.
async fn supposed(account: &AccountScope, home: &AccountName, principal: &str) -> Reply<access::Caller> {
    let (subject, scopes) = match principal.strip_prefix("token/") {
        Some(id) => {
            let token = account.token(id).await?;
            let scopes = token.scopes.split(' ').map(str::to_owned).collect();
            match token.principal {
                Some(who) => (Subject::Principal { home: home.clone(), who }, scopes),
                None => (Subject::Token { home: home.clone(), id: token.id }, scopes),
            }
        }
        None => {
            let who = role_bindings::principal(principal)?;
            let row = account.principal(&who).await?;
            (Subject::Principal { home: home.clone(), who: row.who }, vec!["admin".to_owned()])
        }
    };
    let second_factor = matches!(&subject, Subject::Principal { who, .. } if who.kind() == PrincipalKind::User);
    Ok(access::Caller { subject, scopes, second_factor, address: String::new() })
}
