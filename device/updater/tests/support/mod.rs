//! What the tests of the process share: a real signed repository, a device made of files, and the other ends of its sockets.

pub(crate) mod account;
pub(crate) mod bench;
pub(crate) mod peers;
pub(crate) mod software_tpm;
