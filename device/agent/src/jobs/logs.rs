//! The end of a log file and, where that is too short, of the file before it. Never reads more than it hands in.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::ledger::RESULT_BYTES;

/// The last `lines` lines of the log at `path` and of `path` with `.1` behind it, at most as many bytes as a result has.
pub(super) fn tail(path: &Path, lines: u32) -> io::Result<String> {
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

fn last_lines(text: &str, lines: u32) -> &str {
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
