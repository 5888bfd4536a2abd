//! Identifiers that would otherwise be random, derived from what they identify, so that two builds agree.

use protocol_types::Digest;
use uuid::{Builder, Uuid};

/// The identifier of what `digest` is the digest of.
pub(crate) fn of_content(digest: &Digest) -> Uuid {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// The identifier of what is called `name` on every disk for `board`.
pub(crate) fn of_name(board: &str, name: &str) -> Uuid {
    of_content(&Digest::of(format!("mbl disk {board} {name}").as_bytes()))
}
