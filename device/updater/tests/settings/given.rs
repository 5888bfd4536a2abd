//! What the agent asks for: settings of the service on trial, kept, taken back.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
};

use protocol_types::{
    ReasonCode, Slot, SystemSettings,
    socket::{AgentToSystem, FrameReader, Greeting, PROTOCOL, Role, SystemToAgent, encode},
};
use serde::de::DeserializeOwned;

use crate::{
    FIRST,
    board::{Board, UPDATER},
};

/// The network is another one than that of [`FIRST`].
const GIVEN: &str = r#"{"hostname":"oven","network":{"eth0":{"addresses":["192.0.2.9/24"]}}}"#;
/// What busctl says when NetworkManager has made a checkpoint, and when every device went back.
const AGREES: &str = r#"case "$*" in
*CheckpointCreate*) echo '{"type":"o","data":["/checkpoint/1"]}' ;;
*CheckpointRollback*) echo '{"type":"a{su}","data":[{"/devices/1":0}]}' ;;
esac"#;
const CALL: &str = "busctl --system --json=short --timeout=30 call org.freedesktop.NetworkManager /org/freedesktop/NetworkManager org.freedesktop.NetworkManager";

fn settings(text: &str) -> SystemSettings {
    SystemSettings::parse(text.as_bytes()).unwrap()
}

fn trial(text: &str) -> AgentToSystem {
    AgentToSystem::Try { settings: settings(text), contact_limit_s: 60 }
}

fn keep(text: &str) -> AgentToSystem {
    AgentToSystem::Keep(settings(text))
}

fn hear<M: DeserializeOwned>(line: &mut UnixStream, reader: &mut FrameReader) -> Option<M> {
    loop {
        if let Some(message) = reader.take().unwrap() {
            return Some(message);
        }
        let mut piece = [0; 4096];
        match line.read(&mut piece) {
            Ok(0) => return None,
            Ok(read) => reader.push(&piece[..read]),
            // Whoever hangs up before it has read everything ends the line like this.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
            Err(e) => panic!("{e}"),
        }
    }
}

impl Board {
    /// A board that has booted with [`FIRST`], where NetworkManager agrees to everything.
    fn with_first() -> Self {
        let board = Self::new();
        board.program("busctl", AGREES);
        assert_eq!(board.change(Some(FIRST)).0, 0);
        board
    }

    /// Starts the program on one end of a connection, says this at the other one, and hears the answer; what it said aside.
    fn say(&self, greeting: &Greeting, question: &AgentToSystem, words: &[&str]) -> (Option<SystemToAgent>, String) {
        drop(fs::remove_file(self.path("told")));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(UPDATER);
        command.args(["configure-system", "--on-request"]).args(words).arg("--root").arg(self.path(""));
        command.arg("--device-dir").arg(self.path("mbl")).env_remove("MBL_LOG_LEVEL");
        let child = command.stdin(OwnedFd::from(theirs)).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        ours.write_all(&encode(greeting).unwrap()).unwrap();
        ours.write_all(&encode(question).unwrap()).unwrap();
        let mut reader = FrameReader::new();
        let theirs: Greeting = hear(&mut ours, &mut reader).unwrap();
        assert_eq!((theirs.role, theirs.protocol), (Role::System, PROTOCOL));
        let answer = hear(&mut ours, &mut reader);
        (answer, String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap())
    }

    fn ask(&self, question: &AgentToSystem) -> SystemToAgent {
        let greeting = Greeting { protocol: PROTOCOL, role: Role::Agent, version: "1".to_owned() };
        let (answer, said) = self.say(&greeting, question, &[]);
        answer.unwrap_or_else(|| panic!("{said}"))
    }

    fn hostname(&self) -> String {
        self.text("proc/sys/kernel/hostname")
    }

    fn connection(&self) -> String {
        self.text("run/NetworkManager/system-connections/mbl-on-eth0.nmconnection")
    }

    fn refusal(&self, question: &AgentToSystem) -> (ReasonCode, String) {
        match self.ask(question) {
            SystemToAgent::Refused(reason) => (reason.code, reason.text),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn settings_on_trial_have_a_checkpoint_under_their_network_and_lose_it_once_they_are_kept() {
    let board = Board::with_first();
    assert_eq!(board.ask(&trial(GIVEN)), SystemToAgent::InForce);
    assert_eq!((board.hostname(), board.setting("given.json")), ("oven".to_owned(), GIVEN.to_owned()));
    assert!(board.connection().contains("address1=192.0.2.9/24\n"), "{}", board.connection());
    assert_eq!(
        board.setting("chrony/mbl.sources"),
        "server ntp.example iburst\n",
        "what is not given is the release's"
    );
    // It is there before the network changes, and lasts for the agent's time and a little more from then on. The agent is not started anew.
    let told = [
        format!("{CALL} CheckpointCreate aouu 0 360 3"),
        "nmcli connection reload".to_owned(),
        "nmcli --wait 30 connection up id mbl-on-eth0".to_owned(),
        format!("{CALL} CheckpointAdjustRollbackTimeout ou /checkpoint/1 90"),
    ];
    assert_eq!(board.told(), told);
    assert!(!board.path("mbl/state/system/given.json").exists(), "a restart takes it back");

    // An agent that starts again in the middle asks again.
    assert_eq!(board.ask(&trial(GIVEN)), SystemToAgent::InForce);
    assert_eq!(board.told(), told[3..]);

    assert_eq!(board.ask(&keep(GIVEN)), SystemToAgent::InForce);
    assert_eq!(board.told(), [format!("{CALL} CheckpointDestroy o /checkpoint/1")]);
    assert_eq!(board.text("mbl/state/system/given.json"), GIVEN);
    assert_eq!(board.ask(&keep(GIVEN)), SystemToAgent::InForce);
    assert_eq!(board.told(), Vec::<String>::new(), "there is nothing left to do");
}

#[test]
fn settings_that_are_taken_back_come_back_with_the_checkpoint_of_the_network() {
    let board = Board::with_first();
    let former = board.connection();
    board.ask(&trial(GIVEN));
    assert_eq!(board.ask(&keep("{}")), SystemToAgent::InForce);
    assert_eq!((board.hostname(), board.connection()), ("kiln-7".to_owned(), former.clone()));
    assert!(!board.path("mbl/run/system/given.json").exists());
    assert_eq!(
        board.told(),
        [format!("{CALL} CheckpointRollback o /checkpoint/1"), "nmcli connection reload".to_owned()],
        "the checkpoint has brought the connections up"
    );

    // The network is the one that is kept, whatever else somebody has changed: nobody goes back.
    board.ask(&trial(GIVEN));
    fs::write(board.path("proc/sys/kernel/hostname"), "mine").unwrap();
    assert_eq!(board.ask(&keep(GIVEN)), SystemToAgent::InForce);
    assert_eq!(
        (board.hostname(), board.told()),
        ("oven".to_owned(), vec![format!("{CALL} CheckpointDestroy o /checkpoint/1")])
    );
    board.ask(&keep("{}"));

    // To another network than the one of before: the checkpoint brings up what nobody wants any more.
    board.ask(&trial(GIVEN));
    let third = GIVEN.replace(".9/", ".10/");
    assert_eq!(board.ask(&keep(&third)), SystemToAgent::InForce);
    assert_eq!(board.told().last().unwrap(), "nmcli --wait 30 connection up id mbl-on-eth0");
    board.ask(&keep("{}"));

    // One that NetworkManager does not know any more, as after its restart: the connections are brought up by hand.
    board.ask(&trial(GIVEN));
    board.program("busctl", "exit 1");
    assert_eq!(board.ask(&keep("{}")), SystemToAgent::InForce);
    assert_eq!(board.connection(), former);
    assert_eq!(board.told().last().unwrap(), "nmcli --wait 30 connection up id mbl-on-eth0");
}

#[test]
fn without_a_checkpoint_no_network_changes_and_without_networkmanager_none_is_taken_by_name() {
    let board = Board::with_first();
    let former = board.connection();
    board.program("busctl", "echo 'no such thing' >&2; exit 1");
    let (code, text) = board.refusal(&trial(GIVEN));
    assert!(code == ReasonCode::Internal && text.contains("`CheckpointCreate`: no such thing"), "{text}");
    assert_eq!((board.hostname(), board.connection()), ("kiln-7".to_owned(), former));
    assert_eq!(board.ask(&trial(r#"{"hostname":"oven"}"#)), SystemToAgent::InForce, "a name needs none");

    fs::remove_file(board.path("usr/bin/nmcli")).unwrap();
    let (code, text) = board.refusal(&trial(GIVEN));
    assert_eq!(code, ReasonCode::InvalidConfiguration);
    assert_eq!(text, "this board has no NetworkManager, so it takes no `network` from the service");
}

#[test]
fn a_restart_of_the_device_takes_back_what_was_on_trial_and_brings_what_was_kept() {
    let board = Board::with_first();
    board.ask(&keep(r#"{"hostname":"oven"}"#));
    board.ask(&trial(r#"{"hostname":"fridge"}"#));
    assert_eq!(board.hostname(), "fridge");
    // A release that changes the settings of the system meanwhile does not disturb the trial.
    assert_eq!(board.change(Some(crate::SECOND)).0, 0);
    assert_eq!((board.hostname(), board.setting("system.json")), ("fridge".to_owned(), crate::SECOND.to_owned()));

    assert_eq!(board.boot(Slot::A, "old").0, 0);
    assert_eq!(board.hostname(), "oven");
    fs::write(board.path("mbl/state/system/given.json"), r#"{"hostname":"Oven 7"}"#).unwrap();
    let (status, said) = board.boot(Slot::A, "old");
    assert!(status == 0 && said.contains("holds no settings"), "{said}");
    assert_eq!(board.hostname(), "gate-1");
}

#[test]
fn what_somebody_else_changes_is_seen_and_the_next_keep_brings_it_back() {
    let board = Board::with_first();
    board.ask(&keep(GIVEN));
    assert_eq!(board.ask(&AgentToSystem::Look), SystemToAgent::InForce);
    let connection = "run/NetworkManager/system-connections/mbl-on-eth0.nmconnection";
    let mut seen = Vec::new();
    for (file, text) in [("proc/sys/kernel/hostname", "mine"), (connection, "[connection]\nid=mine\n")] {
        fs::write(board.path(file), text).unwrap();
        let SystemToAgent::Drifted { seen: digest } = board.ask(&AgentToSystem::Look) else { panic!("{file}") };
        seen.push(digest);
        assert_eq!(board.ask(&keep(GIVEN)), SystemToAgent::InForce);
        assert_eq!(board.ask(&AgentToSystem::Look), SystemToAgent::InForce, "{file}");
        assert_ne!(board.text(file), text);
    }
    assert_ne!(seen[0], seen[1]);
    // Another connection on the interface, made by hand.
    board.program("nmcli", "echo mine");
    assert!(matches!(board.ask(&AgentToSystem::Look), SystemToAgent::Drifted { .. }));
}

#[test]
fn connections_of_ours_that_networkmanager_made_lasting_do_not_outlive_the_next_change() {
    let board = Board::with_first();
    let folder = board.path("var/lib/NetworkManager/system-connections");
    fs::create_dir_all(&folder).unwrap();
    for name in ["mbl-on-eth7.nmconnection", "somebodys.nmconnection"] {
        fs::write(folder.join(name), "").unwrap();
    }
    board.ask(&keep(GIVEN));
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["somebodys.nmconnection"]);
}

#[test]
fn nobody_but_the_agent_is_answered() {
    let board = Board::with_first();
    let greeting = |protocol, role| Greeting { protocol, role, version: "1".to_owned() };
    for (who, words) in [
        (greeting(PROTOCOL, Role::Updater), &[][..]),
        (greeting(PROTOCOL + 1, Role::Agent), &[]),
        (greeting(PROTOCOL, Role::Agent), &["--agent-uid", "4321"]),
    ] {
        let (answer, said) = board.say(&who, &keep(GIVEN), words);
        assert!(answer.is_none() && !said.is_empty(), "{who:?} {said}");
    }
    assert_eq!((board.hostname(), board.told()), ("kiln-7".to_owned(), Vec::new()));
}
