//! A program that runs to its end within bounds: of time, of address space, of what is heard of it. It reads nothing, writes no file and
//! knows nothing of the agent's environment.

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::ledger::RESULT_BYTES;

/// Address space of the program in bytes; the system's libraries and the files of a journal are mapped into it.
const ADDRESS_SPACE: u64 = 512 * 1024 * 1024;
/// How much of the last words of a program that failed is told, in bytes.
const LAST_WORDS: usize = 300;

/// A program with all of its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Absolute.
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// Why a program brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChildError {
    /// It cannot be started, or not be held within its bounds.
    #[error("cannot run {}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its output cannot be read.
    #[error("cannot hear what {} says", path.display())]
    Hear {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It took too long and was ended.
    #[error("{} did not end within {} s", path.display(), limit.as_secs())]
    Late {
        /// The program.
        path: PathBuf,
        /// Its time.
        limit: Duration,
    },
    /// It says that it failed.
    #[error("{} ended with {status} and said `{said}`", path.display())]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
}

impl Program {
    /// Runs it to its end; the end of what it wrote to standard output, at most as much as a result has.
    pub(super) async fn run(&self) -> Result<String, ChildError> {
        let mut child = self.start()?;
        let group = pid(&child);
        let ended = timeout(self.limit, self.hear(&mut child)).await;
        let Ok(ended) = ended else {
            // Whatever it started is in its group; a group that is gone needs no end.
            group.map(|group| kill_process_group(group, Signal::KILL));
            // A killed process that the kernel does not end yet is reaped when it has.
            drop(timeout(Duration::from_secs(1), child.wait()).await);
            return Err(ChildError::Late { path: self.path.clone(), limit: self.limit });
        };
        let (out, err, status) = ended?;
        let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
        if status.success() {
            return Ok(out.into_owned());
        }
        let said = if err.trim().is_empty() { out.trim() } else { err.trim() };
        let from = (0..=said.len()).find(|at| said.is_char_boundary(*at) && said.len() - at <= LAST_WORDS).unwrap_or(0);
        Err(ChildError::Failed { path: self.path.clone(), status, said: said[from..].to_owned() })
    }

    fn start(&self) -> Result<Child, ChildError> {
        let failed = |source| ChildError::Start { path: self.path.clone(), source };
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        // Without a number it would be this process that is held.
        let Some(id) = pid(&child) else { return Ok(child) };
        for (resource, most) in [(Resource::As, ADDRESS_SPACE), (Resource::Fsize, 0), (Resource::Core, 0)] {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            match prlimit(Some(id), resource, limit) {
                // It has ended already.
                Err(rustix::io::Errno::SRCH) => break,
                other => drop(other.map_err(|errno| failed(errno.into()))?),
            }
        }
        Ok(child)
    }

    async fn hear(&self, child: &mut Child) -> Result<(Vec<u8>, Vec<u8>, ExitStatus), ChildError> {
        let failed = |source| ChildError::Hear { path: self.path.clone(), source };
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err, status) = tokio::join!(end_of(out), end_of(err), child.wait());
        Ok((out.map_err(failed)?, err.map_err(failed)?, status.map_err(failed)?))
    }
}

/// The number of a child that was not waited for, which is also that of its group.
fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}

/// The end of what comes, within bounds however much it is.
async fn end_of(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let (mut kept, mut piece) = (Vec::new(), vec![0; 4096]);
    let Some(mut from) = from else { return Ok(kept) };
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            kept.drain(..kept.len().saturating_sub(RESULT_BYTES));
            return Ok(kept);
        }
        kept.extend_from_slice(piece.get(..read).unwrap_or_default());
        if kept.len() > 2 * RESULT_BYTES {
            kept.drain(..kept.len() - RESULT_BYTES);
        }
    }
}

/// This program with these arguments, which may take so long.
pub(super) fn program(path: &Path, arguments: Vec<String>, limit: Duration) -> Program {
    Program { path: path.to_owned(), arguments, limit }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str, limit: Duration) -> Program {
        program(Path::new("/bin/sh"), vec!["-c".to_owned(), script.to_owned()], limit)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_hands_in_the_end_of_what_it_says_and_has_nothing_of_the_agents() {
        assert_eq!(shell("echo out; echo err >&2", MINUTE).run().await.unwrap(), "out\n");
        assert_eq!(shell("cat; pwd; env | sort", MINUTE).run().await.unwrap(), "/\nPATH=/usr/bin:/usr/sbin\nPWD=/\n");
        let much = shell("seq 1 200000", MINUTE).run().await.unwrap();
        assert!(much.len() <= RESULT_BYTES && much.ends_with("\n199999\n200000\n"), "{}", much.len());
    }

    #[tokio::test]
    async fn a_program_that_fails_or_is_missing_says_why() {
        let failed = shell("echo out; echo no modem >&2; exit 3", MINUTE).run().await.unwrap_err().to_string();
        assert_eq!(failed, "/bin/sh ended with exit status: 3 and said `no modem`");
        let failed = shell("seq 1 1000; exit 3", MINUTE).run().await.unwrap_err();
        let ChildError::Failed { said, .. } = failed else { panic!("{failed}") };
        assert!(said.len() <= LAST_WORDS && said.ends_with("1000"), "{said}");
        let missing = program(Path::new("/nonexistent/check"), Vec::new(), MINUTE).run().await;
        assert!(matches!(missing, Err(ChildError::Start { .. })), "{missing:?}");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_ends_with_all_that_it_started() {
        let begun = Instant::now();
        // No other test sleeps as long.
        let long = format!("600.{}", std::process::id());
        // The pipe stays open as long as one of the two lives.
        let late = shell(&format!("sleep {long} & sleep {long}"), Duration::from_millis(300)).run().await;
        assert!(matches!(late, Err(ChildError::Late { .. })), "{late:?}");
        let command_line = format!("sleep\0{long}\0");
        let is_left = || {
            std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
                let said = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
                said == command_line.as_bytes() && !stat.contains(" Z ")
            })
        };
        // Those that were told to end need a moment for it.
        while is_left() {
            assert!(begun.elapsed() < MINUTE, "something that it started lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_program_writes_no_file_and_takes_no_more_memory_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        // It waits until it is held within its bounds, which the shell can see.
        let script = format!("until [ \"$(ulimit -f)\" = 0 ]; do :; done; head -c 4096 /dev/zero > {}", file.display());
        assert!(shell(&script, MINUTE).run().await.is_err());
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 0);
        let script = "until [ \"$(ulimit -c)\" = 0 ]; do :; done; ulimit -v";
        assert_eq!(shell(script, MINUTE).run().await.unwrap(), format!("{}\n", ADDRESS_SPACE / 1024));
    }
}
