//! One bare LwM2M connection: dial, register, update, with nothing of a device behind it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use protocol_lwm2m::coap::{
    Code, ContentFormat, Message, Token,
    signal::Capabilities,
    tcp::{self, Decoder},
};
use rustls::{ClientConfig, HandshakeKind, client::Resumption};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use testbed::crowd::Enrolled;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which kind of handshake is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshakes {
    /// Certificates and signatures on both sides.
    Full,
    /// Whatever comes, to get a ticket.
    Ticket,
    /// From the ticket of a connection before.
    Resumed,
}

/// One connection to the management port.
pub(crate) struct Line {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
    endpoint: String,
    location: Vec<String>,
    next: u32,
}

impl Line {
    /// Dials with the kind of handshake that `handshakes` says; a resumed one needs a ticket of a connection before.
    pub(crate) async fn open(device: &Enrolled, address: SocketAddr, handshakes: Handshakes) -> anyhow::Result<Self> {
        match handshakes {
            Handshakes::Full => {
                let mut config = ClientConfig::clone(&device.tls);
                config.resumption = Resumption::disabled();
                Self::dial(device, address, Arc::new(config), Some(HandshakeKind::Full)).await
            }
            Handshakes::Ticket => Self::dial(device, address, device.tls.clone(), None).await,
            Handshakes::Resumed => Self::dial(device, address, device.tls.clone(), Some(HandshakeKind::Resumed)).await,
        }
    }

    async fn dial(
        device: &Enrolled,
        address: SocketAddr,
        config: Arc<ClientConfig>,
        wanted: Option<HandshakeKind>,
    ) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(address).await.context("cannot reach the service")?;
        tcp.set_nodelay(true)?;
        let stream = timeout(PATIENCE, TlsConnector::from(config).connect(address.ip().into(), tcp)).await??;
        let kind = stream.get_ref().1.handshake_kind();
        ensure!(wanted.is_none() || kind == wanted, "the handshake was {kind:?} instead of {wanted:?}");
        let mut line = Self {
            stream,
            decoder: Decoder::new(16 * 1024),
            endpoint: device.endpoint.to_string(),
            location: Vec::new(),
            next: 1,
        };
        line.send(&Capabilities { max_message_size: 16 * 1024, block_wise: true }.message()).await?;
        Ok(line)
    }

    /// Registers; the answer names the location.
    pub(crate) async fn register(&mut self) -> anyhow::Result<()> {
        let request = Message::new(Code::POST)
            .path("rd")
            .query(&format!("ep={}", self.endpoint))
            .query("lt=300")
            .query("lwm2m=1.1")
            .query("b=T")
            .content(ContentFormat::LINK, &b"</1/1>,</3/0>"[..]);
        let answer = self.ask(request).await?;
        ensure!(answer.code == Code::CREATED, "the registration was answered with {:?}", answer.code);
        self.location =
            answer.options.texts(protocol_lwm2m::coap::OptionNumber::LOCATION_PATH).map(ToOwned::to_owned).collect();
        Ok(())
    }

    /// Updates the registration.
    pub(crate) async fn update(&mut self) -> anyhow::Result<()> {
        let request = Message::new(Code::POST).path(&self.location.join("/"));
        let answer = self.ask(request).await?;
        ensure!(answer.code == Code::CHANGED, "the update was answered with {:?}", answer.code);
        Ok(())
    }

    async fn ask(&mut self, mut request: Message) -> anyhow::Result<Message> {
        request.token = Token::from(self.next);
        self.next += 1;
        self.send(&request).await?;
        timeout(PATIENCE, self.answer(request.token)).await.context("the service did not answer")?
    }

    /// The response with `token`; whatever the service asks meanwhile stays unanswered, as from a device that sleeps.
    async fn answer(&mut self, token: Token) -> anyhow::Result<Message> {
        let mut piece = [0; 4096];
        loop {
            while let Some(message) = self.decoder.next_message()? {
                if message.code.is_response() && message.token == token {
                    return Ok(message);
                }
            }
            let read = self.stream.read(&mut piece).await?;
            ensure!(read > 0, "the service closed the connection");
            self.decoder.push(&piece[..read]);
        }
    }

    async fn send(&mut self, message: &Message) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        tcp::encode(message, &mut bytes);
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }
}

/// Does `work` `count` times over the devices in turn, `lines` at a time.
pub(crate) async fn in_parallel<W, F>(
    devices: &[Arc<Enrolled>],
    lines: usize,
    count: usize,
    work: W,
) -> anyhow::Result<()>
where
    W: Fn(&Arc<Enrolled>) -> F,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for device in devices.iter().cycle().take(count) {
        while running.len() >= lines {
            running.join_next().await.transpose()?.transpose()?;
        }
        running.spawn(work(device));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}
