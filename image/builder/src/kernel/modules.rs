//! Which module needs which, as `modules.dep` says, and in which order they can be loaded. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// A module that the kernel has neither as a file nor built in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no module `{0}`")]
pub struct ModuleError(pub(super) String);

/// The modules of one kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// Name to path and to the paths that it depends on, the deepest last.
    files: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads `modules.dep` and `modules.builtin`.
    pub(super) fn parse(dep: &str, builtin: &str) -> Self {
        let line = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(PathBuf::from).collect();
            Some((name_of(Path::new(path)), (PathBuf::from(path), needs)))
        };
        let builtin = builtin.lines().map(|line| name_of(Path::new(line))).collect();
        Self { files: dep.lines().filter_map(line).collect(), builtin }
    }

    /// The files of `names` and of what they depend on, each after those that it needs. Names of built-in modules have none.
    pub(super) fn in_load_order(&self, names: &[String]) -> Result<Vec<PathBuf>, ModuleError> {
        let mut order = Vec::new();
        for name in names {
            let key = name.replace('-', "_");
            match self.files.get(&key) {
                Some((path, needs)) => {
                    for path in needs.iter().rev().chain([path]) {
                        if !order.contains(path) {
                            order.push(path.clone());
                        }
                    }
                }
                None if self.builtin.contains(&key) => {}
                None => return Err(ModuleError(name.clone())),
            }
        }
        Ok(order)
    }
}

/// `kernel/drivers/md/dm-verity.ko.xz` is called `dm_verity`.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs_and_only_once() {
        let modules =
            Modules::parse("k/dm-verity.ko.xz: k/dm-bufio.ko.xz k/dm-mod.ko.xz\nk/dm-mod.ko.xz:\n", "k/virtio.ko\n");
        let names = ["dm-mod", "virtio", "dm_verity"].map(str::to_owned);
        let order = modules.in_load_order(&names).unwrap();
        assert_eq!(order, ["k/dm-mod.ko.xz", "k/dm-bufio.ko.xz", "k/dm-verity.ko.xz"].map(PathBuf::from));
        assert_eq!(modules.in_load_order(&["absent".to_owned()]), Err(ModuleError("absent".to_owned())));
    }
}
