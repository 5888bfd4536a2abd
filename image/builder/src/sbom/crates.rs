//! The Rust crates that our programs are linked from, as `image/device-binaries` wrote them down while it built them: one line a
//! crate, `DEPTH<tab>NAME vVERSION<tab>LICENCE`, below the crate that needs it (`cargo tree --prefix depth`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// The list, in the folder of the programs.
pub const CRATES: &str = "crates.txt";
/// The licences of the crates, in the folder of the programs.
pub const CRATES_LICENCES: &str = "crates-licences.txt";
/// No graph of ours is deeper.
const DEPTH: usize = 64;

/// A list of crates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CratesError {
    /// It could not be read.
    #[error("cannot read {}; `image/device-binaries` writes it beside the programs", path.display())]
    Read {
        /// The list.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is not in its form.
    #[error("line {line} of the list of crates is not `DEPTH<tab>NAME vVERSION<tab>LICENCE` below what needs it")]
    Line {
        /// Which, from 1.
        line: usize,
    },
}

/// A crate by name and version.
pub(crate) type CrateName = (String, String);

/// Crates and what each needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crates(pub(crate) BTreeMap<CrateName, Crate>);

/// What is known of a crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crate {
    /// Its SPDX expression.
    pub(crate) licence: String,
    /// Whether it is of this tree and not from the registry.
    pub(crate) is_own: bool,
    pub(crate) needs: BTreeSet<CrateName>,
}

impl Crates {
    /// Reads the list in `folder`.
    pub(crate) fn load(folder: &Path) -> Result<Self, CratesError> {
        let path = folder.join(CRATES);
        let text = fs::read_to_string(&path).map_err(|source| CratesError::Read { path, source })?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, CratesError> {
        let mut crates = Self::default();
        let mut above: Vec<CrateName> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = || CratesError::Line { line: index + 1 };
            let (depth, name, found) = parse_line(line).ok_or_else(wrong)?;
            if depth > above.len() || depth >= DEPTH {
                return Err(wrong());
            }
            above.truncate(depth);
            if let Some(by) = above.last() {
                crates.0.entry(by.clone()).or_default().needs.insert(name.clone());
            }
            let known = crates.0.entry(name.clone()).or_default();
            (known.licence, known.is_own) = (found.licence, found.is_own);
            above.push(name);
        }
        Ok(crates)
    }

    /// The crate that the program `mbl-NAME` is built from: `device-NAME`.
    pub(crate) fn of_program(&self, program: &str) -> Option<&CrateName> {
        let wanted = program.strip_prefix("mbl-").map(|name| format!("device-{name}"))?;
        self.0.keys().find(|(name, _)| *name == wanted)
    }
}

fn parse_line(line: &str) -> Option<(usize, CrateName, Crate)> {
    let mut fields = line.split('\t');
    let (depth, package, licence) = (fields.next()?, fields.next()?, fields.next()?);
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let licence = licence.trim_end_matches("(*)").trim();
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    let is_whole = fields.next().is_none() && plain(name) && plain(version);
    let found = Crate { licence: licence.to_owned(), is_own: words.next() == Some("(mbl)"), needs: BTreeSet::new() };
    is_whole.then(|| Some((depth.parse().ok()?, (name.to_owned(), version.to_owned()), found)))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = "0\tdevice-init v0.1.0 (mbl)\tApache-2.0\n1\thex v0.4.3\tMIT OR Apache-2.0\n1\trustix v1.1.6\tMIT\n\
                        2\tlibc v0.2.1\tMIT\n0\tdevice-apps v0.1.0 (mbl)\tApache-2.0\n1\trustix v1.1.6\tMIT (*)\n";

    fn name(name: &str, version: &str) -> CrateName {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn each_crate_is_known_with_what_it_needs() {
        let crates = Crates::parse(LIST).unwrap();
        assert_eq!(crates.of_program("mbl-init"), Some(&name("device-init", "0.1.0")));
        assert_eq!(crates.of_program("mbl-other"), None);
        let rustix = &crates.0[&name("rustix", "1.1.6")];
        assert_eq!((rustix.licence.as_str(), rustix.is_own), ("MIT", false));
        assert_eq!(rustix.needs, [name("libc", "0.2.1")].into());
        let apps = &crates.0[&name("device-apps", "0.1.0")];
        assert!(apps.is_own && apps.needs == [name("rustix", "1.1.6")].into(), "{apps:?}");
    }

    #[test]
    fn a_line_below_nothing_is_refused_by_its_number() {
        let error = Crates::parse("0\ta v1\tMIT\n2\tb v1\tMIT\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2 "), "{error}");
    }

    proptest! {
        #[test]
        fn any_list_is_read_or_refused(text in "([0-9]{1,2}\t[a-z]{1,3} v[0-9]( \\(mbl\\))?\tMIT\n|\\PC{0,9}\n){0,20}") {
            let _answer = Crates::parse(&text);
        }
    }
}
