//! The firmware of a board: taken from a package of the host, or built from source, and signed. What is in flash when the machine is
//! turned on for the first time.

mod bill;
mod fip;
mod package;
mod parts;
mod step;

use std::path::Path;

pub(super) use bill::bill;
pub(super) use parts::{make as make_parts, names as part_names};

use super::{build::Packages, description::Description, error::ImageError};
use crate::{
    board::{Board, Firmware},
    packages::PackageCache,
    sandbox::Sandbox,
};

/// What the name of every flash image ends with.
pub(super) const FLASH: &str = "fd";
/// The flash image with the firmware's program.
pub const FIRMWARE_CODE: &str = "firmware-code.fd";
/// The flash image with the firmware's variables, our keys among them.
pub const FIRMWARE_VARIABLES: &str = "firmware-variables.fd";
/// The flash image with the boot ROM.
pub const FIRMWARE_ROM: &str = "firmware-rom.fd";
/// The flash image with the firmware image package.
pub const FIRMWARE_PACKAGE: &str = "firmware-package.fd";

/// The flash images of a board's machine: what cannot be written, and what can.
pub fn flash_images(board: &Board) -> [&'static str; 2] {
    match board.firmware {
        Firmware::Package(_) => [FIRMWARE_CODE, FIRMWARE_VARIABLES],
        Firmware::Source(_) => [FIRMWARE_ROM, FIRMWARE_PACKAGE],
    }
}

/// What firmware is signed with, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signing<'a> {
    /// The cache of packages.
    pub(super) cache: &'a PackageCache,
    /// What the image is made from.
    pub(super) description: &'a Description,
    /// The packages that it takes.
    pub(super) packages: &'a Packages<'a>,
    /// The build tools.
    pub(super) tools: &'a Sandbox,
    /// The folder with the keys.
    pub(super) keys: &'a Path,
    /// The folder of the build.
    pub(super) build: &'a Path,
    /// A work folder, which holds the certificates of Secure Boot.
    pub(super) work: &'a Path,
    /// The folder of the signed form.
    pub(super) out: &'a Path,
}

/// Makes the flash images of the signed form.
pub(super) fn sign(signing: &Signing<'_>) -> Result<(), ImageError> {
    match &signing.description.board.firmware {
        Firmware::Package(firmware) => package::sign(signing, firmware),
        Firmware::Source(firmware) => fip::sign(signing, firmware),
    }
}

/// Who enrolled the keys, as firmware notes it.
const OWNER: &str = "6d626c2d-6465-4f76-8065-6e726f6c6c65";

/// Enrols the certificates in the work folder in the variables of the image `from`, as the image `to`.
fn enrol(signing: &Signing<'_>, from: &str, to: &str) -> Result<(), ImageError> {
    let arguments = [
        "--input",
        from,
        "--output",
        to,
        "--set-pk",
        OWNER,
        "PK.pem",
        "--add-kek",
        OWNER,
        "KEK.pem",
        "--add-db",
        OWNER,
        "db.pem",
        "--sb",
    ];
    signing
        .tools
        .run(signing.work, "virt-fw-vars", &arguments)
        .map(drop)
        .map_err(|source| ImageError::Tool { what: "firmware's variables", source })
}
