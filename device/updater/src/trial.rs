//! Judges a release on trial. Never looks at a clock, a socket or a disk: facts go in, a judgement comes out.

use std::time::Duration;

use protocol_types::{
    ApplicationSpec, Digest, Reason, ReasonCode,
    socket::{ApplicationState, ApplicationStatus, Contact},
};

use crate::record::Pending;

/// The most starts of the updater during one trial. A system that keeps falling over restarts the clock of the trial each time,
/// so the starts bound it where the time limit cannot.
pub const MAX_STARTS: u32 = 8;

/// A release on trial, and what is known about how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    began: Duration,
    limit: Duration,
    no_contact_limit: Duration,
    was_registered: bool,
    set: Digest,
    applications: Vec<ApplicationSpec>,
    contact: Option<Contact>,
    distrusts_link: bool,
    network_since: Option<Duration>,
    statuses: Vec<ApplicationStatus>,
}

/// What is to be done about a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Wait for more facts, at most until this time.
    Open(Duration),
    /// Everything is as it should be.
    Keep,
    /// The release failed.
    Return(Reason),
}

impl Trial {
    /// A trial that begins at `now`; its limits count from here.
    pub fn begin(pending: &Pending, now: Duration) -> Self {
        let note = &pending.installed.note;
        Self {
            began: now,
            limit: Duration::from_secs(note.health.time_limit_s.into()),
            no_contact_limit: Duration::from_secs(note.health.no_contact_limit_s.max(note.health.time_limit_s).into()),
            was_registered: pending.was_registered,
            set: note.digest,
            applications: note.applications.clone(),
            contact: None,
            distrusts_link: false,
            network_since: None,
            statuses: Vec::new(),
        }
    }

    /// From now on nothing counts that the agent says, until it was away: what it is connected by is older than what is on trial.
    pub const fn distrust_link(&mut self) {
        self.distrusts_link = true;
    }

    /// How the agent reaches the world; none while no agent is connected.
    pub fn contact(&mut self, contact: Option<Contact>, now: Duration) {
        self.distrusts_link &= contact.is_some();
        let contact = contact.filter(|_| !self.distrusts_link);
        let network = contact.is_some_and(|contact| contact.network || contact.registered);
        self.network_since = if network { self.network_since.or(Some(now)) } else { None };
        self.contact = contact;
    }

    /// How the applications of the running set are.
    pub fn applications(&mut self, set: Option<Digest>, statuses: &[ApplicationStatus]) {
        self.statuses = if set == Some(self.set) { statuses.to_vec() } else { Vec::new() };
    }

    /// The judgement at `now`.
    pub fn judge(&self, now: Duration) -> Judgement {
        if let Some(failed) = self.find(|state| state == Some(ApplicationState::Failed)) {
            return self.not_ready(failed, "cannot be started");
        }
        let waiting_for = self.find(|state| state != Some(ApplicationState::Ready));
        // Without a registration before the trial, silence says nothing about the release; a living agent must do.
        let in_touch = self.contact.is_some_and(|contact| contact.registered || !self.was_registered);
        if in_touch && waiting_for.is_none() {
            return Judgement::Keep;
        }
        let until = self.ends();
        if now < until {
            return Judgement::Open(until);
        }
        match (waiting_for, self.contact) {
            _ if self.is_silent() => Judgement::Return(Reason::new(
                ReasonCode::NoContact,
                "neither the service nor any other host answered since the restart",
            )),
            (Some(name), _) => self.not_ready(name, "did not become ready in time"),
            (None, Some(_)) => not_registered("the network answers but the agent did not register in time"),
            (None, None) => not_registered("the agent did not come back to the updater in time"),
        }
    }

    /// Whether a living agent that was registered before reaches nobody at all: that is rather the network's fault.
    fn is_silent(&self) -> bool {
        self.was_registered && self.contact.is_some() && self.network_since.is_none()
    }

    /// When the trial ends at the latest, as far as is known now.
    fn ends(&self) -> Duration {
        let (first, last) = (self.began + self.limit, self.began + self.no_contact_limit);
        match self.network_since {
            _ if self.is_silent() => last,
            // The network came late: everything gets as long as it would have had, but never beyond the second limit.
            Some(since) if self.was_registered && since > first => (since + self.limit).min(last),
            Some(_) | None => first,
        }
    }

    /// The first application whose state meets `wanted`.
    fn find(&self, wanted: impl Fn(Option<ApplicationState>) -> bool) -> Option<&ApplicationSpec> {
        self.applications.iter().find(|spec| {
            let status = self.statuses.iter().find(|status| status.name == spec.name && status.digest == spec.digest);
            wanted(status.map(|status| status.state))
        })
    }

    fn not_ready(&self, spec: &ApplicationSpec, what: &str) -> Judgement {
        let said = self.statuses.iter().find(|status| status.name == spec.name).and_then(|s| s.reason.as_ref());
        let why = said.map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = format!("application {} {} {what}{why}", spec.name, spec.version);
        Judgement::Return(Reason::new(ReasonCode::ApplicationNotReady, text))
    }
}

fn not_registered(text: &str) -> Judgement {
    Judgement::Return(Reason::new(ReasonCode::AgentNotRegistered, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::AppName;

    use super::*;
    use crate::record::tests::{application, pending};

    const ONLINE: Contact = Contact { registered: true, network: true };
    const UNREGISTERED: Contact = Contact { registered: false, network: true };
    const SILENT: Contact = Contact { registered: false, network: false };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn status(state: ApplicationState) -> ApplicationStatus {
        let spec = application("hello");
        ApplicationStatus { name: spec.name, digest: spec.digest, state, restarts: 0, reason: None }
    }

    /// A trial with the limits 90 s and 600 s and one application.
    fn trial(was_registered: bool) -> (Trial, Digest) {
        let mut pending = pending();
        pending.was_registered = was_registered;
        (Trial::begin(&pending, s(1)), pending.installed.note.digest)
    }

    fn code(judgement: Judgement) -> Option<ReasonCode> {
        match judgement {
            Judgement::Return(reason) => Some(reason.code),
            Judgement::Open(_) | Judgement::Keep => None,
        }
    }

    #[test]
    fn registered_and_ready_is_good_at_once() {
        let (mut trial, set) = trial(true);
        assert_eq!(trial.judge(s(2)), Judgement::Open(s(91)));
        trial.contact(Some(ONLINE), s(2));
        assert_eq!(trial.judge(s(2)), Judgement::Open(s(91)));
        trial.applications(Some(set), &[status(ApplicationState::Started)]);
        assert_eq!(trial.judge(s(2)), Judgement::Open(s(91)));
        trial.applications(Some(set), &[status(ApplicationState::Ready)]);
        assert_eq!(trial.judge(s(2)), Judgement::Keep);
    }

    #[test]
    fn new_settings_are_proved_by_an_agent_that_came_back_with_them() {
        let (mut trial, set) = trial(true);
        trial.applications(Some(set), &[status(ApplicationState::Ready)]);
        trial.distrust_link();
        trial.contact(Some(ONLINE), s(2));
        assert_eq!(trial.judge(s(2)), Judgement::Open(s(91)), "the old connection proves nothing");
        trial.contact(None, s(3));
        trial.contact(Some(SILENT), s(4));
        assert_eq!(trial.judge(s(91)), Judgement::Open(s(601)), "silence waits for the second limit");
        assert_eq!(code(trial.judge(s(601))), Some(ReasonCode::NoContact));
        trial.contact(Some(ONLINE), s(20));
        assert_eq!(trial.judge(s(20)), Judgement::Keep);
    }

    #[test]
    fn an_agent_that_never_left_is_to_blame_for_settings_that_never_came() {
        let (mut trial, set) = trial(true);
        trial.applications(Some(set), &[status(ApplicationState::Ready)]);
        trial.distrust_link();
        trial.contact(Some(ONLINE), s(2));
        assert_eq!(code(trial.judge(s(91))), Some(ReasonCode::AgentNotRegistered));
    }

    #[test]
    fn the_applications_of_another_set_prove_nothing() {
        let (mut trial, _) = trial(true);
        trial.contact(Some(ONLINE), s(2));
        trial.applications(Some(Digest::of(b"another")), &[status(ApplicationState::Ready)]);
        assert_eq!(code(trial.judge(s(91))), Some(ReasonCode::ApplicationNotReady));
        trial.applications(None, &[status(ApplicationState::Ready)]);
        assert_eq!(code(trial.judge(s(91))), Some(ReasonCode::ApplicationNotReady));
    }

    #[test]
    fn an_application_that_cannot_be_started_ends_the_trial_at_once() {
        let (mut trial, set) = trial(true);
        trial.contact(Some(ONLINE), s(2));
        let mut failed = status(ApplicationState::Failed);
        failed.reason = Some(Reason::new(ReasonCode::MalformedImage, "no entry point"));
        trial.applications(Some(set), &[failed]);
        let Judgement::Return(reason) = trial.judge(s(3)) else { panic!("still open") };
        assert_eq!(reason.code, ReasonCode::ApplicationNotReady);
        assert!(reason.text.contains("hello") && reason.text.contains("no entry point"), "{reason}");
    }

    #[test]
    fn without_a_registration_in_time_the_agent_is_to_blame_if_the_network_answers() {
        let (mut trial, set) = trial(true);
        trial.applications(Some(set), &[status(ApplicationState::Ready)]);
        trial.contact(Some(UNREGISTERED), s(2));
        assert_eq!(trial.judge(s(90)), Judgement::Open(s(91)));
        assert_eq!(code(trial.judge(s(91))), Some(ReasonCode::AgentNotRegistered));
        trial.contact(None, s(91));
        assert_eq!(code(trial.judge(s(91))), Some(ReasonCode::AgentNotRegistered));
    }

    #[test]
    fn silence_waits_for_the_second_limit_and_blames_nobody() {
        let (mut trial, set) = trial(true);
        trial.applications(Some(set), &[status(ApplicationState::Ready)]);
        trial.contact(Some(SILENT), s(2));
        assert_eq!(trial.judge(s(91)), Judgement::Open(s(601)));
        assert_eq!(code(trial.judge(s(601))), Some(ReasonCode::NoContact));
        trial.contact(Some(UNREGISTERED), s(500));
        assert_eq!(trial.judge(s(520)), Judgement::Open(s(590)), "the agent gets its time from when the network came");
        assert_eq!(code(trial.judge(s(590))), Some(ReasonCode::AgentNotRegistered));
        trial.contact(Some(ONLINE), s(530));
        assert_eq!(trial.judge(s(530)), Judgement::Keep);
    }

    #[test]
    fn a_device_that_was_never_in_touch_needs_a_living_agent_only() {
        let (mut trial, set) = trial(false);
        trial.applications(Some(set), &[status(ApplicationState::Ready)]);
        assert_eq!(code(trial.judge(s(91))), Some(ReasonCode::AgentNotRegistered));
        trial.contact(Some(SILENT), s(5));
        assert_eq!(trial.judge(s(5)), Judgement::Keep);
        assert!(AppName::new("hello").is_ok());
    }

    proptest! {
        #[test]
        fn a_verdict_is_reached_within_the_limits_whatever_happens(
            was_registered: bool,
            facts in proptest::collection::vec((0u64..700, 0u8..7), 0..40),
        ) {
            let (mut trial, set) = trial(was_registered);
            let mut facts = facts;
            facts.sort_unstable();
            let mut ended = None;
            for (at, what) in facts {
                match what {
                    0 => trial.contact(None, s(at)),
                    1 => trial.contact(Some(ONLINE), s(at)),
                    2 => trial.contact(Some(UNREGISTERED), s(at)),
                    3 => trial.contact(Some(SILENT), s(at)),
                    4 => trial.applications(Some(set), &[status(ApplicationState::Ready)]),
                    5 => trial.applications(Some(set), &[status(ApplicationState::Waiting)]),
                    _ => trial.applications(None, &[]),
                }
                match trial.judge(s(at)) {
                    // Whoever waits is told when to ask again, and never later than the second limit.
                    Judgement::Open(until) => prop_assert!(until > s(at) && until <= s(601)),
                    Judgement::Keep | Judgement::Return(_) => { ended = Some(at); break }
                }
            }
            if ended.is_none() {
                prop_assert!(!matches!(trial.judge(s(700)), Judgement::Open(_)));
            }
        }
    }
}
