//! The files in a Debian package, read as a stream of the tar inside. Never runs what a package brings along.

use std::{
    io::Read,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::command::{self, CommandError};

/// The tar of a package while it is being read.
pub(crate) struct Deb {
    child: Child,
}

impl Deb {
    /// Begins to read the package at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| CommandError::Start { program: "dpkg-deb".into(), package: "dpkg", source })?;
        Ok(Self { child })
    }

    /// The bytes of the tar.
    pub(crate) fn tar(&mut self) -> Option<&mut ChildStdout> {
        self.child.stdout.as_mut()
    }

    /// Reads what is left and makes sure that the package was whole.
    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        let start = |source| CommandError::Start { program: "dpkg-deb".into(), package: "dpkg", source };
        if let Some(rest) = self.child.stdout.as_mut() {
            std::io::copy(&mut rest.by_ref(), &mut std::io::sink()).map_err(start)?;
        }
        let status = self.child.wait().map_err(start)?;
        if status.success() {
            return Ok(());
        }
        Err(CommandError::Failed { program: "dpkg-deb".into(), status, said: "the package is damaged".into() })
    }
}

/// The source package of the package at `path`, if it is called otherwise (Debian policy 5.6.1).
pub(crate) fn source(path: &Path) -> Result<Option<String>, CommandError> {
    let said = command::output(Command::new("dpkg-deb").arg("--field").arg(path).arg("Source"), "dpkg")?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.split_whitespace().next().map(str::to_owned))
}

impl Drop for Deb {
    fn drop(&mut self) {
        // Closing our end makes dpkg-deb stop writing; waiting leaves no zombie behind. After `finish` both are done.
        drop(self.child.stdout.take());
        drop(self.child.wait());
    }
}
