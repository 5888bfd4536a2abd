//! Says that the system has come up, so that its start does not count as one that failed (`docs/formats/boot.md`, "Starts that do not last").
//! Never reads the count: the initrd keeps it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use tracing::warn;

/// Where the initrd counts, below the device's folder.
const FILE: &str = "state/starts";
/// How long the updater runs until the system counts as one that came up.
const LASTED: Duration = Duration::from_secs(60);

/// The count of starts, until it is taken away.
#[derive(Debug)]
pub(crate) struct Starts {
    file: PathBuf,
    is_counted: bool,
}

impl Starts {
    pub(crate) fn of(device_dir: &Path) -> Self {
        Self { file: device_dir.join(FILE), is_counted: true }
    }

    /// Takes the count away if the updater has run for long enough; how long to wait until then.
    pub(crate) fn look(&mut self, elapsed: Duration) -> Option<Duration> {
        if self.is_counted && elapsed >= LASTED {
            self.forget();
        }
        self.is_counted.then(|| LASTED.saturating_sub(elapsed))
    }

    /// From now on, whoever ends the updater in order takes the count away first: a system that is asked to go down has come up.
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
        match fs::remove_file(&self.file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                warn!(file = %self.file.display(), cause = %e, "this start counts as one that failed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_has_come_up_once_the_updater_has_run_for_a_minute() {
        let device = tempfile::tempdir().unwrap();
        let file = device.path().join(FILE);
        fs::create_dir(device.path().join("state")).unwrap();
        fs::write(&file, "mbl-5-b.efi 3\n").unwrap();
        let mut starts = Starts::of(device.path());
        assert_eq!(starts.look(Duration::from_secs(20)), Some(Duration::from_secs(40)));
        assert!(file.exists());
        assert_eq!(starts.look(LASTED), None);
        assert!(!file.exists());
        assert_eq!(starts.look(LASTED * 2), None, "a board that counts nothing is none the worse");
    }
}
