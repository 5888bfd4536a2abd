//! `/accounts/{name}/quotas`: how much of something an account and those below it may have. Whoever is above sets them.

use axum::{Json, extract::State};
use fleet_api::{ProblemCode, Quota, Quotas, SetQuotas};
use fleet_store::{AccountScope, QuotaKind, QuotaRow};
use protocol_types::AccountName;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply, accounts,
        body::{Body, Segments},
        caller::{Caller, need},
    },
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(show, set))
}

async fn view(account: &AccountScope, fleet: &Fleet) -> Reply<Json<Quotas>> {
    let quota = |row: QuotaRow| Quota { kind: row.kind.as_str().to_owned(), most: row.most, used: row.used };
    Ok(Json(Quotas { items: account.quotas(fleet.clock.now()).await?.into_iter().map(quota).collect() }))
}

/// The quotas of the account or of one below it, one of each kind, and what stands against them.
#[utoipa::path(get, path = "/accounts/{name}/quotas", tag = "accounts", operation_id = "show_quotas",
    params(("name" = String, Path, description = "The account")),
    security(("token" = ["read"])), responses((status = 200, description = "The quotas", body = Quotas)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(name): Segments<AccountName>,
) -> Reply<Json<Quotas>> {
    accounts::in_sight(&fleet, &who.account, &name).await?;
    view(&fleet.store.account(&name), &fleet).await
}

/// Sets all quotas of an account below the caller's own. They hold for the account and those below it together; the quotas of the accounts
/// above hold as well. Only administrators of the account `default` set those of an account that stands below none.
#[utoipa::path(put, path = "/accounts/{name}/quotas", tag = "accounts", operation_id = "set_quotas",
    params(("name" = String, Path, description = "The account")), request_body = SetQuotas,
    security(("token" = ["admin"])), responses((status = 200, description = "The quotas", body = Quotas)))]
async fn set(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<AccountName>,
    body: Body<SetQuotas>,
) -> Reply<Json<Quotas>> {
    accounts::in_sight(&fleet, &who.account, &name).await?;
    if name == *who.account.name() && !accounts::governs_all(&who.account) {
        let detail = "the quotas of an account are set by an administrator of an account above it";
        return Err(Refusal::new(ProblemCode::AccessDenied, detail));
    }
    let SetQuotas { devices, artifact_bytes, groups, principals, tokens } = body.value;
    let wanted = [
        (QuotaKind::Devices, devices),
        (QuotaKind::ArtifactBytes, artifact_bytes),
        (QuotaKind::Groups, groups),
        (QuotaKind::Principals, principals),
        (QuotaKind::Tokens, tokens),
    ];
    if let Some((kind, _)) = wanted.iter().find(|(_, most)| most.is_some_and(|most| i64::try_from(most).is_err())) {
        return Err(Refusal::value(kind.as_str(), "no account holds so much; leave it out for no limit"));
    }
    let account = fleet.store.account(&name);
    account.set_quotas(&who.account, &wanted, fleet.clock.now()).await?;
    view(&account, &fleet).await
}
