//! The operating system component of the board `host`: a real read-only root image from Debian packages, made to be shipped,
//! verified and installed like any board's, though the board simulator does not start the programs in it.

mod tree;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use protocol_release::document::{DocumentError, FormatOne, HostUki, OsIndex, SectionName};
use protocol_types::{BoardName, NameError, ReleaseVersion};

pub use tree::TreeError;

use crate::{
    artifacts::{ArtifactError, ArtifactFolder, Stored},
    command::{self, CommandError},
    os_folder::{self, ARTIFACTS, INDEX_FILE},
    packages::{PackageCache, PackageError},
};

/// The packages of the root image, about 44 MB unpacked: the service manager, the C library, TLS, time and a shell.
pub const PACKAGES: &[&str] = &[
    "base-files",
    "busybox-static",
    "ca-certificates",
    "chrony",
    "dbus",
    "kmod",
    "libblkid1",
    "libc-bin",
    "libc6",
    "libcap2",
    "libkmod2",
    "liblzma5",
    "libmount1",
    "libseccomp2",
    "libssl3",
    "libsystemd-shared",
    "libsystemd0",
    "libudev1",
    "libzstd1",
    "openssl",
    "systemd",
    "tzdata",
    "zlib1g",
];

/// File systems of different versions keep one identity: what tells them apart is their digest.
const UUID: &str = "6d626c2d-686f-4374-8073-000000000001";

/// An OS component that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum HostOsError {
    /// The packages could not be had.
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// The tree could not be put together.
    #[error("cannot put the files of the operating system together")]
    Tree(#[from] TreeError),
    /// The file system tool failed.
    #[error("cannot make the root file system")]
    Command(#[from] CommandError),
    /// An artifact could not be stored.
    #[error("cannot store a section of the operating system")]
    Artifact(#[from] ArtifactError),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was built breaks a rule of its format.
    #[error("cannot describe the operating system")]
    Document(#[from] DocumentError),
    /// The board's name breaks the rule for names.
    #[error("cannot name the board")]
    Board(#[from] NameError),
}

/// What was built.
#[derive(Clone, Debug)]
pub struct BuiltOs {
    /// The OS index.
    pub index: OsIndex,
    /// The index as an artifact.
    pub stored: Stored,
}

/// Builds version `version` of the host board's operating system into the folder `out`.
///
/// Packages come from `cache`; a second version reuses the unpacked tree and costs one run of `mkfs.erofs`. The files of `overlay`
/// come on top of those of the packages.
pub fn build(
    cache: &Path,
    version: &ReleaseVersion,
    overlay: Option<&Path>,
    out: &Path,
) -> Result<BuiltOs, HostOsError> {
    let cache = PackageCache::open(cache)?;
    let unpacked = cache.tree(&cache.machine_packages(PACKAGES)?, &[])?;
    let fresh = cache.scratch()?;
    let layers = [Some(unpacked.as_path()), overlay];
    assemble(layers.into_iter().flatten(), fresh.path(), version, out)
}

/// Makes the component from `layers`, each on top of the one before, put together in the empty folder `tree`.
fn assemble<'a>(
    layers: impl Iterator<Item = &'a Path>,
    tree: &Path,
    version: &ReleaseVersion,
    out: &Path,
) -> Result<BuiltOs, HostOsError> {
    for layer in layers {
        tree::lay(layer, tree)?;
    }
    write_os_release(tree, version)?;
    let artifacts = ArtifactFolder::create(out.join(ARTIFACTS))?;
    let wrote = |source| HostOsError::Write { path: out.to_owned(), source };
    let image = tempfile::NamedTempFile::new_in(out).map_err(wrote)?;
    make_erofs(tree, image.path())?;

    let root = artifacts.add_file(image.path())?;
    let root = os_folder::section(&artifacts, SectionName::Root, root)?;
    let os_release = [("ID", "mbl".to_owned()), ("VERSION_ID", version.to_string())];
    let os_release = os_release.map(|(key, value)| (key.to_owned(), value)).into();
    let boot = HostUki { root: root.blocks.digest, size: root.size, os_release };
    let boot = artifacts.add_bytes(&boot.to_bytes()?)?;
    let uki = os_folder::section(&artifacts, SectionName::Uki, boot)?;

    let board = BoardName::new("host")?;
    let index =
        OsIndex { format: FormatOne, board, version: version.clone(), sections: vec![root, uki], root_hash: None };
    let text = index.to_bytes()?;
    let stored = artifacts.add_bytes(&text)?;
    fs::write(out.join(INDEX_FILE), &text).map_err(wrote)?;
    Ok(BuiltOs { index, stored })
}

fn write_os_release(tree: &Path, version: &ReleaseVersion) -> Result<(), HostOsError> {
    let write = |path: PathBuf, text: &str| {
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| tree::remove(&path))
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| HostOsError::Write { path, source })
    };
    let text = format!(
        "NAME=\"Mbed Linux OS\"\nID=mbl\nID_LIKE=debian\nVERSION_ID={version}\nPRETTY_NAME=\"Mbed Linux OS {version}\"\n"
    );
    write(tree.join("usr/lib/os-release"), &text)?;
    // An empty machine id is filled in at first boot; the factory's would be shared by the fleet.
    write(tree.join("etc/machine-id"), "")
}

fn make_erofs(tree: &Path, image: &Path) -> Result<(), CommandError> {
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args(["-d0", "-x-1", "-T0", "-U", UUID, "--all-root"]).arg(image).arg(tree);
    command::output(&mut mkfs, "erofs-utils").map(|_| ())
}

#[cfg(test)]
mod tests {
    use protocol_types::Digest;

    use super::*;
    use crate::{artifacts, os_folder::OsFolder};

    fn small_tree(at: &Path) -> PathBuf {
        let tree = at.join("tree");
        for (path, content) in [("bin/tool", "program"), ("etc/b", "2"), ("etc/a", "1")] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        tree::remove(&tree.join("bin/link")).unwrap();
        std::os::unix::fs::symlink("tool", tree.join("bin/link")).unwrap();
        tree
    }

    fn version(text: &str) -> ReleaseVersion {
        text.parse().unwrap()
    }

    /// Builds from the small tree in `dir`, and from an overlay if there is one.
    fn build_small(dir: &Path, text: &str, overlay: Option<&Path>) -> BuiltOs {
        let (small, fresh) = (small_tree(dir), tempfile::tempdir_in(dir).unwrap());
        let layers = [Some(small.as_path()), overlay];
        assemble(layers.into_iter().flatten(), fresh.path(), &version(text), &dir.join(text)).unwrap()
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [here, there] = dirs.each_ref().map(|dir| build_small(dir.path(), "1.0.0", None));
        assert_eq!(here.stored, there.stored);
    }

    #[test]
    fn an_overlay_replaces_files_without_touching_the_layer_below() {
        let dir = tempfile::tempdir().unwrap();
        let plain = build_small(dir.path(), "1.0.0", None);
        let overlay = dir.path().join("overlay");
        fs::create_dir_all(overlay.join("etc")).unwrap();
        fs::write(overlay.join("etc/a"), "changed").unwrap();
        let changed = build_small(dir.path(), "1.0.0", Some(&overlay));
        assert_ne!(changed.stored, plain.stored);
        assert_eq!(fs::read_to_string(dir.path().join("tree/etc/a")).unwrap(), "1");
        assert!(!dir.path().join("tree/usr").exists(), "the version was written into the layer");
        assert_eq!(build_small(dir.path(), "1.0.0", None).stored, plain.stored);
    }

    #[test]
    fn a_new_version_changes_the_root_and_every_named_artifact_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["1.0.0", "1.1.0"].map(|text| build_small(dir.path(), text, None));
        assert_ne!(old.index.sections[0].digest, new.index.sections[0].digest);

        let folder = ArtifactFolder::create(dir.path().join("1.1.0").join(ARTIFACTS)).unwrap();
        for section in &new.index.sections {
            let bytes = fs::read(folder.path_of(&section.digest)).unwrap();
            assert_eq!(Digest::of(&bytes), section.digest);
            assert_eq!(bytes.len() as u64, section.size);
            let list = fs::read(folder.path_of(&section.blocks.digest)).unwrap();
            assert_eq!(list, artifacts::block_list(&*bytes).unwrap());
        }
        let root = &new.index.sections[0];
        let boot = fs::read(folder.path_of(&new.index.sections[1].digest)).unwrap();
        let boot = HostUki::parse(&boot).unwrap();
        assert_eq!((boot.root, boot.size, boot.version_id()), (root.blocks.digest, root.size, Some("1.1.0")));
        let index = fs::read(dir.path().join("1.1.0").join(INDEX_FILE)).unwrap();
        assert_eq!(Digest::of(&index), new.stored.digest);
        let read_back = OsFolder::load(&dir.path().join("1.1.0"), INDEX_FILE).unwrap();
        assert_eq!((&read_back.index, read_back.stored), (&new.index, new.stored));
        for artifact in read_back.artifacts {
            assert_eq!(Digest::of(&fs::read(&artifact.path).unwrap()), artifact.stored.digest);
        }
    }
}
