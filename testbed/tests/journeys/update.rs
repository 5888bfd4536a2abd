//! Updates from one signed release to the next, and what may happen on the way.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use serde_json::Value;
use testbed::{programs::program, until};

use crate::world::{PATIENCE, World, write_os};

/// Bytes of the operating systems here: enough to be caught in the middle.
const OS_BYTES: usize = 12 << 20;

impl World {
    /// Makes the operating system and the application `version` and signs a release of both.
    fn sign_whole(&self, version: &str) {
        let os = format!("os-{version}");
        write_os(&self.stage.at_operator(&os), version, OS_BYTES);
        self.build_app(version, true);
        self.sign(version, Some(&os));
    }

    /// Cuts the power: the board and all its processes are gone at once, nothing is told to end.
    fn cut_power(&mut self) {
        self.stage.board.take().unwrap().kill().unwrap();
    }

    /// Starts the board with a file system of 1 MiB for the updater's state, in a mount namespace of its own. Its folder, seen
    /// from outside.
    fn power_on_cramped(&mut self) -> PathBuf {
        let state = self.stage.device_dir().join("state/updater");
        let script = "mkdir \"$1.full\" && cp -a \"$1/.\" \"$1.full\" && mount -t tmpfs -o size=1m,mode=700 tmpfs \"$1\" && \
                      cp -a \"$1.full/.\" \"$1\" && exec \"$2\" --device-dir \"$3\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&state);
        command.arg(self.stage.device_program("mbl-host-board")).arg(self.stage.device_dir());
        self.power_on_by(command);
        // Another mount namespace is looked into through the process that lives there.
        PathBuf::from(format!("/proc/{}/root{}", self.stage.board.as_ref().unwrap().id(), state.display()))
    }

    /// Whether the system on trial is in its last try; one more cut would, by rule, count as a system that does not start.
    fn in_last_try(&self) -> bool {
        let mut entries = fs::read_dir(self.stage.device_dir().join("esp")).unwrap();
        entries.any(|entry| entry.unwrap().file_name().to_string_lossy().contains("+0-"))
    }

    /// Waits until the device reports that it runs `version` and is connected.
    fn until_runs(&self, version: &str) -> Value {
        self.until_device(&format!("the device to run {version}"), |device| {
            device["device"]["connected"] == true && device["device"]["report"]["running_version"] == version
        })
    }
}

#[test]
fn update_a_board_that_loses_power_again_and_again_on_the_way_ends_in_the_new_release() {
    let mut world = World::new();
    world.sign_whole("1.0.0");
    let rollout = world.start("1.0.0");
    // Each cut falls a little later on the way: while metadata, the system or the application comes, or in the trial.
    for cut in 1..=6_u32 {
        let moment = std::time::Instant::now() + Duration::from_millis(150) * cut;
        until(PATIENCE, "the moment of the cut", || Ok((std::time::Instant::now() >= moment).then_some(()))).unwrap();
        if world.in_last_try() {
            break;
        }
        world.cut_power();
        world.power_on();
    }
    world.until_rollout(&rollout, "succeeded");
    let device = world.until_runs("1.0.0");
    assert_eq!(device["device"]["report"]["slot"], "b", "{device}");
    world.until_answer("hello from 1.0.0");
}

#[test]
fn update_a_device_whose_disk_is_full_says_so_stays_as_it_is_and_updates_once_there_is_room() {
    let mut world = World::new();
    world.sign_whole("1.0.0");
    world.cut_power();
    let state = world.power_on_cramped();
    let kept = fs::read(state.join("state.json")).ok();
    let ballast = state.join("ballast");
    let filled = io::copy(&mut io::repeat(0), &mut File::create(&ballast).unwrap()).unwrap_err();
    assert_eq!(filled.kind(), io::ErrorKind::StorageFull, "{filled}");

    let rollout = world.start("1.0.0");
    let failed = world.until_rollout(&rollout, "failed");
    assert_eq!(failed["devices"][0]["reason"]["code"], "no_room", "{failed}");
    assert_eq!(fs::read(state.join("state.json")).ok(), kept, "nothing is half written");
    world.until_runs("0.9.0");

    fs::remove_file(&ballast).unwrap();
    let again = world.mbl("rollout start 1.0.0 --all");
    world.until_rollout(again["id"].as_str().unwrap(), "succeeded");
    world.until_runs("1.0.0");
}

#[test]
fn update_a_release_on_a_stick_installs_while_the_service_is_gone_and_is_reported_when_it_is_back() {
    let mut world = World::new();
    world.sign_whole("1.0.0");
    world.mbl("release publish release-1.0.0");
    world.mbl("release export release-1.0.0 --out stick");
    world.stage.service.kill().unwrap();
    let stick = world.stage.at_operator("stick");
    let install = |from: &std::path::Path| {
        let mut command = Command::new(program("mbl-updater").unwrap());
        command
            .args(["install", "--device-dir"])
            .arg(world.stage.device_dir())
            .arg("--from")
            .arg(from)
            .output()
            .unwrap()
    };

    // One flipped bit anywhere on the stick is found by the same verification as over the air.
    let bent = world.stage.at_operator("bent");
    assert!(Command::new("cp").arg("-r").args([&stick, &bent]).status().unwrap().success());
    let largest = fs::read_dir(bent.join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[OS_BYTES / 2] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let refused = install(&bent);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("digest_mismatch"), "{refused:?}");

    let installed = install(&stick);
    assert!(installed.status.success(), "{installed:?}");
    world.until_answer("hello from 1.0.0");
    world.stage.service.restart().unwrap();
    world.until_runs("1.0.0");
}
