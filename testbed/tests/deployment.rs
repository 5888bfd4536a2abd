//! What `deploy/` says, held against the programs that it speaks of.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use testbed::programs::program;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// How long the service may take for one message.
const PATIENCE: Duration = Duration::from_secs(30);

/// The unit, with the program where this build has it.
fn unit(folder: &Path) -> PathBuf {
    let text = fs::read_to_string(format!("{DEPLOY}/systemd/mbl-service.service")).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/mbl-service "));
    let path = folder.join("mbl-service.service");
    fs::write(&path, text.replace("/usr/bin/mbl-service", &program("mbl-service").unwrap().display().to_string()))
        .unwrap();
    path
}

fn analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_unit_is_understood_and_leaves_the_service_next_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    let (well, said) = analyze(&["verify", "--man=no", "--recursive-errors=no"], &unit);
    assert!(well && !said.contains("Unknown"), "{said}");
    // Tenths of the exposure level, of which 100 is everything.
    let (well, said) = analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"], &unit);
    assert!(well, "{said}");
}

#[test]
fn the_manager_hears_that_the_service_is_up_lives_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut text = [0; 256];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).trim().to_owned()
    };
    let config = folder.path().join("settings.toml");
    fs::write(
        &config,
        "[listen]\napi = \"127.0.0.1:0\"\nbootstrap = \"127.0.0.1:0\"\nlwm2m = \"127.0.0.1:0\"\nartifacts = \"127.0.0.1:0\"\n",
    )
    .unwrap();
    let mut service = Command::new(program("mbl-service").unwrap());
    service.arg("run").arg("--config").arg(&config).arg("--data-dir").arg(folder.path().join("data"));
    service.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "900000");
    let mut service = service.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let first: Vec<String> = (0..4).map(|_| hear()).collect();
    assert!(first.contains(&"READY=1".to_owned()) && first.contains(&"WATCHDOG=1".to_owned()), "{first:?}");
    assert!(folder.path().join("data/addresses.json").exists(), "it is up once it listens");
    assert!(began.elapsed() > Duration::from_millis(300), "signs come a third of the watchdog's time apart");
    let killed = Command::new("kill").args(["-TERM", &service.id().to_string()]).status().unwrap();
    assert!(killed.success());
    while hear() != "STOPPING=1" {}
    assert!(service.wait().unwrap().success());
}
