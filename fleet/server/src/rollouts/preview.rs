//! What a rollout would do if it were started now. The plan itself is asked, once for each class of devices that no rule tells apart;
//! only how many of each there are is worked out here.

use std::collections::BTreeMap;

use fleet_store::{DeviceClass, RolloutFacts, RolloutRow, Wave};
use protocol_types::{EndpointName, UnixSeconds};

use super::{
    pace::{pace, per_hour},
    why::{OFFERED, Why, explain},
};

/// Hours after which nobody asks any more how long a rollout takes.
const MOST_HOURS: u64 = 100 * 366 * 24;

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preview {
    /// Devices of the audience.
    pub(crate) devices: u64,
    /// Those that run the release already.
    pub(crate) already: u64,
    /// Those that no rule holds.
    pub(crate) ready: u64,
    /// The most that would be offered the release at once.
    pub(crate) at_once: u64,
    /// Seconds until all that are ready have been offered it at the given rate if none fails; `None` without a rate.
    pub(crate) offers_take_s: Option<u64>,
    /// Devices of each wave, the last one being what no other takes.
    pub(crate) waves: Vec<u64>,
    /// What holds the others, the most frequent first, each with one device as an example.
    pub(crate) held: Vec<(Why, u64)>,
}

/// Asks the plan for each class.
pub(crate) fn preview(rollout: &RolloutRow, classes: &[DeviceClass], now: UnixSeconds) -> Preview {
    let answers = answers(rollout, classes, now);
    let mut held: BTreeMap<&'static str, (Why, u64)> = BTreeMap::new();
    let (mut already, mut ready, mut is_ready) = (0, 0, Vec::new());
    for class in classes {
        let why = answers.get(&class.example.endpoint);
        is_ready.push(why.is_some_and(|why| why.rule == OFFERED));
        match why {
            None => already += class.devices,
            Some(why) if why.rule == OFFERED => ready += class.devices,
            Some(why) => {
                let place = held.entry(why.rule).or_insert_with(|| (why.clone(), 0));
                place.1 += class.devices;
                place.0.next = earlier(place.0.next, why.next);
            }
        }
    }
    let mut held: Vec<(Why, u64)> = held.into_values().collect();
    held.sort_by_key(|(_, devices)| std::cmp::Reverse(*devices));
    let waves = waves(&rollout.wanted.policy.waves, classes);
    let first: u64 =
        waves.first().map_or(ready, |wave| sum(wave.iter().zip(&is_ready).filter(|(_, is)| **is).map(|(n, _)| *n)));
    let rate = rollout.wanted.policy.rate;
    let turn = rate.map_or(u64::MAX, |rate| pace(per_hour(rate, 0, 0), &[], now).room);
    Preview {
        devices: sum(classes.iter().map(|class| class.devices)),
        already,
        ready,
        at_once: first.min(turn).min(rollout.wanted.max_in_flight.map_or(u64::MAX, u64::from)),
        offers_take_s: rate.map(|rate| {
            let (mut hours, mut offered) = (0, 0);
            while offered < ready && hours < MOST_HOURS {
                let now = per_hour(rate, offered, 0);
                if offered.saturating_add(now) >= ready {
                    return hours * 3600 + (ready - offered).saturating_mul(3600) / now.max(1);
                }
                (offered, hours) = (offered + now, hours + 1);
            }
            hours * 3600
        }),
        waves: waves.into_iter().map(sum).collect(),
        held,
    }
}

fn earlier(one: Option<UnixSeconds>, other: Option<UnixSeconds>) -> Option<UnixSeconds> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

/// The plan's answer for one device of each class, as if there were neither waves nor a limit for how many have their turn: those
/// depend on the numbers.
fn answers(rollout: &RolloutRow, classes: &[DeviceClass], now: UnixSeconds) -> BTreeMap<EndpointName, Why> {
    let mut rollout = rollout.clone();
    (rollout.wanted.policy.waves, rollout.wanted.policy.rate, rollout.wanted.max_in_flight) = (Vec::new(), None, None);
    let facts = RolloutFacts {
        rollout,
        devices: classes.iter().map(|class| class.example.clone()).collect(),
        waves: Vec::new(),
        offers: Vec::new(),
        retired_by: None,
        returnable: 0,
    };
    explain(&facts, now).into_iter().map(|why| (why.endpoint.clone(), why)).collect()
}

/// How many devices of each class are in each wave. A wave by number or share takes from the classes as the lot does on the average.
fn waves(waves: &[Wave], classes: &[DeviceClass]) -> Vec<Vec<u64>> {
    let mut left: Vec<u64> = classes.iter().map(|class| class.devices).collect();
    let all = sum(left.iter().copied());
    let mut found = Vec::new();
    for (wave, index) in waves.iter().zip(0_u32..) {
        let rest = sum(left.iter().copied());
        let taken: Vec<u64> = match wave {
            Wave::Filter(_) => classes
                .iter()
                .zip(&left)
                .map(|(class, left)| if class.example.matches.contains(&index) { *left } else { 0 })
                .collect(),
            Wave::Count(most) => shares(&left, u64::from(*most).min(rest)),
            Wave::Percent(percent) => shares(&left, all.saturating_mul(u64::from(*percent)).div_ceil(100).min(rest)),
        };
        left.iter_mut().zip(&taken).for_each(|(left, taken)| *left -= taken);
        found.push(taken);
    }
    found.push(left);
    found
}

/// Takes `wanted` from `left` in proportion; never more than there is.
fn shares(left: &[u64], wanted: u64) -> Vec<u64> {
    let all = u128::from(sum(left.iter().copied())).max(1);
    let (mut seen, mut given) = (0_u128, 0_u128);
    left.iter()
        .map(|left| {
            seen += u128::from(*left);
            // What was given up to here is what is due up to here, so nothing is lost to rounding.
            let due = seen * u128::from(wanted) / all;
            let taken = due - given;
            given = due;
            u64::try_from(taken).unwrap_or(u64::MAX)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_add_up_and_take_no_more_than_there_is(left in prop::collection::vec(0_u64..1000, 1..9), part in 0_u64..=100) {
            let all = sum(left.iter().copied());
            let wanted = all * part / 100;
            let taken = shares(&left, wanted);
            prop_assert_eq!(sum(taken.iter().copied()), wanted);
            prop_assert!(taken.iter().zip(&left).all(|(taken, left)| taken <= left), "{taken:?} of {left:?}");
        }
    }
}
