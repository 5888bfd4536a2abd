//! Makes a repeated request find what its first arrival made. Never stores a reply, only the name of the resource.

use protocol_types::{Digest, UnixSeconds};
use sqlx::Row;

use crate::{AccountScope, ServiceWide, StoreError, error::cannot, numbers::to_sql, transaction::Transaction};

/// The `Idempotency-Key` of a request and what the request said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, chosen by the caller.
    pub key: String,
    /// Digest over method, path and body, so that a key cannot be used for something else.
    pub request: Digest,
}

/// The resource that an earlier request with this key made; if there was none, remembers that this request makes `resource`.
pub(crate) async fn claim(
    tx: &mut Transaction,
    scope: &AccountScope,
    key: Option<&RequestKey>,
    resource: &str,
    now: UnixSeconds,
) -> Result<Option<String>, StoreError> {
    let doing = "look up an idempotency key";
    let Some(key) = key else { return Ok(None) };
    let row = sqlx::query("SELECT request, resource FROM idempotency_keys WHERE account = $1 AND key = $2")
        .bind(scope.id())
        .bind(key.key.as_str())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
    if let Some(row) = row {
        let request: String = row.try_get("request").map_err(cannot(doing))?;
        if request != key.request.to_string() {
            return Err(StoreError::KeyReused);
        }
        return Ok(Some(row.try_get("resource").map_err(cannot(doing))?));
    }
    sqlx::query("INSERT INTO idempotency_keys (account, key, request, resource, created) VALUES ($1, $2, $3, $4, $5)")
        .bind(scope.id())
        .bind(key.key.as_str())
        .bind(key.request.to_string())
        .bind(resource)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
    Ok(None)
}

/// The same for a resource that has a number.
pub(crate) async fn claim_number(
    tx: &mut Transaction,
    scope: &AccountScope,
    key: Option<&RequestKey>,
    number: u64,
    now: UnixSeconds,
) -> Result<Option<u64>, StoreError> {
    let earlier = claim(tx, scope, key, &number.to_string(), now).await?;
    let damaged = |_| StoreError::Damaged { table: "idempotency_keys", column: "resource" };
    earlier.map(|earlier| earlier.parse().map_err(damaged)).transpose()
}

impl ServiceWide {
    /// Forgets the keys of requests that arrived before `before`.
    pub async fn forget_idempotency_keys(&self, before: UnixSeconds) -> Result<u64, StoreError> {
        let mut tx = self.store.write().await?;
        let done = sqlx::query("DELETE FROM idempotency_keys WHERE created < $1")
            .bind(to_sql(before.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("forget idempotency keys"))?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}
