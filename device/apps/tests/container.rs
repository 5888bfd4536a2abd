//! Real containers by the real runtime, seen from inside.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::{
    AppName, Digest, Network, ReasonCode,
    socket::{ApplicationState, AppsToUpdater, GivenToApplication, SecretValue, UpdaterToApps},
};
use serde_json::json;
use support::{
    Device,
    image::{Image, Layer, Recipe, busybox},
    until,
};

const READY: &[&str] = &["/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/ready"];

/// Serves HTTP on `port` and leaves when asked.
fn web(port: u16, word: &str) -> String {
    format!(
        "trap 'kill $!; exit 0' TERM; mkdir -p /tmp/www; echo {word} > /tmp/www/ready; echo serving {word}; \
         httpd -f -p {port} -h /tmp/www & wait"
    )
}

/// Runs a script once on a device of its own; what it wrote.
fn output(recipe: Recipe) -> String {
    let image = recipe.build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    until("the end of the output", || device.log("hello").contains("the end"));
    device.log("hello")
}

fn script(body: &str) -> Recipe {
    Recipe::script(&format!("{body}\necho the end; trap exit TERM; sleep 600 & wait"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn an_application_is_prepared_run_ready_and_stopped_when_asked() {
    let image = Recipe::script(&web(8080, "hello")).ready(READY).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    device.run(&image);
    device.status("a started application", &image, |status| status.state == ApplicationState::Started);
    let status = device.ready(&image);
    assert_eq!((status.digest, status.restarts), (image.spec.digest, 0));
    assert!(device.stop() < Duration::from_secs(3), "it was killed instead of stopped");
    assert!(device.log("hello").contains("serving hello"));
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(device.state()).unwrap());
    assert_eq!(mode & 0o777, 0o700, "other users can read what applications wrote");
}

#[test]
fn the_agent_hears_of_every_change_too() {
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let is_ready = |statuses: Vec<protocol_types::socket::ApplicationStatus>| {
        statuses.iter().any(|status| status.state == ApplicationState::Ready && status.digest == image.spec.digest)
    };
    until("a status for the agent", || device.agent_heard(Duration::from_secs(1)).is_some_and(is_ready));
}

#[test]
fn an_application_has_no_capability_no_new_privileges_and_a_system_call_filter() {
    let said = output(script("cat /proc/self/status; cat /proc/1/status"));
    for line in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let values: Vec<_> = said.lines().filter_map(|l| l.strip_prefix(line)).collect();
        assert_eq!(values.len(), 2, "{said}");
        assert!(values.iter().all(|value| value.trim() == "0000000000000000"), "{line} {values:?}");
    }
    assert_eq!(said.matches("NoNewPrivs:\t1").count(), 2, "{said}");
    assert_eq!(said.matches("Seccomp:\t2").count(), 2, "{said}");
}

#[test]
fn the_ready_check_is_confined_like_the_application() {
    // The check passes only if it finds itself confined.
    let confined = "grep -q 'NoNewPrivs:.1' /proc/self/status && grep -q 'CapEff:.0000000000000000' /proc/self/status \
        && grep -q 'CapBnd:.0000000000000000' /proc/self/status && grep -q 'Seccomp:.2' /proc/self/status && test $GREETING = hello";
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").ready(&["/bin/sh", "-c", confined]).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
}

#[test]
fn an_application_reads_its_settings_and_is_started_anew_when_they_change_and_only_then() {
    let body = "trap exit TERM; cat /run/mbl/settings.json; echo; touch /run/mbl/mine || echo cannot write; echo the end; sleep 600 & wait";
    let image = Recipe::script(body).plain(Layer::new().folder("run")).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    // Each start says its settings, and then that it is at its end.
    let starts = |device: &Device, count: usize| {
        until("the end of a start", || device.log("hello").matches("the end\n").count() == count);
    };
    device.configure(&[("hello", r#"{"greeting":"hi"}"#)]);
    device.run(&image);
    device.ready(&image);
    starts(&device, 1);
    let first = device.log("hello");
    assert!(first.contains("{\"greeting\":\"hi\"}\n") && first.contains("cannot write"), "{first}");
    device.configure(&[("hello", r#"{"greeting":"hi"}"#), ("other", "{}")]);
    device.configure(&[("hello", r#"{"greeting":"ho"}"#)]);
    starts(&device, 2);
    let second = device.log("hello");
    assert_eq!(second.matches("{\"greeting\":\"ho\"}\n").count(), 1, "started once, for settings of its own: {second}");

    // They are there from the start on, before an agent has said anything.
    device.kill();
    device.start();
    device.run(&image);
    starts(&device, 3);
    assert_eq!(device.log("hello").matches("{\"greeting\":\"ho\"}\n").count(), 2);
    device.configure(&[]);
    starts(&device, 4);
    assert_eq!(device.log("hello").matches("{\"greeting\"").count(), 3);
}

#[test]
fn a_secret_is_a_file_in_memory_that_only_the_user_of_the_application_reads() {
    let body = "id -u; ls -ln /run/mbl/secrets; cat /run/mbl/secrets/token; echo; grep mbl/secrets /proc/mounts; \
                ls /run/mbl; echo the end; trap exit TERM; sleep 600 & wait";
    let as_user = |config: &mut serde_json::Value| config["config"]["User"] = json!("7:8");
    let image = Recipe::script(body).plain(Layer::new().folder("run")).config(as_user).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    let given = |value: &[u8]| GivenToApplication {
        settings: None,
        secrets: [("token".parse().unwrap(), SecretValue::new(value.to_vec()))].into(),
    };
    device.give([("hello", given(b"swordfish"))]);
    device.run(&image);
    device.ready(&image);
    until("the end of the output", || device.log("hello").contains("the end"));
    let said = device.log("hello");
    assert!(said.starts_with("7\n") && said.contains("swordfish\n"), "{said}");
    assert!(said.contains("-r--------") && said.contains(" 7 ") && said.contains(" 8 "), "{said}");
    assert!(said.contains("/run/mbl/secrets tmpfs ro,"), "{said}");
    assert!(!said.contains("settings.json"), "it has none");
    let kept = fs::read_to_string(device.state().join("settings.json")).unwrap();
    assert!(!kept.contains("token"), "{kept}");
    device.give([("hello", given(b"trout"))]);
    until("the new secret", || device.log("hello").contains("trout\n"));
    let _slow = device.stop();
    assert_eq!(
        walk(&device.state()).filter(|text| text.contains("swordfish")).count(),
        1,
        "only in what it wrote itself"
    );
}

/// The text of every file below a folder.
fn walk(folder: &std::path::Path) -> Box<dyn Iterator<Item = String>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Box::new(entries.flat_map(|path| match path.is_dir() && !path.is_symlink() {
        true => walk(&path),
        false => Box::new(std::iter::once(String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned())),
    }))
}

#[test]
fn forbidden_system_calls_fail_and_ordinary_ones_do_not() {
    let said = output(script(
        "unshare -U true && echo made a namespace; mount -t tmpfs none /tmp && echo mounted; \
         busybox hostname other && echo renamed; busybox date && echo told the time; busybox date -s 2000-01-01",
    ));
    assert!(said.contains("told the time"), "{said}");
    assert!(said.contains("can't set date"), "{said}");
    for forbidden in ["made a namespace", "mounted", "renamed"] {
        assert!(!said.contains(forbidden), "{said}");
    }
}

#[test]
fn root_inside_is_nobody_outside_and_owns_only_its_own_range() {
    let image = script("id").build();
    let mut device = Device::running(&["--first-uid", "3000000"]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    until("the end of the output", || device.log("hello").contains("the end"));
    assert!(device.log("hello").contains("uid=0 gid=0"));
    let rootfs = device.state().join("images").join(&device.unpacked()[0]).join("rootfs/bin/busybox");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(rootfs).unwrap()), 3_000_000);
}

#[test]
fn the_user_that_the_image_names_is_the_user_that_runs() {
    let passwd = Layer::new().folder("etc").file("etc/passwd", b"web:x:33:34:web:/:/bin/sh\n");
    let said = output(script("id").gzip(passwd).config(|c| c["config"]["User"] = json!("web")));
    assert!(said.contains("uid=33") && said.contains("gid=34"), "{said}");
}

#[test]
fn the_root_is_read_only_and_only_tmp_can_be_written() {
    let said = output(script(
        "touch /x && echo wrote root; touch /bin/x && echo wrote bin; touch /proc/sys/kernel/x && echo wrote proc; \
         touch /tmp/x && echo wrote tmp; ls /dev | tr '\\n' ' '",
    ));
    assert!(said.contains("wrote tmp") && !said.contains("wrote root") && !said.contains("wrote bin"), "{said}");
    assert!(!said.contains("wrote proc"), "{said}");
    assert!(!said.contains("vda") && !said.contains("mem "), "it sees devices of the machine: {said}");
}

#[test]
fn tmp_has_a_size() {
    let said =
        output(script("dd if=/dev/zero of=/tmp/x bs=1M count=64; ls -l /tmp").run(|run| run.memory_bytes = 96 << 20));
    let written: u64 = said
        .lines()
        .find(|l| l.ends_with(" x") || l.ends_with("/x"))
        .unwrap()
        .split_whitespace()
        .nth(4)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(written, 16 << 20, "{said}");
}

#[test]
fn an_application_without_network_sees_its_own_loopback_and_nothing_else() {
    let said =
        output(script("cat /proc/net/dev | grep -c : ; grep -q lo: /proc/net/dev && echo loopback; busybox ip a"));
    assert!(said.starts_with("1\nloopback\n"), "{said}");
    assert!(said.contains("LOOPBACK,UP"), "{said}");
}

#[test]
fn an_application_on_the_device_network_answers_there() {
    let port = free_port();
    let image = Recipe::script(&web(port, "hello")).run(|run| run.network = Network::Host).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    until("an answer", || get(port).is_some_and(|text| text.contains("hello")));
}

#[test]
fn from_a_namespace_without_network_the_device_network_is_reached_by_its_path() {
    let port = free_port();
    let check = format!("http://127.0.0.1:{port}/ready");
    let recipe = Recipe::script(&web(port, "hello")).ready(&["/bin/wget", "-q", "-O", "-", &check]);
    let image = recipe.run(|run| run.network = Network::Host).build();
    let ours = format!("/proc/{}/ns/net", std::process::id());
    let mut device = Device::new(&["--host-network", &ours]).through(&["unshare", "--net"]);
    device.start();
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    assert!(get(port).unwrap().contains("hello"));
    let own = fs::read_link(format!("/proc/{}/ns/net", device.pid())).unwrap();
    assert_ne!(own, fs::read_link(&ours).unwrap(), "mbl-apps itself has the device's network");
}

#[test]
fn an_application_that_takes_more_memory_than_its_limit_is_ended_and_started_again() {
    let greedy = "echo begun; x=0123456789abcdef; while true; do x=$x$x; done";
    let image = Recipe::script(greedy).run(|run| run.memory_bytes = 8 << 20).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let status = device.status("a second start", &image, |status| status.restarts >= 2);
    let reason = status.reason.map(|reason| reason.text).unwrap_or_default();
    assert!(status.state != ApplicationState::Waiting || reason.contains("signal 9"), "{reason}");
}

#[test]
fn control_groups_of_applications_lie_below_the_one_that_is_given() {
    let parent = format!("mbl-given-{}", std::process::id());
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&["--cgroup-parent", &format!("/{parent}")]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container_pid(&device, "hello"))).unwrap();
    let group = format!("/{parent}/mbl-{}-hello", instance(&device));
    assert!(groups.lines().any(|line| line.ends_with(&group)), "{groups}");
    device.stop();
    // Of version 1 there is one in each hierarchy, of version 2 one in all.
    let hierarchies = support::names("/sys/fs/cgroup".as_ref()).into_iter().map(|name| format!("{name}/{parent}"));
    let given = hierarchies.chain([parent.clone()]).map(|path| PathBuf::from("/sys/fs/cgroup").join(path));
    for folder in given.filter(|folder| folder.exists()) {
        fs::remove_dir(&folder).expect("the control group of an application was left");
    }
}

#[test]
fn an_application_cannot_have_more_processes_than_its_limit() {
    // The shell gives up at the first process that it cannot make.
    let body = "n=0; while [ $n -lt 40 ]; do sleep 600 & n=$((n+1)); echo process $n; done";
    let image = script(body).run(|run| run.pids = 12).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    device.status("its end", &image, |status| status.restarts == 1);
    let said = device.log("hello");
    assert!(said.contains("process 8\n") && said.contains("can't fork"), "{said}");
    assert!(!said.contains("process 12\n"), "{said}");
}

#[test]
fn an_application_that_is_killed_comes_back_and_is_ready_again() {
    let image = Recipe::script(&web(8080, "hello")).ready(READY).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    let pid = container_pid(&device, "hello");
    kill(pid);
    let waiting = device.status("the end of it", &image, |status| status.state == ApplicationState::Waiting);
    let reason = waiting.reason.unwrap();
    assert_eq!(reason.code, ReasonCode::ApplicationNotReady);
    assert!(reason.text.contains("signal 9"), "{reason}");
    let again = device.ready(&image);
    assert_eq!(again.restarts, 1);
}

#[test]
fn an_application_that_ends_at_once_is_tried_less_and_less_often() {
    let image = Recipe::script("echo tried; exit 3").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let begun = std::time::Instant::now();
    let status = device.status("four ends", &image, |status| status.restarts == 4);
    assert!(begun.elapsed() >= Duration::from_millis(1700), "waits do not grow: {:?}", begun.elapsed());
    if let Some(reason) = status.reason {
        assert!(reason.text.contains("status 3"), "{reason}");
    }
}

#[test]
fn an_application_that_never_becomes_ready_says_why() {
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").ready(&["/bin/sh", "-c", "exit 7"]).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let status = device.status("a failed check", &image, |status| status.reason.is_some());
    assert_eq!(status.state, ApplicationState::Started);
    assert!(status.reason.unwrap().text.contains("failed its ready check"), "no reason");
}

#[test]
fn a_ready_check_that_hangs_is_ended_and_leaves_no_process() {
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").ready(&["/bin/sh", "-c", "sleep 4242 | cat"]);
    let image = image.build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let status = device.status("a check that timed out", &image, |status| status.reason.is_some());
    assert!(status.reason.unwrap().text.contains("within 2s"));
    until("the end of all that the check has started", || pids_of_container(&device, "hello").len() <= 2);
    assert_eq!(zombies_of(device.pid()), 0, "a check left a zombie");
}

#[test]
fn an_application_that_ends_again_and_again_is_never_ready() {
    let image = Recipe::script("exit 3").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let status = device.status("a third start", &image, |status| {
        assert_ne!(status.state, ApplicationState::Ready);
        status.restarts >= 2
    });
    assert!(status.reason.unwrap().text.contains('3'), "it says how it ended");
}

#[test]
fn a_program_that_is_not_there_makes_the_application_failed() {
    let image = Recipe::new(&["/bin/nothing"]).gzip(busybox()).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    let status = device.status("a failed start", &image, |status| status.state == ApplicationState::Failed);
    let reason = status.reason.unwrap();
    assert!(reason.text.contains("/bin/nothing"), "{reason}");
}

#[test]
fn what_an_application_writes_is_kept_up_to_a_size() {
    let image = Recipe::script("yes 0123456789; trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&["--log-bytes", "100000"]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    until("a rotated log", || device.state().join("logs/hello.log.1").exists());
    for _ in 0..20 {
        let size: u64 = ["logs/hello.log", "logs/hello.log.1"]
            .iter()
            .filter_map(|file| fs::metadata(device.state().join(file)).ok())
            .map(|meta| meta.len())
            .sum();
        assert!(size <= 100_000, "{size}");
        device.agent_heard(Duration::from_millis(20));
    }
}

#[test]
fn a_new_set_replaces_what_changed_leaves_the_rest_alone_and_the_old_set_comes_back() {
    let port = free_port();
    let steady = Recipe::script("trap exit TERM; sleep 600 & wait").named("steady").build();
    let host = |word: &str| Recipe::script(&web(port, word)).run(|run| run.network = Network::Host).build();
    let (old, new) = (host("old"), host("new"));
    let mut device = Device::running(&[]);
    [&steady, &old, &new].into_iter().for_each(|image| device.offer(image));
    let set = |release: &str, image: &Image| UpdaterToApps::Run {
        release: Digest::of(release.as_bytes()),
        applications: vec![steady.spec.clone(), image.spec.clone()],
    };
    let both_ready = |device: &mut Device, release: &str, image: &Image| {
        device.hear("both ready", |message| match message {
            AppsToUpdater::Status { release: Some(of), applications } if *of == Digest::of(release.as_bytes()) => {
                let ready = applications.iter().filter(|status| status.state == ApplicationState::Ready);
                (ready.count() == 2 && applications.iter().any(|s| s.digest == image.spec.digest)).then_some(())
            }
            _ => None,
        });
    };
    device.send(set("1.0", &old));
    both_ready(&mut device, "1.0", &old);
    until("the old answer", || get(port).is_some_and(|text| text.contains("old")));
    let pid = container_pid(&device, "steady");
    for (release, image, word) in [("1.1", &new, "new"), ("1.0", &old, "old")] {
        device.send(set(release, image));
        both_ready(&mut device, release, image);
        until("the answer of the set", || get(port).is_some_and(|text| text.contains(word)));
        assert_eq!(container_pid(&device, "steady"), pid, "an unchanged application was restarted");
    }
}

#[test]
fn an_application_that_cannot_hear_the_request_to_stop_costs_no_time() {
    let image = Recipe::script("echo up; exec sleep 600").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    // Before its own program runs, the process is the runtime's, which treats signals in its own way.
    until("the application's program", || device.log("hello").contains("up"));
    assert!(device.stop() < Duration::from_secs(2));
}

#[test]
fn an_application_that_hears_the_request_but_does_not_stop_is_killed_in_time() {
    let image = Recipe::script("trap 'echo no' TERM; echo trapped; while true; do sleep 1; done").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    until("the trap", || device.log("hello").contains("trapped"));
    let taken = device.stop();
    assert!(taken >= Duration::from_secs(3) && taken < Duration::from_secs(9), "{taken:?}");
    assert!(device.log("hello").contains("no"), "it was never asked");
}

/// A container that not even a kill ends, until this is dropped: the first version of control groups lets nobody out of a frozen one.
struct Frozen(PathBuf);

impl Frozen {
    /// None where there is only the second version.
    fn new(device: &Device, name: &str) -> Option<Self> {
        let group = format!("/sys/fs/cgroup/freezer/mbl-{}-{name}/freezer.state", instance(device));
        if !Path::new("/sys/fs/cgroup/freezer").is_dir() {
            return None;
        }
        fs::write(&group, "FROZEN").unwrap();
        Some(Self(group.into()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(fs::write(&self.0, "THAWED"));
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "nothing else says that something was not tested")]
fn an_application_that_a_kill_does_not_end_is_told_of_and_holds_up_no_other() {
    let steady = |word: &str| Recipe::script(&format!("echo {word}; trap exit TERM; sleep 600 & wait"));
    let (old, new, other) = (steady("old").build(), steady("new").build(), steady("other").named("other").build());
    let mut device = Device::running(&[]);
    [&old, &new, &other].into_iter().for_each(|image| device.offer(image));
    device.run(&old);
    device.ready(&old);
    let pid = container_pid(&device, "hello");
    let Some(frozen) = Frozen::new(&device, "hello") else {
        eprintln!("not tested here: no container outlives a kill without the freezer of version 1 of control groups");
        return;
    };
    let release = Digest::of(b"new and other");
    let applications = vec![new.spec.clone(), other.spec.clone()];
    device.send(UpdaterToApps::Prepare { release, applications: applications.clone() });
    device.prepared(release).unwrap();
    device.send(UpdaterToApps::Run { release, applications });
    device.send(UpdaterToApps::Retain { releases: vec![release] });
    let hello = |device: &mut Device, what: &str, wanted: ApplicationState| {
        device.hear(what, |message| match message {
            AppsToUpdater::Status { release: Some(of), applications } if *of == release => {
                let is = |name: &str, state: ApplicationState| {
                    applications.iter().find(|status| status.name.as_str() == name && status.state == state)
                };
                is("other", ApplicationState::Ready).and(is("hello", wanted)).cloned()
            }
            _ => None,
        })
    };
    let stuck = hello(&mut device, "the other application and a reason", ApplicationState::Failed);
    let reason = stuck.reason.unwrap().text;
    assert!(reason.contains("application hello does not end") && reason.contains("restart the device"), "{reason}");
    assert_eq!(stuck.digest, new.spec.digest);
    assert!(alive(pid) && !device.log("hello").contains("new"), "a second one was started beside it");
    assert_eq!(device.unpacked().len(), 3, "its image is in use");
    drop(frozen);
    hello(&mut device, "the new one", ApplicationState::Ready);
    assert!(!alive(pid));
    until("the room of the old image", || device.unpacked().len() == 2);
}

#[test]
fn an_empty_set_stops_everything() {
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    let pid = container_pid(&device, "hello");
    device.send(UpdaterToApps::Run { release: Digest::of(b"none"), applications: vec![] });
    device.hear("an empty status", |message| match message {
        AppsToUpdater::Status { release, applications } if *release == Some(Digest::of(b"none")) => {
            applications.is_empty().then_some(())
        }
        _ => None,
    });
    until("the end of the container", || !alive(pid));
}

#[test]
fn a_set_that_cannot_be_prepared_disturbs_nothing() {
    let good = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let bad = Recipe::script("trap exit TERM; sleep 600 & wait").gzip(Layer::new().file("../x", b"")).build();
    let mut device = Device::running(&[]);
    device.offer(&good);
    device.offer(&bad);
    device.run(&good);
    device.ready(&good);
    let pid = container_pid(&device, "hello");
    device.run(&bad);
    assert_eq!(device.prepared(bad.release()).unwrap_err().code, ReasonCode::UnsafeLayer);
    assert!(alive(pid));
    assert_eq!(container_pid(&device, "hello"), pid);
}

#[test]
fn storage_of_sets_that_nobody_needs_is_freed() {
    let one = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let two = Recipe::script("trap exit TERM; sleep 601 & wait").plain(Layer::new().file("more", b"more")).build();
    let mut device = Device::running(&[]);
    device.offer(&one);
    device.offer(&two);
    device.prepare(&two).unwrap();
    device.run(&one);
    device.ready(&one);
    assert_eq!(device.unpacked().len(), 2);
    device.send(UpdaterToApps::Retain { releases: vec![] });
    until("free storage", || device.unpacked().len() == 1);
    until("free storage", || support::names(&device.state().join("blobs/sha256")).len() == one.blobs.len());
    // What runs was not named and stayed; what went can come again.
    assert!(alive(container_pid(&device, "hello")));
    device.prepare(&two).unwrap();
}

#[test]
fn an_application_that_is_still_stopping_keeps_its_image_until_it_is_gone() {
    let body = "trap 'sleep 1; cat /more; exit' TERM; echo up; sleep 600 & wait";
    let old = Recipe::script(body).plain(Layer::new().file("more", b"still here\n")).build();
    let new = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    device.offer(&old);
    device.offer(&new);
    device.run(&old);
    until("its first words", || device.log("hello").contains("up"));
    device.prepare(&new).unwrap();
    device.run(&new);
    device.send(UpdaterToApps::Retain { releases: vec![new.release()] });
    device.ready(&new);
    assert!(device.log("hello").contains("still here"), "its image was emptied: {}", device.log("hello"));
    until("the room of the old image", || device.unpacked().len() == 1);
}

#[test]
fn layers_lie_on_each_other_as_the_specification_says() {
    let lower = Layer::new()
        .folder("a")
        .file("a/hidden", b"lower")
        .file("a/kept", b"lower")
        .folder("opaque")
        .file("opaque/lower", b"lower")
        .file("becomes-folder", b"lower")
        .folder("becomes-file")
        .file("becomes-file/x", b"lower")
        .file("linked", b"lower")
        .hardlink("alias", "linked");
    let upper = Layer::new()
        .file("opaque/upper", b"upper")
        .file("opaque/.wh..wh..opq", b"")
        .file("a/.wh.hidden", b"")
        .folder("becomes-folder")
        .file("becomes-folder/x", b"upper")
        .file("becomes-file", b"upper")
        .file("linked", b"upper");
    let image = Recipe::new(&["/x"]).plain(lower).zstd(upper).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    let root = device.state().join("images").join(&device.unpacked()[0]).join("rootfs");
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    assert_eq!(text("a/hidden"), None);
    assert_eq!(text("a/kept").as_deref(), Some("lower"));
    assert_eq!(
        support::names(&root.join("opaque")),
        ["upper"],
        "a whiteout hides lower layers only, wherever it stands"
    );
    assert_eq!(text("becomes-folder/x").as_deref(), Some("upper"));
    assert_eq!(text("becomes-file").as_deref(), Some("upper"));
    assert_eq!(text("linked").as_deref(), Some("upper"));
    assert_eq!(text("alias").as_deref(), Some("lower"), "a file was written through its other name");
}

#[test]
fn crun_runs_the_same_application() {
    // Debian's crun refuses a hybrid control group hierarchy, so it is shown one without the unified part.
    let image = Recipe::script(&web(8080, "hello")).ready(READY).build();
    let hide = "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec \"$@\"";
    let mut device = Device::new(&["--runtime", "crun"]).through(&["unshare", "--mount", "sh", "-c", hide, "sh"]);
    device.start();
    device.offer(&image);
    device.run(&image);
    device.ready(&image);
    let status = fs::read_to_string(format!("/proc/{}/status", container_pid(&device, "hello"))).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
}

/// What sets this device apart from others on this machine.
fn instance(device: &Device) -> String {
    let dir = device.dir.path().canonicalize().unwrap();
    Digest::of(dir.to_str().unwrap().as_bytes()).hex()[..12].to_owned()
}

/// The process id that the runtime recorded for a container.
fn container_pid(device: &Device, name: &str) -> i32 {
    let name = AppName::new(name).unwrap();
    let file = format!("/run/mbl-apps/{}/bundles/{name}/pid", instance(device));
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}")).trim().parse().unwrap()
}

/// Processes in the same pid namespace as the container's first one.
fn pids_of_container(device: &Device, name: &str) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(container_pid(device, name));
    let all = support::names(std::path::Path::new("/proc"));
    all.iter().filter_map(|name| name.parse().ok()).filter(|pid| namespace(*pid) == own).collect()
}

fn zombies_of(parent: u32) -> usize {
    let all = support::names(std::path::Path::new("/proc"));
    let stats = all.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let fields = stats.filter_map(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim().to_owned()));
    fields.filter(|rest| rest.starts_with(&format!("Z {parent} "))).count()
}

fn alive(pid: i32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
