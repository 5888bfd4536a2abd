//! The one place with unsafe code: system calls that the safe libraries do not offer.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Puts the calling thread, which must be the only one, into a network namespace of its own, without any interface up.
///
/// # Errors
/// If the caller may not.
#[expect(unsafe_code, reason = "rustix marks every unshare as unsafe because of other flags")]
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` can break a promise of memory or I/O safety, and it is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
