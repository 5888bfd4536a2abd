//! A board file: all that is particular to one board. Parsing never opens a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::{Architecture, BoardName};
use serde::Deserialize;

/// A board as its file describes it (`docs/formats/image.md`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The version of this format: 1.
    format: u32,
    /// Its name, which is also the file's.
    pub name: BoardName,
    /// The architecture of its programs.
    pub architecture: Architecture,
    /// Debian's name of that architecture.
    pub debian_architecture: String,
    /// Where it keeps the floor and the key of its state.
    pub key_store: KeyStore,
    /// Features of the recipe that every image of it has, beside those of the kind.
    pub features: Vec<String>,
    /// The kernel.
    pub kernel: Kernel,
    /// The boot loader.
    pub loader: Loader,
    /// The firmware.
    pub firmware: Firmware,
    /// The TEE, on a board whose key store is in one.
    pub tee: Option<Tee>,
    /// How QEMU makes this machine.
    pub machine: Machine,
    /// The partitions in the order on the disk.
    #[serde(rename = "partition")]
    pub partitions: Vec<Partition>,
    /// The most that an image may need.
    pub budget: Budget,
}

/// Where a board keeps the floor and the key of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStore {
    /// A TPM 2.0.
    Tpm2,
    /// Our trusted application in a TEE.
    Tee,
    /// Nowhere: no floor is enforced and no state is kept.
    None,
}

impl KeyStore {
    /// The name as the board file and the command line write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tpm2 => "tpm2",
            Self::Tee => "tee",
            Self::None => "none",
        }
    }
}

/// The kernel of a board.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The Debian package, or the one that depends on the newest of its kind.
    pub package: String,
    /// The command line after the root hash.
    pub arguments: Vec<String>,
    /// Modules that the initrd loads, in this order.
    pub initrd_modules: Vec<String>,
    /// Modules in the root image.
    pub root_modules: Vec<String>,
    /// By the name of a feature: what an image with that feature has beside.
    #[serde(default)]
    pub with: BTreeMap<String, KernelPart>,
}

/// What an image has of the kernel because of a feature.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPart {
    /// Modules in the root image.
    pub root_modules: Vec<String>,
}

/// The boot loader of a board, from a Debian package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loader {
    /// The package.
    pub package: String,
    /// The loader's path in the package.
    pub loader: PathBuf,
    /// The path in the package of the stub that a unified kernel image begins with.
    pub stub: PathBuf,
    /// Where the firmware looks for the loader on the ESP; none if the loader is part of the firmware that is built from source.
    pub boot_path: Option<PathBuf>,
    /// UEFI's name of the architecture.
    pub efi_architecture: String,
}

/// Where the firmware comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "origin", rename_all = "lowercase")]
pub enum Firmware {
    /// The host supplies it.
    Package(PackagedFirmware),
    /// It is built here.
    Source(SourceFirmware),
}

/// Firmware that the host supplies, from a Debian package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagedFirmware {
    /// The package.
    pub package: String,
    /// The path in the package of the flash image with the program.
    pub code: PathBuf,
    /// The path in the package of the flash image with empty variables.
    pub variables: PathBuf,
}

/// Firmware that is built from source: Trusted Firmware-A, a trusted operating system, and UEFI.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFirmware {
    /// The source of the device tree, beside the board file.
    pub device_tree: String,
    /// The size of each of the two flash chips.
    pub flash_mib: u64,
    /// BL1, BL2 and BL31.
    pub trusted_firmware: TrustedFirmware,
    /// BL32.
    pub trusted_os: TrustedOs,
    /// BL33.
    pub uefi: Uefi,
}

/// How Trusted Firmware-A is built.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedFirmware {
    /// Its name of the platform.
    pub platform: String,
    /// Further words for make.
    pub arguments: Vec<String>,
}

/// A trusted operating system from a Debian package, in OP-TEE's three parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedOs {
    /// The package.
    pub package: String,
    /// The path in the package of the header, which describes the others.
    pub header: PathBuf,
    /// The part that is always in memory.
    pub pager: PathBuf,
    /// The part that is paged; may be empty.
    pub pageable: PathBuf,
}

/// How edk2 is built.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uefi {
    /// The description of the platform in edk2's tree.
    pub platform: String,
    /// Further options of edk2's `build`.
    pub arguments: Vec<String>,
    /// The path of the image in edk2's tree when it is built.
    pub image: String,
}

impl Firmware {
    /// The Debian package that files are taken from.
    pub fn package(&self) -> &str {
        match self {
            Self::Package(packaged) => &packaged.package,
            Self::Source(source) => &source.trusted_os.package,
        }
    }
}

/// What trusted applications are built with, from a Debian package, and which the board has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tee {
    /// The package.
    pub package: String,
    /// The folder in the package of OP-TEE's development kit for this machine.
    pub kit: PathBuf,
    /// Applications that the kit brings, by UUID.
    pub from_kit: Vec<String>,
    /// Folders of `image/trusted-applications`: ours, which the initrd has as well.
    pub own: Vec<String>,
}

/// How QEMU makes a machine of this kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The program.
    pub program: String,
    /// What makes the machine, without disks, flash images, network and TPM.
    pub arguments: Vec<String>,
}

/// One partition of the disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its label, by which everybody finds it.
    pub label: String,
    /// What it holds.
    pub kind: PartitionKind,
    /// Its size in MiB.
    pub mib: u64,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionKind {
    /// The boot loader and the boot entries.
    Esp,
    /// The root file system of a slot.
    Root,
    /// The hash tree of a slot.
    Verity,
    /// What the factory wrote.
    Factory,
    /// What the device wrote.
    State,
    /// What its TEE stores.
    Tee,
}

/// The most that the parts of an image may need, in MiB.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The root file system.
    pub root_mib: u64,
    /// The unified kernel image.
    pub uki_mib: u64,
    /// The hash tree.
    pub verity_mib: u64,
    /// All of them together, compressed for the way to the device.
    pub download_mib: u64,
}

/// A board file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The file could not be read.
    #[error("cannot read the board file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not in its form.
    #[error("{} is not a board file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A rule is broken.
    #[error("board file {}: {rule}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule.
        rule: String,
    },
}

/// The partition that a board with a TEE has beside the others.
const TEE_LABEL: (&str, PartitionKind) = ("tee", PartitionKind::Tee);
/// The partitions that every board has, which the device's programs look for by label.
const LABELS: [(&str, PartitionKind); 7] = [
    ("esp", PartitionKind::Esp),
    ("root-a", PartitionKind::Root),
    ("verity-a", PartitionKind::Verity),
    ("root-b", PartitionKind::Root),
    ("verity-b", PartitionKind::Verity),
    ("factory", PartitionKind::Factory),
    ("state", PartitionKind::State),
];

impl Board {
    /// Reads the text of a board file; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, BoardError> {
        let board: Self = toml::from_str(text)
            .map_err(|source| BoardError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        board.check().map_err(|rule| BoardError::Rule { path: path.to_owned(), rule })?;
        Ok(board)
    }

    /// Reads the board file at `path`.
    pub fn load(path: &Path) -> Result<Self, BoardError> {
        let text = fs::read_to_string(path).map_err(|source| BoardError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// The Debian packages that the board takes files from.
    pub fn packages(&self) -> Vec<&str> {
        let named = [&self.kernel.package, &self.loader.package, self.firmware.package()];
        named.into_iter().chain(self.tee.as_ref().map(|tee| tee.package.as_str())).collect()
    }

    /// The size in bytes of the partition called `label`.
    pub fn partition_bytes(&self, label: &str) -> Option<u64> {
        self.partitions.iter().find(|partition| partition.label == label).map(|partition| partition.mib << 20)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != 1 {
            return Err(format!("format {} is not known, only format 1 is", self.format));
        }
        if self.loader.boot_path.is_none() != matches!(self.firmware, Firmware::Source(_)) {
            return Err(
                "`boot_path` says where firmware of a package looks for the loader; firmware from source has it inside"
                    .to_owned(),
            );
        }
        let labels: BTreeSet<&str> = self.partitions.iter().map(|partition| partition.label.as_str()).collect();
        if labels.len() != self.partitions.len() {
            return Err("a partition's label stands twice".to_owned());
        }
        let has_tee = self.key_store == KeyStore::Tee;
        if self.tee.is_some() != has_tee {
            return Err("a board has a section `tee` if its key store is `tee`, and only then".to_owned());
        }
        let expected: Vec<_> = LABELS.into_iter().chain(has_tee.then_some(TEE_LABEL)).collect();
        for &(label, kind) in &expected {
            let found = self.partitions.iter().find(|partition| partition.label == label);
            match found {
                None => return Err(format!("there is no partition `{label}`")),
                Some(partition) if partition.kind != kind => {
                    return Err(format!("partition `{label}` is of another kind than its label says"));
                }
                Some(partition) if partition.mib == 0 || partition.mib > 1 << 20 => {
                    return Err(format!("partition `{label}` must have from 1 MiB to 1 TiB"));
                }
                Some(_) => {}
            }
        }
        if self.partitions.len() != expected.len() {
            return Err("there is a partition that no program knows".to_owned());
        }
        for name in ["root", "verity"] {
            let [a, b] = ["a", "b"].map(|slot| self.partition_bytes(&format!("{name}-{slot}")));
            if a != b {
                return Err(format!("partitions `{name}-a` and `{name}-b` differ in size"));
            }
        }
        let fits = |budget: u64, label: &str| self.partition_bytes(label).is_some_and(|bytes| budget << 20 <= bytes);
        if !fits(self.budget.root_mib, "root-a") || !fits(self.budget.verity_mib, "verity-a") {
            return Err("the budget of the root or of its hash tree is above the size of its partition".to_owned());
        }
        // Both slots' entries and a third one that is being written.
        if !fits(3 * self.budget.uki_mib, "esp") {
            return Err("the ESP cannot hold three unified kernel images of the size that the budget allows".to_owned());
        }
        if let Firmware::Source(source) = &self.firmware {
            let tree = &source.device_tree;
            if tree.contains('/') || !tree.ends_with(".dts") {
                return Err(format!("`{tree}` is no device tree source beside the board file"));
            }
            if !(source.flash_mib.is_power_of_two() && (32..=1024).contains(&source.flash_mib)) {
                return Err("`flash_mib` must be a power of two from 32 to 1024".to_owned());
            }
        }
        let words = self.kernel.arguments.iter();
        match words.clone().find(|word| word.is_empty() || !word.bytes().all(|b| b.is_ascii_graphic())) {
            Some(word) => Err(format!("`{word}` is not one word of a command line")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TEXT: &str = include_str!("../../boards/qemu-arm64-tpm.toml");

    const TEE: &str = include_str!("../../boards/qemu-arm64.toml");

    #[test]
    fn the_reference_boards_keep_the_rules() {
        let board = Board::parse(TEXT, Path::new("board.toml")).unwrap();
        assert_eq!(board.partition_bytes("root-b"), Some(128 << 20));
        let board = Board::parse(TEE, Path::new("board.toml")).unwrap();
        assert!(matches!(board.firmware, Firmware::Source(_)));
    }

    #[test]
    fn firmware_from_source_keeps_the_rules() {
        for (from, to, rule) in [
            ("\"qemu-arm64.dts\"", "\"../qemu-arm64.dts\"", "no device tree source"),
            ("flash_mib = 64", "flash_mib = 65", "power of two"),
            ("origin = \"source\"", "origin = \"elsewhere\"", "not a board file"),
            ("[firmware.uefi]", "[firmware.uefi]\ncolour = 1", "not a board file"),
        ] {
            assert!(TEE.contains(from), "{from}");
            let error = Board::parse(&TEE.replacen(from, to, 1), Path::new("board.toml")).unwrap_err().to_string();
            assert!(error.contains(rule), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn a_board_file_that_breaks_a_rule_is_refused() {
        for (from, to, rule) in [
            ("format = 1", "format = 2", "format 2"),
            ("format = 1", "format = 1\ncolour = 1", "not a board file"),
            ("label = \"root-b\"", "label = \"root-a\"", "twice"),
            ("label = \"state\"", "label = \"data\"", "no partition `state`"),
            ("kind = \"factory\"", "kind = \"state\"", "of another kind"),
            (
                "label = \"root-b\"\nkind = \"root\"\nmib = 128",
                "label = \"root-b\"\nkind = \"root\"\nmib = 64",
                "differ",
            ),
            ("mib = 16", "mib = 0", "from 1 MiB"),
            ("root_mib = 96", "root_mib = 129", "above the size"),
            ("uki_mib = 64", "uki_mib = 128", "three unified kernel images"),
            ("\"panic=5\"", "\"panic=5 quiet\"", "not one word"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = Board::parse(&TEXT.replacen(from, to, 1), Path::new("board.toml")).unwrap_err().to_string();
            assert!(error.contains(rule), "{from} -> {to}: {error}");
        }
    }
}
