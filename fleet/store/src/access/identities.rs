//! Who a user is to the identity provider of their account. Whoever was linked once is known by the provider's own name for them, whatever
//! their address is by then.

use std::collections::BTreeSet;

use protocol_types::UnixSeconds;
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Confirmed, EventDraft, NewBinding, NewUser, PrincipalKind, PrincipalName, StoreError, error::cannot,
    events, numbers::to_sql, transaction::Transaction,
};

/// Somebody as the provider describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who says so.
    pub issuer: String,
    /// Their name there, for ever.
    pub subject: String,
}

/// By what a user is looked for who was not linked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// By the address for mail that an administrator wrote down, in small letters.
    Email(String),
    /// By their name.
    Name(PrincipalName),
}

/// A user whom an identity belongs to, or may belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Who.
    pub who: PrincipalName,
    /// Whether they may act.
    pub may_act: bool,
    /// Whether they are linked to another identity.
    pub is_taken: bool,
}

/// What is to be true of a user once they are confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who they are to the provider.
    pub identity: Identity,
    /// The user to make, if there is none.
    pub new_user: Option<NewUser>,
    /// The role that a new user gets, and keeps until somebody takes it away.
    pub first_role: Option<String>,
    /// The roles that their claims bring, instead of those that these brought before; nothing if claims bring none.
    pub roles: Option<BTreeSet<String>>,
}

fn found(row: &AnyRow, identity: &Identity) -> Result<Known, StoreError> {
    let doing = "read a user";
    let damaged = |_| StoreError::Damaged { table: "users", column: "name" };
    let name: String = row.try_get("name").map_err(cannot(doing))?;
    let maybe = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
    let (issuer, subject) = (maybe("issuer")?, maybe("subject")?);
    let is_own = issuer.as_ref() == Some(&identity.issuer) && subject.as_ref() == Some(&identity.subject);
    Ok(Known {
        who: PrincipalName::new(PrincipalKind::User, &name).map_err(damaged)?,
        may_act: row.try_get::<Option<i64>, _>("disabled").map_err(cannot(doing))?.is_none(),
        is_taken: subject.is_some() && !is_own,
    })
}

const SELECT: &str = "SELECT u.name, p.disabled, n.issuer, n.subject FROM users u
    JOIN principals p ON p.account = u.account AND p.kind = u.kind AND p.name = u.name
    LEFT JOIN user_identities n ON n.account = u.account AND n.name = u.name WHERE u.account = $1 AND";

impl AccountScope {
    /// The user who is linked to the identity, otherwise the one who is `sought`. Nobody, if two users have the same address.
    pub async fn user_of(&self, identity: &Identity, sought: &Sought) -> Result<Option<Known>, StoreError> {
        let doing = "look for a user";
        let linked = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} n.issuer = $2 AND n.subject = $3")))
            .bind(self.id())
            .bind(identity.issuer.as_str())
            .bind(identity.subject.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        if let Some(linked) = linked {
            return found(&linked, identity).map(Some);
        }
        let (test, value) = match sought {
            Sought::Email(address) => ("LOWER(u.email) = $2", address.as_str()),
            Sought::Name(who) => ("u.name = $2", who.name()),
        };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} {test} LIMIT 2")))
            .bind(self.id())
            .bind(value)
            .fetch_all(self.readers())
            .await
            .map_err(cannot(doing))?;
        match &rows[..] {
            [only] => found(only, identity).map(Some),
            _ => Ok(None),
        }
    }

    /// Confirms a sign-in: makes the user if there is none, links them, gives and takes the roles of their claims, and notes the
    /// one-time code. An open invitation is used up by that.
    pub async fn confirm_single_sign_on(
        &self,
        (id, confirmed): (&str, &Confirmed),
        admission: &Admission,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let who = &confirmed.who;
        let mut tx = self.write().await?;
        if let Some(user) = &admission.new_user {
            self.insert_user(&mut tx, user, now).await?;
            self.tell_user(&mut tx, who, "user.created", now).await?;
            if let Some(role) = &admission.first_role {
                self.bind_whole_account(&mut tx, (who, role), now).await?;
            }
        }
        self.link(&mut tx, who, &admission.identity, now).await?;
        sqlx::query("DELETE FROM invitations WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(who.name())
            .execute(tx.sql())
            .await
            .map_err(cannot("use an invitation up"))?;
        if let Some(roles) = &admission.roles {
            self.follow_claims(&mut tx, (who, roles), now).await?;
        }
        self.confirm_return(&mut tx, (id, confirmed), now).await?;
        tx.commit().await
    }

    /// Links a user to an identity, unless they are; refuses one who is linked to another.
    async fn link(
        &self,
        tx: &mut Transaction,
        who: &PrincipalName,
        identity: &Identity,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "link a user";
        let made = sqlx::query(
            "INSERT INTO user_identities (account, name, issuer, subject, linked) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(self.id())
        .bind(who.name())
        .bind(identity.issuer.as_str())
        .bind(identity.subject.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if made.rows_affected() > 0 {
            return self.tell_user(tx, who, "user.linked", now).await;
        }
        let own = sqlx::query(
            "SELECT 1 FROM user_identities WHERE account = $1 AND name = $2 AND issuer = $3 AND subject = $4",
        )
        .bind(self.id())
        .bind(who.name())
        .bind(identity.issuer.as_str())
        .bind(identity.subject.as_str())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let state = || "linked to somebody else at the identity provider".to_owned();
        own.map(drop).ok_or_else(|| StoreError::WrongState { kind: "user", id: who.name().to_owned(), state: state() })
    }

    /// Binds a role that is for the whole account; answers the number of the binding.
    async fn bind_whole_account(
        &self,
        tx: &mut Transaction,
        (who, role): (&PrincipalName, &str),
        now: UnixSeconds,
    ) -> Result<i64, StoreError> {
        let number = self.next_binding(tx).await?;
        let wanted = NewBinding { home: self.account.clone(), who: who.clone(), role: role.to_owned(), filter: None };
        self.insert_binding(tx, (number, &wanted), now).await?;
        Ok(number)
    }

    /// Gives the roles that the claims bring now, and takes away those that they brought before.
    async fn follow_claims(
        &self,
        tx: &mut Transaction,
        (who, wanted): (&PrincipalName, &BTreeSet<String>),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "follow the claims of a user";
        let rows = sqlx::query(
            "SELECT id, role FROM role_bindings WHERE account = $1 AND home = $1 AND kind = 'user' AND name = $2
             AND by_provider = 1 ORDER BY number",
        )
        .bind(self.id())
        .bind(who.name())
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let mut held = BTreeSet::new();
        for row in &rows {
            let id: String = row.try_get("id").map_err(cannot(doing))?;
            let role: String = row.try_get("role").map_err(cannot(doing))?;
            if wanted.contains(&role) {
                held.insert(role);
                continue;
            }
            sqlx::query("DELETE FROM role_bindings WHERE account = $1 AND id = $2")
                .bind(self.id())
                .bind(id.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
            let draft = EventDraft { kind: "role.unbound", subject: format!("role-bindings/{id}"), data: json!({}) };
            events::append(tx, self, now, draft).await?;
        }
        for role in wanted.difference(&held) {
            let number = self.bind_whole_account(tx, (who, role), now).await?;
            sqlx::query("UPDATE role_bindings SET by_provider = 1 WHERE account = $1 AND number = $2")
                .bind(self.id())
                .bind(number)
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
        Ok(())
    }
}
