//! Which wave a device belongs to, and when a wave lets the next one begin.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use fleet_store::{RolloutFacts, Wave};
use protocol_types::{DeviceState, EndpointName, RolloutId};

/// How many devices are in each wave and state; `None` for those that have no wave yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tallies(BTreeMap<(Option<u32>, DeviceState), u64>);

impl Tallies {
    pub(crate) fn of(facts: &RolloutFacts) -> Self {
        let mut found = Self::default();
        for count in &facts.waves {
            *found.0.entry((count.wave, count.state)).or_default() += count.devices;
        }
        found
    }

    /// One device goes from one place, if it had one, to another.
    pub(crate) fn moves(&mut self, from: Option<(Option<u32>, DeviceState)>, to: (Option<u32>, DeviceState)) {
        if let Some(count) = from.and_then(|from| self.0.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        *self.0.entry(to).or_default() += 1;
    }

    /// Devices in one of these states, in waves up to `last` or without a wave.
    pub(crate) fn up_to(&self, last: u32, states: &[DeviceState]) -> u64 {
        self.sum(|wave| wave.is_none_or(|wave| wave <= last), states)
    }

    /// Devices of one wave in one of these states.
    pub(crate) fn in_wave(&self, one: u32, states: &[DeviceState]) -> u64 {
        self.sum(|wave| wave == Some(one), states)
    }

    /// All devices in one of these states.
    pub(crate) fn all(&self, states: &[DeviceState]) -> u64 {
        self.sum(|_| true, states)
    }

    fn sum(&self, counts: impl Fn(Option<u32>) -> bool, states: &[DeviceState]) -> u64 {
        self.0.iter().filter(|((wave, state), _)| counts(*wave) && states.contains(state)).map(|(_, n)| n).sum()
    }
}

/// Gives devices their waves.
#[derive(Debug)]
pub(crate) struct Assignment<'a> {
    waves: &'a [Wave],
    taken: Vec<u64>,
    /// Devices of the audience, with those that are about to get a wave.
    all: u64,
}

impl<'a> Assignment<'a> {
    pub(crate) fn new(waves: &'a [Wave], tallies: &Tallies, fresh: u64) -> Self {
        let taken = (0..).zip(waves).map(|(index, _)| tallies.in_wave(index, DeviceState::ALL)).collect();
        let has_wave: u64 = tallies.0.iter().filter(|((wave, _), _)| wave.is_some()).map(|(_, n)| n).sum();
        Self { waves, taken, all: has_wave.saturating_add(fresh) }
    }

    /// The wave of a device for which the filters of the waves in `matches` are true; what no wave takes goes last.
    pub(crate) fn wave_of(&mut self, matches: &[u32]) -> u32 {
        for ((index, wave), taken) in (0_u32..).zip(self.waves).zip(&mut self.taken) {
            let takes = match wave {
                Wave::Filter(_) => matches.contains(&index),
                Wave::Count(most) => *taken < u64::from(*most),
                Wave::Percent(share) => taken.saturating_mul(100) < self.all.saturating_mul(u64::from(*share)),
            };
            if takes {
                *taken += 1;
                return index;
            }
        }
        last(self.waves)
    }
}

/// The wave of what no other wave takes.
pub(crate) fn last(waves: &[Wave]) -> u32 {
    u32::try_from(waves.len()).unwrap_or(u32::MAX)
}

/// Where a device stands in the order in which waves are filled: by chance, so that the first are not those with the first names, but
/// the same whenever it is asked.
pub(crate) fn lot(rollout: &RolloutId, endpoint: &EndpointName) -> u64 {
    let mut hasher = DefaultHasher::new();
    (rollout, endpoint).hash(&mut hasher);
    hasher.finish()
}

/// How a wave stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaveFacts {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Not at an end, and not waiting for what may take for ever.
    pub(crate) open: u64,
    /// Not heard for so long that nobody waits for them, or waiting for somebody at them.
    pub(crate) asleep: u64,
}

/// What a wave means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// The next one begins.
    Open,
    /// It is too early to say.
    Shut,
    /// All have come to an end, and too few of them succeeded.
    Missed,
}

/// Whether a wave lets the next one begin. `excused` failures were seen by an operator who let the rollout go on.
pub(crate) fn passage(wave: WaveFacts, success_percent: Option<u8>, excused: u64) -> Passage {
    let WaveFacts { succeeded, failed, open, asleep } = wave;
    let good = succeeded + failed.min(excused);
    let enough = match success_percent {
        Some(percent) => good * 100 >= (succeeded + failed + open + asleep) * u64::from(percent),
        // Who cannot be reached does not keep the others, as long as anybody could be reached.
        None => open == 0 && (good > 0 || failed + asleep == 0),
    };
    match (enough, open + asleep) {
        (true, _) => Passage::Open,
        (false, 0) => Passage::Missed,
        (false, _) if success_percent.is_none() && open == 0 && failed > 0 => Passage::Missed,
        (false, _) => Passage::Shut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_passes_on_success_and_is_missed_when_all_have_ended_without_it() {
        let wave = |succeeded, failed, open, asleep| WaveFacts { succeeded, failed, open, asleep };
        for (facts, percent, excused, wanted) in [
            (wave(0, 0, 0, 0), None, 0, Passage::Open),
            (wave(9, 0, 1, 0), None, 0, Passage::Shut),
            (wave(9, 1, 0, 0), None, 0, Passage::Open),
            (wave(9, 0, 0, 1), None, 0, Passage::Open),
            (wave(0, 0, 0, 3), None, 0, Passage::Shut),
            (wave(0, 2, 0, 3), None, 0, Passage::Missed),
            (wave(0, 2, 0, 0), None, 2, Passage::Open),
            (wave(9, 0, 1, 0), Some(90), 0, Passage::Open),
            (wave(8, 1, 1, 0), Some(90), 0, Passage::Shut),
            (wave(8, 2, 0, 0), Some(90), 0, Passage::Missed),
            (wave(8, 2, 0, 0), Some(90), 2, Passage::Open),
            (wave(8, 0, 0, 2), Some(90), 0, Passage::Shut),
            (wave(0, 0, 0, 0), Some(90), 0, Passage::Open),
        ] {
            assert_eq!(passage(facts, percent, excused), wanted, "{facts:?} {percent:?} {excused}");
        }
    }

    #[test]
    fn devices_fill_the_waves_in_order_and_the_rest_goes_last() {
        let waves = [Wave::Filter("tag = \"lab\"".parse().unwrap()), Wave::Count(2), Wave::Percent(30)];
        let mut assignment = Assignment::new(&waves, &Tallies::default(), 10);
        let mut places = [0_u64; 4];
        for n in 0..10 {
            let matches: &[u32] = if n == 4 { &[0] } else { &[] };
            places[assignment.wave_of(matches) as usize] += 1;
        }
        assert_eq!(places, [1, 2, 3, 4]);
    }
}
