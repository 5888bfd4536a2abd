//! Reads policies and checks them against the schema. A fault says at which characters.

use std::collections::BTreeSet;

use cedar_policy::{Effect, EntityTypeName, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use fleet_store::PolicyRow;
use miette::Diagnostic;

use super::AccessError;

const BUILTIN: &str = include_str!("builtin.cedar");
/// Longest text of a policy, in bytes.
const MAX_BYTES: usize = 8192;

/// What is wrong with the text of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What, in a sentence.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// How many characters stand before those that are to blame, and how many these are.
    pub(crate) place: Option<(usize, usize)>,
}

/// Policies that decide together.
#[derive(Clone, Debug)]
pub(crate) struct PolicyBook {
    pub(super) set: PolicySet,
    /// Whether an account has added to the policies of the service.
    pub(super) is_extended: bool,
}

/// A policy as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyText {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) permits: bool,
}

impl PolicyBook {
    /// The policies of the service.
    pub(super) fn builtin() -> Result<Self, AccessError> {
        let fault = |e: &dyn std::fmt::Display| AccessError::Builtin(e.to_string());
        let parsed: PolicySet = BUILTIN.parse().map_err(|e: cedar_policy::ParseErrors| fault(&e))?;
        let mut set = PolicySet::new();
        for policy in parsed.policies() {
            let id = policy.annotation("id").ok_or_else(|| fault(&"a policy has no id"))?;
            set.add(policy.new_id(PolicyId::new(id))).map_err(|e| fault(&e))?;
        }
        Ok(Self { set, is_extended: false })
    }

    /// These policies and those of accounts. One that cannot be read, which is never saved, is named.
    pub(crate) fn with(&self, rows: &[PolicyRow]) -> Result<Self, String> {
        let mut book = self.clone();
        for row in rows {
            let id = id_of(row);
            let policy = Policy::parse(Some(PolicyId::new(&id)), &row.policy).map_err(|_| id.clone())?;
            book.set.add(policy).map_err(|_| id)?;
            book.is_extended = true;
        }
        Ok(book)
    }

    /// The policies in the order of their names.
    pub(crate) fn texts(&self) -> Vec<PolicyText> {
        let mut texts: Vec<PolicyText> = self
            .set
            .policies()
            .map(|policy| PolicyText {
                id: policy.id().to_string(),
                text: policy.to_string(),
                permits: policy.effect() == Effect::Permit,
            })
            .collect();
        texts.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        texts
    }

    /// The groups of devices that policies name.
    pub(super) fn groups(&self) -> BTreeSet<String> {
        let Ok(group) = "Group".parse::<EntityTypeName>() else { return BTreeSet::new() };
        self.set
            .policies()
            .flat_map(Policy::entity_literals)
            .filter(|entity| *entity.type_name() == group)
            .map(|entity| AsRef::<str>::as_ref(entity.id()).to_owned())
            .collect()
    }
}

/// What decisions call a policy of an account.
pub(crate) fn id_of(row: &PolicyRow) -> String {
    format!("{}/{}", row.account, row.name)
}

/// Checks one policy against what policies may speak of.
pub(crate) fn check(text: &str, schema: &Schema) -> Result<(), Fault> {
    if text.len() > MAX_BYTES {
        let message = format!("a policy has at most {MAX_BYTES} bytes");
        return Err(Fault { message, hint: None, place: None });
    }
    let policy = Policy::parse(Some(PolicyId::new("policy")), text).map_err(|errors| fault(text, &errors))?;
    let mut set = PolicySet::new();
    set.add(policy).map_err(|error| Fault { message: error.to_string(), hint: None, place: None })?;
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    match result.validation_errors().next() {
        Some(error) => Err(fault(text, error)),
        None => Ok(()),
    }
}

fn fault(text: &str, error: &dyn Diagnostic) -> Fault {
    let characters = |bytes: usize| text.char_indices().take_while(|(at, _)| *at < bytes).count();
    let place = error.labels().and_then(|mut labels| labels.next()).map(|label| {
        let before = characters(label.offset());
        (before, characters(label.offset().saturating_add(label.len())).saturating_sub(before).max(1))
    });
    Fault { message: error.to_string(), hint: error.help().map(|help| help.to_string()), place }
}
