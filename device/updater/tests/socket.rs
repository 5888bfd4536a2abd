//! Strangers and broken peers at the updater's socket: each is refused, and the next one is served.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[expect(dead_code, reason = "the tests of the board use more of it")]
mod support;

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use protocol_types::socket::{AgentToUpdater, Fetched, Greeting, PROTOCOL, Role, UpdaterToAgent, encode};
use support::{
    account::image,
    bench::{Bench, until},
    peers::Line,
};

fn bench() -> Bench {
    let mut bench = Bench::new(&image(10, &[], 0));
    bench.power_on_alone();
    until("the updater listens", Duration::from_secs(20), || bench.status());
    bench
}

fn dial(bench: &Bench) -> UnixStream {
    let path = bench.device().join("run/updater.sock");
    until("the socket is there", Duration::from_secs(10), || UnixStream::connect(&path).ok())
}

/// An agent that was greeted and got the status.
fn connect(bench: &Bench) -> Option<Line> {
    let mut line = Line::open(dial(bench), Role::Agent);
    assert_eq!(line.greeting().unwrap().role, Role::Updater);
    let served = until("the status comes", Duration::from_secs(10), || match line.hear() {
        Ok(Some(UpdaterToAgent::Status(_))) => Some(true),
        Ok(_) => None,
        Err(_) => Some(false),
    });
    served.then_some(line)
}

fn serves(bench: &Bench) -> bool {
    connect(bench).is_some()
}

/// Sends bytes and waits until the updater hangs up.
fn is_hung_up_on(bench: &Bench, bytes: &[u8]) -> bool {
    let mut stream = dial(bench);
    drop(stream.write_all(bytes));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn greeting(protocol: u16, role: Role) -> Vec<u8> {
    encode(&Greeting { protocol, role, version: "test".to_owned() }).unwrap()
}

#[test]
fn whoever_does_not_keep_to_the_protocol_is_disconnected_and_the_next_is_served() {
    let bench = bench();
    let after_greeting = |bytes: &[u8]| [greeting(PROTOCOL, Role::Agent), bytes.to_vec()].concat();
    for (what, bytes) in [
        ("another protocol", greeting(PROTOCOL + 1, Role::Agent)),
        ("a role that does not dial", greeting(PROTOCOL, Role::Apps)),
        ("a frame longer than any", u32::MAX.to_be_bytes().to_vec()),
        ("no greeting", encode(&AgentToUpdater::Rest).unwrap()),
        ("a long frame after the greeting", after_greeting(&u32::MAX.to_be_bytes())),
        ("garbage after the greeting", after_greeting(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("another greeting", after_greeting(&greeting(PROTOCOL, Role::Agent))),
    ] {
        assert!(is_hung_up_on(&bench, &bytes), "{what}");
        assert!(serves(&bench), "after {what}");
    }
}

#[test]
fn a_peer_that_says_nothing_does_not_keep_others_out() {
    let bench = bench();
    let _silent: Vec<_> = (0..4).map(|_| dial(&bench)).collect();
    let mut slow = dial(&bench);
    slow.write_all(&greeting(PROTOCOL, Role::Agent)[..3]).unwrap();
    assert!(serves(&bench));
}

#[test]
fn an_answer_that_nobody_asked_for_is_ignored() {
    let bench = bench();
    let mut line = connect(&bench).unwrap();
    for id in [0, 1, u64::MAX] {
        assert!(line.say(&AgentToUpdater::Fetched(Fetched { id, result: Ok(vec![1; 1000]) })));
    }
    assert!(serves(&bench));
}

#[test]
fn a_second_agent_takes_the_place_of_the_first() {
    let bench = bench();
    let mut first = connect(&bench).unwrap();
    assert!(serves(&bench));
    until("the first one is disconnected", Duration::from_secs(10), || {
        first.hear::<UpdaterToAgent>().is_err().then_some(())
    });
}

#[test]
fn the_agents_user_may_not_speak_as_installer_and_others_not_at_all() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = bench();
    for folder in [bench.dir.path().to_owned(), bench.device()] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = bench.device().join("run/updater.sock");
    // Only this thread changes its user: the calls are the kernel's own, not the C library's.
    let as_user = |uid: u32, role: Role| {
        let path = path.clone();
        let talk = move || {
            let uid = rustix::process::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let mut line = Line::open(UnixStream::connect(&path).map_err(drop)?, role);
            line.greeting().map_err(drop)?;
            until("a status, or the end", Duration::from_secs(10), || match line.hear::<UpdaterToAgent>() {
                Ok(None) => None,
                Ok(Some(_)) => Some(Ok(())),
                Err(_) => Some(Err(())),
            })
        };
        std::thread::spawn(talk).join().unwrap()
    };
    assert_eq!(as_user(65534, Role::Agent), Ok(()));
    assert_eq!(as_user(65534, Role::Installer), Err(()));
    assert_eq!(as_user(1234, Role::Agent), Err(()));
}
