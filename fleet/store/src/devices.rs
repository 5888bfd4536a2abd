//! The device directory: who the devices of an account are, and whether they are there.
