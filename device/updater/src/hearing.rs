//! What the updater hears: messages of the sockets as facts, as far as whoever says them may know them. Never decides what follows.

use protocol_types::socket::{AgentToUpdater, AppsToUpdater, Fetched, UpdaterToAgent};
use tracing::warn;

use crate::{
    disk::Disk,
    perform::Updater,
    plan::Fact,
    record::{Origin, Wish},
    serve::Surroundings,
    socket::{Event, Peer},
    speakers::Speakers,
    window::Window,
};

/// Tells the updater what an event says.
pub(crate) fn hear<D: Disk>(
    updater: &mut Updater<D, Speakers>,
    window: &mut Window,
    event: Event,
    around: Surroundings<'_>,
) {
    match event {
        Event::Agent(Peer::Agent, AgentToUpdater::Settings(settings)) => {
            (around.log_level)(settings.log_level);
            window.set(settings.update_window);
        }
        Event::Up(peer @ (Peer::Agent | Peer::Installer)) => {
            // What was asked over an earlier link is lost with it.
            updater.source_gone(origin_of(peer));
            let status = UpdaterToAgent::Status(Box::new(updater.status()));
            updater.peers.say(peer, &status);
        }
        Event::Up(Peer::Apps) => updater.tell(Fact::AppsConnected),
        Event::Agent(peer, message) => hear_agent(updater, peer, message),
        Event::Apps(AppsToUpdater::Prepared { release, refused }) => {
            updater.tell(Fact::Prepared { set: release, refused });
        }
        Event::Apps(AppsToUpdater::Preparing { release, done, total }) => {
            updater.tell(Fact::Preparing { set: release, bytes: (done, total) });
        }
        Event::Apps(AppsToUpdater::Status { release, applications }) => {
            updater.tell(Fact::Applications { set: release, statuses: applications });
        }
        // The end of one link may be heard after the beginning of the next, which has dropped what came over the first.
        Event::Down(peer) if updater.peers.reach(peer) => {}
        Event::Down(Peer::Agent) => {
            updater.source_gone(Origin::Service);
            updater.tell(Fact::Contact(None));
        }
        Event::Down(Peer::Installer) => {
            updater.source_gone(Origin::Folder);
            updater.tell(Fact::Rest(Origin::Folder));
        }
        Event::Down(Peer::Apps) => updater.tell(Fact::Applications { set: None, statuses: Vec::new() }),
    }
}

const fn origin_of(peer: Peer) -> Origin {
    match peer {
        Peer::Installer => Origin::Folder,
        Peer::Agent | Peer::Apps => Origin::Service,
    }
}

fn hear_agent<D: Disk>(updater: &mut Updater<D, Speakers>, peer: Peer, message: AgentToUpdater) {
    let origin = origin_of(peer);
    match (message, origin) {
        (AgentToUpdater::Desire { release, digest, rollout, consent }, _) => {
            // Who brings a release to the device has said yes to it.
            let consent = consent.filter(|_| origin == Origin::Service);
            updater.tell(Fact::Desired(Wish { release, digest, rollout, origin, consent }));
        }
        (AgentToUpdater::Rest, _) => updater.tell(Fact::Rest(origin)),
        (AgentToUpdater::Fetched(Fetched { id, result }), _) => updater.answer(origin, id, result),
        (AgentToUpdater::Contact(contact), Origin::Service) => updater.tell(Fact::Contact(Some(contact))),
        (AgentToUpdater::TrustedTime(told), Origin::Service) => updater.hear_time(&told),
        (AgentToUpdater::Restart, Origin::Service) => updater.tell(Fact::RestartAsked),
        (AgentToUpdater::FactoryReset, _) => updater.tell(Fact::ResetAsked),
        (AgentToUpdater::Answer { digest, answer }, Origin::Folder) => updater.tell(Fact::Answered(digest, answer)),
        (AgentToUpdater::Answer { .. }, Origin::Service) => {
            warn!("the agent answers what only somebody at the device may; ignored");
        }
        (
            AgentToUpdater::Contact(_)
            | AgentToUpdater::TrustedTime(_)
            | AgentToUpdater::Restart
            | AgentToUpdater::Settings(_),
            _,
        ) => {
            warn!("an installer says what only the agent can know; ignored");
        }
    }
}
