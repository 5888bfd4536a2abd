//! Who asks: a token, the account it belongs to, and the scope that the handler names in its signature.

use std::marker::PhantomData;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use fleet_api::{ProblemCode, TokenScope};
use fleet_store::AccountScope;

use super::{Refusal, Reply, secret::TokenSecret};
use crate::{durable, fleet::Fleet};

/// What a handler asks of its caller.
pub(crate) trait Need: Send {
    const SCOPE: TokenScope;
}

macro_rules! needs {
    ($($name:ident),+) => {
        /// The scopes as types, for signatures: `Caller<need::Read>`.
        pub(crate) mod need {
            $(pub(crate) struct $name;)+
        }
        $(impl Need for need::$name {
            const SCOPE: TokenScope = TokenScope::$name;
        })+
    };
}
needs!(Read, Operate, Publish, Enrol, Admin);

/// A caller whose token allows what the handler needs. There is no other way from a request to an account.
pub(crate) struct Caller<N> {
    pub(crate) account: AccountScope,
    /// The token's id, for what goes on record.
    pub(crate) token: String,
    scope: PhantomData<N>,
}

impl<N: Need> FromRequestParts<Fleet> for Caller<N> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, fleet: &Fleet) -> Reply<Self> {
        let secret = bearer(parts)?;
        let found = fleet.store.service_wide().token_by_hash(&secret.hash()).await?;
        let Some((account, token)) = found else {
            return Err(Refusal::new(ProblemCode::TokenUnknown, "this service has not made the token"));
        };
        let now = fleet.clock.now();
        if token.revoked.is_some() {
            return Err(Refusal::new(ProblemCode::TokenRevoked, format!("token `{}` was revoked", token.id)));
        }
        if token.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::new(ProblemCode::TokenExpired, format!("token `{}` has expired", token.id)));
        }
        let has = |scope: TokenScope| token.scopes.split(' ').any(|s| s == scope.as_str());
        if !has(N::SCOPE) && !has(TokenScope::Admin) {
            let detail = format!("token `{}` does not have the scope `{}`", token.id, N::SCOPE);
            return Err(Refusal::new(ProblemCode::ScopeMissing, detail));
        }
        let account = fleet.store.account(&account);
        if account.note_token_used(&token, now).await? {
            let file = Fleet::first_token_file(&fleet.config);
            if let Err(error) = durable::remove(&file) {
                tracing::warn!(%error, file = %file.display(), "the file of the first token could not be removed");
            }
        }
        Ok(Self { account, token: token.id, scope: PhantomData })
    }
}

fn bearer(parts: &Parts) -> Reply<TokenSecret> {
    let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
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
