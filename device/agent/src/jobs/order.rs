//! A job as the service writes it: who asks, what kind, and its arguments. Total and bounded; never does anything.

use std::fmt;

use protocol_types::{AppName, ProbeName};
use serde::{Deserialize, Serialize};

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
#[serde(try_from = "LogsText", into = "LogsText")]
pub struct LogsWork {
    /// Whose.
    pub source: LogSource,
    /// How many lines, from the end: 1 to 1000.
    pub lines: u32,
}

/// Which check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeWork {
    /// Its name.
    pub name: ProbeName,
}

/// Whose log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// A part of the system.
    System(SystemLog),
    /// An application.
    Application(AppName),
}

/// The parts of the system that have a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemLog {
    /// `mbl-agent`.
    Agent,
    /// `mbl-updater`.
    Updater,
    /// `mbl-apps`.
    Apps,
    /// What supervises the three.
    Board,
    /// The kernel.
    Kernel,
}

impl SystemLog {
    /// The name as files write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Updater => "updater",
            Self::Apps => "apps",
            Self::Board => "board",
            Self::Kernel => "kernel",
        }
    }
}

/// A [`LogsWork`] as the service writes it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsText {
    source: SourceText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    application: Option<AppName>,
    lines: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceText {
    Agent,
    Updater,
    Apps,
    Board,
    Kernel,
    Application,
}

impl TryFrom<LogsText> for LogsWork {
    type Error = String;
    fn try_from(LogsText { source, application, lines }: LogsText) -> Result<Self, String> {
        if !(1..=MOST_LINES).contains(&lines) {
            return Err(format!("a job hands in 1 to {MOST_LINES} lines"));
        }
        let system = match (source, application) {
            (SourceText::Application, Some(name)) => return Ok(Self { source: LogSource::Application(name), lines }),
            (SourceText::Application, None) => return Err("the source `application` needs an application".to_owned()),
            (_, Some(_)) => return Err("only the source `application` has an application".to_owned()),
            (SourceText::Agent, None) => SystemLog::Agent,
            (SourceText::Updater, None) => SystemLog::Updater,
            (SourceText::Apps, None) => SystemLog::Apps,
            (SourceText::Board, None) => SystemLog::Board,
            (SourceText::Kernel, None) => SystemLog::Kernel,
        };
        Ok(Self { source: LogSource::System(system), lines })
    }
}

impl From<LogsWork> for LogsText {
    fn from(LogsWork { source, lines }: LogsWork) -> Self {
        let (source, application) = match source {
            LogSource::System(SystemLog::Agent) => (SourceText::Agent, None),
            LogSource::System(SystemLog::Updater) => (SourceText::Updater, None),
            LogSource::System(SystemLog::Apps) => (SourceText::Apps, None),
            LogSource::System(SystemLog::Board) => (SourceText::Board, None),
            LogSource::System(SystemLog::Kernel) => (SourceText::Kernel, None),
            LogSource::Application(name) => (SourceText::Application, Some(name)),
        };
        Self { source, application, lines }
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
            "logs" => JobWork::Logs(serde_json::from_str(arguments).map_err(wrong)?),
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
        for (arguments, source) in [
            (r#"{"source":"updater","lines":7}"#, LogSource::System(SystemLog::Updater)),
            (r#"{"source":"kernel","lines":7}"#, LogSource::System(SystemLog::Kernel)),
            (
                r#"{"source":"application","application":"hello","lines":7}"#,
                LogSource::Application("hello".parse().unwrap()),
            ),
        ] {
            let logs = LogsWork { source, lines: 7 };
            assert_eq!(serde_json::to_string(&logs).unwrap(), arguments, "as it is kept");
            assert_eq!(work("logs", arguments), Ok(JobWork::Logs(logs)));
        }
        let probe = ProbeWork { name: "disk".parse().unwrap() };
        assert_eq!(work("probe", r#"{"name":"disk"}"#), Ok(JobWork::Probe(probe)));
        for (kind, arguments) in [
            ("reboot", ""),
            ("reboot", "[]"),
            ("logs", r#"["agent",7]"#),
            ("reboot", r#"{"now":true}"#),
            ("logs", r#"{"source":"../../etc/shadow","lines":7}"#),
            ("logs", r#"{"source":"agent","lines":0}"#),
            ("logs", r#"{"source":"agent","lines":1001}"#),
            ("logs", r#"{"source":"application","lines":7}"#),
            ("logs", r#"{"source":"application","application":"../x","lines":7}"#),
            ("logs", r#"{"source":"agent","application":"hello","lines":7}"#),
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
