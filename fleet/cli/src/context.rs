//! Contexts: which service this person talks to, as whom. One private file in the configuration folder.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use protocol_types::AccountName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    durable::write_private,
    failure::{Exit, Failure},
    secret::Secret,
};

/// Options that choose the context.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ContextArgs {
    /// The context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME", env = "MBL_CONTEXT", help_heading = "Service")]
    context: Option<String>,
    /// Folder of the contexts, normally ~/.config/mbl
    #[arg(long, global = true, value_name = "DIR", env = "MBL_CONFIG_DIR", help_heading = "Service")]
    config_dir: Option<PathBuf>,
    /// The account to ask about, if it is one below the token's own
    #[arg(long, global = true, value_name = "NAME", env = "MBL_ACCOUNT", help_heading = "Service")]
    in_account: Option<AccountName>,
}

/// Everything needed to talk to a service.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Address of the REST API, as in `https://service.example:8443`.
    pub(crate) service: String,
    /// PEM certificates that the service's certificate must chain to.
    pub(crate) authority: String,
    /// The token.
    #[serde(with = "secret_text")]
    pub(crate) token: Secret,
}

/// A secret as plain text: the file that holds it is private.
pub(crate) mod secret_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::Secret;

    pub(crate) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("service", &self.service).finish_non_exhaustive()
    }
}

/// The file `contexts.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(default)]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl ContextArgs {
    /// The chosen context.
    pub(crate) fn load(&self) -> anyhow::Result<Context> {
        let path = self.file()?;
        let mut all = Contexts::load(&path)?;
        let Some(name) = self.context.clone().or_else(|| all.current.take()) else {
            return Err(Failure::new(Exit::Failed, format!("no service is known in {}", path.display()))
                .hint("make a context with `mbl service token --data-dir DIR` on the machine of the service")
                .into());
        };
        all.contexts.remove(&name).ok_or_else(|| {
            let known: Vec<&str> = all.contexts.keys().map(String::as_str).collect();
            Failure::new(Exit::Failed, format!("there is no context `{name}` in {}", path.display()))
                .hint(format!(
                    "known contexts: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ))
                .into()
        })
    }

    /// The name that a new context gets unless one is chosen.
    pub(crate) fn name(&self) -> &str {
        self.context.as_deref().unwrap_or("default")
    }

    /// The account to ask about, if it is not the token's own.
    pub(crate) fn account(&self) -> Option<&AccountName> {
        self.in_account.as_ref()
    }

    /// Adds a context; the current one stays.
    pub(crate) fn keep(&self, name: &str, context: Context) -> anyhow::Result<()> {
        let path = self.file()?;
        let mut all = Contexts::load(&path)?;
        all.contexts.insert(name.to_owned(), context);
        write_private(&path, Zeroizing::new(toml::to_string(&all)?).as_bytes())
    }

    /// Adds a context and makes it the current one; returns the file.
    pub(crate) fn save(&self, context: Context) -> anyhow::Result<PathBuf> {
        let path = self.file()?;
        let mut all = Contexts::load(&path)?;
        all.contexts.insert(self.name().to_owned(), context);
        all.current = Some(self.name().to_owned());
        write_private(&path, Zeroizing::new(toml::to_string(&all)?).as_bytes())?;
        Ok(path)
    }

    fn file(&self) -> anyhow::Result<PathBuf> {
        let folder = match &self.config_dir {
            Some(folder) => folder.clone(),
            None => std::env::home_dir().context("cannot find the home folder")?.join(".config/mbl"),
        };
        Ok(folder.join("contexts.toml"))
    }
}

impl Contexts {
    fn load(path: &Path) -> anyhow::Result<Self> {
        match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
            Ok(text) => {
                let text = Zeroizing::new(text);
                refuse_readable_by_others(path)?;
                // The message of a TOML error quotes the line, which may be the token.
                toml::from_str(&text).map_err(|error| {
                    let line =
                        error.span().map_or(1, |span| text.get(..span.start).unwrap_or("").lines().count().max(1));
                    anyhow::anyhow!("line {line} of {} does not have the form of a context", path.display())
                })
            }
        }
    }
}

fn refuse_readable_by_others(path: &Path) -> anyhow::Result<()> {
    let mode = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{} holds tokens but others may read it", path.display()))
        .hint(format!("make it private with `chmod 600 {}`", path.display()))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path, context: Option<&str>) -> ContextArgs {
        ContextArgs { context: context.map(str::to_owned), config_dir: Some(dir.to_owned()), in_account: None }
    }

    fn context(token: &str) -> Context {
        Context { service: "https://127.0.0.1:1".into(), authority: "PEM".into(), token: Zeroizing::new(token.into()) }
    }

    #[test]
    fn a_saved_context_is_the_current_one_and_private() {
        let dir = tempfile::tempdir().unwrap();
        args(dir.path(), Some("old")).save(context("one")).unwrap();
        let path = args(dir.path(), Some("new")).save(context("two")).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(args(dir.path(), None).load().unwrap().token.as_str(), "two");
        assert_eq!(args(dir.path(), Some("old")).load().unwrap().token.as_str(), "one");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = args(dir.path(), None).save(context("one")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(args(dir.path(), None).load().unwrap_err().to_string().contains("others may read it"));
    }

    #[test]
    fn a_damaged_file_is_named_by_line_without_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let text = "current = \"a\"\n[contexts.a]\ntoken = secret";
        write_private(&dir.path().join("contexts.toml"), text.as_bytes()).unwrap();
        let said = format!("{:#}", args(dir.path(), None).load().unwrap_err());
        assert!(said.contains("line 3") && !said.contains("secret"), "{said}");
    }
}
