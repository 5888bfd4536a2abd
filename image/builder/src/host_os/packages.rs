//! Debian packages from the machine's own apt sources: fetched once into a private cache, pinned there by digest, unpacked
//! without running their scripts. Never changes the machine's package state and needs no root.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use protocol_types::{Digest, Hasher};

use crate::command::{self, CommandError};

/// A cache of packages and of the trees unpacked from them.
#[derive(Debug)]
pub struct PackageCache {
    path: PathBuf,
    /// Held while the cache is used, so that two builds do not write into one tree.
    _lock: File,
}

/// One package file and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    file: String,
    digest: Digest,
}

/// A package tree that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A tool failed.
    #[error("cannot fetch or unpack packages")]
    Command(#[from] CommandError),
    /// The cache could not be read or written.
    #[error("cannot use the package cache at {path}")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// apt answered in a form that is not known.
    #[error("apt-get announced a download in an unknown form: {line}")]
    Announcement {
        /// What it said.
        line: String,
    },
    /// A downloaded package is not the one that apt announced.
    #[error("package {file} does not have the digest that apt announced")]
    Digest {
        /// The package's file name.
        file: String,
    },
}

/// What no device reads.
const PRUNED: [&str; 4] = ["usr/share/man", "usr/share/info", "usr/share/lintian", "usr/share/locale"];
/// Debian's merged `/usr`: packages of Debian 12 still carry `/bin` and `/lib`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

impl PackageCache {
    /// Opens the cache at `path` and waits until no other build uses it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, PackageError> {
        let path = path.into();
        let lock = fs::create_dir_all(&path).and_then(|()| {
            let lock = File::create(path.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        });
        let lock = lock.map_err(|source| PackageError::Cache { path: path.clone(), source })?;
        Ok(Self { path, _lock: lock })
    }

    /// The tree unpacked from the packages with these names, from the cache where it holds them.
    ///
    /// The first call pins the packages in `pins`; later calls use the pinned ones and no network.
    pub fn tree(&self, names: &[&str]) -> Result<PathBuf, PackageError> {
        let packages = match self.pinned(names) {
            Some(packages) => packages,
            None => self.download(names)?,
        };
        let list: String =
            packages.iter().map(|package| format!("{} {}\n", package.digest.hex(), package.file)).collect();
        let tree = self.path.join("trees").join(Digest::of(list.as_bytes()).hex());
        if !tree.is_dir() {
            self.unpack(&packages, &tree)?;
        }
        Ok(tree)
    }

    /// An empty folder on the file system of the cache, gone when dropped.
    pub(super) fn scratch(&self) -> Result<tempfile::TempDir, PackageError> {
        let path = self.make("scratch")?;
        tempfile::tempdir_in(&path).map_err(|source| PackageError::Cache { path, source })
    }

    /// What was pinned for exactly these names, if every file is still what it was.
    fn pinned(&self, names: &[&str]) -> Option<Vec<Package>> {
        let text = fs::read_to_string(self.path.join("pins")).ok()?;
        let (head, rest) = text.split_once('\n')?;
        if head != names.join(" ") {
            return None;
        }
        let packages: Option<Vec<Package>> = rest.lines().map(parse_pin).collect();
        let packages = packages?;
        let whole = |package: &Package| digest_of(&self.file(package)).is_ok_and(|digest| digest == package.digest);
        packages.iter().all(whole).then_some(packages)
    }

    fn download(&self, names: &[&str]) -> Result<Vec<Package>, PackageError> {
        for folder in ["lists/partial", "apt/archives/partial", "debs"] {
            self.make(folder)?;
        }
        command::output(self.apt_get().arg("update"), "apt")?;
        let announced = command::output(self.apt_get().args(["--print-uris", "download"]).args(names), "apt")?;
        let mut packages = String::from_utf8_lossy(&announced)
            .lines()
            .map(|line| parse_announcement(line).ok_or_else(|| PackageError::Announcement { line: line.to_owned() }))
            .collect::<Result<Vec<_>, _>>()?;
        packages.sort_unstable_by(|a, b| a.file.cmp(&b.file));
        command::output(self.apt_get().arg("download").args(names), "apt")?;
        let mut pins = names.join(" ") + "\n";
        for package in &packages {
            let path = self.file(package);
            if digest_of(&path).map_err(|source| PackageError::Cache { path, source })? != package.digest {
                return Err(PackageError::Digest { file: package.file.clone() });
            }
            pins += &format!("{} {}\n", package.digest.hex(), package.file);
        }
        let path = self.path.join("pins");
        fs::write(&path, pins).map_err(|source| PackageError::Cache { path, source })?;
        Ok(packages)
    }

    /// apt with the machine's sources and keys, but with lists and downloads of our own, so that it needs no root.
    fn apt_get(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.arg("-qq").current_dir(self.path.join("debs"));
        let lists = format!("Dir::State::Lists={}", absolute(&self.path.join("lists")).display());
        let cache = format!("Dir::Cache={}", absolute(&self.path.join("apt")).display());
        for option in [lists.as_str(), cache.as_str(), "APT::Sandbox::User="] {
            apt.args(["-o", option]);
        }
        apt
    }

    fn unpack(&self, packages: &[Package], tree: &Path) -> Result<(), PackageError> {
        let trees = self.make("trees")?;
        let cache = |source| PackageError::Cache { path: trees.clone(), source };
        let fresh = tempfile::tempdir_in(&trees).map_err(cache)?;
        for name in MERGED {
            fs::create_dir_all(fresh.path().join("usr").join(name)).map_err(cache)?;
            std::os::unix::fs::symlink(format!("usr/{name}"), fresh.path().join(name)).map_err(cache)?;
        }
        for package in packages {
            command::pipe(
                Command::new("dpkg-deb").arg("--fsys-tarfile").arg(self.file(package)),
                Command::new("tar")
                    .args(["-x", "-p", "--no-same-owner", "--keep-directory-symlink", "-C"])
                    .arg(fresh.path()),
                "dpkg",
            )?;
        }
        for path in PRUNED {
            match fs::remove_dir_all(fresh.path().join(path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cache(error)),
                _ => {}
            }
        }
        // The folder of a `TempDir` is private; a root folder is not.
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(cache)?;
        fs::rename(fresh.keep(), tree).map_err(cache)
    }

    fn file(&self, package: &Package) -> PathBuf {
        self.path.join("debs").join(&package.file)
    }

    fn make(&self, folder: &str) -> Result<PathBuf, PackageError> {
        let path = self.path.join(folder);
        fs::create_dir_all(&path).map_err(|source| PackageError::Cache { path: path.clone(), source })?;
        Ok(path)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let (mut from, mut hasher) = (File::open(path)?, Hasher::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut from, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// A package's file name as it may stand in a folder of ours.
fn is_file_name(name: &str) -> bool {
    name.ends_with(".deb") && !name.contains('/') && !name.starts_with('.')
}

/// `'ADDRESS' FILE SIZE SHA256:HEX`, as `apt-get --print-uris` writes it.
fn parse_announcement(line: &str) -> Option<Package> {
    let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
    let file = words.next().filter(|name| is_file_name(name))?.to_owned();
    let _size: u64 = words.next()?.parse().ok()?;
    let digest = Digest::from_hex(words.next()?.strip_prefix("SHA256:")?).ok()?;
    words.next().is_none().then_some(Package { file, digest })
}

/// `HEX FILE`, as we write it.
fn parse_pin(line: &str) -> Option<Package> {
    let (digest, file) = line.split_once(' ')?;
    is_file_name(file).then_some(Package { file: file.to_owned(), digest: Digest::from_hex(digest).ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_download_is_pinned_by_the_digest_that_apt_verified() {
        let digest = Digest::of(b"package");
        let line = format!("'http://mirror.example/b_1.deb' b_1%3a2_amd64.deb 928188 SHA256:{}", digest.hex());
        let package = parse_announcement(&line).unwrap();
        assert_eq!(package, Package { file: "b_1%3a2_amd64.deb".into(), digest });
        assert_eq!(parse_pin(&format!("{} {}", digest.hex(), package.file)), Some(package));
    }

    #[test]
    fn a_package_name_that_leaves_the_cache_is_refused() {
        let digest = Digest::of(b"package").hex();
        assert_eq!(parse_announcement(&format!("'x' ../b.deb 1 SHA256:{digest}")), None);
        assert_eq!(parse_pin(&format!("{digest} ../b.deb")), None);
    }

    #[test]
    fn only_unchanged_packages_are_taken_from_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("debs")).unwrap();
        fs::write(dir.path().join("debs/a_1.deb"), b"package").unwrap();
        fs::write(dir.path().join("pins"), format!("a\n{} a_1.deb\n", Digest::of(b"package").hex())).unwrap();
        assert_eq!(cache.pinned(&["a"]).map(|packages| packages.len()), Some(1));
        assert_eq!(cache.pinned(&["a", "b"]), None, "other packages are wanted");
        fs::write(dir.path().join("debs/a_1.deb"), b"tampered").unwrap();
        assert_eq!(cache.pinned(&["a"]), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_panic(line: String) {
            let _ = parse_announcement(&line);
            let _ = parse_pin(&line);
        }
    }
}
