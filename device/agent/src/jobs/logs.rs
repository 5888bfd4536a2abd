//! Where a board has its logs, and the end of one. Never reads more than it hands in.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use super::{child::ChildError, journal, ledger::RESULT_BYTES, order::SystemLog};

/// Where a board has the logs of its system.
#[derive(Clone, Debug)]
pub(super) enum Logs {
    /// A file each in this folder, on the board `host`.
    Files(PathBuf),
    /// The journal of the operating system.
    Journal,
}

/// A log that is not handed in.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The board has no such log.
    #[error("this board has no log of its {}", .0.as_str())]
    None(SystemLog),
    /// The file cannot be read.
    #[error("cannot read the log")]
    File(#[from] io::Error),
    /// The journal does not answer.
    #[error("cannot read the journal")]
    Journal(#[from] ChildError),
}

impl Logs {
    /// The last `lines` lines of the log of a part of the system.
    pub(super) async fn end(&self, of: SystemLog, lines: u32) -> Result<String, LogError> {
        match self {
            // It runs on somebody else's kernel.
            Self::Files(_) if of == SystemLog::Kernel => Err(LogError::None(of)),
            Self::Files(folder) => Ok(tail(&folder.join(format!("{}.log", of.as_str())), lines)?),
            Self::Journal => Ok(journal::end(of, lines).await?),
        }
    }
}

/// The last `lines` lines of the log at `path` and of `path` with `.1` behind it, at most as many bytes as a result has.
fn tail(path: &Path, lines: u32) -> io::Result<String> {
    let mut older = path.to_owned().into_os_string();
    older.push(".1");
    let mut bytes = last_bytes(path, RESULT_BYTES)?;
    if bytes.len() < RESULT_BYTES {
        match last_bytes(Path::new(&older), RESULT_BYTES - bytes.len()) {
            Ok(mut before) => {
                before.append(&mut bytes);
                bytes = before;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(last_lines(&String::from_utf8_lossy(&bytes), lines).to_owned())
}

fn last_bytes(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let from = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `lines` lines of a text.
pub(super) fn last_lines(text: &str, lines: u32) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    match body.rmatch_indices('\n').nth(wanted.saturating_sub(1)) {
        Some((at, _)) => &text[at + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_come_also_from_the_file_before_and_never_more_than_a_result() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        assert_eq!(tail(&path, 3).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "three\nfour\n").unwrap();
        assert_eq!(tail(&path, 1).unwrap(), "four\n");
        assert_eq!(tail(&path, 9).unwrap(), "three\nfour\n");
        std::fs::write(folder.path().join("agent.log.1"), "one\ntwo\n").unwrap();
        assert_eq!(tail(&path, 3).unwrap(), "two\nthree\nfour\n");
        std::fs::write(&path, "line of some length\n".repeat(10_000)).unwrap();
        let much = tail(&path, 1000).unwrap();
        assert!(much.len() <= RESULT_BYTES && much.ends_with("length\n"));
        assert_eq!(last_lines("", 5), "");
        assert_eq!(last_lines("a\n\nb", 2), "\nb");
    }
}
