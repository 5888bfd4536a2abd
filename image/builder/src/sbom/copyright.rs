//! What a Debian package says about its licences: the file `copyright` of its documentation (Debian policy 12.5), of which the
//! machine-readable form 1.0 names each licence. Never judges whether licences go together.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::cyclonedx::{Licence, LicenceName};
use crate::rootfs::tree::{NodeKind, Tree};

/// The texts of the packages that a build unpacked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copyrights {
    /// By package.
    packages: BTreeMap<String, Arc<[u8]>>,
    /// Texts that packages refer to instead of repeating them, by name.
    common: BTreeMap<String, Arc<[u8]>>,
}

/// Where a package's text refers to one that every Debian system has.
const COMMON: &str = "usr/share/common-licenses";

impl Copyrights {
    /// Keeps the texts in `tree`, before it is pruned.
    pub(crate) fn keep(&mut self, tree: &Tree) {
        let owners: BTreeSet<&str> = tree.iter().map(|(_, node)| &*node.owner).collect();
        for name in owners {
            let folder = Path::new("usr/share/doc");
            // A package may share the folder of another one (Debian policy 12.5).
            let folder = match tree.get(&folder.join(name)).map(|node| &node.kind) {
                Some(NodeKind::Link(to)) => folder.join(to),
                _ => folder.join(name),
            };
            if let Ok(text) = tree.read(&folder.join("copyright")) {
                self.packages.insert(name.to_owned(), text);
            }
        }
        for (path, node) in tree.iter() {
            let name = path.strip_prefix(COMMON).ok().and_then(Path::to_str).filter(|name| !name.is_empty());
            if let (Some(name), NodeKind::File(text)) = (name, &node.kind) {
                self.common.insert(name.to_owned(), text.clone());
            }
        }
    }

    /// Keeps the text of something that is in no tree, under a name that no package has.
    pub(crate) fn add(&mut self, name: String, text: Vec<u8>) {
        self.packages.insert(name, text.into());
    }

    /// The licences that the text of a package names; none if it has no text or names none.
    pub(crate) fn licences(&self, package: &str) -> BTreeSet<Licence> {
        self.packages.get(package).map(|text| licences(&String::from_utf8_lossy(text))).unwrap_or_default()
    }

    /// The text of a package.
    pub(crate) fn text(&self, package: &str) -> Option<&[u8]> {
        self.packages.get(package).map(|text| &**text)
    }

    /// The texts that packages refer to, with their names.
    pub(crate) fn common(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.common.iter().map(|(name, text)| (name.as_str(), &**text))
    }
}

/// The licences that a text names.
fn licences(text: &str) -> BTreeSet<Licence> {
    let is_readable = text.trim_start().starts_with("Format:");
    let names: BTreeSet<&str> =
        if is_readable { text.lines().filter_map(short_name).flat_map(parts).collect() } else { referred(text) };
    names.into_iter().map(licence).collect()
}

/// `GPL-2+` of the line `License: GPL-2+`.
fn short_name(line: &str) -> Option<&str> {
    let (field, value) = line.split_once(':')?;
    (field.eq_ignore_ascii_case("License") && !value.trim().is_empty()).then(|| value.trim())
}

/// `GPL-2+ and/or Expat, ISC` names three. An exception stays with its licence.
fn parts(value: &str) -> impl Iterator<Item = &str> {
    [" and/or ", " or ", " and ", ",", "|", "/"]
        .iter()
        .fold(vec![value], |parts, by| parts.into_iter().flat_map(|part| part.split(by)).collect())
        .into_iter()
        .map(|part| part.trim().trim_matches(['(', ')']))
        .filter(|part| !part.is_empty())
}

/// The common licences that a text in free form refers to.
fn referred(text: &str) -> BTreeSet<&str> {
    let names = text.split("common-licenses/").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-.+".contains(c)).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default().trim_end_matches('.')
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Debian's short name as SPDX has it, or as it is.
fn licence(name: &str) -> Licence {
    let license = identifier(name).map_or_else(|| LicenceName::Name(name.to_owned()), LicenceName::Id);
    Licence::One { license }
}

/// The SPDX identifier of what Debian calls `name` (machine-readable copyright files 1.0, section 7).
fn identifier(name: &str) -> Option<&'static str> {
    let known = |wanted: &str| {
        let found = spdx::identifiers::LICENSES.iter().find(|licence| licence.name.eq_ignore_ascii_case(wanted))?;
        Some(found.name)
    };
    if name.eq_ignore_ascii_case("expat") {
        return known("MIT");
    }
    let (base, is_later) = name.strip_suffix('+').map_or((name, false), |base| (base, true));
    let with_minor = if base.contains('.') { base.to_owned() } else { format!("{base}.0") };
    let suffix = if is_later { "-or-later" } else { "-only" };
    let gnu = ["GPL", "LGPL", "AGPL", "GFDL"].iter().any(|family| base.starts_with(&format!("{family}-")));
    if gnu { known(&format!("{with_minor}{suffix}")) } else { known(name).or_else(|| known(&with_minor)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<String> {
        licences(text).iter().map(|licence| licence.text().to_owned()).collect()
    }

    #[test]
    fn a_machine_readable_text_names_its_licences_as_spdx_does() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n\n\
                    Files: a\nLicense: LGPL-2.1 or Expat\n\nFiles: b\nLicense: bsd-3-clause\n\nFiles: c\nLicense: public-domain\n a text\n";
        assert_eq!(names(text), ["BSD-3-Clause", "GPL-2.0-or-later", "LGPL-2.1-only", "MIT", "public-domain"]);
    }

    #[test]
    fn a_text_in_free_form_names_what_it_refers_to() {
        let text = "This is free.\nSee /usr/share/common-licenses/GPL-2.\nand `/usr/share/common-licenses/Apache-2.0'";
        assert_eq!(names(text), ["Apache-2.0", "GPL-2.0-only"]);
        assert_eq!(names("Do what you like."), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(Format:)?\\PC{0,200}(License:\\PC{0,40})?") {
            names(&text);
        }
    }
}
