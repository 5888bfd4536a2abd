//! From a description to an unsigned build: packages, root file system, hash tree, initrd, unified kernel image, disk, component.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use protocol_types::{ReleaseVersion, SecurityVersion};

use super::{
    bill, component,
    description::Description,
    disk,
    error::{ImageError, file, remove},
    esp, firmware,
    manifest::{self, MANIFEST, Manifest, PARTS, part},
    programs,
    report::{self, FeatureAllowance, Part, REPORT, Report},
    root_image::{self, ROOT, VERITY},
    ssh,
    trusted::TrustedApplications,
    uki,
};
use crate::{
    initrd,
    kernel::KernelPackage,
    packages::{Chosen, LockedPackage, PackageCache, Pool, digest_of},
    rootfs::{self, Ingredients, Initrd, tree::Tree, unpack},
    sandbox::Sandbox,
    sbom::{BILL, CRATES, CRATES_LICENCES, Copyrights, LICENCES},
};

/// What to build.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Version of the operating system.
    pub version: &'a ReleaseVersion,
    /// What the initrd holds against the device's floor.
    pub security_version: SecurityVersion,
    /// The folder with the programs of ours and their digests.
    pub programs: &'a Path,
    /// The folder to write the build into.
    pub out: &'a Path,
    /// Public keys of the developers who may log in, as a file of OpenSSH; none for an image that nobody logs into.
    pub ssh_keys: Option<&'a Path>,
}

/// The disk image in the folder of a build.
pub const DISK: &str = "disk.img";
/// The component that a release takes, in the folder of a build.
pub const COMPONENT: &str = "os";

/// Builds an unsigned image and returns what it is and what it needs.
pub fn build(
    cache: &PackageCache,
    description: &Description,
    order: &Order<'_>,
) -> Result<(Manifest, Report), ImageError> {
    let from = Packages::choose(description)?;
    from.fetch(cache)?;
    let features = description.features()?;
    let own = features.values().flat_map(|feature| &feature.programs).map(String::as_str);
    let programs = programs::check(order.programs, own.chain([description.recipe.initrd.init.as_str()]))?;
    programs::check(order.programs, [CRATES, CRATES_LICENCES])?;

    let scratch = cache.scratch()?;
    let work = scratch.path();
    let (mut root, mut time) = (Tree::default(), 0);
    for chosen in from.root.values() {
        time = time.max(unpack::unpack(cache, chosen.package, &mut root)?);
    }
    let mut copyrights = Copyrights::default();
    copyrights.keep(&root);
    let tools = Sandbox::open(cache, &from.tools, time)?;
    let board = &description.board;
    let kernel = from.unpack(cache, &[&board.kernel.package], |name| name.starts_with("linux-image-"))?;
    copyrights.keep(&kernel);
    let kernel = KernelPackage::open(&board.kernel.package, kernel, &tools, work)?;
    let ingredients = Ingredients {
        features: &features,
        users: &description.users,
        overlay: &description.folder.join("rootfs/overlay"),
        programs: order.programs,
        packages: from.root.keys().copied().collect(),
        board: &board.name,
        kind: description.kind.kind.as_str(),
        version: order.version,
    };
    rootfs::assemble(&mut root, &ingredients)?;
    let kit = from.only(cache, board.tee.as_ref().map(|tee| tee.package.as_str()))?;
    copyrights.keep(&kit);
    let sources = description.folder.join("trusted-applications");
    let compilers = || from.compilers(cache, time);
    let trusted = TrustedApplications::collect(board, (&kit, &sources), compilers, &tools, work)?;
    trusted.add_to_root(&mut root);
    if let Some(path) = order.ssh_keys {
        ssh::allow(&mut root, &description.kind, path)?;
    }
    kernel.add_to_root(&description.root_modules()?, &mut root, &tools, work)?;
    root.add_parents(&"image-builder".into());
    root_image::make_root(&root, time, &tools, work)?;
    let root_hash = root_image::make_verity(&tools, work)?;

    let modules = kernel.for_initrd(&board.kernel.initrd_modules, &tools, work)?;
    let init = order.programs.join(&description.recipe.initrd.init);
    let init = fs::read(&init).map_err(file("read", &init))?;
    let for_initrd: Vec<&str> = from.initrd.packages.keys().map(String::as_str).collect();
    let packages = from.unpack(cache, &for_initrd, |_| true)?;
    copyrights.keep(&packages);
    let mut initrd = initrd::collect(&from.initrd, &packages, init, modules)?;
    trusted.add_to_initrd(&mut initrd);
    let loader = from.unpack(cache, &[&board.loader.package], |_| true)?;
    copyrights.keep(&loader);
    let cmdline = uki::command_line(board, &description.kind, &root_hash, order.security_version);
    let texts: [(&str, &[u8]); 6] = [
        (uki::KERNEL, &kernel.image),
        (uki::INITRD, &initrd::archive(&initrd, time)?),
        (uki::CMDLINE, cmdline.as_bytes()),
        (uki::OSREL, uki::OS_RELEASE.as_bytes()),
        (uki::STUB, &loader.read(&board.loader.stub)?),
        (uki::LOADER, &loader.read(&board.loader.loader)?),
    ];
    for (name, bytes) in texts {
        let path = work.join(name);
        fs::write(&path, bytes).map_err(file("write", &path))?;
    }
    uki::make(board, &kernel.release, None, &tools, work)?;
    firmware::make_parts(cache, description, &from, &mut copyrights, (&tools, work))?;

    clear(order.out)?;
    let parts = keep_parts(work, order.out, firmware::part_names(board))?;
    let manifest = Manifest {
        format: 1,
        board: board.name.clone(),
        kind: description.kind.kind,
        features: description.optional.clone(),
        version: order.version.clone(),
        security_version: order.security_version,
        root_hash,
        kernel_release: kernel.release.clone(),
        time,
        parts,
    };
    manifest::write_json(order.out, MANIFEST, &manifest)?;
    let sources = bill::Sources {
        description,
        from: &from,
        root: &root,
        initrd: &initrd,
        programs: &programs,
        trusted: trusted.own(),
        copyrights: &copyrights,
    };
    bill::write(cache, &sources, &manifest, order)?;
    let report = report(description, &from, &root, order.out)?;
    manifest::write_json(order.out, REPORT, &report)?;
    report.check()?;
    finish(description, &manifest, (&part(order.out, uki::LOADER), &part(order.out, uki::UKI)), &tools, order.out)?;
    Ok((manifest, report))
}

/// Removes what an earlier build and its signing have left in `out`, so that nothing there passes for a part of the next one. First
/// what makes it a build.
fn clear(out: &Path) -> Result<(), ImageError> {
    for name in [MANIFEST, REPORT, BILL, LICENCES, DISK, COMPONENT] {
        remove(&out.join(name))?;
    }
    remove(&signed_folder(out))?;
    remove(&unfinished_signed_folder(out))
}

/// Makes disk and component of the build in `build` from its root file system and the loader and unified kernel image given, into
/// the folder of `out` that they belong to.
pub(super) fn finish(
    description: &Description,
    manifest: &Manifest,
    boot: (&Path, &Path),
    tools: &Sandbox,
    build: &Path,
) -> Result<(), ImageError> {
    finish_into(description, manifest, boot, tools, (build, build))
}

/// As [`finish`], with the disk and the component in another folder than the parts.
pub(super) fn finish_into(
    description: &Description,
    manifest: &Manifest,
    (loader, uki): (&Path, &Path),
    tools: &Sandbox,
    (build, out): (&Path, &Path),
) -> Result<(), ImageError> {
    let work = tempfile::tempdir_in(out).map_err(file("use", out))?;
    esp::make(&description.board, manifest.time, (loader, uki), tools, work.path())?;
    let (root, verity) = (part(build, ROOT), part(build, VERITY));
    let contents = [("esp", work.path().join(esp::ESP)), ("root-a", root.clone()), ("verity-a", verity.clone())];
    let contents: Vec<(&str, &Path)> = contents.iter().map(|(label, path)| (*label, path.as_path())).collect();
    disk::make(&description.board, &contents, &out.join(DISK))?;
    component::make(manifest, [&root, &verity, uki], &out.join(COMPONENT))
}

/// Moves what was built into the folder of parts and returns the digest of each.
fn keep_parts(
    work: &Path,
    out: &Path,
    firmware: &[&str],
) -> Result<BTreeMap<String, protocol_types::Digest>, ImageError> {
    let folder = out.join(PARTS);
    fs::create_dir_all(&folder).map_err(file("make", &folder))?;
    let mut digests = BTreeMap::new();
    let system = [ROOT, VERITY, uki::KERNEL, uki::INITRD, uki::CMDLINE, uki::OSREL, uki::STUB, uki::LOADER, uki::UKI];
    for name in system.iter().chain(firmware) {
        let (from, to) = (work.join(name), folder.join(name));
        fs::copy(&from, &to).map_err(file("copy", &from))?;
        digests.insert((*name).to_owned(), digest_of(&to).map_err(file("read", &to))?);
    }
    Ok(digests)
}

fn report(description: &Description, from: &Packages<'_>, root: &Tree, out: &Path) -> Result<Report, ImageError> {
    let mut parts = Vec::new();
    for (name, path) in [("root", part(out, ROOT)), ("verity", part(out, VERITY)), ("uki", part(out, uki::UKI))] {
        parts.push(Part {
            name: name.to_owned(),
            bytes: fs::metadata(&path).map_err(file("read", &path))?.len(),
            download: report::download_size(&path).map_err(file("read", &path))?,
            budget: Report::budget(description.budget(), name),
        });
    }
    let reasons = description.reasons()?;
    let kernel = description.lock.choose(Pool::Device, [description.board.kernel.package.as_str()])?;
    let mut chosen = from.root.clone();
    // Only the package that modules come from: what its scripts would need is not there.
    let owns = |name: &str| root.iter().any(|(_, node)| &*node.owner == name);
    chosen.extend(kernel.into_iter().filter(|(name, _)| name.starts_with("linux-image-") && owns(name)));
    let kit = description.board.tee.as_ref().map(|tee| tee.package.as_str());
    let kit = description.lock.choose(Pool::Device, kit)?;
    chosen.extend(kit.into_iter().filter(|(name, _)| owns(name)));
    let (owners, files) = report::owners(root, &chosen, &reasons);
    let download = parts.iter().map(|part| part.download).sum();
    let download_budget = description.budget().download_mib << 20;
    let allowances = description.allowances().into_iter().map(FeatureAllowance::from).collect();
    Ok(Report { parts, download, download_budget, allowances, owners, files })
}

/// The locked packages that a build takes.
#[derive(Debug)]
pub(super) struct Packages<'a> {
    description: &'a Description,
    /// Of the root file system.
    root: BTreeMap<&'a str, Chosen<'a>>,
    /// What the initrd of this image has.
    initrd: Initrd,
    /// Of the build tools.
    pub(super) tools: Vec<LockedPackage>,
}

impl<'a> Packages<'a> {
    pub(super) fn choose(description: &'a Description) -> Result<Self, ImageError> {
        let features = description.features()?;
        let initrd = description.recipe.initrd.of(features.keys().copied());
        let named: Vec<&str> =
            features.values().flat_map(|feature| feature.packages.keys().map(String::as_str)).collect();
        let root = description.lock.choose(Pool::Device, named)?;
        let tools = description.lock.pool(Pool::Tools).cloned().collect();
        Ok(Self { description, root, initrd, tools })
    }

    /// The names of the packages of the root file system.
    pub(super) fn in_root(&self) -> impl Iterator<Item = &'a str> {
        self.root.keys().copied()
    }

    /// The names of the packages that bring the kernel.
    pub(super) fn kernel(&self) -> Result<Vec<&'a str>, ImageError> {
        let chosen = self.description.lock.choose(Pool::Device, [self.description.board.kernel.package.as_str()])?;
        Ok(chosen.into_keys().filter(|name| name.starts_with("linux-image-")).collect())
    }

    /// Makes sure that the cache holds everything.
    pub(super) fn fetch(&self, cache: &PackageCache) -> Result<(), ImageError> {
        let (lock, board) = (&self.description.lock, &self.description.board);
        let initrd = lock.choose(Pool::Device, self.initrd.packages.keys().map(String::as_str))?;
        let kernel = lock.choose(Pool::Device, [board.kernel.package.as_str()])?;
        let kernel = kernel.into_iter().filter(|(name, _)| name.starts_with("linux-image-"));
        let kit = board.tee.as_ref().map(|tee| tee.package.as_str());
        let single = lock.pool(Pool::Device).filter(|package| {
            [&board.loader.package, board.firmware.package()].into_iter().chain(kit).any(|name| name == package.name)
        });
        let mut packages: BTreeMap<&str, &LockedPackage> =
            self.root.iter().map(|(name, chosen)| (*name, chosen.package)).collect();
        packages.extend(initrd.into_iter().chain(kernel).map(|(name, chosen)| (name, chosen.package)));
        packages.extend(single.map(|package| (package.name.as_str(), package)));
        let packages: Vec<LockedPackage> = packages.into_values().cloned().collect();
        cache.fetch_locked(&board.debian_architecture, &packages)?;
        cache.fetch_locked(&self.description.tools.debian_architecture, &self.tools)?;
        Ok(())
    }

    /// The compilers, ready to run; to them it is always `time`.
    fn compilers(&self, cache: &PackageCache, time: u64) -> Result<Sandbox, ImageError> {
        let compilers: Vec<LockedPackage> = self.description.lock.pool(Pool::Toolchain).cloned().collect();
        cache.fetch_locked(&self.description.toolchain.debian_architecture, &compilers)?;
        Ok(Sandbox::open(cache, &compilers, time)?)
    }

    /// The files of the package `name` alone; none without one.
    fn only(&self, cache: &PackageCache, name: Option<&str>) -> Result<Tree, ImageError> {
        let name: Vec<&str> = name.into_iter().collect();
        self.unpack(cache, &name, |found| name.contains(&found))
    }

    /// The files of `named` and of what they need, as far as `wanted` says.
    pub(super) fn unpack(
        &self,
        cache: &PackageCache,
        named: &[&str],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Tree, ImageError> {
        let mut tree = Tree::default();
        for (name, chosen) in self.description.lock.choose(Pool::Device, named.iter().copied())? {
            if wanted(name) {
                unpack::unpack(cache, chosen.package, &mut tree)?;
            }
        }
        Ok(tree)
    }
}

/// The folder that holds the signed form of a build.
pub(super) fn signed_folder(build: &Path) -> PathBuf {
    build.join("signed")
}

/// The folder in which the signed form of a build is made.
pub(super) fn unfinished_signed_folder(build: &Path) -> PathBuf {
    build.join("signed.new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_earlier_build_stays_beside_the_next_one() {
        let out = tempfile::tempdir().unwrap();
        let of_others = out.path().join("notes");
        fs::write(&of_others, b"of somebody else").unwrap();
        for folder in ["os/artifacts", "signed/os", "signed.new"] {
            fs::create_dir_all(out.path().join(folder)).unwrap();
        }
        for name in ["image.json", "report.json", "sbom.cdx.json", "licences.txt", "disk.img", "signed/disk.img"] {
            fs::write(out.path().join(name), b"1.0.0").unwrap();
        }
        clear(out.path()).unwrap();
        let left: Vec<PathBuf> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [of_others]);
        clear(out.path()).unwrap();
        clear(&out.path().join("not-there-yet")).unwrap();
    }
}
