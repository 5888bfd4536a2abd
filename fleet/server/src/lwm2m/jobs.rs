//! Object 26244: the part of a device in a job, as the service writes it, and what the device says of it. Never trusts a length or a form.

use fleet_store::{CommandRow, Delivered};
use protocol_lwm2m::{
    client::WriteMode,
    coap::{Code, ContentFormat},
    formats::{Entry, Value},
    object::{Path, ids, ids::job as resource},
    server::{Operation, RequestError},
};
use protocol_types::{AccountName, Reason, ReasonCode};

use super::{management::Visit, report};
use crate::jobs::JobOrder;

/// `/26244/0`
pub(super) const JOB: Path = Path::instance(ids::JOB, 0);
/// The longest result in bytes; a device cuts it before.
const RESULT_BYTES: usize = 24 * 1024;

/// What a device says of its newest job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    id: String,
    came: Came,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Came {
    Running,
    Done(String),
    Failed(Reason),
}

/// The id of a job as a device knows it: none is ever used twice, also if the service was restored from a backup.
fn id(account: &AccountName, row: &CommandRow) -> String {
    format!("{account}-{}-{}", row.job.unwrap_or_default(), row.created)
}

/// The job in one Write; nothing for a row that was not written by this version.
pub(super) fn write(account: &AccountName, row: &CommandRow) -> Option<Operation> {
    let order: JobOrder = serde_json::from_str(row.argument.as_deref()?).ok()?;
    let entry = |resource, text: String| Entry::new(Path::resource(ids::JOB, 0, resource), text);
    let entries = vec![
        entry(resource::ID, id(account, row)),
        entry(resource::KIND, order.kind().as_str().to_owned()),
        entry(resource::ARGUMENTS, order.arguments()),
    ];
    Some(Operation::Write { path: JOB, mode: WriteMode::Partial, entries, format: ContentFormat::SENML_CBOR })
}

pub(super) const fn observe() -> Operation {
    Operation::Observe { path: JOB, accept: Some(ContentFormat::SENML_CBOR) }
}

/// What it means for its part of a job that a device has refused the Write.
pub(super) fn refused(error: &RequestError) -> Option<Delivered> {
    let RequestError::Refused { code, diagnostic } = error else { return None };
    let reason = match *code {
        Code::NOT_FOUND | Code::METHOD_NOT_ALLOWED => Reason::new(
            ReasonCode::NotSupported,
            "the device takes no jobs: its agent is too old, or its board has none",
        ),
        Code::BAD_REQUEST => Reason::new(ReasonCode::NotSupported, diagnostic),
        _ => report::refusal(diagnostic),
    };
    Some(Delivered::Failed(reason.code.as_str().to_owned(), reason.text))
}

/// Reads the resources of `/26244/0`; `None` without a job, or with a state that is not known.
fn read_report(entries: &[Entry]) -> Option<Report> {
    let text = |resource| {
        let entry = entries.iter().find(|entry| entry.path.ids() == [ids::JOB, 0, resource])?;
        match &entry.value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    };
    let id = text(resource::REPORTED_ID).filter(|id| !id.is_empty())?.to_owned();
    let came = match text(resource::STATE)? {
        "running" => Came::Running,
        "done" => Came::Done(bounded(text(resource::RESULT).unwrap_or_default())),
        "failed" => {
            let sentence = text(resource::REASON).unwrap_or_default();
            let code = text(resource::REASON_CODE).unwrap_or_default();
            // A code of a newer agent is not lost: the sentence still says what happened.
            Came::Failed(match code.parse::<ReasonCode>() {
                Ok(code) => Reason::new(code, sentence),
                Err(_) => Reason::new(ReasonCode::Internal, format!("{code}: {sentence}")),
            })
        }
        _ => return None,
    };
    Some(Report { id, came })
}

/// The end of a text, without the control characters that a terminal would obey.
fn bounded(text: &str) -> String {
    let mut from = text.len().saturating_sub(RESULT_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..)
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c })
        .collect()
}

impl Visit {
    /// Keeps what the device says of its part of a job; what it says of another one is the past.
    pub(super) async fn job_reported(&mut self, entries: &[Entry]) {
        let Some(Report { id: said, came }) = read_report(entries) else { return };
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        let row = match account.job_under_way(&identity.endpoint, self.session).await {
            Ok(row) => row.filter(|row| id(&identity.account, row) == said),
            Err(error) => return self.store_failed("a job under way was not looked up", &error),
        };
        let Some(row) = row else { return };
        let came = match came {
            Came::Running => return,
            Came::Done(result) => Delivered::Done(Some(result)),
            Came::Failed(reason) => Delivered::Failed(reason.code.as_str().to_owned(), reason.text),
        };
        self.record(row.number, &came).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::{CommandKind, CommandState, EndpointName, UnixSeconds};

    use super::*;

    fn entry(resource: u16, text: impl Into<Value>) -> Entry {
        Entry::new(Path::resource(ids::JOB, 0, resource), text)
    }

    #[test]
    fn a_part_of_a_job_is_one_write_with_an_id_of_its_own() {
        let row = CommandRow {
            number: 9,
            endpoint: EndpointName::new("gate-1").unwrap(),
            job: Some(7),
            kind: CommandKind::Job,
            path: "/26244/0".into(),
            argument: Some(r#"{"kind":"probe","name":"disk"}"#.into()),
            state: CommandState::Sent,
            tries: 1,
            created: UnixSeconds(1_800_000_000),
            deadline: UnixSeconds(1_800_000_060),
            sent: None,
            ended: None,
            result: None,
            reason: None,
        };
        let account = AccountName::new("default").unwrap();
        let Some(Operation::Write { path, entries, .. }) = write(&account, &row) else { panic!("no write") };
        let texts: Vec<_> = entries.iter().map(|entry| entry.value.as_str().unwrap().to_owned()).collect();
        assert_eq!(
            (path, texts),
            (JOB, vec!["default-7-1800000000".into(), "probe".into(), r#"{"name":"disk"}"#.into()])
        );
        assert_eq!(write(&account, &CommandRow { argument: Some("{}".into()), ..row }), None);
    }

    #[test]
    fn every_state_is_understood() {
        let said = |state: &str| {
            read_report(&[
                entry(resource::STATE, state),
                entry(resource::REPORTED_ID, "default-7-1"),
                entry(resource::REASON_CODE, "not_supported"),
                entry(resource::REASON, "no such check"),
                entry(resource::RESULT, "up\u{1b}[31m"),
            ])
            .map(|report| report.came)
        };
        assert_eq!(said("running"), Some(Came::Running));
        assert_eq!(said("done"), Some(Came::Done("up [31m".into())));
        assert_eq!(said("failed"), Some(Came::Failed(Reason::new(ReasonCode::NotSupported, "no such check"))));
        assert_eq!(said("none"), None);
        assert_eq!(read_report(&[entry(resource::STATE, "done"), entry(resource::REPORTED_ID, "")]), None);
    }

    #[test]
    fn a_device_that_takes_no_jobs_is_told_apart_from_one_that_is_busy() {
        let after = |code, diagnostic: &str| refused(&RequestError::Refused { code, diagnostic: diagnostic.into() });
        let Some(Delivered::Failed(code, _)) = after(Code::NOT_FOUND, "") else { panic!("not failed") };
        assert_eq!(code, "not_supported");
        let Some(Delivered::Failed(code, _)) = after(Code::INTERNAL_SERVER_ERROR, "busy") else { panic!("not failed") };
        assert_eq!(code, "busy");
        assert_eq!(refused(&RequestError::NotRegistered), None);
    }

    proptest! {
        #[test]
        fn whatever_a_device_says_is_read_within_bounds(said in proptest::collection::vec((0_u16..9, ".{0,600}"), 0..20), times in 1_usize..200) {
            let said = said.into_iter().map(|(resource, text)| entry(resource, text.repeat(times)));
            let first = [entry(resource::STATE, "done"), entry(resource::REPORTED_ID, "j")];
            let entries: Vec<Entry> = first.into_iter().chain(said).collect();
            if let Some(Report { came: Came::Done(result), .. }) = read_report(&entries) {
                prop_assert!(result.len() <= RESULT_BYTES);
            }
        }
    }
}
