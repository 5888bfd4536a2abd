//! A board whose partitions are files: as the kernel shows its disk, with a first system in slot a, the one before it in slot b, and
//! state and key store in folders.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use protocol_types::{Digest, Slot};

use super::{
    releases::Account,
    sectors::{Disk, Library, Part, SECTOR},
    systems::{System, tool},
};

/// The labels of the disk, in its order.
const LABELS: [&str; 7] = ["esp", "root-a", "verity-a", "root-b", "verity-b", "factory", "state"];
/// The entries of slots b and a, with the longest names for which three updates more leave the loader room for its tries.
pub(crate) const ENTRIES: [&str; 2] = ["mbl-995-b.efi", "mbl-996-a.efi"];

/// How large the partitions are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// KiB of the ESP.
    pub(crate) esp_kib: u32,
    /// Bytes of each root partition.
    pub(crate) root: usize,
    /// Bytes of each hash tree's.
    pub(crate) tree: usize,
}

/// A board in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) root: PathBuf,
}

impl Board {
    /// A board as it left the factory and was updated once.
    pub(crate) fn make(
        root: &Path,
        account: &Account,
        (first, before): (&System, &System),
        sizes: Sizes,
        loader: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let board = Self { root: root.to_owned() };
        for name in ["sys/class/block", "dev", "mbl/factory", "mbl/state/updater", "mbl/keys"] {
            fs::create_dir_all(root.join(name)).with_context(|| format!("cannot make {name}"))?;
        }
        for (number, label) in (1..).zip(LABELS) {
            board.show(number, label)?;
        }
        let esp = board.node("esp").display().to_string();
        tool("mkfs.vfat", &["--invariant", "-C", "-F", "32", "-s", "1", &esp, &sizes.esp_kib.to_string()])?;
        tool("mmd", &["-i", &esp, "::/EFI", "::/EFI/BOOT", "::/EFI/Linux", "::/loader"])?;
        let settings = root.join("loader.conf");
        fs::write(&settings, "timeout 0\neditor no\nauto-firmware no\nauto-entries no\nconsole-mode keep\n")?;
        let settings = settings.display().to_string();
        tool("mcopy", &["-i", &esp, &settings, "::/loader/loader.conf"])?;
        if let Some(loader) = loader {
            tool("mcopy", &["-i", &esp, &loader.display().to_string(), "::/EFI/BOOT/BOOTAA64.EFI"])?;
        }
        for (system, slot, entry) in [(before, Slot::B, ENTRIES[0]), (first, Slot::A, ENTRIES[1])] {
            let filled = |bytes: &[u8], length: usize| {
                let mut bytes = bytes.to_vec();
                bytes.resize(length, 0xee);
                bytes
            };
            fs::write(board.node(&Part::Root(slot).label()), filled(&system.root, sizes.root))?;
            fs::write(board.node(&Part::Verity(slot).label()), filled(&system.tree, sizes.tree))?;
            let uki = root.join("uki");
            fs::write(&uki, &system.uki)?;
            tool("mcopy", &["-i", &esp, &uki.display().to_string(), &format!("::/EFI/Linux/{entry}")])?;
        }
        let document = serde_json::to_vec(&account.factory_document()?)?;
        fs::write(root.join("mbl/factory/factory.json"), &document)?;
        fs::write(root.join("mbl/keys/factory.sha256"), format!("{}\n", Digest::of(&document)))?;
        Ok(board)
    }

    /// Shows a partition as the kernel does.
    fn show(&self, number: usize, label: &str) -> anyhow::Result<()> {
        let place = self.root.join(format!("sys/devices/vda/vda{number}"));
        fs::create_dir_all(&place)?;
        fs::write(place.join("partition"), format!("{number}\n"))?;
        let uevent = format!("DEVNAME=vda{number}\nDEVTYPE=partition\nPARTN={number}\nPARTNAME={label}\n");
        fs::write(place.join("uevent"), uevent)?;
        symlink(&place, self.root.join(format!("sys/class/block/vda{number}"))).context("cannot show a partition")
    }

    /// The file that stands for a partition.
    pub(crate) fn node(&self, label: &str) -> PathBuf {
        let number = 1 + LABELS.iter().position(|known| *known == label).unwrap_or(LABELS.len());
        self.root.join(format!("dev/vda{number}"))
    }

    /// The partition that a path is the node of.
    pub(super) fn part(&self, path: &Path) -> Option<Part> {
        Part::ALL.into_iter().find(|part| self.node(&part.label()) == path)
    }

    /// What its disk holds.
    pub(super) fn read(&self, library: &mut Library) -> anyhow::Result<Disk> {
        Disk::read(library, |part| {
            let path = self.node(&part.label());
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        })
    }

    /// Makes its disk, which holds `from`, hold `to`.
    pub(super) fn write(&self, library: &Library, from: &Disk, to: &Disk) -> anyhow::Result<()> {
        for part in Part::ALL {
            let file = File::options().write(true).open(self.node(&part.label())).context("cannot open a partition")?;
            let pairs = from.part(part).iter().zip(to.part(part)).enumerate();
            for (sector, (_, wanted)) in pairs.filter(|(_, (there, wanted))| there != wanted) {
                file.write_all_at(library.sector(*wanted), (sector * SECTOR) as u64)
                    .context("cannot write a partition")?;
            }
        }
        Ok(())
    }
}
