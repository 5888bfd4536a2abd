//! `mbl-agent`: reads the command line and starts the factory step or the process. Logs go to standard error.

use std::{path::PathBuf, pin::pin, process::ExitCode};

use clap::{Parser, Subcommand};
use device_agent::{agent, factory, layout::DeviceFolder};
use protocol_types::{AccountName, EndpointName};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The network-facing process of a device.
#[derive(Parser)]
#[command(name = "mbl-agent", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the process.
    Run {
        /// Folder of the device.
        #[arg(long)]
        device_dir: PathBuf,
    },
    /// The factory step: print a certificate request, then read the factory document and certificate from standard input.
    Factory {
        /// Folder of the device.
        #[arg(long)]
        device_dir: PathBuf,
        /// Endpoint name of the device.
        #[arg(long)]
        endpoint: EndpointName,
        /// Account that the device belongs to.
        #[arg(long)]
        account: AccountName,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(Arguments { verb }: Arguments) -> anyhow::Result<()> {
    match verb {
        Verb::Run { device_dir } => {
            // One thread: the agent waits for the network nearly all of its time, and each thread costs memory.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(run(&DeviceFolder::new(device_dir)))
        }
        Verb::Factory { device_dir, endpoint, account } => {
            let folder = DeviceFolder::new(device_dir);
            factory::provision(&folder, (&account, &endpoint), std::io::stdin().lock(), std::io::stdout().lock())?;
            Ok(())
        }
    }
}

/// Runs the process until it is told to stop.
async fn run(folder: &DeviceFolder) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut process = pin!(agent::run(folder, stop.clone()));
    tokio::select! {
        ended = &mut process => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    Ok(process.await?)
}
