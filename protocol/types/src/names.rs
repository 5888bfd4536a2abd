//! The identifiers people and protocols use, each checked once where it enters the program.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that breaks the rule of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {kind}: it must be {rule}")]
pub struct NameError {
    kind: &'static str,
    rule: &'static str,
    given: String,
}

impl NameError {
    fn new(kind: &'static str, rule: &'static str, given: &str) -> Self {
        // An error message repeats at most this much of what a stranger sent.
        let given = given.chars().take(80).flat_map(char::escape_default).collect();
        Self { kind, rule, given }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Checks that `text` is ", $rule, ".")]
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if $check(&text) { Ok(Self(text)) } else { Err(NameError::new($kind, $rule, &text)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The LwM2M endpoint client name of a device (LwM2M 1.1 core, section 6.4.1), which is also the common name of its certificates.
    EndpointName, "an endpoint name", "1 to 64 ASCII letters, digits, `.`, `_`, `:` or `-`, not starting with `.` or `-`", is_endpoint
);
name!(
    /// The account that owns a device, a release or a token.
    AccountName, "an account name", "1 to 32 lower-case letters, digits or `-`, starting with a letter", is_label
);
name!(
    /// An application, the same on every device that runs it.
    AppName, "an application name", "1 to 32 lower-case letters, digits or `-`, starting with a letter", is_label
);
name!(
    /// A board file's name, for example `host` or `qemu-arm64`.
    BoardName, "a board name", "1 to 32 lower-case letters, digits or `-`, starting with a letter", is_label
);
name!(
    /// A processor architecture as `uname -m` prints it, for example `aarch64`.
    Architecture, "an architecture", "1 to 32 lower-case letters, digits or `_`, starting with a letter", is_architecture
);
name!(
    /// A static group of devices of one account.
    GroupName, "a group name", "1 to 32 lower-case letters, digits or `-`, starting with a letter", is_label
);
name!(
    /// A rollout of one account, as the service numbers it.
    RolloutId, "a rollout id", "1 to 64 ASCII letters, digits, `_` or `-`", is_id
);
name!(
    /// The path of a TUF target: relative, without empty, `.` or `..` parts.
    TargetPath, "a target path", "1 to 200 ASCII letters, digits, `.`, `_`, `-` or `/` without empty, `.` or `..` parts", is_target_path
);

fn is_endpoint(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
        && !text.starts_with(['.', '-'])
}

fn is_label(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_architecture(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_target_path(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        for bad in ["../x", "a/../b", "/etc/passwd", "a//b", "", "a/.", "a\0b"] {
            assert!(TargetPath::new(bad).is_err(), "{bad:?} was accepted");
            assert!(EndpointName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_error_repeats_little_of_what_a_stranger_sent() {
        let long = "\u{1b}[31m".repeat(1000);
        let said = AppName::new(long).unwrap_err().to_string();
        assert!(said.len() < 400 && !said.contains('\u{1b}'), "{said}");
    }
}
