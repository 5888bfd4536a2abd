//! The service's side of a device's connections, played message by message with the real codecs over real TLS, so that a test
//! can also do what a good service never does.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use protocol_lwm2m::{
    coap::{Code, ContentFormat, Message, OptionNumber, Token, signal::Capabilities, tcp},
    formats::{self, Entry},
    object::{Path, SecurityAccount, ServerAccount},
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::pki::{Authority, World};

const LIMIT: Duration = Duration::from_secs(30);

/// One port of the service.
pub(crate) struct Port {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Port {
    pub(crate) async fn open(world: &World) -> Self {
        Self::with(world.server_config(b"coap")).await
    }

    pub(crate) async fn with(config: Arc<rustls::ServerConfig>) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), acceptor: TlsAcceptor::from(config) }
    }

    pub(crate) fn uri(&self) -> String {
        format!("coaps+tcp://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection, after the capabilities of both sides.
    pub(crate) async fn accept(&self) -> Peer {
        let mut peer = self.accept_silent().await.expect("the handshake fails");
        peer.send(&Capabilities { max_message_size: 65_536, block_wise: true }.message()).await;
        assert_eq!(peer.receive().await.code, Code::CSM);
        peer
    }

    /// The next connection if its handshake succeeds, before anything was said.
    pub(crate) async fn accept_silent(&self) -> Option<Peer> {
        let (stream, _) = timeout(LIMIT, self.listener.accept()).await.expect("nobody connects").unwrap();
        let stream = self.acceptor.accept(stream).await.ok()?;
        Some(Peer { stream, decoder: tcp::Decoder::new(1 << 20), waiting: Vec::new(), tokens: 0 })
    }

    /// Whether nobody connects for a while.
    pub(crate) async fn is_left_alone_for(&self, while_: Duration) -> bool {
        timeout(while_, self.listener.accept()).await.is_err()
    }
}

/// The service's end of one connection.
pub(crate) struct Peer {
    stream: TlsStream<TcpStream>,
    decoder: tcp::Decoder,
    /// Requests and notifications that came while something else was awaited.
    waiting: Vec<Message>,
    tokens: u8,
}

impl Peer {
    /// The certificate that the device presented.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        tcp::encode(message, &mut bytes);
        self.send_raw(&bytes).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message, or none if the device hung up.
    pub(crate) async fn receive_or_end(&mut self) -> Option<Message> {
        let read = async {
            loop {
                if let Some(message) = self.decoder.next_message().unwrap() {
                    return Some(message);
                }
                let mut piece = vec![0; 4096];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(n) => self.decoder.push(&piece[..n]),
                }
            }
        };
        timeout(LIMIT, read).await.expect("the device says nothing")
    }

    async fn receive(&mut self) -> Message {
        self.receive_or_end().await.expect("the device hung up")
    }

    /// The device's next request, which must be this one.
    pub(crate) async fn expect(&mut self, code: Code, path: &str) -> Message {
        let found = self.waiting.iter().position(|message| message.code.is_request());
        let request = match found {
            Some(at) => self.waiting.remove(at),
            None => loop {
                let message = self.receive().await;
                if message.code.is_request() {
                    break message;
                }
                self.waiting.push(message);
            },
        };
        assert_eq!((request.code, request.uri_path()), (code, path.to_owned()), "{request:?}");
        request
    }

    /// Answers a request of the device.
    pub(crate) async fn answer(&mut self, request: &Message, answer: Message) {
        self.send(&answer.with_token(request.token)).await;
    }

    /// Asks the device and waits for its answer.
    pub(crate) async fn ask(&mut self, request: Message) -> Message {
        self.tokens += 1;
        let token = Token::new(&[0x5e, self.tokens]).unwrap();
        self.send(&request.with_token(token)).await;
        loop {
            let message = self.receive().await;
            if message.code.is_response() && message.token == token {
                return message;
            }
            self.waiting.push(message);
        }
    }

    /// The next notification with this token.
    pub(crate) async fn notified(&mut self, token: Token) -> Message {
        if let Some(at) = self.waiting.iter().position(|message| message.token == token) {
            return self.waiting.remove(at);
        }
        loop {
            let message = self.receive().await;
            if message.token == token {
                return message;
            }
            self.waiting.push(message);
        }
    }

    /// Writes texts to resources of `/26241/0`, a partial update in SenML-CBOR.
    pub(crate) async fn write_release(&mut self, writes: &[(u16, &str)]) -> Message {
        let base = Path::instance(26_241, 0);
        let entries: Vec<_> =
            writes.iter().map(|(id, text)| Entry::new(Path::resource(26_241, 0, *id), *text)).collect();
        let payload = formats::encode(ContentFormat::SENML_CBOR, &base, &entries).unwrap();
        self.ask(Message::new(Code::POST).path("26241/0").content(ContentFormat::SENML_CBOR, payload)).await
    }

    /// Asks for a job.
    pub(crate) async fn give_job(&mut self, id: &str, kind: &str) {
        let base = Path::instance(26_244, 0);
        let texts = [(0, id), (1, kind), (2, "{}")];
        let entries: Vec<_> =
            texts.iter().map(|(id, text)| Entry::new(Path::resource(26_244, 0, *id), *text)).collect();
        let payload = formats::encode(ContentFormat::SENML_CBOR, &base, &entries).unwrap();
        let job = Message::new(Code::POST).path("26244/0").content(ContentFormat::SENML_CBOR, payload);
        assert_eq!(self.ask(job).await.code, Code::CHANGED);
    }

    /// How this job has ended, once the device says that it has.
    pub(crate) async fn job_ended(&mut self, id: &str) -> String {
        let read =
            |resource: u16| Message::new(Code::GET).path(&format!("26244/0/{resource}")).accept(ContentFormat::TEXT);
        let until = Instant::now() + LIMIT;
        loop {
            // The id first: the state that is read then is of this job or of a newer one.
            let said = self.ask(read(4)).await.payload;
            let state = String::from_utf8(self.ask(read(3)).await.payload).unwrap();
            if said == id.as_bytes() && state != "running" {
                return state;
            }
            assert!(Instant::now() < until, "the job {id} does not end");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Plays a bootstrap up to the finish: the device is to be managed at `uri`.
    pub(crate) async fn bootstrap(&mut self, uri: &str, lifetime: u32) {
        let request = self.expect(Code::POST, "/bs").await;
        assert_eq!(request.query_value("ep"), Some("gate-42"));
        self.answer(&request, Message::new(Code::CHANGED)).await;
        let security = SecurityAccount::managed(uri.to_owned(), 1);
        let server = ServerAccount { lifetime, ..ServerAccount::default() };
        for (path, entries) in [("0/1", security.entries(1)), ("1/1", server.entries(1))] {
            let base: Path = format!("/{path}").parse().unwrap();
            let payload = formats::encode(ContentFormat::SENML_CBOR, &base, &entries).unwrap();
            let request = Message::new(Code::PUT).path(path).content(ContentFormat::SENML_CBOR, payload);
            assert_eq!(self.ask(request).await.code, Code::CHANGED, "PUT /{path}");
        }
        assert_eq!(self.ask(Message::new(Code::POST).path("bs")).await.code, Code::CHANGED);
    }

    /// Issues a certificate of `authority` for a request at `path`, valid between two Unix times.
    pub(crate) async fn issue(&mut self, path: &str, authority: &Authority, validity: (u64, u64)) {
        let request = self.expect(Code::POST, path).await;
        assert_eq!(request.content_format(), Some(ContentFormat::PKCS10));
        let certificate = authority.sign_der(&request.payload, validity);
        self.answer(&request, Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, certificate.as_ref()))
            .await;
    }

    /// Plays the whole enrolment of RFC 9148 as this project uses it.
    pub(crate) async fn enrol(&mut self, authority: &Authority, validity: (u64, u64)) {
        let request = self.expect(Code::GET, "/.well-known/est/crts").await;
        let answer = Message::new(Code::CONTENT).content(ContentFormat::PKIX_CERT, authority.der.as_ref());
        self.answer(&request, answer).await;
        self.issue("/.well-known/est/sen", authority, validity).await;
    }

    /// Accepts a registration.
    pub(crate) async fn register(&mut self) -> Message {
        let request = self.expect(Code::POST, "/rd").await;
        assert_eq!(request.query_value("ep"), Some("gate-42"));
        let mut created = Message::new(Code::CREATED);
        created.options.push(OptionNumber::LOCATION_PATH, b"rd");
        created.options.push(OptionNumber::LOCATION_PATH, b"7");
        self.answer(&request, created).await;
        request
    }
}

/// The entries of a SenML-CBOR payload below `/26241/0`.
pub(crate) fn release_entries(message: &Message) -> Vec<Entry> {
    assert_eq!(message.content_format(), Some(ContentFormat::SENML_CBOR), "{message:?}");
    formats::decode(ContentFormat::SENML_CBOR, &Path::instance(26_241, 0), &message.payload).unwrap()
}
