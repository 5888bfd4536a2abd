//! Whether a release fits a device. Never looks at signatures.

use protocol_types::{Architecture, BoardName, Reason, ReasonCode, SecurityVersion};

use crate::document::{Component, OsIndex, Release};

/// What the device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its board.
    pub board: BoardName,
    /// Its processor architecture.
    pub architecture: Architecture,
    /// The generation of the updater that runs.
    pub updater: u32,
    /// The highest floor that its key store can hold.
    pub highest_floor: SecurityVersion,
}

impl Device {
    /// Refuses a release that this device must not or cannot install.
    pub(super) fn accept(&self, release: &Release, floor: SecurityVersion) -> Result<(), Reason> {
        let found = release.security_version;
        if found < floor {
            let text = format!("release {} has security version {found}, the floor is {floor}", release.version);
            return Err(Reason::new(ReasonCode::BelowSecurityFloor, text));
        }
        if release.raises_floor && found > self.highest_floor {
            let (version, highest) = (&release.version, self.highest_floor);
            let text = format!("release {version} raises the floor to {found}, this device can hold at most {highest}");
            return Err(Reason::new(ReasonCode::FloorTooHigh, text));
        }
        release.components.iter().try_for_each(|component| self.accept_component(component))
    }

    fn accept_component(&self, component: &Component) -> Result<(), Reason> {
        let (path, Self { board, architecture, updater, highest_floor: _ }) = (&component.path, self);
        let refuse = |code, why: String| Err(Reason::new(code, format!("`{path}` {why}")));
        if !component.boards.is_empty() && !component.boards.contains(board) {
            return refuse(ReasonCode::WrongBoard, format!("is not for the board {board}"));
        }
        if !component.architectures.is_empty() && !component.architectures.contains(architecture) {
            return refuse(ReasonCode::WrongArchitecture, format!("is not for the architecture {architecture}"));
        }
        let needed = component.minimum_updater;
        if needed > *updater {
            return refuse(ReasonCode::UpdaterTooOld, format!("needs updater generation {needed}, {updater} runs"));
        }
        Ok(())
    }

    /// Refuses an OS index that is not the one the component speaks of.
    pub(super) fn accept_index(&self, component: &Component, index: &OsIndex) -> Result<(), Reason> {
        let (path, board) = (&component.path, &self.board);
        if index.board != *board {
            let text = format!("the index `{path}` is for the board {}, this is {board}", index.board);
            return Err(Reason::new(ReasonCode::WrongBoard, text));
        }
        if index.version != component.version {
            let text =
                format!("the index `{path}` has version {}, the release says {}", index.version, component.version);
            return Err(Reason::new(ReasonCode::MalformedRelease, text));
        }
        Ok(())
    }
}
