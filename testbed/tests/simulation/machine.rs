//! The machine that a simulation believes to run on: a clock that moves only when nothing else can happen, and random bytes from a
//! seed. When all tasks rest it lets the time of the next timer come at once; while the database or a thread for blocking work is
//! busy, it waits for it and lets no time pass.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use crate::random::Random;

/// 2027-01-01: the day on which every simulation begins.
const BEGINNING: Duration = Duration::from_secs(1_798_761_600);
/// What the monotonic clock shows then: a machine is up for a while before anything begins.
const UP: Duration = Duration::from_secs(100_000);
/// Real milliseconds between two looks at what happens outside of the thread. Nobody wakes it for the end of work whose result it has
/// already, as when a connection to the database is given back.
const LOOK: i32 = 1;

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

/// Asks the machine of this thread, if it has one.
pub(crate) fn with<T>(ask: impl FnOnce(&Machine) -> T) -> Option<T> {
    MACHINE.try_with(|machine| machine.try_borrow().ok()?.as_deref().map(ask)).ok().flatten()
}

/// What the thread waits for when it parks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Park {
    /// For the next timer: all tasks rest.
    Time,
    /// For work outside of the thread.
    Outside,
}

/// Whether anything is under way outside of the thread.
type Busy = Box<dyn Fn() -> bool>;

pub(crate) struct Machine {
    /// Milliseconds since the simulation began. Threads for blocking work may read it: it stands while they work.
    passed: Arc<AtomicU64>,
    random: RefCell<Random>,
    park: Cell<Park>,
    busy: RefCell<Option<Busy>>,
    root: RefCell<Option<Waker>>,
}

impl Machine {
    /// Gives this thread a machine with its chances from `seed`.
    pub(crate) fn install(seed: u64) -> Rc<Self> {
        let machine = Rc::new(Self {
            passed: Arc::default(),
            random: RefCell::new(Random::of(seed, "machine", 0)),
            park: Cell::new(Park::Outside),
            busy: RefCell::new(None),
            root: RefCell::new(None),
        });
        MACHINE.with(|place| *place.borrow_mut() = Some(machine.clone()));
        machine
    }

    /// Gives the thread back to the kernel.
    pub(crate) fn remove() {
        let before = MACHINE.with(|place| place.borrow_mut().take());
        drop(before);
    }

    /// Time since the simulation began.
    pub(crate) fn passed(&self) -> Duration {
        Duration::from_millis(self.passed.load(Ordering::Relaxed))
    }

    pub(crate) fn wall(&self) -> Duration {
        BEGINNING + self.passed()
    }

    /// What the wall clock shows, in seconds, for whoever asks from whichever thread.
    pub(crate) fn clock(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let passed = self.passed.clone();
        move || (BEGINNING + Duration::from_millis(passed.load(Ordering::Relaxed))).as_secs()
    }

    pub(crate) fn monotonic(&self) -> Duration {
        UP + self.passed()
    }

    pub(crate) fn random_byte(&self) -> u8 {
        self.random.borrow_mut().number().to_le_bytes()[3]
    }

    /// What is asked whether something is under way outside of the thread.
    pub(crate) fn watch(&self, busy: impl Fn() -> bool + 'static) {
        *self.busy.borrow_mut() = Some(Box::new(busy));
    }

    /// Nothing outside can be busy any more.
    pub(crate) fn watch_nothing(&self) {
        *self.busy.borrow_mut() = None;
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.borrow().as_ref().is_some_and(|busy| busy())
    }

    /// What the next park is for, and who is woken when nothing is busy any more.
    pub(crate) fn rests(&self, park: Park, root: &Waker) {
        self.park.set(park);
        *self.root.borrow_mut() = Some(root.clone());
    }

    /// Waits for at most `timeout` milliseconds of virtual time; `wait` asks the kernel, which only knows of what happens outside.
    pub(crate) fn park(&self, timeout: i32, wait: &dyn Fn(i32) -> i32) -> i32 {
        match (self.park.get(), u64::try_from(timeout)) {
            (_, Ok(0)) => 0,
            (Park::Time, Ok(milliseconds)) if !self.is_busy() => {
                self.passed.fetch_add(milliseconds, Ordering::Relaxed);
                0
            }
            (Park::Outside, _) if !self.is_busy() => {
                if let Some(root) = self.root.borrow().as_ref() {
                    root.wake_by_ref();
                }
                0
            }
            // Without any timer nothing but the outside can go on.
            (Park::Time | Park::Outside, _) => wait(LOOK),
        }
    }
}
