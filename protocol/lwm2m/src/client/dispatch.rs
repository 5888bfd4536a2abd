//! What a management server asks of the objects (LwM2M 1.1 section 6.3), each operation by its method. Never touches the connection.

use std::collections::BTreeMap;

use super::{
    ObjectError, Objects, WriteMode,
    observers::Observers,
    tree::{Tree, defined, refusal},
};
use crate::{
    coap::{Code, ContentFormat, Message, OptionNumber, observe::Interest},
    formats::{self, Entry, FormatError, Link, link},
    object::{Accounts, Attributes, Operations, Path, Type, ids},
    time::Millis,
};

const MOST_ATTRIBUTES: usize = 128;

/// What the client does after the response has gone out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// Update the registration.
    Update,
    /// Deregister and stay away as long as the server's Disable Timeout says.
    Disable,
    /// Bootstrap again.
    Bootstrap,
    /// The accounts changed: tell the caller, update the registration.
    AccountsChanged,
}

/// Everything that an operation may look at or change.
pub(super) struct Dispatch<'a> {
    pub(super) now: Millis,
    pub(super) accounts: &'a mut Accounts,
    pub(super) objects: &'a mut dyn Objects,
    pub(super) observers: &'a mut Observers,
    pub(super) attributes: &'a mut BTreeMap<Path, Attributes>,
}

type Outcome = Result<(Message, Option<Afterwards>), Message>;

impl Dispatch<'_> {
    /// The response to a request, and what follows it.
    pub(super) fn on(&mut self, request: &Message) -> (Message, Option<Afterwards>) {
        let outcome = match Path::from_segments(request.segments()) {
            Err(_) => Err(Message::new(Code::NOT_FOUND)),
            // Every operation on object 0 is refused (section 6.3).
            Ok(path) if path.ids().first() == Some(&ids::SECURITY) => Err(Message::new(Code::UNAUTHORIZED)),
            Ok(path) => self.operation(&path, request),
        };
        outcome.unwrap_or_else(|refusal| (refusal, None))
    }

    fn operation(&mut self, path: &Path, request: &Message) -> Outcome {
        let depth = path.ids().len();
        match request.code {
            Code::GET if request.accepted() == Some(ContentFormat::LINK) => self.discover(path),
            Code::GET => self.read(path, request),
            Code::PUT if request.content_format().is_none() && request.queries().next().is_some() => {
                self.write_attributes(path, request)
            }
            Code::PUT => self.write(path, WriteMode::Replace, request),
            Code::POST if depth == 3 && is_executable(path) => self.execute(path, request),
            Code::POST if depth >= 2 => self.write(path, WriteMode::Partial, request),
            // Create, Delete, and the composite methods: no object of this client offers them.
            _ => Err(Message::new(Code::METHOD_NOT_ALLOWED)),
        }
    }

    fn tree(&self) -> Tree<'_> {
        Tree { accounts: self.accounts, objects: self.objects }
    }

    fn read(&mut self, path: &Path, request: &Message) -> Outcome {
        if Interest::of(request) == Some(Interest::End) {
            // First, so that it ends although the value may not be there any more.
            self.observers.end(request.token);
        }
        let format = request.accepted().unwrap_or(formats::DEFAULT_FORMAT);
        let entries = self.tree().read(path).map_err(|error| refusal(&error))?;
        let mut response = content(format, path, &entries)?;
        match Interest::of(request) {
            Some(Interest::Begin) => {
                let granted = self.observers.begin(self.now, request.clone(), (*path, format), &entries);
                // Without the option in the response the server knows that it has to ask again.
                if granted {
                    response.options.set_uint(OptionNumber::OBSERVE, 0);
                }
            }
            Some(Interest::End) | None => {}
        }
        Ok((response, None))
    }

    fn discover(&self, path: &Path) -> Outcome {
        let links = self.tree().discover(path).map_err(|error| refusal(&error))?;
        let with_attributes = |link: Link| {
            let own = link.path("/").and_then(|path| self.attributes.get(&path)).copied().unwrap_or_default();
            own.pairs().into_iter().fold(link, |link, (name, value)| link.with(name, value))
        };
        let links: Vec<_> = links.into_iter().map(with_attributes).collect();
        Ok((Message::new(Code::CONTENT).content(ContentFormat::LINK, link::write(&links)), None))
    }

    fn write_attributes(&mut self, path: &Path, request: &Message) -> Outcome {
        self.tree().check(path).map_err(|error| refusal(&error))?;
        if path.ids().is_empty() {
            return Err(Message::new(Code::METHOD_NOT_ALLOWED));
        }
        let own = self.attributes.get(path).copied().unwrap_or_default();
        let changed = own.updated(request).map_err(|error| Message::refusal(error.code(), &error.to_string()))?;
        let on_value = changed.gt.is_some() || changed.lt.is_some() || changed.st.is_some();
        if on_value && !is_numeric(path) {
            return Err(Message::refusal(Code::BAD_REQUEST, "gt, lt and st need a numeric resource"));
        }
        if !self.attributes.contains_key(path) && self.attributes.len() >= MOST_ATTRIBUTES {
            return Err(Message::new(Code::SERVICE_UNAVAILABLE));
        }
        self.attributes.insert(*path, changed);
        Ok((Message::new(Code::CHANGED), None))
    }

    fn write(&mut self, path: &Path, mode: WriteMode, request: &Message) -> Outcome {
        if path.ids().len() < 2 {
            return Err(Message::new(Code::METHOD_NOT_ALLOWED));
        }
        self.tree().check(path).map_err(|error| refusal(&error))?;
        if let [object, _, resource, ..] = *path.ids() {
            // Before the payload is looked at, so that a read-only resource says so whatever is sent to it.
            writable(object, resource).map_err(|error| refusal(&error))?;
        }
        let format = request.content_format().ok_or_else(|| Message::new(Code::UNSUPPORTED_CONTENT_FORMAT))?;
        let entries = formats::decode(format, path, &request.payload).map_err(|error| format_refusal(&error))?;
        entries.iter().try_for_each(check_entry).map_err(|error| refusal(&error))?;
        let afterwards = if path.ids().first() == Some(&ids::SERVER) {
            self.write_account(&entries).map_err(|error| refusal(&error))?;
            Some(Afterwards::AccountsChanged)
        } else {
            self.objects.write(path, mode, &entries).map_err(|error| refusal(&error))?;
            None
        };
        entries.iter().for_each(|entry| self.observers.changed(&entry.path));
        Ok((Message::new(Code::CHANGED), afterwards))
    }

    /// Object 1: what is not named stays, since every resource that could go is either mandatory or has a default.
    fn write_account(&mut self, entries: &[Entry]) -> Result<(), ObjectError> {
        let mut all = self.accounts.entries();
        all.extend_from_slice(entries);
        let accounts = Accounts::from_entries(&all).map_err(|error| ObjectError::BadValue(error.to_string()))?;
        self.objects.keep_accounts(&accounts)?;
        *self.accounts = accounts;
        Ok(())
    }

    fn execute(&mut self, path: &Path, request: &Message) -> Outcome {
        self.tree().check(path).map_err(|error| refusal(&error))?;
        let arguments = std::str::from_utf8(&request.payload);
        let arguments = arguments.map_err(|_| Message::refusal(Code::BAD_REQUEST, "the arguments are not text"))?;
        let afterwards = match *path.ids() {
            [ids::SERVER, _, 4] => Some(Afterwards::Disable),
            [ids::SERVER, _, 8] => Some(Afterwards::Update),
            [ids::SERVER, _, 9] => Some(Afterwards::Bootstrap),
            [object, instance, resource] => {
                let done = self.objects.execute(object, instance, resource, arguments);
                done.map_err(|error| refusal(&error))?;
                None
            }
            _ => return Err(Message::new(Code::METHOD_NOT_ALLOWED)),
        };
        Ok((Message::new(Code::CHANGED), afterwards))
    }
}

/// A 2.05 with these entries; 4.06 for a format that cannot carry them.
pub(super) fn content(format: ContentFormat, path: &Path, entries: &[Entry]) -> Result<Message, Message> {
    let payload = formats::encode(format, path, entries);
    let payload = payload.map_err(|error| Message::refusal(Code::NOT_ACCEPTABLE, &error.to_string()))?;
    Ok(Message::new(Code::CONTENT).content(format, payload))
}

/// The attributes that hold for a path: its own, then those of the paths above it, then the server's defaults.
pub(super) fn effective(attributes: &BTreeMap<Path, Attributes>, path: &Path, defaults: Attributes) -> Attributes {
    let own = (1..=path.ids().len()).rev().filter_map(|depth| attributes.get(&path.upper(depth)));
    own.fold(Attributes::default(), |kept, above| kept.inherit(*above)).inherit(defaults)
}

fn format_refusal(error: &FormatError) -> Message {
    Message::refusal(error.code(), &error.to_string())
}

fn is_executable(path: &Path) -> bool {
    crate::object::definition::resource(path).is_some_and(|resource| resource.operations == Operations::E)
}

fn is_numeric(path: &Path) -> bool {
    matches!(crate::object::resource_type(path), Some(Type::Integer | Type::Unsigned | Type::Float | Type::Time))
}

fn writable(object: u16, resource: u16) -> Result<(), ObjectError> {
    if defined(object, resource)?.operations.writable() { Ok(()) } else { Err(ObjectError::NotAllowed) }
}

/// An entry must name a writable resource at the depth that it has.
fn check_entry(entry: &Entry) -> Result<(), ObjectError> {
    match *entry.path.ids() {
        [object, _, resource] | [object, _, resource, _] => {
            writable(object, resource)?;
            let within = entry.path.ids().len() == 4;
            if defined(object, resource)?.multiple == within {
                Ok(())
            } else {
                Err(ObjectError::BadValue(format!("{} has the wrong depth", entry.path)))
            }
        }
        _ => Err(ObjectError::NotFound),
    }
}
