//! PostgreSQL, as Debian packages it, for tests; the journeys use it, too.

use std::{
    fs,
    os::unix::{fs::MetadataExt, fs::chown, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A PostgreSQL server on a socket in a folder of its own.
pub(crate) struct Server {
    process: Child,
    pub(crate) folder: tempfile::TempDir,
}

#[allow(dead_code, reason = "the tests of the store and the journeys each use a part")]
impl Server {
    /// Starts a server; it ends with the value.
    pub(crate) fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        let owner = server_owner();
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command
        };
        let data = folder.path().join("data");
        let made = run("initdb").args(["--username=postgres", "--auth=trust", "-D"]).arg(&data).status().unwrap();
        assert!(made.success(), "initdb failed in {}", data.display());
        let process = run("postgres")
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"])
            .arg("-k")
            .arg(folder.path())
            .arg("-D")
            .arg(&data)
            .spawn()
            .unwrap();
        let server = Self { process, folder };
        // It listens before it takes anybody in.
        let mut ready = Command::new(programs.join("pg_isready"));
        ready.arg("--quiet").arg("--host").arg(server.folder.path());
        let begun = Instant::now();
        let (_keep, wait) = std::sync::mpsc::channel::<()>();
        while !ready.status().unwrap().success() {
            let folder = server.folder.path().display();
            assert!(begun.elapsed() < Duration::from_secs(60), "postgres does not answer in {folder}");
            assert!(wait.recv_timeout(Duration::from_millis(50)).is_err());
        }
        server
    }

    /// Makes a database; its address.
    pub(crate) fn database(&self, name: &str) -> String {
        let mut command = Command::new(programs().join("createdb"));
        let made = command.arg("--host").arg(self.folder.path()).args(["--username=postgres", name]).status().unwrap();
        assert!(made.success(), "createdb failed");
        format!("postgres://postgres@localhost/{name}?host={}", self.folder.path().display())
    }

    /// The address of the server, for a query string with more in it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/?host={}", self.folder.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT is the server's fast and orderly end; SIGKILL would leave its own children behind.
        let ended = Command::new("sh").args(["-c", "kill -INT $0", &self.process.id().to_string()]).status();
        drop((ended, self.process.wait()));
    }
}

fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    found.expect("PostgreSQL is not installed: run `apt-get install -y --no-install-recommends postgresql`")
}

/// PostgreSQL refuses to run as root; then it runs as the user of the Debian package.
fn server_owner() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("there is a user `postgres`");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
