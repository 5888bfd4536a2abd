//! What ends a system that hangs on a board that has hardware for it.

use std::time::Duration;

use crate::{
    os::{self, BOOT, DEVELOPMENT, STARTED, until_shell},
    os_tee,
};

/// The initrd arms the watchdog for 120 seconds.
const BITES: Duration = Duration::from_secs(600);

#[test]
fn os_tee_a_system_that_hangs_is_ended_by_the_hardware_watchdog() {
    let (build, folder) = (os_tee::owners(DEVELOPMENT), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    machine.power_on().unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
    until_shell(&mut machine);
    // The service manager freezes, and with it whoever feeds the watchdog. The kernel lives on.
    machine.type_line("kill -SEGV 1").unwrap();
    machine.until_says("BL1: Booting BL31", BITES).unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
}
