//! The signed form of a build: loader and unified kernel image for Secure Boot, policies for the TPM, and the firmware with the keys
//! that it trusts. A step of its own, because signatures hold the time and no two are alike.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    build::{self, Packages, signed_folder, unfinished_signed_folder},
    check,
    description::Description,
    error::{ImageError, copy, file, remove, replace},
    firmware::{self, Signing},
    keys::{POLICY, SECURE_BOOT},
    manifest::part,
    uki::{self, SigningFiles},
};
use crate::{packages::PackageCache, sandbox::Sandbox};

/// Signs the build in `build` with the keys in `keys`; returns the folder with the signed form.
pub fn sign(cache: &PackageCache, description: &Description, keys: &Path, build: &Path) -> Result<PathBuf, ImageError> {
    let (manifest, report) = check::inspect(build)?;
    let is_of = manifest.board == description.board.name && manifest.kind == description.kind.kind;
    if !is_of || manifest.features != description.optional {
        let (kind, board, features) = (manifest.kind.as_str(), &manifest.board, &manifest.features);
        let rule = format!("it is of kind {kind} for board {board} with the optional features {features:?}");
        return Err(ImageError::Broken { path: build.to_owned(), rule });
    }
    // The parts of a build that was refused are there, for `mbl image inspect`.
    report.check()?;
    let packages = Packages::choose(description)?;
    packages.fetch(cache)?;
    let tools = Sandbox::open(cache, &packages.tools, manifest.time)?;
    let out = unfinished_signed_folder(build);
    remove(&out)?;
    fs::create_dir_all(&out).map_err(file("make", &out))?;

    let scratch = cache.scratch()?;
    let work = scratch.path();
    for name in [uki::KERNEL, uki::INITRD, uki::CMDLINE, uki::OSREL, uki::STUB, uki::LOADER] {
        copy(&part(build, name), &work.join(name))?;
    }
    for name in SECURE_BOOT {
        copy(&keys.join(name).with_extension("pem"), &work.join(name).with_extension("pem"))?;
    }
    copy(&keys.join(POLICY).with_extension("pub"), &work.join(POLICY).with_extension("pub"))?;
    let [key, policy_key] = ["db", POLICY].map(|name| keys.join(name).with_extension("key"));
    for path in [&key, &policy_key] {
        // Said here in plain words; of a tool's complaint one would have to guess which file is meant.
        File::open(path).map_err(file("read", path))?;
    }
    let files = SigningFiles {
        key: "/tmp/keys/db.key",
        certificate: "db.pem",
        policy_key: "/tmp/keys/pcr.key",
        policy_public: "pcr.pub",
    };
    uki::make(&description.board, &manifest.kernel_release, Some(files), &tools.with_keys(&[&key, &policy_key]), work)?;
    let signed_loader = "loader-signed.efi";
    let arguments = ["--key", files.key, "--cert", files.certificate, "--output", signed_loader, uki::LOADER];
    tools
        .with_keys(&[&key])
        .run(work, "sbsign", &arguments)
        .map_err(|source| ImageError::Tool { what: "signature of the loader", source })?;

    let (loader, kernel) = (out.join(uki::LOADER), out.join(uki::UKI));
    copy(&work.join(signed_loader), &loader)?;
    copy(&work.join(uki::UKI), &kernel)?;
    build::finish_into(description, &manifest, (&loader, &kernel), &tools, (build, &out))?;
    let packages = &packages;
    firmware::sign(&Signing { cache, description, packages, tools: &tools, keys, build, work, out: &out })?;
    let signed = signed_folder(build);
    replace(&signed, &out)?;
    Ok(signed)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use protocol_types::BoardName;

    use super::*;
    use crate::{
        image::{
            manifest::{MANIFEST, Manifest, tests::manifest, write_json},
            report::{Part, REPORT, Report},
        },
        rootfs::ImageKind,
    };

    #[test]
    fn a_build_that_was_refused_for_its_size_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let build = dir.path().join("build");
        fs::create_dir(&build).unwrap();
        let board = BoardName::new("qemu-arm64-tpm").unwrap();
        let refused = Manifest { board, features: BTreeSet::new(), parts: BTreeMap::new(), ..manifest() };
        let root = Part { name: "root".into(), bytes: 11, download: 1, budget: 10 };
        let report = Report {
            parts: vec![root],
            download: 1,
            download_budget: 5,
            allowances: vec![],
            owners: vec![],
            files: vec![],
        };
        write_json(&build, MANIFEST, &refused).unwrap();
        write_json(&build, REPORT, &report).unwrap();
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let kind = ImageKind::Production;
        let description = Description::load(&image, "qemu-arm64-tpm", kind, &BTreeSet::new()).unwrap();
        let cache = PackageCache::open(dir.path().join("cache")).unwrap();
        let error = sign(&cache, &description, dir.path(), &build).unwrap_err();
        assert!(matches!(error, ImageError::Budget { needs: 11, allows: 10, .. }), "{error}");
        assert!(!signed_folder(&build).exists());
    }
}
