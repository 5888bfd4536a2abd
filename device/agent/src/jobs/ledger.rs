//! Which job is under way, what became of the last one, and which ones the device has had: a job that comes again does nothing. Never
//! touches a disk or a clock.

use protocol_types::Reason;
use serde::{Deserialize, Serialize};

use super::order::{JobId, JobOrder};

/// Ids that are remembered.
const REMEMBERED: usize = 32;
/// The longest result in bytes; what is longer loses its beginning.
pub const RESULT_BYTES: usize = 24 * 1024;

/// What a device keeps of its jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    current: Option<Current>,
    last: Option<Ended>,
    /// The newest last.
    had: Vec<JobId>,
}

/// The job that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    order: JobOrder,
    /// Tells the run of the system in which the job was taken from every other.
    boot: String,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Its id.
    pub id: JobId,
    /// What it has brought; may be empty.
    pub result: String,
    /// Why it failed, if it did.
    pub reason: Option<Reason>,
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is under way now.
    New,
    /// It is under way already, or was done before: nothing happens.
    Known,
    /// Another one is under way.
    Busy,
}

/// What the service hears of the newest job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// Its id; empty before the first one.
    pub id: String,
    /// `none`, `running`, `done` or `failed`.
    pub state: &'static str,
    /// Why it failed.
    pub reason: Option<Reason>,
}

impl Ledger {
    /// Takes a job in the present run of the system.
    pub fn take(&mut self, order: JobOrder, boot: &str) -> Taken {
        if self.had.contains(&order.id) {
            return Taken::Known;
        }
        if self.current.is_some() {
            return Taken::Busy;
        }
        self.had.push(order.id.clone());
        if self.had.len() > REMEMBERED {
            self.had.remove(0);
        }
        self.current = Some(Current { order, boot: boot.to_owned() });
        Taken::New
    }

    /// The job that is under way, and whether the system has started anew since it was taken.
    pub fn under_way(&self, boot: &str) -> Option<(&JobOrder, bool)> {
        self.current.as_ref().map(|current| (&current.order, current.boot != boot))
    }

    /// Ends the job that is under way; one that is not is left as it is.
    pub fn end(&mut self, id: &JobId, came: Result<String, Reason>) -> bool {
        if self.current.as_ref().is_none_or(|current| current.order.id != *id) {
            return false;
        }
        self.current = None;
        let (result, reason) = match came {
            Ok(result) => (bounded(&result), None),
            Err(reason) => (String::new(), Some(reason)),
        };
        self.last = Some(Ended { id: id.clone(), result, reason });
        true
    }

    /// What the service hears.
    pub fn status(&self) -> JobStatus {
        match (&self.current, &self.last) {
            (Some(current), _) => JobStatus { id: current.order.id.to_string(), state: "running", reason: None },
            (None, Some(Ended { id, reason, .. })) => {
                let state = if reason.is_some() { "failed" } else { "done" };
                JobStatus { id: id.to_string(), state, reason: reason.clone() }
            }
            (None, None) => JobStatus { id: String::new(), state: "none", reason: None },
        }
    }

    /// What the newest job has brought; empty while it is under way.
    pub fn result(&self) -> &str {
        match (&self.current, &self.last) {
            (None, Some(ended)) => &ended.result,
            _ => "",
        }
    }
}

/// The end of a text, without the control characters that a terminal would obey.
fn bounded(text: &str) -> String {
    let mut from = text.len().saturating_sub(RESULT_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::ReasonCode;

    use super::*;

    fn order(id: &str) -> JobOrder {
        JobOrder::read(id, "reboot", "{}").unwrap()
    }

    #[test]
    fn a_job_that_comes_again_does_nothing_before_and_after_its_end() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.status().state, "none");
        assert_eq!(ledger.take(order("j-1"), "first"), Taken::New);
        assert_eq!(ledger.take(order("j-1"), "first"), Taken::Known);
        assert_eq!(ledger.take(order("j-2"), "first"), Taken::Busy);
        assert_eq!(ledger.under_way("first"), Some((&order("j-1"), false)));
        assert_eq!(ledger.under_way("second"), Some((&order("j-1"), true)), "the system has started anew");
        assert!(!ledger.end(&order("j-2").id, Ok(String::new())));
        assert!(ledger.end(&order("j-1").id, Ok("up".into())));
        assert_eq!((ledger.status().state, ledger.result()), ("done", "up"));
        assert_eq!(ledger.take(order("j-1"), "second"), Taken::Known);
        assert_eq!(ledger.status().state, "done", "and what it came to stands");
        assert_eq!(ledger.take(order("j-2"), "second"), Taken::New);
        assert_eq!((ledger.status().state, ledger.result()), ("running", ""));
        let reason = Reason::new(ReasonCode::NotSupported, "no");
        assert!(ledger.end(&order("j-2").id, Err(reason.clone())));
        let failed = JobStatus { id: "j-2".into(), state: "failed", reason: Some(reason) };
        assert_eq!(ledger.status(), failed);
    }

    #[test]
    fn the_newest_ids_are_remembered_and_the_ledger_fits_its_file_whatever_a_job_brings() {
        let mut ledger = Ledger::default();
        for n in 0..100 {
            let order = order(&format!("{n:0>64}"));
            assert_eq!(ledger.take(order.clone(), "b"), Taken::New);
            ledger.end(&order.id, Ok("\"\\".repeat(RESULT_BYTES)));
        }
        assert_eq!(ledger.take(order(&format!("{:0>64}", 99)), "b"), Taken::Known);
        assert_eq!(ledger.take(order(&format!("{:0>64}", 100 - REMEMBERED)), "b"), Taken::Known);
        let bytes = serde_json::to_vec(&ledger).unwrap();
        assert!(bytes.len() < 60 * 1024, "{}", bytes.len());
        assert_eq!(serde_json::from_slice::<Ledger>(&bytes).unwrap(), ledger);
    }

    proptest! {
        #[test]
        fn a_result_keeps_its_end_within_bounds(text in "\\PC{0,60}", times in 1_usize..600) {
            let kept = bounded(&text.repeat(times));
            prop_assert!(kept.len() <= RESULT_BYTES);
            prop_assert!(text.repeat(times).ends_with(&kept));
        }
    }
}
