//! `image/rootfs/users.toml`: the users and groups of an image as the files of `/etc`. Nobody has a password.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::recipe::{Description, unknown_format};

/// The users and groups of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// The version of this format: 1.
    format: u32,
    #[serde(rename = "user")]
    users: Vec<User>,
    #[serde(rename = "group")]
    groups: Vec<Group>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    #[serde(default = "nowhere")]
    home: String,
    #[serde(default = "no_shell")]
    shell: String,
    /// The package that needs it.
    #[serde(default)]
    package: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    gid: u32,
    #[serde(default)]
    package: Option<String>,
}

fn nowhere() -> String {
    "/nonexistent".to_owned()
}

fn no_shell() -> String {
    "/usr/sbin/nologin".to_owned()
}

impl Description for Users {
    fn broken_rule(&self) -> Option<String> {
        let names: BTreeSet<&str> = self.users.iter().map(|user| user.name.as_str()).collect();
        let ids: BTreeSet<u32> = self.users.iter().map(|user| user.uid).collect();
        let groups: BTreeSet<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        let gids: BTreeSet<u32> = self.groups.iter().map(|group| group.gid).collect();
        let twice = names.len() != self.users.len() || ids.len() != self.users.len();
        let twice = twice || groups.len() != self.groups.len() || gids.len() != self.groups.len();
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        let odd = self.users.iter().find(|user| ![&user.name, &user.home, &user.shell].iter().all(|text| plain(text)));
        unknown_format(self.format)
            .or_else(|| twice.then(|| "a name or number stands twice".to_owned()))
            .or_else(|| odd.map(|user| format!("user `{}` has a character that `/etc/passwd` cannot hold", user.name)))
            .or_else(|| {
                let alone = self.users.iter().find(|user| !gids.contains(&user.gid))?;
                Some(format!("user `{}` has no group", alone.name))
            })
    }
}

/// One file of `/etc`: path, text, permission bits, group.
pub(super) type EtcFile = (&'static str, String, u32, u64);

impl Users {
    /// The files of `/etc` for an image that has `packages`.
    pub(super) fn files(&self, packages: &BTreeSet<&str>) -> Vec<EtcFile> {
        let wanted = |package: &Option<String>| package.as_deref().is_none_or(|name| packages.contains(name));
        let users: Vec<&User> = self.users.iter().filter(|user| wanted(&user.package)).collect();
        let groups: Vec<&Group> = self.groups.iter().filter(|group| wanted(&group.package)).collect();
        let passwd =
            |user: &&User| format!("{}:x:{}:{}::{}:{}\n", user.name, user.uid, user.gid, user.home, user.shell);
        let shadow_group = groups.iter().find(|group| group.name == "shadow").map_or(0, |group| u64::from(group.gid));
        vec![
            ("etc/passwd", users.iter().map(passwd).collect(), 0o644, 0),
            ("etc/group", groups.iter().map(|group| format!("{}:x:{}:\n", group.name, group.gid)).collect(), 0o644, 0),
            ("etc/shadow", users.iter().map(|user| format!("{}:*:::::::\n", user.name)).collect(), 0o640, shadow_group),
            ("etc/gshadow", groups.iter().map(|group| format!("{}:*::\n", group.name)).collect(), 0o640, shadow_group),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = include_str!("../../../rootfs/users.toml");

    #[test]
    fn a_user_of_a_package_comes_with_the_package() {
        let users = Users::parse(TEXT, Path::new("users.toml")).unwrap();
        let passwd = |packages: &[&'static str]| users.files(&packages.iter().copied().collect()).swap_remove(0).1;
        assert!(passwd(&["chrony"]).contains("_chrony:x:801:801::/nonexistent:/usr/sbin/nologin\n"));
        assert!(!passwd(&[]).contains("_chrony"));
        assert!(users.files(&BTreeSet::new()).iter().all(|file| !file.1.contains("::0:")), "nobody has a password");
    }

    #[test]
    fn two_users_of_one_number_are_refused() {
        let error = Users::parse(&TEXT.replacen("uid = 801", "uid = 800", 1), Path::new("users.toml")).unwrap_err();
        assert!(error.to_string().contains("stands twice"), "{error}");
    }
}
