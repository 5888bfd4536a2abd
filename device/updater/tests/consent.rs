//! Somebody at a real device folder is asked before a release is installed, by the real programs.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[expect(dead_code, reason = "the tests of the board use more of it")]
mod support;

use std::{
    os::unix::net::UnixStream,
    process::Output,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protocol_types::{
    Answer, DeviceConsent, Digest, Phase, Question, ReasonCode, Slot, UnixSeconds,
    socket::{AgentToUpdater, Role, UpdaterToAgent},
};
use support::{
    account::{Contents, image},
    bench::{Bench, until},
    peers::Line,
};

fn bench(deadline: Option<UnixSeconds>) -> (Bench, Digest) {
    let mut bench = Bench::new(&image(30, &[], 0));
    bench.world.lock().unwrap().consent = Some(DeviceConsent { deadline });
    bench.power_on();
    let (_, digest) = bench.want(&Contents::new("1.1.0", image(40, &[3], 9)));
    (bench, digest)
}

fn asked(bench: &Bench) -> Option<Question> {
    let said = bench.consent(&["show", "--json"]);
    said.status.success().then(|| serde_json::from_slice(&said.stdout).unwrap()).flatten()
}

fn until_asked(bench: &Bench) -> Question {
    until("the device asks", Duration::from_secs(30), || asked(bench))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_device_that_asks_installs_after_a_yes_and_asks_anew_after_a_restart() {
    let (mut bench, digest) = bench(None);
    assert_eq!(until_asked(&bench), Question { version: "1.1.0".parse().unwrap(), deadline: None });
    bench.kill("updater");
    bench.power_off();
    bench.power_on();
    until_asked(&bench);
    let status = bench.status().unwrap();
    assert_eq!((status.phase, status.running.slot), (Phase::Verifying, Slot::A));
    let other = bench.consent(&["give", "--release", "1.2.0"]);
    assert!(!other.status.success() && said(&other).contains("asks about release 1.1.0"), "{}", said(&other));
    let given = bench.consent(&["give", "--release", "1.1.0"]);
    assert!(given.status.success(), "{}", said(&given));
    let status = bench.ends(digest, 60);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::B), "{status:?}");
    let nothing = bench.consent(&["refuse"]);
    assert!(!nothing.status.success() && said(&nothing).contains("asks nothing"), "{}", said(&nothing));
}

#[test]
fn a_no_at_the_device_lasts_until_the_service_asks_again() {
    let (mut bench, digest) = bench(None);
    until_asked(&bench);
    let refused = bench.consent(&["refuse"]);
    assert!(refused.status.success(), "{}", said(&refused));
    let status = bench.ends(digest, 10);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::ConsentRefused));
    bench.power_off();
    bench.power_on();
    let status = bench.ends(digest, 30);
    assert_eq!(status.reason.unwrap().code, ReasonCode::ConsentRefused);
    assert_eq!(bench.entries(), ["mbl-1-a.efi"]);
    {
        let mut world = bench.world.lock().unwrap();
        let (release, digest, _) = world.wish.clone().unwrap();
        world.want((release, digest));
    }
    until_asked(&bench);
    assert!(bench.consent(&["give"]).status.success());
    until("it is installed", Duration::from_secs(60), || {
        bench.status().filter(|status| status.phase == Phase::Succeeded && status.running.slot == Slot::B)
    });
}

#[test]
fn from_the_deadline_on_nobody_is_asked() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let deadline = UnixSeconds(now + 20);
    let (bench, digest) = bench(Some(deadline));
    assert_eq!(until_asked(&bench).deadline, Some(deadline));
    let status = bench.ends(digest, 60);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::B), "{status:?}");
}

#[test]
fn the_agent_does_not_answer_for_people() {
    let (mut bench, digest) = bench(None);
    until_asked(&bench);
    // The agent that brought the release is gone, and another one takes its place.
    let mut line = Line::open(UnixStream::connect(bench.device().join("run/updater.sock")).unwrap(), Role::Agent);
    line.greeting().unwrap();
    line.say(&AgentToUpdater::Answer { digest, answer: Answer::Yes });
    line.say(&AgentToUpdater::Restart);
    until("the updater heard both", Duration::from_secs(20), || match line.hear::<UpdaterToAgent>() {
        Ok(Some(UpdaterToAgent::Restarting)) | Err(_) => Some(()),
        Ok(_) => None,
    });
    until("the device is back", Duration::from_secs(30), || asked(&bench));
    assert!(bench.log("updater.log").contains("the agent answers what only somebody at the device may"));
    assert_eq!(bench.entries(), ["mbl-1-a.efi"]);
    bench.stop();
}
