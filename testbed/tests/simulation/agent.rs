//! The agent process of a simulated device: the real session, relay, watch over the contact and link to the updater, over the simulated
//! network, with the identity and the state that lie in the device's folder.

use std::{rc::Rc, sync::Arc, time::Duration};

use device_agent::{
    clock::VerificationClock,
    configuration,
    contact::keep_contact,
    durable::DurableError,
    enrolment::Enrolment,
    facts::Facts,
    identity::Identity,
    key_store::KeyStore,
    network::Network,
    objects::About,
    orders::{Orders, Wish},
    relay::relay,
    session::{Device, Session},
    state::{DurableState, StateFolder},
    tls::Trust,
    updater_link::serve_updater,
};
use protocol_types::UnixSeconds;
use tokio::{
    io::{DuplexStream, duplex},
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{device::Body, parts::Part};

/// Longest wait between two tries to reach the service.
const RETRY_CEILING: Duration = Duration::from_secs(1800);
/// Between two tries to reach the updater.
const REDIAL: Duration = Duration::from_secs(1);
/// Bytes on their way over the local socket: more than the largest frame.
const SOCKET: usize = 512 * 1024;

/// A state that forgets orders: a fault that the simulation plants to see it caught.
#[derive(Debug)]
struct Forgets(StateFolder);

impl DurableState for Forgets {
    fn keep_orders(&self, _orders: &Orders) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_reset(&self) -> Result<(), DurableError> {
        self.0.keep_reset()
    }
    fn keep_wish(&self, wish: &configuration::Wish) -> Result<(), DurableError> {
        self.0.keep_wish(wish)
    }
    fn keep_enrolment(&self, enrolment: &Enrolment) -> Result<(), DurableError> {
        self.0.keep_enrolment(enrolment)
    }
    fn keep_floor(&self, floor: UnixSeconds) -> Result<(), DurableError> {
        self.0.keep_floor(floor)
    }
}

/// The process, until `stop`; it reaches the updater through `updater`.
pub(crate) async fn run(body: Rc<Body>, updater: mpsc::Sender<DuplexStream>, stop: CancellationToken) {
    let folder = body.folder();
    let identity = Identity::load(folder, &KeyStore::of(folder, None)).expect("the identity is sound");
    let state = StateFolder::new(folder.state());
    let (facts, mut restarts) = Facts::new(state.orders().expect("the orders are sound"));
    let facts = Arc::new(facts);
    let network: Arc<dyn Network> = Arc::new(body.line());
    let (asker, relay_task) = relay(facts.source.subscribe(), network.clone());

    let floor = state.floor().expect("the floor of time is sound").max(identity.document().provisioned);
    let clock = Arc::new(VerificationClock::new(body.clock(), floor));
    let trust = Trust::new(body.provider(), identity.roots().clone(), clock).expect("the roots are sound");
    let enrolment = state.enrolment(identity.key()).expect("the enrolment is sound");
    let about = About::new(&identity, "simulated");
    let forgets = body.forgets_orders();
    let state: Arc<dyn DurableState> = if forgets { Arc::new(Forgets(state)) } else { Arc::new(state) };
    let device = Device { identity, trust, state, facts: facts.clone(), network };
    let session = Session::new(device, about, enrolment, RETRY_CEILING).expect("TLS is configured");

    let link = async {
        if forgets {
            return std::future::pending().await;
        }
        loop {
            let (near, far) = duplex(SOCKET);
            if updater.send(far).await.is_ok() {
                // How a connection to the updater ends is always the updater's end.
                drop(serve_updater(Box::new(near), &facts, (&asker, &mut restarts)).await);
            }
            sleep(REDIAL).await;
        }
    };
    let others = async {
        tokio::join!(
            Part::of(relay_task.run(stop.clone())),
            Part::of(keep_contact(Vec::new(), facts.clone(), stop.clone())),
            Part::of(watch_orders(&body, facts.orders.subscribe())),
            Part::of(link),
        )
    };
    tokio::select! {
        // It ends last: it says goodbye to the service.
        () = Part::of(session.run(stop.clone())) => {}
        _ = Part::of(others) => {}
    }
}

/// Tells what the service orders.
async fn watch_orders(body: &Body, mut orders: watch::Receiver<Orders>) {
    loop {
        let wish = orders.borrow_and_update().wish.clone();
        body.is_ordered(match wish {
            Some(Wish::Release { digest, rollout, .. }) => Some((digest, rollout)),
            Some(Wish::Rest) | None => None,
        });
        if orders.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
