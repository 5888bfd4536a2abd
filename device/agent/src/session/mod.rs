//! Drives the LwM2M client of one device: performs its steps over the network and tells it what happened. The client decides when and
//! whom to call; a session knows certificates, time and what the other tasks report.

mod certificates;
mod line;
mod sources;

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use protocol_lwm2m::{
    client::{Client, Fact, Settings, Step, Target},
    coap::{Limits, Message},
    object::{Path, ids},
    time::Millis,
};
use protocol_types::{Heartbeat, SignedTime, UpdateStatus, socket::ApplicationStatus};
use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    clock::Present,
    configuration::Told,
    connection::{CoapConnection, ConnectionError},
    dial::DialError,
    enrolment::Enrolment,
    est,
    facts::{Facts, set},
    identity::Identity,
    jobs::Ledger,
    network::Network,
    objects::{About, DeviceObjects},
    operational::Operational,
    orders::Orders,
    random,
    renewal::Due,
    rotation,
    state::DurableState,
    supervision,
    tls::{Trust, TrustError},
    trusted_time::TimeError,
};
use certificates::{Enrolling, Rotating, UnusedKeys};
use line::Line;

/// What one connection may cost.
const LIMITS: Limits = Limits {
    max_message: 16 * 1024,
    max_body: 64 * 1024,
    max_exchanges: 8,
    max_inbound: 8,
    exchange_timeout: Duration::from_secs(30),
};
/// Wait after a first failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long a device that said goodbye before a restart waits for it.
const RESTART_LIMIT: Duration = Duration::from_secs(60);
/// Least time between two reports: each carries the whole state, so news in between is not lost but told with the next.
const REPORT_PACE: Duration = Duration::from_millis(200);

/// Numbers of the requests that the session makes through the client.
const AUTHORITY: u64 = 1;
const CERTIFICATE: u64 = 2;
const RENEWAL: u64 = 3;

/// What a session is about.
#[derive(Debug)]
pub struct Device {
    /// Who the device is.
    pub identity: Identity,
    /// Whom it trusts.
    pub trust: Trust,
    /// Where it keeps what it must not forget.
    pub state: Arc<dyn DurableState>,
    /// What its tasks tell each other.
    pub facts: Arc<Facts>,
    /// How it reaches the service.
    pub network: Arc<dyn Network>,
}

/// The LwM2M side of one device.
pub struct Session {
    device: Device,
    settings: Settings,
    client: Client,
    objects: DeviceObjects,
    operational: Option<Operational>,
    line: Line,
    /// When the client wants to hear that time passed.
    wake: Option<Millis>,
    /// Facts that steps brought about, in order.
    due: VecDeque<Fact>,
    enrolling: Option<Enrolling>,
    rotating: Option<Rotating>,
    unused_keys: UnusedKeys,
    /// Whether the line was made with a key that is no longer in use.
    leaves_line: bool,
    asking: Option<Pending<Result<SignedTime, TimeError>>>,
    time_retry: Backoff,
    heard: Heard,
    heartbeat: Heartbeat,
    stopped: bool,
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What other tasks report.
struct Heard {
    status: watch::Receiver<Option<UpdateStatus>>,
    applications: watch::Receiver<Vec<ApplicationStatus>>,
    orders: watch::Receiver<Orders>,
    restarting: watch::Receiver<bool>,
    told: watch::Receiver<Option<Told>>,
    metrics: watch::Receiver<u64>,
    jobs: watch::Receiver<Option<Ledger>>,
    reconnect: watch::Receiver<u64>,
    rotation: watch::Receiver<rotation::Wish>,
    time_wanted: watch::Receiver<bool>,
    /// The number in `reconnect` that the line has followed.
    followed: u64,
    /// The service hears of news no earlier than this.
    next_report: Instant,
}

/// Everything that can wake a session.
enum Event {
    Stop,
    Restarting,
    Dialed(Result<Box<CoapConnection>, DialError>),
    Received(Result<Message, ConnectionError>),
    TimePassed,
    Reported,
    Measured,
    Ordered,
    Reconnect,
    Rotate,
    LookAtCertificate,
    TimeWanted,
    Time(Result<SignedTime, TimeError>),
    Beat,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("device", &self.device).field("client", &self.client).finish_non_exhaustive()
    }
}

impl Session {
    /// A session of `device`, enrolled before or not; waits between tries grow up to `retry_ceiling`.
    pub fn new(
        device: Device,
        about: About,
        enrolment: Option<Enrolment>,
        retry_ceiling: Duration,
    ) -> Result<Self, TrustError> {
        let mut settings = Settings::new(device.identity.document().endpoint.clone(), random::number());
        settings.limits = LIMITS;
        settings.first_retry = FIRST_RETRY.min(retry_ceiling);
        settings.last_retry = retry_ceiling;
        let facts = &device.facts;
        let heard = Heard {
            status: facts.status.subscribe(),
            applications: facts.applications.subscribe(),
            orders: facts.orders.subscribe(),
            restarting: facts.restarting.subscribe(),
            told: facts.told.subscribe(),
            metrics: facts.metrics.due(),
            jobs: facts.jobs.subscribe(),
            followed: *facts.reconnect.borrow(),
            reconnect: facts.reconnect.subscribe(),
            rotation: facts.rotation.wishes(),
            time_wanted: facts.time_wanted.subscribe(),
            next_report: Instant::now(),
        };
        let mut objects = DeviceObjects::new(about, facts.clone(), device.state.clone(), device.trust.clock().clone());
        if let Some(enrolment) = &enrolment {
            objects.enrolled(enrolment.clone());
        }
        let operational =
            enrolment.map(|enrolment| Operational::new(enrolment, &device.identity, &device.trust)).transpose()?;
        let accounts = operational.as_ref().map(|operational| operational.enrolment().accounts.clone());
        let session = Self {
            client: Client::new(settings.clone(), accounts),
            settings,
            objects,
            operational,
            line: Line::Idle,
            wake: None,
            due: VecDeque::new(),
            enrolling: None,
            rotating: None,
            unused_keys: UnusedKeys::Possible,
            leaves_line: false,
            asking: None,
            time_retry: Self::time_retry(),
            heard,
            heartbeat: Heartbeat::default(),
            stopped: false,
            device,
        };
        session.point_source();
        Ok(session)
    }

    /// Shows a manager that waits `patience` for a sign of life that this loop turns.
    #[must_use]
    pub fn watched(mut self, patience: Option<Duration>) -> Self {
        self.heartbeat = Heartbeat::new(patience);
        self
    }

    /// Keeps the device enrolled and registered until `stop`, then says goodbye to the service.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.serve(&stop).await;
            if stop.is_cancelled() {
                return;
            }
            // It said goodbye because the device restarts. If nothing comes of that, it comes back.
            let mut restarting = self.device.facts.restarting.subscribe();
            let still_here = async {
                tokio::select! {
                    _ = restarting.wait_for(|restarting| !restarting) => {}
                    () = sleep(RESTART_LIMIT) => {}
                }
            };
            if stop.run_until_cancelled(still_here).await.is_none() {
                return;
            }
            set(&self.device.facts.restarting, false);
            self.settings.seed = random::number();
            let accounts = self.operational.as_ref().map(|operational| operational.enrolment().accounts.clone());
            self.client = Client::new(self.settings.clone(), accounts);
            (self.line, self.wake, self.stopped) = (Line::Idle, None, false);
        }
    }

    /// From the client's first fact to its last step.
    async fn serve(&mut self, stop: &CancellationToken) {
        let mut stopping = false;
        self.tell(Fact::Started).await;
        while !self.stopped {
            if self.heartbeat.beat(self.monotonic()) {
                supervision::tell(NotifyState::Watchdog);
            }
            let event = self.next(stop, stopping).await;
            stopping |= matches!(event, Event::Stop | Event::Restarting);
            for fact in self.understand(event).await {
                self.tell(fact).await;
            }
        }
    }

    /// Waits for whatever comes first.
    async fn next(&mut self, stop: &CancellationToken, stopping: bool) -> Event {
        let (now, monotonic) = (self.now(), self.monotonic());
        let look = self.operational.as_ref().map(|operational| {
            match operational.renewal().due(self.device.trust.clock().present(), monotonic) {
                Due::In(wait) => wait,
                Due::Renew | Due::Expired => Duration::ZERO,
            }
        });
        let renewing = self.operational.as_ref().is_some_and(|operational| operational.renewal().is_under_way());
        let Self { line, wake, asking, heard, client, heartbeat, rotating, .. } = self;
        let registered = client.is_registered();
        let may_rotate = registered && rotating.is_none() && !renewing;
        let beat = heartbeat.wait(monotonic);
        tokio::select! {
            () = stop.cancelled(), if !stopping => Event::Stop,
            Ok(_) = heard.restarting.wait_for(|restarting| *restarting), if !stopping => Event::Restarting,
            event = line.event() => event,
            Ok(()) = not_before(heard.next_report, heard.status.changed()) => Event::Reported,
            Ok(()) = not_before(heard.next_report, heard.applications.changed()) => Event::Reported,
            Ok(()) = not_before(heard.next_report, heard.told.changed()) => Event::Reported,
            Ok(()) = heard.metrics.changed() => Event::Measured,
            Ok(()) = not_before(heard.next_report, heard.jobs.changed()) => Event::Reported,
            Ok(()) = heard.orders.changed() => Event::Ordered,
            Ok(()) = heard.reconnect.changed() => Event::Reconnect,
            Ok(()) = heard.rotation.changed(), if may_rotate => Event::Rotate,
            Ok(()) = heard.time_wanted.changed() => Event::TimeWanted,
            told = pending(asking) => Event::Time(told),
            () = sleep_for(wake.map(|wake| wake.since(now))) => Event::TimePassed,
            () = sleep_for(look), if registered => Event::LookAtCertificate,
            () = sleep_for(beat) => Event::Beat,
        }
    }

    /// What an event means to the client.
    async fn understand(&mut self, event: Event) -> Vec<Fact> {
        match event {
            Event::Stop | Event::Restarting => vec![Fact::Stop],
            Event::Dialed(dialed) => vec![self.dialed(dialed)],
            Event::Received(Ok(message)) => vec![Fact::Received(message)],
            Event::Received(Err(e)) => vec![self.line_broke(&e).await],
            Event::TimePassed => {
                // The client names a time once; it stands until it has come.
                let now = self.now();
                self.wake = self.wake.filter(|wake| *wake > now);
                vec![Fact::TimePassed]
            }
            Event::Reported => {
                self.heard.next_report = Instant::now() + REPORT_PACE;
                self.heard.status.mark_unchanged();
                self.heard.applications.mark_unchanged();
                self.heard.told.mark_unchanged();
                self.heard.jobs.mark_unchanged();
                changed(self.objects.refresh())
            }
            Event::Measured => vec![Fact::Changed(Path::resource(ids::METRICS, 0, ids::metrics::SAMPLES))],
            Event::Ordered => {
                self.heard.orders.mark_unchanged();
                self.point_source();
                self.ask_time_if_needed();
                Vec::new()
            }
            Event::Reconnect => {
                self.heard.followed = *self.heard.reconnect.borrow_and_update();
                vec![self.hang_up().await]
            }
            Event::Rotate => self.rotate(),
            Event::LookAtCertificate => self.look_at_certificate(),
            // The loop has turned, which is all that it is for.
            Event::Beat => Vec::new(),
            Event::TimeWanted => {
                self.ask_time_if_needed();
                Vec::new()
            }
            Event::Time(told) => {
                self.asking = None;
                self.learn(told);
                Vec::new()
            }
        }
    }

    /// Tells the client a fact, performs its steps, and tells it what came of them.
    async fn tell(&mut self, fact: Fact) {
        self.due.push_back(fact);
        while let Some(fact) = self.due.pop_front() {
            for step in self.client.on(self.now(), fact, &mut self.objects) {
                self.perform(step).await;
            }
            if let Line::Open(connection) = &mut self.line
                && let Err(e) = connection.flush().await
            {
                let fact = self.line_broke(&e).await;
                self.due.push_back(fact);
            }
        }
    }

    async fn perform(&mut self, step: Step) {
        match step {
            Step::Send(message) => {
                if let Line::Open(connection) = &mut self.line {
                    connection.queue(&message);
                }
            }
            Step::Dial(target) => self.dial(&target),
            Step::Close => {
                if let Line::Open(connection) = std::mem::replace(&mut self.line, Line::Idle) {
                    connection.close().await;
                }
            }
            Step::WakeAt(at) => self.wake = Some(at),
            Step::BootstrapDone(accounts) => {
                tracing::info!("bootstrapped, asking for a certificate");
                self.enrolling = Some(Enrolling { accounts, authority: None });
                self.due.push_back(Fact::Request { id: AUTHORITY, request: est::ask_authority() });
            }
            Step::AccountsChanged(accounts) => self.accounts_changed(accounts),
            Step::Registered => {
                tracing::info!("registered with the service");
                set(&self.device.facts.registered_after, self.heard.followed);
                set(&self.device.facts.registered, true);
                self.device.facts.rotation.settle(Ok(()));
                self.remove_unused_keys();
                self.ask_time_if_needed();
            }
            Step::Unregistered => {
                tracing::info!("no longer registered with the service");
                set(&self.device.facts.registered, false);
            }
            Step::Refused { by, code, diagnostic } => {
                let by = if by == Target::Bootstrap { "bootstrap" } else { "management" };
                tracing::warn!(by, %code, diagnostic, "the service refused this device");
            }
            Step::Answered { id, result } => {
                self.answered(id, result);
                if std::mem::take(&mut self.leaves_line) {
                    let fact = self.hang_up().await;
                    self.due.push_back(fact);
                }
            }
            Step::Stopped => self.stopped = true,
        }
    }

    fn present(&self) -> Present {
        self.device.trust.clock().present()
    }

    fn monotonic(&self) -> Duration {
        self.device.trust.clock().monotonic()
    }

    fn now(&self) -> Millis {
        Millis::default().plus(self.monotonic())
    }
}

/// The end of work that may be under way.
async fn pending<T>(work: &mut Option<Pending<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// A wait, or none at all.
async fn sleep_for(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// News, but no earlier than `time`.
async fn not_before<T>(time: Instant, news: impl Future<Output = T>) -> T {
    sleep_until(time).await;
    news.await
}

/// One fact for each instance with news, and one for the list of applications, which may have changed.
fn changed(paths: Vec<Path>) -> Vec<Fact> {
    let mut coarse: Vec<_> = paths
        .iter()
        .map(|path| if path.ids().first() == Some(&ids::SOFTWARE) { path.upper(1) } else { path.upper(2) })
        .collect();
    coarse.dedup();
    coarse.into_iter().map(Fact::Changed).collect()
}
