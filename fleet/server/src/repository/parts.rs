//! Which artifacts an artifact names in turn: sections of an OS index, blobs of an OCI image. Only looks at what the service holds
//! whole; what the names mean is checked by devices.

use std::collections::BTreeSet;

use protocol_release::document::OsIndex;
use protocol_types::{Digest, TargetPath};
use serde::Deserialize;

/// An OCI index lists manifests, which list blobs; nothing lies deeper.
pub(super) const DEPTH: usize = 2;
/// Blobs that one image may have.
const PARTS: usize = 4096;
/// Longest document that is looked into, in bytes.
pub(super) const DOCUMENT_BYTES: u64 = 1 << 20;

/// An artifact that must be here before a device asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// The part of an OCI index or manifest that names others (OCI image specification 1.1).
#[derive(Deserialize)]
struct OciDocument {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    size: u64,
}

/// Names of other artifacts in a document that stands under `path`, and whether those name others again.
pub(super) struct Named {
    pub(super) documents: BTreeSet<Part>,
    pub(super) blobs: BTreeSet<Part>,
}

/// What the document under `path` names.
pub(super) fn named(path: &TargetPath, bytes: &[u8]) -> Result<Named, String> {
    let mut found = Named { documents: BTreeSet::new(), blobs: BTreeSet::new() };
    if path.as_str().starts_with("os/") {
        let index = OsIndex::parse(bytes).map_err(|e| crate::Chain(&e).to_string())?;
        for section in index.sections {
            found.blobs.insert(Part { digest: section.digest, size: section.size });
            found.blobs.insert(Part { digest: section.blocks.digest, size: section.blocks.size });
        }
    } else if path.as_str().starts_with("apps/") {
        let document: OciDocument = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if document.manifests.len() + document.layers.len() > PARTS {
            return Err(format!("it names more than {PARTS} parts"));
        }
        let part = |d: Descriptor| Part { digest: d.digest, size: d.size };
        found.documents.extend(document.manifests.into_iter().map(part));
        found.blobs.extend(document.config.into_iter().chain(document.layers).map(part));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_manifests_and_they_their_blobs() {
        let path = TargetPath::new("apps/hello/1.0.0.json").unwrap();
        let digest = Digest::of(b"x");
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":7}}]}}"#);
        assert_eq!(named(&path, index.as_bytes()).unwrap().documents.len(), 1);
        let manifest = format!(
            r#"{{"config":{{"digest":"{digest}","size":7}},"layers":[{{"digest":"{}","size":9}}]}}"#,
            Digest::of(b"y")
        );
        assert_eq!(named(&path, manifest.as_bytes()).unwrap().blobs.len(), 2);
        assert!(named(&path, b"no json").is_err());
        let elsewhere = TargetPath::new("configuration/base/1.json").unwrap();
        assert!(named(&elsewhere, b"anything").unwrap().blobs.is_empty());
    }
}
