//! Requests of ours, and what their responses mean: bootstrap, registration, updates, and those of the caller.

use super::{Client, Purpose, Registered, State};
use crate::{
    client::{
        Objects, Step,
        bootstrap::Staging,
        registration,
        retry::{Failure, Goal},
        tree::Tree,
    },
    coap::{Code, ContentFormat, ExchangeError, Message},
    time::Millis,
};

impl Client {
    pub(super) fn request(&mut self, now: Millis, request: Message, purpose: Purpose, objects: &mut dyn Objects) {
        self.exchange(now, objects, |connection, out| connection.request(now, request, purpose, out));
    }

    pub(super) fn ready(&mut self, now: Millis, objects: &mut dyn Objects) {
        match self.state {
            State::Greeting { goal: Goal::Bootstrap, .. } => {
                self.state = State::AskingForBootstrap;
                let request = Message::new(Code::POST)
                    .path("bs")
                    .query(&format!("ep={}", self.settings.endpoint))
                    .query(&format!("pct={}", ContentFormat::SENML_CBOR.0));
                self.request(now, request, Purpose::Bootstrap, objects);
            }
            State::Greeting { goal: Goal::Management, .. } => self.register(now, objects),
            _ => {}
        }
    }

    pub(super) fn register(&mut self, now: Millis, objects: &mut dyn Objects) {
        let Some(accounts) = &self.accounts else { return };
        let Some((_, _, account)) = accounts.management() else { return };
        let links = Tree { accounts, objects }.registration_links();
        let request = registration::register(self.settings.endpoint.as_str(), account, &links);
        self.state = State::Registering { lifetime: account.lifetime, links };
        self.request(now, request, Purpose::Register, objects);
    }

    /// Sends an update with what has changed since the server last heard of it.
    pub(super) fn update(&mut self, now: Millis, objects: &mut dyn Objects) {
        let (State::Registered(registered), Some(accounts)) = (&mut self.state, &self.accounts) else { return };
        let Some((_, _, account)) = accounts.management() else { return };
        let links = Tree { accounts, objects }.registration_links();
        let lifetime = Some(account.lifetime).filter(|lifetime| *lifetime != registered.lifetime);
        let changed = Some(&links[..]).filter(|links| *links != registered.links);
        let request = registration::update(&registered.location, lifetime, changed);
        registered.lifetime = account.lifetime;
        registered.links = links;
        registered.updating = true;
        self.request(now, request, Purpose::Update, objects);
    }

    pub(super) fn responded(&mut self, now: Millis, purpose: Purpose, response: Message, objects: &mut dyn Objects) {
        match (purpose, &mut self.state) {
            (Purpose::Caller(id), _) => self.steps.push(Step::Answered { id, result: Ok(response) }),
            (Purpose::Bootstrap, State::AskingForBootstrap) if response.code.is_success() => {
                let staging = Staging::new(self.accounts.as_ref());
                self.state = State::Bootstrapping { staging, deadline: now.plus(self.settings.bootstrap_timeout) };
            }
            (Purpose::Bootstrap, State::AskingForBootstrap) => self.refused(now, Goal::Bootstrap, &response),
            (Purpose::Register, State::Registering { links, lifetime }) => match registration::location(&response) {
                Some(location) if response.code.is_success() => {
                    let (links, lifetime) = (std::mem::take(links), *lifetime);
                    self.registered(
                        now,
                        Registered { location, since: now, update_at: now, links, lifetime, updating: false },
                    );
                }
                _ => self.refused(now, Goal::Management, &response),
            },
            // A server that is in trouble (5.xx) has forgotten nothing: the next update comes, only sooner.
            (Purpose::Update, State::Registered(registered)) if matches!(response.code.class(), 2 | 5) => {
                registered.updating = false;
                let part = if response.code.is_success() { 900 } else { 100 };
                registered.update_at = now.plus(self.random.upper_half(registered.spread(part)));
            }
            (Purpose::Update, State::Registered(_)) => {
                // The server has forgotten us, or does not like what changed: start over on the same connection.
                self.steps.push(Step::Unregistered);
                self.observers.clear();
                self.attributes.clear();
                self.register(now, objects);
            }
            (Purpose::Deregister, State::Leaving { away }) => {
                let away = *away;
                self.left(now, away);
            }
            // The answer came too late to matter.
            (Purpose::Bootstrap | Purpose::Register | Purpose::Update | Purpose::Deregister, _) => {}
        }
    }

    pub(super) fn registered(&mut self, now: Millis, mut registered: Registered) {
        registered.update_at = now.plus(self.random.upper_half(registered.spread(900)));
        self.state = State::Registered(registered);
        self.retry.accepted();
        self.steps.push(Step::Registered);
    }

    pub(super) fn refused(&mut self, now: Millis, goal: Goal, response: &Message) {
        let by = self.target(goal);
        self.steps.push(Step::Refused { by, code: response.code, diagnostic: response.diagnostic() });
        // A server in trouble (5.xx) did not mean us: nobody enrols again because a service is overloaded.
        let why = if response.code.class() == 5 { Failure::Unreachable } else { Failure::Refused };
        self.fail(now, goal, why);
    }

    pub(super) fn request_failed(&mut self, now: Millis, purpose: Purpose, error: ExchangeError) {
        match (purpose, &self.state) {
            (Purpose::Caller(id), _) => self.steps.push(Step::Answered { id, result: Err(error) }),
            (Purpose::Bootstrap, State::AskingForBootstrap) => self.fail(now, Goal::Bootstrap, Failure::Unreachable),
            (Purpose::Register, State::Registering { .. }) => self.fail(now, Goal::Management, Failure::Unreachable),
            // An update without answer means that the connection is dead, whatever TCP believes.
            (Purpose::Update, State::Registered(_)) => self.fail(now, Goal::Management, Failure::Unreachable),
            (Purpose::Deregister, State::Leaving { away }) => {
                let away = *away;
                self.left(now, away);
            }
            (Purpose::Bootstrap | Purpose::Register | Purpose::Update | Purpose::Deregister, _) => {}
        }
    }

    pub(super) fn caller_request(&mut self, now: Millis, id: u64, request: Message, objects: &mut dyn Objects) {
        if self.connection.is_none() {
            return self.steps.push(Step::Answered { id, result: Err(ExchangeError::ConnectionLost) });
        }
        self.request(now, request, Purpose::Caller(id), objects);
    }
}
