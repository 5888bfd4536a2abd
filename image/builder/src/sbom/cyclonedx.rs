//! CycloneDX 1.6 (ECMA-424) in JSON, as far as a build has something to say. Holds no time and nothing random: the same build gives
//! the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use protocol_types::Digest;
use serde::Serialize;
use uuid::Uuid;

/// A bill of materials.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug, Serialize)]
struct Metadata {
    component: Component,
}

/// One thing that something is made of.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Component {
    #[serde(rename = "type")]
    pub(crate) kind: ComponentKind,
    /// Its name within this document.
    #[serde(rename = "bom-ref")]
    pub(crate) reference: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) licenses: Vec<Licence>,
    /// The package URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) properties: Vec<Property>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) external_references: Vec<ExternalReference>,
}

/// Where something that belongs to a component is found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ExternalReference {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
    hashes: Vec<Hash>,
}

impl ExternalReference {
    /// An archive of the source, by its path below the address of a Debian archive.
    pub(crate) fn source_archive(path: &str, digest: &Digest) -> Self {
        Self { kind: "source-distribution", url: path.to_owned(), hashes: vec![digest.into()] }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ComponentKind {
    Application,
    File,
    Firmware,
    Library,
    OperatingSystem,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Hash {
    alg: &'static str,
    content: String,
}

impl From<&Digest> for Hash {
    fn from(digest: &Digest) -> Self {
        Self { alg: "SHA-256", content: digest.hex() }
    }
}

/// One licence of a component; several together are all that its parts are under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub(crate) enum Licence {
    /// One that SPDX lists, or a name that it does not.
    One { license: LicenceName },
    /// An SPDX expression; never beside another.
    Expression { expression: String },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LicenceName {
    Id(&'static str),
    Name(String),
}

impl Licence {
    /// That of everything in this tree.
    pub(crate) fn ours() -> Self {
        Self::Expression { expression: env!("CARGO_PKG_LICENSE").to_owned() }
    }

    /// As a person reads it.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::One { license: LicenceName::Id(id) } => id,
            Self::One { license: LicenceName::Name(name) } => name,
            Self::Expression { expression } => expression,
        }
    }
}

/// What is said of a component beyond the fields of the standard.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Property {
    name: &'static str,
    value: String,
}

impl Property {
    /// In which part of an image it is: `root`, `initrd`, `kernel`, `loader` or `firmware`.
    pub(crate) fn part(value: &str) -> Self {
        Self { name: "mbl:part", value: value.to_owned() }
    }

    /// Why it is there.
    pub(crate) fn reason(value: &str) -> Self {
        Self { name: "mbl:reason", value: value.to_owned() }
    }

    /// A patch of ours with which its source was changed.
    pub(crate) fn patch(name: &str) -> Self {
        Self { name: "mbl:patch", value: name.to_owned() }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    depends_on: BTreeSet<String>,
}

impl Bom {
    /// The bill of `product`, which `id` identifies. What `needs` names and no component is, is left out.
    pub(crate) fn new(
        id: Uuid,
        product: Component,
        components: Vec<Component>,
        needs: BTreeMap<String, BTreeSet<String>>,
    ) -> Self {
        let known: BTreeSet<&str> =
            components.iter().chain([&product]).map(|component| component.reference.as_str()).collect();
        let dependencies = needs
            .into_iter()
            .filter(|(reference, _)| known.contains(reference.as_str()))
            .map(|(reference, mut depends_on)| {
                depends_on.retain(|needed| known.contains(needed.as_str()));
                Dependency { reference, depends_on }
            })
            .collect();
        Self {
            bom_format: "CycloneDX",
            spec_version: "1.6",
            serial_number: id.urn().to_string(),
            version: 1,
            metadata: Metadata { component: product },
            components,
            dependencies,
        }
    }

    pub(crate) fn components(&self) -> &[Component] {
        &self.components
    }
}
