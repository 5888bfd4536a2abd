//! Sets a clock that lost its time forward to when the system last said that it ran. Never sets a clock back.
//!
//! The file's time of change is the statement, as `systemd-timesyncd` has it: whoever notes a wrong time notes a right one later. A
//! device that has never run since its image was built gets the image's time from the service manager.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, Timespec, clock_settime};

use crate::console::say;

/// Touched now and then by `mbl-clock.timer`.
const FLOOR: &str = "clock";

/// Sets the clock to the time that `state` keeps, if it shows an earlier one.
#[expect(clippy::disallowed_methods, reason = "the one clock of this process")]
pub fn set_forward(state: &Path) {
    let set = floor(state).and_then(|floor| match ahead(SystemTime::now(), floor) {
        Some(time) => Ok(clock_settime(ClockId::Realtime, time)?),
        None => Ok(()),
    });
    match set {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => say(&format!("cannot set the clock forward to when the system last ran: {e}")),
    }
}

fn floor(state: &Path) -> io::Result<SystemTime> {
    fs::metadata(state.join(FLOOR))?.modified()
}

/// The floor, if it is later than `now` and a time that a clock can have.
fn ahead(now: SystemTime, floor: SystemTime) -> Option<Timespec> {
    let since: Duration = floor.duration_since(UNIX_EPOCH).ok().filter(|_| floor > now)?;
    Timespec::try_from(since).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_forward_to_the_floor_and_never_back() {
        let [early, late] = [1_000, 2_000].map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(ahead(early, late).map(|time| time.tv_sec), Some(2_000));
        assert_eq!(ahead(late, early), None);
        assert_eq!(ahead(late, late), None);
        assert_eq!(ahead(UNIX_EPOCH, UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    #[test]
    fn the_floor_is_when_the_file_was_changed() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(floor(state.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let time = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        fs::File::create(state.path().join(FLOOR)).unwrap().set_modified(time).unwrap();
        assert_eq!(floor(state.path()).unwrap(), time);
    }
}
