//! What time it is, and how far that may be believed. The only place in this process that reads the system's clock.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use protocol_types::UnixSeconds;

/// The system's clock, or a simulated one.
pub trait Clock: Send + Sync + fmt::Debug {
    /// What the wall clock shows; it may be wrong by years.
    fn wall(&self) -> UnixSeconds;
    /// Time since some fixed point, which never steps.
    fn monotonic(&self) -> Duration;
}

/// The clock of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock of the process")]
    fn wall(&self) -> UnixSeconds {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixSeconds(since.as_secs())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The present, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// The clock is plausible, or the service's signed time tells it.
    Known(UnixSeconds),
    /// The wall clock shows a time before the floor, so it is wrong; it is at least this late.
    AtLeast(UnixSeconds),
}

impl Present {
    /// The time to verify with when nothing else is known.
    pub const fn earliest(self) -> UnixSeconds {
        match self {
            Self::Known(time) | Self::AtLeast(time) => time,
        }
    }
}

/// The time that certificates are judged by: never before the floor, and the service's signed time once there is one.
#[derive(Debug)]
pub struct VerificationClock {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    floor: UnixSeconds,
    /// A signed time and the monotonic time at which it was true.
    signed: Option<(UnixSeconds, Duration)>,
}

impl VerificationClock {
    /// `floor` is the latest time that is known to have passed.
    pub fn new(clock: Arc<dyn Clock>, floor: UnixSeconds) -> Self {
        Self { clock, state: Mutex::new(State { floor, signed: None }) }
    }

    /// The present by everything that is known.
    pub fn present(&self) -> Present {
        let State { floor, signed } = self.state();
        if let Some((time, at)) = signed {
            let elapsed = self.clock.monotonic().saturating_sub(at);
            return Present::Known(time.plus(elapsed).max(floor));
        }
        match self.clock.wall() {
            wall if wall < floor => Present::AtLeast(floor),
            wall => Present::Known(wall),
        }
    }

    /// The present as one number, for what is no matter of trust.
    pub fn now(&self) -> UnixSeconds {
        self.present().earliest()
    }

    /// Time since some fixed point, which never steps.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The latest time that is known to have passed.
    pub fn floor(&self) -> UnixSeconds {
        self.state().floor
    }

    /// Takes a time that the service signed for this device just now; a time before the floor changes nothing.
    pub fn learn(&self, time: UnixSeconds) {
        let at = self.clock.monotonic();
        let mut state = self.lock();
        if time >= state.floor {
            *state = State { floor: time, signed: Some((time, at)) };
        }
    }

    /// Takes a time that has surely passed, such as the first day of a certificate that the service just issued.
    pub fn raise_floor(&self, passed: UnixSeconds) {
        let mut state = self.lock();
        state.floor = state.floor.max(passed);
    }

    fn state(&self) -> State {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every state that was ever stored is whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A clock that stands where a test puts it.
    #[derive(Debug, Default)]
    pub(crate) struct SetClock {
        pub(crate) wall: AtomicU64,
        pub(crate) monotonic: AtomicU64,
    }

    impl Clock for SetClock {
        fn wall(&self) -> UnixSeconds {
            UnixSeconds(self.wall.load(Ordering::Relaxed))
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.monotonic.load(Ordering::Relaxed))
        }
    }

    const FLOOR: UnixSeconds = UnixSeconds(1_790_000_000);

    #[test]
    fn a_clock_that_says_1970_is_not_believed() {
        let clock = Arc::new(SetClock::default());
        let verification = VerificationClock::new(clock.clone(), FLOOR);
        assert_eq!(verification.present(), Present::AtLeast(FLOOR));
        clock.wall.store(FLOOR.0 + 5, Ordering::Relaxed);
        assert_eq!(verification.present(), Present::Known(UnixSeconds(FLOOR.0 + 5)));
    }

    #[test]
    fn a_signed_time_overrules_a_wall_clock_of_2099_and_goes_on_by_itself() {
        let clock = Arc::new(SetClock::default());
        clock.wall.store(4_070_908_800, Ordering::Relaxed);
        let verification = VerificationClock::new(clock.clone(), FLOOR);
        verification.learn(UnixSeconds(FLOOR.0 + 100));
        clock.monotonic.store(7, Ordering::Relaxed);
        assert_eq!(verification.present(), Present::Known(UnixSeconds(FLOOR.0 + 107)));
    }

    #[test]
    fn no_signed_time_lies_before_the_floor() {
        let verification = VerificationClock::new(Arc::new(SetClock::default()), FLOOR);
        verification.learn(UnixSeconds(FLOOR.0 - 1));
        assert_eq!(verification.present(), Present::AtLeast(FLOOR));
        verification.raise_floor(UnixSeconds(3));
        assert_eq!(verification.floor(), FLOOR);
    }
}
