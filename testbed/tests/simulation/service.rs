//! The service of a simulation: the real one on SQLite in a folder in memory, which can die at any step and come back on what lies there.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    path::Path,
    rc::Rc,
    time::Duration,
};

use fleet_server::{
    Clock, Config, Limits, Random,
    embedded::{DevicePort, Embedded, NamedTask, Rests},
};
use hyper::http;
use protocol_types::UnixSeconds;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    machine::Machine,
    tasks::{TaskId, Tasks, Waits},
};

/// Seconds between two updates of a registration at most: few, so that months cost minutes.
const LIFETIME: u32 = 12 * 60 * 60;
/// Between two looks at rollouts after a change and without one, and at late devices: every look is at everything.
const RESTS: Rests = Rests {
    changes: Duration::from_secs(300),
    rollouts: Duration::from_secs(1200),
    overdue: Duration::from_secs(3600),
};

/// Tasks of the service that may ask a thread for blocking work.
const BLOCKING: [&str; 1] = ["housekeeping"];

struct Inner {
    machine: Rc<Machine>,
    tasks: Tasks,
    folder: TempDir,
    up: RefCell<Option<Up>>,
    lives: Cell<u32>,
    reconciles: Cell<bool>,
}

struct Up {
    embedded: Embedded,
    stop: CancellationToken,
    tasks: Vec<TaskId>,
}

/// The service of one simulation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service(Rc<Inner>);

/// The service is not there, or died over the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl Service {
    /// A folder for a service. Its name is no matter of the seed, so it is made before there is a machine.
    pub(crate) fn folder() -> TempDir {
        // What is not written to a disk is not waited for: whether SQLite flushes is SQLite's affair.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        folder.expect("a folder for the service")
    }

    /// A service that was never started.
    pub(crate) fn new(machine: Rc<Machine>, tasks: Tasks, folder: TempDir) -> Self {
        let (up, lives, reconciles) = (RefCell::new(None), Cell::new(0), Cell::new(true));
        Self(Rc::new(Inner { machine, tasks, folder, up, lives, reconciles }))
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.0.folder.path()
    }

    /// From its next start on it looks at no rollout: a fault that the simulation plants to see it caught.
    pub(crate) fn forget_rollouts(&self) {
        self.0.reconciles.set(false);
    }

    /// How often it was started.
    pub(crate) fn lives(&self) -> u32 {
        self.0.lives.get()
    }

    fn config(&self) -> Config {
        let limits = Limits { account_requests_per_s: 1_000_000, account_burst: 1_000_000, ..Limits::default() };
        Config {
            data_dir: self.data_dir().to_owned(),
            public_hosts: vec!["10.0.0.1".to_owned()],
            limits,
            registration_lifetime_s: LIFETIME,
            ..Config::default()
        }
    }

    /// Starts it; must be called by a task that may wait for threads.
    pub(crate) async fn start(&self) {
        let machine = self.0.machine.clone();
        // Opening the database is work of threads before there is a pool to ask.
        machine.watch(|| true);
        let seconds = machine.clock();
        let clock = Clock::new(move || UnixSeconds(seconds()));
        let stop = CancellationToken::new();
        let opened = Embedded::open(self.config(), (clock, Random::system()), RESTS, stop.clone());
        let (embedded, tasks) = Box::pin(opened).await.expect("the service opens");
        let store = embedded.store().clone();
        machine.watch(move || store.is_busy());
        let spawn = |(name, task): NamedTask| {
            let waits = if BLOCKING.contains(&name) { Waits::Threads } else { Waits::Database };
            self.0.tasks.spawn(waits, task)
        };
        let wanted = tasks.into_iter().filter(|(name, _)| *name != "rollouts" || self.0.reconciles.get());
        let tasks = wanted.map(spawn).collect();
        *self.0.up.borrow_mut() = Some(Up { embedded, stop, tasks });
        self.0.lives.set(self.0.lives.get() + 1);
    }

    /// Ends it as SIGKILL does, wherever its tasks stand; must be called by a task that may wait for threads.
    pub(crate) async fn die(&self) {
        let up = self.0.up.borrow_mut().take();
        let Some(Up { embedded, tasks, .. }) = up else { return };
        tasks.into_iter().for_each(|task| self.0.tasks.abort(task));
        // The kernel closes the files of a process that ends.
        let store = embedded.store().clone();
        drop(embedded);
        // A pool that closes does not count what it is still closing.
        self.0.machine.watch(|| true);
        store.close().await;
        self.0.machine.watch_nothing();
    }

    /// Ends it in order; must be called by a task that may wait for threads.
    pub(crate) async fn stop(&self) {
        let stop = self.0.up.borrow().as_ref().map(|up| up.stop.clone());
        if let Some(stop) = stop {
            stop.cancel();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        self.die().await;
    }

    /// The service and its port with this number, while it runs.
    pub(crate) fn port(&self, number: u16) -> Option<(Embedded, DevicePort)> {
        let config = self.config().listen;
        let is = |address: SocketAddr| address.port() == number;
        let port = match number {
            _ if is(config.bootstrap) => DevicePort::Bootstrap,
            _ if is(config.lwm2m) => DevicePort::Management,
            _ if is(config.artifacts) => DevicePort::Artifacts,
            _ => return None,
        };
        Some((self.embedded()?, port))
    }

    pub(crate) fn embedded(&self) -> Option<Embedded> {
        self.0.up.borrow().as_ref().map(|up| up.embedded.clone())
    }

    /// Runs a part of the service that ends with it.
    pub(crate) fn adopt(&self, part: impl Future<Output = ()> + 'static) {
        if let Some(up) = self.0.up.borrow_mut().as_mut() {
            up.tasks.push(self.0.tasks.spawn(Waits::Threads, part));
        }
    }

    /// Asks the REST API.
    pub(crate) async fn request(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, Gone> {
        let embedded = self.embedded().ok_or(Gone)?;
        let (answer, answered) = oneshot::channel();
        self.adopt(async move {
            if let Ok(response) = Box::pin(embedded.request(request)).await {
                drop(answer.send(response));
            }
        });
        answered.await.map_err(|_| Gone)
    }
}
