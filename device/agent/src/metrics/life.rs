//! Counts starts of the system, ends of the agent that nobody asked for, and ends of applications. Functions of what was kept and what is seen; the
//! caller keeps what they answer.

use std::collections::BTreeMap;

use protocol_types::{
    AppName,
    metrics::{Metric, Readings},
    socket::ApplicationStatus,
};
use serde::{Deserialize, Serialize};

/// What is kept from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    /// The kernel's name for the present start of the system.
    boot: String,
    /// Whether the agent runs, or ended without a word.
    running: bool,
    boots: u32,
    unclean_boots: u32,
    agent_crashes: u32,
    app_exits: u32,
}

impl Life {
    /// The agent starts, in the start of the system that the kernel calls `boot`.
    #[must_use]
    pub fn begun(self, boot: &str) -> Self {
        let is_new = self.boot != boot;
        let count = |number: u32, if_so: bool| number.saturating_add(u32::from(if_so));
        Self {
            boot: boot.to_owned(),
            running: true,
            boots: count(self.boots, is_new),
            unclean_boots: count(self.unclean_boots, is_new && self.running),
            agent_crashes: count(self.agent_crashes, !is_new && self.running),
            app_exits: self.app_exits,
        }
    }

    /// The agent ends because it was asked to.
    #[must_use]
    pub fn ended(self) -> Self {
        Self { running: false, ..self }
    }

    /// Applications ended by themselves.
    pub(super) fn exited(&mut self, times: u32) {
        self.app_exits = self.app_exits.saturating_add(times);
    }

    /// The readings with what is counted here.
    pub(super) fn counted(&self, readings: Readings) -> Readings {
        readings
            .with(Metric::Boots, i64::from(self.boots))
            .with(Metric::UncleanBoots, i64::from(self.unclean_boots))
            .with(Metric::AgentCrashes, i64::from(self.agent_crashes))
            .with(Metric::AppExits, i64::from(self.app_exits))
    }
}

/// Sees how often applications ended since it looked last.
#[derive(Clone, Debug, Default)]
pub(super) struct Exits {
    before: BTreeMap<AppName, u32>,
}

impl Exits {
    /// Ends since the last look. An application that is seen for the first time has ended before anybody counted.
    pub(super) fn since(&mut self, reports: &[ApplicationStatus]) -> u32 {
        let now: BTreeMap<AppName, u32> = reports.iter().map(|report| (report.name.clone(), report.restarts)).collect();
        let mut ends = 0_u32;
        for (name, restarts) in &now {
            // A count that went back was begun anew with another version of the application.
            let more = self.before.get(name).map_or(0, |before| restarts.checked_sub(*before).unwrap_or(*restarts));
            ends = ends.saturating_add(more);
        }
        // While `mbl-apps` is away there are no reports, and that is no reason to forget.
        if !now.is_empty() {
            self.before = now;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::{Digest, socket::ApplicationState};

    use super::*;

    fn counts(life: &Life) -> [i64; 4] {
        let readings = life.counted(Readings::default());
        [Metric::Boots, Metric::UncleanBoots, Metric::AgentCrashes, Metric::AppExits]
            .map(|metric| readings.get(metric).unwrap())
    }

    #[test]
    fn starts_of_the_system_and_ends_without_a_word_are_counted_once_each() {
        let first = Life::default().begun("a");
        assert_eq!(counts(&first), [1, 0, 0, 0]);
        let again = first.ended().begun("a");
        assert_eq!(counts(&again), [1, 0, 0, 0], "a restart in order is neither");
        let crashed = again.begun("a");
        assert_eq!(counts(&crashed), [1, 0, 1, 0]);
        let cut_off = crashed.begun("b");
        assert_eq!(counts(&cut_off), [2, 1, 1, 0], "a power cut is no crash of the agent");
        let restarted = cut_off.ended().begun("c");
        assert_eq!(counts(&restarted), [3, 1, 1, 0]);
    }

    fn app(name: &str, restarts: u32) -> ApplicationStatus {
        ApplicationStatus {
            name: name.parse().unwrap(),
            digest: Digest::of(name.as_bytes()),
            state: ApplicationState::Ready,
            restarts,
            reason: None,
        }
    }

    #[test]
    fn ends_of_applications_are_counted_once_whoever_is_away_meanwhile() {
        let (mut exits, mut life) = (Exits::default(), Life::default().begun("a"));
        for (reports, ends) in [
            (vec![app("a", 7), app("b", 0)], 0),
            (vec![app("a", 9), app("b", 1)], 3),
            (vec![app("a", 9), app("b", 1)], 0),
            (vec![], 0),
            (vec![app("a", 10), app("b", 1)], 1),
            // `a` was replaced and has ended twice since.
            (vec![app("a", 2)], 2),
        ] {
            let seen = exits.since(&reports);
            assert_eq!(seen, ends, "{reports:?}");
            life.exited(seen);
        }
        assert_eq!(counts(&life), [1, 0, 0, 6]);
    }
}
