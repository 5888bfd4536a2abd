//! What is done with a configuration and when: facts go in, steps come out. Never reads a clock, a file or the network.

use std::time::Duration;

use protocol_types::{ConfigurationState, Digest, Reason, ReasonCode};
use serde::{Deserialize, Serialize};

use super::Wish;

/// How often the agent may start with a configuration that is not confirmed.
const MAX_STARTS: u8 = 3;

/// What must be remembered across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The one with which the service was reached last; none until there was one.
    in_force: Option<Wish>,
    /// The one that is tried.
    trial: Option<Trial>,
    /// What became of the one that was tried last.
    outcome: Option<Outcome>,
}

/// A configuration with which the service was not reached yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trial {
    wish: Wish,
    starts: u8,
}

/// What became of a configuration. Only what was confirmed has no reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    generation: u64,
    digest: Digest,
    end: End,
    reason: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Confirmed,
    Refused,
    Undone,
}

/// Something that happened. Times are since the agent started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// The agent has started.
    Started,
    /// The service wants this.
    Wished(Wish),
    /// What was to be brought into force is.
    Applied { now: Duration },
    /// It could not be.
    NotApplied { reason: Reason },
    /// The device is registered with the service, with what was brought into force last.
    Reached,
    /// Time has passed.
    TimePassed { now: Duration },
}

/// What must be done, in order, after the state was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bring this document into force; none for the settings of the image.
    Apply(Option<Wish>),
    /// Dial the service anew: an old connection proves nothing about a new network.
    Reconnect,
    /// What is in force is confirmed: whoever has it on trial need not take it back.
    Settle,
}

/// The life of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    kept: Kept,
    /// Until when the service must be reached with what is tried; none until it is in force.
    deadline: Option<Duration>,
    /// Whether something is being taken back.
    is_undoing: bool,
}

impl Machine {
    pub(super) fn new(kept: Kept) -> Self {
        Self { kept, deadline: None, is_undoing: false }
    }

    /// What must be kept.
    pub(super) const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether something is in force that is not confirmed.
    pub(super) const fn is_trying(&self) -> bool {
        self.kept.trial.is_some()
    }

    /// When time that passed matters next.
    pub(super) const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Takes one fact; what must now be done.
    pub(super) fn on(&mut self, fact: Fact) -> Vec<Step> {
        match fact {
            Fact::Started => self.started(),
            Fact::Wished(wish) => self.wished(wish),
            Fact::Applied { now } => self.applied(now),
            Fact::NotApplied { reason } => match self.kept.trial.take() {
                Some(trial) => self.take_back(&trial.wish, End::Refused, reason),
                // What was in force before is what there is; the next start tries again.
                None => Vec::new(),
            },
            Fact::Reached => {
                if self.deadline.take().is_some()
                    && let Some(trial) = self.kept.trial.take()
                {
                    self.confirm(trial.wish);
                    return vec![Step::Settle];
                }
                Vec::new()
            }
            Fact::TimePassed { now } => self.time_passed(now),
        }
    }

    fn started(&mut self) -> Vec<Step> {
        let Some(trial) = &mut self.kept.trial else { return vec![Step::Apply(self.kept.in_force.clone())] };
        trial.starts = trial.starts.saturating_add(1);
        let wish = trial.wish.clone();
        if trial.starts <= MAX_STARTS {
            return vec![Step::Apply(Some(wish))];
        }
        self.kept.trial = None;
        let why = format!("the agent started {MAX_STARTS} times and the service was not reached");
        self.take_back(&wish, End::Undone, Reason::new(ReasonCode::NoContact, why))
    }

    fn wished(&mut self, wish: Wish) -> Vec<Step> {
        let is_tried = self.kept.trial.as_ref().is_some_and(|trial| trial.wish == wish);
        let has_ended = self.kept.trial.is_none()
            && self
                .kept
                .outcome
                .as_ref()
                .is_some_and(|outcome| outcome.generation == wish.generation() && outcome.digest == wish.digest());
        if is_tried || has_ended {
            return Vec::new();
        }
        let is_in_force = self.kept.in_force.as_ref().is_some_and(|in_force| in_force.document() == wish.document());
        if is_in_force && self.kept.trial.is_none() {
            self.confirm(wish);
            return Vec::new();
        }
        self.kept.trial = Some(Trial { wish: wish.clone(), starts: 0 });
        self.deadline = None;
        vec![Step::Apply(Some(wish))]
    }

    fn applied(&mut self, now: Duration) -> Vec<Step> {
        let was_undoing = std::mem::take(&mut self.is_undoing);
        let Some(trial) = &self.kept.trial else {
            return if was_undoing { vec![Step::Reconnect] } else { Vec::new() };
        };
        let settings = trial.wish.settings();
        self.deadline = Some(now + Duration::from_secs(u64::from(settings.contact_limit_s())));
        let before = self.kept.in_force.as_ref().map(|wish| wish.settings().network).unwrap_or_default();
        if was_undoing || settings.network != before { vec![Step::Reconnect] } else { Vec::new() }
    }

    fn time_passed(&mut self, now: Duration) -> Vec<Step> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        self.deadline = None;
        let Some(trial) = self.kept.trial.take() else { return Vec::new() };
        let limit = trial.wish.settings().contact_limit_s();
        let why = format!("the service was not reached within {limit} s");
        self.take_back(&trial.wish, End::Undone, Reason::new(ReasonCode::NoContact, why))
    }

    fn confirm(&mut self, wish: Wish) {
        let (generation, digest) = (wish.generation(), wish.digest());
        self.kept.outcome = Some(Outcome { generation, digest, end: End::Confirmed, reason: None });
        self.kept.in_force = Some(wish);
    }

    fn take_back(&mut self, wish: &Wish, end: End, reason: Reason) -> Vec<Step> {
        let (generation, digest) = (wish.generation(), wish.digest());
        self.kept.outcome = Some(Outcome { generation, digest, end, reason: Some(reason) });
        self.deadline = None;
        self.is_undoing = true;
        vec![Step::Apply(self.kept.in_force.clone())]
    }

    /// What became of the configuration that was given last: state, generation, reason.
    pub(super) fn told(&self) -> (ConfigurationState, u64, Option<Reason>) {
        if let Some(trial) = &self.kept.trial {
            return (ConfigurationState::Trial, trial.wish.generation(), None);
        }
        match &self.kept.outcome {
            None => (ConfigurationState::None, 0, None),
            Some(outcome) => {
                let state = match outcome.end {
                    End::Confirmed => ConfigurationState::Confirmed,
                    End::Refused => ConfigurationState::Refused,
                    End::Undone => ConfigurationState::Undone,
                };
                (state, outcome.generation, outcome.reason.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(generation: u64, document: &str) -> Wish {
        Wish::new(generation, document).unwrap()
    }

    const PLAIN: &str = r#"{"hostname":"a","contact_limit_s":10}"#;
    const NETWORK: &str = r#"{"network":{"eth0":{"addresses":["192.0.2.7/24"]}},"contact_limit_s":10}"#;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A machine with [`PLAIN`] in force as generation 1.
    fn settled() -> Machine {
        let mut machine = Machine::default();
        assert_eq!(machine.on(Fact::Started), [Step::Apply(None)]);
        assert_eq!(machine.on(Fact::Applied { now: at(0) }), []);
        assert_eq!(machine.on(Fact::Wished(wish(1, PLAIN))), [Step::Apply(Some(wish(1, PLAIN)))]);
        assert_eq!(machine.on(Fact::Applied { now: at(1) }), [], "the network stays as it is");
        assert_eq!(machine.told().0, ConfigurationState::Trial);
        assert_eq!(machine.on(Fact::Reached), [Step::Settle]);
        assert_eq!(machine.told(), (ConfigurationState::Confirmed, 1, None));
        assert_eq!(machine.on(Fact::Reached), [], "once is enough");
        machine
    }

    #[test]
    fn a_configuration_that_cuts_contact_is_taken_back_and_not_tried_again() {
        let mut machine = settled();
        let bad = wish(2, NETWORK);
        assert_eq!(machine.on(Fact::Wished(bad.clone())), [Step::Apply(Some(bad.clone()))]);
        machine.on(Fact::Reached);
        assert_eq!(machine.told().0, ConfigurationState::Trial, "the old network proves nothing");
        assert_eq!(machine.on(Fact::Applied { now: at(5) }), [Step::Reconnect]);
        assert_eq!(machine.on(Fact::TimePassed { now: at(14) }), []);
        assert_eq!(machine.on(Fact::TimePassed { now: at(15) }), [Step::Apply(Some(wish(1, PLAIN)))]);
        assert_eq!(machine.on(Fact::Applied { now: at(15) }), [Step::Reconnect]);
        let (state, generation, reason) = machine.told();
        assert_eq!((state, generation), (ConfigurationState::Undone, 2));
        assert_eq!(reason.unwrap().code, ReasonCode::NoContact);
        assert_eq!(machine.on(Fact::Wished(bad)), [], "the service repeats itself at each registration");
        let repaired = wish(3, r#"{"hostname":"c"}"#);
        assert_eq!(machine.on(Fact::Wished(repaired.clone())), [Step::Apply(Some(repaired))]);
    }

    #[test]
    fn a_restart_tries_again_from_what_was_kept_and_gives_up_in_the_end() {
        let mut machine = settled();
        machine.on(Fact::Wished(wish(2, NETWORK)));
        for _ in 0..MAX_STARTS {
            let text = serde_json::to_string(machine.kept()).unwrap();
            machine = Machine::new(serde_json::from_str(&text).unwrap());
            assert_eq!(machine.on(Fact::Started), [Step::Apply(Some(wish(2, NETWORK)))]);
        }
        machine = Machine::new(machine.kept().clone());
        assert_eq!(machine.on(Fact::Started), [Step::Apply(Some(wish(1, PLAIN)))]);
        assert_eq!(machine.told().0, ConfigurationState::Undone);
    }

    #[test]
    fn a_configuration_that_cannot_be_brought_into_force_is_refused() {
        let mut machine = settled();
        machine.on(Fact::Wished(wish(2, NETWORK)));
        let steps = machine.on(Fact::NotApplied { reason: Reason::new(ReasonCode::StorageFailed, "the disk is full") });
        assert_eq!(steps, [Step::Apply(Some(wish(1, PLAIN)))]);
        assert_eq!(machine.told().0, ConfigurationState::Refused);
        assert_eq!(
            machine.on(Fact::NotApplied { reason: Reason::new(ReasonCode::StorageFailed, "it still is") }),
            [],
            "no endless turn"
        );
    }

    #[test]
    fn the_document_in_force_under_a_new_generation_needs_no_trial() {
        let mut machine = settled();
        assert_eq!(machine.on(Fact::Wished(wish(4, PLAIN))), []);
        assert_eq!(machine.told(), (ConfigurationState::Confirmed, 4, None));
    }

    proptest! {
        /// Whatever happens, in whatever order: what is in force without a trial is what the service was reached with last.
        #[test]
        fn nothing_stays_in_force_with_which_the_service_was_not_reached(
            facts in proptest::collection::vec((0_u8..7, 0_u64..4, any::<bool>()), 0..60),
        ) {
            let mut machine = Machine::default();
            let (mut now, mut placed, mut reached): (u64, Option<Wish>, Option<Wish>) = (0, None, None);
            let mut queue: Vec<Step> = machine.on(Fact::Started);
            let mut connects = true;
            for (kind, number, flag) in facts {
                let document = if flag { NETWORK.replace(".7/", &format!(".{}/", number + 7)) } else { PLAIN.replace("\"a\"", &format!("\"n{number}\"")) };
                let fact = match kind {
                    0 => Fact::Wished(wish(number, &document)),
                    1 if connects => Fact::Reached,
                    2 => { now += 6; Fact::TimePassed { now: at(now) } }
                    3 => { machine = Machine::new(machine.kept().clone()); connects = true; Fact::Started }
                    _ => match queue.pop() {
                        Some(Step::Apply(_)) if kind == 6 && flag => Fact::NotApplied { reason: Reason::new(ReasonCode::StorageFailed, "full") },
                        Some(Step::Apply(what)) => { placed = what; connects = false; Fact::Applied { now: at(now) } }
                        Some(Step::Reconnect | Step::Settle) | None => { connects = true; Fact::TimePassed { now: at(now) } }
                    },
                };
                let before = machine.told().0;
                let steps = machine.on(fact);
                // A newer decision replaces an older one that was not carried out.
                if !steps.is_empty() { queue = steps; queue.reverse(); }
                if before == ConfigurationState::Trial && machine.told().0 == ConfigurationState::Confirmed {
                    reached = machine.kept().in_force.clone();
                    prop_assert_eq!(&placed, &reached, "confirmed what is not in force");
                }
                if let Some(in_force) = &machine.kept().in_force {
                    let proven = reached.as_ref().map(Wish::document);
                    prop_assert_eq!(Some(in_force.document()), proven);
                }
            }
        }
    }
}
