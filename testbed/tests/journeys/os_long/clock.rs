//! A board whose clock is wrong by decades: it registers and updates all the same.

use crate::{
    os::{DEVELOPMENT, NEWER, owners},
    site::{Release, Site},
};

fn updates_although_it_is(year: &str) {
    let (first, newer) = (owners(DEVELOPMENT), owners(NEWER));
    let mut site = Site::registered(&first);
    site.machine.arguments(&["-rtc", &format!("base={year}-01-01T00:00:00")]);
    site.power_on();
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
    // Neither what the kernel took for the time nor what systemd made of it may matter.
    let said = site.machine.said();
    assert!(said.contains(&format!("setting system clock to {year}-")), "the clock was right: {said}");
}

#[test]
fn os_a_board_whose_clock_says_1970_registers_and_updates() {
    updates_although_it_is("1970");
}

#[test]
fn os_a_board_whose_clock_says_2099_registers_and_updates() {
    updates_although_it_is("2099");
}
