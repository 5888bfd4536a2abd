//! Lists come in pages: some items and, while there are more, where the next page begins.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Account, Alert, AlertRule, Artifact, AuditRecord, Authority, Command, ConfigurationDocument, DeadLetter, Denial,
    Device, Enrolment, Event, Group, GroupMember, Job, JobDevice, ListedCertificate, Operation, OperationRow, Release,
    RoleBinding, Rollout, RolloutDevice, SavedFilter, Secret, ServiceAccount, Silence, Subscription, Token, User,
    WhyNot,
};

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// Send this as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next` of the page before; without it, the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most items of the page: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

impl PageQuery {
    /// Items of a page when the caller does not say.
    pub const DEFAULT_LIMIT: u32 = 100;
    /// Most items of a page.
    pub const MAX_LIMIT: u32 = 500;
}

/// The form of each page for `openapi.json`, where types have names and no parameters.
pub mod forms {
    use super::*;

    macro_rules! forms {
        ($($name:ident of $item:ident),+ $(,)?) => {
            $(
                #[doc = concat!("One page of a list, as `Page<", stringify!($item), ">`.")]
                #[derive(Debug, Serialize, ToSchema)]
                pub struct $name {
                    /// The items, in the order of the list.
                    pub items: Vec<$item>,
                    /// Send this as `cursor` for the next page; absent on the last one.
                    #[serde(default, skip_serializing_if = "Option::is_none")]
                    pub next: Option<String>,
                }
            )+
        };
    }

    forms! {
        AccountPage of Account,
        AlertPage of Alert,
        AlertRulePage of AlertRule,
        ArtifactPage of Artifact,
        AuditPage of AuditRecord,
        AuthorityPage of Authority,
        CommandPage of Command,
        ConfigurationDocumentPage of ConfigurationDocument,
        DeadLetterPage of DeadLetter,
        DenialPage of Denial,
        DevicePage of Device,
        EnrolmentPage of Enrolment,
        EventPage of Event,
        GroupPage of Group,
        GroupMemberPage of GroupMember,
        JobPage of Job,
        JobDevicePage of JobDevice,
        ListedCertificatePage of ListedCertificate,
        OperationPage of Operation,
        OperationRowPage of OperationRow,
        ReleasePage of Release,
        RoleBindingPage of RoleBinding,
        RolloutPage of Rollout,
        RolloutDevicePage of RolloutDevice,
        SavedFilterPage of SavedFilter,
        SecretPage of Secret,
        ServiceAccountPage of ServiceAccount,
        SilencePage of Silence,
        SubscriptionPage of Subscription,
        TokenPage of Token,
        UserPage of User,
        WhyNotPage of WhyNot,
    }
}
