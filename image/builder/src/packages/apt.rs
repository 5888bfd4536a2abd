//! apt with lists, caches and a package state of its own, so that it needs no root and never changes the machine's. Where the
//! machine gets Debian from, and through which proxy, stays the machine's own setting.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use protocol_types::Digest;

use super::{PackageError, control, control::Control, mirror::Mirror};
use crate::command;

/// The machine's source files, in the order in which apt reads them.
const SOURCES: (&str, &str) = ("/etc/apt/sources.list", "/etc/apt/sources.list.d");

/// apt's own program for single files.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// What stands for the architecture of sources.
const SOURCE: &str = "source";

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
        Self::in_folder(cache, release, architecture)?.with_list(&mirror()?.list("deb", release))
    }

    /// apt for the sources of the Debian release `release` from the mirror that this machine uses.
    pub(crate) fn for_sources(cache: &Path, release: &str) -> Result<Self, PackageError> {
        Self::in_folder(cache, release, SOURCE)?.with_list(&mirror()?.list("deb-src", release))
    }

    fn with_list(mut self, text: &str) -> Result<Self, PackageError> {
        let list = self.folder.join("sources.list");
        fs::write(&list, text).map_err(|source| PackageError::Cache { path: list.clone(), source })?;
        self.options.push(format!("Dir::Etc::sourcelist={}", list.display()));
        self.options.push("Dir::Etc::sourceparts=-".to_owned());
        Ok(self)
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

    /// What belongs to the newest source of each of `names`, as apt prints it: address, name, size and digest of each file.
    pub(crate) fn source_files(&self, name: &str) -> Result<String, PackageError> {
        self.run("apt-get", &["--print-uris", "--only-source", "source", name])
    }

    /// Downloads `path` of the archives into `to`; what does not have `digest` is refused.
    pub(crate) fn download_file(&self, path: &str, digest: &Digest, to: &Path) -> Result<(), PackageError> {
        let (digest, to) = (format!("SHA256:{}", digest.hex()), to.display().to_string());
        let mirror = mirror()?;
        let [first, second] = mirror.addresses().map(|address| format!("{address}/{path}"));
        let fetch = |address: &str| self.run(HELPER, &["download-file", address, &to, &digest]);
        // Which archive has it, the lock does not say.
        fetch(&first).or_else(|_| fetch(&second)).map(drop)
    }

    /// Downloads exact versions, each given as name and version, into [`Apt::downloads`].
    pub(crate) fn download(&self, exact: &[(&str, &str)]) -> Result<(), PackageError> {
        let exact: Vec<String> = exact.iter().map(|(name, version)| format!("{name}={version}")).collect();
        let words: Vec<&str> = ["download"].into_iter().chain(exact.iter().map(String::as_str)).collect();
        self.run("apt-get", &words).map(|_| ())
    }
}

/// The mirror that this machine uses.
fn mirror() -> Result<Mirror, PackageError> {
    let texts = source_files()?;
    Mirror::read(texts.iter().map(String::as_str)).ok_or(PackageError::NoMirror)
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
