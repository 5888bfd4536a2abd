//! What the client asks for, and what the caller decides about it.

use super::{Asked, Asking, Purpose, Session, Standing};
use crate::{
    coap::{Code, ContentFormat, Message, OptionNumber, connection::InboundId},
    server::{
        BootstrapPlan, Decision, Ended, Question, Registration, RegistrationError, RegistrationUpdate, Step, bootstrap,
        registration,
    },
    time::Millis,
};

impl Session {
    pub(super) fn inbound(&mut self, now: Millis, id: InboundId, request: Message) {
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

    pub(super) fn bootstrap_question(&self, request: &Message) -> Result<(Question, Asking), Message> {
        let asked = self.asked.iter().any(|asked| matches!(asked.question, Asking::Bootstrap));
        if asked || self.bootstrap.is_some() {
            return Err(Message::refusal(Code::BAD_REQUEST, "a bootstrap is under way"));
        }
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

    pub(super) fn register_question(&self, request: &Message) -> Result<(Question, Asking), Message> {
        let registration = Registration::read(request).map_err(|error| bad_query(&error))?;
        self.check_lifetime(registration.lifetime)?;
        Ok((Question::Register(registration.clone()), Asking::Register(registration)))
    }

    pub(super) fn update_question(&self, location: &str, request: &Message) -> Result<(Question, Asking), Message> {
        let known = self.standing.as_ref().is_some_and(|standing| standing.location == location);
        if !known {
            return Err(Message::new(Code::NOT_FOUND));
        }
        let update = RegistrationUpdate::read(request).map_err(|error| bad_query(&error))?;
        update.lifetime.map_or(Ok(()), |lifetime| self.check_lifetime(lifetime))?;
        Ok((Question::Update(update.clone()), Asking::Update(update)))
    }

    pub(super) fn check_lifetime(&self, lifetime: u32) -> Result<(), Message> {
        let allowed = &self.settings.lifetime;
        if allowed.contains(&lifetime) {
            return Ok(());
        }
        let why = format!("the lifetime must be {} to {} seconds", allowed.start(), allowed.end());
        Err(Message::refusal(Code::BAD_REQUEST, &why))
    }

    pub(super) fn deregister(&mut self, now: Millis, id: InboundId, location: &str) {
        match self.standing.take_if(|standing| standing.location == location) {
            Some(_) => {
                self.respond(now, id, Message::new(Code::DELETED));
                self.idle_at = now.plus(self.settings.idle_timeout);
                self.steps.push(Step::Deregistered(Ended::Deregistered));
            }
            None => self.respond(now, id, Message::new(Code::NOT_FOUND)),
        }
    }

    pub(super) fn respond(&mut self, now: Millis, id: InboundId, response: Message) {
        self.exchange(now, |connection, out| connection.respond(now, id, response, out));
    }

    pub(super) fn decided(&mut self, now: Millis, ask: u64, decision: Decision) {
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

    pub(super) fn register(&mut self, now: Millis, inbound: InboundId, registration: Registration, location: String) {
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

    pub(super) fn update(&mut self, now: Millis, inbound: InboundId, update: &RegistrationUpdate) {
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

    pub(super) fn begin_bootstrap(&mut self, now: Millis, inbound: InboundId, plan: &BootstrapPlan) {
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

    pub(super) fn next_bootstrap(&mut self, now: Millis) {
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
}

fn bad_query(error: &RegistrationError) -> Message {
    Message::refusal(error.code(), &error.to_string())
}
