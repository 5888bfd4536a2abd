//! A board whose clock is wrong by decades: it registers and updates all the same.

use crate::{
    os::{DEVELOPMENT, NEWER, owners},
    site::{Release, Site},
};

fn updates_although_it_is(year: &str) {
    let (mut site, newer) = (Site::registered(&owners(DEVELOPMENT)), owners(NEWER));
    site.machine.arguments(&["-rtc", &format!("base={year}-01-01T00:00:00")]);
    site.power_on();
    let date = site.shell("date +%Y");
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
    // systemd knows that it cannot be before the image was made.
    let wrong = date.trim().parse::<u32>().unwrap();
    assert!(wrong.to_string() == year || year == "1970", "the clock was right: {date}");
}

#[test]
fn os_a_board_whose_clock_says_1970_registers_and_updates() {
    updates_although_it_is("1970");
}

#[test]
fn os_a_board_whose_clock_says_2099_registers_and_updates() {
    updates_although_it_is("2099");
}
