//! The unsigned parts of firmware that is built from source. The same description and lock give the same bytes.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::step::Step;
use crate::{
    board::{Board, Firmware, SourceFirmware},
    image::{
        build::Packages,
        description::Description,
        error::{ImageError, copy, file},
    },
    packages::{LockedSource, PackageCache},
    sandbox::Sandbox,
    sbom::Copyrights,
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
/// The boot loader, which becomes part of UEFI's image.
const LOADER: &str = "loader.efi";
/// The device tree.
pub(super) const DEVICE_TREE: &str = "board.dtb";

/// The archive of a source in the work folder.
const ARCHIVE: &str = "source.tar.xz";

const NAMES: [&str; 8] = [BL1, BL2, BL31, TEE_HEADER, TEE_PAGER, TEE_PAGEABLE, UEFI, DEVICE_TREE];

/// The parts of a build of `board` that are firmware; none if the host supplies it.
pub(in crate::image) fn names(board: &Board) -> &'static [&'static str] {
    match board.firmware {
        Firmware::Package(_) => &[],
        Firmware::Source(_) => &NAMES,
    }
}

/// Makes the parts of the board's firmware in the folder `work`, and keeps the licences of what they are made from.
pub(in crate::image) fn make(
    cache: &PackageCache,
    description: &Description,
    packages: &Packages<'_>,
    copyrights: &mut Copyrights,
    (tools, work): (&Sandbox, &Path),
) -> Result<(), ImageError> {
    let Firmware::Source(firmware) = &description.board.firmware else { return Ok(()) };
    let loader = &description.board.loader;
    let loader = packages.unpack(cache, &[&loader.package], |_| true)?.read(&loader.loader)?;
    let [trusted_firmware, uefi] = steps(firmware);
    for (step, given) in [(trusted_firmware, &[][..]), (uefi, &[(LOADER, &loader[..])])] {
        let built = step.make(cache, description, given)?;
        for name in step.outputs {
            copy(&built.join(name), &work.join(name))?;
        }
        for source in step.locked(description)? {
            if let Some(text) = copyright(cache, source, tools, work)? {
                copyrights.add(source_name(source), text);
            }
        }
    }
    let trusted_os = &firmware.trusted_os;
    let files = packages.unpack(cache, &[&trusted_os.package], |_| true)?;
    copyrights.keep(&files);
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

/// What is built from source.
pub(super) fn steps(firmware: &SourceFirmware) -> [Step<'_>; 2] {
    [trusted_firmware(firmware), uefi(firmware)]
}

/// What the text of a source is kept as among those of packages.
pub(super) fn source_name(source: &LockedSource) -> String {
    format!("source {}", source.name)
}

/// The file `debian/copyright` of a source; none if Debian adds nothing to it.
fn copyright(
    cache: &PackageCache,
    source: &LockedSource,
    tools: &Sandbox,
    work: &Path,
) -> Result<Option<Vec<u8>>, ImageError> {
    let Some(archive) = source.debian_archive() else { return Ok(None) };
    let archive = cache.fetch_source_file(archive)?;
    copy(&archive, &work.join(ARCHIVE))?;
    let unpacked = tools
        .run(work, "xz", &["--decompress", "--stdout", ARCHIVE])
        .map_err(|source| ImageError::Tool { what: "licences of a source", source })?;
    find(&unpacked, Path::new("debian/copyright")).map_err(file("read", &archive))
}

/// The content of the file `path` in the tar `archive`.
fn find(archive: &[u8], path: &Path) -> io::Result<Option<Vec<u8>>> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if entry.path()? == path {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_of_an_archive_is_found_by_its_path_alone() {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, text) in [("copyright", &b"other"[..]), ("debian/copyright", b"text")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, path, text).unwrap();
        }
        let archive = archive.into_inner().unwrap();
        assert_eq!(find(&archive, Path::new("debian/copyright")).unwrap().unwrap(), b"text");
        assert_eq!(find(&archive, Path::new("debian/rules")).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_archive_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _answer = find(&bytes, Path::new("debian/copyright"));
        }
    }
}
