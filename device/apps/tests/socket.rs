//! Who may speak on the socket, and what happens to those who speak badly.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use protocol_types::{
    Reason, ReasonCode,
    socket::{
        AgentToApps, AppsToAgent, AppsToUpdater, Fetch, FetchError, Fetched, FrameReader, Greeting, PROTOCOL, Role,
    },
};
use rustix::thread::set_thread_res_uid;
use support::{Device, image::Recipe, say};

/// Whether the other side ends the connection after `greeting`, instead of sending a status.
fn is_refused(socket: &Path, greeting: &Greeting) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return true };
    say(&mut stream, greeting);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reader = FrameReader::new();
    let _theirs: Option<Greeting> = support::receive(&mut stream, &mut reader);
    support::receive::<serde::de::IgnoredAny>(&mut stream, &mut reader).is_none()
}

fn greeting(role: Role) -> Greeting {
    Greeting { protocol: PROTOCOL, role, version: "test".into() }
}

/// Runs `body` on a thread that is another user, as far as the kernel tells sockets.
fn as_user<T: Send>(uid: u32, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            set_thread_res_uid(Some(uid), Some(uid), Some(uid)).unwrap();
            body()
        });
        thread.join().unwrap()
    })
}

#[test]
fn each_role_is_for_its_own_user() {
    let device = Device::running(&["--agent-uid", "4321"]);
    let socket = device.socket();
    // The folder is another user's business; here the temporary one must be passable.
    std::fs::set_permissions(device.dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    assert!(!as_user(4321, || is_refused(&socket, &greeting(Role::Agent))));
    assert!(as_user(4321, || is_refused(&socket, &greeting(Role::Updater))), "the agent spoke as the updater");
    assert!(as_user(4322, || is_refused(&socket, &greeting(Role::Agent))), "a stranger spoke as the agent");
    assert!(is_refused(&socket, &greeting(Role::Agent)), "root spoke as the agent");
    assert!(as_user(4321, || is_refused(&socket, &greeting(Role::Installer))), "the agent spoke as an installer");
    assert!(is_refused(&socket, &greeting(Role::Apps)));
    assert!(!is_refused(&socket, &greeting(Role::Updater)));
}

#[test]
fn a_peer_of_another_protocol_is_refused() {
    let device = Device::running(&[]);
    assert!(is_refused(&device.socket(), &Greeting { protocol: PROTOCOL + 1, ..greeting(Role::Updater) }));
}

#[test]
fn garbage_and_oversized_frames_end_the_connection_and_nothing_else() {
    let mut device = Device::running(&[]);
    for bytes in [&[0xff; 64][..], &[0, 0, 0, 3, 0xff, 0xff, 0xff], &u32::MAX.to_be_bytes()] {
        let mut stream = UnixStream::connect(device.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the connection stayed open");
    }
    let (mut updater, mut reader) = support::dial(&device.socket(), Role::Updater);
    updater.write_all(&[0, 0, 0, 2, 0x61, 0x78]).unwrap();
    updater.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    while support::receive::<AppsToUpdater>(&mut updater, &mut reader).is_some() {}
    device.connect();
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    device.offer(&image);
    device.prepare(&image).unwrap();
}

#[test]
fn a_peer_that_says_nothing_is_let_go() {
    let device = Device::running(&[]);
    let mut stream = UnixStream::connect(device.socket()).unwrap();
    // One byte now and then does not buy time.
    stream.write_all(&[0]).unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[test]
fn many_silent_strangers_do_not_keep_the_peers_out_for_long() {
    let device = Device::running(&[]);
    let strangers: Vec<_> = (0..20).map(|_| UnixStream::connect(device.socket()).unwrap()).collect();
    support::until("a place for the updater", || !is_refused(&device.socket(), &greeting(Role::Updater)));
    drop(strangers);
}

#[test]
fn an_updater_that_reads_nothing_does_not_stop_the_applications() {
    let image = Recipe::script("echo x; exit 1").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    // Connected in the first one's place, and silent from then on.
    let (_deaf, _) = support::dial(&device.socket(), Role::Updater);
    support::until("restarts that only the agent hears of", || {
        device.agent_heard(Duration::from_secs(1)).is_some_and(|all| all.iter().any(|status| status.restarts >= 3))
    });
}

#[test]
fn an_installer_brings_what_its_folder_has_and_the_agent_the_rest() {
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    // The agent has everything but the manifest, which only the folder has.
    device.offer(&image);
    let manifest = device.shelf.lock().unwrap().blobs.remove(&image.manifest).unwrap();
    let (mut installer, mut reader) = support::dial(&device.socket(), Role::Installer);
    let manifest_digest = image.manifest;
    std::thread::spawn(move || {
        while let Some(message) = support::receive::<AppsToAgent>(&mut installer, &mut reader) {
            let AppsToAgent::Fetch { id, what: Fetch::Artifact { digest, offset, .. } } = message else { continue };
            let has = digest == manifest_digest && offset == 0;
            let result = if has { Ok(manifest.clone()) } else { Err(FetchError::NotFound) };
            say(&mut installer, &AgentToApps::Fetched(Fetched { id, result }));
        }
    });
    device.prepare(&image).unwrap();
}

/// What the agent is told of this application's log.
fn log(device: &Device, application: &str, max_bytes: u32) -> Result<String, Reason> {
    let (mut agent, mut reader) = support::dial(&device.socket(), Role::Agent);
    say(&mut agent, &AgentToApps::Log { id: 7, application: application.parse().unwrap(), max_bytes });
    loop {
        let said = support::receive::<AppsToAgent>(&mut agent, &mut reader).unwrap();
        if let AppsToAgent::Log { id: 7, result } = said {
            return result;
        }
    }
}

#[test]
fn the_agent_is_given_the_end_of_what_an_application_printed_within_bounds() {
    let image = Recipe::script("echo one; echo two; trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    device.run(&image);
    let name = image.spec.name.to_string();
    support::until("what it printed", || device.log(&name) == "one\ntwo\n");
    assert_eq!(log(&device, &name, 1000), Ok("one\ntwo\n".to_owned()));
    assert_eq!(log(&device, &name, 5), Ok("\ntwo\n".to_owned()));
    let missing = log(&device, "other", 1000).unwrap_err();
    assert_eq!(missing.code, ReasonCode::NotFound);
    assert!(missing.text.contains("`other`"), "{missing}");
}
