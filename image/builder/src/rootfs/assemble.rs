//! Puts the root file system together: packages first, then what their scripts would have done, then what the recipe adds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol_types::{BoardName, ReleaseVersion};

use super::{
    recipe::Feature,
    tree::{Node, NodeKind, Tree},
    users::Users,
};

/// What a root file system is made from, besides its packages.
#[derive(Debug)]
pub(crate) struct Ingredients<'a> {
    pub(crate) features: &'a BTreeMap<&'a str, &'a Feature>,
    pub(crate) users: &'a Users,
    /// The folder whose part for a feature is named like the feature.
    pub(crate) overlay: &'a Path,
    /// Where the programs of ours are.
    pub(crate) programs: &'a Path,
    /// The packages that are in the tree.
    pub(crate) packages: BTreeSet<&'a str>,
    pub(crate) board: &'a BoardName,
    pub(crate) kind: &'a str,
    pub(crate) version: &'a ReleaseVersion,
}

/// A root file system that could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A file of the overlay or a program could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The recipe starts a unit that nobody brings.
    #[error("the recipe starts `{0}`, which no package and no overlay has")]
    Unit(String),
    /// A bundle of nothing.
    #[error("there are no files in `{0}` to make a bundle of")]
    Bundle(String),
}

const UNITS: &str = "usr/lib/systemd/system";
/// Stands in a text of the overlay for the name of the board.
const BOARD: &str = "@BOARD@";

/// Completes `tree`, which holds the packages.
pub(crate) fn assemble(tree: &mut Tree, from: &Ingredients<'_>) -> Result<(), AssembleError> {
    let by_builder: Arc<str> = "image-builder".into();
    bundle(tree, from, &by_builder)?;
    for pattern in from.features.values().flat_map(|feature| &feature.prune) {
        tree.prune(pattern);
    }
    for (name, feature) in from.features {
        let owner: Arc<str> = format!("feature {name}").into();
        for folder in &feature.folders {
            if tree.get(Path::new(folder)).is_none() {
                tree.replace(Path::new(folder), Node::folder(&owner));
            }
        }
        for (path, to) in &feature.links {
            tree.replace(Path::new(path), Node::link(to, &owner));
        }
        for program in &feature.programs {
            let path = from.programs.join(program);
            let bytes = fs::read(&path).map_err(|source| AssembleError::Read { path, source })?;
            tree.replace(&Path::new("usr/bin").join(program), Node::file(bytes, 0o755, &owner));
        }
        let overlay = from.overlay.join(name);
        if overlay.is_dir() {
            lay(tree, &overlay, Path::new(""), from.board, &owner)?;
        }
    }
    for (path, text, mode, group) in from.users.files(&from.packages) {
        let node = Node { gid: group, ..Node::file(text.into_bytes(), mode, &by_builder) };
        tree.replace(Path::new(path), node);
    }
    let release = os_release(from);
    tree.replace(Path::new("usr/lib/os-release"), Node::file(release.into_bytes(), 0o644, &by_builder));
    // Empty: filled in at boot; the factory's would be shared by the fleet.
    tree.replace(Path::new("etc/machine-id"), Node::file(*b"", 0o444, &by_builder));
    // Its time is the newest of all packages, and systemd does not let the clock be before it.
    tree.replace(Path::new("usr/lib/clock-epoch"), Node::file(*b"", 0o644, &by_builder));
    start_units(tree, from)?;
    tree.add_parents(&by_builder);
    Ok(())
}

/// What the booted system names itself by.
fn os_release(from: &Ingredients<'_>) -> String {
    let Ingredients { board, kind, version, .. } = from;
    format!(
        "NAME=\"Mbed Linux OS\"\nID=mbl\nID_LIKE=debian\nVERSION_ID={version}\nPRETTY_NAME=\"Mbed Linux OS \
         {version}\"\nVARIANT_ID={kind}\nMBL_BOARD={board}\nDEFAULT_HOSTNAME=mbl\n"
    )
}

fn start_units(tree: &mut Tree, from: &Ingredients<'_>) -> Result<(), AssembleError> {
    for (name, feature) in from.features {
        let owner: Arc<str> = format!("feature {name}").into();
        for (unit, wanted_by) in &feature.units {
            if tree.get(&Path::new(UNITS).join(unit)).is_none() {
                return Err(AssembleError::Unit(unit.clone()));
            }
            for by in wanted_by {
                let link = Path::new("etc/systemd/system").join(by).join(unit);
                tree.replace(&link, Node::link(format!("/{UNITS}/{unit}"), &owner));
            }
        }
    }
    Ok(())
}

/// One file of all files below a folder, in the order of their names.
fn bundle(tree: &mut Tree, from: &Ingredients<'_>, owner: &Arc<str>) -> Result<(), AssembleError> {
    for (target, folder) in from.features.values().flat_map(|feature| &feature.bundles) {
        let mut all = Vec::new();
        for (path, node) in tree.iter() {
            if let NodeKind::File(bytes) = &node.kind
                && path.starts_with(folder)
            {
                all.extend_from_slice(bytes);
            }
        }
        if all.is_empty() {
            return Err(AssembleError::Bundle(folder.clone()));
        }
        tree.prune(folder);
        tree.replace(Path::new(target), Node::file(all, 0o644, owner));
    }
    Ok(())
}

/// Lays the files of the folder `from` over the tree. Of their permissions only that to execute counts: the rest is the umask of
/// whoever checked them out.
fn lay(tree: &mut Tree, from: &Path, at: &Path, board: &BoardName, owner: &Arc<str>) -> Result<(), AssembleError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| AssembleError::Read { path, source }
    };
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (path, place) = (entry.path(), at.join(entry.file_name()));
        let facts = fs::symlink_metadata(&path).map_err(failed(&path))?;
        if facts.is_dir() {
            if tree.get(&place).is_none() {
                tree.replace(&place, Node::folder(owner));
            }
            lay(tree, &path, &place, board, owner)?;
        } else if facts.is_symlink() {
            tree.replace(&place, Node::link(fs::read_link(&path).map_err(failed(&path))?, owner));
        } else {
            let bytes = fs::read(&path).map_err(failed(&path))?;
            let bytes = match String::from_utf8(bytes) {
                Ok(text) => text.replace(BOARD, board.as_str()).into_bytes(),
                Err(binary) => binary.into_bytes(),
            };
            let mode = if facts.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            tree.replace(&place, Node::file(bytes, mode, owner));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::recipe::Description, *};

    struct Place {
        dir: tempfile::TempDir,
        feature: Feature,
        users: Users,
        board: BoardName,
        version: ReleaseVersion,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let units = dir.path().join("overlay/base").join(UNITS);
        fs::create_dir_all(&units).unwrap();
        fs::write(units.join("mbl.service"), "ExecStart=/usr/bin/mbl --board @BOARD@\n").unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/mbl"), b"program").unwrap();
        let feature = Feature {
            programs: vec!["mbl".into()],
            units: [("mbl.service".into(), vec!["multi-user.target.wants".into()])].into(),
            bundles: [("etc/all.crt".into(), "usr/share/certs".into())].into(),
            ..Feature::default()
        };
        let users = Users::parse(include_str!("../../../rootfs/users.toml"), Path::new("users.toml")).unwrap();
        let (board, version) = (BoardName::new("board").unwrap(), "1.2.3".parse().unwrap());
        Place { dir, feature, users, board, version }
    }

    fn run(place: &Place) -> Result<Tree, AssembleError> {
        let mut tree = Tree::default();
        for (name, content) in [("b.crt", "2"), ("a.crt", "1")] {
            let node = Node::file(content.as_bytes(), 0o644, &"certs".into());
            tree.add(&Path::new("usr/share/certs").join(name), node).unwrap();
        }
        let features = [("base", &place.feature)].into();
        let from = Ingredients {
            features: &features,
            users: &place.users,
            overlay: &place.dir.path().join("overlay"),
            programs: &place.dir.path().join("bin"),
            packages: BTreeSet::new(),
            board: &place.board,
            kind: "production",
            version: &place.version,
        };
        assemble(&mut tree, &from)?;
        Ok(tree)
    }

    #[test]
    fn every_path_has_an_owner_and_a_folder_above_it() {
        let tree = run(&place()).unwrap();
        for (path, node) in tree.iter() {
            assert!(!node.owner.is_empty(), "{}", path.display());
            for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
                assert_eq!(tree.get(above).map(|node| &node.kind), Some(&NodeKind::Folder), "{}", above.display());
            }
        }
        assert_eq!(&*tree.read(Path::new("etc/all.crt")).unwrap(), b"12");
        let unit = tree.read(Path::new("etc/systemd/system/multi-user.target.wants/mbl.service")).unwrap();
        assert_eq!(&*unit, b"ExecStart=/usr/bin/mbl --board board\n");
        let release = tree.read(Path::new("usr/lib/os-release")).unwrap();
        assert!(String::from_utf8_lossy(&release).contains("\nVERSION_ID=1.2.3\n"));
    }

    #[test]
    fn a_unit_that_nobody_brings_is_refused() {
        let mut place = place();
        place.feature.units.insert("absent.service".into(), vec![]);
        assert!(matches!(run(&place), Err(AssembleError::Unit(unit)) if unit == "absent.service"));
    }

    #[test]
    fn the_umask_of_whoever_builds_does_not_show() {
        let place = place();
        let unit = place.dir.path().join("overlay/base").join(UNITS).join("mbl.service");
        let mode = |bits| {
            fs::set_permissions(&unit, fs::Permissions::from_mode(bits)).unwrap();
            run(&place).unwrap().get(&Path::new(UNITS).join("mbl.service")).unwrap().mode
        };
        assert_eq!([mode(0o600), mode(0o664)], [0o644; 2]);
    }
}
