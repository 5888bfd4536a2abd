//! Accepts the connections of devices, shakes hands, and finds out who it is. Never hears a request.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

use super::{Devices, Duty, bootstrap, management, wire::Wire};
use crate::{
    crowd::Crowd,
    metrics::{HandshakeLabels, PortLabels},
    tls::{ALPN_COAP, Peer},
};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have not proved who they are; further ones wait in the queue of the kernel.
const STRANGERS: usize = 2048;
/// Connections of one device: the one that works, and those that it has lost without the service knowing yet.
const OF_ONE_DEVICE: u8 = 4;
/// How long accepting rests when the process has no file descriptors left.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A port to serve.
pub(crate) struct Port {
    pub(crate) duty: Duty,
    pub(crate) listener: TcpListener,
    pub(crate) tls: Arc<ServerConfig>,
}

/// Serves until the service stops, then waits for every connection to end.
pub(crate) async fn serve(port: Port, devices: Devices) {
    let Port { duty, listener, tls } = port;
    let acceptor = TlsAcceptor::from(tls);
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let door = Door::new(duty, devices.clone());
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = devices.fleet.stop.cancelled() => break,
            accepted = async {
                let stranger = strangers.clone().acquire_owned().await.ok()?;
                Some((listener.accept().await, stranger))
            } => accepted,
        };
        let Some((accepted, stranger)) = accepted else { break };
        match accepted {
            Ok((socket, _)) => {
                let (devices, acceptor) = (devices.clone(), acceptor.clone());
                let door = door.clone();
                connections.spawn(async move {
                    let Some((stream, peer)) = Box::pin(introduce(duty, socket, &acceptor, &devices)).await else {
                        return;
                    };
                    drop(stranger);
                    door.attend(stream, peer).await;
                });
            }
            Err(error) => {
                tracing::warn!(port = duty.name(), %error, "a connection was not accepted");
                tokio::time::sleep(REST_AFTER_FAILURE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Shakes hands and finds out who it is. Strangers leave no trace but a count: they could fill any log.
async fn introduce(
    duty: Duty,
    socket: TcpStream,
    acceptor: &TlsAcceptor,
    devices: &Devices,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    let count = |result| {
        let labels = HandshakeLabels { port: duty.name(), result };
        devices.fleet.metrics.handshakes.get_or_create(&labels).inc();
    };
    // Registrations are short messages that wait for their answers.
    if socket.set_nodelay(true).is_err() {
        return None;
    }
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE, acceptor.accept(socket)) => shaken,
        () = devices.fleet.stop.cancelled() => return None,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(port = duty.name(), %error, "a handshake failed");
            count("refused");
            return None;
        }
        Err(_) => {
            count("too_slow");
            return None;
        }
    };
    let tls = stream.get_ref().1;
    let trusted = match duty {
        Duty::Bootstrap => &devices.fleet.trust.factories,
        Duty::Management => &devices.fleet.trust.issuers,
    };
    if tls.alpn_protocol() != Some(ALPN_COAP) {
        count("no_coap");
        return None;
    }
    match trusted.peer(tls, devices.fleet.clock.now()) {
        Ok(peer) => {
            let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            count(if resumed { "resumed" } else { "full" });
            Some((stream, peer))
        }
        Err(error) => {
            tracing::debug!(port = duty.name(), %error, "a resumed session is no longer trusted");
            count("refused");
            None
        }
    }
}

/// Where devices come in whose handshake is done. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Door {
    duty: Duty,
    devices: Devices,
    places: Arc<Semaphore>,
    crowd: Crowd,
}

impl Door {
    pub(crate) fn new(duty: Duty, devices: Devices) -> Self {
        let places = Arc::new(Semaphore::new(devices.fleet.config.limits.device_connections));
        Self { duty, devices, places, crowd: Crowd::new(OF_ONE_DEVICE) }
    }

    /// Serves a device that is known, if there is a place for it.
    pub(crate) async fn attend<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, peer: Peer) {
        let Self { duty, devices, places, crowd } = self;
        let Some(_present) = crowd.enter(&peer.facts.identity) else {
            let identity = &peer.facts.identity;
            tracing::info!(account = %identity.account, device = %identity.endpoint, "device has too many connections");
            return;
        };
        let place: Result<OwnedSemaphorePermit, _> = places.try_acquire_owned();
        let Ok(_place) = place else {
            tracing::warn!(port = duty.name(), "all places for devices are taken; raise `limits.device_connections`");
            return;
        };
        // 63 bits: the store counts with a sign.
        let number = match devices.fleet.random.bytes::<8>() {
            Ok(bytes) => u64::from_le_bytes(bytes) >> 1,
            Err(error) => {
                tracing::error!(error = %crate::Chain(&error), "a connection was given up");
                return;
            }
        };
        let open = devices.fleet.metrics.connections.get_or_create_owned(&PortLabels { port: duty.name() });
        open.inc();
        let wire = Wire::new(stream, number);
        match duty {
            Duty::Bootstrap => Box::pin(bootstrap::attend(wire, &peer, &devices)).await,
            Duty::Management => Box::pin(management::attend(wire, (peer.facts, number), devices)).await,
        }
        open.dec();
    }
}
