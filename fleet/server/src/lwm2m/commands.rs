//! The part of a visit that is about commands of operators: takes them up one at a time, and records what the device answered before
//! anybody hears it.

use std::time::Duration;

use fleet_store::Delivered;
use protocol_lwm2m::{
    formats::Entry,
    object::Path,
    server::{Answer, Content, Operation, RequestError},
};
use protocol_types::CommandKind;
use tokio::time::{Instant, sleep_until};

use super::{errands::Errand, jobs, management::Visit};
use crate::commands::order;

/// A device that sleeps listens for so long after it was heard (`MAX_TRANSMIT_WAIT`, OMA LwM2M 1.1 section 6.5).
const AWAKE: Duration = Duration::from_secs(93);
/// Least time between two values that are kept of a device: nobody may keep the disk busy for others.
const VALUE_PACE: Duration = Duration::from_millis(100);

/// What a connection knows of its commands.
#[derive(Debug)]
pub(super) struct Commands {
    /// Observations that the device has begun on this connection.
    observed: Vec<Observed>,
    /// Whether the device tells of its jobs on this registration.
    tells_jobs: bool,
    /// The command that is under way.
    under_way: Option<(CommandKind, Path)>,
    awake_until: Instant,
    next_value: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Observed {
    /// The number that its notifications carry.
    errand: u64,
    /// The number of the command.
    command: u64,
    path: Path,
}

impl Commands {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { observed: Vec::new(), tells_jobs: false, under_way: None, awake_until: now, next_value: now }
    }

    /// Whether this is the number of an observation that an operator asked for.
    pub(super) fn observes(&self, errand: u64) -> bool {
        self.observed.iter().any(|observed| observed.errand == errand)
    }

    fn forget(&mut self, errand: u64) -> Option<Observed> {
        let at = self.observed.iter().position(|observed| observed.errand == errand)?;
        Some(self.observed.swap_remove(at))
    }
}

impl Visit {
    /// The device was heard: one that sleeps listens for a while.
    pub(super) fn awake(&mut self) {
        self.commands.awake_until = Instant::now() + AWAKE;
        // One that stays connected hears of each command at once.
        if self.promise.sleeps() {
            self.errands.add(Errand::Command);
        }
    }

    /// The device has registered anew: whatever was under way before is nobody's any more.
    pub(super) async fn resume_commands(&mut self) {
        self.commands.observed.clear();
        self.commands.tells_jobs = false;
        self.awake();
        self.errands.add(Errand::Command);
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        if let Err(error) = account.commands_cut_off(&identity.endpoint, self.devices.fleet.clock.now()).await {
            self.store_failed("commands that were cut off were not taken up", &error);
        }
    }

    /// The next command for the device; that it goes out is on record before it does.
    pub(super) async fn command(&mut self) -> Option<(Operation, u64)> {
        if let Some(ended) = self.ended_observation().await {
            return Some(ended);
        }
        let identity = &self.facts.identity;
        let asleep = self.promise.sleeps() && Instant::now() >= self.commands.awake_until;
        if asleep || !self.devices.live.is_newest(identity, &self.live) {
            return None;
        }
        let account = self.devices.fleet.store.account(&identity.account);
        loop {
            let (identity, now) = (&self.facts.identity, self.devices.fleet.clock.now());
            let row = match account.begin_command(&identity.endpoint, self.session, now).await {
                Ok(row) => row?,
                Err(error) => {
                    self.store_failed("a command was not taken up", &error);
                    return None;
                }
            };
            let operation = match row.kind {
                CommandKind::Job => jobs::write(&identity.account, &row),
                _ => order::operation(&row),
            };
            if let (Some(operation), Ok(path)) = (operation, row.path.parse()) {
                self.commands.under_way = Some((row.kind, path));
                return Some((operation, row.number));
            }
            let damaged = Delivered::Failed("internal".into(), "the service cannot read the command any more".into());
            self.record(row.number, &damaged).await;
        }
    }

    /// An observation that is over for the service, but not yet for the device.
    async fn ended_observation(&mut self) -> Option<(Operation, u64)> {
        let account = self.devices.fleet.store.account(&self.facts.identity.account);
        for Observed { errand, command, path } in self.commands.observed.clone() {
            match account.goes_on((command, self.session)).await {
                Ok(true) => {}
                Ok(false) => {
                    self.commands.forget(errand);
                    self.commands.under_way = None;
                    // There may be another one that is over, or a command.
                    self.errands.add(Errand::Command);
                    return Some((Operation::CancelObserve { path }, command));
                }
                Err(error) => self.store_failed("an observation was not looked up", &error),
            }
        }
        None
    }

    /// The device has answered a command, or will not.
    pub(super) async fn command_answered(
        &mut self,
        (errand, number): (u64, u64),
        result: Result<Answer, RequestError>,
    ) {
        self.errands.add(Errand::Command);
        // The end of an observation is on record already.
        let Some((kind, path)) = self.commands.under_way.take() else { return };
        let refused = result.as_ref().err().filter(|_| kind == CommandKind::Job).and_then(jobs::refused);
        let came = refused.unwrap_or_else(|| order::delivered(kind, result));
        if matches!((kind, &came), (CommandKind::Job, Delivered::Taken(_))) && !self.commands.tells_jobs {
            self.commands.tells_jobs = true;
            self.errands.add(Errand::ObserveJobs);
        }
        if let (CommandKind::Observe, Delivered::Taken(Some(values))) = (kind, &came) {
            self.commands.observed.push(Observed { errand, command: number, path });
            self.keep_value(number, values).await;
        }
        self.record(number, &came).await;
    }

    pub(super) async fn record(&mut self, number: u64, came: &Delivered) {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        match account.command_moved((number, self.session), came, self.devices.fleet.clock.now()).await {
            Ok(_) => tracing::info!(
                account = %identity.account, device = %identity.endpoint, command = number, "a command moved on"
            ),
            Err(error) => self.store_failed("what came of a command was not recorded", &error),
        }
    }

    /// An observation of an operator has brought values.
    pub(super) async fn observed(&mut self, errand: u64, entries: Vec<Entry>) {
        sleep_until(self.commands.next_value).await;
        self.commands.next_value = Instant::now() + VALUE_PACE;
        let Some(observed) = self.commands.observed.iter().find(|observed| observed.errand == errand) else { return };
        let number = observed.command;
        match order::kept(&Content::Entries(entries)) {
            Some(values) => self.keep_value(number, &values).await,
            None => tracing::debug!(command = number, "a value was too long to be kept"),
        }
    }

    async fn keep_value(&mut self, number: u64, values: &str) {
        let account = self.devices.fleet.store.account(&self.facts.identity.account);
        if let Err(error) = account.observed((number, self.session), values, self.devices.fleet.clock.now()).await {
            self.store_failed("what was observed was not kept", &error);
        }
    }

    /// The device has ended an observation of an operator.
    pub(super) async fn observation_ended(&mut self, errand: u64) {
        let Some(observed) = self.commands.forget(errand) else { return };
        let came = Delivered::Failed("observation_ended".into(), "the device has ended the observation".into());
        self.record(observed.command, &came).await;
    }
}
