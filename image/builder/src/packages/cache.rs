//! Packages by digest, and the trees unpacked from them: kept between builds, checked at each use. Needs no root.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use protocol_types::{Digest, Hasher};

use super::{
    PackageError,
    apt::Apt,
    lock::{Lock, LockError, LockedPackage, Pool},
};
use crate::command;

/// A cache of packages and of the trees unpacked from them.
#[derive(Debug)]
pub struct PackageCache {
    path: PathBuf,
    /// Held while the cache is used, so that two builds do not write into one tree.
    _lock: File,
}

/// The folder of the work folders.
const SCRATCH: &str = "scratch";
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
        clear(&path.join(SCRATCH));
        Ok(Self { path, _lock: lock })
    }

    /// The folder of the cache.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty folder on the file system of the cache, gone when dropped.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir, PackageError> {
        let path = self.make(SCRATCH)?;
        tempfile::tempdir_in(&path).map_err(|source| PackageError::Cache { path, source })
    }

    /// The newest versions that this machine's own apt knows of `names`, without what they depend on; pinned at the first call.
    pub(crate) fn machine_packages(&self, names: &[&str]) -> Result<Vec<LockedPackage>, PackageError> {
        let pins = self.path.join("machine-pins.toml");
        let wanted: BTreeSet<&str> = names.iter().copied().collect();
        if let Some(pinned) = self.pinned(&pins, &wanted)? {
            return Ok(pinned);
        }
        let apt = Apt::for_machine(&self.path)?;
        apt.update()?;
        let found = apt.candidates(&wanted)?.into_iter().map(|control| LockedPackage {
            pool: Pool::Device,
            name: control.name,
            version: control.version,
            architecture: control.architecture,
            size: control.size,
            digest: control.digest,
            needs: Vec::new(),
        });
        // A name that is its own virtual package as well is shown once for each.
        let found: BTreeMap<String, LockedPackage> =
            found.filter(|p| wanted.contains(p.name.as_str())).map(|p| (p.name.clone(), p)).collect();
        let found: Vec<LockedPackage> = found.into_values().collect();
        self.fetch(&apt, &found)?;
        Lock::new(found.clone())?.save(&pins)?;
        Ok(found)
    }

    /// What was pinned, if it is of these names and still in the cache.
    fn pinned(&self, pins: &Path, wanted: &BTreeSet<&str>) -> Result<Option<Vec<LockedPackage>>, PackageError> {
        let lock = match Lock::load(pins) {
            Ok(lock) => lock,
            Err(LockError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            // To pin anew would change what images are made with, and nobody would hear of it.
            Err(source) => return Err(PackageError::Pins { path: pins.to_owned(), source }),
        };
        let pinned: Vec<LockedPackage> = lock.pool(Pool::Device).cloned().collect();
        if !pinned.iter().map(|package| package.name.as_str()).eq(wanted.iter().copied()) {
            return Ok(None);
        }
        for package in &pinned {
            if !self.holds(package)? {
                return Ok(None);
            }
        }
        Ok(Some(pinned))
    }

    /// Makes sure that the cache holds `packages`, downloading what is missing.
    pub(crate) fn fetch(&self, apt: &Apt, packages: &[LockedPackage]) -> Result<(), PackageError> {
        let mut missing = Vec::new();
        for package in packages {
            if !self.holds(package)? {
                missing.push(package);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        apt.update()?;
        let on_mirror = apt.show(&missing.iter().map(|package| package.name.as_str()).collect())?;
        let there = |package: &LockedPackage| {
            on_mirror.iter().any(|control| control.name == package.name && control.digest == package.digest)
        };
        let gone: Vec<String> = missing
            .iter()
            .filter(|package| !there(package))
            .map(|package| format!("{} {}", package.name, package.version))
            .collect();
        if !gone.is_empty() {
            return Err(PackageError::Gone { packages: gone.join(", ") });
        }
        let exact: Vec<(&str, &str)> = missing.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        apt.download(&exact)?;
        self.take_in(&apt.downloads())?;
        for package in missing {
            if !self.holds(package)? {
                return Err(PackageError::Digest { package: package.name.clone() });
            }
        }
        Ok(())
    }

    /// Moves every downloaded package under the name of its digest.
    fn take_in(&self, downloads: &Path) -> Result<(), PackageError> {
        let store = self.make("packages")?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PackageError::Cache { path, source }
        };
        for entry in fs::read_dir(downloads).map_err(failed(downloads))? {
            let path = entry.map_err(failed(downloads))?.path();
            let digest = digest_of(&path).map_err(failed(&path))?;
            fs::rename(&path, store.join(format!("{}.deb", digest.hex()))).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Whether the cache holds `package`; a file of its name and another content is refused, not replaced in silence.
    fn holds(&self, package: &LockedPackage) -> Result<bool, PackageError> {
        let path = self.file(package);
        match digest_of(&path) {
            Ok(digest) if digest == package.digest => Ok(true),
            Ok(_) => Err(PackageError::Tampered { package: package.name.clone(), path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(PackageError::Cache { path, source }),
        }
    }

    /// The file of a package that was fetched.
    pub fn file(&self, package: &LockedPackage) -> PathBuf {
        self.path.join("packages").join(format!("{}.deb", package.digest.hex()))
    }

    /// The tree unpacked from `packages`, which were fetched before, with the empty folders `mount_points` in it.
    pub(crate) fn tree(&self, packages: &[LockedPackage], mount_points: &[&str]) -> Result<PathBuf, PackageError> {
        let list: String = packages.iter().map(|package| format!("{}\n", package.digest.hex())).collect();
        let list = list + &mount_points.join(" ");
        let tree = self.path.join("trees").join(Digest::of(list.as_bytes()).hex());
        if !tree.is_dir() {
            self.unpack(packages, mount_points, &tree)?;
        }
        Ok(tree)
    }

    fn unpack(&self, packages: &[LockedPackage], mount_points: &[&str], tree: &Path) -> Result<(), PackageError> {
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
        for name in mount_points {
            fs::create_dir_all(fresh.path().join(name)).map_err(cache)?;
        }
        // The folder of a `TempDir` is private; a root folder is not.
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(cache)?;
        fs::rename(fresh.keep(), tree).map_err(cache)
    }

    pub(super) fn make(&self, folder: &str) -> Result<PathBuf, PackageError> {
        let path = self.path.join(folder);
        fs::create_dir_all(&path).map_err(|source| PackageError::Cache { path: path.clone(), source })?;
        Ok(path)
    }
}

/// Removes what builds that were killed have left in the folder `scratch`. Nobody works in it while the cache is locked, unless it is a
/// link to where another cache may have its own; what cannot be removed is in nobody's way.
fn clear(scratch: &Path) {
    if scratch.is_symlink() {
        return;
    }
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        fs::remove_dir_all(entry.path()).ok();
    }
}

/// The SHA-256 of a file.
pub(crate) fn digest_of(path: &Path) -> io::Result<Digest> {
    let (mut from, mut hasher) = (File::open(path)?, Hasher::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut from, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::lock::tests::package;

    #[test]
    fn a_package_that_was_changed_in_the_cache_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::open(dir.path()).unwrap();
        let wanted = LockedPackage { digest: Digest::of(b"package"), ..package("a", &[]) };
        assert!(!cache.holds(&wanted).unwrap());
        fs::create_dir(dir.path().join("packages")).unwrap();
        fs::write(cache.file(&wanted), b"package").unwrap();
        assert!(cache.holds(&wanted).unwrap());
        fs::write(cache.file(&wanted), b"tampered").unwrap();
        let error = cache.holds(&wanted).unwrap_err().to_string();
        assert!(error.contains("package `a`") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn what_a_killed_build_left_is_gone_when_the_cache_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::open(dir.path()).unwrap();
        let left = cache.scratch().unwrap().keep();
        fs::write(left.join("root"), b"half").unwrap();
        drop(cache);
        let cache = PackageCache::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(cache.scratch().unwrap().path().is_dir());
    }

    #[test]
    fn pins_that_cannot_be_read_are_not_pinned_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::open(dir.path()).unwrap();
        let wanted = LockedPackage { digest: Digest::of(b"package"), ..package("a", &[]) };
        fs::create_dir(dir.path().join("packages")).unwrap();
        fs::write(cache.file(&wanted), b"package").unwrap();
        let pins = dir.path().join("machine-pins.toml");
        Lock::new(vec![wanted.clone()]).unwrap().save(&pins).unwrap();
        assert_eq!(cache.machine_packages(&["a"]).unwrap(), [wanted]);
        fs::write(&pins, "format = 1\n[[pack").unwrap();
        let error = cache.machine_packages(&["a"]).unwrap_err().to_string();
        assert!(error.contains("machine-pins.toml") && error.contains("remove it"), "{error}");
    }
}
