//! Performs what the plan decides: a small loop around storage, trusted metadata and the peers. Never decides what comes next.
//!
//! Everything happens on one thread, in pieces of at most a few hundred kilobytes, so that a newer wish or a restart never waits
//! for a transfer. Nothing is kept in memory that a power cut may not take.

mod bootable;
mod bring;
mod configuration;
mod metadata;
mod read_back;

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use bring::Transfer;
use configuration::Configurations;
use metadata::MetadataCheck;
use protocol_types::{
    AppName, Reason, SecurityVersion, SignedTime, UnixSeconds, UpdateStatus,
    boot::BootEntry,
    socket::{Fetch, FetchError, UpdaterToApps},
};
use read_back::ReadBack;
use tracing::{error, info, warn};

use crate::{
    disk::{Disk, Folder},
    plan::{Fact, Plan, Running, Step, may_pass},
    record::{Origin, Record},
    storage::{FirmwareChoice, Storage, StorageError},
    trust::Trust,
};

/// How long the answer to one request may take; the agent has timeouts of its own, shorter than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(360);

/// Facts that may wait; one event of a peer makes at most two.
const MOST_FACTS: usize = 8;
/// Between two reports that differ in progress alone.
const PROGRESS_PACE: Duration = Duration::from_millis(500);

/// Those whom the updater speaks to. Nothing that is said may be relied on to arrive.
pub trait Peers {
    /// Asks whoever brings bytes for `origin`; false if nobody is there.
    fn fetch(&mut self, origin: Origin, id: u64, what: Fetch) -> bool;
    /// Tells `mbl-apps`.
    fn tell_apps(&mut self, message: UpdaterToApps);
    /// Lets exactly these configurations be in force.
    fn configure(&mut self, documents: &[(AppName, Vec<u8>)]);
    /// Reports how things stand.
    fn report(&mut self, status: &UpdateStatus);
    /// Says to whoever asked at the device what became of a factory reset.
    fn answer_reset(&mut self, refused: Option<Reason>);
    /// Says that the device goes down.
    fn say_goodbye(&mut self);
}

/// What the caller must do after [`Updater::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Hand over what has arrived meanwhile, then turn again at once.
    Again,
    /// Wait for something to arrive, at most until this time since the start.
    Wait(Option<Duration>),
    /// Restart the device.
    Reboot,
}

/// The updater of one device.
#[derive(Debug)]
pub struct Updater<D, P> {
    plan: Plan,
    storage: Storage<D>,
    /// The one who is spoken to.
    pub peers: P,
    trust: Result<Trust, Reason>,
    clock: Clock,
    work: Work,
    asked: Option<Asked>,
    next_id: u64,
    facts: VecDeque<Fact>,
    reported: Option<(UpdateStatus, Duration)>,
    goes_down: bool,
}

/// The present, as far as the device knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    /// Time since the start of the updater.
    elapsed: Duration,
    /// What the device's clock says.
    device: UnixSeconds,
    /// A time that the service vouched for, and when.
    vouched: Option<(UnixSeconds, Duration)>,
}

impl Clock {
    /// A vouched time keeps counting and beats the device's own clock, which may be off by decades.
    fn now(self) -> UnixSeconds {
        self.vouched.map_or(self.device, |(time, at)| time.plus(self.elapsed.saturating_sub(at)))
    }
}

/// What is under way and takes more than one turn.
#[derive(Debug)]
enum Work {
    None,
    Check(Box<MetadataCheck>),
    Configurations(Box<Configurations>),
    Transfer(Box<Transfer>),
    /// A transfer that waits for the plan to say where it goes on.
    Paused(Box<Transfer>),
    ReadBack(Box<ReadBack>),
}

/// The request whose answer is awaited.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    origin: Origin,
    until: Duration,
}

impl<D: Disk, P: Peers> Updater<D, P> {
    /// The updater in the system that `running` describes. `trust` is what [`Trust::load`] gave; without it, every wish is
    /// refused with its reason. `spread` is a random number.
    ///
    /// # Errors
    /// If the boot partition or the state file cannot be read.
    pub fn start(
        storage: Storage<D>,
        peers: P,
        trust: Result<Trust, Reason>,
        running: Running,
        spread: u64,
    ) -> Result<Self, StorageError> {
        let record = load_record(&storage)?;
        let entries = storage.entries()?;
        let (plan, steps) = Plan::start(record, running, &entries, storage.room(), spread);
        let mut updater = Self {
            plan,
            storage,
            peers,
            trust,
            clock: Clock::default(),
            work: Work::None,
            asked: None,
            next_id: 1,
            facts: VecDeque::new(),
            reported: None,
            goes_down: false,
        };
        updater.perform(steps);
        Ok(updater)
    }

    /// Sets the time since the start, and what the device's clock says.
    pub fn time(&mut self, elapsed: Duration, device: UnixSeconds) {
        self.clock.elapsed = elapsed;
        self.clock.device = device;
        if self.asked.is_some_and(|asked| asked.until <= elapsed) {
            self.answer_missing();
        }
        if self.plan.deadline().is_some_and(|deadline| deadline <= elapsed) {
            self.tell(Fact::Time(elapsed));
        }
        if self.question_ends_in() == Some(Duration::ZERO) && self.has_room() {
            self.tell(Fact::DeadlinePassed);
        }
    }

    /// The present, as far as the device knows it.
    pub fn now(&self) -> UnixSeconds {
        self.clock.now()
    }

    /// How long until the question that is open needs no answer any more; none if there is no such time.
    pub fn question_ends_in(&self) -> Option<Duration> {
        self.plan.question_ends().map(|deadline| deadline.since(self.now()))
    }

    /// Takes a fact from outside; a time comes by [`Updater::hear_time`].
    pub fn tell(&mut self, fact: Fact) {
        self.facts.push_back(fact);
    }

    /// Takes what the service is said to have told of the time. Who brings it may have kept it for long, so it moves this clock on, but
    /// never back behind what was known before, also in an earlier life.
    pub fn hear_time(&mut self, told: &SignedTime) {
        if !self.trust.as_ref().is_ok_and(|trust| trust.has_signed(told)) {
            warn!("somebody tells a time that the time key has not signed; ignored");
            return;
        }
        let known = self.clock.vouched.map_or(self.record().time, |_| self.now());
        if told.time >= known {
            self.clock.vouched = Some((told.time, self.clock.elapsed));
            self.tell(Fact::TrustedTime(told.time));
        }
    }

    /// Takes the answer to a request; one that was not asked for is ignored.
    pub fn answer(&mut self, origin: Origin, id: u64, result: Result<Vec<u8>, FetchError>) {
        if self.asked.is_some_and(|asked| asked.id == id && asked.origin == origin) {
            self.asked = None;
            self.go_on(Some(result));
        }
    }

    /// Whoever brings bytes for `origin` is gone: what was asked will not come.
    pub fn source_gone(&mut self, origin: Origin) {
        if self.asked.is_some_and(|asked| asked.origin == origin) {
            self.answer_missing();
        }
    }

    /// Whether more facts may be told; otherwise, turn first.
    pub fn has_room(&self) -> bool {
        self.facts.len() < MOST_FACTS
    }

    /// Does the next piece of work.
    pub fn turn(&mut self) -> Turn {
        if let Some(fact) = self.facts.pop_front() {
            let mut steps = self.plan.on(Fact::Time(self.clock.elapsed));
            steps.extend(self.plan.on(fact));
            self.perform(steps);
        } else if self.asked.is_none() {
            self.go_on(None);
        }
        self.report();
        if self.goes_down {
            self.peers.say_goodbye();
            return Turn::Reboot;
        }
        let waits =
            self.facts.is_empty() && (self.asked.is_some() || matches!(self.work, Work::None | Work::Paused(_)));
        if !waits {
            return Turn::Again;
        }
        let answer = self.asked.map(|asked| asked.until);
        Turn::Wait(self.plan.deadline().into_iter().chain(answer).min())
    }

    /// How things stand.
    pub fn status(&self) -> UpdateStatus {
        self.plan.status(self.floor())
    }

    /// What is remembered across restarts.
    pub const fn record(&self) -> &Record {
        self.plan.record()
    }

    fn floor(&self) -> SecurityVersion {
        self.trust.as_ref().map(Trust::floor).unwrap_or_default()
    }

    fn report(&mut self) {
        let (status, now) = (self.status(), self.clock.elapsed);
        let before = self.reported.take();
        if let Some((before, at)) = before {
            let same = UpdateStatus { progress: status.progress, ..before.clone() } == status;
            if same && (before.progress == status.progress || now < at + PROGRESS_PACE) {
                self.reported = Some((before, at));
                return;
            }
            if !same {
                log(&status);
            }
        } else {
            log(&status);
        }
        self.peers.report(&status);
        self.reported = Some((status, now));
    }

    /// Performs steps in order. The first that fails ends the list; the plan hears of it and decides anew.
    fn perform(&mut self, steps: Vec<Step>) {
        for step in steps {
            if let Err(e) = self.perform_one(step) {
                let reason = Reason::from(&e);
                warn!(reason = %reason, "a step failed");
                self.forget_work();
                self.facts.push_back(Fact::Hindered(reason));
                return;
            }
        }
    }

    fn perform_one(&mut self, step: Step) -> Result<(), StorageError> {
        match step {
            Step::Check(wish) => self.begin_check(wish),
            Step::Bring { goal, slot, section, from_block } => {
                self.begin_transfer(&goal, slot, (section, from_block))?
            }
            Step::ReadBack { goal, slot } => self.begin_read_back(&goal, slot),
            Step::Drop => self.forget_work(),
            Step::Prepare { set, applications } => {
                self.peers.tell_apps(UpdaterToApps::Prepare { release: set, applications });
            }
            Step::Run { set, applications } => {
                self.peers.tell_apps(UpdaterToApps::Run { release: set, applications });
            }
            Step::Configure(configurations) => self.configure(&configurations),
            Step::Retain { sets, configurations } => {
                self.forget_configurations(&configurations);
                self.peers.tell_apps(UpdaterToApps::Retain { releases: sets });
            }
            Step::Retire(slot) => self.storage.retire(slot)?,
            Step::Save(record) => save_record(&mut self.storage, &record)?,
            Step::Arm(entry) => {
                self.storage.arm(entry)?;
                info!(entry = %entry, "boot entry armed");
            }
            Step::Confirm(generation) => {
                let entry = self.entry(generation)?;
                self.storage.recount(entry, None)?;
                info!(entry = %entry, "boot entry confirmed");
            }
            Step::Exhaust(generation) => {
                // Nothing may keep the device from going back: without this, the loader's tries lead to the same end.
                if let Err(e) = self.exhaust(generation) {
                    warn!(reason = %Reason::from(&e), "cannot take the tries off the boot entry");
                }
            }
            Step::Forsake(slot) => {
                self.storage.forsake(slot)?;
                info!(%slot, "boot entries that may be below the new floor are out of use");
            }
            Step::Firmware(choice) => match self.storage.choose_firmware(choice) {
                // As above: its tries lead to the same end.
                Err(e) if choice == FirmwareChoice::Return => {
                    warn!(reason = %Reason::from(&e), "cannot take the firmware's trial back");
                }
                chosen => {
                    chosen?;
                    info!(?choice, "firmware chosen");
                }
            },
            Step::RaiseFloor(floor) => {
                if let Ok(trust) = &mut self.trust {
                    trust.raise_floor(&mut self.storage, floor)?;
                    info!(floor = %floor, "security floor raised");
                }
            }
            Step::ForgetState => {
                let asked = self.storage.forget_state();
                self.peers.answer_reset(asked.as_ref().err().map(Reason::from));
                asked?;
                warn!("a factory reset was asked for: the next boot makes a new state");
            }
            Step::Done => self.facts.push_back(Fact::Done),
            Step::Reboot => self.goes_down = true,
        }
        Ok(())
    }

    fn entry(&self, generation: u32) -> Result<BootEntry, StorageError> {
        let mut entries = self.storage.entries()?.into_iter();
        entries.find(|entry| entry.generation == generation).ok_or_else(|| {
            StorageError::new("find", format!("boot entry {generation}"), std::io::ErrorKind::NotFound.into())
        })
    }

    fn exhaust(&mut self, generation: u32) -> Result<(), StorageError> {
        let entry = self.entry(generation)?;
        self.storage.exhaust(entry)
    }

    fn forget_work(&mut self) {
        self.work = Work::None;
        self.asked = None;
    }

    /// Asks for bytes on behalf of the wish under way.
    fn ask(&mut self, what: Fetch) {
        let Some(origin) = self.plan.source() else { return };
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.asked = Some(Asked { id, origin, until: self.clock.elapsed + ANSWER_LIMIT });
        if !self.peers.fetch(origin, id, what) {
            self.answer_missing();
        }
    }

    fn answer_missing(&mut self) {
        self.asked = None;
        self.go_on(Some(Err(FetchError::Unreachable)));
    }

    /// Lets the work under way take an answer, or a turn.
    fn go_on(&mut self, answer: Option<Result<Vec<u8>, FetchError>>) {
        match (std::mem::replace(&mut self.work, Work::None), answer) {
            (Work::None, _) => {}
            (Work::Check(check), Some(answer)) => self.go_on_checking(check, answer),
            (Work::Configurations(under_way), Some(answer)) => self.go_on_configuring(under_way, answer),
            (Work::Transfer(transfer), answer) => self.go_on_bringing(transfer, answer),
            (Work::ReadBack(read_back), _) => self.go_on_reading(read_back),
            (work @ (Work::Check(_) | Work::Configurations(_) | Work::Paused(_)), _) => self.work = work,
        }
    }

    /// The work under way is over: either it came to its end, or to a reason why not.
    fn conclude(&mut self, result: Result<Fact, Reason>) {
        let fact = match result {
            Ok(fact) => fact,
            Err(reason) if may_pass(reason.code) => Fact::Hindered(reason),
            Err(reason) => Fact::Refused(reason),
        };
        self.facts.push_back(fact);
    }
}

fn log(status: &UpdateStatus) {
    let (reason, running) = (status.reason.as_ref().map(ToString::to_string).unwrap_or_default(), &status.running);
    info!(phase = %status.phase, reason, running = %running.version, slot = %running.slot, "update status");
}

const STATE: &str = "state.json";

/// Reads the state file. A damaged one is set aside: what boots is decided by the boot entries, so the device keeps running.
pub(crate) fn load_record<D: Disk>(storage: &Storage<D>) -> Result<Record, StorageError> {
    let Some(bytes) = storage.load(Folder::State, STATE, Record::MAX_BYTES)? else { return Ok(Record::default()) };
    Ok(Record::parse(&bytes).unwrap_or_else(|e| {
        error!(cause = %e, "the state file is damaged; going on without it");
        Record::default()
    }))
}

fn save_record<D: Disk>(storage: &mut Storage<D>, record: &Record) -> Result<(), StorageError> {
    let bytes =
        serde_json::to_vec_pretty(record).map_err(|e| StorageError::new("write", STATE, std::io::Error::other(e)))?;
    storage.replace(Folder::State, STATE, &bytes)
}
