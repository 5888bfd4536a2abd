//! Brings together what a decision depends on: the roles of the caller for the resource, what policies may know of a device, and
//! the policies of the accounts above.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use fleet_store::{AttributeValue, BindingRow, Filter, PolicyRow, Store, StoreError};
use protocol_types::{AccountName, Digest, EndpointName, GroupName, Hasher, UnixSeconds};

use super::{Access, Action, Decision, DeviceFacts, PolicyBook, Question, Resource, Subject, decide};

/// Most sets of policies that are kept ready.
const BOOKS: usize = 64;

/// Sets of policies by the digest of their texts.
#[derive(Debug, Default)]
pub(super) struct Books(Mutex<HashMap<Digest, Arc<PolicyBook>>>);

/// Somebody who showed who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) subject: Subject,
    /// Scopes of the token.
    pub(crate) scopes: Vec<String>,
    /// Whether a person showed a second factor.
    pub(crate) second_factor: bool,
    /// The other end of the connection.
    pub(crate) address: String,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) caller: &'a Caller,
    /// The account that is asked about, the one above it, and so on.
    pub(crate) path: &'a [AccountName],
    pub(crate) action: &'a Action,
    /// The device, for an action on one.
    pub(crate) endpoint: Option<EndpointName>,
    pub(crate) now: UnixSeconds,
}

impl Asked<'_> {
    /// The accounts whose policies decide. About what is done to policies only those from the caller's own account upwards have a say:
    /// otherwise an account could forbid those above to take its policies back.
    pub(crate) fn deciding(&self) -> &[AccountName] {
        let own = self.path.iter().position(|account| account == self.caller.subject.home());
        match own {
            Some(own) if self.action.is_on_policies() => &self.path[own..],
            Some(_) | None => self.path,
        }
    }
}

/// A role of the caller, and whether it counted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) binding: BindingRow,
    /// Whether it is for the resource that was asked about.
    pub(crate) applies: bool,
}

/// The decision with what led to it.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    pub(crate) held: Vec<Held>,
    /// The only devices that the answer may hold.
    pub(crate) narrowed: Option<Filter>,
}

impl Access {
    /// Decides whether the caller may do what is asked.
    pub(crate) async fn judge(&self, store: &Store, asked: &Asked<'_>) -> Result<Verdict, StoreError> {
        let book = self.book(store, asked.deciding()).await?;
        self.judge_by(&book, store, asked).await
    }

    /// Decides by these policies.
    pub(crate) async fn judge_by(
        &self,
        book: &PolicyBook,
        store: &Store,
        asked: &Asked<'_>,
    ) -> Result<Verdict, StoreError> {
        let mut held = held(store, asked).await?;
        let device = match &asked.endpoint {
            Some(endpoint) => Some((endpoint.clone(), device_facts(store, asked, endpoint, book).await?)),
            None => None,
        };
        let resource = Resource { path: asked.path.to_vec(), device };
        let decision = decide(book, &question(asked, &resource, roles(&held)));
        if decision.allowed {
            return Ok(Verdict { decision, held, narrowed: None });
        }
        if let Some(endpoint) = &asked.endpoint {
            if !widen(store, asked, endpoint, &mut held).await? {
                return Ok(Verdict { decision, held, narrowed: None });
            }
            let decision = decide(book, &question(asked, &resource, roles(&held)));
            return Ok(Verdict { decision, held, narrowed: None });
        }
        if asked.action.narrowed
            && let Some((decision, narrowed)) = narrow(book, asked, &resource, &mut held)
        {
            return Ok(Verdict { decision, held, narrowed: Some(narrowed) });
        }
        Ok(Verdict { decision, held, narrowed: None })
    }

    /// The policies of the service and these.
    pub(crate) fn book_with(&self, rows: &[PolicyRow]) -> Result<PolicyBook, StoreError> {
        self.builtin.with(rows).map_err(|id| {
            tracing::error!(policy = id, "a policy cannot be read, so nothing is allowed where it holds");
            StoreError::Damaged { table: "access_policies", column: "policy" }
        })
    }

    /// The policies that hold in the first of these accounts.
    pub(crate) async fn book(&self, store: &Store, path: &[AccountName]) -> Result<Arc<PolicyBook>, StoreError> {
        let rows = store.service_wide().policies_of(path).await?;
        let mut hasher = Hasher::new();
        for row in &rows {
            hasher.update(format!("{} {} {}\n", row.account, row.name, row.policy.len()).as_bytes());
            hasher.update(row.policy.as_bytes());
        }
        let digest = hasher.finish();
        if let Some(book) = self.books.0.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
            return Ok(book.clone());
        }
        let book = Arc::new(self.book_with(&rows)?);
        let mut books = self.books.0.lock().unwrap_or_else(PoisonError::into_inner);
        if books.len() >= BOOKS {
            books.clear();
        }
        books.insert(digest, book.clone());
        Ok(book)
    }
}

fn question<'a>(asked: &Asked<'a>, resource: &'a Resource, roles: BTreeSet<String>) -> Question<'a> {
    Question {
        subject: &asked.caller.subject,
        roles,
        scopes: &asked.caller.scopes,
        second_factor: asked.caller.second_factor,
        address: &asked.caller.address,
        now: asked.now,
        action: asked.action,
        resource,
    }
}

/// The roles of the caller; those that are for the whole account apply already.
async fn held(store: &Store, asked: &Asked<'_>) -> Result<Vec<Held>, StoreError> {
    let Subject::Principal { home, who } = &asked.caller.subject else { return Ok(Vec::new()) };
    let bindings = store.service_wide().bindings_on(asked.path, (home, who)).await?;
    let held = |binding: BindingRow| Held { applies: binding.binding.filter.is_none(), binding };
    Ok(bindings.into_iter().map(held).collect())
}

fn roles(held: &[Held]) -> BTreeSet<String> {
    held.iter().filter(|held| held.applies).map(|held| held.binding.binding.role.clone()).collect()
}

/// Lets the roles for some devices apply whose filter is true for this one; answers whether there are any.
async fn widen(
    store: &Store,
    asked: &Asked<'_>,
    endpoint: &EndpointName,
    held: &mut [Held],
) -> Result<bool, StoreError> {
    let Some(account) = asked.path.first().map(|account| store.account(account)) else { return Ok(false) };
    let mut any = false;
    for held in held.iter_mut().filter(|held| !held.applies) {
        let Some(filter) = held.binding.binding.filter.clone() else { continue };
        let this_one = Filter::of_device(endpoint).and(filter);
        held.applies = account.count_devices(&this_one, asked.now).await? > 0;
        any |= held.applies;
    }
    Ok(any)
}

/// The decision for the devices of those roles that allow the action.
fn narrow(book: &PolicyBook, asked: &Asked<'_>, resource: &Resource, held: &mut [Held]) -> Option<(Decision, Filter)> {
    let mut found: Option<(Decision, Filter)> = None;
    for held in held.iter_mut().filter(|held| !held.applies) {
        let filter = held.binding.binding.filter.clone()?;
        let role = [held.binding.binding.role.clone()].into_iter().collect();
        let decision = decide(book, &question(asked, resource, role));
        if !decision.allowed {
            continue;
        }
        held.applies = true;
        found = Some(match found {
            None => (decision, filter),
            Some((mut all, wide)) => {
                all.deciding.extend(decision.deciding);
                all.deciding.sort_unstable();
                all.deciding.dedup();
                (all, wide.or(filter))
            }
        });
    }
    found
}

/// What policies may know of a device. Those of the service ask nothing, so nothing is read for them.
async fn device_facts(
    store: &Store,
    asked: &Asked<'_>,
    endpoint: &EndpointName,
    book: &PolicyBook,
) -> Result<DeviceFacts, StoreError> {
    let Some(account) = asked.path.first().filter(|_| book.is_extended).map(|account| store.account(account)) else {
        return Ok(DeviceFacts::default());
    };
    let row = match account.device(endpoint).await {
        Ok(row) => row,
        Err(StoreError::NotFound { .. }) => return Ok(DeviceFacts::default()),
        Err(error) => return Err(error),
    };
    let mut labels = account.labels(std::slice::from_ref(endpoint)).await?;
    let labels = labels.remove(endpoint).unwrap_or_default();
    let mut groups = Vec::new();
    for group in book.groups() {
        // A group whose name breaks the rules has no members.
        let Ok(name) = GroupName::new(group.as_str()) else { continue };
        let in_group = Filter::of_device(endpoint).and(Filter::of_group(&name));
        if account.count_devices(&in_group, asked.now).await? > 0 {
            groups.push(group);
        }
    }
    let attribute = |(key, value)| match value {
        AttributeValue::Text(text) => (key, text),
        AttributeValue::Number(number) => (key, number.to_string()),
    };
    Ok(DeviceFacts {
        standing: row.standing.as_str().to_owned(),
        connected: row.connected,
        tags: labels.tags,
        attributes: labels.attributes.into_iter().map(attribute).collect(),
        groups,
    })
}
