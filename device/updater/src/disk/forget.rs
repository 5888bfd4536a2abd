//! Factory reset of the board `host`: a mark beside the state, and the boot that empties what it stands beside. Never touches what
//! outlives a reset: keys and factory data lie elsewhere.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// While it is there, no boot uses the state.
const MARK: &str = "factory-reset";

/// Asks the next boot for a new state, durably.
pub(super) fn ask(state: &Path) -> io::Result<()> {
    File::create(state.join(MARK))?.sync_all()?;
    File::open(state)?.sync_all()
}

/// Empties a state that is to be forgotten, the mark last, so that a cut anywhere leaves a state that the next boot goes on to
/// empty; says whether there was one.
///
/// # Errors
/// If something in it cannot be removed; the mark then still stands.
pub fn forget_if_asked(state: &Path) -> io::Result<bool> {
    let mark = state.join(MARK);
    if !mark.try_exists()? {
        return Ok(false);
    }
    for entry in fs::read_dir(state)? {
        let entry = entry?;
        if entry.file_name() == MARK {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    File::open(state)?.sync_all()?;
    fs::remove_file(&mark)?;
    File::open(state)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_emptied_only_when_that_was_asked_for_and_the_mark_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir_all(state.join("agent")).unwrap();
        fs::write(state.join("agent/orders.json"), "x").unwrap();
        assert!(!forget_if_asked(&state).unwrap());
        assert!(state.join("agent/orders.json").exists());
        ask(&state).unwrap();
        // What a boot leaves that lost power half way.
        fs::remove_file(state.join("agent/orders.json")).unwrap();
        assert!(forget_if_asked(&state).unwrap());
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        assert!(!forget_if_asked(&state).unwrap());
        assert!(!forget_if_asked(&folder.path().join("none")).unwrap());
    }
}
