//! What the agent keeps across restarts: the orders of the service, an ordered factory reset, the operational identity and the floor of time. Every
//! write is crash-safe; nothing here decides what to keep.

use std::{fmt, path::PathBuf};

use protocol_types::UnixSeconds;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    configuration::{Kept, SealingKey, Wish},
    durable::{self, DurableError},
    enrolment::{Enrolment, EnrolmentError, EnrolmentText, NoManagement},
    jobs::Ledger,
    key_store::DeviceKey,
    metrics::Life,
    orders::Orders,
};

/// Where one device keeps what it must not forget. Each call returns once the value survives a power cut.
pub trait DurableState: Send + Sync + fmt::Debug {
    /// Keeps the orders. Called before the service hears that its Write was taken, so that no order is lost with the power.
    fn keep_orders(&self, orders: &Orders) -> Result<(), DurableError>;
    /// Keeps the order of a factory reset. Called before the service hears that it was taken; it goes with the state that it ends.
    fn keep_reset(&self) -> Result<(), DurableError>;
    /// Keeps what the service wants as the configuration. Called before the service hears that its Write was taken.
    fn keep_wish(&self, wish: &Wish) -> Result<(), DurableError>;
    /// Keeps which jobs the device has had. Called before the service hears that a job was taken. Whoever takes no jobs keeps none.
    fn keep_jobs(&self, _jobs: &Ledger) -> Result<(), DurableError> {
        Ok(())
    }
    /// Keeps the operational identity.
    fn keep_enrolment(&self, enrolment: &Enrolment) -> Result<(), DurableError>;
    /// Keeps a time that has surely passed.
    fn keep_floor(&self, floor: UnixSeconds) -> Result<(), DurableError>;
}

/// Keeps nothing, for simulated devices that live as long as their process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl DurableState for Forgetful {
    fn keep_orders(&self, _orders: &Orders) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_reset(&self) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_wish(&self, _wish: &Wish) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_enrolment(&self, _enrolment: &Enrolment) -> Result<(), DurableError> {
        Ok(())
    }
    fn keep_floor(&self, _floor: UnixSeconds) -> Result<(), DurableError> {
        Ok(())
    }
}

/// One small file each in the agent's folder on the state partition.
#[derive(Clone, Debug)]
pub struct StateFolder {
    folder: PathBuf,
}

/// A kept value that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read.
    #[error("cannot load what was kept")]
    Read(#[from] DurableError),
    /// The file is not of a form that this program writes.
    #[error("the kept {0} are damaged")]
    Malformed(&'static str, #[source] serde_json::Error),
    /// The kept certificate or its key cannot be used.
    #[error("the kept operational identity cannot be used")]
    Enrolment(#[from] EnrolmentError),
}

/// The longest of the files in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Every file says which format it has.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filed<T> {
    format: Format,
    value: T,
}

/// The number 1, the only format so far.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Format;

impl TryFrom<u32> for Format {
    type Error = String;
    fn try_from(format: u32) -> Result<Self, String> {
        if format == 1 { Ok(Self) } else { Err(format!("format {format} is not known, only format 1 is")) }
    }
}

impl From<Format> for u32 {
    fn from(_: Format) -> Self {
        1
    }
}

impl StateFolder {
    const ORDERS: &str = "orders.json";
    const RESET: &str = "factory-reset.json";
    const WISH: &str = "configuration-wish.json";
    const CONFIGURATION: &str = "configuration.json";
    const JOBS: &str = "jobs.json";
    const SEALING_KEY: &str = "sealing-key.json";
    const ENROLMENT: &str = "enrolment.json";
    const FLOOR: &str = "time-floor.json";
    const LIFE: &str = "life.json";

    /// The state in `folder`, which must exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The orders kept last; none given if there are none.
    pub fn orders(&self) -> Result<Orders, StateError> {
        Ok(self.load(Self::ORDERS, "orders")?.unwrap_or_default())
    }

    /// Whether a factory reset was ordered.
    pub fn reset(&self) -> Result<bool, StateError> {
        Ok(self.load(Self::RESET, "orders")?.unwrap_or_default())
    }

    /// What the service wanted last as the configuration.
    pub fn wish(&self) -> Result<Option<Wish>, StateError> {
        self.load(Self::WISH, "wishes")
    }

    /// What became of the configurations of before.
    pub fn configuration(&self) -> Result<Kept, StateError> {
        Ok(self.load(Self::CONFIGURATION, "settings")?.unwrap_or_default())
    }

    /// The key pair to which secrets are sealed, if it was made.
    pub fn sealing_key(&self) -> Result<Option<SealingKey>, StateError> {
        self.load(Self::SEALING_KEY, "keys")
    }

    /// Keeps the key pair to which secrets are sealed.
    pub fn keep_sealing_key(&self, key: &SealingKey) -> Result<(), DurableError> {
        self.keep(Self::SEALING_KEY, key)
    }

    /// Keeps what became of a configuration.
    pub fn keep_configuration_state(&self, kept: &Kept) -> Result<(), DurableError> {
        self.keep(Self::CONFIGURATION, kept)
    }

    /// What is counted from start to start.
    pub fn life(&self) -> Result<Life, StateError> {
        Ok(self.load(Self::LIFE, "counts")?.unwrap_or_default())
    }

    /// Keeps what is counted from start to start.
    pub fn keep_life(&self, life: &Life) -> Result<(), DurableError> {
        self.keep(Self::LIFE, life)
    }

    /// The jobs that the device has had.
    pub fn jobs(&self) -> Result<Ledger, StateError> {
        Ok(self.load(Self::JOBS, "jobs")?.unwrap_or_default())
    }

    /// Keeps what became of a job.
    pub fn keep_job_ledger(&self, jobs: &Ledger) -> Result<(), DurableError> {
        self.keep(Self::JOBS, jobs)
    }

    /// The operational identity kept last, of the device with this key.
    pub fn enrolment(&self, device: &DeviceKey) -> Result<Option<Enrolment>, StateError> {
        let text: Option<EnrolmentText> = self.load(Self::ENROLMENT, "accounts")?;
        Ok(text.map(|text| text.open(device)).transpose()?)
    }

    /// The floor of time kept last; the beginning of time if there is none.
    pub fn floor(&self) -> Result<UnixSeconds, StateError> {
        Ok(self.load(Self::FLOOR, "seconds")?.unwrap_or_default())
    }

    fn load<T: DeserializeOwned>(&self, name: &str, what: &'static str) -> Result<Option<T>, StateError> {
        let Some(bytes) = durable::read(&self.folder.join(name), MAX_BYTES)? else { return Ok(None) };
        let kept: Filed<T> = serde_json::from_slice(&bytes).map_err(|e| StateError::Malformed(what, e))?;
        Ok(Some(kept.value))
    }

    fn keep<T: Serialize>(&self, name: &str, value: T) -> Result<(), DurableError> {
        durable::replace_json(&self.folder.join(name), &Filed { format: Format, value }, 0o600)
    }
}

impl DurableState for StateFolder {
    fn keep_orders(&self, orders: &Orders) -> Result<(), DurableError> {
        self.keep(Self::ORDERS, orders)
    }

    fn keep_reset(&self) -> Result<(), DurableError> {
        self.keep(Self::RESET, true)
    }

    fn keep_wish(&self, wish: &Wish) -> Result<(), DurableError> {
        self.keep(Self::WISH, wish)
    }

    fn keep_jobs(&self, jobs: &Ledger) -> Result<(), DurableError> {
        self.keep_job_ledger(jobs)
    }

    fn keep_enrolment(&self, enrolment: &Enrolment) -> Result<(), DurableError> {
        match EnrolmentText::try_from(enrolment) {
            Ok(text) => self.keep(Self::ENROLMENT, text),
            // Accounts without a management server are worth nothing: the next start bootstraps.
            Err(NoManagement) => durable::remove(&self.folder.join(Self::ENROLMENT)),
        }
    }

    fn keep_floor(&self, floor: UnixSeconds) -> Result<(), DurableError> {
        self.keep(Self::FLOOR, floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn ordered() -> Orders {
        let writes = [(0, "releases/1.1.0.json"), (1, DIGEST), (2, "r-7"), (14, "https://127.0.0.1:8444")];
        Orders::default().with(writes).unwrap()
    }

    #[test]
    fn what_was_kept_is_read_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path());
        assert_eq!(state.orders().unwrap(), Orders::default());
        assert_eq!(state.floor().unwrap(), UnixSeconds(0));
        let device = DeviceKey::generate().unwrap();
        assert!(state.enrolment(&device).unwrap().is_none() && !state.reset().unwrap());
        state.keep_reset().unwrap();
        state.keep_orders(&ordered()).unwrap();
        state.keep_floor(UnixSeconds(1_800_000_000)).unwrap();
        let enrolment = crate::enrolment::tests::enrolment();
        state.keep_enrolment(&enrolment).unwrap();
        let again = StateFolder::new(folder.path());
        assert!(again.reset().unwrap());
        assert_eq!(again.orders().unwrap(), ordered());
        assert_eq!(again.floor().unwrap(), UnixSeconds(1_800_000_000));
        assert_eq!(again.enrolment(&device).unwrap(), Some(enrolment));
    }

    #[test]
    fn the_bytes_of_format_1_do_not_move() {
        let folder = tempfile::tempdir().unwrap();
        StateFolder::new(folder.path()).keep_orders(&ordered()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("orders.json")).unwrap();
        let expected = format!(
            r#"{{"format":1,"value":{{"wish":{{"release":{{"release":"releases/1.1.0.json","digest":"{DIGEST}","rollout":"r-7"}}}},"artifacts":"https://127.0.0.1:8444"}}}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_bytes_of_kept_configurations_do_not_move_and_a_document_that_breaks_a_rule_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path());
        assert_eq!((state.wish().unwrap(), state.configuration().unwrap()), (None, Kept::default()));
        let wish = Wish::new(7, r#"{"hostname":"a"}"#).unwrap();
        state.keep_wish(&wish).unwrap();
        let text = std::fs::read_to_string(folder.path().join("configuration-wish.json")).unwrap();
        assert_eq!(text, r#"{"format":1,"value":{"generation":7,"document":"{\"hostname\":\"a\"}"}}"#);
        assert_eq!(state.wish().unwrap(), Some(wish));
        state.keep_configuration_state(&Kept::default()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("configuration.json")).unwrap();
        assert_eq!(text, r#"{"format":1,"value":{"in_force":null,"trial":null,"outcome":null}}"#);
        std::fs::write(
            folder.path().join("configuration-wish.json"),
            r#"{"format":1,"value":{"generation":7,"document":"{\"hostnam\":\"a\"}"}}"#,
        )
        .unwrap();
        assert!(matches!(state.wish(), Err(StateError::Malformed(..))));
    }

    #[test]
    fn the_bytes_of_kept_counts_do_not_move() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path());
        let life = state.life().unwrap().begun("b-1");
        state.keep_life(&life).unwrap();
        let text = std::fs::read_to_string(folder.path().join("life.json")).unwrap();
        assert_eq!(
            text,
            r#"{"format":1,"value":{"boot":"b-1","running":true,"boots":1,"unclean_boots":0,"agent_crashes":0,"app_exits":0}}"#
        );
        assert_eq!(state.life().unwrap(), life);
    }

    #[test]
    fn the_bytes_of_kept_jobs_do_not_move() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path());
        assert_eq!(state.jobs().unwrap(), Ledger::default());
        let mut ledger = Ledger::default();
        for (id, kind, arguments) in [
            ("a-1", "probe", r#"{"name":"disk"}"#),
            ("a-2", "logs", r#"{"source":"agent","lines":7}"#),
            ("a-3", "reboot", "{}"),
        ] {
            if let Some((order, _)) = ledger.under_way("b") {
                let id = order.id.clone();
                ledger.end(&id, Ok("x".to_owned()));
            }
            ledger.take(crate::jobs::JobOrder::read(id, kind, arguments).unwrap(), "b");
        }
        state.keep_jobs(&ledger).unwrap();
        let text = std::fs::read_to_string(folder.path().join("jobs.json")).unwrap();
        assert_eq!(
            text,
            r#"{"format":1,"value":{"current":{"order":{"id":"a-3","work":"reboot"},"boot":"b"},"last":{"id":"a-2","result":"x","reason":null},"had":["a-1","a-2","a-3"]}}"#
        );
        assert_eq!(state.jobs().unwrap(), ledger);
    }

    #[test]
    fn damaged_state_is_an_error_and_not_an_absence() {
        let folder = tempfile::tempdir().unwrap();
        for text in
            ["", "{", r#"{"format":2,"value":{"wish":null,"artifacts":null}}"#, r#"{"format":1,"value":{"x":1}}"#]
        {
            std::fs::write(folder.path().join("orders.json"), text).unwrap();
            assert!(matches!(StateFolder::new(folder.path()).orders(), Err(StateError::Malformed(..))), "{text}");
        }
    }
}
