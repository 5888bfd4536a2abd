//! Small operating systems: a real erofs image with a real hash tree, and a UEFI program in the place of the kernel image.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use protocol_types::{Digest, SecurityVersion};

use super::efi_program::program;

/// The board of these systems.
pub(super) const BOARD: &str = "qemu-arm64-tpm";
/// What a kernel image says when it was started.
pub(super) const STARTS: &str = "mbl-replay starts system";

/// One operating system.
#[derive(Clone, Debug)]
pub(super) struct System {
    pub(super) version: &'static str,
    pub(super) security_version: SecurityVersion,
    pub(super) root: Vec<u8>,
    pub(super) tree: Vec<u8>,
    pub(super) root_hash: Digest,
    pub(super) uki: Vec<u8>,
}

/// Bytes that do not repeat, of a seed of their own.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
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
pub(super) fn tool(name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    let path = places.into_iter().find(|path| path.exists());
    let path = path.with_context(|| format!("`{name}` is missing; run testbed/setup"))?;
    let output = Command::new(path).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{name} {}: {said}", arguments.join(" "));
    Ok(said)
}

impl System {
    /// Makes a system in the work folder. `changed` tells it from the others; the greater part of all of them is alike.
    pub(super) fn make(
        work: &Path,
        version: &'static str,
        security_version: u32,
        changed: u64,
    ) -> anyhow::Result<Self> {
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
        let path = |name: &str| work.join(format!("{name}-{version}")).display().to_string();
        let (root, tree) = (path("root"), path("tree"));
        let uuid = "00000000-0000-4000-8000-000000000001";
        tool("mkfs.erofs", &["-T0", "-U", uuid, "--all-root", &root, &content.display().to_string()])?;
        let salt = Digest::of(version.as_bytes()).hex();
        let said =
            tool("veritysetup", &["format", &format!("--salt={salt}"), &format!("--uuid={uuid}"), &root, &tree])?;
        let root_hash = said.lines().find_map(|line| line.strip_prefix("Root hash:")).map(str::trim);
        let root_hash = Digest::from_hex(root_hash.context("veritysetup named no root hash")?)?;
        let cmdline = format!(
            "roothash={} mbl.board={BOARD} mbl.security_version={security_version} mbl.key_store=none quiet",
            root_hash.hex()
        );
        let uki =
            program(&format!("{STARTS} {version}"), &cmdline, &noise(changed + 1000, 30_000 + version.len() * 100));
        let read = |path: &str| fs::read(path).with_context(|| format!("cannot read {path}"));
        let (root, tree) = (read(&root)?, read(&tree)?);
        ensure!(root.len() + tree.len() + uki.len() < 1 << 20, "the system is larger than 1 MiB");
        Ok(Self { version, security_version: SecurityVersion(security_version), root, tree, root_hash, uki })
    }
}
