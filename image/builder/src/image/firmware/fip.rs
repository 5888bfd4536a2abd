//! The signed firmware: certificates of Trusted Board Boot, the firmware image package (FIP), the boot ROM that trusts the root key,
//! and the flash images of both (`docs/formats/firmware.md`).

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use protocol_release::document::FirmwarePackage;
use protocol_types::{Digest, FirmwareRecord, Slot};
use rcgen::{KeyPair, PublicKeyData};

use super::{
    FIRMWARE_PACKAGE, FIRMWARE_ROM, Signing, enrol,
    parts::{BL1, BL2, BL31, DEVICE_TREE, TEE_HEADER, TEE_PAGEABLE, TEE_PAGER, UEFI},
};
use crate::{
    board::SourceFirmware,
    image::{
        build::COMPONENT,
        component,
        error::{ImageError, copy, file},
        keys::ROOT_OF_TRUST,
        manifest::part,
    },
};

/// What stands in BL1 and BL2 for the digest of the root-of-trust key until they are signed (`image/firmware/trusted-firmware/build`).
const UNSIGNED: &[u8; 32] = b"MBL-ROTPK-SHA256-SET-WHEN-SIGNED";
/// Where tools see the root-of-trust key.
const ROOT_KEY: &str = "/tmp/keys/rot.key";
/// The package in the work folder.
const FIP: &str = "firmware.fip";
/// Where slot a lies in the flash of the packages (`PLAT_QEMU_FIP_BASE` in `image/firmware/trusted-firmware/patches`).
const SLOT_A: u64 = 16 << 20;
/// The record that the factory writes, in the first of its two places: slot a starts.
const FACTORY_RECORD: FirmwareRecord = FirmwareRecord::new(1, Slot::A, false);

/// What goes into the package: the options of `cert_create` and `fiptool`, and the file. Images are verified by digests in
/// certificates, certificates by keys in certificates, the first by the root-of-trust key (Trusted Board Boot Requirements, Arm DEN0006).
const IMAGES: [(&str, &str); 7] = [
    ("--tb-fw", BL2),
    ("--hw-config", DEVICE_TREE),
    ("--soc-fw", BL31),
    ("--tos-fw", TEE_HEADER),
    ("--tos-fw-extra1", TEE_PAGER),
    ("--tos-fw-extra2", TEE_PAGEABLE),
    ("--nt-fw", UEFI),
];
const CERTIFICATES: [(&str, &str); 8] = [
    ("--tb-fw-cert", "tb-fw.crt"),
    ("--trusted-key-cert", "trusted-key.crt"),
    ("--soc-fw-key-cert", "soc-fw-key.crt"),
    ("--soc-fw-cert", "soc-fw.crt"),
    ("--tos-fw-key-cert", "tos-fw-key.crt"),
    ("--tos-fw-cert", "tos-fw.crt"),
    ("--nt-fw-key-cert", "nt-fw-key.crt"),
    ("--nt-fw-cert", "nt-fw.crt"),
];

pub(super) fn sign(signing: &Signing<'_>, firmware: &SourceFirmware) -> Result<(), ImageError> {
    let Signing { build, work, out, tools, .. } = *signing;
    let key = signing.keys.join(ROOT_OF_TRUST).with_extension("key");
    let root = root_digest(&fs::read_to_string(&key).map_err(file("read", &key))?)?;
    let failed = |source| ImageError::Tool { what: "certificates of the firmware", source };
    // With `-n`, `cert_create` makes a key of its own in place of one that it cannot read, as root cannot in the sandbox when the
    // key is somebody else's.
    let signing_tools = tools.with_keys(&[&key]);
    signing_tools.run(work, "cat", &[ROOT_KEY]).map_err(failed)?;
    for name in [BL1, BL2] {
        let (from, to) = (part(build, name), work.join(name));
        let image = fs::read(&from).map_err(file("read", &from))?;
        let trusting = trust(&image, &root).ok_or_else(|| {
            let rule = format!("parts/{name} does not have exactly one place for the digest of the root-of-trust key");
            ImageError::Broken { path: build.to_owned(), rule }
        })?;
        fs::write(&to, trusting).map_err(file("write", &to))?;
    }
    for name in [BL31, TEE_HEADER, TEE_PAGER, TEE_PAGEABLE, DEVICE_TREE] {
        copy(&part(build, name), &work.join(name))?;
    }
    copy(&part(build, UEFI), &work.join("uefi-without-keys.fd"))?;
    enrol(signing, "uefi-without-keys.fd", UEFI)?;

    let words = IMAGES.iter().chain(&CERTIFICATES).flat_map(|(option, name)| [*option, *name]);
    // The keys between the root and the images are made for this package and thrown away: nobody has to keep them.
    let head = ["-n", "--key-alg", "ecdsa", "--hash-alg", "sha256", "--rot-key", ROOT_KEY];
    let counters = ["--tfw-nvctr", "0", "--ntfw-nvctr", "0"];
    let arguments: Vec<&str> = head.into_iter().chain(counters).chain(words.clone()).collect();
    signing_tools.run(work, "cert_create", &arguments).map_err(failed)?;
    let arguments: Vec<&str> = ["create"].into_iter().chain(words).chain([FIP]).collect();
    tools
        .run(work, "fiptool", &arguments)
        .map_err(|source| ImageError::Tool { what: "firmware image package", source })?;

    let fip = work.join(FIP);
    let needs = fs::metadata(&fip).map_err(file("read", &fip))?.len();
    if needs > FirmwarePackage::MAX_BYTES {
        let allows = FirmwarePackage::MAX_BYTES;
        return Err(ImageError::Budget { part: "firmware image package", needs, allows });
    }
    let read = |path: &Path| fs::read(path).map_err(file("read", path));
    let size = firmware.flash_mib << 20;
    flash(&out.join(FIRMWARE_ROM), size, &[(0, &read(&work.join(BL1))?)])?;
    let record = FACTORY_RECORD.to_bytes();
    flash(&out.join(FIRMWARE_PACKAGE), size, &[(0, &record), (SLOT_A, &read(&fip)?)])?;
    component::add_firmware(&fip, &out.join(COMPONENT))
}

/// The SHA-256 of the public half of the key in `pem`, in the form in which a certificate holds it (RFC 5280, 4.1.2.7).
fn root_digest(pem: &str) -> Result<Digest, ImageError> {
    let key = KeyPair::from_pem(pem).map_err(|source| ImageError::Key { name: ROOT_OF_TRUST, source })?;
    Ok(Digest::of(&key.subject_public_key_info()))
}

/// `image` with `root` in the one place for it.
fn trust(image: &[u8], root: &Digest) -> Option<Vec<u8>> {
    let mut places = image.windows(UNSIGNED.len()).enumerate().filter(|(_, bytes)| bytes == UNSIGNED);
    let (at, _) = places.next().filter(|_| places.next().is_none())?;
    let mut image = image.to_vec();
    image.get_mut(at..at + UNSIGNED.len())?.copy_from_slice(root.as_bytes());
    Some(image)
}

/// Makes a flash image of `size` bytes with each content at its offset, sparse: all else is left out.
fn flash(path: &Path, size: u64, contents: &[(u64, &[u8])]) -> Result<(), ImageError> {
    let made = File::create(path).and_then(|flash| {
        flash.set_len(size)?;
        contents.iter().try_for_each(|(offset, bytes)| flash.write_all_at(bytes, *offset))
    });
    made.map_err(file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_key_goes_into_the_one_place_for_it() {
        let root = Digest::of(b"key");
        let image = [b"before".as_slice(), UNSIGNED, b"after"].concat();
        assert_eq!(trust(&image, &root).unwrap(), [b"before".as_slice(), root.as_bytes(), b"after"].concat());
        assert_eq!(trust(b"an image of somebody else", &root), None);
        assert_eq!(trust(&[image.as_slice(), UNSIGNED].concat(), &root), None);
    }

    #[test]
    fn the_digest_of_a_key_is_that_of_its_public_half() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(root_digest(&key.serialize_pem()).unwrap(), Digest::of(&key.subject_public_key_info()));
        assert!(root_digest("no key").is_err());
    }
}
