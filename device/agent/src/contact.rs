//! Finds out how the agent reaches the world and tells the updater, whose verdict on a trial depends on it. Never sends a byte
//! to a probed host.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use protocol_types::socket::Contact;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::facts::{Facts, set};

/// Time between two rounds while nothing else tells that the network works.
const ROUND: Duration = Duration::from_secs(10);
/// The longest wait for one host.
const LIMIT: Duration = Duration::from_secs(3);

/// The best sign of life of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nobody answers.
    #[default]
    Nobody,
    /// A host besides the service answered in the last round.
    Others,
    /// The service took the last connection, whatever came of it.
    Service,
    /// The device is registered.
    Registered,
}

impl Reach {
    /// What the updater is told.
    pub fn contact(self) -> Contact {
        Contact { registered: self == Self::Registered, network: self > Self::Nobody }
    }
}

/// Keeps [`Facts::contact`] up to date until `stop`; `probes` are hosts as `HOST:PORT`.
pub async fn keep_contact(probes: Vec<String>, facts: Arc<Facts>, stop: CancellationToken) {
    let (mut registered, mut service) = (facts.registered.subscribe(), facts.service_answers.subscribe());
    let mut others = Reach::Nobody;
    let watch = async {
        loop {
            let reach = match (*registered.borrow_and_update(), *service.borrow_and_update()) {
                (true, _) => Reach::Registered,
                (false, true) => Reach::Service,
                (false, false) => others,
            };
            let contact = reach.contact();
            if *facts.contact.borrow() != contact {
                tracing::info!(registered = contact.registered, network = contact.network, "contact changed");
            }
            set(&facts.contact, contact);
            tokio::select! {
                Ok(()) = registered.changed() => {}
                Ok(()) = service.changed() => {}
                // Without a host to ask nothing is learned from time alone.
                found = next_round(&probes), if reach < Reach::Service && !probes.is_empty() => others = found,
                else => return,
            }
        }
    };
    stop.run_until_cancelled(watch).await;
}

/// Waits for the next round and asks every host in turn until one answers.
async fn next_round(probes: &[String]) -> Reach {
    sleep(ROUND).await;
    for probe in probes {
        if answers(probe).await {
            return Reach::Others;
        }
    }
    Reach::Nobody
}

/// Whether a host answers; a refused connection is an answer, too.
async fn answers(probe: &str) -> bool {
    match timeout(LIMIT, TcpStream::connect(probe)).await {
        Ok(Ok(_)) => true,
        Ok(Err(e)) => e.kind() == ErrorKind::ConnectionRefused,
        Err(_late) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_sign_of_life_is_a_network_but_only_registration_is_registration() {
        for reach in [Reach::Nobody, Reach::Others, Reach::Service, Reach::Registered] {
            assert_eq!(reach.contact().registered, reach == Reach::Registered);
            assert_eq!(reach.contact().network, reach != Reach::Nobody);
        }
    }

    #[tokio::test]
    async fn a_host_that_refuses_has_answered_and_one_without_a_name_has_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(answers(&address).await);
        drop(listener);
        assert!(answers(&address).await, "connection refused");
        assert!(!answers("name.invalid:1").await);
    }
}
