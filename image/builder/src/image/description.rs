//! The folder `image/` of the tree: everything that says what an image is made from. Reads it, and renews its lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::error::{ImageError, file};
use crate::{
    board::Board,
    packages::{Lock, LockError, PackageCache, Pool, Wanted},
    rootfs::{Description as _, Feature, ImageKind, Kind, Recipe, Sources, Tools, Users},
};

/// What an image of one kind for one board is made from.
#[derive(Clone, Debug)]
pub struct Description {
    /// The folder.
    pub(super) folder: PathBuf,
    /// The board.
    pub board: Board,
    /// The kind.
    pub kind: Kind,
    pub(super) recipe: Recipe,
    pub(super) users: Users,
    pub(super) tools: Tools,
    pub(super) toolchain: Tools,
    sources: Sources,
    pub(super) lock: Lock,
}

const LOCK: &str = "lock.toml";
const TOOLS: &str = "tools.toml";
const TOOLCHAIN: &str = "toolchain.toml";
const SOURCES: &str = "sources.toml";

impl Description {
    /// Reads what the folder `folder` says about `board` and `kind`.
    pub fn load(folder: &Path, board: &str, kind: ImageKind) -> Result<Self, ImageError> {
        let board = load_board(folder, board)?;
        let rootfs = folder.join("rootfs");
        let description = Self {
            folder: folder.to_owned(),
            board,
            kind: Kind::load(&rootfs.join(kind.as_str()).with_extension("toml"))?,
            recipe: Recipe::load(&rootfs.join("recipe.toml"))?,
            users: Users::load(&rootfs.join("users.toml"))?,
            tools: Tools::load(&folder.join(TOOLS))?,
            toolchain: Tools::load(&folder.join(TOOLCHAIN))?,
            sources: Sources::load(&folder.join(SOURCES))?,
            lock: Lock::load(&folder.join(LOCK))?,
        };
        description.check_lock()?;
        Ok(description)
    }

    /// The features of kind and board.
    pub(super) fn features(&self) -> Result<BTreeMap<&str, &Feature>, ImageError> {
        let kind = self.kind.kind.as_str();
        let names = self.kind.features.iter().chain(&self.board.features);
        self.recipe.features_of(names).map_err(|rule| ImageError::Kind { kind, rule })
    }

    /// Why the packages that are named for this image are there.
    pub(super) fn reasons(&self) -> Result<BTreeMap<&str, &str>, ImageError> {
        let of_board = [
            (self.board.kernel.package.as_str(), "the kernel"),
            (self.board.loader.package.as_str(), "the boot loader"),
        ];
        let features = self.features()?;
        let of_tee =
            self.board.tee.as_ref().map(|tee| (tee.package.as_str(), "trusted applications of the board's TEE"));
        let of_initrd =
            features.keys().filter_map(|name| self.recipe.initrd.with.get(*name)).map(|part| &part.packages);
        let of_initrd = of_initrd.chain([&self.recipe.initrd.packages]).flatten();
        let of_recipe = of_initrd.chain(features.values().flat_map(|feature| &feature.packages));
        Ok(of_board
            .into_iter()
            .chain(of_tee)
            .chain(of_recipe.map(|(name, reason)| (name.as_str(), reason.as_str())))
            .collect())
    }

    /// Refuses a lock that holds what nothing explains, or lacks what is named.
    fn check_lock(&self) -> Result<(), LockError> {
        let boards = every_board(&self.folder).unwrap_or_else(|_| vec![self.board.clone()]);
        self.lock.explain(Pool::Device, device_packages(&self.recipe, &boards))?;
        self.lock.explain(Pool::Tools, self.tools.packages.keys().map(String::as_str))?;
        self.lock.explain(Pool::Toolchain, self.toolchain.packages.keys().map(String::as_str))?;
        let named: BTreeSet<&str> = self.sources.sources.keys().map(String::as_str).collect();
        let locked: BTreeSet<&str> = self.lock.source_names().collect();
        match named.symmetric_difference(&locked).next() {
            Some(name) => Err(LockError::Stale(format!("the source of `{name}` is either named or locked, not both"))),
            None => Ok(()),
        }
    }
}

/// The board file of `board`.
pub fn load_board(folder: &Path, board: &str) -> Result<Board, ImageError> {
    Ok(Board::load(&folder.join("boards").join(board).with_extension("toml"))?)
}

fn every_board(folder: &Path) -> Result<Vec<Board>, ImageError> {
    let boards = folder.join("boards");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&boards).map_err(file("read", &boards))? {
        let path = entry.map_err(file("read", &boards))?.path();
        if path.extension().is_some_and(|kind| kind == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(Board::load(path)?)).collect()
}

fn device_packages<'a>(recipe: &'a Recipe, boards: &'a [Board]) -> BTreeSet<&'a str> {
    let mut named = recipe.every_package();
    named.extend(boards.iter().flat_map(Board::packages));
    named
}

/// Resolves every package anew from what the mirror has now and writes the lock; returns what changed.
pub fn update_lock(cache: &PackageCache, folder: &Path) -> Result<Vec<String>, ImageError> {
    let boards = every_board(folder)?;
    let recipe = Recipe::load(&folder.join("rootfs/recipe.toml"))?;
    let named = device_packages(&recipe, &boards);
    let without = recipe.without.keys().map(String::as_str).collect();
    let mut packages = Vec::new();
    // The lock has one pool for devices, so all boards share one architecture.
    if let [first, others @ ..] = boards.as_slice() {
        let architecture = first.debian_architecture.as_str();
        if let Some(other) = others.iter().find(|board| board.debian_architecture != architecture) {
            let rule = format!("board `{}` has another architecture than `{}`", other.name, first.name);
            return Err(LockError::Rule(rule).into());
        }
        packages = cache.resolve(Pool::Device, architecture, &Wanted { named, without })?;
    }
    for (pool, name) in [(Pool::Tools, TOOLS), (Pool::Toolchain, TOOLCHAIN)] {
        let tools = Tools::load(&folder.join(name))?;
        let named = tools.packages.keys().map(String::as_str).collect();
        let without = tools.without.keys().map(String::as_str).collect();
        packages.extend(cache.resolve(pool, &tools.debian_architecture, &Wanted { named, without })?);
    }
    let sources = Sources::load(&folder.join(SOURCES))?;
    let sources = cache.resolve_sources(sources.sources.keys().map(String::as_str))?;
    let new = Lock::with_sources(packages, sources)?;
    let path = folder.join(LOCK);
    let old = if path.exists() { Lock::load(&path)? } else { Lock::default() };
    let changes = new.changes_since(&old);
    new.save(&path)?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder `image/` of the tree.
    fn here() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn the_committed_lock_explains_every_package_of_every_board_and_kind() {
        for board in ["qemu-arm64", "qemu-arm64-tpm"] {
            for kind in [ImageKind::Development, ImageKind::Production, ImageKind::Evaluation] {
                let description = Description::load(&here(), board, kind).unwrap();
                assert_eq!(description.kind.kind, kind);
                description.features().unwrap();
            }
        }
    }

    #[test]
    fn the_committed_lock_has_what_radios_need() {
        let mut description = Description::load(&here(), "qemu-arm64-tpm", ImageKind::Production).unwrap();
        description.kind.features.extend(["wifi", "cellular", "bluetooth"].map(str::to_owned));
        let features = description.features().unwrap();
        let named = features.values().flat_map(|feature| feature.packages.keys().map(String::as_str));
        let chosen = description.lock.choose(Pool::Device, named).unwrap();
        // Programs, and the libraries that no other feature has.
        for package in ["wpasupplicant", "wireless-regdb", "modemmanager", "libqmi-glib5", "bluez", "libglib2.0-0t64"] {
            assert!(chosen.contains_key(package), "{package}");
        }
    }

    #[test]
    fn a_production_image_has_no_shell() {
        let description = Description::load(&here(), "qemu-arm64-tpm", ImageKind::Production).unwrap();
        let features = description.features().unwrap();
        let named = features.values().flat_map(|feature| feature.packages.keys().map(String::as_str));
        let chosen = description.lock.choose(Pool::Device, named).unwrap();
        for shell in ["bash", "dash", "busybox", "busybox-static", "openssh-server", "perl-base", "python3-minimal"] {
            assert!(!chosen.contains_key(shell), "{shell}");
        }
    }
}
