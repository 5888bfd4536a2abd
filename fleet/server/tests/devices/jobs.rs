//! A device's part of a job over real TLS: written once, told by observation, and gone on with after the service was killed.

use fleet_api::{Job, JobBounds, JobDevice, RunProbe};
use protocol_lwm2m::{
    coap::{Code, ContentFormat, Message, OptionNumber},
    formats::{self, Entry},
    object::Path,
};
use protocol_types::{CommandState, EndpointName, JobState};

use crate::{
    clones::register,
    factory::Identity,
    service::{Service, until},
    wire::{Wire, enrol},
};

const JOB: &str = "/26244/0";

async fn away(service: &Service, name: &str) -> Identity {
    let factory = service.trusted_factory().await;
    enrol(service, &factory.device("default", name), name).await
}

async fn start(service: &Service) -> Job {
    let wanted = RunProbe { filter: String::new(), probe: "disk".to_owned(), bounds: JobBounds::default() };
    service.admin.run_probe(&wanted, None).await.unwrap()
}

/// Waits for the Write of a job and answers it; the id that it has.
async fn takes(wire: &mut Wire, code: Code) -> String {
    let asked = wire.asked_for(JOB).await.unwrap();
    assert_eq!(asked.code, Code::POST, "{asked:?}");
    let entries = formats::decode(ContentFormat::SENML_CBOR, &Path::instance(26_244, 0), &asked.payload).unwrap();
    let texts: Vec<_> = entries.iter().map(|entry| entry.value.as_str().unwrap().to_owned()).collect();
    assert_eq!(texts[1..], ["probe", r#"{"name":"disk"}"#]);
    wire.send(&Message::new(code).with_token(asked.token)).await.unwrap();
    texts[0].clone()
}

/// What a device says of its newest job.
fn told(asked: &Message, sequence: u32, (id, state, result): (&str, &str, &str)) -> Message {
    let entry = |resource, text: &str| Entry::new(Path::resource(26_244, 0, resource), text);
    let entries = [entry(3, state), entry(4, id), entry(5, ""), entry(6, ""), entry(7, result)];
    let payload = formats::encode(ContentFormat::SENML_CBOR, &Path::instance(26_244, 0), &entries).unwrap();
    let content = Message::new(Code::CONTENT).content(ContentFormat::SENML_CBOR, payload);
    content.with_uint(OptionNumber::OBSERVE, sequence).with_token(asked.token)
}

async fn observed(wire: &mut Wire) -> Message {
    let asked = wire.asked_for(JOB).await.unwrap();
    assert_eq!((asked.code, asked.options.uint(OptionNumber::OBSERVE)), (Code::GET, Some(0)));
    asked
}

async fn finished(service: &Service, job: &Job) -> Job {
    until("the job ends", async || {
        let shown = service.admin.job(&job.id).await.ok()?;
        (shown.state == JobState::Finished).then_some(shown)
    })
    .await
}

async fn part(service: &Service, job: &Job, name: &str) -> JobDevice {
    service.admin.job_device(&job.id, &EndpointName::new(name).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_device_does_its_part_and_what_it_brings_is_kept() {
    let service = Service::start().await;
    let identity = away(&service, "gate-42").await;
    let mut wire = register(&service, &identity, "gate-42").await;
    let job = start(&service).await;
    let id = takes(&mut wire, Code::CHANGED).await;
    let asked = observed(&mut wire).await;
    // What it had before is the past.
    wire.send(&told(&asked, 0, ("default-7-1", "done", "old"))).await.unwrap();
    wire.send(&told(&asked, 1, (&id, "running", ""))).await.unwrap();
    until("the device is at it", async || {
        (part(&service, &job, "gate-42").await.state == CommandState::Active).then_some(())
    })
    .await;
    wire.send(&told(&asked, 2, (&id, "done", "free_bytes 7\n"))).await.unwrap();
    assert_eq!(finished(&service, &job).await.devices.done, 1);
    let part = part(&service, &job, "gate-42").await;
    assert_eq!((part.state, part.result.as_deref()), (CommandState::Done, Some("free_bytes 7\n")));
}

#[tokio::test]
async fn a_part_under_way_is_written_again_under_the_same_id_after_the_service_was_killed() {
    let mut service = Service::start().await;
    let identity = away(&service, "gate-42").await;
    let mut wire = register(&service, &identity, "gate-42").await;
    let job = start(&service).await;
    let first = takes(&mut wire, Code::CHANGED).await;
    until("the device is at it", async || {
        (part(&service, &job, "gate-42").await.state == CommandState::Active).then_some(())
    })
    .await;
    service.crash_and_restart().await;
    drop(wire);
    let mut wire = register(&service, &identity, "gate-42").await;
    let again = takes(&mut wire, Code::CHANGED).await;
    assert_eq!(again, first, "the device knows it by its id and does nothing");
    let asked = observed(&mut wire).await;
    wire.send(&told(&asked, 0, (&first, "done", "free_bytes 7\n"))).await.unwrap();
    assert_eq!(finished(&service, &job).await.devices.done, 1);
}

#[tokio::test]
async fn a_device_that_takes_no_jobs_fails_and_the_job_ends_without_it() {
    let service = Service::start().await;
    let identity = away(&service, "gate-42").await;
    let mut wire = register(&service, &identity, "gate-42").await;
    let job = start(&service).await;
    takes(&mut wire, Code::NOT_FOUND).await;
    assert_eq!(finished(&service, &job).await.devices.failed, 1);
    let part = part(&service, &job, "gate-42").await;
    assert_eq!(part.reason_code.as_deref(), Some("not_supported"));
}
