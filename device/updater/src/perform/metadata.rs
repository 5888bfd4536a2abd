//! Performs a check of a wish: brings the files that the workflow asks for and keeps what it validated. Never judges a file itself.

use protocol_release::workflow::{self, Check};
use protocol_types::{
    Reason, ReasonCode,
    socket::{Fetch, FetchError},
};
use tracing::warn;

use super::{Disk, Fact, Peers, Updater, Work};
use crate::record::{Goal, Origin, Wish};

/// A check under way.
#[derive(Debug)]
pub(super) struct MetadataCheck {
    check: Check,
    /// Whether the service had vouched for the time when it began.
    is_time_vouched: bool,
}

impl<D: Disk, P: Peers> Updater<D, P> {
    pub(super) fn begin_check(&mut self, wish: Wish) {
        self.forget_work();
        match &self.trust {
            Err(reason) => {
                let reason = reason.clone();
                self.facts.push_back(Fact::Refused(reason));
            }
            Ok(trust) => {
                let wish = workflow::Wish { release: wish.release, digest: wish.digest };
                let clock = trust.clock(self.clock.now(), self.plan.record().time);
                let (check, step) = Check::begin(trust.state().clone(), wish, trust.device().clone(), clock);
                let is_time_vouched = self.clock.vouched.is_some();
                self.follow(Box::new(MetadataCheck { check, is_time_vouched }), step);
            }
        }
    }

    pub(super) fn go_on_checking(&mut self, mut under_way: Box<MetadataCheck>, answer: Result<Vec<u8>, FetchError>) {
        let step = under_way.check.answer(answer);
        self.follow(under_way, step);
    }

    fn follow(&mut self, under_way: Box<MetadataCheck>, step: workflow::Step) {
        let what = match step {
            workflow::Step::FetchMetadata { name, max_bytes } => Fetch::Metadata { name, max_bytes, offset: 0 },
            workflow::Step::FetchArtifact { digest, size } => {
                // One byte more than promised is asked for, so that a longer artifact shows.
                let length = u32::try_from(size.saturating_add(1)).unwrap_or(u32::MAX);
                Fetch::Artifact { digest, offset: 0, length }
            }
            workflow::Step::Verified(release) => {
                return self.end_check(under_way, Ok(Box::new(Goal::from(&*release))));
            }
            workflow::Step::Refused(reason) => return self.end_check(under_way, Err(reason)),
        };
        self.work = Work::Check(under_way);
        self.ask(what);
    }

    /// What was validated on the way stays trusted even if the release itself is refused.
    fn end_check(&mut self, under_way: Box<MetadataCheck>, result: Result<Box<Goal>, Reason>) {
        for warning in under_way.check.warnings() {
            warn!(%warning, "odd, but no reason to refuse the release");
        }
        let MetadataCheck { check, is_time_vouched } = *under_way;
        let state = check.into_state();
        let kept = match &mut self.trust {
            Ok(trust) => trust.advance(&mut self.storage, state),
            Err(_) => Ok(()),
        };
        match kept.map_err(|e| Reason::from(&e)).and(result) {
            Ok(goal) => self.bring_configurations(goal),
            // By the device's own clock, which may be ahead; the service that asks for the release vouches for the time, too.
            Err(reason) if reason.code == ReasonCode::MetadataExpired && !is_time_vouched && self.is_for_service() => {
                self.facts.push_back(Fact::Hindered(reason));
            }
            Err(reason) => self.conclude(Err(reason)),
        }
    }

    fn is_for_service(&self) -> bool {
        self.plan.source() == Some(Origin::Service)
    }
}
