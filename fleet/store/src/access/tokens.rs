//! Tokens: who may act in an account. Never holds a secret, only its SHA-256.

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, PrincipalName, QuotaKind, RequestKey, ServiceWide, StoreError,
    error::cannot,
    events, idempotency,
    numbers::{time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// A token to make.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its public name in addresses and logs.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the secret, as 64 hexadecimal digits.
    pub hash: String,
    /// What it allows, space between.
    pub scopes: String,
    /// When it stops working by itself.
    pub expires: Option<UnixSeconds>,
    /// Whether it is the one that the service made for its first operator.
    pub is_first: bool,
    /// Whose it is; without one it is the account's own.
    pub principal: Option<PrincipalName>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its public name in addresses and logs.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it allows, space between.
    pub scopes: String,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it stops working by itself.
    pub expires: Option<UnixSeconds>,
    /// When it was last used, to the minute.
    pub last_used: Option<UnixSeconds>,
    /// When it was revoked.
    pub revoked: Option<UnixSeconds>,
    /// Whether it is the one that the service made for its first operator.
    pub is_first: bool,
    /// Whose it is; without one it is the account's own.
    pub principal: Option<PrincipalName>,
    /// Whether a person showed a second factor for it: then it is a session.
    pub second_factor: bool,
}

const COLUMNS: &str =
    "account, id, name, scopes, created, expires, last_used, revoked, is_first, principal, second_factor";

/// A token's `last_used` is written at most this often, in seconds.
const LAST_USED_STEP: u64 = 60;

fn read(row: &AnyRow) -> Result<TokenRow, StoreError> {
    let doing = "read a token";
    let principal: String = row.try_get("principal").map_err(cannot(doing))?;
    let principal = match principal.as_str() {
        "" => None,
        who => Some(who.parse().map_err(|_| StoreError::Damaged { table: "tokens", column: "principal" })?),
    };
    let optional = |column| row.try_get::<Option<i64>, _>(column).map(|t| t.map(time)).map_err(cannot(doing));
    Ok(TokenRow {
        id: row.try_get("id").map_err(cannot(doing))?,
        name: row.try_get("name").map_err(cannot(doing))?,
        scopes: row.try_get("scopes").map_err(cannot(doing))?,
        created: time(row.try_get("created").map_err(cannot(doing))?),
        expires: optional("expires")?,
        last_used: optional("last_used")?,
        revoked: optional("revoked")?,
        is_first: row.try_get::<i64, _>("is_first").map_err(cannot(doing))? != 0,
        principal,
        second_factor: row.try_get::<i64, _>("second_factor").map_err(cannot(doing))? != 0,
    })
}

impl AccountScope {
    /// Makes a token. With a key that was used before nothing is made and the earlier token is the answer.
    pub async fn create_token(
        &self,
        token: &NewToken,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<TokenRow, StoreError> {
        let mut tx = self.write().await?;
        let earlier = idempotency::claim(&mut tx, self, key, &token.id, now).await?;
        if earlier.is_none() {
            if let Some(who) = &token.principal {
                self.principal_in(&mut tx, who).await?;
            }
            self.insert_token(&mut tx, token, false, now).await?;
        }
        tx.commit().await?;
        self.token(earlier.as_deref().unwrap_or(&token.id)).await
    }

    pub(crate) async fn insert_token(
        &self,
        tx: &mut Transaction,
        token: &NewToken,
        second_factor: bool,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        // The service gives out a first token only where nobody can act any more.
        if !token.is_first {
            self.within_quota(tx, (QuotaKind::Tokens, 1), now).await?;
        }
        sqlx::query(
            "INSERT INTO tokens (account, id, name, hash, scopes, created, expires, is_first, principal, second_factor)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(self.id())
        .bind(token.id.as_str())
        .bind(token.name.as_str())
        .bind(token.hash.as_str())
        .bind(token.scopes.as_str())
        .bind(to_sql(now.0))
        .bind(token.expires.map(|t| to_sql(t.0)))
        .bind(i64::from(token.is_first))
        .bind(token.principal.as_ref().map(PrincipalName::to_string).unwrap_or_default())
        .bind(i64::from(second_factor))
        .execute(tx.sql())
        .await
        .map_err(cannot("make a token"))?;
        let mut data = json!({ "name": token.name, "scopes": token.scopes });
        if let Some(who) = &token.principal {
            data["principal"] = json!(who.to_string());
        }
        let draft = EventDraft { kind: "token.created", subject: format!("tokens/{}", token.id), data };
        events::append(tx, self, now, draft).await
    }

    /// One token.
    pub async fn token(&self, id: &str) -> Result<TokenRow, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE account = $1 AND id = $2");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(id)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read a token"))?;
        row.as_ref().map_or_else(|| Err(StoreError::NotFound { kind: "token", id: id.to_owned() }), read)
    }

    /// At most `limit` tokens whose id comes after `after`, revoked ones too.
    pub async fn tokens_after(&self, after: &str, limit: u32) -> Result<Vec<TokenRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3");
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list tokens"))?;
        rows.iter().map(read).collect()
    }

    /// Makes a token useless from now on; a second time changes nothing.
    pub async fn revoke_token(&self, id: &str, now: UnixSeconds) -> Result<TokenRow, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE tokens SET revoked = $3 WHERE account = $1 AND id = $2 AND revoked IS NULL")
            .bind(self.id())
            .bind(id)
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("revoke a token"))?;
        if done.rows_affected() > 0 {
            self.tell_revoked(&mut tx, id, now).await?;
        }
        tx.commit().await?;
        self.token(id).await
    }

    /// Makes all tokens of a principal useless but the one with the id `kept`.
    pub(crate) async fn revoke_tokens_of(
        &self,
        tx: &mut Transaction,
        (who, kept): (&PrincipalName, &str),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "revoke the tokens of a principal";
        let revoked = sqlx::query(
            "UPDATE tokens SET revoked = $3 WHERE account = $1 AND principal = $2 AND revoked IS NULL AND id <> $4 RETURNING id",
        )
        .bind(self.id())
        .bind(who.to_string())
        .bind(to_sql(now.0))
        .bind(kept)
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
        for row in &revoked {
            let id: String = row.try_get("id").map_err(cannot(doing))?;
            self.tell_revoked(tx, &id, now).await?;
        }
        // A sign-in that is under way would bring a new one.
        self.forget_single_sign_ons_of(tx, who).await
    }

    pub(crate) async fn tell_revoked(
        &self,
        tx: &mut Transaction,
        id: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let draft = EventDraft { kind: "token.revoked", subject: format!("tokens/{id}"), data: json!({}) };
        events::append(tx, self, now, draft).await
    }

    /// Notes that a token was used. The first use of any token that a person made revokes the one that the service made for
    /// its first operator: from then on it is known that the new secret has arrived. Answers whether that happened.
    pub async fn note_token_used(&self, token: &TokenRow, now: UnixSeconds) -> Result<bool, StoreError> {
        if token.last_used.is_some_and(|last| now.0 < last.0.saturating_add(LAST_USED_STEP)) {
            return Ok(false);
        }
        let doing = "note the use of a token";
        // A use is no change that somebody asked for; what it revokes is told by its event.
        let mut tx = self.store.write().await?;
        sqlx::query("UPDATE tokens SET last_used = $3 WHERE account = $1 AND id = $2")
            .bind(self.id())
            .bind(token.id.as_str())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let mut first = Vec::new();
        if !token.is_first {
            first = sqlx::query(
                "UPDATE tokens SET revoked = $2 WHERE account = $1 AND is_first = 1 AND revoked IS NULL RETURNING id",
            )
            .bind(self.id())
            .bind(to_sql(now.0))
            .fetch_all(tx.sql())
            .await
            .map_err(cannot(doing))?;
        }
        for row in &first {
            let id: String = row.try_get("id").map_err(cannot(doing))?;
            self.tell_revoked(&mut tx, &id, now).await?;
        }
        tx.commit().await?;
        Ok(!first.is_empty())
    }

    /// Whether a principal that may act is bound to `administrator` for the whole account and has something to show: a person a password
    /// or a link to the identity provider, a program a token that allows `admin`.
    pub async fn has_administrator(&self, now: UnixSeconds) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT b.id FROM role_bindings b JOIN principals p ON p.account = b.home AND p.kind = b.kind AND p.name = b.name
             WHERE b.account = $1 AND b.role = 'administrator' AND b.filter IS NULL AND p.disabled IS NULL
             AND (EXISTS (SELECT 1 FROM users u LEFT JOIN user_identities n ON n.account = u.account AND n.name = u.name
                     WHERE u.account = p.account AND u.kind = p.kind AND u.name = p.name
                     AND (u.password IS NOT NULL OR n.subject IS NOT NULL))
                 OR EXISTS (SELECT 1 FROM tokens t WHERE t.account = p.account AND t.principal = p.kind || '/' || p.name
                     AND p.kind = 'service' AND t.revoked IS NULL AND (t.expires IS NULL OR t.expires > $2)
                     AND ' ' || t.scopes || ' ' LIKE '% admin %')) LIMIT 1",
        )
        .bind(self.id())
        .bind(to_sql(now.0))
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look for an administrator"))?;
        Ok(row.is_some())
    }

    /// Whether a token of the account itself that is not expired or revoked allows `admin`.
    pub async fn has_admin_token(&self, now: UnixSeconds) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT id FROM tokens WHERE account = $1 AND revoked IS NULL AND (expires IS NULL OR expires > $2) AND principal = ''
             AND ' ' || scopes || ' ' LIKE '% admin %' LIMIT 1",
        )
        .bind(self.id())
        .bind(to_sql(now.0))
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look for an administrator's token"))?;
        Ok(row.is_some())
    }
}

impl AccountScope {
    /// Whether the token that the service made for its first operator still works.
    pub async fn has_first_token(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT id FROM tokens WHERE account = $1 AND is_first = 1 AND revoked IS NULL LIMIT 1")
            .bind(self.id())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look for the first token"))?;
        Ok(row.is_some())
    }
}

impl ServiceWide {
    /// Forgets at most `limit` tokens and sessions that were revoked or expired before `before`. Answers how many.
    pub async fn forget_tokens(&self, before: UnixSeconds, limit: u32) -> Result<u64, StoreError> {
        let sql = "DELETE FROM tokens WHERE (account, id) IN
                       (SELECT account, id FROM tokens WHERE revoked < $1 OR expires < $1 LIMIT $2)";
        self.forget("forget old tokens", sql, (before, limit)).await
    }

    /// Whose token has this hash, whether it still works or not.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<(AccountName, TokenRow)>, StoreError> {
        let doing = "look up a token";
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE hash = $1");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(hash)
            .fetch_optional(self.store.readers())
            .await
            .map_err(cannot(doing))?;
        row.map(|row| Ok((formed(&row, doing, ("tokens", "account"))?, read(&row)?))).transpose()
    }
}
