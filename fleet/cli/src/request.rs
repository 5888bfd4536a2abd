//! What requests of several commands have in common: a key against being done twice, and the words for what is not there.

use anyhow::Context as _;
use fleet_api::ClientError;

use crate::{
    failure::{Exit, Failure},
    session::service_error,
};

/// A key for a request that must not be done twice, should it have to be sent again.
pub(crate) fn request_key() -> anyhow::Result<String> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).context("cannot get random bytes")?;
    Ok(hex::encode(key))
}

/// A failed call about something that may not be there: `missing` says so, and `hint` how to see what there is.
pub(crate) fn not_there(error: ClientError, missing: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    match error.problem() {
        Some(problem) if problem.status == 404 => Failure::new(Exit::Refused, missing).hint(hint).into(),
        _ => service_error(error),
    }
}
