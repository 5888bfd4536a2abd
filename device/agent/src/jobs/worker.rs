//! Does the job that is under way, and keeps what came of it before anybody hears it. A job that a restart of the process or a loss of power
//! cuts off is done again, except a restart of the system, which has then happened.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use protocol_types::{Reason, ReasonCode};
use tokio::{sync::mpsc::error::TrySendError, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::Ledger,
    logs,
    order::{JobId, JobOrder, JobWork, LogSource},
};
use crate::{cause::Chain, clock::Clock, facts::Facts, layout::DeviceFolder, state::StateFolder};

/// How long a device that was asked to restart may still be there.
const RESTART_LIMIT: Duration = Duration::from_secs(180);

/// What of a board the jobs touch.
#[derive(Clone, Debug)]
pub struct Board {
    /// The folder whose room the check of the disk tells.
    state: PathBuf,
    /// The folder of log files; none where a journal has them.
    logs: Option<PathBuf>,
    /// Tells this run of the system from every other.
    boot: String,
}

impl Board {
    /// The board of the device in `folder`; `has_log_files` on the board `host`.
    pub fn of(folder: &DeviceFolder, has_log_files: bool) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // The board `host` starts without the kernel; its loader leaves a file anew.
        let loader = fs::metadata(folder.booted()).map_or_else(
            |_| String::new(),
            |found| format!("{}.{}.{}", found.ino(), found.mtime(), found.mtime_nsec()),
        );
        Self {
            state: folder.state(),
            logs: has_log_files.then(|| folder.logs()),
            boot: format!("{} {loader}", kernel.trim()),
        }
    }

    /// Tells this run of the system from every other.
    pub fn boot(&self) -> &str {
        &self.boot
    }
}

/// Does jobs.
#[derive(Debug)]
pub struct Worker {
    facts: Arc<Facts>,
    state: StateFolder,
    board: Board,
    clock: Arc<dyn Clock>,
}

impl Worker {
    /// A worker that goes on with what was kept.
    pub fn new(kept: Ledger, (facts, state, board): (Arc<Facts>, StateFolder, Board), clock: Arc<dyn Clock>) -> Self {
        facts.boot.send_replace(board.boot.clone());
        facts.jobs.send_replace(Some(kept));
        Self { facts, state, board, clock }
    }

    /// Does what comes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut jobs = self.facts.jobs.subscribe();
        jobs.mark_changed();
        let work = async {
            while jobs.changed().await.is_ok() {
                let under_way = jobs.borrow_and_update().as_ref().and_then(|ledger| {
                    ledger.under_way(&self.board.boot).map(|(order, restarted)| (order.clone(), restarted))
                });
                if let Some((JobOrder { id, work }, restarted)) = under_way {
                    tracing::info!(job = %id, "job begun");
                    let came = self.perform(&work, restarted).await;
                    self.end(&id, came);
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn perform(&self, work: &JobWork, restarted: bool) -> Result<String, Reason> {
        let failed = |what: &str, error: &dyn std::error::Error| {
            Reason::new(ReasonCode::Internal, format!("cannot {what}: {}", Chain(error)))
        };
        match work {
            JobWork::Reboot if restarted => Ok(String::new()),
            JobWork::Reboot => {
                match self.facts.restart.try_send(()) {
                    // One wish that waits already is as good as two.
                    Ok(()) | Err(TrySendError::Full(())) => {}
                    Err(TrySendError::Closed(())) => {
                        return Err(Reason::new(ReasonCode::NotSupported, "nobody can restart this device"));
                    }
                }
                sleep(RESTART_LIMIT).await;
                let limit = RESTART_LIMIT.as_secs();
                Err(Reason::new(ReasonCode::Internal, format!("the device did not restart within {limit} s")))
            }
            JobWork::Logs(wanted) => {
                let Some(path) = self.log(wanted.source) else {
                    let why = "the logs of this board are in its journal, which this version does not hand in";
                    return Err(Reason::new(ReasonCode::NotSupported, why));
                };
                logs::tail(&path, wanted.lines).map_err(|e| failed("read the log", &e))
            }
            JobWork::Probe(wanted) => {
                wanted.name.run(&self.board.state, self.clock.wall()).map_err(|e| failed("make the check", &e))
            }
        }
    }

    fn log(&self, source: LogSource) -> Option<PathBuf> {
        self.board.logs.as_ref().map(|folder| folder.join(format!("{}.log", source.as_str())))
    }

    /// Keeps the end of a job, then tells it.
    fn end(&self, id: &JobId, came: Result<String, Reason>) {
        self.facts.jobs.send_if_modified(|jobs| {
            let Some(ledger) = jobs else { return false };
            let mut after = ledger.clone();
            if !after.end(id, came) {
                return false;
            }
            if let Err(error) = self.state.keep_job_ledger(&after) {
                // After a restart the job is done once more, which does no harm.
                tracing::error!(error = %Chain(&error), "the end of a job could not be kept");
            }
            tracing::info!(job = %id, state = after.status().state, "job ended");
            *ledger = after;
            true
        });
    }
}
