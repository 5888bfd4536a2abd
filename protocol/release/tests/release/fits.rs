//! Which releases a device takes although, or because, they are rightly signed: board, architecture, updater, floor.

use protocol_release::{
    document::Release,
    workflow::{Clock, Device},
};
use protocol_types::{SecurityVersion, UnixSeconds};

use crate::{
    device::{visit, visit_as},
    world::{World, device, path},
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// The verdict on release 1.1.0 after `change`, on `device`.
fn verdict(device: Device, change: impl FnOnce(&mut Release)) -> &'static str {
    let mut world = World::new(NOW);
    let mut release = world.release("1.1.0");
    change(&mut release);
    let wish = world.list(&release);
    world.next_versions();
    world.publish();
    visit_as(device, &world.served, world.provisioned(), &wish, Clock { now: NOW, not_before: NOW }).verdict()
}

#[test]
fn a_release_is_for_the_boards_architectures_and_updaters_that_it_names() {
    assert_eq!(verdict(device(), |_| {}), "verified");
    assert_eq!(verdict(device(), |r| r.components[0].boards = vec!["qemu-arm64".parse().unwrap()]), "wrong_board");
    assert_eq!(
        verdict(device(), |r| r.components[1].architectures = vec!["aarch64".parse().unwrap()]),
        "wrong_architecture"
    );
    assert_eq!(verdict(device(), |r| r.components[2].minimum_updater = 2), "updater_too_old");
    assert_eq!(verdict(Device { updater: 2, ..device() }, |r| r.components[2].minimum_updater = 2), "verified");
    let any = |release: &mut Release| {
        for component in &mut release.components[1..] {
            (component.boards, component.architectures) = (vec![], vec![]);
        }
    };
    assert_eq!(verdict(device(), any), "verified");
}

#[test]
fn a_floor_that_the_key_store_cannot_hold_is_refused_before_anything_is_brought() {
    let sixty_four = || Device { highest_floor: SecurityVersion(64), ..device() };
    let raising =
        |release: &mut Release| (release.security_version, release.raises_floor) = (SecurityVersion(65), true);
    assert_eq!(verdict(sixty_four(), raising), "floor_too_high");
    assert_eq!(verdict(sixty_four(), |release| release.security_version = SecurityVersion(65)), "verified");
    let highest =
        |release: &mut Release| (release.security_version, release.raises_floor) = (SecurityVersion(64), true);
    assert_eq!(verdict(sixty_four(), highest), "verified");
}

#[test]
fn an_index_for_another_board_is_refused_although_the_release_says_nothing_of_boards() {
    let other = Device { board: "rpi4".parse().unwrap(), ..device() };
    assert_eq!(verdict(other, |release| release.components[0].boards.clear()), "wrong_board");
}

#[test]
fn a_refused_board_costs_no_further_request() {
    let mut world = World::new(NOW);
    let mut release = world.release("1.1.0");
    release.components[0].boards = vec!["qemu-arm64".parse().unwrap()];
    let wish = world.list(&release);
    world.next_versions();
    world.publish();
    let visit = visit(&world.served, world.provisioned(), &wish, NOW);
    assert_eq!(visit.asked.last(), Some(&wish.digest.to_string()));
}

#[test]
fn a_release_under_the_path_of_another_version_is_refused() {
    let mut world = World::new(NOW);
    let release = world.release("1.1.0");
    let wish = world.list_bytes(path("releases/1.2.0.json"), &release.to_bytes().unwrap());
    world.next_versions();
    world.publish();
    assert_eq!(visit(&world.served, world.provisioned(), &wish, NOW).verdict(), "malformed_release");
}

#[test]
fn a_release_below_the_floor_is_refused_and_one_at_the_floor_is_not() {
    let mut world = World::new(NOW);
    let mut release = world.release("2.0.0");
    release.security_version = SecurityVersion(3);
    let wish = world.list(&release);
    world.next_versions();
    world.publish();
    let mut state = world.running();
    state.raise_floor(SecurityVersion(3));
    state.raise_floor(SecurityVersion(2));
    assert_eq!(state.floor(), SecurityVersion(3), "a floor never sinks");
    assert_eq!(visit(&world.served, state.clone(), &world.wish("1.0.0"), NOW).verdict(), "below_security_floor");
    assert_eq!(visit(&world.served, state, &wish, NOW).verdict(), "verified");
}

#[test]
fn a_verified_release_names_everything_that_is_to_be_installed() {
    let world = World::new(NOW);
    let release = world.first_visit("1.0.0").outcome.unwrap();
    assert_eq!(release.digest, world.wish("1.0.0").digest);
    let os = release.os.as_ref().unwrap();
    assert_eq!(Some(&os.component), release.release.os());
    assert_eq!(os.index.root_digest(), os.index.sections.first().map(|root| root.blocks.digest));
    let names: Vec<_> = release.applications.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["hello"]);
}

#[test]
fn a_release_without_an_os_asks_nothing_of_its_publisher() {
    let mut world = World::new(NOW);
    let mut release = world.release("1.1.0");
    release.components.remove(0);
    let wish = world.list(&release);
    world.next_versions();
    world.publish();
    world.served.metadata.retain(|name, _| !name.ends_with(".os.json"));
    let visit = visit(&world.served, world.provisioned(), &wish, NOW);
    assert_eq!(visit.verdict(), "verified", "{:?}", visit.outcome);
    assert!(visit.outcome.unwrap().os.is_none());
}
