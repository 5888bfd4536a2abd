//! Brings the parts together: hears peers, worker and keepers one event after the other, and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use protocol_types::{
    AppName, Digest, Heartbeat, LogLevel, Reason, ReasonCode,
    socket::{
        AgentToApps, ApplicationState, ApplicationStatus, AppsSettings, AppsToAgent, AppsToUpdater, MAX_LOG,
        UpdaterToApps,
    },
};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::{
    image::Platform,
    limits::Limits,
    prepare::Preparer,
    refusal::reason,
    socket::{AgentLink, Bringer, Heard, Outbox},
    store::{Keep, Store, StoredApplication, StoredSet},
    supervise::{Change, Keeper, Kept, Report, Roster, Workshop, end_of_log},
    worker::{Tools, Wish, Work, Worker},
};

/// Events that may wait for the service.
const QUEUE: usize = 256;
/// How long stopping may take: whoever supervises this process kills it after ten seconds.
const STOP_LIMIT: Duration = Duration::from_secs(9);

/// Without anybody who watches, the loop wakes this often for nothing.
const IDLE: Duration = Duration::from_secs(3600);

/// Everything that wakes the service.
#[derive(Debug)]
pub enum Event {
    /// A peer did something.
    Heard(Heard),
    /// The worker has news.
    Work(Work),
    /// An application has news.
    Report(Report),
    /// The process shall end.
    Stop,
}

/// A way to wake the service; anybody may hold one.
#[derive(Clone, Debug)]
pub struct Bell(SyncSender<Event>, Arc<AgentLink>);

impl Bell {
    /// Tells the service; waits while too much is waiting.
    pub fn ring(&self, event: Event) {
        match event {
            // Goes straight to the one who waits for it.
            Event::Heard(Heard::Bringer(bringer, AgentToApps::Fetched(fetched))) => self.1.answered(bringer, fetched),
            // Fails only when the service has ended.
            event => drop(self.0.send(event)),
        }
    }
}

/// The running service.
pub struct Service {
    bell: Bell,
    events: Receiver<Event>,
    store: Arc<Store>,
    platform: Platform,
    limits: Limits,
    workshop: Workshop,
    link: Arc<AgentLink>,
    worker: Worker,
    updater: Option<Outbox>,
    roster: Roster,
    /// The set that shall run as soon as it is prepared.
    to_run: Option<Digest>,
    /// The sets that the updater named last and those that came since, until nothing uses what they do not need.
    to_retain: Option<BTreeSet<Digest>>,
    keepers: BTreeMap<AppName, Keeper>,
    statuses: BTreeMap<AppName, ApplicationStatus>,
    told: Option<(Option<Digest>, Vec<ApplicationStatus>)>,
    settings: AppsSettings,
    log_level: LogLevels,
}

/// Changes how much this process says; without a level, as it was started.
pub type LogLevels = Box<dyn Fn(Option<LogLevel>)>;

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("roster", &self.roster).finish_non_exhaustive()
    }
}

impl Service {
    /// Builds the service; nothing runs yet but the worker, which has nothing to do.
    pub fn build(
        store: Store,
        (platform, limits): (Platform, Limits),
        workshop: Workshop,
        log_level: LogLevels,
    ) -> std::io::Result<Self> {
        let (ring, events) = sync_channel(QUEUE);
        let link = Arc::new(AgentLink::default());
        let bell = Bell(ring, Arc::clone(&link));
        let store = Arc::new(store);
        let tools = Tools {
            store: Arc::clone(&store),
            link: Arc::clone(&link),
            platform: platform.clone(),
            limits,
            random: workshop.random,
        };
        let say = bell.clone();
        let worker = Worker::start(tools, move |work| say.ring(Event::Work(work)))?;
        Ok(Self {
            bell,
            events,
            store,
            platform,
            limits,
            workshop,
            link,
            worker,
            updater: None,
            roster: Roster::default(),
            to_run: None,
            to_retain: None,
            keepers: BTreeMap::new(),
            statuses: BTreeMap::new(),
            told: None,
            settings: AppsSettings::default(),
            log_level,
        }
        .remembering())
    }

    /// With the settings that the agent handed on last, until it says others.
    fn remembering(mut self) -> Self {
        self.settings = self.store.settings.load().unwrap_or_else(|error| {
            warn!(reason = %reason(&error), "the settings of before cannot be read; the agent hands them on again");
            AppsSettings::default()
        });
        (self.log_level)(self.settings.log_level);
        let changes = self.roster.configure(&self.settings.applications);
        self.apply(changes);
        self
    }

    /// Keeps to other settings; an application whose own settings or secrets have changed is started anew with them.
    fn settings(&mut self, settings: AppsSettings) {
        if settings == self.settings {
            return;
        }
        (self.log_level)(settings.log_level);
        if let Err(error) = self.store.settings.save(&settings) {
            // The agent hands them on again after a restart.
            warn!(reason = %reason(&error), "settings cannot be kept");
        }
        let changes = self.roster.configure(&settings.applications);
        self.settings = settings;
        self.apply(changes);
    }

    /// A way to wake it.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Works until it is asked to stop and every application has stopped.
    pub fn run(mut self) {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(sd_notify::watchdog_enabled());
        tell_manager(NotifyState::Ready);
        loop {
            if heartbeat.beat(start.elapsed()) {
                tell_manager(NotifyState::Watchdog);
            }
            match self.events.recv_timeout(heartbeat.wait(start.elapsed()).unwrap_or(IDLE)) {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => {
                    self.on(event);
                    self.tell();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.stop();
    }

    fn stop(mut self) {
        info!("stopping every application");
        let until = Instant::now() + STOP_LIMIT;
        let changes = self.roster.stop_all();
        self.apply(changes);
        while !self.roster.is_empty() {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Report(report)) => self.on_report(report),
                Ok(Event::Heard(_) | Event::Work(_) | Event::Stop) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    error!("some applications did not stop; the next start removes them");
                    return;
                }
            }
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Heard(heard) => self.on_heard(heard),
            Event::Work(work) => self.on_work(work),
            Event::Report(report) => self.on_report(report),
            Event::Stop => {}
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::BringerConnected(bringer, outbox) => {
                self.link.connected(bringer, outbox);
                if bringer == Bringer::Agent {
                    self.link.send(&AppsToAgent::Status(self.status()));
                }
                self.worker.poke();
            }
            Heard::BringerGone(bringer, connection) => self.link.disconnected(bringer, connection),
            Heard::Bringer(bringer, AgentToApps::Fetched(fetched)) => self.link.answered(bringer, fetched),
            Heard::Bringer(Bringer::Agent, AgentToApps::Settings(settings)) => self.settings(settings),
            Heard::Bringer(Bringer::Agent, AgentToApps::Log { id, application, max_bytes }) => {
                self.link.send(&AppsToAgent::Log { id, result: self.log(&application, max_bytes) });
            }
            Heard::Bringer(Bringer::Installer, AgentToApps::Settings(_) | AgentToApps::Log { .. }) => {
                warn!("an installer says what only the agent can know; ignored");
            }
            Heard::UpdaterConnected(outbox) => {
                if let Some(before) = self.updater.replace(outbox) {
                    before.close();
                }
                self.answer(&AppsToUpdater::Status { release: self.roster.release(), applications: self.status() });
            }
            Heard::UpdaterGone(connection) => {
                self.updater.take_if(|outbox| outbox.connection() == connection);
            }
            Heard::Updater(message) => self.on_updater(message),
        }
    }

    /// The end of what an application has printed.
    fn log(&self, application: &AppName, max_bytes: u32) -> Result<String, Reason> {
        match end_of_log(&self.workshop.logs, application, u64::from(max_bytes.min(MAX_LOG))) {
            Ok(Some(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(None) => {
                let why = format!("this device has never run an application `{application}`");
                Err(Reason::new(ReasonCode::NotFound, why))
            }
            Err(error) => {
                let why = format!("cannot read the log of application `{application}`: {error}");
                Err(Reason::new(ReasonCode::StorageFailed, why))
            }
        }
    }

    fn on_updater(&mut self, message: UpdaterToApps) {
        match message {
            UpdaterToApps::Prepare { release, applications } => match self.prepared(release, &applications) {
                Some(_) => self.answer(&AppsToUpdater::Prepared { release, refused: None }),
                None => self.worker.prepare(Wish { release, applications }),
            },
            UpdaterToApps::Run { release, applications } => match self.prepared(release, &applications) {
                Some(set) => {
                    self.worker.run(None);
                    self.switch(set);
                }
                None => {
                    self.to_run = Some(release);
                    self.worker.run(Some(Wish { release, applications }));
                }
            },
            UpdaterToApps::Retain { releases } => {
                self.to_retain = Some(releases.into_iter().collect());
                self.retain();
            }
        }
    }

    /// Frees what the updater does not need. Whatever it asks, what runs and what shall run stay; what an application on its way out
    /// uses goes when it is gone.
    fn retain(&mut self) {
        let Some(named) = &self.to_retain else { return };
        let sets = named.iter().copied().chain(self.roster.release()).chain(self.to_run).collect();
        self.worker.retain(Keep { sets, images: self.roster.images().collect(), ..Keep::default() });
        if !self.roster.is_stopping() && self.to_run.is_none() {
            self.to_retain = None;
        }
    }

    fn prepared(&mut self, release: Digest, applications: &[protocol_types::ApplicationSpec]) -> Option<StoredSet> {
        self.worker.protect(release);
        if let Some(named) = &mut self.to_retain {
            named.insert(release);
        }
        let preparer = Preparer { store: &self.store, platform: &self.platform, limits: &self.limits };
        preparer.prepared(release, applications)
    }

    fn on_work(&mut self, work: Work) {
        match work {
            Work::Progress(release, done, total) => self.answer(&AppsToUpdater::Preparing { release, done, total }),
            Work::Done(release, result) => {
                let refused = result.as_ref().err().cloned();
                self.answer(&AppsToUpdater::Prepared { release, refused });
                if self.to_run == Some(release) {
                    self.to_run = None;
                    if let Ok(set) = result {
                        self.switch(set);
                    }
                }
            }
        }
    }

    fn switch(&mut self, set: StoredSet) {
        self.to_run = None;
        if self.roster.release() != Some(set.release) {
            info!(release = %set.release, "this set runs from now on");
        }
        let changes = self.roster.run(set);
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let mut changes = std::collections::VecDeque::from(changes);
        while let Some(change) = changes.pop_front() {
            match change {
                Change::Stop(name) => {
                    self.statuses.remove(&name);
                    match self.keepers.get(&name) {
                        Some(keeper) => keeper.stop(),
                        None => changes.extend(self.roster.stopped(&name)),
                    }
                }
                Change::Start(application) => self.start(*application),
            }
        }
    }

    fn start(&mut self, application: StoredApplication) {
        let name = application.spec.name.clone();
        let mut status = waiting(&application);
        let rootfs = self.store.images.rootfs(&application.image);
        let bell = self.bell.clone();
        let report = move |report| bell.ring(Event::Report(report));
        let given = self.settings.applications.get(&name).cloned();
        match Keeper::start(self.workshop.clone(), application, (rootfs, given), report) {
            Ok(keeper) => drop(self.keepers.insert(name.clone(), keeper)),
            Err(error) => {
                warn!(application = %name, %error, "cannot keep the application");
                status.state = ApplicationState::Failed;
                status.reason =
                    Some(Reason::new(ReasonCode::Internal, format!("cannot keep application {name}: {error}")));
            }
        }
        self.statuses.insert(name, status);
    }

    fn on_report(&mut self, Report { name, kept }: Report) {
        match kept {
            Kept::Is { state, reason, restarts } => {
                // One that is being stopped has no entry any more, and its last words interest nobody.
                if let Some(status) = self.statuses.get_mut(&name) {
                    (status.state, status.reason, status.restarts) = (state, reason, restarts);
                }
            }
            Kept::Stuck(reason) => {
                error!(application = %name, %reason, "an application does not end; the others go on without waiting for it");
                let changes = self.roster.stuck(&name, reason);
                self.apply(changes);
            }
            Kept::Gone => {
                if let Some(keeper) = self.keepers.remove(&name) {
                    keeper.join();
                }
                let changes = self.roster.stopped(&name);
                self.apply(changes);
                self.retain();
            }
        }
    }

    /// How the wanted applications are, and those that do not end, wanted or not.
    fn status(&self) -> Vec<ApplicationStatus> {
        let stuck = self.roster.all_stuck().map(|(application, reason)| {
            let status = ApplicationStatus {
                state: ApplicationState::Failed,
                reason: Some(reason.clone()),
                ..waiting(application)
            };
            (&application.spec.name, status)
        });
        let mut stuck: BTreeMap<&AppName, ApplicationStatus> = stuck.collect();
        let wanted = self.roster.wanted().map(|wanted| match stuck.remove(&wanted.spec.name) {
            Some(status) => ApplicationStatus { digest: wanted.spec.digest, ..status },
            None => self.statuses.get(&wanted.spec.name).cloned().unwrap_or_else(|| waiting(wanted)),
        });
        let mut all: Vec<ApplicationStatus> = wanted.collect();
        all.extend(stuck.into_values());
        all
    }

    /// Tells both peers how things stand, if that changed.
    fn tell(&mut self) {
        let now = (self.roster.release(), self.status());
        if self.told.as_ref() == Some(&now) {
            return;
        }
        let (release, applications) = now.clone();
        self.link.send(&AppsToAgent::Status(applications.clone()));
        self.answer(&AppsToUpdater::Status { release, applications });
        self.told = Some(now);
    }

    fn answer(&self, message: &AppsToUpdater) {
        if let Some(updater) = &self.updater {
            updater.send(message);
        }
    }
}

fn waiting(application: &StoredApplication) -> ApplicationStatus {
    ApplicationStatus {
        name: application.spec.name.clone(),
        digest: application.spec.digest,
        state: ApplicationState::Waiting,
        restarts: 0,
        reason: None,
    }
}

/// Without a manager, as on the board `host`, nobody is told.
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager does not listen");
    }
}
