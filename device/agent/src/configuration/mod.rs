//! The configuration that the service gives this device: kept, brought into force on trial, confirmed once the service was reached with
//! it, or taken back (`docs/formats/configuration.md`).
//!
//! ```text
//! objects   the service writes a wish, which is kept before it hears that it was taken
//!   keeper  performs what the machine decides: writes files, has the session dial anew, tells what became of it
//!     machine   trial → confirmed, or undone after a limit without the service; pure
//!     sealing   opens the secrets in a document
//!     place     the files of the board `host`, which stand for its operating system
//!     system_link   asks a process of the operating system for what is its own, on every other board
//! ```

mod keeper;
mod machine;
mod place;
mod scope;
mod sealing;
mod share;
mod system_link;

use protocol_types::{Configuration, ConfigurationState, DeviceConfiguration, Digest, Reason, recovery::RecoveryKey};
use serde::{Deserialize, Serialize};

pub use keeper::{Keeper, LogLevels};
pub use machine::Kept;
pub use place::Place;
pub use scope::Scope;
pub use sealing::{NoKey, NotForUs, SealingKey};
pub use share::InForce;
pub(crate) use share::{for_apps, for_updater};
pub use system_link::SystemLink;

/// What the service wants as the configuration of this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WishText", into = "WishText")]
pub struct Wish {
    generation: u64,
    document: String,
    /// What the document says: read once, so that there is no wish whose document breaks a rule.
    read: DeviceConfiguration,
}

/// A wish as it is kept; a document that breaks a rule is none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WishText {
    generation: u64,
    document: String,
}

impl Wish {
    /// A wish whose document this device understands.
    ///
    /// # Errors
    /// With a sentence about the first rule that the document breaks.
    pub fn new(generation: u64, document: impl Into<String>) -> Result<Self, String> {
        let document = document.into();
        match DeviceConfiguration::parse(document.as_bytes()) {
            Ok(read) => Ok(Self { generation, document, read }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Counts the changes of the document.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The document, a JSON object.
    pub fn document(&self) -> &str {
        &self.document
    }

    /// Digest of the document.
    pub fn digest(&self) -> Digest {
        Digest::of(self.document.as_bytes())
    }

    /// What the document says.
    fn settings(&self) -> Configuration {
        self.read.settings.clone()
    }

    /// All that the document says.
    fn read(&self) -> DeviceConfiguration {
        self.read.clone()
    }
}

impl TryFrom<WishText> for Wish {
    type Error = String;
    fn try_from(text: WishText) -> Result<Self, String> {
        Self::new(text.generation, text.document)
    }
}

impl From<Wish> for WishText {
    fn from(wish: Wish) -> Self {
        Self { generation: wish.generation, document: wish.document }
    }
}

/// What the device says of its configuration, as object 26242 shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What became of the one that it was given last.
    pub state: ConfigurationState,
    /// The generation that the state belongs to.
    pub generation: u64,
    /// Digest of the document in force, read from where it is in force.
    pub digest: Option<Digest>,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// The key to which secrets of this device are sealed; none if it has none.
    pub sealing_key: Option<RecoveryKey>,
}
