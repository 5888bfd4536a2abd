//! Small operating systems: a real erofs image with a real hash tree, and a UEFI program in the place of the kernel image.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use protocol_types::{Digest, SecurityVersion};

use super::efi_program::program;

/// The board of these systems.
pub(crate) const BOARD: &str = "qemu-arm64-tpm";
/// Nothing looks for it.
const UUID: &str = "00000000-0000-4000-8000-000000000001";
/// What a kernel image says when it was started.
pub(crate) const STARTS: &str = "mbl-replay starts system";

/// One operating system.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) version: &'static str,
    pub(crate) security_version: SecurityVersion,
    pub(crate) root: Vec<u8>,
    pub(crate) tree: Vec<u8>,
    pub(crate) root_hash: Digest,
    pub(crate) uki: Vec<u8>,
}

/// Bytes that do not repeat, of a seed of their own.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

/// A tool of a Debian package of `tools.txt`.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    let path = places.into_iter().find(|path| path.exists());
    let path = path.with_context(|| format!("`{name}` is missing; run testbed/setup"))?;
    let output = Command::new(path).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{name} {}: {said}", arguments.join(" "));
    Ok(said)
}

/// What a system is called, and how it differs from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Make {
    pub(crate) version: &'static str,
    pub(crate) security_version: u32,
    /// Whatever differs comes from this number.
    pub(crate) changed: u64,
    /// As on the signed command line.
    pub(crate) key_store: &'static str,
}

impl System {
    /// Makes a small system in the work folder, of an erofs image; the greater part of all of them is alike.
    pub(crate) fn small(work: &Path, make: Make) -> anyhow::Result<Self> {
        let Make { version, changed, .. } = make;
        let content = work.join(format!("content-{version}"));
        fs::create_dir_all(content.join("usr/lib")).context("cannot make the content of a system")?;
        let files = [
            ("usr/lib/os-release", format!("ID=mbl\nVERSION_ID=\"{version}\"\n").into_bytes()),
            ("usr/lib/libchanged.so", noise(changed, 90_000)),
            ("usr/lib/libequal.so", noise(1, 470_000)),
        ];
        for (name, bytes) in files {
            fs::write(content.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
        }
        let root = work.join(format!("root-{version}"));
        let (image, content) = (root.display().to_string(), content.display().to_string());
        tool("mkfs.erofs", &["-T0", "-U", UUID, "--all-root", &image, &content])?;
        let system = Self::of_root(work, make, &root, 30_000 + version.len() * 100)?;
        let bytes = system.root.len() + system.tree.len() + system.uki.len();
        ensure!(bytes < 1 << 20, "the system is larger than 1 MiB");
        Ok(system)
    }

    /// Makes a system of noise, whose root and kernel image have so many bytes. No block of it is as in another.
    pub(crate) fn of_noise(work: &Path, make: Make, (root_bytes, uki_bytes): (usize, usize)) -> anyhow::Result<Self> {
        let root = work.join(format!("root-{}", make.version));
        fs::write(&root, noise(make.changed, root_bytes)).context("cannot write the root of a system")?;
        Self::of_root(work, make, &root, uki_bytes)
    }

    fn of_root(work: &Path, make: Make, root: &Path, uki_bytes: usize) -> anyhow::Result<Self> {
        let Make { version, security_version, changed, key_store } = make;
        let tree = work.join(format!("tree-{version}"));
        let (salt, uuid) = (format!("--salt={}", Digest::of(version.as_bytes()).hex()), format!("--uuid={UUID}"));
        let said =
            tool("veritysetup", &["format", &salt, &uuid, &root.display().to_string(), &tree.display().to_string()])?;
        let root_hash = said.lines().find_map(|line| line.strip_prefix("Root hash:")).map(str::trim);
        let root_hash = Digest::from_hex(root_hash.context("veritysetup named no root hash")?)?;
        let cmdline = format!(
            "roothash={} mbl.board={BOARD} mbl.security_version={security_version} mbl.key_store={key_store} quiet",
            root_hash.hex()
        );
        let uki = program(&format!("{STARTS} {version}"), &cmdline, &noise(changed + 1000, uki_bytes));
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let (root, tree) = (read(root)?, read(&tree)?);
        Ok(Self { version, security_version: SecurityVersion(security_version), root, tree, root_hash, uki })
    }
}
