//! `image/rootfs`: what the root image and the initrd are made from, and how the kinds of image differ. Parsing opens no file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// `recipe.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The version of this format: 1.
    format: u32,
    /// By name; a kind says which ones it has.
    pub features: BTreeMap<String, Feature>,
    /// What the initrd has.
    pub initrd: Initrd,
    /// Packages that no image has though something depends on them, each with a reason.
    pub without: BTreeMap<String, String>,
}

/// A group of packages and settings that an image has or has not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Feature {
    /// Packages, each with a reason.
    pub packages: BTreeMap<String, String>,
    /// Programs of ours, which end up in `/usr/bin`.
    pub programs: Vec<String>,
    /// Folders that are there though no package has them.
    pub folders: Vec<String>,
    /// Units that are started, and by what.
    pub units: BTreeMap<String, Vec<String>>,
    /// Symbolic links by path.
    pub links: BTreeMap<String, String>,
    /// Files made of all files of a folder, which is left out then.
    pub bundles: BTreeMap<String, String>,
    /// What is left out of the packages: paths in which `*` stands for any part of a name.
    pub prune: Vec<String>,
    /// With one the feature is optional: an image has it if whoever builds it asks for it.
    pub allowance: Option<Allowance>,
}

/// What an image may need beyond the board's budget because it has a feature, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// The root file system.
    pub root_mib: u64,
    /// Everything, compressed for the way to the device.
    pub download_mib: u64,
}

/// What the initrd has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initrd {
    /// Our program that the kernel starts.
    pub init: String,
    /// Programs of packages.
    pub programs: Vec<String>,
    /// Libraries that a program loads by name while it runs.
    pub libraries: Vec<String>,
    /// The packages that programs and libraries come from, each with a reason.
    pub packages: BTreeMap<String, String>,
    /// By the name of a feature: what the initrd of an image with that feature has beside.
    #[serde(default)]
    pub with: BTreeMap<String, InitrdPart>,
}

/// What the initrd has because of a feature.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InitrdPart {
    /// Programs of packages.
    pub programs: Vec<String>,
    /// Libraries that a program loads by name while it runs.
    pub libraries: Vec<String>,
    /// The packages that programs and libraries come from, each with a reason.
    pub packages: BTreeMap<String, String>,
}

impl Initrd {
    /// The initrd of an image with `features`.
    pub fn of<'a>(&self, features: impl IntoIterator<Item = &'a str>) -> Self {
        let mut initrd = Self { with: BTreeMap::new(), ..self.clone() };
        for part in features.into_iter().filter_map(|name| self.with.get(name)) {
            initrd.programs.extend_from_slice(&part.programs);
            initrd.libraries.extend_from_slice(&part.libraries);
            initrd.packages.extend(part.packages.clone());
        }
        initrd
    }

    fn every_package(&self) -> impl Iterator<Item = (&String, &String)> {
        self.packages.iter().chain(self.with.values().flat_map(|part| &part.packages))
    }
}

/// A kind of image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// Its name.
    pub kind: ImageKind,
    /// The features that it has.
    pub features: Vec<String>,
    /// Words at the end of the command line.
    pub arguments: Vec<String>,
}

/// The name of a kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// For developers.
    Development,
    /// For customers.
    Production,
    /// For a first look.
    Evaluation,
}

impl ImageKind {
    /// The name as the kind's file writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
            Self::Evaluation => "evaluation",
        }
    }
}

impl std::str::FromStr for ImageKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Development, Self::Production, Self::Evaluation]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no kind of image; use development, production or evaluation"))
    }
}

/// `image/tools.toml` and `image/toolchain.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The version of this format: 1.
    format: u32,
    /// Debian's name of the architecture of the machine that builds.
    pub debian_architecture: String,
    /// Packages, each with a reason.
    pub packages: BTreeMap<String, String>,
    /// Packages that are left out though something depends on them, each with a reason.
    pub without: BTreeMap<String, String>,
}

/// `image/sources.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// The version of this format: 1.
    format: u32,
    /// Debian source packages, each with a reason.
    pub sources: BTreeMap<String, String>,
}

/// A description that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not in its form.
    #[error("{} is not in its form", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A rule is broken.
    #[error("{}: {rule}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule.
        rule: String,
    },
}

/// A description that can be read from a file.
pub trait Description: DeserializeOwned {
    /// The rule that it breaks, if it breaks one.
    fn broken_rule(&self) -> Option<String>;

    /// Reads the text of a description; `path` is for messages only.
    fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let read: Self = toml::from_str(text)
            .map_err(|source| RecipeError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        match read.broken_rule() {
            Some(rule) => Err(RecipeError::Rule { path: path.to_owned(), rule }),
            None => Ok(read),
        }
    }

    /// Reads the description at `path`.
    fn load(path: &Path) -> Result<Self, RecipeError> {
        let text = fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }
}

/// Only format 1 is known.
pub(super) fn unknown_format(format: u32) -> Option<String> {
    (format != 1).then(|| format!("format {format} is not known, only format 1 is"))
}

/// A package without a reason.
fn without_reason<'a>(mut packages: impl Iterator<Item = (&'a String, &'a String)>) -> Option<String> {
    packages.find(|(_, reason)| reason.trim().is_empty()).map(|(name, _)| format!("`{name}` has no reason"))
}

impl Description for Recipe {
    fn broken_rule(&self) -> Option<String> {
        let packages = self.features.values().flat_map(|feature| &feature.packages);
        unknown_format(self.format)
            .or_else(|| without_reason(packages.chain(self.initrd.every_package()).chain(&self.without)))
            .or_else(|| {
                let unknown = self.initrd.with.keys().find(|name| !self.features.contains_key(*name));
                unknown.map(|name| format!("the initrd has a part for a feature `{name}`, which there is not"))
            })
    }
}

impl Description for Tools {
    fn broken_rule(&self) -> Option<String> {
        unknown_format(self.format).or_else(|| without_reason(self.packages.iter().chain(&self.without)))
    }
}

impl Description for Sources {
    fn broken_rule(&self) -> Option<String> {
        unknown_format(self.format).or_else(|| without_reason(self.sources.iter()))
    }
}

impl Description for Kind {
    fn broken_rule(&self) -> Option<String> {
        let unique: BTreeSet<&String> = self.features.iter().collect();
        (unique.len() != self.features.len()).then(|| "a feature stands twice".to_owned())
    }
}

impl Recipe {
    /// Every package that the recipe names, whatever the kind of image.
    pub fn every_package(&self) -> BTreeSet<&str> {
        let packages = self.features.values().flat_map(|feature| feature.packages.keys());
        packages.chain(self.initrd.every_package().map(|(name, _)| name)).map(String::as_str).collect()
    }

    /// The features of a kind by name; an unknown one is returned as the error.
    pub fn features_of<'a>(
        &'a self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<BTreeMap<&'a str, &'a Feature>, String> {
        let feature = |name: &'a String| match self.features.get(name) {
            Some(feature) => Ok((name.as_str(), feature)),
            None => Err(format!("there is no feature `{name}`")),
        };
        names.into_iter().map(feature).collect()
    }

    /// The features that whoever builds an image may ask for, each with what it may need.
    pub fn optional(&self) -> BTreeMap<&str, Allowance> {
        self.features.iter().filter_map(|(name, feature)| Some((name.as_str(), feature.allowance?))).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const RECIPE: &str = include_str!("../../../rootfs/recipe.toml");

    #[test]
    fn the_committed_descriptions_are_in_their_form() {
        let recipe = Recipe::parse(RECIPE, Path::new("recipe.toml")).unwrap();
        let board = include_str!("../../../boards/qemu-arm64-tpm.toml");
        let board = crate::board::Board::parse(board, Path::new("qemu-arm64-tpm.toml")).unwrap();
        recipe.features_of(&board.features).unwrap();
        for (text, kind) in [
            (include_str!("../../../rootfs/development.toml"), ImageKind::Development),
            (include_str!("../../../rootfs/production.toml"), ImageKind::Production),
            (include_str!("../../../rootfs/evaluation.toml"), ImageKind::Evaluation),
        ] {
            let read = Kind::parse(text, Path::new("kind.toml")).unwrap();
            assert_eq!(read.kind, kind);
            recipe.features_of(&read.features).unwrap();
        }
        Tools::parse(include_str!("../../../tools.toml"), Path::new("tools.toml")).unwrap();
        Tools::parse(include_str!("../../../toolchain.toml"), Path::new("toolchain.toml")).unwrap();
        Sources::parse(include_str!("../../../sources.toml"), Path::new("sources.toml")).unwrap();
    }

    #[test]
    fn a_package_without_a_reason_is_refused() {
        let text = RECIPE.replace("\"the service manager\"", "\" \"");
        let error = Recipe::parse(&text, Path::new("recipe.toml")).unwrap_err().to_string();
        assert!(error.contains("`systemd` has no reason"), "{error}");
    }

    #[test]
    fn the_initrd_has_what_its_features_need_and_nothing_of_others() {
        let initrd = Recipe::parse(RECIPE, Path::new("recipe.toml")).unwrap().initrd;
        let has = |features: &[&str], name: &str| {
            let initrd = initrd.of(features.iter().copied());
            initrd.programs.iter().chain(&initrd.libraries).any(|path| path.ends_with(name))
        };
        for (feature, own, other) in [
            ("key-store-tpm2", "systemd-cryptenroll", "tee-supplicant"),
            ("key-store-tee", "tee-supplicant", "systemd-cryptenroll"),
        ] {
            assert!(has(&["base", feature], own) && has(&["base", feature], "veritysetup"), "{feature}");
            assert!(!has(&["base", feature], other), "{feature}");
        }
        let text = RECIPE.replace("[initrd.with.key-store-tee", "[initrd.with.radio");
        let error = Recipe::parse(&text, Path::new("recipe.toml")).unwrap_err().to_string();
        assert!(error.contains("a feature `radio`"), "{error}");
    }

    #[test]
    fn an_unknown_feature_is_named() {
        let recipe = Recipe::parse(RECIPE, Path::new("recipe.toml")).unwrap();
        assert_eq!(recipe.features_of(&["radio".to_owned()]).unwrap_err(), "there is no feature `radio`");
    }
}
