//! The token that a new service leaves for its first operator in a file.
//!
//! It allows everything in the account `default`, and is made only while nobody can administer that account. The first use of any
//! other token of the account revokes it and removes the file: only then is it certain that its successor has arrived. An operator
//! who lost every token makes a new one with `mbl-service first-token`, which asks for nothing but the settings and the data directory of
//! the service.

use std::{io, path::PathBuf, sync::Arc};

use fleet_api::TokenScope;
use fleet_store::{AccountScope, NewToken, Store, StoreError};
use protocol_types::{AccountName, NameError};

use crate::{
    Clock, Config, Random,
    durable::{self, Audience},
    fleet::Fleet,
    random::RandomError,
    rest::access::secret::TokenSecret,
};

/// Why there is no first token.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The database refused.
    #[error("cannot keep the first token")]
    Store(#[from] StoreError),
    /// The file could not be written.
    #[error("cannot write the first token into the data directory")]
    Write(#[source] io::Error),
    /// The service that keeps its data here, if any does, has another database.
    #[error(
        "there is no embedded database at {}, so a token in one would be known to no service; \
         give the `--config` and `--data-dir` of the service", .0.display()
    )]
    NoDatabase(PathBuf),
    /// There is no randomness.
    #[error("cannot make the first token")]
    Random(#[from] RandomError),
    /// The name of the first account breaks the rules for names.
    #[error("cannot name the first account")]
    Name(#[from] NameError),
}

/// Makes the first account, and the first token unless somebody can already administer that account.
pub(crate) async fn ensure(
    store: &Store,
    config: &Config,
    clock: &Clock,
    random: &Random,
) -> Result<AccountScope, FirstTokenError> {
    let name = AccountName::new(Fleet::FIRST_ACCOUNT)?;
    store.ensure_account(&name, "First account", clock.now()).await?;
    let scope = store.account(&name);
    let file = Fleet::first_token_file(config);
    let now = clock.now();
    if !scope.has_admin_token(now).await? && !scope.has_administrator(now).await? {
        make(&scope, config, clock, random).await?;
        tracing::info!(file = %file.display(), "first token written");
    } else if !scope.has_first_token().await? {
        // A crash between revoking it and removing its file.
        durable::remove(&file).map_err(FirstTokenError::Write)?;
    }
    Ok(scope)
}

/// The file comes first: a token that nobody can read would lock everybody out.
async fn make(scope: &AccountScope, config: &Config, clock: &Clock, random: &Random) -> Result<(), FirstTokenError> {
    let secret = TokenSecret::new(random)?;
    let text = format!("{}\n", secret.reveal());
    durable::write(&Fleet::first_token_file(config), text.as_bytes(), Audience::Owner)
        .map_err(FirstTokenError::Write)?;
    let token = NewToken {
        id: secret.id(),
        name: "first token".to_owned(),
        hash: secret.hash(),
        scopes: TokenScope::Admin.to_string(),
        expires: None,
        is_first: true,
        principal: None,
    };
    scope.create_token(&token, None, clock.now()).await?;
    Ok(())
}

/// Makes another first token, for an operator who has lost every administrator's token. The service may be running.
///
/// # Errors
/// [`FirstTokenError::NoDatabase`] if the settings name no database and none is in the data directory: the first start of a service makes
/// both the database and a token. Otherwise if the database, the disk or the randomness fails.
pub async fn make_first_token(config: &Config, clock: Clock, random: Random) -> Result<(), FirstTokenError> {
    let embedded = config.embedded_database();
    if config.database_url.is_none() && !embedded.exists() {
        return Err(FirstTokenError::NoDatabase(embedded));
    }
    let store = crate::run::open_store(config, Arc::new(()), &clock).await?;
    let name = AccountName::new(Fleet::FIRST_ACCOUNT)?;
    store.ensure_account(&name, "First account", clock.now()).await?;
    make(&store.account(&name), config, &clock, &random).await?;
    store.close().await;
    Ok(())
}
