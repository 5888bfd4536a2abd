//! `mbl identity-provider`: with whom the users of an account sign in.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use fleet_api::{IdentityProvider, SaveIdentityProvider};
use serde_json::json;

use crate::{
    secret,
    session::{Session, service_error},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show with whom the users of the account sign in
    Show,
    /// Say with whom the users of the account sign in, in place of what was said before
    Save(Box<SaveArgs>),
    /// Forget the identity provider
    Delete {
        /// Only if it is still at this revision
        #[arg(long, value_name = "NUMBER")]
        at_revision: Option<i64>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The issuer exactly as it names itself, as in `https://login.example.com`
    issuer: String,
    /// Who the service is there
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// File whose first line is the client secret; without it the one that is there stays
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A scope to ask for beside `openid`, may be given several times; without it, `email` and `profile`
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// The claim that says which user it is; without it, `email`
    #[arg(long, value_name = "CLAIM")]
    user_claim: Option<String>,
    /// A domain of verified addresses for mail that are let in, may be given several times
    #[arg(long, value_name = "DOMAIN")]
    domain: Vec<String>,
    /// The claim whose values are roles
    #[arg(long, value_name = "CLAIM")]
    role_claim: Option<String>,
    /// The role of a value, as in `fleet-operators=operator`, may be given several times
    #[arg(long, value_name = "VALUE=ROLE", requires = "role_claim")]
    role: Vec<RoleOfValue>,
    /// Make users of those who are none at their first sign-in
    #[arg(long)]
    create_users: bool,
    /// The role of those whose claims bring none
    #[arg(long, value_name = "ROLE")]
    default_role: Option<String>,
    /// Let nobody of the account sign in with a password but the one user of `--break-glass`
    #[arg(long, requires = "break_glass")]
    required: bool,
    /// The user who may sign in with a password nevertheless
    #[arg(long, value_name = "NAME")]
    break_glass: Option<String>,
    /// Only if it is still at this revision; 0 if there must be none
    #[arg(long, value_name = "NUMBER")]
    at_revision: Option<i64>,
}

/// A value of a claim and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleOfValue {
    value: String,
    role: String,
}

impl FromStr for RoleOfValue {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A value may hold `=`, a role does not.
        let (value, role) = text.rsplit_once('=').ok_or("a role is written as VALUE=ROLE")?;
        Ok(Self { value: value.to_owned(), role: role.to_owned() })
    }
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Show => show(session, &client.identity_provider().await.map_err(service_error)?),
        Command::Save(args) => {
            let at = args.at_revision;
            let wanted = wanted(*args)?;
            show(session, &client.save_identity_provider(&wanted, at).await.map_err(service_error)?)
        }
        Command::Delete { at_revision } => {
            client.delete_identity_provider(at_revision).await.map_err(service_error)?;
            session.printer.data(&json!({ "deleted": true }), "the identity provider is forgotten")
        }
    }
}

fn wanted(args: SaveArgs) -> anyhow::Result<SaveIdentityProvider> {
    let secret = args.secret_file.as_deref().map(secret::first_line).transpose()?;
    let roles: BTreeMap<String, String> = args.role.into_iter().map(|role| (role.value, role.role)).collect();
    Ok(SaveIdentityProvider {
        issuer: args.issuer,
        client_id: args.client_id,
        client_secret: secret.map(|secret| secret.to_string()),
        scopes: (!args.scope.is_empty()).then_some(args.scope),
        user_claim: args.user_claim,
        domains: args.domain,
        role_claim: args.role_claim,
        roles,
        create_users: args.create_users,
        default_role: args.default_role,
        required: args.required,
        break_glass: args.break_glass,
    })
}

fn show(session: &Session, provider: &IdentityProvider) -> anyhow::Result<()> {
    let required = match (&provider.break_glass, provider.required) {
        (Some(name), true) => format!(", required of all but user/{name}"),
        (None, true) => ", required".to_owned(),
        (_, false) => String::new(),
    };
    let IdentityProvider { issuer, client_id, redirect_uri, .. } = provider;
    session.printer.data(provider, format_args!("{issuer} as {client_id}{required}\nredirects to {redirect_uri}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_of_a_value_stands_after_the_last_sign() {
        let read = |text: &str| text.parse::<RoleOfValue>().map(|read| (read.value, read.role));
        assert_eq!(read("ops=operator"), Ok(("ops".into(), "operator".into())));
        assert_eq!(read("cn=ops,dc=example=viewer"), Ok(("cn=ops,dc=example".into(), "viewer".into())));
        assert!(read("ops").is_err());
    }
}
