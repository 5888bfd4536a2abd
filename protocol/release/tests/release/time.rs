//! Devices that were off for years, and clocks that are wrong.

use protocol_release::{
    metadata::MAX_ROOTS_A_CHECK,
    signing::{Holders, OnlineDraft},
    workflow::{Clock, TrustedState, Warning, Wish},
};
use protocol_types::UnixSeconds;

use crate::{
    device::{Visit, visit, visit_as},
    world::{DAY, World, YEAR, device, key},
};

/// 2027-01-15.
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const IN_1970: UnixSeconds = UnixSeconds(3);
const IN_2099: UnixSeconds = UnixSeconds(4_070_908_800);

fn visit_at(world: &World, state: TrustedState, wish: &Wish, now: UnixSeconds, not_before: UnixSeconds) -> Visit {
    visit_as(device(), &world.served, state, wish, Clock { now, not_before })
}

#[test]
fn a_device_that_was_off_for_ten_years_installs_the_newest_release() {
    let mut world = World::new(NOW);
    let state = world.running();
    // Every quarter an officer leaves, the release key and the service's keys change, and everything is signed afresh.
    for quarter in 0..40 {
        world.now = UnixSeconds(world.now.0 + YEAR / 4);
        let old = world.officers.clone();
        world.officers[quarter % 3] = key();
        world.release_key = key();
        (world.snapshot_key, world.timestamp_key) = (key(), key());
        world.root.root.keys = world.officers.iter().map(|officer| officer.public().clone()).collect();
        world.root.targets = Holders::one(world.release_key.public());
        world.root.snapshot = Holders::one(world.snapshot_key.public());
        world.root.timestamp = Holders::one(world.timestamp_key.public());
        world.root.expires = UnixSeconds(world.now.0 + YEAR);
        let (kept, new) = (&old[(quarter + 1) % 3], &world.officers[quarter % 3].clone());
        let other = old[(quarter + 2) % 3].clone();
        world.rotate_signed_by(&[kept, &other, new]);
    }
    let later = UnixSeconds(world.now.0 + YEAR);
    world.targets.expires = later;
    for draft in world.delegated.values_mut() {
        draft.expires = later;
    }
    world.pass(0);
    let wish = world.publish_release("9.0.0");
    let visit = visit(&world.served, state, &wish, world.now);
    assert_eq!(visit.verdict(), "verified", "{:?}", visit.outcome);
    assert_eq!(visit.state.root_version(), 41);
    assert_eq!(visit.warnings, [], "ten years off are no reason to doubt the clock");
}

#[test]
fn more_rotations_than_one_check_walks_are_walked_by_the_next() {
    let mut world = World::new(NOW);
    let rotations = MAX_ROOTS_A_CHECK + 10;
    for _ in 0..rotations {
        world.rotate();
    }
    world.replace_service_keys();
    world.sign_online();
    let first = world.first_visit("1.0.0");
    assert_eq!(first.verdict(), "unknown_key", "the service's keys are named by a root that was not reached yet");
    assert_eq!(first.state.root_version(), u64::from(MAX_ROOTS_A_CHECK) + 1);
    let second = visit(&world.served, first.state, &world.wish("1.0.0"), NOW);
    assert_eq!(second.verdict(), "verified");
    assert_eq!(second.state.root_version(), u64::from(rotations) + 2);
}

#[test]
fn a_clock_in_1970_neither_revives_what_expired_nor_hinders_what_holds() {
    let mut world = World::new(NOW);
    let state = world.running();
    let visit = visit_at(&world, state.clone(), &world.wish("1.0.0"), IN_1970, UnixSeconds(0));
    assert_eq!(visit.verdict(), "verified");
    assert_eq!(visit.warnings, [Warning::ClockBehind { now: IN_1970, used: NOW }]);

    // The targets expire; a device that saw a later time does not fall for an earlier one.
    let expired = world.targets.expires;
    world.pass(2 * YEAR + DAY);
    let later = world.running_despite_expiry(state);
    let visit = visit_at(&world, later, &world.wish("1.0.0"), IN_1970, UnixSeconds(expired.0 + 1));
    assert_eq!(visit.verdict(), "metadata_expired");
}

#[test]
fn a_device_without_any_memory_of_time_uses_that_of_its_build() {
    let world = World::new(NOW);
    let not_before = UnixSeconds(world.targets.expires.0 + 1);
    let visit = visit_at(&world, world.provisioned(), &world.wish("1.0.0"), IN_1970, not_before);
    assert_eq!(visit.verdict(), "metadata_expired");
    assert_eq!(visit.warnings[0], Warning::ClockBehind { now: IN_1970, used: not_before });
}

#[test]
fn a_clock_in_2099_refuses_today_and_poisons_nothing_for_tomorrow() {
    let mut world = World::new(NOW);
    let state = world.running();
    let wish = world.publish_release("1.1.0");
    let wrong = visit_at(&world, state.clone(), &wish, IN_2099, UnixSeconds(0));
    assert_eq!(wrong.verdict(), "metadata_expired");
    assert!(matches!(wrong.warnings[0], Warning::ClockAhead { now: IN_2099, .. }), "{:?}", wrong.warnings);
    assert_eq!(wrong.state.seen(), state.seen());
    let right = visit(&world.served, wrong.state, &wish, NOW);
    assert_eq!(right.verdict(), "verified");
}

#[test]
fn a_newer_root_is_fetched_even_when_everything_that_is_trusted_has_expired() {
    let mut world = World::new(NOW);
    let state = world.running();
    world.rotate();
    let visit = visit_at(&world, state, &world.wish("1.0.0"), IN_2099, UnixSeconds(0));
    assert_eq!(visit.verdict(), "metadata_expired");
    assert_eq!(visit.state.root_version(), 2);
}

#[test]
fn a_clock_that_is_ahead_moves_the_proven_time_no_further_than_a_timestamp_holds() {
    let mut world = World::new(NOW);
    let ahead = UnixSeconds(NOW.0 + YEAR);
    let visit = visit_at(&world, world.running(), &world.wish("1.0.0"), ahead, UnixSeconds(0));
    assert_eq!(visit.verdict(), "verified", "targets hold for two years, an expired timestamp is a warning");
    assert_eq!(visit.warnings.len(), 2, "{:?}", visit.warnings);
    assert_eq!(visit.state.seen(), NOW, "what had expired proves no time");
    // The clock is repaired, and targets that would have expired by the wrong clock still install.
    world.targets.expires = UnixSeconds(NOW.0 + YEAR / 2);
    let wish = world.publish_release("1.1.0");
    assert_eq!(self::visit(&world.served, visit.state, &wish, NOW).verdict(), "verified");
}

#[test]
fn a_time_proven_by_stolen_keys_is_forgotten_when_the_officers_replace_them() {
    let mut world = World::new(NOW);
    let honest = world.clone();
    // The thief signs a timestamp and snapshot that hold for long, and tells the device a time shortly before the targets expire.
    let far = UnixSeconds(world.targets.expires.0 - DAY);
    world.online = OnlineDraft { snapshot_expires: IN_2099, timestamp_expires: IN_2099, ..world.online };
    world.sign_online();
    let robbed = visit(&world.served, world.running(), &world.wish("1.0.0"), far);
    assert_eq!((robbed.verdict(), robbed.state.seen()), ("verified", far));

    let mut world = honest;
    world.replace_service_keys();
    world.targets.expires = UnixSeconds(NOW.0 + YEAR);
    let wish = world.publish_release("1.1.0");
    let visit = visit(&world.served, robbed.state, &wish, NOW);
    assert_eq!((visit.verdict(), visit.state.seen()), ("verified", NOW));
}

#[test]
fn a_repository_that_stands_still_is_installed_from_with_a_warning_until_its_targets_expire() {
    let world = World::new(NOW);
    let mut state = world.running();
    for (after, verdict, warnings) in
        [(DAY / 2, "verified", 0), (30 * DAY, "verified", 2), (2 * YEAR, "metadata_expired", 2)]
    {
        let visit = visit(&world.served, state, &world.wish("1.0.0"), UnixSeconds(NOW.0 + after));
        assert_eq!((visit.verdict(), visit.warnings.len()), (verdict, warnings), "{:?}", visit.warnings);
        state = visit.state;
    }
}

impl World {
    /// The state of a device that checked after the targets had expired: nothing new is trusted but what the service signed.
    fn running_despite_expiry(&self, state: TrustedState) -> TrustedState {
        let visit = visit(&self.served, state, &self.wish("1.0.0"), self.now);
        assert_eq!(visit.verdict(), "metadata_expired");
        visit.state
    }
}
