//! An artifact server of raw HTTP over real TLS, whose answers a test writes byte by byte.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use device_agent::tls::ALPN_HTTP;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::pki::World;

/// Starts a server that answers every request with what `answer` makes of its head, and hangs up where that is nothing; its
/// address and the number of connections so far.
pub(crate) async fn artifact_server(
    world: &World,
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(world.server_config(ALPN_HTTP));
    let connections = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (connections.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut head = Vec::new();
                loop {
                    let mut piece = [0; 1024];
                    let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
                    head.extend_from_slice(&piece[..n]);
                    if head.ends_with(b"\r\n\r\n") {
                        let bytes = answer(std::str::from_utf8(&head).unwrap());
                        head.clear();
                        stream.write_all(&bytes).await.ok()?;
                        if bytes.is_empty() {
                            return None::<()>;
                        }
                    }
                }
            });
        }
    });
    (address, connections)
}
