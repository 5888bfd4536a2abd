//! The client itself: which phase it is in, and what each fact means there.

use std::{collections::BTreeMap, time::Duration};

use super::{
    DialFailure, Fact, Objects, Settings, Step, Target,
    bootstrap::{Outcome, Staging},
    dispatch::{Afterwards, Dispatch, content, effective},
    observers::Observers,
    registration,
    retry::{Failure, Goal, Retry},
    tree::{Tree, refusal},
};
use crate::{
    coap::{
        Code, Connection, ContentFormat, ExchangeError, Message, OptionNumber,
        connection::{CloseReason, InboundId, Output},
    },
    formats::Link,
    object::{Accounts, Attributes, Path},
    random::Random,
    time::Millis,
};

/// What a request of ours was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Bootstrap,
    Register,
    Update,
    Deregister,
    /// The caller's own, by its number.
    Caller(u64),
}

/// Where the client stands.
#[derive(Debug)]
enum State {
    /// Not started yet.
    New,
    /// Between two tries.
    Waiting { until: Millis, goal: Goal },
    /// The caller connects.
    Dialing { goal: Goal, deadline: Millis },
    /// Connected; the server has not said what it can do.
    Greeting { goal: Goal, deadline: Millis },
    /// `POST /bs` is out.
    AskingForBootstrap,
    /// The bootstrap server writes.
    Bootstrapping { staging: Staging, deadline: Millis },
    /// The bootstrap server has finished; the caller fetches its certificate.
    Enrolling { deadline: Millis },
    /// `POST /rd` is out.
    Registering,
    /// Registered.
    Registered(Registered),
    /// `DELETE` of the registration is out; when it is through, stop or stay away for this long.
    Leaving { away: Option<Duration> },
    /// For good.
    Stopped,
}

#[derive(Debug)]
struct Registered {
    location: Vec<String>,
    since: Millis,
    update_at: Millis,
    /// What the server knows.
    links: Vec<Link>,
    lifetime: u32,
    /// Whether an update is under way.
    updating: bool,
}

/// The LwM2M client of a device.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    accounts: Option<Accounts>,
    state: State,
    connection: Option<Connection<Purpose>>,
    observers: Observers,
    attributes: BTreeMap<Path, Attributes>,
    retry: Retry,
    random: Random,
    wake: Option<Millis>,
    steps: Vec<Step>,
}

impl Client {
    /// A client that has not started. `accounts` are those kept from before; without them it bootstraps.
    pub fn new(settings: Settings, accounts: Option<Accounts>) -> Self {
        let random = Random::new(settings.seed);
        Self {
            settings,
            accounts,
            state: State::New,
            connection: None,
            observers: Observers::default(),
            attributes: BTreeMap::new(),
            retry: Retry::default(),
            random,
            wake: None,
            steps: Vec::new(),
        }
    }

    /// The accounts in use.
    pub fn accounts(&self) -> Option<&Accounts> {
        self.accounts.as_ref()
    }

    /// Whether the management server knows this client on the connection that stands.
    pub fn is_registered(&self) -> bool {
        matches!(self.state, State::Registered(_))
    }

    /// Takes one fact; returns what the caller must now do, in order.
    pub fn on(&mut self, now: Millis, fact: Fact, objects: &mut dyn Objects) -> Vec<Step> {
        match fact {
            Fact::Started => {
                if matches!(self.state, State::New) {
                    self.dial(now, self.first_goal());
                }
            }
            Fact::Connected => self.connected(now, objects),
            Fact::DialFailed(why) => {
                let why = match why {
                    DialFailure::Unreachable => Failure::Unreachable,
                    DialFailure::Unauthorized => Failure::Refused,
                };
                match self.state {
                    State::Dialing { goal, .. } | State::Greeting { goal, .. } => {
                        self.forget_connection();
                        self.fail(now, goal, why);
                    }
                    _ => self.lost(now, None),
                }
            }
            Fact::Received(message) => {
                self.exchange(now, objects, |connection, out| connection.receive(now, message, out))
            }
            Fact::Lost => self.lost(now, None),
            Fact::TimePassed => self.time_passed(now, objects),
            Fact::Changed(path) => self.changed(now, &path, objects),
            Fact::Request { id, request } => self.caller_request(now, id, request, objects),
            Fact::Enrolled => {
                if matches!(self.state, State::Enrolling { .. }) {
                    self.hang_up();
                    self.dial(now, Goal::Management);
                }
            }
            Fact::EnrolFailed => {
                if matches!(self.state, State::Enrolling { .. }) {
                    self.enrol_failed(now);
                }
            }
            Fact::BootstrapAgain => self.bootstrap_again(now),
            Fact::Stop => self.stop(now, objects),
        }
        self.notify(now, objects);
        self.wish();
        std::mem::take(&mut self.steps)
    }

    fn first_goal(&self) -> Goal {
        if self.has_account() { Goal::Management } else { Goal::Bootstrap }
    }

    fn has_account(&self) -> bool {
        self.accounts.as_ref().is_some_and(|accounts| accounts.management().is_some())
    }

    fn target(&self, goal: Goal) -> Target {
        let management = self.accounts.as_ref().and_then(Accounts::management).filter(|_| goal == Goal::Management);
        management.map_or(Target::Bootstrap, |(security, ..)| Target::Management {
            uri: security.uri.clone(),
            server_public_key: security.server_public_key.clone(),
        })
    }

    // Connections.

    fn dial(&mut self, now: Millis, goal: Goal) {
        let goal = if self.has_account() { goal } else { Goal::Bootstrap };
        self.steps.push(Step::Dial(self.target(goal)));
        self.state = State::Dialing { goal, deadline: now.plus(self.settings.dial_timeout) };
    }

    fn connected(&mut self, now: Millis, objects: &mut dyn Objects) {
        let State::Dialing { goal, deadline } = self.state else { return };
        let mut out = Vec::new();
        self.connection = Some(Connection::open(self.settings.limits, self.random.next(), &mut out));
        self.state = State::Greeting { goal, deadline };
        self.perform(now, out, objects);
    }

    /// Lets the connection, if one stands, do something, and performs what comes of it.
    fn exchange(
        &mut self,
        now: Millis,
        objects: &mut dyn Objects,
        act: impl FnOnce(&mut Connection<Purpose>, &mut Vec<Output<Purpose>>),
    ) {
        let mut out = Vec::new();
        if let Some(connection) = &mut self.connection {
            act(connection, &mut out);
        }
        self.perform(now, out, objects);
    }

    fn perform(&mut self, now: Millis, out: Vec<Output<Purpose>>, objects: &mut dyn Objects) {
        for output in out {
            match output {
                Output::Send(message) => self.steps.push(Step::Send(message)),
                Output::Ready => self.ready(now, objects),
                Output::Request { id, request } => self.requested(now, id, &request, objects),
                Output::Response { tag, response } => self.responded(now, tag, response, objects),
                Output::Failed { tag, error } => self.request_failed(now, tag, error),
                Output::Close(reason) => {
                    let hold_off = match reason {
                        CloseReason::Released(hold_off) => hold_off,
                        CloseReason::Aborted | CloseReason::Broken => None,
                    };
                    if self.connection.is_some() {
                        self.hang_up();
                        self.lost(now, hold_off.map(|seconds| Duration::from_secs(u64::from(seconds))));
                    }
                }
                // The client observes nothing.
                Output::Notification { .. } | Output::Ended { .. } => {}
            }
        }
    }

    /// Closes the connection, if one stands, and answers the caller's requests that were under way on it.
    fn hang_up(&mut self) {
        if self.forget_connection() {
            self.steps.push(Step::Close);
        }
    }

    /// True if a connection stood.
    fn forget_connection(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let mut out = Vec::new();
        connection.lost(&mut out);
        for output in out {
            if let Output::Failed { tag: Purpose::Caller(id), error } = output {
                self.steps.push(Step::Answered { id, result: Err(error) });
            }
        }
        self.observers.clear();
        self.attributes.clear();
        true
    }

    /// The connection ended. `hold_off` is how long the server wants us away at least.
    fn lost(&mut self, now: Millis, hold_off: Option<Duration>) {
        self.forget_connection();
        match &self.state {
            State::New | State::Waiting { .. } | State::Stopped => {}
            State::Leaving { away } => {
                let away = *away;
                self.left(now, away);
            }
            State::Dialing { goal, .. } | State::Greeting { goal, .. } => self.fail(now, *goal, Failure::Unreachable),
            State::AskingForBootstrap | State::Bootstrapping { .. } => {
                self.fail(now, Goal::Bootstrap, Failure::Unreachable)
            }
            State::Enrolling { .. } => self.enrol_failed(now),
            State::Registering | State::Registered(_) => self.fail(now, Goal::Management, Failure::Unreachable),
        }
        if let (State::Waiting { until, .. }, Some(hold_off)) = (&mut self.state, hold_off) {
            *until = (*until).max(now.plus(hold_off));
        }
    }

    /// A try or a registration ended: hang up, wait, and try again.
    fn fail(&mut self, now: Millis, goal: Goal, why: Failure) {
        self.hang_up();
        if let State::Registered(registered) = &self.state {
            if now.since(registered.since) >= self.settings.last_retry {
                self.retry.succeeded();
            }
            self.steps.push(Step::Unregistered);
        }
        let has_account = self.has_account();
        let (wait, goal) = self.retry.failed((goal, why), has_account, &self.settings, &mut self.random);
        self.state = State::Waiting { until: now.plus(wait), goal };
    }

    fn enrol_failed(&mut self, now: Millis) {
        self.fail(now, Goal::Bootstrap, Failure::Refused);
        if let State::Waiting { goal, .. } = &mut self.state {
            // The account is there but not its certificate, so the management server would only refuse us.
            *goal = Goal::Bootstrap;
        }
    }

    // Time.

    fn time_passed(&mut self, now: Millis, objects: &mut dyn Objects) {
        self.exchange(now, objects, |connection, out| connection.time_passed(now, out));
        match &self.state {
            State::Waiting { until, goal } if *until <= now => self.dial(now, *goal),
            State::Dialing { goal, deadline } if *deadline <= now => {
                // Whatever the caller is doing for the old wish, it must stop.
                self.steps.push(Step::Close);
                self.fail(now, *goal, Failure::Unreachable);
            }
            State::Greeting { goal, deadline } if *deadline <= now => self.fail(now, *goal, Failure::Unreachable),
            State::Bootstrapping { deadline, .. } if *deadline <= now => {
                self.fail(now, Goal::Bootstrap, Failure::Unreachable)
            }
            State::Enrolling { deadline } if *deadline <= now => self.enrol_failed(now),
            State::Registered(registered) if registered.update_at <= now && !registered.updating => {
                self.update(now, objects)
            }
            _ => {}
        }
    }

    fn wish(&mut self) {
        let own = match &self.state {
            State::Waiting { until, .. } => Some(*until),
            State::Dialing { deadline, .. } | State::Greeting { deadline, .. } => Some(*deadline),
            State::Bootstrapping { deadline, .. } | State::Enrolling { deadline } => Some(*deadline),
            State::Registered(registered) => Some(registered.update_at).filter(|_| !registered.updating),
            State::New | State::AskingForBootstrap | State::Registering | State::Leaving { .. } | State::Stopped => {
                None
            }
        };
        let connection = self.connection.as_ref().and_then(Connection::next_deadline);
        let wake = [own, connection, self.observers.next_deadline()].into_iter().flatten().min();
        if let Some(at) = wake.filter(|_| wake != self.wake) {
            self.steps.push(Step::WakeAt(at));
        }
        self.wake = wake;
    }

    // Requests of ours and what comes of them.

    fn request(&mut self, now: Millis, request: Message, purpose: Purpose, objects: &mut dyn Objects) {
        self.exchange(now, objects, |connection, out| connection.request(now, request, purpose, out));
    }

    fn ready(&mut self, now: Millis, objects: &mut dyn Objects) {
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

    fn register(&mut self, now: Millis, objects: &mut dyn Objects) {
        let Some(accounts) = &self.accounts else { return };
        let Some((_, _, account)) = accounts.management() else { return };
        let links = Tree { accounts, objects }.registration_links();
        let request = registration::register(self.settings.endpoint.as_str(), account, &links);
        self.state = State::Registering;
        self.request(now, request, Purpose::Register, objects);
    }

    /// Sends an update with what has changed since the server last heard of it.
    fn update(&mut self, now: Millis, objects: &mut dyn Objects) {
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

    /// When the next update is due: after 45 to 90 per cent of the lifetime, so that a fleet spreads and one lost try does no harm.
    fn next_update(&mut self, now: Millis, lifetime: u32) -> Millis {
        now.plus(self.random.upper_half(Duration::from_millis(u64::from(lifetime) * 900)))
    }

    fn responded(&mut self, now: Millis, purpose: Purpose, response: Message, objects: &mut dyn Objects) {
        match (purpose, &mut self.state) {
            (Purpose::Caller(id), _) => self.steps.push(Step::Answered { id, result: Ok(response) }),
            (Purpose::Bootstrap, State::AskingForBootstrap) if response.code.is_success() => {
                let staging = Staging::new(self.accounts.as_ref());
                self.state = State::Bootstrapping { staging, deadline: now.plus(self.settings.bootstrap_timeout) };
            }
            (Purpose::Bootstrap, State::AskingForBootstrap) => self.refused(now, Goal::Bootstrap, &response),
            (Purpose::Register, State::Registering) => match registration::location(&response) {
                Some(location) if response.code.is_success() => self.registered(now, location, objects),
                _ => self.refused(now, Goal::Management, &response),
            },
            (Purpose::Update, State::Registered(registered)) if response.code.is_success() => {
                registered.updating = false;
                let lifetime = registered.lifetime;
                let next = self.next_update(now, lifetime);
                if let State::Registered(registered) = &mut self.state {
                    registered.update_at = next;
                }
            }
            (Purpose::Update, State::Registered(_)) => {
                // The server has forgotten us, or does not like what changed: start over on the same connection.
                self.steps.push(Step::Unregistered);
                self.observers.clear();
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

    fn registered(&mut self, now: Millis, location: Vec<String>, objects: &dyn Objects) {
        let Some(accounts) = &self.accounts else { return };
        let lifetime = accounts.management().map_or(0, |(_, _, account)| account.lifetime);
        let links = Tree { accounts, objects }.registration_links();
        let update_at = self.next_update(now, lifetime);
        self.state =
            State::Registered(Registered { location, since: now, update_at, links, lifetime, updating: false });
        self.retry.accepted();
        self.steps.push(Step::Registered);
    }

    fn refused(&mut self, now: Millis, goal: Goal, response: &Message) {
        let by = self.target(goal);
        self.steps.push(Step::Refused { by, code: response.code, diagnostic: response.diagnostic() });
        self.fail(now, goal, Failure::Refused);
    }

    fn request_failed(&mut self, now: Millis, purpose: Purpose, error: ExchangeError) {
        match (purpose, &self.state) {
            (Purpose::Caller(id), _) => self.steps.push(Step::Answered { id, result: Err(error) }),
            (Purpose::Bootstrap, State::AskingForBootstrap) => self.fail(now, Goal::Bootstrap, Failure::Unreachable),
            (Purpose::Register, State::Registering) => self.fail(now, Goal::Management, Failure::Unreachable),
            // An update without answer means that the connection is dead, whatever TCP believes.
            (Purpose::Update, State::Registered(_)) => self.fail(now, Goal::Management, Failure::Unreachable),
            (Purpose::Deregister, State::Leaving { away }) => {
                let away = *away;
                self.left(now, away);
            }
            (Purpose::Bootstrap | Purpose::Register | Purpose::Update | Purpose::Deregister, _) => {}
        }
    }

    fn caller_request(&mut self, now: Millis, id: u64, request: Message, objects: &mut dyn Objects) {
        if self.connection.is_none() {
            return self.steps.push(Step::Answered { id, result: Err(ExchangeError::ConnectionLost) });
        }
        self.request(now, request, Purpose::Caller(id), objects);
    }

    // Requests of the server.

    fn requested(&mut self, now: Millis, id: InboundId, request: &Message, objects: &mut dyn Objects) {
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
            | State::Registering
            | State::Leaving { .. }
            | State::Stopped => {
                let response = Message::refusal(Code::FORBIDDEN, "not registered and not bootstrapping");
                self.respond(now, id, response, objects);
            }
        }
    }

    fn respond(&mut self, now: Millis, id: InboundId, response: Message, objects: &mut dyn Objects) {
        self.exchange(now, objects, |connection, out| connection.respond(now, id, response, out));
    }

    fn bootstrapped(&mut self, now: Millis, id: InboundId, accounts: Accounts, objects: &mut dyn Objects) {
        self.respond(now, id, Message::new(Code::CHANGED), objects);
        self.state = State::Enrolling { deadline: now.plus(self.settings.enrol_timeout) };
        self.accounts = Some(accounts.clone());
        self.steps.push(Step::BootstrapDone(accounts));
    }

    fn managed(&mut self, now: Millis, id: InboundId, request: &Message, objects: &mut dyn Objects) {
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

    fn refresh_attributes(&mut self) {
        let account = self.accounts.as_ref().and_then(Accounts::management);
        let defaults = account.map_or(Attributes::default(), |(_, _, account)| Attributes {
            pmin: Some(account.default_pmin),
            pmax: account.default_pmax,
            ..Attributes::default()
        });
        let attributes = &self.attributes;
        self.observers.set_attributes(|path| effective(attributes, path, defaults));
    }

    // Notifications.

    fn changed(&mut self, now: Millis, path: &Path, objects: &mut dyn Objects) {
        self.observers.changed(path);
        let (State::Registered(registered), Some(accounts)) = (&self.state, &self.accounts) else { return };
        // Instances that came or went are for the registration too.
        if path.ids().len() <= 2
            && !registered.updating
            && registered.links != (Tree { accounts, objects: &*objects }).registration_links()
        {
            self.update(now, objects);
        }
    }

    fn notify(&mut self, now: Millis, objects: &dyn Objects) {
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

    // Leaving.

    fn bootstrap_again(&mut self, now: Millis) {
        match self.state {
            State::New | State::Stopped | State::Leaving { .. } => return,
            State::Registered(_) => self.steps.push(Step::Unregistered),
            State::Dialing { .. } => self.steps.push(Step::Close),
            _ => {}
        }
        self.hang_up();
        self.dial(now, Goal::Bootstrap);
    }

    fn stop(&mut self, now: Millis, objects: &mut dyn Objects) {
        match self.state {
            State::Registered(_) => self.leave(now, None, objects),
            State::Leaving { .. } => self.state = State::Leaving { away: None },
            State::Stopped => {}
            State::Dialing { .. } => {
                self.steps.push(Step::Close);
                self.left(now, None);
            }
            _ => self.left(now, None),
        }
    }

    /// Deregisters; then stops, or stays away for so long.
    fn leave(&mut self, now: Millis, away: Option<Duration>, objects: &mut dyn Objects) {
        let State::Registered(registered) = &self.state else { return };
        let request = registration::deregister(&registered.location);
        self.steps.push(Step::Unregistered);
        self.state = State::Leaving { away };
        self.request(now, request, Purpose::Deregister, objects);
    }

    fn left(&mut self, now: Millis, away: Option<Duration>) {
        self.hang_up();
        self.state = match away {
            Some(away) => State::Waiting { until: now.plus(away), goal: Goal::Management },
            None => {
                self.steps.push(Step::Stopped);
                State::Stopped
            }
        };
    }
}
