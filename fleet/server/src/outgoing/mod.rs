//! Asking others over HTTP: a limit for everything, and only addresses that a policy allows. Follows no redirection and uses no proxy, so
//! that the address that was checked is the one that is asked.

mod address;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

pub use address::Network;
pub(crate) use address::{AddressPolicy, Target, TargetError};

const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection may rest before it is no longer used.
const IDLE: Duration = Duration::from_secs(20);

/// Resolves names once, to addresses that may be reached.
struct Checked {
    policy: AddressPolicy,
    encrypted: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, encrypted) = (self.policy.clone(), self.encrypted);
        Box::pin(async move {
            let allowed = policy.resolve(name.as_str(), encrypted).await?;
            let addresses: Addrs = Box::new(allowed.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// Asks addresses that a policy allows.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    policy: AddressPolicy,
    /// Without the certificates of the system there is none; the text says why.
    encrypted: Result<Client, String>,
    plain: Result<Client, String>,
}

/// Why nothing was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAsked {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("no connection can be made: {0}")]
    NoClient(String),
}

impl Outgoing {
    /// Asks what `policy` allows; an answer may take as long as `patience`.
    pub(crate) fn new(policy: AddressPolicy, patience: Duration) -> Self {
        let client = |encrypted| {
            let made = Client::builder()
                .user_agent(concat!("mbl-service/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .dns_resolver(Arc::new(Checked { policy: policy.clone(), encrypted }))
                .connect_timeout(CONNECT)
                .timeout(patience)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(8)
                .build();
            made.map_err(|error| crate::Chain(&error).to_string())
        };
        Self { encrypted: client(true), plain: client(false), policy }
    }

    /// The client for an address, which is refused if it cannot be asked whatever its name stands for.
    pub(crate) fn client_for(&self, target: &Target) -> Result<&Client, NotAsked> {
        self.policy.check_literal(target).map_err(TargetError::from)?;
        let client = if target.encrypted { &self.encrypted } else { &self.plain };
        client.as_ref().map_err(|reason| NotAsked::NoClient(reason.clone()))
    }
}

/// The body of an answer, or nothing if it is longer than `most` bytes.
pub(crate) async fn bounded_body(mut answer: Response, most: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if body.len().saturating_add(piece.len()) > most {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}
