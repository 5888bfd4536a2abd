//! The identifiers people and protocols use, each checked once where it enters the program.

use std::{fmt, net::IpAddr, str::FromStr};

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
    /// A check that a device declares, for example `disk`.
    ProbeName, "the name of a check", "1 to 32 lower-case letters, digits or `-`, starting with a letter", is_label
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
name!(
    /// What a machine calls itself: one label of a name (RFC 1123, section 2.1), in lower case.
    HostName, "a host name", "1 to 63 lower-case letters, digits or `-`, and no `-` at either end", is_host_label
);
name!(
    /// Where a server is: a DNS name (RFC 1123, section 2.1) or an address.
    ServerName, "the name of a server", "a DNS name of at most 253 characters or an IP address", is_server
);
name!(
    /// A network interface as the kernel names it, for example `enp0s1`.
    InterfaceName, "the name of a network interface", "1 to 15 ASCII letters, digits, `.`, `_` or `-`, starting with a letter, and not `lo`", is_interface
);

name!(
    /// A secret of an application, which is also the name of its file.
    SecretName, "the name of a secret", "1 to 64 lower-case letters, digits, `.`, `_` or `-`, starting with a letter or digit", is_secret
);

impl HostName {
    /// The name of the device `endpoint` as a label that any network takes; none if nothing of it can be part of a label.
    pub fn of_endpoint(endpoint: &EndpointName) -> Option<Self> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let label: String = endpoint.as_str().chars().map(plain).take(LONGEST_LABEL).collect();
        Self::new(label.trim_matches('-')).ok()
    }
}

/// The longest label of a host name (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

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

fn is_label_of_any_case(text: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_host_label(text: &str) -> bool {
    is_label_of_any_case(text) && !text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_server(text: &str) -> bool {
    // A last label of digits alone would be half an address.
    let is_top = |label: &str| !label.bytes().all(|b| b.is_ascii_digit());
    text.parse::<IpAddr>().is_ok()
        || text.len() <= 253 && text.split('.').all(is_label_of_any_case) && text.rsplit('.').next().is_some_and(is_top)
}

fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text != "lo"
}

fn is_secret(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_name_becomes_a_name_that_a_network_takes() {
        let long = "x".repeat(64);
        for (endpoint, name) in [
            ("gate-1", Some("gate-1")),
            ("Gate:42.A", Some("gate-42-a")),
            ("_x_", Some("x")),
            ("__", None),
            (&long, Some(&long[1..])),
        ] {
            let made = HostName::of_endpoint(&EndpointName::new(endpoint).unwrap());
            assert_eq!(made.as_ref().map(HostName::as_str), name, "{endpoint}");
        }
    }

    #[test]
    fn a_server_is_a_name_or_an_address_and_nothing_that_a_settings_file_would_read_otherwise() {
        for good in ["ntp.example", "2.debian.pool.ntp.org", "192.0.2.1", "2001:db8::1", "a", "Ntp-1.Example"] {
            assert!(ServerName::new(good).is_ok(), "{good} was refused");
        }
        for bad in
            ["", ".", "a.", "192.0.2", "1", "a b", "a\nport 123", "#a", "a iburst", "-a", "a_b.example", "fe80::1%eth0"]
        {
            assert!(ServerName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_interface_is_named_as_the_kernel_may_name_it() {
        for good in ["eth0", "enp0s1", "eth0.12", "wwan0"] {
            assert!(InterfaceName::new(good).is_ok(), "{good} was refused");
        }
        for bad in ["", "lo", "..", "a/b", "eth0\n", "eth 0", "0eth", "abcdefghijklmnop"] {
            assert!(InterfaceName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn every_endpoint_makes_a_host_name_or_none(endpoint in "[A-Za-z0-9_:][A-Za-z0-9._:-]{0,63}") {
            let name = HostName::of_endpoint(&EndpointName::new(&endpoint).unwrap());
            prop_assert_eq!(name.is_none(), !endpoint.bytes().take(63).any(|b| b.is_ascii_alphanumeric()));
        }
    }

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
