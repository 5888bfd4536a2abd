//! `mbl-updater`: the process that installs releases, and the commands that go with it.

use std::{
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use device_updater::{
    board::REBOOT_STATUS,
    booted::Started,
    consent::{self, ConsentError},
    format,
    install::{self, InstallError, Installed},
    key_store,
    reset::{self, ResetError},
    restart,
    running_updater::ReachError,
    serve::{self, Config, Hardware, Surroundings},
    settings::{self, SettingsError},
    tpm, trust,
};
use protocol_types::{Answer, BoardName, LogLevel, ReleaseVersion, UnixSeconds, UpdateStatus};
use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// How long an updater that cannot start stays, in a system that is not known to be on trial.
const HOLD: Duration = Duration::from_secs(60);
/// The board that is made of files.
const HOST: &str = "host";
/// What to do where nobody said how it ended.
const SEE_STATUS: &str = "see how things stand with `mbl-updater status`";
/// The status of settings that are refused: whoever started this need not try again.
const NOT_AGAIN: u8 = 3;

/// Installs signed releases, tries them, keeps them or goes back.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The least important messages to write: error, warn, info or debug.
    #[arg(long, env = "MBL_LOG_LEVEL", default_value = "info", global = true)]
    log_level: LevelFilter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs as the device's updater. Exit status 75 says that the device must restart, or is about to.
    Run {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// The board. On `host` files stand for hardware; any other has a disk with two slots and a TPM 2.0 or a TEE.
        #[arg(long)]
        board: BoardName,
        /// The TPM, on a board that has one: its device, or the socket of one in software.
        #[arg(long, default_value = tpm::DEVICE)]
        tpm: PathBuf,
        /// The TEE, on a board whose key store is in one: the device of its driver.
        #[arg(long, conflicts_with = "tpm")]
        tee: Option<PathBuf>,
        /// The root of the running system, on such a board.
        #[arg(long, default_value = "/")]
        root: PathBuf,
        /// The user that the agent runs as; by default this process's own.
        #[arg(long)]
        agent_uid: Option<u32>,
    },
    /// Brings an exported release to the running updater.
    Install {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// The folder that `mbl release export` wrote.
        #[arg(long)]
        from: PathBuf,
    },
    /// Makes the disk of a new device.
    Format {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// Bytes in each slot, a multiple of 4096.
        #[arg(long)]
        slot_bytes: u64,
        /// The operating system that the first slot gets: a folder with `os.json` and `artifacts/`.
        #[arg(long)]
        os: PathBuf,
    },
    /// The last part of the factory step on a board with a TPM 2.0 or a TEE: records the digest of the factory document in it, for good.
    RecordFactory {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// The TPM: its device, or the socket of one in software.
        #[arg(long, default_value = tpm::DEVICE)]
        tpm: PathBuf,
        /// The TEE, on a board whose key store is in one: the device of its driver.
        #[arg(long, conflicts_with = "tpm")]
        tee: Option<PathBuf>,
    },
    /// Makes the device as new: restarts it into a state without data, settings and applications. It keeps its identity and its
    /// operating system.
    FactoryReset {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
    },
    /// Shows, or answers, the question whether a release that is in its place may be installed.
    Consent {
        #[command(subcommand)]
        command: ConsentCommand,
    },
    /// Renders the settings of the operating system for the programs that read them, and tells these. Exit status 3 says that the
    /// settings are refused.
    ConfigureSystem {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// The root of the running system.
        #[arg(long, default_value = "/")]
        root: PathBuf,
        /// Takes the settings of the release that was booted, before any program that reads them has started.
        #[arg(long)]
        at_boot: bool,
        /// Answers one question of the agent instead, over the socket that standard input is.
        #[arg(long, conflicts_with = "at_boot")]
        on_request: bool,
        /// The user that the agent runs as; by default this process's own.
        #[arg(long, requires = "on_request")]
        agent_uid: Option<u32>,
    },
    /// Says how things stand.
    Status {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ConsentCommand {
    /// Shows what is asked.
    Show {
        /// The device's folder.
        #[arg(long)]
        device_dir: PathBuf,
        /// As JSON; `null` if nothing is asked.
        #[arg(long)]
        json: bool,
    },
    /// Says yes: the release is installed at once, or when the update window of the device opens.
    Give(AnswerArgs),
    /// Says no: the device stays as it is, and asks again later.
    Refuse(AnswerArgs),
}

#[derive(Debug, Args)]
struct AnswerArgs {
    /// The device's folder.
    #[arg(long)]
    device_dir: PathBuf,
    /// Answers only if it is this release that is asked about.
    #[arg(long)]
    release: Option<ReleaseVersion>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let started = cli.log_level;
    let (filter, level) = reload::Layer::new(started);
    tracing_subscriber::registry().with(filter).with(fmt::layer().with_ansi(false).with_writer(std::io::stderr)).init();
    let log_level = move |wanted: Option<LogLevel>| {
        let wanted = wanted.and_then(|wanted| wanted.as_str().parse().ok());
        // The only way to fail is a subscriber that is gone, and nobody would hear of that.
        drop(level.reload(wanted.unwrap_or(started)));
    };
    match run(cli.command, Surroundings { now: &now, log_level: &log_level }) {
        Ok(status) => status,
        Err(e) => {
            say(&format!("error: {e:#}"));
            if let Some(hint) = hint(&e) {
                say(&format!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, around: Surroundings<'_>) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { device_dir, board, tpm, tee, root, agent_uid } => {
            let agent_uid = agent_uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
            let spread = getrandom::u64().context("cannot draw a random number")?;
            let config =
                |hardware| Config { device_dir: device_dir.clone(), board: board.clone(), agent_uid, spread, hardware };
            if board.as_str() == HOST {
                serve::serve(&config(Hardware::Files), around)?;
            } else {
                let key_store = key_store::Hardware::of(&tpm, tee.as_deref());
                serve_on_devices(&config(Hardware::Devices { root: root.clone(), key_store }), &root, around)?;
            }
            return Ok(ExitCode::from(REBOOT_STATUS));
        }
        Command::Install { device_dir, from } => {
            match install::install(&device_dir, &from, |status| say(&line(status)))? {
                Installed::Confirmed => say("the release runs and was confirmed"),
                Installed::Restarting => say("the device restarts; the release is on trial then"),
            }
        }
        Command::Format { device_dir, slot_bytes, os } => {
            let entry = format::format(&device_dir, slot_bytes, &os)?;
            say(&format!("made {} with the boot entry {entry}", device_dir.join("disk.img").display()));
        }
        Command::RecordFactory { device_dir, tpm, tee } => {
            let digest = trust::record_factory(&device_dir, &key_store::Hardware::of(&tpm, tee.as_deref()))?;
            say(&format!("the key store holds the digest {digest} of the factory document"));
        }
        Command::FactoryReset { device_dir } => {
            reset::ask(&device_dir, |status| say(&line(status)))?;
            say("the device restarts with a new state");
        }
        Command::Consent { command } => answer(command)?,
        Command::ConfigureSystem { device_dir, root, on_request: true, agent_uid, .. } => {
            let line = std::io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
            let agent_uid = agent_uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
            settings::answer(&settings::Place { device_dir, root }, line.into(), agent_uid)?;
        }
        Command::ConfigureSystem { device_dir, root, at_boot, .. } => {
            let place = settings::Place { device_dir, root };
            let configured = if at_boot { settings::at_boot(&place) } else { settings::change(&place) };
            if let Err(e @ SettingsError::Refused(_)) = configured {
                say(&format!("error: {:#}", anyhow::Error::from(e)));
                return Ok(ExitCode::from(NOT_AGAIN));
            }
            configured?;
        }
        Command::Status { device_dir, json } => print_status(&device_dir, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves, and has the system restarted when that is due. A system on trial whose updater cannot even start has failed it: the
/// restart uses up one of its tries.
fn serve_on_devices(config: &Config, root: &Path, around: Surroundings<'_>) -> anyhow::Result<()> {
    if let Err(e) = serve::serve(config, around) {
        say(&format!("error: {:#}", anyhow::Error::from(e)));
        match serve::started(&config.device_dir) {
            Started::OnTrial => say("the system is on trial: asking for a restart"),
            // A device whose system was confirmed does better with what runs than with one restart after the other, which is what a
            // manager does to a process that keeps ending.
            Started::Confirmed => {
                hold();
                anyhow::bail!("the updater of a confirmed system cannot start");
            }
            // It may be on trial, and then has failed; if it was confirmed, its initrd writes the account anew.
            Started::Unknown => {
                say("nobody can tell how this system was started: asking for a restart in a minute");
                hold();
            }
        }
    }
    Ok(restart::ask_system(root)?)
}

fn hold() {
    let (_never, waits) = mpsc::channel::<()>();
    let _over = waits.recv_timeout(HOLD);
}

fn answer(command: ConsentCommand) -> anyhow::Result<()> {
    let (args, answer) = match command {
        ConsentCommand::Show { device_dir, json } => return print_question(&device_dir, json),
        ConsentCommand::Give(args) => (args, Answer::Yes),
        ConsentCommand::Refuse(args) => (args, Answer::No),
    };
    let question = consent::answer(&args.device_dir, answer, args.release.as_ref())?;
    match answer {
        Answer::Yes => say(&format!("release {} may be installed", question.version)),
        Answer::No => say(&format!("release {} is not installed; the device asks again later", question.version)),
    }
    Ok(())
}

fn print_question(device_dir: &Path, json: bool) -> anyhow::Result<()> {
    let question = consent::asked(device_dir)?;
    let text = match &question {
        _ if json => serde_json::to_string(&question)?,
        None => "nothing is asked".to_owned(),
        Some(question) => {
            let until = question.deadline.map(|time| format!("; from {time} on it is installed without a yes"));
            format!("may release {} be installed?{}", question.version, until.unwrap_or_default())
        }
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

fn print_status(device_dir: &Path, json: bool) -> anyhow::Result<()> {
    let status = serve::last_status(device_dir).context("cannot read the last report")?;
    let status = status.with_context(|| format!("no mbl-updater runs on the device in {}", device_dir.display()))?;
    let text = if json { serde_json::to_string(&status)? } else { line(&status) };
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

/// One line for people.
fn line(status: &UpdateStatus) -> String {
    let running = &status.running;
    let mut line = format!("{}: {} runs in slot {}", status.phase, running.version, running.slot);
    if let Some((done, total)) = status.progress.filter(|(_, total)| *total > 0) {
        line.push_str(&format!(", {done} of {total} bytes"));
    }
    if let Some(reason) = &status.reason {
        line.push_str(&format!(", {reason}"));
    }
    line
}

/// What to do about an error.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref() {
        Some(ResetError::Reach(e)) => return Some(hint_to_reach(e)),
        Some(ResetError::Refused(reason)) => return Some(reason.code.hint()),
        Some(ResetError::Restarting) => return Some("run this command again when the device is up"),
        Some(ResetError::NotYet(_)) => return Some("see what is under way with `mbl-updater status`"),
        None => {}
    }
    match error.downcast_ref() {
        Some(ConsentError::Reach(e)) => return Some(hint_to_reach(e)),
        Some(ConsentError::NothingAsked | ConsentError::OtherRelease(_)) => {
            return Some("see what is asked with `mbl-updater consent show`");
        }
        Some(ConsentError::Report(_) | ConsentError::TooLate { .. }) => return Some(SEE_STATUS),
        None => {}
    }
    match error.downcast_ref::<InstallError>()? {
        InstallError::Refused { source, .. } => Some(source.code.hint()),
        InstallError::Reach(e) => Some(hint_to_reach(e)),
        InstallError::Folder(_) => Some("write the folder with `mbl release export`"),
    }
}

/// What to do about an updater that does not hear a command.
const fn hint_to_reach(error: &ReachError) -> &'static str {
    match error {
        ReachError::NotRunning(_) => {
            "start the device, on the board `host` with `mbl-host-board`, and run this command as root"
        }
        ReachError::Link(_) => "run this command as root",
        ReachError::Gone => SEE_STATUS,
    }
}

#[expect(clippy::disallowed_methods, reason = "the one clock of this process")]
fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |since| since.as_secs()))
}

#[expect(clippy::print_stderr, reason = "talk goes to standard error")]
fn say(text: &str) {
    eprintln!("{text}");
}
