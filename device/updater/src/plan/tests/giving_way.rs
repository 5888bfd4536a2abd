//! A confirmed system that does not come up any more gives way to the other slot.

use protocol_types::RunningFirmware;

use super::*;
use crate::record::{Installed, tests::pending};

/// A world in which 1.2.0 was confirmed in slot b and gave way to the system in slot a.
fn world_without_its_system() -> World {
    let mut world = settled_world(2, "r1", ApplicationState::Ready);
    world.give_way();
    assert_eq!(world.plan.running.slot, Slot::A);
    world
}

#[test]
fn it_is_brought_again_if_it_is_still_wished_for_and_keeps_its_applications_until_then() {
    let mut world = world_without_its_system();
    assert!(world.disk.b.is_some(), "its applications would travel again");
    let checks = world.checked.len();
    // What is durable is enough, and a second start in the old system changes nothing.
    world.boot();
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    assert_eq!(world.checked.len(), checks + 1);
}

#[test]
fn one_that_gives_way_again_is_brought_again_only_for_another_rollout() {
    let mut world = world_without_its_system();
    bring_to_trial(&mut world, 2, "r1");
    world.tell(ready("1.2.0", ApplicationState::Ready));
    assert_eq!((world.plan.running.slot, phase(&world)), (Slot::B, Phase::Succeeded));
    world.give_way();
    let checks = world.checked.len();
    for _ in 0..3 {
        world.tell(Fact::Desired(wish("1.2.0", "r1")));
        let status = world.plan.status(SecurityVersion(0));
        assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::BootFailed));
        world.boot();
    }
    assert_eq!(world.checked.len(), checks);
    world.tell(Fact::Desired(wish("1.2.0", "r2")));
    assert_eq!(world.checked.len(), checks + 1);
}

#[test]
fn one_that_somebody_passed_over_at_the_loaders_menu_keeps_its_release_and_applications() {
    let mut world = settled_world(2, "r1", ApplicationState::Ready);
    let (old, new) = (world.entries[0], world.entries[1]);
    assert_eq!((old.slot, new.slot), (Slot::A, Slot::B));
    world.restart(old);
    world.tell(Fact::TrustedTime(UnixSeconds(10_000)));
    world.restart(new);
    assert_eq!(world.plan.status(SecurityVersion(0)).running.version.to_string(), "1.2.0");
}

#[test]
fn a_release_without_an_operating_system_is_refused_by_a_system_that_stands_in_for_a_newer_one() {
    let mut world = world_without_its_system();
    let ask = |world: &mut World, minor, with_os: bool| {
        world.tell(Fact::Contact(Some(ONLINE)));
        world.tell(Fact::Desired(wish(&format!("1.{minor}.0"), "r2")));
        world.asked = None;
        let mut goal = goal(minor);
        goal.os = goal.os.filter(|_| with_os);
        world.tell(Fact::Checked(goal));
    };
    ask(&mut world, 4, false);
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::BootFailed));
    // One that was made for the system that runs now ends that.
    ask(&mut world, 1, true);
    while world.asked.is_some() {
        world.answer(9);
    }
    world.tell(ready("1.1.0", ApplicationState::Ready));
    assert_eq!((world.plan.running.slot, phase(&world)), (Slot::A, Phase::Succeeded));
    ask(&mut world, 4, false);
    assert_ne!(phase(&world), Phase::Failed);
}

#[test]
fn a_system_with_firmware_that_was_kept_is_not_confirmed_again_after_it_gave_way() {
    for (tries, goes_on) in
        [(Tries { left: 2, done: 1 }, true), (Tries { left: 0, done: 3 }, true), (Tries::GAVE_WAY, false)]
    {
        let old = BootEntry { generation: 1, slot: Slot::A, tries: None };
        let new = BootEntry { generation: 2, slot: Slot::B, tries: Some(tries) };
        let pending = Pending { verdict: Some(Verdict::Keep), firmware: Some(Slot::B), ..pending() };
        let installed = Installed { root: root(0), os_security_version: None, note: note("1.0.0") };
        let record = Record { a: Some(installed), pending: Some(pending), ..Record::default() };
        let firmware = Firmware { running: RunningFirmware { slot: Slot::B, digest: None }, on_trial: None };
        let running = Running { firmware: Some(firmware), ..running(old, [Some(root(0)), None]) };
        let (plan, steps) = Plan::start(record, running, &[old, new], ROOM, 0);
        assert_eq!(steps.contains(&Step::Confirm(2)), goes_on, "{tries:?}: {steps:?}");
        let phase = plan.status(SecurityVersion(0)).phase;
        assert_eq!(phase == Phase::RolledBack, !goes_on, "{phase}");
    }
}
