//! The three steps of a sign-in: begin, come back, finish. Whatever goes wrong ends it: a code, a state and a one-time code are each
//! taken once.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::BASE64URL_NOPAD;
use fleet_api::{BASE_PATH, code_challenge};
use fleet_store::{AccountScope, Acting, Confirmed, NewSingleSignOn, PrincipalName, SingleSignOnRow, StoreError};
use protocol_types::{AccountName, Digest, UnixSeconds};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use super::{
    admission::{self, NotAdmitted},
    id_token::IdToken,
    provider::{Exchange, ProviderError},
};
use crate::{
    Random,
    authority::{AuthorityError, NotSealedHere},
    fleet::Fleet,
    random::RandomError,
    users::TypedCode,
};

/// How long a person has, in seconds: ten minutes.
const PATIENCE_S: u64 = 600;

/// Why nobody signs in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlowError {
    #[error("account `{0}` has no identity provider")]
    NoProvider(AccountName),
    #[error("this sign-in is not under way: it is over, was used, or never began")]
    NotUnderWay,
    #[error("the identity provider refused{0}")]
    Refused(String),
    #[error("the answer comes from another identity provider")]
    OtherIssuer,
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("cannot write down a sign-in")]
    Store(#[from] StoreError),
    #[error("cannot write the secrets of a sign-in as JSON")]
    Encode(#[source] serde_json::Error),
    #[error("cannot seal a sign-in")]
    Seal(#[from] AuthorityError),
    #[error("cannot open a sealed sign-in")]
    Unseal(#[from] NotSealedHere),
    #[error("cannot make a secret")]
    Random(#[from] RandomError),
}

/// What nobody but the service and the provider knows of a sign-in.
#[derive(Serialize, Deserialize)]
struct Secrets {
    nonce: String,
    verifier: String,
}

/// How somebody wants to sign in.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) challenge: String,
    pub(crate) port: Option<u16>,
    /// What the session allows, space between.
    pub(crate) scopes: String,
}

/// A sign-in that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) id: String,
    pub(crate) address: Url,
    pub(crate) expires: UnixSeconds,
}

/// With what a browser comes back from the provider.
#[derive(Clone, Debug)]
pub(crate) struct Returned {
    pub(crate) state: String,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
    /// Who sends it back, if the provider says so (RFC 9207).
    pub(crate) issuer: Option<String>,
}

/// Where a browser that came back goes on to, and with what.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: String,
    pub(crate) port: Option<u16>,
    pub(crate) outcome: Result<TypedCode, FlowError>,
}

/// Where providers send browsers back to.
pub(crate) fn redirect_uri(fleet: &Fleet) -> String {
    format!("{}{BASE_PATH}/single-sign-on/callback", fleet.public_address())
}

/// For what a client secret is sealed.
pub(crate) fn secret_sealed_for(account: &AccountName) -> String {
    format!("client secret {account}")
}

fn sealed_for(account: &AccountName, id: &str) -> String {
    format!("sign-in {account}/{id}")
}

fn code_purpose(id: &str) -> String {
    format!("mbl-single-sign-on\n{id}")
}

fn secret(random: &Random) -> Result<String, RandomError> {
    Ok(BASE64URL_NOPAD.encode(&*Zeroizing::new(random.bytes::<32>()?)))
}

/// Begins a sign-in.
pub(crate) async fn begin(
    fleet: &Fleet,
    account: &AccountScope,
    wish: Wish,
    now: UnixSeconds,
) -> Result<Begun, FlowError> {
    let provider = account.identity_provider().await?;
    let settings = provider.ok_or_else(|| FlowError::NoProvider(account.name().clone()))?.settings;
    let metadata = fleet.providers.metadata(&settings.issuer).await?;
    let state = secret(&fleet.random)?;
    let secrets = Secrets { nonce: secret(&fleet.random)?, verifier: secret(&fleet.random)? };
    let id = Digest::of(state.as_bytes()).hex();
    let plain = Zeroizing::new(serde_json::to_vec(&secrets).map_err(FlowError::Encode)?);
    let expires = UnixSeconds(now.0.saturating_add(PATIENCE_S));
    let begun = NewSingleSignOn {
        id: id.clone(),
        sealed: fleet.authority.sealing.seal(&sealed_for(account.name(), &id), &plain)?,
        challenge: wish.challenge,
        port: wish.port,
        scopes: wish.scopes,
        expires,
    };
    account.begin_single_sign_on(&begun, now).await?;
    let scopes: Vec<&str> = std::iter::once("openid").chain(settings.scopes.iter().map(String::as_str)).collect();
    let mut address = metadata.authorization.clone();
    address
        .query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &settings.client_id)
        .append_pair("redirect_uri", &redirect_uri(fleet))
        .append_pair("scope", &scopes.join(" "))
        .append_pair("state", &state)
        .append_pair("nonce", &secrets.nonce)
        .append_pair("code_challenge", &code_challenge(&secrets.verifier))
        .append_pair("code_challenge_method", "S256");
    Ok(Begun { id, address, expires })
}

/// Takes a browser that comes back from the provider. `acting` says on whose behalf the account changes once it is known who it is.
pub(crate) async fn complete(
    fleet: &Fleet,
    returned: Returned,
    acting: impl Fn(&AccountScope, &PrincipalName) -> Acting,
    now: UnixSeconds,
) -> Result<Arrival, FlowError> {
    let id = Digest::of(returned.state.as_bytes()).hex();
    let row = fleet.store.service_wide().single_sign_on(&id).await?.ok_or(FlowError::NotUnderWay)?;
    let account = fleet.store.account(&row.account);
    // Whatever comes of it: the state is used up before anything is done with it.
    if !account.return_single_sign_on(&id, now).await? {
        return Err(FlowError::NotUnderWay);
    }
    let port = row.port;
    let outcome = Box::pin(arrive(fleet, &account, (&id, row, returned), (acting, now))).await;
    if let Err(error) = &outcome {
        let reason = crate::Chain(error).to_string();
        tracing::warn!(account = %account.name(), reason, "a sign-in with the identity provider came to nothing");
    }
    Ok(Arrival { id, port, outcome })
}

async fn arrive(
    fleet: &Fleet,
    account: &AccountScope,
    (id, row, returned): (&str, SingleSignOnRow, Returned),
    (acting, now): (impl Fn(&AccountScope, &PrincipalName) -> Acting, UnixSeconds),
) -> Result<TypedCode, FlowError> {
    let provider = account.identity_provider().await?;
    let provider = provider.ok_or_else(|| FlowError::NoProvider(account.name().clone()))?;
    let settings = &provider.settings;
    if returned.issuer.is_some_and(|issuer| issuer != settings.issuer) {
        return Err(FlowError::OtherIssuer);
    }
    if let Some(error) = returned.error {
        return Err(FlowError::Refused(told(&error)));
    }
    let code = returned.code.ok_or_else(|| FlowError::Refused(String::new()))?;
    let sealing = &fleet.authority.sealing;
    let secrets = sealing.unseal(&sealed_for(account.name(), id), &row.sealed)?;
    let secrets: Secrets = serde_json::from_slice(&secrets).map_err(|_| NotSealedHere)?;
    let client_secret = match &provider.secret {
        Some(sealed) => Some(sealing.unseal(&secret_sealed_for(account.name()), sealed)?),
        None => None,
    };
    let exchange = Exchange {
        client_id: &settings.client_id,
        secret: client_secret.as_ref().and_then(|secret| str::from_utf8(secret).ok()),
        code: &code,
        verifier: &secrets.verifier,
        redirect_uri: &redirect_uri(fleet),
    };
    let token: IdToken = fleet.providers.token(&settings.issuer, exchange, (&secrets.nonce, now)).await?;
    let claimed = admission::read(settings, &token)?;
    let second_factor = claimed.second_factor;
    let known = account.user_of(&claimed.identity, &claimed.sought).await?;
    let (who, admission) = admission::admit(settings, claimed, known)?;
    let code = TypedCode::new(&fleet.random)?;
    let confirmed = Confirmed { who, code: code.digest(&code_purpose(id)).hex(), second_factor };
    let account = account.acting(acting(account, &confirmed.who));
    account.confirm_single_sign_on((id, &confirmed), &admission, now).await?;
    Ok(code)
}

/// The code of an error of the provider's, if it is one (RFC 6749, section 4.1.2.1).
fn told(error: &str) -> String {
    let plain = error.len() <= 60 && error.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain && !error.is_empty() { format!(": `{error}`") } else { String::new() }
}

/// A sign-in that whoever began may finish.
#[derive(Debug)]
pub(crate) struct Finishing {
    pub(crate) account: AccountScope,
    pub(crate) who: PrincipalName,
    pub(crate) scopes: String,
    /// SHA-256 of the one-time code.
    pub(crate) code: String,
}

/// Whom a sign-in is finished for: the verifier is that of whoever began. The one-time code is compared when it is used up.
pub(crate) async fn finish(
    fleet: &Fleet,
    (id, verifier, code): (&str, &str, &str),
    now: UnixSeconds,
) -> Result<Finishing, FlowError> {
    let row = fleet.store.service_wide().single_sign_on(id).await?.filter(|row| row.expires > now);
    let row = row.ok_or(FlowError::NotUnderWay)?;
    verify_slices_are_equal(code_challenge(verifier).as_bytes(), row.challenge.as_bytes())
        .map_err(|_| FlowError::NotUnderWay)?;
    let who = row.who.ok_or(FlowError::NotUnderWay)?;
    let code = TypedCode::parse(code).ok_or(FlowError::NotUnderWay)?.digest(&code_purpose(id)).hex();
    Ok(Finishing { account: fleet.store.account(&row.account), who, scopes: row.scopes, code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_provider_says_only_the_code_of_an_error_is_repeated() {
        assert_eq!(told("access_denied"), ": `access_denied`");
        for wrong in ["", "a b", "<script>", &"x".repeat(61)] {
            assert_eq!(told(wrong), "", "{wrong}");
        }
    }
}
