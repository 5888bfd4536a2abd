//! Runs build tools from their own unpacked packages in a user namespace: they see the tools, read-only, one work folder and
//! the keys that they are given, no network and nothing else of the machine. Never needs root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    command::{self, CommandError},
    packages::{LockedPackage, PackageCache, PackageError},
};

/// The build tools, ready to run.
#[derive(Debug)]
pub(crate) struct Sandbox {
    tools: PathBuf,
    /// Files that they see, read-only, under their names in [`KEYS`].
    keys: Vec<PathBuf>,
    /// The time that tools take for now.
    time: u64,
}

/// Where tools see the keys that they are shown: in a folder that lives in memory alone.
const KEYS: &str = "/tmp/keys";
/// What bubblewrap mounts something on.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "tmp", "work"];

impl Sandbox {
    /// The tools of `packages`, which were fetched before; to them it is always `time`, in seconds since 1970.
    pub(crate) fn open(cache: &PackageCache, packages: &[LockedPackage], time: u64) -> Result<Self, PackageError> {
        Ok(Self { tools: cache.tree(packages, &MOUNT_POINTS)?, keys: Vec::new(), time })
    }

    /// The same tools, which see the private keys in the files `keys`, too, under their names in `/tmp/keys`. Keys are never copied
    /// for them: a copy would stay when this program is killed.
    pub(crate) fn with_keys(&self, keys: &[&Path]) -> Self {
        let keys = keys.iter().map(|path| path.to_path_buf()).collect();
        Self { tools: self.tools.clone(), keys, time: self.time }
    }

    /// Runs `program` in the folder `work`, which it sees as `/work`, and returns what it wrote to standard output.
    pub(crate) fn run(&self, work: &Path, program: &str, arguments: &[&str]) -> Result<Vec<u8>, CommandError> {
        let mut bwrap = self.command(work, program, arguments);
        command::output(&mut bwrap, "bubblewrap").map_err(|error| match error {
            // The reader wants to know which tool failed, not what it ran in.
            CommandError::Failed { status, said, .. } => {
                CommandError::Failed { program: program.to_owned(), status, said }
            }
            start @ CommandError::Start { .. } => start,
        })
    }

    fn command(&self, work: &Path, program: &str, arguments: &[&str]) -> Command {
        let mut bwrap = Command::new("bwrap");
        bwrap.args(["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind"]).arg(&self.tools).arg("/");
        bwrap.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind"]).arg(work).arg("/work");
        for key in &self.keys {
            bwrap.arg("--ro-bind").arg(key).arg(Path::new(KEYS).join(key.file_name().unwrap_or_default()));
        }
        bwrap.args(["--chdir", "/work", "--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin:/usr/lib/systemd"]);
        bwrap.args(["--setenv", "LC_ALL", "C.UTF-8", "--setenv", "TZ", "UTC", "--setenv", "MTOOLS_SKIP_CHECK", "1"]);
        bwrap.args(["--setenv", "SOURCE_DATE_EPOCH", &self.time.to_string(), "--", program]).args(arguments);
        bwrap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_read_only_outside_the_work_folder_and_only_to_a_program_that_needs_it() {
        let sandbox = Sandbox { tools: "tools".into(), keys: Vec::new(), time: 0 };
        let words = |sandbox: &Sandbox| -> Vec<String> {
            let command = sandbox.command(Path::new("work"), "sbsign", &["image"]);
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        let with = words(&sandbox.with_keys(&[Path::new("keys/db.key"), Path::new("keys/pcr.key")]));
        let at = |wanted: &[&str]| with.windows(wanted.len()).position(|found| found == wanted);
        let memory = at(&["--tmpfs", "/tmp"]).unwrap();
        for name in ["db.key", "pcr.key"] {
            let shown = at(&["--ro-bind", &format!("keys/{name}"), &format!("{KEYS}/{name}")]).unwrap();
            assert!(shown > memory, "the folder in memory would hide {name}");
        }
        assert!(words(&sandbox).iter().all(|word| !word.contains(".key")));
    }
}
