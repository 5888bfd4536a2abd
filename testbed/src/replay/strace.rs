//! The system calls with which a thread changes files, as the kernel sees them: strace looks on while the real code runs, which
//! knows nothing of it. Never runs that code itself.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::until;

/// More than any call writes.
const MOST_BYTES: &str = "4000000";
const LIMIT: Duration = Duration::from_secs(30);

/// A call that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    SetLength {
        path: PathBuf,
        bytes: usize,
    },
    /// A flush of a file or folder.
    Flush {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
}

/// Runs `work` on this thread and returns the calls that it made, in their order.
///
/// # Errors
/// If strace is missing or may not look on, or a call cannot be understood.
pub(super) fn watch<T>(folder: &Path, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Vec<Call>)> {
    let log = folder.join("strace.log");
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    // Whatever else could change a file is looked for too, so that nothing goes by unseen.
    let calls = "trace=pwrite64,write,pwritev,pwritev2,writev,ftruncate,fallocate,fsync,fdatasync,sync,syncfs,rename,renameat,\
                 renameat2,unlink,unlinkat,sync_file_range,mmap";
    let mut command = Command::new("strace");
    command
        .args(["-qq", "-y", "-xx", "-s", MOST_BYTES, "-e", "signal=none", "-e", calls, "-p", &thread, "-o"])
        .arg(&log);
    let mut strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let strace =
        strace.as_mut().map_err(|e| anyhow::anyhow!("cannot run strace, of the Debian package `strace`: {e}"))?;
    let attached = until(LIMIT, "strace to look on", || {
        ensure!(strace.try_wait()?.is_none(), "strace ended; may this user trace its own processes?");
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status"))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim);
        Ok(tracer.filter(|pid| *pid != "0").map(|_| ()))
    });
    let done = attached.and_then(|()| work());
    stop(strace)?;
    let text = fs::read_to_string(&log).context("cannot read what strace saw")?;
    let calls =
        text.lines().map(|line| parse(line).with_context(|| short(line))).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((done?, calls.into_iter().flatten().collect()))
}

fn stop(strace: &mut Child) -> anyhow::Result<()> {
    let id = i32::try_from(strace.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
    // It may have ended by itself.
    kill_process(id, Signal::TERM).unwrap_or_default();
    strace.wait().context("cannot wait for strace")?;
    Ok(())
}

fn short(line: &str) -> String {
    format!("cannot understand what strace saw: {}", line.chars().take(200).collect::<String>())
}

/// Reads a line; nothing if the call failed, or changed no file.
fn parse(line: &str) -> anyhow::Result<Option<Call>> {
    let (name, rest) = line.split_once('(').context("no call")?;
    let (arguments, result) = rest.rsplit_once(") = ").context("no result")?;
    let result = result.split(' ').next().unwrap_or_default();
    if result.starts_with('-') {
        return Ok(None);
    }
    let arguments: Vec<&str> = arguments.split(", ").collect();
    let argument = |number: usize| arguments.get(number).copied().context("an argument is missing");
    let opened = |text: &str| -> anyhow::Result<PathBuf> {
        let inside =
            text.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')).context("a file without a path")?.0;
        Ok(PathBuf::from(OsString::from_vec(unescape(inside)?)))
    };
    let quoted = |text: &str| unescape(text.trim_matches('"'));
    let path = |text: &str| quoted(text).map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
    Ok(Some(match name {
        "pwrite64" => {
            let (bytes, at) = (quoted(argument(1)?)?, argument(3)?.parse()?);
            ensure!(result.parse::<usize>()? == bytes.len(), "a write that was not whole");
            Call::Write { path: opened(argument(0)?)?, at, bytes }
        }
        "ftruncate" => Call::SetLength { path: opened(argument(0)?)?, bytes: argument(1)?.parse()? },
        "fsync" | "fdatasync" => Call::Flush { path: opened(argument(0)?)? },
        "rename" => Call::Rename { from: path(argument(0)?)?, to: path(argument(1)?)? },
        "unlink" => Call::Remove { path: path(argument(0)?)? },
        // Memory without a file, or of one that cannot change by it; and output of the test itself.
        "mmap"
            if argument(4)? == "-1" || !argument(2)?.contains("PROT_WRITE") || argument(3)?.contains("MAP_PRIVATE") =>
        {
            return Ok(None);
        }
        "write"
            if ["0", "1", "2"]
                .iter()
                .any(|number| argument(0).is_ok_and(|file| file.starts_with(&format!("{number}<")))) =>
        {
            return Ok(None);
        }
        other => anyhow::bail!("nobody thought of `{other}`"),
    }))
}

/// Bytes written as `\xNN` throughout.
fn unescape(text: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = text.split("\\x").skip(1).map(|pair| u8::from_str_radix(pair, 16).context("not a byte"));
    let bytes: Vec<u8> = pairs.collect::<anyhow::Result<_>>()?;
    ensure!(bytes.len() * 4 == text.len(), "text between the bytes");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn every_change_of_a_file_is_seen_with_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let work = || {
            let file = fs::File::create(&old)?;
            file.write_all_at(&[7; 3000], 512)?;
            file.sync_data()?;
            fs::rename(&old, &new)?;
            fs::File::open(folder.path())?.sync_all()?;
            fs::remove_file(&new)?;
            Ok(())
        };
        let ((), calls) = watch(folder.path(), work).unwrap();
        let expected = [
            Call::Write { path: old.clone(), at: 512, bytes: vec![7; 3000] },
            Call::Flush { path: old.clone() },
            Call::Rename { from: old, to: new.clone() },
            Call::Flush { path: folder.path().to_owned() },
            Call::Remove { path: new },
        ];
        assert_eq!(calls, expected);
    }

    #[test]
    fn a_way_to_write_that_nobody_thought_of_is_no_silence() {
        assert!(parse("writev(3<\\x2f\\x61>, [{iov_base=\"\\x41\", iov_len=1}], 1) = 1").is_err());
        assert!(parse("pwrite64(3<\\x2f\\x61>, \"\\x41\\x42\", 3, 0) = 3").is_err());
        assert_eq!(parse("fsync(3<\\x2f\\x61>) = -1 EIO (Input/output error)").unwrap(), None);
    }
}
