//! Performs what the machine decides: keeps its state, brings settings into force, has the session dial anew, and tells what became of it.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use protocol_types::LogLevel;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Kept, Told,
    machine::{Fact, Machine, Step},
    place::{Place, source_address},
};
use crate::{
    cause::Chain,
    facts::{Facts, set},
    state::StateFolder,
};

/// Time between two looks at whether what is in force is still what was brought into force.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Changes how much this process says; without a level, as it was started.
pub type LogLevels = Box<dyn Fn(Option<LogLevel>) + Send + Sync>;

/// Keeps the configuration of one device.
pub struct Keeper {
    machine: Machine,
    place: Place,
    state: StateFolder,
    facts: Arc<Facts>,
    log_levels: LogLevels,
    started: Instant,
    /// The number of the dialing anew after which a registration counts.
    wanted: u64,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("machine", &self.machine).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Brings what was kept into force, before anybody dials.
    pub fn start(kept: Kept, (place, state): (Place, StateFolder), facts: Arc<Facts>, log_levels: LogLevels) -> Self {
        let machine = Machine::new(kept);
        let mut keeper = Self { machine, place, state, facts, log_levels, started: Instant::now(), wanted: 0 };
        keeper.tell(Fact::Started);
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
                    self.tell(Fact::Reached);
                }
                let look = Instant::now() + LOOK_EVERY;
                let next = self.machine.deadline().map_or(look, |deadline| look.min(self.started + deadline));
                tokio::select! {
                    Ok(()) = wishes.changed() => {
                        let wish = wishes.borrow_and_update().clone();
                        if let Some(wish) = wish {
                            self.tell(Fact::Wished(wish));
                        }
                    }
                    Ok(()) = registered.changed() => {}
                    Ok(()) = registered_after.changed() => {}
                    () = sleep_until(next) => self.tell(Fact::TimePassed { now: self.now() }),
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
    fn tell(&mut self, fact: Fact) {
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
            due.extend(steps.into_iter().filter_map(|step| self.perform(step)));
        }
        self.report();
    }

    fn perform(&mut self, step: Step) -> Option<Fact> {
        match step {
            Step::Apply(wish) => {
                if let Err(error) = self.place.apply(wish.as_ref()) {
                    tracing::error!(error = %Chain(&error), "a configuration could not be brought into force");
                    return Some(Fact::NotApplied { why: Chain(&error).to_string() });
                }
                let generation = wish.as_ref().map(super::Wish::generation);
                let settings = wish.map(|wish| wish.settings()).unwrap_or_default();
                (self.log_levels)(settings.log_levels.and_then(|levels| levels.agent));
                set(&self.facts.source_address, source_address(&settings));
                set(&self.facts.settings, Some(settings));
                tracing::info!(generation, "configuration in force");
                Some(Fact::Applied { now: self.now() })
            }
            Step::Reconnect => {
                self.wanted += 1;
                set(&self.facts.reconnect, self.wanted);
                None
            }
        }
    }

    fn report(&self) {
        let (state, generation, reason) = self.machine.told();
        let digest = self.place.digest().unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "the configuration in force cannot be read");
            None
        });
        set(&self.facts.told, Some(Told { state, generation, digest, reason }));
    }
}
