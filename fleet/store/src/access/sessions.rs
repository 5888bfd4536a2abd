//! Signing in: what a user's secrets are compared with, and sessions, which are tokens of people who showed a second factor.

use protocol_types::{Digest, UnixSeconds};
use sqlx::Row;

use crate::{
    AccountScope, NewToken, PrincipalName, StoreError, TokenRow, access::users, error::cannot, numbers::to_sql,
    transaction::Transaction,
};

/// What a user signs in with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The hash of the password.
    pub password: String,
    /// What the authenticator holds, sealed.
    pub totp: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// What was shown besides the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecondFactor {
    /// The code of an authenticator, of this time step. It is taken once.
    Code(u64),
    /// A recovery code with this hash, which is used up.
    Recovery(Digest),
}

impl AccountScope {
    /// What a user signs in with; `None` if there is no such user, or one who may not act or has not accepted the invitation.
    pub async fn credentials(&self, who: &PrincipalName) -> Result<Option<Credentials>, StoreError> {
        let doing = "read what a user signs in with";
        let row = sqlx::query(
            "SELECT u.password, u.totp FROM users u
             JOIN principals p ON p.account = u.account AND p.kind = u.kind AND p.name = u.name
             WHERE u.account = $1 AND u.name = $2 AND p.disabled IS NULL AND u.password IS NOT NULL AND u.totp IS NOT NULL",
        )
        .bind(self.id())
        .bind(who.name())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot(doing))?;
        row.map(|row| {
            Ok(Credentials {
                password: row.try_get("password").map_err(cannot(doing))?,
                totp: row.try_get("totp").map_err(cannot(doing))?,
            })
        })
        .transpose()
    }

    /// Whether a second factor would be taken now. It is not used up.
    pub async fn would_take(&self, who: &PrincipalName, factor: &SecondFactor) -> Result<bool, StoreError> {
        let of_user = |sql: &'static str| sqlx::query(sql).bind(self.id()).bind(who.name());
        let found = match factor {
            SecondFactor::Code(step) => {
                of_user("SELECT 1 FROM users WHERE account = $1 AND name = $2 AND totp_step < $3").bind(to_sql(*step))
            }
            SecondFactor::Recovery(hash) => {
                of_user("SELECT 1 FROM recovery_codes WHERE account = $1 AND name = $2 AND hash = $3").bind(hash.hex())
            }
        };
        let row = found.fetch_optional(self.readers()).await.map_err(cannot("look at a second factor"))?;
        Ok(row.is_some())
    }

    /// Begins a session: uses the second factor up and makes the token. `known` is what the secrets were compared with: if it has changed
    /// since, nothing is made.
    pub async fn begin_session(
        &self,
        (who, known): (&PrincipalName, &Credentials),
        (factor, token): (&SecondFactor, &NewToken),
        now: UnixSeconds,
    ) -> Result<TokenRow, StoreError> {
        let mut tx = self.write().await?;
        self.use_up(&mut tx, (who, known), factor).await?;
        self.sign_in(tx, who, (token, true), now).await
    }

    /// Begins the session of a user with this token and commits; `second_factor` is whether one was shown.
    pub(crate) async fn sign_in(
        &self,
        mut tx: Transaction,
        who: &PrincipalName,
        (token, second_factor): (&NewToken, bool),
        now: UnixSeconds,
    ) -> Result<TokenRow, StoreError> {
        sqlx::query("UPDATE users SET last_sign_in = $3 WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(who.name())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("begin a session"))?;
        self.tell_user(&mut tx, who, "user.signed_in", now).await?;
        self.insert_token(&mut tx, token, second_factor, now).await?;
        tx.commit().await?;
        self.token(&token.id).await
    }

    /// Sets another password and ends all tokens of the user but the one with the id `kept`.
    pub async fn change_password(
        &self,
        (who, known): (&PrincipalName, &Credentials),
        (factor, password): (&SecondFactor, &str),
        kept: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.use_up(&mut tx, (who, known), factor).await?;
        sqlx::query("UPDATE users SET password = $3, password_set = $4 WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(who.name())
            .bind(password)
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("change a password"))?;
        self.revoke_tokens_of(&mut tx, (who, kept), now).await?;
        self.tell_user(&mut tx, who, "user.password_changed", now).await?;
        tx.commit().await
    }

    /// Takes a second factor that was not taken before; refuses it if the user's secrets are no longer those that were compared.
    async fn use_up(
        &self,
        tx: &mut Transaction,
        (who, known): (&PrincipalName, &Credentials),
        factor: &SecondFactor,
    ) -> Result<(), StoreError> {
        let doing = "take a second factor";
        let step = match factor {
            SecondFactor::Code(step) => to_sql(*step),
            SecondFactor::Recovery(_) => i64::MAX,
        };
        let done = sqlx::query(
            "UPDATE users SET totp_step = CASE WHEN $5 < 9223372036854775807 THEN $5 ELSE totp_step END
             WHERE account = $1 AND name = $2 AND password = $3 AND totp = $4 AND totp_step < $5 AND EXISTS (
               SELECT 1 FROM principals p WHERE p.account = users.account AND p.kind = users.kind AND p.name = users.name
               AND p.disabled IS NULL)",
        )
        .bind(self.id())
        .bind(who.name())
        .bind(known.password.as_str())
        .bind(known.totp.as_str())
        .bind(step)
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let mut taken = done.rows_affected() > 0;
        if let SecondFactor::Recovery(hash) = factor {
            let used = sqlx::query("DELETE FROM recovery_codes WHERE account = $1 AND name = $2 AND hash = $3")
                .bind(self.id())
                .bind(who.name())
                .bind(hash.hex())
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
            taken &= used.rows_affected() > 0;
        }
        if taken { Ok(()) } else { Err(StoreError::CodeRefused { name: who.name().to_owned() }) }
    }

    /// Ends the session or token with this id, which is the caller's own.
    pub async fn end_session(&self, who: &PrincipalName, token: &str, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE tokens SET revoked = $4 WHERE account = $1 AND id = $2 AND principal = $3 AND revoked IS NULL",
        )
        .bind(self.id())
        .bind(token)
        .bind(who.to_string())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("end a session"))?;
        if done.rows_affected() == 0 {
            return Err(users::missing(who));
        }
        self.tell_revoked(&mut tx, token, now).await?;
        tx.commit().await
    }
}
