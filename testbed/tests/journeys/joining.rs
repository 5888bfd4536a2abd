//! Devices that join by list, and operations that are long: the real `mbl`, `mbl-service` and `mbl-agent`.

use std::{fmt::Write as _, fs, path::Path};

use protocol_types::Digest;
use serde_json::{Value, json};
use testbed::until;

use crate::identity::{Fleet, PATIENCE};

/// SHA-256 of the factory certificate that a device has.
fn fingerprint(device: &Path) -> String {
    let text = fs::read(device.join("factory/factory-cert.pem")).unwrap();
    Digest::of(pem::parse(text).unwrap().contents()).hex()
}

fn ask(fleet: &Fleet, line: &str) -> Value {
    let words: Vec<&str> = line.split(' ').collect();
    fleet.operator.json(&words).unwrap()
}

/// Runs `mbl` and expects it to end with this code; everything that it said.
fn ends(fleet: &Fleet, line: &str, code: i32) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = fleet.operator.run(&words).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "mbl {line}: {said}");
    said
}

#[test]
fn fleet_a_device_whose_certificate_is_on_a_list_joins_and_one_that_is_not_is_denied_with_the_reason() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    // The factory step enrols by name; here only the list counts.
    ask(&fleet, "enrolment remove en-1");
    let agent = fleet.start(&device);
    until(PATIENCE, "the device to be denied", || {
        let denials = fleet.operator.json(&["enrolment", "denials"])?;
        Ok(denials
            .as_array()
            .is_some_and(|denials| {
                denials.iter().any(|denial| denial["endpoint"] == "gate-1" && denial["reason"] == "not_enrolled")
            })
            .then_some(()))
    })
    .unwrap();

    let list = format!("fingerprint,endpoint,tags,attribute.site\n{},gate-1,lab,Turku\n", fingerprint(&device));
    fs::write(fleet.folder.path().join("list.csv"), list).unwrap();
    fleet.mbl(&["enrolment", "import", "list.csv", "--watch"]);
    let shown = fleet.until_connected("gate-1", true);
    assert_eq!(shown["device"]["tags"], json!(["lab"]));
    assert_eq!(shown["device"]["attributes"], json!({ "site": "Turku" }));
    let listed = ask(&fleet, "enrolment certificates");
    assert!(listed[0]["joined"].is_u64(), "{listed}");
    drop(agent);
}

#[test]
fn fleet_ten_thousand_lines_with_bad_ones_are_gone_through_by_a_service_that_is_killed_meanwhile() {
    let mut fleet = Fleet::new(true);
    let mut list = "fingerprint,endpoint\n".to_owned();
    for n in 0..10_000 {
        match n % 1000 {
            7 => list.push_str("not-a-fingerprint,gate\n"),
            8 => writeln!(list, "{n:064x}").unwrap(),
            _ => writeln!(list, "{n:064x},gate-{n}").unwrap(),
        }
    }
    fs::write(fleet.folder.path().join("list.csv"), list).unwrap();
    let begun = ask(&fleet, "enrolment import list.csv");
    let id = begun["id"].as_str().unwrap().to_owned();
    assert_eq!(begun["total"], 10_000);
    fleet.service.kill().unwrap();
    fleet.service.restart().unwrap();
    let said = ends(&fleet, &format!("operation watch {id} --time-limit 60"), 5);
    assert!(said.contains("refused 20 rows") && said.contains(&format!("mbl operation report {id}")), "{said}");
    let ended = ask(&fleet, &format!("operation show {id}"));
    assert_eq!(
        (&ended["done"], &ended["unchanged"], &ended["refused"]),
        (&json!(9980), &json!(0), &json!(20)),
        "{ended}"
    );

    let refused = ask(&fleet, &format!("operation report {id} --outcome refused"));
    assert_eq!(refused.as_array().unwrap().len(), 20);
    assert_eq!((&refused[0]["line"], &refused[0]["code"]), (&json!(9), &json!("invalid_fingerprint")));
    assert_eq!((&refused[1]["line"], &refused[1]["code"]), (&json!(10), &json!("wrong_number_of_fields")));
    ask(&fleet, &format!("operation report {id} --output report.csv"));
    let report = fs::read_to_string(fleet.folder.path().join("report.csv")).unwrap();
    assert_eq!(report.lines().count(), 10_001);

    // The same list again changes nothing.
    ends(&fleet, "enrolment import list.csv --watch", 5);
    let again = &ask(&fleet, "operation list")[0];
    assert_eq!((&again["done"], &again["unchanged"]), (&json!(0), &json!(9980)), "{again}");
    let refused = ends(&fleet, "operation cancel op-1", 3);
    assert!(refused.contains("wrong_state"), "{refused}");
}

#[test]
fn fleet_many_devices_are_edited_by_one_command_that_reports_each() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let _agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    ask(&fleet, "group create doors");
    fleet.mbl(&["device", "edit", "--filter", "name ~ \"gate-*\"", "--tag", "lab", "--attribute", "rack=7", "--watch"]);
    assert_eq!(fleet.show("gate-1")["device"]["tags"], json!(["lab"]));
    fleet.mbl(&["device", "edit", "--all", "--add-to-group", "doors", "--watch"]);
    assert_eq!(ask(&fleet, "group show doors")["devices"], 1);
    fleet.mbl(&["device", "edit", "--group", "doors", "--suspend", "--reason", "sold", "--watch"]);
    fleet.until_connected("gate-1", false);
    assert_eq!(fleet.show("gate-1")["device"]["standing_reason"], "sold");
    let newest = ask(&fleet, "operation list")[0]["id"].as_str().unwrap().to_owned();
    let report = ask(&fleet, &format!("operation report {newest}"));
    assert_eq!(report, json!([{ "line": 1, "subject": "gate-1", "outcome": "done" }]));
    fleet.mbl(&["device", "edit", "--all", "--resume", "--watch"]);
    fleet.until_connected("gate-1", true);
    ends(&fleet, "device edit --all", 2);
    ends(&fleet, "device edit --all --resume --tag x", 2);
}

#[test]
fn fleet_the_presence_of_a_device_is_seen_filtered_and_counted_and_stands_in_its_history() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let agent = fleet.start(&device);
    let shown = fleet.until_connected("gate-1", true);
    assert_eq!((&shown["device"]["presence"], &shown["sleeps"]), (&json!("connected"), &json!(false)), "{shown}");
    let promised = shown["lifetime"].as_u64().unwrap();
    drop(agent);
    let shown = fleet.until_connected("gate-1", false);
    // It has promised to stay connected, so it is late at once, and lost two lifetimes later.
    assert_eq!(shown["device"]["presence"], "late", "{shown}");
    assert_eq!(shown["lost_at"].as_u64().unwrap() - shown["late_at"].as_u64().unwrap(), 2 * promised);
    let listed = fleet.operator.json(&["device", "list", "--filter", "presence in (late, lost)"]).unwrap();
    assert_eq!(listed[0]["endpoint"], "gate-1");
    assert_eq!(ask(&fleet, "device count --by presence"), json!([{ "value": "late", "devices": 1 }]));
    let history = ask(&fleet, "device history gate-1");
    let kinds: Vec<&str> = history.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["device.disconnected", "device.connected", "device.certificate_issued", "device.enrolled"],
        "{history}"
    );
    assert_eq!(history[0]["data"], json!({ "presence": "late" }));
}

#[test]
fn fleet_a_decommissioned_device_stays_out_with_the_reason_until_it_is_enrolled_anew() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let _agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    fleet.mbl(&["device", "decommission", "gate-1", "--reason", "sold"]);
    until(PATIENCE, "the device to be denied", || {
        let denials = fleet.operator.json(&["enrolment", "denials"])?;
        let denied = |denial: &Value| denial["endpoint"] == "gate-1" && denial["reason"] == "decommissioned";
        Ok(denials.as_array().is_some_and(|denials| denials.iter().any(denied)).then_some(()))
    })
    .unwrap();
    let shown = fleet.show("gate-1");
    assert_eq!(
        (&shown["device"]["standing"], &shown["device"]["standing_reason"]),
        (&json!("decommissioned"), &json!("sold"))
    );
    assert_eq!(shown["certificates"], json!([]));
    assert!(ends(&fleet, "device resume gate-1", 3).contains("wrong_state"));
    ask(&fleet, "enrolment add --endpoint gate-1");
    fleet.until_connected("gate-1", true);
    assert_eq!(fleet.show("gate-1")["device"]["standing"], "active");
    let history = ask(&fleet, "device history gate-1");
    assert!(history.as_array().unwrap().iter().any(|event| event["data"]["again"] == true), "{history}");
}
