//! What a definition says about an object and its resources (the same facts as in `docs/lwm2m/*.xml`).

use super::{OBJECTS, Path};

/// One object of the standard or of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Object id.
    pub id: u16,
    /// Name, as the XML writes it.
    pub name: &'static str,
    /// Version of the definition as (major, minor); announced at registration when it is not 1.0.
    pub version: (u8, u8),
    /// Whether there may be more than one instance.
    pub multiple: bool,
    /// Whether every client must have it.
    pub mandatory: bool,
    /// The resources in the order of their ids.
    pub resources: &'static [Resource],
}

/// One resource of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Resource id.
    pub id: u16,
    /// Name, as the XML writes it.
    pub name: &'static str,
    /// What a server may do with it.
    pub operations: Operations,
    /// Whether it holds instances.
    pub multiple: bool,
    /// Whether every instance of the object must have it.
    pub mandatory: bool,
    /// What it holds; [`Type::None`] where it can only be executed.
    pub kind: Type,
}

/// What a server may do with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operations {
    /// Nothing: only the bootstrap server writes it.
    None,
    /// Read and observe.
    R,
    /// Write.
    W,
    /// Read, observe and write.
    RW,
    /// Execute.
    E,
}

impl Operations {
    /// Whether Read and Observe are allowed.
    pub const fn readable(self) -> bool {
        matches!(self, Self::R | Self::RW)
    }

    /// Whether Write is allowed.
    pub const fn writable(self) -> bool {
        matches!(self, Self::W | Self::RW)
    }
}

/// What a resource holds (OMA LwM2M 1.1 appendix C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Nothing.
    None,
    /// UTF-8 text.
    String,
    /// Signed integer of up to 64 bits.
    Integer,
    /// Unsigned integer of up to 64 bits.
    Unsigned,
    /// Floating point number of 32 or 64 bits.
    Float,
    /// True or false.
    Boolean,
    /// Bytes.
    Opaque,
    /// Seconds since 1970-01-01T00:00:00Z.
    Time,
    /// Object id and instance id.
    ObjectLink,
    /// Links in CoRE link format.
    CoreLink,
}

impl Object {
    /// The resource with this id.
    pub fn resource(&self, id: u16) -> Option<&'static Resource> {
        self.resources.binary_search_by_key(&id, |resource| resource.id).ok().map(|at| &self.resources[at])
    }
}

/// The definition of an object that this crate knows.
pub fn definition(object: u16) -> Option<&'static Object> {
    OBJECTS.binary_search_by_key(&object, |object| object.id).ok().map(|at| OBJECTS[at])
}

/// The definition of the resource at or above `path`.
pub fn resource(path: &Path) -> Option<&'static Resource> {
    match path.ids() {
        [object, _, resource] | [object, _, resource, _] => definition(*object)?.resource(*resource),
        _ => None,
    }
}

/// The type of the resource at or above `path`.
pub fn resource_type(path: &Path) -> Option<Type> {
    resource(path).map(|resource| resource.kind)
}
