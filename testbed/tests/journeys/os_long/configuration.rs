//! Settings of a board that come with a release: in force without a restart, and back with the release before. `/etc` is never written.

use std::fs;

use crate::{
    os::{DEVELOPMENT, failed_units, owners},
    site::Site,
};

/// An address that QEMU's network leaves to the guest.
const ADDRESS: &str = "10.0.2.77";

/// Signs and publishes a release of settings alone; its rollout.
fn settings(site: &Site, version: &str, document: &str, time_limit: u32) -> String {
    fs::write(site.at_desk("system.json"), document).unwrap();
    let recipe = format!(
        "version = \"{version}\"\nsecurity_version = 1\nhealth = {{ time_limit_s = {time_limit}, no_contact_limit_s = {time_limit} }}\n\
         [[configuration]]\nname = \"system\"\nversion = \"{version}\"\nfile = \"system.json\"\n"
    );
    fs::write(site.at_desk("settings.toml"), recipe).unwrap();
    site.mbl(&format!("release create --from settings.toml --keys keys --out release-{version}"));
    site.mbl(&format!("release sign release-{version} --keys keys"));
    site.mbl(&format!("release publish release-{version}"));
    site.start(version)
}

/// What the board goes by.
struct Facts {
    hostname: String,
    sources: String,
    journal: String,
    connection: String,
    addresses: String,
    boot: String,
}

fn facts(site: &mut Site, interface: &str) -> Facts {
    Facts {
        hostname: site.shell("cat /proc/sys/kernel/hostname"),
        sources: site.shell("chronyc -c -n sources"),
        journal: site.shell("journalctl -b -u systemd-journald -o cat | grep -F 'max ' | tail -n 1"),
        connection: site.shell(&format!("nmcli -g GENERAL.CONNECTION device show {interface}")),
        addresses: site.shell(&format!("nmcli -g IP4.ADDRESS device show {interface}")),
        boot: site.shell("cat /proc/sys/kernel/random/boot_id"),
    }
}

#[test]
fn os_settings_of_a_release_are_in_force_without_a_restart_and_the_one_before_brings_the_former_back() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    let interface = site.shell("cd /sys/class/net && echo e*").trim().to_owned();
    let before = facts(&mut site, &interface);
    assert_eq!((before.hostname.trim(), before.connection.trim()), ("gate-1", "mbl-wired"));
    let etc =
        site.shell("touch /etc/probe 2>&1; mount -o remount,rw / 2>&1; touch /etc/probe 2>&1; ls /etc/probe 2>&1");
    assert!(etc.contains("Read-only file system") && etc.contains("No such file"), "{etc}");

    let document = format!(
        r#"{{ "format": 1, "hostname": "kiln-7", "time_servers": ["10.0.2.100"], "log_level": "debug", "journal_mib": 24,
             "network": [{{ "kind": "ethernet", "interface": "{interface}",
               "ipv4": {{ "addresses": ["{ADDRESS}/24"], "gateway": "10.0.2.2" }} }}] }}"#
    );
    let rollout = settings(&site, "1.0.1", &document, 600);
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.0.1", "a");
    let after = facts(&mut site, &interface);
    assert_eq!((after.hostname.trim(), after.boot.as_str()), ("kiln-7", before.boot.as_str()));
    assert!(after.sources.contains(",10.0.2.100,") && after.sources.trim().lines().count() == 1, "{}", after.sources);
    assert!(
        after.journal.contains("max 24M") && before.journal.contains("max 32M"),
        "{}{}",
        before.journal,
        after.journal
    );
    assert_eq!(after.connection.trim(), format!("mbl-on-{interface}"));
    assert_eq!(after.addresses.trim(), format!("{ADDRESS}/24"));
    let level = site.shell("tr '\\0' '\\n' < /proc/$(pgrep -x mbl-agent)/environ | grep MBL_LOG_LEVEL");
    assert_eq!(level.trim(), "MBL_LOG_LEVEL=debug");
    assert_eq!(failed_units(&mut site.machine, ""), "");

    // Settings that cut the board off undo themselves.
    let cut_off = document.replace(ADDRESS, "192.0.2.7").replace("10.0.2.2", "192.0.2.1");
    let rollout = settings(&site, "1.0.2", &cut_off, 60);
    // The board is back before the service has missed it.
    site.until_device("the settings to be taken back", |shown| {
        shown["device"]["report"]["reason_code"] == "no_contact"
    });
    site.until_runs("1.0.1", "a");
    // Without contact nothing is said about a release, so it would be tried again.
    let shown = site.mbl(&format!("rollout abort {rollout}"));
    assert_ne!(shown["devices"][0]["state"], "succeeded", "{shown}");
    let returned = facts(&mut site, &interface);
    assert_eq!((returned.addresses, returned.boot), (after.addresses, before.boot.clone()));

    // Settings are in force before anything of the system reads them.
    site.shut_down();
    site.machine.power_on().unwrap();
    site.until_runs("1.0.1", "a");
    site.until_shell();
    let booted = facts(&mut site, &interface);
    assert_eq!((booted.hostname.as_str(), booted.connection), (after.hostname.as_str(), after.connection));
    let limits = site.shell("journalctl -b -u systemd-journald -o cat | grep -F 'max '");
    assert!(limits.contains("max 24M") && !limits.contains("max 32M"), "{limits}");
    assert_ne!(booted.boot, before.boot);

    let rollout = settings(&site, "1.0.3", r#"{ "format": 1 }"#, 600);
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.0.3", "a");
    let last = facts(&mut site, &interface);
    assert_eq!((last.hostname, last.connection), (before.hostname, before.connection));
    assert!(
        !last.sources.contains("10.0.2.100") && last.journal.contains("max 32M"),
        "{} {}",
        last.sources,
        last.journal
    );
}
