//! The question that somebody at the device answers: whether a release that is in its place may be installed. Never asks about what
//! was not verified, so a yes takes effect at once and without a network.

use protocol_types::{Answer, DeviceConsent, Digest, Question, Reason, ReasonCode, UnixSeconds};

use super::{Job, Plan, Stage, Step};
use crate::record::{Outcome, Wish};

impl Plan {
    /// What somebody at the device is asked now.
    pub(super) fn question(&self) -> Option<Question> {
        let Stage::Held { job } = &self.stage else { return None };
        let DeviceConsent { deadline } = self.needs_yes(&job.wish)?;
        Some(Question { version: job.goal.note.version.clone(), deadline })
    }

    /// The time from which on the open question needs no answer any more, if there is one.
    pub fn question_ends(&self) -> Option<UnixSeconds> {
        self.question()?.deadline
    }

    /// How a yes is asked for, if the wish still needs one.
    pub(super) fn needs_yes(&self, wish: &Wish) -> Option<DeviceConsent> {
        wish.consent.filter(|_| self.record.agreed.as_ref() != Some(wish))
    }

    /// An answer counts for the release that was asked about, as long as that is still the question.
    pub(super) fn answered(&mut self, digest: Digest, answer: Answer, steps: &mut Vec<Step>) {
        let Some(job) = self.asked_about().filter(|job| job.wish.digest == digest) else { return };
        match answer {
            Answer::Yes => self.agree(job, steps),
            Answer::No => {
                let text = format!("somebody at the device said no to release {}", job.goal.note.version);
                let outcome = Outcome::Failed(Reason::new(ReasonCode::ConsentRefused, text));
                self.settle(job.wish, outcome, steps);
            }
        }
    }

    pub(super) fn deadline_passed(&mut self, steps: &mut Vec<Step>) {
        if let Some(job) = self.asked_about().filter(|job| job.wish.consent.is_some_and(|it| it.deadline.is_some())) {
            self.agree(job, steps);
        }
    }

    fn asked_about(&self) -> Option<Job> {
        self.job().filter(|_| self.question().is_some()).cloned()
    }

    /// Kept before anything follows from it: after a cut of power nobody is asked again.
    fn agree(&mut self, job: Job, steps: &mut Vec<Step>) {
        self.record.agreed = Some(job.wish.clone());
        steps.push(Step::Save(Box::new(self.record.clone())));
        self.arm(job, steps);
    }
}
