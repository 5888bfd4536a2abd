//! The unsigned parts of firmware that is built from source. The same description and lock give the same bytes.

use std::{fs, path::Path};

use super::step::Step;
use crate::{
    board::{Board, Firmware, SourceFirmware},
    image::{
        build::Packages,
        description::Description,
        error::{ImageError, copy, file},
    },
    packages::PackageCache,
    sandbox::Sandbox,
};

/// The boot ROM.
pub(super) const BL1: &str = "bl1.bin";
/// The trusted boot firmware, which verifies everything that follows.
pub(super) const BL2: &str = "bl2.bin";
/// The secure monitor.
pub(super) const BL31: &str = "bl31.bin";
/// The header of the trusted operating system.
pub(super) const TEE_HEADER: &str = "tee-header.bin";
/// The trusted operating system.
pub(super) const TEE_PAGER: &str = "tee-pager.bin";
/// The part of it that is paged.
pub(super) const TEE_PAGEABLE: &str = "tee-pageable.bin";
/// UEFI, without keys.
pub(super) const UEFI: &str = "uefi.fd";
/// The device tree.
pub(super) const DEVICE_TREE: &str = "board.dtb";

const NAMES: [&str; 8] = [BL1, BL2, BL31, TEE_HEADER, TEE_PAGER, TEE_PAGEABLE, UEFI, DEVICE_TREE];

/// The parts of a build of `board` that are firmware; none if the host supplies it.
pub(in crate::image) fn names(board: &Board) -> &'static [&'static str] {
    match board.firmware {
        Firmware::Package(_) => &[],
        Firmware::Source(_) => &NAMES,
    }
}

/// Makes the parts of the board's firmware in the folder `work`.
pub(in crate::image) fn make(
    cache: &PackageCache,
    description: &Description,
    packages: &Packages<'_>,
    tools: &Sandbox,
    work: &Path,
) -> Result<(), ImageError> {
    let Firmware::Source(firmware) = &description.board.firmware else { return Ok(()) };
    for step in [trusted_firmware(firmware), uefi(firmware)] {
        let built = step.make(cache, description)?;
        for name in step.outputs {
            copy(&built.join(name), &work.join(name))?;
        }
    }
    let trusted_os = &firmware.trusted_os;
    let files = packages.unpack(cache, &[&trusted_os.package], |_| true)?;
    for (name, path) in
        [(TEE_HEADER, &trusted_os.header), (TEE_PAGER, &trusted_os.pager), (TEE_PAGEABLE, &trusted_os.pageable)]
    {
        let to = work.join(name);
        fs::write(&to, files.read(path)?).map_err(file("write", &to))?;
    }
    let source = description.folder.join("boards").join(&firmware.device_tree);
    copy(&source, &work.join(&firmware.device_tree))?;
    tools
        .run(work, "dtc", &["-I", "dts", "-O", "dtb", "-o", DEVICE_TREE, &firmware.device_tree])
        .map(drop)
        .map_err(|source| ImageError::Tool { what: "device tree", source })
}

fn trusted_firmware(firmware: &SourceFirmware) -> Step<'_> {
    let platform = [firmware.trusted_firmware.platform.as_str()];
    let arguments = firmware.trusted_firmware.arguments.iter().map(String::as_str);
    Step {
        what: "trusted firmware",
        name: "trusted-firmware",
        sources: &["arm-trusted-firmware", "mbedtls"],
        arguments: platform.into_iter().chain(arguments).collect(),
        outputs: &[BL1, BL2, BL31],
    }
}

fn uefi(firmware: &SourceFirmware) -> Step<'_> {
    let words = [firmware.uefi.platform.as_str(), firmware.uefi.image.as_str()];
    let arguments = firmware.uefi.arguments.iter().map(String::as_str);
    Step {
        what: "UEFI firmware",
        name: "uefi",
        sources: &["edk2"],
        arguments: words.into_iter().chain(arguments).collect(),
        outputs: &[UEFI],
    }
}
