//! What an image or an application is made of, from the same graph that built it: a bill of materials (CycloneDX 1.6) and a report
//! of licences with their texts.

mod copyright;
mod crates;
pub(crate) mod cyclonedx;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use copyright::Copyrights;
pub use crates::{CRATES, CRATES_LICENCES, CratesError};
pub(crate) use crates::{CrateName, Crates};
use cyclonedx::{Bom, Component, ComponentKind, Licence};

/// The bill of materials, in the folder of a build.
pub const BILL: &str = "sbom.cdx.json";
/// The report of licences, in the folder of a build.
pub const LICENCES: &str = "licences.txt";

impl Component {
    /// A component that nothing more is known of.
    pub(crate) fn new(kind: ComponentKind, reference: String, name: &str) -> Self {
        Self {
            kind,
            reference,
            name: name.to_owned(),
            version: None,
            hashes: Vec::new(),
            licenses: Vec::new(),
            purl: None,
            properties: Vec::new(),
            external_references: Vec::new(),
        }
    }
}

/// The components for `crates` and what each needs, by reference.
pub(crate) fn crate_components(crates: &Crates) -> (Vec<Component>, BTreeMap<String, BTreeSet<String>>) {
    let (mut components, mut needs) = (Vec::new(), BTreeMap::new());
    for (name, found) in &crates.0 {
        let reference = crate_reference(name);
        let mut component = Component::new(ComponentKind::Library, reference.clone(), &name.0);
        component.version = Some(name.1.clone());
        component.purl = (!found.is_own).then(|| reference.clone());
        component.licenses = vec![Licence::Expression { expression: found.licence.clone() }];
        components.push(component);
        needs.insert(reference, found.needs.iter().map(crate_reference).collect());
    }
    (components, needs)
}

/// The package URL of a crate.
pub(crate) fn crate_reference((name, version): &CrateName) -> String {
    format!("pkg:cargo/{name}@{}", encoded(version))
}

/// The package URL of a Debian package; `source` is what Debian's security tracker knows it by.
pub(crate) fn debian_reference(release: &str, name: &str, version: &str, architecture: &str, source: &str) -> String {
    let (name, version) = (encoded(name), encoded(version));
    format!("pkg:deb/debian/{name}@{version}?arch={architecture}&distro={release}&upstream={}", encoded(source))
}

/// The package URL of a Debian source package.
pub(crate) fn debian_source_reference(release: &str, name: &str, version: &str) -> String {
    format!("pkg:deb/debian/{}@{}?arch=source&distro={release}", encoded(name), encoded(version))
}

/// What a package URL may hold as it is (purl specification, "Character encoding").
fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The report of licences: a line for each component, then the texts. What names no licence has its text, or none at all.
pub(crate) fn licence_report<'a>(
    title: &str,
    bill: &Bom,
    texts: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Vec<u8> {
    let mut report = format!("Licences of {title}\n\n");
    for component in bill.components() {
        let names: Vec<&str> = component.licenses.iter().map(Licence::text).collect();
        let licences = if names.is_empty() { "see its text".to_owned() } else { names.join(", ") };
        let version = component.version.as_deref().unwrap_or_default();
        report += &format!("{} {version}: {licences}\n", component.name);
    }
    let mut report = report.into_bytes();
    for (name, text) in texts {
        report.extend_from_slice(format!("\n==== {name} ====\n\n").as_bytes());
        report.extend_from_slice(text);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_with_an_epoch_is_encoded_in_a_package_url() {
        assert_eq!(
            debian_reference("trixie", "libstdc++6", "1:2.0+b1", "arm64", "gcc-14"),
            "pkg:deb/debian/libstdc%2B%2B6@1%3A2.0%2Bb1?arch=arm64&distro=trixie&upstream=gcc-14"
        );
        assert_eq!(
            debian_source_reference("trixie", "edk2", "2025.02-8+deb13u1"),
            "pkg:deb/debian/edk2@2025.02-8%2Bdeb13u1?arch=source&distro=trixie"
        );
    }

    #[test]
    fn the_report_has_a_line_for_each_component_and_its_text() {
        let mut component = Component::new(ComponentKind::Library, "a".into(), "a");
        component.licenses = vec![Licence::Expression { expression: "MIT".into() }];
        let product = Component::new(ComponentKind::OperatingSystem, "os".into(), "os");
        let bill = Bom::new(uuid::Uuid::nil(), product, vec![component], BTreeMap::new());
        let report = String::from_utf8(licence_report("it", &bill, [("a", &b"text"[..])])).unwrap();
        assert_eq!(report, "Licences of it\n\na : MIT\n\n==== a ====\n\ntext");
    }
}
