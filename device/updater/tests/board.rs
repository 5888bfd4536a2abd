//! The real programs on a real device folder: updates, returns, kills and power cuts.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[expect(dead_code, reason = "the tests of real boards use more of it")]
mod support;

use std::{fs, time::Duration};

use protocol_types::{Phase, ReasonCode, SecurityVersion, Slot};
use support::{
    account::{Contents, image},
    bench::{Bench, until},
    peers::pause,
};

fn old_image() -> Vec<u8> {
    image(300, &[], 0)
}

fn new_image() -> Vec<u8> {
    image(400, &[3, 100, 101, 102, 250], 9)
}

fn new_release() -> Contents {
    Contents { application: Some("{\"manifests\":[]}"), ..Contents::new("1.1.0", new_image()) }
}

#[test]
fn a_release_is_installed_tried_and_kept() {
    let mut bench = Bench::new(&old_image());
    bench.power_on();
    let (_, digest) = bench.want(&new_release());
    let status = bench.ends(digest, 60);
    assert_eq!(status.phase, Phase::Succeeded, "{status:?}");
    assert_eq!((status.running.os_version.as_str(), status.running.slot), ("1.1.0", Slot::B));
    assert_eq!(status.running.digest, Some(digest));
    assert_eq!(bench.entries(), ["mbl-1-a.efi", "mbl-2-b.efi"]);
    assert!(bench.disk_holds(&new_image()) && bench.disk_holds(&old_image()));
    assert_eq!(bench.status().unwrap(), status);
    let phases: Vec<_> = bench.world.lock().unwrap().statuses.iter().map(|status| status.phase).collect();
    for phase in [Phase::Downloading, Phase::Verifying, Phase::Installing, Phase::Trial, Phase::Succeeded] {
        assert!(phases.contains(&phase), "{phase} was never reported: {phases:?}");
    }
    let traffic: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.device().join("state/updater/traffic.json")).unwrap()).unwrap();
    let root = new_image().len() as u64;
    assert_eq!(traffic["written"].as_u64().unwrap(), traffic["image"].as_u64().unwrap(), "each byte once");
    assert!(traffic["fetched"].as_u64().unwrap() < root / 2, "the running slot had most of it: {traffic}");
}

#[test]
fn a_release_whose_application_is_not_ready_is_left_again() {
    let mut bench = Bench::new(&old_image());
    bench.power_on();
    let contents = Contents {
        health: protocol_release::document::Health { time_limit_s: 2, no_contact_limit_s: 5 },
        ..new_release()
    };
    let (path, digest) = bench.world.lock().unwrap().account.publish(&contents);
    {
        let mut world = bench.world.lock().unwrap();
        world.sick = Some(digest);
        world.want((path, digest));
    }
    let status = bench.ends(digest, 60);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::ApplicationNotReady));
    assert_eq!((status.running.slot, status.running.version.to_string().as_str()), (Slot::A, "1.0.0"));
    assert!(bench.log("board.log").contains("mbl-2-b+2-1.efi"), "it was tried");
}

#[test]
fn an_updater_that_is_killed_again_and_again_still_comes_to_the_end() {
    let mut bench = Bench::new(&old_image());
    bench.world.lock().unwrap().slowness = Duration::from_millis(20);
    bench.power_on();
    let (_, digest) = bench.want(&Contents::new("1.1.0", image(500, &(0..500).collect::<Vec<_>>(), 3)));
    for kill in 1..=4 {
        let before = until("the updater runs", Duration::from_secs(20), || bench.pid("updater"));
        until("more blocks were asked for", Duration::from_secs(20), || {
            (bench.world.lock().unwrap().pieces >= 2 * kill).then_some(())
        });
        bench.kill("updater");
        until("the updater runs anew", Duration::from_secs(20), || bench.pid("updater").filter(|pid| *pid != before));
    }
    let status = bench.ends(digest, 60);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::B), "{status:?}");
}

#[test]
fn a_board_that_loses_power_again_and_again_still_comes_to_the_end() {
    let mut bench = Bench::new(&old_image());
    bench.world.lock().unwrap().slowness = Duration::from_millis(5);
    let contents = Contents { raises_floor: true, security_version: 4, ..new_release() };
    let (_, digest) = bench.want(&contents);
    for cut in 0..6u64 {
        bench.power_on();
        until("the updater runs", Duration::from_secs(20), || bench.pid("updater"));
        let pids = ["updater", "apps", "agent"].map(|role| bench.pid(role));
        pause(Duration::from_millis(100 + cut * 150));
        bench.power_off();
        for pid in pids.into_iter().flatten() {
            until("no process outlives its board", Duration::from_secs(5), || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                (stat.is_empty() || stat.contains(") Z ")).then_some(())
            });
        }
    }
    bench.power_on();
    let status = bench.ends(digest, 60);
    // Three cuts during one trial are a reason to go back, with the old system untouched.
    match status.phase {
        Phase::Succeeded => assert_eq!(status.floor, SecurityVersion(4)),
        _ => assert_eq!(status.reason.unwrap().code, ReasonCode::BootFailed),
    }
}

#[test]
fn a_new_system_in_which_the_updater_crashes_is_left_after_its_tries() {
    let mut bench = Bench::new(&old_image());
    let cmdline = bench.device().join("run/cmdline");
    let real = support::bench::UPDATER;
    let script = format!("grep -q mbl.slot=b {} && exit 1\nexec {real} \"$@\"", cmdline.display());
    bench.set_updater(bench.script("crashes-in-b", &script));
    bench.power_on();
    let (_, digest) = bench.want(&new_release());
    let status = bench.ends(digest, 120);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::BootFailed));
    assert_eq!(bench.entries(), ["mbl-1-a.efi", "mbl-2-b+0-3.efi"]);
}

#[test]
fn a_process_that_is_killed_is_started_again() {
    let mut bench = Bench::new(&old_image());
    bench.power_on();
    for role in ["updater", "apps", "agent"] {
        let before = until("the process runs", Duration::from_secs(20), || bench.pid(role));
        bench.kill(role);
        until("another one runs", Duration::from_secs(20), || bench.pid(role).filter(|pid| *pid != before));
    }
}

#[test]
fn a_board_that_is_asked_to_stop_leaves_nothing_running() {
    let mut bench = Bench::new(&old_image());
    bench.power_on();
    let pids =
        ["updater", "apps", "agent"].map(|role| until("the process runs", Duration::from_secs(20), || bench.pid(role)));
    let status = bench.stop();
    assert!(status.success(), "{status}");
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn a_release_from_a_folder_installs_without_any_agent() {
    let mut bench = Bench::new(&old_image());
    let folder = bench.dir.path().join("stick");
    {
        let mut world = bench.world.lock().unwrap();
        // An agent must live for the verdict, but it knows of no service.
        world.contact = protocol_types::socket::Contact { registered: false, network: false };
        let wish = world.account.publish(&new_release());
        world.account.export(&folder, &wish);
    }
    bench.power_on_alone();
    bench.play_apps_alone();
    until("the updater listens", Duration::from_secs(20), || bench.status());
    let said = bench.install(&folder);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    until("the new system is on trial", Duration::from_secs(20), || {
        bench.status().filter(|status| status.running.slot == Slot::B && status.phase == Phase::Trial)
    });
    bench.power_off();
    bench.power_on();
    let status =
        until("it is kept", Duration::from_secs(30), || bench.status().filter(|status| status.phase != Phase::Trial));
    assert_eq!(status.phase, Phase::Succeeded, "{status:?}");
    assert_eq!((status.running.slot, status.running.version.to_string().as_str()), (Slot::B, "1.1.0"));
    assert_eq!(bench.entries(), ["mbl-1-a.efi", "mbl-2-b.efi"]);
}

#[test]
fn a_folder_with_a_changed_artifact_is_refused_with_its_code() {
    let mut bench = Bench::new(&old_image());
    let folder = bench.dir.path().join("stick");
    {
        let mut world = bench.world.lock().unwrap();
        let wish = world.account.publish(&new_release());
        world.account.export(&folder, &wish);
    }
    let mut changed = new_image();
    let name = protocol_types::Digest::of(&changed).hex();
    changed[100 * 4096 + 5] ^= 1;
    fs::write(folder.join("artifacts").join(name), changed).unwrap();
    bench.power_on();
    until("the updater listens", Duration::from_secs(20), || bench.status());
    let said = bench.install(&folder);
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && text.contains("digest_mismatch") && text.contains("hint: "), "{text}");
    assert_eq!(bench.entries(), ["mbl-1-a.efi"]);
}

#[test]
fn a_device_whose_newest_slot_is_damaged_boots_the_other_one() {
    let mut bench = Bench::new(&old_image());
    bench.power_on();
    let (_, digest) = bench.want(&new_release());
    assert_eq!(bench.ends(digest, 60).running.slot, Slot::B);
    bench.stop();
    let path = bench.device().join("disk.img");
    let mut disk = fs::read(&path).unwrap();
    let new = new_image();
    let at = (0..disk.len()).step_by(1 << 20).find(|at| disk[*at..].starts_with(&new[..8 * 4096])).unwrap();
    disk[at + 300 * 4096] ^= 0x10;
    fs::write(&path, disk).unwrap();
    bench.power_on();
    let status = until("the other slot runs", Duration::from_secs(20), || {
        bench.status().filter(|status| status.running.slot == Slot::A)
    });
    assert_eq!(status.running.os_version, "1.0.0");
    let status = until("the lost block was brought again", Duration::from_secs(30), || {
        bench.status().filter(|status| status.running.slot == Slot::B && status.phase == Phase::Succeeded)
    });
    assert_eq!(status.running.digest, Some(digest));
    let traffic = fs::read(bench.device().join("state/updater/traffic.json")).unwrap();
    let traffic: serde_json::Value = serde_json::from_slice(&traffic).unwrap();
    assert!(traffic["fetched"].as_u64().unwrap() <= 2 * 4096, "{traffic}");
}

#[test]
fn the_agent_is_nobody_and_the_updater_sees_no_network() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = Bench::new(&old_image());
    fs::write(bench.device().join("keys/device-key.pem"), "secret").unwrap();
    let script = bench.script(
        "spies",
        "id -u; cat keys/device-key.pem; touch keys/floor; cat state/updater/state.json; ls /proc/self/ns/net -l; exec sleep 1000",
    );
    bench.set_agent(script);
    fs::set_permissions(bench.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.power_on();
    let said = until("the agent says who it is", Duration::from_secs(20), || {
        Some(bench.log("agent.log")).filter(|log| log.contains("net:["))
    });
    assert!(said.starts_with("65534\nsecret"), "{said}");
    assert!(said.contains("cannot touch 'keys/floor'") && said.contains("state.json: "), "{said}");
    let network = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let updater = until("the updater runs", Duration::from_secs(20), || bench.pid("updater"));
    assert!(said.contains(network(std::process::id() as i32).to_str().unwrap()), "the agent is on the network");
    until("the updater is off the network", Duration::from_secs(5), || {
        (network(updater) != network(std::process::id() as i32)).then_some(())
    });
    let interfaces = fs::read_to_string(format!("/proc/{updater}/net/route")).unwrap();
    assert!(interfaces.lines().count() <= 1, "no route leads anywhere: {interfaces}");
}

#[test]
fn a_factory_reset_that_the_disk_refuses_is_told_of_at_once_and_restarts_nothing() {
    let mut bench = Bench::new(&old_image());
    bench.power_on_alone();
    until("the updater listens", Duration::from_secs(20), || bench.status());
    let pid = bench.pid("updater").unwrap();
    // A folder stands in the place of the mark.
    fs::create_dir(bench.device().join("state/factory-reset")).unwrap();
    let asked = bench.factory_reset();
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(!asked.status.success() && said.contains("storage_failed") && said.contains("hint: "), "{said}");
    assert_eq!(bench.pid("updater"), Some(pid), "it was restarted");
}

#[test]
fn a_factory_reset_leaves_identity_floor_and_system_and_nothing_of_the_state() {
    let mut bench = Bench::new(&old_image());
    bench.power_on();
    let raising = Contents { security_version: 4, raises_floor: true, ..new_release() };
    let (_, digest) = bench.want(&raising);
    assert_eq!(bench.ends(digest, 60).phase, Phase::Succeeded);
    let kept =
        || ["factory/factory.json", "keys/factory.sha256"].map(|name| fs::read(bench.device().join(name)).unwrap());
    let before = kept();
    fs::write(bench.device().join("state/agent/note"), "mine").unwrap();
    let record = || fs::read_to_string(bench.device().join("state/updater/state.json")).unwrap_or_default();
    assert!(record().contains("1.1.0"));
    bench.world.lock().unwrap().wish = None;
    let asked = bench.factory_reset();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let status = until("the device is back", Duration::from_secs(60), || {
        bench.log("board.log").contains("the state is new").then(|| bench.status()).flatten()
    });
    assert!(!bench.device().join("state/agent/note").exists() && !record().contains("1.1.0"));
    assert_eq!((status.running.slot, status.floor), (Slot::B, SecurityVersion(4)), "{status:?}");
    assert_eq!((status.running.os_version.as_str(), status.running.digest), ("1.1.0", None));
    assert_eq!(kept(), before);
    // What it ran before is wished for again, and is there already.
    let (_, digest) = bench.want(&Contents { security_version: 4, ..new_release() });
    assert_eq!(bench.ends(digest, 60).phase, Phase::Succeeded);
}
