//! Simulated devices that enrol with the real agent's session over real TLS, keys in memory, and stay connected until they are
//! stopped. What they do with a wish is said by whoever simulates them.

use std::{
    fmt, fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use device_agent::{
    clock::{SystemClock, VerificationClock},
    durable::DurableError,
    enrolment::Enrolment,
    facts::Facts,
    identity::Identity,
    key_store::DeviceKey,
    network::TlsNetwork,
    objects::About,
    orders::Orders,
    session::{Device, Session},
    state::DurableState,
    tls::{ALPN_COAP, Trust, Validity, provider},
};
use fleet_api::{Client, ClientConfig, CreateEnrolment, CreateToken, ServiceFacts, TokenScope, UploadAuthority};
use protocol_types::{EndpointName, FactoryDocument, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::Service;

/// Devices that enrol at a time.
const AT_A_TIME: usize = 64;
/// How long one device may take to enrol.
const PATIENCE: Duration = Duration::from_secs(120);

/// A factory whose authority the service trusts for every device.
pub struct Factory {
    issuer: Issuer<'static, KeyPair>,
    service: ServiceFacts,
    /// An administrator of the service.
    client: Client,
}

impl Factory {
    /// Makes an authority, lets the service know it and allows all its devices.
    ///
    /// # Errors
    /// If the service does not take it.
    pub async fn open(service: &Service) -> anyhow::Result<Self> {
        let data = service.data_dir();
        let config = |token: String| -> anyhow::Result<ClientConfig> {
            Ok(ClientConfig {
                address: format!("https://{}", service.addresses().api),
                authority_pem: fs::read_to_string(data.join("service-authority.pem"))?,
                token: Some(token),
            })
        };
        let first = fs::read_to_string(data.join("first-token")).context("cannot read the first token")?;
        let asked =
            CreateToken { name: "load".to_owned(), scopes: vec![TokenScope::Admin], expires: None, principal: None };
        let made = Client::new(&config(first.trim().to_owned())?)?.create_token(&asked).await?;
        let client = Client::new(&config(made.secret.context("the service kept the secret")?)?)?;

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "load factory");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        let authority = client.upload_authority(&UploadAuthority { name: "load".to_owned(), certificate }).await?;
        client.create_enrolment(&CreateEnrolment { endpoint: None, authority: Some(authority.id) }).await?;
        Ok(Self { issuer: Issuer::new(params, key), service: client.service_facts().await?, client })
    }

    /// An administrator of the service.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    fn identity(&self, number: usize) -> anyhow::Result<Identity> {
        let endpoint = EndpointName::new(format!("load-{number}"))?;
        let key = DeviceKey::generate()?;
        let request = key.request(&self.service.account, &endpoint)?;
        let mut request = CertificateSigningRequestParams::from_der(&request)?;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = request.signed_by(&self.issuer)?.pem();
        let document = FactoryDocument {
            format: 1,
            endpoint,
            account: self.service.account.clone(),
            board: "host".parse()?,
            architecture: std::env::consts::ARCH.parse()?,
            bootstrap_uri: self.service.bootstrap_uri.clone(),
            service_authority: self.service.authority.clone(),
            tuf_root: "{}".to_owned(),
            time_key: self.service.time_key.clone(),
            provisioned: UnixSeconds(0),
            recovery_key: None,
        };
        Ok(Identity::check(document, &chain, key)?)
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory").finish_non_exhaustive()
    }
}

/// A device that has its operational certificate.
#[derive(Debug)]
pub struct Enrolled {
    /// Its name.
    pub endpoint: EndpointName,
    /// Settings for its connections to the management port, with the tickets of those before.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Keeps the enrolment in memory, for later measurements.
#[derive(Debug, Default)]
struct InMemory(Mutex<Option<Enrolment>>);

impl DurableState for InMemory {
    fn keep_wish(&self, _: &device_agent::configuration::Wish) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_orders(&self, _orders: &Orders) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_reset(&self) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_enrolment(&self, enrolment: &Enrolment) -> Result<(), DurableError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(enrolment.clone());
        Ok(())
    }
    fn keep_floor(&self, _floor: UnixSeconds) -> Result<(), DurableError> {
        Ok(())
    }
}

/// Devices that are connected.
#[derive(Debug)]
pub struct Simulated {
    stop: CancellationToken,
    sessions: JoinSet<()>,
    enrolled: Vec<Arc<Enrolled>>,
    facts: Vec<(EndpointName, Arc<Facts>)>,
}

impl Simulated {
    /// Enrols `count` devices and waits until each is registered.
    ///
    /// # Errors
    /// If one of them does not register in time.
    pub async fn enrol(factory: &Factory, count: usize) -> anyhow::Result<Self> {
        let (stop, slots) = (CancellationToken::new(), Arc::new(Semaphore::new(AT_A_TIME)));
        let (mut sessions, mut starting) = (JoinSet::new(), JoinSet::new());
        let (mut enrolled, mut known) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let identity = factory.identity(number)?;
            let clock = Arc::new(VerificationClock::new(Arc::new(SystemClock::new()), UnixSeconds(0)));
            let trust = Trust::new(provider(), identity.roots().clone(), clock)?;
            let (facts, _restarts) = Facts::new(Orders::default());
            let (facts, state) = (Arc::new(facts), Arc::new(InMemory::default()));
            let mut registered = facts.registered.subscribe();
            known.push((identity.document().endpoint.clone(), Arc::clone(&facts)));
            let about = About::new(&identity, "load");
            let endpoint = identity.document().endpoint.clone();
            let key = identity.key().with_chain(Vec::new()).key.clone();
            let network = Arc::new(TlsNetwork);
            let device = Device { identity, trust: trust.clone(), state: state.clone(), facts, network };
            sessions.spawn(Session::new(device, about, None, Duration::from_secs(30))?.run(stop.clone()));
            starting.spawn(async move {
                tokio::time::timeout(PATIENCE, registered.wait_for(|registered| *registered))
                    .await
                    .with_context(|| format!("{endpoint} did not register"))??;
                drop(slot);
                let kept = state.0.lock().unwrap_or_else(PoisonError::into_inner).take();
                let chain = kept.context("registered without an enrolment")?.chain;
                let credential = Arc::new(CertifiedKey::new(chain, key));
                let tls = trust.client(credential, ALPN_COAP, Validity::Strict)?;
                anyhow::Ok(Arc::new(Enrolled { endpoint, tls }))
            });
            while let Some(ended) = starting.try_join_next() {
                enrolled.push(ended??);
            }
        }
        while let Some(ended) = starting.join_next().await {
            enrolled.push(ended??);
        }
        Ok(Self { stop, sessions, enrolled, facts: known })
    }

    /// What the parts of each device tell each other: orders come in, the status goes out.
    pub fn facts(&self) -> &[(EndpointName, Arc<Facts>)] {
        &self.facts
    }

    /// Disconnects all devices.
    ///
    /// # Errors
    /// If one of them ended in a panic.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Arc<Enrolled>>> {
        self.stop.cancel();
        while let Some(ended) = self.sessions.join_next().await {
            ended?;
        }
        Ok(self.enrolled)
    }
}
