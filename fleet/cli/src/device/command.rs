//! `mbl device read`, `write`, `execute`, `observe`: what is asked of a device itself, waited for or left to be taken when it wakes.

use std::time::Duration;

use clap::{Args, Subcommand};
use fleet_api::{
    Client, ClientError, Command as Asked, CommandQuery, ExecuteResource, PageQuery, ReadResource, ResourceType,
    ResourceValue, WriteResource,
};
use protocol_types::{CommandState, EndpointName, Presence};
use tokio::time::Instant;

use crate::{
    device::{
        missing,
        observe::{self, ObserveArgs},
    },
    failure::{Exit, Failure},
    pages::first_of,
    session::Session,
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read what lies at a path of a device, as in /3/0/13
    Read(ReadArgs),
    /// Write a value to a resource of a device
    Write(WriteArgs),
    /// Execute a resource of a device, once
    Execute(ExecuteArgs),
    /// Show what lies at a path of a device, and every change of it
    Observe(ObserveArgs),
    /// List what was asked of a device, the newest first
    Commands {
        /// The device
        endpoint: EndpointName,
        /// At most so many commands
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Show one command of a device, or wait for its end
    #[command(name = "command")]
    One {
        /// The device
        endpoint: EndpointName,
        /// The command, as in c-1
        id: String,
        /// How long to wait for its end, as in 30s or 5m
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds)]
        wait: u64,
    },
    /// Take a command back that the device has not heard of, or end an observation
    Cancel {
        /// The device
        endpoint: EndpointName,
        /// The command, as in c-1
        id: String,
    },
}

#[derive(Debug, Args)]
struct PatienceArgs {
    /// How long to wait here for the answer, as in 30s or 5m; the command goes on afterwards
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    wait: u64,
    /// How long the device has to take it, as in 10m or 2d; an hour without
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    deadline: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// The device
    endpoint: EndpointName,
    /// An object, instance, resource or resource instance
    path: String,
    #[command(flatten)]
    patience: PatienceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// The device
    endpoint: EndpointName,
    /// A resource or resource instance
    path: String,
    /// The value
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Its type, for objects that the service does not know: string, integer, unsigned, float, boolean, opaque, time, object_link, core_link
    #[arg(long = "type", value_name = "TYPE", value_parser = resource_type)]
    kind: Option<ResourceType>,
    #[command(flatten)]
    patience: PatienceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExecuteArgs {
    /// The device
    endpoint: EndpointName,
    /// A resource
    path: String,
    /// Arguments as LwM2M writes them, as in 0='5'
    #[arg(long, default_value = "")]
    arguments: String,
    #[command(flatten)]
    patience: PatienceArgs,
}

/// A time as people write it: a number and s, m, h or d.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write it as in 30s, 5m, 2h or 1d".to_owned();
    let unit = text.chars().next_back().filter(char::is_ascii_alphabetic).ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

fn resource_type(text: &str) -> Result<ResourceType, String> {
    let found = ResourceType::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| format!("a type is one of {}", ResourceType::ALL.map(ResourceType::as_str).join(", ")))
}

/// Longest wait that the service grants in one request, in seconds.
pub(crate) const ONE_WAIT_S: u64 = 20;
/// Between two tries to reach a service that does not answer.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(command: Command, client: &Client, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Read(ReadArgs { endpoint, path, patience }) => {
            let wanted = ReadResource { path, deadline_s: patience.deadline };
            let asked = client.read_resource(&endpoint, &wanted, None).await;
            answer(client, asked.map_err(|e| missing(e, &endpoint))?, patience.wait, session).await
        }
        Command::Write(WriteArgs { endpoint, path, value, kind, patience }) => {
            let wanted = WriteResource { path, value, kind, deadline_s: patience.deadline };
            let asked = client.write_resource(&endpoint, &wanted, None).await;
            answer(client, asked.map_err(|e| missing(e, &endpoint))?, patience.wait, session).await
        }
        Command::Execute(ExecuteArgs { endpoint, path, arguments, patience }) => {
            let wanted = ExecuteResource { path, arguments, deadline_s: patience.deadline };
            let asked = client.execute_resource(&endpoint, &wanted, None).await;
            answer(client, asked.map_err(|e| missing(e, &endpoint))?, patience.wait, session).await
        }
        Command::Observe(args) => observe::run(client, args, session).await,
        Command::Commands { endpoint, limit } => list(client, (&endpoint, limit), session).await,
        Command::One { endpoint, id, wait } => {
            let shown = client.command(&endpoint, &id, &CommandQuery::default()).await;
            let asked = shown.map_err(|e| no_command(e, (&endpoint, &id)))?;
            if wait > 0 && !asked.state.is_end() {
                return answer(client, asked, wait, session).await;
            }
            session.printer.data(&asked, describe(&asked))
        }
        Command::Cancel { endpoint, id } => {
            let cancelled = client.cancel_command(&endpoint, &id).await;
            let asked = cancelled.map_err(|e| no_command(e, (&endpoint, &id)))?;
            session.printer.data(&asked, describe(&asked))
        }
    }
}

/// A refusal because there is no such command says where to look.
pub(crate) fn no_command(error: ClientError, (endpoint, id): (&EndpointName, &str)) -> anyhow::Error {
    match error.problem() {
        Some(problem) if problem.status == 404 => {
            Failure::new(Exit::Refused, format!("device `{endpoint}` has no command `{id}`"))
                .hint(format!("list what was asked of it with `mbl device commands {endpoint}`"))
                .into()
        }
        _ => crate::session::service_error(error),
    }
}

/// Waits for the end of a command and shows what came of it, or says why there is nothing yet.
async fn answer(client: &Client, asked: Asked, wait_s: u64, session: &Session) -> anyhow::Result<()> {
    if wait_s == 0 {
        return session.printer.data(&asked, describe(&asked));
    }
    session.printer.detail(format_args!("command {} asked for", asked.id));
    let ends = Instant::now() + Duration::from_secs(wait_s);
    let asked = end_of(client, asked, ends, session).await?;
    match asked.state {
        CommandState::Done => session.printer.data(&asked, values(&asked.values)),
        _ => Err(why_not(&asked, wait_s).into()),
    }
}

/// The command when it has ended, or as it is at the end of patience. A service that restarts meanwhile is waited for.
async fn end_of(client: &Client, mut asked: Asked, ends: Instant, session: &Session) -> anyhow::Result<Asked> {
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        if asked.state.is_end() || left.is_zero() {
            return Ok(asked);
        }
        let query = CommandQuery { wait_s: Some(left.as_secs().clamp(1, ONE_WAIT_S)) };
        match client.command(&asked.endpoint, &asked.id, &query).await {
            Ok(shown) => asked = shown,
            Err(ClientError::Unreachable { .. }) => {
                session.printer.detail("the service does not answer; trying again");
                tokio::time::sleep(TRY_AGAIN.min(left)).await;
            }
            Err(error) => return Err(no_command(error, (&asked.endpoint, &asked.id))),
        }
    }
}

/// Why a command has brought nothing, or not yet.
fn why_not(asked: &Asked, wait_s: u64) -> Failure {
    let Asked { id, endpoint, kind, path, state, .. } = asked;
    if state.is_end() {
        let why = match (&asked.reason_code, &asked.reason) {
            (Some(code), Some(reason)) => format!("{code}: {reason}"),
            _ => state.as_str().to_owned(),
        };
        let failure = Failure::new(Exit::WatchedFailed, format!("{} {path} of `{endpoint}`: {why}", kind.as_str()));
        return match state {
            CommandState::Unknown => failure.hint("look at the device before you ask again"),
            _ => failure,
        };
    }
    let what = match asked.presence {
        Presence::Connected => format!("`{endpoint}` has not answered within {wait_s} s"),
        Presence::Sleeping => {
            format!("`{endpoint}` is asleep until {} at the latest", or_dash(asked.expected_by.map(time)))
        }
        Presence::Late | Presence::Lost => {
            let since = or_dash(asked.expected_by.map(time));
            format!("`{endpoint}` is {}: it had promised to be heard by {since}", asked.presence.as_str())
        }
    };
    let message = format!("{what}; {id} is {} until {}", state.as_str(), time(asked.deadline));
    Failure::new(Exit::WatchedFailed, message).hint(format!(
        "wait with `mbl device command {endpoint} {id} --wait 10m`, or take it back with `mbl device cancel {endpoint} {id}`"
    ))
}

/// One value alone; several with their paths; nothing for what answers with its yes alone.
pub(crate) fn values(values: &[ResourceValue]) -> String {
    match values {
        [] => "done".to_owned(),
        [one] => one.value.clone(),
        several => {
            let lines = several.iter().map(|value| format!("{} {} {}", value.path, value.kind.as_str(), value.value));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

/// One line: what, how far, why.
pub(crate) fn describe(asked: &Asked) -> String {
    let Asked { id, endpoint, kind, path, state, .. } = asked;
    let mut text = format!("{id} {endpoint} {} {path} {}", kind.as_str(), state.as_str());
    if let Some(code) = &asked.reason_code {
        text += &format!(" ({code}: {})", asked.reason.as_deref().unwrap_or_default());
    }
    for value in &asked.values {
        text += &format!("\n  {} {} {}", value.path, value.kind.as_str(), value.value);
    }
    text
}

async fn list(client: &Client, (endpoint, limit): (&EndpointName, u32), session: &Session) -> anyhow::Result<()> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = async |query: PageQuery| client.commands(endpoint, &query).await.map_err(|e| missing(e, endpoint));
    let found = first_of(most, page).await?;
    session.printer.table(&found, &["COMMAND", "KIND", "PATH", "STATE", "CREATED", "REASON"], |asked: &Asked| {
        vec![
            asked.id.clone(),
            asked.kind.as_str().to_owned(),
            asked.path.clone(),
            asked.state.as_str().to_owned(),
            time(asked.created),
            or_dash(asked.reason_code.as_ref()),
        ]
    })
}

#[cfg(test)]
mod tests {
    use protocol_types::{CommandKind, UnixSeconds};

    use super::*;

    fn asked(state: CommandState, presence: Presence) -> Asked {
        Asked {
            id: "c-7".into(),
            endpoint: "gate-1".parse().unwrap(),
            kind: CommandKind::Read,
            path: "/3/0/13".into(),
            state,
            job: None,
            values: Vec::new(),
            reason_code: None,
            reason: None,
            tries: 0,
            presence,
            expected_by: Some(UnixSeconds(1_800_000_000)),
            created: UnixSeconds(1_799_999_000),
            deadline: UnixSeconds(1_800_003_600),
            sent: None,
            ended: None,
        }
    }

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!([seconds("30s"), seconds("5m"), seconds("2h"), seconds("1d")], [30, 300, 7200, 86_400].map(Ok));
        for bad in ["", "30", "s", "-1s", "1.5m", "1w", "é", "99999999999999999999d", "18446744073709551615d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_waited_in_vain_hears_why_and_how_long_the_command_goes_on() {
        assert_eq!(
            why_not(&asked(CommandState::Waiting, Presence::Sleeping), 30).to_string(),
            "`gate-1` is asleep until 2027-01-15T08:00:00Z at the latest; c-7 is waiting until 2027-01-15T09:00:00Z"
        );
        assert_eq!(
            why_not(&asked(CommandState::Sent, Presence::Connected), 30).to_string(),
            "`gate-1` has not answered within 30 s; c-7 is sent until 2027-01-15T09:00:00Z"
        );
        assert_eq!(
            why_not(&asked(CommandState::Waiting, Presence::Lost), 30).to_string(),
            "`gate-1` is lost: it had promised to be heard by 2027-01-15T08:00:00Z; c-7 is waiting until 2027-01-15T09:00:00Z"
        );
        let refused = Asked {
            reason_code: Some("coap_4_04".into()),
            reason: Some("the device answered 4.04 (it has nothing at this path)".into()),
            ..asked(CommandState::Failed, Presence::Connected)
        };
        assert_eq!(
            why_not(&refused, 30).to_string(),
            "read /3/0/13 of `gate-1`: coap_4_04: the device answered 4.04 (it has nothing at this path)"
        );
    }

    #[test]
    fn one_value_stands_alone_and_several_with_their_paths() {
        let value = |path: &str, value: &str| ResourceValue {
            path: path.into(),
            kind: ResourceType::Integer,
            value: value.into(),
        };
        assert_eq!(values(&[]), "done");
        assert_eq!(values(&[value("/3/0/9", "80")]), "80");
        assert_eq!(
            values(&[value("/3/0/7/0", "5000"), value("/3/0/7/1", "3300")]),
            "/3/0/7/0 integer 5000\n/3/0/7/1 integer 3300"
        );
    }
}
