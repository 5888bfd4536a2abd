//! Performs what the machine decides: keeps its state, brings settings into force, has the session dial anew, and tells what became of it.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use protocol_types::{
    AccountName, Configuration, DeviceConfiguration, Digest, EndpointName, LogLevel, Reason, ReasonCode,
    SystemSettings, socket::AgentToSystem,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    InForce, Kept, Scope, SealingKey, Told,
    machine::{Fact, Machine, Step},
    place::{Place, source_address},
    sealing::OpenSecrets,
};
use crate::{
    cause::Chain,
    facts::{Facts, set},
    state::StateFolder,
};

/// Time between two looks at whether what is in force is still what was brought into force.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Time between two looks at what the operating system has in force: each starts a process.
const LOOK_AT_SYSTEM_EVERY: Duration = Duration::from_secs(300);

/// Changes how much this process says; without a level, as it was started.
pub type LogLevels = Box<dyn Fn(Option<LogLevel>) + Send + Sync>;

/// Keeps the configuration of one device.
pub struct Keeper {
    machine: Machine,
    place: Place,
    state: StateFolder,
    facts: Arc<Facts>,
    owner: (AccountName, EndpointName),
    scope: Scope,
    sealing_key: Option<SealingKey>,
    log_levels: LogLevels,
    started: Instant,
    /// What of the operating system is in force, where it has to be asked for.
    system: OfSystem,
    /// The number of the dialing anew after which a registration counts.
    wanted: u64,
}

/// How things stand with the part of the operating system.
#[derive(Debug)]
struct OfSystem {
    /// What was asked for last.
    settings: SystemSettings,
    /// Whether the operating system must still hear that it is to keep them.
    is_unsettled: bool,
    /// Digest of what is there, if somebody has changed it.
    drift: Option<Digest>,
    /// When to look next.
    next_look: Instant,
}

impl OfSystem {
    fn new(now: Instant) -> Self {
        Self {
            settings: SystemSettings::default(),
            is_unsettled: false,
            drift: None,
            // Soon after a start, whatever was changed before it.
            next_look: now,
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("machine", &self.machine).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Brings what was kept into force on the device `owner`, before anybody dials.
    pub async fn start(
        kept: Kept,
        (place, state): (Place, StateFolder),
        facts: Arc<Facts>,
        (owner, scope): ((AccountName, EndpointName), Scope),
        log_levels: LogLevels,
    ) -> Self {
        let (machine, sealing_key, started) = (Machine::new(kept), sealing_key(&state), Instant::now());
        let system = OfSystem::new(started);
        let mut keeper =
            Self { machine, place, state, facts, owner, scope, sealing_key, log_levels, started, system, wanted: 0 };
        keeper.tell(Fact::Started).await;
        keeper
    }

    /// Follows the wishes of the service until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut wishes, mut registered) = (self.facts.wish.subscribe(), self.facts.registered.subscribe());
        let mut registered_after = self.facts.registered_after.subscribe();
        wishes.mark_changed();
        let keep = async {
            loop {
                let is_reached =
                    *registered.borrow_and_update() && *registered_after.borrow_and_update() >= self.wanted;
                if is_reached {
                    self.tell(Fact::Reached).await;
                }
                let look = Instant::now() + LOOK_EVERY;
                let next = self.machine.deadline().map_or(look, |deadline| look.min(self.started + deadline));
                tokio::select! {
                    Ok(()) = wishes.changed() => {
                        let wish = wishes.borrow_and_update().clone();
                        if let Some(wish) = wish {
                            self.tell(Fact::Wished(wish)).await;
                        }
                    }
                    Ok(()) = registered.changed() => {}
                    Ok(()) = registered_after.changed() => {}
                    () = sleep_until(next) => {
                        self.look_at_system().await;
                        self.tell(Fact::TimePassed { now: self.now() }).await;
                    }
                    else => return,
                }
            }
        };
        stop.run_until_cancelled(keep).await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells the machine a fact, performs its steps, tells it what came of them, and then everybody else.
    async fn tell(&mut self, fact: Fact) {
        let mut due = VecDeque::from([fact]);
        while let Some(fact) = due.pop_front() {
            let before = self.machine.kept().clone();
            let steps = self.machine.on(fact);
            if *self.machine.kept() != before
                && let Err(error) = self.state.keep_configuration_state(self.machine.kept())
            {
                // After a restart the service says again what it wants, and the older state is tried first.
                tracing::error!(error = %Chain(&error), "what became of the configuration could not be kept");
            }
            for step in steps {
                due.extend(self.perform(step).await);
            }
        }
        self.report();
    }

    async fn perform(&mut self, step: Step) -> Option<Fact> {
        match step {
            Step::Apply(wish) => {
                let secrets = match self.open(wish.as_ref()) {
                    Ok(secrets) => secrets,
                    Err(why) if self.machine.is_trying() => {
                        tracing::error!(why, "a configuration is refused");
                        return Some(Fact::NotApplied { reason: Reason::new(ReasonCode::InvalidConfiguration, why) });
                    }
                    // A device whose key was lost needs its network to hear that its secrets were sealed anew.
                    Err(why) => {
                        tracing::error!(why, "the settings are in force without their secrets");
                        OpenSecrets::new()
                    }
                };
                if let Err(error) = self.place.apply(wish.as_ref()) {
                    tracing::error!(error = %Chain(&error), "a configuration could not be brought into force");
                    let why = Chain(&error).to_string();
                    return Some(Fact::NotApplied { reason: Reason::new(ReasonCode::StorageFailed, why) });
                }
                let generation = wish.as_ref().map(super::Wish::generation);
                let settings = wish.map(|wish| wish.settings()).unwrap_or_default();
                if let Err(reason) = self.bring_to_system(&settings).await {
                    tracing::error!(%reason, "the operating system refused a configuration");
                    return Some(Fact::NotApplied { reason });
                }
                (self.log_levels)(settings.log_levels.and_then(|levels| levels.agent));
                if let Scope::All = self.scope {
                    set(&self.facts.source_address, source_address(&settings));
                }
                set(&self.facts.settings, Some(InForce { settings, secrets }));
                tracing::info!(generation, "configuration in force");
                Some(Fact::Applied { now: self.now() })
            }
            Step::Reconnect => {
                self.wanted += 1;
                set(&self.facts.reconnect, self.wanted);
                None
            }
            Step::Settle => {
                self.settle().await;
                None
            }
        }
    }

    /// Brings the part of the operating system into force; one that is not on trial is asked for again until it is.
    async fn bring_to_system(&mut self, settings: &Configuration) -> Result<(), Reason> {
        let Scope::System(link) = self.scope.clone() else { return Ok(()) };
        self.system.settings = SystemSettings::of(settings);
        (self.system.is_unsettled, self.system.drift) = (false, None);
        if self.machine.is_trying() {
            let (settings, contact_limit_s) = (self.system.settings.clone(), settings.contact_limit_s());
            link.ask(&AgentToSystem::Try { settings, contact_limit_s }).await.map(drop)
        } else {
            self.settle().await;
            Ok(())
        }
    }

    /// Tells the operating system to keep what is in force.
    async fn settle(&mut self) {
        let Scope::System(link) = self.scope.clone() else { return };
        let kept = link.ask(&AgentToSystem::Keep(self.system.settings.clone())).await;
        self.system.is_unsettled = kept.is_err();
        if let Err(reason) = kept {
            tracing::error!(%reason, "the operating system does not keep its settings; it is asked again");
        }
    }

    /// Asks again for what was not kept, or whether somebody has changed what is in force.
    async fn look_at_system(&mut self) {
        let Scope::System(link) = self.scope.clone() else { return };
        if self.machine.is_trying() {
            return;
        }
        if self.system.is_unsettled {
            return self.settle().await;
        }
        if Instant::now() < self.system.next_look {
            return;
        }
        self.system.next_look = Instant::now() + LOOK_AT_SYSTEM_EVERY;
        match link.ask(&AgentToSystem::Look).await {
            Ok(drift) => self.system.drift = drift,
            Err(reason) => tracing::error!(%reason, "nobody says what the operating system has in force"),
        }
    }

    /// The secrets of a document in the clear, if this board can have the document in force.
    fn open(&self, wish: Option<&super::Wish>) -> Result<OpenSecrets, String> {
        let DeviceConfiguration { settings, secrets } = wish.map(super::Wish::read).unwrap_or_default();
        self.scope.check(&settings)?;
        if secrets.is_empty() {
            return Ok(OpenSecrets::new());
        }
        let key = self.sealing_key.as_ref().ok_or("this device has no key for secrets")?;
        key.open((&self.owner.0, &self.owner.1), &secrets).map_err(|error| error.to_string())
    }

    fn report(&self) {
        let (state, generation, reason) = self.machine.told();
        let digest = self.place.digest().unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "the configuration in force cannot be read");
            None
        });
        // Two parts that are both as they were given are the document; anything else has a digest of its own.
        let digest = match (digest, self.system.drift) {
            (digest, Some(seen)) => {
                let document = digest.map_or_else(String::new, |digest| digest.to_string());
                Some(Digest::of(format!("{document}\n{seen}").as_bytes()))
            }
            (digest, None) => digest,
        };
        let sealing_key = self.sealing_key.as_ref().map(SealingKey::public);
        set(&self.facts.told, Some(Told { state, generation, digest, reason, sealing_key }));
    }
}

/// The key pair for secrets that was kept, or a new one. What was sealed to one that is damaged opens no more; the service hears of the new
/// one and seals anew.
fn sealing_key(state: &StateFolder) -> Option<SealingKey> {
    match state.sealing_key() {
        Ok(Some(key)) => return Some(key),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the key for secrets cannot be read; another one is made")
        }
    }
    let key = match SealingKey::generate() {
        Ok(key) => key,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "this device takes no secrets");
            return None;
        }
    };
    match state.keep_sealing_key(&key) {
        Ok(()) => Some(key),
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the key for secrets cannot be kept, so this device takes none");
            None
        }
    }
}
