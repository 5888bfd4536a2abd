//! Passphrases and PINs: from a file, or typed without echo. Never from the command line, where every process could read them.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

/// A passphrase or PIN, wiped from memory when dropped.
pub(crate) type Secret = Zeroizing<String>;

/// Where the passphrase of a key store comes from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PassphraseArgs {
    /// File whose first line is the passphrase; asked for without it
    #[arg(long, value_name = "FILE", env = "MBL_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase of keys that exist.
    pub(crate) fn known(&self, what: &str) -> anyhow::Result<Secret> {
        match &self.passphrase_file {
            Some(file) => first_line(file),
            None => ask(&format!("Passphrase of {what}: "), BY_FILE),
        }
    }

    /// The passphrase for new keys, typed twice if it is typed.
    pub(crate) fn chosen(&self, what: &str) -> anyhow::Result<Secret> {
        let secret = match &self.passphrase_file {
            Some(file) => first_line(file)?,
            None => {
                let secret = ask(&format!("New passphrase of {what}: "), BY_FILE)?;
                if secret != ask("Again: ", BY_FILE)? {
                    return Err(Failure::new(Exit::Failed, "the two passphrases differ").into());
                }
                secret
            }
        };
        if secret.chars().count() < MIN_LENGTH {
            return Err(Failure::new(Exit::Failed, format!("the passphrase has fewer than {MIN_LENGTH} characters"))
                .hint("several random words are easy to remember and hard to guess")
                .into());
        }
        Ok(secret)
    }
}

const BY_FILE: &str = "`--passphrase-file` or MBL_PASSPHRASE_FILE";
/// Shorter passphrases fall to guessing whatever the key derivation costs.
const MIN_LENGTH: usize = 8;
/// No secret that a person handles is longer.
const MAX_FILE: usize = 4096;

/// The first line of a small file.
pub(crate) fn first_line(file: &Path) -> anyhow::Result<Secret> {
    let bytes =
        Zeroizing::new(fs::read(file).with_context(|| format!("cannot read the secret in {}", file.display()))?);
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_FILE);
    let line = text.and_then(|text| text.lines().next()).filter(|line| !line.is_empty());
    let bad = || Failure::new(Exit::Failed, format!("{} does not hold a secret in its first line", file.display()));
    Ok(Zeroizing::new(line.ok_or_else(bad)?.to_owned()))
}

/// Asks without echo; `by_file` names the options for where there is no terminal.
pub(crate) fn ask(prompt: &str, by_file: &str) -> anyhow::Result<Secret> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Failed, "a secret is needed and there is no terminal to ask at")
            .hint(format!("put it into a file and name that with {by_file}"))
            .into());
    }
    rpassword::prompt_password(prompt).map(Zeroizing::new).context("cannot read the passphrase")
}
