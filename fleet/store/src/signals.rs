//! What the rest of the service hears after a commit. Never carries state: whoever hears a signal reads the store again.

use protocol_types::{AccountName, EndpointName};

/// Something that a committed transaction changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// An event was appended.
    Event(AccountName),
    /// What a device should run or do has changed.
    Desired(AccountName, EndpointName),
    /// A device was suspended, resumed, quarantined or deleted.
    Standing(AccountName, EndpointName),
    /// Presence, standing or the report of a device has changed.
    Device(AccountName, EndpointName),
    /// A rollout, its audience or its releases have changed.
    Rollouts(AccountName),
    /// A document of configuration, or a group, has changed.
    Configuration(AccountName),
    /// A rollout has given a device a revision of a document, or taken it back.
    Released(AccountName, EndpointName),
    /// Attributes or tags of a device have changed, and so perhaps the groups that it is in.
    Labels(AccountName, EndpointName),
    /// A long operation was asked for or has ended.
    Operations(AccountName),
    /// A command of a device was asked for, has moved on or has ended.
    Command(AccountName, EndpointName),
    /// A job of this number was asked for, or one of its commands has ended.
    Job(AccountName, u64),
}

/// Spreads changes; in one process a channel, between nodes a message bus. A signal may be lost or doubled: receivers also look by time.
pub trait Signals: Send + Sync + 'static {
    /// Called after a commit, never inside a transaction; must not block.
    fn committed(&self, changes: &[Change]);
}

/// For a store whose changes nobody waits for.
impl Signals for () {
    fn committed(&self, _changes: &[Change]) {}
}
