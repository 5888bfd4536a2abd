//! Who may do what: one place that decides every request, by Cedar policies.
//!
//! - `routes`: the action of each route, drawn from the description of the API, so that no route can be forgotten
//! - `roles`, `builtin.cedar`: the roles and policies that come with the service
//! - `schema`: what policies may speak of; `policies`: reading and checking them
//! - `decide`: the decision itself, from facts alone
//! - `facts`: brings the facts of a request together
//! - `rate`: how often an account may ask; `strangers`: how often an address may without a token
//!
//! The decision never reads a request, a clock or the database; `rest/gate.rs` asks it before any handler runs.

mod decide;
mod facts;
mod policies;
mod rate;
mod roles;
mod routes;
mod schema;
mod strangers;

#[cfg(test)]
mod tests;

pub(crate) use decide::{Decision, DeviceFacts, Question, Resource, Subject, decide};
pub(crate) use facts::{Asked, Caller, Held, Verdict};
pub(crate) use policies::{Fault, PolicyBook, PolicyText};
pub(crate) use rate::{Allowance, RateLimits, whole_seconds};
pub(crate) use roles::{ROLES, Role};
pub(crate) use routes::{Action, Routes};
pub(crate) use strangers::{Origin, Strangers};

use cedar_policy::Schema;
use utoipa::openapi::OpenApi;

/// What never changes while the service runs.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) routes: Routes,
    /// What policies may speak of, as text.
    pub(crate) schema_text: String,
    schema: Schema,
    builtin: PolicyBook,
    books: facts::Books,
}

/// Why the rules that come with the service cannot be used: a fault of the program, found by its tests.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The schema that the routes make cannot be read.
    #[error("cannot read the schema of policies: {0}")]
    Schema(String),
    /// A policy of the service cannot be read.
    #[error("cannot read the policies of the service: {0}")]
    Builtin(String),
}

impl Access {
    /// Checks the text of a policy.
    pub(crate) fn check_policy(&self, text: &str) -> Result<(), Fault> {
        policies::check(text, &self.schema)
    }

    /// Reads the rules that come with the service for the routes of `description`.
    pub(crate) fn new(description: &OpenApi) -> Result<Self, AccessError> {
        let routes = Routes::of(description);
        let schema_text = schema::text(&routes);
        let schema = schema::read(&schema_text)?;
        let builtin = PolicyBook::builtin()?;
        Ok(Self { routes, schema_text, schema, builtin, books: facts::Books::default() })
    }
}
