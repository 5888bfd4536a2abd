//! The one unsafe call of this crate.
#![expect(unsafe_code, reason = "the library marks the call unsafe for a flag that is not used here")]

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and threads and processes that it starts from now on, a mount namespace of their own.
pub(crate) fn unshare_mounts() -> rustix::io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` can make one thread's descriptors invalid for another, and it is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}
