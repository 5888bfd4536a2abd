//! How many devices may be offered a release now: a rate that stays, or one that grows while devices succeed. Never reads a clock.

use fleet_store::Rate;
use protocol_types::UnixSeconds;

const HOUR: u64 = 3600;
const MINUTE: u64 = 60;

/// How many more devices may be offered the release now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) room: u64,
    /// When there is room again, if there is none.
    pub(crate) next: Option<UnixSeconds>,
}

/// Devices an hour after so many have succeeded and so many failed.
pub(crate) fn per_hour(rate: Rate, succeeded: u64, failed: u64) -> u64 {
    let start = u64::from(rate.per_hour.max(1));
    let Some(growth) = rate.growth else { return start };
    let most = u64::from(growth.max_per_hour).max(start);
    let steps = (succeeded / u64::from(growth.every.max(1))).saturating_sub(failed);
    let mut now = start;
    for _ in 0..steps {
        if now >= most || growth.percent == 0 {
            break;
        }
        // At least one more, so that a small rate grows at all.
        now += (now.saturating_mul(u64::from(growth.percent)) / 100).max(1);
    }
    now.min(most)
}

/// How many more devices there is room for, given the offers of the last hour. In no hour there are more than the rate says, and
/// within the hour they are spread: by the minute, or one by one if they are fewer than one a minute.
pub(crate) fn pace(per_hour: u64, offers: &[(UnixSeconds, u64)], now: UnixSeconds) -> Pace {
    let step = MINUTE.max(HOUR / per_hour.max(1));
    let in_step = (per_hour.saturating_mul(step)).div_ceil(HOUR).max(1);
    let limits = [(HOUR, per_hour), (step, in_step)].map(|(span, most)| room_in(span, most, offers, now));
    let room = limits.iter().map(|pace| pace.room).min().unwrap_or_default();
    Pace { room, next: limits.iter().filter_map(|pace| pace.next).max() }
}

fn room_in(span: u64, most: u64, offers: &[(UnixSeconds, u64)], now: UnixSeconds) -> Pace {
    let counts = |(at, _): &&(UnixSeconds, u64)| at.0.saturating_add(span) > now.0;
    let made: u64 = offers.iter().filter(counts).map(|(_, devices)| devices).sum();
    if made < most {
        return Pace { room: most - made, next: None };
    }
    // There is room once enough of the oldest offers no longer count.
    let mut left = made;
    let next = offers.iter().filter(counts).find_map(|(at, devices)| {
        left -= devices;
        (left < most).then(|| UnixSeconds(at.0.saturating_add(span)))
    });
    Pace { room: 0, next }
}

#[cfg(test)]
mod tests {
    use fleet_store::Growth;
    use proptest::prelude::*;

    use super::*;

    const fn doubling() -> Rate {
        Rate { per_hour: 10, growth: Some(Growth { percent: 100, every: 5, max_per_hour: 100 }) }
    }

    #[test]
    fn a_rate_grows_while_devices_succeed_and_takes_a_step_back_for_each_that_fails() {
        let at = |succeeded, failed| per_hour(doubling(), succeeded, failed);
        assert_eq!([at(0, 0), at(4, 0), at(5, 0), at(10, 0), at(15, 0), at(1_000_000, 0)], [10, 10, 20, 40, 80, 100]);
        assert_eq!([at(10, 1), at(10, 2), at(10, 9)], [20, 10, 10]);
        assert_eq!(per_hour(Rate { per_hour: 7, growth: None }, 99, 0), 7);
    }

    #[test]
    fn a_slow_rate_says_when_the_next_device_has_its_turn() {
        let now = UnixSeconds(1_000_000);
        assert_eq!(pace(6, &[], now), Pace { room: 1, next: None });
        let pace = pace(6, &[(UnixSeconds(now.0 - 100), 1)], now);
        assert_eq!(pace, Pace { room: 0, next: Some(UnixSeconds(now.0 + 500)) });
    }

    proptest! {
        #[test]
        fn no_hour_sees_more_offers_than_the_rate_and_every_offer_has_its_turn(
            per_hour in 1_u64..5000, asks in prop::collection::vec(0_u64..400, 1..80)
        ) {
            let (mut offers, mut now): (Vec<(UnixSeconds, u64)>, u64) = (Vec::new(), 1_000_000);
            for pause in asks {
                now += pause;
                let found = pace(per_hour, &offers, UnixSeconds(now));
                if found.room > 0 {
                    offers.push((UnixSeconds(now), found.room));
                } else {
                    let next = found.next.expect("it says when there is room");
                    prop_assert!(next.0 > now && next.0 <= now + HOUR);
                    prop_assert!(pace(per_hour, &offers, next).room > 0, "there is room when it says so");
                }
                let hour: u64 = offers.iter().filter(|(at, _)| at.0 + HOUR > now).map(|(_, n)| n).sum();
                prop_assert!(hour <= per_hour, "{hour} in an hour");
            }
        }
    }
}
