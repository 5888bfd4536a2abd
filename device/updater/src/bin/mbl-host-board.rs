//! `mbl-host-board`: boots a device made of files and supervises its three processes.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use device_updater::board::{self, BoardConfig, CappedLog, Signals};

/// Boots a device made of files and supervises its three processes (docs/formats/host-board.md).
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(flatten)]
    board: Board,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Debug, Args)]
struct Board {
    /// The device's folder.
    #[arg(long, required = true)]
    device_dir: Option<PathBuf>,
    /// `mbl-agent`; by default the one beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// `mbl-updater`; by default the one beside this program.
    #[arg(long)]
    updater: Option<PathBuf>,
    /// `mbl-apps`; by default the one beside this program.
    #[arg(long)]
    apps: Option<PathBuf>,
    /// The OCI runtime that `mbl-apps` calls.
    #[arg(long, default_value = "runc")]
    runtime: String,
    /// The user that the agent runs as when root runs this program.
    #[arg(long, default_value_t = 65534)]
    agent_uid: u32,
}

#[derive(Debug, Subcommand)]
enum Inner {
    /// Goes to the place of a process and becomes it; the board calls this.
    #[command(hide = true)]
    Enter {
        #[arg(long)]
        board_pid: u32,
        #[arg(long)]
        uid: Option<u32>,
        #[arg(long)]
        no_network: bool,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.inner {
        Some(Inner::Enter { board_pid, uid, no_network, program }) => match program.split_first() {
            Some(program) => Err(board::enter(*board_pid, *uid, *no_network, program).into()),
            None => Err(anyhow::anyhow!("no program was named")),
        },
        None => boot(cli.board),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tell(&e);
            ExitCode::FAILURE
        }
    }
}

fn boot(args: Board) -> anyhow::Result<()> {
    let device_dir = args.device_dir.context("--device-dir is missing")?;
    let device_dir = device_dir.canonicalize().with_context(|| format!("cannot find {}", device_dir.display()))?;
    let log_dir = device_dir.join("log");
    std::fs::create_dir_all(&log_dir).with_context(|| format!("cannot make {}", log_dir.display()))?;
    let log = Mutex::new(Tee(CappedLog::new(log_dir.join("board.log"))));
    tracing_subscriber::fmt().with_ansi(false).with_writer(log).init();
    let board = std::env::current_exe().context("cannot find this program")?;
    let beside = |given: Option<PathBuf>, name: &str| -> anyhow::Result<PathBuf> {
        let path = given.unwrap_or_else(|| board.parent().unwrap_or(Path::new(".")).join(name));
        path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
    };
    let config = BoardConfig {
        agent: beside(args.agent, "mbl-agent")?,
        updater: beside(args.updater, "mbl-updater")?,
        apps: beside(args.apps, "mbl-apps")?,
        device_dir,
        runtime: args.runtime,
        agent_uid: rustix::process::geteuid().is_root().then_some(args.agent_uid),
        board,
    };
    let signals = Signals::catch().context("cannot catch signals")?;
    board::run(&config, &signals).map_err(anyhow::Error::from).inspect_err(|e| {
        tracing::error!(cause = format!("{e:#}"), "the board cannot go on");
    })
}

/// Standard error and the log at once.
#[derive(Debug)]
struct Tee(CappedLog);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A console that is gone must not stop the board, so only the log's answer counts.
        io::stderr().write_all(bytes).or_else(|_| self.0.flush())?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[expect(clippy::print_stderr, reason = "errors of a command go to standard error")]
fn tell(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
