//! The standing connection to `mbl-updater`: repeats the newest wish, contact, time and wish to restart, answers its fetches, and
//! hears how updates go. Never interprets what it relays.

use std::{path::Path, sync::Arc};

use protocol_types::socket::{AgentToUpdater, Contact, Fetched, Role, UpdaterToAgent};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    configuration::{InForce, for_updater},
    facts::{Facts, ToldTime, set},
    network::Stream,
    orders::{Orders, Wish},
    redial::Redial,
    relay::Relay,
    socket::{Hearing, LinkError, Speaking, connect, greet},
};

/// Fetches under way for one process; while there are as many, nothing more is read from it.
pub(crate) const FETCHES: usize = 4;

/// Keeps the connection to the updater up until `stop`.
pub async fn keep_updater_link(
    path: &Path,
    facts: Arc<Facts>,
    (relay, mut restarts): (Relay, watch::Receiver<Option<Instant>>),
    stop: CancellationToken,
) {
    let mut again = Redial::new(Role::Updater);
    let keep = async {
        loop {
            let ended = match connect(path, Role::Updater).await {
                Ok(stream) => serve_updater(stream, &facts, (&relay, &mut restarts)).await,
                Err(error) => Err(error),
            };
            again.pause(ended).await;
        }
    };
    stop.run_until_cancelled(keep).await;
}

/// Serves one connection to the updater to its end.
///
/// # Errors
/// Always: that is how it ends.
pub async fn serve_updater(
    stream: Box<dyn Stream>,
    facts: &Facts,
    (relay, restarts): (&Relay, &mut watch::Receiver<Option<Instant>>),
) -> Result<(), LinkError> {
    let (hearing, speaking) = greet(stream, Role::Updater).await?;
    Link::new(facts, relay.clone(), speaking).serve(hearing, restarts).await
}

struct Link<'a> {
    facts: &'a Facts,
    relay: Relay,
    speaking: Speaking,
    settings: watch::Receiver<Option<InForce>>,
    orders: watch::Receiver<Orders>,
    contact: watch::Receiver<Contact>,
    signed_time: watch::Receiver<Option<ToldTime>>,
    reset: watch::Receiver<bool>,
    /// The wish that this connection has carried.
    said: Option<Wish>,
}

impl<'a> Link<'a> {
    fn new(facts: &'a Facts, relay: Relay, speaking: Speaking) -> Self {
        let (mut orders, mut contact, mut signed_time) =
            (facts.orders.subscribe(), facts.contact.subscribe(), facts.signed_time.subscribe());
        let mut reset = facts.reset.subscribe();
        // A process that connects anew is not about to restart, or no longer.
        set(&facts.restarting, false);
        // On a new connection everything is news.
        orders.mark_changed();
        contact.mark_changed();
        signed_time.mark_changed();
        reset.mark_changed();
        let settings = facts.settings.subscribe();
        Self { facts, relay, speaking, settings, orders, contact, signed_time, reset, said: None }
    }

    async fn serve(
        mut self,
        mut hearing: Hearing,
        restarts: &mut watch::Receiver<Option<Instant>>,
    ) -> Result<(), LinkError> {
        let mut fetches = JoinSet::new();
        // The connection before may have ended before the wish was read.
        restarts.mark_changed();
        // Before the first wish, which may have to wait for the update window, and is checked by the time.
        self.say_settings().await?;
        self.say_time().await?;
        loop {
            tokio::select! {
                message = hearing.hear(), if fetches.len() < FETCHES => match message? {
                    UpdaterToAgent::Fetch { id, what } => {
                        let relay = self.relay.clone();
                        fetches.spawn(async move { Fetched { id, result: relay.fetch(&what).await } });
                    }
                    UpdaterToAgent::Status(status) => set(&self.facts.status, Some(*status)),
                    UpdaterToAgent::Restarting => {
                        set(&self.facts.restart, None);
                        set(&self.facts.restarting, true);
                    }
                    // For installers: the agent's own wish is repeated until the state is gone.
                    UpdaterToAgent::Reset { .. } => {}
                },
                Some(Ok(fetched)) = fetches.join_next() => self.speaking.say(&AgentToUpdater::Fetched(fetched)).await?,
                Ok(()) = self.contact.changed() => {
                    let contact = *self.contact.borrow_and_update();
                    self.speaking.say(&AgentToUpdater::Contact(contact)).await?;
                }
                Ok(()) = self.settings.changed() => self.say_settings().await?,
                Ok(()) = self.orders.changed() => self.say_wish().await?,
                Ok(()) = self.signed_time.changed() => self.say_time().await?,
                Ok(()) = self.reset.changed() => {
                    if *self.reset.borrow_and_update() {
                        self.speaking.say(&AgentToUpdater::FactoryReset).await?;
                    }
                }
                Ok(()) = restarts.changed() => {
                    if self.facts.is_restart_wished() {
                        self.speaking.say(&AgentToUpdater::Restart).await?;
                    }
                }
            }
        }
    }

    async fn say_settings(&mut self) -> Result<(), LinkError> {
        let settings = self.settings.borrow_and_update().as_ref().map(for_updater);
        match settings {
            Some(settings) => self.speaking.say(&AgentToUpdater::Settings(settings)).await,
            None => Ok(()),
        }
    }

    /// Hands on a recent time; for an old one, the session asks the service anew.
    async fn say_time(&mut self) -> Result<(), LinkError> {
        let told = self.signed_time.borrow_and_update().clone();
        match told {
            None => Ok(()),
            Some(told) if told.is_recent() => self.speaking.say(&AgentToUpdater::TrustedTime(told.said)).await,
            Some(_) => {
                set(&self.facts.time_wanted, true);
                Ok(())
            }
        }
    }

    async fn say_wish(&mut self) -> Result<(), LinkError> {
        let wish = self.orders.borrow_and_update().wish.clone();
        if wish == self.said {
            return Ok(());
        }
        self.said = wish.clone();
        match wish {
            None => Ok(()),
            Some(Wish::Rest) => self.speaking.say(&AgentToUpdater::Rest).await,
            Some(Wish::Release { release, digest, rollout, consent }) => {
                self.speaking.say(&AgentToUpdater::Desire { release, digest, rollout, consent }).await
            }
        }
    }
}
