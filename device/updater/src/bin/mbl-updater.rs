//! `mbl-updater`: the process that installs releases, and the commands that go with it.

fn main() {}
