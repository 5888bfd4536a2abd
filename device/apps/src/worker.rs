//! The thread that prepares sets, one at a time: the newest wish to run first, then the newest wish to prepare, then clean-up.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use protocol_types::{ApplicationSpec, Digest, Reason, ReasonCode};
use tracing::{info, warn};

use crate::{
    image::Platform,
    limits::Limits,
    prepare::{PrepareError, Preparer},
    refusal::{Coded, reason},
    socket::AgentLink,
    store::{ImageKey, Keep, Store, StoredSet},
    supervise::Backoff,
};

/// A set that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Key of the set.
    pub release: Digest,
    /// Its applications.
    pub applications: Vec<ApplicationSpec>,
}

/// What the worker has to say.
#[derive(Debug)]
pub enum Work {
    /// A set is ready to run, or why it cannot be.
    Done(Digest, Result<StoredSet, Reason>),
    /// Bytes in storage and bytes in all.
    Progress(Digest, u64, u64),
}

/// What the worker works with.
#[derive(Debug)]
pub struct Tools {
    /// Where everything goes.
    pub store: Arc<Store>,
    /// From where it comes.
    pub link: Arc<AgentLink>,
    /// The processor of this device.
    pub platform: Platform,
    /// What is accepted.
    pub limits: Limits,
    /// Spreads waits.
    pub random: fn() -> u32,
}

#[derive(Debug, Default)]
struct Wishes {
    run: Option<Wish>,
    prepare: Option<Wish>,
    retain: Option<Keep>,
    /// Images that ran at the newest wish to free storage: some may run still, and no set names them.
    in_use: BTreeSet<ImageKey>,
    at_work: Option<Wish>,
    /// The agent came back: waiting for it is over.
    poked: bool,
}

/// Handle to the thread. It ends with the process: whatever it is doing may be cut at any point.
#[derive(Clone, Debug)]
pub struct Worker {
    shared: Arc<(Mutex<Wishes>, Condvar)>,
    link: Arc<AgentLink>,
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

impl Worker {
    /// Starts the thread; `say` hears what becomes of the wishes.
    pub fn start(tools: Tools, say: impl Fn(Work) + Send + 'static) -> std::io::Result<Self> {
        let worker = Self { shared: Arc::default(), link: Arc::clone(&tools.link) };
        let own = worker.clone();
        thread::Builder::new().name("worker".into()).spawn(move || own.work(&tools, &say))?;
        Ok(worker)
    }

    /// Wants a set to be prepared in order to run it; `None`: no longer.
    pub fn run(&self, wish: Option<Wish>) {
        self.change(|wishes| wishes.run = wish);
    }

    /// Wants a set to be prepared.
    pub fn prepare(&self, wish: Wish) {
        self.change(|wishes| wishes.prepare = Some(wish));
    }

    /// Wants the storage of all else to be freed, once no set is being prepared.
    pub fn retain(&self, keep: Keep) {
        self.change(|wishes| {
            wishes.in_use.clone_from(&keep.images);
            wishes.retain = Some(keep);
        });
    }

    /// Keeps the storage of `release` from a clean-up that was asked for before; waits for one that is under way.
    pub fn protect(&self, release: Digest) {
        if let Some(keep) = &mut self.lock().retain {
            keep.sets.insert(release);
        }
    }

    /// The agent is back.
    pub fn poke(&self) {
        self.change(|wishes| wishes.poked = true);
    }

    fn change(&self, change: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.lock();
        change(&mut wishes);
        let next = wishes.run.as_ref().or(wishes.prepare.as_ref());
        if wishes.at_work.is_some() && wishes.at_work.as_ref() != next {
            self.link.interrupt(true);
        }
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, tools: &Tools, say: &dyn Fn(Work)) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        loop {
            let wish = self.next(tools);
            let mut result = prepare(tools, &wish, say);
            let has_no_room = matches!(&result, Err(error) if error.code() == ReasonCode::NoRoom);
            if has_no_room && self.make_room(tools, &wish) {
                info!(release = %wish.release, "what nothing needs was removed to make room; once more");
                result = prepare(tools, &wish, say);
            }
            let mut wishes = self.lock();
            wishes.at_work = None;
            match result {
                Err(PrepareError::Interrupted) => continue,
                Err(error) if error.is_transient() => {
                    let wait = backoff.fail((tools.random)());
                    info!(release = %wish.release, why = %reason(&error), ?wait, "set cannot be prepared yet");
                    drop(self.wait_for_news(wishes, &wish, wait));
                }
                result => {
                    backoff.succeed();
                    wishes.run.take_if(|same| *same == wish);
                    wishes.prepare.take_if(|same| *same == wish);
                    drop(wishes);
                    let result = result.map_err(|error| reason(&error));
                    match &result {
                        Ok(_) => info!(release = %wish.release, "set is prepared"),
                        Err(why) => warn!(release = %wish.release, reason = %why, "set is refused"),
                    }
                    say(Work::Done(wish.release, result));
                }
            }
        }
    }

    /// Waits for the next wish and cleans up meanwhile.
    fn next(&self, tools: &Tools) -> Wish {
        let mut wishes = self.lock();
        loop {
            if let Some(wish) = wishes.run.clone().or_else(|| wishes.prepare.clone()) {
                wishes.at_work = Some(wish.clone());
                wishes.poked = false;
                tools.link.interrupt(false);
                return wish;
            }
            if let Some(keep) = wishes.retain.take() {
                // With the lock held, so that nobody takes for prepared what is being removed.
                if let Err(error) = tools.store.retain(&keep) {
                    warn!(reason = %reason(&error), "cannot free storage");
                }
            }
            wishes = self.shared.1.wait(wishes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Removes what neither a set that may still be started nor what runs needs, and leaves what there is of `wish` for its next try;
    /// says whether there was anything.
    fn make_room(&self, tools: &Tools, wish: &Wish) -> bool {
        let parts = preparer(tools).parts(&wish.applications);
        // Held to the end, as in `next`.
        let wishes = self.lock();
        let keep = match &wishes.retain {
            Some(keep) => Ok(keep.clone()),
            None => tools.store.sets.releases().map(|sets| Keep { sets, ..Keep::default() }),
        };
        let freed = keep.and_then(|mut keep| {
            keep.images.extend(wishes.in_use.iter().copied().chain(parts.images));
            keep.blobs.extend(parts.blobs);
            tools.store.retain(&keep)
        });
        drop(wishes);
        freed.unwrap_or_else(|error| {
            warn!(reason = %reason(&error), "cannot free storage");
            false
        })
    }

    /// Waits until another wish came first, the agent came back or the time is over.
    fn wait_for_news<'a>(
        &self,
        mut wishes: MutexGuard<'a, Wishes>,
        wish: &Wish,
        wait: Duration,
    ) -> MutexGuard<'a, Wishes> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let same = wishes.run.as_ref().or(wishes.prepare.as_ref()) == Some(wish);
            if left.is_zero() || !same || wishes.poked {
                return wishes;
            }
            wishes = match self.shared.1.wait_timeout(wishes, left) {
                Ok((wishes, _)) => wishes,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

fn preparer(tools: &Tools) -> Preparer<'_> {
    Preparer { store: &tools.store, platform: &tools.platform, limits: &tools.limits }
}

fn prepare(tools: &Tools, wish: &Wish, say: &dyn Fn(Work)) -> Result<StoredSet, PrepareError> {
    let mut said: Option<Instant> = None;
    let result = preparer(tools).prepare(wish.release, &wish.applications, &*tools.link, &mut |done, total| {
        if done == total || said.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL) {
            said = Some(Instant::now());
            say(Work::Progress(wish.release, done, total));
        }
    });
    // A wait that was cut short looks like an agent that did not answer.
    if result.is_err() && crate::prepare::Source::interrupted(&*tools.link) {
        return Err(PrepareError::Interrupted);
    }
    result
}
