//! A confirmed system that does not come up any more.

use std::fs;

use crate::{
    os::{BOOT, DEVELOPMENT, NEWER, owners},
    site::{FIRST, Release, Site},
};

/// What a system says that was confirmed and starts.
const STARTS: &str = "mbl-init: starting slot b";
/// In the root, in a block that a start need not read.
const IN_ROOT: u64 = 20 << 20;

#[test]
fn os_a_confirmed_system_that_does_not_come_up_any_more_gives_way_to_the_other_slot_and_is_installed_again() {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let mut site = Site::running(&first);
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
    site.until_shell();

    // Not to a system that has been damaged while nobody read it.
    let root = fs::read(first.join("parts/root.erofs")).unwrap();
    let bend = |site: &Site| site.machine.flip_bit_in(&root, IN_ROOT).unwrap();
    site.shell("systemctl stop mbl-updater.service && echo mbl-2-b.efi 20 >/state/mbl/starts && sync");
    site.machine.cut_power().unwrap();
    bend(&site);
    site.machine.power_on().unwrap();
    site.machine.until_says("mbl-init: slot a cannot be given way to", BOOT).unwrap();
    site.until_shell();
    site.shell("systemctl stop mbl-updater.service");
    let before = site.machine.said().matches(STARTS).count();

    // As if a block that every start reads had been damaged since. Without its service the board installs nothing meanwhile.
    site.arm_fault("panic");
    site.machine.cut_power().unwrap();
    bend(&site);
    site.service.stop().unwrap();
    site.machine.power_on().unwrap();
    site.machine.until_says("mbl-2-b.efi gives way to mbl-1-a.efi", BOOT * 6).unwrap();
    assert_eq!(site.machine.said().matches(STARTS).count(), before + 5, "five starts are enough");
    site.machine.until_says("mbl-init: starting slot a", BOOT).unwrap();
    site.until_shell();
    site.shell("rm /state/faults/panic && sync");

    // The service still wishes for what was lost.
    site.service.restart().unwrap();
    site.until_runs(FIRST, "a");
    site.until_runs("1.1.0", "b");
}
