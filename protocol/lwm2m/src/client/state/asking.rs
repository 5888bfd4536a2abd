//! Requests of ours, and what their responses mean: bootstrap, registration, updates, and those of the caller.

use super::{Client, Purpose, Registered, State, Told};
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
        let told = Told { links, lifetime: account.lifetime, binding: account.binding.clone() };
        self.state = State::Registering { told };
        self.request(now, request, Purpose::Register, objects);
    }

    /// Sends an update with what has changed since the server last heard of it; after the one that is under way, if there is one.
    pub(super) fn update(&mut self, now: Millis, objects: &mut dyn Objects) {
        let (State::Registered(registered), Some(accounts)) = (&mut self.state, &self.accounts) else { return };
        let Some((_, _, account)) = accounts.management() else { return };
        if registered.update.is_some() {
            registered.again = true;
            return;
        }
        let links = Tree { accounts, objects }.registration_links();
        let told = Told { links, lifetime: account.lifetime, binding: account.binding.clone() };
        let lifetime = Some(told.lifetime).filter(|lifetime| *lifetime != registered.known.lifetime);
        let binding = Some(&*told.binding).filter(|binding| *binding != registered.known.binding);
        let changed = Some(&told.links[..]).filter(|links| *links != registered.known.links);
        let request = registration::update(&registered.location, lifetime, binding, changed);
        (registered.update, registered.again) = (Some(told), false);
        self.request(now, request, Purpose::Update, objects);
    }

    /// The server has taken an update, or is in trouble (5.xx) and has forgotten nothing: the next one comes, only sooner.
    fn updated(&mut self, now: Millis, is_taken: bool, objects: &mut dyn Objects) {
        let (State::Registered(registered), Some(accounts)) = (&mut self.state, &self.accounts) else { return };
        let told = registered.update.take().filter(|_| is_taken);
        if let Some(told) = told {
            registered.known = told;
        }
        let part = if is_taken { 900 } else { 100 };
        registered.update_at = now.plus(self.random.upper_half(registered.spread(part)));
        let has_news = registered.known.links != (Tree { accounts, objects: &*objects }).registration_links();
        if is_taken && (registered.again || has_news) {
            self.update(now, objects);
        }
    }

    pub(super) fn responded(&mut self, now: Millis, purpose: Purpose, response: Message, objects: &mut dyn Objects) {
        match (purpose, &mut self.state) {
            (Purpose::Caller(id), _) => self.steps.push(Step::Answered { id, result: Ok(response) }),
            (Purpose::Bootstrap, State::AskingForBootstrap) if response.code.is_success() => {
                let staging = Staging::new(self.accounts.as_ref());
                self.state = State::Bootstrapping { staging, deadline: now.plus(self.settings.bootstrap_timeout) };
            }
            (Purpose::Bootstrap, State::AskingForBootstrap) => self.refused(now, Goal::Bootstrap, &response),
            (Purpose::Register, State::Registering { told }) => match registration::location(&response) {
                Some(location) if response.code.is_success() => {
                    let known = told.clone();
                    let registered =
                        Registered { location, since: now, update_at: now, known, update: None, again: false };
                    self.registered(now, registered);
                }
                _ => self.refused(now, Goal::Management, &response),
            },
            (Purpose::Update, State::Registered(_)) if matches!(response.code.class(), 2 | 5) => {
                self.updated(now, response.code.is_success(), objects);
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
            (Purpose::Update, State::Registered(_)) => self.fail(now, Goal::Management, Failure::Lost),
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
