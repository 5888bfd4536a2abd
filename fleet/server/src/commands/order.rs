//! A command as an operation on the device, and the answer as what came of it. Never sends anything.

use fleet_api::{ResourceType, ResourceValue};
use fleet_store::{CommandRow, Delivered, StoreError};
use protocol_lwm2m::{
    client::WriteMode,
    coap::{Code, ContentFormat, ExchangeError},
    formats::Entry,
    object::Path,
    server::{Answer, Content, Operation, RequestError},
};
use protocol_types::CommandKind;
use serde::{Deserialize, Serialize};

use super::values;

/// Longest answer that is kept, as JSON.
const RESULT_BYTES: usize = 128 * 1024;
/// Longest sentence of a device that is passed on.
const DIAGNOSTIC_CHARACTERS: usize = 200;
const FORMAT: ContentFormat = ContentFormat::SENML_CBOR;

/// The value of a Write, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Argument {
    #[serde(rename = "type")]
    pub(crate) kind: ResourceType,
    pub(crate) value: String,
}

/// What the device is asked; nothing for a row that was not written by this version.
pub(crate) fn operation(row: &CommandRow) -> Option<Operation> {
    let path: Path = row.path.parse().ok()?;
    Some(match row.kind {
        CommandKind::Read => Operation::Read { path, accept: Some(FORMAT) },
        CommandKind::Observe => Operation::Observe { path, accept: Some(FORMAT) },
        CommandKind::Execute => Operation::Execute { path, arguments: row.argument.clone().unwrap_or_default() },
        CommandKind::Write => {
            let Argument { kind, value } = serde_json::from_str(row.argument.as_deref()?).ok()?;
            let value = values::parse(kind, &value).ok()?;
            Operation::Write { path, mode: WriteMode::Replace, entries: vec![Entry::new(path, value)], format: FORMAT }
        }
        CommandKind::Job => return None,
    })
}

/// What came of a command, by what the device answered.
pub(crate) fn delivered(kind: CommandKind, result: Result<Answer, RequestError>) -> Delivered {
    match (kind, result) {
        (CommandKind::Read, Ok(answer)) => match kept(&answer.content) {
            Some(values) => Delivered::Done(Some(values)),
            None => too_large(),
        },
        (CommandKind::Observe, Ok(answer)) => match kept(&answer.content) {
            Some(values) => Delivered::Taken(Some(values)),
            None => too_large(),
        },
        // What it says beside its yes changes nothing.
        (CommandKind::Write | CommandKind::Execute, Ok(_) | Err(RequestError::Decode(_))) => Delivered::Done(None),
        (CommandKind::Job, Ok(_)) => Delivered::Taken(None),
        (_, Err(error)) => failed(&error),
    }
}

fn failed(error: &RequestError) -> Delivered {
    let failed = |code: &str, text: &str| Delivered::Failed(code.to_owned(), text.to_owned());
    match error {
        RequestError::Refused { code, diagnostic } => refused(*code, diagnostic),
        RequestError::Exchange(ExchangeError::TimedOut | ExchangeError::ConnectionLost) => Delivered::NoAnswer,
        RequestError::Exchange(ExchangeError::TooMany) | RequestError::NotRegistered => Delivered::NotSent,
        RequestError::Exchange(ExchangeError::TooLarge) => too_large(),
        RequestError::Encode(_) => failed("not_encodable", "the value cannot be written in a format of the device"),
        RequestError::Decode(_) | RequestError::Exchange(ExchangeError::Broken) => {
            failed("answer_unreadable", "the answer of the device cannot be read")
        }
        RequestError::NotObserved => failed("observation_ended", "the device does not observe this path any more"),
    }
}

fn too_large() -> Delivered {
    Delivered::Failed("answer_too_large".to_owned(), "the answer of the device is larger than what is kept".to_owned())
}

/// A refusal of the device: its code in a stable form, and what it said, within bounds.
fn refused(code: Code, diagnostic: &str) -> Delivered {
    let said: String = diagnostic.chars().filter(|c| !c.is_control()).take(DIAGNOSTIC_CHARACTERS).collect();
    let stable = format!("coap_{}", code.to_string().replace('.', "_"));
    let text = match said.is_empty() {
        true => format!("the device answered {code} ({})", meaning(code)),
        false => format!("the device answered {code} ({}): {said}", meaning(code)),
    };
    Delivered::Failed(stable, text)
}

/// What a code of LwM2M says to a person.
const fn meaning(code: Code) -> &'static str {
    match code {
        Code::BAD_REQUEST => "it does not take this value",
        Code::UNAUTHORIZED => "it allows no server to do this",
        Code::NOT_FOUND => "it has nothing at this path",
        Code::METHOD_NOT_ALLOWED => "it does not allow this on the path",
        Code::NOT_ACCEPTABLE | Code::UNSUPPORTED_CONTENT_FORMAT => "it does not know the format",
        Code::INTERNAL_SERVER_ERROR => "it failed",
        Code::SERVICE_UNAVAILABLE => "it has no room for this now",
        _ => "it refused",
    }
}

/// Values as the store keeps them; nothing if they are too long.
pub(crate) fn kept(content: &Content) -> Option<String> {
    let values = match content {
        Content::Entries(entries) => values::shown(entries),
        Content::None | Content::Links(_) => Vec::new(),
    };
    serde_json::to_string(&values).ok().filter(|text| text.len() <= RESULT_BYTES)
}

/// Values as the store has kept them, in this column of this table. Values that cannot be read are not the same as none.
pub(crate) fn read_back(
    text: &str,
    (table, column): (&'static str, &'static str),
) -> Result<Vec<ResourceValue>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Damaged { table, column })
}

#[cfg(test)]
mod tests {
    use protocol_lwm2m::formats::Value;
    use protocol_types::{CommandState, EndpointName, UnixSeconds};

    use super::*;

    fn row(kind: CommandKind, path: &str, argument: Option<&str>) -> CommandRow {
        CommandRow {
            number: 1,
            endpoint: EndpointName::new("gate-1").unwrap(),
            job: None,
            kind,
            path: path.into(),
            argument: argument.map(str::to_owned),
            state: CommandState::Sent,
            tries: 1,
            created: UnixSeconds(0),
            deadline: UnixSeconds(9),
            sent: None,
            ended: None,
            result: None,
            reason: None,
        }
    }

    #[test]
    fn a_write_carries_its_value_in_the_type_that_was_checked() {
        let wanted = operation(&row(CommandKind::Write, "/1/0/2", Some(r#"{"type":"integer","value":"60"}"#)));
        let Some(Operation::Write { path, entries, .. }) = wanted else { panic!("{wanted:?}") };
        assert_eq!((path, entries), (Path::resource(1, 0, 2), vec![Entry::new(Path::resource(1, 0, 2), 60)]));
        for damaged in [None, Some("{"), Some(r#"{"type":"integer","value":"x"}"#)] {
            assert_eq!(operation(&row(CommandKind::Write, "/1/0/2", damaged)), None);
        }
        assert_eq!(operation(&row(CommandKind::Read, "3/0", None)), None);
    }

    #[test]
    fn an_answer_that_was_lost_is_told_apart_from_a_refusal_and_from_what_was_never_sent() {
        let after = |error| delivered(CommandKind::Execute, Err(error));
        assert_eq!(after(RequestError::Exchange(ExchangeError::ConnectionLost)), Delivered::NoAnswer);
        assert_eq!(after(RequestError::Exchange(ExchangeError::TimedOut)), Delivered::NoAnswer);
        assert_eq!(after(RequestError::NotRegistered), Delivered::NotSent);
        let refused = after(RequestError::Refused { code: Code::NOT_FOUND, diagnostic: "gone\u{7}".into() });
        let said = "the device answered 4.04 (it has nothing at this path): gone";
        assert_eq!(refused, Delivered::Failed("coap_4_04".into(), said.into()));
        let unreadable = RequestError::Decode(protocol_lwm2m::formats::FormatError::NotSingle(FORMAT));
        assert_eq!(after(unreadable), Delivered::Done(None), "it said yes, and is not asked again");
    }

    #[test]
    fn values_come_back_as_they_were_kept() {
        let path = Path::resource(3, 0, 13);
        let answer = Answer {
            code: Code::CONTENT,
            content: Content::Entries(vec![Entry::new(path, Value::Time(1_800_000_000))]),
        };
        let Delivered::Done(Some(text)) = delivered(CommandKind::Read, Ok(answer)) else { panic!("not done") };
        let value = ResourceValue { path: "/3/0/13".into(), kind: ResourceType::Time, value: "1800000000".into() };
        let kept = ("commands", "result");
        assert_eq!(read_back(&text, kept).unwrap(), [value]);
        for damaged in ["", "{}", "[{"] {
            let refused = read_back(damaged, kept).unwrap_err();
            assert_eq!(refused.to_string(), "commands holds a row whose result cannot be read");
        }
    }
}
