//! What an application writes, kept up to a size: a full file becomes `NAME.log.1`, and what was there before is gone.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::AppName;

use crate::store::Logs;

/// Two files of which the newer is written to. A log that cannot be written never stops an application: its lines are lost.
#[derive(Debug)]
pub struct CappedLog {
    path: PathBuf,
    older: PathBuf,
    /// Of one file.
    limit: u64,
    file: File,
    written: u64,
}

impl CappedLog {
    /// Opens the log of an application in `dir`; both files together hold at most `limit` bytes.
    pub fn open(dir: &Path, name: &AppName, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let [path, older] = Logs::files(name).map(|file| dir.join(file));
        let file = File::options().append(true).create(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, older, limit: limit / 2, file, written })
    }

    /// Adds bytes as they came.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(usize::try_from(self.limit.max(1)).unwrap_or(usize::MAX)) {
            let length = piece.len() as u64;
            if self.written > 0 && self.written.saturating_add(length) > self.limit {
                self.rotate()?;
            }
            self.file.write_all(piece)?;
            self.written = self.written.saturating_add(length);
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.older)?;
        self.file = File::options().append(true).create(true).open(&self.path)?;
        self.written = 0;
        Ok(())
    }
}

/// How fast an application's output is taken: what comes at once goes through, but one that never stops talking waits for its pipe, for
/// the medium wears with every byte. Times count from any fixed moment.
#[derive(Debug)]
pub struct Pace {
    left: u64,
    at: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { left: Self::BURST, at: Duration::ZERO }
    }
}

impl Pace {
    /// Bytes that are taken at once.
    const BURST: u64 = 512 * 1024;
    /// Bytes of a second after that.
    const PER_SECOND: u64 = 32 * 1024;
    /// Bytes that are read in one piece.
    pub const PIECE: usize = 16 * 1024;

    /// So many bytes were taken.
    pub fn take(&mut self, bytes: usize, now: Duration) {
        let left = self.left(now).saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        (self.left, self.at) = (left, now);
    }

    /// How long nothing more is taken.
    pub fn wait(&self, now: Duration) -> Duration {
        let missing = u64::try_from(Self::PIECE).unwrap_or(u64::MAX).saturating_sub(self.left(now));
        Duration::from_millis((missing * 1000).div_ceil(Self::PER_SECOND))
    }

    fn left(&self, now: Duration) -> u64 {
        let since = u64::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        self.left.saturating_add(since.saturating_mul(Self::PER_SECOND) / 1000).min(Self::BURST)
    }
}

/// The last bytes that an application has printed, at most `most`; none if it never ran on this device.
pub fn end_of_log(dir: &Path, name: &AppName, most: u64) -> io::Result<Option<Vec<u8>>> {
    let [newer, older] = Logs::files(name).map(|file| dir.join(file));
    let Some(newer) = last_bytes(&newer, most)? else { return Ok(None) };
    let room = most.saturating_sub(newer.len() as u64);
    // The file is renamed while we look, so that what it held may be missing once, never twice.
    let mut bytes = last_bytes(&older, room)?.unwrap_or_default();
    bytes.extend(newer);
    Ok(Some(bytes))
}

fn last_bytes(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let from = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_through_and_a_stream_is_slowed_to_its_rate() {
        let (mut pace, mut now, mut taken) = (Pace::default(), Duration::ZERO, 0);
        while now < Duration::from_secs(100) {
            match pace.wait(now) {
                Duration::ZERO => {
                    pace.take(Pace::PIECE, now);
                    taken += Pace::PIECE;
                }
                wait => now += wait,
            }
        }
        let most = (512 + 100 * 32 + 16) * 1024;
        assert!(taken <= most && taken >= most - 64 * 1024, "{taken} of {most}");
    }

    proptest! {
        // Each case makes real files.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_log_never_outgrows_its_limit_and_keeps_the_newest_bytes(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..30),
            limit in 2u64..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let name = AppName::new("hello").unwrap();
            let mut log = CappedLog::open(dir.path(), &name, limit).unwrap();
            let mut all = Vec::new();
            for piece in pieces {
                log.write(&piece).unwrap();
                all.extend(piece);
                let mut kept = fs::read(&log.older).unwrap_or_default();
                kept.extend(fs::read(&log.path).unwrap());
                prop_assert!(kept.len() as u64 <= limit);
                prop_assert!(all.ends_with(&kept));
                prop_assert!(kept.len() as u64 >= limit / 4 || kept.len() == all.len(), "{} of {}", kept.len(), all.len());
                let end = end_of_log(dir.path(), &name, limit / 2).unwrap().unwrap();
                prop_assert!(end.len() as u64 <= limit / 2 && kept.ends_with(&end));
                prop_assert!(end.len() as u64 == limit / 2 || end == kept);
            }
        }
    }
}
