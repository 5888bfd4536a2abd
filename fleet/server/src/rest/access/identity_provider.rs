//! `/identity-provider`: with whom the users of the account sign in, as administrators say it. The client secret goes in and never out.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{IdentityProvider, ProblemCode, SaveIdentityProvider};
use fleet_store::{AccountScope, IdentityProviderRow, PrincipalKind, PrincipalName, ProviderSettings};
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use crate::{
    access::Role,
    fleet::Fleet,
    outgoing::Target,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, IfMatchOrNew, etag},
        caller::{Caller, need},
    },
    single_sign_on::{self, EMAIL},
};

type Tagged = ([(HeaderName, String); 1], Json<IdentityProvider>);

/// Scopes, domains and roles that the settings may name, of each.
const MOST: usize = 100;
const CLIENT_ID_BYTES: usize = 255;
const SECRET_BYTES: usize = 1024;
const CLAIM_BYTES: usize = 100;
const VALUE_BYTES: usize = 255;
/// Longest name in the domain name system (RFC 1035, section 2.3.4).
const DOMAIN_BYTES: usize = 253;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(show, save, delete))
}

fn tagged(fleet: &Fleet, row: IdentityProviderRow) -> Tagged {
    let IdentityProviderRow { settings, secret, changed, revision } = row;
    let view = IdentityProvider {
        issuer: settings.issuer,
        client_id: settings.client_id,
        has_secret: secret.is_some(),
        scopes: settings.scopes,
        user_claim: settings.user_claim,
        domains: settings.domains,
        role_claim: settings.role_claim,
        roles: settings.roles,
        create_users: settings.create_users,
        default_role: settings.default_role,
        required: settings.required,
        break_glass: settings.break_glass,
        redirect_uri: single_sign_on::redirect_uri(fleet),
        changed,
        revision,
    };
    (etag(revision), Json(view))
}

/// The identity provider of the account.
#[utoipa::path(get, path = "/identity-provider", tag = "users", operation_id = "show_identity_provider",
    security(("token" = ["admin"])), responses((status = 200, description = "The identity provider", body = IdentityProvider)))]
async fn show(State(fleet): State<Fleet>, who: Caller<need::Admin>) -> Reply<Tagged> {
    let row = who.account.identity_provider().await?;
    let missing = || Refusal::new(ProblemCode::NotFound, "the account has no identity provider");
    Ok(tagged(&fleet, row.ok_or_else(missing)?))
}

/// Says with whom the users of the account sign in. The issuer is asked at once what it is and for its keys; sign-ins under way come to
/// nothing.
#[utoipa::path(put, path = "/identity-provider", tag = "users", operation_id = "save_identity_provider",
    request_body = SaveIdentityProvider,
    params(("if-match" = Option<String>, Header, description = "`ETag` that it must still have, or `*`; without it, there must be none")),
    security(("token" = ["admin"])), responses((status = 200, description = "The identity provider", body = IdentityProvider)))]
async fn save(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    IfMatchOrNew(at): IfMatchOrNew,
    body: Body<SaveIdentityProvider>,
) -> Reply<Tagged> {
    let mut wanted = body.value;
    let secret = wanted.client_secret.take().map(Zeroizing::new);
    let fits = |secret: &Zeroizing<String>| {
        (1..=SECRET_BYTES).contains(&secret.len()) && !secret.chars().any(char::is_control)
    };
    if !secret.as_ref().is_none_or(fits) {
        return Err(Refusal::value(
            "client_secret",
            format!("a secret has 1 to {SECRET_BYTES} bytes, none for control"),
        ));
    }
    let settings = settings(wanted)?;
    if settings.required {
        can_break_glass(&who.account, settings.break_glass.as_deref()).await?;
    }
    let asked = fleet.providers.ask_anew(&settings.issuer).await;
    asked.map_err(|error| Refusal::value("issuer", error.to_string()))?;
    let sealed_for = single_sign_on::secret_sealed_for(who.account.name());
    let sealed = secret.map(|secret| fleet.authority.sealing.seal(&sealed_for, secret.as_bytes()));
    let sealed = sealed.transpose().map_err(|error| Refusal::internal(&error))?;
    let row = who.account.save_identity_provider(&settings, sealed.as_deref(), at, fleet.clock.now()).await?;
    Ok(tagged(&fleet, row))
}

/// Forgets the identity provider. Users who have no password need an invitation then: reset them.
#[utoipa::path(delete, path = "/identity-provider", tag = "users", operation_id = "delete_identity_provider",
    params(("if-match" = String, Header, description = "`ETag` that it must still have, or `*`")),
    security(("token" = ["admin"])), responses((status = 204, description = "It is forgotten")))]
async fn delete(State(fleet): State<Fleet>, who: Caller<need::Admin>, IfMatch(at): IfMatch) -> Reply<StatusCode> {
    who.account.delete_identity_provider(at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses to shut out everybody: somebody must be able to sign in if the provider is away.
async fn can_break_glass(account: &AccountScope, name: Option<&str>) -> Reply<()> {
    let detail = "name a user who has a password and may act: the way in if the provider is away";
    let refused = || Refusal::value("break_glass", detail);
    let who = PrincipalName::new(PrincipalKind::User, name.ok_or_else(refused)?).map_err(|_| refused())?;
    account.credentials(&who).await?.map(drop).ok_or_else(refused)
}

/// The settings that are asked for, if they make sense.
fn settings(wanted: SaveIdentityProvider) -> Reply<ProviderSettings> {
    let SaveIdentityProvider { issuer, client_id, scopes, user_claim, domains, role_claim, roles, .. } = wanted;
    let SaveIdentityProvider { create_users, default_role, required, break_glass, .. } = wanted;
    let target = Target::parse(&issuer).map_err(|error| Refusal::value("issuer", error.to_string()))?;
    if target.url.query().is_some() {
        return Err(Refusal::value("issuer", "an issuer has no `?` in it"));
    }
    if !is_plain(&client_id, CLIENT_ID_BYTES) {
        return Err(Refusal::value("client_id", format!("it has 1 to {CLIENT_ID_BYTES} printable ASCII characters")));
    }
    let scopes = scopes.unwrap_or_else(|| vec![EMAIL.to_owned(), "profile".to_owned()]);
    let scopes: Vec<String> = scopes.into_iter().filter(|scope| scope != "openid").collect();
    // RFC 6749, appendix A.4, without the blank that stands between two.
    let is_scope = |scope: &String| is_plain(scope, CLAIM_BYTES) && !scope.contains(['"', '\\', ' ']);
    if scopes.len() > MOST || !scopes.iter().all(is_scope) {
        return Err(Refusal::value("scopes", format!("at most {MOST} scopes, each in printable ASCII characters")));
    }
    let user_claim = user_claim.unwrap_or_else(|| EMAIL.to_owned());
    check_claim("user_claim", &user_claim)?;
    let domains: Vec<String> = domains.into_iter().map(|domain| domain.to_lowercase()).collect();
    if domains.len() > MOST || !domains.iter().all(|domain| is_domain(domain)) {
        return Err(Refusal::value("domains", format!("at most {MOST} domains, each as in `example.com`")));
    }
    if domains.is_empty() && user_claim == EMAIL {
        let detail = "name the domains that are let in: addresses of others are theirs, not yours";
        return Err(Refusal::value("domains", detail));
    }
    if let Some(claim) = &role_claim {
        check_claim("role_claim", claim)?;
    }
    let fits = |value: &String| (1..=VALUE_BYTES).contains(&value.len());
    if roles.len() > MOST || !roles.keys().all(fits) || (role_claim.is_none() && !roles.is_empty()) {
        let detail = format!("at most {MOST} values of `role_claim`, each with 1 to {VALUE_BYTES} bytes");
        return Err(Refusal::value("roles", detail));
    }
    for (field, role) in
        roles.values().map(|role| ("roles", role)).chain(default_role.iter().map(|r| ("default_role", r)))
    {
        Role::named(role).ok_or_else(|| Refusal::value(field, "there is no such role; `GET /roles` lists them"))?;
    }
    Ok(ProviderSettings {
        issuer,
        client_id,
        scopes,
        user_claim,
        domains,
        role_claim,
        roles,
        create_users,
        default_role,
        required,
        break_glass,
    })
}

fn is_plain(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

fn is_domain(text: &str) -> bool {
    (1..=DOMAIN_BYTES).contains(&text.len())
        && text
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

fn check_claim(field: &str, name: &str) -> Reply<()> {
    if is_plain(name, CLAIM_BYTES) {
        return Ok(());
    }
    Err(Refusal::value(field, format!("a claim has a name of 1 to {CLAIM_BYTES} printable ASCII characters")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(other: &Value) -> Result<ProviderSettings, String> {
        let mut wanted = json!({"issuer": "https://login.example", "client_id": "mbl", "domains": ["Example.com"]});
        wanted.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        let wanted = serde_json::from_value(wanted).unwrap();
        settings(wanted).map_err(|refusal| refusal.0.field.unwrap_or_default())
    }

    #[test]
    fn what_is_not_said_has_a_meaning_that_lets_in_nobody_unasked() {
        let settings = asked(&json!({})).unwrap();
        assert_eq!(
            (settings.user_claim.as_str(), &settings.scopes[..]),
            ("email", &["email".into(), "profile".into()][..])
        );
        assert_eq!(
            (settings.domains, settings.create_users, settings.required),
            (vec!["example.com".into()], false, false)
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_their_field() {
        let long = "x".repeat(300);
        for (other, field) in [
            (json!({"issuer": "login.example"}), "issuer"),
            (json!({"issuer": "ftp://login.example"}), "issuer"),
            (json!({"issuer": "https://login.example/?tenant=1"}), "issuer"),
            (json!({"issuer": "https://login.example/#x"}), "issuer"),
            (json!({"issuer": "https://a:b@login.example"}), "issuer"),
            (json!({"client_id": ""}), "client_id"),
            (json!({"client_id": long}), "client_id"),
            (json!({"client_id": "a\nb"}), "client_id"),
            (json!({"scopes": ["a b"]}), "scopes"),
            (json!({"user_claim": ""}), "user_claim"),
            (json!({"domains": []}), "domains"),
            (json!({"domains": ["a@b.example"]}), "domains"),
            (json!({"domains": ["example..com"]}), "domains"),
            (json!({"role_claim": ""}), "role_claim"),
            (json!({"roles": {"ops": "operator"}}), "roles"),
            (json!({"role_claim": "groups", "roles": {"ops": "king"}}), "roles"),
            (json!({"role_claim": "groups", "roles": {"": "operator"}}), "roles"),
            (json!({"default_role": "king"}), "default_role"),
        ] {
            assert_eq!(asked(&other), Err(field.to_owned()), "{other}");
        }
        assert!(asked(&json!({"user_claim": "preferred_username", "domains": []})).is_ok());
    }
}
