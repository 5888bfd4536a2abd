//! `mbl-init`, the kernel's first process in the initrd.

use std::process::ExitCode;

use device_init::{boot::boot, console::say};

fn main() -> ExitCode {
    // It ends in a restart of the machine, so nobody should start it by hand.
    if std::process::id() == 1 {
        boot();
    } else {
        say("error: this is the first process of an initrd and does nothing else");
    }
    ExitCode::FAILURE
}
