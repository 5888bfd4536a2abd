//! What firmware that is built from source adds to the bill of materials: its parts, and the sources that they are compiled from.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    parts::{DEVICE_TREE, TEE_HEADER, TEE_PAGEABLE, TEE_PAGER, source_name, steps},
    step::Step,
};
use crate::{
    board::Firmware,
    image::{description::Description, error::ImageError, manifest::Manifest},
    packages::{LockedSource, RELEASE},
    sbom::{
        Copyrights,
        cyclonedx::{Component, ComponentKind, ExternalReference, Licence, Property},
        debian_source_reference,
    },
};

/// Components, and what each needs.
#[derive(Debug, Default)]
pub(in crate::image) struct FirmwareBill {
    pub(in crate::image) components: Vec<Component>,
    pub(in crate::image) needs: BTreeMap<String, BTreeSet<String>>,
    /// The parts: what the image needs by itself.
    pub(in crate::image) parts: BTreeSet<String>,
    /// What the texts of the sources are kept as.
    pub(in crate::image) texts: Vec<String>,
}

/// The bill of the firmware in the build of `manifest`; `trusted_os` is the reference of the package with the trusted operating system.
pub(in crate::image) fn bill(
    description: &Description,
    manifest: &Manifest,
    copyrights: &Copyrights,
    trusted_os: Option<&str>,
) -> Result<FirmwareBill, ImageError> {
    let mut bill = FirmwareBill::default();
    let Firmware::Source(firmware) = &description.board.firmware else { return Ok(bill) };
    for step in steps(firmware) {
        bill.add_step(&step, description, manifest, copyrights)?;
    }
    let of_package = copyrights.licences(&firmware.trusted_os.package);
    for name in [TEE_HEADER, TEE_PAGER, TEE_PAGEABLE] {
        let needs = trusted_os.map(str::to_owned).into_iter().collect();
        bill.add_part(part(name, manifest, &of_package), needs);
    }
    bill.add_part(part(DEVICE_TREE, manifest, &[Licence::ours()].into()), BTreeSet::new());
    Ok(bill)
}

impl FirmwareBill {
    fn add_step(
        &mut self,
        step: &Step<'_>,
        description: &Description,
        manifest: &Manifest,
        copyrights: &Copyrights,
    ) -> Result<(), ImageError> {
        let (mut licences, mut references) = (BTreeSet::new(), BTreeSet::new());
        for source in step.locked(description)? {
            let component = source_component(source, description, copyrights);
            licences.extend(component.licenses.iter().cloned());
            references.insert(component.reference.clone());
            self.texts.push(source_name(source));
            self.components.push(component);
        }
        let patches = step.patches(description)?;
        let names = patches.iter().filter_map(|path| path.file_name()?.to_str());
        let patches: Vec<Property> = names.map(Property::patch).collect();
        for name in step.outputs {
            let mut component = part(name, manifest, &licences);
            component.properties.extend(patches.clone());
            self.add_part(component, references.clone());
        }
        Ok(())
    }

    fn add_part(&mut self, component: Component, needs: BTreeSet<String>) {
        self.needs.insert(component.reference.clone(), needs);
        self.parts.insert(component.reference.clone());
        self.components.push(component);
    }
}

fn part(name: &str, manifest: &Manifest, licences: &BTreeSet<Licence>) -> Component {
    let mut component = Component::new(ComponentKind::Firmware, name.to_owned(), name);
    component.hashes = manifest.parts.get(name).into_iter().map(Into::into).collect();
    component.licenses = licences.iter().cloned().collect();
    component.properties = vec![Property::part("firmware")];
    component
}

fn source_component(source: &LockedSource, description: &Description, copyrights: &Copyrights) -> Component {
    let reference = debian_source_reference(RELEASE, &source.name, &source.version);
    let mut component = Component::new(ComponentKind::Library, reference.clone(), &source.name);
    component.version = Some(source.version.clone());
    component.purl = Some(reference);
    component.licenses = copyrights.licences(&source_name(source)).into_iter().collect();
    component.properties = vec![Property::part("firmware")];
    component.properties.extend(description.sources.sources.get(&source.name).map(|reason| Property::reason(reason)));
    let archives = source.files.iter().map(|file| ExternalReference::source_archive(&file.path, &file.digest));
    component.external_references = archives.collect();
    component
}
