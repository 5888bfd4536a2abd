//! The whole process on a device: loads what it knows, starts its tasks as one group, and stops them together.

use std::{sync::Arc, time::Duration};

use protocol_types::{UnixSeconds, recovery::SealedRecoveryKey};
use sd_notify::NotifyState;
use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    apps_link::keep_apps_link,
    cause::Chain,
    clock::{SystemClock, VerificationClock},
    config::{self, AgentConfig, ConfigError},
    configuration::{Keeper, LogLevels, Place, Scope, SystemLink},
    contact::keep_contact,
    durable::{self, DurableError},
    facts::Facts,
    identity::{Identity, IdentityError},
    jobs::{Board, Worker},
    key_store::KeyStore,
    layout::DeviceFolder,
    metrics::{MetricsKeeper, Places},
    network::{Network, TlsNetwork},
    objects::About,
    relay::{Source, relay},
    session::{Device, Session},
    state::{StateError, StateFolder},
    supervision,
    tls::{Trust, TrustError, provider},
    updater_link::keep_updater_link,
};

/// How long tasks may take to end, which covers saying goodbye to the service.
const GRACE: Duration = Duration::from_secs(5);
/// How often the identity is loaded before it counts as damaged.
const LOADS: usize = 4;
const BETWEEN_LOADS: Duration = Duration::from_secs(2);

/// Why the process cannot run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings cannot be used.
    #[error("cannot use the settings")]
    Config(#[from] ConfigError),
    /// The state folder cannot be used.
    #[error("cannot use the state folder")]
    State(#[from] DurableError),
    /// The device was never provisioned.
    #[error("this device is not provisioned")]
    Unprovisioned(#[source] IdentityError),
    /// The kept copy of the key store does not fit the factory data; the next start goes on without it.
    #[error("the kept copy of the key store cannot be used and was given up: the next start enrols anew")]
    KeyStoreCopy(#[source] IdentityError),
    /// TLS cannot be used.
    #[error("cannot use TLS")]
    Trust(#[from] TrustError),
    /// A task panicked.
    #[error("a task of the agent failed")]
    Task(#[from] JoinError),
    /// A task ended although nobody stopped it.
    #[error("a task of the agent ended by itself")]
    Ended,
}

/// Loads the identity. What may pass, as a TPM that is busy while the system starts, is no damage until it has lasted.
async fn load_identity(folder: &DeviceFolder, store: &KeyStore) -> Result<Identity, IdentityError> {
    for _ in 1..LOADS {
        match Identity::load(folder, store) {
            Err(away) if away.may_pass() && folder.is_provisioned() => {
                tracing::warn!(error = %Chain(&away), "the identity cannot be loaded; it is tried again");
                tokio::time::sleep(BETWEEN_LOADS).await;
            }
            loaded => return loaded,
        }
    }
    Identity::load(folder, store)
}

/// Runs the agent of the device in `folder`, whose key is in `store`, until `stop`.
pub async fn run(
    folder: &DeviceFolder,
    store: &KeyStore,
    log_levels: LogLevels,
    stop: CancellationToken,
) -> Result<(), RunError> {
    durable::make_folder(&folder.state(), true)?;
    let config = config::load(&folder.config())?;
    let state = StateFolder::new(folder.state());
    let is_restored = store.restore().unwrap_or_else(|e| {
        tracing::error!(error = %Chain(&e), "the kept copy of the key store cannot be put back, going on without it");
        false
    });
    let identity = match load_identity(folder, store).await {
        Ok(identity) => Some(identity),
        Err(damaged) if is_restored => {
            if let Err(e) = store.forget_copy() {
                tracing::error!(error = %Chain(&e), "the kept copy of the key store cannot be removed");
            }
            return Err(RunError::KeyStoreCopy(damaged));
        }
        Err(unprovisioned @ IdentityError::Missing(_)) if !folder.is_provisioned() => {
            return Err(RunError::Unprovisioned(unprovisioned));
        }
        Err(damaged) => {
            tracing::error!(
                error = %Chain(&damaged),
                "state_damaged: the factory data is not what was accepted, so this device neither enrols nor installs"
            );
            None
        }
    };

    // A damaged device wishes nothing, so it gets none of the orders of before.
    let orders = if identity.is_some() { or_anew("orders", state.orders()) } else { Default::default() };
    let (facts, restarts) = Facts::new(orders);
    facts.reset.send_replace(or_anew("order of a factory reset", state.reset()));
    let facts = Arc::new(facts);
    let network: Arc<dyn Network> = Arc::new(TlsNetwork);
    let (asker, relay_task) = relay(facts.source.subscribe(), network.clone());

    let patience = sd_notify::watchdog_enabled();
    let mut tasks = JoinSet::new();
    tasks.spawn(relay_task.run(stop.clone()));
    let link = (asker.clone(), restarts);
    let (updater, apps) = (folder.updater_socket(), folder.apps_socket());
    let (for_updater, for_apps) = (facts.clone(), facts.clone());
    let (stop_updater, stop_apps) = (stop.clone(), stop.clone());
    tasks.spawn(async move { keep_updater_link(&updater, for_updater, link, stop_updater).await });
    tasks.spawn(async move { keep_apps_link(&apps, for_apps, asker, stop_apps).await });
    tasks.spawn(keep_contact(config.contact_probes.clone(), facts.clone(), stop.clone()));
    if let Some(identity) = &identity {
        let scope = match store {
            // Only the board `host` has files that stand for its operating system.
            KeyStore::Files(_) => Scope::All,
            KeyStore::Token(_) if folder.system_socket().exists() => {
                Scope::System(SystemLink::new(folder.system_socket()))
            }
            // Its operating system takes settings from releases alone.
            KeyStore::Token(_) => Scope::Processes,
        };
        facts.wish.send_replace(or_anew("configuration", state.wish()));
        let kept = or_anew("state of the configuration", state.configuration());
        let owner = (identity.document().account.clone(), identity.document().endpoint.clone());
        let place = (Place::new(folder.settings()), state.clone());
        let keeper = Keeper::start(kept, place, facts.clone(), (owner, scope), log_levels).await;
        tasks.spawn(keeper.run(stop.clone()));
    }
    // Before anybody registers: a device says at once that it measures.
    let life = or_anew("counts", state.life());
    let measuring = MetricsKeeper::start(life, Places::linux(folder.state()), state.clone(), facts.clone());
    tasks.spawn(measuring.run(stop.clone()));
    if identity.is_some() {
        let board = Board::of(folder, matches!(store, KeyStore::Files(_)));
        let kept = or_anew("jobs", state.jobs());
        let worker = Worker::new(kept, (facts.clone(), state.clone(), board), Arc::new(SystemClock::new()));
        tasks.spawn(worker.run(stop.clone()));
    }
    match identity {
        Some(identity) => {
            let recovery_key = recovery_key(folder);
            let session = session(identity, &config, state, (facts, network), recovery_key)?.watched(patience);
            tasks.spawn(session.run(stop.clone()));
        }
        None => {
            facts.source.send_replace(Source::Forbidden);
            tasks.spawn(supervision::keep_alive(patience, stop.clone()));
        }
    }
    supervision::tell(NotifyState::Ready);
    join(tasks, stop).await
}

fn session(
    identity: Identity,
    config: &AgentConfig,
    state: StateFolder,
    (facts, network): (Arc<Facts>, Arc<dyn Network>),
    recovery_key: Option<SealedRecoveryKey>,
) -> Result<Session, RunError> {
    let floor: UnixSeconds = or_anew("floor of time", state.floor());
    let floor = floor.max(identity.document().provisioned);
    let clock = Arc::new(VerificationClock::new(Arc::new(SystemClock::new()), floor));
    let trust = Trust::new(provider(), identity.roots().clone(), clock)?;
    let enrolment = or_anew("operational identity", state.enrolment(identity.key()));
    let about = About { recovery_key, ..About::new(&identity, &config.manufacturer) };
    let device = Device { identity, trust, state: Arc::new(state), facts, network };
    Ok(Session::new(device, about, enrolment, config.retry_ceiling())?)
}

/// What the initrd left for the service. It is said at each registration, so nobody need remember whether it was heard.
fn recovery_key(folder: &DeviceFolder) -> Option<SealedRecoveryKey> {
    let path = folder.recovery_key();
    let bytes = match durable::read(&path, SealedRecoveryKey::MAX_BYTES) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the recovery key of the state cannot be read, and is not escrowed");
            return None;
        }
    };
    let parsed = SealedRecoveryKey::parse(&bytes);
    parsed
        .inspect_err(|error| tracing::error!(error = %Chain(error), "the initrd left no recovery key of a known form"))
        .ok()
}

/// What was kept, or the default if it is damaged: the service tells it again.
fn or_anew<T: Default>(what: &str, kept: Result<T, StateError>) -> T {
    kept.unwrap_or_else(|e| {
        tracing::error!(what, error = %Chain(&e), "kept state cannot be read, going on without it");
        T::default()
    })
}

/// Waits for `stop`, or for a task that ends by itself, which ends them all; then gives them time to end.
async fn join(mut tasks: JoinSet<()>, stop: CancellationToken) -> Result<(), RunError> {
    let first = tasks.join_next().await;
    let result = match first {
        Some(Err(e)) => Err(RunError::Task(e)),
        Some(Ok(())) if !stop.is_cancelled() => Err(RunError::Ended),
        Some(Ok(())) | None => Ok(()),
    };
    stop.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(GRACE, all).await.is_err() {
        tracing::warn!("tasks did not end in time");
    }
    result
}
