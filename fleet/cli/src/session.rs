//! What every command works with: the printer, the chosen service, the present.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_api::{Client, ClientConfig, ClientError};
use protocol_types::UnixSeconds;

use crate::{
    context::{Context, ContextArgs},
    failure::{Exit, Failure},
    printer::Printer,
};

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    /// Writes.
    pub(crate) printer: Printer,
    /// Chooses the service.
    pub(crate) context: ContextArgs,
}

impl Session {
    /// A client of the chosen service.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let client = connect(&self.context.load()?)?;
        Ok(match self.context.account() {
            Some(account) => client.in_account(account.clone()),
            None => client,
        })
    }

    /// The present.
    #[expect(clippy::disallowed_methods, reason = "the one clock of this program")]
    #[expect(clippy::unused_self, reason = "the present belongs to the run")]
    pub(crate) fn now(&self) -> UnixSeconds {
        UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

/// A client for `context`.
pub(crate) fn connect(context: &Context) -> anyhow::Result<Client> {
    let config = ClientConfig {
        address: context.service.clone(),
        authority_pem: context.authority.clone(),
        token: Some(context.token.to_string()),
    };
    Client::new(&config).map_err(service_error)
}

/// A failed call as a person meets it.
pub(crate) fn service_error(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused(problem) => {
            let failure = Failure::new(Exit::Refused, problem.to_string());
            match problem.hint.filter(|hint| !hint.is_empty()) {
                Some(hint) => failure.hint(hint).into(),
                None => failure.into(),
            }
        }
        ClientError::Unreachable { ref address, .. } => {
            let message = format!("cannot reach the service at {address}");
            let failure =
                Failure::new(Exit::NotReached, message).hint("check that it runs and that the network reaches it");
            match error {
                ClientError::Unreachable { source, .. } => failure.because(source).into(),
                _ => failure.into(),
            }
        }
        other => other.into(),
    }
}
