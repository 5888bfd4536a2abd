//! The one gate of the API: before a handler runs it is decided who asks, for which account, and whether they may. What was refused
//! to somebody known stands in the audit log, as what was done does.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fleet_api::{ACCOUNT_HEADER, BASE_PATH, ProblemCode, TokenScope};
use fleet_store::{AccountScope, Acting, StoreError, TokenRow};
use protocol_types::AccountName;
use tokio::time::timeout;

use crate::{
    access::{self, Action, Allowance, Asked, Subject, Verdict},
    durable,
    fleet::Fleet,
    proxies::client_address,
    rest::{Refusal, Reply, access::secret::TokenSecret},
    traces,
};

/// Characters of a path that the audit log keeps. No name of a thing of ours is as long; what somebody makes up may be.
const MAX_RESOURCE: usize = 512;
/// Longest wait to note the use of a token: a request that only reads does not stand behind a long write.
const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// The other end of the connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Where a request came from, as far as the settings trust who says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// The id of a request, as its answer names it.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// The code of a refusal, beside the answer that tells it.
#[derive(Clone, Debug)]
pub(crate) struct RefusedBecause(pub(crate) String);

/// A request that may reach its handler.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// The account, on behalf of the caller.
    pub(crate) account: AccountScope,
    /// The scope of the action.
    pub(crate) scope: TokenScope,
    /// Who asks.
    pub(crate) caller: access::Caller,
    /// Id of the token that was shown.
    pub(crate) token: String,
}

/// Lets requests through that may reach their handler, and those to paths that are open to everybody.
pub(crate) async fn admit(State(fleet): State<Fleet>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Some(Peer(peer)) = parts.extensions.get() {
        let address = client_address(peer.ip(), &parts.headers, &fleet.config.proxies);
        parts.extensions.insert(ClientAddress(address));
    }
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(action) = fleet.access.routes.action(&parts.method, path).cloned() else {
        let is_counted = path.starts_with(BASE_PATH);
        let request = Request::from_parts(parts, body);
        return if is_counted { open(&fleet, request, next).await } else { next.run(request).await };
    };
    let shown = match Box::pin(authenticate(&fleet, &parts)).await {
        Ok(shown) => shown,
        Err(refusal) => return refusal.into_response(),
    };
    let allowance = fleet.rates.count(shown.caller.subject.home());
    if let Some(seconds) = allowance.retry_after_s {
        return told(too_often(seconds).into_response(), allowance);
    }
    let acting = acting(&fleet, &parts, (&action, &shown));
    let changes = !matches!(parts.method, Method::GET | Method::HEAD);
    let (account, answer) = match Box::pin(enter(&fleet, &mut parts, (&action, &shown, &acting))).await {
        Ok(account) => {
            let admitted = Admitted {
                account: account.clone(),
                scope: action.scope,
                caller: shown.caller.clone(),
                token: shown.token.id.clone(),
            };
            parts.extensions.insert(admitted);
            if changes {
                // Before anything comes of it: what does looks for its cause.
                traces::note(&fleet, &account, parts.uri.path()).await;
            }
            (account, next.run(Request::from_parts(parts, body)).await)
        }
        Err((account, refusal)) => (account, refusal.into_response()),
    };
    let status = answer.status();
    if changes && (status.is_client_error() || status.is_server_error()) {
        let because = answer.extensions().get::<RefusedBecause>();
        let outcome = because.map_or_else(|| status.as_u16().to_string(), |because| because.0.clone());
        fleet.refusals.note(&account, acting, &outcome).await;
    }
    told(answer, allowance)
}

/// Lets a request of anybody through, unless too many came from its address.
async fn open(fleet: &Fleet, request: Request, next: Next) -> Response {
    let Some(&ClientAddress(address)) = request.extensions().get() else { return next.run(request).await };
    if let Err(early) = fleet.strangers.ask(address, Instant::now()) {
        let seconds = access::whole_seconds(early);
        let detail = format!("too many requests without a token came from {address}; the next may come in {seconds} s");
        return Refusal::new(ProblemCode::AddressLocked, detail).again_after(seconds).into_response();
    }
    let answer = next.run(request).await;
    if answer.status() != StatusCode::UNAUTHORIZED {
        fleet.strangers.welcome(address, Instant::now());
    }
    answer
}

fn too_often(seconds: u64) -> Refusal {
    let detail = format!("the account asks too often; the next request may come in {seconds} s");
    Refusal::new(ProblemCode::RateLimited, detail)
}

/// Tells how often the account may still ask (draft-ietf-httpapi-ratelimit-headers-10).
fn told(mut answer: Response, allowance: Allowance) -> Response {
    let Allowance { burst, window_s, remaining, retry_after_s } = allowance;
    let mut lines = vec![
        ("ratelimit-policy", format!("\"account\";q={burst};w={window_s}")),
        ("ratelimit", format!("\"account\";r={remaining};t={}", retry_after_s.unwrap_or(u64::from(window_s)))),
    ];
    lines.extend(retry_after_s.map(|seconds| ("retry-after", seconds.to_string())));
    for (name, line) in lines {
        if let Ok(value) = HeaderValue::try_from(line) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// What was shown, by whom.
struct Shown {
    caller: access::Caller,
    token: TokenRow,
}

async fn authenticate(fleet: &Fleet, parts: &Parts) -> Reply<Shown> {
    let secret = bearer(&parts.headers)?;
    let found = fleet.store.service_wide().token_by_hash(&secret.hash()).await?;
    let Some((home, token)) = found else {
        return Err(Refusal::new(ProblemCode::TokenUnknown, "this service has not made the token"));
    };
    if token.revoked.is_some() {
        return Err(Refusal::new(ProblemCode::TokenRevoked, format!("token `{}` was revoked", token.id)));
    }
    if token.expires.is_some_and(|expires| expires <= fleet.clock.now()) {
        return Err(Refusal::new(ProblemCode::TokenExpired, format!("token `{}` has expired", token.id)));
    }
    let subject = match &token.principal {
        None => Subject::Token { home, id: token.id.clone() },
        Some(who) => {
            let principal = fleet.store.account(&home).principal(who).await?;
            if principal.disabled.is_some() {
                return Err(Refusal::new(ProblemCode::PrincipalDisabled, format!("`{who}` may not act")));
            }
            Subject::Principal { home, who: principal.who }
        }
    };
    let caller = access::Caller {
        subject,
        scopes: token.scopes.split(' ').map(str::to_owned).collect(),
        second_factor: token.second_factor,
        address: parts.extensions.get::<ClientAddress>().map(|address| address.0.to_string()).unwrap_or_default(),
    };
    Ok(Shown { caller, token })
}

fn bearer(headers: &HeaderMap) -> Reply<TokenSecret> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Refusal::new(ProblemCode::TokenMissing, "the request has no token"));
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, secret)| TokenSecret::parse(secret.trim()))
        .ok_or_else(|| Refusal::new(ProblemCode::TokenUnknown, "the header holds no token of this service"))
}

fn acting(fleet: &Fleet, parts: &Parts, (action, shown): (&Action, &Shown)) -> Acting {
    let path = parts.uri.path();
    let resource = path.strip_prefix(fleet_api::BASE_PATH).unwrap_or(path).trim_start_matches('/');
    Acting {
        request: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
        principal: shown.caller.subject.to_string(),
        home: shown.caller.subject.home().clone(),
        credential: shown.token.id.clone(),
        address: shown.caller.address.clone(),
        action: action.name.clone(),
        resource: resource.chars().take(MAX_RESOURCE).collect(),
        time: fleet.clock.now(),
    }
}

/// The account that the caller may act in as asked; a refusal names the account whose audit log tells it.
async fn enter(
    fleet: &Fleet,
    parts: &mut Parts,
    (action, shown, acting): (&Action, &Shown, &Acting),
) -> Result<AccountScope, (AccountScope, Refusal)> {
    let subject = &shown.caller.subject;
    let home = fleet.store.account(subject.home());
    let at_home = |refusal| (home.clone(), refusal);
    let path = wanted_path(fleet, &parts.headers, subject).await.map_err(at_home)?;
    let account = path.first().map_or_else(|| home.clone(), |name| fleet.store.account(name));
    let here = |refusal| (account.clone(), refusal);
    let endpoint = if action.on_device { Some(endpoint(parts).await.map_err(here)?) } else { None };
    let asked = Asked { caller: &shown.caller, path: &path, action, endpoint, now: acting.time };
    let verdict = fleet.access.judge(&fleet.store, &asked).await.map_err(|error| here(error.into()))?;
    if !verdict.decision.allowed {
        return Err((account, denied(subject, acting, &verdict)));
    }
    note_used(fleet, &home, shown).await;
    let account = account.acting(acting.clone());
    Ok(match verdict.narrowed {
        Some(only) => account.narrowed(only),
        None => account,
    })
}

/// The account that the request names, or the caller's own, and those above it. An account that is not the caller's own or below
/// it is not there.
async fn wanted_path(fleet: &Fleet, headers: &HeaderMap, subject: &Subject) -> Reply<Vec<AccountName>> {
    let own = subject.home();
    let Some(value) = headers.get(ACCOUNT_HEADER) else {
        return Ok(fleet.store.service_wide().account_path(own).await?);
    };
    let text = value.to_str().unwrap_or_default();
    let missing = || Refusal::from(StoreError::NotFound { kind: "account", id: text.chars().take(80).collect() });
    let name = AccountName::new(text).map_err(|_| missing())?;
    let path = fleet.store.service_wide().account_path(&name).await?;
    let is_below = match subject {
        Subject::Token { .. } => name == *own,
        Subject::Principal { .. } => path.contains(own),
    };
    if is_below { Ok(path) } else { Err(missing()) }
}

/// The device that the path names. A name that breaks the rules names no device.
async fn endpoint(parts: &mut Parts) -> Reply<protocol_types::EndpointName> {
    let missing = || Refusal::new(ProblemCode::NotFound, "the path names no device");
    let found = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| missing())?;
    let name = found.iter().find(|(key, _)| *key == "endpoint").and_then(|(_, value)| value.parse().ok());
    name.ok_or_else(missing)
}

/// A refusal that says which policy decided. What a token's scopes do not allow has a code of its own.
fn denied(subject: &Subject, acting: &Acting, verdict: &Verdict) -> Refusal {
    let decision = &verdict.decision;
    for failed in &decision.failed {
        tracing::warn!(request = acting.request, error = failed, "a policy could not be evaluated, so it was refused");
    }
    let scope = decision.deciding.iter().find_map(|policy| policy.strip_prefix("scope-"));
    if let Some(scope) = scope {
        let detail = format!("token `{}` does not have the scope `{scope}`", acting.credential);
        return Refusal::new(ProblemCode::ScopeMissing, detail);
    }
    let why = decision.because();
    let detail = format!("`{subject}` may not `{}` on `{}`: {why}", acting.action, acting.resource);
    Refusal::new(ProblemCode::AccessDenied, detail)
}

/// Notes the use of the token; the first use of a token of a person's own ends the first token. What cannot be noted keeps nobody from
/// reading: the next use finds the token as it was, and notes all of it.
async fn note_used(fleet: &Fleet, home: &AccountScope, shown: &Shown) {
    let token = shown.token.id.as_str();
    match timeout(NOTED_WITHIN, home.note_token_used(&shown.token, fleet.clock.now())).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => {
            let file = Fleet::first_token_file(&fleet.config);
            if let Err(error) = durable::remove(&file) {
                tracing::warn!(%error, file = %file.display(), "the file of the first token could not be removed");
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(token, error = %crate::Chain(&error), "the use of a token could not be noted");
        }
        Err(_) => tracing::warn!(token, "the use of a token could not be noted in time"),
    }
}
