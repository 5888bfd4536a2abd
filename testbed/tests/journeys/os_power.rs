//! Power cuts while the operating system is updated, on two boards side by side. `MBL_TEST_CUTS` says how many on both together,
//! `MBL_TEST_SEED` repeats the moments of a run.

use std::{
    hash::{BuildHasher as _, RandomState},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use protocol_types::{Digest, boot::BootEntry};
use testbed::{images::measured, medium::Medium, until};

use crate::{
    environment::number,
    os::{DEVELOPMENT, NEWER, owners},
    site::{FIRST, Release, Site},
};

const NEXT: &str = "1.1.0";
/// Cuts without `MBL_TEST_CUTS`: as many as the short run has time for.
const CUTS: u64 = 2;
const MACHINES: u64 = 2;

/// A board whose power fails again and again while it goes from one release to the other and back.
struct Chaos {
    site: Site,
    /// Digests of the signed kernel images that may be on the disk.
    whole: [Digest; 2],
    wanted: &'static str,
    rollout: String,
}

impl Chaos {
    /// Starts the next rollout if the last one has ended; it must have ended well.
    fn go_on(&mut self) {
        let shown = self.site.mbl(&format!("rollout show {}", self.rollout));
        let device = &shown["devices"][0];
        match device["state"].as_str().unwrap() {
            "succeeded" => self.wanted = if self.wanted == NEXT { FIRST } else { NEXT },
            // Every try of the new system was cut off: to the loader it is one that does not start.
            "rolled_back" => assert_eq!(device["reason"]["code"], "boot_failed", "{shown}"),
            "failed" => panic!("the update failed: {shown}"),
            _ => return,
        }
        self.rollout = self.site.start(self.wanted);
    }

    /// Cuts the power and looks at the disk: whatever the loader may choose now must be a whole system.
    fn cut(&mut self) {
        self.site.machine.cut_power().unwrap();
        let medium = Medium::new(&self.site.machine.disk()).unwrap();
        let entries = medium.entries().unwrap();
        let bootable: Vec<BootEntry> = entries.iter().copied().filter(BootEntry::is_bootable).collect();
        assert!(!bootable.is_empty(), "nothing can be booted: {entries:?}");
        for entry in bootable {
            let image = medium.image(entry).unwrap();
            assert!(self.whole.contains(&Digest::of(&image)), "{entry} is neither the old nor the new system");
            medium.check_slot(entry.slot, &image).unwrap();
        }
    }
}

/// One board of a run: which one, how many cuts it gets, and what says when.
struct Turn {
    machine: u64,
    cuts: u64,
    seed: u64,
}

impl Turn {
    /// A moment within `span`, always the same for a cut of a run.
    fn moment(&self, cut: u64, span: Duration) -> Duration {
        let luck = Digest::of(&[self.seed, self.machine, cut].map(u64::to_be_bytes).concat());
        let luck = u32::from_be_bytes(*luck.as_bytes().first_chunk().unwrap());
        span.mul_f64(f64::from(luck) / f64::from(u32::MAX))
    }

    /// Begins with a board that was saved while it ran; each further cut finds it where the one before has left it.
    fn run(&self, [old, new]: [&Path; 2]) {
        let whole = [old, new].map(|build| Digest::of(&std::fs::read(build.join("signed/uki.efi")).unwrap()));
        // A board that starts and updates is busy for about this long. It goes on with what the cut before has left, so that restarts and
        // trials get their cuts, too.
        let span = Site::usual_start(old) * 2;
        let site = Site::running(old);
        // The way back is a release, too: the image that the board came with.
        site.publish(&Release::of_os(FIRST, old));
        let rollout = site.roll_out(&Release::of_os(NEXT, new));
        let mut chaos = Chaos { site, whole, wanted: NEXT, rollout };
        for cut in 0..self.cuts {
            chaos.go_on();
            let moment = Instant::now() + self.moment(cut, span);
            until(span + Duration::from_secs(60), "the moment of the cut", || {
                Ok((Instant::now() >= moment).then_some(()))
            })
            .unwrap();
            chaos.cut();
            chaos.site.machine.power_on().unwrap();
        }
        for _round in 0..2 {
            let ended = chaos.site.until_rollout_ends(&chaos.rollout);
            if ended["devices"][0]["state"] == "succeeded" {
                break;
            }
            chaos.go_on();
        }
        let ended = chaos.site.until_rollout_ends(&chaos.rollout);
        assert_eq!(ended["devices"][0]["state"], "succeeded", "board {}, seed {}: {ended}", self.machine, self.seed);
        chaos.site.until_version(chaos.wanted);
    }
}

#[test]
fn os_a_board_that_loses_power_at_any_moment_of_an_update_has_a_whole_system_and_ends_in_the_new_one() {
    let seed = number("MBL_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one("moments"));
    let cuts = number("MBL_TEST_CUTS").unwrap_or(CUTS);
    say(&format!("MBL_TEST_CUTS={cuts} MBL_TEST_SEED={seed}"));
    let (old, new) = (owners(DEVELOPMENT), owners(NEWER));
    let began = Instant::now();
    thread::scope(|scope| {
        for machine in 0..MACHINES {
            let turn = Turn { machine, cuts: (cuts + machine) / MACHINES, seed };
            let builds = [old.as_path(), new.as_path()];
            scope.spawn(move || turn.run(builds));
        }
    });
    measured(&format!("{cuts} power cuts, seed {seed}"), began.elapsed()).unwrap();
}

#[expect(clippy::print_stderr, reason = "whoever repeats a failure needs the seed")]
fn say(text: &str) {
    eprintln!("{text}");
}
