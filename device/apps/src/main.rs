//! `mbl-apps`: reads the command line and starts the service. Never decides anything itself.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use device_apps::{config::Settings, container::enter_network, limits::Limits, service::LogLevels, start};
use protocol_types::LogLevel;
use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// Unpacks, runs and supervises the applications of a device.
#[derive(Debug, Parser)]
#[command(name = "mbl-apps", version)]
struct Arguments {
    /// The least important messages to write: error, warn, info or debug.
    #[arg(long, env = "MBL_LOG_LEVEL", default_value = "info", global = true)]
    log_level: LevelFilter,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve the agent and the updater until SIGTERM.
    Run(Box<Run>),
    /// Enter a network namespace and become another program.
    #[command(hide = true)]
    EnterNetwork {
        /// The namespace.
        namespace: PathBuf,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The folder of the device.
    #[arg(long, value_name = "DIR")]
    device_dir: PathBuf,
    /// The OCI runtime: a program in PATH, or its path.
    #[arg(long, default_value = "runc", value_name = "PROGRAM")]
    runtime: PathBuf,
    /// The device's network namespace, for applications that may use it; default: the one of this process.
    #[arg(long, value_name = "PATH")]
    host_network: Option<PathBuf>,
    /// The control group below which those of applications are made.
    #[arg(long, default_value = "/", value_name = "PATH")]
    cgroup_parent: String,
    /// The user that the agent runs as; default: the user of this process.
    #[arg(long, value_name = "UID")]
    agent_uid: Option<u32>,
    /// The first user id given to applications; each gets 65536 from here on.
    #[arg(long, default_value_t = 1_000_000, value_name = "UID")]
    first_uid: u32,
    /// Bytes of output kept for one application.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    log_bytes: u64,
    /// Most bytes of one blob.
    #[arg(long, default_value_t = Limits::default().blob_bytes, value_name = "BYTES")]
    max_blob_bytes: u64,
    /// Most bytes of an image's layers after decompression.
    #[arg(long, default_value_t = Limits::default().unpacked_bytes, value_name = "BYTES")]
    max_image_bytes: u64,
    /// Most files, folders and links in an image's layers.
    #[arg(long, default_value_t = Limits::default().entries, value_name = "NUMBER")]
    max_image_entries: u64,
}

impl From<Run> for Settings {
    fn from(run: Run) -> Self {
        Self {
            device_dir: run.device_dir,
            runtime: run.runtime,
            host_network: run.host_network,
            cgroup_parent: run.cgroup_parent,
            agent_uid: run.agent_uid,
            first_uid: run.first_uid,
            log_bytes: run.log_bytes,
            limits: Limits {
                blob_bytes: run.max_blob_bytes,
                unpacked_bytes: run.max_image_bytes,
                entries: run.max_image_entries,
            },
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = arguments.log_level;
    let (filter, level) = reload::Layer::new(started);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let log_level = move |wanted: Option<LogLevel>| {
        let wanted = wanted.and_then(|wanted| wanted.as_str().parse().ok());
        // The only way to fail is a subscriber that is gone, and nobody would hear of that.
        drop(level.reload(wanted.unwrap_or(started)));
    };
    match run(arguments.verb, Box::new(log_level)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb, log_level: LogLevels) -> anyhow::Result<()> {
    match verb {
        Verb::Run(run) => Ok(start::serve(&Settings::from(*run), random, log_level)?),
        Verb::EnterNetwork { namespace, command } => {
            let (program, args) = command.split_first().context("no program was given")?;
            let error = enter_network(&namespace, program, args);
            Err(error).with_context(|| format!("cannot run a program in the network of {}", namespace.display()))
        }
    }
}

/// Without randomness, waits are merely shorter.
fn random() -> u32 {
    getrandom::u32().unwrap_or(0)
}
