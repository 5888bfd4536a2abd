//! Random numbers of this process, for nonces and jitter. The only place that asks the operating system for them.

/// Fills `bytes` from the operating system; false if it has none to give.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    getrandom::fill(bytes).is_ok()
}

/// A number for what only has to differ between devices; zero if the operating system has none to give.
pub fn number() -> u64 {
    getrandom::u64().unwrap_or(0)
}
