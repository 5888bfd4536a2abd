//! Runs the tasks of a simulation on one thread, in the order in which they were woken, inside of a tokio runtime whose timers they
//! use. A task that asked the database, or a thread for blocking work, is waited for before any other goes on: however long that
//! takes, everything happens in the same order. What the product itself gives to tokio (the driver of an HTTP connection) has come to
//! rest before the next task goes on, so that it does not depend on such a wait whether it came before or after.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::{
    runtime::{Handle, RuntimeMetrics},
    task::{spawn_blocking, unconstrained},
};

use crate::machine::{Machine, Park};

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// What a task may wait for outside of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Nothing.
    Nothing,
    /// The database.
    Database,
    /// The database, or the one thread for blocking work.
    Threads,
}

struct Entry {
    /// None while it is polled.
    future: Option<Boxed>,
    woken: Arc<Woken>,
    waits: Waits,
}

#[derive(Default)]
struct Queue {
    ready: Mutex<VecDeque<u64>>,
    root: Mutex<Option<Waker>>,
}

struct Woken {
    id: u64,
    is_queued: AtomicBool,
    queue: Arc<Queue>,
}

thread_local! {
    /// Whether tasks are being run on this thread: whoever is woken meanwhile has a turn without anybody being told.
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            locked(&self.queue.ready).push_back(self.id);
        }
        if !RUNS.get()
            && let Some(root) = locked(&self.queue.root).as_ref()
        {
            root.wake_by_ref();
        }
    }
}

#[derive(Default)]
struct Inner {
    entries: RefCell<BTreeMap<u64, Entry>>,
    queue: Arc<Queue>,
    next: Cell<u64>,
    polls: Cell<u64>,
}

/// The tasks of one simulation. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Rc<Inner>);

/// A task that was started; dropping this leaves it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId(u64);

impl Tasks {
    /// Starts a task.
    pub(crate) fn spawn(&self, waits: Waits, future: impl Future<Output = ()> + 'static) -> TaskId {
        let id = self.0.next.get();
        self.0.next.set(id + 1);
        let woken = Arc::new(Woken { id, is_queued: AtomicBool::new(false), queue: self.0.queue.clone() });
        // Fairness is the queue's affair here; tokio's budget would make a task wait for a turn that it has.
        let future: Boxed = Box::pin(unconstrained(future));
        let entry = Entry { future: Some(future), woken: woken.clone(), waits };
        self.0.entries.borrow_mut().insert(id, entry);
        woken.wake();
        TaskId(id)
    }

    /// Ends a task wherever it stands, as the death of its process does.
    pub(crate) fn abort(&self, TaskId(id): TaskId) {
        let entry = self.0.entries.borrow_mut().remove(&id);
        drop(entry);
    }

    /// Ends all tasks.
    pub(crate) fn clear(&self) {
        let entries = std::mem::take(&mut *self.0.entries.borrow_mut());
        drop(entries);
    }

    /// How often tasks were polled so far.
    pub(crate) fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    /// Runs until `is_over`.
    pub(crate) fn run(&self, machine: Rc<Machine>, is_over: Rc<Cell<bool>>) -> Run {
        let metrics = Handle::current().metrics();
        Run { tasks: self.clone(), machine, is_over, alone: None, metrics, owes: false }
    }

    /// Takes a task out of the queue, if it was woken.
    fn take(&self, id: u64) -> bool {
        let mut ready = locked(&self.0.queue.ready);
        let place = ready.iter().position(|it| *it == id);
        place.is_some_and(|place| ready.remove(place).is_some())
    }

    fn is_woken(&self, id: u64) -> bool {
        locked(&self.0.queue.ready).contains(&id)
    }

    fn pop(&self) -> Option<u64> {
        locked(&self.0.queue.ready).pop_front()
    }

    /// Polls a task once; what it may wait for outside.
    fn poll(&self, id: u64) -> Waits {
        let taken = self.0.entries.borrow_mut().get_mut(&id).and_then(|entry| {
            entry.woken.is_queued.store(false, Ordering::Release);
            Some((entry.future.take()?, entry.woken.clone(), entry.waits))
        });
        let Some((mut future, woken, waits)) = taken else { return Waits::Nothing };
        self.0.polls.set(self.0.polls.get() + 1);
        let waker = Waker::from(woken);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let ended = match polled {
            Poll::Ready(()) => self.0.entries.borrow_mut().remove(&id),
            Poll::Pending => {
                if let Some(entry) = self.0.entries.borrow_mut().get_mut(&id) {
                    entry.future = Some(future);
                    return waits;
                }
                // It was ended by what it did itself.
                None
            }
        };
        drop(ended);
        waits
    }
}

/// The task that has the thread to itself.
#[derive(Clone, Copy)]
struct Alone {
    id: u64,
    waits: Waits,
}

/// Waits until the one thread for blocking work, which keeps the order, is through with everything that it was asked for.
fn blocking_work_ends() {
    let (end, ended) = std::sync::mpsc::channel();
    drop(spawn_blocking(move || end.send(())));
    ended.recv().expect("the thread for blocking work lives");
}

/// The loop that runs tasks.
pub(crate) struct Run {
    tasks: Tasks,
    machine: Rc<Machine>,
    is_over: Rc<Cell<bool>>,
    alone: Option<Alone>,
    metrics: RuntimeMetrics,
    /// A task was polled, and may have woken what tokio runs.
    owes: bool,
}

impl Run {
    fn step(&mut self, id: u64) -> Waits {
        self.owes = true;
        self.tasks.poll(id)
    }

    /// Whether what tokio runs by itself goes first: then the tasks have their next turn when that rests.
    fn gives_way(&mut self, context: &Context<'_>) -> bool {
        let gives_way = std::mem::take(&mut self.owes) && self.metrics.num_alive_tasks() > 0;
        if gives_way {
            context.waker().wake_by_ref();
        }
        gives_way
    }

    /// Goes on with the task that has the thread to itself until it waits for something inside; pending while it waits outside.
    fn settle(&mut self, context: &Context<'_>) -> Poll<()> {
        while let Some(Alone { id, waits }) = self.alone {
            if self.tasks.take(id) {
                self.step(id);
            }
            if self.gives_way(context) {
                return Poll::Pending;
            }
            if self.tasks.is_woken(id) {
                continue;
            }
            if self.machine.is_busy() {
                return Poll::Pending;
            }
            if waits == Waits::Threads {
                blocking_work_ends();
                // What that has woken of tokio's own may have more to ask for, on behalf of the task.
                if self.metrics.global_queue_depth() > 0 {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if !self.tasks.is_woken(id) {
                self.alone = None;
            }
        }
        Poll::Ready(())
    }

    fn turn(&mut self, context: &Context<'_>) -> Poll<()> {
        loop {
            if self.gives_way(context) || self.settle(context).is_pending() {
                self.machine.rests(Park::Outside, context.waker());
                return Poll::Pending;
            }
            if self.is_over.get() {
                return Poll::Ready(());
            }
            let Some(id) = self.tasks.pop() else {
                self.machine.rests(Park::Time, context.waker());
                return Poll::Pending;
            };
            let waits = self.step(id);
            self.alone = (waits != Waits::Nothing).then_some(Alone { id, waits });
        }
    }
}

impl Future for Run {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        *locked(&self.tasks.0.queue.root) = Some(context.waker().clone());
        RUNS.set(true);
        let turn = self.turn(context);
        RUNS.set(false);
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::time::sleep;

    use super::*;

    /// Runs tasks on a machine of their own, on a thread of their own.
    fn on_a_machine<T: Default + Send + 'static>(
        act: impl FnOnce(Tasks, Rc<Machine>, Rc<Cell<bool>>) -> Rc<RefCell<T>> + Send + 'static,
    ) -> T {
        let thread = std::thread::spawn(move || {
            let machine = Machine::install(1);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
            let (tasks, is_over) = (Tasks::default(), Rc::new(Cell::new(false)));
            let seen = act(tasks.clone(), machine.clone(), is_over.clone());
            runtime.block_on(async {
                tasks.run(machine, is_over).await;
                tasks.clear();
            });
            Machine::remove();
            seen.take()
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_month_in_which_nobody_does_anything_passes_at_once() {
        let begun = Instant::now();
        let passed = on_a_machine(|tasks, machine, is_over| {
            let seen = Rc::new(RefCell::new(Duration::ZERO));
            let out = seen.clone();
            tasks.spawn(Waits::Nothing, async move {
                for _ in 0..30 {
                    sleep(Duration::from_secs(86_400)).await;
                }
                *out.borrow_mut() = machine.passed();
                is_over.set(true);
            });
            seen
        });
        assert_eq!(passed.as_secs(), 30 * 86_400);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn no_time_passes_and_nobody_goes_on_while_a_thread_works_for_somebody() {
        let seen = on_a_machine(|tasks, machine, is_over| {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let (out, at) = (seen.clone(), machine);
            tasks.spawn(Waits::Threads, async move {
                let (done, wait) = std::sync::mpsc::channel::<()>();
                let work = move || wait.recv_timeout(Duration::from_millis(50)).is_err();
                assert!(spawn_blocking(work).await.unwrap(), "nobody ends the work");
                drop(done);
                out.borrow_mut().push(("worked", at.passed()));
                sleep(Duration::from_secs(1)).await;
                is_over.set(true);
            });
            let out = seen.clone();
            tasks.spawn(Waits::Nothing, async move { out.borrow_mut().push(("other", Duration::ZERO)) });
            seen
        });
        assert_eq!(seen, [("worked", Duration::ZERO), ("other", Duration::ZERO)]);
    }

    #[test]
    fn what_a_task_gives_to_tokio_is_waited_for_with_all_that_it_asks_of_a_thread() {
        let seen = on_a_machine(|tasks, _machine, is_over| {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let out = seen.clone();
            tasks.spawn(Waits::Threads, async move {
                let pieces = async {
                    for _ in 0..3 {
                        let (_open, wait) = std::sync::mpsc::channel::<()>();
                        spawn_blocking(move || wait.recv_timeout(Duration::from_millis(20)).is_err()).await.unwrap();
                    }
                };
                tokio::spawn(pieces).await.unwrap();
                out.borrow_mut().push("worked");
            });
            let out = seen.clone();
            tasks.spawn(Waits::Nothing, async move {
                out.borrow_mut().push("other");
                is_over.set(true);
            });
            seen
        });
        assert_eq!(seen, ["worked", "other"]);
    }
}
