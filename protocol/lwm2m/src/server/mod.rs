//! The service's side of LwM2M 1.1, one session a connection: bootstrap, registration, device management.
//! Never decides who may do what, and never stores; it asks in steps, and hears the answers in facts.
//!
//! [`Session::new`], then each fact goes to [`Session::on`].

mod bootstrap;
mod facts;
mod operation;
mod registration;
mod session;

pub use facts::{
    Answer, BootstrapPlan, Content, Decision, Ended, Fact, Operation, Question, RequestError, Settings, Step,
};
pub use registration::{Registration, RegistrationError, RegistrationUpdate};
pub use session::Session;
