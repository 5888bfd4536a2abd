//! A log file that cannot fill the disk: at its limit it becomes `NAME.1`, in place of an older one. Never fails its writer.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Bytes in one log file; with its predecessor, a log takes at most twice as many.
const LIMIT: u64 = 1024 * 1024;

/// One log.
#[derive(Debug)]
pub struct CappedLog {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl CappedLog {
    /// The log at `path`, which is made with the first line.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, length: 0 }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let file = open(&self.path)?;
            self.length = file.metadata()?.len();
            self.file = Some(file);
        }
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.length > 0 && self.length.saturating_add(more) > LIMIT {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
            self.file = Some(open(&self.path)?);
            self.length = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.length += more;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Write for CappedLog {
    /// Takes all of `bytes`. What a full disk refuses is lost: a process must not stop because its log cannot grow.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.append(bytes).is_err() {
            self.file = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_takes_at_most_twice_its_limit_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut log = CappedLog::new(&path);
        for line in 0..5000 {
            log.write_all(format!("{line:0>999}\n").as_bytes()).unwrap();
        }
        let total: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2 * LIMIT, "{total}");
        assert!(fs::read_to_string(&path).unwrap().ends_with(&format!("{:0>999}\n", 4999)));
    }

    #[test]
    fn a_log_without_room_does_not_stop_its_writer() {
        let mut log = CappedLog::new("/proc/no-such-folder/agent.log");
        assert!(writeln!(log, "lost").is_ok());
    }
}
