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
/// What the system sees as `/etc/machine-id`.
const SHOWN: &str = "/run/machine-id";

/// Names the machine after the endpoint in the factory document on `factory`. Without an identity the system's own default stands.
pub fn set_hostname(factory: &Path) {
    let document = read_start(&factory.join("factory.json"), FactoryDocument::MAX_BYTES + 1);
    let Some(document) = document.ok().and_then(|bytes| FactoryDocument::parse(&bytes).ok()) else { return };
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

/// The kept one, or a new one that is kept from now on (machine-id(5)).
fn machine_id(state: &Path) -> io::Result<String> {
    let path = state.join(MACHINE_ID);
    if let Ok(kept) = fs::read_to_string(&path)
        && is_machine_id(&kept)
    {
        return Ok(kept);
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

fn is_machine_id(text: &str) -> bool {
    let digits = text.strip_suffix('\n').unwrap_or_default();
    digits.len() == 32
        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && digits.bytes().any(|b| b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_kept_and_a_damaged_one_is_made_anew() {
        let state = tempfile::tempdir().unwrap();
        let first = machine_id(state.path()).unwrap();
        assert!(is_machine_id(&first) && first.as_bytes()[12] == b'4', "{first}");
        assert_eq!(machine_id(state.path()).unwrap(), first);
        for damaged in ["", "uninitialized\n", &format!("{:032x}\n", 0), &first[1..]] {
            fs::remove_file(state.path().join(MACHINE_ID)).unwrap();
            fs::write(state.path().join(MACHINE_ID), damaged).unwrap();
            let anew = machine_id(state.path()).unwrap();
            assert!(is_machine_id(&anew) && anew != first, "{damaged:?}");
        }
    }
}
