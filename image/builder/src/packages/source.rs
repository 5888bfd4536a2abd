//! Debian source packages: which files, pinned by digest, fetched into the private cache. Never unpacks them.

use std::{fs, path::PathBuf};

use protocol_types::Digest;
use serde::{Deserialize, Serialize};

use super::{
    PackageCache, PackageError, RELEASE,
    apt::Apt,
    cache::digest_of,
    control::{is_name, is_version},
};

/// One source of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedSource {
    /// Its name.
    pub name: String,
    /// Its version, without the epoch.
    pub version: String,
    /// Its archives: the upstream one and Debian's changes.
    #[serde(rename = "file")]
    pub files: Vec<SourceFile>,
}

/// One archive of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its path below the address of an archive.
    pub path: String,
    /// Bytes to download.
    pub size: u64,
    /// Its SHA-256.
    pub digest: Digest,
}

impl LockedSource {
    /// The rule of the lock's format that it breaks, if it breaks one.
    pub(super) fn broken_rule(&self) -> Option<String> {
        let files = !self.files.is_empty() && self.files.iter().all(SourceFile::is_in_pool);
        (!is_name(&self.name) || !is_version(&self.version) || !files)
            .then(|| format!("`{}` is no source of Debian's naming rules", self.name))
    }

    /// What `said` of the newest source of `name`: a line of quoted address, file name, size and digest for each file.
    fn read(name: &str, said: &str) -> Option<Self> {
        let mut version = None;
        let mut files = Vec::new();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[address, file, size, digest] = words.as_slice() else { continue };
            if let Some(stem) = file.strip_suffix(".dsc") {
                version = stem.split_once('_').map(|(_, version)| version.to_owned());
            } else if file.contains(".tar.") && !file.ends_with(".asc") {
                let address = address.trim_matches('\'');
                // The address has escapes, the name has not.
                let folder = address.get(address.find("/pool/")? + 1..address.rfind('/')?)?;
                let path = format!("{folder}/{file}");
                let digest = Digest::from_hex(digest.strip_prefix("SHA256:")?).ok()?;
                files.push(SourceFile { path, size: size.parse().ok()?, digest });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let read = Self { name: name.to_owned(), version: version?, files };
        read.broken_rule().is_none().then_some(read)
    }
}

impl LockedSource {
    /// The archive with what Debian adds, its `debian/copyright` among that (source format 3.0, quilt).
    pub(crate) fn debian_archive(&self) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.name().contains(".debian.tar."))
    }
}

impl SourceFile {
    /// The name of the file.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    fn is_in_pool(&self) -> bool {
        let plain = |part: &str| {
            !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._~".contains(&b))
        };
        self.path.starts_with("pool/") && self.path.split('/').all(|part| !part.is_empty() && plain(part))
    }
}

impl PackageCache {
    /// The newest sources of `names` that the mirror has; nothing is downloaded but lists.
    pub fn resolve_sources<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<LockedSource>, PackageError> {
        let apt = Apt::for_sources(self.path(), RELEASE)?;
        apt.update()?;
        let resolve = |name: &str| {
            let said = apt.source_files(name)?;
            LockedSource::read(name, &said).ok_or_else(|| PackageError::NoSource(name.to_owned()))
        };
        names.into_iter().map(resolve).collect()
    }

    /// Makes sure that the cache holds the archives of `sources`, downloading what is missing.
    pub fn fetch_sources(&self, sources: &[&LockedSource]) -> Result<(), PackageError> {
        sources.iter().flat_map(|source| &source.files).try_for_each(|file| self.fetch_source_file(file).map(drop))
    }

    /// Makes sure that the cache holds an archive, downloading it if it is missing; where it is.
    pub(crate) fn fetch_source_file(&self, file: &SourceFile) -> Result<PathBuf, PackageError> {
        let path = self.source_file(file)?;
        if !path.exists() {
            let apt = Apt::for_sources(self.path(), RELEASE)?;
            let fresh = path.with_extension("fresh");
            apt.download_file(&file.path, &file.digest, &fresh).map_err(|source| PackageError::SourceGone {
                file: file.name().to_owned(),
                source: Box::new(source),
            })?;
            fs::rename(&fresh, &path).map_err(|source| PackageError::Cache { path: fresh, source })?;
        }
        let digest = digest_of(&path).map_err(|source| PackageError::Cache { path: path.clone(), source })?;
        if digest == file.digest {
            Ok(path)
        } else {
            Err(PackageError::Tampered { package: file.name().to_owned(), path })
        }
    }

    /// Where the cache keeps an archive.
    pub(crate) fn source_file(&self, file: &SourceFile) -> Result<PathBuf, PackageError> {
        Ok(self.make("sources")?.join(file.digest.hex()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(folder: &str) -> String {
        let digest = Digest::of(b"archive").hex();
        format!(
            "'http://mirror.example/debian/pool/main/e/edk2/edk2_2025.02-8.dsc' edk2_2025.02-8.dsc 2656 SHA256:{digest}\n\
             'http://mirror.example/debian/{folder}/edk2_2025%2b1.orig.tar.xz' edk2_2025+1.orig.tar.xz 29646336 SHA256:{digest}\n"
        )
    }

    #[test]
    fn what_apt_prints_is_read_without_the_mirrors_name() {
        let read = LockedSource::read("edk2", &said("pool/main/e/edk2")).unwrap();
        assert_eq!((read.name.as_str(), read.version.as_str()), ("edk2", "2025.02-8"));
        let [file] = read.files.as_slice() else { panic!("{read:?}") };
        assert_eq!((file.path.as_str(), file.size), ("pool/main/e/edk2/edk2_2025+1.orig.tar.xz", 29_646_336));
        assert_eq!((file.name(), file.digest), ("edk2_2025+1.orig.tar.xz", Digest::of(b"archive")));
    }

    #[test]
    fn a_path_that_leaves_the_pool_is_refused() {
        for folder in ["pool/..", "other", "pool/"] {
            assert_eq!(LockedSource::read("edk2", &said(folder)), None, "{folder}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = LockedSource::read("a", &text);
        }
    }
}
