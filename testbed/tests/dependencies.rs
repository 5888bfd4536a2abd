//! What comes in from outside: every dependency has an allowed licence and comes from the one registry.

#![expect(clippy::unwrap_used, reason = "a broken manifest should stop this test at once")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

/// The names of one list in `deny.toml`, which `cargo deny check` reads as well.
fn allowed_licences() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
    let deny: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    deny["licenses"]["allow"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = allowed_licences();
    let mut refused = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap().to_owned();
        let text = package["license"].as_str().unwrap_or_default().to_owned();
        let fits = spdx::Expression::parse_mode(&text, spdx::ParseMode::LAX)
            .is_ok_and(|expression| expression.evaluate(|requirement| allowed.contains(&requirement.to_string())));
        if !fits {
            refused.push(format!("{name}: `{text}`"));
        }
    }
    assert!(refused.is_empty(), "not in the list of deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn every_dependency_comes_from_the_registry_or_this_tree() {
    for package in packages() {
        let source = package["source"].as_str().unwrap_or("this tree");
        assert!(source == "this tree" || source.starts_with("registry+"), "{} comes from {source}", package["name"]);
    }
}
