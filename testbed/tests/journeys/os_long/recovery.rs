//! What is left of a board whose key store is dead: its disk opens with the account's recovery key.

use std::{path::Path, process::Command};

use testbed::medium::Medium;

use crate::{
    os::{DEVELOPMENT, owners},
    site::{ENDPOINT, Site},
};

/// Whether `cryptsetup` opens the volume in a file with the key in another.
fn opens(volume: &Path, key: &Path) -> bool {
    let mut command = Command::new("/usr/sbin/cryptsetup");
    command.args(["open", "--test-passphrase", "--type", "luks2", "--key-file"]).arg(key).arg(volume);
    command.status().unwrap().success()
}

#[test]
fn os_a_copy_of_the_state_opens_with_the_recovery_key_that_the_board_escrowed_and_anew_after_a_reset() {
    let mut site = Site::registered(&owners(DEVELOPMENT));
    let recover = |site: &Site, out: &str| {
        let shown = site.mbl(&format!("device recovery-key {ENDPOINT} --key keys/recovery.pem --out {out}"));
        let copy = Medium::new(&site.machine.disk()).unwrap().take("state").unwrap();
        assert!(opens(&copy, &site.at_desk(out)), "{shown}");
        (shown["volume"].as_str().unwrap().to_owned(), copy)
    };
    // If the power fails right after the factory step, the TPM hears of its document in the next start, and the one after adds the key.
    site.power_on();
    site.shut_down();
    let (first, copy) = recover(&site, "first.key");
    assert!(!opens(&copy, &site.at_desk("passphrase")), "another key opens nothing");

    // A later start adds no other key, and the system has nothing but the sealed one.
    site.power_on();
    let sealed = site.shell("cat /run/mbl/recovery.json");
    assert!(sealed.contains(&first), "{sealed}");
    let left = site.shell("ls /run/mbl/*.key /state/recovery.pending.json");
    assert_eq!(left.matches("No such file").count(), 2, "{left}");

    // A new state has a key of its own.
    site.mbl(&format!("device factory-reset {ENDPOINT}"));
    site.until("the key of the new state", || {
        let shown = site.mbl(&format!("device recovery-key {ENDPOINT} --key keys/recovery.pem --out next.key"));
        Ok((shown["volume"] != first.as_str()).then_some(()))
    });
    site.until_shell();
    site.shut_down();
    let (second, copy) = recover(&site, "second.key");
    assert_ne!(second, first);
    assert!(!opens(&copy, &site.at_desk("first.key")), "the old key opens nothing");
}
