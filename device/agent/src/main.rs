//! `mbl-agent`: reads the command line and starts the factory step or the process. Logs go to standard error.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use device_agent::{factory, layout::DeviceFolder};
use protocol_types::{AccountName, EndpointName};

/// The network-facing process of a device.
#[derive(Parser)]
#[command(name = "mbl-agent", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
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
        Verb::Factory { device_dir, endpoint, account } => {
            let folder = DeviceFolder::new(device_dir);
            factory::provision(&folder, (&account, &endpoint), std::io::stdin().lock(), std::io::stdout().lock())?;
            Ok(())
        }
    }
}
