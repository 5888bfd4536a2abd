//! Settings of devices: from a document at the operator's desk to files on the board, and back from one that cuts contact.

use std::fs;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use testbed::until;

use crate::world::{ENDPOINT, PATIENCE, World};

/// Saves a document from a file, as that of the level that the words name.
fn save(world: &World, level: &str, document: &Value) -> Value {
    fs::write(world.stage.at_operator("wanted.json"), document.to_string()).unwrap();
    world.mbl(&format!("configuration save wanted.json{level}"))
}

/// Waits until the service says that the device stands like this with its settings.
fn until_status(world: &World, status: &str, generation: u64) -> Value {
    until(PATIENCE, &format!("the settings to be {status}"), || {
        let shown = world.stage.json(&["configuration", "effective", ENDPOINT])?;
        Ok((shown["status"] == status && shown["generation"] == generation).then_some(shown))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", world.mbl(&format!("configuration effective {ENDPOINT}"))))
}

fn on_board(world: &World, name: &str) -> Option<String> {
    fs::read_to_string(world.stage.device_dir().join("state/agent/settings").join(name)).ok()
}

#[test]
fn fleet_settings_reach_the_device_and_those_that_cut_contact_are_undone_by_itself_and_told() {
    let world = World::new();
    assert_eq!(world.mbl(&format!("configuration effective {ENDPOINT}"))["status"], "unset");

    let all = json!({ "hostname": "kiln", "time_servers": ["ntp.example"], "log_levels": { "agent": "debug" }, "contact_limit_s": 10 });
    fs::write(world.stage.at_operator("wanted.json"), all.to_string()).unwrap();
    let preview = world.mbl("configuration preview wanted.json");
    assert_eq!((&preview["devices"], &preview["changed"]), (&json!(1), &json!(1)), "{preview}");
    assert_eq!(preview["items"][0]["changes"].as_array().unwrap().len(), 4, "{preview}");
    assert_eq!(on_board(&world, "hostname"), None, "a preview changes nothing");

    assert_eq!(save(&world, "", &all)["revision"], 1);
    let shown = until_status(&world, "in_force", 1);
    assert_eq!(shown["drift"], json!([]));
    assert_eq!(on_board(&world, "hostname").as_deref(), Some("kiln\n"));
    assert_eq!(on_board(&world, "time-servers.sources").as_deref(), Some("server ntp.example iburst\n"));

    // A network with which the service is reached, for a group that the device is in.
    world.mbl(&format!("group create doors {ENDPOINT}"));
    let network = |address: &str| json!({ "network": { "host0": { "addresses": [address] } } });
    save(&world, " --group doors", &network("127.0.0.2/8"));
    until_status(&world, "in_force", 2);
    let good = on_board(&world, "network-host0.json");
    assert!(good.as_ref().is_some_and(|text| text.contains("127.0.0.2/8")), "{good:?}");

    // One of another network: nobody can dial from an address that the machine does not have.
    save(&world, " --group doors", &network("192.0.2.7/24"));
    let undone = until_status(&world, "undone", 3);
    assert_eq!(undone["reported"]["reason_code"], "no_contact", "{undone}");
    assert_eq!(undone["drift"][0]["path"], "/network/host0/addresses", "{undone}");
    assert_eq!(on_board(&world, "network-host0.json"), good, "the former settings are in force again");
    let told = world.mbl(&format!("device history {ENDPOINT}")).to_string();
    assert!(told.contains("device.configuration_undone"), "{told}");

    // The revision of before comes back as a new one, and the device needs no trial for what it has.
    assert_eq!(world.mbl("configuration restore 1 --group doors")["revision"], 3);
    assert_eq!(until_status(&world, "in_force", 4)["drift"], json!([]));
}

#[test]
fn fleet_settings_that_somebody_changed_on_the_device_show_as_drift_and_come_back_with_the_agent() {
    let world = World::new();
    save(&world, &format!(" --device {ENDPOINT}"), &json!({ "hostname": "gate" }));
    until_status(&world, "in_force", 1);
    // Somebody changes the device by hand; the service shows that, and the next start of the agent brings back what it was given.
    let file = world.stage.device_dir().join("state/agent/settings/hostname");
    fs::write(&file, "mine\n").unwrap();
    until_status(&world, "drifted", 1);
    kill_process(world.process("mbl-agent"), Signal::KILL).unwrap();
    until(PATIENCE, "the agent to come back", || Ok((fs::read_to_string(&file)? == "gate\n").then_some(()))).unwrap();
    until_status(&world, "in_force", 1);
    let told = world.mbl(&format!("device history {ENDPOINT}")).to_string();
    assert!(told.contains("device.configuration_drifted"), "{told}");
}
