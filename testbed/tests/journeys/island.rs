//! A machine with a real NetworkManager and a real message bus in namespaces of its own, where `mbl-updater configure-system` answers as
//! the service manager has it answer on a board. Needs root.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use testbed::{images::tree, programs::program};

/// Whom the machine reaches over its cable.
pub(crate) const NEIGHBOUR: &str = "198.51.100.1";

/// The machine; it is gone with this.
pub(crate) struct Island {
    folder: tempfile::TempDir,
    machine: Child,
}

impl Island {
    /// A machine whose settings were rendered before NetworkManager started.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Programs of others walk there as users of their own.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().join("root");
        for name in ["usr/bin", "proc/sys/kernel", "mbl/run", "mbl/state/agent", "mbl/state/updater"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("network-manager");
        let scripts = tree().join("testbed/network-manager");
        run(Command::new(scripts.join("fetch")).arg(&programs));
        let libraries = format!(
            "LD_LIBRARY_PATH=$(echo {0}/usr/lib/*-linux-gnu) exec {0}/usr/bin/nmcli \"$@\"",
            programs.display()
        );
        // There is neither journald nor chrony to be told anything.
        for (name, does) in [("nmcli", libraries.as_str()), ("systemctl", "exit 0")] {
            let path = root.join("usr/bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("/usr/bin/busctl", root.join("usr/bin/busctl")).unwrap();
        // That of the machine for whoever is in it.
        symlink("/proc/sys/kernel/hostname", root.join("proc/sys/kernel/hostname")).unwrap();
        let mut machine = Command::new("unshare");
        machine.args(["--mount", "--net", "--uts", "--propagation", "private"]).arg(scripts.join("island")).arg(&root);
        machine.arg(&programs).arg(tree().join("image/rootfs/overlay/base/etc/NetworkManager/conf.d/mbl.conf"));
        let mut machine = machine.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(machine.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let island = Self { folder, machine };
        assert_eq!(said, "ready\n", "{}", island.log());
        island.listen();
        island
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Where the settings of its operating system are taken.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("mbl/run/system.sock")
    }

    /// What NetworkManager has written down.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root().join("network-manager.log")).unwrap_or_default()
    }

    /// A command in the machine.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        enter(self.machine.id(), program)
    }

    /// What a command in the machine says; empty if it fails.
    pub(crate) fn says(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap());
        let output = command.args(words).stderr(Stdio::null()).output().unwrap();
        if output.status.success() {
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        } else {
            String::new()
        }
    }

    /// Starts a program for each connection, as the unit `mbl-system.socket` has it.
    fn listen(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (machine, root) = (self.machine.id(), self.root());
        let updater = program("mbl-updater").unwrap();
        let log = root.join("system.log");
        thread::spawn(move || {
            for line in listener.incoming().map_while(Result::ok) {
                let log = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
                let mut answer = enter(machine, &updater);
                answer.args(["configure-system", "--on-request", "--device-dir"]).arg(root.join("mbl"));
                answer.arg("--root").arg(&root).stdin(OwnedFd::from(line)).stderr(log);
                drop(answer.status());
            }
        });
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.machine.stdin.take());
        drop(self.machine.wait());
    }
}

fn enter(machine: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &machine.to_string(), "--mount", "--net", "--uts", "--"]).arg(program);
    command
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
