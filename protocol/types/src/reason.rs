//! Why something was refused, failed or was undone: a stable code for programs, a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $hint:literal;)+) => {
        /// Every reason that a device or the service gives for not doing what was asked. A released code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ReasonCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
        }

        impl ReasonCode {
            /// All codes, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as logs, the API and the device object write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// What a person can do about it.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint),+ }
            }
        }
    };
}

codes! {
    /// A signature by a known key does not match the bytes.
    BadSignature = "bad_signature", "publish metadata signed by the key that the TUF root names";
    /// Metadata is signed, but by no key that its role names.
    UnknownKey = "unknown_key", "sign with a key of the account, or rotate the TUF root to include the new key";
    /// Fewer distinct good signatures than the role's threshold.
    BelowThreshold = "below_threshold", "collect the missing signatures with `mbl release sign`";
    /// A role's version is lower than one that this device has already trusted.
    MetadataRollback = "metadata_rollback", "restore the newest metadata of the repository";
    /// Metadata files do not belong together: a version, length or digest differs from the one its parent names.
    MixAndMatch = "mix_and_match", "publish the complete, newest set of metadata";
    /// The root or targets metadata has expired.
    MetadataExpired = "metadata_expired", "sign and publish fresh metadata";
    /// The metadata does not have the form that the TUF specification asks for.
    MalformedMetadata = "malformed_metadata", "publish metadata written by a TUF tool";
    /// The release is not, or no longer, listed in the current targets.
    NotInTargets = "not_in_targets", "publish the release again or choose one that is listed";
    /// The release document does not have the form that its format version asks for.
    MalformedRelease = "malformed_release", "create the release again with `mbl release create`";
    /// The release does not fit this board.
    WrongBoard = "wrong_board", "choose a release made for the board of the device";
    /// The release does not fit this processor architecture.
    WrongArchitecture = "wrong_architecture", "choose a release made for the architecture of the device";
    /// The release asks for a newer updater than the one that runs.
    UpdaterTooOld = "updater_too_old", "install a release in between that brings a newer updater";
    /// The release's security version lies below the device's floor.
    BelowSecurityFloor = "below_security_floor", "choose a release whose security version is at least the floor of the device";
    /// Confirming the release would raise the floor beyond what the device's key store can hold.
    FloorTooHigh = "floor_too_high", "raise the floor to a security version that the key store of the board can hold";
    /// A component stands in the release but not, with the same digest, in the role delegated for its path.
    NotDelegated = "not_delegated", "let the owner of the component sign it into their role";
    /// Fewer bytes arrived than the signed length.
    Truncated = "truncated", "upload the artifact again";
    /// More bytes arrived, or are announced, than the signed length or the limit of the kind.
    Oversized = "oversized", "upload the artifact again; keep metadata within the documented limits";
    /// Bytes do not have the digest that was signed.
    DigestMismatch = "digest_mismatch", "upload the artifact again from the build";
    /// A file that the metadata names cannot be had.
    NotFound = "not_found", "publish the missing file";
    /// The source of the update could not be reached.
    Unreachable = "unreachable", "check the network and the service; the device tries again by itself";
    /// There is not enough room for the component.
    NoRoom = "no_room", "make the component smaller or the slot larger";
    /// Writing to or reading from storage failed.
    StorageFailed = "storage_failed", "look for a failing disk in the logs of the device";
    /// An application's image breaks the rules for layers: a path, link or device that could reach outside.
    UnsafeLayer = "unsafe_layer", "build the application image without paths, links or devices that leave its root";
    /// An application's image is not a well-formed OCI image.
    MalformedImage = "malformed_image", "build the application image again with an OCI tool";
    /// The new system did not start within its tries.
    BootFailed = "boot_failed", "read the console of the device or try the release on a development board";
    /// The agent did not register with the service within the release's time limit although the network answered.
    AgentNotRegistered = "agent_not_registered", "look for what the release changed in network, time or certificates";
    /// An application did not become ready within the release's time limit.
    ApplicationNotReady = "application_not_ready", "read the application's log with `mbl job start logs --application NAME --device DEVICE --watch`, then `mbl job result`";
    /// Neither the service nor any other host answered; retried, and not counted against a rollout.
    NoContact = "no_contact", "wait for the network to return; the device tries the release again";
    /// The local store of trusted metadata or the factory document does not match its recorded digest.
    StateDamaged = "state_damaged", "provision the device again";
    /// No enrolment of the account allows the device.
    NotEnrolled = "not_enrolled", "allow the endpoint name, or every certificate of its authority, with an enrolment";
    /// An operator has suspended the device.
    Suspended = "suspended", "resume the device when it may come back";
    /// The device's identity was seen in two places and is held until an operator has looked at it.
    Quarantined = "quarantined", "find out which of the two is the real device, then resume or delete it";
    /// An operator has taken the device out of service for good.
    Decommissioned = "decommissioned", "enrol the device anew, by its name or by a list, if it shall come back";
    /// The account, or one above it, has as many devices as it may.
    QuotaExceeded = "quota_exceeded", "decommission devices, or have an administrator of an account above raise the quota";
    /// The endpoint name or the subject of a request is not that of the certificate of the connection.
    IdentityMismatch = "identity_mismatch", "use the endpoint name and account that the certificate names";
    /// The operational certificate is not in the records of the service; bootstrapping again brings a new one.
    CertificateUnknown = "certificate_unknown", "nothing: the device bootstraps again with its factory certificate";
    /// A certificate request cannot be read, or is not signed by the key that it carries.
    BadCertificateRequest = "bad_certificate_request", "send a PKCS#10 request in DER with an ECDSA P-256 key";
    /// The release is ready, and the hours in which the device may change its software are not now.
    OutsideWindow = "outside_window", "nothing: the device goes on when its update window opens";
    /// Everything is in place, and somebody at the device has to say whether it may be installed.
    ConsentNeeded = "consent_needed", "answer at the device with `mbl-updater consent give` or `mbl-updater consent refuse`";
    /// Somebody at the device said no.
    ConsentRefused = "consent_refused", "wait until the device asks again, or let it ask now with `mbl rollout ask-again`";
    /// A newer wish replaced this one.
    Superseded = "superseded", "nothing: the newer rollout decides";
    /// An operator stopped the rollout.
    Aborted = "aborted", "start a new rollout when ready";
    /// So many devices failed that the rollout stopped.
    FailureThreshold = "failure_threshold", "find out why the devices failed, then roll out a repaired release";
    /// So few devices of a wave succeeded that the next one may not begin.
    SuccessThreshold = "success_threshold", "find out why the devices of the wave failed, then roll out a repaired release";
    /// The device is no longer in the directory.
    DeviceDeleted = "device_deleted", "nothing: the device left the account";
    /// Documents of configuration do not fit together, or what a device has in force is not what they come to.
    InvalidConfiguration = "invalid_configuration", "look at the device with `mbl configuration effective` and mend the documents";
    /// The device already ran the release.
    AlreadyRunning = "already_running", "nothing: the device is where it should be";
    /// The device does not know how to do this.
    NotSupported = "not_supported", "update the device, or ask another one";
    /// The device is at something else of the kind.
    Busy = "busy", "ask again when the device has ended what it is at";
    /// Something else went wrong; the sentence says what.
    Internal = "internal", "send the logs of the device to its maker";
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ReasonCode {
    type Err = UnknownCode;
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

/// A text that is no reason code of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a reason code of this version")]
pub struct UnknownCode;

/// A code and a sentence: what was tried, on what, and why it did not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Reason {
    /// The stable code.
    pub code: ReasonCode,
    /// One sentence in lower case without a full stop, at most 500 bytes.
    pub text: String,
}

impl Reason {
    /// A reason whose sentence is cut after 500 bytes and holds no control characters.
    pub fn new(code: ReasonCode, text: impl AsRef<str>) -> Self {
        let mut kept = String::new();
        for c in text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if kept.len() + c.len_utf8() > 500 {
                break;
            }
            kept.push(c);
        }
        Self { code, text: kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_itself() {
        for code in ReasonCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!(!code.hint().is_empty());
        }
    }
}
