//! Firmware as part of a release, on the reference board with a trusted execution environment under QEMU: it goes into the slot that did
//! not start, is tried with the system, and is kept or left with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use testbed::images::{self, Order, Signer};

use crate::{
    os::{BOOT, DEVELOPMENT},
    os_tee::{BL1_REFUSES, BOARD, owners},
    os_tee_firmware::CHOSEN,
    site::{FIRST, Release, Site},
};

/// The name of the index with firmware in the component of a build.
const INDEX: &str = "signed/os/os-with-firmware.json";

fn newer() -> Order {
    Order { version: "1.1.0", ..DEVELOPMENT }
}

fn index(build: &Path) -> Value {
    serde_json::from_slice(&fs::read(build.join(INDEX)).unwrap()).unwrap()
}

fn is_firmware(section: &Value) -> bool {
    section["name"] == "firmware"
}

fn firmware(index: &Value) -> Value {
    index["sections"].as_array().unwrap().iter().find(|section| is_firmware(section)).unwrap().clone()
}

/// What the service shows of the board's firmware: digest and slot.
fn shown(device: &Value) -> (String, String) {
    let component = device["components"].as_array().unwrap().iter().find(|component| component["name"] == "firmware");
    let text = |key: &str| component.unwrap()[key].as_str().unwrap().to_owned();
    (text("digest"), text("state"))
}

/// The component of `build` in the folder `at`, with the firmware of another build in the place of its own.
fn with_firmware_of(build: &Path, other: &Path, at: &Path) -> PathBuf {
    let mut changed = index(build);
    let strange = firmware(&index(other));
    let signed = at.join("signed");
    fs::create_dir_all(&signed).unwrap();
    images::copy(&[build.join("signed/os")], &signed).unwrap();
    for digest in [&strange["digest"], &strange["blocks"]["digest"]] {
        let name = Path::new("signed/os/artifacts").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
        fs::copy(other.join(&name), at.join(&name)).unwrap();
    }
    for section in changed["sections"].as_array_mut().unwrap() {
        if is_firmware(section) {
            *section = strange.clone();
        }
    }
    fs::write(at.join(INDEX), serde_json::to_vec(&changed).unwrap()).unwrap();
    at.to_owned()
}

#[test]
fn os_tee_a_release_with_firmware_is_kept_with_the_system_though_power_fails_on_trial_and_the_service_shows_it() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    assert_eq!(shown(&site.until_runs(FIRST, "a")).1, "slot_a");
    let build = owners(newer());
    let rollout = site.roll_out(&Release { with_firmware: true, ..Release::of_os("1.1.0", &build) });
    site.machine.until_says("Firmware slot b, on trial", BOOT * 3).unwrap();
    site.machine.cut_power().unwrap();
    site.machine.power_on().unwrap();
    site.until_rollout(&rollout, "succeeded");
    let digest = firmware(&index(&build))["digest"].as_str().unwrap().to_owned();
    assert_eq!(shown(&site.until_runs("1.1.0", "b")), (digest, "slot_b".to_owned()));
    site.machine.cut_power().unwrap();
    site.machine.power_on().unwrap();
    site.machine.until_says(&format!("{CHOSEN}b\n"), BOOT).unwrap();
}

#[test]
fn os_tee_firmware_of_a_release_that_a_stranger_signed_uses_up_its_tries_and_the_board_comes_back_with_the_old_one() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    let before = shown(&site.until_runs(FIRST, "a"));
    let stranger = images::image(newer().on(BOARD), Signer::Stranger).unwrap();
    let build = with_firmware_of(&owners(newer()), &stranger, &site.at_desk("strange"));
    let rollout = site.roll_out(&Release { with_firmware: true, ..Release::of_os("1.1.0", &build) });
    for _ in 0..3 {
        site.machine.until_says("Firmware slot b, on trial", BOOT * 3).unwrap();
        site.machine.until_says(BL1_REFUSES, BOOT).unwrap();
    }
    let ended = site.until_rollout(&rollout, "rolled_back");
    assert!(ended.to_string().contains("boot_failed"), "{ended}");
    assert_eq!(shown(&site.until_runs(FIRST, "a")), before);
}
