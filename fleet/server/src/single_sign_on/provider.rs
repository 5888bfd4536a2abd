//! What is asked of identity providers: what they are (OpenID Connect Discovery 1.0), their keys, and the token for a code. Each answer is
//! bounded in size and time; addresses are those that the settings allow.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protocol_types::UnixSeconds;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde::Deserialize;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::{
    id_token::{self, Expected, IdToken, TokenError},
    keys::KeySet,
};
use crate::{
    config::SingleSignOn,
    outgoing::{AddressPolicy, NotAsked, Outgoing, Target, bounded_body},
};

/// Longest answer of a provider, in bytes.
const ANSWER_BYTES: usize = 256 * 1024;
/// How long what a provider said of itself is taken for true. Keys are asked for anew as soon as one is missing.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Providers that are remembered.
const MOST: usize = 256;

/// What a provider says of itself.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Where browsers are sent.
    pub(crate) authorization: Url,
    token: Target,
    keys: Target,
    /// Whether the client secret goes into a header; otherwise into the body.
    basic: bool,
}

/// Why a provider is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error("`{address}` cannot be asked: {reason}")]
    NotAsked { address: String, reason: NotAsked },
    #[error("`{address}` does not answer: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("`{address}` answers with {status}{error}")]
    Status {
        address: String,
        status: u16,
        /// The code of an OAuth 2.0 error, with a colon before it.
        error: String,
    },
    #[error("the answer of `{0}` has more than {ANSWER_BYTES} bytes")]
    TooLong(String),
    #[error("the answer of `{address}` is not of its form: {what}")]
    Malformed { address: String, what: &'static str },
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The document at `/.well-known/openid-configuration`, as far as it is used.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    response_types_supported: Option<Vec<String>>,
    #[serde(default)]
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// An answer of the token endpoint (RFC 6749, sections 5.1 and 5.2), as far as it is used.
#[derive(Default, Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// A code to exchange for a token.
pub(crate) struct Exchange<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) secret: Option<&'a str>,
    pub(crate) code: &'a str,
    /// The verifier of PKCE (RFC 7636).
    pub(crate) verifier: &'a str,
    pub(crate) redirect_uri: &'a str,
}

impl Exchange<'_> {
    /// The body of the request (RFC 6749, section 4.1.3); with `basic` the client secret stands in a header and not here.
    fn form(&self, basic: bool) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code").append_pair("code", self.code);
        form.append_pair("redirect_uri", self.redirect_uri).append_pair("code_verifier", self.verifier);
        if self.secret.is_none() || !basic {
            form.append_pair("client_id", self.client_id);
        }
        if let Some(secret) = self.secret.filter(|_| !basic) {
            form.append_pair("client_secret", secret);
        }
        form.finish()
    }
}

/// What is remembered of a provider.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    metadata: Arc<Metadata>,
    keys: Arc<KeySet>,
    since: Instant,
}

/// Asks identity providers.
#[derive(Debug)]
pub(crate) struct Providers {
    outgoing: Outgoing,
    remembered: Mutex<HashMap<String, Remembered>>,
}

impl Providers {
    pub(crate) fn new(settings: &SingleSignOn) -> Self {
        let policy = AddressPolicy::new("single_sign_on.allow", &settings.allow);
        let outgoing = Outgoing::new(policy, Duration::from_secs(settings.answer_s));
        Self { outgoing, remembered: Mutex::default() }
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the issuer says of itself, not older than some minutes.
    pub(crate) async fn metadata(&self, issuer: &str) -> Result<Arc<Metadata>, ProviderError> {
        Ok(self.known(issuer).await?.metadata)
    }

    /// Asks the issuer anew what it is and for its keys, whatever is remembered.
    pub(crate) async fn ask_anew(&self, issuer: &str) -> Result<Remembered, ProviderError> {
        let metadata = self.discover(issuer).await?;
        let keys = Arc::new(self.keys(&metadata).await?);
        let known = Remembered { metadata: Arc::new(metadata), keys, since: Instant::now() };
        let mut remembered = self.remembered();
        if remembered.len() >= MOST && !remembered.contains_key(issuer) {
            remembered.clear();
        }
        remembered.insert(issuer.to_owned(), known.clone());
        Ok(known)
    }

    async fn known(&self, issuer: &str) -> Result<Remembered, ProviderError> {
        let known = self.remembered().get(issuer).filter(|known| known.since.elapsed() < FRESH).cloned();
        match known {
            Some(known) => Ok(known),
            None => self.ask_anew(issuer).await,
        }
    }

    async fn discover(&self, issuer: &str) -> Result<Metadata, ProviderError> {
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let target = self.target(&address)?;
        let body = self.get(&target).await?;
        let malformed = |what| ProviderError::Malformed { address: address.clone(), what };
        let document: Document = serde_json::from_slice(&body).map_err(|_| malformed("a field is missing"))?;
        self.read(issuer, document, malformed)
    }

    fn read(
        &self,
        issuer: &str,
        document: Document,
        malformed: impl Fn(&'static str) -> ProviderError,
    ) -> Result<Metadata, ProviderError> {
        if document.issuer != issuer {
            return Err(malformed("it names another issuer"));
        }
        let has = |all: &Option<Vec<String>>, one: &str| all.as_ref().map(|all| all.iter().any(|word| word == one));
        if has(&document.response_types_supported, "code") == Some(false) {
            return Err(malformed("it does not know the authorization code flow"));
        }
        if has(&document.code_challenge_methods_supported, "S256") == Some(false) {
            return Err(malformed("it does not know PKCE with `S256`"));
        }
        let methods = &document.token_endpoint_auth_methods_supported;
        let basic = has(methods, "client_secret_basic") != Some(false);
        if !basic && has(methods, "client_secret_post") == Some(false) && has(methods, "none") == Some(false) {
            return Err(malformed("it takes no client secret"));
        }
        let authorization = self.target(&document.authorization_endpoint)?;
        // Browsers resolve the name themselves; without TLS they only go where the settings say.
        if !authorization.encrypted {
            self.outgoing.client_for(&authorization).map_err(|reason| not_asked(&authorization, reason))?;
        }
        Ok(Metadata {
            authorization: authorization.url,
            token: self.target(&document.token_endpoint)?,
            keys: self.target(&document.jwks_uri)?,
            basic,
        })
    }

    fn target(&self, address: &str) -> Result<Target, ProviderError> {
        Target::parse(address).map_err(|error| ProviderError::NotAsked {
            address: address.chars().filter(|c| !c.is_control()).take(200).collect(),
            reason: error.into(),
        })
    }

    async fn keys(&self, metadata: &Metadata) -> Result<KeySet, ProviderError> {
        let body = self.get(&metadata.keys).await?;
        let what = "it is no set of keys";
        KeySet::parse(&body).ok_or_else(|| ProviderError::Malformed { address: metadata.keys.url.to_string(), what })
    }

    async fn get(&self, target: &Target) -> Result<Vec<u8>, ProviderError> {
        let client = self.outgoing.client_for(target).map_err(|reason| not_asked(target, reason))?;
        let answer = client.get(target.url.clone()).header(ACCEPT, "application/json").send().await;
        let (status, body) = body(target, answer).await?;
        if status == StatusCode::OK { Ok(body) } else { Err(failed(target, status, &body)) }
    }

    /// Exchanges a code for the ID token that it stands for.
    async fn exchange(&self, metadata: &Metadata, exchange: &Exchange<'_>) -> Result<Zeroizing<String>, ProviderError> {
        let target = &metadata.token;
        let client = self.outgoing.client_for(target).map_err(|reason| not_asked(target, reason))?;
        let mut request = client.post(target.url.clone()).header(ACCEPT, "application/json");
        if let (Some(secret), true) = (exchange.secret, metadata.basic) {
            // RFC 6749, section 2.3.1: both are encoded as in a form before they are put together.
            request = request.basic_auth(encoded(exchange.client_id), Some(encoded(secret)));
        }
        let request =
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(exchange.form(metadata.basic));
        let (status, body) = body(target, request.send().await).await?;
        let body = Zeroizing::new(body);
        if status != StatusCode::OK {
            return Err(failed(target, status, &body));
        }
        let malformed = |what| ProviderError::Malformed { address: target.url.to_string(), what };
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| malformed("it is no token"))?;
        answer.id_token.map(Zeroizing::new).ok_or_else(|| malformed("there is no ID token in it"))
    }

    /// Exchanges a code for an ID token and verifies that. A key that is not known, or was exchanged for another, is asked for once.
    pub(crate) async fn token(
        &self,
        issuer: &str,
        exchange: Exchange<'_>,
        (nonce, now): (&str, UnixSeconds),
    ) -> Result<IdToken, ProviderError> {
        let known = self.known(issuer).await?;
        let token = self.exchange(&known.metadata, &exchange).await?;
        let expected = Expected { issuer, client_id: exchange.client_id, nonce };
        match id_token::verify(&token, &known.keys, expected, now) {
            Err(TokenError::UnknownKey | TokenError::Signature | TokenError::AmbiguousKey) => {}
            verified => return Ok(verified?),
        }
        let keys = Arc::new(self.keys(&known.metadata).await?);
        if let Some(known) = self.remembered().get_mut(issuer) {
            known.keys = keys.clone();
        }
        Ok(id_token::verify(&token, &keys, expected, now)?)
    }
}

async fn body(
    target: &Target,
    answer: Result<Response, reqwest::Error>,
) -> Result<(StatusCode, Vec<u8>), ProviderError> {
    let unreachable = |error: reqwest::Error| ProviderError::Unreachable {
        address: target.url.to_string(),
        reason: crate::Chain(&error.without_url()).to_string(),
    };
    let answer = answer.map_err(unreachable)?;
    let status = answer.status();
    let body = bounded_body(answer, ANSWER_BYTES).await.map_err(unreachable)?;
    Ok((status, body.ok_or_else(|| ProviderError::TooLong(target.url.to_string()))?))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn not_asked(target: &Target, reason: NotAsked) -> ProviderError {
    ProviderError::NotAsked { address: target.url.to_string(), reason }
}

/// An answer that is none; of what stands in it only the code of an error is repeated (RFC 6749, section 5.2).
fn failed(target: &Target, status: StatusCode, body: &[u8]) -> ProviderError {
    let answer: TokenAnswer = serde_json::from_slice(body).unwrap_or_default();
    let plain = |error: &String| error.len() <= 60 && error.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let error = answer.error.filter(plain).map(|error| format!(": {error}")).unwrap_or_default();
    ProviderError::Status { address: target.url.to_string(), status: status.as_u16(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_shows_itself_in_the_header_or_in_the_body_and_never_in_both() {
        let exchange =
            |secret| Exchange { client_id: "mbl", secret, code: "c", verifier: "v", redirect_uri: "https://a/b" };
        let rest = "grant_type=authorization_code&code=c&redirect_uri=https%3A%2F%2Fa%2Fb&code_verifier=v";
        assert_eq!(exchange(Some("s&")).form(true), rest);
        assert_eq!(exchange(Some("s&")).form(false), format!("{rest}&client_id=mbl&client_secret=s%26"));
        assert_eq!(exchange(None).form(true), format!("{rest}&client_id=mbl"));
    }

    fn document(other: serde_json::Value) -> Document {
        let mut document = serde_json::json!({
            "issuer": "https://login.example", "authorization_endpoint": "https://login.example/a",
            "token_endpoint": "https://login.example/t", "jwks_uri": "https://login.example/k",
        });
        document.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        serde_json::from_value(document).unwrap()
    }

    #[tokio::test]
    async fn what_a_provider_says_of_itself_must_fit_what_is_asked_of_it() {
        let providers = Providers::new(&SingleSignOn::default());
        let read = |other: serde_json::Value| {
            let malformed = |what| ProviderError::Malformed { address: String::new(), what };
            providers.read("https://login.example", document(other), malformed).map_err(|error| error.to_string())
        };
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert!(read(json("{}")).unwrap().basic);
        let post = json(r#"{"token_endpoint_auth_methods_supported": ["client_secret_post"]}"#);
        assert!(!read(post).unwrap().basic);
        for (other, why) in [
            (r#"{"issuer": "https://stranger.example"}"#, "another issuer"),
            (r#"{"response_types_supported": ["token"]}"#, "code flow"),
            (r#"{"code_challenge_methods_supported": ["plain"]}"#, "PKCE"),
            (r#"{"token_endpoint_auth_methods_supported": ["private_key_jwt"]}"#, "no client secret"),
            (r#"{"authorization_endpoint": "http://10.0.0.1/a"}"#, "`single_sign_on.allow`"),
            (r#"{"authorization_endpoint": "javascript:alert(1)"}"#, "begins with `https://`"),
            (r#"{"token_endpoint": "file:///etc/passwd"}"#, "begins with `https://`"),
        ] {
            let said = read(json(other)).unwrap_err();
            assert!(said.contains(why), "{other}: {said}");
        }
    }
}
