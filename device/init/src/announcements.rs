//! Hears from the kernel that devices come and go, so that nobody waits longer than needed. Never asks what they are.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with},
};

/// How many announcements are taken at once; those behind them wake the next wait.
const MOST_AT_ONCE: usize = 1024;

/// The kernel's announcements of devices that come and go.
#[derive(Debug)]
pub struct Announcements(OwnedFd);

impl Announcements {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the kernel does not let.
    pub fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Asks again with each announcement until there is an answer or the time is up.
    ///
    /// # Errors
    /// If asking or waiting fails.
    pub fn until<T>(&self, limit: Duration, mut ask: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask()? {
                return Ok(Some(answer));
            }
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return Ok(None);
            };
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left))?;
            self.drain();
        }
    }

    /// What is announced does not matter, only that something was; an overrun (`ENOBUFS`) says as much.
    fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        for _ in 0..MOST_AT_ONCE {
            if recv(&self.0, &mut buffer[..], RecvFlags::empty()).is_err() {
                break;
            }
        }
    }
}
