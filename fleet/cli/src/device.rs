//! `mbl device`: who the devices are and how they are.

use std::time::Duration;

use clap::{Args, Subcommand};
use fleet_api::{Client, Device, DeviceDetail, DeviceQuery, Standing, SuspendDevice};
use protocol_types::EndpointName;

use crate::{
    failure::{Exit, Failure},
    session::{Session, service_error},
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
    },
    /// Show every change of a device, until interrupted
    Watch(WatchArgs),
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
    /// Make a device as new: its data, settings and applications go, its identity and its operating system stay
    FactoryReset {
        /// The device
        endpoint: EndpointName,
    },
    /// Forget a device and its certificates
    Remove {
        /// The device
        endpoint: EndpointName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only members of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only devices that are registered now
    #[arg(long)]
    connected: bool,
    /// Only devices of this standing: active, suspended or quarantined
    #[arg(long, value_name = "STANDING")]
    standing: Option<Standing>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The device
    endpoint: EndpointName,
    /// End when the device runs this version and nothing is under way
    #[arg(long, value_name = "VERSION")]
    until_version: Option<String>,
    /// Seconds after which to give up
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
}

/// How long between two looks at a watched device.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::List(args) => list(&client, args, session).await,
        Command::Show { endpoint } => {
            let detail = find(&client, &endpoint).await?;
            session.printer.data(&detail, describe(&detail))
        }
        Command::Watch(args) => watch(&client, &args, session).await,
        Command::Suspend { endpoint, reason } => {
            let device =
                client.suspend_device(&endpoint, &SuspendDevice { reason }).await.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&device, format_args!("{endpoint} {}", device.standing))
        }
        Command::Resume { endpoint } => {
            let device = client.resume_device(&endpoint).await.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&device, format_args!("{endpoint} {}", device.standing))
        }
        Command::FactoryReset { endpoint } => {
            let device = client.reset_device(&endpoint).await.map_err(|e| missing(e, &endpoint))?;
            let when = if device.connected { "now" } else { "when it returns" };
            session.printer.data(&device, format_args!("{endpoint} hears of its factory reset {when}"))
        }
        Command::Remove { endpoint } => {
            client.delete_device(&endpoint).await.map_err(|e| missing(e, &endpoint))?;
            session.printer.data(&serde_json::json!({ "removed": endpoint }), format_args!("{endpoint} removed"))
        }
    }
}

/// A refusal because there is no such device says where to look.
fn missing(error: fleet_api::ClientError, endpoint: &EndpointName) -> anyhow::Error {
    match error.problem() {
        Some(problem) if problem.status == 404 => {
            Failure::new(Exit::Refused, format!("device `{endpoint}` is not enrolled"))
                .hint("list the enrolled devices with `mbl device list`")
                .into()
        }
        _ => service_error(error),
    }
}

async fn find(client: &Client, endpoint: &EndpointName) -> anyhow::Result<DeviceDetail> {
    client.device(endpoint).await.map_err(|error| missing(error, endpoint))
}

async fn list(client: &Client, args: ListArgs, session: &Session) -> anyhow::Result<()> {
    let mut query = DeviceQuery {
        group: args.group,
        connected: args.connected.then_some(true),
        standing: args.standing,
        ..DeviceQuery::default()
    };
    let mut devices: Vec<Device> = Vec::new();
    loop {
        let page = client.devices(&query).await.map_err(service_error)?;
        devices.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    session.printer.table(&devices, &["DEVICE", "STANDING", "CONNECTED", "VERSION", "PHASE", "LAST SEEN"], |device| {
        let report = device.report.as_ref();
        vec![
            device.endpoint.to_string(),
            device.standing.to_string(),
            if device.connected { "yes" } else { "no" }.to_owned(),
            or_dash(report.and_then(|report| report.running_version.as_ref())),
            or_dash(report.map(|report| report.phase)),
            or_dash(device.last_seen.map(time)),
        ]
    })
}

fn describe(detail: &DeviceDetail) -> String {
    let device = &detail.device;
    let mut text = state(device);
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
fn state(device: &Device) -> String {
    let connected = if device.connected { "connected" } else { "away" };
    let mut text = format!("{} {} {connected}", device.endpoint, device.standing);
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

async fn watch(client: &Client, args: &WatchArgs, session: &Session) -> anyhow::Result<()> {
    let look = async {
        let mut last = String::new();
        loop {
            let detail = find(client, &args.endpoint).await?;
            let now = state(&detail.device);
            if now != last {
                session.printer.line(&detail.device, &now)?;
                last = now;
            }
            if args.until_version.as_deref().is_some_and(|version| settled_at(&detail.device, version)) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match args.time_limit {
        None => look.await,
        Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), look).await {
            Ok(ended) => ended,
            Err(_) => {
                let message = format!("device `{}` did not get there within {seconds} s", args.endpoint);
                Err(Failure::new(Exit::WatchedFailed, message)
                    .hint("see what it reports with `mbl device show`")
                    .into())
            }
        },
    }
}

fn settled_at(device: &Device, version: &str) -> bool {
    use protocol_types::Phase::{Failed, Idle, RolledBack, Succeeded};
    device.report.as_ref().is_some_and(|report| {
        report.running_version.as_deref() == Some(version)
            && matches!(report.phase, Idle | Succeeded | Failed | RolledBack)
    })
}
