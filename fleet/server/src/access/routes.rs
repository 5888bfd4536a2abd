//! The action of each route, drawn from the description of the API: its name is the operation's, its group the scope that the
//! operation names. A route that names no scope is open to everybody.

use std::collections::{BTreeMap, HashMap};

use axum::http::Method;
use fleet_api::TokenScope;
use utoipa::openapi::{OpenApi, path::Operation};

/// Actions on the account whose answer holds only devices that the caller may see: a role that is bound to some devices allows them
/// for these devices. The store narrows what they read.
const NARROWED: &[&str] = &["list_devices", "count_devices", "export_devices", "summarise_metric"];
/// What one does to policies. An account cannot forbid it to those above.
const ON_POLICIES: &[&str] = &["list_policies", "show_policy", "save_policy", "delete_policy"];
/// The part of a path that names a device.
const DEVICE: &str = "/devices/{endpoint}";

/// What a route does, as policies name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// As in `suspend_device`.
    pub(crate) name: String,
    /// The group that it belongs to, and the scope that a token needs for it.
    pub(crate) scope: TokenScope,
    /// What it is about, as in `devices`.
    pub(crate) tag: String,
    /// Whether its resource is one device; otherwise it is the account.
    pub(crate) on_device: bool,
    /// Whether it may be allowed for some devices only.
    pub(crate) narrowed: bool,
}

impl Action {
    /// The narrower of its two groups, as in `operate:devices`.
    pub(crate) fn group(&self) -> String {
        format!("{}:{}", self.scope, self.tag)
    }

    /// Whether it reads or changes policies themselves.
    pub(crate) fn is_on_policies(&self) -> bool {
        ON_POLICIES.contains(&self.name.as_str())
    }
}

/// All routes that ask for a token.
#[derive(Debug)]
pub(crate) struct Routes {
    by_path: HashMap<(Method, String), Action>,
    by_name: BTreeMap<String, (Method, String)>,
}

impl Routes {
    pub(crate) fn of(description: &OpenApi) -> Self {
        let mut routes = Self { by_path: HashMap::new(), by_name: BTreeMap::new() };
        for (path, item) in &description.paths.paths {
            for (method, operation) in [
                (Method::GET, &item.get),
                (Method::HEAD, &item.head),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ] {
                let Some(action) = operation.as_ref().and_then(|operation| action(path, operation)) else { continue };
                routes.by_name.insert(action.name.clone(), (method.clone(), path.clone()));
                routes.by_path.insert((method, path.clone()), action);
            }
        }
        routes
    }

    /// What a request to this path does. HEAD does what GET does where it has no operation of its own.
    pub(crate) fn action(&self, method: &Method, path: &str) -> Option<&Action> {
        let of = |method: &Method| self.by_path.get(&(method.clone(), path.to_owned()));
        of(method).or_else(|| if *method == Method::HEAD { of(&Method::GET) } else { None })
    }

    /// The action of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Action> {
        self.by_name.get(name).and_then(|place| self.by_path.get(place))
    }

    /// All actions, by name.
    pub(crate) fn actions(&self) -> impl Iterator<Item = &Action> {
        self.by_name.values().filter_map(|place| self.by_path.get(place))
    }
}

fn action(path: &str, operation: &Operation) -> Option<Action> {
    let named = serde_json::to_value(operation.security.as_ref()?).ok()?;
    let scope = named[0]["token"][0].as_str()?.parse().ok()?;
    let name = operation.operation_id.clone()?;
    Some(Action {
        scope,
        tag: operation.tags.as_ref().and_then(|tags| tags.first()).cloned().unwrap_or_default(),
        on_device: path.strip_prefix(fleet_api::BASE_PATH).is_some_and(|path| path.starts_with(DEVICE)),
        narrowed: NARROWED.contains(&name.as_str()),
        name,
    })
}
