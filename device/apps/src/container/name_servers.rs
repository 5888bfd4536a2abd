//! The name servers that an application on the device's network sees: a file of its bundle that follows the device's own. A link or a
//! file that the network's manager replaces cannot be bound itself: the container would keep what was there when it started.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest `resolv.conf` that is passed on, in bytes.
const MOST: u64 = 64 * 1024;

/// What an application sees as `/etc/resolv.conf`.
#[derive(Debug)]
pub struct NameServers {
    source: PathBuf,
    shown: File,
    bytes: Vec<u8>,
    /// When to look again; times count from any fixed moment.
    due: Duration,
}

impl NameServers {
    /// How often to look whether the device has others.
    const LOOK_EVERY: Duration = Duration::from_secs(5);

    /// Shows what `source` says at `now` in a new file `at`; nothing as long as there is no such file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn show(source: &Path, at: &Path, now: Duration) -> io::Result<Self> {
        let shown = OpenOptions::new().write(true).create_new(true).mode(0o644).open(at)?;
        let mut servers = Self { source: source.to_owned(), shown, bytes: Vec::new(), due: now };
        servers.follow(now)?;
        Ok(servers)
    }

    /// How long there is nothing to look at.
    pub fn wait(&self, now: Duration) -> Duration {
        self.due.saturating_sub(now)
    }

    /// Shows what the device's file says, if it is time to look. One that is gone or cannot be read leaves what is shown.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn follow(&mut self, now: Duration) -> io::Result<()> {
        if now < self.due {
            return Ok(());
        }
        self.due = now + Self::LOOK_EVERY;
        let mut bytes = Vec::new();
        let read = fs::File::open(&self.source).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
        if read.is_err() || bytes == self.bytes {
            return Ok(());
        }
        self.shown.write_all_at(&bytes, 0)?;
        self.shown.set_len(u64::try_from(bytes.len()).unwrap_or(MOST))?;
        self.bytes = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_comes_later_and_is_replaced_is_followed_in_the_same_inode() {
        let folder = tempfile::tempdir().unwrap();
        let (source, at) = (folder.path().join("manager.conf"), folder.path().join("shown"));
        let link = folder.path().join("resolv.conf");
        std::os::unix::fs::symlink(&source, &link).unwrap();
        let mut servers = NameServers::show(&link, &at, Duration::ZERO).unwrap();
        let mut inside = File::open(&at).unwrap();
        let mut seen = || {
            let mut text = String::new();
            io::Seek::rewind(&mut inside).unwrap();
            inside.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(seen(), "");
        let mut now = Duration::ZERO;
        for text in ["nameserver 192.0.2.1\nnameserver 192.0.2.2\n", "nameserver 192.0.2.3\n"] {
            fs::write(folder.path().join("new"), text).unwrap();
            fs::rename(folder.path().join("new"), &source).unwrap();
            let before = seen();
            servers.follow(now).unwrap();
            assert_eq!(seen(), before, "it is not time yet");
            now += servers.wait(now);
            servers.follow(now).unwrap();
            assert_eq!(seen(), text);
        }
        fs::remove_file(&source).unwrap();
        servers.follow(now + servers.wait(now)).unwrap();
        assert_eq!(seen(), "nameserver 192.0.2.3\n", "what was known is better than nothing");
    }
}
