//! Waits for the signals that stop the board. Never acts on one inside of a handler.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// SIGTERM and SIGINT, as a descriptor that becomes readable.
#[derive(Debug)]
pub struct Signals {
    arrivals: UnixStream,
}

impl Signals {
    /// Catches both signals from now on.
    ///
    /// # Errors
    /// If no handler can be installed.
    pub fn catch() -> io::Result<Self> {
        let (arrivals, wake) = UnixStream::pair()?;
        arrivals.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, wake.try_clone()?)?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, wake)?;
        Ok(Self { arrivals })
    }

    /// Whether a signal arrived since the last question.
    pub(super) fn arrived(&self) -> io::Result<bool> {
        match (&self.arrivals).read(&mut [0; 64]) {
            Ok(read) => Ok(read > 0),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Waits for a signal, at most for `limit`.
    pub(super) fn arrives_within(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.arrivals, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.arrived(),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrivals.as_fd()
    }
}
