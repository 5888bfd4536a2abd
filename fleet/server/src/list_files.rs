//! Enrolment lists on disk while an operation goes through them: `lists/ACCOUNT/NAME`. A list is whole and on the disk before its
//! operation is asked for, and goes away after its end.

use std::{
    collections::HashSet,
    fs,
    io::{self, BufRead, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use fleet_store::{HeadFault, LineFault, ListHead, ListLine, MAX_LINE_BYTES};
use protocol_types::AccountName;
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt as _,
    task::spawn_blocking,
};

use crate::durable;

/// Where the lists of all accounts lie. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ListFiles {
    folder: PathBuf,
}

/// Lines of a list that follow each other.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<ListLine>,
    /// Where the next line begins.
    pub(crate) next: String,
    /// Whether there is no next line.
    pub(crate) is_end: bool,
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadListError {
    #[error("cannot read the list")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Head(#[from] HeadFault),
    #[error("`{0}` is no place in a list")]
    Place(String),
}

impl ListFiles {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("lists") }
    }

    /// Where a list lies; neither name can hold a separator.
    pub(crate) fn path(&self, account: &AccountName, name: &str) -> PathBuf {
        self.folder.join(account.as_str()).join(name)
    }

    /// A new, empty list.
    pub(crate) async fn create(&self, account: &AccountName, name: &str) -> io::Result<File> {
        let path = self.path(account, name);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await
    }

    /// Brings a list onto the disk, under its name.
    pub(crate) async fn sync(&self, mut file: File, account: &AccountName, name: &str) -> io::Result<()> {
        file.flush().await?;
        file.sync_all().await?;
        let path = self.path(account, name);
        blocking(move || {
            durable::sync_folder_of(&path)?;
            path.parent().map_or(Ok(()), durable::sync_folder_of)
        })
        .await
    }

    /// Removes a list; that there is none is fine.
    pub(crate) async fn remove(&self, account: &AccountName, name: &str) -> io::Result<()> {
        let path = self.path(account, name);
        blocking(move || durable::remove(&path)).await
    }

    /// Removes every list but these: what a service that was killed left behind.
    pub(crate) async fn keep(&self, wanted: HashSet<PathBuf>) -> io::Result<()> {
        let folder = self.folder.clone();
        blocking(move || {
            let accounts = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            for account in accounts {
                for list in fs::read_dir(account?.path())? {
                    let path = list?.path();
                    if !wanted.contains(&path) {
                        durable::remove(&path)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// At most `most` lines from `place` on, which is what an earlier call named `next`, or empty for the first line after the head.
    pub(crate) async fn lines(&self, path: PathBuf, place: String, most: usize) -> Result<Lines, ReadListError> {
        spawn_blocking(move || read_lines(&path, &place, most)).await.map_err(io::Error::other)?
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn read_lines(path: &Path, place: &str, most: usize) -> Result<Lines, ReadListError> {
    let mut file = BufReader::with_capacity(1 << 16, fs::File::open(path)?);
    let (length, first) = next_line(&mut file)?;
    let head = ListHead::parse(&first.ok_or(HeadFault::Malformed)?)?;
    let (mut at, mut number) = match place {
        "" => (length, 1),
        place => parse_place(place).ok_or_else(|| ReadListError::Place(place.to_owned()))?,
    };
    file.seek(SeekFrom::Start(at))?;
    let (mut lines, mut is_end) = (Vec::new(), false);
    while lines.len() < most {
        let (length, line) = next_line(&mut file)?;
        if length == 0 {
            is_end = true;
            break;
        }
        at += length;
        number += 1;
        if line.as_ref().is_some_and(|line| line.trim_ascii().is_empty()) {
            continue;
        }
        let read = line.ok_or(LineFault::TooLong).and_then(|line| head.read(&line));
        lines.push(ListLine { line: number, read });
    }
    Ok(Lines { lines, next: format!("{at} {number}"), is_end })
}

/// A byte and the number of the line before it.
fn parse_place(place: &str) -> Option<(u64, u64)> {
    let (at, number) = place.split_once(' ')?;
    Some((at.parse().ok()?, number.parse().ok()?))
}

/// How many bytes the next line takes with its end, and the line without it, unless it is too long.
fn next_line(file: &mut impl BufRead) -> io::Result<(u64, Option<Vec<u8>>)> {
    let (mut line, mut length) = (Vec::new(), 0);
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(buffer, |end| &buffer[..end]);
        // Two bytes more than a line may have say that it is too long, whether or not it ends in a carriage return.
        let room = (MAX_LINE_BYTES + 2).saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len() + usize::from(end.is_some());
        length += used as u64;
        file.consume(used);
        if end.is_some() {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok((length, Some(line).filter(|line| line.len() <= MAX_LINE_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: u64) -> String {
        format!("{n:064x}")
    }

    #[test]
    fn a_list_read_in_pieces_of_any_size_is_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let long = "x".repeat(MAX_LINE_BYTES + 10);
        let text = format!(
            "fingerprint,endpoint\r\n{},gate-1\r\n\n{},gate-2\nbad\n{long}\n  \n{},gate-3",
            print(1),
            print(2),
            print(3)
        );
        fs::write(&path, text).unwrap();
        let whole = read_lines(&path, "", 100).unwrap();
        assert!(whole.is_end);
        let seen: Vec<(u64, bool)> = whole.lines.iter().map(|line| (line.line, line.read.is_ok())).collect();
        assert_eq!(seen, [(2, true), (4, true), (5, false), (6, false), (8, true)]);
        for size in 1..=6 {
            let (mut place, mut pieces) = (String::new(), Vec::new());
            loop {
                let piece = read_lines(&path, &place, size).unwrap();
                pieces.extend(piece.lines);
                place = piece.next;
                if piece.is_end {
                    break;
                }
            }
            assert_eq!(pieces, whole.lines, "in pieces of {size}");
        }
    }

    #[test]
    fn a_list_without_a_head_is_refused_and_a_place_that_nobody_named_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, format!("{}\n", print(1))).unwrap();
        assert!(matches!(read_lines(&path, "", 1), Err(ReadListError::Head(HeadFault::Unknown(_)))));
        fs::write(&path, "").unwrap();
        assert!(matches!(read_lines(&path, "", 1), Err(ReadListError::Head(HeadFault::Malformed))));
        fs::write(&path, "fingerprint\n").unwrap();
        assert!(read_lines(&path, "", 1).unwrap().is_end);
        assert!(matches!(read_lines(&path, "x", 1), Err(ReadListError::Place(_))));
    }
}
