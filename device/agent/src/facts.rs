//! What the tasks of one device tell each other: the newest value of each fact and nothing older. Never acts on a fact.

use std::{net::IpAddr, time::Duration};

use protocol_types::{
    AppName, ProbeName, Reason, SignedTime, UpdateStatus,
    socket::{ApplicationStatus, Contact},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    configuration::{InForce, Told, Wish},
    jobs::Ledger,
    metrics::Metrics,
    orders::Orders,
    relay::Source,
    rotation::Rotation,
};

/// How long a wish to restart is told to the updater, anew on each connection: after that nobody expects the restart any more.
pub const RESTART_LIMIT: Duration = Duration::from_secs(180);

/// How long a signed time is handed on. Who verifies it cannot tell how old it is, and would be behind by as much.
const RECENT: Duration = Duration::from_secs(300);

/// The facts of one device. Each has one task that sets it and any number that watch it.
#[derive(Debug)]
pub struct Facts {
    /// The updater's newest report.
    pub status: watch::Sender<Option<UpdateStatus>>,
    /// The newest report of `mbl-apps`.
    pub applications: watch::Sender<Vec<ApplicationStatus>>,
    /// What the service ordered last.
    pub orders: watch::Sender<Orders>,
    /// Whether the device is registered over a connection that is up.
    pub registered: watch::Sender<bool>,
    /// Whether the service answered at the last try to reach it.
    pub service_answers: watch::Sender<bool>,
    /// How the agent reaches the world.
    pub contact: watch::Sender<Contact>,
    /// The newest time signed by the service.
    pub signed_time: watch::Sender<Option<ToldTime>>,
    /// Whether the updater lacks a signed time because the newest one is old.
    pub time_wanted: watch::Sender<bool>,
    /// Where fetched bytes come from.
    pub source: watch::Sender<Source>,
    /// Whether the service ordered a factory reset, which ends this state.
    pub reset: watch::Sender<bool>,
    /// Whether the device is about to restart.
    pub restarting: watch::Sender<bool>,
    /// What the service wants as the configuration; none until it said so.
    pub wish: watch::Sender<Option<Wish>>,
    /// What the device says of its configuration; none on a board that takes none from the service.
    pub told: watch::Sender<Option<Told>>,
    /// What was measured and not yet acknowledged.
    pub metrics: Metrics,
    /// What is in force of the configuration, on trial or confirmed; none on a board that takes none from the service.
    pub settings: watch::Sender<Option<InForce>>,
    /// The jobs of the device; none on a device that takes none.
    pub jobs: watch::Sender<Option<Ledger>>,
    /// The checks that the device declares.
    pub probes: watch::Sender<Vec<ProbeName>>,
    /// The application whose log a job wants, and the number of that wish.
    pub log_wish: watch::Sender<Option<(u64, AppName)>>,
    /// The number of the last such wish that was answered, and the end of the log.
    pub log_answer: watch::Sender<Option<(u64, Result<String, Reason>)>>,
    /// The wish for a new operational key.
    pub rotation: Rotation,
    /// Tells this run of the system from every other.
    pub boot: watch::Sender<String>,
    /// From which address connections to the service leave; none if the system chooses.
    pub source_address: watch::Sender<Option<IpAddr>>,
    /// Counts how often the session shall dial anew.
    pub reconnect: watch::Sender<u64>,
    /// The number in `reconnect` that the session had followed when it registered last.
    pub registered_after: watch::Sender<u64>,
    /// Until when a wish of the service to restart holds; none without one, and once the updater has said that it restarts.
    pub restart: watch::Sender<Option<Instant>>,
}

/// A time that the service signed, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldTime {
    /// What the service said.
    pub said: SignedTime,
    /// When it was true.
    pub at: Instant,
}

impl ToldTime {
    /// Whether it still says what time it is, and not only what time it was.
    pub fn is_recent(&self) -> bool {
        self.at.elapsed() < RECENT
    }
}

impl Facts {
    /// No facts but the orders of before; the receiver hears wishes to restart, and without it nobody can restart the device.
    pub fn new(orders: Orders) -> (Self, watch::Receiver<Option<Instant>>) {
        let (restart, wishes) = watch::channel(None);
        let facts = Self {
            status: watch::Sender::new(None),
            applications: watch::Sender::new(Vec::new()),
            orders: watch::Sender::new(orders),
            registered: watch::Sender::new(false),
            service_answers: watch::Sender::new(false),
            contact: watch::Sender::new(Contact { registered: false, network: false }),
            signed_time: watch::Sender::new(None),
            time_wanted: watch::Sender::new(false),
            source: watch::Sender::new(Source::Unknown),
            reset: watch::Sender::new(false),
            restarting: watch::Sender::new(false),
            wish: watch::Sender::new(None),
            told: watch::Sender::new(None),
            metrics: Metrics::default(),
            settings: watch::Sender::new(None),
            jobs: watch::Sender::new(None),
            probes: watch::Sender::new(Vec::new()),
            log_wish: watch::Sender::new(None),
            log_answer: watch::Sender::new(None),
            rotation: Rotation::default(),
            boot: watch::Sender::new(String::new()),
            source_address: watch::Sender::new(None),
            reconnect: watch::Sender::new(0),
            registered_after: watch::Sender::new(0),
            restart,
        };
        (facts, wishes)
    }

    /// Wishes a restart; false if nobody can restart this device.
    pub fn wish_restart(&self) -> bool {
        self.restart.send(Some(Instant::now() + RESTART_LIMIT)).is_ok()
    }

    /// Whether a restart is wished now.
    pub fn is_restart_wished(&self) -> bool {
        self.restart.borrow().is_some_and(|until| Instant::now() < until)
    }
}

/// Sets a fact; whoever watches it wakes only if it is news.
pub(crate) fn set<T: PartialEq>(fact: &watch::Sender<T>, value: T) {
    fact.send_if_modified(|old| {
        let news = *old != value;
        if news {
            *old = value;
        }
        news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_to_restart_ends_with_its_limit_and_is_refused_where_nobody_hears_it() {
        let (facts, wishes) = Facts::new(Orders::default());
        assert!(!facts.is_restart_wished());
        assert!(facts.wish_restart() && facts.is_restart_wished());
        facts.restart.send_replace(Some(Instant::now()));
        assert!(!facts.is_restart_wished(), "it is told although its time is over");
        drop(wishes);
        assert!(!facts.wish_restart());
    }
}
