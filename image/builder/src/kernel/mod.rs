//! The kernel's image and those of its modules that an image has. What a module depends on is depmod's answer.

mod modules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use modules::ModuleError;
use modules::Modules;

use crate::{
    command::CommandError,
    rootfs::tree::{Node, NodeKind, Tree},
    sandbox::Sandbox,
};

/// A kernel as its package brings it.
#[derive(Debug)]
pub(crate) struct KernelPackage {
    /// What `uname -r` will say.
    pub(crate) release: String,
    /// The bytes of its image.
    pub(crate) image: Arc<[u8]>,
    /// Everything of its package.
    tree: Tree,
    modules: Modules,
}

/// A kernel that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no kernel in the package.
    #[error("the package `{0}` and what it needs hold no `boot/vmlinuz-RELEASE`")]
    Absent(String),
    /// A module is neither there nor built in.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// depmod or xz failed.
    #[error("cannot prepare the kernel's modules")]
    Command(#[from] CommandError),
    /// The work folder could not be used.
    #[error("cannot use the work folder {}", path.display())]
    Work {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Lists that depmod reads beside the modules.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

impl KernelPackage {
    /// Finds the kernel in the files of `package`.
    pub(crate) fn open(package: &str, tree: Tree, tools: &Sandbox, work: &Path) -> Result<Self, KernelError> {
        let found = tree.iter().find_map(|(path, node)| {
            let release = path.strip_prefix("boot").ok()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
            let NodeKind::File(bytes) = &node.kind else { return None };
            Some((release, bytes.clone()))
        });
        let (release, image) = found.ok_or_else(|| KernelError::Absent(package.to_owned()))?;
        let folder = folder_of(&release);
        let all: BTreeSet<PathBuf> = tree
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(&folder).ok())
            .filter(|path| path.to_str().is_some_and(|path| path.ends_with(".ko.xz")))
            .map(Path::to_owned)
            .collect();
        let made = depmod(&tree, &release, &all, tools, work)?;
        let text = |name: &str| made.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let builtin = tree.read(&folder.join("modules.builtin")).map(|b| String::from_utf8_lossy(&b).into_owned());
        let modules = Modules::parse(&text("modules.dep").unwrap_or_default(), &builtin.unwrap_or_default());
        Ok(Self { release, image, tree, modules })
    }

    /// Adds the modules `names` with what they depend on to the root file system.
    pub(crate) fn add_to_root(
        &self,
        names: &[String],
        root: &mut Tree,
        tools: &Sandbox,
        work: &Path,
    ) -> Result<(), KernelError> {
        let wanted: BTreeSet<PathBuf> = self.modules.in_load_order(names)?.into_iter().collect();
        let folder = folder_of(&self.release);
        let made = depmod(&self.tree, &self.release, &wanted, tools, work)?;
        let owner = self.owner();
        for (name, bytes) in made {
            root.replace(&folder.join(name), Node::file(bytes, 0o644, &owner));
        }
        for path in wanted.iter().map(PathBuf::as_path).chain(LISTS.map(Path::new)) {
            if let Some(node) = self.tree.get(&folder.join(path)) {
                root.replace(&folder.join(path), node.clone());
            }
        }
        Ok(())
    }

    /// The modules `names` with what they depend on, unpacked, in the order in which they can be loaded.
    pub(crate) fn for_initrd(
        &self,
        names: &[String],
        tools: &Sandbox,
        work: &Path,
    ) -> Result<Vec<(String, Vec<u8>)>, KernelError> {
        let folder = folder_of(&self.release);
        let mut unpacked = Vec::new();
        for path in self.modules.in_load_order(names)? {
            let packed = self.tree.read(&folder.join(&path)).map_err(|_| ModuleError(path.display().to_string()))?;
            write(&work.join("module.ko.xz"), &packed)?;
            let bytes = tools.run(work, "xz", &["--decompress", "--stdout", "module.ko.xz"])?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            unpacked.push((name.trim_end_matches(".xz").to_owned(), bytes));
        }
        Ok(unpacked)
    }

    fn owner(&self) -> Arc<str> {
        self.tree.iter().next().map_or_else(|| "kernel".into(), |(_, node)| node.owner.clone())
    }
}

fn folder_of(release: &str) -> PathBuf {
    Path::new("usr/lib/modules").join(release)
}

/// The indexes that depmod makes of `wanted`, by file name.
fn depmod(
    tree: &Tree,
    release: &str,
    wanted: &BTreeSet<PathBuf>,
    tools: &Sandbox,
    work: &Path,
) -> Result<BTreeMap<String, Vec<u8>>, KernelError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KernelError::Work { path, source }
    };
    let base = tempfile::tempdir_in(work).map_err(failed(work))?;
    let place = base.path().join("lib/modules").join(release);
    let from = folder_of(release);
    for path in wanted.iter().map(PathBuf::as_path).chain(LISTS.map(Path::new)) {
        if let Ok(bytes) = tree.read(&from.join(path)) {
            write(&place.join(path), &bytes)?;
        }
    }
    let name = base.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    tools.run(work, "depmod", &["--basedir", &format!("/work/{name}"), release])?;
    let mut made = BTreeMap::new();
    for entry in fs::read_dir(&place).map_err(failed(&place))? {
        let path = entry.map_err(failed(&place))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && !LISTS.contains(&name.as_str()) {
            made.insert(name, fs::read(&path).map_err(failed(&path))?);
        }
    }
    Ok(made)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
    let above = path.parent().map_or(Ok(()), fs::create_dir_all);
    above.and_then(|()| fs::write(path, bytes)).map_err(|source| KernelError::Work { path: path.to_owned(), source })
}
