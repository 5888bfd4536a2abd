//! What `app.toml` says: the files of an application's image, how it starts, and what it may do. Parsing never opens a file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::{AppName, Architecture, ReleaseVersion, RunSettings};
use serde::Deserialize;

/// An application as its team describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The application.
    pub name: AppName,
    /// Its version.
    pub version: ReleaseVersion,
    /// The architecture its programs are made for.
    pub architecture: Architecture,
    /// Its licence as an SPDX expression, for its bill of materials.
    #[serde(default)]
    pub licence: Option<String>,
    /// Program and fixed arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Folder that the program starts in.
    #[serde(default = "root")]
    pub working_directory: String,
    /// User and group ids inside the container, as `65534:65534`.
    #[serde(default = "nobody")]
    pub user: String,
    /// How the layer is compressed.
    #[serde(default)]
    pub compression: Compression,
    /// A folder whose whole content becomes the root of the image, relative to the recipe.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// Single files on top of the folder.
    #[serde(default)]
    pub files: Vec<RecipeFile>,
    /// Symbolic links on top of the folder.
    #[serde(default)]
    pub links: Vec<RecipeLink>,
    /// Permissions and limits, which end up signed in the release.
    pub run: RunSettings,
}

/// One file of the image: exactly one of `source` and `text`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Absolute path inside the image.
    pub target: String,
    /// The file to copy, relative to the recipe.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// The content itself.
    #[serde(default)]
    pub text: Option<String>,
    /// Permission bits.
    #[serde(default = "readable")]
    pub mode: u32,
}

/// One symbolic link of the image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeLink {
    /// Absolute path inside the image.
    pub target: String,
    /// What it points to.
    pub to: String,
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952: every OCI tool reads it.
    #[default]
    Gzip,
    /// RFC 8878: smaller and quicker to unpack.
    Zstd,
}

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The recipe.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not have the form of a recipe.
    #[error("{path} is not an application recipe")]
    Malformed {
        /// The recipe.
        path: PathBuf,
        /// The line and what is wrong with it.
        source: toml::de::Error,
    },
    /// A value breaks a rule.
    #[error("{path}: {rule}")]
    Rule {
        /// The recipe.
        path: PathBuf,
        /// What is wrong.
        rule: String,
    },
}

fn root() -> String {
    "/".to_owned()
}

fn nobody() -> String {
    "65534:65534".to_owned()
}

const fn readable() -> u32 {
    0o644
}

impl Recipe {
    /// Reads the recipe at `path`.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let text = fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a recipe; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let recipe: Self =
            toml::from_str(text).map_err(|source| RecipeError::Malformed { path: path.to_owned(), source })?;
        match recipe.broken_rule() {
            None => Ok(recipe),
            Some(rule) => Err(RecipeError::Rule { path: path.to_owned(), rule }),
        }
    }

    fn broken_rule(&self) -> Option<String> {
        if self.entrypoint.is_empty() {
            return Some("`entrypoint` must name a program".to_owned());
        }
        if let Some(Err(error)) = self.licence.as_deref().map(spdx::Expression::parse) {
            return Some(format!("`licence` must be an SPDX expression: {}", error.reason));
        }
        if self.environment.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Some("a name in `environment` must not be empty or contain `=`".to_owned());
        }
        let double = self.files.iter().find(|file| file.source.is_some() == file.text.is_some());
        if let Some(file) = double {
            return Some(format!("file `{}` must have either `source` or `text`", file.target));
        }
        if let Some(file) = self.files.iter().find(|file| file.mode & !0o777 != 0) {
            return Some(format!("file `{}` may only have the permission bits 0o777", file.target));
        }
        let mut targets = self.files.iter().map(|file| &file.target).chain(self.links.iter().map(|link| &link.target));
        let bad = targets.find(|target| relative(target).is_none())?;
        Some(format!("`{bad}` must be an absolute path without empty, `.` or `..` parts"))
    }
}

/// The path inside the image without its leading `/`; `None` unless it is absolute and plain.
pub(super) fn relative(target: &str) -> Option<&str> {
    let path = target.strip_prefix('/')?;
    let plain = !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINIMAL: &str = r#"
        name = "hello"
        version = "1.0.0"
        architecture = "x86_64"
        entrypoint = ["/bin/busybox", "httpd"]
        run = { network = "host", memory_bytes = 33554432, pids = 32 }
    "#;

    fn parse(more: &str) -> Result<Recipe, RecipeError> {
        Recipe::parse(&format!("{MINIMAL}{more}"), Path::new("app.toml"))
    }

    #[test]
    fn an_application_runs_as_nobody_unless_it_says_otherwise() {
        let recipe = parse("").unwrap();
        assert_eq!((recipe.user.as_str(), recipe.compression), ("65534:65534", Compression::Gzip));
    }

    #[test]
    fn a_recipe_that_breaks_a_rule_is_refused_with_the_rule() {
        for (more, rule) in [
            ("[[files]]\ntarget = \"/a/../b\"\ntext = \"\"", "must be an absolute path"),
            ("[[files]]\ntarget = \"b\"\ntext = \"\"", "must be an absolute path"),
            ("[[files]]\ntarget = \"/b\"", "either `source` or `text`"),
            ("[[files]]\ntarget = \"/b\"\ntext = \"\"\nmode = 0o4755", "permission bits"),
            ("[[links]]\ntarget = \"/\"\nto = \"b\"", "must be an absolute path"),
            ("[environment]\n\"a=b\" = \"\"", "environment"),
            ("licence = \"do what you like\"", "`licence` must be an SPDX expression"),
        ] {
            let said = parse(more).unwrap_err().to_string();
            assert!(said.contains(rule), "{more}: {said}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = parse("privileged = true").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("privileged"), "{source}");
    }

    proptest! {
        #[test]
        fn a_path_accepted_into_an_image_stays_inside_it(target: String) {
            if let Some(path) = relative(&target) {
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(Path::new(path).components().all(plain), "{path}");
            }
        }
    }
}
