//! `mbl rollout`: moves devices to a release or a configuration, and shows how far they are. The service decides; here it is asked and watched.

pub(crate) mod dry_run;
pub(crate) mod start;
pub(crate) mod why;

use std::time::Duration;

use clap::{Args, Subcommand};
use fleet_api::{
    Client, ClientError, ConfigurationLevel, GiveConsent, PageQuery, Rollout, RolloutDevice, RolloutDeviceQuery,
    StagedConfiguration,
};
use indicatif::ProgressBar;
use protocol_types::{DeviceState, EndpointName, ReleaseVersion, RolloutAction, RolloutId, RolloutState};

use crate::{
    failure::{Exit, Failure},
    pages::all_pages,
    request::{not_there, request_key},
    rollout::start::{LookArgs, StartArgs},
    session::{Session, service_error},
    watch::{Shown, follow, not_ended, within},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Move devices to a release or to a staged configuration
    Start(Box<StartArgs>),
    /// Start a rollout that was made with `start --draft`
    Begin(IdArgs),
    /// Show how a rollout goes on until it ends
    Watch(WatchArgs),
    /// Offer nothing new for now
    Pause(IdArgs),
    /// Go on after a pause
    Resume(IdArgs),
    /// End a rollout; devices that are not beyond the point of return stay where they are
    Abort(IdArgs),
    /// Admit no further devices; the rollout ends once those that it has have come to an end
    Close(IdArgs),
    /// Say yes to a whole rollout that somebody else started
    Approve(IdArgs),
    /// Say yes for devices that wait for an operator's consent
    Consent(ConsentArgs),
    /// Let devices at which somebody said no ask again now
    AskAgain(IdArgs),
    /// Show why devices do not have what a rollout brings, and what to do
    Why(IdArgs),
    /// List the rollouts
    List,
    /// Show a rollout and how far it is on each device
    Show(IdArgs),
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The rollout
    id: RolloutId,
}

#[derive(Debug, Args)]
pub(crate) struct ConsentArgs {
    /// The rollout
    id: RolloutId,
    /// For this device, may be given several times; without it for every device that waits now
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<EndpointName>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The rollout
    id: RolloutId,
    /// Seconds after which to give up watching
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
}

/// How long between two looks at a watched rollout.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Start(args) => start(&client, *args, session).await,
        Command::Begin(args) => act(&client, &args.id, RolloutAction::Start, session).await,
        Command::Watch(args) => watch(&client, &args, session).await,
        Command::Pause(args) => act(&client, &args.id, RolloutAction::Pause, session).await,
        Command::Resume(args) => act(&client, &args.id, RolloutAction::Resume, session).await,
        Command::Abort(args) => act(&client, &args.id, RolloutAction::Abort, session).await,
        Command::Close(args) => act(&client, &args.id, RolloutAction::Close, session).await,
        Command::Approve(args) => act(&client, &args.id, RolloutAction::Approve, session).await,
        Command::AskAgain(args) => act(&client, &args.id, RolloutAction::AskAgain, session).await,
        Command::Why(args) => why::of_rollout(&client, &args.id, session).await,
        Command::Consent(args) => consent(&client, args, session).await,
        Command::List => list(&client, session).await,
        Command::Show(args) => show(&client, &args.id, session).await,
    }
}

async fn start(client: &Client, args: StartArgs, session: &Session) -> anyhow::Result<()> {
    let (LookArgs { watch: watches, dry_run: makes_nothing }, draft) = (args.look, args.draft);
    let wanted = args.into();
    if makes_nothing {
        return dry_run::show(client, &wanted, session).await;
    }
    let key = request_key()?;
    let made = client.create_rollout(&wanted, Some(&key)).await.map_err(service_error)?;
    if draft {
        session.printer.say(format_args!("start it with `mbl rollout begin {}`", made.id));
        return session.printer.data(&made, state(&made));
    }
    let rollout = client.act_on_rollout(&made.id, RolloutAction::Start).await.map_err(service_error)?;
    if watches {
        session.printer.say(format_args!("rollout {} started", rollout.id));
        return watch(client, &WatchArgs { id: rollout.id, time_limit: None }, session).await;
    }
    session.printer.say(format_args!("watch it with `mbl rollout watch {}`", rollout.id));
    session.printer.data(&rollout, state(&rollout))
}

async fn act(client: &Client, id: &RolloutId, action: RolloutAction, session: &Session) -> anyhow::Result<()> {
    let rollout = client.act_on_rollout(id, action).await.map_err(|error| missing(error, id))?;
    session.printer.data(&rollout, state(&rollout))
}

async fn consent(client: &Client, args: ConsentArgs, session: &Session) -> anyhow::Result<()> {
    let ConsentArgs { id, devices } = args;
    let given = GiveConsent { devices: (!devices.is_empty()).then_some(devices) };
    let rollout = client.consent_to_rollout(&id, &given).await.map_err(|error| missing(error, &id))?;
    session.printer.data(&rollout, state(&rollout))
}

pub(crate) fn missing(error: ClientError, id: &RolloutId) -> anyhow::Error {
    not_there(error, format!("there is no rollout `{id}`"), "list the rollouts with `mbl rollout list`")
}

/// What a rollout brings, as in `1.2.0` or `configuration 4 of group doors`.
pub(crate) fn brought(release: Option<&ReleaseVersion>, configuration: Option<&StagedConfiguration>) -> String {
    let Some(StagedConfiguration { level, name, revision }) = configuration else {
        return release.map(ToString::to_string).unwrap_or_default();
    };
    match level {
        ConfigurationLevel::Account => format!("configuration {revision}"),
        ConfigurationLevel::Group => format!("configuration {revision} of group {name}"),
        ConfigurationLevel::Device => format!("configuration {revision} of device {name}"),
    }
}

fn subject(rollout: &Rollout) -> String {
    brought(rollout.release.as_ref(), rollout.configuration.as_ref())
}

/// One line: what, how far, why.
fn state(rollout: &Rollout) -> String {
    let kind = if rollout.release.is_some() { "release " } else { "" };
    let mut text = format!("{} {kind}{} {}", rollout.id, subject(rollout), rollout.state);
    if !rollout.waves.is_empty() {
        text += &format!(" wave {} of {}", rollout.open_wave, rollout.waves.len() + 1);
    }
    for (state, count) in &rollout.devices {
        text += &format!(" {state} {count}");
    }
    if let Some(reason) = &rollout.reason {
        text += &format!(" ({reason})");
    }
    text
}

fn device_state(device: &RolloutDevice) -> String {
    let mut text = format!("{} {}", device.endpoint, device.state);
    if let Some(what) = device.waiting_for {
        text += &format!(" for {what}");
    }
    if let Some(percent) = device.progress {
        text += &format!(" {percent} %");
    }
    if let Some(reason) = &device.reason {
        text += &format!(" ({reason})");
    }
    text
}

async fn devices(client: &Client, id: &RolloutId) -> anyhow::Result<Vec<RolloutDevice>> {
    all_pages(async |page: PageQuery| {
        let query = RolloutDeviceQuery { cursor: page.cursor, ..RolloutDeviceQuery::default() };
        client.rollout_devices(id, &query).await.map_err(|error| missing(error, id))
    })
    .await
}

async fn show(client: &Client, id: &RolloutId, session: &Session) -> anyhow::Result<()> {
    let rollout = client.rollout(id).await.map_err(|error| missing(error, id))?;
    let devices = devices(client, id).await?;
    let mut text = state(&rollout);
    for device in &devices {
        text += &format!("\n  {} since {}", device_state(device), time(device.since));
    }
    session.printer.data(&serde_json::json!({ "rollout": rollout, "devices": devices }), text)
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let rollouts = all_pages(async |page| client.rollouts(&page).await.map_err(service_error)).await?;
    session.printer.table(&rollouts, &["ROLLOUT", "BRINGS", "STATE", "STARTED", "NAME"], |rollout: &Rollout| {
        vec![
            rollout.id.to_string(),
            subject(rollout),
            rollout.state.to_string(),
            or_dash(rollout.started.map(time)),
            rollout.name.clone(),
        ]
    })
}

async fn watch(client: &Client, args: &WatchArgs, session: &Session) -> anyhow::Result<()> {
    let bar = session.printer.progress(100, "{msg} [{bar:30}] {pos} %");
    let look = until_end(client, &args.id, &bar, session);
    let ended = within(args.time_limit, look, |seconds| Err(not_ended("rollout", &args.id, seconds))).await;
    bar.finish_and_clear();
    let rollout = ended?;
    let failed = |state| rollout.devices.get(&state).copied().unwrap_or(0);
    if (rollout.state == RolloutState::Finished || is_idle(&rollout))
        && failed(DeviceState::Failed) + failed(DeviceState::RolledBack) == 0
    {
        return Ok(());
    }
    let failure = Failure::new(Exit::WatchedFailed, format!("rollout {} {}", rollout.id, rollout.state));
    Err(match &rollout.reason {
        Some(reason) => failure.because(anyhow::anyhow!("{reason}")).hint(reason.code.hint()).into(),
        None => failure.hint(format!("see each device with `mbl rollout show {}`", rollout.id)).into(),
    })
}

/// Whether the rollout runs only for devices that may still come into its audience.
fn is_idle(rollout: &Rollout) -> bool {
    let counts = &rollout.devices;
    rollout.state == RolloutState::Running && !counts.is_empty() && counts.keys().all(|state| state.is_end())
}

/// Prints every change until the rollout ends.
async fn until_end(client: &Client, id: &RolloutId, bar: &ProgressBar, session: &Session) -> anyhow::Result<Rollout> {
    let (mut rollouts, mut seen) = (Shown::default(), Shown::default());
    let look = async || look(client, id).await;
    follow(
        session,
        LOOK_EVERY,
        look,
        |error| missing(error, id),
        |(rollout, now): (Rollout, Vec<RolloutDevice>)| {
            let printer = &session.printer;
            for device in &now {
                let value = serde_json::json!({ "device": device });
                bar.suspend(|| seen.show(printer, device.endpoint.as_str(), &value, device_state(device)))?;
            }
            let value = serde_json::json!({ "rollout": rollout });
            bar.suspend(|| rollouts.show(printer, id.as_str(), &value, state(&rollout)))?;
            bar.set_message(format!("{} {}", rollout.id, subject(&rollout)));
            bar.set_position(per_cent(&now));
            if is_idle(&rollout) {
                printer.say(format_args!(
                    "every device has come to an end; the audience stays open until `mbl rollout close {id}`"
                ));
            }
            Ok((rollout.state.is_end() || is_idle(&rollout)).then_some(rollout))
        },
    )
    .await
}

/// The rollout and its first page of devices: more lines than that nobody reads as they pass.
async fn look(client: &Client, id: &RolloutId) -> Result<(Rollout, Vec<RolloutDevice>), ClientError> {
    let devices = client.rollout_devices(id, &RolloutDeviceQuery::default()).await?;
    Ok((client.rollout(id).await?, devices.items))
}

/// How much of the work is done: a device at its end counts wholly, one that downloads by its progress.
fn per_cent(devices: &[RolloutDevice]) -> u64 {
    let done =
        |device: &RolloutDevice| if device.state.is_end() { 100 } else { u64::from(device.progress.unwrap_or(0)) };
    let sum: u64 = devices.iter().map(done).sum();
    sum.checked_div(devices.len() as u64).unwrap_or(0)
}
