//! HTTP/1.1 over TLS: accepts connections and feeds them to a router. Every wait has a limit, every connection is joined.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, ServerConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::ServiceExt as _;

use crate::{fleet::Fleet, metrics::PortLabels, patience::Patient, rest::gate::Peer};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest time in which a client takes nothing of an answer.
const WRITE: Duration = Duration::from_secs(60);
/// Bytes of a request's head: a filter of the greatest length in any script, percent-encoded, and room for headers.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 64;
/// How long accepting rests when the process has no file descriptors left.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A port to serve.
pub(crate) struct Port {
    /// For logs and metrics.
    pub(crate) name: &'static str,
    pub(crate) listener: TcpListener,
    pub(crate) tls: Arc<ServerConfig>,
    /// Connections at a time; further ones wait in the queue of the kernel.
    pub(crate) most: usize,
}

/// Serves until the service stops, then lets requests under way end. `admit` sees each finished handshake and names the router
/// for the connection, or nothing to close it.
pub(crate) async fn serve<A>(port: Port, fleet: Fleet, admit: A)
where
    A: Fn(&ServerConnection) -> Option<Router> + Clone + Send + Sync + 'static,
{
    let acceptor = TlsAcceptor::from(port.tls);
    let places = Arc::new(Semaphore::new(port.most));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = fleet.stop.cancelled() => break,
            accepted = async {
                let place = places.clone().acquire_owned().await.ok()?;
                Some((port.listener.accept().await, place))
            } => accepted,
        };
        let Some((accepted, place)) = accepted else { break };
        match accepted {
            Ok((socket, peer)) => {
                let (fleet, acceptor, admit) = (fleet.clone(), acceptor.clone(), admit.clone());
                connections.spawn(async move {
                    let open = fleet.metrics.connections.get_or_create_owned(&PortLabels { port: port.name });
                    open.inc();
                    connection((socket, peer), acceptor, fleet, admit).await;
                    open.dec();
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(port = port.name, %error, "a connection was not accepted");
                tokio::time::sleep(REST_AFTER_FAILURE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection<A>((socket, peer): (TcpStream, SocketAddr), acceptor: TlsAcceptor, fleet: Fleet, admit: A)
where
    A: Fn(&ServerConnection) -> Option<Router>,
{
    // A client that leaves or never finishes its handshake is no event.
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(socket)).await else { return };
    let stream: TlsStream<TcpStream> = stream;
    let Some(router) = admit(stream.get_ref().1) else { return };
    converse(stream, peer, router, fleet).await;
}

/// Answers requests on a connection whose handshake is done, until its end or that of the service.
pub(crate) async fn converse<S>(stream: S, peer: SocketAddr, router: Router, fleet: Fleet)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        request
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(fleet.config.limits.slow_sender())
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    let stream = TokioIo::new(Patient::new(stream, WRITE));
    let served = http.serve_connection(stream, TowerToHyperService::new(router)).with_upgrades();
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        // What is under way goes on before anybody asks whether the service stops: the order is no matter of chance.
        biased;
        ended = served.as_mut() => ended,
        () = fleet.stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
