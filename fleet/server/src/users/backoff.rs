//! How long failing tries to sign in lock.

/// Tries in a row that may fail before the first lock.
const FREE: u64 = 5;
/// Seconds of the first lock; each further try doubles it.
const FIRST_S: u64 = 15;
/// No lock is longer, so that nobody can shut a user out for good: 15 minutes.
const LONGEST_S: u64 = 900;

/// Seconds for which the `tries`-th try in a row locks the next one.
pub(super) fn wait_s(tries: u64) -> u64 {
    match tries.checked_sub(FREE) {
        None => 0,
        Some(more) => FIRST_S.saturating_mul(1 << more.min(32)).min(LONGEST_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_slips_are_free_and_each_further_one_doubles_the_wait_up_to_a_quarter_of_an_hour() {
        assert_eq!([1, 4, 5, 6, 7, 10, 11, 12, u64::MAX].map(wait_s), [0, 0, 15, 30, 60, 480, 900, 900, 900]);
    }
}
