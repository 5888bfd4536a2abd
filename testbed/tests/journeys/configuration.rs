//! Settings of devices: from a document at the operator's desk to files on the board, and back from one that cuts contact.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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

/// Stages a document; its revision.
fn stage(world: &World, level: &str, document: &Value) -> Value {
    fs::write(world.stage.at_operator("staged.json"), document.to_string()).unwrap();
    world.mbl(&format!("configuration stage staged.json{level}"))["revision"].clone()
}

/// Waits until a rollout is in a state.
fn until_ended(world: &World, rollout: &Value, state: &str) -> Value {
    let id = rollout["id"].as_str().unwrap();
    until(PATIENCE, &format!("the rollout to be {state}"), || {
        let shown = world.stage.json(&["rollout", "show", id])?;
        Ok((shown["rollout"]["state"] == state).then_some(shown))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", world.mbl(&format!("rollout why {id}"))))
}

#[test]
fn fleet_staged_settings_come_with_a_rollout_and_those_that_cut_contact_stop_it_and_come_back() {
    let world = World::new();
    let named = |name: &str| json!({ "hostname": name, "contact_limit_s": 90 });
    save(&world, "", &named("kiln"));
    until_status(&world, "in_force", 1);

    let revision = stage(&world, "", &named("oven"));
    assert_eq!(revision, 2);
    let revisions = world.mbl("configuration revisions");
    let standing: Vec<&str> =
        revisions.as_array().unwrap().iter().map(|row| row["standing"].as_str().unwrap()).collect();
    assert_eq!(standing, ["in_force", "staged"]);
    let dry = world.mbl("rollout start --configuration 2 --all --dry-run");
    assert_eq!((&dry["devices"], &dry["ready"]), (&json!(1), &json!(1)), "{dry}");
    assert_eq!(on_board(&world, "hostname").as_deref(), Some("kiln\n"), "nothing has changed yet");

    let rollout = world.mbl("rollout start --configuration 2 --all --wave 1");
    let ended = until_ended(&world, &rollout, "finished");
    assert_eq!(ended["devices"][0]["state"], "succeeded", "{ended}");
    assert_eq!(on_board(&world, "hostname").as_deref(), Some("oven\n"));
    assert_eq!(until_status(&world, "in_force", 2)["layers"][0]["revision"], 2);
    assert_eq!(world.mbl("configuration revisions")[1]["standing"], "in_force", "for all, from now on");

    // A network with which the service cannot be reached: the device takes it back, the rollout ends, and nobody else gets it.
    world.mbl(&format!("group create doors {ENDPOINT}"));
    let network = |address: &str, limit: u32| json!({ "network": { "host0": { "addresses": [address] } }, "contact_limit_s": limit });
    assert_eq!(stage(&world, " --group doors", &network("192.0.2.7/24", 10)), 1);
    let rollout = world.mbl("rollout start --configuration 1 --of-group doors --all --on-failure return");
    let stopped = until_ended(&world, &rollout, "stopped");
    assert_eq!(stopped["devices"][0]["state"], "rolled_back", "{stopped}");
    assert_eq!(stopped["devices"][0]["reason"]["code"], "no_contact", "{stopped}");
    let back = until_status(&world, "in_force", 4);
    assert_eq!((&back["drift"], on_board(&world, "network-host0.json")), (&json!([]), None), "{back}");
    let why = world.mbl(&format!("device why {ENDPOINT}"));
    assert_eq!(why["reasons"][0]["configuration"]["revision"], 1, "{why}");

    // While a rollout goes on, nobody saves another document of that level; a good one comes into force.
    stage(&world, " --group doors", &network("127.0.0.2/8", 90));
    let rollout = world.mbl("rollout start --configuration 2 --of-group doors --all --ask-consent");
    fs::write(world.stage.at_operator("wanted.json"), "{}").unwrap();
    let (code, _, refused) =
        world.stage.try_mbl(&["configuration", "save", "wanted.json", "--group", "doors"]).unwrap();
    let id = rollout["id"].as_str().unwrap();
    assert!(code == 3 && refused.contains("wrong_state") && refused.contains(id), "{refused}");
    until(PATIENCE, "the device to wait for a yes", || {
        let why = world.stage.json(&["device", "why", ENDPOINT])?;
        Ok((why["reasons"][0]["rule"] == "consent").then_some(()))
    })
    .unwrap();
    world.mbl(&format!("rollout consent {id}"));
    until_ended(&world, &rollout, "finished");
    assert!(on_board(&world, "network-host0.json").is_some_and(|text| text.contains("127.0.0.2/8")));
    let told = world.stage.mbl(&["events"]).unwrap();
    for kind in ["configuration.staged", "configuration.in_force"] {
        assert!(told.contains(kind), "{kind}: {told}");
    }
}

/// A time of day by the clock of this machine, from now.
fn time_of_day(from_now: &str) -> String {
    let output = Command::new("date").args(["-d", from_now, "+%H:%M"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn log_of_apps(world: &World) -> String {
    fs::read_to_string(world.stage.device_dir().join("log/apps.log")).unwrap_or_default()
}

#[test]
fn fleet_applications_read_their_settings_and_the_update_window_holds_the_switch_alone() {
    let world = World::new();
    // An application that shows its settings, and one more version of it.
    for version in ["1.0.0", "1.1.0"] {
        let shows = "[[files]]\ntarget = \"/run/.keep\"\ntext = \"\"\n\n\
                     [[links]]\ntarget = \"/www/settings.json\"\nto = \"/run/mbl/settings.json\"\n\n[run]";
        let recipe = world.stage.recipe(version, true).replace("[run]", shows);
        fs::write(world.stage.at_operator("app.toml"), recipe).unwrap();
        world.mbl(&format!("app build app.toml --out hello-{version}"));
    }
    let first = world.roll_out("1.0.0");
    world.until_rollout(&first, "succeeded");
    assert!(world.stage.http("/settings.json").is_err(), "there are none");

    let settings = |greeting: &str, more: Value| {
        let mut document = json!({ "applications": { "hello": { "greeting": greeting } }, "contact_limit_s": 10 });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    let shown = |greeting: &str| {
        until(PATIENCE, &format!("the application to show `{greeting}`"), || {
            Ok(world.stage.http("/settings.json").ok().filter(|text| text.contains(greeting)))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", log_of_apps(&world)));
    };
    save(&world, "", &settings("hi", json!({})));
    shown("hi");

    // The log level of a process changes while it runs: what it would have said is not in its log.
    let quiet = json!({ "log_levels": { "apps": "error" } });
    save(&world, "", &settings("hi", quiet.clone()));
    until_status(&world, "in_force", 2);
    let before = log_of_apps(&world).matches("application started").count();
    save(&world, "", &settings("ho", quiet));
    shown("ho");
    assert_eq!(log_of_apps(&world).matches("application started").count(), before);

    // Outside of its hours the device brings a release and does not change what it runs.
    let closed =
        json!({ "update_window": { "from": time_of_day("now + 2 hours"), "to": time_of_day("now + 3 hours") } });
    save(&world, "", &settings("ho", closed));
    until_status(&world, "in_force", 4);
    let second = world.roll_out("1.1.0");
    let held = world.until_rollout(&second, "verifying");
    assert_eq!(held["devices"][0]["reason"]["code"], "outside_window", "{held}");
    world.until_answer("hello from 1.0.0");
    save(&world, "", &settings("ho", json!({})));
    world.until_rollout(&second, "succeeded");
    world.until_answer("hello from 1.1.0");
}

/// Every file below a folder that holds these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(holding(&path, bytes));
        } else if fs::read(&path).is_ok_and(|text| text.windows(bytes.len()).any(|window| window == bytes)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn fleet_a_secret_reaches_its_application_and_lies_nowhere_in_the_clear() {
    let world = World::new();
    let shows = "[[files]]\ntarget = \"/run/.keep\"\ntext = \"\"\n\n\
                 [[links]]\ntarget = \"/www/secrets\"\nto = \"/run/mbl/secrets\"\n\n[run]";
    let recipe = world.stage.recipe("1.0.0", true).replace("[run]", shows);
    fs::write(world.stage.at_operator("app.toml"), recipe).unwrap();
    world.mbl("app build app.toml --out hello-1.0.0");
    let rollout = world.roll_out("1.0.0");
    world.until_rollout(&rollout, "succeeded");

    let secret = "correct-horse-battery-staple-7";
    let give = |value: &str, level: &str| {
        let file = world.stage.at_operator("value");
        fs::write(&file, value).unwrap();
        let listed = world.mbl(&format!("configuration secret set hello token --file value{level}"));
        fs::remove_file(file).unwrap();
        listed[0]["version"].clone()
    };
    let shown = |value: &str| {
        until(PATIENCE, &format!("the application to have `{value}`"), || {
            Ok(world.stage.http("/secrets/token").ok().filter(|text| text == value))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.mbl(&format!("configuration effective {ENDPOINT}"))));
    };
    assert_eq!(give(secret, ""), 1);
    shown(secret);
    let effective = until(PATIENCE, "the secret to be in force", || {
        let shown = world.stage.json(&["configuration", "effective", ENDPOINT])?;
        Ok((shown["status"] == "in_force").then_some(shown))
    })
    .unwrap();
    assert_eq!((&effective["secrets"][0]["name"], &effective["drift"]), (&json!("token"), &json!([])), "{effective}");
    assert!(!effective.to_string().contains(secret));

    // The service holds it sealed, and so does the agent; nothing wrote it to a log.
    for folder in [world.stage.at_operator("../service"), world.stage.device_dir()] {
        let found = holding(&folder, secret.as_bytes());
        assert!(found.is_empty(), "{found:?}");
    }
    assert!(!world.stage.service.keeps(secret).unwrap());
    assert!(!world.stage.mbl(&["events"]).unwrap().contains(secret));

    // One of the device alone comes over that of the account, and a start of the agent changes nothing.
    assert_eq!(give("another-one", &format!(" --device {ENDPOINT}")), 1);
    shown("another-one");
    kill_process(world.process("mbl-agent"), Signal::KILL).unwrap();
    world.mbl(&format!("configuration secret remove hello token --device {ENDPOINT}"));
    shown(secret);
    world.mbl("configuration secret remove hello token");
    until(PATIENCE, "the secret to be gone", || Ok(world.stage.http("/secrets/token").is_err().then_some(()))).unwrap();
}
