//! Traces of the real service, as a collector on loopback gets them: it decodes what it is sent with the published types.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as AnyValue, trace::v1::Span,
};
use prost::Message as _;
use serde_json::Value;
use testbed::{Service, until};

use crate::world::{ENDPOINT, PATIENCE, World};

/// One request that came.
#[derive(Clone)]
struct Heard {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// A collector at `/v1/traces`, and a receiver of webhooks at every other path.
struct Collector {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), heard: Arc::default() };
        let heard = collector.heard.clone();
        // It ends with the test process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = heard.clone();
                thread::spawn(move || while hear(&stream, &heard).is_some() {});
            }
        });
        collector
    }

    fn heard(&self, path: &str) -> Vec<Heard> {
        self.heard.lock().unwrap().iter().filter(|one| one.path == path).cloned().collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.heard("/v1/traces").into_iter().map(|one| {
            assert_eq!(one.headers["content-type"], "application/x-protobuf");
            ExportTraceServiceRequest::decode(&one.body[..]).unwrap()
        });
        let resources = requests.flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Waits for a span.
    fn until(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        until(PATIENCE, what, || Ok(self.spans().into_iter().find(|span| wanted(span)))).unwrap_or_else(|error| {
            let names: Vec<String> = self.spans().into_iter().map(|span| span.name).collect();
            panic!("{error:#}; these came: {names:?}")
        })
    }
}

/// Reads one request and answers it; nothing when the connection has ended.
fn hear(mut stream: &TcpStream, heard: &Mutex<Vec<Heard>>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut first, mut headers) = (String::new(), BTreeMap::new());
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    heard.lock().unwrap().push(Heard { path, headers, body });
    write!(stream, "HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").ok()
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(AnyValue::StringValue(text)) => text,
        Some(AnyValue::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// A client that trusts the service.
fn http(service: &Service) -> reqwest::Client {
    let pem = fs::read(service.data_dir().join("service-authority.pem")).unwrap();
    let roots = reqwest::Certificate::from_pem_bundle(&pem).unwrap();
    reqwest::Client::builder().tls_certs_only(roots).no_proxy().build().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn traces_a_request_and_what_a_device_and_a_receiver_are_told_because_of_it_are_one_trace() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("mbl-service.toml");
    let text = format!(
        "[webhooks]\nallow = [\"127.0.0.1\"]\n[traces]\nendpoint = \"http://{}/v1/traces\"\n",
        collector.address
    );
    fs::write(&settings, text).unwrap();
    let mut world = World::on(&["--config", settings.to_str().unwrap()]);
    world.mbl(&format!(
        "subscription create hook --webhook http://{}/hook --type rollout.* --output hook.secret",
        collector.address
    ));
    world.build_app("1.0.0", true);
    world.sign("1.0.0", None);
    let rollout = world.start("1.0.0");
    world.until_rollout(&rollout, "succeeded");

    let request = collector.until("the request of `mbl`", |span| span.name == "POST /api/v1/rollouts/{id}/start");
    assert_eq!(attribute(&request, "http.response.status_code"), "200");
    assert_eq!(request.kind(), opentelemetry_proto::tonic::trace::v1::span::SpanKind::Server);
    let is_of = |span: &Span, name: &str| span.name == name && span.trace_id == request.trace_id;
    let errand = collector.until("what the device was told", |span| is_of(span, "errand"));
    assert_eq!(
        (attribute(&errand, "device"), attribute(&errand, "what")),
        (ENDPOINT.to_owned(), "WriteWish".to_owned())
    );
    assert_eq!(errand.parent_span_id, request.span_id);
    assert!(errand.start_time_unix_nano >= request.start_time_unix_nano);
    let delivery = collector.until("what the receiver was told", |span| is_of(span, "delivery"));
    let place = format!("00-{}-{}-01", hex::encode(&request.trace_id), hex::encode(&delivery.span_id));
    let hooks = collector.heard("/hook");
    assert!(hooks.iter().any(|hook| hook.headers.get("traceparent") == Some(&place)), "{place}");

    // A service that has forgotten everything but its store still knows where an errand comes from.
    world.stage.service.restart().unwrap();
    world.until_device("the device to come back", |device| device["device"]["connected"] == true);
    let again = |span: &Span| is_of(span, "errand") && span.span_id != errand.span_id;
    collector.until("the wish to be told again", again);
}

#[test]
fn traces_a_request_belongs_to_the_trace_of_its_sender_and_its_refusal_names_it() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("mbl-service.toml");
    fs::write(
        &settings,
        format!("[traces]\nendpoint = \"http://{}/v1/traces\"\none_in = 1000000\n", collector.address),
    )
    .unwrap();
    let service =
        Service::start_with(&folder.path().join("service"), &["--config", settings.to_str().unwrap()]).unwrap();
    let token = fs::read_to_string(service.data_dir().join("first-token")).unwrap();
    let (client, runtime) = (http(&service), runtime());
    let ask = |place: &str| {
        let request = client
            .get(format!("https://{}/api/v1/groups/nobody", service.addresses().api))
            .bearer_auth(token.trim())
            .header("traceparent", place);
        runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
            let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            assert_eq!(problem["instance"], format!("urn:mbl:request:{id}"), "{problem}");
            id
        })
    };
    // Not traced, as it is one in a million, and nothing that must be understood.
    ask("00-zz");
    let id = ask("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let span = collector.until("the span of the request", |span| attribute(span, "mbl.request.id") == id);
    assert_eq!(hex::encode(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex::encode(&span.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(attribute(&span, "http.response.status_code"), "404");
    assert!(service.log().unwrap().contains(&id), "the log names it, too");
}

#[test]
fn traces_a_collector_that_is_away_costs_spans_which_are_counted_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("mbl-service.toml");
    // Nobody listens on port 1.
    fs::write(&settings, "[traces]\nendpoint = \"http://127.0.0.1:1/v1/traces\"\nqueue = 4\n").unwrap();
    let mut service =
        Service::start_with(&folder.path().join("service"), &["--config", settings.to_str().unwrap()]).unwrap();
    let (client, runtime) = (http(&service), runtime());
    let api = service.addresses().api;
    let get = |path: &str| {
        runtime
            .block_on(async { client.get(format!("https://{api}{path}")).send().await.unwrap().text().await.unwrap() })
    };
    until(PATIENCE, "lost and dropped spans to be counted", || {
        for _ in 0..20 {
            assert!(get("/api/v1/groups").contains("401"), "nobody was asked who it is");
        }
        let counted = get("/metrics");
        let has = |result: &str| {
            let line = format!("mbl_trace_spans_total{{result=\"{result}\"}} ");
            counted.lines().find_map(|it| it.strip_prefix(&line)).is_some_and(|count| count != "0")
        };
        Ok((has("lost") && has("dropped")).then_some(()))
    })
    .unwrap();
    assert_eq!(service.stop().unwrap().map(|status| status.success()), Some(true));
}
