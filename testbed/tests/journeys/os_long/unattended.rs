//! What a board does that nobody looks after.

use testbed::medium::Medium;

use crate::{
    os::{BOOT, DEVELOPMENT, owners},
    site::Site,
};

const STARTS: &str = "mbl-init: starting slot a";

#[test]
fn os_a_system_that_ends_in_emergency_mode_restarts_the_machine() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    site.machine.type_line("systemctl emergency").unwrap();
    site.machine.until_says(STARTS, BOOT).unwrap();
    site.until_shell();
}

#[test]
fn os_a_factory_partition_that_was_wiped_does_not_make_the_board_another_device() {
    let mut site = Site::registered(&owners(DEVELOPMENT));
    Medium::new(&site.machine.disk()).unwrap().overwrite("factory", 0, &vec![0; 1 << 20]).unwrap();
    // The kept site did its factory step once.
    let requests = |site: &Site| site.machine.said().matches("CERTIFICATE REQUEST").count();
    let before = requests(&site);
    site.machine.power_on().unwrap();
    site.until_shell();
    site.shell("until systemctl is-failed --quiet mbl-factory-partition.service; do sleep 1; done");
    assert_eq!(
        site.shell("systemctl is-active mbl-factory.service; ls /run/mbl/unprovisioned 2>/dev/null"),
        "inactive"
    );
    assert_eq!(requests(&site), before, "it asks for another identity");
}
