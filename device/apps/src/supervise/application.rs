//! The life of one application as a state machine: facts go in, steps come out. Never starts a process or reads a clock.

use std::time::Duration;

use protocol_types::{AppName, ReadyCheck, Reason, ReasonCode, socket::ApplicationState};

use super::Backoff;

/// The times that an application is given. Times in this module count from any fixed moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest first wait before an application that ended is started again.
    pub first_wait: Duration,
    /// The longest wait of all.
    pub longest_wait: Duration,
    /// An application that ran this long has proved itself: its next wait is a first one.
    pub settled_after: Duration,
    /// An application without a ready check is ready once it has run for so long.
    pub proven_after: Duration,
    /// From the request to stop until it is killed.
    pub stop_grace: Duration,
    /// How long one that was killed may take to be gone; after that it is stuck in the kernel.
    pub kill_grace: Duration,
    /// Between two tries to be rid of one that is stuck.
    pub kill_again: Duration,
    /// So many starts in a row have to fail until it is said that it cannot be started: the first may have met a system that is busy.
    pub starts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            settled_after: Duration::from_secs(60),
            proven_after: Duration::from_secs(5),
            stop_grace: Duration::from_secs(4),
            kill_grace: Duration::from_secs(5),
            kill_again: Duration::from_secs(60),
            starts: 3,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The application shall run.
    Begin,
    /// Its container was started.
    Launched,
    /// Its container could not be started.
    NotLaunched(Reason),
    /// Its container ended, in these words.
    Ended(String),
    /// The ready check passed.
    CheckPassed,
    /// The ready check did not pass, in these words.
    CheckFailed(String),
    /// The time that [`Application::wake_at`] named may have come.
    Time,
    /// The application shall no longer run.
    Stop,
}

/// What the caller must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make and start the container, then say [`Fact::Launched`] or [`Fact::NotLaunched`].
    Launch,
    /// Begin a ready check.
    Check,
    /// End the ready check that runs; its result is of no interest.
    AbandonCheck,
    /// Ask the container to end.
    Terminate,
    /// End the container.
    Kill,
    /// End the container, which should be gone by now.
    KillAgain,
    /// Remove the container, which does not run.
    Clear,
    /// The application is stopped and cleared: nothing more will come.
    Finish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was asked yet.
    New,
    /// The container is being started; a stop waits for the result.
    Launching { stop: bool },
    /// The container runs.
    Up { since: Duration, check: Check, trouble: Option<String> },
    /// The container is gone and comes back.
    Waiting { until: Duration, reason: Reason, failed: bool },
    /// The container was asked to end.
    Stopping { kill_at: Duration },
    /// The container was killed; one that is stuck did not end in time.
    Killed { again_at: Duration, stuck: bool },
    /// The end.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The next check is due.
    Due(Duration),
    /// A check runs, at most until then.
    Running(Duration),
    /// There is no check: it is ready if it still runs then.
    Proving(Duration),
    /// The application is ready; it stays so until it ends.
    Passed,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    name: AppName,
    ready: Option<ReadyCheck>,
    policy: Policy,
    state: State,
    backoff: Backoff,
    restarts: u32,
    /// How many starts have failed in a row.
    failed_starts: u32,
}

impl Application {
    /// An application that was not asked to run yet.
    pub const fn new(name: AppName, ready: Option<ReadyCheck>, policy: Policy) -> Self {
        let backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        Self { name, ready, policy, state: State::New, backoff, restarts: 0, failed_starts: 0 }
    }

    /// Takes one fact at the time `now`; returns what to do. `random` spreads waits.
    pub fn on(&mut self, fact: Fact, now: Duration, random: u32) -> Vec<Step> {
        let state = std::mem::replace(&mut self.state, State::Stopped);
        let (next, steps) = self.next(state, fact, now, random);
        self.state = next;
        steps
    }

    fn next(&mut self, state: State, fact: Fact, now: Duration, random: u32) -> (State, Vec<Step>) {
        use Fact::{Begin, CheckFailed, CheckPassed, Ended, Launched, NotLaunched, Stop, Time};
        match (state, fact) {
            (State::New, Begin) => (State::Launching { stop: false }, vec![Step::Launch]),
            (State::New | State::Waiting { .. }, Stop) => (State::Stopped, vec![Step::Finish]),

            (State::Launching { stop: false }, Launched) => {
                self.failed_starts = 0;
                self.up(now)
            }
            (State::Launching { stop: true }, Launched) => self.stopping(now, false),
            (State::Launching { stop: false }, NotLaunched(reason)) => {
                let until = now + self.backoff.fail(random);
                self.failed_starts = self.failed_starts.saturating_add(1);
                let failed = self.failed_starts >= self.policy.starts;
                (State::Waiting { until, reason, failed }, vec![Step::Clear])
            }
            (State::Launching { stop: true }, NotLaunched(_)) => (State::Stopped, vec![Step::Clear, Step::Finish]),
            (State::Launching { .. }, Stop) => (State::Launching { stop: true }, vec![]),

            (State::Up { since, check, .. }, Ended(how)) => {
                let until = now + self.wait_after(now.saturating_sub(since), random);
                self.ended(until, check, &how)
            }
            (State::Up { since, check: Check::Running(_), .. }, CheckPassed) => {
                (State::Up { since, check: Check::Passed, trouble: None }, vec![])
            }
            (State::Up { since, check: Check::Running(_), .. }, CheckFailed(how)) => {
                (State::Up { since, check: Check::Due(now + self.interval()), trouble: Some(how) }, vec![])
            }
            (State::Up { since, check, trouble }, Time) => self.time(now, since, check, trouble),
            (State::Up { check, .. }, Stop) => self.stopping(now, matches!(check, Check::Running(_))),

            (State::Waiting { until, .. }, Time) if now >= until => {
                (State::Launching { stop: false }, vec![Step::Launch])
            }

            (State::Stopping { .. } | State::Killed { .. }, Ended(_)) => {
                (State::Stopped, vec![Step::Clear, Step::Finish])
            }
            (State::Stopping { kill_at }, Time) if now >= kill_at => {
                (State::Killed { again_at: now + self.policy.kill_grace, stuck: false }, vec![Step::Kill])
            }
            // One that was frozen or waited for a device may hear it now.
            (State::Killed { again_at, .. }, Time) if now >= again_at => {
                (State::Killed { again_at: now + self.policy.kill_again, stuck: true }, vec![Step::KillAgain])
            }

            // Facts that come late or twice change nothing.
            (same @ State::New, Launched | NotLaunched(_) | Ended(_) | CheckPassed | CheckFailed(_) | Time)
            | (same @ State::Launching { .. }, Begin | Ended(_) | CheckPassed | CheckFailed(_) | Time)
            | (same @ State::Up { .. }, Begin | Launched | NotLaunched(_) | CheckPassed | CheckFailed(_))
            | (
                same @ State::Waiting { .. },
                Begin | Launched | NotLaunched(_) | Ended(_) | CheckPassed | CheckFailed(_) | Time,
            )
            | (
                same @ (State::Stopping { .. } | State::Killed { .. }),
                Begin | Launched | NotLaunched(_) | CheckPassed | CheckFailed(_) | Time | Stop,
            )
            | (
                same @ State::Stopped,
                Begin | Launched | NotLaunched(_) | Ended(_) | CheckPassed | CheckFailed(_) | Time | Stop,
            ) => (same, vec![]),
        }
    }

    fn up(&self, now: Duration) -> (State, Vec<Step>) {
        match self.ready {
            None => {
                let check = Check::Proving(now + self.policy.proven_after);
                (State::Up { since: now, check, trouble: None }, vec![])
            }
            Some(_) => {
                let check = Check::Running(now + self.timeout());
                (State::Up { since: now, check, trouble: None }, vec![Step::Check])
            }
        }
    }

    fn stopping(&self, now: Duration, check_runs: bool) -> (State, Vec<Step>) {
        let mut steps = vec![Step::Terminate];
        if check_runs {
            steps.insert(0, Step::AbandonCheck);
        }
        (State::Stopping { kill_at: now + self.policy.stop_grace }, steps)
    }

    /// How long to wait after the application ran for `ran`.
    fn wait_after(&mut self, ran: Duration, random: u32) -> Duration {
        if ran >= self.policy.settled_after {
            self.backoff.succeed();
        }
        self.backoff.fail(random)
    }

    fn ended(&mut self, until: Duration, check: Check, how: &str) -> (State, Vec<Step>) {
        self.restarts = self.restarts.saturating_add(1);
        let reason = self.reason(&format!("{how}; it is started again"));
        let steps = match check {
            Check::Running(_) => vec![Step::AbandonCheck, Step::Clear],
            Check::Due(_) | Check::Proving(_) | Check::Passed => vec![Step::Clear],
        };
        (State::Waiting { until, reason, failed: false }, steps)
    }

    fn time(&self, now: Duration, since: Duration, check: Check, trouble: Option<String>) -> (State, Vec<Step>) {
        match check {
            Check::Due(at) if now >= at => {
                let check = Check::Running(now + self.timeout());
                (State::Up { since, check, trouble }, vec![Step::Check])
            }
            Check::Running(until) if now >= until => {
                let trouble = Some(format!("did not answer its ready check within {:?}", self.timeout()));
                (State::Up { since, check: Check::Due(now + self.interval()), trouble }, vec![Step::AbandonCheck])
            }
            Check::Proving(at) if now >= at => (State::Up { since, check: Check::Passed, trouble }, vec![]),
            Check::Due(_) | Check::Running(_) | Check::Proving(_) | Check::Passed => {
                (State::Up { since, check, trouble }, vec![])
            }
        }
    }

    fn reason(&self, what: &str) -> Reason {
        Reason::new(ReasonCode::ApplicationNotReady, format!("application {} {what}", self.name))
    }

    fn interval(&self) -> Duration {
        self.ready.as_ref().map_or(Duration::ZERO, |ready| Duration::from_secs(ready.interval_s.into()))
    }

    fn timeout(&self) -> Duration {
        self.ready.as_ref().map_or(Duration::ZERO, |ready| Duration::from_secs(ready.timeout_s.into()))
    }

    /// When [`Fact::Time`] is due, if ever.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Up { check: Check::Due(at) | Check::Running(at) | Check::Proving(at), .. } => Some(at),
            State::Waiting { until, .. } => Some(until),
            State::Stopping { kill_at: at } | State::Killed { again_at: at, .. } => Some(at),
            State::New | State::Launching { .. } | State::Up { check: Check::Passed, .. } | State::Stopped => None,
        }
    }

    /// What the application is doing, and why where that needs saying.
    pub fn state(&self) -> (ApplicationState, Option<Reason>) {
        match &self.state {
            State::New | State::Launching { .. } | State::Stopped => (ApplicationState::Waiting, None),
            State::Up { check: Check::Passed, .. } => (ApplicationState::Ready, None),
            State::Up { trouble, .. } => (ApplicationState::Started, trouble.as_deref().map(|how| self.reason(how))),
            State::Waiting { reason, failed: true, .. } => (ApplicationState::Failed, Some(reason.clone())),
            State::Waiting { reason, failed: false, .. } => (ApplicationState::Waiting, Some(reason.clone())),
            State::Stopping { .. } | State::Killed { .. } => match self.stuck() {
                Some(reason) => (ApplicationState::Failed, Some(reason)),
                None => (ApplicationState::Started, None),
            },
        }
    }

    /// What is to be said of an application that does not end although it was killed.
    pub fn stuck(&self) -> Option<Reason> {
        matches!(self.state, State::Killed { stuck: true, .. }).then(|| does_not_end(&self.name))
    }

    /// How often it ended by itself.
    pub const fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Whether nothing more will happen.
    pub const fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }
}

/// Why an application cannot be started as long as an earlier instance lives.
pub(super) fn does_not_end(name: &AppName) -> Reason {
    let text = format!("application {name} does not end although it was killed: restart the device");
    Reason::new(ReasonCode::ApplicationNotReady, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn application(checked: bool) -> Application {
        let ready = ReadyCheck { command: vec!["/ready".into()], interval_s: 1, timeout_s: 2 };
        Application::new(AppName::new("hello").unwrap(), checked.then_some(ready), Policy::default())
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_check_an_application_is_ready_when_it_has_run_for_a_while() {
        let mut app = application(false);
        assert_eq!(app.on(Fact::Begin, s(0), 0), [Step::Launch]);
        assert_eq!(app.on(Fact::Launched, s(0), 0), []);
        assert_eq!((app.state(), app.wake_at()), ((ApplicationState::Started, None), Some(s(5))));
        assert_eq!(app.on(Fact::Time, s(5), 0), []);
        assert_eq!((app.state(), app.wake_at()), ((ApplicationState::Ready, None), None));
    }

    #[test]
    fn one_that_ends_again_and_again_is_never_ready() {
        let mut app = application(false);
        app.on(Fact::Begin, s(0), 0);
        let mut now = s(0);
        for _ in 0..10 {
            app.on(Fact::Launched, now, 0);
            assert_ne!(app.state().0, ApplicationState::Ready);
            now += s(4);
            app.on(Fact::Time, now, 0);
            assert_ne!(app.state().0, ApplicationState::Ready);
            app.on(Fact::Ended("ended with 1".into()), now, 0);
            now = app.wake_at().unwrap();
            assert_eq!(app.on(Fact::Time, now, 0), [Step::Launch]);
        }
    }

    #[test]
    fn an_application_is_only_started_until_its_check_passes() {
        let mut app = application(true);
        app.on(Fact::Begin, s(0), 0);
        assert_eq!(app.on(Fact::Launched, s(0), 0), [Step::Check]);
        app.on(Fact::CheckFailed("said no".into()), s(1), 0);
        let (state, reason) = app.state();
        assert_eq!(state, ApplicationState::Started);
        assert!(reason.unwrap().text.contains("said no"));
        assert_eq!(app.on(Fact::Time, s(2), 0), [Step::Check]);
        assert_eq!(app.on(Fact::CheckPassed, s(2), 0), []);
        assert_eq!(app.state(), (ApplicationState::Ready, None));
    }

    #[test]
    fn a_check_that_hangs_is_ended_and_tried_again() {
        let mut app = application(true);
        app.on(Fact::Begin, s(0), 0);
        app.on(Fact::Launched, s(0), 0);
        assert_eq!(app.on(Fact::Time, s(1), 0), []);
        assert_eq!(app.on(Fact::Time, s(2), 0), [Step::AbandonCheck]);
        assert_eq!(app.on(Fact::Time, s(3), 0), [Step::Check]);
    }

    #[test]
    fn one_that_ends_comes_back_and_is_not_ready_meanwhile() {
        let mut app = application(false);
        app.on(Fact::Begin, s(0), 0);
        app.on(Fact::Launched, s(0), 0);
        assert_eq!(app.on(Fact::Ended("was ended by signal 9".into()), s(5), 0), [Step::Clear]);
        assert_eq!((app.state().0, app.restarts()), (ApplicationState::Waiting, 1));
        let at = app.wake_at().unwrap();
        assert_eq!(app.on(Fact::Time, at, 0), [Step::Launch]);
    }

    #[test]
    fn one_that_could_not_be_started_three_times_has_failed_and_is_tried_again() {
        let mut app = application(false);
        app.on(Fact::Begin, s(0), 0);
        let reason = Reason::new(ReasonCode::ApplicationNotReady, "no such program");
        for state in [ApplicationState::Waiting, ApplicationState::Waiting, ApplicationState::Failed] {
            let now = app.wake_at().unwrap_or_default();
            assert_eq!(app.on(Fact::NotLaunched(reason.clone()), now, 0), [Step::Clear]);
            assert_eq!(app.state(), (state, Some(reason.clone())));
            assert_eq!(app.on(Fact::Time, app.wake_at().unwrap(), 0), [Step::Launch]);
        }
        assert!(app.wake_at().is_none(), "it is being started");
    }

    #[test]
    fn one_that_was_started_at_the_second_try_has_not_failed() {
        let mut app = application(false);
        app.on(Fact::Begin, s(0), 0);
        let reason = Reason::new(ReasonCode::ApplicationNotReady, "the system is busy");
        for _ in 0..3 {
            let now = app.wake_at().unwrap_or_default();
            app.on(Fact::NotLaunched(reason.clone()), now, 0);
            assert_eq!(app.state().0, ApplicationState::Waiting, "no start but one in a row has failed");
            let now = app.wake_at().unwrap();
            app.on(Fact::Time, now, 0);
            app.on(Fact::Launched, now, 0);
            app.on(Fact::Ended("was ended by signal 9".into()), now, 0);
            app.on(Fact::Time, app.wake_at().unwrap(), 0);
        }
    }

    #[test]
    fn one_that_ignores_the_request_to_stop_is_killed() {
        let mut app = application(false);
        app.on(Fact::Begin, s(0), 0);
        app.on(Fact::Launched, s(0), 0);
        assert_eq!(app.on(Fact::Stop, s(10), 0), [Step::Terminate]);
        assert_eq!(app.on(Fact::Time, s(13), 0), []);
        assert_eq!(app.on(Fact::Time, s(14), 0), [Step::Kill]);
        assert_eq!(app.on(Fact::Ended(String::new()), s(14), 0), [Step::Clear, Step::Finish]);
    }

    #[test]
    fn one_that_does_not_end_although_it_was_killed_is_said_to_be_stuck_and_killed_again_until_it_does() {
        let mut app = application(false);
        app.on(Fact::Begin, s(0), 0);
        app.on(Fact::Launched, s(0), 0);
        app.on(Fact::Stop, s(10), 0);
        assert_eq!(app.on(Fact::Time, s(14), 0), [Step::Kill]);
        assert_eq!((app.stuck(), app.wake_at()), (None, Some(s(19))));
        assert_eq!(app.on(Fact::Time, s(19), 0), [Step::KillAgain]);
        let reason = app.stuck().unwrap();
        assert!(reason.text.contains("hello") && reason.text.contains("restart the device"), "{reason}");
        assert_eq!(app.state(), (ApplicationState::Failed, Some(reason)));
        assert_eq!(app.on(Fact::Time, s(78), 0), []);
        assert_eq!(app.on(Fact::Time, s(79), 0), [Step::KillAgain]);
        assert_eq!(app.on(Fact::Ended(String::new()), s(80), 0), [Step::Clear, Step::Finish]);
        assert_eq!(app.stuck(), None);
    }

    fn facts() -> impl Strategy<Value = Fact> {
        prop_oneof![
            Just(Fact::Begin),
            Just(Fact::Launched),
            Just(Fact::NotLaunched(Reason::new(ReasonCode::Internal, ""))),
            Just(Fact::Ended("ended".into())),
            Just(Fact::CheckPassed),
            Just(Fact::CheckFailed("no".into())),
            Just(Fact::Time),
            Just(Fact::Time),
        ]
    }

    proptest! {
        /// Drives the machine as a caller would: facts about a container come only while there is one.
        #[test]
        fn there_is_never_a_second_container_and_a_stop_always_ends(
            checked: bool,
            facts in prop::collection::vec((facts(), 0u64..5, any::<u32>()), 0..60),
        ) {
            let mut app = application(checked);
            let (mut launching, mut running, mut checking, mut now) = (false, false, false, s(0));
            let mut all: Vec<_> = facts;
            all.insert(0, (Fact::Begin, 0, 0));
            all.push((Fact::Stop, 0, 0));
            all.extend([(Fact::Launched, 0, 0), (Fact::Time, 10, 0), (Fact::Ended("ended".into()), 0, 0)]);
            for (fact, later, random) in all {
                now += s(later);
                match &fact {
                    Fact::Launched if !launching => continue,
                    Fact::NotLaunched(_) if !launching => continue,
                    Fact::Ended(_) if !running => continue,
                    Fact::CheckPassed | Fact::CheckFailed(_) if !checking => continue,
                    Fact::Launched => (launching, running) = (false, true),
                    Fact::NotLaunched(_) => launching = false,
                    Fact::Ended(_) => running = false,
                    Fact::CheckPassed | Fact::CheckFailed(_) => checking = false,
                    Fact::Begin | Fact::Time | Fact::Stop => {}
                }
                for step in app.on(fact, now, random) {
                    match step {
                        Step::Launch => {
                            prop_assert!(!running && !launching, "a second container");
                            launching = true;
                        }
                        Step::Check => {
                            prop_assert!(running && !checking, "a check of nothing, or a second one");
                            checking = true;
                        }
                        Step::AbandonCheck => {
                            prop_assert!(checking, "no check to abandon");
                            checking = false;
                        }
                        Step::Terminate | Step::Kill | Step::KillAgain => prop_assert!(running, "nothing to stop"),
                        Step::Clear | Step::Finish => prop_assert!(!running && !checking, "cleared while in use"),
                    }
                }
                if app.state().0 == ApplicationState::Ready {
                    prop_assert!(running, "ready without a container");
                }
            }
            prop_assert!(app.is_stopped());
            prop_assert!(!running);
        }
    }
}
