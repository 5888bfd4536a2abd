//! A device that performs the steps of a check against what a server hands out.

use protocol_release::workflow::{Check, Clock, Device, Step, TrustedState, VerifiedRelease, Warning, Wish};
use protocol_types::{Reason, UnixSeconds, socket::FetchError};

use crate::world::{Served, World, device};

/// What one check came to.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) outcome: Result<Box<VerifiedRelease>, Reason>,
    pub(crate) state: TrustedState,
    pub(crate) warnings: Vec<Warning>,
    /// Every file that was asked for.
    pub(crate) asked: Vec<String>,
}

impl Visit {
    /// The code of the refusal, or `verified`.
    pub(crate) fn verdict(&self) -> &'static str {
        self.outcome.as_ref().map_or_else(|reason| reason.code.as_str(), |_| "verified")
    }
}

/// One check of `wish` at the clock's time `now`, with a build from 1970.
pub(crate) fn visit(served: &Served, state: TrustedState, wish: &Wish, now: UnixSeconds) -> Visit {
    visit_as(device(), served, state, wish, Clock { now, not_before: UnixSeconds(0) })
}

pub(crate) fn visit_as(device: Device, served: &Served, state: TrustedState, wish: &Wish, clock: Clock) -> Visit {
    let before = state.clone();
    let (mut check, mut step) = Check::begin(state, wish.clone(), device, clock);
    let mut asked = Vec::new();
    let outcome = loop {
        assert!(asked.len() < 400, "a check must end");
        let answer = match step {
            Step::FetchMetadata { name, max_bytes } => {
                let found = served.metadata.get(&name).cloned().ok_or(FetchError::NotFound);
                asked.push(name);
                found.and_then(
                    |bytes| if bytes.len() > max_bytes as usize { Err(FetchError::TooLong) } else { Ok(bytes) },
                )
            }
            Step::FetchArtifact { digest, size } => {
                assert!(size <= 64 * 1024, "a check fetches small artifacts only");
                asked.push(digest.to_string());
                served.artifacts.get(&digest).cloned().ok_or(FetchError::NotFound)
            }
            Step::Verified(release) => break Ok(release),
            Step::Refused(reason) => break Err(reason),
        };
        step = check.answer(answer);
    };
    let visit = Visit { outcome, warnings: check.warnings().to_vec(), state: check.into_state(), asked };
    assert_no_worse(&before, &visit);
    visit
}

/// Nothing that was trusted is forgotten, except by the officers' own rotation of keys; a refusal moves neither floor nor time.
fn assert_no_worse(before: &TrustedState, visit: &Visit) {
    let after = &visit.state;
    assert_eq!(before.floor(), after.floor(), "a check never moves the floor");
    assert!(after.root_version() >= before.root_version());
    if after.root_version() == before.root_version() {
        let versions = after.versions();
        for (role, version) in before.versions() {
            let rekeyed = !role.starts_with(['r', 't', 's']) && versions["targets"] > before.versions()["targets"];
            let kept = versions.get(&role).copied();
            let fine = kept.map_or(rekeyed, |kept| kept >= version);
            assert!(fine, "{role} went from {version} to {kept:?} by {:?}", visit.outcome);
        }
        assert!(after.seen() >= before.seen());
        assert!(visit.outcome.is_ok() || after.seen() == before.seen(), "a refusal proves no time");
    }
    // What would be stored reads back as itself.
    let bytes = after.to_bytes().unwrap();
    assert_eq!(TrustedState::parse(&bytes).unwrap().to_bytes().unwrap(), bytes);
}

impl World {
    /// A device fresh from the factory checks release `version` now.
    pub(crate) fn first_visit(&self, version: &str) -> Visit {
        visit(&self.served, self.provisioned(), &self.wish(version), self.now)
    }

    /// The state of a device that runs release 1.0.0.
    pub(crate) fn running(&self) -> TrustedState {
        let visit = self.first_visit("1.0.0");
        assert_eq!(visit.verdict(), "verified", "{:?}", visit.outcome);
        visit.state
    }
}
