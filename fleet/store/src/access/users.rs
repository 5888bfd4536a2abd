//! Users: people who can hold roles. What they sign in with is kept here as hashes and sealed texts; this crate knows no secret.

use protocol_types::UnixSeconds;
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, NewBinding, NewInvitation, PrincipalName, PrincipalRow, RequestKey, StoreError,
    access::{
        letters::{self, LetterRow},
        principals,
    },
    error::cannot,
    events, idempotency,
    numbers::{from_sql, time},
    transaction::Transaction,
};

/// A user to invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Who.
    pub who: PrincipalName,
    /// What people call them.
    pub title: String,
    /// Their address for mail.
    pub email: String,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// The principal that the user is.
    pub principal: PrincipalRow,
    /// Their address for mail.
    pub email: String,
    /// When the password was set; a user without one cannot sign in.
    pub password_set: Option<UnixSeconds>,
    /// When they last signed in.
    pub last_sign_in: Option<UnixSeconds>,
    /// Recovery codes that are left.
    pub recovery_codes: u64,
    /// When the open invitation ends.
    pub invited_until: Option<UnixSeconds>,
    /// The letter with the open invitation.
    pub letter: Option<LetterRow>,
    /// Since when they sign in with the identity provider of the account.
    pub linked: Option<UnixSeconds>,
}

/// What every question about users begins with.
fn select() -> String {
    format!("{SELECT}, {} {FROM}", letters::COLUMNS)
}

const SELECT: &str = "SELECT p.account, p.kind, p.name, p.title, p.created, p.disabled, p.revision, u.email, u.password_set, u.last_sign_in,
    (SELECT n.linked FROM user_identities n WHERE n.account = u.account AND n.name = u.name) AS linked,
    (SELECT COUNT(*) FROM recovery_codes r WHERE r.account = u.account AND r.name = u.name) AS codes,
    (SELECT i.expires FROM invitations i WHERE i.account = u.account AND i.name = u.name) AS invited_until";
const FROM: &str = "FROM users u JOIN principals p ON p.account = u.account AND p.kind = u.kind AND p.name = u.name
    LEFT JOIN invitation_letters l ON l.account = u.account AND l.name = u.name WHERE u.account = $1";

fn read(row: &AnyRow) -> Result<UserRow, StoreError> {
    let doing = "read a user";
    let at = |column| row.try_get::<Option<i64>, _>(column).map(|t| t.map(time)).map_err(cannot(doing));
    Ok(UserRow {
        principal: principals::read(row)?,
        email: row.try_get("email").map_err(cannot(doing))?,
        password_set: at("password_set")?,
        last_sign_in: at("last_sign_in")?,
        recovery_codes: from_sql(row.try_get("codes").map_err(cannot(doing))?),
        invited_until: at("invited_until")?,
        letter: letters::read(row)?,
        linked: at("linked")?,
    })
}

impl AccountScope {
    /// Makes a user with an invitation and, in the same transaction, a role.
    pub async fn invite_user(
        &self,
        user: &NewUser,
        (invitation, role): (&NewInvitation, Option<&NewBinding>),
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<UserRow, StoreError> {
        let mut tx = self.write().await?;
        if idempotency::claim(&mut tx, self, key, &user.who.to_string(), now).await?.is_none() {
            self.insert_user(&mut tx, user, now).await?;
            self.insert_invitation(&mut tx, &user.who, invitation, now).await?;
            self.tell_user(&mut tx, &user.who, "user.invited", now).await?;
            if let Some(role) = role {
                let number = self.next_binding(&mut tx).await?;
                self.insert_binding(&mut tx, (number, role), now).await?;
            }
        }
        tx.commit().await?;
        self.user(&user.who).await
    }

    pub(crate) async fn insert_user(
        &self,
        tx: &mut Transaction,
        user: &NewUser,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        self.insert_principal(tx, (&user.who, &user.title), now).await?;
        sqlx::query("INSERT INTO users (account, kind, name, email) VALUES ($1, $2, $3, $4)")
            .bind(self.id())
            .bind(user.who.kind().as_str())
            .bind(user.who.name())
            .bind(user.email.as_str())
            .execute(tx.sql())
            .await
            .map(drop)
            .map_err(cannot("make a user"))
    }

    /// One user.
    pub async fn user(&self, who: &PrincipalName) -> Result<UserRow, StoreError> {
        let row = sqlx::query(AssertSqlSafe(format!("{} AND u.name = $2", select())))
            .bind(self.id())
            .bind(who.name())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read a user"))?;
        row.as_ref().map_or_else(|| Err(missing(who)), read)
    }

    /// At most `limit` users whose name comes after `after`.
    pub async fn users_after(&self, after: &str, limit: u32) -> Result<Vec<UserRow>, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(format!("{} AND u.name > $2 ORDER BY u.name LIMIT $3", select())))
            .bind(self.id())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list users"))?;
        rows.iter().map(read).collect()
    }

    /// Takes password, authenticator, recovery codes, tokens and the link to the identity provider away from a user, who sets new ones
    /// with the invitation.
    pub async fn reset_user(
        &self,
        who: &PrincipalName,
        invitation: &NewInvitation,
        now: UnixSeconds,
    ) -> Result<UserRow, StoreError> {
        let doing = "reset a user";
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE users SET password = NULL, password_set = NULL, totp = NULL WHERE account = $1 AND name = $2",
        )
        .bind(self.id())
        .bind(who.name())
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if done.rows_affected() == 0 {
            return Err(missing(who));
        }
        for sql in [
            "DELETE FROM recovery_codes WHERE account = $1 AND name = $2",
            "DELETE FROM invitations WHERE account = $1 AND name = $2",
            "DELETE FROM user_identities WHERE account = $1 AND name = $2",
        ] {
            sqlx::query(sql).bind(self.id()).bind(who.name()).execute(tx.sql()).await.map_err(cannot(doing))?;
        }
        self.insert_invitation(&mut tx, who, invitation, now).await?;
        self.revoke_tokens_of(&mut tx, (who, ""), now).await?;
        self.tell_user(&mut tx, who, "user.reset", now).await?;
        tx.commit().await?;
        self.user(who).await
    }

    pub(crate) async fn tell_user(
        &self,
        tx: &mut Transaction,
        who: &PrincipalName,
        kind: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let draft = EventDraft { kind, subject: format!("users/{}", who.name()), data: json!({}) };
        events::append(tx, self, now, draft).await
    }
}

/// The refusal for a user who is not there.
pub(crate) fn missing(who: &PrincipalName) -> StoreError {
    StoreError::NotFound { kind: "user", id: who.name().to_owned() }
}
