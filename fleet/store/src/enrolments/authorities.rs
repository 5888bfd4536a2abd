//! Factory authorities: whose signature makes a factory certificate of an account. Never verifies one.

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, RequestKey, ServiceWide, StoreError,
    error::cannot,
    events, idempotency,
    numbers::{time, to_sql},
    rows::formed,
};

/// An authority to add.
#[derive(Clone, Debug)]
pub struct NewAuthority {
    /// What people call it.
    pub name: String,
    /// The subject of its certificate.
    pub subject: String,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub fingerprint: String,
    /// The DER certificate.
    pub certificate: Vec<u8>,
    /// When the certificate ends.
    pub not_after: UnixSeconds,
}

/// A factory authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRow {
    /// Its id: `ca-` and a number.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The subject of its certificate.
    pub subject: String,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub fingerprint: String,
    /// When the certificate ends.
    pub not_after: UnixSeconds,
    /// When it was uploaded.
    pub created: UnixSeconds,
    /// When it was revoked.
    pub revoked: Option<UnixSeconds>,
    /// Its place in the list.
    pub number: u64,
}

/// A certificate that an account trusts now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedAuthority {
    /// The account.
    pub account: AccountName,
    /// Id of the authority in the account.
    pub id: String,
    /// The DER certificate.
    pub certificate: Vec<u8>,
}

/// Each handshake may try every one of them.
pub const MAX_AUTHORITIES: i64 = 32;

fn read(row: &AnyRow) -> Result<AuthorityRow, StoreError> {
    let doing = "read an authority";
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let at = |column| row.try_get::<i64, _>(column).map(time).map_err(cannot(doing));
    Ok(AuthorityRow {
        id: text("id")?,
        name: text("name")?,
        subject: text("subject")?,
        fingerprint: text("fingerprint")?,
        not_after: at("not_after")?,
        created: at("created")?,
        revoked: row.try_get::<Option<i64>, _>("revoked").map_err(cannot(doing))?.map(time),
        number: at("number")?.0,
    })
}

impl AccountScope {
    /// Adds a factory authority. With a key that was used before nothing is added and the earlier authority is the answer.
    pub async fn add_authority(
        &self,
        authority: &NewAuthority,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<AuthorityRow, StoreError> {
        let doing = "add an authority";
        let mut tx = self.write().await?;
        let counted = sqlx::query(
            "SELECT COUNT(*) AS known, COALESCE(MAX(number), 0) AS last,
                    SUM(CASE WHEN revoked IS NULL THEN 1 ELSE 0 END) AS trusted,
                    SUM(CASE WHEN fingerprint = $2 THEN 1 ELSE 0 END) AS same
             FROM authorities WHERE account = $1",
        )
        .bind(self.id())
        .bind(authority.fingerprint.as_str())
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let number =
            |column| counted.try_get::<Option<i64>, _>(column).map(Option::unwrap_or_default).map_err(cannot(doing));
        let next = number("last")? + 1;
        let id = format!("ca-{next}");
        if let Some(earlier) = idempotency::claim(&mut tx, self, key, &id, now).await? {
            drop(tx);
            return self.authority(&earlier).await;
        }
        if number("same")? > 0 {
            return Err(StoreError::Exists { kind: "authority", id: authority.fingerprint.clone() });
        }
        if number("trusted")? >= MAX_AUTHORITIES {
            return Err(StoreError::WrongState {
                kind: "account",
                id: self.account.to_string(),
                state: format!("full: it trusts {MAX_AUTHORITIES} authorities; revoke one first"),
            });
        }
        sqlx::query(
            "INSERT INTO authorities (account, id, number, name, subject, fingerprint, certificate, not_after, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(next)
        .bind(authority.name.as_str())
        .bind(authority.subject.as_str())
        .bind(authority.fingerprint.as_str())
        .bind(authority.certificate.as_slice())
        .bind(to_sql(authority.not_after.0))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let data = json!({ "name": authority.name, "fingerprint": authority.fingerprint });
        let draft = EventDraft { kind: "authority.added", subject: format!("authorities/{id}"), data };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.authority(&id).await
    }

    /// One factory authority.
    pub async fn authority(&self, id: &str) -> Result<AuthorityRow, StoreError> {
        let row = sqlx::query(
            "SELECT id, number, name, subject, fingerprint, not_after, created, revoked
             FROM authorities WHERE account = $1 AND id = $2",
        )
        .bind(self.id())
        .bind(id)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read an authority"))?;
        row.as_ref().map_or_else(|| Err(StoreError::NotFound { kind: "authority", id: id.to_owned() }), read)
    }

    /// At most `limit` authorities after number `after`, revoked ones too.
    pub async fn authorities_after(&self, after: u64, limit: u32) -> Result<Vec<AuthorityRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, number, name, subject, fingerprint, not_after, created, revoked
             FROM authorities WHERE account = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(self.id())
        .bind(to_sql(after))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list authorities"))?;
        rows.iter().map(read).collect()
    }

    /// Lets an authority enrol nobody from now on; a second time changes nothing.
    pub async fn revoke_authority(&self, id: &str, now: UnixSeconds) -> Result<AuthorityRow, StoreError> {
        let mut tx = self.write().await?;
        let done =
            sqlx::query("UPDATE authorities SET revoked = $3 WHERE account = $1 AND id = $2 AND revoked IS NULL")
                .bind(self.id())
                .bind(id)
                .bind(to_sql(now.0))
                .execute(tx.sql())
                .await
                .map_err(cannot("revoke an authority"))?;
        if done.rows_affected() > 0 {
            let draft = EventDraft { kind: "authority.revoked", subject: format!("authorities/{id}"), data: json!({}) };
            events::append(&mut tx, self, now, draft).await?;
        }
        tx.commit().await?;
        self.authority(id).await
    }
}

impl ServiceWide {
    /// Every authority that is not revoked, in every account, each account's together.
    pub async fn trusted_authorities(&self) -> Result<Vec<TrustedAuthority>, StoreError> {
        let doing = "list trusted authorities";
        let rows = sqlx::query(
            "SELECT account, id, certificate FROM authorities WHERE revoked IS NULL ORDER BY account, number",
        )
        .fetch_all(self.store.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                Ok(TrustedAuthority {
                    account: formed(row, doing, ("authorities", "account"))?,
                    id: row.try_get("id").map_err(cannot(doing))?,
                    certificate: row.try_get("certificate").map_err(cannot(doing))?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::Digest;

    use super::*;
    use crate::tests::{Database, NOW};

    fn authority(n: i64) -> NewAuthority {
        NewAuthority {
            name: "factory".into(),
            subject: "CN=factory".into(),
            fingerprint: format!("{n:064x}"),
            certificate: vec![0x30, 0x00],
            not_after: NOW,
        }
    }

    #[tokio::test]
    async fn an_account_trusts_so_many_authorities_and_revoking_one_makes_room() {
        let db = Database::new().await;
        let (one, two) = (db.account("one").await, db.account("two").await);
        for n in 0..MAX_AUTHORITIES {
            one.add_authority(&authority(n), None, NOW).await.unwrap();
        }
        let full = one.add_authority(&authority(99), None, NOW).await.unwrap_err();
        assert!(matches!(full, StoreError::WrongState { .. }), "{full}");
        two.add_authority(&authority(0), None, NOW).await.unwrap();
        one.revoke_authority("ca-1", NOW).await.unwrap();
        assert_eq!(one.add_authority(&authority(99), None, NOW).await.unwrap().id, "ca-33");
        let trusted = db.store.service_wide().trusted_authorities().await.unwrap();
        assert_eq!(trusted.iter().filter(|row| row.account.as_str() == "two").count(), 1);
        assert!(!trusted.iter().any(|row| row.account.as_str() == "one" && row.id == "ca-1"));
    }

    #[tokio::test]
    async fn a_repeated_upload_adds_nothing_and_a_second_one_is_refused() {
        let db = Database::new().await;
        let scope = db.account("one").await;
        let key = RequestKey { key: "k".into(), request: Digest::of(b"request") };
        let first = scope.add_authority(&authority(1), Some(&key), NOW).await.unwrap();
        assert_eq!(scope.add_authority(&authority(1), Some(&key), NOW).await.unwrap(), first);
        let again = scope.add_authority(&authority(1), None, NOW).await.unwrap_err();
        assert!(matches!(again, StoreError::Exists { .. }), "{again}");
        assert_eq!(scope.authorities_after(0, 10).await.unwrap().len(), 1);
    }
}
