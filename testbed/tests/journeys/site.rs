//! A board under QEMU with a service and an operator around it: from the factory step at the serial port to what the service says of it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use image_builder::image::{HOST_ADDRESS, Reach, inspect};
use protocol_types::Digest;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use testbed::{
    Machine, Operator, Service,
    images::{application, copy, measured, workshop},
    programs::program,
    wait::until_every,
};

use crate::os::machine;

pub(crate) const ENDPOINT: &str = "gate-1";
/// The version of the image that a board comes with.
pub(crate) const FIRST: &str = "1.0.0";
/// The application's name.
pub(crate) const APP: &str = "hello";
/// The board starts several times within some of these waits.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Between two questions to the service: each is a process of its own, on cores that the board needs.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long a command in the board's shell may take.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a machine may take to turn itself off.
const SHUTDOWN: Duration = Duration::from_secs(180);

/// Everything that one board needs to be part of a fleet.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    pub(crate) service: Service,
    operator: Operator,
    folder: tempfile::TempDir,
}

/// A release that is to be rolled out.
pub(crate) struct Release<'a> {
    pub(crate) version: &'a str,
    /// The build of its operating system.
    pub(crate) os: Option<&'a Path>,
    /// Whether it brings the firmware of that build, too.
    pub(crate) with_firmware: bool,
    /// The folder of its application, at the operator's.
    pub(crate) app: Option<&'a str>,
    pub(crate) security_version: u32,
    /// Whether devices that confirm it refuse lower security versions from then on.
    pub(crate) raises_floor: bool,
    /// Seconds from the start of the updater to the verdict.
    pub(crate) time_limit: u32,
}

impl<'a> Release<'a> {
    /// A release of the operating system in `build` alone.
    pub(crate) const fn of_os(version: &'a str, build: &'a Path) -> Self {
        Self {
            version,
            os: Some(build),
            with_firmware: false,
            app: None,
            security_version: 1,
            raises_floor: false,
            time_limit: 600,
        }
    }
}

impl Site {
    /// A new machine with the signed build in `build`, which has its identity and is off.
    pub(crate) fn provisioned(build: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = folder.path().join("desk");
        fs::create_dir(&desk).unwrap();
        fs::write(desk.join("passphrase"), "correct horse battery staple\n").unwrap();
        let machine = machine(build, folder.path());
        let mut site = Self::around(machine, folder);
        let ports = site.ports();
        site.machine.reach(ports.map(|port| Reach { port, answered_by: port }).to_vec());
        site.mbl(&format!("keys init --dir keys --app {APP}"));
        site.mbl("keys recovery --dir keys");
        site.mbl("keys publish --dir keys");
        site.mbl("factory authority init --dir authority");
        site.mbl("factory authority upload --dir authority");
        let device = site.machine.command().unwrap();
        let device: Vec<&str> =
            [device.get_program()].into_iter().chain(device.get_args()).map(|word| word.to_str().unwrap()).collect();
        site.mbl(&format!(
            "factory provision --endpoint {ENDPOINT} --authority authority --keys keys --board {} --architecture aarch64 \
             --patience 500 -- {}",
            inspect(build).unwrap().0.board,
            device.join(" ")
        ));
        site
    }

    /// A machine with the build in `build`, which has registered with its service once and is off. The first one is kept, and the others
    /// are copies of it.
    pub(crate) fn registered(build: &Path) -> Self {
        Self::copy_of(&kept(build).join(OFF), build)
    }

    /// A machine with the build in `build`, which is on and registered with its service, and whose shell waits. It goes on from a moment of
    /// the first one.
    pub(crate) fn running(build: &Path) -> Self {
        Self::running_with(build, &[])
    }

    /// How long the first one took from power-on until the service said that it is registered, on this machine.
    pub(crate) fn usual_start(build: &Path) -> Duration {
        let millis: u64 = serde_json::from_slice(&fs::read(kept(build).join(START)).unwrap()).unwrap();
        Duration::from_millis(millis)
    }

    /// As [`Site::running`], with further arguments of QEMU that add nothing to the machine itself.
    pub(crate) fn running_with(build: &Path, further: &[&str]) -> Self {
        let kept = kept(build).join(ON);
        let mut site = Self::copy_of(&kept, build);
        site.machine.arguments(further);
        site.go_on(&kept.join(MOMENT));
        site
    }

    /// A copy of the site in `kept`, whose machine is not turned on.
    fn copy_of(kept: &Path, build: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&PARTS.map(|name| kept.join(name)), folder.path()).unwrap();
        // The operator's token is for the address that the service had.
        let mut token = Command::new(program("mbl-service").unwrap());
        let made = token.arg("first-token").arg("--data-dir").arg(folder.path().join("service")).output().unwrap();
        assert!(made.status.success(), "mbl-service first-token: {}", String::from_utf8_lossy(&made.stderr));
        let mut machine = Machine::found(build, &folder.path().join("machine"));
        machine.share_one_thread();
        let mut site = Self::around(machine, folder);
        site.machine.reach(reach(kept, site.ports()));
        site
    }

    /// Saves a registered board at this moment. Its connections would not outlive it, so the agent ends them.
    fn save(&mut self, moment: &Path) {
        self.shell(&format!("systemctl stop {AGENT}; sync"));
        self.machine.save(moment).unwrap();
    }

    /// Lets the board go on from that moment, as if it had slept until now.
    fn go_on(&mut self, moment: &Path) {
        self.machine.resume(moment).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the board takes the time of this machine")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.shell(&format!("date --set=@{now} && systemctl start {AGENT}"));
        self.until_runs(FIRST, "a");
    }

    /// Starts the service and makes the operator known to it.
    fn around(machine: Machine, folder: tempfile::TempDir) -> Self {
        // Sites are copied with everything that their service keeps, which a database elsewhere would not be.
        let service =
            Service::start_embedded(&folder.path().join("service"), &["--public-host", HOST_ADDRESS]).unwrap();
        let desk = folder.path().join("desk");
        let site = Self { machine, service, operator: Operator::new(&desk.join("config"), &desk), folder };
        site.mbl("service token --data-dir ../service --host 127.0.0.1");
        site
    }

    /// The ports that a device knows: bootstrap, management, artifacts.
    pub(crate) fn ports(&self) -> [u16; 3] {
        let at = self.service.addresses();
        [at.bootstrap, at.lwm2m, at.artifacts].map(|address| address.port())
    }

    /// A file or folder of the operator's.
    pub(crate) fn at_desk(&self, name: &str) -> PathBuf {
        self.folder.path().join("desk").join(name)
    }

    /// Runs `mbl` with arguments that are typed in one line; it must succeed.
    pub(crate) fn mbl(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = self.operator.command(&[&["--json"], &words[..]].concat()).unwrap();
        let output = command.env("MBL_PASSPHRASE_FILE", self.at_desk("passphrase")).output().unwrap();
        assert!(output.status.success(), "mbl {line}: {}", String::from_utf8_lossy(&output.stderr));
        // Some verbs have nothing to say.
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Waits until the service reports that the board is connected and runs this version, from this slot.
    pub(crate) fn until_runs(&self, version: &str, slot: &str) -> Value {
        self.until_device(&format!("the board to run {version} from slot {slot}"), |device| {
            let report = &device["device"]["report"];
            device["device"]["connected"] == true && report["running_version"] == version && report["slot"] == slot
        })
    }

    /// Waits until the service reports that the board is connected and runs this version, from whatever slot.
    pub(crate) fn until_version(&self, version: &str) -> Value {
        self.until_device(&format!("the board to run {version}"), |device| {
            device["device"]["connected"] == true && device["device"]["report"]["running_version"] == version
        })
    }

    /// Whether the service says that the board is registered now.
    pub(crate) fn is_connected(&self) -> bool {
        self.mbl(&format!("device show {ENDPOINT}"))["device"]["connected"] == true
    }

    /// Waits until the service says what `wanted` asks for of the board.
    pub(crate) fn until_device(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(what, || {
            let shown = self.operator.json(&["device", "show", ENDPOINT])?;
            Ok(wanted(&shown).then_some(shown))
        })
    }

    /// Builds the application in `version`, whose ready check is this word of its program; its folder at the operator's.
    pub(crate) fn build_app(&self, version: &str, check: &str) -> String {
        self.build_app_with(version, check, "")
    }

    /// As [`Site::build_app`], with further parts of its recipe.
    pub(crate) fn build_app_with(&self, version: &str, check: &str, more: &str) -> String {
        let program = application("confined").unwrap();
        let recipe = format!(
            r#"name = "{APP}"
version = "{version}"
architecture = "aarch64"
entrypoint = ["/bin/confined", "serve"]

[[files]]
target = "/bin/confined"
source = "{}"
mode = 0o755
{more}
[run]
memory_bytes = 16777216
pids = 8
ready = {{ command = ["/bin/confined", "{check}"], interval_s = 2, timeout_s = 20 }}
"#,
            program.display()
        );
        fs::write(self.at_desk(&format!("app-{version}.toml")), recipe).unwrap();
        let folder = format!("{APP}-{version}");
        self.mbl(&format!("app build app-{version}.toml --out {folder}"));
        folder
    }

    /// Signs and publishes a release and starts a rollout of it; the id of the rollout.
    pub(crate) fn roll_out(&self, release: &Release<'_>) -> String {
        self.publish(release);
        self.start(release.version)
    }

    /// Signs and publishes a release.
    pub(crate) fn publish(&self, release: &Release<'_>) {
        let Release { version, os, with_firmware, app, security_version, raises_floor, time_limit } = release;
        let os = os.map_or_else(String::new, |build| format!(" --os {}", build.join("signed/os").display()));
        let app = app.map_or_else(String::new, |folder| format!(" --app {folder}"));
        let firmware = if *with_firmware { " --with-firmware" } else { "" };
        let floor = if *raises_floor { " --raises-floor" } else { "" };
        self.mbl(&format!(
            "release create --version {version} --security-version {security_version} --architecture aarch64{os}{firmware}{app}{floor} \
             --keys keys --out release-{version} --time-limit {time_limit}"
        ));
        self.mbl(&format!("release sign release-{version} --keys keys"));
        self.mbl(&format!("release publish release-{version}"));
    }

    /// Starts a rollout of a release that is published; the id of the rollout.
    pub(crate) fn start(&self, version: &str) -> String {
        self.mbl(&format!("rollout start {version} --all"))["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the board's part of the rollout is in this state.
    pub(crate) fn until_rollout(&self, id: &str, state: &str) -> Value {
        self.until(&format!("the rollout to end as {state}"), || {
            let shown = self.operator.json(&["rollout", "show", id])?;
            Ok((shown["devices"][0]["state"] == state).then_some(shown))
        })
    }

    /// Waits until the board's part of the rollout has ended in one way or the other.
    pub(crate) fn until_rollout_ends(&self, id: &str) -> Value {
        self.until("the rollout to end", || {
            let shown = self.operator.json(&["rollout", "show", id])?;
            let state = shown["devices"][0]["state"].as_str().unwrap_or_default();
            Ok(["succeeded", "failed", "rolled_back"].contains(&state).then_some(shown))
        })
    }

    /// Waits for something that the board has to do.
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> T {
        until_every(LOOK_EVERY, PATIENCE, what, look).unwrap_or_else(|error| {
            let said = self.machine.said();
            let from = said.len().saturating_sub(4000);
            let tail: String = said.chars().skip(said[..from].chars().count()).collect();
            panic!("{error:#}\nthe board said last:\n{tail}")
        })
    }

    /// Waits for the shell of a development image that has its identity.
    pub(crate) fn until_shell(&mut self) {
        self.machine.until_prompt(PATIENCE).unwrap();
        // What the kernel has to say of a host that is busy would stand amid what commands print.
        self.shell("dmesg --console-level err");
    }

    /// Turns on a board that has registered before and waits until it has again, and for its shell.
    pub(crate) fn power_on(&mut self) {
        self.machine.power_on().unwrap();
        self.until_runs(FIRST, "a");
        self.until_shell();
    }

    /// Runs a command in the board's shell; what it printed.
    pub(crate) fn shell(&mut self, command: &str) -> String {
        self.machine.shell(command, ANSWER).unwrap()
    }

    /// Lets systems with the feature `faults` fail in this way from now on.
    pub(crate) fn arm_fault(&mut self, fault: &str) {
        self.shell(&format!("mkdir -p /state/faults && touch /state/faults/{fault} && sync"));
    }

    /// Turns the board off in order.
    pub(crate) fn shut_down(&mut self) {
        self.machine.type_line("systemctl poweroff").unwrap();
        self.machine.until_off(SHUTDOWN).unwrap();
    }
}

/// What a copy of the site in `kept` reaches: the ports that its board knows, and those that its service has now.
fn reach(kept: &Path, now: [u16; 3]) -> Vec<Reach> {
    let known: [u16; 3] = serde_json::from_slice(&fs::read(kept.join(PORTS)).unwrap()).unwrap();
    let old = known.iter().zip(now).map(|(&port, answered_by)| Reach { port, answered_by });
    let new = now.map(|port| Reach { port, answered_by: port });
    old.chain(new.into_iter().filter(|reach| !known.contains(&reach.port))).collect()
}

/// The ports of the service that a board registered with first.
const PORTS: &str = "ports.json";
/// What of a site is copied.
const PARTS: [&str; 3] = ["desk", "service", "machine"];
/// A site whose board was turned off in order, and one whose board was saved while it was on.
const OFF: &str = "off";
const ON: &str = "on";
/// In how many milliseconds it had registered, from power-on.
const START: &str = "start.json";
/// That board's memory.
const MOMENT: &str = "moment";
/// What keeps a board registered.
const AGENT: &str = "mbl-agent.service";

/// The folder of the site in which a machine with the build in `build` has registered; made the first time.
fn kept(build: &Path) -> PathBuf {
    let service = Digest::of(&fs::read(program("mbl-service").unwrap()).unwrap());
    let name = format!("{}-{}", build.file_name().unwrap().display(), &service.hex()[..16]);
    let sites = workshop().unwrap().join("sites");
    fs::create_dir_all(&sites).unwrap();
    let lock = File::create(sites.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let kept = sites.join(name);
    if kept.exists() {
        return kept;
    }
    let began = Instant::now();
    let unfinished = sites.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).unwrap();
    }
    let mut site = Site::provisioned(build);
    let ports = serde_json::to_vec(&site.ports()).unwrap();
    let keep = |site: &mut Site, name: &str| {
        site.service.stop().unwrap();
        let to = unfinished.join(name);
        fs::create_dir_all(&to).unwrap();
        copy(&PARTS.map(|part| site.folder.path().join(part)), &to).unwrap();
        // What this machine has said would be taken for the words of its copies.
        fs::remove_file(Machine::found(build, &to.join("machine")).log()).unwrap();
        fs::write(to.join(PORTS), &ports).unwrap();
    };
    let on = Instant::now();
    site.power_on();
    let start = u64::try_from(on.elapsed().as_millis()).unwrap();
    let moment = unfinished.join(ON).join(MOMENT);
    fs::create_dir_all(unfinished.join(ON)).unwrap();
    site.save(&moment);
    keep(&mut site, ON);
    site.service.restart().unwrap();
    site.go_on(&moment);
    site.shut_down();
    keep(&mut site, OFF);
    fs::write(unfinished.join(START), serde_json::to_vec(&start).unwrap()).unwrap();
    fs::rename(&unfinished, &kept).unwrap();
    measured("a registered machine", began.elapsed()).unwrap();
    kept
}
