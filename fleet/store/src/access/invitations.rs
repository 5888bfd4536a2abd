//! Invitations: one-time secrets, of which only the hash is here, with which a user sets password and authenticator.

use protocol_types::{AccountName, UnixSeconds};
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, NewToken, PrincipalKind, PrincipalName, ServiceWide, StoreError,
    error::cannot,
    numbers::{time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// An invitation to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInvitation {
    /// SHA-256 of the secret, as 64 hexadecimal digits.
    pub hash: String,
    /// What the user's authenticator will hold, sealed.
    pub totp: String,
    /// When it stops working.
    pub expires: UnixSeconds,
    /// The secret itself, sealed, if it is to be sent by mail.
    pub letter: Option<String>,
}

/// An invitation that was not accepted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitationRow {
    /// The account of the user.
    pub account: AccountName,
    /// Who is invited.
    pub who: PrincipalName,
    /// What people call them.
    pub title: String,
    /// Their address for mail.
    pub email: String,
    /// What their authenticator will hold, sealed.
    pub totp: String,
    /// When it stops working.
    pub expires: UnixSeconds,
    /// Whether somebody took away the user's right to act.
    pub disabled: bool,
}

/// What a user has chosen who accepts an invitation.
#[derive(Clone, Debug)]
pub struct AcceptedInvitation {
    /// SHA-256 of the invitation's secret.
    pub hash: String,
    /// The hash of the password.
    pub password: String,
    /// The time step of the code with which the authenticator was shown.
    pub step: u64,
    /// Hashes of the recovery codes.
    pub recovery: Vec<String>,
}

fn read(row: &AnyRow) -> Result<InvitationRow, StoreError> {
    let doing = "read an invitation";
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    Ok(InvitationRow {
        account: formed(row, doing, ("invitations", "account"))?,
        who: PrincipalName::new(PrincipalKind::User, &text("name")?)
            .map_err(|_| StoreError::Damaged { table: "invitations", column: "name" })?,
        title: text("title")?,
        email: text("email")?,
        totp: text("totp")?,
        expires: time(row.try_get("expires").map_err(cannot(doing))?),
        disabled: row.try_get::<Option<i64>, _>("disabled").map_err(cannot(doing))?.is_some(),
    })
}

impl AccountScope {
    pub(crate) async fn insert_invitation(
        &self,
        tx: &mut Transaction,
        who: &PrincipalName,
        invitation: &NewInvitation,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO invitations (account, name, hash, totp, created, expires) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.id())
        .bind(who.name())
        .bind(invitation.hash.as_str())
        .bind(invitation.totp.as_str())
        .bind(to_sql(now.0))
        .bind(to_sql(invitation.expires.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("invite a user"))?;
        match &invitation.letter {
            Some(secret) => self.insert_letter(tx, (who, secret), now).await,
            None => Ok(()),
        }
    }

    /// Uses an invitation up: sets password, authenticator and recovery codes, and begins the first session with `token`.
    pub async fn accept_invitation(
        &self,
        who: &PrincipalName,
        (accepted, token): (&AcceptedInvitation, &NewToken),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "accept an invitation";
        let mut tx = self.write().await?;
        let used = sqlx::query(
            "DELETE FROM invitations WHERE account = $1 AND name = $2 AND hash = $3 AND expires > $4 RETURNING totp",
        )
        .bind(self.id())
        .bind(who.name())
        .bind(accepted.hash.as_str())
        .bind(to_sql(now.0))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(used) = used else {
            return Err(StoreError::NotFound { kind: "invitation of", id: who.to_string() });
        };
        let totp: String = used.try_get("totp").map_err(cannot(doing))?;
        sqlx::query(
            "UPDATE users SET password = $3, password_set = $4, totp = $5, totp_step = $6, last_sign_in = $4
             WHERE account = $1 AND name = $2",
        )
        .bind(self.id())
        .bind(who.name())
        .bind(accepted.password.as_str())
        .bind(to_sql(now.0))
        .bind(totp)
        .bind(to_sql(accepted.step))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        for hash in &accepted.recovery {
            sqlx::query("INSERT INTO recovery_codes (account, name, hash) VALUES ($1, $2, $3)")
                .bind(self.id())
                .bind(who.name())
                .bind(hash.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
        self.tell_user(&mut tx, who, "user.accepted", now).await?;
        self.insert_token(&mut tx, token, true, now).await?;
        tx.commit().await
    }
}

impl ServiceWide {
    /// The invitation whose secret has this hash, whether its time is over or not.
    pub async fn invitation_by_hash(&self, hash: &str) -> Result<Option<InvitationRow>, StoreError> {
        let row = sqlx::query(
            "SELECT i.account, i.name, i.totp, i.expires, u.email, p.title, p.disabled FROM invitations i
             JOIN users u ON u.account = i.account AND u.name = i.name
             JOIN principals p ON p.account = u.account AND p.kind = u.kind AND p.name = u.name WHERE i.hash = $1",
        )
        .bind(hash)
        .fetch_optional(self.store.readers())
        .await
        .map_err(cannot("look up an invitation"))?;
        row.as_ref().map(read).transpose()
    }
}
