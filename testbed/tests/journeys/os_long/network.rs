//! A network that comes late, goes in the middle of a download, and two wishes at once.

use std::fs;

use testbed::images::Order;

use crate::{
    os::{DEVELOPMENT, NEWER, owners},
    site::{FIRST, Release, Site},
};

#[test]
fn os_a_board_that_starts_without_a_network_registers_when_it_comes() {
    let mut site = Site::registered(&owners(DEVELOPMENT));
    site.machine.power_on().unwrap();
    site.machine.cable(false).unwrap();
    site.until_shell();
    let carrier = site.shell("cat /sys/class/net/e*/carrier; systemctl is-active mbl-agent");
    assert!(carrier.contains('0') && carrier.contains("active"), "{carrier}");
    assert!(!site.is_connected());
    site.machine.cable(true).unwrap();
    site.until_runs(FIRST, "a");
}

#[test]
fn os_a_download_goes_on_where_the_network_left_it() {
    let (mut site, newer) = (Site::registered(&owners(DEVELOPMENT)), owners(NEWER));
    let traffic = tempfile::NamedTempFile::new().unwrap();
    let brought = || fs::metadata(traffic.path()).unwrap().len();
    site.machine.arguments(&["-object", &format!("filter-dump,id=dump,netdev=net,file={}", traffic.path().display())]);
    site.power_on();
    let before = brought();
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until("the download to be under way", || Ok((brought() > before + (1 << 20)).then_some(())));
    site.machine.cable(false).unwrap();
    site.until("the service to miss the board", || Ok((!site.is_connected()).then_some(())));
    site.machine.cable(true).unwrap();
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
}

#[test]
fn os_of_two_updates_at_once_the_newer_wish_is_fulfilled() {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let newest = owners(Order::fallible("1.2.0", 2));
    let mut site = Site::registered(&first);
    site.power_on();
    site.publish(&Release { security_version: 2, ..Release::of_os("1.2.0", &newest) });
    let old = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until_device("the first one to be under way", |shown| shown["device"]["report"]["phase"] == "downloading");
    let new = site.start("1.2.0");
    site.until_rollout(&new, "succeeded");
    site.until_runs("1.2.0", "b");
    let shown = site.mbl(&format!("rollout show {old}"));
    assert_eq!(shown["devices"][0]["reason"]["code"], "superseded", "{shown}");
}
