//! Says how far the system came, so that its start does not count as one that failed (`docs/formats/boot.md`, "Starts that do not last").
//! Never decides by the count: the initrd does.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use device_disk::starts::StartCount;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use tracing::warn;

/// Where the initrd counts, below the device's folder.
const FOLDER: &str = "state";
/// How long the updater runs until the system has come up.
const UP: Duration = Duration::from_secs(15);
/// How long the updater runs until the start does not count any more.
const LASTED: Duration = Duration::from_secs(60);

/// The count of starts, until it is taken away.
#[derive(Debug)]
pub(crate) struct Starts {
    folder: PathBuf,
    is_up: bool,
    is_counted: bool,
}

impl Starts {
    pub(crate) fn of(device_dir: &Path) -> Self {
        Self { folder: device_dir.join(FOLDER), is_up: false, is_counted: true }
    }

    /// Lessens the count or takes it away if the updater has run for long enough; how long to wait for the next of the two.
    pub(crate) fn look(&mut self, elapsed: Duration) -> Option<Duration> {
        if self.is_counted && elapsed >= LASTED {
            self.forget();
        }
        if self.is_counted && !self.is_up && elapsed >= UP {
            self.is_up = true;
            self.warn(StartCount::note_up(&self.folder));
        }
        let next = if self.is_up { LASTED } else { UP };
        self.is_counted.then(|| next.saturating_sub(elapsed))
    }

    /// From now on, whoever ends the updater in order takes the count away first: a system that is asked to go down has lasted.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn forget_at_the_end(device_dir: &Path) -> io::Result<()> {
        let (mut signals, mut starts) = (Signals::new([SIGINT, SIGTERM])?, Self::of(device_dir));
        let wait = move || {
            for signal in signals.forever() {
                starts.forget();
                if let Err(e) = emulate_default_handler(signal) {
                    warn!(signal, cause = %e, "cannot end as asked");
                }
            }
        };
        thread::Builder::new().name("end".to_owned()).stack_size(64 * 1024).spawn(wait).map(drop)
    }

    /// Takes the count away.
    pub(crate) fn forget(&mut self) {
        self.is_counted = false;
        self.warn(StartCount::forget(&self.folder));
    }

    fn warn(&self, noted: io::Result<()>) {
        if let Err(e) = noted {
            warn!(folder = %self.folder.display(), cause = %e, "this start counts as one that failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protocol_types::boot::BootEntry;

    use super::*;

    #[test]
    fn a_start_counts_for_less_after_fifteen_seconds_and_for_nothing_after_a_minute() {
        let device = tempfile::tempdir().unwrap();
        let folder = device.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        StartCount::begin(&folder, BootEntry::parse("mbl-5-b.efi").unwrap()).unwrap();
        let number = || StartCount::load(&folder).unwrap().map(|count| count.number);
        let mut starts = Starts::of(device.path());
        assert_eq!(starts.look(Duration::from_secs(5)), Some(Duration::from_secs(10)));
        assert_eq!(number(), Some(StartCount::NOT_UP));
        assert_eq!(starts.look(Duration::from_secs(20)), Some(Duration::from_secs(40)));
        assert_eq!(number(), Some(StartCount::NOT_LASTING));
        assert_eq!(starts.look(LASTED), None);
        assert_eq!(number(), None);
        assert_eq!(starts.look(LASTED * 2), None, "a board that counts nothing is none the worse");
    }
}
