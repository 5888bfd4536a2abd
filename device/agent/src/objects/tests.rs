//! The objects as a server sees them.

use std::sync::Mutex;

use protocol_types::{
    Digest, Phase, Reason, ReasonCode, RunningFirmware, RunningRelease, SecurityVersion, Slot, UnixSeconds,
    metrics::{Batch, Metric, Readings},
    socket::{ApplicationState, ApplicationStatus},
    update::RunningApplication,
};

use super::*;
use crate::{clock::tests::SetClock, durable::DurableError, enrolment::Enrolment, orders::Orders};

/// State that remembers what was kept and may fail.
#[derive(Debug, Default)]
struct Disk {
    kept: Mutex<Vec<Orders>>,
    reset: Mutex<bool>,
    wish: Mutex<Option<crate::configuration::Wish>>,
    jobs: Mutex<crate::jobs::Ledger>,
    enrolment: Mutex<Option<Enrolment>>,
    full: Mutex<bool>,
}

impl DurableState for Disk {
    fn keep_orders(&self, orders: &Orders) -> Result<(), DurableError> {
        if *self.full.lock().unwrap() {
            // A real failure of the real function: there is no such folder.
            return crate::durable::replace(std::path::Path::new("/nonexistent/orders.json"), b"", 0o600);
        }
        self.kept.lock().unwrap().push(orders.clone());
        Ok(())
    }
    fn keep_reset(&self) -> Result<(), DurableError> {
        if *self.full.lock().unwrap() {
            return crate::durable::replace(std::path::Path::new("/nonexistent/reset.json"), b"", 0o600);
        }
        *self.reset.lock().unwrap() = true;
        Ok(())
    }
    fn keep_wish(&self, wish: &crate::configuration::Wish) -> Result<(), DurableError> {
        if *self.full.lock().unwrap() {
            return crate::durable::replace(std::path::Path::new("/nonexistent/wish.json"), b"", 0o600);
        }
        *self.wish.lock().unwrap() = Some(wish.clone());
        Ok(())
    }
    fn keep_jobs(&self, jobs: &crate::jobs::Ledger) -> Result<(), DurableError> {
        if *self.full.lock().unwrap() {
            return crate::durable::replace(std::path::Path::new("/nonexistent/jobs.json"), b"", 0o600);
        }
        *self.jobs.lock().unwrap() = jobs.clone();
        Ok(())
    }
    fn keep_enrolment(&self, enrolment: &Enrolment) -> Result<(), DurableError> {
        if *self.full.lock().unwrap() {
            return crate::durable::replace(std::path::Path::new("/nonexistent/enrolment.json"), b"", 0o600);
        }
        *self.enrolment.lock().unwrap() = Some(enrolment.clone());
        Ok(())
    }
    fn keep_floor(&self, _: UnixSeconds) -> Result<(), DurableError> {
        Ok(())
    }
}

pub(super) fn status(version: &str) -> UpdateStatus {
    UpdateStatus {
        phase: Phase::Idle,
        rollout: None,
        wanted: None,
        reason: None,
        progress: None,
        running: RunningRelease {
            version: version.parse().unwrap(),
            digest: Some(Digest::of(version.as_bytes())),
            slot: Slot::B,
            os_version: "13.1".to_owned(),
            os_digest: Digest::of(b"root"),
            applications: vec![application("hello", "1.0.0")],
            firmware: Some(RunningFirmware { slot: Slot::A, digest: Some(Digest::of(b"package")) }),
        },
        floor: SecurityVersion(3),
        question: None,
    }
}

fn application(name: &str, version: &str) -> RunningApplication {
    let digest = Digest::of(name.as_bytes());
    RunningApplication { name: name.parse().unwrap(), version: version.parse().unwrap(), digest }
}

fn report(name: &str, state: ApplicationState) -> ApplicationStatus {
    ApplicationStatus {
        name: name.parse().unwrap(),
        digest: Digest::of(name.as_bytes()),
        state,
        restarts: 0,
        reason: None,
    }
}

struct Bench {
    facts: Arc<Facts>,
    disk: Arc<Disk>,
    restarts: tokio::sync::watch::Receiver<Option<tokio::time::Instant>>,
    objects: DeviceObjects,
}

fn bench() -> Bench {
    let (facts, restarts) = Facts::new(Orders::default());
    let (facts, disk) = (Arc::new(facts), Arc::new(Disk::default()));
    let clock = Arc::new(VerificationClock::new(Arc::new(SetClock::default()), UnixSeconds(1_800_000_000)));
    let about = About {
        manufacturer: "Acme".to_owned(),
        model: "host".to_owned(),
        serial: "gate-42".to_owned(),
        recovery_key: None,
    };
    let objects = DeviceObjects::new(about, facts.clone(), disk.clone(), clock);
    Bench { facts, disk, restarts, objects }
}

fn string(objects: &DeviceObjects, object: u16, resource: u16) -> String {
    match objects.read(object, 0, resource) {
        Ok(Reading::Single(Value::String(text))) => text,
        other => panic!("/{object}/0/{resource} is {other:?}"),
    }
}

fn entry(resource: u16, text: &str) -> Entry {
    Entry::new(Path::resource(ids::RELEASE, 0, resource), text)
}

#[test]
fn the_device_says_who_it_is_and_that_its_clock_is_not_before_the_floor() {
    let bench = bench();
    let read = |resource| string(&bench.objects, ids::DEVICE, resource);
    assert_eq!([read(0), read(1), read(2), read(14), read(16)], ["Acme", "host", "gate-42", "+00:00", "T"]);
    assert_eq!(bench.objects.read(ids::DEVICE, 0, 13), Ok(Reading::Single(Value::Time(1_800_000_000))));
    assert_eq!(bench.objects.read(ids::DEVICE, 0, 3), Err(ObjectError::NotFound), "the updater has not said");
}

#[test]
fn a_report_of_the_updater_is_shown_and_announced_once() {
    let mut bench = bench();
    bench.facts.status.send_replace(Some(UpdateStatus {
        phase: Phase::RolledBack,
        reason: Some(Reason::new(ReasonCode::ApplicationNotReady, "hello was not ready in 90 s")),
        ..status("1.1.0")
    }));
    bench.facts.applications.send_replace(vec![report("hello", ApplicationState::Ready)]);
    let changed = bench.objects.refresh();
    for path in
        [Path::resource(ids::RELEASE, 0, 3), Path::resource(ids::DEVICE, 0, 3), Path::resource(ids::SOFTWARE, 0, 0)]
    {
        assert!(changed.contains(&path), "{path} is missing in {changed:?}");
    }
    assert!(!changed.contains(&Path::resource(ids::RELEASE, 0, 0)), "orders did not change");
    assert_eq!(bench.objects.refresh(), [], "nothing is news twice");

    let read = |resource| string(&bench.objects, ids::RELEASE, resource);
    assert_eq!([read(3), read(4), read(9), read(11)], ["rolled_back", "application_not_ready", "1.1.0", "b"]);
    assert_eq!(read(10), Digest::of(b"1.1.0").to_string());
    let package = Digest::of(b"package");
    let components = [
        format!("os 13.1 {}", Digest::of(b"root")),
        format!("application/hello 1.0.0 {} ready", Digest::of(b"hello")),
        format!("firmware {} {package} slot_a", &package.hex()[..12]),
    ];
    let expected = (0..).zip(components.map(Value::String)).collect();
    assert_eq!(bench.objects.read(ids::RELEASE, 0, 12), Ok(Reading::Multiple(expected)));
    assert_eq!(bench.objects.read(ids::RELEASE, 0, 13), Ok(integer(3)));
}

#[test]
fn progress_is_shown_in_per_cent_while_downloading_and_announced_only_when_it_moves() {
    let mut bench = bench();
    let downloading =
        |done| UpdateStatus { phase: Phase::Downloading, progress: Some((done, 1000)), ..status("1.0.0") };
    for (done, percent) in [(0, 0), (509, 50), (1000, 100), (5000, 100)] {
        bench.facts.status.send_replace(Some(downloading(done)));
        bench.objects.refresh();
        assert_eq!(bench.objects.read(ids::RELEASE, 0, 6), Ok(integer(percent)));
    }
    bench.facts.status.send_replace(Some(downloading(100)));
    bench.objects.refresh();
    bench.facts.status.send_replace(Some(downloading(109)));
    assert_eq!(bench.objects.refresh(), [], "still 10 per cent");
    bench.facts.status.send_replace(Some(status("1.0.0")));
    assert_eq!(
        bench.objects.refresh(),
        [3, 6]
            .map(|id| Path::resource(ids::RELEASE, 0, id))
            .into_iter()
            .chain([Path::resource(ids::FIRMWARE, 0, 3)])
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(bench.objects.read(ids::RELEASE, 0, 6), Err(ObjectError::NotFound), "nothing is downloaded");
}

#[test]
fn an_order_is_kept_before_it_is_taken_and_refused_if_it_cannot_be_kept() {
    let mut bench = bench();
    let digest = Digest::of(b"x").to_string();
    let order = [entry(0, "releases/2.0.0.json"), entry(1, &digest), entry(2, "r-1")];
    *bench.disk.full.lock().unwrap() = true;
    let refused = bench.objects.write(&Path::instance(ids::RELEASE, 0), WriteMode::Partial, &order);
    assert!(matches!(refused, Err(ObjectError::Failed(_))), "{refused:?}");
    assert_eq!(*bench.facts.orders.borrow(), Orders::default(), "a promise that cannot be kept is not made");
    *bench.disk.full.lock().unwrap() = false;
    bench.objects.write(&Path::instance(ids::RELEASE, 0), WriteMode::Partial, &order).unwrap();
    assert_eq!(bench.disk.kept.lock().unwrap().last(), Some(&*bench.facts.orders.borrow()));
    bench.objects.write(&Path::instance(ids::RELEASE, 0), WriteMode::Partial, &order).unwrap();
    assert_eq!(bench.disk.kept.lock().unwrap().len(), 1, "what is kept already is not written again");
    let read = |resource| string(&bench.objects, ids::RELEASE, resource);
    assert_eq!([read(0), read(1), read(2), read(14)], ["releases/2.0.0.json", &digest, "r-1", ""]);
}

#[test]
fn changed_accounts_are_kept_with_the_certificate_and_refused_if_they_cannot_be_kept() {
    let mut bench = bench();
    let enrolment = crate::enrolment::tests::enrolment();
    let mut accounts = enrolment.accounts.clone();
    accounts.servers.values_mut().for_each(|server| server.lifetime = 60);
    assert_eq!(bench.objects.keep_accounts(&accounts), Err(ObjectError::NotAllowed), "nobody has enrolled it");
    bench.objects.enrolled(enrolment.clone());
    *bench.disk.full.lock().unwrap() = true;
    let refused = bench.objects.keep_accounts(&accounts);
    assert!(matches!(refused, Err(ObjectError::Failed(_))), "{refused:?}");
    *bench.disk.full.lock().unwrap() = false;
    assert_eq!(bench.objects.keep_accounts(&accounts), Ok(()));
    assert_eq!(*bench.disk.enrolment.lock().unwrap(), Some(Enrolment { accounts, ..enrolment }));
}

#[test]
fn a_write_that_replaces_the_instance_takes_back_what_it_does_not_name() {
    let mut bench = bench();
    let digest = Digest::of(b"x").to_string();
    let (whole, order) = (Path::instance(ids::RELEASE, 0), [entry(0, "releases/2.0.0.json"), entry(1, &digest)]);
    bench.objects.write(&whole, WriteMode::Partial, &order).unwrap();
    let address = [entry(14, "https://127.0.0.1:8444")];
    bench.objects.write(&whole, WriteMode::Partial, &address).unwrap();
    assert_eq!(string(&bench.objects, ids::RELEASE, 0), "releases/2.0.0.json", "a partial update leaves the rest");
    bench.objects.write(&whole, WriteMode::Replace, &address).unwrap();
    assert_eq!(bench.facts.orders.borrow().wish, Some(crate::orders::Wish::Rest));
}

#[test]
fn a_malformed_order_changes_nothing() {
    let mut bench = bench();
    for bad in [
        vec![entry(0, "../x"), entry(1, "y")],
        vec![entry(14, "ftp://x")],
        vec![Entry::new(Path::resource(ids::RELEASE, 0, 0), 7)],
    ] {
        let refused = bench.objects.write(&Path::instance(ids::RELEASE, 0), WriteMode::Partial, &bad);
        assert!(matches!(refused, Err(ObjectError::BadValue(_))), "{bad:?}: {refused:?}");
    }
    assert_eq!(*bench.facts.orders.borrow(), Orders::default());
    assert!(bench.disk.kept.lock().unwrap().is_empty());
}

#[test]
fn software_changes_by_releases_only_and_a_restart_is_only_passed_on() {
    let mut bench = bench();
    bench.facts.status.send_replace(Some(status("1.0.0")));
    bench.objects.refresh();
    for (object, resource) in
        [(ids::FIRMWARE, 2), (ids::SOFTWARE, 4), (ids::SOFTWARE, 6), (ids::SOFTWARE, 10), (ids::DEVICE, 6)]
    {
        let executed = bench.objects.execute(object, 0, resource, "");
        assert_eq!(executed, Err(ObjectError::NotAllowed), "/{object}/0/{resource}");
    }
    for (object, resource) in
        [(ids::FIRMWARE, 0), (ids::FIRMWARE, 1), (ids::SOFTWARE, 2), (ids::SOFTWARE, 3), (ids::DEVICE, 13)]
    {
        let entries = [Entry::new(Path::resource(object, 0, resource), "https://evil.example/fw")];
        let written = bench.objects.write(&Path::resource(object, 0, resource), WriteMode::Replace, &entries);
        assert_eq!(written, Err(ObjectError::NotAllowed), "/{object}/0/{resource}");
    }
    assert!(!bench.facts.is_restart_wished());
    bench.objects.execute(ids::DEVICE, 0, 4, "").unwrap();
    assert!(bench.facts.is_restart_wished());
    drop(bench.restarts);
    let nobody = bench.objects.execute(ids::DEVICE, 0, 4, "");
    assert!(matches!(nobody, Err(ObjectError::Failed(_))), "{nobody:?}");
}

#[test]
fn an_application_keeps_its_instance_while_others_come_and_go() {
    let mut bench = bench();
    let mut running = status("1.0.0");
    running.running.applications = vec![application("alpha", "1.0.0"), application("beta", "1.0.0")];
    bench.facts.status.send_replace(Some(running.clone()));
    bench.objects.refresh();
    assert_eq!(bench.objects.instances(ids::SOFTWARE), [0, 1]);
    running.running.applications = vec![application("beta", "2.0.0"), application("gamma", "1.0.0")];
    bench.facts.status.send_replace(Some(running));
    bench
        .facts
        .applications
        .send_replace(vec![report("beta", ApplicationState::Failed), report("ghost", ApplicationState::Ready)]);
    bench.objects.refresh();
    assert_eq!(bench.objects.instances(ids::SOFTWARE), [0, 1], "no instance for what the release does not name");
    let name = |instance| bench.objects.read(ids::SOFTWARE, instance, 0).unwrap();
    assert_eq!([name(0), name(1)], [text("gamma"), text("beta")]);
    assert_eq!(bench.objects.read(ids::SOFTWARE, 1, 9), Ok(integer(58)));
    assert_eq!(bench.objects.read(ids::SOFTWARE, 1, 12), Ok(Reading::Single(Value::Boolean(false))));
    assert_eq!(bench.objects.read(ids::SOFTWARE, 2, 0), Err(ObjectError::NotFound));
}

#[test]
fn every_readable_mandatory_resource_of_a_reporting_device_can_be_read_with_the_defined_type() {
    let mut bench = bench();
    bench.facts.status.send_replace(Some(UpdateStatus {
        phase: Phase::Downloading,
        progress: Some((1, 2)),
        ..status("1.0.0")
    }));
    bench.facts.applications.send_replace(vec![report("hello", ApplicationState::Started)]);
    bench.objects.refresh();
    bench.objects.connected_from("127.0.0.1".parse().unwrap());
    for object in bench.objects.objects() {
        for instance in bench.objects.instances(object) {
            for resource in definition(object).unwrap().resources {
                let read = bench.objects.read(object, instance, resource.id);
                let path = Path::resource(object, instance, resource.id);
                match &read {
                    Ok(Reading::Single(value)) => {
                        assert!(!resource.multiple && value.kind() == resource.kind, "{path} {read:?}")
                    }
                    Ok(Reading::Multiple(values)) => {
                        assert!(
                            resource.multiple && values.iter().all(|(_, value)| value.kind() == resource.kind),
                            "{path} {read:?}"
                        );
                    }
                    Err(_) => assert!(!resource.mandatory || !resource.operations.readable(), "{path} cannot be read"),
                }
            }
        }
    }
}

#[test]
fn a_device_reports_trouble_with_its_storage() {
    for (code, expected) in [(ReasonCode::NoRoom, 5), (ReasonCode::StorageFailed, 8), (ReasonCode::BadSignature, 0)] {
        let status = UpdateStatus { reason: Some(Reason::new(code, "said so")), ..status("1.0.0") };
        let about =
            About { manufacturer: String::new(), model: String::new(), serial: String::new(), recovery_key: None };
        let read = device::read(&about, Some(&status), UnixSeconds(0), 11).unwrap();
        assert_eq!(read, Reading::Multiple(vec![(0, Value::Integer(expected))]), "{code}");
    }
}

#[test]
fn a_sealed_recovery_key_is_read_as_the_initrd_left_it_and_is_absent_without_one() {
    let mut bench = bench();
    let reads = |objects: &DeviceObjects| objects.read(ids::RELEASE, 0, ids::release::RECOVERY_KEY);
    assert_eq!(reads(&bench.objects), Err(ObjectError::NotFound));
    let key = format!(
        r#"{{"format":1,"recipient":"x25519:{}","volume":"7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c11","sealed":"{}"}}"#,
        "ab".repeat(32),
        "cd".repeat(112)
    );
    bench.objects.about.recovery_key = Some(SealedRecoveryKey::parse(key.as_bytes()).unwrap());
    assert_eq!(reads(&bench.objects), Ok(text(key)));
}

#[test]
fn a_factory_reset_is_kept_before_the_service_hears_that_it_was_taken() {
    let mut bench = bench();
    *bench.disk.full.lock().unwrap() = true;
    assert!(matches!(bench.objects.execute(ids::DEVICE, 0, 5, ""), Err(ObjectError::Failed(_))));
    assert!(!*bench.facts.reset.borrow(), "an order that was not kept is none");
    *bench.disk.full.lock().unwrap() = false;
    assert_eq!(bench.objects.execute(ids::DEVICE, 0, 5, ""), Ok(()));
    assert!(*bench.disk.reset.lock().unwrap() && *bench.facts.reset.borrow());
}

#[test]
fn a_configuration_is_kept_before_it_is_taken_and_one_that_breaks_a_rule_changes_nothing() {
    let Bench { facts, disk, mut objects, .. } = bench();
    let target = Path::instance(ids::CONFIGURATION, 0);
    let write = |document: &str, generation: i64| {
        let entry = |resource, value: Value| Entry::new(Path::resource(ids::CONFIGURATION, 0, resource), value);
        vec![
            entry(ids::configuration::DOCUMENT, Value::String(document.to_owned())),
            entry(ids::configuration::GENERATION, Value::Integer(generation)),
        ]
    };
    let good = write(r#"{"hostname":"a"}"#, 1);
    assert!(!objects.objects().contains(&ids::CONFIGURATION));
    assert_eq!(
        objects.write(&target, WriteMode::Partial, &good),
        Err(ObjectError::NotAllowed),
        "a board without files"
    );
    facts.told.send_replace(Some(Told::default()));
    objects.refresh();
    assert!(objects.objects().contains(&ids::CONFIGURATION));

    objects.write(&target, WriteMode::Partial, &good).unwrap();
    let kept = disk.wish.lock().unwrap().clone().unwrap();
    assert_eq!((kept.generation(), kept.document()), (1, r#"{"hostname":"a"}"#));
    assert_eq!(*facts.wish.borrow(), Some(kept.clone()));
    for bad in [write(r#"{"hostname":"A b"}"#, 2), write("{}", -1), write("", 2)] {
        let refused = objects.write(&target, WriteMode::Partial, &bad);
        assert!(matches!(refused, Err(ObjectError::BadValue(_))), "{refused:?}");
    }
    *disk.full.lock().unwrap() = true;
    let refused = objects.write(&target, WriteMode::Partial, &write("{}", 2));
    assert!(matches!(refused, Err(ObjectError::Failed(_))), "{refused:?}");
    assert_eq!(*facts.wish.borrow(), Some(kept), "what was not kept was not taken");
    let generation = objects.read(ids::CONFIGURATION, 0, ids::configuration::GENERATION).unwrap();
    assert_eq!(generation, Reading::Single(Value::Integer(1)));
}

#[test]
fn what_was_measured_is_shown_until_it_is_acknowledged_by_a_device_that_measures() {
    use ids::metrics as resource;
    let Bench { facts, mut objects, .. } = bench();
    let target = Path::instance(ids::METRICS, 0);
    let write = |resource, number| vec![Entry::new(Path::resource(ids::METRICS, 0, resource), Value::Integer(number))];
    assert!(!objects.objects().contains(&ids::METRICS));
    let refused = objects.write(&target, WriteMode::Partial, &write(resource::BUDGET, 1));
    assert_eq!(refused, Err(ObjectError::NotAllowed), "a simulated device");
    facts.metrics.begin();
    assert!(objects.objects().contains(&ids::METRICS));

    let batch = |objects: &DeviceObjects| match objects.read(ids::METRICS, 0, resource::SAMPLES) {
        Ok(Reading::Single(Value::Opaque(bytes))) => Batch::decode(&bytes).unwrap(),
        other => panic!("the samples are {other:?}"),
    };
    assert!(batch(&objects).samples.is_empty());
    facts.metrics.sampled(Readings::default().with(Metric::CpuLoad, 250).with(Metric::Boots, 3));
    let read = |objects: &DeviceObjects, resource| objects.read(ids::METRICS, 0, resource);
    assert_eq!(read(&objects, 10), Ok(Reading::Single(Value::Float(0.25))));
    assert_eq!(read(&objects, 16), Ok(Reading::Single(Value::Float(3.0))));
    assert_eq!(read(&objects, 13), Err(ObjectError::NotFound), "no thermal zone");
    let sample = batch(&objects).samples[0];
    assert_eq!((sample.readings.get(Metric::CpuLoad), sample.age_s), (Some(250), 0));
    let number = i64::try_from(sample.number).unwrap();
    for bad in [write(resource::ACKNOWLEDGED, -1), write(resource::BUDGET, -5), write(resource::DROPPED, 1)] {
        let refused = objects.write(&target, WriteMode::Partial, &bad);
        assert!(matches!(refused, Err(ObjectError::BadValue(_))), "{refused:?}");
    }
    assert_eq!(read(&objects, resource::BUDGET), Ok(Reading::Single(Value::Integer(128 * 1024))));
    objects.write(&target, WriteMode::Partial, &write(resource::ACKNOWLEDGED, number)).unwrap();
    assert!(batch(&objects).samples.is_empty());
    objects.write(&target, WriteMode::Partial, &write(resource::BUDGET, 5000)).unwrap();
    assert_eq!(read(&objects, resource::BUDGET), Ok(Reading::Single(Value::Integer(5000))));
}

#[test]
fn a_job_is_kept_before_it_is_taken_and_the_same_one_again_does_nothing() {
    let Bench { facts, disk, mut objects, .. } = bench();
    let target = Path::instance(ids::JOB, 0);
    let write = |id: &str, kind: &str, arguments: &str| {
        let entry = |resource, text: &str| Entry::new(Path::resource(ids::JOB, 0, resource), text);
        vec![entry(ids::job::ID, id), entry(ids::job::KIND, kind), entry(ids::job::ARGUMENTS, arguments)]
    };
    let disk_check = write("a-1", "probe", r#"{"name":"disk"}"#);
    assert_eq!(objects.write(&target, WriteMode::Partial, &disk_check), Err(ObjectError::NotAllowed), "no worker");
    facts.jobs.send_replace(Some(crate::jobs::Ledger::default()));
    objects.refresh();
    assert!(objects.objects().contains(&ids::JOB));
    assert_eq!(string(&objects, ids::JOB, ids::job::STATE), "none");

    *disk.full.lock().unwrap() = true;
    let refused = objects.write(&target, WriteMode::Partial, &disk_check);
    assert!(matches!(refused, Err(ObjectError::Failed(_))), "{refused:?}");
    assert_eq!(facts.jobs.borrow().as_ref().unwrap().status().state, "none", "what was not kept was not taken");
    *disk.full.lock().unwrap() = false;
    objects.write(&target, WriteMode::Partial, &disk_check).unwrap();
    assert_eq!(disk.jobs.lock().unwrap().status().state, "running");
    assert_eq!(objects.write(&target, WriteMode::Partial, &disk_check), Ok(()), "it is under way");
    let busy = objects.write(&target, WriteMode::Partial, &write("a-2", "reboot", "{}"));
    assert_eq!(busy, Err(ObjectError::Failed("busy".to_owned())));
    for bad in [write("a-2", "shell", "{}"), write("a 2", "reboot", "{}"), write("a-2", "reboot", "[]")] {
        let refused = objects.write(&target, WriteMode::Partial, &bad);
        assert!(matches!(refused, Err(ObjectError::BadValue(_))), "{refused:?}");
    }
    let without = objects.write(&target, WriteMode::Partial, &disk_check[..2]);
    assert!(matches!(without, Err(ObjectError::BadValue(_))), "{without:?}");

    let changed = objects.refresh();
    assert!(changed.contains(&Path::resource(ids::JOB, 0, ids::job::STATE)), "{changed:?}");
    facts.jobs.send_modify(|jobs| {
        let id = crate::jobs::JobId::try_from("a-1".to_owned()).unwrap();
        assert!(jobs.as_mut().unwrap().end(&id, Ok("free_bytes 7\n".to_owned())));
    });
    assert_eq!(string(&objects, ids::JOB, ids::job::RESULT), "", "the state that was told is still the one of before");
    objects.refresh();
    let told =
        [ids::job::REPORTED_ID, ids::job::STATE, ids::job::RESULT].map(|wanted| string(&objects, ids::JOB, wanted));
    assert_eq!(told, ["a-1", "done", "free_bytes 7\n"]);
    assert_eq!(objects.write(&target, WriteMode::Partial, &disk_check), Ok(()));
    assert_eq!(string(&objects, ids::JOB, ids::job::STATE), "done", "it is not done twice");
}
