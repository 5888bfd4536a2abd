//! All objects of the device as one tree: object 1 from the accounts, the others from the agent. Object 0 is not in it: no server
//! may touch it, except while it bootstraps. Never changes anything.

use super::{ObjectError, Objects, Reading};
use crate::{
    coap::Code,
    formats::{Entry, Link},
    object::{Accounts, Path, Resource, definition, ids},
};

pub(super) struct Tree<'a> {
    pub(super) accounts: &'a Accounts,
    pub(super) objects: &'a dyn Objects,
}

impl Tree<'_> {
    /// The objects of the device, without object 0.
    pub(super) fn object_ids(&self) -> Vec<u16> {
        let mut all = vec![ids::SERVER];
        all.extend(self.objects.objects().into_iter().filter(|id| *id > ids::SERVER));
        all
    }

    pub(super) fn instances(&self, object: u16) -> Vec<u16> {
        match object {
            ids::SERVER => self.accounts.servers.keys().copied().collect(),
            other => self.objects.instances(other),
        }
    }

    /// Refuses a path that names what the device does not have.
    pub(super) fn check(&self, path: &Path) -> Result<(), ObjectError> {
        let ids = path.ids();
        let object = ids.first().is_none_or(|object| self.object_ids().contains(object));
        let instance = !object || ids.len() < 2 || self.instances(ids[0]).contains(&ids[1]);
        if object && instance { Ok(()) } else { Err(ObjectError::NotFound) }
    }

    /// What a resource holds.
    fn read_resource(&self, path: &Path) -> Result<Reading, ObjectError> {
        match *path.ids() {
            [ids::SERVER, instance, _, ..] => {
                let account = self.accounts.servers.get(&instance).ok_or(ObjectError::NotFound)?;
                let entry = account.entries(instance).into_iter().find(|entry| entry.path == path.upper(3));
                entry.map(|entry| Reading::Single(entry.value)).ok_or(ObjectError::NotFound)
            }
            [object, instance, resource, ..] => self.objects.read(object, instance, resource),
            _ => Err(ObjectError::NotFound),
        }
    }

    /// Everything readable at or below `path`, in the order of the paths.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<Entry>, ObjectError> {
        self.check(path)?;
        let mut entries = Vec::new();
        match *path.ids() {
            [] => return Err(ObjectError::NotAllowed),
            [object] => {
                for instance in self.instances(object) {
                    self.read_instance(object, instance, &mut entries)?;
                }
            }
            [object, instance] => self.read_instance(object, instance, &mut entries)?,
            [object, _, resource, ..] => {
                let resource = defined(object, resource)?;
                if !resource.operations.readable() {
                    return Err(ObjectError::NotAllowed);
                }
                push(&path.upper(3), self.read_resource(path)?, &mut entries);
                entries.retain(|entry| path.contains(&entry.path));
                if path.ids().len() == 4 && entries.is_empty() {
                    return Err(ObjectError::NotFound);
                }
            }
        }
        Ok(entries)
    }

    fn read_instance(&self, object: u16, instance: u16, entries: &mut Vec<Entry>) -> Result<(), ObjectError> {
        let all = definition(object).ok_or(ObjectError::NotFound)?.resources;
        for resource in all.iter().filter(|resource| resource.operations.readable()) {
            let path = Path::resource(object, instance, resource.id);
            match self.read_resource(&path) {
                Ok(reading) => push(&path, reading, entries),
                // An optional resource that this device does not have.
                Err(ObjectError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The links of objects and instances for a registration (section 6.2).
    pub(super) fn registration_links(&self) -> Vec<Link> {
        let mut links = vec![Link::to(&Path::ROOT).with("rt", "oma.lwm2m").with("ct", "112")];
        for object in self.object_ids() {
            let instances = self.instances(object);
            let link = object_link(object);
            if instances.is_empty() || !link.attributes.is_empty() {
                links.push(link);
            }
            links.extend(instances.into_iter().map(|instance| Link::to(&Path::instance(object, instance))));
        }
        links
    }

    /// The paths at or one or two levels below `path`, for Discover (section 6.3): resources are named, their instances counted.
    pub(super) fn discover(&self, path: &Path) -> Result<Vec<Link>, ObjectError> {
        self.check(path)?;
        match *path.ids() {
            [object] => {
                let mut links = vec![object_link(object)];
                for instance in self.instances(object) {
                    links.push(Link::to(&Path::instance(object, instance)));
                    links.extend(self.resource_links(object, instance, None));
                }
                Ok(links)
            }
            [object, instance] => {
                let mut links = vec![Link::to(path)];
                links.extend(self.resource_links(object, instance, None));
                Ok(links)
            }
            [object, instance, resource] => {
                defined(object, resource)?;
                let links = self.resource_links(object, instance, Some(resource));
                if links.is_empty() { Err(ObjectError::NotFound) } else { Ok(links) }
            }
            _ => Err(ObjectError::NotAllowed),
        }
    }

    fn resource_links(&self, object: u16, instance: u16, only: Option<u16>) -> Vec<Link> {
        let all = definition(object).map(|object| object.resources).unwrap_or_default();
        let wanted = all.iter().filter(|resource| only.is_none_or(|id| id == resource.id));
        wanted.filter_map(|resource| self.resource_link(object, instance, resource)).collect()
    }

    fn resource_link(&self, object: u16, instance: u16, resource: &Resource) -> Option<Link> {
        let path = Path::resource(object, instance, resource.id);
        if !resource.operations.readable() {
            return Some(Link::to(&path)).filter(|_| resource.mandatory);
        }
        match self.read_resource(&path).ok()? {
            Reading::Single(_) => Some(Link::to(&path)),
            Reading::Multiple(values) => Some(Link::to(&path).with("dim", values.len().to_string())),
        }
    }
}

/// The definition of a resource; 4.04 for one that is not defined.
pub(super) fn defined(object: u16, resource: u16) -> Result<&'static Resource, ObjectError> {
    definition(object).and_then(|object| object.resource(resource)).ok_or(ObjectError::NotFound)
}

fn object_link(object: u16) -> Link {
    let link = Link::to(&Path::object(object));
    match definition(object).map(|object| object.version) {
        Some((major, minor)) if (major, minor) != (1, 0) => link.with("ver", format!("{major}.{minor}")),
        _ => link,
    }
}

fn push(path: &Path, reading: Reading, entries: &mut Vec<Entry>) {
    match reading {
        Reading::Single(value) => entries.push(Entry::new(*path, value)),
        Reading::Multiple(mut values) => {
            values.sort_by_key(|(id, _)| *id);
            entries.extend(values.into_iter().filter_map(|(id, value)| Some(Entry::new(path.child(id)?, value))));
        }
    }
}

/// A refusal as the message that says it.
pub(super) fn refusal(error: &ObjectError) -> crate::coap::Message {
    match error.code() {
        // The code says it all.
        code @ (Code::NOT_FOUND | Code::METHOD_NOT_ALLOWED) => crate::coap::Message::new(code),
        code => crate::coap::Message::refusal(code, &error.to_string()),
    }
}
