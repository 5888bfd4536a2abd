//! Who may act in an account: principals with their roles, tokens, and how people sign in. Never decides whether something is allowed.

pub(crate) mod bindings;
pub(crate) mod identities;
pub(crate) mod identity_providers;
pub(crate) mod invitations;
pub(crate) mod letters;
pub(crate) mod policies;
pub(crate) mod principals;
pub(crate) mod sessions;
pub(crate) mod sign_in_tries;
pub(crate) mod single_sign_on;
pub(crate) mod tokens;
pub(crate) mod users;

#[cfg(test)]
mod single_sign_on_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod user_tests;
