//! Signing in with the identity provider of an account: the authorization code flow of OpenID Connect with PKCE, for programs that have no
//! browser of their own.
//!
//! ```text
//! program ── begin ──► state, nonce, verifier ──► address of the provider
//! browser ── the person signs in there ──► back with state and code
//!                                          complete: code for ID token, who is it, one-time code
//! program ── finish: one-time code and the verifier of whoever began ──► session
//! ```
//!
//! - `flow`: these three steps; each is taken once
//! - `provider`: what is asked of providers; `keys`, `id_token`: whether a token is theirs, for us, now, and for this sign-in
//! - `admission`: who a person is by their claims, and whether the account lets them in

mod admission;
mod flow;
mod id_token;
mod keys;
mod provider;

pub(crate) use admission::EMAIL;
pub(crate) use flow::{
    Arrival, Finishing, FlowError, Returned, Wish, begin, complete, finish, redirect_uri, secret_sealed_for,
};
pub(crate) use provider::{ProviderError, Providers};
