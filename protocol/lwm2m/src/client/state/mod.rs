//! The client itself: which phase it is in, and what each fact means there.

use std::{collections::BTreeMap, time::Duration};

use super::{
    DialFailure, Fact, Objects, Settings, Step, Target,
    bootstrap::Staging,
    observers::Observers,
    retry::{Failure, Goal, Retry},
};
use crate::{
    coap::Connection,
    formats::Link,
    object::{Accounts, Attributes, Path},
    random::Random,
    time::Millis,
};

mod asking;
mod contact;
mod serving;

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
    /// Between two tries, or sent away by a server.
    Waiting { until: Millis, goal: Goal, sent_away: bool },
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
    Registering { told: Told },
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
    known: Told,
    /// What the update that is under way says.
    update: Option<Told>,
    /// Whether another update is to follow it.
    again: bool,
}

/// What a server is told by a registration or an update.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    links: Vec<Link>,
    lifetime: u32,
    binding: String,
}

impl Registered {
    /// So many thousandths of the lifetime. Updates come after 45 to 90 per cent of it, so that a fleet spreads and one lost try
    /// does no harm.
    fn spread(&self, thousandths: u64) -> Duration {
        Duration::from_millis(u64::from(self.known.lifetime) * thousandths)
    }
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
            Fact::DialAnew => self.dial_anew(now),
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

    fn time_passed(&mut self, now: Millis, objects: &mut dyn Objects) {
        self.exchange(now, objects, |connection, out| connection.time_passed(now, out));
        match &self.state {
            State::Waiting { until, goal, .. } if *until <= now => self.dial(now, *goal),
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
            State::Registered(registered) if registered.update_at <= now && registered.update.is_none() => {
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
            State::Registered(registered) => Some(registered.update_at).filter(|_| registered.update.is_none()),
            State::New
            | State::AskingForBootstrap
            | State::Registering { .. }
            | State::Leaving { .. }
            | State::Stopped => None,
        };
        let connection = self.connection.as_ref().and_then(Connection::next_deadline);
        let wake = [own, connection, self.observers.next_deadline()].into_iter().flatten().min();
        if let Some(at) = wake.filter(|_| wake != self.wake) {
            self.steps.push(Step::WakeAt(at));
        }
        self.wake = wake;
    }
}
