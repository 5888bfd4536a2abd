//! What the tests of this crate share: a real signed repository.

pub mod account;
