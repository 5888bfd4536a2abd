//! The operating system on the reference board with a trusted execution environment, under QEMU: each stage from the boot ROM to the
//! root file system starts what the owner signed and nothing else.

use std::{fs, path::PathBuf};

use image_builder::image::{FIRMWARE_PACKAGE, FIRMWARE_ROM};
use testbed::{
    Machine,
    images::{self, Order, Signer},
};

use crate::os::{
    self, ANSWER, BOOT, DEVELOPMENT, PRODUCTION, REFUSED, STARTED, bent_disk, refuses, says_on, until_shell,
};

pub(crate) const BOARD: &str = "qemu-arm64";

/// What BL1 and BL2 say when they refuse what comes next.
pub(crate) const BL1_REFUSES: &str = "Failed to load BL2 firmware";
pub(crate) const BL2_REFUSES: &str = "BL2: Failed to load image id";

/// The build that the owner of the boards signed.
pub(crate) fn owners(order: Order) -> PathBuf {
    images::image(order.on(BOARD), Signer::Owner).unwrap()
}

/// One flipped bit of the part `name` in the firmware image package.
fn bent_firmware(name: &'static str, offset: usize, refusal: &str) {
    let build = owners(PRODUCTION);
    let content = fs::read(build.join("parts").join(name)).unwrap();
    refuses(&build, |machine| machine.flip_bit_in_flash(&content, offset).unwrap(), &[refusal]);
}

#[test]
fn os_tee_a_board_starts_through_the_trusted_world_with_the_verified_device_tree() {
    let (build, folder) = (owners(DEVELOPMENT), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    machine.power_on().unwrap();
    machine.until_says("BL1: Booting BL31", BOOT).unwrap();
    machine.until_says("BL31: Initializing BL32", BOOT).unwrap();
    let loader = machine.until_says("BdsDxe: starting", BOOT).unwrap();
    assert!(loader.contains("systemd-boot") && loader.contains("Fv("), "the loader comes with the firmware: {loader}");
    assert!(machine.until_says(STARTED, BOOT).unwrap().contains("slot a"));
    until_shell(&mut machine);
    let model = machine.shell("cat /proc/device-tree/model; echo", ANSWER).unwrap();
    assert!(model.contains("MBL qemu-arm64"), "the tree is the board's, not the emulator's: {model}");
    let secure = machine.shell("od -An -t u1 /sys/firmware/efi/efivars/SecureBoot-*", ANSWER).unwrap();
    assert!(says_on(&secure), "Secure Boot is on: {secure}");
    let tee = machine.shell("ls /dev/tee0 /dev/teepriv0 /dev/watchdog0", ANSWER).unwrap();
    assert!(!tee.contains("No such file"), "{tee}");
}

#[test]
fn os_tee_what_the_system_writes_into_the_firmwares_variables_is_gone_after_a_restart() {
    let (build, folder) = (owners(DEVELOPMENT), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    let variable = "/sys/firmware/efi/efivars/Note-3d2b8a2e-1f0c-4c7e-9a56-6d626c6e6f74";
    machine.power_on().unwrap();
    until_shell(&mut machine);
    // Non-volatile, for boot and run time.
    let written = format!(
        "mount -o remount,rw /sys/firmware/efi/efivars; printf '\\007\\000\\000\\000x' > {variable} && echo holds-$(tail -c 1 {variable})"
    );
    let said = machine.shell(&written, ANSWER).unwrap();
    assert!(said.contains("holds-x"), "{said}");
    machine.cut_power().unwrap();
    machine.power_on().unwrap();
    until_shell(&mut machine);
    let read = machine.shell(&format!("cat {variable}"), ANSWER).unwrap();
    assert!(read.contains("No such file"), "{read}");
    let secure = machine.shell("od -An -t u1 /sys/firmware/efi/efivars/SecureBoot-*", ANSWER).unwrap();
    assert!(says_on(&secure), "Secure Boot is on: {secure}");
}

#[test]
fn os_tee_trusted_boot_firmware_with_one_flipped_bit_is_refused_by_the_boot_rom() {
    bent_firmware("bl2.bin", 30_000, BL1_REFUSES);
}

#[test]
fn os_tee_a_device_tree_with_one_flipped_bit_is_refused() {
    bent_firmware("board.dtb", 2_000, BL2_REFUSES);
}

#[test]
fn os_tee_a_secure_monitor_with_one_flipped_bit_is_refused() {
    bent_firmware("bl31.bin", 20_000, BL2_REFUSES);
}

#[test]
fn os_tee_op_tee_with_one_flipped_bit_is_refused() {
    bent_firmware("tee-pager.bin", 300_000, BL2_REFUSES);
}

#[test]
fn os_tee_uefi_firmware_with_one_flipped_bit_is_refused() {
    bent_firmware("uefi.fd", 500_000, BL2_REFUSES);
}

#[test]
fn os_tee_secure_boot_keys_with_one_flipped_bit_are_refused() {
    // Behind the headers of the store in the last 64 KiB: the first variable.
    bent_firmware("uefi.fd", (2 << 20) - (64 << 10) + 200, BL2_REFUSES);
}

#[test]
fn os_tee_a_kernel_image_with_one_flipped_bit_is_refused_by_the_loader() {
    bent_disk(&owners(PRODUCTION), "signed/uki.efi", 20_000_000, REFUSED);
}

#[test]
fn os_tee_a_root_file_system_with_one_flipped_bit_stops_the_kernel() {
    bent_disk(&owners(PRODUCTION), "parts/root.erofs", 1_100, &["dm-verity device corrupted"]);
}

#[test]
fn os_tee_a_hash_tree_with_one_flipped_bit_leads_to_no_slot() {
    bent_disk(&owners(PRODUCTION), "parts/root.verity", 4_096 + 40, &["no slot has the root hash"]);
}

#[test]
fn os_tee_firmware_that_a_stranger_signed_is_refused_by_the_boot_rom() {
    let stranger = images::image(PRODUCTION.on(BOARD), Signer::Stranger).unwrap();
    refuses(&owners(PRODUCTION), |machine| machine.flash_from(&stranger, FIRMWARE_PACKAGE).unwrap(), &[BL1_REFUSES]);
}

#[test]
fn os_tee_a_system_that_a_stranger_signed_is_refused_by_the_firmware() {
    let (owner, stranger) = (owners(PRODUCTION), images::image(PRODUCTION.on(BOARD), Signer::Stranger).unwrap());
    let bend = |machine: &Machine| {
        for flash in [FIRMWARE_ROM, FIRMWARE_PACKAGE] {
            machine.flash_from(&owner, flash).unwrap();
        }
    };
    refuses(&stranger, bend, REFUSED);
}
