//! `/invitation`: what somebody does who holds an invitation and nothing else: look at it, then set password and authenticator.

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{AcceptInvitation, AcceptedInvitation, Invitation, ProblemCode, ShowInvitation};
use fleet_store::InvitationRow;
use protocol_types::UnixSeconds;
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        access::{secret::InvitationSecret, sessions},
        body::Body,
        outsider::Outsider,
    },
    users::{self, RecoveryCode, TotpSecret},
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(accept))
}

/// The invitation with this secret, if it still works. A secret has 256 random bits: nobody finds one by trying.
async fn open(fleet: &Fleet, secret: &str, now: UnixSeconds) -> Reply<(InvitationRow, TotpSecret, String)> {
    let refused =
        || Refusal::new(ProblemCode::InvitationRefused, "this invitation is not known, was used, or has expired");
    let hash = InvitationSecret::parse(secret.trim()).ok_or_else(refused)?.hash();
    let found = fleet.store.service_wide().invitation_by_hash(&hash).await?;
    let row = found.filter(|row| row.expires > now && !row.disabled).ok_or_else(refused)?;
    let sealed_for = users::sealed_for(&row.account, row.who.name());
    let totp = fleet.authority.sealing.unseal(&sealed_for, &row.totp).map_err(|error| Refusal::internal(&error))?;
    Ok((row, TotpSecret::of(totp), hash))
}

/// What an invitation is for, and what the authenticator must hold before it can be accepted.
#[utoipa::path(post, path = "/invitation", tag = "users", operation_id = "show_invitation", request_body = ShowInvitation,
    responses((status = 200, description = "The invitation", body = Invitation)))]
async fn show(State(fleet): State<Fleet>, body: Body<ShowInvitation>) -> Reply<Json<Invitation>> {
    let secret = Zeroizing::new(body.value.invitation);
    let (row, totp, _) = open(&fleet, &secret, fleet.clock.now()).await?;
    let InvitationRow { account, who, title, email, expires, .. } = row;
    let totp_address = totp.address(&account, who.name()).to_string();
    let totp_secret = totp.base32().to_string();
    Ok(Json(Invitation { account, name: who.name().to_owned(), title, email, expires, totp_secret, totp_address }))
}

/// Sets password and authenticator, answers the recovery codes, and begins the first session. The invitation is used up.
#[utoipa::path(post, path = "/invitation/accept", tag = "users", operation_id = "accept_invitation",
    request_body = AcceptInvitation,
    responses((status = 201, description = "The user's first session and recovery codes", body = AcceptedInvitation)))]
async fn accept(
    State(fleet): State<Fleet>,
    outsider: Outsider,
    body: Body<AcceptInvitation>,
) -> Reply<(StatusCode, Json<AcceptedInvitation>)> {
    let now = fleet.clock.now();
    let AcceptInvitation { invitation, password, code } = body.value;
    let (invitation, password) = (Zeroizing::new(invitation), Zeroizing::new(password));
    let (row, totp, hash) = open(&fleet, &invitation, now).await?;
    let InvitationRow { account, who, .. } = row;
    if let Some(fault) = users::fault(&password, who.name()) {
        return Err(Refusal::value("password", fault));
    }
    let wrong = || Refusal::value("code", "this is not the code that the authenticator shows now");
    let step = totp.step_of(code.trim(), now).ok_or_else(wrong)?;
    sessions::with_password(&fleet.store.account(&account), &who).await?;
    let password = fleet.passwords.turn().await?.hash(password, &fleet.random).await?;
    let mut codes = Vec::with_capacity(RecoveryCode::HOW_MANY);
    for _ in 0..RecoveryCode::HOW_MANY {
        codes.push(RecoveryCode::new(&fleet.random)?);
    }
    let recovery = codes.iter().map(|code| code.hash(&account, who.name()).hex()).collect();
    let accepted = fleet_store::AcceptedInvitation { hash, password, step, recovery };
    let (token, secret) = sessions::session(&fleet, &who, None, now)?;
    let scope = fleet.store.account(&account);
    let scope = scope.acting(outsider.acting((&scope, &who), ("accept_invitation", &token.id), now));
    scope.accept_invitation(&who, (&accepted, &token), now).await?;
    fleet.store.service_wide().end_tries(&users::subject(&account, who.name())).await?;
    let session = sessions::told(scope.token(&token.id).await?, &secret);
    let recovery_codes = codes.iter().map(RecoveryCode::reveal).collect();
    let name = who.name().to_owned();
    Ok((StatusCode::CREATED, Json(AcceptedInvitation { account, name, session, recovery_codes })))
}
