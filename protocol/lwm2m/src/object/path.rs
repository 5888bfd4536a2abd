//! Where a value lives: object, object instance, resource, resource instance (OMA LwM2M 1.1 section 7.2).

use std::{fmt, str::FromStr};

/// A path of 0 to 4 ids. `ids()` gives them as a slice, so that code can match on it: `[object, instance] => …`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    ids: [u16; 4],
    depth: u8,
}

/// A text that is not a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path must be `/` and up to four ids from 0 to 65534 with `/` between them")]
pub struct PathError;

impl Path {
    /// `/`
    pub const ROOT: Self = Self { ids: [0; 4], depth: 0 };

    /// `/object`
    pub const fn object(object: u16) -> Self {
        Self { ids: [object, 0, 0, 0], depth: 1 }
    }

    /// `/object/instance`
    pub const fn instance(object: u16, instance: u16) -> Self {
        Self { ids: [object, instance, 0, 0], depth: 2 }
    }

    /// `/object/instance/resource`
    pub const fn resource(object: u16, instance: u16, resource: u16) -> Self {
        Self { ids: [object, instance, resource, 0], depth: 3 }
    }

    /// `/object/instance/resource/resource instance`
    pub const fn resource_instance(object: u16, instance: u16, resource: u16, within: u16) -> Self {
        Self { ids: [object, instance, resource, within], depth: 4 }
    }

    /// A path of these ids; none may be 65535, which the standard reserves.
    pub fn new(ids: &[u16]) -> Option<Self> {
        ids.iter().try_fold(Self::ROOT, |path, id| if *id == u16::MAX { None } else { path.child(*id) })
    }

    /// The ids from the object down.
    pub fn ids(&self) -> &[u16] {
        &self.ids[..usize::from(self.depth)]
    }

    /// This path and one id more; `None` below a resource instance.
    pub fn child(mut self, id: u16) -> Option<Self> {
        *self.ids.get_mut(usize::from(self.depth))? = id;
        self.depth += 1;
        Some(self)
    }

    /// The first `depth` ids of this path.
    pub fn upper(&self, depth: usize) -> Self {
        let mut path = Self::ROOT;
        for (to, from) in path.ids.iter_mut().zip(self.ids()).take(depth) {
            *to = *from;
            path.depth += 1;
        }
        path
    }

    /// Whether `other` is this path or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        other.ids().starts_with(self.ids())
    }

    /// Whether one of the two contains the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// Reads the segments of a Uri-Path.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, PathError> {
        segments.into_iter().try_fold(Self::ROOT, |path, segment| {
            // One spelling an id: no sign, no leading zero.
            let plain = segment.bytes().all(|b| b.is_ascii_digit()) && (segment == "0" || !segment.starts_with('0'));
            let id = segment.parse().ok().filter(|id| plain && *id != u16::MAX).ok_or(PathError)?;
            path.child(id).ok_or(PathError)
        })
    }
}

impl FromStr for Path {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        match text.strip_prefix('/').ok_or(PathError)? {
            "" => Ok(Self::ROOT),
            ids => Self::from_segments(ids.split('/')),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 {
            return f.write_str("/");
        }
        self.ids().iter().try_for_each(|id| write!(f, "/{id}"))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for good in ["/", "/3", "/3/0", "/3/0/1", "/26241/0/12/65534"] {
            assert_eq!(good.parse::<Path>().unwrap().to_string(), good);
        }
        for bad in ["", "3", "//", "/3/", "/03", "/+3", "/-1", "/65535", "/65536", "/1/2/3/4/5", "/a", "/3/0 "] {
            assert!(bad.parse::<Path>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_path_contains_itself_and_what_lies_below() {
        let device = Path::object(3);
        assert!(device.contains(&device) && device.contains(&Path::resource(3, 0, 1)));
        assert!(!device.contains(&Path::object(30)) && !Path::instance(3, 0).contains(&device));
        assert!(Path::ROOT.contains(&device) && Path::instance(3, 0).overlaps(&device));
        assert_eq!(Path::resource(3, 0, 1).upper(1), device);
    }
}
