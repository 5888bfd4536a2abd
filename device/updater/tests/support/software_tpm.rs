//! A TPM 2.0 in software, behind a socket.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// It keeps for good what a TPM keeps for good, also over the end of its process.
pub(crate) struct Software {
    dir: tempfile::TempDir,
    process: Child,
}

impl Software {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = spawn(dir.path());
        Self { dir, process }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Power fails and returns.
    pub(crate) fn restart(&mut self) {
        self.stop();
        for name in ["socket", "control"] {
            // It may have taken them along.
            drop(fs::remove_file(self.dir.path().join(name)));
        }
        self.process = spawn(self.dir.path());
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The program is in the Debian package `swtpm`.
fn spawn(dir: &Path) -> Child {
    let server = format!("type=unixio,path={}", dir.join("socket").display());
    let control = format!("type=unixio,path={}", dir.join("control").display());
    let state = format!("dir={}", dir.display());
    let mut process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--server", &server, "--ctrl", &control, "--tpmstate", &state])
        .args(["--flags", "not-need-init,startup-clear"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It listens a moment after it was started.
    while UnixStream::connect(dir.join("socket")).is_err() {
        assert_eq!(process.try_wait().unwrap(), None, "swtpm ended");
        std::thread::yield_now();
    }
    process
}

impl Drop for Software {
    fn drop(&mut self) {
        self.stop();
    }
}
