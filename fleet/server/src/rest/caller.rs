//! Who asks, as a handler names it in its signature: a caller whom the gate has let through, with the scope of the action.

use std::marker::PhantomData;

use axum::{extract::FromRequestParts, http::request::Parts};
use fleet_api::{ProblemCode, TokenScope};
use fleet_store::AccountScope;

use crate::{
    access,
    fleet::Fleet,
    rest::{Refusal, Reply, gate::Admitted},
};

/// The scope of what a handler does.
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

/// A caller who may do what the handler does. There is no other way from a request to an account.
pub(crate) struct Caller<N> {
    pub(crate) account: AccountScope,
    /// Who asks.
    pub(crate) caller: access::Caller,
    /// The token's id, for what goes on record.
    pub(crate) token: String,
    scope: PhantomData<N>,
}

impl<N: Need> FromRequestParts<Fleet> for Caller<N> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Fleet) -> Reply<Self> {
        // A route that the description does not know, or describes with another scope, was not decided upon.
        match parts.extensions.get::<Admitted>().filter(|admitted| admitted.scope == N::SCOPE) {
            Some(Admitted { account, caller, token, .. }) => {
                Ok(Self { account: account.clone(), caller: caller.clone(), token: token.clone(), scope: PhantomData })
            }
            None => {
                tracing::error!(
                    path = parts.uri.path(),
                    "the description of the API does not say what this route needs"
                );
                Err(Refusal::new(ProblemCode::Internal, "nobody has decided who may do this"))
            }
        }
    }
}
