//! The bill of materials of an application: every file of its image with its digest, and the licence that its recipe names.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use protocol_types::Digest;

use super::recipe::Recipe;
use crate::{
    identity,
    sbom::cyclonedx::{Bom, Component, ComponentKind, Licence},
};

/// The bill of the application whose image index is `index` and whose layer holds `files`.
pub(super) fn of(recipe: &Recipe, files: &BTreeMap<PathBuf, Digest>, index: &Digest) -> Bom {
    let mut product = Component::new(ComponentKind::Application, "application".to_owned(), recipe.name.as_str());
    product.version = Some(recipe.version.to_string());
    product.hashes = vec![index.into()];
    product.licenses = recipe.licence.iter().map(|text| Licence::Expression { expression: text.clone() }).collect();
    let component = |(path, digest): (&PathBuf, &Digest)| {
        let path = Path::new("/").join(path).display().to_string();
        let mut component = Component::new(ComponentKind::File, path.clone(), &path);
        component.hashes = vec![digest.into()];
        component
    };
    let components: Vec<Component> = files.iter().map(component).collect();
    let all = components.iter().map(|component| component.reference.clone()).collect();
    let needs = BTreeMap::from([(product.reference.clone(), all)]);
    Bom::new(identity::of_content(index), product, components, needs)
}
