//! The folder `image/` of the tree: everything that says what an image is made from. Reads it, and renews its lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::error::{ImageError, file};
use crate::{
    board::{Board, Budget, Firmware},
    packages::{Lock, LockError, PackageCache, Pool, Wanted},
    rootfs::{Allowance, Description as _, Feature, ImageKind, Kind, Recipe, Sources, Tools, Users},
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
    /// The optional features that were asked for.
    pub optional: BTreeSet<String>,
    pub(super) recipe: Recipe,
    pub(super) users: Users,
    pub(super) tools: Tools,
    pub(super) toolchain: Tools,
    pub(super) sources: Sources,
    pub(super) lock: Lock,
}

const LOCK: &str = "lock.toml";
const TOOLS: &str = "tools.toml";
const TOOLCHAIN: &str = "toolchain.toml";
const SOURCES: &str = "sources.toml";

impl Description {
    /// Reads what the folder `folder` says about `board` and `kind` with the optional features `optional`.
    pub fn load(folder: &Path, board: &str, kind: ImageKind, optional: &BTreeSet<String>) -> Result<Self, ImageError> {
        let board = load_board(folder, board)?;
        let rootfs = folder.join("rootfs");
        let description = Self {
            folder: folder.to_owned(),
            board,
            kind: Kind::load(&rootfs.join(kind.as_str()).with_extension("toml"))?,
            optional: optional.clone(),
            recipe: Recipe::load(&rootfs.join("recipe.toml"))?,
            users: Users::load(&rootfs.join("users.toml"))?,
            tools: Tools::load(&folder.join(TOOLS))?,
            toolchain: Tools::load(&folder.join(TOOLCHAIN))?,
            sources: Sources::load(&folder.join(SOURCES))?,
            lock: Lock::load(&folder.join(LOCK))?,
        };
        description.check_lock()?;
        description.check_optional()?;
        Ok(description)
    }

    /// The features of kind and board, and those that were asked for.
    pub(super) fn features(&self) -> Result<BTreeMap<&str, &Feature>, ImageError> {
        let kind = self.kind.kind.as_str();
        let names = self.kind.features.iter().chain(&self.board.features).chain(&self.optional);
        self.recipe.features_of(names).map_err(|rule| ImageError::Kind { kind, rule })
    }

    /// What each optional feature of the image may need beyond the board's budget.
    pub(super) fn allowances(&self) -> BTreeMap<&str, Allowance> {
        let mut allowances = self.recipe.optional();
        allowances.retain(|name, _| self.optional.contains(*name));
        allowances
    }

    /// The most that the image may need: the board's budget, and what its optional features may need beyond it.
    pub(super) fn budget(&self) -> Budget {
        self.allowances().values().fold(self.board.budget, |budget, allowance| Budget {
            root_mib: budget.root_mib.saturating_add(allowance.root_mib),
            download_mib: budget.download_mib.saturating_add(allowance.download_mib),
            ..budget
        })
    }

    /// The kernel's modules in the root file system.
    pub(super) fn root_modules(&self) -> Result<Vec<String>, ImageError> {
        let features = self.features()?;
        let with = features.keys().filter_map(|name| self.board.kernel.with.get(*name));
        let with = with.flat_map(|part| &part.root_modules);
        Ok(self.board.kernel.root_modules.iter().chain(with).cloned().collect())
    }

    /// Refuses a feature that is not optional, whose drivers nobody named, or with which the image would not fit into a slot.
    fn check_optional(&self) -> Result<(), ImageError> {
        let refuse = |feature: &str, rule: String| Err(ImageError::Feature { feature: feature.to_owned(), rule });
        let (known, board) = (self.recipe.optional(), &self.board);
        if let Some(name) = board.kernel.with.keys().find(|name| !self.recipe.features.contains_key(*name)) {
            return refuse(
                name,
                format!("the file of board `{}` names modules for it, but no recipe has it", board.name),
            );
        }
        for name in &self.optional {
            if !known.contains_key(name.as_str()) {
                let names: Vec<&str> = known.keys().copied().collect();
                return refuse(name, format!("the optional features are {}", names.join(", ")));
            }
            if !board.kernel.with.contains_key(name) {
                let board = &board.name;
                return refuse(
                    name,
                    format!("the file of board `{board}` does not name its drivers in `[kernel.with.{name}]`"),
                );
            }
            let slot = board.partition_bytes("root-a").unwrap_or_default() >> 20;
            let root = self.budget().root_mib;
            if root > slot {
                return refuse(
                    name,
                    format!("together they may need a root of {root} MiB, and a slot holds {slot} MiB"),
                );
            }
        }
        Ok(())
    }

    /// Why the packages that are named for this image are there.
    pub(super) fn reasons(&self) -> Result<BTreeMap<&str, &str>, ImageError> {
        let of_board = [
            (self.board.kernel.package.as_str(), "the kernel"),
            (self.board.loader.package.as_str(), "the boot loader"),
        ];
        let features = self.features()?;
        let of_firmware = match &self.board.firmware {
            Firmware::Source(firmware) => {
                Some((firmware.trusted_os.package.as_str(), "the board's trusted operating system"))
            }
            Firmware::Package(_) => None,
        };
        let of_tee =
            self.board.tee.as_ref().map(|tee| (tee.package.as_str(), "trusted applications of the board's TEE"));
        let of_initrd =
            features.keys().filter_map(|name| self.recipe.initrd.with.get(*name)).map(|part| &part.packages);
        let of_initrd = of_initrd.chain([&self.recipe.initrd.packages]).flatten();
        let of_recipe = of_initrd.chain(features.values().flat_map(|feature| &feature.packages));
        Ok(of_board
            .into_iter()
            .chain(of_firmware)
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

    const RADIOS: [&str; 3] = ["wifi", "cellular", "bluetooth"];

    fn load(board: &str, kind: ImageKind, optional: &[&str]) -> Result<Description, ImageError> {
        let optional = optional.iter().map(|name| (*name).to_owned()).collect();
        Description::load(&here(), board, kind, &optional)
    }

    #[test]
    fn the_committed_lock_explains_every_package_of_every_board_and_kind() {
        for board in ["qemu-arm64", "qemu-arm64-tpm"] {
            for kind in [ImageKind::Development, ImageKind::Production, ImageKind::Evaluation] {
                let description = load(board, kind, &[]).unwrap();
                assert_eq!(description.kind.kind, kind);
                description.features().unwrap();
            }
        }
    }

    #[test]
    fn the_committed_lock_has_what_radios_need() {
        let description = load("qemu-arm64", ImageKind::Production, &RADIOS).unwrap();
        let features = description.features().unwrap();
        let named = features.values().flat_map(|feature| feature.packages.keys().map(String::as_str));
        let chosen = description.lock.choose(Pool::Device, named).unwrap();
        // Programs, and the libraries that no other feature has.
        for package in ["wpasupplicant", "wireless-regdb", "modemmanager", "libqmi-glib5", "bluez", "libglib2.0-0t64"] {
            assert!(chosen.contains_key(package), "{package}");
        }
    }

    #[test]
    fn an_optional_feature_brings_its_drivers_and_what_it_may_need_beyond_the_budget() {
        let [plain, with] = [&[][..], &RADIOS].map(|names| load("qemu-arm64", ImageKind::Production, names).unwrap());
        assert!(plain.allowances().is_empty() && plain.budget().root_mib == plain.board.budget.root_mib);
        let allowances = with.allowances();
        assert_eq!(allowances.keys().copied().collect::<Vec<_>>(), ["bluetooth", "cellular", "wifi"]);
        let more: u64 = allowances.values().map(|allowance| allowance.download_mib).sum();
        assert_eq!(with.budget().download_mib, with.board.budget.download_mib + more);
        let has =
            |description: &Description, name: &str| description.root_modules().unwrap().iter().any(|it| it == name);
        assert!(has(&with, "btusb") && has(&with, "overlay") && has(&plain, "overlay") && !has(&plain, "btusb"));
    }

    #[test]
    fn a_feature_that_does_not_go_with_the_board_is_refused_with_what_does() {
        let refused = |board, name| load(board, ImageKind::Production, &[name]).unwrap_err().to_string();
        let error = refused("qemu-arm64", "ssh");
        assert!(error.contains("`ssh`") && error.contains("are bluetooth, cellular, wifi"), "{error}");
        let error = refused("qemu-arm64-tpm", "wifi");
        assert!(error.contains("does not name its drivers in `[kernel.with.wifi]`"), "{error}");
    }

    #[test]
    fn a_production_image_has_no_shell() {
        let description = load("qemu-arm64-tpm", ImageKind::Production, &[]).unwrap();
        let features = description.features().unwrap();
        let named = features.values().flat_map(|feature| feature.packages.keys().map(String::as_str));
        let chosen = description.lock.choose(Pool::Device, named).unwrap();
        for shell in ["bash", "dash", "busybox", "busybox-static", "openssh-server", "perl-base", "python3-minimal"] {
            assert!(!chosen.contains_key(shell), "{shell}");
        }
    }
}
