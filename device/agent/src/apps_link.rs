//! The standing connection to `mbl-apps`: answers its fetches and hears how applications are. Never interprets what it relays.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use protocol_types::socket::{AgentToApps, AppsToAgent, Fetched, MAX_LOG, Role};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    configuration::for_apps,
    facts::{Facts, set},
    redial::Redial,
    relay::Relay,
    socket::{Hearing, LinkError, Speaking, connect, greet},
    updater_link::FETCHES,
};

/// How long `mbl-apps` may be away until what it said of applications is forgotten; it starts anew within seconds.
const AWAY: Duration = Duration::from_secs(60);

/// Keeps the connection to `mbl-apps` up until `stop`.
pub async fn keep_apps_link(path: &Path, facts: Arc<Facts>, relay: Relay, stop: CancellationToken) {
    let mut again = Redial::new(Role::Apps);
    let keep = async {
        let mut last = Instant::now();
        loop {
            let ended = match reach(path).await {
                Ok(connection) => {
                    let ended = serve(connection, &facts, &relay).await;
                    last = Instant::now();
                    ended
                }
                Err(away) => Err(away),
            };
            // What it said last is not so any more: without it, nobody runs applications.
            if last.elapsed() >= AWAY {
                set(&facts.applications, Vec::new());
            }
            again.pause(ended).await;
        }
    };
    stop.run_until_cancelled(keep).await;
}

async fn reach(path: &Path) -> Result<(Hearing, Speaking), LinkError> {
    greet(connect(path, Role::Apps).await?, Role::Apps).await
}

async fn serve(
    (mut hearing, mut speaking): (Hearing, Speaking),
    facts: &Facts,
    relay: &Relay,
) -> Result<(), LinkError> {
    let mut fetches = JoinSet::new();
    let mut settings = facts.settings.subscribe();
    settings.mark_changed();
    // What the connection before did not answer is asked again.
    let mut wishes = facts.log_wish.subscribe();
    wishes.mark_changed();
    loop {
        tokio::select! {
            message = hearing.hear(), if fetches.len() < FETCHES => match message? {
                AppsToAgent::Fetch { id, what } => {
                    let relay = relay.clone();
                    fetches.spawn(async move { Fetched { id, result: relay.fetch(&what).await } });
                }
                AppsToAgent::Status(applications) => set(&facts.applications, applications),
                AppsToAgent::Log { id, result } => drop(facts.log_answer.send_replace(Some((id, result)))),
            },
            Ok(()) = wishes.changed() => {
                let wish = wishes.borrow_and_update().clone();
                let answered = facts.log_answer.borrow().as_ref().map(|(id, _)| *id);
                if let Some((id, application)) = wish.filter(|(id, _)| answered < Some(*id)) {
                    speaking.say(&AgentToApps::Log { id, application, max_bytes: MAX_LOG }).await?;
                }
            }
            Ok(()) = settings.changed() => {
                let settings = settings.borrow_and_update().as_ref().map(for_apps);
                if let Some(settings) = settings {
                    speaking.say(&AgentToApps::Settings(settings)).await?;
                }
            }
            Some(Ok(fetched)) = fetches.join_next() => speaking.say(&AgentToApps::Fetched(fetched)).await?,
        }
    }
}
