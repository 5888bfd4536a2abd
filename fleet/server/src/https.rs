//! HTTP/1.1 over TLS: accepts connections and feeds them to a router. Every wait has a limit, every connection is joined.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

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

use crate::{
    access::Origin,
    config::Proxies,
    crowd::{Crowd, Present},
    fleet::Fleet,
    metrics::PortLabels,
    patience::Patient,
    rest::gate::Peer,
};

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
    /// Who has how many of them, where an address says something of who it is; further ones of it are closed.
    pub(crate) origins: Option<Crowd<Origin>>,
}

/// An address has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
struct TooMany;

/// How many of all connections one address may have: a whole office finds room behind one, and most places are left to others.
pub(crate) fn share_of_one(most: usize) -> usize {
    // A browser alone opens six.
    (most / 4).max(16)
}

/// A place for a connection among those of its address. Those of a trusted proxy, which come from many people, and those of this machine
/// are not counted.
fn place_among(origins: &Crowd<Origin>, proxies: &Proxies, peer: IpAddr) -> Result<Option<Present<Origin>>, TooMany> {
    let peer = peer.to_canonical();
    if peer.is_loopback() || proxies.trusts(peer) {
        return Ok(None);
    }
    origins.enter(&Origin::of(peer)).map(Some).ok_or(TooMany)
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
                let among = port.origins.as_ref().map(|all| place_among(all, &fleet.config.proxies, peer.ip()));
                let Ok(among) = among.transpose() else {
                    tracing::debug!(port = port.name, %peer, "an address has too many connections");
                    continue;
                };
                let (fleet, acceptor, admit) = (fleet.clone(), acceptor.clone(), admit.clone());
                connections.spawn(async move {
                    let open = fleet.metrics.connections.get_or_create_owned(&PortLabels { port: port.name });
                    open.inc();
                    connection((socket, peer), acceptor, fleet, admit).await;
                    open.dec();
                    drop((place, among));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_takes_more_than_its_share_of_the_places_unless_it_is_a_proxy_or_this_machine() {
        let origins = Crowd::new(2_u8);
        let proxies = Proxies { trusted: vec!["10.0.0.0/8".parse().unwrap()], ..Proxies::default() };
        let enter = |peer: &str| place_among(&origins, &proxies, peer.parse().unwrap());
        let held = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(held.iter().all(|place| matches!(place, Ok(Some(_)))));
        assert!(enter("192.0.2.1").is_err());
        assert!(enter("192.0.2.2").is_ok(), "another address has a share of its own");
        drop(held);
        assert!(enter("192.0.2.1").is_ok(), "who has left is not counted");
        let network = [enter("2001:db8::1"), enter("2001:db8::2")];
        assert!(enter("2001:db8::3").is_err() && enter("2001:db8:0:1::1").is_ok(), "a network counts as one");
        drop(network);
        for many in ["10.1.2.3", "127.0.0.1", "::1"] {
            let held = [enter(many), enter(many), enter(many)];
            assert!(held.iter().all(|place| matches!(place, Ok(None))), "{many}");
        }
        assert_eq!((share_of_one(1024), share_of_one(8)), (256, 16));
    }
}
