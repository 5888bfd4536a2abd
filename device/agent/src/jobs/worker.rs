//! Does the job that is under way, and keeps what came of it before anybody hears it. A job that a restart of the process or a loss of power
//! cuts off is done again, except a restart of the system, which has then happened.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use protocol_types::{Reason, ReasonCode};
use tokio::{
    sync::mpsc::error::TrySendError,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::Ledger,
    logs,
    order::{JobId, JobOrder, JobWork, LogSource},
};
use crate::{cause::Chain, clock::Clock, facts::Facts, layout::DeviceFolder, state::StateFolder};

/// How long a device that was asked to restart may still be there.
const RESTART_LIMIT: Duration = Duration::from_secs(180);
/// How long the service may take to issue a certificate, reconnections included.
const ROTATION_LIMIT: Duration = Duration::from_secs(300);

/// What of a board the jobs touch.
#[derive(Clone, Debug)]
pub struct Board {
    /// The folder whose room the check of the disk tells.
    state: PathBuf,
    /// The folder of log files; none where a journal has them.
    logs: Option<PathBuf>,
    /// Whether keys are files, so that there may be another one.
    has_key_files: bool,
    /// Tells this run of the system from every other.
    boot: String,
}

impl Board {
    /// The board of the device in `folder`; on the board `host` keys and logs are files.
    pub fn of(folder: &DeviceFolder, is_host: bool) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // The board `host` starts without the kernel; its loader leaves a file anew.
        let loader = fs::metadata(folder.booted()).map_or_else(
            |_| String::new(),
            |found| format!("{}.{}.{}", found.ino(), found.mtime(), found.mtime_nsec()),
        );
        Self {
            state: folder.state(),
            logs: is_host.then(|| folder.logs()),
            has_key_files: is_host,
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
            JobWork::RotateKey if !self.board.has_key_files => {
                let why = "the key of this board lives in its token, which this version does not give another one";
                Err(Reason::new(ReasonCode::NotSupported, why))
            }
            JobWork::RotateKey => self.rotate().await,
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

    /// Has the session ask for a certificate for a new key, and waits until the device is registered with it.
    async fn rotate(&self) -> Result<String, Reason> {
        let failed = |why: &str| Reason::new(ReasonCode::Internal, format!("cannot rotate the key: {why}"));
        let mut rotated = self.facts.rotated.subscribe();
        let mut wish = 0;
        self.facts.rotate.send_modify(|count| {
            *count += 1;
            wish = *count;
        });
        let answered = async {
            let answer = rotated.wait_for(|(answered, _)| *answered >= wish).await;
            answer.map_or_else(|_| Some("the session has ended".to_owned()), |answer| answer.1.clone())
        };
        match timeout(ROTATION_LIMIT, answered).await {
            Ok(None) => Ok(String::new()),
            Ok(Some(why)) => Err(failed(&why)),
            Err(_) => Err(failed("the service did not answer in time")),
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        clock::tests::SetClock,
        jobs::{JobStatus, Taken},
        orders::Orders,
    };

    struct Bench {
        facts: Arc<Facts>,
        restarts: mpsc::Receiver<()>,
        folder: tempfile::TempDir,
        stop: CancellationToken,
    }

    impl Bench {
        /// A device whose system runs under this mark and that kept `ledger`.
        fn start(folder: tempfile::TempDir, boot: &str, logs: bool) -> Self {
            let (facts, restarts) = Facts::new(Orders::default());
            let facts = Arc::new(facts);
            let state = StateFolder::new(folder.path());
            let board = Board {
                state: folder.path().to_owned(),
                logs: logs.then(|| folder.path().to_owned()),
                has_key_files: logs,
                boot: boot.to_owned(),
            };
            let kept = state.jobs().unwrap();
            let worker = Worker::new(kept, (facts.clone(), state, board), Arc::new(SetClock::default()));
            let stop = CancellationToken::new();
            tokio::spawn(worker.run(stop.clone()));
            Self { facts, restarts, folder, stop }
        }

        /// As the object does: durable, then told.
        fn take(&self, id: &str, kind: &str, arguments: &str) {
            let order = JobOrder::read(id, kind, arguments).unwrap();
            let boot = self.facts.boot.borrow().clone();
            self.facts.jobs.send_modify(|jobs| {
                let ledger = jobs.as_mut().unwrap();
                assert_eq!(ledger.take(order, &boot), Taken::New);
                StateFolder::new(self.folder.path()).keep_job_ledger(ledger).unwrap();
            });
        }

        /// What became of the newest job, once it has ended.
        async fn ended(&self) -> (JobStatus, String) {
            let mut jobs = self.facts.jobs.subscribe();
            let ended = jobs.wait_for(|jobs| ["done", "failed"].contains(&jobs.as_ref().unwrap().status().state));
            let jobs = timeout(Duration::from_secs(20), ended).await.unwrap().unwrap();
            let ledger = jobs.as_ref().unwrap();
            (ledger.status(), ledger.result().to_owned())
        }
    }

    #[tokio::test]
    async fn a_check_and_a_log_are_handed_in_and_kept() {
        let bench = Bench::start(tempfile::tempdir().unwrap(), "first", true);
        bench.take("a-1", "probe", r#"{"name":"disk"}"#);
        let (status, result) = bench.ended().await;
        assert_eq!((status.id.as_str(), status.state), ("a-1", "done"));
        assert!(result.contains("free_bytes "), "{result}");
        std::fs::write(bench.folder.path().join("updater.log"), "one\ntwo\n").unwrap();
        bench.take("a-2", "logs", r#"{"source":"updater","lines":1}"#);
        assert_eq!(bench.ended().await.1, "two\n");
        bench.take("a-3", "logs", r#"{"source":"agent","lines":1}"#);
        let (status, _) = bench.ended().await;
        assert!(status.reason.unwrap().text.starts_with("cannot read the log"));
        let kept = StateFolder::new(bench.folder.path()).jobs().unwrap();
        assert_eq!((kept.status().id.as_str(), kept.status().state), ("a-3", "failed"));
        bench.stop.cancel();
    }

    #[tokio::test]
    async fn a_board_with_a_journal_says_that_it_hands_in_none() {
        let bench = Bench::start(tempfile::tempdir().unwrap(), "first", false);
        bench.take("a-1", "logs", r#"{"source":"agent","lines":1}"#);
        assert_eq!(bench.ended().await.0.reason.unwrap().code, ReasonCode::NotSupported);
        bench.take("a-2", "rotate-key", "{}");
        let (status, _) = bench.ended().await;
        assert_eq!((status.id.as_str(), status.reason.unwrap().code), ("a-2", ReasonCode::NotSupported));
        bench.stop.cancel();
    }

    #[tokio::test]
    async fn a_new_key_is_asked_for_once_and_what_came_of_it_is_told() {
        let bench = Bench::start(tempfile::tempdir().unwrap(), "first", true);
        let mut wishes = bench.facts.rotate.subscribe();
        for (id, came, state) in [("a-1", None, "done"), ("a-2", Some("refused".to_owned()), "failed")] {
            bench.take(id, "rotate-key", "{}");
            timeout(Duration::from_secs(20), wishes.changed()).await.unwrap().unwrap();
            let wish = *wishes.borrow_and_update();
            bench.facts.rotated.send_replace((wish, came));
            let (status, _) = bench.ended().await;
            assert_eq!((status.id.as_str(), status.state), (id, state));
        }
        bench.stop.cancel();
    }

    #[tokio::test]
    async fn a_restart_is_asked_for_until_the_system_has_started_anew_and_not_again() {
        let mut bench = Bench::start(tempfile::tempdir().unwrap(), "first", true);
        bench.take("a-1", "reboot", "{}");
        timeout(Duration::from_secs(20), bench.restarts.recv()).await.unwrap().unwrap();
        bench.stop.cancel();
        // The process alone died: the system has not restarted.
        let mut bench = Bench::start(bench.folder, "first", true);
        timeout(Duration::from_secs(20), bench.restarts.recv()).await.unwrap().unwrap();
        assert_eq!(bench.facts.jobs.borrow().as_ref().unwrap().status().state, "running");
        bench.stop.cancel();
        let mut bench = Bench::start(bench.folder, "second", true);
        assert_eq!(bench.ended().await.0.state, "done");
        assert!(bench.restarts.try_recv().is_err(), "it restarts twice");
        bench.stop.cancel();
    }
}
