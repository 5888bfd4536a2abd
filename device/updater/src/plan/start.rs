//! What follows from how the device was booted and what the record says was going on.

use std::time::Duration;

use protocol_types::{Reason, ReasonCode, boot::BootEntry};

use super::{Errand, Plan, Running, Stage, Step};
use crate::{
    disk::Room,
    record::{GaveWay, Outcome, Pending, Record, Settled, Verdict},
    storage::FirmwareChoice,
    trial::{MAX_STARTS, Trial},
};

impl Plan {
    /// Begins in the system that the loader booted. `entries` are all boot entries as they are now, `room` that of a
    /// slot, and `spread` a random number that keeps this device from doing what every other does at the same moment.
    pub fn start(
        record: Record,
        running: Running,
        entries: &[BootEntry],
        room: Room,
        spread: u64,
    ) -> (Self, Vec<Step>) {
        let pending = record.pending.clone();
        let known = entries.iter().map(|entry| entry.generation).max().unwrap_or(0);
        let promised = pending.as_ref().and_then(|pending| pending.generation).unwrap_or(0);
        let mut plan = Self {
            record,
            running,
            room,
            spread,
            now: Duration::ZERO,
            service: None,
            folder: None,
            contact: None,
            stage: Stage::Resting,
            hindrances: 0,
            generation: known.max(promised),
            errand: Errand::Nothing,
            told_to_rest: false,
            is_window_open: true,
        };
        let mut steps = Vec::new();
        let entry_of = |generation| entries.iter().find(|entry| entry.generation == generation).copied();
        let has_counter = entry_of(plan.running.generation).is_some_and(|entry| entry.tries.is_some());
        match pending {
            Some(pending) if pending.runs_in(&plan.running) => plan.resume(pending, has_counter, &mut steps),
            Some(pending) => {
                let entry = pending.generation.and_then(entry_of);
                plan.came_back(pending, entry, &mut steps);
            }
            // A trial that nobody remembers cannot be judged: the way back is safe.
            None => {
                let is_tried = plan.leave_firmware_trial(&mut steps);
                if has_counter {
                    steps.push(Step::Exhaust(plan.running.generation));
                }
                if has_counter || is_tried {
                    plan.reboot(&mut steps);
                } else {
                    plan.look_for_lost(entries, &mut steps);
                    plan.settled_in(&mut steps);
                }
            }
        }
        (plan, steps)
    }

    /// Takes a trial that nobody judges any more out of the record of the firmware; true if that firmware runs.
    fn leave_firmware_trial(&self, steps: &mut Vec<Step>) -> bool {
        let Some(firmware) = self.running.firmware.filter(|firmware| firmware.on_trial.is_some()) else { return false };
        steps.push(Step::Firmware(FirmwareChoice::Return));
        firmware.is_on_trial()
    }

    /// The release on trial runs (again).
    fn resume(&mut self, mut pending: Pending, has_counter: bool, steps: &mut Vec<Step>) {
        let was_confirmed = match pending.generation {
            Some(_) => !has_counter,
            None => pending.verdict == Some(Verdict::Keep),
        };
        pending.starts = pending.starts.saturating_add(1);
        let too_often = pending.starts > MAX_STARTS;
        let other_firmware = pending.firmware.is_some() && pending.firmware != self.running.firmware_slot();
        let hindrance = if other_firmware {
            let text = "the system was not started by the firmware of its release";
            Some(Reason::new(ReasonCode::BootFailed, text))
        } else if too_often {
            let text = format!("the system started {MAX_STARTS} times during the trial without coming to a verdict");
            Some(Reason::new(ReasonCode::BootFailed, text))
        } else {
            self.running.stays_above_floor_of(&pending.installed.note).err()
        };
        let verdict = pending.verdict.clone();
        self.record.pending = Some(pending.clone());
        let trial = Trial::begin(&pending, self.now);
        self.stage = Stage::OnTrial { pending: Box::new(pending), trial };
        match (verdict, hindrance) {
            _ if was_confirmed => {
                self.run(steps);
                self.confirm(steps);
            }
            (Some(Verdict::Return(reason)), _) | (Some(Verdict::Keep) | None, Some(reason)) => {
                self.go_back(reason, steps);
            }
            (Some(Verdict::Keep) | None, None) => {
                self.run(steps);
                self.retain(steps);
                steps.push(Step::Save(Box::new(self.record.clone())));
            }
        }
    }

    /// Another system than the one on trial runs.
    fn came_back(&mut self, mut pending: Pending, entry: Option<BootEntry>, steps: &mut Vec<Step>) {
        let firmware_is_kept = self
            .running
            .firmware
            .is_some_and(|firmware| pending.firmware == Some(firmware.running.slot) && firmware.on_trial.is_none());
        // One that gave way was confirmed already, and did not come up.
        let was_tried = entry.is_some_and(|entry| !entry.gave_way() && entry.tries.is_some_and(|tries| tries.done > 0));
        let untried = |entry: BootEntry| entry.tries.is_some_and(|tries| tries.left > 0 && tries.done == 0);
        let reason = match pending.verdict.take() {
            Some(Verdict::Return(reason)) => reason,
            // The good verdict reached the firmware, but not the entry: on to the new system, which the firmware belongs to.
            Some(Verdict::Keep) if firmware_is_kept && was_tried => {
                steps.extend(pending.generation.map(Step::Confirm));
                return self.reboot(steps);
            }
            // Power failed before the entry was armed: nothing happened yet.
            None if pending.generation.is_some() && entry.is_none() => {
                self.record.pending = None;
                return self.settled_in(steps);
            }
            // The entry is armed, but the restart did not come.
            None if entry.is_some_and(untried) && pending.starts < MAX_STARTS => {
                pending.starts += 1;
                self.record.pending = Some(pending);
                steps.push(Step::Save(Box::new(self.record.clone())));
                return self.reboot(steps);
            }
            Some(Verdict::Keep) | None => {
                Reason::new(ReasonCode::BootFailed, "the new system used up its tries without coming to a verdict")
            }
        };
        if let Some(entry) = entry.filter(BootEntry::is_bootable) {
            steps.push(Step::Exhaust(entry.generation));
        }
        self.record.pending = None;
        if self.leave_firmware_trial(steps) {
            self.record.settle(pending.wish, Outcome::RolledBack(reason));
            steps.push(Step::Save(Box::new(self.record.clone())));
            return self.reboot(steps);
        }
        self.run(steps);
        self.retain(steps);
        self.settle(pending.wish, Outcome::RolledBack(reason), steps);
    }

    /// The loader passed over a newer entry that was confirmed, or the initrd has let it give way: that system does not start any more.
    /// If it is still wished for, it is brought again, and only the blocks that were lost travel. One that gave way is brought once: if it
    /// does so again, it is not its slot that is damaged. Its applications stay until something else takes their place.
    fn look_for_lost(&mut self, entries: &[BootEntry], steps: &mut Vec<Step>) {
        let idle = self.idle_slot();
        let newer = entries.iter().filter(|entry| entry.slot == idle && entry.generation > self.running.generation);
        let newest = newer.max_by_key(|entry| entry.generation);
        // Of one that used up its tries on trial, nothing is noted in its slot.
        let (Some(entry), Some(lost)) = (newest, self.record.slot(idle)) else { return };
        let lost = GaveWay { digest: lost.note.digest, generation: entry.generation };
        let is_wished = |settled: &mut Settled| settled.wish.digest == lost.digest;
        if entry.is_bootable() {
            self.record.service.take_if(is_wished);
            return;
        }
        let before = self.record.gave_way.replace(lost);
        if before == Some(lost) {
            return;
        }
        let is_first = before.is_none_or(|before| before.digest != lost.digest);
        if let Some(settled) = self.record.service.take_if(is_wished)
            && !is_first
        {
            let text = "its system was confirmed, and again did not come up when it was started later";
            let reason = Reason::new(ReasonCode::BootFailed, text);
            self.record.settle(settled.wish, Outcome::RolledBack(reason));
        }
        steps.push(Step::Save(Box::new(self.record.clone())));
    }

    /// Whether this system runs because a newer one gave way to it. What was made for that one may not fit here.
    pub(super) fn stands_in(&self) -> bool {
        let lost = self.record.slot(self.idle_slot()).zip(self.record.gave_way);
        lost.is_some_and(|(other, lost)| other.note.digest == lost.digest && other.root != self.running.root)
    }

    /// A confirmed system runs and nothing is on trial.
    fn settled_in(&mut self, steps: &mut Vec<Step>) {
        self.stage = Stage::Resting;
        self.run(steps);
        self.retain(steps);
    }
}

impl Pending {
    /// Whether the system on trial is the one that was booted.
    pub(super) fn runs_in(&self, running: &Running) -> bool {
        match self.generation {
            Some(generation) => generation == running.generation,
            None => self.slot == running.slot && self.installed.root == running.root,
        }
    }
}
