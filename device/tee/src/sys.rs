//! The one place with unsafe code: the ioctls of the TEE's driver (`linux/tee.h`), which no safe library offers.

use std::{io, os::fd::AsFd};

use rustix::ioctl::{self, Opcode, Updater};

use crate::message::{CloseSession, Invoke, OpenSession};

const MAGIC: u8 = 0xa4;
/// `TEE_IOC_OPEN_SESSION`.
const OPEN_SESSION: Opcode = ioctl::opcode::read::<Buffer>(MAGIC, 2);
/// `TEE_IOC_INVOKE`.
const INVOKE: Opcode = ioctl::opcode::read::<Buffer>(MAGIC, 3);
/// `TEE_IOC_CLOSE_SESSION`.
const CLOSE_SESSION: Opcode = ioctl::opcode::read::<CloseSession>(MAGIC, 5);

/// `struct tee_ioctl_buf_data`: where the structure of a call is.
#[repr(C)]
struct Buffer {
    address: u64,
    length: u64,
}

impl Buffer {
    fn of<T>(structure: &mut T) -> io::Result<Self> {
        let wide = |number: usize| u64::try_from(number).map_err(io::Error::other);
        Ok(Self { address: wide(std::ptr::from_mut(structure).expose_provenance())?, length: wide(size_of::<T>())? })
    }
}

/// Opens a session.
///
/// # Errors
/// If the driver does not do it; what the TEE says about it stands in the structure.
#[expect(unsafe_code, reason = "rustix leaves it to the caller that code and argument of an ioctl belong together")]
pub(crate) fn open_session(device: impl AsFd, structure: &mut OpenSession) -> io::Result<()> {
    let mut buffer = Buffer::of(structure)?;
    // SAFETY: the driver reads a `tee_ioctl_buf_data` for this code, and then reads and writes so many bytes at the address in it:
    // those of `structure`, which is borrowed for the call and of which any bytes are a valid value.
    unsafe { ioctl::ioctl(device, Updater::<OPEN_SESSION, Buffer>::new(&mut buffer)) }?;
    Ok(())
}

/// Has a command done.
///
/// # Errors
/// If the driver does not do it; what the TEE says about it stands in the structure.
#[expect(unsafe_code, reason = "rustix leaves it to the caller that code and argument of an ioctl belong together")]
pub(crate) fn invoke(device: impl AsFd, structure: &mut Invoke) -> io::Result<()> {
    let mut buffer = Buffer::of(structure)?;
    // SAFETY: as in `open_session`.
    unsafe { ioctl::ioctl(device, Updater::<INVOKE, Buffer>::new(&mut buffer)) }?;
    Ok(())
}

/// Closes a session.
///
/// # Errors
/// If there is no such session.
#[expect(unsafe_code, reason = "rustix leaves it to the caller that code and argument of an ioctl belong together")]
pub(crate) fn close_session(device: impl AsFd, session: u32) -> io::Result<()> {
    let mut structure = CloseSession { session };
    // SAFETY: the driver reads one `tee_ioctl_close_session_arg` for this code, and `structure` is one that outlives the call.
    unsafe { ioctl::ioctl(device, Updater::<CLOSE_SESSION, CloseSession>::new(&mut structure)) }?;
    Ok(())
}
