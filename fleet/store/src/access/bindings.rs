//! Role bindings: which principal has which role, in an account and those below it, for all of it or for some devices.

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, Filter, PrincipalName, RequestKey, ServiceWide, StoreError,
    access::principals,
    error::cannot,
    events, idempotency,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Most role bindings of an account.
const MAX_BINDINGS: u64 = 10_000;

/// A binding to make.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBinding {
    /// The account of the principal: this one or one above it.
    pub home: AccountName,
    /// Who.
    pub who: PrincipalName,
    /// The role.
    pub role: String,
    /// The devices that the role is for; without one it is for the whole account.
    pub filter: Option<Filter>,
}

/// A binding.
#[derive(Clone, Debug, PartialEq)]
pub struct BindingRow {
    /// Where it was made; it also holds in all accounts below.
    pub account: AccountName,
    /// Its id in that account.
    pub id: String,
    /// Its place in the list.
    pub number: u64,
    /// What is bound.
    pub binding: NewBinding,
    /// When it was made.
    pub created: UnixSeconds,
}

const COLUMNS: &str = "account, id, number, home, kind, name, role, filter, created";

fn read(row: &AnyRow) -> Result<BindingRow, StoreError> {
    let doing = "read a role binding";
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let damaged = |column| StoreError::Damaged { table: "role_bindings", column };
    let filter: Option<String> = row.try_get("filter").map_err(cannot(doing))?;
    Ok(BindingRow {
        account: formed(row, doing, ("role_bindings", "account"))?,
        id: text("id")?,
        number: from_sql(row.try_get("number").map_err(cannot(doing))?),
        binding: NewBinding {
            home: formed(row, doing, ("role_bindings", "home"))?,
            who: format!("{}/{}", text("kind")?, text("name")?).parse().map_err(|_| damaged("name"))?,
            role: text("role")?,
            filter: filter.map(|text| text.parse()).transpose().map_err(|_| damaged("filter"))?,
        },
        created: time(row.try_get("created").map_err(cannot(doing))?),
    })
}

fn id_of(number: i64) -> String {
    format!("b{number}")
}

fn missing(id: &str) -> StoreError {
    StoreError::NotFound { kind: "role binding", id: id.to_owned() }
}

impl AccountScope {
    /// Gives a principal a role. The principal's account must be this one or one above it.
    pub async fn bind_role(
        &self,
        wanted: &NewBinding,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<BindingRow, StoreError> {
        let doing = "bind a role";
        let above = self.store.service_wide().account_path(&self.account).await?;
        if !above.contains(&wanted.home) {
            return Err(principals::missing(&wanted.who));
        }
        let mut tx = self.write().await?;
        let known = sqlx::query("SELECT 1 FROM principals WHERE account = $1 AND kind = $2 AND name = $3")
            .bind(wanted.home.as_str())
            .bind(wanted.who.kind().as_str())
            .bind(wanted.who.name())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if known.is_none() {
            return Err(principals::missing(&wanted.who));
        }
        let number = self.next_binding(&mut tx).await?;
        let id = id_of(number);
        let earlier = idempotency::claim(&mut tx, self, key, &id, now).await?;
        if earlier.is_none() {
            self.insert_binding(&mut tx, (number, wanted), now).await?;
        }
        tx.commit().await?;
        self.binding(earlier.as_deref().unwrap_or(&id)).await
    }

    /// The number of the next binding; refuses one too many.
    pub(crate) async fn next_binding(&self, tx: &mut Transaction) -> Result<i64, StoreError> {
        let doing = "bind a role";
        let row = sqlx::query("SELECT COUNT(*) AS n FROM role_bindings WHERE account = $1")
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if from_sql(row.try_get("n").map_err(cannot(doing))?) >= MAX_BINDINGS {
            return Err(StoreError::TooMany { what: "role bindings in an account", most: MAX_BINDINGS });
        }
        let row = sqlx::query(
            "INSERT INTO counters (account, name, value) VALUES ($1, 'role_bindings', 1)
             ON CONFLICT (account, name) DO UPDATE SET value = counters.value + 1 RETURNING value",
        )
        .bind(self.id())
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        row.try_get("value").map_err(cannot(doing))
    }

    pub(crate) async fn insert_binding(
        &self,
        tx: &mut Transaction,
        (number, wanted): (i64, &NewBinding),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let id = id_of(number);
        sqlx::query(
            "INSERT INTO role_bindings (account, id, number, home, kind, name, role, filter, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(number)
        .bind(wanted.home.as_str())
        .bind(wanted.who.kind().as_str())
        .bind(wanted.who.name())
        .bind(wanted.role.as_str())
        .bind(wanted.filter.as_ref().map(Filter::as_str))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("bind a role"))?;
        let data = json!({
            "home": wanted.home, "principal": wanted.who.to_string(), "role": wanted.role,
            "filter": wanted.filter.as_ref().map(Filter::as_str),
        });
        let draft = EventDraft { kind: "role.bound", subject: format!("role-bindings/{id}"), data };
        events::append(tx, self, now, draft).await
    }

    /// One binding.
    pub async fn binding(&self, id: &str) -> Result<BindingRow, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM role_bindings WHERE account = $1 AND id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.id())
            .bind(id)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read a role binding"))?;
        row.as_ref().map_or_else(|| Err(missing(id)), read)
    }

    /// At most `limit` bindings that were made in this account, after position `after`.
    pub async fn bindings_after(&self, after: u64, limit: u32) -> Result<Vec<BindingRow>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS} FROM role_bindings WHERE account = $1 AND number > $2 ORDER BY number LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.id())
            .bind(to_sql(after))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list role bindings"))?;
        rows.iter().map(read).collect()
    }

    /// Takes a role away.
    pub async fn unbind_role(&self, id: &str, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM role_bindings WHERE account = $1 AND id = $2")
            .bind(self.id())
            .bind(id)
            .execute(tx.sql())
            .await
            .map_err(cannot("take a role away"))?;
        if done.rows_affected() == 0 {
            return Err(missing(id));
        }
        let draft = EventDraft { kind: "role.unbound", subject: format!("role-bindings/{id}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await
    }
}

impl ServiceWide {
    /// The bindings of a principal that hold in the first of the accounts `path`: those that were made in one of them.
    pub async fn bindings_on(
        &self,
        path: &[AccountName],
        (home, who): (&AccountName, &PrincipalName),
    ) -> Result<Vec<BindingRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM role_bindings WHERE home = $1 AND kind = $2 AND name = $3 ORDER BY account, number"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(home.as_str())
            .bind(who.kind().as_str())
            .bind(who.name())
            .fetch_all(self.store.readers())
            .await
            .map_err(cannot("list the roles of a principal"))?;
        let rows: Vec<BindingRow> = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(rows.into_iter().filter(|row| path.contains(&row.account)).collect())
    }
}
