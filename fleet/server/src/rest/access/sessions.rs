//! `/sessions` and `/session`: people sign in, sign out and change their password. A session is a token of the user's.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{ChangePassword, CreatedToken, ProblemCode, SignIn, TokenScope};
use fleet_store::{AccountScope, NewToken, PrincipalKind, PrincipalName, ProviderSettings, TokenRow};
use protocol_types::UnixSeconds;
use tokio::time::{Instant, sleep_until};
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use crate::{
    access::Subject,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        access::{secret::TokenSecret, tokens},
        body::Body,
        caller::{Caller, need},
        outsider::Outsider,
    },
    users::{self, NotVerified, PasswordError, Shown},
};

/// How long a session lasts: 12 hours, a working day.
const SESSION_S: u64 = 12 * 60 * 60;
/// No refusal is told earlier than this after the request came, so that its time tells nothing of what was not right.
const FLOOR: Duration = Duration::from_millis(500);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(sign_in)).routes(routes!(sign_out)).routes(routes!(change_password))
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::new(ProblemCode::Unavailable, error.to_string()),
            other => Self::internal(&other),
        }
    }
}

impl From<NotVerified> for Refusal {
    fn from(error: NotVerified) -> Self {
        match error {
            NotVerified::Wrong(_) => Self::new(ProblemCode::SignInRefused, error.to_string()),
            NotVerified::Locked { seconds } => {
                Self::new(ProblemCode::SignInLocked, error.to_string()).again_after(seconds)
            }
            NotVerified::Password(error) => error.into(),
            NotVerified::Store(error) => error.into(),
            NotVerified::Sealed(error) => Self::internal(&error),
        }
    }
}

/// Refuses a user who has to sign in with the identity provider of the account. It is asked of those alone who have shown password and
/// code: nobody else learns whom it is asked of.
pub(crate) async fn with_password(account: &AccountScope, who: &PrincipalName) -> Reply<()> {
    let provider = account.identity_provider().await?.map(|provider| provider.settings);
    let is_bound =
        |settings: &ProviderSettings| settings.required && settings.break_glass.as_deref() != Some(who.name());
    if provider.as_ref().is_some_and(is_bound) {
        let detail = format!("account `{}` signs in with its identity provider", account.name());
        return Err(Refusal::new(ProblemCode::SingleSignOnRequired, detail));
    }
    Ok(())
}

/// A session to make, and its secret.
pub(crate) fn session(
    fleet: &Fleet,
    who: &PrincipalName,
    scopes: Option<Vec<TokenScope>>,
    now: UnixSeconds,
) -> Reply<(NewToken, TokenSecret)> {
    let mut scopes = scopes.unwrap_or_else(|| vec![TokenScope::Admin]);
    if scopes.is_empty() {
        return Err(Refusal::value("scopes", "a session needs at least one scope"));
    }
    scopes.sort_unstable();
    scopes.dedup();
    let scopes: Vec<&str> = scopes.into_iter().map(TokenScope::as_str).collect();
    let secret = TokenSecret::new(&fleet.random)?;
    let token = NewToken {
        id: secret.id(),
        name: "session".to_owned(),
        hash: secret.hash(),
        scopes: scopes.join(" "),
        expires: Some(UnixSeconds(now.0.saturating_add(SESSION_S))),
        is_first: false,
        principal: Some(who.clone()),
    };
    Ok((token, secret))
}

/// What the owner of a new session is told.
pub(crate) fn told(row: TokenRow, secret: &TokenSecret) -> CreatedToken {
    CreatedToken { token: tokens::view(row), secret: Some(secret.reveal().to_owned()) }
}

/// Begins a session, which lasts 12 hours. Whatever is not right, the answer is the same. After a few tries that failed, each further one
/// must wait longer.
#[utoipa::path(post, path = "/sessions", tag = "users", operation_id = "sign_in", request_body = SignIn,
    responses((status = 201, description = "The session and its secret", body = CreatedToken)))]
async fn sign_in(
    State(fleet): State<Fleet>,
    outsider: Outsider,
    body: Body<SignIn>,
) -> Reply<(StatusCode, Json<CreatedToken>)> {
    let floor = Instant::now() + FLOOR;
    let answer = Box::pin(begin(&fleet, &outsider, body.value)).await;
    if answer.is_err() {
        sleep_until(floor).await;
    }
    answer.map(|made| (StatusCode::CREATED, Json(made)))
}

async fn begin(fleet: &Fleet, outsider: &Outsider, shown: SignIn) -> Reply<CreatedToken> {
    let now = fleet.clock.now();
    let SignIn { account, name, password, code, scopes } = shown;
    let account = fleet.store.account(&account);
    let subject = users::subject(account.name(), &name);
    let shown = Shown { name, password: Zeroizing::new(password), code: Zeroizing::new(code) };
    let verified = match Box::pin(users::verify(fleet, &account, shown, now)).await {
        Ok(verified) => verified,
        Err(error) => {
            if let NotVerified::Wrong(Some(who)) = &error {
                note_refused(&account, (outsider, who), now).await;
            }
            return Err(error.into());
        }
    };
    if !account.would_take(&verified.who, &verified.factor).await? {
        note_refused(&account, (outsider, &verified.who), now).await;
        return Err(NotVerified::Wrong(None).into());
    }
    with_password(&account, &verified.who).await?;
    let (token, secret) = session(fleet, &verified.who, scopes, now)?;
    let acting = outsider.acting((&account, &verified.who), ("sign_in", &token.id), now);
    let known = (&verified.who, &verified.known);
    let row = account.acting(acting).begin_session(known, (&verified.factor, &token), now).await;
    if row.is_err() {
        note_refused(&account, (outsider, &verified.who), now).await;
    }
    let row = row?;
    fleet.store.service_wide().end_tries(&subject).await?;
    Ok(told(row, &secret))
}

/// Only tries for users who are there go on record; locks bound how many.
async fn note_refused(account: &AccountScope, (outsider, who): (&Outsider, &PrincipalName), now: UnixSeconds) {
    let acting = outsider.acting((account, who), ("sign_in", ""), now);
    if let Err(error) = account.note_refused(&acting, ProblemCode::SignInRefused.as_str()).await {
        tracing::error!(error = %crate::Chain(&error), "a refusal was not written into the audit log");
    }
}

/// The user whose session or token it is.
fn own<N>(who: &Caller<N>) -> Reply<(&protocol_types::AccountName, &PrincipalName)> {
    match &who.caller.subject {
        Subject::Principal { home, who } if who.kind() == PrincipalKind::User => Ok((home, who)),
        Subject::Principal { .. } | Subject::Token { .. } => {
            Err(Refusal::new(ProblemCode::WrongState, "the token that was sent is none of a user"))
        }
    }
}

/// Ends the session that is sent.
#[utoipa::path(delete, path = "/session", tag = "users", operation_id = "sign_out",
    security(("token" = ["read"])), responses((status = 204, description = "The session has ended")))]
async fn sign_out(State(fleet): State<Fleet>, who: Caller<need::Read>) -> Reply<StatusCode> {
    let (home, user) = own(&who)?;
    let account = fleet.store.account_by(home, &who.account);
    account.end_session(user, &who.token, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets another password for the user whose session is sent. All their other sessions and tokens end.
#[utoipa::path(put, path = "/session/password", tag = "users", operation_id = "change_password",
    request_body = ChangePassword,
    security(("token" = ["read"])), responses((status = 204, description = "The password is another")))]
async fn change_password(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    body: Body<ChangePassword>,
) -> Reply<StatusCode> {
    let now = fleet.clock.now();
    let (home, user) = own(&who)?;
    let account = fleet.store.account_by(home, &who.account);
    let ChangePassword { password, code, new_password } = body.value;
    let new_password = Zeroizing::new(new_password);
    let shown = Shown { name: user.name().to_owned(), password: Zeroizing::new(password), code: Zeroizing::new(code) };
    if let Some(fault) = users::fault(&new_password, user.name()) {
        return Err(Refusal::value("new_password", fault));
    }
    let verified = Box::pin(users::verify(&fleet, &account, shown, now)).await?;
    let hash = fleet.passwords.turn().await?.hash(new_password, &fleet.random).await?;
    let known = (&verified.who, &verified.known);
    account.change_password(known, (&verified.factor, &hash), &who.token, now).await?;
    fleet.store.service_wide().end_tries(&users::subject(home, user.name())).await?;
    Ok(StatusCode::NO_CONTENT)
}
