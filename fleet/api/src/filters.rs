//! Filters that an account keeps under a name.

use protocol_types::{GroupName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// A filter under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SavedFilter {
    /// Its name, for ever.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// The filter.
    pub filter: String,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// Counts every change; also the `ETag`.
    pub revision: i64,
}

/// Keeps a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFilter {
    /// Its name: 1 to 32 lower-case letters, digits or `-`, starting with a letter.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
    /// The filter, at most 4096 bytes.
    #[schema(max_length = 4096)]
    pub filter: String,
}

/// Changes a filter; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeFilter {
    /// What people call it from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub title: Option<String>,
    /// The filter from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
}

impl Client {
    /// The filters of the account, by name.
    pub async fn filters(&self, page: &PageQuery) -> Result<Page<SavedFilter>, ClientError> {
        self.get("/filters", page).await
    }

    /// One filter.
    pub async fn filter(&self, name: &GroupName) -> Result<SavedFilter, ClientError> {
        self.get(&format!("/filters/{name}"), &()).await
    }

    /// Keeps a filter.
    pub async fn create_filter(&self, filter: &CreateFilter) -> Result<SavedFilter, ClientError> {
        self.post("/filters", filter).await
    }

    /// Changes a filter, if it is still at `revision`.
    pub async fn change_filter(
        &self,
        name: &GroupName,
        change: &ChangeFilter,
        revision: Option<i64>,
    ) -> Result<SavedFilter, ClientError> {
        self.patch(&format!("/filters/{name}"), change, revision).await
    }

    /// Forgets a filter.
    pub async fn delete_filter(&self, name: &GroupName) -> Result<(), ClientError> {
        self.delete(&format!("/filters/{name}")).await
    }
}
