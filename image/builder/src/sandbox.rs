//! Runs build tools from their own unpacked packages in a user namespace: they see the tools, read-only, and one work folder, no
//! network and nothing else of the machine. Never needs root.

use std::path::{Path, PathBuf};

use crate::{
    command::{self, CommandError},
    packages::{LockedPackage, PackageCache, PackageError},
};

/// The build tools, ready to run.
#[derive(Debug)]
pub(crate) struct Sandbox {
    tools: PathBuf,
    /// The time that tools take for now.
    time: u64,
}

/// What bubblewrap mounts something on.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "tmp", "work"];

impl Sandbox {
    /// The tools of `packages`, which were fetched before; to them it is always `time`, in seconds since 1970.
    pub(crate) fn open(cache: &PackageCache, packages: &[LockedPackage], time: u64) -> Result<Self, PackageError> {
        Ok(Self { tools: cache.tree(packages, &MOUNT_POINTS)?, time })
    }

    /// Runs `program` in the folder `work`, which it sees as `/work`, and returns what it wrote to standard output.
    pub(crate) fn run(&self, work: &Path, program: &str, arguments: &[&str]) -> Result<Vec<u8>, CommandError> {
        let mut bwrap = std::process::Command::new("bwrap");
        bwrap.args(["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind"]).arg(&self.tools).arg("/");
        bwrap.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind"]).arg(work).arg("/work");
        bwrap.args(["--chdir", "/work", "--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin:/usr/lib/systemd"]);
        bwrap.args(["--setenv", "LC_ALL", "C.UTF-8", "--setenv", "TZ", "UTC", "--setenv", "MTOOLS_SKIP_CHECK", "1"]);
        bwrap.args(["--setenv", "SOURCE_DATE_EPOCH", &self.time.to_string(), "--", program]).args(arguments);
        command::output(&mut bwrap, "bubblewrap").map_err(|error| match error {
            // The reader wants to know which tool failed, not what it ran in.
            CommandError::Failed { status, said, .. } => {
                CommandError::Failed { program: program.to_owned(), status, said }
            }
            start @ CommandError::Start { .. } => start,
        })
    }
}
