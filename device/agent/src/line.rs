//! The line between the factory step and whoever provisions: two pipes, or a terminal such as a serial port. A terminal may be
//! the kernel's console too, so what is said there is said again until it is heard. Never decides what is said.

use std::{
    io::{self, BufRead, Read, StdinLock, StdoutLock, Write},
    time::Duration,
};

use protocol_types::Digest;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty, tcdrain, tcgetattr, tcsetattr},
};

/// How often a request is repeated on a terminal.
const REPEAT: Duration = Duration::from_secs(5);
/// How long a package may pause on a terminal, in tenths of a second.
const PAUSE: u8 = 100;
/// How often an outcome is said on a terminal: nobody can ask for it again.
const OUTCOMES: usize = 3;
/// Control-C, which no package contains.
const GIVE_UP: u8 = 3;
/// What begins a line with an outcome.
const MARK: &str = "mbl-factory:";

/// What is on the line after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A package, as far as one can tell from its beginning.
    Package,
    /// A person who typed control-C: the terminal is wanted for something else.
    GivenUp,
}

/// Standard input and output as a line.
#[derive(Debug)]
pub struct Line {
    input: StdinLock<'static>,
    output: StdoutLock<'static>,
    /// The settings to restore, if this is a terminal.
    terminal: Option<Termios>,
}

impl Line {
    /// Takes standard input and output; a terminal passes on bytes as they are from now on.
    pub fn open() -> io::Result<Self> {
        let (input, output) = (io::stdin().lock(), io::stdout().lock());
        let terminal = if isatty(&input) { Some(tcgetattr(&input)?) } else { None };
        if let Some(before) = &terminal {
            let mut settings = before.clone();
            // A package is longer than the line that a terminal edits, and must not come back as an echo.
            settings.make_raw();
            settings.output_modes |= OutputModes::OPOST;
            settings.special_codes[SpecialCodeIndex::VMIN] = 0;
            settings.special_codes[SpecialCodeIndex::VTIME] = PAUSE;
            tcsetattr(&input, OptionalActions::Flush, &settings)?;
        }
        Ok(Self { input, output, terminal })
    }

    /// Hands out `request`, and returns when a package may begin.
    pub fn offer(&mut self, request: &str) -> io::Result<Heard> {
        if self.terminal.is_none() {
            self.output.write_all(request.as_bytes())?;
            self.output.flush()?;
            return Ok(Heard::Package);
        }
        loop {
            // The console may have left a line unfinished.
            write!(self.output, "\n{request}")?;
            self.output.flush()?;
            let limit = Timespec { tv_sec: i64::try_from(REPEAT.as_secs()).unwrap_or(1), tv_nsec: 0 };
            while poll(&mut [PollFd::new(&self.input, PollFlags::IN)], Some(&limit))? > 0 {
                if let Some(heard) = self.listen()? {
                    return Ok(heard);
                }
            }
        }
    }

    /// Passes over noise; none if nothing else came within the pause.
    fn listen(&mut self) -> io::Result<Option<Heard>> {
        loop {
            let waiting = self.input.fill_buf()?;
            if waiting.is_empty() {
                return Ok(None);
            }
            let told = waiting.iter().position(|byte| [b'{', GIVE_UP].contains(byte));
            let heard = told.and_then(|at| waiting.get(at)).map(|byte| match *byte {
                GIVE_UP => Heard::GivenUp,
                _ => Heard::Package,
            });
            let passed = told.unwrap_or(waiting.len());
            self.input.consume(passed);
            if heard.is_some() {
                return Ok(heard);
            }
        }
    }

    /// Where the package comes from.
    pub fn input(&mut self) -> &mut impl Read {
        &mut self.input
    }

    /// Says how the step ended: the digest of the accepted document, or why not.
    pub fn report(&mut self, outcome: Result<Digest, &dyn std::fmt::Display>) -> io::Result<()> {
        let text = match outcome {
            Ok(digest) => format!("{MARK} accepted {digest}"),
            Err(why) => format!("{MARK} refused: {why}"),
        };
        match self.terminal {
            None => writeln!(self.output, "{text}")?,
            Some(_) => (0..OUTCOMES).try_for_each(|_| write!(self.output, "\n{text}\n"))?,
        }
        self.output.flush()?;
        if self.terminal.is_some() {
            tcdrain(&self.output)?;
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(before) = &self.terminal {
            // Nobody is left to be told that it failed.
            tcsetattr(&self.input, OptionalActions::Drain, before).ok();
        }
    }
}
