//! The device directory as an operator asks it: what is said of devices, the filter language, groups that are filters, and files.

use std::fs;

use serde_json::{Value, json};

use crate::world::{ENDPOINT, World};

fn names(devices: &Value) -> Vec<&str> {
    devices.as_array().unwrap().iter().map(|device| device["endpoint"].as_str().unwrap()).collect()
}

/// The words of a command line that has quotes in it.
fn ask(world: &World, words: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(words);
    let output = world.stage.operator.run(&all).unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn fleet_a_device_is_found_by_what_runs_on_it_and_by_what_operators_say_of_it() {
    let world = World::new();
    let set = [
        "device",
        "set",
        ENDPOINT,
        "--attribute",
        "rack=7",
        "--attribute",
        "colour=red",
        "--tag",
        "lab",
        "--note",
        "in the cellar",
    ];
    let device = ask(&world, &set);
    assert_eq!(device["attributes"], json!({ "rack": 7.0, "colour": "red" }));
    assert_eq!(world.mbl(&format!("device show {ENDPOINT}"))["note"], "in the cellar");

    let running = world.mbl(&format!("device show {ENDPOINT}"))["device"]["report"]["running_version"].clone();
    let running = format!("release = {running} and connected = true");
    for (filter, found) in [
        ("attribute.rack >= 7 and tag = \"lab\"", true),
        ("attribute.rack > 7", false),
        ("not attribute.colour = \"red\"", false),
        ("last_seen > ago(1h)", true),
        (running.as_str(), true),
    ] {
        let devices = ask(&world, &["device", "list", "--filter", filter]);
        assert_eq!(names(&devices), if found { vec![ENDPOINT] } else { Vec::new() }, "{filter}");
    }
    let counts = ask(&world, &["device", "count", "--by", "attribute.colour"]);
    assert_eq!(counts, json!([{ "value": "red", "devices": 1 }]));

    let refused =
        world.stage.operator.run(&["device", "list", "--filter", "tag = \"lab\" and os.versoin exists"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("                  ^^^^^^^^^^\n"), "it points at the place: {said}");
    assert!(said.contains("hint: did you mean `os.version`?"), "{said}");

    world.mbl(&format!("device set {ENDPOINT} --without colour --untag lab"));
    assert_eq!(names(&ask(&world, &["device", "list", "--filter", "tag exists or attribute.colour exists"])), [""; 0]);
}

#[test]
fn fleet_a_group_may_be_a_filter_or_include_others_and_a_rollout_reaches_what_is_in_it() {
    let world = World::new();
    ask(&world, &["group", "create", "racked", "--filter", "attribute.rack exists"]);
    ask(&world, &["group", "create", "all-doors", "--include", "racked"]);
    assert_eq!(world.mbl("group show all-doors")["devices"], 0);
    let round = world.stage.operator.run(&["group", "change", "racked", "--include", "all-doors"]).unwrap();
    assert!(String::from_utf8_lossy(&round.stderr).contains("would be part of itself"), "{round:?}");

    world.build_app("1.0.0", true);
    world.mbl("app push hello-1.0.0");
    world.sign("1.0.0", None);
    world.mbl("release publish release-1.0.0");
    world.mbl(&format!("device set {ENDPOINT} --attribute rack=7"));
    let rollout = world.mbl("rollout start 1.0.0 --group all-doors");
    world.until_rollout(rollout["id"].as_str().unwrap(), "succeeded");
    world.until_answer("hello from 1.0.0");
    assert_eq!(world.mbl("group show all-doors")["devices"], 1);
    let needed = world.stage.operator.run(&["group", "delete", "racked"]).unwrap();
    assert!(String::from_utf8_lossy(&needed.stderr).contains("part of the group `all-doors`"), "{needed:?}");
}

#[test]
fn fleet_the_directory_leaves_as_a_file_and_a_filter_is_kept_under_a_name() {
    let world = World::new();
    world.mbl(&format!("device set {ENDPOINT} --attribute formula==1+1 --tag lab"));
    let file = world.stage.folder.join("devices.csv");
    world.mbl(&format!("device export --output {}", file.display()));
    let text = fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("endpoint,standing,connected,"), "{text}");
    assert!(lines.next().unwrap().starts_with(&format!("{ENDPOINT},active,true,")), "{text}");
    assert_eq!(lines.next(), None);

    let output = world.stage.operator.run(&["device", "export", "--format", "jsonl"]).unwrap();
    let device: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((device["endpoint"].as_str(), &device["tags"]), (Some(ENDPOINT), &json!(["lab"])));

    ask(&world, &["filter", "save", "lab", "tag = \"lab\""]);
    ask(&world, &["filter", "save", "lab", "tag = \"lab\" and connected = true", "--title", "In the lab"]);
    let kept = world.mbl("filter show lab");
    assert_eq!((kept["title"].as_str(), kept["revision"].as_i64()), (Some("In the lab"), Some(2)), "{kept}");
    assert_eq!(names(&ask(&world, &["device", "list", "--filter", kept["filter"].as_str().unwrap()])), [ENDPOINT]);
    world.mbl("filter delete lab");
    assert_eq!(world.mbl("filter list"), json!([]));
}
