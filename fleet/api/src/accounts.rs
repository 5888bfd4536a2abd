//! Accounts: whose devices, releases and tokens there are.

use protocol_types::{AccountName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, CreatedToken, Page, PageQuery};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its name, for ever; it stands in every certificate of its devices.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: AccountName,
    /// What people call it.
    pub title: String,
    /// The account that it stands below; roles and policies there also hold here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<AccountName>,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// Counts every change; the `ETag` is made of it.
    pub revision: i64,
}

/// Asks for a new account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// Its name: 1 to 32 lower-case letters, digits or `-`, starting with a letter.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: AccountName,
    /// What people call it; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
    /// The account that it stands below: the caller's own or one below that. Administrators of `default` may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<AccountName>,
}

/// Moves an account in the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeAccount {
    /// The account that it stands below from now on; `null` for none.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(value_type = Option<String>, required = true)]
    pub parent: Option<AccountName>,
}

/// A new account and the first token in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedAccount {
    /// The account.
    pub account: Account,
    /// An administrator's token of the account.
    pub token: CreatedToken,
}

impl Client {
    /// The accounts that the token may see.
    pub async fn accounts(&self, page: &PageQuery) -> Result<Page<Account>, ClientError> {
        self.get("/accounts", page).await
    }

    /// One account.
    pub async fn account(&self, name: &AccountName) -> Result<Account, ClientError> {
        self.get(&format!("/accounts/{name}"), &()).await
    }

    /// Moves an account in the tree, if it is still at `revision`, or whatever it is.
    pub async fn change_account(
        &self,
        name: &AccountName,
        change: &ChangeAccount,
        revision: Option<i64>,
    ) -> Result<Account, ClientError> {
        self.patch(&format!("/accounts/{name}"), change, revision).await
    }

    /// Makes an account; administrators of `default` may, and of an account below which it is to stand.
    pub async fn create_account(&self, account: &CreateAccount) -> Result<CreatedAccount, ClientError> {
        self.post("/accounts", account).await
    }
}
