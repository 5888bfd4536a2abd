//! The life of the service: open what it keeps, bind every port, run until told to stop, leave within the grace period.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_store::{Signals, Store, StoreError};
use sd_notify::NotifyState;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Addresses, Clock, Config, Random,
    access::{Access, AccessError, RateLimits, Strangers},
    alerts, artifact_port,
    artifact_store::{self, ArtifactStore, BucketError},
    authority::{Authority, AuthorityError},
    backup::RESTORING,
    commands,
    crowd::Crowd,
    deliveries, device_trust,
    first_token::{self, FirstTokenError},
    fleet::Fleet,
    housekeeping, https, jobs,
    list_files::ListFiles,
    lwm2m::{self, Devices, Duty, MetricsRecorder, Port, PresenceRecorder},
    metrics::Metrics,
    operations, repository,
    rest::{self, refusals},
    rollouts,
    signals::LocalSignals,
    single_sign_on::Providers,
    supervision, time_series,
    tls::{self, PortCertificate, TlsError},
    traces::{self, Traces},
    users::Passwords,
};

/// Why the service did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another service works in the same data directory.
    #[error("another service works in {}", .0.display())]
    Occupied(PathBuf),
    /// The database cannot be opened.
    #[error("cannot open the database")]
    Store(#[from] StoreError),
    /// A port cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The port.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The keys of the service cannot be opened.
    #[error("cannot open the keys of the service")]
    Authority(#[from] AuthorityError),
    /// A restore into the data directory did not come to its end.
    #[error("a restore into {} did not come to its end; empty the folder and restore again", .0.display())]
    Restoring(PathBuf),
    /// The bucket of artifacts cannot be used.
    #[error("cannot open the bucket of artifacts")]
    Bucket(#[from] BucketError),
    /// The ports have no certificates.
    #[error("cannot prepare TLS")]
    Tls(#[from] TlsError),
    /// The first token cannot be made.
    #[error("cannot make the first token")]
    FirstToken(#[from] FirstTokenError),
    /// The rules of the service about who may do what cannot be used.
    #[error("cannot read who may do what")]
    Access(#[from] AccessError),
    /// A task of the service ended although nobody asked it to.
    #[error("the task `{0}` ended by itself")]
    Ended(&'static str),
}

/// The four ports, bound but not yet served.
struct Ports {
    api: TcpListener,
    bootstrap: TcpListener,
    lwm2m: TcpListener,
    artifacts: TcpListener,
}

/// Runs the service until `stop` is cancelled. `traces` are those of `config`, which the subscriber of the process feeds.
pub async fn run(
    config: Config,
    traces: Option<Traces>,
    clock: Clock,
    random: Random,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let lock = occupy(&config.data_dir)?;
    let ports = bind(&config).await?;
    let addresses = ports.addresses(&config)?;
    let fleet = open(config, addresses, (clock, random), stop).await?;
    let ended = serve(&fleet, ports, traces).await;
    fleet.refusals.tell(&fleet.store).await;
    Addresses::remove(&fleet.config.data_dir).map_err(at_data_dir(&fleet.config.data_dir))?;
    fleet.store.close().await;
    drop(lock);
    ended
}

/// Opens what the service keeps: database, keys, certificates, and whom it trusts.
pub(crate) async fn open(
    config: Config,
    addresses: Addresses,
    (clock, random): (Clock, Random),
    stop: CancellationToken,
) -> Result<Fleet, RunError> {
    let signals = LocalSignals::new();
    let store = open_store(&config, Arc::new(signals.clone()), &clock).await?;
    first_token::ensure(&store, &config, &clock, &random).await?;
    let authority = Authority::open(&config.data_dir, clock.now())?;
    let certificate = PortCertificate::new(&authority.service, config.public_hosts.clone(), clock.now())?;
    let artifacts = ArtifactStore::open(&config).await?;
    let fleet = Fleet {
        store,
        signals,
        clock,
        random,
        metrics: Arc::new(Metrics::new()),
        addresses: Arc::new(addresses),
        artifacts,
        lists: ListFiles::new(&config.data_dir),
        authority: Arc::new(authority),
        access: Arc::new(Access::new(&rest::openapi())?),
        rates: Arc::new(RateLimits::new(&config.limits)),
        strangers: Arc::new(Strangers::new(&config.limits)),
        refusals: Arc::new(refusals::Refusals::new()),
        passwords: Passwords::new(),
        providers: Arc::new(Providers::new(&config.single_sign_on)),
        certificate: Arc::new(certificate),
        trust: Arc::default(),
        sockets: Arc::new(Semaphore::new(config.limits.api_connections)),
        stop,
        config: Arc::new(config),
    };
    device_trust::reload_factories(&fleet).await?;
    device_trust::renew_issuers(&fleet, fleet.clock.now()).await;
    fleet.store.service_wide().nobody_is_connected(fleet.clock.now()).await?;
    fleet.store.service_wide().commands_cut_off(fleet.clock.now()).await?;
    operations::clear_lists(&fleet).await?;
    Ok(fleet)
}

/// Starts every task, says where the service listens, and waits for the end of the first one.
async fn serve(fleet: &Fleet, ports: Ports, traces: Option<Traces>) -> Result<(), RunError> {
    let mut tasks = JoinSet::new();
    let api_tls = tls::public_port(fleet.certificate.clone())?;
    let router = rest::router(fleet.clone());
    let most = fleet.config.limits.api_connections;
    let api = https::Port {
        name: "api",
        listener: ports.api,
        tls: api_tls,
        most,
        origins: Some(Crowd::new(https::share_of_one(most))),
    };
    let served = https::serve(api, fleet.clone(), move |_| Some(router.clone()));
    tasks.spawn(named("api", served));
    tasks.spawn(named("housekeeping", housekeeping::keep_house(fleet.clone())));
    tasks.spawn(named("refusals", refusals::tell_left_out(fleet.clone())));
    let artifacts = https::Port {
        name: artifact_port::NAME,
        listener: ports.artifacts,
        tls: tls::device_port(fleet.certificate.clone(), fleet.trust.issuers.clone(), tls::ALPN_HTTP)?,
        most: fleet.config.limits.device_connections,
        // Whole fleets come from one address; each device is counted by its certificate.
        origins: None,
    };
    let served = https::serve(artifacts, fleet.clone(), artifact_port::admission(fleet.clone()));
    tasks.spawn(named(artifact_port::NAME, served));
    serve_devices(fleet, &mut tasks, (ports.bootstrap, ports.lwm2m))?;
    tasks.spawn(named("timestamps", repository::keep_fresh(fleet.clone())));
    tasks.spawn(named("overdue", lwm2m::tell_overdue(fleet.clone())));
    tasks.spawn(named("operations", operations::work(fleet.clone())));
    tasks.spawn(named("jobs", jobs::work(fleet.clone())));
    tasks.spawn(named("commands", commands::overdue::end_overdue(fleet.clone())));
    tasks.spawn(named("rollouts", rollouts::reconcile(fleet.clone())));
    tasks.spawn(named("alerts", alerts::look_after(fleet.clone())));
    tasks.spawn(named("deliveries", deliveries::work(fleet.clone())));
    tasks.spawn(named("time series", time_series::condense(fleet.clone())));
    tasks.spawn(named("invitations", deliveries::send_invitations(fleet.clone())));
    tasks.spawn(named("moving", artifact_store::move_in(fleet.clone())));
    if let Some(traces) = traces {
        tasks.spawn(named("traces", traces::export(traces, fleet.clone())));
    }
    tasks.spawn(named("supervision", supervision::keep_alive(fleet.clone())));

    let data_dir = &fleet.config.data_dir;
    fleet.addresses.write(data_dir).map_err(at_data_dir(data_dir))?;
    let at = &fleet.addresses;
    tracing::info!(api = %at.api, bootstrap = %at.bootstrap, lwm2m = %at.lwm2m, artifacts = %at.artifacts, "service up");
    supervision::tell(NotifyState::Ready);

    let first = tasks.join_next().await;
    let asked = fleet.stop.is_cancelled();
    fleet.stop.cancel();
    supervision::tell(NotifyState::Stopping);
    tracing::info!("service stopping");
    let rest = async { while tasks.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(fleet.config.grace_s), rest).await.is_err() {
        tracing::warn!("requests under way were cut off at the end of the grace period");
    }
    match first {
        Some(Ok(name)) if !asked => Err(RunError::Ended(name)),
        Some(Err(_)) => Err(RunError::Ended("a task that panicked")),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// Starts what devices talk to over CoAP.
fn serve_devices(
    fleet: &Fleet,
    tasks: &mut JoinSet<&'static str>,
    (bootstrap, management): (TcpListener, TcpListener),
) -> Result<(), RunError> {
    let (presence, recording) = PresenceRecorder::new(fleet.clone());
    let (metrics, keeping) = MetricsRecorder::new(fleet.clone());
    let devices = Devices { fleet: fleet.clone(), presence, metrics, live: Arc::default() };
    tasks.spawn(named("presence", recording));
    tasks.spawn(named("device metrics", keeping));
    tasks.spawn(named("changes", lwm2m::pass_on_changes(devices.clone())));
    for (duty, listener, trusted) in
        [(Duty::Bootstrap, bootstrap, &fleet.trust.factories), (Duty::Management, management, &fleet.trust.issuers)]
    {
        let tls = tls::device_port(fleet.certificate.clone(), trusted.clone(), tls::ALPN_COAP)?;
        tasks.spawn(named(duty.name(), lwm2m::serve(Port { duty, listener, tls }, devices.clone())));
    }
    Ok(())
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

pub(crate) async fn open_store(config: &Config, signals: Arc<dyn Signals>, clock: &Clock) -> Result<Store, StoreError> {
    match &config.database_url {
        Some(url) => Store::open(url, signals, clock.now()).await,
        None => Store::open_file(&config.embedded_database(), signals, clock.now()).await,
    }
}

fn at_data_dir(data_dir: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = data_dir.to_owned();
    move |source| RunError::DataDir { path, source }
}

/// Makes the data directory, for the service's own user alone, and keeps other services out as long as the file is held.
pub(crate) fn occupy(data_dir: &Path) -> Result<fs::File, RunError> {
    let prepare = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        fs::set_permissions(data_dir, fs::Permissions::from_mode(0o700))?;
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join("lock"))
    };
    let file = prepare().map_err(at_data_dir(data_dir))?;
    if data_dir.join(RESTORING).exists() {
        return Err(RunError::Restoring(data_dir.to_owned()));
    }
    match file.try_lock() {
        Ok(()) => {
            // What a killed service left behind names ports that may be somebody else's by now.
            Addresses::remove(data_dir).map_err(at_data_dir(data_dir))?;
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => Err(RunError::Occupied(data_dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(at_data_dir(data_dir)(source)),
    }
}

async fn bind(config: &Config) -> Result<Ports, RunError> {
    let at = async |address: SocketAddr| {
        TcpListener::bind(address).await.map_err(|source| RunError::Bind { address, source })
    };
    Ok(Ports {
        api: at(config.listen.api).await?,
        bootstrap: at(config.listen.bootstrap).await?,
        lwm2m: at(config.listen.lwm2m).await?,
        artifacts: at(config.listen.artifacts).await?,
    })
}

impl Ports {
    fn addresses(&self, config: &Config) -> Result<Addresses, RunError> {
        let of =
            |port: &TcpListener, wanted| port.local_addr().map_err(|source| RunError::Bind { address: wanted, source });
        Ok(Addresses {
            api: of(&self.api, config.listen.api)?,
            bootstrap: of(&self.bootstrap, config.listen.bootstrap)?,
            lwm2m: of(&self.lwm2m, config.listen.lwm2m)?,
            artifacts: of(&self.artifacts, config.listen.artifacts)?,
            public_hosts: config.public_hosts.clone(),
            pid: std::process::id(),
        })
    }
}
