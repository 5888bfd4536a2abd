//! Asks the person who opened the loader's menu whether the board is to be reset to factory state. Never takes a yes that was typed
//! before the question, and never waits for long: a stray byte on the line may have opened the menu.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    termios::{QueueSelector, tcflush},
};

use crate::console::say;

/// The EFI variable that is there in a boot whose menu was shown, as a file of efivarfs (Boot Loader Interface).
pub const SHOWN: &str = "LoaderTimeMenuUSec-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// What to type: a word, since noise may type single keys.
const YES: &str = "reset";
/// Long enough to read and type, well below the time of the watchdog.
const WAIT: Duration = Duration::from_secs(30);
/// A terminal hands over a line of at most this many bytes (termios(3), "Canonical mode").
const LINE: usize = 4096;

/// Whether the person at the console wants a new state.
pub fn wants_reset(console: impl AsFd) -> bool {
    if let Err(e) = tcflush(&console, QueueSelector::IFlush).map_err(io::Error::from) {
        say(&format!("nobody can be asked for a factory reset: {e}"));
        return false;
    }
    say(&format!(
        "the boot menu was opened. For a factory reset type `{YES}` and Enter within {} seconds; to go on, only Enter",
        WAIT.as_secs()
    ));
    let wanted = typed(&console, WAIT).is_some_and(|line| is_yes(&line));
    say(if wanted { "factory reset: a new state is made" } else { "no factory reset" });
    wanted
}

/// The first line that is typed within the limit.
fn typed(console: impl AsFd, limit: Duration) -> Option<Vec<u8>> {
    let from = Instant::now();
    let mut line = [0; LINE];
    loop {
        let left = Timespec::try_from(limit.checked_sub(from.elapsed())?).ok()?;
        match poll(&mut [PollFd::new(&console, PollFlags::IN)], Some(&left)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
        match rustix::io::read(&console, &mut line) {
            Ok(length) => return line.get(..length).map(<[u8]>::to_vec),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn is_yes(line: &[u8]) -> bool {
    line.trim_ascii() == YES.as_bytes()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::{Read as _, Write as _},
        os::unix::ffi::OsStrExt as _,
        path::Path,
        sync::mpsc,
    };

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A terminal: the person's end, and the console.
    fn terminal() -> (File, File) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let console = OpenOptions::new().read(true).write(true).open(name).unwrap();
        (File::from(person), console)
    }

    #[test]
    fn the_word_in_a_line_of_its_own_is_a_yes() {
        let (mut person, console) = terminal();
        // As the key Enter comes over a serial line.
        person.write_all(b"reset\r").unwrap();
        assert!(is_yes(&typed(&console, SOON).unwrap()));
        for no in ["\r", "r\r", "reset it\r", "RESET\r", "noreset\r", "\u{0}reset\r"] {
            person.write_all(no.as_bytes()).unwrap();
            assert!(!is_yes(&typed(&console, SOON).unwrap()), "{no:?}");
        }
    }

    #[test]
    fn a_line_without_its_end_is_no_answer() {
        let (mut person, console) = terminal();
        person.write_all(b"reset").unwrap();
        assert_eq!(typed(&console, Duration::from_millis(100)), None);
    }

    #[test]
    fn what_was_typed_before_the_question_is_no_answer() {
        let (mut person, console) = terminal();
        person.write_all(b"reset\r").unwrap();
        // What comes back is echoed once the terminal has it.
        let mut echo = [0; 7];
        person.read_exact(&mut echo).unwrap();
        let (asked, answered) = mpsc::channel();
        let asking = std::thread::spawn(move || asked.send(wants_reset(&console)));
        // One empty line is the answer, as soon as the question was asked.
        let wanted = loop {
            person.write_all(b"\r").unwrap();
            if let Ok(wanted) = answered.recv_timeout(Duration::from_millis(100)) {
                break wanted;
            }
        };
        assert!(!wanted);
        asking.join().unwrap().unwrap();
    }

    #[test]
    fn a_board_without_a_terminal_asks_nobody() {
        assert!(!wants_reset(File::open("/dev/null").unwrap()));
    }
}
