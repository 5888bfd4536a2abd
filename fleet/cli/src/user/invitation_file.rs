//! An invitation as a private file: everything that somebody needs who has nothing yet. The service sends the same by mail.

use std::{fs, path::Path};

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::{
    context::Context,
    durable::write_private,
    failure::{Exit, Failure},
    secret::Secret,
};

/// The service, how to know it, and the secret.
pub(crate) struct InvitationFile {
    /// Address of the REST API.
    pub(crate) service: String,
    /// PEM certificates that the service's certificate must chain to.
    pub(crate) authority: String,
    /// The secret of the invitation.
    pub(crate) invitation: Secret,
}

/// A longer file is no invitation.
const MAX_BYTES: u64 = 64 * 1024;

impl InvitationFile {
    /// Writes the invitation of a user of the service that `context` chooses, for its owner alone.
    pub(crate) fn write(context: Context, invitation: String, path: &Path) -> anyhow::Result<()> {
        let Context { service, authority, .. } = context;
        let file = fleet_api::InvitationFile { service, authority, invitation };
        write_private(path, Zeroizing::new(toml::to_string(&file)?).as_bytes())
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let length = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let no_invitation = || {
            Failure::new(Exit::Failed, format!("{} is no invitation", path.display()))
                .hint("an invitation is the file that `mbl user invite` writes, or that came by mail")
        };
        if length > MAX_BYTES {
            return Err(no_invitation().into());
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        // The message of a TOML error quotes the line, which may be the secret.
        let file: fleet_api::InvitationFile = toml::from_str(&Zeroizing::new(text)).map_err(|_| no_invitation())?;
        let fleet_api::InvitationFile { service, authority, invitation } = file;
        Ok(Self { service, authority, invitation: Zeroizing::new(invitation) })
    }
}
