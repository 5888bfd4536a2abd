//! The management port: a device with an operational certificate registers, hears what it should run, and reports. Keeps
//! nothing that the store does not have; a connection that ends costs nothing but a new one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fleet_store::{DeviceEvent, Promise, StoreError};
use protocol_lwm2m::{
    coap::ExchangeError,
    formats::Entry,
    server::{Answer, Content, Ended, Fact, Operation, Registration, RequestError, Step},
};
use protocol_types::{Reason, Standing};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tracing::Span;

use super::{
    Attention, Devices,
    commands::Commands,
    configuration, errand_span,
    errands::{self, Errand, Errands, RELEASE},
    jobs,
    live::Live,
    metrics::{self, Measures},
    report,
    wire::Wire,
};
use crate::authority::CertificateFacts;

/// Least time between two reports: nobody may keep the disk busy for others.
pub(super) const REPORT_PACE: Duration = Duration::from_millis(100);
/// How long an older connection has to prove that there are two of the device.
const PROBE: Duration = Duration::from_secs(5);
/// A connection that the store has failed ends at the earliest after so long, and within so many milliseconds more: the devices of a
/// fleet do not come back all at once.
const AFTER_STORE: Duration = Duration::from_secs(5);
const AFTER_STORE_SPREAD_MS: u64 = 25_000;

/// One connection and what is left to do on it.
pub(super) struct Visit {
    pub(super) facts: CertificateFacts,
    /// Tells this connection from every other one of the device.
    pub(super) session: u64,
    pub(super) devices: Devices,
    pub(super) live: Arc<Live>,
    /// What the device has promised when it registered.
    pub(super) promise: Promise,
    /// Whether the device tells of its configuration on this registration.
    pub(super) tells_configuration: bool,
    /// How the device stands while it is registered here.
    pub(super) registered: Option<Standing>,
    pub(super) errands: Errands,
    pub(super) measures: Measures,
    pub(super) commands: Commands,
    /// The span of the errand that is under way.
    span: Span,
    /// When its presence was noted last.
    pub(super) heard: Instant,
    /// When the next registration and the next report are due at the earliest.
    pub(super) next_registration: Instant,
    pub(super) next_report: Instant,
    /// How often it asked for a certificate.
    pub(super) certificates: u8,
    /// When the connection ends because the device is elsewhere, or because the store has failed.
    leave_at: Option<Instant>,
    pub(super) is_over: bool,
}

/// Serves one connection to its end.
pub(super) async fn attend<S: AsyncRead + AsyncWrite + Unpin>(
    mut wire: Wire<S>,
    (facts, session): (CertificateFacts, u64),
    devices: Devices,
) {
    let stop = devices.fleet.stop.clone();
    let mut visit = Visit::new(facts, session, devices);
    let mut steps = VecDeque::from(wire.tell(Fact::Opened).await);
    loop {
        while let Some(step) = steps.pop_front() {
            if let Some(fact) = visit.act(step).await {
                steps.extend(wire.tell(fact).await);
            }
        }
        if !wire.is_open() {
            break;
        }
        if visit.is_over {
            steps.extend(wire.hang_up().await);
            continue;
        }
        if let Some(fact) = visit.next_errand().await {
            steps.extend(wire.tell(fact).await);
            continue;
        }
        tokio::select! {
            arrival = wire.arrival() => steps.extend(wire.tell_arrival(arrival).await),
            attention = visit.live.attention() => visit.look_at(attention).await,
            () = at(visit.leave_at) => visit.is_over = true,
            () = stop.cancelled() => visit.is_over = true,
        }
    }
    visit.leave().await;
    wire.close().await;
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Visit {
    fn new(facts: CertificateFacts, session: u64, devices: Devices) -> Self {
        Self {
            facts,
            session,
            devices,
            live: Arc::default(),
            promise: Promise::new(0, false),
            tells_configuration: false,
            registered: None,
            errands: Errands::default(),
            measures: Measures::new(),
            commands: Commands::new(),
            span: Span::none(),
            heard: Instant::now(),
            next_registration: Instant::now(),
            next_report: Instant::now(),
            certificates: 0,
            leave_at: None,
            is_over: false,
        }
    }

    /// Does what a step asks for; the fact that the session must hear of it.
    async fn act(&mut self, step: Step) -> Option<Fact> {
        match step {
            Step::Ask { ask, question } => return Some(Fact::Decided { ask, decision: self.decide(question).await }),
            Step::Registered(registration) => self.registered(&registration).await,
            Step::Answered { id, result } => self.answered(id, result).await,
            Step::Notified { path, entries, .. } if path == RELEASE => self.reported(&entries).await,
            Step::Notified { path, entries, .. } if path == configuration::CONFIGURATION => {
                self.configuration_reported(&entries).await;
            }
            Step::Notified { path, entries, .. } if path == metrics::SAMPLES => self.measured(&entries).await,
            Step::Notified { path, entries, .. } if path == jobs::JOB => self.job_reported(&entries).await,
            Step::Notified { id, entries, .. } if self.commands.observes(id) => self.observed(id, entries).await,
            Step::ObservationEnded { id, .. } if self.commands.observes(id) => self.observation_ended(id).await,
            Step::Updated(_) => self.awake(),
            Step::ObservationEnded { error, .. } => {
                self.over_if_silent(&error);
                let (identity, error) = (&self.facts.identity, crate::Chain(&error));
                tracing::warn!(account = %identity.account, device = %identity.endpoint, %error, "device ended its reports");
            }
            Step::Deregistered(Ended::Replaced) => {}
            Step::Deregistered(Ended::Deregistered | Ended::Expired | Ended::ConnectionLost) => self.leave().await,
            _ => {}
        }
        None
    }

    /// The device has heard that it is registered.
    async fn registered(&mut self, registration: &Registration) {
        let identity = &self.facts.identity;
        self.devices.live.enter(identity, &self.live);
        self.devices.fleet.metrics.registrations.inc();
        self.heard = Instant::now();
        self.errands.after_registration();
        self.tells_configuration = false;
        self.resume_commands().await;
        let identity = &self.facts.identity;
        tracing::info!(
            account = %identity.account, device = %identity.endpoint, lifetime = registration.lifetime, "device registered"
        );
        self.measures_from_now_on(registration);
        // What changed between the decision and the entry was told to nobody.
        self.look_at(Attention::STANDING).await;
    }

    /// The next thing that the service wants of the device, if it is free.
    async fn next_errand(&mut self) -> Option<Fact> {
        let may_order = self.registered? == Standing::Active;
        while let Some(errand) = self.errands.next(may_order) {
            if let Some((operation, generation)) = self.operation(errand).await {
                let id = self.errands.begin(errand, generation);
                self.span = errand_span::begin(&self.devices.fleet, &self.facts.identity, errand).await;
                return Some(Fact::Request { id, operation });
            }
        }
        None
    }

    async fn operation(&mut self, errand: Errand) -> Option<(Operation, u64)> {
        Some(match errand {
            Errand::FactoryReset => return self.reset().await,
            Errand::NameArtifactServer => (errands::name_artifact_server(self.devices.fleet.artifact_uri()), 0),
            Errand::WriteWish => return self.wish().await,
            Errand::Observe => (errands::observe(), 0),
            Errand::ReadNameplate => (errands::read_nameplate(), 0),
            Errand::WriteConfiguration => return self.configuration().await,
            Errand::ObserveConfiguration => (configuration::observe(), 0),
            Errand::WriteMetricsBudget => (metrics::write_budget(self.devices.fleet.config.metrics.bytes_per_day), 0),
            Errand::ObserveMetrics => (metrics::observe(), 0),
            Errand::AcknowledgeMetrics => (metrics::acknowledge(self.measures.kept_until), 0),
            Errand::Command => return self.command().await,
            Errand::ObserveJobs => (jobs::observe(), 0),
            Errand::Probe => (errands::probe(), 0),
        })
    }

    /// What the device should run, as the store has it at this moment.
    async fn wish(&mut self) -> Option<(Operation, u64)> {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        let read = async {
            let Some(wish) = account.desired_release(&identity.endpoint).await? else {
                return Ok::<_, StoreError>(None);
            };
            let consent = match &wish.release {
                // Whoever wrote this past the service asks nobody; the device judges the release by its signatures.
                Some(release) => account.asked_at_device(&release.rollout).await?,
                None => None,
            };
            // A device whose clock is wrong need not find out by itself that the time is over.
            let now = self.devices.fleet.clock.now();
            let consent = consent.filter(|consent| consent.deadline.is_none_or(|deadline| deadline > now));
            Ok(Some((errands::write_wish(wish.release.as_ref(), consent), wish.generation)))
        };
        match read.await {
            Ok(wish) => wish,
            Err(error) => {
                self.store_failed("the wish for a device was not read", &error);
                None
            }
        }
    }

    /// The order to forget its state, if an operator asked for that.
    async fn reset(&mut self) -> Option<(Operation, u64)> {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        match account.begin_reset(&identity.endpoint).await {
            Ok(asked) => asked.then(|| (errands::factory_reset(), 0)),
            Err(error) => {
                self.store_failed("a factory reset was not read", &error);
                None
            }
        }
    }

    /// A device that was silent for so long has not heard what was asked, and nobody asks again on this connection. One that ends costs
    /// nothing but a new one, on which everything is asked anew.
    fn over_if_silent(&mut self, error: &RequestError) {
        self.is_over |= matches!(error, RequestError::Exchange(ExchangeError::TimedOut));
    }

    async fn answered(&mut self, id: u64, result: Result<Answer, RequestError>) {
        let Some(under_way) = self.errands.answered(id) else { return };
        errand_span::end(std::mem::replace(&mut self.span, Span::none()), result.as_ref().err());
        if under_way.errand == Errand::Command {
            return self.command_answered((id, under_way.generation), result).await;
        }
        let identity = &self.facts.identity;
        let answer = match result {
            Ok(answer) => answer,
            Err(error) if under_way.errand == Errand::Probe => return self.probed(&error).await,
            Err(error) => {
                let errand = under_way.errand;
                tracing::warn!(
                    account = %identity.account, device = %identity.endpoint, ?errand, error = %crate::Chain(&error),
                    "device refused a request"
                );
                self.over_if_silent(&error);
                if let (Errand::WriteWish, RequestError::Refused { diagnostic, .. }) = (errand, &error) {
                    self.wish_refused(under_way.generation, report::refusal(diagnostic)).await;
                }
                if let (Errand::WriteConfiguration, RequestError::Refused { diagnostic, .. }) = (errand, &error) {
                    self.configuration_refused(under_way.generation, report::refusal(diagnostic)).await;
                }
                return;
            }
        };
        match (under_way.errand, answer.content) {
            (Errand::FactoryReset, _) => self.reset_taken().await,
            (Errand::WriteWish, _) => self.wish_taken(under_way.generation).await,
            (Errand::Observe, Content::Entries(entries)) => self.reported(&entries).await,
            (Errand::ReadNameplate, Content::Entries(entries)) => {
                let account = self.devices.fleet.store.account(&identity.account);
                if let Err(error) = account.set_nameplate(&identity.endpoint, &report::nameplate(&entries)).await {
                    self.store_failed("what a device says of itself was not recorded", &error);
                }
            }
            (Errand::WriteConfiguration, _) => self.configuration_taken(under_way.generation).await,
            (Errand::ObserveJobs, Content::Entries(entries)) => self.job_reported(&entries).await,
            (Errand::ObserveConfiguration, Content::Entries(entries)) => self.configuration_reported(&entries).await,
            (Errand::ObserveMetrics, Content::Entries(entries)) => self.measured(&entries).await,
            (Errand::Probe, _) => self.seen_twice().await,
            (
                Errand::NameArtifactServer
                | Errand::Observe
                | Errand::ReadNameplate
                | Errand::ObserveConfiguration
                | Errand::WriteMetricsBudget
                | Errand::ObserveMetrics
                | Errand::AcknowledgeMetrics
                | Errand::ObserveJobs
                | Errand::Command,
                _,
            ) => {}
        }
    }

    async fn reset_taken(&mut self) {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        match account.reset_taken(&identity.endpoint, self.devices.fleet.clock.now()).await {
            Ok(()) => tracing::info!(
                account = %identity.account, device = %identity.endpoint, "device took a factory reset"
            ),
            Err(error) => self.store_failed("that a device took a factory reset was not recorded", &error),
        }
    }

    /// Keeps the sealed recovery key that the device hands in with each report. One that is not known to be in one place hands in nothing.
    async fn escrow(&mut self, entries: &[Entry]) {
        let Some(sealed) = report::recovery_key(entries).filter(|_| self.registered == Some(Standing::Active)) else {
            return;
        };
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        if let Err(error) = account.keep_recovery_key(&identity.endpoint, &sealed, self.devices.fleet.clock.now()).await
        {
            self.store_failed("a recovery key was not kept", &error);
        }
    }

    async fn wish_taken(&mut self, generation: u64) {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        match account.acknowledge_desired(&identity.endpoint, generation).await {
            Ok(()) => tracing::info!(
                account = %identity.account, device = %identity.endpoint, generation, "device took what it should run"
            ),
            Err(error) => self.store_failed("an acknowledgement was not recorded", &error),
        }
    }

    /// A device that cannot take what it should run has said why: for the rollout that counts as a report of failure.
    async fn wish_refused(&mut self, generation: u64, reason: Reason) {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        let recorded = async {
            let wish = account.desired_release(&identity.endpoint).await?.filter(|wish| wish.generation == generation);
            let Some(release) = wish.and_then(|wish| wish.release) else { return Ok(()) };
            let before = account.device_report(&identity.endpoint).await?.map(|(said, _)| said);
            let said = report::refused(before, &release, reason);
            account.record_report(&identity.endpoint, &said, self.devices.fleet.clock.now()).await
        };
        if let Err(error) = recorded.await {
            self.store_failed("that a device refused what it should run was not recorded", &error);
        }
    }

    async fn reported(&mut self, entries: &[Entry]) {
        sleep_until(self.next_report).await;
        self.next_report = Instant::now() + REPORT_PACE;
        let identity = &self.facts.identity;
        if !self.devices.live.is_newest(identity, &self.live) {
            // The device has restarted and registered again meanwhile: what is left of this connection is the past.
            return;
        }
        self.escrow(entries).await;
        let identity = &self.facts.identity;
        let Some(said) = report::report(entries) else {
            // An agent says nothing while it waits for its updater.
            tracing::debug!(account = %identity.account, device = %identity.endpoint, "a report has no known phase");
            return;
        };
        let phase = said.status.phase;
        let reports = DeviceEvent::Reports { components: said.components, report: Box::new(said.status) };
        match self.devices.presence.record(identity, reports).await {
            Ok(_) => tracing::debug!(
                account = %identity.account, device = %identity.endpoint, %phase, "device reported"
            ),
            Err(error) => {
                tracing::error!(
                    account = %identity.account, device = %identity.endpoint, %error, "a report was not recorded"
                );
                self.ask_anew();
            }
        }
    }

    /// Looks again at what others have changed.
    async fn look_at(&mut self, attention: Attention) {
        if attention.has(Attention::REPLACED) {
            self.errands.only_probe();
            self.leave_at = Some(Instant::now() + PROBE);
            return;
        }
        if attention.has(Attention::STANDING) {
            self.look_at_standing().await;
        }
        if attention.has(Attention::WISH) {
            self.errands.add(Errand::FactoryReset);
            self.errands.add(Errand::WriteWish);
        }
        if attention.has(Attention::CONFIGURATION) && self.registered.is_some() {
            self.errands.add(Errand::WriteConfiguration);
        }
        if attention.has(Attention::COMMANDS) && self.registered.is_some() {
            self.errands.add(Errand::Command);
        }
    }

    async fn look_at_standing(&mut self) {
        let identity = &self.facts.identity;
        let device = self.devices.fleet.store.account(&identity.account).device(&identity.endpoint).await;
        match device {
            Ok(device) if matches!(device.standing, Standing::Suspended | Standing::Decommissioned) => {
                self.is_over = true
            }
            Ok(device) => {
                let was_held = self.registered == Some(Standing::Quarantined);
                if self.registered.is_some() {
                    self.registered = Some(device.standing);
                }
                if was_held && device.standing == Standing::Active {
                    self.errands.give_orders();
                    self.write_metrics_budget();
                }
            }
            Err(StoreError::NotFound { .. }) => self.is_over = true,
            Err(error) => self.store_failed("the standing of a device was not read", &error),
        }
    }

    /// The registration of this connection is over.
    async fn leave(&mut self) {
        if self.registered.take().is_none() {
            return;
        }
        self.errands.clear();
        let identity = &self.facts.identity;
        self.devices.live.leave(identity, &self.live);
        tracing::info!(account = %identity.account, device = %identity.endpoint, "device left");
        if self.devices.presence.record(identity, DeviceEvent::Left { session: self.session }).await.is_err() {
            tracing::warn!(account = %identity.account, device = %identity.endpoint, "that a device left was not recorded");
        }
    }

    pub(super) fn store_failed(&mut self, what: &str, error: &StoreError) {
        let (identity, chain) = (&self.facts.identity, crate::Chain(error));
        tracing::error!(
            account = %identity.account, device = %identity.endpoint, what, error = %chain, "the store failed"
        );
        // Any other error is an answer, and would be the same on the next connection.
        if matches!(error, StoreError::Database { .. }) {
            self.ask_anew();
        }
    }

    /// Something that the device has said, or that it should hear, is lost for this connection: the device says only what changes, and
    /// no errand comes twice. So the connection ends soon, and on the next one everything is asked anew.
    fn ask_anew(&mut self) {
        let spread = Duration::from_millis(self.session % AFTER_STORE_SPREAD_MS);
        self.leave_at.get_or_insert(Instant::now() + AFTER_STORE + spread);
    }
}

#[cfg(test)]
mod tests {
    use protocol_lwm2m::{
        formats::Value,
        object::{Path, ids, ids::configuration as resource},
        server::{Decision, Question, RegistrationUpdate},
    };
    use protocol_types::{AccountName, ConfigurationState, UnixSeconds};

    use super::*;
    use crate::{
        authority::DeviceIdentity,
        lwm2m::{MetricsRecorder, PresenceRecorder},
        test_service::TestService,
    };

    /// The newest connection of a device that is registered.
    async fn visit(service: &TestService) -> Visit {
        let endpoint = service.device("default", "gate-1").await;
        let (presence, recording) = PresenceRecorder::new(service.fleet.clone());
        let (metrics, keeping) = MetricsRecorder::new(service.fleet.clone());
        tokio::spawn(recording);
        tokio::spawn(keeping);
        let devices = Devices { fleet: service.fleet.clone(), presence, metrics, live: Arc::default() };
        let identity = DeviceIdentity { account: AccountName::new("default").unwrap(), endpoint };
        let not_after = UnixSeconds(u64::from(u32::MAX));
        let facts = CertificateFacts { identity, serial: "o1".into(), not_after, fingerprint: [0; 32] };
        let visit = Visit::new(facts, 1, devices);
        visit.devices.live.enter(&visit.facts.identity, &visit.live);
        visit
    }

    #[tokio::test]
    async fn a_connection_that_the_store_has_failed_ends_soon_and_everything_is_asked_anew() {
        let service = TestService::start().await;
        let mut visit = visit(&service).await;
        let report = [Entry::new(Path::resource(report::RELEASE_OBJECT, 0, 3), "idle")];
        let leaves = |visit: &mut Visit| visit.leave_at.take().is_some();
        visit.reported(&report).await;
        assert!(visit.wish().await.is_none() && visit.configuration().await.is_none());
        assert!(!leaves(&mut visit), "nothing has failed");
        service.fleet.store.close().await;
        visit.reported(&report).await;
        assert!(leaves(&mut visit), "a report was lost");
        assert!(visit.wish().await.is_none() && leaves(&mut visit), "what it should run was not read");
        assert!(visit.reset().await.is_none() && leaves(&mut visit), "a factory reset was not read");
        assert!(visit.configuration().await.is_none() && leaves(&mut visit), "its configuration was not read");
        assert!(visit.command().await.is_none() && leaves(&mut visit), "a command was not taken up");
        visit.record(1, &fleet_store::Delivered::Done(None)).await;
        assert!(leaves(&mut visit), "what came of a command was lost");
    }

    #[tokio::test]
    async fn what_a_device_says_of_its_configuration_is_kept_at_a_pace_and_from_its_newest_connection_alone() {
        let service = TestService::start().await;
        let mut visit = visit(&service).await;
        let (account, endpoint) = (service.account("default").await, visit.facts.identity.endpoint.clone());
        account.give_configuration(&endpoint, "{}", &[], service.now()).await.unwrap().unwrap();
        let says = |state: &str| {
            let entry = |resource, value: Value| Entry::new(Path::resource(ids::CONFIGURATION, 0, resource), value);
            [entry(resource::STATE, state.into()), entry(resource::REPORTED_GENERATION, Value::Integer(1))]
        };
        let begun = Instant::now();
        for state in ["confirmed", "refused", "trial"] {
            visit.configuration_reported(&says(state)).await;
        }
        assert!(begun.elapsed() >= 2 * REPORT_PACE, "three within {:?}", begun.elapsed());
        visit.devices.live.enter(&visit.facts.identity, &Arc::default());
        visit.configuration_reported(&says("undone")).await;
        let (kept, _) = account.given_configuration(&endpoint).await.unwrap().unwrap().report.unwrap();
        assert_eq!(kept.state, ConfigurationState::Trial);
    }

    #[tokio::test]
    async fn a_device_changes_its_promise_at_most_once_a_second() {
        let service = TestService::start().await;
        let mut visit = visit(&service).await;
        let begun = Instant::now();
        for lifetime in [300, 400] {
            let update = RegistrationUpdate { lifetime: Some(lifetime), ..RegistrationUpdate::default() };
            assert_eq!(visit.decide(Question::Update(update)).await, Decision::Allow);
        }
        assert!(begun.elapsed() >= Duration::from_secs(1), "two within {:?}", begun.elapsed());
    }
}
