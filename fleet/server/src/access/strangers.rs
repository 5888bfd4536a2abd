//! How often an address may ask without a token: a steady rate with room for bursts, in which a refusal counts several times. A lock-out
//! is never longer than the burst takes to fill again, and what needs a token is not counted: nobody locks a whole office out for good.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::Limits;

/// Origins that are remembered, some megabytes of them; those that are nearest to having paid are forgotten first.
const MOST: usize = 100_000;
/// What a refused try costs, in requests.
const REFUSED: u32 = 6;

/// The part of an address that one subscriber has: all of an IPv4 address, the network of an IPv6 address (64 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    V4(u32),
    V6(u64),
}

impl Origin {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            // A shift by 64 leaves 64 bits.
            IpAddr::V6(address) => Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX)),
        }
    }
}

/// What each origin has asked for without a token.
#[derive(Debug)]
pub(crate) struct Strangers {
    /// When each origin has paid for all of it (the theoretical arrival time of GCRA). Who has paid is not in it.
    debts: Mutex<HashMap<Origin, Instant>>,
    /// What one request costs.
    request: Duration,
    /// What an origin may owe.
    most: Duration,
}

impl Strangers {
    pub(crate) fn new(limits: &Limits) -> Self {
        let request = Duration::from_secs(60) / limits.open_requests_per_minute.max(1);
        // Less than one refusal could never be asked for.
        let most = request * limits.open_burst.max(REFUSED);
        Self { debts: Mutex::default(), request, most }
    }

    fn debts(&self) -> MutexGuard<'_, HashMap<Origin, Instant>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as one that will be refused, before it is looked at: so many at once are all counted. One too many is told how
    /// long it is too early.
    pub(crate) fn ask(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let origin = Origin::of(address);
        let mut debts = self.debts();
        if debts.len() >= MOST && !debts.contains_key(&origin) {
            make_room(&mut debts, now);
        }
        let paid = debts.get(&origin).copied().unwrap_or(now).max(now) + self.request * REFUSED;
        match paid.duration_since(now).checked_sub(self.most) {
            None | Some(Duration::ZERO) => {
                debts.insert(origin, paid);
                Ok(())
            }
            Some(early) => Err(early),
        }
    }

    /// The request was not refused: it costs no more than one.
    pub(crate) fn welcome(&self, address: IpAddr, now: Instant) {
        let origin = Origin::of(address);
        let mut debts = self.debts();
        if let Some(paid) = debts.get_mut(&origin) {
            *paid = paid.checked_sub(self.request * (REFUSED - 1)).unwrap_or(now);
            if *paid <= now {
                debts.remove(&origin);
            }
        }
    }

    /// Forgets origins that have paid.
    pub(crate) fn forget_quiet(&self, now: Instant) {
        self.debts().retain(|_, paid| *paid > now);
    }
}

/// Forgets whoever has paid, and if everybody still owes something, the half that owes less. Nobody's debt grows by that.
fn make_room(debts: &mut HashMap<Origin, Instant>, now: Instant) {
    debts.retain(|_, paid| *paid > now);
    if debts.len() < MOST {
        return;
    }
    let mut all: Vec<Instant> = debts.values().copied().collect();
    let (_, median, _) = all.select_nth_unstable(MOST / 2);
    let (median, mut equal) = (*median, MOST / 2);
    // Many may owe the same: no more of these stay than there is room for.
    debts.retain(|_, paid| {
        *paid > median
            || (*paid == median && {
                equal = equal.saturating_sub(1);
                equal > 0
            })
    });
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn strangers(open_requests_per_minute: u32, open_burst: u32) -> Strangers {
        Strangers::new(&Limits { open_requests_per_minute, open_burst, ..Limits::default() })
    }

    fn v4(last: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + last).into()
    }

    #[test]
    fn so_many_refusals_lock_an_address_for_a_while_and_no_other() {
        let strangers = strangers(30, 120);
        let now = Instant::now();
        for _ in 0..20 {
            strangers.ask(v4(1), now).unwrap();
        }
        assert_eq!(strangers.ask(v4(1), now), Err(Duration::from_secs(12)), "the next one is too early");
        assert_eq!(strangers.ask(v4(1), now), Err(Duration::from_secs(12)), "and asking again makes it no later");
        assert_eq!(strangers.ask(v4(2), now), Ok(()));
        let later = now + Duration::from_secs(12);
        assert_eq!(strangers.ask(v4(1), later), Ok(()));
        assert!(strangers.ask(v4(1), later).is_err());
    }

    #[test]
    fn requests_that_are_not_refused_cost_one_each() {
        let strangers = strangers(30, 120);
        let now = Instant::now();
        for asked in 0..114 {
            assert_eq!(strangers.ask(v4(1), now), Ok(()), "{asked}");
            strangers.welcome(v4(1), now);
        }
        assert_eq!(strangers.ask(v4(1), now), Ok(()), "room for one that may be refused");
        assert!(strangers.ask(v4(1), now).is_err());
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_are_one_origin_and_mapped_ones_are_ipv4() {
        let strangers = strangers(30, 6);
        let now = Instant::now();
        let v6 = |segments: [u16; 8]| IpAddr::from(Ipv6Addr::from(segments));
        strangers.ask(v6([0x2001, 0xdb8, 1, 2, 3, 4, 5, 6]), now).unwrap();
        assert!(strangers.ask(v6([0x2001, 0xdb8, 1, 2, 9, 9, 9, 9]), now).is_err());
        strangers.ask(v6([0x2001, 0xdb8, 1, 3, 3, 4, 5, 6]), now).unwrap();
        strangers.ask(v4(1), now).unwrap();
        assert!(strangers.ask(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(), now).is_err());
    }

    #[test]
    fn a_million_addresses_take_bounded_room_and_lock_out_nobody_else() {
        let strangers = strangers(30, 12);
        let now = Instant::now();
        for address in 0..1_000_000 {
            assert_eq!(strangers.ask(v4(address), now), Ok(()));
            assert!(strangers.debts().len() <= MOST);
        }
        assert_eq!(strangers.ask(v4(1_000_001), now), Ok(()));
        strangers.forget_quiet(now + Duration::from_secs(60));
        assert!(strangers.debts().is_empty(), "whoever has paid is forgotten");
    }

    #[test]
    fn who_owes_most_is_remembered_longest() {
        let strangers = strangers(30, 12);
        let now = Instant::now();
        strangers.ask(v4(0), now).unwrap();
        strangers.ask(v4(0), now).unwrap();
        for address in 1..200_000 {
            strangers.ask(v4(address), now).unwrap();
        }
        assert!(strangers.ask(v4(0), now).is_err());
    }

    proptest! {
        #[test]
        fn a_lock_out_is_never_longer_than_the_burst_takes_to_fill(
            per_minute in 1..600_u32, burst in 1..500_u32, steps in prop::collection::vec((0..90_u64, any::<bool>()), 0..200),
        ) {
            let strangers = strangers(per_minute, burst);
            let mut now = Instant::now();
            for (seconds, welcome) in steps {
                now += Duration::from_secs(seconds);
                match strangers.ask(v4(1), now) {
                    Ok(()) if welcome => strangers.welcome(v4(1), now),
                    Ok(()) => {}
                    Err(early) => prop_assert!(early <= strangers.most, "{early:?}"),
                }
            }
        }
    }
}
