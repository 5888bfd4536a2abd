//! The floor in the TPM: what raises it, what does not, and what it keeps from starting.

use testbed::{images::Order, medium::Medium};

use crate::{
    os::{BOOT, DEVELOPMENT, NEWER, boot_record, owners},
    site::{FIRST, Release, Site},
};

/// Of a higher security version than all others here.
const SAFER: Order = Order::fallible("1.2.0", 2);

#[test]
fn os_a_confirmed_release_raises_the_floor_and_nothing_below_it_starts_again() {
    let (first, newer, safer) = (owners(DEVELOPMENT), owners(NEWER), owners(SAFER));
    let mut site = Site::running(&first);
    let rollout = site.roll_out(&Release { raises_floor: true, ..Release::of_os("1.1.0", &newer) });
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");

    // At the floor, the way back is open.
    let rollout = site.roll_out(&Release::of_os(FIRST, &first));
    site.until_rollout(&rollout, "succeeded");
    site.until_runs(FIRST, "a");
    site.until_shell();
    assert_eq!(boot_record(&mut site.machine)["floor"], 1);

    site.arm_fault("agent");
    let raising =
        Release { raises_floor: true, security_version: 2, time_limit: 150, ..Release::of_os("1.2.0", &safer) };
    let rollout = site.roll_out(&raising);
    site.until_rollout(&rollout, "rolled_back");
    site.until_runs(FIRST, "a");
    site.until_shell();
    assert_eq!(boot_record(&mut site.machine)["floor"], 1, "a failed trial has raised the floor");

    site.shell("rm /state/faults/agent && sync");
    let rollout = site.start("1.2.0");
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.2.0", "b");
    let refused = site.start("1.1.0");
    let shown = site.until_rollout(&refused, "failed");
    assert_eq!(shown["devices"][0]["reason"]["code"], "below_security_floor", "{shown}");

    // The older slot is whole and has the owner's signature, but nothing leads to it any more.
    site.machine.cut_power().unwrap();
    let medium = Medium::new(&site.machine.disk()).unwrap();
    let entries = medium.entries().unwrap();
    let newest = entries.iter().max_by_key(|entry| entry.generation).unwrap().to_string();
    let [older] = entries.iter().filter(|entry| !entry.is_bootable()).collect::<Vec<_>>()[..] else {
        panic!("not one of {entries:?} is out of use");
    };
    // Somebody who has the disk lets the loader start it.
    medium.rename(&newest, "aside").unwrap();
    medium.rename(&older.to_string(), &older.confirmed().to_string()).unwrap();
    site.machine.power_on().unwrap();
    site.machine.until_says("refused: security version 1 is below the floor 2", BOOT).unwrap();
    site.machine.until_off(BOOT).unwrap();

    medium.rename("aside", &newest).unwrap();
    site.machine.power_on().unwrap();
    site.until_runs("1.2.0", "b");
}
