//! `mbl account`: the tree of accounts: organisation, customer, site.

use std::str::FromStr;

use anyhow::Context as _;
use clap::Subcommand;
use fleet_api::{Account, ChangeAccount, CreateAccount, SetQuotas};
use protocol_types::AccountName;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    context::Context,
    pages::all_pages,
    session::{Session, service_error},
    words::or_dash,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an account
    Create {
        /// Its name, for ever
        name: AccountName,
        /// What people call it
        #[arg(long, default_value = "")]
        title: String,
        /// The account that it stands below
        #[arg(long, value_name = "NAME")]
        parent: Option<AccountName>,
        /// Name of a new context with an administrator's token of the account, for `mbl --context NAME`
        #[arg(long, value_name = "NAME")]
        into_context: Option<String>,
    },
    /// List the account and those below it
    List,
    /// Show an account
    Show {
        /// The account
        name: AccountName,
    },
    /// Show the quotas of an account, or set them for one below
    Quota {
        /// The account
        name: AccountName,
        /// A quota and what it is from now on, as in `devices=100` or `devices=none`; may be given several times
        #[arg(long, value_name = "KIND=MOST")]
        set: Vec<QuotaChange>,
    },
    /// Put an account below another
    Move {
        /// The account
        name: AccountName,
        /// The account that it stands below from now on; without it, none
        #[arg(long, value_name = "NAME")]
        parent: Option<AccountName>,
        /// Only if the account is still at this revision
        #[arg(long, value_name = "NUMBER")]
        at_revision: Option<i64>,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Create { name, title, parent, into_context } => {
            let made = client.create_account(&CreateAccount { name, title, parent }).await.map_err(service_error)?;
            if let (Some(context), Some(secret)) = (&into_context, made.token.secret) {
                let Context { service, authority, .. } = session.context.load()?;
                session.context.keep(context, Context { service, authority, token: Zeroizing::new(secret) })?;
            }
            let value = json!({ "account": made.account, "token": made.token.token, "context": into_context });
            session.printer.data(&value, &made.account.name)
        }
        Command::List => list(session).await,
        Command::Show { name } => show(session, &client.account(&name).await.map_err(service_error)?),
        Command::Quota { name, set } => quota(session, &name, &set).await,
        Command::Move { name, parent, at_revision } => {
            let moved = client.change_account(&name, &ChangeAccount { parent }, at_revision).await;
            show(session, &moved.map_err(service_error)?)
        }
    }
}

/// A quota to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotaChange {
    kind: String,
    most: Option<u64>,
}

impl FromStr for QuotaChange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = "the kinds are devices, artifact_bytes, groups, principals and tokens";
        let (kind, most) = text.split_once('=').ok_or("a quota is written as KIND=MOST")?;
        SetQuotas::default().named(kind).ok_or(known)?;
        let most = match most {
            "none" => None,
            most => Some(most.parse().map_err(|_| "MOST is a number, or `none`")?),
        };
        Ok(Self { kind: kind.to_owned(), most })
    }
}

async fn quota(session: &Session, name: &AccountName, changes: &[QuotaChange]) -> anyhow::Result<()> {
    let client = session.client()?;
    let mut quotas = client.quotas(name).await.map_err(service_error)?;
    if !changes.is_empty() {
        let mut wanted = SetQuotas::default();
        for quota in &quotas.items {
            // A kind that only a newer service knows cannot be kept.
            let place =
                wanted.named(&quota.kind).with_context(|| format!("this `mbl` knows no quota `{}`", quota.kind))?;
            *place = quota.most;
        }
        for change in changes {
            *wanted.named(&change.kind).context("there is no such quota")? = change.most;
        }
        quotas = client.set_quotas(name, &wanted).await.map_err(service_error)?;
    }
    session.printer.table(&quotas.items, &["QUOTA", "USED", "MOST"], |quota| {
        vec![quota.kind.clone(), quota.used.to_string(), or_dash(quota.most)]
    })
}

fn show(session: &Session, account: &Account) -> anyhow::Result<()> {
    let parent = or_dash(account.parent.as_ref());
    session.printer.data(account, format_args!("{} below {parent} {}", account.name, account.title))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let accounts: Vec<Account> = all_pages(async |page| client.accounts(&page).await.map_err(service_error)).await?;
    session.printer.table(&accounts, &["ACCOUNT", "BELOW", "TITLE"], |account| {
        vec![account.name.to_string(), or_dash(account.parent.as_ref()), account.title.clone()]
    })
}
