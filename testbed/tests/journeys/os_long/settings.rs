//! Settings of the service on a board with the operating system: in force through NetworkManager, kept over a restart, and back when they
//! cut the board off.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use testbed::until;

use crate::{
    os::{DEVELOPMENT, failed_units, owners},
    site::{APP, ENDPOINT, FIRST, Release, Site},
};

/// Addresses that QEMU's network leaves to the guest.
const ADDRESS: &str = "10.0.2.77";
const OTHER: &str = "10.0.2.78";
/// From there nobody is reached.
const NOWHERE: &str = "192.0.2.7";
const AWAY: &str = "192.0.2.8";
/// NetworkManager waits for the agent and half a minute more.
const PATIENCE: Duration = Duration::from_secs(300);

/// Saves the document of the board.
fn save(site: &Site, document: &Value) {
    fs::write(site.at_desk("wanted.json"), document.to_string()).unwrap();
    site.mbl(&format!("configuration save wanted.json --device {ENDPOINT}"));
}

/// Waits until the service says that the board stands like this with its settings.
fn until_status(site: &Site, status: &str, generation: u64) -> Value {
    site.until(&format!("the settings to be {status}"), || {
        let shown = site.mbl(&format!("configuration effective {ENDPOINT}"));
        Ok((shown["status"] == status && shown["generation"] == generation).then_some(shown))
    })
}

/// Waits until the board has all that it should have. A secret that is set makes a generation of its own.
fn until_in_force(site: &Site) {
    site.until("the settings to be in force", || {
        let shown = site.mbl(&format!("configuration effective {ENDPOINT}"));
        Ok((shown["status"] == "in_force").then_some(()))
    });
}

fn network(interface: &str, name: &str, address: &str, limit: u32) -> Value {
    let mut settings = json!({ "addresses": [format!("{address}/24")] });
    // QEMU's network answers whoever has a way to it, whatever the address.
    if address.starts_with("10.0.2.") {
        settings["gateway"] = json!("10.0.2.2");
    }
    let network = json!({ interface: settings });
    json!({ "hostname": name, "time_servers": ["10.0.2.100"], "network": network, "contact_limit_s": limit })
}

/// What the board goes by: name, address and connection of its interface, time sources, and checkpoints that are held.
fn facts(site: &mut Site, interface: &str) -> [String; 5] {
    [
        "cat /proc/sys/kernel/hostname".to_owned(),
        format!("nmcli -g IP4.ADDRESS device show {interface}"),
        format!("nmcli -g GENERAL.CONNECTION device show {interface}"),
        "chronyc -c -n sources | cut -d, -f3".to_owned(),
        "busctl get-property org.freedesktop.NetworkManager /org/freedesktop/NetworkManager org.freedesktop.NetworkManager Checkpoints"
            .to_owned(),
    ]
    .map(|command| site.shell(&command).trim().to_owned())
}

/// Waits until a command in the board's shell says this; all that it said.
fn until_says(site: &mut Site, command: &str, wanted: &str) -> String {
    let look = || {
        let said = site.shell(command).trim().to_owned();
        Ok(said.contains(wanted).then_some(said))
    };
    until(PATIENCE, &format!("`{command}` to say {wanted}"), look).unwrap()
}

#[test]
fn os_settings_of_the_service_hold_over_a_restart_and_those_that_cut_contact_go_back_by_themselves() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    let interface = site.shell("cd /sys/class/net && echo e*").trim().to_owned();
    assert_eq!(facts(&mut site, &interface)[0], "gate-1");

    save(&site, &network(&interface, "kiln", ADDRESS, 120));
    assert_eq!(until_status(&site, "in_force", 1)["drift"], json!([]));
    let good =
        ["kiln", &format!("{ADDRESS}/24"), &format!("mbl-on-{interface}"), "10.0.2.100", "ao 0"].map(str::to_owned);
    assert_eq!(facts(&mut site, &interface), good);
    // The agent has no right to any of this itself.
    let refused = site.shell("ls -l /run/mbl/system.sock /state/mbl/system/given.json; ls /etc/hostname 2>&1");
    assert!(refused.contains("srw-rw---- 1 root mbl-agent") && refused.contains("No such file"), "{refused}");

    save(&site, &network(&interface, "oven", NOWHERE, 60));
    let undone = until_status(&site, "undone", 2);
    assert_eq!(undone["reported"]["reason_code"], "no_contact", "{undone}");
    assert_eq!(facts(&mut site, &interface), good);

    // The agent is stopped as soon as the network is away, so nobody but NetworkManager takes it back.
    save(&site, &network(&interface, "fridge", AWAY, 60));
    until_says(&mut site, &format!("nmcli -g IP4.ADDRESS device show {interface}"), AWAY);
    assert!(site.shell("systemctl stop mbl-agent.service; systemctl is-active mbl-agent.service").contains("inactive"));
    let held = until_says(&mut site, &format!("nmcli -g IP4.ADDRESS device show {interface}"), ADDRESS);
    assert_eq!(held, format!("{ADDRESS}/24"));

    // A restart of the whole board begins with what was confirmed; the agent then tries once more, and takes it back.
    site.shut_down();
    site.machine.power_on().unwrap();
    site.until_shell();
    until_status(&site, "undone", 3);
    site.until_runs(FIRST, "a");
    assert_eq!(facts(&mut site, &interface), good);
    assert_eq!(failed_units(&mut site.machine, ""), "");
    // Nobody has wished for anything else than what was rendered at the start, so there was nothing to look at once more.
    let looked = "systemctl show --property=ExecMainStartTimestampMonotonic --value mbl-configuration-change.service";
    assert_eq!(site.shell(looked), "0");

    save(&site, &network(&interface, "kiln", OTHER, 120));
    until_status(&site, "in_force", 4);
    site.shell("echo mine > /proc/sys/kernel/hostname");
    until_status(&site, "drifted", 4);
    site.shell("systemctl restart mbl-agent.service");
    until_status(&site, "in_force", 4);
    assert_eq!(facts(&mut site, &interface)[..2], ["kiln".to_owned(), format!("{OTHER}/24")]);
}

/// An application that has a folder for what it is handed.
const TAKES: &str = "\n[[files]]\ntarget = \"/run/.keep\"\ntext = \"\"\n";
/// Its folder, seen from outside.
const HANDED: &str = "/proc/$(pgrep -x confined)/root/run/mbl";

#[test]
fn os_an_application_has_its_settings_and_secrets_and_the_update_window_holds_the_switch_alone() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    let give = |site: &Site, value: &str| {
        fs::write(site.at_desk("value"), value).unwrap();
        site.mbl(&format!("configuration secret set {APP} token --file value"));
        fs::remove_file(site.at_desk("value")).unwrap();
    };
    let settings = |greeting: &str| json!({ "applications": { APP: { "greeting": greeting } }, "log_levels": { "apps": "error" } });
    give(&site, "staple-7");
    save(&site, &settings("hi"));
    until_in_force(&site);
    // It is ready once it has both.
    let app = site.build_app_with("1.0.1", "handed", TAKES);
    let rollout = site.roll_out(&Release { os: None, app: Some(&app), ..Release::of_os("1.0.1", "".as_ref()) });
    site.until_rollout(&rollout, "succeeded");
    assert_eq!(site.shell(&format!("cat {HANDED}/settings.json")), r#"{"greeting":"hi"}"#);
    let secret = site.shell(&format!("cat {HANDED}/secrets/token; echo; stat -c %a,%F {HANDED}/secrets/token"));
    assert_eq!(secret, "staple-7\n400,regular file");

    give(&site, "battery-8");
    save(&site, &settings("ho"));
    until_says(&mut site, &format!("cat {HANDED}/settings.json"), "ho");
    until_says(&mut site, &format!("cat {HANDED}/secrets/token"), "battery-8");
    let clear = "grep -rlE 'staple-7|battery-8' /state /factory; journalctl --no-pager | grep -cE 'staple-7|battery-8'";
    assert_eq!(site.shell(&format!("sync; {clear}")), "0", "a secret lies in the clear, or is in the journal");
    // The agent says what it did, and the applications' process keeps to its level.
    let said = site.shell("journalctl --no-pager -b -u mbl-agent | grep -c 'configuration in force'; journalctl --no-pager -b -u mbl-apps -p info | grep -c 'application started'");
    let counts: Vec<u32> = said.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counts[0] >= 2 && counts[1] == 0, "{said}");

    let hours = site.shell("date -d '+2 hours' +%H:%M; date -d '+3 hours' +%H:%M");
    let (from, to) = hours.split_once('\n').unwrap();
    let mut closed = settings("ho");
    closed["update_window"] = json!({ "from": from, "to": to });
    save(&site, &closed);
    until_in_force(&site);
    let newer = site.build_app_with("1.0.2", "handed", TAKES);
    let rollout = site.roll_out(&Release { os: None, app: Some(&newer), ..Release::of_os("1.0.2", "".as_ref()) });
    let held = site.until_rollout(&rollout, "verifying");
    assert_eq!(held["devices"][0]["reason"]["code"], "outside_window", "{held}");
    site.until_runs("1.0.1", "a");
    save(&site, &settings("ho"));
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.0.2", "a");
}
