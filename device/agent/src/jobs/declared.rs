//! Checks that an image declares: a small file each, in a folder of its verified root, with a program, its arguments and its time. The
//! service chooses among them by name and adds nothing (decision 22).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::ProbeName;
use serde::Deserialize;

use super::{
    child::{Program, program},
    probes::Probe,
};
use crate::{
    cause::Chain,
    durable::{self, DurableError},
};

/// The longest file in bytes.
const MAX_BYTES: usize = 4096;
/// Checks that one device may declare besides those of every device.
const MOST: usize = 32;
/// Arguments of one program.
const MOST_ARGUMENTS: usize = 16;
/// The longest argument in bytes.
const ARGUMENT_BYTES: usize = 256;
/// The longest time in seconds.
const LONGEST: u64 = 60;

/// Where a device has its declarations, and where their programs must be.
#[derive(Clone, Debug)]
pub(super) struct Declarations {
    /// The folder of `NAME.toml`.
    pub(super) folder: PathBuf,
    /// What is verified: a program elsewhere is refused. None on a board that verifies nothing.
    pub(super) verified: Option<PathBuf>,
}

/// A declaration that is not used.
#[derive(Debug, thiserror::Error)]
enum DeclarationError {
    #[error("its name is that of a check of every device")]
    Known,
    #[error("the device declares more than {MOST} checks")]
    TooMany,
    #[error("cannot load it")]
    Read(#[from] DurableError),
    #[error("it is not UTF-8 text")]
    Encoding(#[from] std::string::FromUtf8Error),
    #[error("it does not have the expected form")]
    Malformed(#[from] toml::de::Error),
    #[error("`{0}` must be {1}")]
    Range(&'static str, &'static str),
    #[error("cannot find the program {}", .0.display())]
    Program(PathBuf, #[source] io::Error),
    #[error("the program {} is not below {}", .0.display(), .1.display())]
    Unverified(PathBuf, PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclarationText {
    program: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default = "usual")]
    time_limit_s: u64,
}

const fn usual() -> u64 {
    10
}

fn parse(text: &str) -> Result<Program, DeclarationError> {
    let DeclarationText { program: path, arguments, time_limit_s } = toml::from_str(text)?;
    if !path.is_absolute() {
        return Err(DeclarationError::Range("program", "an absolute path"));
    }
    let fits = |argument: &String| argument.len() <= ARGUMENT_BYTES && !argument.contains('\0');
    if arguments.len() > MOST_ARGUMENTS || !arguments.iter().all(fits) {
        return Err(DeclarationError::Range("arguments", "at most 16 texts of at most 256 bytes"));
    }
    if !(1..=LONGEST).contains(&time_limit_s) {
        return Err(DeclarationError::Range("time_limit_s", "1 to 60 seconds"));
    }
    Ok(program(&path, arguments, Duration::from_secs(time_limit_s)))
}

impl Declarations {
    /// What is declared; a declaration that breaks a rule is told in the log and left out.
    pub(super) fn load(&self) -> BTreeMap<ProbeName, Program> {
        let mut found = BTreeMap::new();
        let listed = fs::read_dir(&self.folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
        let mut paths = match listed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return found,
            Err(error) => {
                tracing::error!(folder = %self.folder.display(), %error, "declared checks cannot be listed");
                return found;
            }
            Ok(paths) => paths,
        };
        paths.sort();
        for path in paths {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let name = ProbeName::new(stem).ok().filter(|_| path.extension().is_some_and(|ext| ext == "toml"));
            let Some(name) = name else {
                tracing::warn!(file = %path.display(), "not a declared check: its file is called NAME.toml");
                continue;
            };
            match self.declaration(&name, &path, found.len()) {
                Ok(program) => drop(found.insert(name, program)),
                Err(error) => {
                    tracing::error!(file = %path.display(), error = %Chain(&error), "a declared check is not used");
                }
            }
        }
        found
    }

    fn declaration(&self, name: &ProbeName, path: &Path, before: usize) -> Result<Program, DeclarationError> {
        if Probe::named(name).is_some() {
            return Err(DeclarationError::Known);
        }
        if before >= MOST {
            return Err(DeclarationError::TooMany);
        }
        let bytes = durable::read(path, MAX_BYTES)?.unwrap_or_default();
        let mut declared = parse(&String::from_utf8(bytes)?)?;
        if let Some(verified) = &self.verified {
            let found = declared.path.canonicalize();
            declared.path = found.map_err(|source| DeclarationError::Program(declared.path.clone(), source))?;
            if !declared.path.starts_with(verified) {
                return Err(DeclarationError::Unverified(declared.path, verified.clone()));
            }
        }
        Ok(declared)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_an_image_declares_is_used_and_what_breaks_a_rule_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let declarations = |verified: Option<&str>| {
            let verified = verified.map(PathBuf::from);
            Declarations { folder: folder.path().join("probes.d"), verified }.load()
        };
        assert!(declarations(None).is_empty(), "nothing is declared");
        std::fs::create_dir(folder.path().join("probes.d")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join("probes.d").join(name), text).unwrap();
        write("modem.toml", "program = '/usr/bin/env'\narguments = ['--version']\ntime_limit_s = 3\n");
        write("disk.toml", "program = '/usr/bin/env'\n");
        write("README", "");
        write("Bad.toml", "program = '/usr/bin/env'\n");
        write("relative.toml", "program = 'env'\n");
        write("long.toml", "program = '/usr/bin/env'\ntime_limit_s = 61\n");
        write("typo.toml", "program = '/usr/bin/env'\nargument = ['x']\n");
        write("state.toml", &format!("program = '{}'\n", folder.path().join("script").display()));
        std::fs::write(folder.path().join("script"), "#!/bin/sh\n").unwrap();
        let names = |found: BTreeMap<ProbeName, Program>| found.into_keys().map(String::from).collect::<Vec<_>>();
        assert_eq!(names(declarations(None)), ["modem", "state"]);
        let verified = declarations(Some("/usr"));
        let modem = verified.values().next().unwrap();
        assert_eq!((modem.arguments.as_slice(), modem.limit), (&["--version".to_owned()][..], Duration::from_secs(3)));
        assert_eq!(names(verified), ["modem"], "a program that anybody could have written");
        for n in 0..40 {
            write(&format!("p{n}.toml"), "program = '/usr/bin/env'\n");
        }
        assert_eq!(declarations(Some("/usr")).len(), MOST);
    }

    proptest! {
        #[test]
        fn any_text_is_a_declaration_within_its_bounds_or_refused(
            path in "/?[a-z/]{0,20}",
            arguments in prop::collection::vec("[a-z ]{0,300}", 0..20),
            seconds in 0_u64..100,
        ) {
            let text = format!("program = {path:?}\narguments = {arguments:?}\ntime_limit_s = {seconds}\n");
            let fits = path.starts_with('/')
                && arguments.len() <= MOST_ARGUMENTS
                && arguments.iter().all(|argument| argument.len() <= ARGUMENT_BYTES)
                && (1..=LONGEST).contains(&seconds);
            prop_assert_eq!(parse(&text).is_ok(), fits, "{}", text);
        }
    }
}
