//! When a window of hours is open, on the clock of the place where it counts. Never reads a clock.

use fleet_store::{DailyWindow, Zone};
use jiff::{
    Timestamp,
    civil::{Date, Time},
    tz::{AmbiguousOffset, TimeZone},
};
use protocol_types::UnixSeconds;

/// The next moment at which the window opens; `None` while it is open. `local` is the device's own time zone, if somebody said it.
///
/// An hour that a change to summer time leaves out is read as the one after it; of an hour that comes twice the first counts.
pub(crate) fn opens(window: &DailyWindow, local: Option<&str>, now: UnixSeconds) -> Option<UnixSeconds> {
    let zone = zone_of(window, local);
    let moment = i64::try_from(now.0).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    // Beyond the calendar there are no hours to keep to.
    let today = moment?.to_zoned(zone.clone()).date();
    let days = [today.yesterday().ok(), Some(today), today.tomorrow().ok(), today.tomorrow().ok()?.tomorrow().ok()];
    let mut next: Option<u64> = None;
    for (from, until) in days.into_iter().flatten().filter_map(|day| on(window, day, &zone)) {
        if from <= now.0 && now.0 < until {
            return None;
        }
        if from > now.0 && next.is_none_or(|next| from < next) {
            next = Some(from);
        }
    }
    next.map(UnixSeconds)
}

/// Whether a text names a time zone.
pub(crate) fn is_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

/// The time zone in which the window is read; what a device's attribute says counts only if it names one.
fn zone_of(window: &DailyWindow, local: Option<&str>) -> TimeZone {
    let name = match &window.zone {
        Zone::Utc => None,
        Zone::Device => local,
        Zone::Named(name) => Some(name.as_str()),
    };
    name.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC)
}

/// The first second of the window that begins on `day`, and the first one after it.
fn on(window: &DailyWindow, day: Date, zone: &TimeZone) -> Option<(u64, u64)> {
    let last = if window.from < window.until { day } else { day.tomorrow().ok()? };
    let (mut from, until) = (instant(day, window.from, zone)?, instant(last, window.until, zone)?);
    if from >= until {
        // The window begins in hours that are left out and ends soon after them.
        from = after_gap(day, window.from, zone)?;
    }
    Some((u64::try_from(from).ok()?, u64::try_from(until).ok()?))
}

fn time_of(minute: u16) -> Option<Time> {
    let part = |value: u16| i8::try_from(value).ok();
    Time::new(part(minute / 60)?, part(minute % 60)?, 0, 0).ok()
}

fn instant(day: Date, minute: u16, zone: &TimeZone) -> Option<i64> {
    let moment = zone.to_ambiguous_timestamp(day.to_datetime(time_of(minute)?)).compatible().ok()?;
    Some(moment.as_second())
}

/// When the hours that are left out are over.
fn after_gap(day: Date, minute: u16, zone: &TimeZone) -> Option<i64> {
    let wall = day.to_datetime(time_of(minute)?);
    let AmbiguousOffset::Gap { before, .. } = zone.to_ambiguous_timestamp(wall).offset() else { return None };
    let inside = before.to_timestamp(wall).ok()?;
    Some(zone.preceding(inside).next()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(from: &str, until: &str, zone: Zone) -> DailyWindow {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':').unwrap();
            hours.parse::<u16>().unwrap() * 60 + minutes.parse::<u16>().unwrap()
        };
        DailyWindow { from: minute(from), until: minute(until), zone }
    }

    fn at(text: &str) -> UnixSeconds {
        UnixSeconds(text.parse::<Timestamp>().unwrap().as_second().try_into().unwrap())
    }

    fn berlin() -> Zone {
        Zone::Named("Europe/Berlin".to_owned())
    }

    #[test]
    fn a_window_over_midnight_is_open_on_both_sides_of_it() {
        let window = window("22:00", "05:00", Zone::Utc);
        for (time, open) in
            [("21:59", false), ("22:00", true), ("23:59", true), ("00:00", true), ("04:59", true), ("05:00", false)]
        {
            let found = opens(&window, None, at(&format!("2027-01-15T{time}:00Z")));
            assert_eq!(found.is_none(), open, "{time}: {found:?}");
        }
        assert_eq!(opens(&window, None, at("2027-01-15T05:00:00Z")), Some(at("2027-01-15T22:00:00Z")));
    }

    #[test]
    fn a_window_follows_the_clock_of_the_device_and_falls_back_to_utc() {
        let window = window("01:00", "02:00", Zone::Device);
        let now = at("2027-01-15T16:30:00Z");
        assert_eq!(opens(&window, Some("Asia/Tokyo"), now), None, "half past one in Tokyo");
        assert_eq!(opens(&window, Some("America/New_York"), now), Some(at("2027-01-16T06:00:00Z")));
        for unknown in [None, Some("Nowhere/At_All"), Some("")] {
            assert_eq!(opens(&window, unknown, now), Some(at("2027-01-16T01:00:00Z")));
        }
    }

    #[test]
    fn hours_that_summer_time_leaves_out_open_the_window_after_them() {
        // On 2027-03-28 at 01:00 UTC Berlin goes from 02:00 to 03:00.
        let inside = window("02:15", "02:45", berlin());
        assert_eq!(opens(&inside, None, at("2027-03-28T00:59:00Z")), Some(at("2027-03-28T01:15:00Z")));
        assert_eq!(opens(&inside, None, at("2027-03-28T01:15:00Z")), None);
        assert_eq!(opens(&inside, None, at("2027-03-28T01:45:00Z")), Some(at("2027-03-29T00:15:00Z")));
        let into = window("01:30", "02:30", berlin());
        assert_eq!(opens(&into, None, at("2027-03-28T01:29:00Z")), None, "an hour long on this day as well");
        assert_eq!(opens(&into, None, at("2027-03-28T01:30:00Z")), Some(at("2027-03-28T23:30:00Z")));
        let out_of = window("02:30", "03:10", berlin());
        assert_eq!(opens(&out_of, None, at("2027-03-28T00:59:59Z")), Some(at("2027-03-28T01:00:00Z")));
        assert_eq!(opens(&out_of, None, at("2027-03-28T01:09:00Z")), None);
        assert!(opens(&out_of, None, at("2027-03-28T01:10:00Z")).is_some());
    }

    #[test]
    fn of_an_hour_that_comes_twice_the_first_counts() {
        // On 2027-10-31 at 01:00 UTC Berlin goes from 03:00 back to 02:00.
        let window = window("02:15", "02:45", berlin());
        assert_eq!(opens(&window, None, at("2027-10-31T00:20:00Z")), None);
        assert_eq!(opens(&window, None, at("2027-10-31T01:20:00Z")), Some(at("2027-11-01T01:15:00Z")));
    }

    proptest! {
        #[test]
        fn a_window_that_is_shut_opens_within_two_days_and_is_then_open(
            from in 0_u16..1440, until in 0_u16..1440, now in 1_600_000_000_u64..2_500_000_000,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
        ) {
            let window = DailyWindow { from, until, zone: Zone::Device };
            if let Some(next) = opens(&window, Some(zone), UnixSeconds(now)) {
                prop_assert!(next.0 > now && next.0 <= now + 49 * 3600, "{now} to {}", next.0);
                prop_assert_eq!(opens(&window, Some(zone), next), None);
            }
        }
    }
}
