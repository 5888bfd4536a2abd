//! Watching at the command line: what changes is one line of JSON, whatever becomes of the service meanwhile.

use serde_json::Value;
use testbed::{Running, until};

use crate::identity::{Fleet, PATIENCE};

/// A running `mbl -q --json … --watch`.
struct Watch(Running);

impl Watch {
    fn start(fleet: &Fleet, line: &str) -> Self {
        let words: Vec<&str> = ["-q", "--json"].into_iter().chain(line.split(' ')).collect();
        let log = fleet.folder.path().join(format!("{}.log", line.replace(' ', "-")));
        Self(Running::start("mbl", &mut fleet.operator.command(&words).unwrap(), &log).unwrap())
    }

    /// Everything that was printed, each line a document.
    fn documents(&self) -> Vec<Value> {
        let text = self.0.output().unwrap();
        // The last line may not be whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no document: {line}"))).collect()
    }

    fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) {
        until(PATIENCE, what, || Ok(self.documents().iter().any(&is_it).then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.0.output().unwrap()));
    }
}

#[test]
fn cli_who_watches_sees_each_change_as_a_line_over_a_restart_of_the_service() {
    let mut fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    fleet.mbl(&["group", "create", "doors", "gate-1"]);
    let list = Watch::start(&fleet, "device list --group doors --watch");
    let show = Watch::start(&fleet, "device show gate-1 --watch");
    let why = Watch::start(&fleet, "device why gate-1 --watch");
    let alerts = Watch::start(&fleet, "alert list --watch");
    list.until("the device on the list", |line| line["endpoint"] == "gate-1" && line["presence"] == "connected");
    show.until("the device", |line| line["device"]["presence"] == "connected");
    why.until("what rollouts want of it", |line| line["endpoint"] == "gate-1");
    assert_eq!(list.documents().len(), 1, "nothing else has changed");

    fleet.service.kill().unwrap();
    fleet.service.restart().unwrap();
    drop(agent);
    list.until("the device to be late", |line| line["presence"] == "late");
    fleet.mbl(&["device", "set", "gate-1", "--note", "in the yard"]);
    show.until("the note", |line| line["note"] == "in the yard");
    fleet.mbl(&["alert", "rule", "create", "away", "--absence", "--for", "0", "--clear-for", "0"]);
    alerts.until("an alert", |line| line["rule"] == "away" && line["state"] == "raised");

    fleet.mbl(&["group", "remove", "doors", "gate-1"]);
    list.until("the device to leave the list", |line| line["gone"] == "gate-1");
    let mut change = Watch::start(&fleet, "device watch gate-1 --until-change --time-limit 60");
    change.until("the device as it is", |line| line["standing"] == "active");
    fleet.mbl(&["device", "suspend", "gate-1", "--reason", "sold"]);
    until(PATIENCE, "the end of watching", || Ok((!change.0.is_running()?).then_some(()))).unwrap();
    assert_eq!(change.documents().last().unwrap()["standing"], "suspended");
    let ended = fleet.operator.run(&["alert", "list", "--watch", "--time-limit", "1"]).unwrap();
    assert!(ended.status.success() && !ended.stdout.is_empty(), "{ended:?}");
}
