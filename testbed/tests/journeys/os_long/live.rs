//! Live commands and jobs on the operating system: what its journal holds, a key in its token, a restart in order.

use serde_json::Value;

use crate::{
    os::{DEVELOPMENT, failed_units, owners},
    os_tee,
    site::{ENDPOINT, Site},
};

/// Has the board do a job to its end; what it has brought.
fn job(site: &Site, what: &str) -> String {
    site.mbl(&format!("job start {what} --device {ENDPOINT} --watch"));
    let id = site.mbl("job list")[0]["id"].as_str().unwrap().to_owned();
    site.mbl(&format!("job result {id} {ENDPOINT}"))["result"].as_str().unwrap_or_default().to_owned()
}

/// The value of a resource, asked of the board itself.
fn read(site: &Site, path: &str) -> Value {
    site.mbl(&format!("device read {ENDPOINT} {path} --wait 10m"))["values"][0]["value"].clone()
}

fn certificates(site: &Site) -> Vec<String> {
    let shown = site.mbl(&format!("device show {ENDPOINT}"));
    let listed = shown["certificates"].as_array().unwrap().iter();
    listed.map(|one| one["serial"].as_str().unwrap().to_owned()).collect()
}

/// Which key of the token the operational certificate is for; empty for the device key.
const WHICH_KEY: &str = "grep -o '\"token_key\":\"[0-9a-f]*\"' /state/mbl/agent/enrolment.json";
const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
fn os_a_registered_board_answers_commands_and_does_its_jobs() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    assert_eq!(read(&site, "/3/0/2"), ENDPOINT);
    let facts = job(&site, "probe disk");
    assert!(facts.contains("free_bytes "), "{facts}");

    let agent = job(&site, "logs --source agent --lines 50");
    assert!(agent.contains("registered with the service") && agent.lines().count() <= 50, "{agent}");
    let kernel = job(&site, "logs --source kernel --lines 20");
    // What the system says before it has a journal is in the kernel's, too.
    assert!(kernel.lines().count() > 1 && kernel.contains(" kernel: "), "{kernel}");
    let manager = job(&site, "logs --source board --lines 200");
    assert!(manager.contains("systemd[1]: ") && manager.contains("mbl-agent.service"), "{manager}");
    let used = site.until("the board's memory to be measured", || {
        let shown = site.mbl(&format!("metrics show {ENDPOINT}"));
        let values = shown["values"].as_array().cloned().unwrap_or_default();
        Ok(values.iter().find(|value| value["metric"] == "memory.used").and_then(|value| value["value"].as_f64()))
    });
    assert!((0.0..1.0).contains(&used), "{used}");

    rotates_its_key(&mut site);
}

#[test]
fn os_tee_a_board_with_a_trusted_world_rotates_its_key_there() {
    rotates_its_key(&mut Site::running(&os_tee::owners(DEVELOPMENT)));
}

/// Has the board make a new key in its token twice, and restart.
fn rotates_its_key(site: &mut Site) {
    // The key of before is still there when the new one is asked for, and goes after it.
    assert_eq!(site.shell(WHICH_KEY).trim(), "");
    let before = certificates(site);
    for turn in 1..=2 {
        job(site, "rotate-key");
        assert_eq!(read(site, "/3/0/2"), ENDPOINT, "it is registered with the new key");
        assert_eq!(certificates(site).len(), before.len() + turn);
    }
    let key = site.shell(WHICH_KEY);
    assert!(key.contains("token_key"), "{key}");
    let removed = site.shell("journalctl -u mbl-agent -o cat --no-pager | grep -c 'removed from the token'");
    assert_eq!(removed.trim(), "1");

    let (boot, issued) = (site.shell(BOOT), certificates(site));
    job(site, "reboot");
    assert_eq!(read(site, "/3/0/2"), ENDPOINT);
    site.until_shell();
    assert_ne!(site.shell(BOOT), boot, "it did not restart");
    assert_eq!(site.shell(WHICH_KEY), key, "it came back with another key");
    assert_eq!(certificates(site), issued, "it had to enrol anew");
    assert_eq!(failed_units(&mut site.machine, ""), "");
}
