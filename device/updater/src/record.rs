//! What the updater remembers across restarts: which release is in which slot, what is on trial, how the last wish ended.
//! Never a note about what runs: that is read from the booted system.

use protocol_release::{
    document::{Component, Health, Kind, OsIndex, SystemConfiguration},
    workflow::VerifiedRelease,
};
use protocol_types::{
    AppName, ApplicationSpec, DeviceConsent, Digest, Reason, ReleaseVersion, RolloutId, SecurityVersion, Slot,
    TargetPath, UnixSeconds,
};
use serde::{Deserialize, Serialize};

/// Who asks for a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The service, through the agent.
    #[default]
    Service,
    /// A person at the device, with an exported release.
    Folder,
}

/// What the device is asked to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Path of the release in the targets.
    pub release: TargetPath,
    /// Digest of the release document.
    pub digest: Digest,
    /// The rollout that asks.
    pub rollout: Option<RolloutId>,
    /// Who asks.
    pub origin: Origin,
    /// Whether somebody at the device is asked before it is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<DeviceConsent>,
}

/// What stays known of a release once it was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Digest of the release document: the key of its set of applications.
    pub digest: Digest,
    /// Its version.
    pub version: ReleaseVersion,
    /// Its security version.
    pub security_version: SecurityVersion,
    /// Whether confirming it raises the floor.
    pub raises_floor: bool,
    /// How its trial is judged.
    pub health: Health,
    /// Its applications.
    pub applications: Vec<ApplicationSpec>,
    /// Its configuration documents.
    #[serde(default)]
    pub configurations: Vec<Configuration>,
}

/// A configuration document of a release; its bytes are kept beside the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The configuration.
    pub name: AppName,
    /// Digest of the document.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A verified release, as far as installing it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// What stays known of it.
    pub note: Note,
    /// The operating system, if it brings one.
    pub os: Option<OsIndex>,
}

impl From<&VerifiedRelease> for Goal {
    fn from(verified: &VerifiedRelease) -> Self {
        let release = &verified.release;
        let note = Note {
            digest: verified.digest,
            version: release.version.clone(),
            security_version: release.security_version,
            raises_floor: release.raises_floor,
            health: release.health,
            applications: verified.applications.clone(),
            configurations: release.components.iter().filter_map(configuration).collect(),
        };
        Self { note, os: verified.os.as_ref().map(|os| os.index.clone()) }
    }
}

impl Note {
    /// The settings of the operating system, if the release has any.
    pub fn system_configuration(&self) -> Option<&Configuration> {
        self.configurations.iter().find(|configuration| configuration.name.as_str() == SystemConfiguration::NAME)
    }
}

impl Configuration {
    /// The name of the file that keeps the document.
    pub fn file_name(&self) -> String {
        Self::file_of(&self.digest)
    }

    /// The name of the file that keeps the document with this digest.
    pub fn file_of(digest: &Digest) -> String {
        format!("configuration-{}.json", digest.hex())
    }
}

fn configuration(component: &Component) -> Option<Configuration> {
    match &component.kind {
        Kind::Configuration { name } => {
            Some(Configuration { name: name.clone(), digest: component.digest, size: component.size })
        }
        Kind::Os | Kind::Application { .. } => None,
    }
}

/// The release in a slot. It counts only while the slot's system has this root digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Root digest of the operating system.
    pub root: Digest,
    /// What the signed command line of the operating system says, which may be of an earlier release; none if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_security_version: Option<SecurityVersion>,
    /// The release.
    pub note: Note,
}

/// A confirmed system that did not come up any more, so that the initrd took its entry out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaveWay {
    /// Digest of the release that was confirmed with it.
    pub digest: Digest,
    /// Generation of its entry.
    pub generation: u32,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The release proved itself.
    Keep,
    /// It did not: the previous one runs again.
    Return(Reason),
}

/// A release that is about to be tried, is on trial, or is being left again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Who asked.
    pub wish: Wish,
    /// The slot that it runs in.
    pub slot: Slot,
    /// What runs there during the trial.
    pub installed: Installed,
    /// Generation of its boot entry; none if only applications change and the slot stays.
    pub generation: Option<u32>,
    /// Whether the device was registered with the service before the trial, so that silence afterwards says something.
    pub was_registered: bool,
    /// How often the updater started during the trial.
    pub starts: u32,
    /// The verdict, from the moment it was taken until it was carried out.
    pub verdict: Option<Verdict>,
    /// The slot of the firmware that is tried with it; none if the firmware stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Slot>,
}

/// How a wish ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The wish.
    pub wish: Wish,
    /// Its end.
    pub outcome: Outcome,
    /// How often it ended without contact, one after the other.
    pub no_contact: u32,
}

/// The end of a wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The release runs and was confirmed.
    Succeeded,
    /// It ran before it was asked for.
    AlreadyRan,
    /// It was refused; nothing changed.
    Failed(Reason),
    /// It ran, and the previous one runs again.
    RolledBack(Reason),
}

/// The state file. A later version may add fields; this one ignores what it does not know, so that after a return to the
/// previous system the previous updater can still read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format: 1.
    pub format: u32,
    /// What was confirmed in slot A.
    pub a: Option<Installed>,
    /// What was confirmed in slot B.
    pub b: Option<Installed>,
    /// What is being tried.
    pub pending: Option<Pending>,
    /// How the service's newest wish ended.
    pub service: Option<Settled>,
    /// How the newest wish of a person at the device ended.
    pub folder: Option<Settled>,
    /// Whose wish ended last.
    #[serde(default)]
    pub latest: Origin,
    /// The latest time that the service's time key vouched for.
    pub time: UnixSeconds,
    /// The wish that somebody at the device has said yes to, or whose deadline has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Wish>,
    /// The system that gave way last, until something else is confirmed: it is brought again once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_way: Option<GaveWay>,
}

/// A state file that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not what this program writes.
    #[error("state file is not in the form of format 1")]
    Malformed(#[source] serde_json::Error),
    /// Written by a later program in a way that this one must not guess at.
    #[error("state file has format {0}, only format 1 is known")]
    Format(u32),
}

impl Default for Record {
    fn default() -> Self {
        Self {
            format: 1,
            a: None,
            b: None,
            pending: None,
            service: None,
            folder: None,
            latest: Origin::Service,
            time: UnixSeconds(0),
            agreed: None,
            gave_way: None,
        }
    }
}

impl Record {
    /// Upper bound for the state file in bytes.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Reads the state file.
    ///
    /// # Errors
    /// If it is not of format 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes).map_err(RecordError::Malformed)?;
        if record.format == 1 { Ok(record) } else { Err(RecordError::Format(record.format)) }
    }

    /// What was confirmed in `slot`.
    pub const fn slot(&self, slot: Slot) -> Option<&Installed> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
        }
    }

    /// The release that runs in `slot` while its system has this root digest: the one on trial there, or the one that was confirmed.
    pub fn in_force(&self, slot: Slot, root: Digest) -> Option<&Note> {
        let goes_back = |pending: &Pending| matches!(pending.verdict, Some(Verdict::Return(_)));
        let tried = self.pending.as_ref().filter(|pending| pending.slot == slot && !goes_back(pending));
        let tried = tried.map(|pending| &pending.installed).filter(|installed| installed.root == root);
        let installed = tried.or_else(|| self.slot(slot).filter(|installed| installed.root == root))?;
        Some(&installed.note)
    }

    /// The place for what was confirmed in `slot`.
    pub const fn slot_mut(&mut self, slot: Slot) -> &mut Option<Installed> {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    /// Notes what was confirmed in `slot`. If something gave way before, this is in its place, and nobody comes back to it.
    pub fn confirm(&mut self, slot: Slot, installed: Installed) {
        let digest = installed.note.digest;
        *self.slot_mut(slot) = Some(installed);
        if let Some(lost) = self.gave_way.take_if(|lost| lost.digest != digest) {
            self.slot_mut(slot.other()).take_if(|other| other.note.digest == lost.digest);
        }
    }

    /// How the newest wish of `origin` ended.
    pub const fn settled(&self, origin: Origin) -> Option<&Settled> {
        match origin {
            Origin::Service => self.service.as_ref(),
            Origin::Folder => self.folder.as_ref(),
        }
    }

    /// Notes how a wish ended.
    pub fn settle(&mut self, wish: Wish, outcome: Outcome) {
        self.latest = wish.origin;
        let place = match wish.origin {
            Origin::Service => &mut self.service,
            Origin::Folder => &mut self.folder,
        };
        let before = place.take().filter(|before| before.wish == wish).map_or(0, |before| before.no_contact);
        let no_contact = match &outcome {
            Outcome::RolledBack(reason) if reason.code == protocol_types::ReasonCode::NoContact => {
                before.saturating_add(1)
            }
            Outcome::Succeeded | Outcome::AlreadyRan | Outcome::Failed(_) | Outcome::RolledBack(_) => 0,
        };
        *place = Some(Settled { wish, outcome, no_contact });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol_types::{AppName, Network, RunSettings};

    use super::*;

    pub(crate) fn application(name: &str) -> ApplicationSpec {
        ApplicationSpec {
            name: AppName::new(name).unwrap(),
            version: "1.0.0".parse().unwrap(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            run: RunSettings { network: Network::None, memory_bytes: 1, pids: 1, ready: None },
        }
    }

    /// A release called `version` with one application and the limits 90 s and 600 s.
    pub(crate) fn note(version: &str) -> Note {
        Note {
            digest: Digest::of(version.as_bytes()),
            version: version.parse().unwrap(),
            security_version: SecurityVersion(1),
            raises_floor: false,
            health: Health { time_limit_s: 90, no_contact_limit_s: 600 },
            applications: vec![application("hello")],
            configurations: Vec::new(),
        }
    }

    pub(crate) fn wish(version: &str, rollout: &str) -> Wish {
        Wish {
            release: TargetPath::new(format!("releases/{version}.json")).unwrap(),
            digest: Digest::of(version.as_bytes()),
            rollout: Some(RolloutId::new(rollout).unwrap()),
            origin: Origin::Service,
            consent: None,
        }
    }

    pub(crate) fn pending() -> Pending {
        Pending {
            wish: wish("1.1.0", "r1"),
            slot: Slot::B,
            installed: Installed { root: Digest::of(b"root 1.1.0"), os_security_version: None, note: note("1.1.0") },
            generation: Some(2),
            was_registered: true,
            starts: 0,
            verdict: None,
            firmware: None,
        }
    }

    #[test]
    fn a_state_file_of_this_version_stays_readable() {
        // Bytes as version 0.1 wrote them, and a field that a later version added.
        let text = r#"{"format":1,"a":{"root":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
          "note":{"digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","version":"1.0.0",
          "security_version":1,"raises_floor":false,"health":{"time_limit_s":90,"no_contact_limit_s":600},"applications":[]}},
          "b":null,"pending":null,"service":{"wish":{"release":"releases/1.0.0.json",
          "digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","rollout":"r1","origin":"service"},
          "outcome":{"rolled_back":{"code":"no_contact","text":"nobody answered"}},"no_contact":2},
          "folder":null,"time":5,"later":true}"#;
        let record = Record::parse(text.as_bytes()).unwrap();
        assert_eq!(record.service.as_ref().unwrap().no_contact, 2);
        let again = serde_json::to_vec(&record).unwrap();
        assert_eq!(Record::parse(&again).unwrap(), record);
        assert!(matches!(Record::parse(text.replace(":1,\"a\"", ":2,\"a\"").as_bytes()), Err(RecordError::Format(2))));
    }
}
