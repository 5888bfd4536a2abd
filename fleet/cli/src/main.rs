//! The program `mbl`; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleet_cli::run()
}
