//! Sign-ins with an identity provider that are under way: from the moment somebody begins at a desk, over the browser's return, to the
//! session. Each step is taken once. Holds no secret but sealed ones and digests.

use protocol_types::{AccountName, UnixSeconds};
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, NewToken, PrincipalKind, PrincipalName, ServiceWide, StoreError, TokenRow,
    error::cannot,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Sign-ins of an account that may be under way; whoever began longest ago begins anew.
const MAX_UNDER_WAY: u64 = 1000;

/// A sign-in to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSingleSignOn {
    /// SHA-256 of the state that goes through the browser, as 64 hexadecimal digits.
    pub id: String,
    /// Nonce and PKCE verifier towards the provider, sealed.
    pub sealed: String,
    /// The challenge of whoever begins; only who knows its verifier gets the session.
    pub challenge: String,
    /// Where their program waits for the browser on their own machine; without it they carry the code over themselves.
    pub port: Option<u16>,
    /// What the session allows, space between.
    pub scopes: String,
    /// When it comes to nothing.
    pub expires: UnixSeconds,
}

/// A sign-in under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleSignOnRow {
    /// The account.
    pub account: AccountName,
    /// Nonce and PKCE verifier towards the provider, sealed.
    pub sealed: String,
    /// The challenge of whoever began.
    pub challenge: String,
    /// Where their program waits for the browser.
    pub port: Option<u16>,
    /// What the session allows, space between.
    pub scopes: String,
    /// When it comes to nothing.
    pub expires: UnixSeconds,
    /// Whether the browser has come back.
    pub has_returned: bool,
    /// Who it is, once the provider has said so.
    pub who: Option<PrincipalName>,
}

/// Who it is that the provider has sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The user.
    pub who: PrincipalName,
    /// SHA-256 of the one-time code that they were given.
    pub code: String,
    /// Whether the provider asked for more than one factor.
    pub second_factor: bool,
}

fn read(row: &AnyRow) -> Result<SingleSignOnRow, StoreError> {
    let doing = "read a sign-in under way";
    let damaged = |column| StoreError::Damaged { table: "single_sign_ons", column };
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let name: Option<String> = row.try_get("name").map_err(cannot(doing))?;
    let who = name.map(|name| PrincipalName::new(PrincipalKind::User, &name)).transpose();
    Ok(SingleSignOnRow {
        account: formed(row, doing, ("single_sign_ons", "account"))?,
        sealed: text("sealed")?,
        challenge: text("challenge")?,
        port: number("port")?.map(u16::try_from).transpose().map_err(|_| damaged("port"))?,
        scopes: text("scopes")?,
        expires: time(row.try_get("expires").map_err(cannot(doing))?),
        has_returned: number("returned")?.is_some(),
        who: who.map_err(|_| damaged("name"))?,
    })
}

/// The refusal for a sign-in that is not under way, or not any more.
fn over() -> StoreError {
    StoreError::NotFound { kind: "sign-in", id: "under way".to_owned() }
}

impl AccountScope {
    /// Notes that somebody begins to sign in.
    pub async fn begin_single_sign_on(&self, wanted: &NewSingleSignOn, now: UnixSeconds) -> Result<(), StoreError> {
        let doing = "begin to sign in";
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM single_sign_ons WHERE account = $1 AND expires <= $2")
            .bind(self.id())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let row = sqlx::query("SELECT COUNT(*) AS n FROM single_sign_ons WHERE account = $1")
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if from_sql(row.try_get("n").map_err(cannot(doing))?) >= MAX_UNDER_WAY {
            sqlx::query(
                "DELETE FROM single_sign_ons WHERE id IN (
                   SELECT id FROM single_sign_ons WHERE account = $1 ORDER BY expires, id LIMIT 1)",
            )
            .bind(self.id())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        }
        sqlx::query(
            "INSERT INTO single_sign_ons (id, account, sealed, challenge, port, scopes, created, expires)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(wanted.id.as_str())
        .bind(self.id())
        .bind(wanted.sealed.as_str())
        .bind(wanted.challenge.as_str())
        .bind(wanted.port.map(i64::from))
        .bind(wanted.scopes.as_str())
        .bind(to_sql(now.0))
        .bind(to_sql(wanted.expires.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        tx.commit().await
    }

    /// Ends all sign-ins that are under way.
    pub(crate) async fn forget_single_sign_ons(&self, tx: &mut Transaction) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM single_sign_ons WHERE account = $1")
            .bind(self.id())
            .execute(tx.sql())
            .await
            .map(drop)
            .map_err(cannot("forget sign-ins under way"))
    }

    /// Ends those in which the provider has said that it is this principal; only users sign in.
    pub(crate) async fn forget_single_sign_ons_of(
        &self,
        tx: &mut Transaction,
        who: &PrincipalName,
    ) -> Result<(), StoreError> {
        if who.kind() != PrincipalKind::User {
            return Ok(());
        }
        sqlx::query("DELETE FROM single_sign_ons WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(who.name())
            .execute(tx.sql())
            .await
            .map(drop)
            .map_err(cannot("forget the sign-ins of a user"))
    }

    /// Takes the return of the browser, which happens once; answers whether this is it.
    pub async fn return_single_sign_on(&self, id: &str, now: UnixSeconds) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE single_sign_ons SET returned = $3 WHERE account = $1 AND id = $2 AND returned IS NULL AND expires > $3",
        )
        .bind(self.id())
        .bind(id)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("take the return of a browser"))?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Writes down who has come back, in the transaction that links them.
    pub(crate) async fn confirm_return(
        &self,
        tx: &mut Transaction,
        (id, confirmed): (&str, &Confirmed),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE single_sign_ons SET code = $3, name = $4, second_factor = $5
             WHERE account = $1 AND id = $2 AND code IS NULL AND returned IS NOT NULL AND expires > $6",
        )
        .bind(self.id())
        .bind(id)
        .bind(confirmed.code.as_str())
        .bind(confirmed.who.name())
        .bind(i64::from(confirmed.second_factor))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("confirm a sign-in"))?;
        if done.rows_affected() == 0 { Err(over()) } else { Ok(()) }
    }

    /// Uses the one-time code up and begins the session. Nothing happens if the code is another, or the user may not act any more.
    pub async fn finish_single_sign_on(
        &self,
        (id, code): (&str, &str),
        (who, token): (&PrincipalName, &NewToken),
        now: UnixSeconds,
    ) -> Result<TokenRow, StoreError> {
        let doing = "begin a session";
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "DELETE FROM single_sign_ons WHERE account = $1 AND id = $2 AND code = $3 AND name = $4 AND expires > $5
             AND EXISTS (SELECT 1 FROM principals p WHERE p.account = $1 AND p.kind = 'user' AND p.name = $4 AND p.disabled IS NULL)
             RETURNING second_factor",
        )
        .bind(self.id())
        .bind(id)
        .bind(code)
        .bind(who.name())
        .bind(to_sql(now.0))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?
        .ok_or_else(over)?;
        let second_factor = row.try_get::<i64, _>("second_factor").map_err(cannot(doing))? != 0;
        self.sign_in(tx, who, (token, second_factor), now).await
    }
}

impl ServiceWide {
    /// The sign-in whose state has this digest, whether it goes on or not.
    pub async fn single_sign_on(&self, id: &str) -> Result<Option<SingleSignOnRow>, StoreError> {
        let row = sqlx::query(
            "SELECT account, sealed, challenge, port, scopes, expires, returned, name FROM single_sign_ons WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(self.store.readers())
        .await
        .map_err(cannot("look for a sign-in under way"))?;
        row.as_ref().map(read).transpose()
    }

    /// Forgets sign-ins that have come to nothing.
    pub async fn forget_single_sign_ons(&self, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        sqlx::query("DELETE FROM single_sign_ons WHERE expires <= $1")
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("forget sign-ins"))?;
        tx.commit().await
    }
}
