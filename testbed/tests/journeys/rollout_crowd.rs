//! A rollout over many simulated devices, with a wave that fails, while the service is killed again and again. `MBL_TEST_KILLS` says how
//! often.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use device_agent::{facts::Facts, orders::Wish};
use fleet_api::{Client, Event, PageQuery};
use protocol_types::{
    Digest, EndpointName, Phase, Reason, ReasonCode, RolloutId, RunningRelease, SecurityVersion, Slot, UpdateStatus,
};
use testbed::{
    Operator, Service,
    crowd::{Factory, Simulated},
    until,
};
use tokio::task::JoinSet;

use crate::environment::number;

const CROWD: usize = 2000;
/// Devices of the first wave, which succeeds, and where the second one ends.
const GOOD: usize = 1000;
const BAD: usize = 1200;
/// How long a device is in each phase of its update.
const PHASE: Duration = Duration::from_millis(400);
/// Deaths of the service without `MBL_TEST_KILLS`, and the time between two of them.
const KILLS: usize = 3;
const BETWEEN_KILLS: Duration = Duration::from_secs(20);
/// Devices that update at a time if the service dies once; fewer if it dies more often, so that the first wave alone lasts longer.
const IN_FLIGHT: usize = 60;
const PATIENCE: Duration = Duration::from_secs(300);

/// Devices of the second wave, of which every other one fails.
fn fails(endpoint: &EndpointName) -> bool {
    let number: usize = endpoint.as_str().trim_start_matches("load-").parse().unwrap();
    (GOOD..BAD).contains(&number) && number.is_multiple_of(2)
}

/// What a device runs that has installed nothing yet.
fn factory_image() -> RunningRelease {
    RunningRelease {
        version: "0.1.0".parse().unwrap(),
        digest: None,
        slot: Slot::A,
        os_version: "0.1.0".to_owned(),
        os_digest: Digest::of(b"factory"),
        applications: Vec::new(),
        firmware: None,
    }
}

/// Does what an updater does: begins each wish once, tells how far it is, and stays where it was if the release is bad.
async fn updater(endpoint: EndpointName, facts: Arc<Facts>, begun: Arc<AtomicUsize>) {
    let mut orders = facts.orders.subscribe();
    let (mut settled, mut running) = (BTreeSet::new(), factory_image());
    let status = |phase, wish: Option<(&RolloutId, Digest)>, running: &RunningRelease| UpdateStatus {
        phase,
        rollout: wish.map(|(rollout, _)| rollout.clone()),
        wanted: wish.map(|(_, digest)| digest),
        reason: (phase == Phase::RolledBack).then(|| Reason::new(ReasonCode::ApplicationNotReady, "it never answered")),
        progress: None,
        running: running.clone(),
        floor: SecurityVersion(0),
        question: None,
    };
    facts.status.send_replace(Some(status(Phase::Idle, None, &running)));
    loop {
        let wish = orders.borrow_and_update().wish.clone();
        if let Some(Wish::Release { digest, rollout: Some(rollout), .. }) = wish
            && settled.insert(rollout.clone())
        {
            begun.fetch_add(1, Ordering::SeqCst);
            for phase in [Phase::Downloading, Phase::Installing, Phase::Trial] {
                facts.status.send_replace(Some(status(phase, Some((&rollout, digest)), &running)));
                tokio::time::sleep(PHASE).await;
            }
            let end = if fails(&endpoint) {
                Phase::RolledBack
            } else {
                (running.digest, running.version) = (Some(digest), "1.0.0".parse().unwrap());
                Phase::Succeeded
            };
            facts.status.send_replace(Some(status(end, Some((&rollout, digest)), &running)));
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

/// All events until now.
async fn events(client: &Client) -> Vec<Event> {
    let (mut found, mut query) = (Vec::new(), PageQuery { cursor: None, limit: Some(PageQuery::MAX_LIMIT) });
    loop {
        let page = client.events(&query).await.unwrap();
        found.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return found,
        }
    }
}

/// An operator who has a token and has published a release of one configuration.
fn operator(desk: &Path, service: &Service) -> Operator {
    fs::create_dir(desk).unwrap();
    fs::write(desk.join("passphrase"), "correct horse battery staple\n").unwrap();
    fs::write(desk.join("base.json"), "{}").unwrap();
    let recipe = "version = \"1.0.0\"\n[[configuration]]\nname = \"base\"\nversion = \"1.0.0\"\nfile = \"base.json\"\n";
    fs::write(desk.join("release.toml"), recipe).unwrap();
    // The first token went to the factory.
    assert!(service.command("first-token").unwrap().status().unwrap().success());
    let operator = Operator::new(&desk.join("config"), desk);
    for line in [
        "service token --data-dir ../service --host 127.0.0.1",
        "keys init --dir keys",
        "keys publish --dir keys",
        "release create --from release.toml --keys keys --out release-1.0.0",
        "release sign release-1.0.0 --keys keys",
        "release publish release-1.0.0",
    ] {
        let mut command = operator.command(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let output = command.env("MBL_PASSPHRASE_FILE", desk.join("passphrase")).output().unwrap();
        assert!(output.status.success(), "mbl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    operator
}

#[test]
fn fleet_a_rollout_over_many_devices_ends_as_its_threshold_says_although_the_service_is_killed_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(&folder.path().join("service")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kills = number("MBL_TEST_KILLS").unwrap_or(KILLS);

    let (simulated, client) = runtime.block_on(async {
        let factory = Factory::open(&service).await.unwrap();
        let simulated = Simulated::enrol(&factory, CROWD).await.unwrap();
        (simulated, factory.client().clone())
    });
    let operator = operator(&folder.path().join("desk"), &service);
    let begun = Arc::new(AtomicUsize::new(0));
    let mut updaters = JoinSet::new();
    for (endpoint, facts) in simulated.facts() {
        updaters.spawn_on(updater(endpoint.clone(), Arc::clone(facts), Arc::clone(&begun)), runtime.handle());
    }

    let in_flight = (IN_FLIGHT / kills.max(1)).max(1).to_string();
    let start = [
        "rollout",
        "start",
        "1.0.0",
        "--all",
        "--close-audience",
        "--wave",
        "name ~ \"load-?\" or name ~ \"load-??\" or name ~ \"load-???\"",
        "--wave",
        "name ~ \"load-10??\" or name ~ \"load-11??\"",
        "--failures-percent",
        "5",
        "--max-in-flight",
        &in_flight,
    ];
    let id: RolloutId = operator.json(&start).unwrap()["id"].as_str().unwrap().parse().unwrap();
    let mut acknowledged = Vec::new();
    for _kill in 0..kills {
        let (begins, seen) = (Instant::now(), begun.load(Ordering::SeqCst));
        until(PATIENCE, "the next death", || Ok((begins.elapsed() >= BETWEEN_KILLS).then_some(()))).unwrap();
        // In the middle of it: it goes on, and is not at its end.
        until(PATIENCE, "more devices to begin", || Ok((begun.load(Ordering::SeqCst) > seen).then_some(()))).unwrap();
        let before = runtime.block_on(client.rollout(&id)).unwrap();
        assert!(!before.state.is_end(), "the rollout ended before the service died for the last time: {before:?}");
        acknowledged = runtime.block_on(events(&client));
        service.restart().unwrap();
    }
    let rollout = until(PATIENCE, "the rollout to stop", || {
        let rollout = runtime.block_on(client.rollout(&id)).ok();
        Ok(rollout.filter(|rollout| rollout.state.is_end() && rollout.devices.keys().all(|state| state.is_end())))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", runtime.block_on(client.rollout(&id))));

    let count = |state: &str| {
        rollout.devices.iter().filter(|(it, _)| it.as_str() == state).map(|(_, devices)| *devices).sum::<u64>()
    };
    let reason = rollout.reason.clone().unwrap();
    assert_eq!((rollout.state.as_str(), reason.code), ("stopped", ReasonCode::FailureThreshold), "{reason}");
    assert_eq!(rollout.open_wave, 2, "the devices behind the wave that failed were never asked");
    let (succeeded, failed) = (count("succeeded"), count("rolled_back"));
    assert!(succeeded >= GOOD as u64, "the first wave is through: {:?}", rollout.devices);
    // 5 per cent of the devices in the open waves, and those that were in the middle of it.
    let threshold = BAD as u64 / 20;
    let in_the_middle = in_flight.parse::<u64>().unwrap();
    assert!((threshold..=threshold + in_the_middle).contains(&failed), "{:?}", rollout.devices);
    assert_eq!(rollout.devices.values().sum::<u64>(), CROWD as u64);

    let all = runtime.block_on(events(&client));
    assert!(all.starts_with(&acknowledged), "an event that was told was forgotten");
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in all.iter().filter(|event| event.kind == "rollout.device") {
        let state = event.data["state"].as_str().unwrap();
        if ["succeeded", "rolled_back", "cancelled"].contains(&state) {
            ends.entry(event.subject.clone()).or_default().push(state.to_owned());
        }
    }
    assert_eq!(ends.len(), CROWD, "each device has come to an end");
    assert!(ends.values().all(|states| states.len() == 1), "and each once: {ends:?}");
    assert!(begun.load(Ordering::SeqCst) <= CROWD, "no device began twice");
    for (endpoint, facts) in simulated.facts() {
        let phase = facts.status.borrow().as_ref().unwrap().phase;
        match ends[&format!("rollouts/{id}/devices/{endpoint}")][0].as_str() {
            "succeeded" => assert_eq!(phase, Phase::Succeeded, "{endpoint}"),
            "rolled_back" => assert_eq!(phase, Phase::RolledBack, "{endpoint}"),
            // A device that was switching when the rollout stopped goes on to its own end.
            _ => {}
        }
    }
    updaters.abort_all();
    runtime.block_on(simulated.stop()).unwrap();
}
