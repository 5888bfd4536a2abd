//! `mbl device`: who the devices are and how they are.

pub(crate) mod command;
pub(crate) mod edit;
pub(crate) mod follow;
pub(crate) mod observe;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleet_api::{
    AttributeValue, ChangeAttributes, ChangeDevice, ChangeTags, Client, ClientError, CountQuery, DecommissionDevice,
    Device, DeviceDetail, DeviceQuery, DeviceRecoveryKey, Event, ExportFormat, ExportQuery, PageQuery, SuspendDevice,
};
use protocol_types::{EndpointName, Standing, recovery::VolumeId};
use serde_json::json;

use crate::{
    device::{edit::EditArgs, follow::DeviceWatchArgs},
    durable::write_private,
    export::{deliver, export_format},
    failure::{Exit, Failure},
    filter::refused_filter,
    keys::recovery_key,
    pages::{all_pages, first_of},
    request::not_there,
    rollout::why,
    secret::PassphraseArgs,
    session::Session,
    watch::{self, WatchArgs},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the devices
    List(ListArgs),
    /// Show everything about a device
    Show {
        /// The device
        endpoint: EndpointName,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Count the devices by the value of a field
    Count {
        /// The field, as in os.version; without it, one number
        #[arg(long, value_name = "FIELD")]
        by: Option<String>,
        /// Only devices that this filter is true for
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
    },
    /// Write the devices to a file or to the standard output
    Export(ExportArgs),
    /// Change what is said of a device: attributes, tags, a note
    Set(SetArgs),
    /// Do the same to many devices: labels, membership of a group, suspension
    Edit(Box<EditArgs>),
    /// Show every change of a device, until interrupted
    Watch(DeviceWatchArgs),
    /// Show why a device does not run what rollouts want it to run, and what to do
    Why {
        /// The device
        endpoint: EndpointName,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Let a device that was held back because it kept failing take part in rollouts again
    Forgive {
        /// The device
        endpoint: EndpointName,
    },
    /// Keep a device out
    Suspend {
        /// The device
        endpoint: EndpointName,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let a suspended or quarantined device take part again
    Resume {
        /// The device
        endpoint: EndpointName,
    },
    /// Take a device out of service for good: its credentials go, it and its history stay
    Decommission {
        /// The device
        endpoint: EndpointName,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Show what happened to a device, the newest first
    History {
        /// The device
        endpoint: EndpointName,
        /// At most so many events
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Make a device as new: its data, settings and applications go, its identity and its operating system stay
    FactoryReset {
        /// The device
        endpoint: EndpointName,
    },
    /// Open the recovery key of a device's state, for `cryptsetup open --key-file`
    RecoveryKey(RecoveryKeyArgs),
    /// Forget a device and its certificates
    Remove {
        /// The device
        endpoint: EndpointName,
    },
    #[command(flatten)]
    Live(command::Command),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// csv, or jsonl for a JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "csv", value_parser = export_format)]
    format: ExportFormat,
    /// Only devices that this filter is true for
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// The file; it is there only once it is whole
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The device
    endpoint: EndpointName,
    /// An attribute as KEY=VALUE, may be given several times; a value that is a number is one, in quotes it is a text
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, AttributeValue)>,
    /// Key of an attribute to remove, may be given several times
    #[arg(long, value_name = "KEY")]
    without: Vec<String>,
    /// A tag to add, may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// A tag to take away, may be given several times
    #[arg(long, value_name = "TAG")]
    untag: Vec<String>,
    /// The note
    #[arg(long)]
    note: Option<String>,
}

pub(crate) fn attribute(text: &str) -> Result<(String, AttributeValue), String> {
    let (key, value) = text.split_once('=').ok_or("write it as in rack=7 or rack=\"7\"")?;
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let value = match (quoted, value.parse::<f64>()) {
        (None, Ok(number)) if number.is_finite() => AttributeValue::Number(number),
        (quoted, _) => AttributeValue::Text(quoted.unwrap_or(value).to_owned()),
    };
    Ok((key.to_owned(), value))
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only devices that this filter is true for, as in 'os.version < "1.2.0"'
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Only members of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only devices that are registered now
    #[arg(long)]
    connected: bool,
    /// Only devices of this standing: active, suspended, quarantined or decommissioned
    #[arg(long, value_name = "STANDING")]
    standing: Option<Standing>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RecoveryKeyArgs {
    /// The device
    endpoint: EndpointName,
    /// File of the account's recovery key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File to write the key of the state to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Volume to open, as `cryptsetup luksUUID` prints it; without it, that of the device's newest state
    #[arg(long, value_name = "UUID")]
    volume: Option<VolumeId>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::List(args) => list(&client, args, session).await,
        Command::Show { endpoint, watch } if watch.watch => {
            let look = async || client.device(&endpoint).await;
            watch::one(watch, session, look, |error| missing(error, &endpoint), describe).await
        }
        Command::Show { endpoint, .. } => {
            let detail = find(&client, &endpoint).await?;
            session.printer.data(&detail, describe(&detail))
        }
        Command::Count { by, filter } => count(&client, CountQuery { by, filter }, session).await,
        Command::Export(args) => export(&client, args, session).await,
        Command::Set(args) => set(&client, args, session).await,
        Command::Edit(args) => edit::run(&client, *args, session).await,
        Command::Watch(args) => follow::run(&client, &args, session).await,
        Command::Why { endpoint, watch } => why::of_device(&client, &endpoint, watch, session).await,
        Command::Forgive { endpoint } => why::forgive(&client, &endpoint, session).await,
        Command::Suspend { endpoint, reason } => {
            let device =
                client.suspend_device(&endpoint, &SuspendDevice { reason }).await.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&device, format_args!("{endpoint} {}", device.standing))
        }
        Command::Resume { endpoint } => {
            let device = client.resume_device(&endpoint).await.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&device, format_args!("{endpoint} {}", device.standing))
        }
        Command::Decommission { endpoint, reason } => {
            let done = client.decommission_device(&endpoint, &DecommissionDevice { reason }).await;
            let device = done.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&device, format_args!("{endpoint} {}", device.standing))
        }
        Command::History { endpoint, limit } => history(&client, (&endpoint, limit), session).await,
        Command::FactoryReset { endpoint } => {
            let device = client.reset_device(&endpoint).await.map_err(|e| missing(e, &endpoint))?;
            let when = if device.connected { "now" } else { "when it returns" };
            session.printer.data(&device, format_args!("{endpoint} hears of its factory reset {when}"))
        }
        Command::RecoveryKey(args) => recover(&client, &args, session).await,
        Command::Remove { endpoint } => {
            client.delete_device(&endpoint).await.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&json!({ "removed": endpoint }), format_args!("{endpoint} removed"))
        }
        Command::Live(command) => command::run(command, &client, session).await,
    }
}

/// Fetches the sealed key and opens it here: the service sees neither the account's key nor the device's.
async fn recover(client: &Client, args: &RecoveryKeyArgs, session: &Session) -> anyhow::Result<()> {
    let endpoint = &args.endpoint;
    let keys = client.recovery_keys(endpoint).await.map_err(|e| missing(e, endpoint))?.items;
    let wanted = |key: &DeviceRecoveryKey| args.volume.as_ref().is_none_or(|volume| key.volume == *volume);
    let Some(key) = keys.into_iter().find(wanted) else {
        let which = args.volume.as_ref().map_or_else(String::new, |volume| format!(" for volume {volume}"));
        return Err(Failure::new(Exit::Failed, format!("the service has no recovery key of `{endpoint}`{which}"))
            .hint("a device hands it in after the restart that follows its factory step, if its account had a key then")
            .into());
    };
    let secret = args.passphrase.known(&args.key.display().to_string())?;
    let sealed = key.into_sealed();
    let opened = recovery_key::open(&sealed, &args.key, &secret)?;
    // Without a line break: `cryptsetup` takes every byte of a key file.
    write_private(&args.out, opened.as_bytes())?;
    let value = json!({ "endpoint": endpoint, "volume": sealed.volume, "file": args.out });
    session.printer.data(&value, format_args!("{} opens volume {}", args.out.display(), sealed.volume))
}

/// A refusal because there is no such device says where to look.
pub(crate) fn missing(error: ClientError, endpoint: &EndpointName) -> anyhow::Error {
    not_there(error, format!("device `{endpoint}` is not enrolled"), "list the enrolled devices with `mbl device list`")
}

async fn find(client: &Client, endpoint: &EndpointName) -> anyhow::Result<DeviceDetail> {
    client.device(endpoint).await.map_err(|error| missing(error, endpoint))
}

async fn list(client: &Client, args: ListArgs, session: &Session) -> anyhow::Result<()> {
    let watching = args.watch;
    let query = DeviceQuery {
        filter: args.filter,
        group: args.group,
        connected: args.connected.then_some(true),
        standing: args.standing,
        ..DeviceQuery::default()
    };
    let look = async || {
        let page =
            async |PageQuery { cursor, limit }| client.devices(&DeviceQuery { cursor, limit, ..query.clone() }).await;
        all_pages(page).await
    };
    let explain = |error| refused_filter(error, query.filter.as_deref());
    if watching.watch {
        let line = |device: &Device| (device.endpoint.to_string(), state(device));
        return watch::list(watching, session, look, explain, line).await;
    }
    let devices = look().await.map_err(explain)?;
    session.printer.table(&devices, &["DEVICE", "STANDING", "PRESENCE", "VERSION", "PHASE", "LAST SEEN"], |device| {
        let report = device.report.as_ref();
        vec![
            device.endpoint.to_string(),
            device.standing.to_string(),
            device.presence.as_str().to_owned(),
            or_dash(report.and_then(|report| report.running_version.as_ref())),
            or_dash(report.map(|report| report.phase)),
            or_dash(device.last_seen.map(time)),
        ]
    })
}

async fn history(client: &Client, (endpoint, limit): (&EndpointName, u32), session: &Session) -> anyhow::Result<()> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = async |query: PageQuery| client.device_history(endpoint, &query).await.map_err(|e| missing(e, endpoint));
    let found = first_of(most, page).await?;
    session.printer.table(&found, &["TIME", "WHAT", "DETAILS"], |event: &Event| {
        vec![event.time.clone(), event.kind.clone(), event.data.to_string()]
    })
}

async fn count(client: &Client, query: CountQuery, session: &Session) -> anyhow::Result<()> {
    let counts = client.count_devices(&query).await.map_err(|e| refused_filter(e, query.filter.as_deref()))?;
    if counts.more {
        session.printer.say("there are more values; a filter makes them fewer");
    }
    let head = query.by.as_deref().unwrap_or_default().to_uppercase();
    session.printer.table(&counts.items, &[&head, "DEVICES"], |count| {
        vec![or_dash(count.value.as_ref()), count.devices.to_string()]
    })
}

async fn export(client: &Client, args: ExportArgs, session: &Session) -> anyhow::Result<()> {
    let query = ExportQuery { format: Some(args.format), filter: args.filter };
    let answer = client.export_devices(&query).await.map_err(|e| refused_filter(e, query.filter.as_deref()))?;
    deliver(answer, args.output.as_deref(), session).await
}

async fn set(client: &Client, args: SetArgs, session: &Session) -> anyhow::Result<()> {
    let change = ChangeDevice {
        note: args.note,
        attributes: ChangeAttributes { set: args.attributes.into_iter().collect(), remove: args.without },
        tags: ChangeTags { add: args.tag, remove: args.untag },
    };
    let endpoint = &args.endpoint;
    let device = client.change_device(endpoint, &change, None).await.map_err(|e| missing(e, endpoint))?;
    session.printer.data(&device, format_args!("{}{}", endpoint, labels(&device)))
}

/// Tags and attributes, a line each.
fn labels(device: &Device) -> String {
    let mut text = String::new();
    for tag in &device.tags {
        text += &format!("\n  tag {tag}");
    }
    for (key, value) in &device.attributes {
        let value = match value {
            AttributeValue::Text(value) => format!("\"{value}\""),
            AttributeValue::Number(value) => value.to_string(),
        };
        text += &format!("\n  attribute {key} = {value}");
    }
    text
}

fn describe(detail: &DeviceDetail) -> String {
    let device = &detail.device;
    let mut text = state(device);
    text += &labels(device);
    if !detail.note.is_empty() {
        text += &format!("\n  note {}", detail.note);
    }
    for component in &detail.components {
        let state = component.state.as_deref().unwrap_or_default();
        text += &format!("\n  {} {} {} {state}", component.name, component.version, component.digest);
    }
    if let Some(release) = detail.desired.as_ref().and_then(|desired| desired.release.as_ref()) {
        text += &format!("\n  wanted {release}");
    }
    if let Some(asked) = device.reset_asked {
        text += &format!("\n  factory reset asked for {}", time(asked));
    }
    for certificate in &detail.certificates {
        text += &format!("\n  certificate {} until {}", certificate.serial, time(certificate.not_after));
    }
    text
}

/// One line: who, how, what runs.
pub(crate) fn state(device: &Device) -> String {
    let mut text = format!("{} {} {}", device.endpoint, device.standing, device.presence.as_str());
    if let Some(report) = &device.report {
        text += &format!(
            " version {} slot {} {}",
            or_dash(report.running_version.as_ref()),
            or_dash(report.slot),
            report.phase
        );
        if let Some(percent) = report.progress {
            text += &format!(" {percent} %");
        }
        if let Some(code) = &report.reason_code {
            text += &format!(" {code}: {}", report.reason.as_deref().unwrap_or_default());
        }
    }
    text
}
