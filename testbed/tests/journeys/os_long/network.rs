//! A network that comes late, goes in the middle of a download, and two wishes at once.

use std::{fs, path::Path};

use protocol_types::socket::MAX_FETCH;
use serde_json::Value;
use testbed::images::Order;

use crate::{
    os::{DEVELOPMENT, NEWER, owners},
    site::{FIRST, Release, Site},
};

/// Bytes of a block of the operating system, and of its digest in the list.
const BLOCK: usize = 4096;
const DIGEST: usize = 32;

#[test]
fn os_a_board_that_starts_without_a_network_registers_when_it_comes() {
    let mut site = Site::registered(&owners(DEVELOPMENT));
    site.machine.power_on().unwrap();
    site.machine.cable(false).unwrap();
    site.until_shell();
    let seen = site.shell("cat /sys/class/net/e*/carrier; pgrep -x mbl-agent");
    assert!(seen.lines().next() == Some("0") && seen.lines().count() == 2, "no agent without a cable: {seen}");
    assert!(!site.is_connected());
    site.machine.cable(true).unwrap();
    site.until_runs(FIRST, "a");
}

/// Bytes that a board with the system `old` must ask for to get `new`: the block lists, and each block that differs from the one in its
/// place.
fn needed(old: &Path, new: &Path) -> u64 {
    let sections = |build: &Path| {
        let folder = build.join("signed/os");
        let index: Value = serde_json::from_slice(&fs::read(folder.join("os.json")).unwrap()).unwrap();
        let list = |section: &Value| {
            let digest = section["blocks"]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            fs::read(folder.join("artifacts").join(digest)).unwrap()
        };
        index["sections"].as_array().unwrap().iter().map(list).collect::<Vec<_>>()
    };
    let differ = |(old, new): (Vec<u8>, Vec<u8>)| {
        let (old, new) = (old.chunks(DIGEST), new.chunks(DIGEST));
        let blocks =
            new.clone().zip(old.map(Some).chain(std::iter::repeat(None))).filter(|(new, old)| Some(*new) != *old);
        (new.len() * DIGEST + blocks.count() * BLOCK) as u64
    };
    sections(old).into_iter().zip(sections(new)).map(differ).sum()
}

#[test]
fn os_a_download_goes_on_where_the_network_left_it() {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let traffic = tempfile::NamedTempFile::new().unwrap();
    let brought = || fs::metadata(traffic.path()).unwrap().len();
    let dump = format!("filter-dump,id=dump,netdev=net,file={}", traffic.path().display());
    let site = Site::running_with(&first, &["-object", &dump]);
    let (before, needed) = (brought(), needed(&first, &newer));
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until("most of the download", || Ok((brought() > before + needed * 6 / 10).then_some(())));
    site.machine.cable(false).unwrap();
    site.until("the service to miss the board", || Ok((!site.is_connected()).then_some(())));
    site.machine.cable(true).unwrap();
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
    // Headers of packets and of TLS, and what else is said. From the beginning it would have been at least 1.6 times as much.
    let all = brought() - before;
    assert!(all < (needed + MAX_FETCH as u64) * 12 / 10 + (1 << 20), "{all} bytes came for {needed}");
}

#[test]
fn os_of_two_updates_at_once_the_newer_wish_is_fulfilled() {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let newest = owners(Order::fallible("1.2.0", 2));
    let site = Site::running(&first);
    site.publish(&Release { security_version: 2, ..Release::of_os("1.2.0", &newest) });
    let old = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until_device("the first one to be under way", |shown| shown["device"]["report"]["phase"] == "downloading");
    let new = site.start("1.2.0");
    site.until_rollout(&new, "succeeded");
    site.until_runs("1.2.0", "b");
    let shown = site.mbl(&format!("rollout show {old}"));
    assert_eq!(shown["devices"][0]["reason"]["code"], "superseded", "{shown}");
}
