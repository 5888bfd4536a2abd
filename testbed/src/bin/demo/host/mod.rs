//! The loop on the board `host`: every step in seconds, on the machine itself, with attacks and sudden deaths.

mod attacker;
mod attacks;
mod crashes;
mod life;
mod releases;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use testbed::Stage;

use self::attacker::Attacker;
use crate::{
    report::{Report, say},
    stage::{self, ENDPOINT, strike},
};

/// How long anything on the device or between device and service may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Shows every step in `folder`; stops everything in the end if this is shown `once`.
pub(crate) fn run(folder: &Path, report: &mut Report, once: bool) -> anyhow::Result<()> {
    let mut stage = Stage::set(folder, ENDPOINT, PATIENCE)?;
    let shown = show(&mut stage, report);
    report.tell_where();
    if once {
        let struck = strike(&mut stage);
        shown?;
        return struck;
    }
    shown?;
    leave(stage)
}

fn show(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    report.step("a", "the service is up", || life::service_up(stage))?;
    report.step("b", "a device gets its identity in the factory", || life::provision(stage))?;
    report.step("c", "the device bootstraps, gets its operational certificate and registers", || life::enrol(stage))?;
    let mut first = None;
    report.step("d", "release 1.0.0 is installed and its application answers", || {
        let (built, evidence) = life::first_release(stage)?;
        first = Some(built);
        Ok(evidence)
    })?;
    let first = first.context("there is no first release")?;
    // Long before anybody notices, the attacker takes a copy of the database.
    Attacker::new(stage.service.data_dir()).take_copy(&attacks::old_copy(stage))?;
    let mut second = None;
    report.step("e", "release 1.1.0 replaces operating system and application", || {
        let (built, evidence) = life::second_release(stage, &first)?;
        second = Some(built);
        Ok(evidence)
    })?;
    let second = second.context("there is no second release")?;
    report.step("f", "release 1.2.0 never becomes ready: the device goes back, the rollout stops", || {
        life::bad_release(stage, &second)
    })?;
    report.step(
        "g",
        "a service that was taken over delivers four bad releases, each refused with its own code",
        || attacks::taken_over_service(stage, &second, &first),
    )?;
    report.step("h", "SIGKILL of the service and of each device process in the middle of an update", || {
        crashes::sudden_deaths(stage)
    })
}

/// Packages and trees that every run can use again.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program")?;
    let target = program.ancestors().nth(2).context("this program lies in no folder of cargo's")?;
    let cache = target.join("demo-cache");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Tells the person what still runs and how to go on.
fn leave(stage: Stage) -> anyhow::Result<()> {
    let folder = stage.folder.display().to_string();
    let (api, port) = (stage.service.addresses().api, stage.port);
    let mbl = testbed::programs::program("mbl")?;
    let (service, board) = stage::leave(stage);
    let kill = [service, board].into_iter().flatten().map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
    say("\nthe service and the device go on:");
    say(&format!("  REST API          https://{api}/api/v1"));
    say(&format!("  application       http://127.0.0.1:{port}/"));
    say(&format!("  command line      export MBL_CONFIG_DIR={folder}/operator/config; {} device list", mbl.display()));
    say(&format!("  token             {folder}/operator/config/contexts.toml"));
    say(&format!("  logs              {folder}/service.log {folder}/device/log"));
    say(&format!("  stop              kill {kill}; rm -r {folder}"));
    Ok(())
}
