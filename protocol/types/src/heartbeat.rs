//! When a process must show its manager that its loop still turns (`sd_notify(3)`, `WATCHDOG=1`). Never reads a clock and never
//! speaks to the manager.

use std::time::Duration;

/// The signs of life of one loop. Times are those of a clock that only runs forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    every: Option<Duration>,
    due: Duration,
}

/// Signs in the time that the manager waits for one: a loop that is late once is not yet one that hangs.
const SIGNS: u32 = 3;

impl Heartbeat {
    /// The signs for a manager that waits `patience` for one; none for a process that nobody watches.
    pub fn new(patience: Option<Duration>) -> Self {
        Self { every: patience.map(|patience| patience / SIGNS), due: Duration::ZERO }
    }

    /// Whether a sign is due at `now`; if so, the next one is due later.
    pub fn beat(&mut self, now: Duration) -> bool {
        match self.every {
            Some(every) if now >= self.due => {
                self.due = now + every;
                true
            }
            Some(_) | None => false,
        }
    }

    /// How long the loop may sleep at `now`; for ever if nobody watches.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        self.every.map(|_| self.due.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_busy_loop_gives_a_sign_now_and_then_and_an_idle_one_wakes_in_time() {
        let mut heartbeat = Heartbeat::new(Some(30 * SECOND));
        let mut signs = Vec::new();
        for now in 0..25 {
            if heartbeat.beat(now * SECOND) {
                signs.push(now);
            }
        }
        assert_eq!(signs, [0, 10, 20]);
        assert_eq!(heartbeat.wait(25 * SECOND), Some(5 * SECOND));
        assert_eq!(heartbeat.wait(99 * SECOND), Some(Duration::ZERO));
    }

    #[test]
    fn a_process_that_nobody_watches_gives_no_sign_and_sleeps_as_long_as_it_likes() {
        let mut heartbeat = Heartbeat::new(None);
        assert!(!heartbeat.beat(SECOND));
        assert_eq!(heartbeat.wait(SECOND), None);
    }
}
