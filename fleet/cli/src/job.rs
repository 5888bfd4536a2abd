//! `mbl job`: what many devices do once, and what became of each.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use fleet_api::{
    Client, ClientError, CollectLogs, Job, JobBounds, JobDeviceQuery, LogSource, PageQuery, RebootDevices, RotateKeys,
    RunProbe,
};
use indicatif::ProgressBar;
use protocol_types::{AppName, CommandState, EndpointName, GroupName, JobState};

use crate::{
    device::command::seconds,
    durable,
    failure::{Exit, Failure},
    filter::refused_filter,
    pages::all_pages,
    request::not_there,
    session::{Session, service_error},
    watch::{Shown, follow, not_ended, within},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a job: logs, reboot, rotate-key or probe
    #[command(subcommand)]
    Start(Start),
    /// List the jobs, the newest first
    List,
    /// Show a job and how far its devices are
    Show {
        /// The job, as in j-1
        id: String,
    },
    /// Watch a job to its end
    Watch(WatchArgs),
    /// List the devices of a job and what became of each
    Devices {
        /// The job, as in j-1
        id: String,
        /// Only devices in this state: waiting, sent, active, done, failed, expired, cancelled or unknown
        #[arg(long, value_name = "STATE")]
        state: Option<CommandState>,
    },
    /// Write what a device has brought to the standard output or to a file
    Result {
        /// The job, as in j-1
        id: String,
        /// The device
        endpoint: EndpointName,
        /// The file; it is there only once it is whole
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Stop a job: no further device hears of it
    Cancel {
        /// The job, as in j-1
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Start {
    /// Collect the end of a log
    Logs {
        /// Whose log: agent, updater, apps, board or kernel
        #[arg(long, value_name = "SOURCE", default_value = "agent", value_parser = source)]
        source: LogSource,
        /// The log of this application, instead
        #[arg(long, value_name = "NAME", conflicts_with = "source")]
        application: Option<AppName>,
        /// How many lines, from the end
        #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
        lines: u32,
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Restart the devices in order
    Reboot {
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Have the devices get a certificate for a new key
    RotateKey {
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Have the devices make a check: disk, memory, network, time, or one that their image declares
    Probe {
        /// The name of the check
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TermsArgs {
    #[command(flatten)]
    audience: AudienceArgs,
    /// Devices that are at it at a time
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Devices that are told in a minute
    #[arg(long, value_name = "N")]
    per_minute: Option<u32>,
    /// After which time devices that have not ended are given up, as in 2h; a day without
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    deadline: Option<u64>,
    /// Watch until every device has ended
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AudienceArgs {
    /// Every device of the account
    #[arg(long)]
    all: bool,
    /// The devices in a group
    #[arg(long, value_name = "NAME")]
    group: Option<GroupName>,
    /// The devices that this filter is true for now
    #[arg(long = "where", visible_alias = "filter", value_name = "FILTER")]
    filter: Option<String>,
    /// One device
    #[arg(long, value_name = "NAME")]
    device: Option<EndpointName>,
}

impl AudienceArgs {
    fn filter(&self) -> String {
        match (&self.filter, &self.group, &self.device) {
            (Some(filter), ..) => filter.clone(),
            (None, Some(group), _) => format!("group = \"{group}\""),
            (None, None, Some(device)) => format!("name = \"{device}\""),
            (None, None, None) => String::new(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The job, as in j-1
    id: String,
    /// Seconds after which to give up watching
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
}

fn source(text: &str) -> Result<LogSource, String> {
    // The log of an application is asked for by the application's name.
    let mut sources = LogSource::ALL.into_iter().filter(|source| *source != LogSource::Application);
    sources.find(|source| source.as_str() == text).ok_or_else(|| {
        "a source is agent, updater, apps, board or kernel; for an application, --application".to_owned()
    })
}

/// How long between two looks at a watched job.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Start(wanted) => start(&client, wanted, session).await,
        Command::List => list(&client, session).await,
        Command::Show { id } => {
            let job = client.job(&id).await.map_err(|error| missing(error, &id))?;
            session.printer.data(&job, describe(&job))
        }
        Command::Watch(args) => watch(&client, &args, session).await,
        Command::Devices { id, state } => devices(&client, (&id, state), session).await,
        Command::Result { id, endpoint, output } => result(&client, (&id, &endpoint, output), session).await,
        Command::Cancel { id } => {
            let job = client.cancel_job(&id).await.map_err(|error| missing(error, &id))?;
            session.printer.data(&job, describe(&job))
        }
    }
}

async fn start(client: &Client, wanted: Start, session: &Session) -> anyhow::Result<()> {
    let (Start::Logs { terms, .. } | Start::Reboot { terms } | Start::RotateKey { terms } | Start::Probe { terms, .. }) =
        &wanted;
    let (filter, is_watched) = (terms.audience.filter(), terms.watch);
    let bounds = JobBounds { concurrency: terms.concurrency, per_minute: terms.per_minute, deadline_s: terms.deadline };
    let typed = filter.clone();
    let begun = match wanted {
        Start::Logs { source, application, lines, .. } => {
            let source = if application.is_some() { LogSource::Application } else { source };
            client.collect_logs(&CollectLogs { filter, source, application, lines, bounds }, None).await
        }
        Start::Reboot { .. } => client.reboot_devices(&RebootDevices { filter, bounds }, None).await,
        Start::RotateKey { .. } => client.rotate_keys(&RotateKeys { filter, bounds }, None).await,
        Start::Probe { name, .. } => client.run_probe(&RunProbe { filter, probe: name, bounds }, None).await,
    };
    let job = begun.map_err(|error| refused_filter(error, Some(&typed)))?;
    if is_watched {
        session.printer.say(format_args!("job {} begun", job.id));
        return watch(client, &WatchArgs { id: job.id, time_limit: None }, session).await;
    }
    session.printer.say(format_args!("watch it with `mbl job watch {}`", job.id));
    session.printer.data(&job, describe(&job))
}

fn missing(error: ClientError, id: &str) -> anyhow::Error {
    not_there(error, format!("there is no job `{id}`"), "list the jobs with `mbl job list`")
}

/// One line: what, how far, how it went.
fn describe(job: &Job) -> String {
    let devices = &job.devices;
    let mut text = format!(
        "{} {} {} {} of {}: done {} failed {}",
        job.id,
        job.kind.as_str(),
        job.state.as_str(),
        devices.ended(),
        devices.total(),
        devices.done,
        devices.failed
    );
    for (name, count) in [("expired", devices.expired), ("unknown", devices.unknown), ("cancelled", devices.cancelled)]
    {
        if count > 0 {
            text += &format!(" {name} {count}");
        }
    }
    text
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let jobs = all_pages(async |page| client.jobs(&page).await.map_err(service_error)).await?;
    let head = ["JOB", "KIND", "STATE", "DEVICES", "ENDED", "DONE", "FAILED", "CREATED"];
    session.printer.table(&jobs, &head, |job: &Job| {
        vec![
            job.id.clone(),
            job.kind.as_str().to_owned(),
            job.state.as_str().to_owned(),
            job.devices.total().to_string(),
            job.devices.ended().to_string(),
            job.devices.done.to_string(),
            job.devices.failed.to_string(),
            time(job.created),
        ]
    })
}

async fn devices(client: &Client, (id, state): (&str, Option<CommandState>), session: &Session) -> anyhow::Result<()> {
    let found = all_pages(async |page: PageQuery| {
        let query = JobDeviceQuery { state, cursor: page.cursor, ..JobDeviceQuery::default() };
        client.job_devices(id, &query).await.map_err(|error| missing(error, id))
    })
    .await?;
    session.printer.table(&found, &["DEVICE", "STATE", "RESULT", "REASON", "WHY"], |device| {
        vec![
            device.endpoint.to_string(),
            device.state.as_str().to_owned(),
            crate::words::bytes(device.result_bytes),
            or_dash(device.reason_code.as_ref()),
            or_dash(device.reason.as_ref()),
        ]
    })
}

async fn result(
    client: &Client,
    (id, endpoint, output): (&str, &EndpointName, Option<PathBuf>),
    session: &Session,
) -> anyhow::Result<()> {
    let device = client.job_device(id, endpoint).await.map_err(|error| match error.problem() {
        Some(problem) if problem.status == 404 => {
            Failure::new(Exit::Refused, format!("job `{id}` has no device `{endpoint}`"))
                .hint(format!("list its devices with `mbl job devices {id}`"))
                .into()
        }
        _ => service_error(error),
    })?;
    if device.state != CommandState::Done {
        let why = match (&device.reason_code, &device.reason) {
            (Some(code), Some(reason)) => format!("{code}: {reason}"),
            _ => device.state.as_str().to_owned(),
        };
        return Err(Failure::new(Exit::WatchedFailed, format!("`{endpoint}` has brought nothing: {why}")).into());
    }
    let text = device.result.clone().unwrap_or_default();
    match output {
        None => session.printer.data(&device, text.trim_end_matches('\n')),
        Some(path) => {
            durable::write(&path, text.as_bytes())?;
            let value = serde_json::json!({ "file": path });
            session.printer.data(&value, format_args!("{} written", path.display()))
        }
    }
}

async fn watch(client: &Client, args: &WatchArgs, session: &Session) -> anyhow::Result<()> {
    let bar = session.printer.progress(0, "{msg} [{bar:30}] {pos} of {len}");
    let look = until_end(client, &args.id, &bar, session);
    let ended = within(args.time_limit, look, |seconds| Err(not_ended("job", &args.id, seconds))).await;
    bar.finish_and_clear();
    let job = ended?;
    let devices = &job.devices;
    if job.state == JobState::Finished && devices.done == devices.total() {
        return Ok(());
    }
    let message = match job.state {
        JobState::Finished => {
            format!("job {}: {} of {} devices did not do it", job.id, devices.total() - devices.done, devices.total())
        }
        state => format!("job {} {}", job.id, state.as_str()),
    };
    let hint = format!("see which and why with `mbl job devices {}`", job.id);
    Err(Failure::new(Exit::WatchedFailed, message).hint(hint).into())
}

/// Prints every change until the job ends.
async fn until_end(client: &Client, id: &str, bar: &ProgressBar, session: &Session) -> anyhow::Result<Job> {
    let mut shown = Shown::default();
    let look = async || client.job(id).await;
    follow(
        session,
        LOOK_EVERY,
        look,
        |error| missing(error, id),
        |job: Job| {
            bar.set_message(id.to_owned());
            bar.set_length(job.devices.total());
            bar.set_position(job.devices.ended());
            bar.suspend(|| shown.show(&session.printer, id, &job, describe(&job)))?;
            Ok(job.state.is_end().then_some(job))
        },
    )
    .await
}
