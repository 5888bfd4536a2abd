//! The decision: facts and policies in, yes or no and why out.

use std::collections::BTreeSet;

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use fleet_store::{PrincipalKind, PrincipalName};
use protocol_types::{AccountName, EndpointName, UnixSeconds};

use super::{Action, PolicyBook};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A token of the account itself.
    Token { home: AccountName, id: String },
    /// A user or a service account.
    Principal { home: AccountName, who: PrincipalName },
}

impl Subject {
    /// The account that it belongs to.
    pub(crate) const fn home(&self) -> &AccountName {
        match self {
            Self::Token { home, .. } | Self::Principal { home, .. } => home,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token { id, .. } => write!(f, "token/{id}"),
            Self::Principal { who, .. } => who.fmt(f),
        }
    }
}

/// What policies may know of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceFacts {
    pub(crate) standing: String,
    pub(crate) connected: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) groups: Vec<String>,
}

/// What the action is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// The account, the one above it, and so on.
    pub(crate) path: Vec<AccountName>,
    /// The device, if the action is about one.
    pub(crate) device: Option<(EndpointName, DeviceFacts)>,
}

/// Everything that a decision depends on beside the policies.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) subject: &'a Subject,
    /// Roles that the subject has for this resource.
    pub(crate) roles: BTreeSet<String>,
    /// Scopes of the token that was shown.
    pub(crate) scopes: &'a [String],
    pub(crate) second_factor: bool,
    pub(crate) address: &'a str,
    pub(crate) now: UnixSeconds,
    pub(crate) action: &'a Action,
    pub(crate) resource: &'a Resource,
}

/// Yes or no, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// The policies that decided: those that permit, or those that forbid; none if nothing permits.
    pub(crate) deciding: Vec<String>,
    /// Policies that could not be evaluated. One is enough to refuse.
    pub(crate) failed: Vec<String>,
}

impl Decision {
    /// Why, in a sentence.
    pub(crate) fn because(&self) -> String {
        let word = if self.allowed { "permits" } else { "forbids" };
        match self.deciding.as_slice() {
            _ if !self.failed.is_empty() => "a policy could not be evaluated".to_owned(),
            [] => "no policy permits it".to_owned(),
            [one] => format!("the policy `{one}` {word} it"),
            [one, more @ ..] => format!("the policy `{one}` and {} more {} it", more.len(), word.trim_end_matches('s')),
        }
    }

    /// A refusal because the facts make no question of Cedar's.
    fn unaskable(why: &dyn std::fmt::Display) -> Self {
        Self { allowed: false, deciding: Vec::new(), failed: vec![why.to_string()] }
    }
}

/// Decides by these policies.
pub(crate) fn decide(book: &PolicyBook, question: &Question<'_>) -> Decision {
    let (request, entities) = match asked(question) {
        Ok(asked) => asked,
        Err(why) => return Decision::unaskable(&why),
    };
    let response = Authorizer::new().is_authorized(&request, &book.set, &entities);
    let failed: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    let mut deciding: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    deciding.sort_unstable();
    let allowed = failed.is_empty() && response.decision() == cedar_policy::Decision::Allow;
    Decision { allowed, deciding, failed }
}

/// The facts do not have the form of Cedar; never seen, as names are checked long before.
#[derive(Debug, thiserror::Error)]
#[error("the facts of the request do not fit together")]
pub(super) struct Unaskable;

fn uid(kind: &str, id: &str) -> Result<EntityUid, Unaskable> {
    let kind: EntityTypeName = kind.parse().map_err(|_| Unaskable)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn texts<'a>(values: impl IntoIterator<Item = &'a String>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(|value| text(value)))
}

pub(super) fn asked(question: &Question<'_>) -> Result<(Request, Entities), Unaskable> {
    let mut all = Vec::new();
    let principal = subject(question, &mut all)?;
    let action = action(question.action, &mut all)?;
    let resource = resource(question.resource, &mut all)?;
    let context = Context::from_pairs([
        ("scopes".to_owned(), texts(question.scopes)),
        ("address".to_owned(), text(question.address)),
        ("second_factor".to_owned(), RestrictedExpression::new_bool(question.second_factor)),
        ("time".to_owned(), RestrictedExpression::new_long(i64::try_from(question.now.0).unwrap_or(i64::MAX))),
    ])
    .map_err(|_| Unaskable)?;
    let request = Request::new(principal, action, resource, context, None).map_err(|_| Unaskable)?;
    Ok((request, Entities::from_entities(all, None).map_err(|_| Unaskable)?))
}

fn subject(question: &Question<'_>, all: &mut Vec<Entity>) -> Result<EntityUid, Unaskable> {
    let (uid, attributes, roles) = match question.subject {
        Subject::Token { home, id } => {
            let attributes =
                [("account".to_owned(), text(home.as_str())), ("scopes".to_owned(), texts(question.scopes))];
            (uid("Token", id)?, attributes, Default::default())
        }
        Subject::Principal { home, who } => {
            let kind = match who.kind() {
                PrincipalKind::User => "User",
                PrincipalKind::Service => "Service",
            };
            let attributes = [("account".to_owned(), text(home.as_str())), ("name".to_owned(), text(who.name()))];
            let roles = question.roles.iter().map(|role| self::uid("Role", role)).collect::<Result<_, _>>()?;
            (self::uid(kind, &format!("{home}/{}", who.name()))?, attributes, roles)
        }
    };
    all.push(Entity::new(uid.clone(), attributes.into_iter().collect(), roles).map_err(|_| Unaskable)?);
    Ok(uid)
}

fn action(action: &Action, all: &mut Vec<Entity>) -> Result<EntityUid, Unaskable> {
    let of = |name: &str| uid("Action", name);
    let (own, group, scope) = (of(&action.name)?, of(&action.group())?, of(action.scope.as_str())?);
    all.push(Entity::new_no_attrs(group.clone(), [scope].into_iter().collect()));
    all.push(Entity::new_no_attrs(own.clone(), [group].into_iter().collect()));
    Ok(own)
}

fn resource(resource: &Resource, all: &mut Vec<Entity>) -> Result<EntityUid, Unaskable> {
    let accounts: Vec<EntityUid> =
        resource.path.iter().map(|name| uid("Account", name.as_str())).collect::<Result<_, _>>()?;
    for (index, account) in accounts.iter().enumerate() {
        let above = accounts.get(index.saturating_add(1)).cloned();
        all.push(Entity::new_no_attrs(account.clone(), above.into_iter().collect()));
    }
    let account = accounts.first().cloned().ok_or(Unaskable)?;
    let (Some((endpoint, facts)), Some(name)) = (&resource.device, resource.path.first()) else { return Ok(account) };
    let device = uid("Device", &format!("{name}/{endpoint}"))?;
    let attributes = [
        ("name".to_owned(), text(endpoint.as_str())),
        ("standing".to_owned(), text(&facts.standing)),
        ("connected".to_owned(), RestrictedExpression::new_bool(facts.connected)),
        ("tags".to_owned(), texts(&facts.tags)),
    ];
    let groups: Vec<EntityUid> = facts.groups.iter().map(|group| uid("Group", group)).collect::<Result<_, _>>()?;
    let tags = facts.attributes.iter().map(|(key, value)| (key.clone(), text(value)));
    let parents = [account].into_iter().chain(groups);
    all.push(Entity::new_with_tags(device.clone(), attributes, parents, tags).map_err(|_| Unaskable)?);
    Ok(device)
}
