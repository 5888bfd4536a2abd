//! What the person at the console reads, one line a fact. Never fails: a machine without a console boots the same.

use std::{
    error::Error,
    fs::OpenOptions,
    io::{self, Write},
};

/// Makes the kernel's console the place where this program and those that it starts write to.
pub fn attach() {
    let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") else { return };
    // A console that cannot be attached leaves the one that the kernel gave, if any.
    drop(rustix::stdio::dup2_stdin(&console).map_err(io::Error::from));
    drop(rustix::stdio::dup2_stdout(&console).map_err(io::Error::from));
    drop(rustix::stdio::dup2_stderr(&console).map_err(io::Error::from));
}

/// Writes a line, and leaves a copy in the kernel's log so that the system's journal has it.
pub fn say(line: &str) {
    // At once: the kernel writes to the same console, also between two parts of a line.
    drop(io::stderr().write_all(format!("mbl-init: {line}\n").as_bytes()));
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // Level 7: below what consoles show, which have the line already.
        drop(log.write_all(format!("<7>mbl-init: {line}").as_bytes()));
    }
}

/// An error with all its causes, in one line.
pub fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
