//! The loop on a board: a production image that verifies itself, under QEMU, with its identity in a TPM.

mod life;
mod releases;
mod tampering;

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use image_builder::image::{HOST_ADDRESS, Reach};
use testbed::{Machine, Stage};

use crate::{
    report::{Report, say},
    stage::{self, ENDPOINT},
};

/// The board starts several times within some of these waits, without hardware that would help to emulate it.
const PATIENCE: Duration = Duration::from_secs(1200);
/// Where the application listens on the board.
const APP_PORT: u16 = 8080;

/// The board with a service and an operator around it.
struct Site {
    stage: Stage,
    machine: Machine,
}

/// Shows every step in `folder`; stops everything in the end if this is shown `once`.
pub(crate) fn run(folder: &Path, report: &mut Report, once: bool) -> anyhow::Result<()> {
    let mut images = None;
    report.step("a", "images are built from locked packages, and say what is in them", || {
        let (built, evidence) = releases::images()?;
        images = Some(built);
        Ok(evidence)
    })?;
    let images = images.context("there are no images")?;
    let stage = Stage::around(folder, ENDPOINT, PATIENCE, &["--public-host", HOST_ADDRESS])?;
    let machine = Machine::new(&images.first, &folder.join("board"))?;
    let mut site = Site { stage, machine };
    let shown = show(&mut site, &images, report);
    report.tell_where();
    if once {
        let stopped = site.machine.cut_power().and_then(|()| stage::strike(&mut site.stage));
        shown?;
        return stopped;
    }
    shown?;
    leave(site)
}

fn show(site: &mut Site, images: &releases::Images, report: &mut Report) -> anyhow::Result<()> {
    report.step("b", "the service is up", || life::service_up(site))?;
    report.step("c", "the board gets its identity at its serial port; its key stays in its TPM", || {
        life::provision(site)
    })?;
    report.step("d", "the board verifies itself, starts and registers", || life::start(site))?;
    report.step("e", "release 1.0.1 brings an application, which answers", || life::first_release(site))?;
    report
        .step("f", "release 1.1.0 replaces operating system and application", || life::second_release(site, images))?;
    report.step(
        "g",
        "the kernel of release 1.2.0 panics: the board comes back by itself, the rollout stops",
        || life::bad_release(site, images),
    )?;
    report.step("h", "a disk with one flipped bit does not start", || tampering::refused(site, images))
}

impl Site {
    /// Turns the board on, with the ports of the service and that of its application.
    fn power_on(&mut self) -> anyhow::Result<()> {
        let at = self.stage.service.addresses();
        let ports = [at.bootstrap, at.lwm2m, at.artifacts].map(|address| address.port());
        self.machine.reach(ports.map(|port| Reach { port, answered_by: port }).to_vec());
        self.machine.forward(vec![Reach { port: self.stage.port, answered_by: APP_PORT }]);
        self.machine.power_on()
    }
}

/// Tells the person what still runs and how to go on.
fn leave(site: Site) -> anyhow::Result<()> {
    let folder = site.stage.folder.display().to_string();
    let (api, port) = (site.stage.service.addresses().api, site.stage.port);
    let mbl = testbed::programs::program("mbl")?;
    let ids = [site.stage.service.id(), site.machine.id()];
    let kill = ids.into_iter().flatten().map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
    let serial = site.machine.log();
    // Whoever drops them ends them.
    std::mem::forget(site);
    say("\nthe service and the board go on:");
    say(&format!("  REST API          https://{api}/api/v1"));
    say(&format!("  application       http://127.0.0.1:{port}/"));
    say(&format!("  command line      export MBL_CONFIG_DIR={folder}/operator/config; {} device list", mbl.display()));
    say(&format!("  serial port       {}", serial.display()));
    say(&format!("  stop              kill {kill}; rm -r {folder}"));
    Ok(())
}
