//! Drives the LwM2M client of one device: performs its steps over TLS and tells it what happened. The client decides when and
//! whom to call; this file knows certificates, time and what the other tasks report.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use protocol_lwm2m::{
    client::{Client, DialFailure, Fact, Settings, Step, Target},
    coap::{ExchangeError, Limits, Message, signal},
    object::{Accounts, Path, ids},
    time::Millis,
};
use protocol_types::{UnixSeconds, UpdateStatus, socket::ApplicationStatus};
use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    address::{Scheme, ServerAddress},
    cause::Chain,
    clock::Present,
    connection::{CoapConnection, ConnectionError},
    dial::{DialError, Verdict, dial},
    enrolment::Enrolment,
    est,
    facts::{Facts, set},
    identity::Identity,
    objects::{About, DeviceObjects},
    operational::Operational,
    orders::Orders,
    random,
    relay::Source,
    renewal::Due,
    state::DurableState,
    tls::{ALPN_COAP, ALPN_HTTP, Trust, TrustError, Validity},
    trusted_time::{TimeError, ask_time},
};

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
    asking: Option<Pending<Result<UnixSeconds, TimeError>>>,
    heard: Heard,
    stopped: bool,
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The one connection that the client uses.
enum Line {
    Idle,
    Dialing(Pending<Result<Box<CoapConnection>, DialError>>),
    Open(Box<CoapConnection>),
}

/// An enrolment on the bootstrap connection.
struct Enrolling {
    accounts: Accounts,
    authority: Option<CertificateDer<'static>>,
}

/// What other tasks report.
struct Heard {
    status: watch::Receiver<Option<UpdateStatus>>,
    applications: watch::Receiver<Vec<ApplicationStatus>>,
    orders: watch::Receiver<Orders>,
    restarting: watch::Receiver<bool>,
}

/// Everything that can wake a session.
enum Event {
    Stop,
    Restarting,
    Dialed(Result<Box<CoapConnection>, DialError>),
    Received(Result<Message, ConnectionError>),
    TimePassed,
    Reported,
    Ordered,
    LookAtCertificate,
    Time(Result<UnixSeconds, TimeError>),
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
        };
        let objects = DeviceObjects::new(about, facts.clone(), device.state.clone(), device.trust.clock().clone());
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
            asking: None,
            heard,
            stopped: false,
            device,
        };
        session.point_source();
        Ok(session)
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
        let Self { line, wake, asking, heard, client, .. } = self;
        let registered = client.is_registered();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !stopping => Event::Stop,
            Ok(_) = heard.restarting.wait_for(|restarting| *restarting), if !stopping => Event::Restarting,
            event = line.event() => event,
            Ok(()) = heard.status.changed() => Event::Reported,
            Ok(()) = heard.applications.changed() => Event::Reported,
            Ok(()) = heard.orders.changed() => Event::Ordered,
            time = pending(asking) => Event::Time(time),
            () = sleep_for(wake.map(|wake| wake.since(now))) => Event::TimePassed,
            () = sleep_for(look), if registered => Event::LookAtCertificate,
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
                self.wake = None;
                vec![Fact::TimePassed]
            }
            Event::Reported => {
                self.heard.status.mark_unchanged();
                self.heard.applications.mark_unchanged();
                changed(self.objects.refresh())
            }
            Event::Ordered => {
                self.heard.orders.mark_unchanged();
                self.point_source();
                self.ask_time_if_lost();
                Vec::new()
            }
            Event::LookAtCertificate => self.look_at_certificate(),
            Event::Time(time) => {
                self.asking = None;
                self.learn(time);
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
                set(&self.device.facts.registered, true);
                self.ask_time_if_lost();
            }
            Step::Unregistered => {
                tracing::info!("no longer registered with the service");
                set(&self.device.facts.registered, false);
            }
            Step::Refused { by, code, diagnostic } => {
                let by = if by == Target::Bootstrap { "bootstrap" } else { "management" };
                tracing::warn!(by, %code, diagnostic, "the service refused this device");
            }
            Step::Answered { id, result } => self.answered(id, result),
            Step::Stopped => self.stopped = true,
        }
    }

    // Connections.

    fn dial(&mut self, target: &Target) {
        let (address, tls) = match self.destination(target) {
            Ok(destination) => destination,
            Err(fact) => return self.due.push_back(fact),
        };
        tracing::debug!(%address, "dialing");
        let limit = usize::try_from(LIMITS.max_message).unwrap_or(usize::MAX);
        self.line = Line::Dialing(Box::pin(async move {
            let stream = dial(&address, tls).await?;
            Ok(Box::new(CoapConnection::new(stream, limit)))
        }));
    }

    /// Address and TLS of a target, or what the client must hear instead.
    fn destination(&self, target: &Target) -> Result<(ServerAddress, Arc<rustls::ClientConfig>), Fact> {
        let identity = &self.device.identity;
        let unusable = || Fact::DialFailed(DialFailure::Unauthorized);
        match target {
            Target::Bootstrap => {
                let tls = self.device.trust.client(identity.factory().clone(), ALPN_COAP, Validity::Strict);
                let tls = tls.map_err(|e| {
                    tracing::error!(error = %Chain(&e), "TLS cannot be configured for bootstrap");
                    unusable()
                })?;
                Ok((identity.bootstrap().clone(), tls))
            }
            Target::Management { uri, .. } => {
                let operational = self.operational.as_ref().ok_or(Fact::BootstrapAgain)?;
                if operational.is_expired(self.device.trust.clock().present()) {
                    tracing::warn!("the operational certificate has expired, enrolling anew");
                    return Err(Fact::BootstrapAgain);
                }
                let address: ServerAddress = uri.parse().map_err(|e| {
                    tracing::error!(error = %Chain(&e), "the management server has no usable address");
                    unusable()
                })?;
                if address.scheme() != Scheme::CoapsTcp {
                    tracing::error!(%address, "the management server is not one of CoAP over TLS");
                    return Err(unusable());
                }
                Ok((address, operational.management().clone()))
            }
        }
    }

    fn dialed(&mut self, dialed: Result<Box<CoapConnection>, DialError>) -> Fact {
        let facts = &self.device.facts;
        let error = match dialed {
            Ok(connection) => {
                set(&facts.service_answers, true);
                if let Some(address) = connection.local_address() {
                    self.objects.connected_from(address);
                }
                self.line = Line::Open(connection);
                return Fact::Connected;
            }
            Err(error) => error,
        };
        self.line = Line::Idle;
        set(&facts.service_answers, error.answered());
        tracing::warn!(error = %Chain(&error), "the service was not reached");
        match error.verdict() {
            Verdict::TryAgain => Fact::DialFailed(DialFailure::Unreachable),
            Verdict::CertificateRefused | Verdict::ServerUntrusted => Fact::DialFailed(DialFailure::Unauthorized),
            Verdict::TimeDoubtful => {
                // The service may be right and this clock wrong: ask, and do not take it for a refusal.
                self.ask_time();
                Fact::DialFailed(DialFailure::Unreachable)
            }
        }
    }

    /// The connection ended by itself; it is dropped, and the client hears why.
    async fn line_broke(&mut self, error: &ConnectionError) -> Fact {
        let line = std::mem::replace(&mut self.line, Line::Idle);
        if let (Line::Open(mut connection), ConnectionError::Wire(e)) = (line, error) {
            // RFC 8323, section 5.6: say why before hanging up.
            connection.queue(&signal::abort(&e.to_string()));
            connection.close().await;
        }
        tracing::warn!(error = %Chain(error), "the connection to the service ended");
        match error.verdict() {
            Verdict::CertificateRefused => Fact::DialFailed(DialFailure::Unauthorized),
            Verdict::TryAgain | Verdict::ServerUntrusted | Verdict::TimeDoubtful => Fact::Lost,
        }
    }

    // Certificates.

    fn answered(&mut self, id: u64, result: Result<Message, ExchangeError>) {
        let answer = est::certificate(result);
        let next = match id {
            AUTHORITY => answer.and_then(|authority| {
                let request = est::ask_certificate(&self.device.identity)?;
                self.enrolling.iter_mut().for_each(|enrolling| enrolling.authority = Some(authority.clone()));
                Ok(Fact::Request { id: CERTIFICATE, request })
            }),
            CERTIFICATE => answer.and_then(|issued| self.enrolled(issued)),
            _ => {
                if let Err(e) = answer.and_then(|issued| self.renewed(issued)) {
                    tracing::warn!(error = %Chain(&e), "the operational certificate was not renewed");
                    let monotonic = self.monotonic();
                    self.operational.iter_mut().for_each(|it| it.renewal_mut().failed(monotonic, random::number()));
                }
                return;
            }
        };
        let fact = next.unwrap_or_else(|e| {
            tracing::warn!(error = %Chain(&e), "no operational certificate was issued");
            self.enrolling = None;
            Fact::EnrolFailed
        });
        self.due.push_back(fact);
    }

    fn enrolled(&mut self, issued: CertificateDer<'static>) -> Result<Fact, est::EstError> {
        let Some(Enrolling { accounts, authority }) = self.enrolling.take() else { return Ok(Fact::EnrolFailed) };
        let chain = est::accept(issued, authority.as_ref(), &self.device.identity, self.present())?;
        tracing::info!("operational certificate issued");
        self.take_up(Enrolment { accounts, chain });
        Ok(Fact::Enrolled)
    }

    fn renewed(&mut self, issued: CertificateDer<'static>) -> Result<(), est::EstError> {
        let chain = est::accept(issued, None, &self.device.identity, self.present())?;
        let accounts = self.client.accounts().cloned().unwrap_or_default();
        tracing::info!("operational certificate renewed");
        self.take_up(Enrolment { accounts, chain });
        Ok(())
    }

    /// Keeps an enrolment and uses it from the next connection on.
    fn take_up(&mut self, enrolment: Enrolment) {
        let clock = self.device.trust.clock();
        // The service issued it just now, so its first day has come.
        clock.raise_floor(enrolment.validity().not_before);
        let kept = self.device.state.keep_enrolment(&enrolment);
        if let Err(e) = kept.and_then(|()| self.device.state.keep_floor(clock.floor())) {
            tracing::error!(error = %Chain(&e), "the enrolment could not be kept; a restart will enrol again");
        }
        match Operational::new(enrolment, &self.device.identity, &self.device.trust) {
            Ok(operational) => self.operational = Some(operational),
            Err(e) => tracing::error!(error = %Chain(&e), "TLS cannot be configured with the issued certificate"),
        }
        self.point_source();
    }

    fn accounts_changed(&mut self, accounts: Accounts) {
        let Some(operational) = &mut self.operational else { return };
        operational.set_accounts(accounts);
        if let Err(e) = self.device.state.keep_enrolment(operational.enrolment()) {
            tracing::error!(error = %Chain(&e), "changed accounts could not be kept");
        }
    }

    fn look_at_certificate(&mut self) -> Vec<Fact> {
        let (present, monotonic) = (self.present(), self.monotonic());
        let Some(operational) = &mut self.operational else { return Vec::new() };
        match operational.renewal().due(present, monotonic) {
            Due::In(_) => Vec::new(),
            Due::Expired => {
                tracing::warn!("the operational certificate has expired, enrolling anew");
                vec![Fact::BootstrapAgain]
            }
            Due::Renew => match est::ask_renewal(&self.device.identity) {
                Ok(request) => {
                    operational.renewal_mut().asked();
                    vec![Fact::Request { id: RENEWAL, request }]
                }
                Err(e) => {
                    tracing::error!(error = %Chain(&e), "cannot ask for a new operational certificate");
                    operational.renewal_mut().failed(monotonic, random::number());
                    Vec::new()
                }
            },
        }
    }

    // Time and sources.

    /// Tells the relay where bytes come from, as far as that is known.
    fn point_source(&self) {
        let address = self.device.facts.orders.borrow().artifacts.clone();
        let source = match (address, &self.operational) {
            (Some(address), Some(operational)) => Source::Server { address, tls: operational.artifacts().clone() },
            _ => Source::Unknown,
        };
        self.device.facts.source.send_if_modified(|old| {
            let news = !old.is_same(&source);
            if news {
                *old = source;
            }
            news
        });
    }

    fn ask_time_if_lost(&mut self) {
        if self.client.is_registered() && matches!(self.present(), Present::AtLeast(_)) {
            self.ask_time();
        }
    }

    fn ask_time(&mut self) {
        let identity = &self.device.identity;
        let Some(server) = self.device.facts.orders.borrow().artifacts.clone() else { return };
        if self.asking.is_some() {
            return;
        }
        let credential = self.operational.as_ref().map_or_else(|| identity.factory().clone(), Operational::credential);
        let key = identity.time_key().clone();
        match self.device.trust.client(credential, ALPN_HTTP, Validity::ForTime) {
            Ok(tls) => self.asking = Some(Box::pin(async move { ask_time(&server, tls, &key).await })),
            Err(e) => tracing::error!(error = %Chain(&e), "TLS cannot be configured for asking the time"),
        }
    }

    fn learn(&mut self, time: Result<UnixSeconds, TimeError>) {
        match time {
            Ok(time) => {
                tracing::info!(%time, "the service told the time");
                let clock = self.device.trust.clock();
                clock.learn(time);
                if let Err(e) = self.device.state.keep_floor(clock.floor()) {
                    tracing::error!(error = %Chain(&e), "the time could not be kept");
                }
                set(&self.device.facts.signed_time, Some(time));
            }
            Err(e) => tracing::warn!(error = %Chain(&e), "the service did not tell the time"),
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

impl Line {
    /// What happens on the line next; may be dropped and called again.
    async fn event(&mut self) -> Event {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Dialing(dialing) => Event::Dialed(dialing.await),
            Self::Open(connection) => Event::Received(connection.receive().await),
        }
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

/// One fact for each instance with news, and one for the list of applications, which may have changed.
fn changed(paths: Vec<Path>) -> Vec<Fact> {
    let mut coarse: Vec<_> = paths
        .iter()
        .map(|path| if path.ids().first() == Some(&ids::SOFTWARE) { path.upper(1) } else { path.upper(2) })
        .collect();
    coarse.dedup();
    coarse.into_iter().map(Fact::Changed).collect()
}
