//! The signed form of a build: loader and unified kernel image for Secure Boot, policies for the TPM, the keys enrolled in the
//! firmware's flash image. A step of its own, because signatures hold the time and no two are alike.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    build::{self, Packages, signed_folder},
    description::Description,
    error::{ImageError, file},
    keys::{POLICY, SECURE_BOOT},
    manifest::{Manifest, part},
    uki::{self, SigningFiles},
};
use crate::{packages::PackageCache, sandbox::Sandbox};

/// The flash image with the firmware's program.
pub const FIRMWARE_CODE: &str = "firmware-code.fd";
/// The flash image with the firmware's variables, our keys among them.
pub const FIRMWARE_VARIABLES: &str = "firmware-variables.fd";
/// Who enrolled the keys, as firmware notes it.
const OWNER: &str = "6d626c2d-6465-4f76-8065-6e726f6c6c65";

/// Signs the build in `build` with the keys in `keys`; returns the folder with the signed form.
pub fn sign(cache: &PackageCache, description: &Description, keys: &Path, build: &Path) -> Result<PathBuf, ImageError> {
    let manifest = Manifest::load(build)?;
    if manifest.board != description.board.name || manifest.kind != description.kind.kind {
        let rule = format!("it is of kind {} for board {}", manifest.kind.as_str(), manifest.board);
        return Err(ImageError::Broken { path: build.to_owned(), rule });
    }
    let packages = Packages::choose(description)?;
    packages.fetch(cache)?;
    let tools = Sandbox::open(cache, &packages.tools, manifest.time)?;
    let out = signed_folder(build);
    fs::create_dir_all(&out).map_err(file("make", &out))?;

    let scratch = cache.scratch()?;
    let work = scratch.path();
    for name in [uki::KERNEL, uki::INITRD, uki::CMDLINE, uki::OSREL, uki::STUB, uki::RESET_PROFILE, uki::LOADER] {
        copy(&part(build, name), &work.join(name))?;
    }
    for name in SECURE_BOOT {
        copy(&keys.join(name).with_extension("pem"), &work.join(name).with_extension("pem"))?;
    }
    for (name, kind) in [("db", "key"), (POLICY, "key"), (POLICY, "pub")] {
        copy(&keys.join(name).with_extension(kind), &work.join(name).with_extension(kind))?;
    }
    let files = SigningFiles { key: "db.key", certificate: "db.pem", policy_key: "pcr.key", policy_public: "pcr.pub" };
    uki::make(&description.board, &manifest.kernel_release, Some(files), &tools, work)?;
    let signed_loader = "loader-signed.efi";
    let arguments = ["--key", files.key, "--cert", files.certificate, "--output", signed_loader, uki::LOADER];
    tools
        .run(work, "sbsign", &arguments)
        .map_err(|source| ImageError::Tool { what: "signature of the loader", source })?;

    let (loader, kernel) = (out.join(uki::LOADER), out.join(uki::UKI));
    copy(&work.join(signed_loader), &loader)?;
    copy(&work.join(uki::UKI), &kernel)?;
    build::finish_into(description, &manifest, (&loader, &kernel), &tools, (build, &out))?;
    firmware(cache, description, &packages, &tools, (work, &out))?;
    Ok(out)
}

/// Enrols the certificates in the work folder in the firmware's flash image.
fn firmware(
    cache: &PackageCache,
    description: &Description,
    packages: &Packages<'_>,
    tools: &Sandbox,
    (work, out): (&Path, &Path),
) -> Result<(), ImageError> {
    let board = &description.board;
    let files = packages.unpack(cache, &[&board.firmware.package], |_| true)?;
    for (name, path) in [("code.fd", &board.firmware.code), ("variables.fd", &board.firmware.variables)] {
        let to = work.join(name);
        fs::write(&to, files.read(path)?).map_err(file("write", &to))?;
    }
    let arguments = [
        "--input",
        "variables.fd",
        "--output",
        "enrolled.fd",
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
    tools
        .run(work, "virt-fw-vars", &arguments)
        .map_err(|source| ImageError::Tool { what: "firmware's variables", source })?;
    copy(&work.join("code.fd"), &out.join(FIRMWARE_CODE))?;
    copy(&work.join("enrolled.fd"), &out.join(FIRMWARE_VARIABLES))
}

fn copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::copy(from, to).map(|_| ()).map_err(file("copy", from))
}
