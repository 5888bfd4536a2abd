//! The unsafe calls of this crate.
#![expect(
    unsafe_code,
    reason = "the libraries mark one call unsafe for a flag not used here and do not offer the other"
)]

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and threads and processes that it starts from now on, a mount namespace of their own.
pub(crate) fn unshare_mounts() -> rustix::io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` can make one thread's descriptors invalid for another, and it is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}

/// Gives memory that was freed back to the kernel. The C library keeps it for the next time, which for this process is the next
/// update: without this, unpacking a zstd layer once would cost 10 MB for good.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back_memory() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: `malloc_trim(3)` may be called at any time from any thread; it touches only memory that is free.
    unsafe { malloc_trim(0) };
}

/// Other C libraries give large pieces back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back_memory() {}
