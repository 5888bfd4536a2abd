//! One thing that is built from source: archives, patches and a script in, files out. The result is kept in the cache by the digest of
//! everything that it is made from, so that no build compiles the same twice.

use std::{
    fs,
    path::{Path, PathBuf},
};

use protocol_types::{Digest, Hasher};

use crate::{
    image::{
        description::Description,
        error::{ImageError, copy, file},
    },
    packages::{LockedPackage, LockedSource, PackageCache, PackageError, Pool, digest_of},
    sandbox::Sandbox,
};

/// What is built from source.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    /// What it is, for messages.
    pub(super) what: &'static str,
    /// Its folder in `image/firmware`: a script `build` and the folder `patches`.
    pub(super) name: &'static str,
    /// The sources that the script takes.
    pub(super) sources: &'static [&'static str],
    /// The words that the script is given.
    pub(super) arguments: Vec<&'a str>,
    /// The files that the script makes.
    pub(super) outputs: &'static [&'static str],
}

/// The script in the folder of a step.
const SCRIPT: &str = "build";
/// Where results are in the cache.
const RESULTS: &str = "firmware";

impl Step<'_> {
    /// The sources as the lock pins them.
    pub(super) fn locked<'a>(&self, description: &'a Description) -> Result<Vec<&'a LockedSource>, ImageError> {
        let sources = self.sources.iter().map(|name| description.lock.source(name));
        Ok(sources.collect::<Result<_, _>>()?)
    }

    /// What the sources are changed with.
    pub(super) fn patches(&self, description: &Description) -> Result<Vec<PathBuf>, ImageError> {
        patches(&self.folder(description).join("patches"))
    }

    fn folder(&self, description: &Description) -> PathBuf {
        description.folder.join("firmware").join(self.name)
    }

    /// The folder with the outputs, built now if the cache does not have them. The script finds each of `given` beside itself.
    pub(super) fn make(
        &self,
        cache: &PackageCache,
        description: &Description,
        given: &[(&str, &[u8])],
    ) -> Result<PathBuf, ImageError> {
        let (patches, sources) = (self.patches(description)?, self.locked(description)?);
        let compilers: Vec<LockedPackage> = description.lock.pool(Pool::Toolchain).cloned().collect();
        let script = self.folder(description).join(SCRIPT);

        let mut inputs = Hasher::new();
        let digest = |path: &Path| digest_of(path).map_err(file("read", path));
        inputs.update(digest(&script)?.as_bytes());
        for path in &patches {
            inputs.update(digest(path)?.as_bytes());
        }
        for pinned in sources.iter().flat_map(|source| &source.files).map(|file| &file.digest) {
            inputs.update(pinned.as_bytes());
        }
        for package in &compilers {
            inputs.update(package.digest.as_bytes());
        }
        for word in &self.arguments {
            inputs.update(Digest::of(word.as_bytes()).as_bytes());
        }
        for (name, bytes) in given {
            inputs.update(Digest::of(name.as_bytes()).as_bytes());
            inputs.update(Digest::of(bytes).as_bytes());
        }
        let result = cache.path().join(RESULTS).join(inputs.finish().hex());
        if !result.is_dir() {
            cache.fetch_locked(&description.toolchain.debian_architecture, &compilers)?;
            cache.fetch_sources(&sources)?;
            let compilers = Sandbox::open(cache, &compilers, 0)?;
            self.build(cache, &compilers, (&script, &patches, &sources, given), &result)?;
        }
        Ok(result)
    }

    fn build(
        &self,
        cache: &PackageCache,
        compilers: &Sandbox,
        (script, patches, sources, given): (&Path, &[PathBuf], &[&LockedSource], &[(&str, &[u8])]),
        result: &Path,
    ) -> Result<(), ImageError> {
        let scratch = cache.scratch()?;
        let work = scratch.path();
        copy(script, &work.join(SCRIPT))?;
        for name in ["patches", "sources"] {
            let path = work.join(name);
            fs::create_dir(&path).map_err(file("make", &path))?;
        }
        for patch in patches {
            copy(patch, &work.join("patches").join(patch.file_name().unwrap_or_default()))?;
        }
        for archive in sources.iter().flat_map(|source| &source.files) {
            copy(&cache.source_file(archive)?, &work.join("sources").join(archive.name()))?;
        }
        for (name, bytes) in given {
            let path = work.join(name);
            fs::write(&path, bytes).map_err(file("write", &path))?;
        }
        let words: Vec<&str> = ["/work/build"].into_iter().chain(self.arguments.iter().copied()).collect();
        compilers.run(work, "bash", &words).map_err(|source| ImageError::Tool { what: self.what, source })?;

        let results = cache.path().join(RESULTS);
        fs::create_dir_all(&results).map_err(file("make", &results))?;
        let fresh =
            tempfile::tempdir_in(&results).map_err(|source| PackageError::Cache { path: results.clone(), source })?;
        for name in self.outputs {
            copy(&work.join("out").join(name), &fresh.path().join(name))?;
        }
        let fresh = fresh.keep();
        fs::rename(&fresh, result).map_err(file("move", &fresh))
    }
}

/// The patches in `folder`, in the order of their names.
fn patches(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(file("read", folder))? {
        let path = entry.map_err(file("read", folder))?.path();
        if path.extension().is_some_and(|kind| kind == "patch") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
