//! An application for the tests: `serve` runs until it is ended; `ready` succeeds only while nothing is granted that no release named;
//! `handed` succeeds once its settings and its secret `token` are there; `never` does not succeed. Built alone, without a crate, as static program for the board.

use std::{
    fs::{self, File},
    process::ExitCode,
};

fn main() -> ExitCode {
    let refused = match std::env::args().nth(1).as_deref() {
        Some("serve") => loop {
            std::thread::park();
        },
        Some("ready") => confined(),
        Some("handed") => handed(),
        _ => Err("not ready, and never will be".to_owned()),
    };
    match refused {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Says what was not handed to it.
fn handed() -> Result<(), String> {
    for path in ["/run/mbl/settings.json", "/run/mbl/secrets/token"] {
        fs::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    }
    Ok(())
}

/// Says what is not as it should be.
fn confined() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|e| format!("no /proc/self/status: {e}"))?;
    for line in ["Uid:\t65534\t", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        if !status.lines().any(|found| found.starts_with(line)) {
            return Err(format!("no line {line:?} in {status}"));
        }
    }
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if users.split_whitespace().nth(1) == Some("0") {
        return Err(format!("root inside is root outside: {users}"));
    }
    if File::create("/new").is_ok() || File::create("/bin/new").is_ok() {
        return Err("the root file system can be written".to_owned());
    }
    let networks = fs::read_to_string("/proc/net/dev").map_err(|e| format!("no /proc/net/dev: {e}"))?;
    if let Some(other) = networks.lines().skip(2).find(|line| !line.trim_start().starts_with("lo:")) {
        return Err(format!("a network that nobody granted: {other}"));
    }
    let reachable = ["/dev/vda", "/dev/tpmrm0", "/dev/mapper", "/state", "/run/mbl", "/factory"];
    match reachable.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Err(format!("{path} can be seen")),
        None => Ok(()),
    }
}
