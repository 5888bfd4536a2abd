//! What a person sees: the real program, its exit code, standard output and standard error, word for word.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene should stop at once")]

mod guide;
mod keys;
mod misuse;
mod tokens;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use protocol_release::signing::{Algorithm, SigningKey};

/// A person at a desk: a folder, a configuration, a passphrase in a file.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        desk.write("passphrase", "correct horse battery\n");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes public keys as a service would give them.
    fn service_keys(&self) {
        let key = |_| SigningKey::generate(Algorithm::Ed25519).unwrap().public().to_string();
        let [snapshot, timestamp] = [0, 1].map(key);
        self.write("service-keys.json", &format!("{{\"snapshot\": {snapshot}, \"timestamp\": {timestamp}}}"));
    }

    /// The command `mbl ARGUMENTS` with a clean environment.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mbl"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        command.env("MBL_CONFIG_DIR", "config");
        command
    }

    /// The whole picture after `mbl ARGUMENTS`, with the passphrase at hand.
    fn see(&self, arguments: &str) -> String {
        picture(self.command(arguments).env("MBL_PASSPHRASE_FILE", "passphrase"))
    }
}

/// Exit code first, then what was printed where.
fn picture(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap();
    format!("exit {code}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
