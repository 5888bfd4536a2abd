//! What the updater reports about itself.

use protocol_types::{
    Phase, Reason, ReasonCode, ReleaseVersion, RunningRelease, SecurityVersion, UpdateStatus,
    update::RunningApplication,
};

use super::{Hindrance, Job, Plan, Stage};
use crate::{
    blocks::BlockList,
    record::{Note, Origin, Outcome, Wish},
};

/// Phase, the wish it belongs to, why, and bytes done and in all.
type Report<'a> = (Phase, Option<&'a Wish>, Option<Reason>, Option<(u64, u64)>);

impl Plan {
    /// The report as of now.
    pub fn status(&self, floor: SecurityVersion) -> UpdateStatus {
        let (phase, wish, reason, progress) = self.phase();
        UpdateStatus {
            phase,
            rollout: wish.and_then(|wish| wish.rollout.clone()),
            wanted: wish.map(|wish| wish.digest),
            reason,
            progress,
            running: self.running_release(),
            floor,
            question: self.question(),
        }
    }

    fn phase(&self) -> Report<'_> {
        match &self.stage {
            Stage::Resting => self.rested(),
            Stage::Checking { wish } => (Phase::Downloading, Some(wish), None, None),
            Stage::Writing { job, section, next_block } => {
                let progress = job.bytes_before(*section, *next_block);
                (Phase::Downloading, Some(&job.wish), None, Some(progress))
            }
            Stage::ReadingBack { job } => (Phase::Verifying, Some(&job.wish), None, None),
            Stage::Preparing { job, done, total, .. } => {
                (Phase::Downloading, Some(&job.wish), None, (*total > 0).then_some((*done, *total)))
            }
            Stage::Held { job } if self.needs_yes(&job.wish).is_some() => {
                let version = &job.goal.note.version;
                let text = format!("release {version} is in place and waits for a yes of somebody at the device");
                (Phase::Verifying, Some(&job.wish), Some(Reason::new(ReasonCode::ConsentNeeded, text)), None)
            }
            Stage::Held { job } => {
                let text = "everything is in place and waits for the update window";
                (Phase::Verifying, Some(&job.wish), Some(Reason::new(ReasonCode::OutsideWindow, text)), None)
            }
            Stage::Arming { pending } => (Phase::Installing, Some(&pending.wish), None, None),
            Stage::Rebooting => match &self.record.pending {
                Some(pending) if pending.verdict.is_none() => (Phase::Installing, Some(&pending.wish), None, None),
                Some(pending) => (Phase::Trial, Some(&pending.wish), None, None),
                None => self.rested(),
            },
            Stage::OnTrial { pending, .. } | Stage::Confirming { pending, .. } => {
                (Phase::Trial, Some(&pending.wish), None, None)
            }
            Stage::Waiting { why: Hindrance::NoContact, .. } | Stage::Forgetting => self.rested(),
            Stage::Waiting { wish, why: Hindrance::Passing(reason), .. } => {
                let phase = if reason.code == ReasonCode::Unreachable { Phase::Downloading } else { Phase::Failed };
                (phase, Some(wish), Some(reason.clone()), None)
            }
        }
    }

    /// How the newest wish ended.
    fn rested(&self) -> Report<'_> {
        // Right after a start nobody has repeated a wish yet; how the last one ended is still the answer then.
        let settled = match self.wanted() {
            Some(wish) => self.record.settled(wish.origin).filter(|settled| settled.wish == *wish),
            None => self
                .record
                .settled(self.record.latest)
                .filter(|settled| settled.wish.origin == Origin::Folder || !self.told_to_rest),
        };
        let Some(settled) = settled else { return (Phase::Idle, None, None, None) };
        let (phase, reason) = match &settled.outcome {
            Outcome::Succeeded => (Phase::Succeeded, None),
            Outcome::AlreadyRan => {
                let text = "the device already ran this release";
                (Phase::Succeeded, Some(Reason::new(ReasonCode::AlreadyRunning, text)))
            }
            Outcome::Failed(reason) => (Phase::Failed, Some(reason.clone())),
            Outcome::RolledBack(reason) => (Phase::RolledBack, Some(reason.clone())),
        };
        (phase, Some(&settled.wish), reason, None)
    }

    fn running_release(&self) -> RunningRelease {
        let note = self.current();
        let applications = note.map(|note| note.applications.as_slice()).unwrap_or_default();
        RunningRelease {
            version: note.map_or_else(|| self.factory_version(), |note: &Note| note.version.clone()),
            digest: note.map(|note| note.digest),
            firmware: self.running.firmware.map(|firmware| firmware.running),
            slot: self.running.slot,
            os_version: self.running.os_version.clone(),
            os_digest: self.running.root,
            applications: applications
                .iter()
                .map(|spec| RunningApplication {
                    name: spec.name.clone(),
                    version: spec.version.clone(),
                    digest: spec.digest,
                })
                .collect(),
        }
    }

    /// The factory's image is no release: its operating system's version stands in.
    fn factory_version(&self) -> ReleaseVersion {
        self.running.os_version.parse().unwrap_or(ReleaseVersion::new(0, 0, 0))
    }
}

impl Job {
    /// Bytes in their places and bytes in all.
    fn bytes_before(&self, section: usize, next_block: u64) -> (u64, u64) {
        let sections = self.goal.os.as_ref().map(|index| index.sections.as_slice()).unwrap_or_default();
        let bytes = |sections: &[protocol_release::document::Section]| sections.iter().map(|s| s.size).sum::<u64>();
        let before = bytes(sections.get(..section).unwrap_or_default());
        let here = sections.get(section).map_or(0, |section| BlockList::start(next_block).min(section.size));
        (before + here, bytes(sections))
    }
}
