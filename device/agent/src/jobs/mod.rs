//! Jobs that the service gives: one at a time, each done once however often it is asked for (object 26244, `docs/formats/device-wire.md`).
//!
//! ```text
//! order    a job as the service writes it
//! ledger   which job is under way, what became of the last one, and which ones were had before
//! worker   does what the ledger says is to be done
//! probes   the checks that every device has
//! declared the checks that an image declares
//! child    a program that runs within bounds
//! logs     the end of a log file
//! journal  the end of a log in the journal
//! ```

mod child;
mod declared;
mod journal;
mod ledger;
mod logs;
mod order;
mod probes;
mod worker;

pub use ledger::{Ended, JobStatus, Ledger, RESULT_BYTES, Taken};
pub use order::{JobId, JobOrder, JobWork, LogSource, LogsWork, ProbeWork, SystemLog};
pub use worker::{Board, Worker};
