//! From an armed trial to its end: keep the release or return to the one before.

use protocol_types::{Reason, ReasonCode};

use super::{CONFIRM_RETRY, CONFIRM_TRIES, Errand, Plan, Stage, Step};
use crate::{
    record::{Note, Outcome, Pending, Verdict},
    storage::FirmwareChoice,
    trial::{Judgement, Trial},
};

impl Plan {
    /// All steps of the last list were done.
    pub(super) fn done(&mut self, steps: &mut Vec<Step>) {
        match &mut self.stage {
            Stage::Arming { pending } => {
                let pending = pending.clone();
                if pending.generation.is_some() && self.errand == Errand::FactoryReset {
                    return self.disarm(&pending, steps);
                }
                self.record.pending = Some((*pending).clone());
                if pending.generation.is_some() {
                    return self.reboot(steps);
                }
                let mut trial = Trial::begin(&pending, self.now);
                if self.running.restarts_agent && self.changes_settings(&pending) {
                    trial.distrust_link();
                }
                trial.contact(self.contact, self.now);
                self.stage = Stage::OnTrial { pending, trial };
                self.run(steps);
            }
            Stage::Confirming { record, .. } => {
                self.record = (**record).clone();
                self.stage = Stage::Resting;
                self.retain(steps);
                self.pursue(steps);
            }
            Stage::Forgetting => self.reboot(steps),
            Stage::Resting
            | Stage::Checking { .. }
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Preparing { .. }
            | Stage::Held { .. }
            | Stage::Rebooting
            | Stage::OnTrial { .. }
            | Stage::Waiting { .. } => {}
        }
    }

    /// Drops a release that is armed and was not tried, for a factory reset: with the state its trial would be forgotten. The record in
    /// memory does not know of it yet.
    fn disarm(&mut self, pending: &Pending, steps: &mut Vec<Step>) {
        steps.push(Step::Save(Box::new(self.record.clone())));
        steps.extend(pending.generation.map(Step::Exhaust));
        if pending.firmware.is_some() {
            steps.push(Step::Firmware(FirmwareChoice::Return));
        }
        self.forget_state(steps);
    }

    /// Whether the release on its way in has other settings of the operating system than the one before.
    fn changes_settings(&self, pending: &Pending) -> bool {
        let digest_in = |note: &Note| note.system_configuration().map(|configuration| configuration.digest);
        self.confirmed().and_then(digest_in) != digest_in(&pending.installed.note)
    }

    pub(super) fn judge(&mut self, steps: &mut Vec<Step>) {
        let Stage::OnTrial { trial, .. } = &self.stage else { return };
        match trial.judge(self.now) {
            Judgement::Open(_) => {}
            Judgement::Keep => self.confirm(steps),
            Judgement::Return(reason) => self.go_back(reason, steps),
        }
    }

    /// Makes the good verdict durable. Taking the counter off the boot entry is the moment from which the new system stays; a
    /// switch in place has no entry, and new firmware is a second thing to keep, so there the record says it first.
    pub(super) fn confirm(&mut self, steps: &mut Vec<Step>) {
        let (pending, failures) = match &self.stage {
            Stage::OnTrial { pending, .. } => (pending.clone(), 0),
            Stage::Confirming { pending, failures, .. } => (pending.clone(), *failures),
            Stage::Resting
            | Stage::Checking { .. }
            | Stage::Writing { .. }
            | Stage::ReadingBack { .. }
            | Stage::Preparing { .. }
            | Stage::Held { .. }
            | Stage::Arming { .. }
            | Stage::Forgetting
            | Stage::Rebooting
            | Stage::Waiting { .. } => return,
        };
        let note = &pending.installed.note;
        if pending.generation.is_none() || pending.firmware.is_some() {
            let mut record = self.record.clone();
            if let Some(pending) = &mut record.pending {
                pending.verdict = Some(Verdict::Keep);
            }
            steps.push(Step::Save(Box::new(record)));
        }
        // Between the two, the firmware of the new system may start the old one: the record then says that the way leads on.
        if pending.firmware.is_some() && pending.firmware == self.running.firmware_slot() {
            steps.push(Step::Firmware(FirmwareChoice::KeepBooted));
        }
        steps.extend(pending.generation.map(Step::Confirm));
        if let Some(floor) = note.new_floor() {
            let other = pending.slot.other();
            let other_version = self.record.slot(other).and_then(|installed| installed.os_security_version);
            // Of the image that the factory wrote, it is not known here.
            if other_version.is_none_or(|version| version < floor) {
                steps.push(Step::Forsake(other));
            }
            steps.push(Step::RaiseFloor(floor));
        }
        let mut record = self.record.clone();
        record.pending = None;
        record.confirm(pending.slot, pending.installed.clone());
        record.settle(pending.wish.clone(), Outcome::Succeeded);
        steps.push(Step::Save(Box::new(record.clone())));
        steps.push(Step::Done);
        self.stage = Stage::Confirming { pending, record: Box::new(record), retry_at: None, failures };
    }

    /// The good verdict did not reach the disk. If it raises the floor, that may have happened by now, and the release before would not
    /// start any more: then there is no way back, only another try.
    pub(super) fn confirm_failed(&mut self, reason: Reason, steps: &mut Vec<Step>) {
        let Stage::Confirming { pending, retry_at, failures, .. } = &mut self.stage else { return };
        *failures = failures.saturating_add(1);
        if *failures < CONFIRM_TRIES || pending.installed.note.new_floor().is_some() {
            *retry_at = Some(self.now + CONFIRM_RETRY);
        } else {
            let text = format!("the verdict cannot be stored: {}", reason.text);
            self.go_back(Reason::new(ReasonCode::StorageFailed, text), steps);
        }
    }

    /// Returns to the release before. Nothing here may stand in the way of that: the reason is saved if it can be.
    pub(super) fn go_back(&mut self, reason: Reason, steps: &mut Vec<Step>) {
        let (Stage::OnTrial { pending, .. } | Stage::Confirming { pending, .. }) = &self.stage else { return };
        let pending = pending.clone();
        if let Some(generation) = pending.generation {
            if let Some(pending) = &mut self.record.pending {
                pending.verdict = Some(Verdict::Return(reason));
            }
            steps.push(Step::Save(Box::new(self.record.clone())));
            steps.push(Step::Exhaust(generation));
            if pending.firmware.is_some() {
                steps.push(Step::Firmware(FirmwareChoice::Return));
            }
            if self.errand == Errand::FactoryReset {
                steps.push(Step::ForgetState);
            }
            return self.reboot(steps);
        }
        self.record.pending = None;
        self.stage = Stage::Resting;
        self.run(steps);
        self.retain(steps);
        self.settle(pending.wish, Outcome::RolledBack(reason), steps);
    }
}
