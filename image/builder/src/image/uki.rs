//! The unified kernel image: kernel, initrd and command line as one UEFI program. The unsigned one is the same bytes from the same
//! parts; a signed one differs in its signatures alone.

use std::path::Path;

use protocol_types::{Digest, SecurityVersion, signed_cmdline::SignedCmdline};

use super::error::ImageError;
use crate::{board::Board, rootfs::Kind, sandbox::Sandbox};

/// Names in the folder of parts.
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRD: &str = "initrd.zst";
pub(super) const CMDLINE: &str = "cmdline";
pub(super) const OSREL: &str = "os-release";
pub(super) const STUB: &str = "stub.efi";
pub(super) const LOADER: &str = "loader.efi";
/// The unified kernel image.
pub(super) const UKI: &str = "uki.efi";

/// What the loader shows and sorts by. It sorts by sort key, then version, then file name: with one key and no version in every
/// image the name alone decides, and with it the generation (`protocol_types::boot`).
pub(super) const OS_RELEASE: &str = "ID=mbl\nNAME=\"Mbed Linux OS\"\nPRETTY_NAME=\"Mbed Linux OS\"\n";

/// The phase of the boot in which the signed policy lets the TPM give the state's key: before the initrd leaves for the system.
const PHASES: &str = "enter-initrd";

/// Keys of one signer, as paths in the sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct SigningFiles {
    pub(super) key: &'static str,
    pub(super) certificate: &'static str,
    pub(super) policy_key: &'static str,
    pub(super) policy_public: &'static str,
}

/// The service manager takes no units and settings from the firmware's tables either.
const NO_CREDENTIALS: &str = "systemd.import_credentials=no";

/// The command line of an image whose root has `root_hash`.
pub(super) fn command_line(
    board: &Board,
    kind: &Kind,
    root_hash: &Digest,
    security_version: SecurityVersion,
) -> String {
    let own = [
        format!("roothash={}", root_hash.hex()),
        format!("mbl.board={}", board.name),
        format!("mbl.security_version={security_version}"),
        format!("mbl.key_store={}", board.key_store.as_str()),
    ];
    let words = own.iter().chain(&board.kernel.arguments).chain(&kind.arguments).map(String::as_str);
    words.chain([NO_CREDENTIALS, SignedCmdline::END]).collect::<Vec<_>>().join(" ")
}

/// Puts the parts in the work folder together as [`UKI`].
pub(super) fn make(
    board: &Board,
    kernel_release: &str,
    signing: Option<SigningFiles>,
    tools: &Sandbox,
    work: &Path,
) -> Result<(), ImageError> {
    let [cmdline, osrel] = [CMDLINE, OSREL].map(|name| format!("@{name}"));
    let mut arguments = vec![
        "build",
        "--linux",
        KERNEL,
        "--initrd",
        INITRD,
        "--cmdline",
        &cmdline,
        "--os-release",
        &osrel,
        "--uname",
        kernel_release,
        "--efi-arch",
        &board.loader.efi_architecture,
        "--stub",
        STUB,
        "--output",
        UKI,
    ];
    if let Some(files) = signing {
        arguments.extend(["--signtool", "sbsign", "--secureboot-private-key", files.key]);
        arguments.extend(["--secureboot-certificate", files.certificate, "--no-sign-kernel"]);
        arguments.extend(["--pcr-private-key", files.policy_key, "--pcr-public-key", files.policy_public]);
        arguments.extend(["--pcr-banks", "sha256", "--phases", PHASES]);
    }
    tools
        .run(work, "ukify", &arguments)
        .map(|_| ())
        .map_err(|source| ImageError::Tool { what: "unified kernel image", source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{board, rootfs::Description};

    #[test]
    fn the_command_line_begins_with_what_the_initrd_looks_for() {
        let board = Board::parse(board::tests::TEXT, Path::new("board.toml")).unwrap();
        let kind = Kind::parse(include_str!("../../../rootfs/production.toml"), Path::new("kind.toml")).unwrap();
        let digest = Digest::of(b"root");
        let line = command_line(&board, &kind, &digest, SecurityVersion(3));
        let start =
            format!("roothash={} mbl.board=qemu-arm64-tpm mbl.security_version=3 mbl.key_store=tpm2 ", digest.hex());
        assert!(line.starts_with(&start), "{line}");
        assert!(
            line.ends_with("quiet systemd.show_status=no TERM=dumb systemd.import_credentials=no mbl.end"),
            "{line}"
        );
        assert!(SignedCmdline::parse(line.as_bytes()).is_ok());
    }

    #[test]
    fn nothing_in_the_loaders_view_tells_two_versions_apart() {
        assert!(OS_RELEASE.lines().all(|line| !line.contains("VERSION") && !line.contains("BUILD_ID")));
    }
}
