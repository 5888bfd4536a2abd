//! CoAP over TCP with an implementation that is not ours: libcoap's client and server (Debian package `libcoap3-bin`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that meets what it does not expect should stop the test"
)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use protocol_lwm2m::{
    coap::{Code, Connection, ContentFormat, Limits, Message, OptionNumber, connection::Output, tcp},
    time::Millis,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits { max_message: 1152, ..Limits::default() }
}

/// One end of a real connection: bytes in, outputs out.
struct End {
    stream: TcpStream,
    decoder: tcp::Decoder,
    connection: Connection<u32>,
    waiting: Vec<Output<u32>>,
    since: Instant,
}

impl End {
    fn open(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut out = Vec::new();
        let connection = Connection::open(limits(), 3, &mut out);
        let decoder = tcp::Decoder::new(1152);
        let mut end = Self { stream, decoder, connection, waiting: Vec::new(), since: Instant::now() };
        end.perform(out);
        end
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.since.elapsed().as_millis()).unwrap())
    }

    /// Writes what is to be sent and keeps the rest for [`End::next`].
    fn perform(&mut self, out: Vec<Output<u32>>) {
        for output in out {
            match output {
                Output::Send(message) => {
                    let mut bytes = Vec::new();
                    tcp::encode(&message, &mut bytes);
                    self.stream.write_all(&bytes).unwrap();
                }
                other => self.waiting.push(other),
            }
        }
    }

    fn request(&mut self, request: Message) {
        let (now, mut out) = (self.now(), Vec::new());
        self.connection.request(now, request, 1, &mut out);
        self.perform(out);
    }

    /// The next thing that the peer wants or answers; `None` when it has closed the connection.
    fn next(&mut self) -> Option<Output<u32>> {
        while self.waiting.is_empty() {
            let mut bytes = [0; 4096];
            let read = match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                read => read.unwrap(),
            };
            self.decoder.push(&bytes[..read]);
            while let Some(message) = self.decoder.next_message().unwrap() {
                let (now, mut out) = (self.now(), Vec::new());
                self.connection.receive(now, message, &mut out);
                self.perform(out);
            }
        }
        Some(self.waiting.remove(0))
    }

    fn response(&mut self) -> Message {
        loop {
            match self.next() {
                Some(Output::Response { response, .. } | Output::Notification { response, .. }) => return response,
                Some(Output::Ready) => {}
                other => panic!("instead of a response: {other:?}"),
            }
        }
    }
}

fn tool(name: &str) -> Command {
    let path = format!("/usr/bin/{name}");
    assert!(std::path::Path::new(&path).exists(), "{path} is missing: install the package libcoap3-bin");
    Command::new(path)
}

/// Answers every request on one connection: GET with `body`, anything else with its own payload. Gives what was asked.
fn serve(listener: &TcpListener, body: &[u8]) -> Vec<Message> {
    let mut end = End::open(listener.accept().unwrap().0);
    let mut seen = Vec::new();
    while let Some(output) = end.next() {
        if let Output::Request { id, request } = output {
            let payload = if request.code == Code::GET { body.to_vec() } else { request.payload.clone() };
            let response = Message::new(Code::CONTENT).content(ContentFormat::OPAQUE, payload);
            let (now, mut out) = (end.now(), Vec::new());
            end.connection.respond(now, id, response, &mut out);
            end.perform(out);
            seen.push(request);
        }
    }
    seen
}

/// Runs libcoap's client against our server; gives what it printed and what it asked.
fn run_client(arguments: &[&str], body: &[u8]) -> (Vec<u8>, Vec<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("coap+tcp://127.0.0.1:{}/a/b?c=d", listener.local_addr().unwrap().port());
    let (body, (done, asked)) = (body.to_vec(), mpsc::channel());
    let server = thread::spawn(move || done.send(serve(&listener, &body)));
    let client = tool("coap-client-notls").args(["-B", "10", "-v", "3"]).args(arguments).arg(uri).output().unwrap();
    let asked = asked.recv_timeout(PATIENCE).unwrap();
    server.join().unwrap().unwrap();
    (client.stdout, asked)
}

#[test]
fn a_foreign_client_reads_a_body_of_several_blocks() {
    let body: Vec<u8> = (0..5000_u32).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
    for arguments in [&["-m", "get"][..], &["-m", "get", "-b", "64"]] {
        let (printed, asked) = run_client(arguments, &body);
        assert!(printed.starts_with(&body), "{arguments:?}: {} bytes", printed.len());
        assert_eq!((asked[0].uri_path().as_str(), asked[0].query_value("c")), ("/a/b", Some("d")));
    }
}

#[test]
fn a_foreign_client_writes_a_body_of_several_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let body: Vec<u8> = (0..5000_u32).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
    std::fs::write(&file, &body).unwrap();
    let (printed, asked) = run_client(&["-m", "put", "-f", file.to_str().unwrap()], b"");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].payload, body);
    assert!(printed.starts_with(&body), "{} bytes came back", printed.len());
}

/// A foreign server that dies with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Starts libcoap's server on a free port and connects to it.
fn foreign_server() -> (Server, TcpStream) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = tool("coap-server-notls");
    command.args(["-A", "127.0.0.1", "-p", &port.to_string(), "-d", "3"]).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(command.spawn().unwrap());
    let (_never, nothing) = mpsc::channel::<()>();
    let limit = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return (server, stream),
            Err(error) => assert!(Instant::now() < limit, "the server does not come up: {error}"),
        }
        // The server tells nobody when it listens.
        let _waited = nothing.recv_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_foreign_server_answers_stores_and_notifies() {
    let (_server, stream) = foreign_server();
    let mut end = End::open(stream);
    assert_eq!(end.next(), Some(Output::Ready));
    end.request(Message::new(Code::GET).path("/.well-known/core"));
    let links = protocol_lwm2m::formats::link::parse(&end.response().payload).unwrap();
    assert!(links.iter().any(|link| link.target == "/time" && link.attribute("if") == Some("clock")), "{links:?}");

    let body: Vec<u8> = (0..5000_u32).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
    end.request(Message::new(Code::PUT).path("/example_data").content(ContentFormat::TEXT, body.clone()));
    assert!(end.response().code.is_success());
    end.request(Message::new(Code::GET).path("/example_data"));
    assert_eq!(end.response().payload, body);

    end.request(Message::new(Code::GET).path("/time").with_uint(OptionNumber::OBSERVE, 0));
    let (first, second) = (end.response(), end.response());
    assert!(
        first.options.uint(OptionNumber::OBSERVE).is_some() && second.options.uint(OptionNumber::OBSERVE).is_some()
    );
    assert_ne!(first.payload, second.payload);
}
