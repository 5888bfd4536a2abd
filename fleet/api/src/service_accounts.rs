//! Service accounts: programs that hold roles.

use protocol_types::UnixSeconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// A program that can hold roles. It acts with tokens that are made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceAccount {
    /// Its name; bindings and tokens call it `service/NAME`.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When its right to act was taken away, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disabled: Option<UnixSeconds>,
    /// Counts every change; the `ETag` is made of it.
    pub revision: i64,
}

/// Asks for a service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateServiceAccount {
    /// Its name: 1 to 64 of a-z, 0-9, `.`, `_`, `@`, `+` and `-`, beginning with a letter or digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9._@+-]{0,63}$")]
    pub name: String,
    /// What people call it; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
}

/// Changes a service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeServiceAccount {
    /// Whether its right to act is taken away. Its tokens then are refused.
    pub disabled: bool,
}

impl Client {
    /// The service accounts of the account, by name.
    pub async fn service_accounts(&self, page: &PageQuery) -> Result<Page<ServiceAccount>, ClientError> {
        self.get("/service-accounts", page).await
    }

    /// Makes a service account without any role.
    pub async fn create_service_account(&self, wanted: &CreateServiceAccount) -> Result<ServiceAccount, ClientError> {
        self.post("/service-accounts", wanted).await
    }

    /// One service account.
    pub async fn service_account(&self, name: &str) -> Result<ServiceAccount, ClientError> {
        self.get(&format!("/service-accounts/{name}"), &()).await
    }

    /// Takes away a service account's right to act, or gives it back, if it is still at `revision`, or whatever it is.
    pub async fn change_service_account(
        &self,
        name: &str,
        change: &ChangeServiceAccount,
        revision: Option<i64>,
    ) -> Result<ServiceAccount, ClientError> {
        self.patch(&format!("/service-accounts/{name}"), change, revision).await
    }

    /// Forgets a service account, its roles and its tokens, if it is still at `revision`, or whatever it is.
    pub async fn delete_service_account(&self, name: &str, revision: Option<i64>) -> Result<(), ClientError> {
        self.delete_at(&format!("/service-accounts/{name}"), revision).await
    }
}
