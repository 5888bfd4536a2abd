//! The bill of materials of an image and the report of its licences: packages of root file system, initrd, kernel and loader, our own
//! programs with the crates that they are linked from, and firmware that is built from source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use protocol_types::Digest;

use super::{
    build::{Order, Packages},
    description::Description,
    error::{ImageError, file},
    firmware,
    manifest::{self, Manifest},
};
use crate::{
    board::Firmware,
    identity,
    packages::{LockedPackage, PackageCache, Pool, RELEASE, deb},
    rootfs::tree::Tree,
    sbom::{
        self, BILL, CRATES_LICENCES, Copyrights, Crates, LICENCES,
        cyclonedx::{Bom, Component, ComponentKind, Licence, Property},
    },
};

/// What a build has at hand when it is nearly done.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) description: &'a Description,
    pub(super) from: &'a Packages<'a>,
    /// What the root file system is made of.
    pub(super) root: &'a Tree,
    pub(super) initrd: &'a Tree,
    /// The programs of ours.
    pub(super) programs: &'a BTreeMap<String, Digest>,
    /// The trusted applications of ours.
    pub(super) trusted: &'a BTreeMap<String, Digest>,
    pub(super) copyrights: &'a Copyrights,
}

/// What a bill lists.
#[derive(Default)]
struct Listed {
    components: Vec<Component>,
    /// The references of what each needs.
    needs: BTreeMap<String, BTreeSet<String>>,
    /// The references of what the image itself needs.
    top: BTreeSet<String>,
}

/// Writes bill and report of the build into its folder.
pub(super) fn write(
    cache: &PackageCache,
    sources: &Sources<'_>,
    manifest: &Manifest,
    order: &Order<'_>,
) -> Result<(), ImageError> {
    let parts = parts(sources)?;
    let packages: Vec<&LockedPackage> = sources
        .description
        .lock
        .pool(Pool::Device)
        .filter(|package| parts.contains_key(package.name.as_str()))
        .collect();
    let crates = Crates::load(order.programs)?;
    let (of_crates, needs) = sbom::crate_components(&crates);
    let references = references(cache, &packages)?;

    let mut listed = Listed { needs, ..Listed::default() };
    listed.add_packages(&packages, &references, (sources, &parts))?;
    listed.add_programs(&crates, sources);
    listed.components.extend(of_crates);
    let board = &sources.description.board;
    let kit = board.tee.as_ref().and_then(|tee| references.get(tee.package.as_str()));
    for (name, digest) in sources.trusted {
        listed.add(trusted_application(name, digest), kit.cloned());
    }
    let trusted_os = references.get(board.firmware.package()).map(String::as_str);
    let firmware = firmware::bill(sources.description, manifest, sources.copyrights, trusted_os)?;
    listed.components.extend(firmware.components);
    listed.needs.extend(firmware.needs);
    listed.top.extend(firmware.parts);

    let Listed { components, mut needs, top } = listed;
    let product_reference = "image".to_owned();
    needs.insert(product_reference.clone(), top);
    let title = format!("mbl-{}-{}", manifest.board, manifest.kind.as_str());
    let mut product = Component::new(ComponentKind::OperatingSystem, product_reference, &title);
    product.version = Some(manifest.version.to_string());
    product.hashes = vec![(&manifest.root_hash).into()];
    let bill = Bom::new(identity::of_content(&manifest.root_hash), product, components, needs);
    manifest::write_json(order.out, BILL, &bill)?;

    let of_crates = order.programs.join(CRATES_LICENCES);
    let of_crates = fs::read(&of_crates).map_err(file("read", &of_crates))?;
    let named = |name| Some((name, sources.copyrights.text(name)?));
    let of_packages = packages.iter().filter_map(|package| named(package.name.as_str()));
    let of_firmware = firmware.texts.iter().filter_map(|name| named(name.as_str()));
    let texts = of_packages
        .chain(of_firmware)
        .chain(sources.copyrights.common())
        .chain([("Rust crates", of_crates.as_slice())]);
    let report = sbom::licence_report(&format!("{title} {}", manifest.version), &bill, texts);
    let path = order.out.join(LICENCES);
    fs::write(&path, report).map_err(file("write", &path))
}

/// The references of packages, by name.
fn references<'a>(
    cache: &PackageCache,
    packages: &[&'a LockedPackage],
) -> Result<BTreeMap<&'a str, String>, ImageError> {
    let mut references = BTreeMap::new();
    for package in packages {
        let source = deb::source(&cache.file(package))?.unwrap_or_else(|| package.name.clone());
        let (name, version, architecture) = (&package.name, &package.version, &package.architecture);
        references.insert(name.as_str(), sbom::debian_reference(RELEASE, name, version, architecture, &source));
    }
    Ok(references)
}

impl Listed {
    /// What the image itself needs, and what that needs.
    fn add(&mut self, component: Component, needs: impl IntoIterator<Item = String>) {
        self.needs.insert(component.reference.clone(), needs.into_iter().collect());
        self.top.insert(component.reference.clone());
        self.components.push(component);
    }

    /// The packages; those with a reason of their own are needed by the image itself.
    fn add_packages(
        &mut self,
        packages: &[&LockedPackage],
        references: &BTreeMap<&str, String>,
        (sources, parts): (&Sources<'_>, &BTreeMap<&str, BTreeSet<&'static str>>),
    ) -> Result<(), ImageError> {
        let reasons = sources.description.reasons()?;
        for package in packages {
            let Some(reference) = references.get(package.name.as_str()) else { continue };
            let mut component = Component::new(ComponentKind::Library, reference.clone(), &package.name);
            component.version = Some(package.version.clone());
            component.purl = Some(reference.clone());
            component.licenses = sources.copyrights.licences(&package.name).into_iter().collect();
            let within = parts.get(package.name.as_str()).into_iter().flatten();
            component.properties = within.map(|part| Property::part(part)).collect();
            if let Some(reason) = reasons.get(package.name.as_str()) {
                component.properties.push(Property::reason(reason));
                self.top.insert(reference.clone());
            }
            self.components.push(component);
            let needed = package.needs.iter().filter_map(|name| references.get(name.as_str()).cloned());
            self.needs.insert(reference.clone(), needed.collect());
        }
        Ok(())
    }

    /// The programs of ours, each with the crate that it is built from.
    fn add_programs(&mut self, crates: &Crates, sources: &Sources<'_>) {
        for (program, digest) in sources.programs {
            let mut component = Component::new(ComponentKind::Application, program.clone(), program);
            component.hashes = vec![digest.into()];
            let is_init = *program == sources.description.recipe.initrd.init;
            component.properties = vec![Property::part(if is_init { "initrd" } else { "root" })];
            let built_from = crates.of_program(program);
            let licence = built_from.and_then(|name| crates.0.get(name)).map(|found| found.licence.clone());
            component.licenses = licence.map(|expression| Licence::Expression { expression }).into_iter().collect();
            self.add(component, built_from.map(sbom::crate_reference));
        }
    }
}

/// One of ours in the TEE, which root file system and initrd bring there.
fn trusted_application(name: &str, digest: &Digest) -> Component {
    let mut component = Component::new(ComponentKind::Application, format!("trusted-application/{name}"), name);
    component.hashes = vec![digest.into()];
    component.licenses = vec![Licence::ours()];
    component.properties = vec![Property::part("root"), Property::part("initrd")];
    component
}

/// The packages of an image, each with the parts that it brought something into.
fn parts<'a>(sources: &Sources<'a>) -> Result<BTreeMap<&'a str, BTreeSet<&'static str>>, ImageError> {
    let mut parts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let board = &sources.description.board;
    for name in sources.from.in_root() {
        parts.entry(name).or_default().insert("root");
    }
    for (tree, part) in [(sources.root, "root"), (sources.initrd, "initrd")] {
        for (_, node) in tree.iter() {
            parts.entry(&node.owner).or_default().insert(part);
        }
    }
    parts.entry(&board.loader.package).or_default().insert("loader");
    if let Firmware::Source(firmware) = &board.firmware {
        parts.entry(&firmware.trusted_os.package).or_default().insert("firmware");
    }
    for name in sources.from.kernel()? {
        parts.entry(name).or_default().insert("kernel");
    }
    Ok(parts)
}
