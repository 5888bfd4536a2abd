//! The service without sockets: whoever embeds it brings the streams of devices and the requests of operators, runs its tasks, and
//! says what time it is. Behind that are the same tasks, handlers and state machines as behind the ports. Never shakes hands.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use fleet_store::Store;
use http_body_util::BodyExt as _;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    Addresses, Clock, Config, Random, RunError,
    artifact_port::Admission,
    fleet::Fleet,
    housekeeping, https,
    lwm2m::{self, Devices, Door, Duty, MetricsRecorder, PresenceRecorder},
    repository, rest, rollouts, run,
    tls::{self, Peer, TlsError},
};

/// How long the tasks rest that look at everything. The service looks every few seconds; a simulation of months need not.
#[derive(Clone, Copy, Debug)]
pub struct Rests {
    /// Between two looks at rollouts, whatever changes: changes meanwhile share a look.
    pub changes: Duration,
    /// Between two looks at rollouts if nothing changes.
    pub rollouts: Duration,
    /// Between two looks for devices that are late.
    pub overdue: Duration,
}

/// A port on which devices come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePort {
    /// Bootstrap and enrolment, with a factory certificate.
    Bootstrap,
    /// Management, with an operational certificate.
    Management,
    /// Metadata, artifacts and time, with an operational certificate.
    Artifacts,
}

/// A device whose certificates were accepted at a port.
#[derive(Debug)]
pub struct Accepted {
    port: DevicePort,
    peer: Peer,
}

/// A task of the service, under the name that it has in logs.
pub type NamedTask = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// A service that is open. Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    fleet: Fleet,
    bootstrap: Door,
    management: Door,
    artifacts: Admission,
    api: Router,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("data_dir", &self.fleet.config.data_dir).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the service in the data directory of `config`, as if it listened where `config` says, and names the tasks without which
    /// devices and rollouts do not get on: presence, signals, lateness, rollouts, timestamps, housekeeping. Whoever embeds it runs them.
    ///
    /// # Errors
    /// If the data directory or what lies there cannot be used.
    pub async fn open(
        config: Config,
        (clock, random): (Clock, Random),
        rests: Rests,
        stop: CancellationToken,
    ) -> Result<(Self, Vec<NamedTask>), RunError> {
        let addresses = Addresses {
            api: config.listen.api,
            bootstrap: config.listen.bootstrap,
            lwm2m: config.listen.lwm2m,
            artifacts: config.listen.artifacts,
            public_hosts: config.public_hosts.clone(),
            pid: std::process::id(),
        };
        let fleet = Box::pin(run::open(config, addresses, (clock, random), stop)).await?;
        let (presence, recording) = PresenceRecorder::new(fleet.clone());
        let (metrics, keeping) = MetricsRecorder::new(fleet.clone());
        let devices = Devices { fleet: fleet.clone(), presence, metrics, live: Arc::default() };
        let tasks: Vec<NamedTask> = vec![
            ("presence", Box::pin(recording)),
            ("device metrics", Box::pin(keeping)),
            ("changes", Box::pin(lwm2m::pass_on_changes(devices.clone()))),
            ("overdue", Box::pin(lwm2m::tell_overdue_every(fleet.clone(), rests.overdue))),
            ("rollouts", Box::pin(rollouts::reconcile_at(fleet.clone(), rests.changes, rests.rollouts))),
            ("timestamps", Box::pin(repository::keep_fresh(fleet.clone()))),
            ("housekeeping", Box::pin(housekeeping::keep_house(fleet.clone()))),
        ];
        let embedded = Self {
            bootstrap: Door::new(Duty::Bootstrap, devices.clone()),
            management: Door::new(Duty::Management, devices),
            artifacts: Admission::new(fleet.clone()),
            api: rest::router(fleet.clone()),
            fleet,
        };
        Ok((embedded, tasks))
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.fleet.store
    }

    /// Judges the certificates that a device shows at a port, the leaf first, as a handshake does.
    ///
    /// # Errors
    /// If the port does not accept them.
    pub fn accept(&self, port: DevicePort, chain: &[CertificateDer<'_>]) -> Result<Accepted, rustls::Error> {
        let trusted = match port {
            DevicePort::Bootstrap => &self.fleet.trust.factories,
            DevicePort::Management | DevicePort::Artifacts => &self.fleet.trust.issuers,
        };
        let peer = trusted.verify_chain(chain, self.fleet.clock.now())?;
        Ok(Accepted { port, peer })
    }

    /// What a handshake at a port is made with.
    ///
    /// # Errors
    /// If the TLS library refuses it.
    pub fn tls(&self, port: DevicePort) -> Result<Arc<ServerConfig>, TlsError> {
        let trust = &self.fleet.trust;
        let (trusted, protocol) = match port {
            DevicePort::Bootstrap => (&trust.factories, tls::ALPN_COAP),
            DevicePort::Management => (&trust.issuers, tls::ALPN_COAP),
            DevicePort::Artifacts => (&trust.issuers, tls::ALPN_HTTP),
        };
        tls::device_port(self.fleet.certificate.clone(), trusted.clone(), protocol)
    }

    /// Serves one connection of a device to its end.
    pub async fn attend<S>(self, stream: S, Accepted { port, peer }: Accepted)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match port {
            DevicePort::Bootstrap => Box::pin(self.bootstrap.attend(stream, peer)).await,
            DevicePort::Management => Box::pin(self.management.attend(stream, peer)).await,
            DevicePort::Artifacts => {
                let Some(router) = self.artifacts.of(peer) else { return };
                let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
                Box::pin(https::converse(stream, nobody, router, self.fleet)).await;
            }
        }
    }

    /// Answers one request to the REST API.
    ///
    /// # Errors
    /// If the answer breaks off, which one from memory does not.
    pub async fn request(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, axum::Error> {
        let answer = self.api.clone().oneshot(request.map(Body::from)).await;
        let (parts, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(never) => match never {},
        };
        let bytes = body.collect().await?.to_bytes();
        Ok(http::Response::from_parts(parts, bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::ServiceFacts;

    use super::*;

    const REST: Duration = Duration::from_secs(5);
    const RESTS: Rests = Rests { changes: REST, rollouts: REST, overdue: REST };

    #[tokio::test]
    async fn a_service_without_sockets_answers_its_api_and_accepts_only_certificates_that_it_trusts() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        let stop = CancellationToken::new();
        let sources = (Clock::system(), Random::system());
        let (service, tasks) = Embedded::open(config, sources, RESTS, stop.clone()).await.unwrap();
        let tasks: Vec<_> = tasks.into_iter().map(|(_, task)| tokio::spawn(task)).collect();

        let ask = |token: &str| {
            let request = http::Request::get("/api/v1/tokens").header("authorization", format!("Bearer {token}"));
            service.request(request.body(Vec::new()).unwrap())
        };
        assert_eq!(ask("nobody").await.unwrap().status(), http::StatusCode::UNAUTHORIZED);
        let first = std::fs::read_to_string(folder.path().join("first-token")).unwrap();
        assert_eq!(ask(first.trim()).await.unwrap().status(), http::StatusCode::OK);
        let facts = http::Request::get("/api/v1/service").header("authorization", format!("Bearer {}", first.trim()));
        let facts = service.request(facts.body(Vec::new()).unwrap()).await.unwrap();
        let facts: ServiceFacts = serde_json::from_slice(facts.body()).unwrap();
        assert_eq!(facts.bootstrap_uri, "coaps+tcp://localhost:5684");

        for port in [DevicePort::Bootstrap, DevicePort::Management, DevicePort::Artifacts] {
            assert!(matches!(service.accept(port, &[]), Err(rustls::Error::NoCertificatesPresented)));
            let stranger = rcgen::generate_simple_self_signed(["gate-1".to_owned()]).unwrap().cert.der().clone();
            assert!(service.accept(port, &[stranger]).is_err());
            service.tls(port).unwrap();
        }
        stop.cancel();
        drop(service);
        for task in tasks {
            task.await.unwrap();
        }
    }
}
