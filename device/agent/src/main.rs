//! `mbl-agent`: reads the command line and starts the factory step or the process. Logs go to standard error.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use device_agent::{
    agent,
    config::{self, ConfigError},
    configuration::LogLevels,
    durable,
    factory::{Begun, FactoryStep, FactoryStepError},
    key_store::KeyStore,
    layout::DeviceFolder,
    line::{Heard, Line},
};
use protocol_types::{AccountName, BoardName, EndpointName, LogLevel, signed_cmdline::SignedCmdline};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// The network-facing process of a device.
#[derive(Parser)]
#[command(name = "mbl-agent", version)]
struct Arguments {
    /// The least important messages to write: error, warn, info or debug.
    #[arg(long, env = "MBL_LOG_LEVEL", default_value = "info", global = true)]
    log_level: LevelFilter,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the process.
    Run(DeviceArguments),
    /// The factory step: print a certificate request, then read the factory document and certificate from standard input.
    Factory {
        #[command(flatten)]
        device: DeviceArguments,
        /// Endpoint name of the device; without it, the document says who the device is.
        #[arg(long, requires = "account")]
        endpoint: Option<EndpointName>,
        /// Account that the device belongs to.
        #[arg(long, requires = "endpoint")]
        account: Option<AccountName>,
        /// File with the signed command line of the running system, which says for which board it was made.
        #[arg(long)]
        signed_cmdline: Option<PathBuf>,
    },
}

#[derive(Args)]
struct DeviceArguments {
    /// Folder of the device.
    #[arg(long)]
    device_dir: PathBuf,
    /// File with the settings of the board; without one, the device key is a file.
    #[arg(long)]
    board_settings: Option<PathBuf>,
}

impl DeviceArguments {
    fn open(self) -> Result<(DeviceFolder, KeyStore), ConfigError> {
        let folder = DeviceFolder::new(self.device_dir);
        let token = self.board_settings.map(|path| config::load_board(&path)).transpose()?.map(|board| board.key_store);
        let store = KeyStore::of(&folder, token);
        Ok((folder, store))
    }
}

/// The status of a factory step that a person ended, or that was done before: whoever started it need not try again.
const NOT_AGAIN: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = arguments.log_level;
    let (filter_layer, level) = reload::Layer::new(started);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter_layer).with(lines).init();
    let log_levels: LogLevels = Box::new(move |wanted| {
        // The only way to fail is a subscriber that is gone, and nobody would hear of that.
        drop(level.reload(wanted.map_or(started, filter)));
    });
    match start(arguments, log_levels) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

fn start(Arguments { verb, .. }: Arguments, log_levels: LogLevels) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(device) => {
            let (folder, store) = device.open()?;
            // One thread: the agent waits for the network nearly all of its time, and each thread costs memory.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(run(&folder, &store, log_levels))?;
        }
        Verb::Factory { device, endpoint, account, signed_cmdline } => {
            let board = signed_cmdline.as_deref().map(board_of).transpose()?.flatten();
            return factory(device, account.zip(endpoint), board);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The board in a signed command line.
fn board_of(path: &Path) -> anyhow::Result<Option<BoardName>> {
    let line = durable::read(path, SignedCmdline::MAX_BYTES)?.context("there is no signed command line")?;
    let line = SignedCmdline::parse(&line).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(line.board)
}

/// Does the factory step with whoever is at the other end of standard input and output.
fn factory(
    device: DeviceArguments,
    who: Option<(AccountName, EndpointName)>,
    board: Option<BoardName>,
) -> anyhow::Result<ExitCode> {
    let mut line = Line::open().context("cannot use the line to whoever provisions")?;
    let outcome = device.open().map_err(anyhow::Error::from).and_then(|(folder, store)| {
        let step = match FactoryStep::begin(folder, store, who, board)? {
            Begun::Finished(digest) => return Ok(Some(digest)),
            Begun::Waiting(step) => step,
        };
        match line.offer(&step.request()?).context("cannot hand out the certificate request")? {
            Heard::GivenUp => Ok(None),
            Heard::Package => Ok(Some(step.accept(line.input())?)),
        }
    });
    let said = match &outcome {
        Ok(Some(digest)) => line.report(Ok(*digest)),
        Ok(None) => line.report(Err(&"given up; it begins again with the next start")),
        Err(why) => line.report(Err(&format_args!("{why:#}"))),
    };
    if let Err(error) = said {
        // A program that has what it wants need not listen to the end; the status says it too.
        tracing::warn!(%error, "nobody hears how the factory step ended");
    }
    match outcome {
        Ok(Some(_)) => Ok(ExitCode::SUCCESS),
        Ok(None) => Ok(ExitCode::from(NOT_AGAIN)),
        Err(done) if matches!(done.downcast_ref(), Some(FactoryStepError::Done)) => {
            tracing::error!("{done:#}");
            Ok(ExitCode::from(NOT_AGAIN))
        }
        Err(other) => Err(other),
    }
}

/// Runs the process until it is told to stop.
async fn run(folder: &DeviceFolder, store: &KeyStore, log_levels: LogLevels) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut process = pin!(agent::run(folder, store, log_levels, stop.clone()));
    tokio::select! {
        ended = &mut process => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    Ok(process.await?)
}
