//! The audit log: what was done in an account, by whom, chained so that nothing can be taken out or changed unseen. Its form and
//! how it is verified without the service is in `docs/formats/audit-log.md`.

use futures_util::{Stream, StreamExt as _};
use protocol_types::{AccountName, Digest, UnixSeconds};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, Page, PageQuery};

/// Longest line of a log that is read, in bytes.
pub const AUDIT_LINE_BYTES: usize = 16 << 20;
/// The kind of the change by which a refusal says how many it stands for.
const LEFT_OUT: &str = "audit.refusals_left_out";
/// What the first entry names as the one before it.
const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A change that an entry tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditChange {
    /// What kind, as in `group.created`.
    pub kind: String,
    /// What it is about, as in `groups/doors`.
    pub subject: String,
    /// Details.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// Something that was done, or refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// The account whose log it is.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// Position in the log: 1, 2, 3 and so on.
    pub number: u64,
    /// When, in Unix seconds.
    #[schema(value_type = u64)]
    pub time: UnixSeconds,
    /// The request, as in the header `X-Request-Id` of its answer.
    pub request: String,
    /// Who, as in `service/ci`, `user/anna` or `token/ID`.
    pub principal: String,
    /// The account that the principal belongs to.
    #[schema(value_type = String)]
    pub home: AccountName,
    /// The token or session that was shown.
    pub credential: String,
    /// From where: the address of the other end of the connection.
    pub address: String,
    /// What was asked: the `operationId` in openapi.json.
    pub action: String,
    /// On what: the path below `/api/v1/`.
    pub resource: String,
    /// `done`, or the code of the refusal.
    pub outcome: String,
    /// What changed.
    pub changes: Vec<AuditChange>,
    /// How many changes are not listed.
    pub more_changes: u64,
    /// Hash of the entry before; 64 zeros in the first one.
    pub previous: String,
}

impl AuditEntry {
    /// How many more refusals of its principal it stands for.
    pub fn left_out(&self) -> u64 {
        let told = self.changes.iter().find(|change| change.kind == LEFT_OUT);
        told.and_then(|change| change.data["refusals"].as_u64()).map_or(0, |all| all.saturating_sub(1))
    }
}

/// An entry and its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// SHA-256 of the entry's text, 64 hexadecimal digits.
    pub hash: String,
    /// The entry.
    pub entry: AuditEntry,
}

/// Where an export begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditExportQuery {
    /// Number of the entry after which it begins; without it, at the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// Why a line cannot follow the lines before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// The line does not have the form of an entry.
    #[error("the line is no entry of an audit log")]
    Form,
    /// The text of the entry does not have the hash beside it.
    #[error("the entry was changed: its hash is {found}, but {stated} stands beside it")]
    Hash {
        /// The hash of the text.
        found: String,
        /// The hash beside it.
        stated: String,
    },
    /// The entry is of another account.
    #[error("the entry is of account `{found}`, the ones before of `{expected}`")]
    Account {
        /// Its account.
        found: AccountName,
        /// The account of the log.
        expected: AccountName,
    },
    /// Entries are missing, or out of order.
    #[error("entry {expected} is missing: entry {found} stands here")]
    Number {
        /// The number that is due.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// The entry follows another entry than the one before it.
    #[error("entry {number} does not follow the entry before it: that one was changed, replaced or taken out")]
    Chain {
        /// Its number.
        number: u64,
    },
}

/// Reads a log line by line and checks that each follows the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditChain {
    last: Option<(AccountName, u64, String)>,
    first: Option<u64>,
}

impl AuditChain {
    /// Takes the next line, without its line feed.
    pub fn take(&mut self, line: &str) -> Result<AuditEntry, AuditFault> {
        let (stated, text) = split(line).ok_or(AuditFault::Form)?;
        let found = Digest::of(text.as_bytes()).hex();
        if found != stated {
            return Err(AuditFault::Hash { found, stated: stated.to_owned() });
        }
        let entry: AuditEntry = serde_json::from_str(text).map_err(|_| AuditFault::Form)?;
        match &self.last {
            None if entry.number == 1 && entry.previous != NOTHING_BEFORE => {
                return Err(AuditFault::Chain { number: 1 });
            }
            None => self.first = Some(entry.number),
            Some((account, number, hash)) => {
                if entry.account != *account {
                    return Err(AuditFault::Account { found: entry.account, expected: account.clone() });
                }
                let expected = number.saturating_add(1);
                if entry.number != expected {
                    return Err(AuditFault::Number { expected, found: entry.number });
                }
                if entry.previous != *hash {
                    return Err(AuditFault::Chain { number: entry.number });
                }
            }
        }
        self.last = Some((entry.account.clone(), entry.number, found));
        Ok(entry)
    }

    /// Number of the first entry.
    pub const fn first(&self) -> Option<u64> {
        self.first
    }

    /// Account, number and hash of the last entry: noted elsewhere, they show later that nothing was cut off the end.
    pub fn head(&self) -> Option<(&AccountName, u64, &str)> {
        self.last.as_ref().map(|(account, number, hash)| (account, *number, hash.as_str()))
    }
}

/// Hash and text of `{"hash":"…","entry":…}`, byte for byte.
fn split(line: &str) -> Option<(&str, &str)> {
    let (hash, rest) = line.strip_prefix("{\"hash\":\"")?.split_at_checked(64)?;
    let fits = hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let text = rest.strip_prefix("\",\"entry\":")?.strip_suffix('}')?;
    fits.then_some((hash, text))
}

/// The line of an entry in an export, without its line feed.
pub fn audit_line(hash: &str, entry: &str) -> String {
    format!("{{\"hash\":\"{hash}\",\"entry\":{entry}}}")
}

impl Client {
    /// The audit log of the account, oldest first.
    pub async fn audit(&self, page: &PageQuery) -> Result<Page<AuditRecord>, ClientError> {
        self.get("/audit", page).await
    }

    /// The audit log as lines, as it is verified; a stream that breaks off ends with an error.
    pub async fn export_audit(
        &self,
        query: &AuditExportQuery,
    ) -> Result<impl Stream<Item = Result<bytes::Bytes, ClientError>> + use<>, ClientError> {
        let path = "/audit-export";
        let answer = self.send(path, self.request(reqwest::Method::GET, path).query(query)).await?;
        let client = self.clone();
        Ok(answer.bytes_stream().map(move |piece| piece.map_err(|e| client.unreachable(e))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: u64) -> Vec<String> {
        let mut previous = NOTHING_BEFORE.to_owned();
        let mut lines = Vec::new();
        for number in 1..=entries {
            let entry = AuditEntry {
                account: AccountName::new("acme").unwrap(),
                number,
                time: UnixSeconds(7),
                request: "r".into(),
                principal: "service/ci".into(),
                home: AccountName::new("acme").unwrap(),
                credential: "t".into(),
                address: "192.0.2.1".into(),
                action: "create_group".into(),
                resource: "groups".into(),
                outcome: "done".into(),
                changes: vec![AuditChange {
                    kind: "group.created".into(),
                    subject: format!("groups/g{number}"),
                    data: serde_json::json!({"share": 0.1}),
                }],
                more_changes: 0,
                previous,
            };
            let text = serde_json::to_string(&entry).unwrap();
            previous = Digest::of(text.as_bytes()).hex();
            lines.push(audit_line(&previous, &text));
        }
        lines
    }

    fn read(lines: &[String]) -> Result<AuditChain, (usize, AuditFault)> {
        let mut chain = AuditChain::default();
        for (index, line) in lines.iter().enumerate() {
            chain.take(line).map_err(|fault| (index, fault))?;
        }
        Ok(chain)
    }

    #[test]
    fn a_log_that_nobody_touched_is_whole_and_its_head_is_known() {
        let chain = read(&log(5)).unwrap();
        assert_eq!((chain.first(), chain.head().map(|(_, number, _)| number)), (Some(1), Some(5)));
        let tail = read(&log(5)[2..]).unwrap();
        assert_eq!((tail.first(), tail.head()), (Some(3), chain.head()));
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let lines = log(2);
        for at in 0..lines[0].len() {
            let mut bytes = lines[0].clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(line) = String::from_utf8(bytes) else { continue };
            assert!(read(&[line, lines[1].clone()]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_entry_that_was_taken_out_replaced_or_moved_is_seen() {
        let lines = log(5);
        let mut gone = lines.clone();
        gone.remove(2);
        assert_eq!(read(&gone).unwrap_err(), (2, AuditFault::Number { expected: 3, found: 4 }));
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert!(matches!(read(&swapped).unwrap_err(), (1, AuditFault::Number { .. })));
        // Whoever rewrites an entry with a fitting hash breaks the chain at the next one.
        let mut forged = lines.clone();
        let text = split(&lines[2]).unwrap().1.replace("groups/g3", "groups/g9");
        forged[2] = audit_line(&Digest::of(text.as_bytes()).hex(), &text);
        assert_eq!(read(&forged).unwrap_err(), (3, AuditFault::Chain { number: 4 }));
        let foreign = split(&lines[1]).unwrap().1.replace("\"account\":\"acme\"", "\"account\":\"evil\"");
        let foreign = audit_line(&Digest::of(foreign.as_bytes()).hex(), &foreign);
        assert!(matches!(read(&[lines[0].clone(), foreign]).unwrap_err(), (1, AuditFault::Account { .. })));
    }

    #[test]
    fn a_first_entry_follows_nothing() {
        let text = split(&log(1)[0]).unwrap().1.replace(NOTHING_BEFORE, &"1".repeat(64));
        let line = audit_line(&Digest::of(text.as_bytes()).hex(), &text);
        assert_eq!(read(&[line]).unwrap_err(), (0, AuditFault::Chain { number: 1 }));
    }
}
