//! Live commands and jobs: what an operator asks of a device itself at the terminal, while devices are off and the service is killed.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testbed::{
    crowd::{Factory, Simulated},
    until,
};

use crate::world::{ENDPOINT, PATIENCE, World};

/// Runs `mbl` with arguments that are typed in one line: exit code, standard output, standard error.
fn typed(world: &World, line: &str) -> (i32, String, String) {
    let words: Vec<&str> = line.split(' ').collect();
    world.stage.try_mbl(&words).unwrap()
}

/// What `mbl` prints, which must succeed.
fn printed(world: &World, line: &str) -> String {
    let (code, stdout, stderr) = typed(world, line);
    assert_eq!(code, 0, "mbl {line}: {stderr}");
    stdout
}

/// The newest command of the device.
fn newest(world: &World) -> Value {
    world.mbl(&format!("device commands {ENDPOINT} --limit 1"))[0].clone()
}

#[test]
fn fleet_a_value_is_read_and_written_on_a_device_and_what_has_a_door_of_its_own_is_refused() {
    let world = World::new();
    assert_eq!(printed(&world, &format!("device read {ENDPOINT} /3/0/1")), "host\n");
    let instance = printed(&world, &format!("device read {ENDPOINT} /3/0"));
    assert!(instance.contains(&format!("/3/0/2 string {ENDPOINT}\n")), "{instance}");

    let servers = world.mbl(&format!("device read {ENDPOINT} /1"));
    let values = servers["values"].as_array().unwrap();
    let pmin = values.iter().find(|value| value["path"].as_str().unwrap().ends_with("/2")).unwrap();
    let path = pmin["path"].as_str().unwrap();
    assert_eq!(pmin["type"], "integer");
    printed(&world, &format!("device write {ENDPOINT} {path} 2"));
    assert_eq!(printed(&world, &format!("device read {ENDPOINT} {path}")), "2\n");

    let (code, _, said) = typed(&world, &format!("device read {ENDPOINT} /3/0/9"));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("coap_4_04") && said.contains("it has nothing at this path"), "{said}");
    let (code, _, said) = typed(&world, &format!("device write {ENDPOINT} /26241/0/0 releases/9.9.9.json"));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("protected_path") && said.contains("mbl rollout start"), "{said}");
    let (code, _, said) = typed(&world, "device read nobody /3/0");
    assert_eq!(code, 3, "{said}");

    // What is observed comes to the terminal, and the command ends with its count.
    let seen = printed(&world, &format!("device observe {ENDPOINT} /3/0/1 --for 1m --count 1"));
    assert!(seen.trim_end().ends_with("/3/0/1 host"), "{seen}");
    assert_eq!(newest(&world)["state"], "cancelled", "nobody watches any more");
    let history = world.mbl(&format!("device history {ENDPOINT}")).to_string();
    assert!(history.contains("device.command_ended") && history.contains(path), "{history}");
    let audit = printed(&world, "audit list");
    assert!(audit.contains("write_resource") && audit.contains("read_resource"), "{audit}");
}

#[test]
fn fleet_a_device_that_is_off_gets_its_commands_when_it_is_on_again_although_the_service_was_killed_meanwhile() {
    let mut world = World::new();
    world.stage.power_off().unwrap();
    world.until_device("the device to be away", |device| device["device"]["connected"] == false);
    let (code, _, said) = typed(&world, &format!("device read {ENDPOINT} /3/0/1 --wait 1s"));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("it had promised to be heard by") && said.contains("is waiting until"), "{said}");
    let asked = newest(&world)["id"].as_str().unwrap().to_owned();
    let (code, _, said) = typed(&world, &format!("device execute {ENDPOINT} /3/0/4 --deadline 1s --wait 30s"));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("deadline"), "{said}");
    world.stage.service.restart().unwrap();
    world.power_on();
    let told = printed(&world, &format!("device command {ENDPOINT} {asked} --wait 1m"));
    assert_eq!(told, format!("{asked} {ENDPOINT} read /3/0/1 done\n  /3/0/1 string host\n"));
    let booted = world.booted();
    printed(&world, &format!("device read {ENDPOINT} /3/0/1"));
    assert_eq!(world.booted(), booted, "what expired was not done");
}

#[test]
fn fleet_an_execute_is_done_once_although_the_service_is_killed_around_it() {
    let mut world = World::new();
    let before = world.booted();
    world.mbl(&format!("device execute {ENDPOINT} /3/0/4 --wait 0s"));
    world.stage.service.restart().unwrap();
    until(PATIENCE, "the board to start anew or the service to say that it cannot know", || {
        let state = newest(&world)["state"].as_str().unwrap_or_default().to_owned();
        Ok((["done", "unknown"].contains(&state.as_str())).then_some(()))
    })
    .unwrap();
    world.until_device("the device to be back", |device| device["device"]["connected"] == true);
    let told = newest(&world);
    if told["state"] == "done" {
        until(PATIENCE, "the board to start anew", || Ok((world.booted() != before).then_some(()))).unwrap();
        world.until_device("the device to be back", |device| device["device"]["connected"] == true);
    }
    // Everything that is still to come has come once the device has answered something else.
    printed(&world, &format!("device read {ENDPOINT} /3/0/1 --wait 2m"));
    let once = world.booted();
    world.stage.service.restart().unwrap();
    world.until_device("the device to be back", |device| device["device"]["connected"] == true);
    printed(&world, &format!("device read {ENDPOINT} /3/0/1 --wait 2m"));
    assert_eq!(world.booted(), once, "it was done twice");
    assert_eq!(told["tries"], 1);
}

/// Another token for the administrator's programs: the first one went away with its first use.
fn first_token(world: &World) {
    let made = world.stage.service.command("first-token").unwrap().output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn fleet_a_job_over_several_devices_brings_what_they_have_and_says_which_could_not() {
    let mut world = World::new();
    first_token(&world);
    // Two devices whose agents take no jobs.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let others = runtime.block_on(async {
        let factory = Factory::open(&world.stage.service).await.unwrap();
        Simulated::enrol(&factory, 2).await.unwrap()
    });
    let (code, _, said) = typed(&world, "job start probe disk --all --watch");
    assert_eq!(code, 5, "two of three could not: {said}");
    let job = world.mbl("job list")[0].clone();
    assert_eq!((&job["state"], &job["devices"]["done"]), (&"finished".into(), &1.into()), "{job}");
    let id = job["id"].as_str().unwrap();
    let failed = world.mbl(&format!("job devices {id} --state failed"));
    let names: Vec<_> = failed.as_array().unwrap().iter().map(|device| device["endpoint"].as_str().unwrap()).collect();
    assert_eq!(names, ["load-0", "load-1"]);
    assert_eq!(failed[0]["reason_code"], "not_supported");
    let facts = printed(&world, &format!("job result {id} {ENDPOINT}"));
    assert!(facts.contains("free_bytes "), "{facts}");
    runtime.block_on(others.stop()).unwrap();

    let (code, _, said) = typed(&world, &format!("job start probe moon --device {ENDPOINT} --watch"));
    assert_eq!(code, 5, "{said}");
    let unknown = world.mbl("job list")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(world.mbl(&format!("job devices {unknown}"))[0]["reason_code"], "not_supported");

    printed(&world, &format!("job start logs --source agent --lines 50 --device {ENDPOINT} --watch"));
    let logs = world.mbl("job list")[0]["id"].as_str().unwrap().to_owned();
    printed(&world, &format!("job result {logs} {ENDPOINT} --output agent.log"));
    let log = std::fs::read_to_string(world.stage.at_operator("agent.log")).unwrap();
    assert!(log.contains("registered with the service") && log.lines().count() <= 50, "{log}");

    // A restart, while the service is killed: the device does it once and says so when both are back.
    let before = world.booted();
    let job = world.mbl(&format!("job start reboot --device {ENDPOINT}"));
    let id = job["id"].as_str().unwrap();
    world.stage.service.restart().unwrap();
    printed(&world, &format!("job watch {id} --time-limit 120"));
    let after = world.booted();
    assert_ne!(after, before, "it did not restart");
    printed(&world, &format!("device read {ENDPOINT} /3/0/1 --wait 2m"));
    assert_eq!(world.booted(), after, "it restarted twice");
    let history = world.mbl(&format!("device history {ENDPOINT}")).to_string();
    assert!(history.contains(&format!("\"job\":\"{id}\"")), "{history}");
}

#[test]
fn fleet_a_device_gets_a_new_key_for_its_certificate_and_comes_back_with_it_after_every_restart() {
    let world = World::new();
    let certificates = |world: &World| {
        let shown = world.mbl(&format!("device show {ENDPOINT}"));
        let listed = shown["certificates"].as_array().unwrap().iter();
        listed.map(|one| one["serial"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = certificates(&world);
    let kept = world.stage.device_dir().join("state/agent/enrolment.json");
    let key = |text: &str| serde_json::from_str::<Value>(text).unwrap()["value"]["key"].clone();
    assert!(key(&std::fs::read_to_string(&kept).unwrap()).is_null(), "the certificate is for the device key");

    printed(&world, &format!("job start rotate-key --device {ENDPOINT} --watch"));
    let first = key(&std::fs::read_to_string(&kept).unwrap());
    assert!(first.as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(printed(&world, &format!("device read {ENDPOINT} /3/0/1 --wait 1m")), "host\n");
    let after = certificates(&world);
    assert_eq!(after.len(), before.len() + 1);

    kill_process(world.process("mbl-agent"), Signal::KILL).unwrap();
    assert_eq!(printed(&world, &format!("device read {ENDPOINT} /3/0/1 --wait 1m")), "host\n");
    assert_eq!(certificates(&world), after, "it came back with what it had");
    assert_eq!(world.mbl(&format!("device show {ENDPOINT}"))["device"]["standing"], "active");

    printed(&world, &format!("job start rotate-key --device {ENDPOINT} --watch"));
    assert_ne!(key(&std::fs::read_to_string(&kept).unwrap()), first, "each one is another");
}

/// Has the device do a job to its end, with this exit code; its part in the job.
fn job(world: &World, what: &str, ends_with: i32) -> Value {
    let (code, _, said) = typed(world, &format!("job start {what} --device {ENDPOINT} --watch"));
    assert_eq!(code, ends_with, "{what}: {said}");
    let id = world.mbl("job list")[0]["id"].as_str().unwrap().to_owned();
    if ends_with == 0 {
        return world.mbl(&format!("job result {id} {ENDPOINT}"));
    }
    world.mbl(&format!("job devices {id}"))[0].clone()
}

#[test]
fn fleet_what_an_application_printed_and_what_a_declared_check_finds_come_by_a_job() {
    let world = World::new();
    // It says nothing by itself but for what it does not find.
    world.build_app("1.0.0", true);
    let recipe = world.stage.at_operator("app-1.0.0.toml");
    let talkative =
        std::fs::read_to_string(&recipe).unwrap().replace("\"httpd\", \"-f\"", "\"httpd\", \"-f\", \"-vv\"");
    std::fs::write(&recipe, talkative).unwrap();
    std::fs::remove_dir_all(world.stage.at_operator("hello-1.0.0")).unwrap();
    world.mbl("app build app-1.0.0.toml --out hello-1.0.0");
    let rollout = world.roll_out("1.0.0");
    world.until_rollout(&rollout, "succeeded");
    world.until_answer("hello from 1.0.0");
    let printed = job(&world, "logs --application hello --lines 1000", 0);
    let lines = printed["result"].as_str().unwrap();
    assert!(lines.contains("response:200") && lines.lines().count() <= 1000, "{printed}");
    let few = job(&world, "logs --application hello --lines 1", 0);
    assert_eq!(few["result"].as_str().unwrap().lines().count(), 1, "{few}");
    let missing = job(&world, "logs --application other", 5);
    assert_eq!(missing["reason_code"], "not_found", "{missing}");
    let none = job(&world, "logs --source kernel", 5);
    assert_eq!(none["reason_code"], "not_supported", "{none}");

    let declared = world.stage.device_dir().join("probes.d");
    std::fs::create_dir(&declared).unwrap();
    let check = "program = \"/bin/sh\"\narguments = [\"-c\", \"echo user $(id -u)\"]\n";
    std::fs::write(declared.join("who.toml"), check).unwrap();
    std::fs::write(declared.join("slow.toml"), "program = \"/bin/sleep\"\narguments = [\"60\"]\ntime_limit_s = 1\n")
        .unwrap();
    let unknown = job(&world, "probe who", 5);
    assert_eq!(unknown["reason_code"], "not_supported", "the agent read its declarations before: {unknown}");
    let before = world.process("mbl-agent");
    kill_process(before, Signal::KILL).unwrap();
    until(PATIENCE, "another agent", || {
        let found = world.stage.process("mbl-agent")?.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(found.filter(|found| *found != before))
    })
    .unwrap();
    let user = job(&world, "probe who", 0);
    assert_eq!(user["result"], "user 65534\n", "it runs as the agent does, without privileges");
    let late = job(&world, "probe slow", 5);
    assert!(late["reason"].as_str().unwrap().contains("did not end within 1 s"), "{late}");
}
