//! `mbl account`: the tree of accounts: organisation, customer, site.

use clap::Subcommand;
use fleet_api::{Account, ChangeAccount, CreateAccount, PageQuery};
use protocol_types::AccountName;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    context::Context,
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
    /// Put an account below another
    Move {
        /// The account
        name: AccountName,
        /// The account that it stands below from now on; without it, none
        #[arg(long, value_name = "NAME")]
        parent: Option<AccountName>,
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
        Command::Move { name, parent } => {
            show(session, &client.change_account(&name, &ChangeAccount { parent }).await.map_err(service_error)?)
        }
    }
}

fn show(session: &Session, account: &Account) -> anyhow::Result<()> {
    let parent = or_dash(account.parent.as_ref());
    session.printer.data(account, format_args!("{} below {parent} {}", account.name, account.title))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let mut accounts: Vec<Account> = Vec::new();
    let mut query = PageQuery::default();
    loop {
        let page = client.accounts(&query).await.map_err(service_error)?;
        accounts.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    session.printer.table(&accounts, &["ACCOUNT", "BELOW", "TITLE"], |account| {
        vec![account.name.to_string(), or_dash(account.parent.as_ref()), account.title.clone()]
    })
}
