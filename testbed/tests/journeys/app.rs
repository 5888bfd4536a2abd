//! Applications on a device, from a recipe to an answer over HTTP: the real `mbl`, `mbl-service` and board with its processes.

use std::{fs, path::Path};

use protocol_types::Digest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testbed::until;

use crate::world::{PATIENCE, World};

/// Adds a layer to an image layout that reaches out of its root, with every digest as it must be.
fn add_unsafe_layer(layout: &Path) {
    let blob = |digest: &str| layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let keep = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blob(&digest.to_string()), bytes).unwrap();
        (json!(digest), json!(bytes.len()))
    };
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..16].copy_from_slice(b"../../etc/shadow");
    for set in [tar::Header::set_size, tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
        set(&mut header, 0);
    }
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &[][..]).unwrap();
    let layer = archive.into_inner().unwrap();

    let mut index = read(&layout.join("index.json"));
    let old_manifest = blob(index["manifests"][0]["digest"].as_str().unwrap());
    let mut manifest = read(&old_manifest);
    let old_config = blob(manifest["config"]["digest"].as_str().unwrap());
    let mut config = read(&old_config);
    let (digest, size) = keep(&layer);
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest.clone());
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let layers = manifest["layers"].as_array_mut().unwrap();
    layers.push(json!({ "mediaType": media_type, "digest": digest, "size": size }));
    fs::remove_file(old_config).unwrap();
    (manifest["config"]["digest"], manifest["config"]["size"]) = keep(&serde_json::to_vec(&config).unwrap());
    fs::remove_file(old_manifest).unwrap();
    let (digest, size) = keep(&serde_json::to_vec(&manifest).unwrap());
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest, size);
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn app_a_release_of_an_application_alone_is_switched_in_place_and_answers() {
    let world = World::new();
    let booted = world.booted();
    for version in ["1.0.0", "1.1.0"] {
        world.build_app(version, true);
        let rollout = world.roll_out(version);
        world.until_rollout(&rollout, "succeeded");
        world.until_answer(&format!("hello from {version}"));
        let device = world
            .until_device("the device to report it", |device| device["device"]["report"]["running_version"] == version);
        let components = device["components"].as_array().unwrap();
        let app = components.iter().find(|component| component["name"] == "application/hello").unwrap();
        assert_eq!(app["version"], version, "{device}");
        assert_eq!(
            app["digest"],
            json!(Digest::of(&fs::read(world.stage.at_operator(&format!("hello-{version}/index.json"))).unwrap()))
        );
    }
    assert_eq!(world.booted(), booted, "the device restarted for an application");
}

#[test]
fn app_one_that_never_becomes_ready_is_taken_back_with_its_reason() {
    let world = World::new();
    world.build_app("1.0.0", true);
    let good = world.roll_out("1.0.0");
    world.until_rollout(&good, "succeeded");
    world.build_app("1.1.0", false);
    let bad = world.roll_out("1.1.0");
    let shown = world.until_rollout(&bad, "rolled_back");
    assert_eq!(shown["devices"][0]["reason"]["code"], "application_not_ready", "{shown}");
    world.until_answer("hello from 1.0.0");
    world.until_device("the device to report the old release", |device| {
        device["device"]["report"]["running_version"] == "1.0.0"
    });
}

#[test]
fn app_an_image_that_reaches_out_of_its_root_is_refused_and_disturbs_nothing() {
    let world = World::new();
    world.build_app("1.0.0", true);
    let good = world.roll_out("1.0.0");
    world.until_rollout(&good, "succeeded");
    world.until_answer("hello from 1.0.0");
    add_unsafe_layer(&world.build_app("1.1.0", true));
    let bad = world.roll_out("1.1.0");
    let shown = world.until_rollout(&bad, "failed");
    assert_eq!(shown["devices"][0]["reason"]["code"], "unsafe_layer", "{shown}");
    assert!(world.stage.http("/").unwrap().contains("hello from 1.0.0"), "the running application was disturbed");
    let images = fs::read_dir(world.stage.device_dir().join("state/apps/images")).unwrap().count();
    assert_eq!(images, 1, "something of the refused image was left");
}

#[test]
fn app_one_whose_supervisor_is_killed_answers_again_and_its_device_stays_confirmed() {
    let world = World::new();
    world.build_app("1.0.0", true);
    let rollout = world.roll_out("1.0.0");
    world.until_rollout(&rollout, "succeeded");
    world.until_answer("hello from 1.0.0");
    for name in ["mbl-apps", "mbl-updater", "mbl-agent", "mbl-apps"] {
        let process = world.process(name);
        kill_process(process, Signal::KILL).unwrap();
        until(PATIENCE, &format!("another {name}"), || {
            let found = world.stage.process(name)?.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            Ok(found.filter(|found| *found != process))
        })
        .unwrap();
    }
    world.until_answer("hello from 1.0.0");
    world.until_device("the application to be reported ready", |device| {
        let running = &device["device"]["report"]["running_version"];
        device["device"]["connected"] == true && running == "1.0.0"
    });
}
