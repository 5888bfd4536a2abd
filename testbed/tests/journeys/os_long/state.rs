//! What happens to the state partition: full, lost, overwritten. The board stays part of its fleet.

use testbed::medium::Medium;

use crate::{
    os::{DEVELOPMENT, NEWER, boot_record, owners},
    site::{FIRST, Release, Site},
};

/// LUKS2 keeps its two headers in front of the data, which begins here.
const DATA_AT: u64 = 16 << 20;

#[test]
fn os_a_board_whose_state_is_full_says_so_and_updates_once_there_is_room() {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let mut site = Site::running(&first);
    // Quickly first, then to the last byte; and again and again, for the journal gives room back when it sees none.
    site.shell("fallocate -l $(df --output=avail -B1 /state | tail -1) /state/ballast");
    let filled = site.shell("cat /dev/zero > /state/more; sync; df /state");
    assert!(filled.contains("No space left on device") && filled.contains("100%"), "{filled}");
    site.machine.type_line("(while sleep 1; do cat /dev/zero >> /state/more; done) > /dev/null 2>&1 &").unwrap();
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    let failed = site.until_rollout(&rollout, "failed");
    assert_eq!(failed["devices"][0]["reason"]["code"], "no_room", "{failed}");

    // It starts like that, too.
    site.machine.cut_power().unwrap();
    site.machine.power_on().unwrap();
    site.until_runs(FIRST, "a");
    site.until_shell();
    assert_eq!(boot_record(&mut site.machine)["state"], "open");
    site.shell("rm /state/ballast /state/more && sync");
    let again = site.start("1.1.0");
    site.until_rollout(&again, "succeeded");
    site.until_runs("1.1.0", "b");
}

#[test]
fn os_a_board_that_loses_its_state_or_cannot_read_it_comes_back_with_its_identity() {
    let mut site = Site::registered(&owners(DEVELOPMENT));
    let medium = Medium::new(&site.machine.disk()).unwrap();
    medium.overwrite("state", 0, &[0; 32 << 20]).unwrap();
    site.power_on();
    assert_eq!(boot_record(&mut site.machine)["state"], "created");
    site.machine.cut_power().unwrap();

    medium.overwrite("state", DATA_AT, &[0x5a; 16 << 20]).unwrap();
    site.power_on();
    let record = boot_record(&mut site.machine);
    assert_eq!(record["state"], "degraded", "{record}");
    assert!(record["reason"].is_string(), "{record}");
}
