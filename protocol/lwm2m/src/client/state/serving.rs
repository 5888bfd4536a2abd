//! Requests of the server, and the notifications that it asked for.

use std::time::Duration;

use super::{Client, State};
use crate::{
    client::{
        Objects, Step,
        bootstrap::Outcome,
        dispatch::{Afterwards, Dispatch, content, effective},
        tree::{Tree, refusal},
    },
    coap::{
        Code, Message, OptionNumber,
        connection::{InboundId, Output},
    },
    object::{Accounts, Attributes, Path},
    time::Millis,
};

impl Client {
    pub(super) fn requested(&mut self, now: Millis, id: InboundId, request: &Message, objects: &mut dyn Objects) {
        let none = Accounts::default();
        match &mut self.state {
            State::Bootstrapping { staging, deadline } => {
                *deadline = now.plus(self.settings.bootstrap_timeout);
                let tree = Tree { accounts: self.accounts.as_ref().unwrap_or(&none), objects };
                match staging.on(request, &tree) {
                    Outcome::Answer(response) => self.respond(now, id, response, objects),
                    Outcome::Finished(accounts) => self.bootstrapped(now, id, accounts, objects),
                }
            }
            State::Registered(_) => self.managed(now, id, request, objects),
            State::New
            | State::Waiting { .. }
            | State::Dialing { .. }
            | State::Greeting { .. }
            | State::AskingForBootstrap
            | State::Enrolling { .. }
            | State::Registering { .. }
            | State::Leaving { .. }
            | State::Stopped => {
                let response = Message::refusal(Code::FORBIDDEN, "not registered and not bootstrapping");
                self.respond(now, id, response, objects);
            }
        }
    }

    pub(super) fn respond(&mut self, now: Millis, id: InboundId, response: Message, objects: &mut dyn Objects) {
        self.exchange(now, objects, |connection, out| connection.respond(now, id, response, out));
    }

    pub(super) fn bootstrapped(&mut self, now: Millis, id: InboundId, accounts: Accounts, objects: &mut dyn Objects) {
        self.respond(now, id, Message::new(Code::CHANGED), objects);
        self.state = State::Enrolling { deadline: now.plus(self.settings.enrol_timeout) };
        self.accounts = Some(accounts.clone());
        self.steps.push(Step::BootstrapDone(accounts));
    }

    pub(super) fn managed(&mut self, now: Millis, id: InboundId, request: &Message, objects: &mut dyn Objects) {
        let Some(accounts) = &mut self.accounts else { return };
        let (observers, attributes) = (&mut self.observers, &mut self.attributes);
        let (response, afterwards) = Dispatch { now, accounts, objects, observers, attributes }.on(request);
        self.refresh_attributes();
        self.respond(now, id, response, objects);
        match afterwards {
            None => {}
            Some(Afterwards::Update) => self.update(now, objects),
            Some(Afterwards::Bootstrap) => self.bootstrap_again(now),
            Some(Afterwards::Disable) => {
                let management = self.accounts.as_ref().and_then(Accounts::management);
                let away = management.map_or(0, |(_, _, account)| account.disable_timeout);
                self.leave(now, Some(Duration::from_secs(u64::from(away))), objects);
            }
            Some(Afterwards::AccountsChanged) => {
                if let Some(accounts) = &self.accounts {
                    self.steps.push(Step::AccountsChanged(accounts.clone()));
                }
                self.update(now, objects);
            }
        }
    }

    pub(super) fn refresh_attributes(&mut self) {
        let account = self.accounts.as_ref().and_then(Accounts::management);
        let defaults = account.map_or(Attributes::default(), |(_, _, account)| Attributes {
            pmin: Some(account.default_pmin),
            pmax: account.default_pmax,
            ..Attributes::default()
        });
        let attributes = &self.attributes;
        self.observers.set_attributes(|path| effective(attributes, path, defaults));
    }

    pub(super) fn changed(&mut self, now: Millis, path: &Path, objects: &mut dyn Objects) {
        self.observers.changed(path);
        let (State::Registered(registered), Some(accounts)) = (&self.state, &self.accounts) else { return };
        // Instances that came or went are for the registration too.
        if path.ids().len() <= 2
            && registered.update.is_none()
            && registered.known.links != (Tree { accounts, objects: &*objects }).registration_links()
        {
            self.update(now, objects);
        }
    }

    pub(super) fn notify(&mut self, now: Millis, objects: &dyn Objects) {
        let (State::Registered(_), Some(accounts), Some(connection)) =
            (&self.state, &self.accounts, &mut self.connection)
        else {
            return;
        };
        let tree = Tree { accounts, objects };
        let mut out = Vec::new();
        self.observers.take_due(
            now,
            |path| tree.read(path),
            |observer, sequence, entries| {
                let message = entries
                    .map_err(|error| refusal(&error))
                    .and_then(|entries| content(observer.format, &observer.path, &entries))
                    .map(|message| message.with_uint(OptionNumber::OBSERVE, sequence))
                    .unwrap_or_else(|refusal| refusal);
                connection.notify(now, &observer.request, message, &mut out);
            },
        );
        for output in out {
            if let Output::Send(message) = output {
                self.steps.push(Step::Send(message));
            }
        }
    }
}
