//! What every part of the service shares. Never changes after the start, apart from what lies in the store.

use std::{path::PathBuf, sync::Arc};

use fleet_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    Addresses, Clock, Config, Random,
    access::{Access, RateLimits, Strangers},
    artifact_store::ArtifactStore,
    authority::Authority,
    device_trust::DeviceTrust,
    list_files::ListFiles,
    metrics::Metrics,
    rest::refusals::Refusals,
    signals::LocalSignals,
    single_sign_on::Providers,
    tls::PortCertificate,
    users::Passwords,
};

/// The shared parts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) store: Store,
    pub(crate) signals: LocalSignals,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Arc<Config>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) authority: Arc<Authority>,
    /// Who may do what.
    pub(crate) access: Arc<Access>,
    /// How often each account may ask.
    pub(crate) rates: Arc<RateLimits>,
    /// How often each address may ask without a token.
    pub(crate) strangers: Arc<Strangers>,
    /// How often each principal's refusals are told one by one.
    pub(crate) refusals: Arc<Refusals>,
    /// Compares passwords, a few at a time.
    pub(crate) passwords: Passwords,
    /// Identity providers of accounts.
    pub(crate) providers: Arc<Providers>,
    /// The bytes of artifacts.
    pub(crate) artifacts: ArtifactStore,
    /// Enrolment lists that operations go through.
    pub(crate) lists: ListFiles,
    /// What all ports show to their clients.
    pub(crate) certificate: Arc<PortCertificate>,
    /// Whose signature makes a device certificate.
    pub(crate) trust: Arc<DeviceTrust>,
    /// Places for WebSockets, which outlive the connections that they came by.
    pub(crate) sockets: Arc<Semaphore>,
    /// Cancelled when the service stops; long answers end then.
    pub(crate) stop: CancellationToken,
}

impl Fleet {
    /// The account that the service makes for its first operator; its administrators make other accounts.
    pub(crate) const FIRST_ACCOUNT: &str = "default";

    /// Address of the API as people and browsers reach it, without a slash at its end.
    pub(crate) fn public_address(&self) -> String {
        match &self.config.public_address {
            Some(address) => address.trim_end_matches('/').to_owned(),
            None => format!("https://{}:{}", self.addresses.public_host(), self.addresses.api.port()),
        }
    }

    pub(crate) fn first_token_file(config: &Config) -> PathBuf {
        config.data_dir.join("first-token")
    }
}
