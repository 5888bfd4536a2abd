//! From a wish to an armed trial: every stage that may still be dropped without a trace.

use std::time::Duration;

use protocol_release::document::{OsIndex, SectionName};
use protocol_types::{
    Digest, Reason, ReasonCode, Slot,
    boot::{BootEntry, Tries},
    socket::Contact,
};

use super::{BOOT_TRIES, Hindrance, Job, PREPARE_LIMIT, Plan, Stage, Step, may_pass};
use crate::{
    blocks::BlockList,
    disk::Room,
    record::{Goal, Installed, Origin, Outcome, Pending, Wish},
    storage::FirmwareChoice,
};

/// First wait and longest wait after something that may pass.
type Patience = (Duration, Duration);
const NETWORK: Patience = (Duration::from_secs(2), Duration::from_secs(300));
const STORAGE: Patience = (Duration::from_secs(60), Duration::from_secs(3600));
const SILENCE: Patience = (Duration::from_secs(60), Duration::from_secs(6 * 3600));

impl Plan {
    pub(super) fn desired(&mut self, wish: Wish, steps: &mut Vec<Step>) {
        let place = match wish.origin {
            Origin::Service => {
                self.told_to_rest = false;
                &mut self.service
            }
            Origin::Folder => {
                // A person who asks again wants it tried again.
                self.record.folder = None;
                &mut self.folder
            }
        };
        let is_new = wish.origin == Origin::Folder || place.as_ref() != Some(&wish);
        *place = Some(wish);
        self.follow_wish(is_new, steps);
    }

    pub(super) fn rest(&mut self, origin: Origin, steps: &mut Vec<Step>) {
        match origin {
            Origin::Service => {
                self.told_to_rest = true;
                self.service = None;
            }
            Origin::Folder => self.folder = None,
        }
        self.follow_wish(true, steps);
    }

    /// Drops what is under way if something else is wanted now, and begins with that.
    fn follow_wish(&mut self, is_new: bool, steps: &mut Vec<Step>) {
        match self.droppable() {
            Some(under_way) if Some(under_way) == self.wanted() => {
                if let Stage::Waiting { why: Hindrance::Passing(reason), .. } = &self.stage
                    && reason.code == ReasonCode::Unreachable
                {
                    // Whoever repeats a wish can reach the one who wishes.
                    self.check_wanted(steps);
                }
            }
            Some(_) => {
                steps.push(Step::Drop);
                self.stage = Stage::Resting;
                self.hindrances = 0;
                self.pursue(steps);
            }
            None if is_new && matches!(self.stage, Stage::Resting) => self.pursue(steps),
            None => {}
        }
    }

    /// From rest: begins with what is wanted, unless that came to its end already.
    pub(super) fn pursue(&mut self, steps: &mut Vec<Step>) {
        let Some(wish) = self.wanted().cloned() else { return };
        let settled = self.record.settled(wish.origin).filter(|settled| settled.wish == wish);
        match settled.map(|settled| (&settled.outcome, settled.no_contact)) {
            Some((Outcome::RolledBack(reason), times)) if reason.code == ReasonCode::NoContact => {
                let until = self.now + self.patience(SILENCE, times.saturating_sub(1));
                self.stage = Stage::Waiting { wish, until, why: Hindrance::NoContact };
            }
            Some(_) => {}
            None if self.confirmed().is_some_and(|note| note.digest == wish.digest) => {
                self.settle(wish, Outcome::AlreadyRan, steps);
            }
            None => self.check_wanted(steps),
        }
    }

    fn check_wanted(&mut self, steps: &mut Vec<Step>) {
        let Some(wish) = self.wanted().cloned() else { return };
        steps.push(Step::Check(wish.clone()));
        self.stage = Stage::Checking { wish };
    }

    pub(super) fn in_contact(&mut self, contact: Option<Contact>, steps: &mut Vec<Step>) {
        let was_registered = self.is_registered();
        self.contact = contact;
        match &mut self.stage {
            Stage::OnTrial { trial, .. } => trial.contact(contact, self.now),
            Stage::Waiting { why: Hindrance::Passing(reason), wish, .. }
                if reason.code == ReasonCode::Unreachable && wish.origin == Origin::Service =>
            {
                if self.is_registered() && !was_registered {
                    self.check_wanted(steps);
                }
            }
            Stage::Waiting { .. }
            | Stage::Resting
            | Stage::Checking { .. }
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Preparing { .. }
            | Stage::Held { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting
            | Stage::Confirming { .. } => {}
        }
    }

    /// The hours in which the device may change its software for the service have begun or ended.
    pub(super) fn window(&mut self, is_open: bool, steps: &mut Vec<Step>) {
        self.is_window_open = is_open;
        if let Stage::Held { job } = &self.stage {
            self.arm(job.clone(), steps);
        }
    }

    pub(super) fn checked(&mut self, mut goal: Box<Goal>, steps: &mut Vec<Step>) {
        let Stage::Checking { wish } = &self.stage else { return };
        self.running.leave_out_firmware(&mut goal);
        let job = Job { wish: wish.clone(), goal };
        match &job.goal.os {
            Some(index) if !self.running.is_os(&job.goal) => {
                if let Err(reason) = fits(index, self.room) {
                    return self.refused(reason, steps);
                }
                // What the idle slot holds stops being a system with the first block.
                *self.record.slot_mut(self.idle_slot()) = None;
                steps.push(Step::Retire(self.idle_slot()));
                self.bring(job, 0, 0, steps);
            }
            None if self.stands_in() => {
                let text =
                    "the operating system that was installed before does not come up, and this release brings none";
                self.refused(Reason::new(ReasonCode::BootFailed, text), steps);
            }
            Some(_) | None => match self.running.stays_above_floor_of(&job.goal.note) {
                Ok(()) => self.prepare(job, steps),
                Err(reason) => self.refused(reason, steps),
            },
        }
    }

    fn bring(&mut self, job: Job, section: usize, from_block: u64, steps: &mut Vec<Step>) {
        steps.push(Step::Bring { goal: job.goal.clone(), slot: self.idle_slot(), section, from_block });
        self.stage = Stage::Writing { job, section, next_block: from_block };
    }

    pub(super) fn brought(&mut self, section: usize, next_block: u64, steps: &mut Vec<Step>) {
        let Stage::Writing { job, section: expected, .. } = &self.stage else { return };
        let Some(index) = job.goal.os.as_ref().filter(|_| section == *expected) else { return };
        let blocks = index.sections.get(section).map_or(0, |section| section.size.div_ceil(BlockList::start(1)));
        let (job, is_last) = (job.clone(), section + 1 >= index.sections.len());
        // Something is coming through: the next hindrance is a first one again.
        self.hindrances = 0;
        match (next_block < blocks, is_last) {
            (true, _) => self.bring(job, section, next_block, steps),
            (false, false) => self.bring(job, section + 1, 0, steps),
            (false, true) => {
                steps.push(Step::ReadBack { goal: job.goal.clone(), slot: self.idle_slot() });
                self.stage = Stage::ReadingBack { job };
            }
        }
    }

    pub(super) fn read_back(&mut self, steps: &mut Vec<Step>) {
        let Stage::ReadingBack { job } = &self.stage else { return };
        self.prepare(job.clone(), steps);
    }

    fn prepare(&mut self, job: Job, steps: &mut Vec<Step>) {
        let note = &job.goal.note;
        if note.applications.is_empty() {
            return self.arm(job, steps);
        }
        steps.push(Step::Prepare { set: note.digest, applications: note.applications.clone() });
        self.stage = Stage::Preparing { job, until: self.now + PREPARE_LIMIT, done: 0, total: 0 };
    }

    pub(super) fn preparing(&mut self, set: Digest, bytes: (u64, u64)) {
        let now = self.now;
        if let Stage::Preparing { job, until, done, total } = &mut self.stage
            && job.goal.note.digest == set
        {
            // Only bytes are a sign of life: who repeats himself does not get more time.
            if bytes.0 > *done {
                *until = now + PREPARE_LIMIT;
            }
            (*done, *total) = bytes;
        }
    }

    pub(super) fn prepared(&mut self, set: Digest, refused: Option<Reason>, steps: &mut Vec<Step>) {
        let Stage::Preparing { job, .. } = &self.stage else { return };
        if job.goal.note.digest != set {
            return;
        }
        let job = job.clone();
        match refused {
            None => self.arm(job, steps),
            Some(reason) if may_pass(reason.code) => self.hindered(reason, steps),
            Some(reason) => self.refused(reason, steps),
        }
    }

    /// Makes the trial durable: first what is going on, then the entry that the loader will try, then the firmware. After a cut
    /// before the last, the new system finds that it was not started by its firmware, and goes back. What the service wishes waits for
    /// a yes, if one is asked for, and for the update window; a person at the device does not.
    pub(super) fn arm(&mut self, job: Job, steps: &mut Vec<Step>) {
        let is_closed = !self.is_window_open && job.wish.origin == Origin::Service;
        if is_closed || self.needs_yes(&job.wish).is_some() {
            self.stage = Stage::Held { job };
            return;
        }
        let Job { wish, goal } = job;
        let new_os = goal.os.as_ref().filter(|_| !self.running.is_os(&goal));
        let new_root = new_os.and_then(OsIndex::root_digest);
        let has_firmware = new_os.is_some_and(|os| os.section(SectionName::Firmware).is_some());
        let os_security_version =
            if new_root.is_some() { Some(goal.note.security_version) } else { self.running.security_version };
        let pending = Pending {
            wish,
            slot: if new_root.is_some() { self.idle_slot() } else { self.running.slot },
            installed: Installed { root: new_root.unwrap_or(self.running.root), os_security_version, note: goal.note },
            generation: new_root.map(|_| self.generation.saturating_add(1)),
            was_registered: self.is_registered(),
            starts: 0,
            verdict: None,
            firmware: self.running.firmware_slot().filter(|_| has_firmware).map(Slot::other),
        };
        let mut record = self.record.clone();
        record.pending = Some(pending.clone());
        steps.push(Step::Save(Box::new(record)));
        if let Some(generation) = pending.generation {
            self.generation = generation;
            let tries = Some(Tries { left: BOOT_TRIES, done: 0 });
            steps.push(Step::Arm(BootEntry { generation, slot: pending.slot, tries }));
        }
        if pending.firmware.is_some() {
            steps.push(Step::Firmware(FirmwareChoice::TryIdle));
        }
        steps.push(Step::Done);
        self.stage = Stage::Arming { pending: Box::new(pending) };
    }

    /// The wish under way is over.
    pub(super) fn refused(&mut self, reason: Reason, steps: &mut Vec<Step>) {
        let Some(wish) = self.droppable().cloned() else { return };
        // What it has brought must not be in the way of its successor.
        self.stage = Stage::Resting;
        self.retain(steps);
        self.settle(wish, Outcome::Failed(reason), steps);
    }

    /// Something stands in the way that may pass.
    pub(super) fn hindered(&mut self, reason: Reason, steps: &mut Vec<Step>) {
        match &mut self.stage {
            Stage::Checking { .. } | Stage::Writing { .. } | Stage::ReadingBack { .. } | Stage::Preparing { .. } => {
                self.wait(reason);
            }
            // Nothing was armed, or nothing that the record on the disk does not know of.
            Stage::Arming { .. } => self.wait(reason),
            // Nothing was asked of the next boot, so there is no reason for one; whoever wants it asks again.
            Stage::Forgetting => {
                self.stage = Stage::Resting;
                self.pursue(steps);
            }
            // The loader's tries and the record as it was lead to the same end.
            Stage::Rebooting => steps.push(Step::Reboot),
            Stage::Confirming { .. } => self.confirm_failed(reason, steps),
            // What could not be saved is saved with the next change.
            Stage::Resting | Stage::Held { .. } | Stage::OnTrial { .. } | Stage::Waiting { .. } => {}
        }
    }

    fn wait(&mut self, reason: Reason) {
        let Some(wish) = self.wanted().cloned() else {
            self.stage = Stage::Resting;
            return;
        };
        let pace = if reason.code == ReasonCode::Unreachable { NETWORK } else { STORAGE };
        let until = self.now + self.patience(pace, self.hindrances);
        self.hindrances = self.hindrances.saturating_add(1);
        self.stage = Stage::Waiting { wish, until, why: Hindrance::Passing(reason) };
    }

    /// The wait after `times` earlier ones: doubled each time up to the ceiling, less up to a quarter so that a fleet that was
    /// struck at once does not come back at once.
    fn patience(&self, (first, ceiling): Patience, times: u32) -> Duration {
        let full = first.saturating_mul(1 << times.min(16)).min(ceiling);
        let spread = self.spread.rotate_left(times.wrapping_mul(7)) % 256;
        full - full.mul_f64(f64::from(u8::try_from(spread).unwrap_or(0)) / 1024.0)
    }

    /// Whatever time alone changes.
    pub(super) fn time_passed(&mut self, steps: &mut Vec<Step>) {
        match &self.stage {
            Stage::Waiting { until, why, .. } if *until <= self.now => match why {
                Hindrance::Passing(_) => self.check_wanted(steps),
                Hindrance::NoContact if self.is_registered() => self.check_wanted(steps),
                Hindrance::NoContact => {}
            },
            Stage::Preparing { until, .. } if *until <= self.now => {
                let text = "mbl-apps gave no sign of progress for ten minutes";
                self.hindered(Reason::new(ReasonCode::Unreachable, text), steps);
            }
            Stage::OnTrial { .. } => self.judge(steps),
            Stage::Confirming { retry_at: Some(at), .. } if *at <= self.now => self.confirm(steps),
            Stage::Waiting { .. }
            | Stage::Preparing { .. }
            | Stage::Confirming { .. }
            | Stage::Resting
            | Stage::Checking { .. }
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Held { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting => {}
        }
    }
}

/// Refuses an OS that this device has no place for.
fn fits(index: &OsIndex, room: Room) -> Result<(), Reason> {
    let refuse = |code, text: String| Err(Reason::new(code, text));
    for section in &index.sections {
        let (name, size) = (section.name.as_str(), section.size);
        let room = match section.name {
            SectionName::Root => Some(room.root),
            SectionName::Verity => room.verity,
            // The boot partition says itself whether it has room, before anything is written to it.
            SectionName::Uki => Some(u64::MAX),
            SectionName::Firmware => room.firmware,
        };
        let Some(room) = room else {
            return refuse(ReasonCode::WrongBoard, format!("this board has no place for a section `{name}`"));
        };
        if size > room {
            return refuse(ReasonCode::NoRoom, format!("section `{name}` needs {size} bytes, its place has {room}"));
        }
    }
    if room.verity.is_some() && index.root_hash.is_none() {
        return refuse(ReasonCode::WrongBoard, "this board boots only a system with a section `verity`".to_owned());
    }
    Ok(())
}
