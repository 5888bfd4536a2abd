//! Streams of events as operators and receivers meet them: the real `mbl`, the real service, and a receiver on loopback that checks what it
//! is sent.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Output,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde_json::Value;
use testbed::{Operator, Service, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// One request that a receiver got.
#[derive(Clone)]
struct Got {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Got {
    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn subject(&self) -> String {
        self.event()["subject"].as_str().unwrap().to_owned()
    }

    /// Whether it was signed with this secret, as Standard Webhooks says.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64.decode(secret.trim().strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let head = format!("{}.{}.", self.headers["webhook-id"], self.headers["webhook-timestamp"]);
        let signed = [head.as_bytes(), &self.body].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        self.headers["webhook-signature"].split(' ').any(|one| {
            let tag = BASE64.decode(one.strip_prefix("v1,").unwrap().as_bytes()).unwrap();
            hmac::verify(&key, &signed, &tag).is_ok()
        })
    }
}

/// What the receiver answers to an event about a subject.
type Answers = fn(&str) -> u16;

/// A receiver of webhooks; a thread for each connection.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    answers: Arc<Mutex<Answers>>,
}

impl Receiver {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            got: Arc::default(),
            answers: Arc::new(Mutex::new(answers)),
        };
        let (got, answers) = (receiver.got.clone(), receiver.answers.clone());
        // It ends with the test process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (got, answers) = (got.clone(), answers.clone());
                thread::spawn(move || while serve_one(&stream, &got, &answers).is_some() {});
            }
        });
        receiver
    }

    fn answers(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn subjects(&self) -> Vec<String> {
        self.got().iter().map(Got::subject).collect()
    }

    fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        until(PATIENCE, what, || Ok(Some(self.subjects()).filter(|seen| wanted(seen))))
            .unwrap_or_else(|error| panic!("{error:#}; what came: {:?}", self.subjects()))
    }
}

/// Reads one request and answers it; nothing when the connection has ended.
fn serve_one(mut stream: &TcpStream, got: &Mutex<Vec<Got>>, answers: &Mutex<Answers>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream);
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            head => {
                let (name, value) = head.split_once(": ").unwrap_or((head, ""));
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let request = Got { headers, body };
    let status = (*answers.lock().unwrap())(&request.subject());
    got.lock().unwrap().push(request);
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").ok()
}

/// A service that may send to loopback, and an operator.
struct Desk {
    operator: Operator,
    service: Service,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self::with("")
    }

    /// A service with further settings.
    fn with(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mbl-service.toml");
        let webhooks = "[webhooks]\nallow = [\"127.0.0.1\"]\ntries = 4\nlongest_wait_s = 1\n";
        fs::write(&config, format!("{webhooks}{settings}")).unwrap();
        let flags = ["--config", config.to_str().unwrap()];
        let service = Service::start_with(&folder.path().join("service"), &flags).unwrap();
        let operator = Operator::new(&folder.path().join("config"), folder.path());
        let desk = Self { operator, service, folder };
        desk.mbl("service token --data-dir service");
        desk
    }

    fn mbl(&self, line: &str) -> Value {
        self.operator.json(&line.split(' ').collect::<Vec<_>>()).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        self.operator.run(&line.split(' ').collect::<Vec<_>>()).unwrap()
    }

    fn secret(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join(file)).unwrap()
    }

    fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(PATIENCE, what, || {
            Ok(Some(self.operator.json(&["subscription", "show", name])?).filter(|shown| wanted(shown)))
        })
        .unwrap()
    }
}

#[test]
fn fleet_events_reach_a_webhook_signed_and_in_order_through_failures_and_a_killed_service() {
    let mut desk = Desk::new();
    let receiver = Receiver::start(|_| 503);
    let address = format!("http://{}/in", receiver.address);
    desk.mbl(&format!("subscription create desk --webhook {address} --type group.* --output secret"));
    for group in ["a", "b"] {
        desk.mbl(&format!("group create {group}"));
    }
    receiver.until("two tries", |seen| seen.len() >= 2);
    let failing = desk.mbl("subscription show desk");
    assert_eq!((&failing["last_failure"], &failing["dead_letters"]), (&"the receiver answered 503".into(), &0.into()));

    desk.service.kill().unwrap();
    receiver.answers(|_| 204);
    desk.service.restart().unwrap();
    desk.mbl("group create c");
    let seen = receiver.until("the last group", |seen| seen.last().is_some_and(|last| last == "groups/c"));
    let mut first_times = seen;
    first_times.dedup();
    assert_eq!(first_times, ["groups/a", "groups/b", "groups/c"]);
    let secret = desk.secret("secret");
    for got in receiver.got() {
        assert!(got.is_signed_with(&secret) && !got.is_signed_with("whsec_AAAA"));
        assert_eq!(got.headers["content-type"], "application/cloudevents+json; charset=utf-8");
        assert_eq!((&got.event()["specversion"], &got.event()["source"]), (&"1.0".into(), &"/accounts/default".into()));
    }
    let log = desk.service.log().unwrap();
    assert!(!log.contains("whsec_") && !log.contains("/in"), "neither secret nor address is in the log");

    // Another secret: for a day the former one signs, too.
    desk.mbl("subscription rotate-secret desk --output secret-2");
    desk.mbl("group create d");
    receiver.until("the group after the rotation", |seen| seen.last().is_some_and(|last| last == "groups/d"));
    let last = receiver.got().pop().unwrap();
    assert!(last.is_signed_with(&secret) && last.is_signed_with(&desk.secret("secret-2")));
}

#[test]
fn fleet_an_event_that_is_never_accepted_is_kept_told_of_and_sent_again_when_asked() {
    let desk = Desk::new();
    let receiver = Receiver::start(|subject| if subject == "groups/bad" { 400 } else { 200 });
    let address = format!("http://{}/in", receiver.address);
    desk.mbl(&format!("subscription create desk --webhook {address} --type group.* --output secret"));
    desk.mbl("subscription create letters --type subscription.dead_letter");
    for group in ["bad", "good"] {
        desk.mbl(&format!("group create {group}"));
    }
    receiver.until("what comes after it", |seen| seen.last().is_some_and(|last| last == "groups/good"));
    assert_eq!(receiver.subjects().iter().filter(|subject| *subject == "groups/bad").count(), 4);
    let letters = desk.mbl("subscription dead-letters desk");
    assert_eq!((&letters[0]["event"]["subject"], &letters[0]["tries"]), (&"groups/bad".into(), &4.into()), "{letters}");
    let told = desk.operator.succeed(&["--json", "subscription", "read", "letters"]).unwrap();
    assert!(told.contains("the receiver answered 400"), "{told}");
    let again = desk.operator.succeed(&["--json", "subscription", "read", "letters"]).unwrap();
    assert_eq!(again, "", "what was read is acknowledged");

    receiver.answers(|_| 200);
    desk.mbl("subscription replay desk --dead-letters");
    receiver.until("the dead letter", |seen| seen.last().is_some_and(|last| last == "groups/bad"));
    desk.until("desk", "no dead letter to be left", |shown| shown["dead_letters"] == 0);
    let before = receiver.subjects().len();
    desk.mbl("subscription replay desk --after 0");
    receiver.until("everything once more", |seen| seen.len() == before + 2);

    desk.mbl("subscription pause desk");
    desk.mbl("group create later");
    desk.mbl("subscription resume desk");
    receiver.until("what came in the pause", |seen| seen.last().is_some_and(|last| last == "groups/later"));
}

#[test]
fn fleet_a_webhook_into_the_service_s_own_network_is_refused_with_the_setting_that_would_allow_it() {
    let desk = Desk::new();
    for address in ["https://10.0.0.1/in", "https://169.254.169.254/", "https://[::1]/", "http://127.0.0.2:1/"] {
        let output = desk.run(&format!("subscription create desk --webhook {address} --output secret"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{address}: {said}");
        assert!(said.contains("`webhooks.allow`"), "{address}: {said}");
    }
    assert!(!desk.folder.path().join("secret").exists());
    assert_eq!(desk.mbl("subscription list").as_array().unwrap().len(), 0);
    let output = desk.run("subscription show desk");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("hint: list the subscriptions"), "{said}");
}

/// A mail server that takes everything; what it took.
pub(crate) fn mail_server(at: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(at).unwrap();
    let (address, letters) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let taken = letters.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = taken.clone();
            thread::spawn(move || take_letters(&stream, &taken));
        }
    });
    (address, letters)
}

/// SMTP (RFC 5321), as much as a sender needs.
fn take_letters(mut stream: &TcpStream, letters: &Mutex<Vec<String>>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut lines = BufReader::new(stream).lines();
    write!(stream, "220 desk ESMTP\r\n").ok()?;
    let mut envelope = String::new();
    loop {
        let line = lines.next()?.ok()?;
        match line.split(' ').next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "MAIL" | "RCPT" => {
                envelope += &format!("{line}\n");
                write!(stream, "250 yes\r\n").ok()?;
            }
            "DATA" => {
                write!(stream, "354 go on\r\n").ok()?;
                let mut letter = std::mem::take(&mut envelope);
                loop {
                    let line = lines.next()?.ok()?;
                    if line == "." {
                        break;
                    }
                    letter += &format!("{line}\n");
                }
                letters.lock().unwrap().push(letter);
                write!(stream, "250 taken\r\n").ok()?;
            }
            "QUIT" => return write!(stream, "221 bye\r\n").ok(),
            _ => write!(stream, "250 desk\r\n").ok()?,
        }
    }
}

#[test]
fn fleet_an_alert_is_raised_told_by_mail_acknowledged_and_over_and_a_silence_keeps_quiet() {
    let (server, letters) = mail_server(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mail = format!(
        "[mail]\nserver = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"Fleet <fleet@example.com>\"\n",
        server.port()
    );
    let desk = Desk::with(&mail);
    desk.mbl("subscription create pager --mail ops@example.com --type alert.raised --type alert.resolved");
    desk.mbl(
        "alert rule create busy --severity critical --count group.created --events 3 --clear-below 1 --within 20 \
         --whole-account --for 0 --clear-for 0",
    );
    for group in ["a", "b", "c"] {
        desk.mbl(&format!("group create {group}"));
    }
    let letter = |what: &str, word: &str| {
        until(PATIENCE, what, || Ok(letters.lock().unwrap().iter().find(|letter| letter.contains(word)).cloned()))
            .unwrap()
    };
    let raised = letter("the alert", "alert.raised");
    assert!(
        raised.contains("RCPT TO:<ops@example.com>") && raised.contains("Subject: [default] alert.raised"),
        "{raised}"
    );
    assert!(raised.contains("rule: \"busy\"") && raised.contains("severity: \"critical\""), "{raised}");
    let all = desk.mbl("alert list --all");
    let id = all[0]["id"].as_str().unwrap();
    assert_eq!((&all[0]["rule"], &all[0]["severity"]), (&"busy".into(), &"critical".into()));
    let known = desk.run(&format!("alert acknowledge {id} --note mine"));
    assert!(known.status.success(), "{known:?}");
    letter("the end of the alert", "alert.resolved");
    assert_eq!(desk.mbl(&format!("alert show {id}"))["state"], "resolved");

    let before = letters.lock().unwrap().len();
    desk.mbl("alert silence create works --minutes 10 --rule busy");
    for group in ["d", "e", "f"] {
        desk.mbl(&format!("group create {group}"));
    }
    until(PATIENCE, "a silenced alert", || {
        let all = desk.operator.json(&["alert", "list"])?;
        Ok((all[0]["state"] == "raised" && all[0]["told"].is_null()).then_some(()))
    })
    .unwrap();
    assert_eq!(letters.lock().unwrap().len(), before);
    desk.mbl("alert silence end si-1");
    desk.mbl("alert rule delete busy");
    assert_eq!(desk.mbl("alert list").as_array().unwrap().len(), 0);
}
