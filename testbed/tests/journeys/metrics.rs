//! How a device is, in numbers: the real agent measures the machine that it runs on, the real service keeps it, and the real `mbl` shows it.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use testbed::{Running, until};

use crate::world::{ENDPOINT, PATIENCE, World};

/// A sample and a report each second, so that nobody need wait.
const BUDGET: &str = "[metrics]\nbytes_per_day = 60000000\n";

fn world(settings: &str) -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mbl-service.toml");
    fs::write(&config, settings).unwrap();
    (World::on(&["--config", config.to_str().unwrap()]), folder)
}

/// The newest value of a metric, if there is one.
fn value(world: &World, metric: &str) -> Option<f64> {
    let shown = world.mbl(&format!("metrics show {ENDPOINT}"));
    let values = shown["values"].as_array().unwrap();
    values.iter().find(|value| value["metric"] == metric).and_then(|value| value["value"].as_f64())
}

fn until_value(world: &World, metric: &str, is_it: impl Fn(f64) -> bool) -> f64 {
    until(PATIENCE, &format!("a value of {metric}"), || Ok(value(world, metric).filter(|value| is_it(*value)))).unwrap()
}

fn until_alert(world: &World, rule: &str, state: &str) -> Value {
    until(PATIENCE, &format!("the alert of {rule} to be {state}"), || {
        let alerts = world.stage.json(&["alert", "list", "--all", "--rule", rule])?;
        let found = alerts.as_array().and_then(|all| all.iter().find(|alert| alert["state"] == state).cloned());
        Ok(found)
    })
    .unwrap()
}

#[test]
fn metrics_of_a_device_are_seen_and_a_threshold_raises_an_alert_that_ends_at_its_clear_level() {
    let (world, _folder) = world(BUDGET);
    let share = |value: f64| (0.0..=1.0).contains(&value);
    assert!(until_value(&world, "memory.used", |used| used > 0.0) < 1.0);
    assert!(share(until_value(&world, "storage.used", share)) && share(until_value(&world, "cpu.load", share)));
    assert!(until_value(&world, "network.received", |_| true) >= 0.0);
    assert_eq!(value(&world, "boots"), Some(1.0));
    assert_eq!((value(&world, "agent.crashes"), value(&world, "boots.unclean")), (Some(0.0), Some(0.0)));

    // Time series: samples one after the other, and the same ones in coarser points.
    let samples = until(PATIENCE, "some samples", || {
        let points = world.mbl(&format!("metrics show {ENDPOINT} --metric memory.used --step sample"));
        Ok(points.as_array().filter(|points| points.len() >= 5).cloned())
    })
    .unwrap();
    let times: Vec<u64> = samples.iter().map(|point| point["time"].as_u64().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let hours = world.mbl(&format!("metrics show {ENDPOINT} --metric memory.used --step hour"));
    let counted: u64 = hours.as_array().unwrap().iter().map(|point| point["count"].as_u64().unwrap()).sum();
    assert!(counted >= 5, "{hours}");
    world.mbl(&format!("metrics export {ENDPOINT} --step sample --output gate.csv"));
    let exported = fs::read_to_string(world.stage.at_operator("gate.csv")).unwrap();
    assert!(exported.starts_with("time,metric,unit,count,mean,least,most,last\n"), "{exported}");
    assert!(exported.lines().filter(|line| line.contains(",storage.used,/,1,")).count() >= 5, "{exported}");

    // Who watches sees each sample as it comes.
    let mut watch =
        world.stage.operator.command(&["--json", "metrics", "show", ENDPOINT, "--metric", "boots", "--watch"]).unwrap();
    let log = world.stage.folder.join("watched.log");
    let watched = Running::start("mbl metrics", &mut watch, &log).unwrap();
    until(PATIENCE, "three more samples", || {
        let lines = watched.output()?;
        let points: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let times: Vec<u64> = points.iter().filter_map(|point| point["time"].as_u64()).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{lines}");
        Ok((times.len() >= 3).then_some(()))
    })
    .unwrap();
    watched.kill().unwrap();

    // Crashes of the agent are counted by the agent that comes after it. One rule is raised by the first; the other one is raised as long as
    // there were none, and ends not with the first but with the second.
    rule(&world, "crashing", "agent.crashes > 0", None);
    rule(&world, "steady", "agent.crashes < 1", Some("2"));
    assert_eq!(until_alert(&world, "steady", "raised")["device"], ENDPOINT);
    assert!(world.mbl("alert list --all --rule crashing").as_array().unwrap().is_empty());
    kill_process(world.process("mbl-agent"), Signal::KILL).unwrap();
    assert_eq!(until_alert(&world, "crashing", "raised")["device"], ENDPOINT);
    assert_eq!((value(&world, "agent.crashes"), value(&world, "boots")), (Some(1.0), Some(1.0)));
    assert_eq!(until_alert(&world, "steady", "raised")["device"], ENDPOINT, "between the two levels nothing changes");
    kill_process(world.process("mbl-agent"), Signal::KILL).unwrap();
    until_value(&world, "agent.crashes", |crashes| crashes > 1.0);
    until_alert(&world, "steady", "resolved");
    assert_eq!(world.mbl("alert list --rule crashing").as_array().unwrap().len(), 1, "it holds on");
}

fn rule(world: &World, name: &str, threshold: &str, clear: Option<&str>) {
    let clear = clear.map_or(Vec::new(), |clear| vec!["--clear", clear]);
    let create = ["alert", "rule", "create", name, "--threshold", threshold, "--for", "0", "--clear-for", "0"];
    world.stage.mbl(&[&create[..], &clear[..]].concat()).unwrap();
}

#[test]
fn metrics_that_were_measured_while_the_service_was_away_arrive_later_with_their_times() {
    let (mut world, _folder) = world(BUDGET);
    until_value(&world, "memory.used", |_| true);
    let last = world.mbl(&format!("metrics show {ENDPOINT}"))["time"].as_u64().unwrap();
    world.stage.service.stop().unwrap();
    let away = Instant::now();
    until(PATIENCE, "some time to pass", || Ok((away.elapsed() > Duration::from_secs(15)).then_some(()))).unwrap();
    world.stage.service.restart().unwrap();
    until(PATIENCE, "what was measured meanwhile", || {
        let points = world.stage.json(&["metrics", "show", ENDPOINT, "--metric", "memory.used", "--step", "sample"])?;
        let times = points.as_array().into_iter().flatten().filter_map(|point| point["time"].as_u64());
        let meanwhile = times.filter(|time| (last + 3..last + 13).contains(time)).count();
        Ok((meanwhile >= 5).then_some(()))
    })
    .unwrap();
}
