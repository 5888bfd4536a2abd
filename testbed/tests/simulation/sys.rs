//! Three questions to the C library - what time is it, give me random bytes, wake me when something happens - which on the thread of
//! a simulation its machine answers, and on every other thread the kernel. The standard library, tokio and `getrandom` ask them by
//! these names, so what runs on that thread lives in virtual time as it is.
#![expect(unsafe_code, reason = "these functions stand in the place of the C library's")]
#![expect(clippy::cast_possible_truncation, reason = "a system call answers what the C library's function returns")]

use std::{
    ffi::{c_int, c_long, c_uint},
    time::Duration,
};

use crate::machine::{self, Machine};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
mod numbers {
    pub(super) const CLOCK_GETTIME: std::ffi::c_long = 228;
    pub(super) const GETRANDOM: std::ffi::c_long = 318;
    pub(super) const EPOLL_PWAIT: std::ffi::c_long = 281;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    pub(super) const CLOCK_GETTIME: std::ffi::c_long = 113;
    pub(super) const GETRANDOM: std::ffi::c_long = 278;
    pub(super) const EPOLL_PWAIT: std::ffi::c_long = 22;
}

/// `struct timespec` of a machine with 64 bits.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct epoll_event`, which only passes through here.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct EpollEvent {
    _opaque: [u8; 0],
}

const CLOCK_REALTIME: c_int = 0;
const CLOCK_PROCESS_CPUTIME_ID: c_int = 2;
const CLOCK_THREAD_CPUTIME_ID: c_int = 3;

fn virtual_time(clock: c_int) -> Option<Duration> {
    match clock {
        CLOCK_PROCESS_CPUTIME_ID | CLOCK_THREAD_CPUTIME_ID => None,
        CLOCK_REALTIME => machine::with(Machine::wall),
        _ => machine::with(Machine::monotonic),
    }
}

/// Takes the place of the C library's.
///
/// # Safety
/// `time` must point to a `struct timespec`, as for the C library's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    match virtual_time(clock) {
        Some(now) => {
            let (seconds, nanoseconds) = (now.as_secs().cast_signed(), i64::from(now.subsec_nanos()));
            // SAFETY: the caller gives a place for one `struct timespec`.
            unsafe { time.write(Timespec { seconds, nanoseconds }) };
            0
        }
        // SAFETY: the call takes what the caller gave for the same call.
        None => unsafe { syscall(numbers::CLOCK_GETTIME, c_long::from(clock), time) as c_int },
    }
}

/// Takes the place of the C library's.
///
/// # Safety
/// `bytes` must point to `length` bytes that may be written, as for the C library's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(bytes: *mut u8, length: usize, flags: c_uint) -> isize {
    if machine::with(|_| ()).is_none() {
        // SAFETY: the call takes what the caller gave for the same call.
        return unsafe { syscall(numbers::GETRANDOM, bytes, length, c_long::from(flags)) as isize };
    }
    for at in 0..length {
        let byte = machine::with(Machine::random_byte).unwrap_or_default();
        // SAFETY: the caller gives a place for `length` bytes, and `at` is less.
        unsafe { bytes.add(at).write(byte) };
    }
    length.cast_signed()
}

/// Takes the place of the C library's.
///
/// # Safety
/// `events` must point to a place for `most` events, as for the C library's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut EpollEvent,
    most: c_int,
    timeout: c_int,
) -> c_int {
    let wait = |milliseconds: c_int| {
        let (nothing, size): (*const u8, usize) = (std::ptr::null(), 8);
        // SAFETY: the call takes what the caller gave for the same call, and no set of signals.
        unsafe {
            syscall(
                numbers::EPOLL_PWAIT,
                c_long::from(epoll),
                events,
                c_long::from(most),
                c_long::from(milliseconds),
                nothing,
                size,
            ) as c_int
        }
    };
    machine::with(|machine| machine.park(timeout, &wait)).unwrap_or_else(|| wait(timeout))
}
