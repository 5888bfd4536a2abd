//! Jobs that the service gives: one at a time, each done once however often it is asked for (object 26244, `docs/formats/device-wire.md`).
//!
//! ```text
//! order    a job as the service writes it
//! ledger   which job is under way, what became of the last one, and which ones were had before
//! worker   does what the ledger says is to be done
//! probes   named checks of the device
//! logs     the end of a log file
//! ```

mod ledger;
mod logs;
mod order;
mod probes;
mod worker;

pub use ledger::{Ended, JobStatus, Ledger, RESULT_BYTES, Taken};
pub use order::{JobId, JobOrder, JobWork, LogSource, LogsWork, ProbeWork};
pub use probes::{PROBES, Probe};
pub use worker::{Board, Worker};
