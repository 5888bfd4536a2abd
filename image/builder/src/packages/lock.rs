//! `image/lock.toml`: exactly which packages an image is made from and which of them needs which. Never touches the network.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::Digest;
use serde::{Deserialize, Serialize};

use super::{
    control::{is_name, is_version},
    source::LockedSource,
};

/// Packages in a fixed order, each pinned by digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The version of this format: 1.
    format: u32,
    /// By pool, then by name.
    #[serde(rename = "package", default)]
    packages: Vec<LockedPackage>,
    /// Sources of what is not taken from packages, by name.
    #[serde(rename = "source", default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<LockedSource>,
}

/// One package of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// What it is for.
    pub pool: Pool,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Debian's name of its architecture.
    pub architecture: String,
    /// Bytes to download.
    pub size: u64,
    /// Its SHA-256.
    pub digest: Digest,
    /// The packages of the same pool that it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// What a package is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// What the image is made from.
    Device,
    /// The programs that make it.
    Tools,
    /// The compilers for what is built from source.
    Toolchain,
}

impl Pool {
    /// The name as the lock writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Tools => "tools",
            Self::Toolchain => "toolchain",
        }
    }
}

/// A package and the reason why it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// The package.
    pub package: &'a LockedPackage,
    /// The package that needs it; none if the recipe names it.
    pub needed_by: Option<&'a str>,
}

/// A lock that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file could not be read or written.
    #[error("cannot {doing} the lock {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not in its form.
    #[error("{} is not a lock", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// The lock cannot be written as text.
    #[error("cannot write the lock as TOML")]
    Text(#[from] toml::ser::Error),
    /// A rule of the format is broken.
    #[error("the lock breaks a rule of its format: {0}")]
    Rule(String),
    /// The recipe and the lock do not fit.
    #[error("the lock does not fit the recipe: {0}; run `mbl image lock --update`")]
    Stale(String),
}

impl Lock {
    /// A lock of `packages`, put into the order of the format.
    pub fn new(packages: Vec<LockedPackage>) -> Result<Self, LockError> {
        Self::with_sources(packages, Vec::new())
    }

    /// A lock of `packages` and `sources`, put into the order of the format.
    pub fn with_sources(mut packages: Vec<LockedPackage>, mut sources: Vec<LockedSource>) -> Result<Self, LockError> {
        packages.sort_unstable_by(|a, b| (a.pool, &a.name).cmp(&(b.pool, &b.name)));
        sources.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let lock = Self { format: 1, packages, sources };
        lock.check()?;
        Ok(lock)
    }

    /// Reads the text of a lock; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, LockError> {
        let lock: Self = toml::from_str(text)
            .map_err(|source| LockError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        lock.check()?;
        Ok(lock)
    }

    /// Reads the lock at `path`.
    pub fn load(path: &Path) -> Result<Self, LockError> {
        let text = fs::read_to_string(path).map_err(|source| LockError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// The text that [`Lock::parse`] reads.
    pub fn to_text(&self) -> Result<String, LockError> {
        let head =
            "# Exactly which packages an image is made from. Written by `mbl image lock --update`; do not edit.\n";
        Ok(format!("{head}{}", toml::to_string(self)?))
    }

    /// Writes the lock to `path`.
    pub fn save(&self, path: &Path) -> Result<(), LockError> {
        let text = self.to_text()?;
        fs::write(path, text).map_err(|source| LockError::File { doing: "write", path: path.to_owned(), source })
    }

    /// The packages of one pool.
    pub fn pool(&self, pool: Pool) -> impl Iterator<Item = &LockedPackage> {
        self.packages.iter().filter(move |package| package.pool == pool)
    }

    /// The locked source called `name`.
    pub fn source(&self, name: &str) -> Result<&LockedSource, LockError> {
        let found = self.sources.iter().find(|source| source.name == name);
        found.ok_or_else(|| LockError::Stale(format!("the source of `{name}` is wanted but not locked")))
    }

    /// The names of the locked sources.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|source| source.name.as_str())
    }

    fn check(&self) -> Result<(), LockError> {
        let broken = |rule: String| Err(LockError::Rule(rule));
        if self.format != 1 {
            return broken(format!("format {} is not known, only format 1 is", self.format));
        }
        let places: BTreeSet<_> = self.packages.iter().map(|package| (package.pool, package.name.as_str())).collect();
        for pair in self.packages.windows(2) {
            if let [a, b] = pair
                && (a.pool, &a.name) >= (b.pool, &b.name)
            {
                return broken(format!("`{}` stands before `{}`, or twice", a.name, b.name));
            }
        }
        for package in &self.packages {
            if !is_name(&package.name) || !is_name(&package.architecture) || !is_version(&package.version) {
                return broken(format!("`{}` is no package of Debian's naming rules", package.name));
            }
            if let Some(absent) = package.needs.iter().find(|name| !places.contains(&(package.pool, name.as_str()))) {
                return broken(format!("`{}` needs `{absent}`, which is not there", package.name));
            }
        }
        if let Some(pair) = self.sources.windows(2).find(|pair| matches!(pair, [a, b] if a.name >= b.name)) {
            let names: Vec<&str> = pair.iter().map(|source| source.name.as_str()).collect();
            return broken(format!("the source `{}` stands before the next, or twice", names.join("`, `")));
        }
        match self.sources.iter().find_map(LockedSource::broken_rule) {
            Some(rule) => broken(rule),
            None => Ok(()),
        }
    }

    /// The packages that `named` need, themselves included, each with the first reason for it.
    pub fn choose<'a>(
        &'a self,
        pool: Pool,
        named: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<&'a str, Chosen<'a>>, LockError> {
        let all: BTreeMap<&str, &LockedPackage> =
            self.pool(pool).map(|package| (package.name.as_str(), package)).collect();
        let mut chosen = BTreeMap::new();
        let mut open: VecDeque<(&str, Option<&str>)> = named.into_iter().map(|name| (name, None)).collect();
        while let Some((name, needed_by)) = open.pop_front() {
            let Some(package) = all.get(name) else {
                return Err(LockError::Stale(format!("`{name}` is wanted but not locked")));
            };
            if !chosen.contains_key(name) {
                chosen.insert(name, Chosen { package, needed_by });
                open.extend(package.needs.iter().map(|need| (need.as_str(), Some(name))));
            }
        }
        Ok(chosen)
    }

    /// Refuses a lock that holds a package of `pool` that nothing explains: neither in `named` nor needed by one of them.
    pub fn explain<'a>(&'a self, pool: Pool, named: impl IntoIterator<Item = &'a str>) -> Result<(), LockError> {
        let chosen = self.choose(pool, named)?;
        match self.pool(pool).find(|package| !chosen.contains_key(package.name.as_str())) {
            Some(package) => Err(LockError::Stale(format!("nothing needs `{}`", package.name))),
            None => Ok(()),
        }
    }

    /// What changed since `old`, one line a package.
    pub fn changes_since(&self, old: &Self) -> Vec<String> {
        let (before, after) = (old.by_name(), self.by_name());
        let names: BTreeSet<&(Pool, &str)> = before.keys().chain(after.keys()).collect();
        let sources = self.sources.iter().filter(|new| !old.sources.contains(new));
        let sources = sources.map(|new| format!("~ source {} {}", new.name, new.version));
        let line = |key: &(Pool, &str)| {
            let (pool, name) = (key.0.as_str(), key.1);
            match (before.get(key), after.get(key)) {
                (None, Some(new)) => Some(format!("+ {pool} {name} {}", new.version)),
                (Some(old), None) => Some(format!("- {pool} {name} {}", old.version)),
                (Some(old), Some(new)) if old.version != new.version => {
                    Some(format!("~ {pool} {name} {} -> {}", old.version, new.version))
                }
                (Some(old), Some(new)) if old.digest != new.digest => {
                    Some(format!("~ {pool} {name} {} is another file now", new.version))
                }
                (Some(_), Some(_)) | (None, None) => None,
            }
        };
        names.into_iter().filter_map(line).chain(sources).collect()
    }

    fn by_name(&self) -> BTreeMap<(Pool, &str), &LockedPackage> {
        self.packages.iter().map(|package| ((package.pool, package.name.as_str()), package)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn package(name: &str, needs: &[&str]) -> LockedPackage {
        LockedPackage {
            pool: Pool::Device,
            name: name.to_owned(),
            version: "1:2.0-1~a+b".to_owned(),
            architecture: "arm64".to_owned(),
            size: 7,
            digest: Digest::of(name.as_bytes()),
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        }
    }

    fn lock() -> Lock {
        Lock::new(vec![package("c", &[]), package("a", &["b"]), package("b", &["a", "c"])]).unwrap()
    }

    #[test]
    fn a_lock_reads_back_as_itself_in_the_same_order() {
        let text = lock().to_text().unwrap();
        assert_eq!(Lock::parse(&text, Path::new("lock.toml")).unwrap(), lock());
        assert_eq!(lock().pool(Pool::Device).map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn each_package_has_a_reason() {
        let lock = lock();
        let chosen = lock.choose(Pool::Device, ["a"]).unwrap();
        let reasons: Vec<_> = chosen.iter().map(|(name, chosen)| (*name, chosen.needed_by)).collect();
        assert_eq!(reasons, [("a", None), ("b", Some("a")), ("c", Some("b"))]);
        lock.explain(Pool::Device, ["a"]).unwrap();
    }

    #[test]
    fn a_package_that_nothing_needs_is_refused_and_the_way_out_named() {
        let error = lock().explain(Pool::Device, ["c"]).unwrap_err().to_string();
        assert!(error.contains("nothing needs `a`") && error.contains("mbl image lock --update"), "{error}");
        let error = lock().choose(Pool::Device, ["d"]).unwrap_err().to_string();
        assert!(error.contains("`d` is wanted but not locked"), "{error}");
    }

    #[test]
    fn a_lock_that_breaks_a_rule_is_refused() {
        let text = lock().to_text().unwrap();
        for (from, to, rule) in [
            ("format = 1", "format = 2", "format 2"),
            ("name = \"a\"", "name = \"../a\"", "naming rules"),
            ("name = \"b\"", "name = \"a\"", "twice"),
            ("needs = [\"b\"]", "needs = [\"x\"]", "needs `x`"),
            ("size = 7", "size = 7\nunknown = 1", "not a lock"),
            ("sha256:", "md5:", "not a lock"),
        ] {
            let error = Lock::parse(&text.replacen(from, to, 1), Path::new("lock.toml")).unwrap_err().to_string();
            assert!(error.contains(rule), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn an_update_says_what_changed() {
        let newer = LockedPackage { version: "3".to_owned(), ..package("b", &[]) };
        let new = Lock::new(vec![newer, package("c", &[]), package("d", &[])]).unwrap();
        assert_eq!(
            new.changes_since(&lock()),
            ["- device a 1:2.0-1~a+b", "~ device b 1:2.0-1~a+b -> 3", "+ device d 1:2.0-1~a+b"]
        );
    }
}
