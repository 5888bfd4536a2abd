//! The service's side of LwM2M 1.1, one session a connection: bootstrap, registration, device management.
//!
//! `Session::new(settings)`, then `session.on(now, fact) -> Vec<Step>` for each fact.
//! Never decides who may do what, and never stores; it asks in steps, and hears the answers in facts.

mod facts;
mod registration;

pub use facts::{Answer, BootstrapPlan, Content, Decision, Fact, Operation, Question, RequestError, Settings, Step};
pub use registration::{Registration, RegistrationError, RegistrationUpdate};
