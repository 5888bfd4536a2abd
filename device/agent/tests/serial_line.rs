//! The factory step on a terminal that is the kernel's console too.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod pki;

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use pki::{World, package};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// The operator's end of a serial port, and the device's.
fn serial_port() -> (File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = rustix::fs::open(ptsname(&ours, Vec::new()).unwrap(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
    (File::from(ours), theirs.unwrap())
}

/// Reads until `end` was said.
fn heard(port: &mut File, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut piece = [0; 4096];
        let length = port.read(&mut piece).unwrap();
        text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    text
}

fn factory_step(folder: &Path, device: OwnedFd) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mbl-agent"))
        .args(["factory", "--device-dir"])
        .arg(folder)
        .stdin(Stdio::from(device.try_clone().unwrap()))
        .stdout(Stdio::from(device))
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The kernel wants the port read until the device lets go of it.
fn ended(mut step: Child, mut port: File) -> ExitStatus {
    std::thread::spawn(move || while port.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {});
    step.wait().unwrap()
}

#[test]
fn a_person_who_wants_the_terminal_ends_the_step_and_leaves_a_device_that_can_be_provisioned() {
    let folder = tempfile::tempdir().unwrap();
    let (mut port, device) = serial_port();
    let step = factory_step(folder.path(), device);
    heard(&mut port, "-----END CERTIFICATE REQUEST-----");
    port.write_all(b"\x03").unwrap();
    heard(&mut port, "mbl-factory: refused: given up");
    assert_eq!(ended(step, port).code(), Some(3));
    assert!(!folder.path().join("factory").exists());
}

#[test]
fn a_package_longer_than_a_terminal_edits_arrives_on_a_noisy_line_and_is_answered() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (mut port, device) = serial_port();
    let step = factory_step(folder.path(), device);

    let end = "-----END CERTIFICATE REQUEST-----";
    let first = heard(&mut port, end);
    port.write_all(b"\r\nnobody there\r\n").unwrap();
    // Noise begins no package, so the request is said once more.
    let second = heard(&mut port, end);
    let request = |said: &str| said[said.find("-----BEGIN").unwrap()..].replace('\r', "");
    let certificate = world.factory.sign_unnamed(&request(&first), ("acme", "gate-42"));
    world.factory.sign_unnamed(&request(&second), ("acme", "gate-42"));

    let mut document = world.document("gate-42", "acme", "coaps+tcp://127.0.0.1:5684");
    document.tuf_root = serde_json::json!({ "signed": { "keys": "k".repeat(9000) }, "signatures": [] }).to_string();
    let package = package(&document, &certificate);
    port.write_all(format!("noise {package}\n").as_bytes()).unwrap();
    let said = heard(&mut port, "mbl-factory: accepted sha256:");
    assert!(!said.contains("kkkk"), "the package came back as an echo: {said}");
    assert!(ended(step, port).success());
    assert!(folder.path().join("factory/factory.json").exists());
}
