//! Tells the programs whose settings changed. One that cannot be told reads them when it starts, so this only warns.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tracing::warn;

use super::render::{ANY_WIRED, HOSTNAME, JOURNAL, Rendered, TIME_SERVERS, interface_of};

const SYSTEMCTL: &str = "usr/bin/systemctl";
const NMCLI: &str = "usr/bin/nmcli";
/// What announces the device on the local network, in images that do; it asks for the machine's name when it starts, and never again.
const AVAHI: &str = "usr/sbin/avahi-daemon";
/// What NetworkManager is asked with, from the top of the root on.
pub(super) const OF_NETWORK: [&str; 2] = [NMCLI, super::checkpoint::BUSCTL];
/// Seconds that an interface has to come up.
const PATIENCE: &str = "30";

/// How NetworkManager comes to know of connections that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// It reads them and brings up those that changed.
    BringUp,
    /// It reads them and brings all up: nobody knows what it has.
    BringAllUp,
    /// It reads them: a checkpoint has brought them up.
    IsBack,
}

/// Tells every program for which `now` differs from `former`; all of them without a former one.
pub(super) fn tell(root: &Path, former: Option<&Rendered>, now: &Rendered, network: Network) {
    let differs = |name| former.is_none_or(|former| former.setting(name) != now.setting(name));
    if differs(JOURNAL) {
        // It keeps what others write to meanwhile.
        run(root, SYSTEMCTL, &["restart", "systemd-journald.service"]);
    }
    if differs(TIME_SERVERS) {
        run(root, SYSTEMCTL, &["try-reload-or-restart", "chrony.service"]);
    }
    if differs(HOSTNAME) && root.join(AVAHI).exists() {
        run(root, SYSTEMCTL, &["try-restart", "avahi-daemon.service"]);
    }
    tell_network(root, former, now, network);
}

/// Has the agent start anew: the trial of a release goes by what an agent reaches that has never known other settings.
pub(super) fn restart_agent(root: &Path) {
    run(root, SYSTEMCTL, &["--no-block", "try-restart", "mbl-agent.service"]);
}

/// The connection that is up on an interface; none if there is none, or nobody says.
pub(super) fn connection_up(root: &Path, interface: &str) -> Option<String> {
    let mut command = Command::new(root.join(NMCLI));
    command.args(["-g", "GENERAL.CONNECTION", "device", "show", interface]).stdin(Stdio::null()).stderr(Stdio::null());
    let said = command.output().ok().filter(|output| output.status.success())?;
    let name = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

fn tell_network(root: &Path, former: Option<&Rendered>, now: &Rendered, network: Network) {
    let none = Rendered::default();
    let former = &former.unwrap_or(&none).connections;
    let all = network == Network::BringAllUp;
    if *former == now.connections && !all {
        return;
    }
    run(root, NMCLI, &["connection", "reload"]);
    if network == Network::IsBack {
        return;
    }
    for (name, content) in &now.connections {
        if interface_of(name).is_some() && (all || former.get(name) != Some(content)) {
            run(root, NMCLI, &["--wait", PATIENCE, "connection", "up", "id", name]);
        }
    }
    for name in former.keys().filter(|name| !now.connections.contains_key(*name)) {
        if let Some(interface) = interface_of(name) {
            run(root, NMCLI, &["--wait", PATIENCE, "connection", "up", "id", ANY_WIRED, "ifname", interface]);
        }
    }
}

/// Runs a program of the system below `root`.
fn run(root: &Path, program: &str, words: &[&str]) {
    let mut command = Command::new(root.join(program));
    match command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        Ok(status) => warn!(program, ?words, %status, "a program was not told of its new settings"),
        Err(cause) => warn!(program, ?words, %cause, "a program was not told of its new settings"),
    }
}
