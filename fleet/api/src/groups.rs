//! Groups: devices that an operator lists, that a filter finds, or that are in groups which a group includes.

use protocol_types::{EndpointName, GroupName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery};

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Its name, for ever.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// How many members are listed.
    pub members: u64,
    /// The filter whose devices are in it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// Counts every change; also the `ETag`.
    pub revision: i64,
}

/// Asks for a new group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// Its name: 1 to 32 lower-case letters, digits or `-`, starting with a letter.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
    /// Its first members, at most 10000; a member need not have joined yet.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 10000)]
    pub members: Vec<EndpointName>,
    /// The filter whose devices are in it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
    /// Groups whose devices are in it, too; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 100)]
    pub include: Vec<GroupName>,
}

/// Changes a group; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeGroup {
    /// What people call it from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub title: Option<String>,
    /// Endpoints that become members, at most 10000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 10000)]
    pub add: Vec<EndpointName>,
    /// Endpoints that are members no more, at most 10000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 10000)]
    pub remove: Vec<EndpointName>,
    /// The filter from now on; empty for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
    /// Groups that it includes from now on, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 100)]
    pub include: Vec<GroupName>,
    /// Groups that it includes no more, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 100)]
    pub exclude: Vec<GroupName>,
}

/// A group, with what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupDetail {
    /// The group as lists show it.
    pub group: Group,
    /// Groups whose devices are in it, too.
    #[schema(value_type = Vec<String>)]
    pub includes: Vec<GroupName>,
    /// How many devices are in it now. A listed member that has not joined yet does not count.
    pub devices: u64,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMember {
    /// Its name.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
}

impl Client {
    /// The groups of the account.
    pub async fn groups(&self, page: &PageQuery) -> Result<Page<Group>, ClientError> {
        self.get("/groups", page).await
    }

    /// One group.
    pub async fn group(&self, name: &GroupName) -> Result<GroupDetail, ClientError> {
        self.get(&format!("/groups/{name}"), &()).await
    }

    /// The listed members of a group.
    pub async fn group_members(&self, name: &GroupName, page: &PageQuery) -> Result<Page<GroupMember>, ClientError> {
        self.get(&format!("/groups/{name}/members"), page).await
    }

    /// Makes a group.
    pub async fn create_group(&self, group: &CreateGroup) -> Result<Group, ClientError> {
        self.post("/groups", group).await
    }

    /// Changes a group, if it is still at `revision`.
    pub async fn change_group(
        &self,
        name: &GroupName,
        change: &ChangeGroup,
        revision: Option<i64>,
    ) -> Result<Group, ClientError> {
        self.patch(&format!("/groups/{name}"), change, revision).await
    }

    /// Removes a group; its members remain devices of the account.
    pub async fn delete_group(&self, name: &GroupName) -> Result<(), ClientError> {
        self.delete(&format!("/groups/{name}")).await
    }
}
