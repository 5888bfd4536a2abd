//! The user and group ids that an image's `user` text means, by the image's own `passwd` and `group`.

use super::{ImageError, error::shortened};
use crate::limits::Limits;

/// Ids as the container sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Further groups that a user may have.
const MOST_GROUPS: usize = 32;

/// Reads `user[:group]`, each a number or a name that `passwd` or `group` of the image defines (`passwd(5)`, `group(5)`).
/// A number needs no entry; without a group, the user's entry decides, else group 0, and the user is in every group that names it
/// (OCI image specification, `User` of a configuration).
pub fn resolve_user(user: &str, passwd: &str, group: &str) -> Result<UserIds, ImageError> {
    let unknown = || ImageError::UnknownUser { user: shortened(user) };
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let (uid, own_gid) = match name {
        "" => (0, 0),
        _ => match (entry(passwd, name), number(name)) {
            (Some((uid, gid)), _) => (uid, gid.unwrap_or(0)),
            (None, Some(uid)) => (uid, gid_of(passwd, uid)),
            (None, None) => return Err(unknown()),
        },
    };
    let gid = match group_name {
        None | Some("") => own_gid,
        Some(name) => entry(group, name).map(|(gid, _)| gid).or_else(|| number(name)).ok_or_else(unknown)?,
    };
    if uid >= Limits::OWNERS || gid >= Limits::OWNERS {
        return Err(unknown());
    }
    let groups = if group_name.is_none() { groups_of(group, user_name(passwd, name, uid)) } else { Vec::new() };
    Ok(UserIds { uid, gid, groups })
}

/// Third and fourth field of the line that starts with `name:`; the fourth is a number in `passwd` only.
fn entry(file: &str, name: &str) -> Option<(u32, Option<u32>)> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let id = number(fields.nth(1)?)?;
        Some((id, fields.next().and_then(number)))
    })
}

fn gid_of(passwd: &str, uid: u32) -> u32 {
    let with_uid = |line: &&str| line.split(':').nth(2).and_then(number) == Some(uid);
    passwd.lines().find(with_uid).and_then(|line| line.split(':').nth(3)).and_then(number).unwrap_or(0)
}

/// The name of a user who may be given by number.
fn user_name<'a>(passwd: &'a str, given: &'a str, uid: u32) -> &'a str {
    let own = |line: &str| line.split(':').nth(2).and_then(number) == Some(uid);
    match entry(passwd, given) {
        Some(_) => given,
        None => passwd.lines().find(|line| own(line)).and_then(|line| line.split(':').next()).unwrap_or_default(),
    }
}

/// The groups whose fourth field names the user.
fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let id = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let names = fields.get(3)?.split(',').any(|name| !name.is_empty() && name == user);
        number(fields.get(2)?).filter(|gid| names && *gid < Limits::OWNERS)
    };
    group.lines().filter_map(id).take(MOST_GROUPS).collect()
}

/// Digits only: `parse` alone would accept a sign.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nlogs:x:4:web,root\n";

    #[test]
    fn names_and_numbers_mean_what_the_image_defines() {
        let ids = |user| resolve_user(user, PASSWD, GROUP).map(|ids| (ids.uid, ids.gid)).ok();
        assert_eq!(ids(""), Some((0, 0)));
        assert_eq!(ids("web"), Some((33, 34)));
        assert_eq!(ids("33"), Some((33, 34)));
        assert_eq!(ids("web:logs"), Some((33, 4)));
        assert_eq!(ids("1000:1001"), Some((1000, 1001)));
        assert_eq!(ids("1000"), Some((1000, 0)));
        assert_eq!(ids("stranger"), None);
        assert_eq!(ids("web:strangers"), None);
        assert_eq!(ids("70000"), None, "an id outside the application's range was accepted");
        assert_eq!(ids("+1"), None);
    }

    #[test]
    fn a_user_is_in_every_group_that_names_it_unless_one_is_given() {
        let groups = |user| resolve_user(user, PASSWD, GROUP).unwrap().groups;
        assert_eq!((groups("web"), groups("33"), groups("root")), (vec![4], vec![4], vec![4]));
        assert!(groups("web:logs").is_empty() && groups("1000").is_empty());
        let far = "far:x:70000:web\nempty:x:5:\nodd:x:+6:web\n";
        assert!(resolve_user("web", PASSWD, far).unwrap().groups.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(user: String, passwd: String, group: String) {
            if let Ok(ids) = resolve_user(&user, &passwd, &group) {
                prop_assert!(ids.uid < Limits::OWNERS && ids.gid < Limits::OWNERS);
                prop_assert!(ids.groups.iter().all(|gid| *gid < Limits::OWNERS) && ids.groups.len() <= MOST_GROUPS);
            }
        }
    }
}
