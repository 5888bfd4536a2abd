//! Runs the distribution's own tools and keeps what they said when they fail. Never passes a command through a shell.

use std::{
    io,
    process::{Command, ExitStatus, Output, Stdio},
};

/// A tool that could not be run or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The tool is not there or may not be run.
    #[error("cannot run `{program}`; it is part of the Debian package `{package}`")]
    Start {
        /// The tool.
        program: String,
        /// The Debian package that brings it.
        package: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The tool ran and reported failure.
    #[error("`{program}` ended with {status}: {said}")]
    Failed {
        /// The tool.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        said: String,
    },
}

/// Runs `command` to its end with nothing on standard input and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command, package: &'static str) -> Result<Vec<u8>, CommandError> {
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().map_err(|source| CommandError::Start { program: program.clone(), package, source })?;
    check(program, ended)
}

/// Runs `first` and gives its standard output to `second` as standard input.
pub(crate) fn pipe(first: &mut Command, second: &mut Command, package: &'static str) -> Result<(), CommandError> {
    let [from, to] = [&*first, &*second].map(|command| command.get_program().to_string_lossy().into_owned());
    let start = |program: &str, source| CommandError::Start { program: program.to_owned(), package, source };
    let mut source = first.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| start(&from, error))?;
    let stream = source.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let received = second.stdin(stream).output();
    let sent = source.wait_with_output().map_err(|error| start(&from, error))?;
    check(to.clone(), received.map_err(|error| start(&to, error))?)?;
    check(from, sent).map(|_| ())
}

fn check(program: String, ended: Output) -> Result<Vec<u8>, CommandError> {
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let said = last.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(CommandError::Failed { program, status: ended.status, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_quoted() {
        let failed = output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]), "dash").unwrap_err();
        assert_eq!(failed.to_string(), "`sh` ended with exit status: 3: no such thing");
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let failed = output(&mut Command::new("no-such-tool-here"), "erofs-utils").unwrap_err();
        assert!(failed.to_string().contains("`erofs-utils`"), "{failed}");
    }

    #[test]
    fn a_failure_on_either_side_of_a_pipe_is_seen() {
        let run = |first: &str, second: &str| {
            pipe(Command::new("sh").args(["-c", first]), Command::new("sh").args(["-c", second]), "dash")
        };
        assert!(run("echo x", "read x; test x$x = xx").is_ok());
        assert!(run("echo x; exit 1", "cat >/dev/null").is_err());
        assert!(run("echo x", "cat >/dev/null; exit 1").is_err());
    }
}
