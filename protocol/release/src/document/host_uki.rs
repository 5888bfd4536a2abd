//! The `uki` section of the board `host`: a small text with the two parts of a unified kernel image that matter to a boot.

use std::collections::BTreeMap;

use protocol_types::Digest;

use super::{DocumentError, error::within};

const KIND: &str = "host uki";

/// The command line and the os-release fields of one host image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUki {
    /// Digest of the root section's block list: `mbl.root` on the command line.
    pub root: Digest,
    /// Length of the root section in bytes: `mbl.size` on the command line.
    pub size: u64,
    /// The os-release fields, for example `VERSION_ID`.
    pub os_release: BTreeMap<String, String>,
}

impl HostUki {
    /// Upper bound for the text in bytes.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// Reads the text: one `cmdline:` line with `mbl.root` and `mbl.size`, and any number of `osrel:` lines.
    ///
    /// # Errors
    /// If it is too long, not UTF-8, or holds anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        within(KIND, bytes, Self::MAX_BYTES)?;
        let broken = |rule: &str| DocumentError::rule(KIND, rule);
        let text = std::str::from_utf8(bytes).map_err(|_| broken("the text is not UTF-8"))?;
        let (mut cmdline, mut os_release) = (None, BTreeMap::new());
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("cmdline", words)) => {
                    if cmdline
                        .replace(
                            parse_cmdline(words)
                                .ok_or_else(|| broken("the command line must be `mbl.root=DIGEST mbl.size=BYTES`"))?,
                        )
                        .is_some()
                    {
                        return Err(broken("there are two command lines"));
                    }
                }
                Some(("osrel", field)) => {
                    let (key, value) =
                        field.split_once('=').ok_or_else(|| broken("an `osrel` line must be `KEY=VALUE`"))?;
                    check_field(key, value)?;
                    if os_release.insert(key.to_owned(), value.to_owned()).is_some() {
                        return Err(broken("an os-release field stands twice"));
                    }
                }
                _ => return Err(broken("every line must start with `cmdline: ` or `osrel: `")),
            }
        }
        let (root, size) = cmdline.ok_or_else(|| broken("there is no command line"))?;
        Ok(Self { root, size, os_release })
    }

    /// The text.
    ///
    /// # Errors
    /// If an os-release field could not be read back.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        let mut text = format!("cmdline: mbl.root={} mbl.size={}\n", self.root, self.size);
        for (key, value) in &self.os_release {
            check_field(key, value)?;
            text.push_str(&format!("osrel: {key}={value}\n"));
        }
        within(KIND, text.as_bytes(), Self::MAX_BYTES)?;
        Ok(text.into_bytes())
    }

    /// The version of the operating system, as os-release(5) has it.
    pub fn version_id(&self) -> Option<&str> {
        self.os_release.get("VERSION_ID").map(String::as_str)
    }
}

fn parse_cmdline(words: &str) -> Option<(Digest, u64)> {
    let (root, size) = words.split_once(' ')?;
    let size = size.strip_prefix("mbl.size=")?;
    // `parse` alone would accept a sign and leading zeros, and one image shall have one text.
    let canonical = size == "0" || (size.starts_with(|c: char| c.is_ascii_digit()) && !size.starts_with('0'));
    Some((root.strip_prefix("mbl.root=")?.parse().ok()?, size.parse().ok().filter(|_| canonical)?))
}

fn check_field(key: &str, value: &str) -> Result<(), DocumentError> {
    let named = !key.is_empty() && key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !named || value.chars().any(char::is_control) {
        return Err(DocumentError::rule(
            KIND,
            "an os-release field must be `KEY=VALUE` in one line, the key in capitals",
        ));
    }
    Ok(())
}
