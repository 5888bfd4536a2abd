//! The factory step of the real program: what it accepts, what it refuses, and that it happens once.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod pki;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use device_agent::{
    identity::{Identity, IdentityError},
    key_store::KeyStore,
    layout::DeviceFolder,
};
use pki::{Step, World, begin_factory_step, begin_step, package, provisioned};

fn load(folder: &Path) -> Result<Identity, IdentityError> {
    let folder = DeviceFolder::new(folder);
    let store = KeyStore::of(&folder, None);
    Identity::load(&folder, &store)
}

const BOOTSTRAP: &str = "coaps+tcp://127.0.0.1:5684";

fn begin(folder: &Path) -> Step {
    begin_factory_step(folder, "gate-42", "acme")
}

/// Nothing of a refused package is left, and a good one is still accepted.
fn refuses(world: &World, make: impl FnOnce(&Step) -> String, because: &str) {
    let folder = tempfile::tempdir().unwrap();
    let step = begin(folder.path());
    let text = make(&step);
    let output = step.finish(&text);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "accepted: {text}");
    assert!(said.contains(because), "said {said:?} instead of {because:?}");
    assert!(!folder.path().join("factory/factory.json").exists());
    assert!(!folder.path().join("keys/factory.sha256").exists());
    provisioned(world, folder.path(), BOOTSTRAP);
}

#[test]
fn a_device_provisioned_by_the_program_has_a_sound_identity() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let document = provisioned(&world, folder.path(), BOOTSTRAP);
    let identity = load(folder.path()).unwrap();
    assert_eq!(identity.document(), &document);
    let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("keys/device-key.pem"), 0o600);
    assert_eq!(mode("factory/factory.json"), 0o444);
}

#[test]
fn a_second_factory_step_is_refused_and_changes_nothing() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    provisioned(&world, folder.path(), BOOTSTRAP);
    let key = fs::read(folder.path().join("keys/device-key.pem")).unwrap();
    let step = begin(folder.path());
    assert!(step.request.starts_with("mbl-factory: refused: this device was provisioned before"), "{}", step.request);
    let output = step.finish("{}");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("provisioned before"));
    assert_eq!(fs::read(folder.path().join("keys/device-key.pem")).unwrap(), key);
}

#[test]
fn an_interrupted_step_goes_on_with_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = |step: &Step| {
        use x509_parser::prelude::*;
        let request = ::pem::parse(&step.request).unwrap();
        let (_, request) = X509CertificationRequest::from_der(request.contents()).unwrap();
        request.certification_request_info.subject_pki.raw.to_vec()
    };
    let interrupted = begin(folder.path());
    let first = key(&interrupted);
    assert!(!interrupted.finish("").status.success());
    let again = begin(folder.path());
    assert_eq!(key(&again), first);
    drop(again.finish(""));
}

#[test]
fn a_device_that_was_told_nothing_becomes_who_the_document_says() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_mbl-agent"));
    command.args(["factory", "--device-dir"]).arg(folder.path());
    let step = begin_step(command);
    let certificate = world.factory.sign_unnamed(&step.request, ("acme", "gate-42"));
    let output = step.finish(&package(&world.document("gate-42", "acme", BOOTSTRAP), &certificate));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(load(folder.path()).unwrap().document().endpoint.as_str(), "gate-42");
}

#[test]
fn a_step_that_lost_power_after_its_record_ends_without_another_package() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let document = provisioned(&world, folder.path(), BOOTSTRAP);
    let factory = folder.path().join("factory");
    fs::rename(factory.join("factory.json"), factory.join("factory.staged.json")).unwrap();
    let step = begin(folder.path());
    assert!(step.request.starts_with("mbl-factory: accepted sha256:"), "{}", step.request);
    assert!(step.finish("").status.success());
    assert_eq!(load(folder.path()).unwrap().document(), &document);
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let world = World::new();
    let other = tempfile::tempdir().unwrap();
    let stolen = begin(other.path());
    let certificate = world.factory.sign_request(&stolen.request, (2020, 2120));
    drop(stolen.finish(""));
    refuses(&world, |_| package(&world.document("gate-42", "acme", BOOTSTRAP), &certificate), "another key");
}

#[test]
fn a_certificate_for_another_subject_is_refused() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    // The same key asks under another name: the request of an interrupted step.
    let step = begin_factory_step(folder.path(), "gate-43", "acme");
    let certificate = world.factory.sign_request(&step.request, (2020, 2120));
    drop(step.finish(""));
    let output = begin(folder.path()).finish(&package(&world.document("gate-42", "acme", BOOTSTRAP), &certificate));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("expected O=acme, CN=gate-42"), "{said}");
}

#[test]
fn a_package_for_another_device_or_of_another_form_is_refused() {
    let world = World::new();
    let signed = |step: &Step| world.factory.sign_request(&step.request, (2020, 2120));
    let good = || world.document("gate-42", "acme", BOOTSTRAP);
    refuses(
        &world,
        |step| package(&world.document("gate-43", "acme", BOOTSTRAP), &signed(step)),
        "not for this device",
    );
    refuses(
        &world,
        |step| package(&world.document("gate-42", "evil", BOOTSTRAP), &signed(step)),
        "not for this device",
    );
    refuses(&world, |step| package(&world.document("gate-42", "acme", "https://x"), &signed(step)), "coaps+tcp://");
    refuses(&world, |step| package(&world.document("gate-42", "acme", "nonsense"), &signed(step)), "bootstrap address");
    refuses(
        &world,
        |step| {
            let mut document = good();
            document.service_authority = "no certificate".to_owned();
            package(&document, &signed(step))
        },
        "service authority",
    );
    refuses(
        &world,
        |step| {
            let mut document = good();
            document.format = 2;
            package(&document, &signed(step))
        },
        "only format 1 is known",
    );
    refuses(&world, |_| package(&good(), ""), "1 to 5 certificates");
    refuses(&world, |_| "{".to_owned(), "not a JSON object");
    refuses(&world, |step| package(&good(), &signed(step)).replacen('{', r#"{"extra":1,"#, 1), "unknown field `extra`");
    refuses(&world, |_| format!("{{\"certificate\":\"{}\"", "A".repeat(2 << 20)), "not a JSON object");
}

#[test]
fn a_document_for_another_board_is_refused_by_a_system_that_knows_its_own() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let line = folder.path().join("cmdline");
    let system = |board: &str| {
        let root_hash = protocol_types::Digest::of(b"root").hex();
        fs::write(&line, format!("roothash={root_hash} mbl.security_version=1 mbl.key_store=none mbl.board={board}\n"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mbl-agent"));
        command.args(["factory", "--device-dir"]).arg(folder.path()).arg("--signed-cmdline").arg(&line);
        begin_step(command)
    };
    let document = world.document("gate-42", "acme", BOOTSTRAP);
    let provision = |board: &str| {
        let step = system(board);
        let certificate = world.factory.sign_unnamed(&step.request, ("acme", "gate-42"));
        step.finish(&package(&document, &certificate))
    };
    let output = provision("rpi4");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("and this is a rpi4"), "{said}");
    assert!(provision(document.board.as_str()).status.success());
}

#[test]
fn an_altered_document_is_noticed_on_every_later_start() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    provisioned(&world, folder.path(), BOOTSTRAP);
    let path = folder.path().join("factory/factory.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replace("127.0.0.1", "127.0.0.2")).unwrap();
    let refused = load(folder.path());
    assert!(matches!(refused, Err(IdentityError::Altered { .. })), "{refused:?}");
}
