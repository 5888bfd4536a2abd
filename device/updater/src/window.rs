//! Tells by the device's own clock and zone whether its update window is open. Never reads a clock.

use jiff::{Timestamp, tz::TimeZone};
use protocol_types::{UnixSeconds, configuration::UpdateWindow};

/// The update window of a device, in its zone.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    hours: Option<UpdateWindow>,
    zone: TimeZone,
}

impl Window {
    /// A window that is always open.
    pub(crate) const fn always(zone: TimeZone) -> Self {
        Self { hours: None, zone }
    }

    /// Other hours from now on; none: always.
    pub(crate) const fn set(&mut self, hours: Option<UpdateWindow>) {
        self.hours = hours;
    }

    /// Whether time alone may open or close it.
    pub(crate) const fn is_bounded(&self) -> bool {
        self.hours.is_some()
    }

    /// Whether it is open at this time. A time that no calendar has is outside.
    pub(crate) fn is_open(&self, now: UnixSeconds) -> bool {
        let Some(hours) = self.hours else { return true };
        let second = i64::try_from(now.0).ok();
        let Some(time) = second.and_then(|second| Timestamp::from_second(second).ok()) else { return false };
        let local = time.to_zoned(self.zone.clone());
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        hours.is_open(minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_read_on_the_clock_of_the_device() {
        let mut window = Window::always(TimeZone::fixed(jiff::tz::offset(9)));
        let midnight = UnixSeconds(1_800_057_600);
        assert!(window.is_open(midnight) && !window.is_bounded());
        window.set(Some(UpdateWindow { from: "09:00".parse().ok(), to: "09:30".parse().ok() }));
        let at = |minutes: u64| window.is_open(UnixSeconds(midnight.0 + minutes * 60));
        assert_eq!([at(0), at(29), at(30), at(23 * 60)], [true, true, false, false]);
        assert!(!window.is_open(UnixSeconds(u64::MAX)));
    }
}
