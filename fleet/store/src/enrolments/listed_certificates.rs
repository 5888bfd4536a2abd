//! Factory certificates that may join because an enrolment list names them. A listed certificate must still chain to a factory
//! authority of the account: the list says which of an authority's devices are meant, it does not say whose signature counts.

use std::collections::{BTreeMap, HashMap};

use protocol_types::{EndpointName, OperationState, RowOutcome, UnixSeconds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, DeviceChange, EventDraft, StoreError,
    enrolments::list::{Fingerprint, LineFault, ListedCertificate, fingerprint_text},
    error::cannot,
    events,
    numbers::{time, to_sql},
    operations::RowReport,
    transaction::Transaction,
};

/// A listed certificate as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedRow {
    /// What the list said of it.
    pub listed: ListedCertificate,
    /// When it was put on the list.
    pub created: UnixSeconds,
    /// When a device joined with it.
    pub joined: Option<UnixSeconds>,
}

/// One line of a list that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct ListLine {
    /// Its number in the file; the head is line 1.
    pub line: u64,
    /// What it says, or what is wrong with it.
    pub read: Result<ListedCertificate, LineFault>,
}

/// Some lines that follow each other.
#[derive(Clone, Debug)]
pub struct ListBatch<'a> {
    /// Position of the operation at which they begin.
    pub at: &'a str,
    /// The lines.
    pub lines: &'a [ListLine],
    /// Position after them.
    pub next: &'a str,
    /// Whether no more follow.
    pub is_end: bool,
}

/// Lines that are looked up and written by one statement.
const AT_ONCE: usize = 100;

type Known = HashMap<Fingerprint, (Option<EndpointName>, String)>;

fn labels_text(labels: &DeviceChange) -> Result<String, StoreError> {
    serde_json::to_string(labels).map_err(|_| StoreError::Damaged { table: "listed_certificates", column: "labels" })
}

fn read_fingerprint(row: &AnyRow) -> Result<Fingerprint, StoreError> {
    let bytes: Vec<u8> = row.try_get("fingerprint").map_err(cannot("read a listed certificate"))?;
    bytes.try_into().map_err(|_| StoreError::Damaged { table: "listed_certificates", column: "fingerprint" })
}

fn read_endpoint(row: &AnyRow) -> Result<Option<EndpointName>, StoreError> {
    let text: Option<String> = row.try_get("endpoint").map_err(cannot("read a listed certificate"))?;
    let damaged = |_| StoreError::Damaged { table: "listed_certificates", column: "endpoint" };
    text.map(EndpointName::new).transpose().map_err(damaged)
}

fn read(row: &AnyRow) -> Result<ListedRow, StoreError> {
    let doing = "read a listed certificate";
    let labels: Option<String> = row.try_get("labels").map_err(cannot(doing))?;
    let damaged = |_| StoreError::Damaged { table: "listed_certificates", column: "labels" };
    Ok(ListedRow {
        listed: ListedCertificate {
            fingerprint: read_fingerprint(row)?,
            endpoint: read_endpoint(row)?,
            labels: labels.map(|text| serde_json::from_str(&text)).transpose().map_err(damaged)?.unwrap_or_default(),
        },
        created: time(row.try_get("created").map_err(cannot(doing))?),
        joined: row.try_get::<Option<i64>, _>("joined").map_err(cannot(doing))?.map(time),
    })
}

const COLUMNS: &str = "fingerprint, endpoint, labels, created, joined";

fn not_listed(fingerprint: &Fingerprint) -> StoreError {
    StoreError::NotFound { kind: "listed certificate", id: fingerprint_text(fingerprint) }
}

/// What becomes of a line, given what is listed under its fingerprint.
fn settle(
    known: Option<&(Option<EndpointName>, String)>,
    listed: &ListedCertificate,
    labels: &str,
) -> Result<RowOutcome, LineFault> {
    match known {
        Some((endpoint, was)) if *endpoint == listed.endpoint && was == labels => Ok(RowOutcome::Unchanged),
        Some((Some(other), _)) if listed.endpoint.as_ref().is_some_and(|endpoint| endpoint != other) => {
            Err(LineFault::OtherEndpoint(other.clone()))
        }
        Some(_) | None => Ok(RowOutcome::Done),
    }
}

impl AccountScope {
    /// Puts the certificates of some lines among those that may join and reports each line. Answers whether the operation goes on;
    /// lines that were recorded before are not recorded again.
    pub async fn enrol_listed(
        &self,
        operation: u64,
        batch: &ListBatch<'_>,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let Some(row) = self.take_up(&mut tx, operation, now).await? else { return Ok(false) };
        if row.position != batch.at {
            return Ok(true);
        }
        let mut reports = Vec::with_capacity(batch.lines.len());
        for lines in batch.lines.chunks(AT_ONCE) {
            self.list_lines(&mut tx, lines, &mut reports, now).await?;
        }
        let row = self.record_rows(&mut tx, operation, &reports, batch.next).await?;
        if batch.is_end {
            self.end_operation(&mut tx, &row, (OperationState::Finished, None), now).await?;
        }
        tx.commit().await?;
        Ok(!batch.is_end)
    }

    async fn list_lines(
        &self,
        tx: &mut Transaction,
        lines: &[ListLine],
        reports: &mut Vec<RowReport>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut known = self.already_listed(tx, lines).await?;
        let mut wanted: BTreeMap<Fingerprint, (Option<EndpointName>, String)> = BTreeMap::new();
        for ListLine { line, read } in lines {
            let settled = match read {
                Err(fault) => Err((None, fault.clone())),
                Ok(listed) => {
                    let labels = labels_text(&listed.labels)?;
                    let subject = Some(fingerprint_text(&listed.fingerprint));
                    match settle(known.get(&listed.fingerprint), listed, &labels) {
                        Ok(outcome) => {
                            if outcome == RowOutcome::Done {
                                let now_listed = (listed.endpoint.clone(), labels);
                                known.insert(listed.fingerprint, now_listed.clone());
                                wanted.insert(listed.fingerprint, now_listed);
                            }
                            Ok((subject, outcome))
                        }
                        Err(fault) => Err((subject, fault)),
                    }
                }
            };
            reports.push(match settled {
                Ok((_, outcome)) => RowReport { line: *line, subject: None, outcome, code: None, detail: None },
                Err((subject, fault)) => RowReport {
                    line: *line,
                    subject,
                    outcome: RowOutcome::Refused,
                    code: Some(fault.code().to_owned()),
                    detail: Some(fault.to_string()),
                },
            });
        }
        self.write_listed(tx, &wanted, now).await
    }

    async fn already_listed(&self, tx: &mut Transaction, lines: &[ListLine]) -> Result<Known, StoreError> {
        let doing = "look up listed certificates";
        let prints: Vec<&Fingerprint> =
            lines.iter().filter_map(|l| l.read.as_ref().ok()).map(|l| &l.fingerprint).collect();
        if prints.is_empty() {
            return Ok(Known::new());
        }
        let places: Vec<String> = (0..prints.len()).map(|index| format!("${}", index + 2)).collect();
        let sql = format!(
            "SELECT fingerprint, endpoint, labels FROM listed_certificates WHERE account = $1 AND fingerprint IN ({})",
            places.join(", ")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(self.id());
        for print in prints {
            query = query.bind(print.as_slice());
        }
        let rows = query.fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let labels: Option<String> = row.try_get("labels").map_err(cannot(doing))?;
                let labels = labels.map_or_else(|| labels_text(&DeviceChange::default()), Ok)?;
                Ok((read_fingerprint(row)?, (read_endpoint(row)?, labels)))
            })
            .collect()
    }

    async fn write_listed(
        &self,
        tx: &mut Transaction,
        wanted: &BTreeMap<Fingerprint, (Option<EndpointName>, String)>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut sql =
            "INSERT INTO listed_certificates (account, created, fingerprint, endpoint, labels) VALUES ".to_owned();
        for index in 0..wanted.len() {
            let (first, comma) = (3 + index * 3, if index == 0 { "" } else { ", " });
            sql += &format!("{comma}($1, $2, ${first}, ${}, ${})", first + 1, first + 2);
        }
        sql +=
            " ON CONFLICT (account, fingerprint) DO UPDATE SET endpoint = excluded.endpoint, labels = excluded.labels";
        let none = labels_text(&DeviceChange::default())?;
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(to_sql(now.0));
        for (print, (endpoint, labels)) in wanted {
            // Most lists have no labels: a million times the same text is room for nothing.
            let labels = Some(labels.as_str()).filter(|labels| *labels != none);
            query = query.bind(print.as_slice()).bind(endpoint.as_ref().map(EndpointName::as_str)).bind(labels);
        }
        query.execute(tx.sql()).await.map(drop).map_err(cannot("list certificates"))
    }

    /// One listed certificate.
    pub async fn listed_certificate(&self, fingerprint: &Fingerprint) -> Result<ListedRow, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("read a listed certificate"))?;
        self.listed_on(&mut connection, fingerprint).await?.ok_or_else(|| not_listed(fingerprint))
    }

    pub(crate) async fn listed_on(
        &self,
        sql: &mut sqlx::AnyConnection,
        fingerprint: &Fingerprint,
    ) -> Result<Option<ListedRow>, StoreError> {
        let query = format!("SELECT {COLUMNS} FROM listed_certificates WHERE account = $1 AND fingerprint = $2");
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(fingerprint.as_slice())
            .fetch_optional(sql)
            .await
            .map_err(cannot("read a listed certificate"))?;
        row.as_ref().map(read).transpose()
    }

    /// At most `limit` listed certificates after this fingerprint, in the order of fingerprints.
    pub async fn listed_certificates_after(
        &self,
        after: Option<&Fingerprint>,
        limit: u32,
    ) -> Result<Vec<ListedRow>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM listed_certificates WHERE account = $1 AND fingerprint > $2 ORDER BY fingerprint LIMIT $3"
        );
        let rows = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(after.map_or(&[][..], |print| print.as_slice()))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list listed certificates"))?;
        rows.iter().map(read).collect()
    }

    /// Takes a certificate off the list. A device that joined with it stays, but cannot bootstrap again by it.
    pub async fn delete_listed_certificate(
        &self,
        fingerprint: &Fingerprint,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM listed_certificates WHERE account = $1 AND fingerprint = $2")
            .bind(self.id())
            .bind(fingerprint.as_slice())
            .execute(tx.sql())
            .await
            .map_err(cannot("take a certificate off the list"))?;
        if done.rows_affected() == 0 {
            return Err(not_listed(fingerprint));
        }
        let subject = format!("listed-certificates/{}", fingerprint_text(fingerprint));
        events::append(&mut tx, self, now, EventDraft { kind: "certificate.unlisted", subject, data: json!({}) })
            .await?;
        tx.commit().await
    }

    /// Notes that a device has joined with a listed certificate.
    pub(crate) async fn note_joined(
        &self,
        tx: &mut Transaction,
        fingerprint: &Fingerprint,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE listed_certificates SET joined = $3 WHERE account = $1 AND fingerprint = $2")
            .bind(self.id())
            .bind(fingerprint.as_slice())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map(drop)
            .map_err(cannot("note that a listed device has joined"))
    }
}
