//! The machine of the service is lost with everything on it, and another one goes on from a backup.

use std::fs;

use crate::{postgres::Server, world::World};

/// Runs a verb of `mbl-service`; it must succeed.
fn service(verb: &str, world: &World, file: [&str; 2]) {
    let output = world.stage.service.command(verb).unwrap().args(file).output().unwrap();
    assert!(output.status.success(), "mbl-service {verb}: {}", String::from_utf8_lossy(&output.stderr));
}

/// With the settings `before` while the service has its first machine, and `after` on the other one.
pub(crate) fn a_fleet_goes_on(before: &str, after: &str) {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("mbl-service.toml");
    fs::write(&settings, before).unwrap();
    let mut world = World::on(&["--config", settings.to_str().unwrap()]);
    world.build_app("1.0.0", true);
    let first = world.roll_out("1.0.0");
    world.until_rollout(&first, "succeeded");
    world.build_app("1.1.0", true);
    world.sign("1.1.0", None);

    let backup = folder.path().join("backup");
    service("backup", &world, ["--out", backup.to_str().unwrap()]);
    world.mbl("group create later");

    world.stage.service.lose().unwrap();
    fs::write(&settings, after).unwrap();
    service("restore", &world, ["--from", backup.to_str().unwrap()]);
    world.stage.service.restart().unwrap();

    world.until_device("the device to come back", |device| device["device"]["connected"] == true);
    assert_eq!(world.mbl(&format!("rollout show {first}"))["devices"][0]["state"], "succeeded");
    let groups = world.mbl("group list");
    assert!(!groups.to_string().contains("later"), "it was made after the backup: {groups}");
    let next = world.start("1.1.0");
    world.until_rollout(&next, "succeeded");
    world.until_answer("hello from 1.1.0");
}

#[test]
fn backup_a_fleet_goes_on_after_the_machine_of_its_service_was_lost() {
    a_fleet_goes_on("", "");
}

#[test]
fn backup_a_fleet_on_postgresql_goes_on_in_another_database() {
    let server = Server::start();
    let settings = |name: &str| {
        let url = server.database(name);
        format!("database_url = \"{url}\"\n")
    };
    a_fleet_goes_on(&settings("first"), &settings("second"));
}
