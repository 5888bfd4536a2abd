//! `/single-sign-on`: people sign in with the identity provider of their account. Open to everybody, as signing in is; the address to
//! which a browser is sent on is never what somebody says, but a port of its own machine.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleet_api::{BeginSingleSignOn, BegunSingleSignOn, CreatedToken, FinishSingleSignOn, ProblemCode, TokenScope};
use fleet_store::{AccountScope, PrincipalName, StoreError};
use serde::Deserialize;
use url::Url;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        access::sessions,
        body::{Body, Parameters},
        outsider::Outsider,
    },
    single_sign_on::{self, Arrival, FlowError, ProviderError, Returned, Wish},
};

/// Bytes of a challenge: SHA-256 in base64url.
const CHALLENGE_BYTES: usize = 43;
/// Lowest port that a program without privileges has.
const FIRST_PORT: u16 = 1024;
/// Longest parameter that a provider sends.
const PARAMETER_BYTES: usize = 8 * 1024;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(begin)).routes(routes!(callback)).routes(routes!(finish))
}

impl From<FlowError> for Refusal {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::NoProvider(_) => Self::new(ProblemCode::NotFound, error.to_string()),
            FlowError::Provider(ProviderError::Token(_))
            | FlowError::NotUnderWay
            | FlowError::Refused(_)
            | FlowError::OtherIssuer
            | FlowError::NotAdmitted(_) => Self::new(ProblemCode::SingleSignOnRefused, error.to_string()),
            FlowError::Provider(_) => Self::new(ProblemCode::ProviderFailed, error.to_string()),
            FlowError::Store(error) => over(error),
            FlowError::Encode(_) | FlowError::Seal(_) | FlowError::Unseal(_) | FlowError::Random(_) => {
                Self::internal(&error)
            }
        }
    }
}

/// What the store says of a sign-in that was over meanwhile, or of a code that is another, is told in the words of all the others.
fn over(error: StoreError) -> Refusal {
    match error {
        StoreError::NotFound { kind: "sign-in", .. } => FlowError::NotUnderWay.into(),
        StoreError::WrongState { kind: "user", .. } => {
            Refusal::new(ProblemCode::SingleSignOnRefused, error.to_string())
        }
        other => other.into(),
    }
}

/// What the session may allow, space between.
fn scopes(asked: Option<Vec<TokenScope>>) -> Reply<String> {
    let mut scopes = asked.unwrap_or_else(|| vec![TokenScope::Admin]);
    if scopes.is_empty() {
        return Err(Refusal::value("scopes", "a session needs at least one scope"));
    }
    scopes.sort_unstable();
    scopes.dedup();
    let scopes: Vec<&str> = scopes.into_iter().map(TokenScope::as_str).collect();
    Ok(scopes.join(" "))
}

/// Begins to sign in with the identity provider of an account. The answer says where the person has to go with a browser, within ten
/// minutes.
#[utoipa::path(post, path = "/single-sign-on", tag = "users", operation_id = "begin_single_sign_on",
    request_body = BeginSingleSignOn,
    responses((status = 201, description = "The sign-in has begun", body = BegunSingleSignOn)))]
async fn begin(
    State(fleet): State<Fleet>,
    body: Body<BeginSingleSignOn>,
) -> Reply<(StatusCode, Json<BegunSingleSignOn>)> {
    let BeginSingleSignOn { account, challenge, port, scopes: asked } = body.value;
    let is_challenge = challenge.len() == CHALLENGE_BYTES
        && challenge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !is_challenge {
        return Err(Refusal::value("challenge", "a challenge is SHA-256 in base64url: 43 characters"));
    }
    if port.is_some_and(|port| port < FIRST_PORT) {
        return Err(Refusal::value("port", format!("the port is {FIRST_PORT} or a higher one")));
    }
    let wish = Wish { challenge, port, scopes: scopes(asked)? };
    let account = fleet.store.account(&account);
    let begun = Box::pin(single_sign_on::begin(&fleet, &account, wish, fleet.clock.now())).await?;
    let begun = BegunSingleSignOn { id: begun.id, address: begun.address.into(), expires: begun.expires };
    Ok((StatusCode::CREATED, Json(begun)))
}

/// What a provider adds to the address of the service (OpenID Connect Core 1.0, section 3.1.2.5); providers add more than that.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CallbackQuery {
    /// The state that the browser was sent to the provider with.
    state: String,
    /// The code that stands for the ID token.
    #[serde(default)]
    code: Option<String>,
    /// Why the provider lets nobody in.
    #[serde(default)]
    error: Option<String>,
    /// The issuer that sends the browser back (RFC 9207).
    #[serde(default)]
    iss: Option<String>,
}

/// Where the identity provider sends a browser back to. It is sent on to the program that began, or shows the one-time code to the person.
/// What went wrong after the provider is told there, too: the page then has the status of the refusal.
#[utoipa::path(get, path = "/single-sign-on/callback", tag = "users", operation_id = "return_from_identity_provider",
    params(CallbackQuery),
    responses((status = 200, description = "A page for the person", body = String, content_type = "text/html"),
              (status = 303, description = "To the program that began, on the same machine")))]
async fn callback(
    State(fleet): State<Fleet>,
    outsider: Outsider,
    Parameters(query): Parameters<CallbackQuery>,
) -> Reply<Response> {
    let CallbackQuery { state, code, error, iss } = query;
    let too_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > PARAMETER_BYTES);
    if too_long(&code) || too_long(&error) || too_long(&iss) || state.len() > PARAMETER_BYTES {
        return Err(Refusal::new(ProblemCode::MalformedRequest, "a parameter is longer than one may be"));
    }
    let returned = Returned { state, code, error, issuer: iss };
    let now = fleet.clock.now();
    let acting = |account: &AccountScope, who: &PrincipalName| {
        outsider.acting((account, who), ("return_from_identity_provider", ""), now)
    };
    let Arrival { id, port, outcome } = Box::pin(single_sign_on::complete(&fleet, returned, acting, now)).await?;
    let outcome = outcome.map(|code| Zeroizing::new(code.reveal())).map_err(Refusal::from);
    Ok(match port {
        Some(port) => onward(port, &id, outcome),
        None => page(outcome),
    })
}

/// Headers of answers that hold a one-time code: they are stored nowhere, framed nowhere and load nothing.
const PRIVATE: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Sends the browser on to the program that began.
fn onward(port: u16, id: &str, outcome: Result<Zeroizing<String>, Refusal>) -> Response {
    let Ok(mut address) = Url::parse(&format!("http://127.0.0.1:{port}/")) else {
        return Refusal::new(ProblemCode::Internal, "there is no such port").into_response();
    };
    let mut pairs = vec![("id", id)];
    match &outcome {
        Ok(code) => pairs.push(("code", code.as_str())),
        Err(Refusal(problem, _)) => {
            pairs.extend([("error", problem.code.as_str()), ("detail", problem.detail.as_str())])
        }
    }
    address.query_pairs_mut().extend_pairs(pairs);
    (StatusCode::SEE_OTHER, PRIVATE, [(header::LOCATION, String::from(address))]).into_response()
}

/// Shows a person what came of it. A refusal is a page, too, with the status of the refusal.
fn page(outcome: Result<Zeroizing<String>, Refusal>) -> Response {
    let (status, title, text) = match outcome {
        Ok(code) => {
            let text = format!(
                "<p>Type this code at the terminal where you began:</p><p><strong><code>{}</code></strong></p>\
                 <p>If you did not begin there yourself, close this page and tell the code to nobody.</p>",
                escaped(&code)
            );
            (StatusCode::OK, "Signed in", text)
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, "Not signed in", format!("<p>{}</p>", escaped(&refusal.0.detail)))
        }
    };
    let text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1>{text}</body></html>\n"
    );
    (status, PRIVATE, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

/// Text as it stands in HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Ends a sign-in with a session, which lasts 12 hours: for whoever began and has the one-time code, once.
#[utoipa::path(post, path = "/single-sign-on/session", tag = "users", operation_id = "finish_single_sign_on",
    request_body = FinishSingleSignOn,
    responses((status = 201, description = "The session and its secret", body = CreatedToken)))]
async fn finish(
    State(fleet): State<Fleet>,
    outsider: Outsider,
    body: Body<FinishSingleSignOn>,
) -> Reply<(StatusCode, Json<CreatedToken>)> {
    let now = fleet.clock.now();
    let FinishSingleSignOn { id, verifier, code } = body.value;
    let (verifier, code) = (Zeroizing::new(verifier), Zeroizing::new(code));
    let finishing = single_sign_on::finish(&fleet, (&id, &verifier, &code), now).await?;
    let single_sign_on::Finishing { account, who, scopes, code } = finishing;
    let scopes = scopes.split(' ').filter_map(|scope| scope.parse().ok()).collect();
    let (token, secret) = sessions::session(&fleet, &who, Some(scopes), now)?;
    let account = account.acting(outsider.acting((&account, &who), ("finish_single_sign_on", &token.id), now));
    let row = account.finish_single_sign_on((&id, &code), (&who, &token), now).await.map_err(over)?;
    Ok((StatusCode::CREATED, Json(sessions::told(row, &secret))))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_browser_is_sent_on_to_its_own_machine_and_nowhere_else() {
        let code = Zeroizing::new("aaaa-bbbb".to_owned());
        let answer = onward(4711, "0f", Ok(code));
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        assert_eq!(answer.headers()[header::LOCATION], "http://127.0.0.1:4711/?id=0f&code=aaaa-bbbb");
        assert_eq!(answer.headers()[header::REFERRER_POLICY], "no-referrer");
        let answer = onward(4711, "0f", Err(FlowError::NotUnderWay.into()));
        let location = answer.headers()[header::LOCATION].to_str().unwrap();
        assert!(
            location.starts_with("http://127.0.0.1:4711/?id=0f&error=single_sign_on_refused&detail=this+"),
            "{location}"
        );
    }

    #[tokio::test]
    async fn a_page_holds_nothing_that_a_browser_would_run() {
        let refusal = Refusal::new(ProblemCode::SingleSignOnRefused, "<script>'\"&");
        let answer = page(Err(refusal));
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'"));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("<p>&lt;script&gt;&#39;&quot;&amp;</p>"), "{text}");
    }
}
