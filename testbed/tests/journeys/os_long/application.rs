//! An application on the image: installed through the service, confined by `crun`, judged together with the system.

use crate::{
    os::{DEVELOPMENT, NEWER, owners},
    site::{APP, Release, Site},
};

/// Seconds that a release here has for its proof.
const TIME_LIMIT: u32 = 150;

#[test]
fn os_an_application_runs_confined_and_one_that_is_not_ready_takes_its_system_back() {
    let mut site = Site::running(&owners(DEVELOPMENT));
    let good = site.build_app("1.0.1", "ready");
    let release = Release { os: None, app: Some(&good), ..Release::of_os("1.0.1", "".as_ref()) };
    let rollout = site.roll_out(&release);
    site.until_rollout(&rollout, "succeeded");
    let shown = site.until_runs("1.0.1", "a");
    let components = shown["components"].as_array().unwrap();
    let app = components.iter().find(|component| component["name"] == format!("application/{APP}")).unwrap();
    assert_eq!(app["version"], "1.0.1", "{shown}");
    // What it said of itself, seen from outside.
    let seen = site.shell(
        "p=$(pgrep -x confined); grep -E '^(NoNewPrivs|Seccomp):|^CapBnd' /proc/$p/status; cat /proc/$p/cgroup; \
         cat /sys/fs/cgroup$(cut -d: -f3 /proc/$p/cgroup)/memory.max",
    );
    let group = "0::/system.slice/mbl-apps.service/mbl-";
    for fact in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", group, "16777216"] {
        assert!(seen.contains(fact), "no {fact:?} in {seen}");
    }

    let never = site.build_app("1.1.0", "never");
    let newer = owners(NEWER);
    let bad = Release { app: Some(&never), time_limit: TIME_LIMIT, ..Release::of_os("1.1.0", &newer) };
    let rollout = site.roll_out(&bad);
    let shown = site.until_rollout(&rollout, "rolled_back");
    assert_eq!(shown["devices"][0]["reason"]["code"], "application_not_ready", "{shown}");
    site.until_runs("1.0.1", "a");
    let said = site.machine.said();
    assert!(said.contains("mbl-init: starting slot b"), "the new system was never tried");
}
