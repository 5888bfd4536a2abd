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

/// Tells the C library to give memory back to the kernel when it is freed, instead of keeping it for the next time, which for
/// this process is the next update: otherwise unpacking one zstd layer costs 10 MB for good. To be called before any thread is
/// started.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_little_memory() {
    /// Names of `mallopt(3)`.
    const TRIM_THRESHOLD: std::ffi::c_int = -1;
    const MMAP_THRESHOLD: std::ffi::c_int = -3;
    const ARENA_MAX: std::ffi::c_int = -8;
    unsafe extern "C" {
        fn mallopt(name: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }
    for (name, value) in [(MMAP_THRESHOLD, 64 * 1024), (TRIM_THRESHOLD, 64 * 1024), (ARENA_MAX, 1)] {
        // SAFETY: `mallopt` takes two numbers and changes how the C library's own allocator behaves; it is called while there
        // is one thread. A name that it does not know changes nothing.
        unsafe { mallopt(name, value) };
    }
}

/// Other C libraries give large pieces back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_little_memory() {}
