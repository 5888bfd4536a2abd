//! What the system goes by before it starts: the host name by its identity, the machine ID by its state. Neither is a secret, neither
//! is trusted for anything, and a system without them starts all the same.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use protocol_types::{FactoryDocument, HostName};
use rustix::{
    mount::mount_bind,
    rand::{GetRandomFlags, getrandom},
    system::sethostname,
};

use crate::{console::say, kernel::read_start};

/// In the state, so that a factory reset makes a new one and the journal of the device stays one journal.
const MACHINE_ID: &str = "machine-id";
/// 32 hexadecimal digits and the end of their line.
const MACHINE_ID_BYTES: usize = 33;
/// What the system sees as `/etc/machine-id`.
const SHOWN: &str = "/run/machine-id";

/// Names the machine after the endpoint in the factory document on `factory`. Without an identity the system's own default stands.
pub fn set_hostname(factory: &Path) {
    let path = factory.join("factory.json");
    let read = read_start(&path, FactoryDocument::MAX_BYTES + 1);
    let read = read.and_then(|bytes| FactoryDocument::parse(&bytes).map_err(io::Error::other));
    let document = match read {
        Ok(document) => document,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return say(&format!("the machine is not named after its endpoint: {}: {e}", path.display())),
    };
    if let Some(name) = HostName::of_endpoint(&document.endpoint)
        && let Err(e) = sethostname(name.as_str().as_bytes())
    {
        say(&format!("cannot set the host name {name}: {e}"));
    }
}

/// Gives the system below `root` the machine ID that `state` keeps, which is made if there is none.
pub fn provide_machine_id(state: &Path, root: &Path) {
    let shown = machine_id(state).and_then(|id| {
        fs::write(SHOWN, id)?;
        Ok(mount_bind(SHOWN, root.join("etc/machine-id"))?)
    });
    if let Err(e) = shown {
        say(&format!("the system gets a machine ID for this boot alone: {e}"));
    }
}

/// The kept one, or a new one that is kept from now on (machine-id(5)). One that cannot be read may be whole: the journal of the device
/// goes on under it at the next boot.
fn machine_id(state: &Path) -> io::Result<String> {
    let path = state.join(MACHINE_ID);
    match read_start(&path, MACHINE_ID_BYTES + 1) {
        Ok(kept) if is_machine_id(&kept) => return Ok(String::from_utf8_lossy(&kept).into_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut bytes = [0_u8; 16];
    // Up to 256 bytes come whole.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let id = format!("{number:032x}\n");
    let temporary = state.join(format!(".{MACHINE_ID}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o444).open(&temporary)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(state)?.sync_all()?;
    Ok(id)
}

fn is_machine_id(text: &[u8]) -> bool {
    let digits = text.strip_suffix(b"\n").unwrap_or_default();
    digits.len() == 32
        && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && digits.iter().any(|b| *b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_kept_and_a_damaged_one_is_made_anew() {
        let state = tempfile::tempdir().unwrap();
        let first = machine_id(state.path()).unwrap();
        assert!(is_machine_id(first.as_bytes()) && first.as_bytes()[12] == b'4', "{first}");
        assert_eq!(machine_id(state.path()).unwrap(), first);
        for damaged in ["", "uninitialized\n", &format!("{:032x}\n", 0), &first[1..]] {
            fs::remove_file(state.path().join(MACHINE_ID)).unwrap();
            fs::write(state.path().join(MACHINE_ID), damaged).unwrap();
            let anew = machine_id(state.path()).unwrap();
            assert!(is_machine_id(anew.as_bytes()) && anew != first, "{damaged:?}");
        }
    }

    #[test]
    fn a_machine_id_that_cannot_be_read_is_not_made_anew() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(MACHINE_ID);
        std::os::unix::fs::symlink(MACHINE_ID, &path).unwrap();
        assert!(machine_id(state.path()).is_err());
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}
