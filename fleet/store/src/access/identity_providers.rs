//! Identity providers: with whom the users of an account sign in. The client secret is here sealed; this crate cannot open it.

use std::collections::BTreeMap;

use protocol_types::UnixSeconds;
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, StoreError,
    error::{at_revision, cannot},
    events,
    numbers::{time, to_sql},
    transaction::Transaction,
};

/// How users of an account are known at its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSettings {
    /// The issuer of its tokens; where it is found.
    pub issuer: String,
    /// Who the service is there.
    pub client_id: String,
    /// Scopes that are asked for beside `openid`.
    pub scopes: Vec<String>,
    /// The claim that says which user it is.
    pub user_claim: String,
    /// Domains of verified addresses for mail; without any, the address is not asked for.
    pub domains: Vec<String>,
    /// The claim whose values are roles.
    pub role_claim: Option<String>,
    /// The role of each value.
    pub roles: BTreeMap<String, String>,
    /// Whether somebody who is no user becomes one.
    pub create_users: bool,
    /// The role of those who have no other.
    pub default_role: Option<String>,
    /// Whether users do not sign in otherwise.
    pub required: bool,
    /// The one who may nevertheless.
    pub break_glass: Option<String>,
}

/// The identity provider of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityProviderRow {
    /// How users are known there.
    pub settings: ProviderSettings,
    /// The client secret, sealed.
    pub secret: Option<String>,
    /// When it was last changed.
    pub changed: UnixSeconds,
    /// Counts every change.
    pub revision: i64,
}

impl std::fmt::Debug for IdentityProviderRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityProviderRow").field("settings", &self.settings).finish_non_exhaustive()
    }
}

const KIND: &str = "identity provider of account";

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn read(row: &AnyRow) -> Result<IdentityProviderRow, StoreError> {
    let doing = "read an identity provider";
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let maybe = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let roles = serde_json::from_str(&text("roles")?);
    Ok(IdentityProviderRow {
        settings: ProviderSettings {
            issuer: text("issuer")?,
            client_id: text("client_id")?,
            scopes: words(&text("scopes")?),
            user_claim: text("user_claim")?,
            domains: words(&text("domains")?),
            role_claim: maybe("role_claim")?,
            roles: roles.map_err(|_| StoreError::Damaged { table: "identity_providers", column: "roles" })?,
            create_users: number("create_users")? != 0,
            default_role: maybe("default_role")?,
            required: number("required")? != 0,
            break_glass: maybe("break_glass")?,
        },
        secret: maybe("secret")?,
        changed: time(number("changed")?),
        revision: number("revision")?,
    })
}

impl AccountScope {
    /// The identity provider, if the account has one.
    pub async fn identity_provider(&self) -> Result<Option<IdentityProviderRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM identity_providers WHERE account = $1")
            .bind(self.id())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read an identity provider"))?;
        row.as_ref().map(read).transpose()
    }

    /// Saves the identity provider, if it is still at the revision `at`; 0 stands for none. Without a sealed `secret` the one that is
    /// there stays, as long as it is for the same client of the same issuer. Sign-ins under way come to nothing.
    pub async fn save_identity_provider(
        &self,
        settings: &ProviderSettings,
        secret: Option<&str>,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<IdentityProviderRow, StoreError> {
        let mut tx = self.write().await?;
        let was = self.provider_revision(&mut tx).await?;
        at_revision((KIND, self.id()), at, was)?;
        let roles = json!(settings.roles).to_string();
        sqlx::query(
            "INSERT INTO identity_providers (account, issuer, client_id, secret, scopes, user_claim, domains, role_claim, roles,
                create_users, default_role, required, break_glass, changed, revision)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
             ON CONFLICT (account) DO UPDATE SET
                secret = CASE WHEN excluded.secret IS NOT NULL THEN excluded.secret
                    WHEN identity_providers.issuer = excluded.issuer AND identity_providers.client_id = excluded.client_id
                    THEN identity_providers.secret ELSE NULL END,
                issuer = excluded.issuer, client_id = excluded.client_id, scopes = excluded.scopes,
                user_claim = excluded.user_claim, domains = excluded.domains, role_claim = excluded.role_claim,
                roles = excluded.roles, create_users = excluded.create_users, default_role = excluded.default_role,
                required = excluded.required, break_glass = excluded.break_glass, changed = excluded.changed,
                revision = excluded.revision",
        )
        .bind(self.id())
        .bind(settings.issuer.as_str())
        .bind(settings.client_id.as_str())
        .bind(secret)
        .bind(settings.scopes.join(" "))
        .bind(settings.user_claim.as_str())
        .bind(settings.domains.join(" "))
        .bind(settings.role_claim.as_deref())
        .bind(roles)
        .bind(i64::from(settings.create_users))
        .bind(settings.default_role.as_deref())
        .bind(i64::from(settings.required))
        .bind(settings.break_glass.as_deref())
        .bind(to_sql(now.0))
        .bind(was.saturating_add(1))
        .execute(tx.sql())
        .await
        .map_err(cannot("save an identity provider"))?;
        self.forget_single_sign_ons(&mut tx).await?;
        let data = json!({ "issuer": settings.issuer, "client_id": settings.client_id, "required": settings.required });
        self.tell_provider(&mut tx, ("identity_provider.saved", data), now).await?;
        tx.commit().await?;
        self.identity_provider().await?.ok_or_else(|| self.no_provider())
    }

    /// Forgets the identity provider, if it is still at the revision `at`. Users who have no password cannot sign in then.
    pub async fn delete_identity_provider(&self, at: Option<i64>, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let was = self.provider_revision(&mut tx).await?;
        if was == 0 {
            return Err(self.no_provider());
        }
        at_revision((KIND, self.id()), at, was)?;
        sqlx::query("DELETE FROM identity_providers WHERE account = $1")
            .bind(self.id())
            .execute(tx.sql())
            .await
            .map_err(cannot("forget an identity provider"))?;
        self.forget_single_sign_ons(&mut tx).await?;
        self.tell_provider(&mut tx, ("identity_provider.deleted", json!({})), now).await?;
        tx.commit().await
    }

    /// The refusal where there is no identity provider.
    pub(crate) fn no_provider(&self) -> StoreError {
        StoreError::NotFound { kind: KIND, id: self.account.to_string() }
    }

    /// Where the provider is now; 0 if there is none.
    async fn provider_revision(&self, tx: &mut Transaction) -> Result<i64, StoreError> {
        let doing = "read an identity provider";
        let row = sqlx::query("SELECT revision FROM identity_providers WHERE account = $1")
            .bind(self.id())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        row.map_or(Ok(0), |row| row.try_get("revision").map_err(cannot(doing)))
    }

    async fn tell_provider(
        &self,
        tx: &mut Transaction,
        (kind, data): (&str, serde_json::Value),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        events::append(tx, self, now, EventDraft { kind, subject: "identity-provider".to_owned(), data }).await
    }
}
