//! The messages on the local sockets.

use serde::{Deserialize, Serialize};

use super::{AppsSettings, UpdaterSettings};
use crate::{
    Answer, AppName, ApplicationSpec, DeviceConsent, Digest, Reason, ReasonCode, RolloutId, SignedTime, TargetPath,
    UpdateStatus,
};

/// Version of the messages in this module; a peer of another version is told so and refused.
pub const PROTOCOL: u16 = 4;

/// The most bytes that one [`Fetch`] may ask for.
pub const MAX_FETCH: u32 = 256 * 1024;

/// The most bytes of an application's log that one [`AgentToApps::Log`] may ask for.
pub const MAX_LOG: u32 = 32 * 1024;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `mbl-agent`.
    Agent,
    /// `mbl-updater`.
    Updater,
    /// `mbl-apps`.
    Apps,
    /// `mbl-updater install`: brings a release from a folder in the agent's place, with the messages of the agent. Only root may.
    Installer,
    /// `mbl-updater configure-system`, for one question of the agent about the settings of the operating system.
    System,
}

/// The first message of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`PROTOCOL`] of the speaker.
    pub protocol: u16,
    /// Who speaks.
    pub role: Role,
    /// Version of the speaker's program, for logs.
    pub version: String,
}

/// From the agent to the updater.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentToUpdater {
    /// What the service wants this device to run; the newest replaces all before. Only a choice among signed releases.
    Desire {
        /// Path of the release in the targets metadata.
        release: TargetPath,
        /// Digest of the release document.
        digest: Digest,
        /// The rollout that asks.
        rollout: Option<RolloutId>,
        /// Whether somebody at the device is asked first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        consent: Option<DeviceConsent>,
    },
    /// The service no longer wants a change; an update not yet on trial is dropped.
    Rest,
    /// The answer to an [`UpdaterToAgent::Fetch`].
    Fetched(Fetched),
    /// How the agent reaches the world.
    Contact(Contact),
    /// What the service told of the time lately, as it came: the updater verifies it with the time key by itself.
    TrustedTime(SignedTime),
    /// The service asks for a restart (LwM2M resource 3/0/4, or a job). The updater does it once nothing is being written. The agent
    /// repeats it on each connection until it hears [`UpdaterToAgent::Restarting`], for at most three minutes.
    Restart,
    /// What the configuration in force says about the updater; repeated on each connection before anything else.
    Settings(UpdaterSettings),
    /// Somebody who may asks for a factory reset: the service (LwM2M resource 3/0/5), or a person at the device. What has not been
    /// tried yet is dropped; a trial comes to its end first. The agent repeats it on each connection until the state is gone.
    FactoryReset,
    /// Somebody at the device answers its question. Only an installer says this: whoever is on the network does not answer for people.
    Answer {
        /// Digest of the release document that was asked about.
        digest: Digest,
        /// The answer.
        answer: Answer,
    },
}

/// From the updater to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdaterToAgent {
    /// Asks for bytes; the answer carries the same id.
    Fetch {
        /// Chosen by the one who asks.
        id: u64,
        /// What is asked for.
        what: Fetch,
    },
    /// How things stand; sent after the greeting and on every change.
    Status(Box<UpdateStatus>),
    /// The device restarts now: say goodbye to the service.
    Restarting,
    /// What became of a factory reset, said to an installer alone: the next start makes a new state and the device goes down, or why not.
    Reset {
        /// The refusal, if there is one.
        refused: Option<Reason>,
    },
}

/// From the agent to `mbl-apps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentToApps {
    /// The answer to an [`AppsToAgent::Fetch`].
    Fetched(Fetched),
    /// What the configuration in force says about applications; repeated on each connection.
    Settings(AppsSettings),
    /// Asks for the end of what an application has printed; repeated on each connection until it is answered.
    Log {
        /// Chosen by the one who asks.
        id: u64,
        /// The application.
        application: AppName,
        /// Bytes wanted, at most [`MAX_LOG`].
        max_bytes: u32,
    },
}

/// From `mbl-apps` to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppsToAgent {
    /// Asks for bytes; the answer carries the same id.
    Fetch {
        /// Chosen by the one who asks.
        id: u64,
        /// What is asked for.
        what: Fetch,
    },
    /// How the applications are; sent after the greeting and on every change.
    Status(Vec<ApplicationStatus>),
    /// The answer to an [`AgentToApps::Log`].
    Log {
        /// The id of the question.
        id: u64,
        /// The end of the log with what is no UTF-8 replaced, or why there is none.
        result: Result<String, Reason>,
    },
}

/// From the updater to `mbl-apps`. A set of applications is keyed by the digest of its release document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdaterToApps {
    /// Fetch, check and unpack the applications of a verified release without disturbing those that run.
    Prepare {
        /// Key of the set.
        release: Digest,
        /// The applications.
        applications: Vec<ApplicationSpec>,
    },
    /// Run exactly this set, which may have been prepared before; stop every other application.
    Run {
        /// Key of the set.
        release: Digest,
        /// The applications.
        applications: Vec<ApplicationSpec>,
    },
    /// Only these sets may still be started; the storage of every other one is free.
    Retain {
        /// Keys of the sets.
        releases: Vec<Digest>,
    },
}

/// From `mbl-apps` to the updater.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppsToUpdater {
    /// The set is ready to run, or why it cannot be.
    Prepared {
        /// Key of the set.
        release: Digest,
        /// The refusal, if there is one.
        refused: Option<Reason>,
    },
    /// Bytes of the set in storage, and bytes in all.
    Preparing {
        /// Key of the set.
        release: Digest,
        /// Bytes in storage.
        done: u64,
        /// Bytes in all as far as known.
        total: u64,
    },
    /// How the applications of the set that runs are; sent on every change.
    Status {
        /// Key of the set; none before the first [`UpdaterToApps::Run`].
        release: Option<Digest>,
        /// One entry an application.
        applications: Vec<ApplicationStatus>,
    },
}

/// What a root process asks the agent to bring, which the agent relays without interpreting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetch {
    /// A metadata file of the account's TUF repository, for example `3.root.json`.
    Metadata {
        /// File name.
        name: String,
        /// Bytes from which on the file is refused as oversized, at most [`MAX_FETCH`].
        max_bytes: u32,
        /// First byte wanted; a file longer than [`MAX_FETCH`] comes in pieces.
        offset: u64,
    },
    /// A piece of an artifact.
    Artifact {
        /// Digest of the whole artifact.
        digest: Digest,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted, at most [`MAX_FETCH`]; fewer come only at the end of the artifact.
        length: u32,
    },
}

/// The answer to a [`Fetch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The id of the question.
    pub id: u64,
    /// The bytes, or why there are none.
    #[serde(with = "bytes_or_error")]
    pub result: Result<Vec<u8>, FetchError>,
}

/// Why the agent brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum FetchError {
    /// The source does not have it.
    #[error("the source does not have it")]
    NotFound,
    /// The source was not reached or did not answer in time; asking again later may help.
    #[error("the source was not reached")]
    Unreachable,
    /// The source holds more bytes than were allowed.
    #[error("the source holds more bytes than allowed")]
    TooLong,
    /// The source refused this device.
    #[error("the source refused this device")]
    Refused,
}

impl FetchError {
    /// The refusal of whoever needed `what` and did not get it.
    pub fn reason(self, what: &str) -> Reason {
        let code = match self {
            Self::NotFound => ReasonCode::NotFound,
            Self::TooLong => ReasonCode::Oversized,
            Self::Unreachable | Self::Refused => ReasonCode::Unreachable,
        };
        Reason::new(code, format!("{what}: {self}"))
    }
}

/// How the agent reaches the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Registered with the service over a connection that is up.
    pub registered: bool,
    /// Some host answered lately, be it the service or another one named in the agent's configuration.
    pub network: bool,
}

/// One application as `mbl-apps` sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationStatus {
    /// The application.
    pub name: AppName,
    /// Digest of its OCI image index.
    pub digest: Digest,
    /// What it is doing.
    pub state: ApplicationState,
    /// How often it ended by itself since it was first started.
    pub restarts: u32,
    /// Why it is in this state, where that needs saying.
    pub reason: Option<Reason>,
}

/// What an application is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplicationState {
    /// It runs, but its ready check has not passed.
    Started,
    /// It runs and its ready check passed.
    Ready,
    /// It ended and waits to be started again.
    Waiting,
    /// It cannot be started.
    Failed,
}

/// Bytes as a CBOR byte string instead of an array of numbers.
mod bytes_or_error {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::FetchError;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Wire<'a> {
        Ok(#[serde(borrow)] std::borrow::Cow<'a, serde_bytes::Bytes>),
        Err(FetchError),
    }

    pub(super) fn serialize<S: Serializer>(result: &Result<Vec<u8>, FetchError>, to: S) -> Result<S::Ok, S::Error> {
        match result {
            Ok(bytes) => Wire::Ok(std::borrow::Cow::Borrowed(serde_bytes::Bytes::new(bytes))),
            Err(e) => Wire::Err(*e),
        }
        .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Result<Vec<u8>, FetchError>, D::Error> {
        Ok(match Wire::deserialize(from)? {
            Wire::Ok(bytes) => Ok(bytes.to_vec()),
            Wire::Err(e) => Err(e),
        })
    }
}
