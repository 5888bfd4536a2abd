//! Settings of the service for a real NetworkManager: those with which the service is reached stay, and the others go back, with the agent
//! or without it.

use std::{fs, sync::Arc, time::Duration};

use device_agent::{
    configuration::{Keeper, Place, Scope, SystemLink, Told, Wish},
    facts::Facts,
    orders::Orders,
    state::StateFolder,
};
use protocol_types::{ConfigurationState, ReasonCode};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::island::{Island, NEIGHBOUR};

/// NetworkManager goes back by itself half a minute after the agent should have.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The agent's part that keeps the configuration, on an island.
struct Agent {
    facts: Arc<Facts>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Starts with what an earlier one has kept.
    async fn start(island: &Island) -> Self {
        let state = StateFolder::new(island.root().join("mbl/state/agent"));
        let (facts, _restarts) = Facts::new(Orders::default());
        let facts = Arc::new(facts);
        facts.wish.send_replace(state.wish().unwrap());
        let owner = ("acme".parse().unwrap(), "gate-1".parse().unwrap());
        let place = (Place::new(island.root().join("mbl/state/agent/settings")), state.clone());
        let scope = Scope::System(SystemLink::new(island.socket()));
        let kept = state.configuration().unwrap();
        let keeper = Keeper::start(kept, place, facts.clone(), (owner, scope), Box::new(|_| {})).await;
        Self { facts, task: tokio::spawn(keeper.run(CancellationToken::new())) }
    }

    /// The service wants this.
    fn wish(&self, generation: u64, document: &str) {
        self.facts.wish.send_replace(Some(Wish::new(generation, document).unwrap()));
    }

    fn told(&self) -> Told {
        self.facts.told.borrow().clone().unwrap()
    }

    /// Registers whenever the neighbour answers, until the configuration of this generation is in this state.
    async fn until(&self, island: &Island, generation: u64, state: ConfigurationState) -> Told {
        let wait = async {
            loop {
                let told = self.told();
                if told.generation == generation && told.state == state {
                    return told;
                }
                let dialled = *self.facts.reconnect.borrow();
                let is_there = reaches_neighbour(island);
                self.facts.registered.send_replace(is_there);
                if is_there {
                    self.facts.registered_after.send_replace(dialled);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("not {state:?} but {:?}\n{}", self.told(), logs(island)))
    }
}

fn logs(island: &Island) -> String {
    fs::read_to_string(island.root().join("system.log")).unwrap_or_default() + &island.log()
}

fn reaches_neighbour(island: &Island) -> bool {
    let ping = island.command("busybox").args(["ping", "-c", "1", "-W", "1", NEIGHBOUR]).output().unwrap();
    ping.status.success()
}

/// Address, connection and name of the machine.
fn seen(island: &Island) -> (String, String, String) {
    let nmcli = island.root().join("usr/bin/nmcli").display().to_string();
    (
        island.says(&format!("{nmcli} -g IP4.ADDRESS device show veth0")),
        island.says(&format!("{nmcli} -g GENERAL.CONNECTION device show veth0")),
        island.says("uname -n"),
    )
}

/// Waits until the machine has this address: NetworkManager says that it goes back, and is back a little later.
async fn until_address(island: &Island, address: &str) {
    let back = tokio::time::timeout(PATIENCE, async {
        while seen(island).0 != address {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    back.await.unwrap_or_else(|_| panic!("{:?} and not {address}\n{}", seen(island), logs(island)));
}

fn checkpoints(island: &Island) -> String {
    let manager = "org.freedesktop.NetworkManager /org/freedesktop/NetworkManager org.freedesktop.NetworkManager";
    island.says(&format!("busctl --system get-property {manager} Checkpoints"))
}

/// With the seconds that the device has to reach the service: many where it does, on a busy machine.
fn document(name: &str, address: &str, limit: u32) -> String {
    let network = format!(r#"{{"veth0":{{"addresses":["{address}/24"]}}}}"#);
    format!(r#"{{"hostname":"{name}","network":{network},"contact_limit_s":{limit}}}"#)
}

#[tokio::test]
async fn network_settings_that_cut_contact_go_back_with_the_agent_and_without_it() {
    let island = Island::new();
    let agent = Agent::start(&island).await;
    agent.wish(1, &document("kiln", "198.51.100.7", 60));
    agent.until(&island, 1, ConfigurationState::Confirmed).await;
    let good = ("198.51.100.7/24".to_owned(), "mbl-on-veth0".to_owned(), "kiln".to_owned());
    assert_eq!((seen(&island), checkpoints(&island).as_str()), (good.clone(), "ao 0"), "{}", logs(&island));
    let kept = fs::read_to_string(island.root().join("mbl/state/system/given.json")).unwrap();
    assert!(kept.contains("198.51.100.7"), "{kept}");

    // From there nobody is reached. The agent takes it back.
    agent.wish(2, &document("oven", "203.0.113.7", 10));
    let undone = agent.until(&island, 2, ConfigurationState::Undone).await;
    assert_eq!(undone.reason.unwrap().code, ReasonCode::NoContact);
    until_address(&island, &good.0).await;
    assert_eq!((seen(&island), checkpoints(&island).as_str()), (good.clone(), "ao 0"), "{}", logs(&island));
    assert!(reaches_neighbour(&island));

    // The same again, and the agent is gone for good: NetworkManager takes it back.
    agent.wish(3, &document("fridge", "203.0.113.8", 10));
    agent.until(&island, 3, ConfigurationState::Trial).await;
    let away = tokio::time::timeout(PATIENCE, async {
        while seen(&island).0 != "203.0.113.8/24" || !checkpoints(&island).starts_with("ao 1") {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    away.await.unwrap_or_else(|_| panic!("{}", logs(&island)));
    assert!(!reaches_neighbour(&island));
    agent.task.abort();
    drop(agent.task.await);
    until_address(&island, &good.0).await;
    assert_eq!((reaches_neighbour(&island), checkpoints(&island).as_str()), (true, "ao 0"));

    // Its next start tries what it was given once more, and takes it back itself.
    let agent = Agent::start(&island).await;
    agent.until(&island, 3, ConfigurationState::Undone).await;
    until_address(&island, &good.0).await;
    assert_eq!((seen(&island), checkpoints(&island).as_str()), (good, "ao 0"), "{}", logs(&island));
    agent.task.abort();
}

#[tokio::test]
async fn network_of_a_document_that_went_away_comes_back_for_no_longer_than_it_should_and_drift_is_seen() {
    let island = Island::new();
    let agent = Agent::start(&island).await;
    let document = document("kiln", "198.51.100.7", 60);
    agent.wish(1, &document);
    agent.until(&island, 1, ConfigurationState::Confirmed).await;

    // Nobody answers to DHCP. NetworkManager 1.42 makes a connection last that it brings back, and it must not.
    agent.wish(2, r#"{"hostname":"kiln","contact_limit_s":10}"#);
    agent.until(&island, 2, ConfigurationState::Undone).await;
    until_address(&island, "198.51.100.7/24").await;
    let lasting = island.root().join("var/lib/NetworkManager/system-connections");
    let names: Vec<_> = fs::read_dir(&lasting).into_iter().flatten().map(|one| one.unwrap().file_name()).collect();
    assert!(names.is_empty(), "{names:?}");

    // What somebody changes by hand makes another digest, until the agent starts anew.
    let given = Some(Wish::new(1, document.as_str()).unwrap().digest());
    assert_eq!(agent.told().digest, given);
    let nmcli = island.root().join("usr/bin/nmcli").display().to_string();
    island.says(&format!("{nmcli} connection modify mbl-on-veth0 ipv4.addresses 198.51.100.66/24"));
    let drifted = tokio::time::timeout(PATIENCE, async {
        while agent.told().digest == given {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    drifted.await.unwrap_or_else(|_| panic!("{}", logs(&island)));
    agent.task.abort();
    drop(agent.task.await);
    let agent = Agent::start(&island).await;
    assert_eq!((agent.told().digest, seen(&island).0.as_str()), (given, "198.51.100.7/24"), "{}", logs(&island));
    agent.task.abort();
}
