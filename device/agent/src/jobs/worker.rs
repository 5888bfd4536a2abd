//! Does the job that is under way, and keeps what came of it before anybody hears it. A job that a restart of the process or a loss of power
//! cuts off is done again, except a restart of the system, which has then happened.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use protocol_types::{AppName, ProbeName, Reason, ReasonCode};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    child::Program,
    declared::Declarations,
    ledger::Ledger,
    logs::{LogError, Logs, last_lines},
    order::{JobId, JobOrder, JobWork, LogSource, LogsWork},
    probes::{PROBES, Probe},
};
use crate::{
    boot_id::boot_id,
    cause::Chain,
    clock::Clock,
    facts::{Facts, RESTART_LIMIT},
    layout::{DeviceFolder, IMAGE_PROBES, IMAGE_PROGRAMS},
    state::StateFolder,
};

/// How long the service may take to issue a certificate, reconnections included.
const ROTATION_LIMIT: Duration = Duration::from_secs(300);
/// How long `mbl-apps` may take to hand on a log, reconnections included.
const APPS_LIMIT: Duration = Duration::from_secs(60);

/// What of a board the jobs touch.
#[derive(Clone, Debug)]
pub struct Board {
    /// The folder whose room the check of the disk tells.
    state: PathBuf,
    logs: Logs,
    declared: BTreeMap<ProbeName, Program>,
    /// Tells this run of the system from every other.
    boot: String,
}

impl Board {
    /// The board of the device in `folder`; on the board `host` logs are files, and whoever has its folder declares checks.
    pub fn of(folder: &DeviceFolder, is_host: bool) -> Self {
        // The board `host` starts without the kernel; its loader leaves a file anew.
        let loader = fs::metadata(folder.booted()).map_or_else(
            |_| String::new(),
            |found| format!("{}.{}.{}", found.ino(), found.mtime(), found.mtime_nsec()),
        );
        let (logs, declarations) = if is_host {
            (Logs::Files(folder.logs()), Declarations { folder: folder.probes(), verified: None })
        } else {
            (Logs::Journal, Declarations { folder: IMAGE_PROBES.into(), verified: Some(IMAGE_PROGRAMS.into()) })
        };
        let boot = format!("{} {loader}", boot_id());
        Self { state: folder.state(), logs, declared: declarations.load(), boot }
    }

    /// Tells this run of the system from every other.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The names of all checks: those of every device, then those that the image declares.
    fn probes(&self) -> Vec<ProbeName> {
        // Each of ours is a plain word.
        let known = PROBES.into_iter().flat_map(|probe| ProbeName::new(probe.as_str()));
        known.chain(self.declared.keys().cloned()).collect()
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
        facts.probes.send_replace(board.probes());
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
        match work {
            JobWork::Reboot if restarted => Ok(String::new()),
            JobWork::Reboot => {
                if !self.facts.wish_restart() {
                    return Err(Reason::new(ReasonCode::NotSupported, "nobody can restart this device"));
                }
                sleep(RESTART_LIMIT).await;
                let limit = RESTART_LIMIT.as_secs();
                Err(Reason::new(ReasonCode::Internal, format!("the device did not restart within {limit} s")))
            }
            JobWork::RotateKey => self.rotate(ROTATION_LIMIT).await,
            JobWork::Logs(LogsWork { source: LogSource::Application(name), lines }) => {
                self.application_log(name, *lines).await
            }
            JobWork::Logs(LogsWork { source: LogSource::System(of), lines }) => {
                self.board.logs.end(*of, *lines).await.map_err(|error| {
                    let is_none = matches!(error, LogError::None(_));
                    let code = if is_none { ReasonCode::NotSupported } else { ReasonCode::Internal };
                    Reason::new(code, Chain(&error).to_string())
                })
            }
            JobWork::Probe(wanted) => self.probe(&wanted.name).await,
        }
    }

    /// Makes a check.
    async fn probe(&self, name: &ProbeName) -> Result<String, Reason> {
        let failed = |error: &dyn std::error::Error| {
            Reason::new(ReasonCode::Internal, format!("cannot make the check `{name}`: {}", Chain(error)))
        };
        if let Some(probe) = Probe::named(name) {
            return probe.run(&self.board.state, self.clock.wall()).map_err(|e| failed(&e));
        }
        if let Some(program) = self.board.declared.get(name) {
            return program.run().await.map_err(|e| failed(&e));
        }
        let has = self.board.probes().into_iter().map(String::from).collect::<Vec<_>>().join(", ");
        Err(Reason::new(ReasonCode::NotSupported, format!("this device has no check `{name}`; it has {has}")))
    }

    /// Has `mbl-apps` hand on the end of what an application has printed.
    async fn application_log(&self, name: &AppName, lines: u32) -> Result<String, Reason> {
        let mut answers = self.facts.log_answer.subscribe();
        let mut wish = 0;
        self.facts.log_wish.send_modify(|before| {
            wish = before.as_ref().map_or(0, |(number, _)| *number) + 1;
            *before = Some((wish, name.clone()));
        });
        let answered = answers.wait_for(|answer| answer.as_ref().is_some_and(|(number, _)| *number == wish));
        match timeout(APPS_LIMIT, answered).await {
            Ok(Ok(answer)) => match answer.as_ref() {
                Some((_, result)) => result.as_ref().map(|log| last_lines(log, lines).to_owned()).map_err(Clone::clone),
                None => Ok(String::new()),
            },
            Ok(Err(_)) | Err(_) => {
                let why = format!("mbl-apps did not hand on the log of `{name}` within {} s", APPS_LIMIT.as_secs());
                Err(Reason::new(ReasonCode::Internal, why))
            }
        }
    }

    /// Has the session ask for a certificate for a new key, and waits until the device is registered with it.
    async fn rotate(&self, limit: Duration) -> Result<String, Reason> {
        let rotation = &self.facts.rotation;
        rotation.want();
        if timeout(limit, rotation.ended()).await.is_err() {
            rotation.give_up("the service did not answer in time");
        }
        // What is kept cannot be given up: the device comes back with it, or enrols anew. Until then the service hears nothing of any job, so
        // there is nobody who would wait for less.
        let ended = rotation.ended().await;
        ended.map_err(|why| Reason::new(ReasonCode::Internal, format!("cannot rotate the key: {why}")))?;
        Ok(String::new())
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
    use std::path::Path;

    use tokio::{sync::watch, time::Instant};

    use super::*;
    use crate::{
        clock::tests::SetClock,
        jobs::{JobStatus, Taken},
        orders::Orders,
        rotation::Rotation,
    };

    struct Bench {
        facts: Arc<Facts>,
        restarts: watch::Receiver<Option<Instant>>,
        folder: tempfile::TempDir,
        stop: CancellationToken,
    }

    /// The worker of a device whose system runs under this mark, with what is kept in the folder.
    fn worker(folder: &Path, boot: &str) -> (Worker, watch::Receiver<Option<Instant>>) {
        let (facts, restarts) = Facts::new(Orders::default());
        let state = StateFolder::new(folder);
        let board = Board {
            state: folder.to_owned(),
            logs: Logs::Files(folder.to_owned()),
            declared: Declarations { folder: folder.join("probes.d"), verified: None }.load(),
            boot: boot.to_owned(),
        };
        let kept = state.jobs().unwrap();
        (Worker::new(kept, (Arc::new(facts), state, board), Arc::new(SetClock::default())), restarts)
    }

    impl Bench {
        /// A worker at work.
        fn start(folder: tempfile::TempDir, boot: &str) -> Self {
            let (worker, restarts) = worker(folder.path(), boot);
            let (facts, stop) = (worker.facts.clone(), CancellationToken::new());
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

        /// Waits until a restart is wished.
        async fn wished(&mut self) {
            timeout(Duration::from_secs(20), self.restarts.wait_for(Option::is_some)).await.unwrap().unwrap();
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
        let bench = Bench::start(tempfile::tempdir().unwrap(), "first");
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
    async fn what_an_application_printed_is_asked_for_and_cut_to_what_was_wanted() {
        let bench = Bench::start(tempfile::tempdir().unwrap(), "first");
        let mut wishes = bench.facts.log_wish.subscribe();
        let missing = Reason::new(ReasonCode::NotFound, "never ran");
        for (id, came, handed_in) in [
            ("a-1", Ok("one\ntwo\nthree\n".to_owned()), ("done", "two\nthree\n", None)),
            ("a-2", Err(missing.clone()), ("failed", "", Some(missing))),
        ] {
            bench.take(id, "logs", r#"{"source":"application","application":"hello","lines":2}"#);
            timeout(Duration::from_secs(20), wishes.changed()).await.unwrap().unwrap();
            let (wish, name) = wishes.borrow_and_update().clone().unwrap();
            assert_eq!(name.as_str(), "hello");
            bench.facts.log_answer.send_replace(Some((wish, came)));
            let (status, result) = bench.ended().await;
            assert_eq!((status.state, result.as_str(), status.reason), handed_in);
        }
        bench.stop.cancel();
    }

    #[tokio::test]
    async fn a_declared_check_is_made_and_one_that_is_not_declared_is_named_with_those_that_are() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("probes.d")).unwrap();
        let declared = "program = '/bin/sh'\narguments = ['-c', 'echo signal_dbm -71']\n";
        fs::write(folder.path().join("probes.d/modem.toml"), declared).unwrap();
        let bench = Bench::start(folder, "first");
        let names: Vec<_> = bench.facts.probes.borrow().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["disk", "memory", "network", "time", "modem"]);
        bench.take("a-1", "probe", r#"{"name":"modem"}"#);
        assert_eq!(bench.ended().await.1, "signal_dbm -71\n");
        bench.take("a-2", "probe", r#"{"name":"moon"}"#);
        let reason = bench.ended().await.0.reason.unwrap();
        assert_eq!(reason.code, ReasonCode::NotSupported);
        assert_eq!(reason.text, "this device has no check `moon`; it has disk, memory, network, time, modem");
        bench.take("a-3", "logs", r#"{"source":"kernel","lines":1}"#);
        assert_eq!(bench.ended().await.0.reason.unwrap().code, ReasonCode::NotSupported);
        bench.stop.cancel();
    }

    #[tokio::test]
    async fn a_new_key_is_asked_for_once_and_what_came_of_it_is_told() {
        let bench = Bench::start(tempfile::tempdir().unwrap(), "first");
        let rotation = &bench.facts.rotation;
        for (id, came, state) in [("a-1", Ok(()), "done"), ("a-2", Err("refused".to_owned()), "failed")] {
            bench.take(id, "rotate-key", "{}");
            let wish = timeout(Duration::from_secs(20), key_wanted(rotation)).await.unwrap();
            assert!(rotation.keep(wish));
            rotation.settle(came);
            let (status, _) = bench.ended().await;
            assert_eq!((status.id.as_str(), status.state), (id, state));
        }
        bench.stop.cancel();
    }

    /// The number of the wish for a new key, once there is one.
    async fn key_wanted(rotation: &Rotation) -> u64 {
        let mut wishes = rotation.wishes();
        let wanted = wishes.wait_for(|wish| wish.wanted().is_some()).await;
        wanted.unwrap().wanted().unwrap()
    }

    #[tokio::test]
    async fn a_rotation_that_was_reported_failed_does_not_happen_and_one_that_has_begun_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (worker, _restarts) = worker(folder.path(), "first");
        let rotation = &worker.facts.rotation;
        let away = worker.rotate(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(away.text, "cannot rotate the key: the service did not answer in time");
        assert_eq!(rotation.wishes().borrow().wanted(), None, "it happens when the device is back");
        let limit = Duration::from_millis(100);
        let session = async {
            assert!(rotation.keep(key_wanted(rotation).await));
            sleep(limit * 2).await;
            rotation.settle(Ok(()));
        };
        let (came, ()) = tokio::join!(worker.rotate(limit), session);
        assert_eq!(came, Ok(String::new()), "the certificate was kept in time, and the device has come back with it");
    }

    #[tokio::test]
    async fn a_restart_is_asked_for_until_the_system_has_started_anew_and_not_again() {
        let mut bench = Bench::start(tempfile::tempdir().unwrap(), "first");
        bench.take("a-1", "reboot", "{}");
        bench.wished().await;
        bench.stop.cancel();
        // The process alone died: the system has not restarted.
        let mut bench = Bench::start(bench.folder, "first");
        bench.wished().await;
        assert_eq!(bench.facts.jobs.borrow().as_ref().unwrap().status().state, "running");
        bench.stop.cancel();
        let bench = Bench::start(bench.folder, "second");
        assert_eq!(bench.ended().await.0.state, "done");
        assert!(!bench.facts.is_restart_wished(), "it restarts twice");
        bench.stop.cancel();
    }
}
