//! Who may do what: roles, their bindings, policies, and why something is allowed or not.

use protocol_types::{AccountName, EndpointName, GroupName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, Page, PageQuery};

/// A role; what it allows is said by policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// As in `operator`.
    pub name: String,
    /// For whom it is.
    pub title: String,
}

/// All roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Roles {
    /// From the least to the most.
    pub items: Vec<Role>,
}

/// A role that a principal has, in an account and all below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleBinding {
    /// Its id in the account.
    pub id: String,
    /// The account.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// Who, as in `service/ci` or `user/anna`.
    pub principal: String,
    /// The account that the principal belongs to.
    #[schema(value_type = String)]
    pub home: AccountName,
    /// The role.
    pub role: String,
    /// The devices that the role is for; absent if it is for the whole account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
}

/// Gives a principal a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRoleBinding {
    /// Who, as in `service/ci` or `user/anna`.
    pub principal: String,
    /// The account that the principal belongs to: this one, without it, or one above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub home: Option<AccountName>,
    /// The role.
    pub role: String,
    /// The devices that the role is for, in the filter language; without it, for the whole account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
}

/// A Cedar policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// What decisions call it: `NAME` for one of the service, `ACCOUNT/NAME` for one of an account.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// Its text.
    pub policy: String,
    /// Whether it comes with the service.
    pub builtin: bool,
}

/// The policies that hold in an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policies {
    /// Those of the service, of the account and of those above it, by id.
    pub items: Vec<Policy>,
}

/// A policy that the account has added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountPolicy {
    /// Its name, by the rule of groups' names.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// Its text.
    pub policy: String,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// Counts every change; also the `ETag`.
    pub revision: i64,
}

/// Keeps a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SavePolicy {
    /// One Cedar policy, at most 8192 bytes; `/access-schema` says what it may speak of.
    #[schema(max_length = 8192)]
    pub policy: String,
}

/// Asks whether a principal may do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessQuery {
    /// Who, as in `service/ci`, `user/anna` or `token/ID`.
    pub principal: String,
    /// The account that the principal belongs to, if it is one above this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub home: Option<AccountName>,
    /// What: the `operationId` in openapi.json, as in `reset_device`.
    pub action: String,
    /// On which device, if the action is one on a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub device: Option<EndpointName>,
}

/// Whether a principal may do something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessAnswer {
    /// Whether it may.
    pub allowed: bool,
    /// Why, in a sentence.
    pub because: String,
    /// The policies that decided; none if no policy permits it.
    pub policies: Vec<Policy>,
    /// The roles that the principal has here.
    pub roles: Vec<HeldRole>,
    /// The only devices that an answer to it holds, as a filter; absent if all of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
}

/// A role that a principal has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldRole {
    /// What gives it.
    pub binding: RoleBinding,
    /// Whether it counts for what was asked.
    pub applies: bool,
}

impl Client {
    /// All roles.
    pub async fn roles(&self) -> Result<Roles, ClientError> {
        self.get("/roles", &()).await
    }

    /// The role bindings that were made in the account.
    pub async fn role_bindings(&self, page: &PageQuery) -> Result<Page<RoleBinding>, ClientError> {
        self.get("/role-bindings", page).await
    }

    /// Gives a principal a role.
    pub async fn bind_role(&self, binding: &CreateRoleBinding) -> Result<RoleBinding, ClientError> {
        self.post("/role-bindings", binding).await
    }

    /// Takes a role away.
    pub async fn unbind_role(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/role-bindings/{id}")).await
    }

    /// The policies that hold in the account.
    pub async fn policies(&self) -> Result<Policies, ClientError> {
        self.get("/policies", &()).await
    }

    /// A policy that the account has added.
    pub async fn policy(&self, name: &GroupName) -> Result<AccountPolicy, ClientError> {
        self.get(&format!("/policies/{name}"), &()).await
    }

    /// Keeps a policy, in place of the one of that name.
    pub async fn save_policy(&self, name: &GroupName, policy: &SavePolicy) -> Result<AccountPolicy, ClientError> {
        self.put(&format!("/policies/{name}"), policy, None).await
    }

    /// Forgets a policy that the account has added.
    pub async fn delete_policy(&self, name: &GroupName) -> Result<(), ClientError> {
        self.delete(&format!("/policies/{name}")).await
    }

    /// What policies may speak of, in Cedar's schema language.
    pub async fn access_schema(&self) -> Result<String, ClientError> {
        let path = "/access-schema";
        let answer = self.send(path, self.request(reqwest::Method::GET, path)).await?;
        answer.text().await.map_err(|e| self.unreachable(e))
    }

    /// Whether a principal may do something, and why.
    pub async fn check_access(&self, query: &AccessQuery) -> Result<AccessAnswer, ClientError> {
        self.get("/access-check", query).await
    }
}
