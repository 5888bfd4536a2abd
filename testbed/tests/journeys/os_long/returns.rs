//! Releases of the operating system that are no good: the board returns to the one before and says why.

use std::time::Instant;

use testbed::images::measured;

use crate::{
    os::{DEVELOPMENT, NEWER, owners},
    site::{FIRST, Release, Site},
};

/// Seconds that a release here has for its proof, from the start of the updater.
const TIME_LIMIT: u32 = 150;
/// What only a system that was tried says.
const TRIED: &str = "mbl-init: starting slot b";

/// Rolls out a system that fails in the way of `fault`, and waits until the board has left it for this reason; all that it said.
fn returns(fault: &str, reason: &str) -> String {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let mut site = Site::running(&first);
    site.arm_fault(fault);
    let began = Instant::now();
    let rollout = site.roll_out(&Release { time_limit: TIME_LIMIT, ..Release::of_os("1.1.0", &newer) });
    let shown = site.until_rollout(&rollout, "rolled_back");
    measured(&format!("return after the fault `{fault}`"), began.elapsed()).unwrap();
    assert_eq!(shown["devices"][0]["reason"]["code"], reason, "{shown}");
    site.until_runs(FIRST, "a");
    site.machine.said()
}

#[test]
fn os_a_system_whose_kernel_panics_is_left_after_its_tries_and_the_service_shows_why() {
    let said = returns("panic", "boot_failed");
    assert_eq!(said.matches(TRIED).count(), 3, "three tries");
    assert_eq!(said.matches("] Kernel panic - not syncing: sysrq triggered crash").count(), 3, "it panicked in each");
}

#[test]
fn os_a_system_that_hangs_before_its_verdict_is_ended_by_the_watchdog_and_left() {
    let said = returns("hang", "boot_failed");
    assert_eq!(said.matches(TRIED).count(), 3, "three tries");
    assert_eq!(said.matches("softdog: Initiating system reboot").count(), 3, "the watchdog ended each");
}

#[test]
fn os_a_system_whose_agent_cannot_register_is_left_at_its_time_limit() {
    let said = returns("agent", "agent_not_registered");
    assert_eq!(said.matches(TRIED).count(), 1, "a bad verdict ends the trial at once");
}
