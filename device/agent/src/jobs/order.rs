//! A job as the service writes it: who asks, what kind, and its arguments. Total and bounded; never does anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::probes::Probe;

/// The longest arguments in bytes.
const ARGUMENTS_BYTES: usize = 1024;
/// The longest id in characters.
const ID_CHARACTERS: usize = 64;
/// Lines that one job may ask for.
const MOST_LINES: u32 = 1000;

/// The id of a job, which the service never uses twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=ID_CHARACTERS).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text))
        } else {
            Err(format!("the id of a job has 1 to {ID_CHARACTERS} letters, digits and `-`"))
        }
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobOrder {
    /// Its id.
    pub id: JobId,
    /// What is to be done.
    pub work: JobWork,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum JobWork {
    /// Restart in order.
    Reboot,
    /// Have a new key for the operational certificate.
    RotateKey,
    /// Hand in the end of a log.
    Logs(LogsWork),
    /// Make a check that the device itself declares.
    Probe(ProbeWork),
}

/// Which part of which log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsWork {
    /// Whose.
    pub source: LogSource,
    /// How many lines, from the end.
    pub lines: u32,
}

/// Which check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeWork {
    /// Its name.
    pub name: Probe,
}

/// Whose log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// `mbl-agent`.
    Agent,
    /// `mbl-updater`.
    Updater,
    /// `mbl-apps`.
    Apps,
    /// What supervises the three.
    Board,
}

impl LogSource {
    /// The name as files and orders write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Updater => "updater",
            Self::Apps => "apps",
            Self::Board => "board",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl JobOrder {
    /// Reads a job from the texts of resources 0, 1 and 2.
    pub fn read(id: &str, kind: &str, arguments: &str) -> Result<Self, String> {
        if arguments.len() > ARGUMENTS_BYTES {
            return Err(format!("the arguments of a job have at most {ARGUMENTS_BYTES} bytes"));
        }
        // serde would also take a list of the fields' values, without their names.
        if !arguments.trim_start().starts_with('{') {
            return Err("the arguments of a job are a JSON object".to_owned());
        }
        let id = JobId::try_from(id.to_owned())?;
        let wrong = |error: serde_json::Error| format!("the arguments of the job do not fit: {error}");
        let work = match kind {
            "reboot" => {
                let Nothing {} = serde_json::from_str(arguments).map_err(wrong)?;
                JobWork::Reboot
            }
            "rotate-key" => {
                let Nothing {} = serde_json::from_str(arguments).map_err(wrong)?;
                JobWork::RotateKey
            }
            "logs" => {
                let work: LogsWork = serde_json::from_str(arguments).map_err(wrong)?;
                if !(1..=MOST_LINES).contains(&work.lines) {
                    return Err(format!("a job hands in 1 to {MOST_LINES} lines"));
                }
                JobWork::Logs(work)
            }
            "probe" => JobWork::Probe(serde_json::from_str(arguments).map_err(wrong)?),
            _ => return Err("this device knows the jobs `logs`, `reboot`, `rotate-key` and `probe`".to_owned()),
        };
        Ok(Self { id, work })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_is_read_and_nothing_else_is() {
        let work = |kind, arguments| JobOrder::read("j-1", kind, arguments).map(|order| order.work);
        assert_eq!(work("reboot", "{}"), Ok(JobWork::Reboot));
        assert_eq!(work("rotate-key", "{}"), Ok(JobWork::RotateKey));
        let logs = LogsWork { source: LogSource::Updater, lines: 7 };
        assert_eq!(work("logs", r#"{"source":"updater","lines":7}"#), Ok(JobWork::Logs(logs)));
        assert_eq!(work("probe", r#"{"name":"disk"}"#), Ok(JobWork::Probe(ProbeWork { name: Probe::Disk })));
        for (kind, arguments) in [
            ("reboot", ""),
            ("reboot", "[]"),
            ("logs", r#"["agent",7]"#),
            ("reboot", r#"{"now":true}"#),
            ("logs", r#"{"source":"../../etc/shadow","lines":7}"#),
            ("logs", r#"{"source":"agent","lines":0}"#),
            ("logs", r#"{"source":"agent","lines":1001}"#),
            ("probe", r#"{"name":"rm -rf /"}"#),
            ("shell", "{}"),
        ] {
            assert!(work(kind, arguments).is_err(), "{kind} {arguments}");
        }
        for id in ["", "j 1", "j/1", &"j".repeat(65)] {
            assert!(JobOrder::read(id, "reboot", "{}").is_err(), "{id}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused_within_bounds(id in ".{0,80}", kind in "logs|reboot|rotate-key|probe|.{0,9}", arguments in ".{0,2000}") {
            if let Err(said) = JobOrder::read(&id, &kind, &arguments) {
                prop_assert!(said.len() < 1000);
            }
        }
    }
}
