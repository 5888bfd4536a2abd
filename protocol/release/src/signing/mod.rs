//! What the holders of keys do: generate keys, draft metadata, sign it, add a signature. Never decides when, and never keeps a file.
//!
//! A draft is what a role shall say. Its text becomes a signed file by [`sign`]; where several people must sign, each adds a
//! signature with [`add_signatures`]. Keys come from any
//! [`tough::key_source::KeySource`]: [`SigningKey`] for PKCS#8 bytes, or a token.

mod draft;
mod key;
mod online;
mod sign;

pub use draft::{DraftError, Entry, Holders, RootDraft, TargetsDraft};
pub use key::{Algorithm, KeyError, SigningKey};
pub use online::{OnlineDraft, OnlineFiles};
pub use sign::{SignError, SignedFile, add_signatures, sign};
