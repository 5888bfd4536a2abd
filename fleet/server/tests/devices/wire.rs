//! A connection over which a test says exactly what it wants, in whole messages or in single bytes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use protocol_lwm2m::coap::{Code, ContentFormat, Message, Token, signal::Capabilities, tcp};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    factory::Identity,
    service::{SOON, Service},
};

/// TLS as a device has it.
pub(crate) fn tls(authority_pem: &str, identity: Option<&Identity>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(pem::parse(authority_pem).unwrap().into_contents())).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(vec![identity.certificate.clone()], identity.private_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

pub(crate) async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(tls).connect(ServerName::from(address.ip()), socket).await?;
    // With TLS 1.3 a refused certificate shows only when something is read; CoAP servers speak first.
    if stream.get_ref().1.alpn_protocol() == Some(b"coap") {
        stream.write_all(&[]).await?;
    }
    Ok(stream)
}

pub(crate) struct Wire {
    pub(crate) stream: TlsStream<TcpStream>,
    decoder: tcp::Decoder,
    tokens: u8,
    /// What the service asked meanwhile; each was answered with 2.04.
    pub(crate) orders: Vec<Message>,
}

impl Wire {
    /// Connects and exchanges capabilities.
    pub(crate) async fn open(address: SocketAddr, authority_pem: &str, identity: &Identity) -> io::Result<Self> {
        let stream = connect(address, tls(authority_pem, Some(identity), b"coap")).await?;
        let mut wire = Self { stream, decoder: tcp::Decoder::new(1 << 20), tokens: 0, orders: Vec::new() };
        wire.send(&Capabilities { max_message_size: 8192, block_wise: true }.message()).await?;
        let csm = wire.receive().await?;
        assert_eq!(csm.code, Code::CSM, "the service speaks first about what it can do");
        Ok(wire)
    }

    pub(crate) async fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut bytes = Vec::new();
        tcp::encode(message, &mut bytes);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    /// The next message; an error once the service has closed the connection.
    pub(crate) async fn receive(&mut self) -> io::Result<Message> {
        self.receive_within(SOON).await
    }

    pub(crate) async fn receive_within(&mut self, patience: Duration) -> io::Result<Message> {
        let received = async {
            loop {
                if let Some(message) = self.decoder.next_message().map_err(io::Error::other)? {
                    return Ok(message);
                }
                let mut chunk = [0; 4096];
                match self.stream.read(&mut chunk).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => self.decoder.push(&chunk[..length]),
                }
            }
        };
        timeout(patience, received).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Sends a request and waits for its response, saying yes to whatever the service asks meanwhile.
    pub(crate) async fn ask(&mut self, request: Message) -> io::Result<Message> {
        self.tokens += 1;
        let token = Token::new(&[self.tokens]).unwrap();
        self.send(&request.with_token(token)).await?;
        loop {
            let message = self.receive().await?;
            if message.code.is_response() && message.token == token {
                return Ok(message);
            }
            self.obey(message).await?;
        }
    }

    /// Waits for the service's next request and says yes.
    pub(crate) async fn order(&mut self) -> io::Result<Message> {
        loop {
            let message = self.receive().await?;
            if message.code.is_request() {
                self.obey(message.clone()).await?;
                return Ok(message);
            }
        }
    }

    /// Waits for the service's request for this path, which is left unanswered, and says yes to the others.
    pub(crate) async fn asked_for(&mut self, path: &str) -> io::Result<Message> {
        loop {
            let message = self.receive().await?;
            if message.code.is_request() && message.uri_path() == path {
                return Ok(message);
            }
            self.obey(message).await?;
        }
    }

    async fn obey(&mut self, message: Message) -> io::Result<()> {
        if message.code.is_request() {
            let code = if message.code == Code::GET { Code::NOT_FOUND } else { Code::CHANGED };
            self.send(&Message::new(code).with_token(message.token)).await?;
            self.orders.push(message);
        }
        Ok(())
    }

    /// Waits until the service closes the connection; what it says before.
    pub(crate) async fn closed(&mut self) -> Vec<Message> {
        let mut said = Vec::new();
        loop {
            match self.receive().await {
                Ok(message) => said.push(message),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("the connection stays open: {said:?}"),
                Err(_) => return said,
            }
        }
    }
}

/// Bootstraps and fetches an operational certificate, as a device does the first time.
pub(crate) async fn enrol(service: &Service, device: &Identity, endpoint: &str) -> Identity {
    let mut wire = Wire::open(service.addresses.bootstrap, &service.authority_pem, device).await.unwrap();
    let answer = wire.ask(Message::new(Code::POST).path("/bs").query(&format!("ep={endpoint}"))).await.unwrap();
    assert_eq!(answer.code, Code::CHANGED, "{}", answer.diagnostic());
    while wire.orders.last().is_none_or(|order| order.uri_path() != "/bs") {
        wire.order().await.unwrap();
    }
    let request = Message::new(Code::POST)
        .path("/.well-known/est/sen")
        .accept(ContentFormat::PKIX_CERT)
        .content(ContentFormat::PKCS10, device.request("default", endpoint));
    let answer = wire.ask(request).await.unwrap();
    assert_eq!(answer.code, Code::CHANGED, "{}", answer.diagnostic());
    device.with(&answer.payload)
}
