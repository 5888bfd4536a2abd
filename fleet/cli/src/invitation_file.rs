//! An invitation as a private file: everything that somebody needs who has nothing yet.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    context::{Context, secret_text},
    durable::write_private,
    failure::{Exit, Failure},
    secret::Secret,
};

/// The service, how to know it, and the secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvitationFile {
    /// Address of the REST API.
    pub(crate) service: String,
    /// PEM certificates that the service's certificate must chain to.
    pub(crate) authority: String,
    /// The secret of the invitation.
    #[serde(with = "secret_text")]
    pub(crate) invitation: Secret,
}

/// A longer file is no invitation.
const MAX_BYTES: u64 = 64 * 1024;

impl InvitationFile {
    /// The invitation of a user of the service that `context` chooses.
    pub(crate) fn of(context: Context, invitation: String) -> Self {
        Self { service: context.service, authority: context.authority, invitation: Zeroizing::new(invitation) }
    }

    /// Writes it for its owner alone.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write_private(path, Zeroizing::new(toml::to_string(self)?).as_bytes())
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let length = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let no_invitation = || {
            Failure::new(Exit::Failed, format!("{} is no invitation", path.display()))
                .hint("an invitation is the file that `mbl user invite` writes")
        };
        if length > MAX_BYTES {
            return Err(no_invitation().into());
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        // The message of a TOML error quotes the line, which may be the secret.
        toml::from_str(&Zeroizing::new(text)).map_err(|_| no_invitation().into())
    }
}
