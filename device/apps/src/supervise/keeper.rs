//! Performs what [`Application`] decides: one thread an application, which waits for its container, its ready check, its output
//! and the request to stop, all at once.

use std::{
    fs,
    io::{self, PipeReader, Read},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use protocol_types::{
    AppName, Network, Reason, ReasonCode,
    socket::{ApplicationState, GivenToApplication},
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tracing::{info, warn};

use super::{Application, CappedLog, Fact, Pace, Policy, Step, application::does_not_end};
use crate::{
    container::{
        Bundle, BundleError, Confinement, Container, Exec, NameServers, Runtime, RuntimeError, configuration,
        ready_process,
    },
    image::{UserIds, resolve_user},
    refusal::{Coded, reason},
    store::StoredApplication,
};

/// What keepers share.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The OCI runtime.
    pub runtime: Runtime,
    /// Where bundles are made.
    pub bundles: PathBuf,
    /// Where logs are written.
    pub logs: PathBuf,
    /// Bytes of logs that are kept for one application.
    pub log_bytes: u64,
    /// The device's `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Path of an application's control group up to its name; devices on one machine keep apart by it.
    pub cgroup_prefix: String,
    /// Whether the kernel can count swap against a memory limit.
    pub counts_swap: bool,
    /// The times that applications are given.
    pub policy: Policy,
    /// Spreads waits.
    pub random: fn() -> u32,
}

/// News of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The application.
    pub name: AppName,
    /// The news.
    pub kept: Kept,
}

/// What is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It changed what it is doing.
    Is {
        /// What it is doing.
        state: ApplicationState,
        /// Why, where that needs saying.
        reason: Option<Reason>,
        /// How often it ended by itself.
        restarts: u32,
    },
    /// It was to stop and does not end, for this reason; [`Kept::Gone`] may still come.
    Stuck(Reason),
    /// It was stopped on request, and nothing of it runs.
    Gone,
}

/// An application that is being kept running by a thread of its own.
#[derive(Debug)]
pub struct Keeper {
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts to keep `application`, whose image is unpacked in `rootfs`, with what it is given, and tells `report` what becomes
    /// of it.
    pub fn start(
        workshop: Workshop,
        application: StoredApplication,
        (rootfs, given): (PathBuf, Option<GivenToApplication>),
        report: impl Fn(Report) + Send + 'static,
    ) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let name = &application.spec.name;
        let decide = Application::new(name.clone(), application.spec.run.ready.clone(), workshop.policy);
        let bundle = Bundle::at(workshop.bundles.join(name.as_str()));
        let bench = Bench {
            workshop,
            application,
            rootfs,
            given,
            bundle,
            log: None,
            wake: Arc::clone(&wake),
            name_servers: None,
            container: None,
            output: None,
            pace: Pace::default(),
            check: None,
            begun: Instant::now(),
        };
        // These threads wait and copy; the default of 2 MiB would be address space for nothing.
        let thread = thread::Builder::new()
            .name("keeper".into())
            .stack_size(256 * 1024)
            .spawn(move || bench.keep(decide, &report))?;
        Ok(Self { wake, thread })
    }

    /// Asks the application to stop; [`Kept::Gone`] says when it has.
    pub fn stop(&self) {
        // A full counter already says what this would say.
        let _full = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// Waits for the thread, which ends after [`Kept::Gone`].
    pub fn join(self) {
        if self.thread.join().is_err() {
            warn!("an application's thread ended in a panic");
        }
    }
}

/// What one keeper works with.
struct Bench {
    workshop: Workshop,
    application: StoredApplication,
    rootfs: PathBuf,
    /// Its settings and secrets.
    given: Option<GivenToApplication>,
    bundle: Bundle,
    /// None if it could not be opened or written: an application does not depend on its log. Its next start tries again.
    log: Option<CappedLog>,
    wake: Arc<OwnedFd>,
    /// Of an application on the device's network.
    name_servers: Option<NameServers>,
    container: Option<Container>,
    output: Option<PipeReader>,
    pace: Pace,
    check: Option<Exec>,
    begun: Instant,
}

/// What may wake a keeper.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waker {
    /// The request to stop.
    Stop,
    /// Output of the application.
    Output,
    /// The end of the container.
    End,
    /// The end of a ready check.
    Check,
}

impl Bench {
    fn keep(mut self, mut decide: Application, report: &dyn Fn(Report)) {
        let name = self.application.spec.name.clone();
        let (mut facts, mut told) = (vec![Fact::Begin], None);
        loop {
            while !facts.is_empty() {
                let fact = facts.remove(0);
                for step in decide.on(fact, self.begun.elapsed(), (self.workshop.random)()) {
                    facts.extend(self.perform(step));
                }
            }
            if decide.is_stopped() {
                report(Report { name, kept: Kept::Gone });
                return;
            }
            let (state, reason) = decide.state();
            let now = decide.stuck().map_or(Kept::Is { state, reason, restarts: decide.restarts() }, Kept::Stuck);
            if told.as_ref() != Some(&now) {
                report(Report { name: name.clone(), kept: now.clone() });
                told = Some(now);
            }
            let wait = decide.wake_at().map(|at| at.saturating_sub(self.begun.elapsed()));
            facts = self.wait(wait);
        }
    }

    fn wait(&mut self, limit: Option<Duration>) -> Vec<Fact> {
        let now = self.begun.elapsed();
        let pause = self.pace.wait(now);
        let pause = Some(pause).filter(|pause| !pause.is_zero() && self.output.is_some());
        let look = self.name_servers.as_ref().map(|servers| servers.wait(now));
        let woken =
            self.poll(limit.into_iter().chain(look).chain(pause).min(), pause.is_none()).unwrap_or_else(|error| {
                warn!(%error, "cannot wait for the application");
                vec![Waker::Stop]
            });
        if let Some(Err(error)) = self.name_servers.as_mut().map(|servers| servers.follow(self.begun.elapsed())) {
            warn!(application = %self.application.spec.name, %error, "the application does not see the name servers");
        }
        let mut facts: Vec<Fact> = woken.into_iter().filter_map(|waker| self.fact(waker)).collect();
        facts.push(Fact::Time);
        facts
    }

    fn fact(&mut self, waker: Waker) -> Option<Fact> {
        match waker {
            Waker::Stop => {
                let mut count = [0; 8];
                let _empty = rustix::io::read(&*self.wake, &mut count);
                Some(Fact::Stop)
            }
            Waker::Output => {
                self.copy_output();
                None
            }
            Waker::End => self.container.take().map(|container| Fact::Ended(self.workshop.runtime.reap(container))),
            Waker::Check => self.check.take().map(|check| match check.finish() {
                Ok(Some(status)) if status.success() => Fact::CheckPassed,
                Ok(Some(status)) => Fact::CheckFailed(format!("failed its ready check with {status}")),
                Ok(None) => Fact::CheckFailed("failed its ready check, which did not end".into()),
                Err(error) => Fact::CheckFailed(format!("failed its ready check, which cannot be waited for: {error}")),
            }),
        }
    }

    fn poll(&self, limit: Option<Duration>, takes_output: bool) -> io::Result<Vec<Waker>> {
        let sources = [
            (Waker::Stop, Some(self.wake.as_fd())),
            (Waker::Output, self.output.as_ref().filter(|_| takes_output).map(AsFd::as_fd)),
            (Waker::End, self.container.as_ref().map(AsFd::as_fd)),
            (Waker::Check, self.check.as_ref().map(AsFd::as_fd)),
        ];
        let (wakers, mut fds): (Vec<_>, Vec<_>) = sources
            .into_iter()
            .filter_map(|(waker, fd)| fd.map(|fd| (waker, PollFd::from_borrowed_fd(fd, PollFlags::IN))))
            .unzip();
        let limit = limit.map(|limit| Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 }));
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let ready = wakers.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(waker, _)| waker).collect())
    }

    fn perform(&mut self, step: Step) -> Option<Fact> {
        let name = &self.application.spec.name;
        match step {
            Step::Launch => match self.launch() {
                Ok(()) => {
                    info!(application = %self.application.spec.name, "application started");
                    return Some(Fact::Launched);
                }
                Err(why) => {
                    warn!(application = %self.application.spec.name, reason = %why, "application cannot be started");
                    return Some(Fact::NotLaunched(why));
                }
            },
            Step::Check => {
                let container = self.container.as_ref()?;
                match self.workshop.runtime.exec(container, &self.bundle) {
                    Ok(check) => self.check = Some(check),
                    Err(error) => return Some(Fact::CheckFailed(crate::refusal::sentence(&error))),
                }
            }
            Step::AbandonCheck => {
                if let Some(check) = self.check.take() {
                    check.abandon();
                }
            }
            Step::Terminate => self.container.iter().for_each(|container| self.workshop.runtime.terminate(container)),
            Step::Kill => {
                warn!(application = %name, "application did not stop in time and is killed");
                self.kill();
            }
            Step::KillAgain => self.kill(),
            Step::Clear => self.clear(),
            Step::Finish => info!(application = %name, "application stopped"),
        }
        None
    }

    fn kill(&self) {
        self.container.iter().for_each(|container| self.workshop.runtime.kill(container));
    }

    fn launch(&mut self) -> Result<(), Reason> {
        let runtime = &self.workshop.runtime;
        let id = &self.application.spec.name;
        if self.log.is_none() {
            let log = CappedLog::open(&self.workshop.logs, id, self.workshop.log_bytes);
            self.log = log.inspect_err(|error| warn!(application = %id, %error, "its output is lost")).ok();
        }
        let deleted = runtime.delete(id);
        // The runtime may have forgotten it all the same. Two of them must never share a name, a bundle and an image.
        if runtime.lives(&self.bundle) {
            return Err(does_not_end(id));
        }
        deleted.map_err(|error| reason(&error))?;
        let user = self.user().map_err(|error| reason(&error))?;
        let (spec, ready) = self.describe(&user).map_err(|error| reason(&error))?;
        let first = self.application.image.first_uid;
        let owner = (first.saturating_add(user.uid), first.saturating_add(user.gid));
        let given = self.given.as_ref().map(|given| (given, owner));
        self.bundle.write(&self.rootfs, (&spec, ready.as_ref()), given).map_err(|error| reason(&error))?;
        if self.sees_name_servers() {
            let shown = NameServers::show(&self.workshop.resolv_conf, &self.bundle.resolv_conf(), self.begun.elapsed());
            self.name_servers = Some(shown.map_err(|error| Reason::new(ReasonCode::Internal, error.to_string()))?);
        }
        let (output, input) = io::pipe().map_err(|error| Reason::new(ReasonCode::Internal, error.to_string()))?;
        self.output = Some(output);
        let container = runtime.create(id, &self.bundle, self.application.spec.run.network, &input);
        drop(input);
        let container = container.map_err(|error| reason(&error))?;
        if let Err(error) = runtime.start(&container, &self.bundle) {
            return Err(self.undo(container, &error));
        }
        self.container = Some(container);
        Ok(())
    }

    /// Ends a container that was made but could not be started.
    fn undo(&self, container: Container, error: &RuntimeError) -> Reason {
        let runtime = &self.workshop.runtime;
        runtime.kill(&container);
        // The next launch does not begin before it is gone.
        if runtime.ends_within(&container, self.workshop.policy.kill_grace) {
            runtime.reap(container);
        } else {
            runtime.leave(container);
        }
        Reason::new(error.code(), crate::refusal::sentence(error))
    }

    /// The user that the application runs as, by the ids inside of its container.
    fn user(&self) -> Result<UserIds, BundleError> {
        let text = |path: &str| self.small_text(path);
        Ok(resolve_user(&self.application.process.user, &text("etc/passwd"), &text("etc/group"))?)
    }

    fn describe(
        &self,
        user: &UserIds,
    ) -> Result<(oci_spec::runtime::Spec, Option<oci_spec::runtime::Process>), BundleError> {
        let StoredApplication { spec, image, process, .. } = &self.application;
        let has_run = fs::symlink_metadata(self.rootfs.join("run")).is_ok_and(|meta| meta.is_dir());
        if self.given.is_some() && !has_run {
            warn!(application = %spec.name, "the image has no folder /run, so the application does not see its settings");
        }
        let has_secrets = self.given.as_ref().is_some_and(|given| !given.secrets.is_empty());
        let confinement = Confinement {
            rootfs: self.bundle.rootfs(),
            hostname: spec.name.to_string(),
            first_uid: image.first_uid,
            cgroup: format!("{}-{}", self.workshop.cgroup_prefix, spec.name),
            counts_swap: self.workshop.counts_swap,
            settings: self.given.is_some().then(|| self.bundle.settings()).filter(|_| has_run),
            secrets: has_secrets.then(|| self.bundle.secrets()),
            resolv_conf: self.sees_name_servers().then(|| self.bundle.resolv_conf()),
        };
        let ready = spec.run.ready.as_ref().map(|ready| ready_process(process, user, &ready.command)).transpose()?;
        Ok((configuration(&confinement, process, user, &spec.run)?, ready))
    }

    /// Whether it is on the device's network and its image has a place for the name servers.
    fn sees_name_servers(&self) -> bool {
        self.application.spec.run.network == Network::Host && self.open_inside("etc/resolv.conf").is_some()
    }

    /// A small text file of the image; empty if it is missing, too large or reached through a link.
    fn small_text(&self, path: &str) -> String {
        const MOST: u64 = 64 * 1024;
        let mut bytes = Vec::new();
        match self.open_inside(path).map(|file| file.take(MOST).read_to_end(&mut bytes)) {
            Some(Ok(_)) => String::from_utf8_lossy(&bytes).into_owned(),
            Some(Err(_)) | None => String::new(),
        }
    }

    /// A plain file of the image, reached without following any link.
    fn open_inside(&self, path: &str) -> Option<fs::File> {
        use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
        let root = openat(CWD, &self.rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = fs::File::from(openat2(root, path, flags, Mode::empty(), inside).ok()?);
        file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
    }

    fn clear(&mut self) {
        self.name_servers = None;
        while self.output.is_some() && self.output_waits() {
            self.copy_output();
        }
        self.output = None;
        if let Err(error) = self.workshop.runtime.delete(&self.application.spec.name) {
            warn!(application = %self.application.spec.name, %error, "cannot remove the container");
        }
        // Its bundle says whom the next launch has to wait for.
        if self.workshop.runtime.lives(&self.bundle) {
            return;
        }
        if let Err(error) = self.bundle.remove() {
            warn!(application = %self.application.spec.name, reason = %reason(&error), "cannot remove the bundle");
        }
    }

    fn output_waits(&self) -> bool {
        let Some(output) = &self.output else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn copy_output(&mut self) {
        let mut piece = [0; Pace::PIECE];
        let Some(output) = &mut self.output else { return };
        match output.read(&mut piece) {
            Ok(0) => self.output = None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                warn!(application = %self.application.spec.name, %error, "output of the application cannot be read any more");
                self.output = None;
            }
            Ok(read) => {
                self.pace.take(read, self.begun.elapsed());
                let Some(Err(error)) = self.log.as_mut().map(|log| log.write(&piece[..read])) else { return };
                warn!(application = %self.application.spec.name, %error, "output of the application is lost");
                // Not once a line: it would be said for as long as the application talks.
                self.log = None;
            }
        }
    }
}
