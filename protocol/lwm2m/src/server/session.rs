//! The session itself: who is at the other end of one connection, and what each fact means for it.

use std::{collections::VecDeque, time::Duration};

use super::{
    BootstrapPlan, Decision, Ended, Fact, Operation, Question, Registration, RegistrationUpdate, RequestError,
    Settings, Step, bootstrap, operation, registration,
};
use crate::{
    coap::{
        Code, Connection, ContentFormat, ExchangeError, Message, OptionNumber,
        connection::{InboundId, Output},
    },
    object::Path,
    time::Millis,
};

/// What a request of ours was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The next write of a bootstrap, or its finish.
    Bootstrap,
    /// An operation of the caller.
    Operation { id: u64, path: Path },
    /// An Observe of the caller; its notifications carry the same mark.
    Observe { id: u64, path: Path },
    /// Nobody waits for the answer.
    Unwatched,
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Asked {
    number: u64,
    inbound: InboundId,
    question: Asking,
}

#[derive(Debug)]
enum Asking {
    Bootstrap,
    Register(Registration),
    Update(RegistrationUpdate),
    Other,
}

#[derive(Debug)]
struct Standing {
    registration: Registration,
    location: String,
    expires: Millis,
}

/// One connection of a client to the service, from its first byte to its last.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    connection: Option<Connection<Purpose>>,
    asked: Vec<Asked>,
    last_ask: u64,
    /// What a bootstrap still has to send.
    bootstrap: Option<VecDeque<Message>>,
    standing: Option<Standing>,
    /// When the session ends if nothing happens.
    idle_at: Millis,
    wake: Option<Millis>,
    steps: Vec<Step>,
}

impl Session {
    /// A session whose connection does not stand yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            connection: None,
            asked: Vec::new(),
            last_ask: 0,
            bootstrap: None,
            standing: None,
            idle_at: Millis(u64::MAX),
            wake: None,
            steps: Vec::new(),
        }
    }

    /// The registration of this connection.
    pub fn registration(&self) -> Option<&Registration> {
        self.standing.as_ref().map(|standing| &standing.registration)
    }

    /// Takes one fact; returns what the caller must now do, in order.
    pub fn on(&mut self, now: Millis, fact: Fact) -> Vec<Step> {
        match fact {
            Fact::Opened => self.opened(now),
            Fact::Received(message) => {
                if self.connection.as_ref().is_some_and(Connection::is_open) {
                    self.idle_at = now.plus(self.settings.idle_timeout);
                }
                self.exchange(now, |connection, out| connection.receive(now, message, out));
            }
            Fact::Lost => self.end(now, Ended::ConnectionLost),
            Fact::TimePassed => self.time_passed(now),
            Fact::Decided { ask, decision } => self.decided(now, ask, decision),
            Fact::Request { id, operation } => self.requested(now, id, &operation),
            Fact::Shutdown => self.shut(now, Ended::ConnectionLost),
        }
        self.wish();
        std::mem::take(&mut self.steps)
    }

    // The connection.

    fn opened(&mut self, now: Millis) {
        let mut out = Vec::new();
        self.connection = Some(Connection::open(self.settings.limits, self.settings.seed, &mut out));
        self.idle_at = now.plus(self.settings.hello_timeout);
        self.perform(now, out);
    }

    fn exchange(&mut self, now: Millis, act: impl FnOnce(&mut Connection<Purpose>, &mut Vec<Output<Purpose>>)) {
        let mut out = Vec::new();
        if let Some(connection) = &mut self.connection {
            act(connection, &mut out);
        }
        self.perform(now, out);
    }

    fn perform(&mut self, now: Millis, out: Vec<Output<Purpose>>) {
        for output in out {
            match output {
                Output::Send(message) => self.steps.push(Step::Send(message)),
                Output::Ready => self.idle_at = now.plus(self.settings.idle_timeout),
                Output::Request { id, request } => self.inbound(now, id, request),
                Output::Response { tag, response } => self.responded(now, tag, &response),
                Output::Notification { tag, response } => self.notified(now, tag, &response),
                Output::Failed { tag, error } => self.failed(now, tag, error.into()),
                Output::Ended { tag, error } => self.observation_ended(now, tag, error.into()),
                Output::Close(_) => {
                    self.end(now, Ended::ConnectionLost);
                    self.steps.push(Step::Close);
                }
            }
        }
    }

    /// The connection is gone: everything that waits for it hears so.
    fn end(&mut self, now: Millis, how: Ended) {
        self.leave(now, how, Connection::lost);
    }

    /// Ends the session from this side, kindly.
    fn shut(&mut self, now: Millis, how: Ended) {
        if self.leave(now, how, Connection::release) {
            self.steps.push(Step::Close);
        }
    }

    /// False if there is no connection to leave.
    fn leave(
        &mut self,
        now: Millis,
        how: Ended,
        goodbye: impl FnOnce(&mut Connection<Purpose>, &mut Vec<Output<Purpose>>),
    ) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let mut out = Vec::new();
        goodbye(&mut connection, &mut out);
        // With the connection every observation ends; the end of the registration says so once.
        out.retain(|output| !matches!(output, Output::Ended { .. }));
        self.perform(now, out);
        self.asked.clear();
        if self.standing.take().is_some() {
            self.steps.push(Step::Deregistered(how));
        }
        true
    }

    // Time.

    fn time_passed(&mut self, now: Millis) {
        self.exchange(now, |connection, out| connection.time_passed(now, out));
        if self.standing.as_ref().is_some_and(|standing| standing.expires <= now) {
            self.shut(now, Ended::Expired);
        } else if self.standing.is_none() && self.idle_at <= now {
            let greeted = self.connection.as_ref().is_some_and(Connection::is_open);
            if greeted && (self.connection.as_ref().is_some_and(Connection::is_busy) || !self.asked.is_empty()) {
                self.idle_at = now.plus(self.settings.idle_timeout);
            } else {
                self.shut(now, Ended::ConnectionLost);
            }
        }
    }

    fn wish(&mut self) {
        let own = self.standing.as_ref().map_or(self.idle_at, |standing| standing.expires);
        let wake = self.connection.as_ref().map(|connection| connection.next_deadline().map_or(own, |at| at.min(own)));
        if let Some(at) = wake.filter(|_| wake != self.wake) {
            self.steps.push(Step::WakeAt(at));
        }
        self.wake = wake;
    }

    fn expiry(&self, now: Millis, lifetime: u32) -> Millis {
        now.plus(Duration::from_secs(u64::from(lifetime)).saturating_add(self.settings.grace))
    }

    // What the client asks for.

    fn inbound(&mut self, now: Millis, id: InboundId, request: Message) {
        let segments: Vec<_> = request.segments().map(str::to_owned).collect();
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        let asked = match (request.code, &segments[..]) {
            (Code::POST, ["bs"]) => self.bootstrap_question(&request),
            (Code::POST, ["rd"]) => self.register_question(&request),
            (Code::POST, ["rd", location]) => self.update_question(location, &request),
            (Code::DELETE, ["rd", location]) => return self.deregister(now, id, location),
            (_, ["bs" | "rd", ..]) => Err(Message::new(Code::METHOD_NOT_ALLOWED)),
            _ => Ok((Question::Other(request), Asking::Other)),
        };
        match asked {
            Ok((question, asking)) => {
                self.last_ask += 1;
                self.asked.push(Asked { number: self.last_ask, inbound: id, question: asking });
                self.steps.push(Step::Ask { ask: self.last_ask, question });
            }
            Err(refusal) => self.respond(now, id, refusal),
        }
    }

    fn bootstrap_question(&self, request: &Message) -> Result<(Question, Asking), Message> {
        let (mut endpoint, mut preferred) = (None, None);
        for (name, value) in request.queries() {
            match name {
                "ep" => endpoint = Some(registration::endpoint(value).map_err(|error| bad_query(&error))?),
                "pct" => preferred = value.parse().ok().map(ContentFormat),
                _ => return Err(Message::refusal(Code::BAD_REQUEST, "a query is not known")),
            }
        }
        Ok((Question::Bootstrap { endpoint, preferred }, Asking::Bootstrap))
    }

    fn register_question(&self, request: &Message) -> Result<(Question, Asking), Message> {
        let registration = Registration::read(request).map_err(|error| bad_query(&error))?;
        self.check_lifetime(registration.lifetime)?;
        Ok((Question::Register(registration.clone()), Asking::Register(registration)))
    }

    fn update_question(&self, location: &str, request: &Message) -> Result<(Question, Asking), Message> {
        let known = self.standing.as_ref().is_some_and(|standing| standing.location == location);
        if !known {
            return Err(Message::new(Code::NOT_FOUND));
        }
        let update = RegistrationUpdate::read(request).map_err(|error| bad_query(&error))?;
        update.lifetime.map_or(Ok(()), |lifetime| self.check_lifetime(lifetime))?;
        Ok((Question::Update(update.clone()), Asking::Update(update)))
    }

    fn check_lifetime(&self, lifetime: u32) -> Result<(), Message> {
        let allowed = &self.settings.lifetime;
        if allowed.contains(&lifetime) {
            return Ok(());
        }
        let why = format!("the lifetime must be {} to {} seconds", allowed.start(), allowed.end());
        Err(Message::refusal(Code::BAD_REQUEST, &why))
    }

    fn deregister(&mut self, now: Millis, id: InboundId, location: &str) {
        match self.standing.take_if(|standing| standing.location == location) {
            Some(_) => {
                self.respond(now, id, Message::new(Code::DELETED));
                self.idle_at = now.plus(self.settings.idle_timeout);
                self.steps.push(Step::Deregistered(Ended::Deregistered));
            }
            None => self.respond(now, id, Message::new(Code::NOT_FOUND)),
        }
    }

    fn respond(&mut self, now: Millis, id: InboundId, response: Message) {
        self.exchange(now, |connection, out| connection.respond(now, id, response, out));
    }

    // What the caller decides.

    fn decided(&mut self, now: Millis, ask: u64, decision: Decision) {
        // A decision about a connection that is gone meanwhile decides nothing.
        let Some(at) = self.asked.iter().position(|asked| asked.number == ask) else { return };
        let Asked { inbound, question, .. } = self.asked.remove(at);
        self.idle_at = now.plus(self.settings.idle_timeout);
        match (question, decision) {
            (_, Decision::Refuse { code, diagnostic }) => {
                self.respond(now, inbound, Message::refusal(code, &diagnostic))
            }
            (Asking::Bootstrap, Decision::Bootstrap(plan)) => self.begin_bootstrap(now, inbound, &plan),
            (Asking::Register(registration), Decision::Register { location }) => {
                self.register(now, inbound, registration, location);
            }
            (Asking::Update(update), Decision::Allow) => self.update(now, inbound, &update),
            (Asking::Other, Decision::Respond(response)) => self.respond(now, inbound, response),
            (
                Asking::Bootstrap | Asking::Register(_) | Asking::Update(_) | Asking::Other,
                Decision::Allow | Decision::Bootstrap(_) | Decision::Register { .. } | Decision::Respond(_),
            ) => self.respond(now, inbound, Message::new(Code::INTERNAL_SERVER_ERROR)),
        }
    }

    fn register(&mut self, now: Millis, inbound: InboundId, registration: Registration, location: String) {
        let mut response = Message::new(Code::CREATED);
        response.options.push(OptionNumber::LOCATION_PATH, b"rd");
        response.options.push(OptionNumber::LOCATION_PATH, location.as_bytes());
        self.respond(now, inbound, response);
        if let Some(connection) = &mut self.connection {
            // A client that registers anew has forgotten who observed it.
            connection.forget_observations();
        }
        let expires = self.expiry(now, registration.lifetime);
        if self.standing.replace(Standing { registration: registration.clone(), location, expires }).is_some() {
            self.steps.push(Step::Deregistered(Ended::Replaced));
        }
        self.steps.push(Step::Registered(registration));
    }

    fn update(&mut self, now: Millis, inbound: InboundId, update: &RegistrationUpdate) {
        let Some(standing) = &mut self.standing else {
            return self.respond(now, inbound, Message::new(Code::NOT_FOUND));
        };
        standing.registration.apply(update);
        let registration = standing.registration.clone();
        let expires = self.expiry(now, registration.lifetime);
        if let Some(standing) = &mut self.standing {
            standing.expires = expires;
        }
        self.respond(now, inbound, Message::new(Code::CHANGED));
        self.steps.push(Step::Updated(registration));
    }

    fn begin_bootstrap(&mut self, now: Millis, inbound: InboundId, plan: &BootstrapPlan) {
        match bootstrap::requests(plan) {
            Ok(requests) => {
                self.respond(now, inbound, Message::new(Code::CHANGED));
                self.bootstrap = Some(requests);
                self.next_bootstrap(now);
            }
            Err(error) => {
                self.respond(now, inbound, Message::new(Code::INTERNAL_SERVER_ERROR));
                self.steps.push(Step::BootstrapFailed(error));
            }
        }
    }

    fn next_bootstrap(&mut self, now: Millis) {
        let Some(requests) = &mut self.bootstrap else { return };
        match requests.pop_front() {
            Some(request) => {
                self.exchange(now, |connection, out| connection.request(now, request, Purpose::Bootstrap, out))
            }
            None => {
                self.bootstrap = None;
                self.steps.push(Step::Bootstrapped);
            }
        }
    }

    // What the caller wants of the client.

    fn requested(&mut self, now: Millis, id: u64, operation: &Operation) {
        if self.standing.is_none() {
            return self.steps.push(Step::Answered { id, result: Err(RequestError::NotRegistered) });
        }
        let request = match operation::request(operation) {
            Ok(request) => request,
            Err(error) => return self.steps.push(Step::Answered { id, result: Err(error) }),
        };
        let path = operation::path(operation);
        match operation {
            Operation::CancelObserve { .. } => {
                if !self.cancel(
                    now,
                    |tag| matches!(tag, Purpose::Observe { path: own, .. } if *own == path),
                    Purpose::Operation { id, path },
                ) {
                    self.steps.push(Step::Answered { id, result: Err(RequestError::NotObserved) });
                }
            }
            Operation::Observe { .. } => {
                self.exchange(now, |connection, out| {
                    connection.request(now, request, Purpose::Observe { id, path }, out)
                });
            }
            _ => self.exchange(now, |connection, out| {
                connection.request(now, request, Purpose::Operation { id, path }, out)
            }),
        }
    }

    fn cancel(&mut self, now: Millis, is_it: impl Fn(&Purpose) -> bool, tag: Purpose) -> bool {
        let mut found = false;
        self.exchange(now, |connection, out| found = connection.cancel(now, is_it, tag, out));
        found
    }

    fn responded(&mut self, now: Millis, purpose: Purpose, response: &Message) {
        match purpose {
            Purpose::Operation { id, path } | Purpose::Observe { id, path } => {
                self.steps.push(Step::Answered { id, result: operation::answer(&path, response) });
            }
            Purpose::Bootstrap if response.code.is_success() => self.next_bootstrap(now),
            Purpose::Bootstrap => {
                let error = RequestError::Refused { code: response.code, diagnostic: response.diagnostic() };
                self.failed(now, purpose, error);
            }
            Purpose::Unwatched => {}
        }
    }

    fn failed(&mut self, now: Millis, purpose: Purpose, error: RequestError) {
        match purpose {
            Purpose::Operation { id, .. } | Purpose::Observe { id, .. } => {
                self.steps.push(Step::Answered { id, result: Err(error) });
            }
            Purpose::Bootstrap => {
                self.bootstrap = None;
                self.steps.push(Step::BootstrapFailed(error));
                // The client would only wait for what does not come.
                self.shut(now, Ended::ConnectionLost);
            }
            Purpose::Unwatched => {}
        }
    }

    fn notified(&mut self, now: Millis, purpose: Purpose, response: &Message) {
        let Purpose::Observe { id, path } = purpose else { return };
        match operation::answer(&path, response) {
            Ok(super::Answer { content: super::Content::Entries(entries), .. }) => {
                self.steps.push(Step::Notified { id, path, entries });
            }
            Ok(_) => self.observation_ended(now, purpose, ExchangeError::Broken.into()),
            Err(error) => self.observation_ended(now, purpose, error),
        }
    }

    fn observation_ended(&mut self, now: Millis, purpose: Purpose, error: RequestError) {
        let Purpose::Observe { id, path } = purpose else { return };
        self.cancel(now, |tag| *tag == purpose, Purpose::Unwatched);
        self.steps.push(Step::ObservationEnded { id, path, error });
    }
}

fn bad_query(error: &super::RegistrationError) -> Message {
    Message::refusal(error.code(), &error.to_string())
}
