//! apt with lists, caches and a package state of its own, so that it needs no root and never changes the machine's. Where the
//! machine gets Debian from, and through which proxy, stays the machine's own setting.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PackageError, control, control::Control, mirror::Mirror};
use crate::command;

/// The machine's source files, in the order in which apt reads them.
const SOURCES: (&str, &str) = ("/etc/apt/sources.list", "/etc/apt/sources.list.d");

/// apt for one architecture and one set of sources.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    architecture: String,
    options: Vec<String>,
}

impl Apt {
    /// apt for the Debian release `release` from the mirror that this machine uses.
    pub(crate) fn for_release(cache: &Path, release: &str, architecture: &str) -> Result<Self, PackageError> {
        let texts = source_files()?;
        let mirror = Mirror::read(texts.iter().map(String::as_str)).ok_or(PackageError::NoMirror)?;
        let mut apt = Self::in_folder(cache, release, architecture)?;
        let list = apt.folder.join("sources.list");
        fs::write(&list, mirror.list(release)).map_err(|source| PackageError::Cache { path: list.clone(), source })?;
        apt.options.push(format!("Dir::Etc::sourcelist={}", list.display()));
        apt.options.push("Dir::Etc::sourceparts=-".to_owned());
        Ok(apt)
    }

    /// apt for this machine's own release and architecture.
    pub(crate) fn for_machine(cache: &Path) -> Result<Self, PackageError> {
        let said = command::output(Command::new("dpkg").arg("--print-architecture"), "dpkg")?;
        Self::in_folder(cache, "machine", String::from_utf8_lossy(&said).trim())
    }

    fn in_folder(cache: &Path, name: &str, architecture: &str) -> Result<Self, PackageError> {
        let folder = cache.join("apt").join(format!("{name}-{architecture}"));
        let folder = std::path::absolute(&folder).map_err(|source| PackageError::Cache { path: folder, source })?;
        for part in ["lists/partial", "archives/archives/partial", "downloads"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|source| PackageError::Cache { path, source })?;
        }
        let status = folder.join("status");
        fs::write(&status, "").map_err(|source| PackageError::Cache { path: status.clone(), source })?;
        let place = |key: &str, part: &str| format!("{key}={}", folder.join(part).display());
        let options = vec![
            place("Dir::State::lists", "lists"),
            place("Dir::State::status", "status"),
            place("Dir::Cache", "archives"),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Sandbox::User=".to_owned(),
        ];
        Ok(Self { folder, architecture: architecture.to_owned(), options })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, PackageError> {
        let mut command = Command::new(program);
        command.arg("-qq").current_dir(self.downloads());
        for option in &self.options {
            command.args(["-o", option]);
        }
        let said = command::output(command.args(arguments), "apt")?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Fetches the lists of what the mirror has now.
    pub(crate) fn update(&self) -> Result<(), PackageError> {
        self.run("apt-get", &["update"]).map(|_| ())
    }

    /// Where [`Apt::download`] puts files.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.folder.join("downloads")
    }

    /// What apt would install for `named` on a machine without any package, recommended packages left out.
    pub(crate) fn closure(&self, named: &BTreeSet<&str>) -> Result<Vec<Control>, PackageError> {
        let arguments: Vec<&str> = ["--simulate", "install"].into_iter().chain(named.iter().copied()).collect();
        let said = self.run("apt-get", &arguments)?;
        let wanted: Vec<String> = said.lines().filter_map(installed).collect();
        let words: Vec<&str> = ["show"].into_iter().chain(wanted.iter().map(String::as_str)).collect();
        Ok(control::stanzas(&self.run("apt-cache", &words)?))
    }

    /// The versions of `names` that the mirror has, all of them.
    pub(crate) fn show(&self, names: &BTreeSet<&str>) -> Result<Vec<Control>, PackageError> {
        let native: Vec<String> = names.iter().map(|name| format!("{name}:{}", self.architecture)).collect();
        let words: Vec<&str> = ["show"].into_iter().chain(native.iter().map(String::as_str)).collect();
        Ok(control::stanzas(&self.run("apt-cache", &words)?))
    }

    /// The versions of `names` that apt would install.
    pub(crate) fn candidates(&self, names: &BTreeSet<&str>) -> Result<Vec<Control>, PackageError> {
        let native: Vec<String> = names.iter().map(|name| format!("{name}:{}", self.architecture)).collect();
        let words: Vec<&str> =
            ["show", "--no-all-versions"].into_iter().chain(native.iter().map(String::as_str)).collect();
        Ok(control::stanzas(&self.run("apt-cache", &words)?))
    }

    /// Downloads exact versions, each given as name and version, into [`Apt::downloads`].
    pub(crate) fn download(&self, exact: &[(&str, &str)]) -> Result<(), PackageError> {
        let exact: Vec<String> = exact.iter().map(|(name, version)| format!("{name}={version}")).collect();
        let words: Vec<&str> = ["download"].into_iter().chain(exact.iter().map(String::as_str)).collect();
        self.run("apt-get", &words).map(|_| ())
    }
}

/// `Inst NAME (VERSION ORIGIN [ARCHITECTURE])` as `NAME=VERSION`.
fn installed(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let name = words.next()?;
    let version = words.find_map(|word| word.strip_prefix('('))?;
    Some(format!("{name}={version}"))
}

fn source_files() -> Result<Vec<String>, PackageError> {
    let (file, folder) = (Path::new(SOURCES.0), Path::new(SOURCES.1));
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "list" || kind == "sources"))
        .collect();
    paths.sort();
    let paths = [file.to_owned()].into_iter().filter(|path| path.exists()).chain(paths);
    paths.map(|path| fs::read_to_string(&path).map_err(|source| PackageError::Sources { path, source })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_installation_names_exact_versions() {
        let line = "Inst libc6 [1.0] (2.41-12+deb13u5 Debian:13.8/stable [arm64]) []";
        assert_eq!(installed(line).as_deref(), Some("libc6=2.41-12+deb13u5"));
        assert_eq!(installed("Conf libc6 (2.41 Debian [arm64])"), None);
    }
}
