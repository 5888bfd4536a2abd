//! Images as files: that they can be built again, what they are made of, and what changes from one to the next. Nothing boots here.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use testbed::images::{self, Order, Signer, tree};

const FIRST: Order = Order::first("development");
const SECOND: Order = Order { version: "1.1.0", ..FIRST };

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every file below `folder`, relative to it.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut open) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn image_two_builds_in_different_folders_at_different_times_are_the_same_bytes() {
    let build = images::image(FIRST, Signer::Owner).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    images::build_again(FIRST, elsewhere.path()).unwrap();
    let again = elsewhere.path().join("build");
    let unsigned = |path: &PathBuf| !path.starts_with("signed") && path != Path::new("done");
    let (first, second): (BTreeSet<_>, BTreeSet<_>) =
        (files(&build).into_iter().filter(unsigned).collect(), files(&again));
    assert_eq!(first, second);
    for path in first {
        let same = Command::new("cmp").arg(build.join(&path)).arg(again.join(&path)).status().unwrap();
        assert!(same.success(), "{} differs", path.display());
    }
}

/// The bill of materials in `build`, once the reference library has judged it, and every component was reached from the image.
fn bill(build: &Path) -> Value {
    let oracles = tree().join("testbed/oracles");
    let path = build.join("sbom.cdx.json");
    let said = Command::new(oracles.join("python")).arg(oracles.join("check_bill.py")).arg(&path).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let bill = json(&path);
    let lost = lost(&bill);
    assert!(lost.is_empty(), "nothing needs {lost:?}");
    bill
}

/// The components to which nothing leads by what needs what.
fn lost(bill: &Value) -> Vec<&str> {
    let dependencies = bill["dependencies"].as_array().unwrap();
    let (mut open, mut reached) = (vec!["image"], BTreeSet::from(["image"]));
    while let Some(at) = open.pop() {
        let entry = dependencies.iter().find(|it| it["ref"] == at);
        for needed in entry.and_then(|it| it["dependsOn"].as_array()).into_iter().flatten() {
            let needed = needed.as_str().unwrap();
            if reached.insert(needed) {
                open.push(needed);
            }
        }
    }
    let components = bill["components"].as_array().unwrap().iter();
    components.map(|it| it["bom-ref"].as_str().unwrap()).filter(|it| !reached.contains(it)).collect()
}

/// The component called `name`.
fn named<'a>(bill: &'a Value, name: &str) -> &'a Value {
    let mut components = bill["components"].as_array().unwrap().iter();
    components.find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The report of licences in `build`, which leaves few licences to a reader of the texts.
fn licences(build: &Path) -> String {
    let report = String::from_utf8_lossy(&fs::read(build.join("licences.txt")).unwrap()).into_owned();
    let silent: Vec<&str> = report.lines().filter(|line| line.ends_with(": see its text")).collect();
    assert!(silent.len() <= 5, "licences that nobody named: {silent:?}");
    report
}

#[test]
fn image_a_bill_of_materials_is_valid_and_names_packages_programs_and_crates() {
    let build = images::image(FIRST, Signer::Owner).unwrap();
    let bill = bill(&build);
    let named = |name| named(&bill, name);
    let systemd = named("systemd");
    assert!(systemd["purl"].as_str().unwrap().starts_with("pkg:deb/debian/systemd@"), "{systemd}");
    assert!(systemd["licenses"].as_array().unwrap().len() > 1, "{systemd}");
    assert_eq!(named("cryptsetup-bin")["properties"][0]["value"], "initrd");
    let programs = fs::read_to_string(build.parent().unwrap().join("../programs/SHA256SUMS")).unwrap();
    assert!(programs.contains(named("mbl-agent")["hashes"][0]["content"].as_str().unwrap()), "{programs}");
    assert_eq!(named("rustls")["licenses"][0]["expression"], "Apache-2.0 OR ISC OR MIT");
    let report = licences(&build);
    for text in ["\n==== systemd ====\n", "\n==== GPL-2 ====\n", "---- rustls v"] {
        assert!(report.contains(text), "{text}");
    }
}

#[test]
fn image_a_bill_of_materials_of_a_board_whose_firmware_is_built_here_names_its_sources_and_parts() {
    let build = images::image(FIRST.on("qemu-arm64"), Signer::Owner).unwrap();
    let bill = bill(&build);
    let lock: toml::Table = fs::read_to_string(tree().join("image/lock.toml")).unwrap().parse().unwrap();
    let sources = lock["source"].as_array().unwrap();
    assert_eq!(sources.len(), 3, "trusted firmware, its cryptography and UEFI");
    for source in sources {
        let component = named(&bill, source["name"].as_str().unwrap());
        assert_eq!(component["version"], source["version"].as_str().unwrap());
        assert!(component["purl"].as_str().unwrap().contains("?arch=source"), "{component}");
        assert!(!component["licenses"].as_array().unwrap().is_empty(), "{component}");
        let digests = component["externalReferences"].as_array().unwrap().iter().map(|it| &it["hashes"][0]["content"]);
        let digests: BTreeSet<String> = digests.map(|it| format!("sha256:{}", it.as_str().unwrap())).collect();
        let locked = source["file"].as_array().unwrap().iter().map(|file| file["digest"].as_str().unwrap().to_owned());
        assert_eq!(digests, locked.collect());
    }
    for part in ["bl1.bin", "bl2.bin", "bl31.bin", "uefi.fd", "tee-pager.bin", "board.dtb"] {
        let component = named(&bill, part);
        let digest = protocol_types::Digest::of(&fs::read(build.join("parts").join(part)).unwrap()).hex();
        assert_eq!((&component["type"], &component["hashes"][0]["content"]), (&"firmware".into(), &digest.into()));
    }
    assert_eq!(named(&bill, "key-store")["licenses"][0]["expression"], "Apache-2.0");
    let trusted_os = named(&bill, "optee-os");
    assert!(trusted_os["properties"].to_string().contains("\"firmware\""), "{trusted_os}");
    let report = licences(&build);
    for text in ["\n==== source edk2 ====\n", "\n==== source arm-trusted-firmware ====\n", "\n==== optee-os ====\n"] {
        assert!(report.contains(text), "{text}");
    }
}

#[test]
fn image_a_difference_says_what_a_new_version_changes() {
    let [old, new] = [FIRST, SECOND].map(|order| images::image(order, Signer::Owner).unwrap().display().to_string());
    let difference: Value =
        serde_json::from_str(&images::mbl(&["--json", "image", "diff", &old, &new]).unwrap()).unwrap();
    assert_eq!(difference["facts"]["version"], serde_json::json!({ "old": "1.0.0", "new": "1.1.0" }));
    assert_eq!(difference["packages"], serde_json::json!({}));
    assert_eq!(difference["files"], serde_json::json!({ "usr/lib/os-release": "changed" }));
    let [new_bytes, all_bytes] = ["new_bytes", "all_bytes"].map(|name| difference[name].as_u64().unwrap());
    assert!(0 < new_bytes && new_bytes < all_bytes / 20, "one small file: {new_bytes} of {all_bytes}");
    let text = images::mbl(&["image", "diff", &old, &new]).unwrap();
    assert!(text.contains("version: 1.0.0 -> 1.1.0\n") && text.contains("\n~ usr/lib/os-release\n"), "{text}");
}
