//! The end of a log in the journal of the operating system. The agent's user may read the journal and nothing more; who asks chooses among
//! parts of the system, never what the program is told.

use std::{path::Path, time::Duration};

use super::{
    child::{ChildError, Program, program},
    order::SystemLog,
};

/// The program that reads the journal.
const JOURNALCTL: &str = "/usr/bin/journalctl";
/// How long it may take: a journal on slow flash is read from its end.
const LIMIT: Duration = Duration::from_secs(60);

/// The last `lines` lines of a part of the system, of this and of earlier runs.
pub(super) async fn end(of: SystemLog, lines: u32) -> Result<String, ChildError> {
    question(of, lines).run().await
}

fn question(of: SystemLog, lines: u32) -> Program {
    let whose = match of {
        SystemLog::Agent => "--unit=mbl-agent.service",
        SystemLog::Updater => "--unit=mbl-updater.service",
        SystemLog::Apps => "--unit=mbl-apps.service",
        // The service manager, which starts and watches the three.
        SystemLog::Board => "_PID=1",
        SystemLog::Kernel => "_TRANSPORT=kernel",
    };
    let how = ["--output=short-iso", "--no-hostname", "--no-pager", "--quiet", "--utc"];
    let lines = format!("--lines={lines}");
    let arguments = how.into_iter().chain([lines.as_str(), whose]).map(str::to_owned).collect();
    program(Path::new(JOURNALCTL), arguments, LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_question_is_one_that_the_program_understands() {
        let empty = tempfile::tempdir().unwrap();
        for of in [SystemLog::Agent, SystemLog::Updater, SystemLog::Apps, SystemLog::Board, SystemLog::Kernel] {
            let mut asked = question(of, 7);
            assert!(asked.arguments.contains(&"--lines=7".to_owned()));
            asked.arguments.push(format!("--directory={}", empty.path().display()));
            assert_eq!(asked.run().await.unwrap(), "", "{of:?}");
            asked.arguments.push("--no-such-option".to_owned());
            assert!(matches!(asked.run().await, Err(ChildError::Failed { .. })));
        }
    }
}
