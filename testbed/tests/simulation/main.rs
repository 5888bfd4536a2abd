//! A fleet in virtual time: the real agents, updaters, loaders and the real service, months in minutes, on one thread and in an order
//! that a seed decides (`docs/decisions/0026-a-month-on-one-thread.md`).
//!
//! `MBL_SIM_SEED` is the first seed (1), `MBL_SIM_SEEDS` how many (10), `MBL_SIM_DAYS` (30) and `MBL_SIM_DEVICES` (200) how much;
//! `MBL_SIM_TRACE` names a file for the trace of one run, and `MBL_SIM_LOG` a level (`info`) of the programs' own logs.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops at the first surprise and says which"
)]

mod account;
mod agent;
mod device;
mod disk;
mod ledger;
mod machine;
mod network;
mod operator;
mod parts;
mod random;
mod scenario;
mod service;
mod sys;
mod tasks;
mod updater;
mod verdict;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use device::Plant;
use ledger::Rule;
use scenario::{Outcome, Settings, World, run};

/// The seed of a run that another test starts in a process of its own.
const ONE: &str = "MBL_SIM_ONE";
/// Runs at a time.
const AT_ONCE: usize = 2;

#[expect(clippy::disallowed_methods, reason = "the settings of this test are variables, as the page about it says")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str, otherwise: u64) -> u64 {
    variable(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn settings(seed: u64, days: u64, devices: u64) -> Settings {
    Settings {
        seed,
        days: number("MBL_SIM_DAYS", days),
        devices: usize::try_from(number("MBL_SIM_DEVICES", devices)).unwrap(),
        plant: None,
        world: None,
        trace: variable("MBL_SIM_TRACE").map(PathBuf::from),
    }
}

/// Runs one seed in a process of its own: what a process has counted before cannot reach into it.
fn start(seed: u64, variables: &[(&str, &str)]) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_small_fleet_keeps_its_promises", "--nocapture"]);
    command.env(ONE, seed.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.envs(variables.iter().copied()).spawn().unwrap()
}

/// Shows the logs of the programs, by the clock of the simulation.
fn log() {
    if let Some(level) = variable("MBL_SIM_LOG") {
        let level: tracing_subscriber::filter::LevelFilter = level.parse().unwrap();
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(std::io::stderr).init();
    }
}

fn holds(Outcome { violations, lines, digest, polls, most_polls, summary }: Outcome) {
    eprintln!("{summary}; {lines} lines, {digest}");
    let violations: Vec<String> = violations.iter().take(20).map(ToString::to_string).collect();
    assert!(violations.is_empty(), "\n{}\n{summary}", violations.join("\n"));
    assert!(
        polls <= most_polls,
        "tasks ran {polls} times for each device, {most_polls} at most: some wake for nothing"
    );
}

#[test]
fn a_small_fleet_keeps_its_promises() {
    match variable(ONE) {
        Some(seed) => {
            log();
            holds(run(settings(seed.parse().unwrap(), 30, 200)))
        }
        None => holds(run(settings(number("MBL_SIM_SEED", 1), 10, 20))),
    }
}

#[test]
fn the_fleet_keeps_its_promises_under_every_seed() {
    let (first, seeds) = (number("MBL_SIM_SEED", 1), number("MBL_SIM_SEEDS", 10));
    let (days, devices) = (number("MBL_SIM_DAYS", 30).to_string(), number("MBL_SIM_DEVICES", 200).to_string());
    let same = [("MBL_SIM_DAYS", days.as_str()), ("MBL_SIM_DEVICES", devices.as_str())];
    let mut waiting = first..first + seeds;
    let mut running: Vec<(u64, std::process::Child)> = Vec::new();
    let mut failures = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(seed) = waiting.next()
        {
            running.push((seed, start(seed, &same)));
        }
        if running.is_empty() {
            break;
        }
        let (seed, child) = running.remove(0);
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        if status.success() {
            eprint!("{said}");
        } else {
            let again = "cargo nextest run -p testbed -E 'binary(simulation) and test(every_seed)' --no-capture";
            failures.push(format!("seed {seed} fails; again: MBL_SIM_SEED={seed} MBL_SIM_SEEDS=1 {again}\n{said}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_run_byte_by_byte() {
    let folder = tempfile::tempdir().unwrap();
    let traces: Vec<PathBuf> = ["one", "two"].iter().map(|name| folder.path().join(name)).collect();
    let run = |trace: &Path| {
        let variables = [("MBL_SIM_DAYS", "12"), ("MBL_SIM_DEVICES", "25"), ("MBL_SIM_TRACE", trace.to_str().unwrap())];
        start(7, &variables)
    };
    for child in traces.iter().map(|trace| run(trace)).collect::<Vec<_>>() {
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    }
    let [one, two] = [&traces[0], &traces[1]].map(|trace| std::fs::read_to_string(trace).unwrap());
    let differs = one.lines().zip(two.lines()).position(|(one, two)| one != two);
    assert!(one.lines().count() > 500, "nearly nothing happened");
    assert!(one == two, "line {differs:?} differs: {:?}", differs.map(|at| (one.lines().nth(at), two.lines().nth(at))));
}

/// A simulation in which something breaks a rule; the rules that were broken.
fn broken(plant: Option<Plant>, world: Option<World>) -> Vec<Rule> {
    log();
    let mut settings = settings(3, 12, 12);
    (settings.plant, settings.world) = (plant, world);
    let outcome = run(settings);
    let broken = outcome.violations.iter().map(|violation| violation.rule).collect();
    eprintln!("{}: {:?}", outcome.summary, outcome.violations);
    broken
}

#[test]
fn a_device_that_forgets_what_it_took_is_caught() {
    assert!(broken(Some(Plant::ForgetsOrders), None).contains(&Rule::NoLostUpdate));
}

#[test]
fn a_device_that_installs_twice_is_caught() {
    assert!(broken(Some(Plant::InstallsTwice), None).contains(&Rule::NoDoubleInstallation));
}

#[test]
fn a_device_that_never_gives_up_is_caught() {
    assert!(broken(Some(Plant::NeverGivesUp), None).contains(&Rule::CeilingOfTries));
}

#[test]
fn a_device_that_goes_below_its_floor_is_caught() {
    assert!(broken(Some(Plant::ForgetsFloor), None).contains(&Rule::NoVersionBelowFloor));
}

#[test]
fn a_device_that_does_not_start_is_caught() {
    assert!(broken(Some(Plant::LosesEntries), None).contains(&Rule::AlwaysBoots));
}

#[test]
fn a_service_that_looks_at_no_rollout_is_caught() {
    assert!(broken(None, Some(World::NoReconciler)).contains(&Rule::NoStuckRollout));
}

#[test]
fn a_service_that_takes_a_device_for_another_is_caught() {
    assert!(broken(None, Some(World::TakenForAnother)).contains(&Rule::NothingForeign));
}
