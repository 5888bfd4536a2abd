//! What a bootstrap server may do between its yes and its finish (LwM2M 1.1 section 6.1): staged, checked as a whole, taken or left.
//! Never changes the accounts in use.

use std::collections::BTreeMap;

use super::tree::Tree;
use crate::{
    coap::{Code, ContentFormat, Message},
    formats::{self, Entry, Link, Value},
    object::{Accounts, Path, accounts::AccountsError, ids},
};

/// More values than any two dozen servers need.
const MOST_VALUES: usize = 512;

/// The values of objects 0 and 1 as they will be, if the server finishes.
#[derive(Debug)]
pub(super) struct Staging {
    values: BTreeMap<Path, Value>,
}

/// What a request of the bootstrap server comes to.
pub(super) enum Outcome {
    /// Only a response.
    Answer(Message),
    /// The server has finished and the accounts hold together.
    Finished(Accounts),
}

type Refusal = (Code, String);

impl Staging {
    /// Starts from the accounts in use, which the server may delete.
    pub(super) fn new(accounts: Option<&Accounts>) -> Self {
        let entries = accounts.map(Accounts::entries).unwrap_or_default();
        Self { values: entries.into_iter().map(|entry| (entry.path, entry.value)).collect() }
    }

    /// Takes one request.
    pub(super) fn on(&mut self, request: &Message, tree: &Tree<'_>) -> Outcome {
        if request.code == Code::POST && request.uri_path() == "/bs" {
            return match self.accounts() {
                Ok(accounts) => Outcome::Finished(accounts),
                Err(fault) => Outcome::Answer(Message::refusal(fault.code(), &fault.to_string())),
            };
        }
        let path = Path::from_segments(request.segments());
        let answer = path.map_err(|error| (Code::NOT_FOUND, error.to_string())).and_then(|path| match request.code {
            Code::PUT => self.write(&path, request),
            Code::DELETE => self.delete(&path),
            Code::GET if request.accepted() == Some(ContentFormat::LINK) => self.discover(&path, tree),
            Code::GET => self.read(&path, request),
            _ => Err((Code::METHOD_NOT_ALLOWED, String::new())),
        });
        Outcome::Answer(answer.unwrap_or_else(|(code, why)| Message::refusal(code, &why)))
    }

    fn entries(&self) -> Vec<Entry> {
        self.values.iter().map(|(path, value)| Entry::new(*path, value.clone())).collect()
    }

    fn accounts(&self) -> Result<Accounts, AccountsError> {
        Accounts::from_entries(&self.entries())
    }

    fn write(&mut self, path: &Path, request: &Message) -> Result<Message, Refusal> {
        if !matches!(
            path.ids(),
            [ids::SECURITY | ids::SERVER] | [ids::SECURITY | ids::SERVER, _] | [ids::SECURITY | ids::SERVER, _, _]
        ) {
            return Err((Code::METHOD_NOT_ALLOWED, "only objects 0 and 1 can be written".to_owned()));
        }
        let format =
            request.content_format().ok_or((Code::UNSUPPORTED_CONTENT_FORMAT, "a format is missing".to_owned()))?;
        let entries =
            formats::decode(format, path, &request.payload).map_err(|error| (error.code(), error.to_string()))?;
        let known = |entry: &Entry| crate::object::resource_type(&entry.path).is_some();
        let entries: Vec<_> = entries.into_iter().filter(known).collect();
        if self.values.len() + entries.len() > MOST_VALUES {
            return Err((Code::REQUEST_ENTITY_TOO_LARGE, String::new()));
        }
        if path.ids().len() < 3 {
            // Writing an instance replaces it as a whole.
            let instances: Vec<_> = entries.iter().map(|entry| entry.path.upper(2)).collect();
            self.values.retain(|own, _| !instances.contains(&own.upper(2)));
        }
        self.values.extend(entries.into_iter().map(|entry| (entry.path, entry.value)));
        Ok(Message::new(Code::CHANGED))
    }

    /// Deletes what lies at or below `path`, except the bootstrap server's own account.
    fn delete(&mut self, path: &Path) -> Result<Message, Refusal> {
        if !matches!(path.ids(), [] | [ids::SECURITY | ids::SERVER] | [ids::SECURITY | ids::SERVER, _]) {
            return Err((Code::METHOD_NOT_ALLOWED, "only objects 0 and 1 can be deleted".to_owned()));
        }
        let kept: Vec<_> = self
            .values
            .iter()
            .filter(|(own, value)| matches!(own.ids(), [ids::SECURITY, _, 1]) && **value == Value::Boolean(true))
            .map(|(own, _)| own.upper(2))
            .collect();
        self.values.retain(|own, _| kept.contains(&own.upper(2)) || !path.contains(own));
        Ok(Message::new(Code::DELETED))
    }

    /// Bootstrap-Read is for object 1 alone (section 6.1; object 2, the other one that may be read, is not supported).
    fn read(&self, path: &Path, request: &Message) -> Result<Message, Refusal> {
        if path.ids().first() != Some(&ids::SERVER) || path.ids().len() > 2 {
            return Err((Code::METHOD_NOT_ALLOWED, String::new()));
        }
        let entries: Vec<_> = self.entries().into_iter().filter(|entry| path.contains(&entry.path)).collect();
        if entries.is_empty() {
            return Err((Code::NOT_FOUND, String::new()));
        }
        let format = request.accepted().unwrap_or(formats::DEFAULT_FORMAT);
        let payload =
            formats::encode(format, path, &entries).map_err(|error| (Code::NOT_ACCEPTABLE, error.to_string()))?;
        Ok(Message::new(Code::CONTENT).content(format, payload))
    }

    /// Bootstrap-Discover: which instances there are, and to which server they belong.
    fn discover(&self, path: &Path, tree: &Tree<'_>) -> Result<Message, Refusal> {
        if path.ids().len() > 1 {
            return Err((Code::METHOD_NOT_ALLOWED, String::new()));
        }
        let mut links = vec![Link::to(&Path::ROOT).with("lwm2m", "1.1")];
        let mut seen = None;
        for own in self.values.keys().map(|own| own.upper(2)).filter(|own| path.contains(own)) {
            if seen.replace(own) != Some(own) {
                links.push(self.account_link(&own));
            }
        }
        for object in tree.object_ids().into_iter().filter(|id| *id > ids::SERVER) {
            if path.contains(&Path::object(object)) {
                links.extend(
                    tree.instances(object).into_iter().map(|instance| Link::to(&Path::instance(object, instance))),
                );
            }
        }
        Ok(Message::new(Code::CONTENT).content(ContentFormat::LINK, formats::link::write(&links)))
    }

    fn account_link(&self, instance: &Path) -> Link {
        let value = |resource| self.values.get(&instance.child(resource)?);
        let is_security = instance.ids().first() == Some(&ids::SECURITY);
        let mut link = Link::to(instance);
        if let Some(short) = value(if is_security { 10 } else { 0 }).and_then(Value::as_i64) {
            link = link.with("ssid", short.to_string());
        }
        if let Some(uri) = value(0).and_then(Value::as_str).filter(|_| is_security) {
            link = link.with("uri", uri);
        }
        link
    }
}
