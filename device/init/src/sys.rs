//! The one place with unsafe code: system calls that the safe libraries do not offer.

use std::{io, os::fd::AsFd};

use rustix::ioctl::{self, Updater};

/// `WDIOC_SETTIMEOUT` of `linux/watchdog.h`: `_IOWR('W', 6, int)`.
const SET_TIMEOUT: ioctl::Opcode = ioctl::opcode::read_write::<i32>(b'W', 6);

/// Asks a watchdog to wait so many seconds without a sign of life; returns what it will do, which may be less exact.
///
/// # Errors
/// If the device is no watchdog, or cannot be told a time.
#[expect(unsafe_code, reason = "rustix leaves it to the caller that code and argument of an ioctl belong together")]
pub(crate) fn set_watchdog_timeout(watchdog: impl AsFd, seconds: i32) -> io::Result<i32> {
    let mut seconds = seconds;
    // SAFETY: the kernel reads and writes one `int` for this code, and `seconds` is one that outlives the call.
    unsafe { ioctl::ioctl(watchdog, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?;
    Ok(seconds)
}
