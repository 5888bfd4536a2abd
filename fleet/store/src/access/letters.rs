//! Letters that bring invitations: which are to be sent, and what became of them. The secret in a letter is sealed, and forgotten as soon
//! as the letter has left; a letter goes away with its invitation.

use protocol_types::{AccountName, UnixSeconds};
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, PrincipalKind, PrincipalName, ServiceWide, StoreError,
    error::cannot,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterRow {
    /// Whether it is still to be sent.
    pub waits: bool,
    /// When the mail server took it.
    pub sent: Option<UnixSeconds>,
    /// Tries that failed.
    pub tries: u64,
    /// Why the last of them did.
    pub last_failure: Option<String>,
}

/// A letter whose time has come.
#[derive(Clone, PartialEq, Eq)]
pub struct DueLetter {
    /// The account of the user.
    pub account: AccountName,
    /// What people call the account.
    pub account_title: String,
    /// Who is invited.
    pub who: PrincipalName,
    /// Their address for mail.
    pub email: String,
    /// The secret of the invitation, sealed.
    pub secret: String,
    /// When the invitation stops working.
    pub expires: UnixSeconds,
    /// Tries that failed.
    pub tries: u64,
}

impl std::fmt::Debug for DueLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DueLetter").field("account", &self.account).field("who", &self.who).finish_non_exhaustive()
    }
}

/// The letter of a row that joins `invitation_letters` as `l`.
pub(crate) const COLUMNS: &str = "l.tries AS letter_tries, l.sent AS letter_sent, l.last_failure AS letter_failure,
    CAST(CASE WHEN l.secret IS NULL THEN 0 ELSE 1 END AS BIGINT) AS letter_waits";

/// Reads [`COLUMNS`]; nothing if there is no letter.
pub(crate) fn read(row: &AnyRow) -> Result<Option<LetterRow>, StoreError> {
    let doing = "read a letter";
    let Some(tries) = row.try_get::<Option<i64>, _>("letter_tries").map_err(cannot(doing))? else { return Ok(None) };
    Ok(Some(LetterRow {
        waits: row.try_get::<i64, _>("letter_waits").map_err(cannot(doing))? != 0,
        sent: row.try_get::<Option<i64>, _>("letter_sent").map_err(cannot(doing))?.map(time),
        tries: from_sql(tries),
        last_failure: row.try_get("letter_failure").map_err(cannot(doing))?,
    }))
}

fn read_due(row: &AnyRow) -> Result<DueLetter, StoreError> {
    let doing = "read a letter";
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    Ok(DueLetter {
        account: formed(row, doing, ("invitation_letters", "account"))?,
        account_title: text("account_title")?,
        who: PrincipalName::new(PrincipalKind::User, &text("name")?)
            .map_err(|_| StoreError::Damaged { table: "invitation_letters", column: "name" })?,
        email: text("email")?,
        secret: text("secret")?,
        expires: time(number("expires")?),
        tries: from_sql(number("tries")?),
    })
}

impl AccountScope {
    pub(crate) async fn insert_letter(
        &self,
        tx: &mut Transaction,
        (who, secret): (&PrincipalName, &str),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO invitation_letters (account, name, secret, next_try) VALUES ($1, $2, $3, $4)")
            .bind(self.id())
            .bind(who.name())
            .bind(secret)
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map(drop)
            .map_err(cannot("write a letter"))
    }

    /// Notes that a letter has left, unless another one stands in its place since.
    pub async fn letter_sent(&self, letter: &DueLetter, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE invitation_letters SET secret = NULL, sent = $4, last_failure = NULL
             WHERE account = $1 AND name = $2 AND secret = $3",
        )
        .bind(self.id())
        .bind(letter.who.name())
        .bind(letter.secret.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("note that a letter has left"))?;
        tx.commit().await
    }

    /// Notes that a try failed, and when the next one comes.
    pub async fn letter_failed(
        &self,
        letter: &DueLetter,
        (reason, next_try): (&str, UnixSeconds),
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE invitation_letters SET tries = tries + 1, last_failure = $4, next_try = $5
             WHERE account = $1 AND name = $2 AND secret = $3",
        )
        .bind(self.id())
        .bind(letter.who.name())
        .bind(letter.secret.as_str())
        .bind(reason)
        .bind(to_sql(next_try.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("note that a letter was not taken"))?;
        tx.commit().await
    }
}

impl ServiceWide {
    /// At most `limit` letters that are to be sent now, those that wait longest first. Nobody writes to those who may not act, or whose
    /// invitation is over.
    pub async fn due_letters(&self, now: UnixSeconds, limit: u32) -> Result<Vec<DueLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT l.account, l.name, l.secret, l.tries, i.expires, u.email, a.title AS account_title
             FROM invitation_letters l
             JOIN invitations i ON i.account = l.account AND i.name = l.name
             JOIN users u ON u.account = l.account AND u.name = l.name
             JOIN principals p ON p.account = u.account AND p.kind = u.kind AND p.name = u.name
             JOIN accounts a ON a.name = l.account
             WHERE l.secret IS NOT NULL AND l.next_try <= $1 AND i.expires > $1 AND p.disabled IS NULL
             ORDER BY l.next_try, l.account, l.name LIMIT $2",
        )
        .bind(to_sql(now.0))
        .bind(i64::from(limit))
        .fetch_all(self.store.readers())
        .await
        .map_err(cannot("look for letters"))?;
        rows.iter().map(read_due).collect()
    }
}
