//! Decides what the updater does next: facts go in, steps come out. Never touches a disk, a clock or a socket.
//!
//! ```text
//! Resting → Checking → Writing → ReadingBack → Preparing (→ Held) → Arming → Rebooting ⟲ OnTrial → Confirming → Resting
//!               └──────── nothing new in the OS ────↗                 └── applications only ──↗    └→ Rebooting (go back)
//! ```
//!
//! Every stage before `Arming` leaves the running system and its boot entry alone, so it may be dropped at any moment: for a newer
//! wish, for a restart, for a cut of power. From `Arming` on, [`crate::record::Pending`] on the disk says what is going on, and is
//! written before the boot entry or the running set changes.

mod consent;
mod facts;
mod pursue;
mod start;
mod status;
mod verdict;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use facts::{Fact, Firmware, Running, Step};
use protocol_types::{Digest, Reason, ReasonCode, Slot, socket::Contact};

use crate::{
    disk::Room,
    record::{Goal, Note, Origin, Outcome, Pending, Record, Wish},
    trial::Trial,
};

/// The whole state of the updater.
#[derive(Debug)]
pub struct Plan {
    record: Record,
    running: Running,
    room: Room,
    spread: u64,
    now: Duration,
    service: Option<Wish>,
    folder: Option<Wish>,
    contact: Option<Contact>,
    stage: Stage,
    hindrances: u32,
    generation: u32,
    errand: Errand,
    told_to_rest: bool,
    /// Whether the device may change its software for the service now.
    is_window_open: bool,
}

/// What the device is to go down for, besides its own updates. The larger one includes the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    Nothing,
    Restart,
    FactoryReset,
}

/// What is going on.
#[derive(Debug)]
enum Stage {
    /// Nothing, until a fact says otherwise.
    Resting,
    /// The wish is being checked against the signed metadata.
    Checking { wish: Wish },
    /// Blocks of the OS are brought into the idle slot.
    Writing { job: Job, section: usize, next_block: u64 },
    /// What was written is read again from the medium.
    ReadingBack { job: Job },
    /// `mbl-apps` brings and unpacks the applications; `until` is how long it may be silent.
    Preparing { job: Job, until: Duration, done: u64, total: u64 },
    /// Everything is in place; a yes of somebody at the device, or the hours in which it may change its software, are awaited.
    Held { job: Job },
    /// The trial is made durable.
    Arming { pending: Box<Pending> },
    /// The wish for a new state is made durable.
    Forgetting,
    /// The device goes down.
    Rebooting,
    /// The release runs and is being judged.
    OnTrial { pending: Box<Pending>, trial: Trial },
    /// The release proved itself, and `record` is being made durable.
    Confirming { pending: Box<Pending>, record: Box<Record>, retry_at: Option<Duration>, failures: u32 },
    /// Something stood in the way; it is tried again.
    Waiting { wish: Wish, until: Duration, why: Hindrance },
}

/// A verified wish under way.
#[derive(Clone, Debug)]
struct Job {
    wish: Wish,
    goal: Box<Goal>,
}

/// Why a wish waits.
#[derive(Clone, Debug)]
enum Hindrance {
    /// This happened, and may pass.
    Passing(Reason),
    /// The last trial met silence.
    NoContact,
}

/// How long `mbl-apps` may be silent while it prepares a set.
const PREPARE_LIMIT: Duration = Duration::from_secs(600);
/// Between two tries to make a good verdict durable.
const CONFIRM_RETRY: Duration = Duration::from_secs(5);
/// Tries to make a good verdict durable; a disk that refuses for a minute is a reason to go back.
const CONFIRM_TRIES: u32 = 12;
/// Tries that the loader has for a new system.
pub const BOOT_TRIES: u8 = 3;

impl Plan {
    /// Takes one fact and returns what must be done now, in order. A step that fails ends the list and is answered by
    /// [`Fact::Hindered`]; [`Step::Done`] is answered by [`Fact::Done`].
    pub fn on(&mut self, fact: Fact) -> Vec<Step> {
        let mut steps = Vec::new();
        match fact {
            Fact::Time(now) => self.now = self.now.max(now),
            Fact::Desired(wish) => self.desired(wish, &mut steps),
            Fact::Rest(origin) => self.rest(origin, &mut steps),
            Fact::Contact(contact) => self.in_contact(contact, &mut steps),
            Fact::TrustedTime(time) => self.trusted_time(time, &mut steps),
            Fact::Window(is_open) => self.window(is_open, &mut steps),
            Fact::Answered(digest, answer) => self.answered(digest, answer, &mut steps),
            Fact::DeadlinePassed => self.deadline_passed(&mut steps),
            Fact::RestartAsked => self.errand = self.errand.max(Errand::Restart),
            Fact::ResetAsked => self.errand = Errand::FactoryReset,
            Fact::AppsConnected => self.repeat_to_apps(&mut steps),
            Fact::Applications { set, statuses } => {
                if let Stage::OnTrial { trial, .. } = &mut self.stage {
                    trial.applications(set, &statuses);
                }
            }
            Fact::Preparing { set, bytes } => self.preparing(set, bytes),
            Fact::Prepared { set, refused } => self.prepared(set, refused, &mut steps),
            Fact::Checked(goal) => self.checked(goal, &mut steps),
            Fact::Brought { section, next_block } => self.brought(section, next_block, &mut steps),
            Fact::ReadBack => self.read_back(&mut steps),
            Fact::Done => self.done(&mut steps),
            Fact::Refused(reason) => self.refused(reason, &mut steps),
            Fact::Hindered(reason) => self.hindered(reason, &mut steps),
        }
        self.time_passed(&mut steps);
        let is_free = matches!(self.stage, Stage::Resting | Stage::Held { .. } | Stage::Waiting { .. });
        match self.errand {
            Errand::FactoryReset if is_free || self.droppable().is_some() => self.forget_state(&mut steps),
            Errand::Restart if is_free => self.reboot(&mut steps),
            Errand::FactoryReset | Errand::Restart | Errand::Nothing => {}
        }
        steps
    }

    /// When [`Fact::Time`] must come at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Preparing { until, .. } => Some(*until),
            Stage::OnTrial { trial, .. } => match trial.judge(self.now) {
                crate::trial::Judgement::Open(until) => Some(until),
                crate::trial::Judgement::Keep | crate::trial::Judgement::Return(_) => Some(self.now),
            },
            Stage::Confirming { retry_at, .. } => *retry_at,
            Stage::Waiting { until, why: Hindrance::Passing(_), .. } => Some(*until),
            Stage::Waiting { until, why: Hindrance::NoContact, .. } if self.is_registered() => Some(*until),
            Stage::Waiting { .. }
            | Stage::Resting
            | Stage::Checking { .. }
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Held { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting => None,
        }
    }

    /// What is remembered; for the durable copy and for those who look.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Who asked for what is under way and must bring it; none if nothing is.
    pub const fn source(&self) -> Option<Origin> {
        match &self.stage {
            Stage::Checking { wish } => Some(wish.origin),
            Stage::Writing { job, .. } | Stage::ReadingBack { job } | Stage::Preparing { job, .. } => {
                Some(job.wish.origin)
            }
            Stage::Resting
            | Stage::Held { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting
            | Stage::OnTrial { .. }
            | Stage::Confirming { .. }
            | Stage::Waiting { .. } => None,
        }
    }

    fn is_registered(&self) -> bool {
        self.contact.is_some_and(|contact| contact.registered)
    }

    /// What is asked for now: a person at the device comes before the service, until the command that brings the release ends.
    fn wanted(&self) -> Option<&Wish> {
        self.folder.as_ref().or(self.service.as_ref())
    }

    /// The wish whose stage may still be dropped without a trace.
    fn droppable(&self) -> Option<&Wish> {
        match &self.stage {
            Stage::Checking { wish } | Stage::Waiting { wish, .. } => Some(wish),
            Stage::Writing { job, .. }
            | Stage::ReadingBack { job }
            | Stage::Preparing { job, .. }
            | Stage::Held { job } => Some(&job.wish),
            Stage::Resting
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting
            | Stage::OnTrial { .. }
            | Stage::Confirming { .. } => None,
        }
    }

    /// The verified wish under way.
    const fn job(&self) -> Option<&Job> {
        match &self.stage {
            Stage::Writing { job, .. }
            | Stage::ReadingBack { job }
            | Stage::Preparing { job, .. }
            | Stage::Held { job } => Some(job),
            Stage::Resting
            | Stage::Checking { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting
            | Stage::OnTrial { .. }
            | Stage::Confirming { .. }
            | Stage::Waiting { .. } => None,
        }
    }

    /// The release that was confirmed in the running slot; none on the image that the factory wrote.
    fn confirmed(&self) -> Option<&Note> {
        let installed = self.record.slot(self.running.slot)?;
        (installed.root == self.running.root).then_some(&installed.note)
    }

    /// The release that runs, on trial or confirmed.
    fn current(&self) -> Option<&Note> {
        match &self.stage {
            Stage::OnTrial { pending, .. } | Stage::Confirming { pending, .. } => Some(&pending.installed.note),
            // On the way down from a trial, the release on trial still runs.
            Stage::Rebooting => match &self.record.pending {
                Some(pending) if pending.runs_in(&self.running) => Some(&pending.installed.note),
                Some(_) | None => self.confirmed(),
            },
            Stage::Resting
            | Stage::Checking { .. }
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Preparing { .. }
            | Stage::Held { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Waiting { .. } => self.confirmed(),
        }
    }

    fn idle_slot(&self) -> Slot {
        self.running.slot.other()
    }

    /// Lets the set and the configurations of the running release be in force.
    fn run(&self, steps: &mut Vec<Step>) {
        let (set, applications, configurations) = match self.current() {
            Some(note) => (note.digest, note.applications.clone(), note.configurations.clone()),
            // The factory's image has no release; its own root digest is as good a key for the empty set.
            None => (self.running.root, Vec::new(), Vec::new()),
        };
        steps.push(Step::Configure(configurations));
        steps.push(Step::Run { set, applications });
    }

    /// What may still be needed: the releases of both slots and the one on its way. All else is free.
    fn retain(&self, steps: &mut Vec<Step>) {
        let slots = [&self.record.a, &self.record.b].into_iter().flatten().map(|installed| &installed.note);
        let pending = self.record.pending.iter().map(|pending| &pending.installed.note);
        let notes: Vec<&Note> = slots.chain(pending).chain(self.job().map(|job| &job.goal.note)).collect();
        let mut sets: Vec<Digest> = notes.iter().map(|note| note.digest).collect();
        sets.sort_unstable();
        sets.dedup();
        let configurations = notes.iter().flat_map(|note| &note.configurations).map(|c| c.digest).collect();
        steps.push(Step::Retain { sets, configurations });
    }

    /// A lost connection loses messages, so `mbl-apps` hears again all that still counts.
    fn repeat_to_apps(&self, steps: &mut Vec<Step>) {
        self.run(steps);
        match &self.stage {
            // Retaining now would drop the set that is being prepared, or the settings that a check has just brought.
            Stage::Preparing { job, .. } => steps
                .push(Step::Prepare { set: job.goal.note.digest, applications: job.goal.note.applications.clone() }),
            Stage::Resting
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Held { .. }
            | Stage::OnTrial { .. }
            | Stage::Confirming { .. }
            | Stage::Waiting { .. } => self.retain(steps),
            Stage::Checking { .. } | Stage::Arming { .. } | Stage::Forgetting | Stage::Rebooting => {}
        }
    }

    /// A state that is to be forgotten needs no update any more. What was tried already comes to its verdict first, or the next boot
    /// would not know that something was on trial.
    fn forget_state(&mut self, steps: &mut Vec<Step>) {
        self.errand = Errand::Nothing;
        self.stage = Stage::Forgetting;
        steps.extend([Step::Drop, Step::ForgetState, Step::Done]);
    }

    fn reboot(&mut self, steps: &mut Vec<Step>) {
        self.stage = Stage::Rebooting;
        self.errand = Errand::Nothing;
        steps.push(Step::Reboot);
    }

    /// Notes the end of a wish and turns to what is wanted next.
    fn settle(&mut self, wish: Wish, outcome: Outcome, steps: &mut Vec<Step>) {
        self.record.settle(wish, outcome);
        self.stage = Stage::Resting;
        steps.push(Step::Save(Box::new(self.record.clone())));
        self.pursue(steps);
    }

    /// Time as the service's key vouched for it; saved at most once an hour to spare the medium.
    fn trusted_time(&mut self, time: protocol_types::UnixSeconds, steps: &mut Vec<Step>) {
        if time.since(self.record.time) > Duration::from_secs(3600) {
            self.record.time = time;
            if self.droppable().is_some() || matches!(self.stage, Stage::Resting) {
                steps.push(Step::Save(Box::new(self.record.clone())));
            }
        }
    }
}

/// Whether trying again may help, without anybody publishing anything new.
pub(crate) const fn may_pass(code: ReasonCode) -> bool {
    matches!(code, ReasonCode::Unreachable | ReasonCode::StorageFailed | ReasonCode::NoRoom)
}
