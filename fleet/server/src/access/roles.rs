//! The roles that come with the service. What each allows is said by the policies of `builtin.cedar`, not here.

/// A role that a principal can be bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// As in `operator`.
    pub(crate) name: &'static str,
    /// For whom it is, in a sentence.
    pub(crate) title: &'static str,
}

/// All roles, from the least to the most.
pub(crate) const ROLES: &[Role] = &[
    Role { name: "viewer", title: "sees everything of the account but who may do what" },
    Role { name: "operator", title: "a viewer who also changes devices, groups, filters and rollouts" },
    Role { name: "release-manager", title: "a viewer who also publishes releases and rolls them out" },
    Role {
        name: "security-officer",
        title: "a viewer who also decides which devices may join or stay, reads the audit log, revokes tokens, and disables users",
    },
    Role { name: "administrator", title: "may do everything, and decides who else may" },
];

impl Role {
    /// The role of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ROLES.iter().find(|role| role.name == name)
    }
}
