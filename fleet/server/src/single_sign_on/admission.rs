//! Who a person is by the claims of their ID token, and whether the account lets them in. A function of the settings and the token.

use std::collections::BTreeSet;

use fleet_store::{Admission, Identity, Known, NewUser, PrincipalKind, PrincipalName, ProviderSettings, Sought};
use serde_json::Value;

use super::id_token::IdToken;

/// The claim that is an address for mail; it counts only as far as the provider has verified it.
pub(crate) const EMAIL: &str = "email";
/// Characters of a title that are kept.
const TITLE_CHARACTERS: usize = 200;
/// Values of the claim of roles that are looked at.
const MOST_VALUES: usize = 1000;

/// What a token says of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) identity: Identity,
    /// By what they are looked for among the users.
    pub(crate) sought: Sought,
    /// The address for mail that the provider has verified.
    email: Option<String>,
    title: String,
    /// The roles that their claims bring, if claims bring any.
    roles: Option<BTreeSet<String>>,
    /// Whether the provider asked for more than one factor (RFC 8176, `mfa`).
    pub(crate) second_factor: bool,
}

/// Why somebody whom the provider knows is not let in. The sentences are for them and their administrator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("the identity provider does not say `{0}`")]
    NoClaim(String),
    #[error("the identity provider has not verified the address for mail")]
    NotVerified,
    #[error("addresses of `{0}` are not let in")]
    Domain(String),
    #[error("`{0}` cannot be the name of a user")]
    Name(String),
    #[error("there is no such user in the account; an administrator can invite them")]
    NoUser,
    #[error("the user is linked to somebody else at the identity provider; an administrator can reset them")]
    Taken,
    #[error("the user may not act")]
    Disabled,
}

/// A claim: one of that name, or what a JSON pointer (RFC 6901) leads to.
fn claim<'a>(token: &'a IdToken, name: &str) -> Option<&'a Value> {
    match name.strip_prefix('/') {
        None => token.claims.get(name),
        Some(path) => {
            let (first, rest) = path.split_once('/').map_or((path, ""), |(first, _)| (first, &path[first.len()..]));
            token.claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
        }
    }
}

fn text<'a>(token: &'a IdToken, name: &str) -> Option<&'a str> {
    claim(token, name).and_then(Value::as_str)
}

/// The address for mail in small letters, if the provider has verified it. Some write `true` as text.
fn verified_email(token: &IdToken) -> Option<String> {
    let is_verified = token.claims.get("email_verified").is_some_and(|is| *is == true || is == "true");
    text(token, EMAIL).filter(|_| is_verified).map(str::to_lowercase)
}

/// Reads what a token says of a person, by the settings of the account.
pub(crate) fn read(settings: &ProviderSettings, token: &IdToken) -> Result<Claimed, NotAdmitted> {
    let email = verified_email(token);
    if !settings.domains.is_empty() || settings.user_claim == EMAIL {
        text(token, EMAIL).ok_or_else(|| NotAdmitted::NoClaim(EMAIL.to_owned()))?;
        let address = email.as_deref().ok_or(NotAdmitted::NotVerified)?;
        let domain = address.rsplit_once('@').map(|(_, domain)| domain).unwrap_or_default();
        if !settings.domains.is_empty() && !settings.domains.iter().any(|listed| listed == domain) {
            return Err(NotAdmitted::Domain(shortened(domain)));
        }
    }
    let sought = match (&email, settings.user_claim.as_str()) {
        (Some(address), EMAIL) => Sought::Email(address.clone()),
        (_, name) => {
            let said = text(token, name).ok_or_else(|| NotAdmitted::NoClaim(name.to_owned()))?;
            Sought::Name(user_named(said)?)
        }
    };
    let mut methods = token.claims.get("amr").and_then(Value::as_array).into_iter().flatten();
    Ok(Claimed {
        identity: Identity { issuer: settings.issuer.clone(), subject: token.subject.clone() },
        sought,
        email,
        title: text(token, "name").unwrap_or_default().chars().take(TITLE_CHARACTERS).collect(),
        roles: roles(settings, token),
        second_factor: methods.any(|method| method == "mfa"),
    })
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn user_named(said: &str) -> Result<PrincipalName, NotAdmitted> {
    PrincipalName::new(PrincipalKind::User, &said.to_lowercase()).map_err(|_| NotAdmitted::Name(shortened(said)))
}

/// The roles that the claim of roles brings: those of its values, otherwise the one for everybody.
fn roles(settings: &ProviderSettings, token: &IdToken) -> Option<BTreeSet<String>> {
    let values: Vec<&str> = match claim(token, settings.role_claim.as_deref()?) {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(all)) => all.iter().take(MOST_VALUES).filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    };
    let mut roles: BTreeSet<String> = values.iter().filter_map(|&value| settings.roles.get(value)).cloned().collect();
    if roles.is_empty() {
        roles.extend(settings.default_role.clone());
    }
    Some(roles)
}

/// Whether a person is let in, as whom, and what is to be true of the user then. `known` is the user who was found.
pub(crate) fn admit(
    settings: &ProviderSettings,
    claimed: Claimed,
    known: Option<Known>,
) -> Result<(PrincipalName, Admission), NotAdmitted> {
    let Claimed { identity, sought, email, title, roles, .. } = claimed;
    let admission = |new_user| Admission {
        first_role: if roles.is_none() { settings.default_role.clone() } else { None },
        identity,
        new_user,
        roles,
    };
    match known {
        Some(Known { is_taken: true, .. }) => Err(NotAdmitted::Taken),
        Some(Known { may_act: false, .. }) => Err(NotAdmitted::Disabled),
        Some(Known { who, .. }) => Ok((who, admission(None))),
        None if !settings.create_users => Err(NotAdmitted::NoUser),
        None => {
            let who = match sought {
                Sought::Email(address) => user_named(&address)?,
                Sought::Name(who) => who,
            };
            let user = NewUser { who: who.clone(), title, email: email.unwrap_or_default() };
            Ok((who, admission(Some(user))))
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
