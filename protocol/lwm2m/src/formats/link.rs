//! CoRE link format (RFC 6690), as registration and Discover use it. Never resolves a target.

/// One link: a target and its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// What stands between `<` and `>`.
    pub target: String,
    /// Names and, where there is one, values without their quotes.
    pub attributes: Vec<(String, Option<String>)>,
}
