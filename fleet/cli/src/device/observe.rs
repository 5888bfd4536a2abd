//! `mbl device observe`: the values of a path as they change. The observation ends with the command, however that ends.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use fleet_api::{Client, ClientError, CommandQuery, CommandValuesQuery, ObserveResource, ObservedValues};
use protocol_types::{CommandState, EndpointName};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    device::{
        command::{ONE_WAIT_S, TRY_AGAIN, no_command, seconds},
        missing,
    },
    failure::{Exit, Failure},
    session::Session,
    words::time,
};

#[derive(Debug, Args)]
pub(crate) struct ObserveArgs {
    /// The device
    endpoint: EndpointName,
    /// An object, instance, resource or resource instance, as in /3/0/13
    path: String,
    /// How long, as in 10m or 1h; at most a day
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = seconds)]
    duration: u64,
    /// End after so many values
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How long it takes to say goodbye to a service that does not answer.
const GOODBYE: Duration = Duration::from_secs(5);

pub(crate) async fn run(client: &Client, args: ObserveArgs, session: &Session) -> anyhow::Result<()> {
    let ObserveArgs { endpoint, path, duration, count } = args;
    let wanted = ObserveResource { path, duration_s: Some(duration) };
    let asked = client.observe_resource(&endpoint, &wanted, None).await.map_err(|e| missing(e, &endpoint))?;
    session.printer.say(format_args!("observation {} begun; it ends {}", asked.id, time(asked.deadline)));
    let listen = |kind| signal(kind).context("cannot listen for the wish to stop");
    let (mut interrupted, mut terminated) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let ended = tokio::select! {
        ended = follow(client, (&endpoint, &asked.id), count, session) => ended?,
        _ = interrupted.recv() => None,
        _ = terminated.recv() => None,
    };
    match ended {
        // It goes on at the service; nobody looks any more.
        None => {
            let cancelled = tokio::time::timeout(GOODBYE, client.cancel_command(&endpoint, &asked.id)).await;
            match cancelled {
                Ok(Ok(_)) => Ok(()),
                // It came to its end by itself.
                Ok(Err(error)) if error.problem().is_some_and(|problem| problem.code == "wrong_state") => Ok(()),
                Ok(Err(error)) => Err(no_command(error, (&endpoint, &asked.id))),
                Err(_) => {
                    let message = format!("observation {} was not ended: the service does not answer", asked.id);
                    Err(Failure::new(Exit::NotReached, message)
                        .hint(format!("it ends by itself {}", time(asked.deadline)))
                        .into())
                }
            }
        }
        Some(CommandState::Done | CommandState::Cancelled) => Ok(()),
        Some(_) => {
            let shown = client.command(&endpoint, &asked.id, &CommandQuery::default()).await;
            let shown = shown.map_err(|e| no_command(e, (&endpoint, &asked.id)))?;
            let why = shown.reason.unwrap_or_else(|| shown.state.as_str().to_owned());
            let code = shown.reason_code.unwrap_or_default();
            Err(Failure::new(Exit::WatchedFailed, format!("observe {} of `{endpoint}`: {code}: {why}", shown.path))
                .into())
        }
    }
}

/// Prints values as they come; the state in which the observation ended, or nothing once there were enough of them.
async fn follow(
    client: &Client,
    (endpoint, id): (&EndpointName, &str),
    count: Option<u64>,
    session: &Session,
) -> anyhow::Result<Option<CommandState>> {
    let (mut after, mut shown) = (0, 0_u64);
    loop {
        let query = CommandValuesQuery { after: Some(after), wait_s: Some(ONE_WAIT_S) };
        let observed = match client.observed(endpoint, id, &query).await {
            Ok(observed) => observed,
            Err(ClientError::Unreachable { .. }) => {
                session.printer.detail("the service does not answer; trying again");
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
            Err(error) => return Err(no_command(error, (endpoint, id))),
        };
        for item in observed.items {
            if item.number > after + 1 {
                session.printer.say(format_args!("{} values came too fast to be kept", item.number - after - 1));
            }
            after = item.number;
            session.printer.line(&item, line(&item))?;
            shown += 1;
            if count.is_some_and(|count| shown >= count) {
                return Ok(None);
            }
        }
        if observed.state.is_end() {
            return Ok(Some(observed.state));
        }
    }
}

/// When, and what.
fn line(item: &ObservedValues) -> String {
    let at = time(item.time);
    match item.values.as_slice() {
        [one] => format!("{at} {} {}", one.path, one.value),
        several => {
            let lines = several.iter().map(|value| format!("{at} {} {}", value.path, value.value));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}
