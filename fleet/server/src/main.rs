//! `mbl-service`: reads settings, starts the service, waits for a signal, leaves within the grace period.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use fleet_server::{Clock, Config, Random, Traces, back_up, make_first_token, restore, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The device management service of Mbed Linux OS.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the service until SIGTERM or SIGINT.
    Run(RunFlags),
    /// Make a new first token in `DATA_DIR/first-token`, for an operator who has lost every administrator's token.
    FirstToken(FileFlags),
    /// Back up everything that the service keeps, while it runs; the file holds its keys.
    Backup(BackupFlags),
    /// Restore a backup into a new data directory.
    Restore(RestoreFlags),
}

#[derive(Args)]
struct BackupFlags {
    #[command(flatten)]
    file: FileFlags,
    /// The new file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct RestoreFlags {
    #[command(flatten)]
    file: FileFlags,
    /// The backup.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

#[derive(Args)]
struct FileFlags {
    /// The settings, as TOML; without it every setting has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The one directory in which everything lies that the service keeps.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Args)]
struct RunFlags {
    #[command(flatten)]
    file: FileFlags,
    /// REST over HTTPS; port 0 takes any free one, here and below.
    #[arg(long, value_name = "ADDRESS")]
    listen_api: Option<SocketAddr>,
    /// LwM2M bootstrap and enrolment.
    #[arg(long, value_name = "ADDRESS")]
    listen_bootstrap: Option<SocketAddr>,
    /// LwM2M device management.
    #[arg(long, value_name = "ADDRESS")]
    listen_lwm2m: Option<SocketAddr>,
    /// Artifacts and metadata for devices.
    #[arg(long, value_name = "ADDRESS")]
    listen_artifacts: Option<SocketAddr>,
    /// A name or address under which the outside reaches the service; the first one is given to devices.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    public_host: Vec<String>,
    /// Write logs as one JSON object a line.
    #[arg(long)]
    log_json: bool,
}

impl FileFlags {
    fn config(self) -> anyhow::Result<Config> {
        let mut config = self.config.map_or_else(|| Ok(Config::default()), |path| Config::load(&path))?;
        if let Some(data_dir) = self.data_dir {
            config.data_dir = data_dir;
        }
        Ok(config)
    }
}

impl RunFlags {
    fn config(self) -> anyhow::Result<Config> {
        let mut config = self.file.config()?;
        config.listen.api = self.listen_api.unwrap_or(config.listen.api);
        config.listen.bootstrap = self.listen_bootstrap.unwrap_or(config.listen.bootstrap);
        config.listen.lwm2m = self.listen_lwm2m.unwrap_or(config.listen.lwm2m);
        config.listen.artifacts = self.listen_artifacts.unwrap_or(config.listen.artifacts);
        if !self.public_host.is_empty() {
            config.public_hosts = self.public_host;
        }
        config.log_json |= self.log_json;
        Ok(config.check()?)
    }
}

/// Lines on standard error, and spans for the collector of the settings.
fn start_logs(json: bool, traces: Option<&Traces>) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.with_ansi(false).boxed() };
    tracing_subscriber::registry().with(lines).with(traces.map(Traces::layer)).with(LevelFilter::INFO).init();
}

/// Cancels `stop` when the process is asked to end.
async fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    stop.cancel();
    Ok(())
}

async fn serve(config: Config, traces: Option<Traces>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let ended = run(config, traces, Clock::system(), Random::system(), stop.clone()).await;
    stop.cancel();
    signals.await?.context("cannot listen for signals")?;
    Ok(ended?)
}

fn act(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    match cli.verb {
        Verb::Run(flags) => {
            let config = flags.config()?;
            let traces = config.traces.as_ref().map(Traces::new).transpose()?;
            start_logs(config.log_json, traces.as_ref());
            runtime.block_on(serve(config, traces))
        }
        Verb::FirstToken(flags) => {
            let config = flags.config()?;
            start_logs(config.log_json, None);
            Ok(runtime.block_on(make_first_token(&config, Clock::system(), Random::system()))?)
        }
        Verb::Backup(flags) => {
            let config = flags.file.config()?;
            start_logs(config.log_json, None);
            let made = runtime.block_on(back_up(&config, &flags.out, &Clock::system()))?;
            tracing::info!(file = %flags.out.display(), members = made.members, "backup made");
            Ok(())
        }
        Verb::Restore(flags) => {
            let config = flags.file.config()?;
            start_logs(config.log_json, None);
            let restored = runtime.block_on(restore(&config, &flags.from))?;
            tracing::info!(data_dir = %config.data_dir.display(), members = restored.members, "backup restored");
            Ok(())
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a main that failed")]
fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
