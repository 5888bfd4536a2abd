//! `/users`: people who hold roles, as administrators see them. Nobody sets a password for somebody else.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{
    ChangeUser, InvitationLetter, InviteUser, InvitedUser, LetterState, Page, PageQuery, ResetUserQuery, User,
    UserState, forms,
};
use fleet_store::{
    LetterRow, NewBinding, NewInvitation, NewUser, NotAPrincipal, PrincipalKind, PrincipalName, StoreError, UserRow,
};
use protocol_types::{AccountName, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Role,
    deliveries::is_mail_address,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        access::secret::InvitationSecret,
        body::{Body, IfMatch, Parameters, Segments, etag, titled},
        caller::{Caller, need},
        groups::filters,
        paging::Paging,
    },
    users::{self, TotpSecret},
};

const DAY_S: u64 = 24 * 60 * 60;
/// How long an invitation works if nothing else is asked for, and at most.
const INVITED_S: u64 = 7 * DAY_S;
const LONGEST_INVITED_S: u64 = 30 * DAY_S;
/// Longest address for mail (RFC 5321, section 4.5.3.1.3).
const EMAIL_BYTES: usize = 254;

type Tagged<T> = ([(HeaderName, String); 1], Json<T>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, invite)).routes(routes!(show, change, delete)).routes(routes!(reset))
}

fn view(row: UserRow) -> User {
    let state = match (row.principal.disabled, row.password_set.or(row.linked)) {
        (Some(_), _) => UserState::Disabled,
        (None, Some(_)) => UserState::Active,
        (None, None) => UserState::Invited,
    };
    let letter = |LetterRow { waits, sent, tries, last_failure }| InvitationLetter {
        state: if waits { LetterState::Waiting } else { LetterState::Sent },
        sent,
        tries,
        last_failure,
    };
    User {
        name: row.principal.who.name().to_owned(),
        title: row.principal.title,
        email: row.email,
        state,
        created: row.principal.created,
        disabled: row.principal.disabled,
        invited_until: row.invited_until,
        letter: row.letter.map(letter),
        linked: row.linked,
        password_set: row.password_set,
        last_sign_in: row.last_sign_in,
        recovery_codes: row.recovery_codes,
        revision: row.principal.revision,
    }
}

fn tagged(row: UserRow) -> Tagged<User> {
    (etag(row.principal.revision), Json(view(row)))
}

fn invited(row: UserRow, invitation: Option<String>) -> Tagged<InvitedUser> {
    (etag(row.principal.revision), Json(InvitedUser { user: view(row), invitation }))
}

/// Whether an invitation is sent by mail: if it is asked for, and without a word where it can be.
fn by_mail(fleet: &Fleet, email: &str, asked: Option<bool>) -> Reply<bool> {
    let fault = if fleet.config.mail.is_none() {
        Some("this service has no mail server; the setting `mail.server` names one")
    } else if is_mail_address(email) {
        None
    } else {
        Some("the user has no address that mail can be sent to")
    };
    match (asked, fault) {
        (Some(true), Some(fault)) => Err(Refusal::value("mail", fault)),
        (asked, fault) => Ok(asked.unwrap_or(true) && fault.is_none()),
    }
}

/// The user whom a path names. A name that breaks the rules names nobody.
fn named(name: String) -> Reply<PrincipalName> {
    let missing = |_| StoreError::NotFound { kind: "user", id: name.chars().take(80).collect() };
    Ok(PrincipalName::new(PrincipalKind::User, &name).map_err(missing)?)
}

/// Whether mail could be sent there. Only the mail system of the address knows more.
fn is_email(text: &str) -> bool {
    let plain = text.len() <= EMAIL_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
    plain
        && text
            .split_once('@')
            .is_some_and(|(local, host)| !local.is_empty() && !host.is_empty() && !host.contains('@'))
}

/// An invitation to make, and its secret.
fn invitation(
    fleet: &Fleet,
    (account, who): (&AccountName, &PrincipalName),
    (expires, mailed): (UnixSeconds, bool),
) -> Reply<(NewInvitation, InvitationSecret)> {
    let secret = InvitationSecret::new(&fleet.random)?;
    let totp = TotpSecret::new(&fleet.random)?;
    let sealed = fleet.authority.sealing.seal(&users::sealed_for(account, who.name()), totp.bytes());
    let totp = sealed.map_err(|error| Refusal::internal(&error))?;
    let sealed_for = users::letter_sealed_for(account, who.name());
    let letter = mailed.then(|| fleet.authority.sealing.seal(&sealed_for, secret.reveal().as_bytes()));
    let letter = letter.transpose().map_err(|error| Refusal::internal(&error))?;
    Ok((NewInvitation { hash: secret.hash(), totp, expires, letter }, secret))
}

/// The users of the account.
#[utoipa::path(get, path = "/users", tag = "users", operation_id = "list_users", params(PageQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "A page of users", body = forms::UserPage)))]
async fn list(who: Caller<need::Admin>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<User>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.users_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.principal.who.name().to_owned(), view)))
}

/// Makes a user with an invitation and, if one is asked for, a role. Whoever has the secret of the invitation becomes the user. Where the
/// service has a mail server the invitation is also sent to the user's address, unless the request says otherwise.
#[utoipa::path(post, path = "/users", tag = "users", operation_id = "invite_user", request_body = InviteUser,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["admin"])), responses((status = 201, description = "The user and the invitation", body = InvitedUser)))]
async fn invite(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    body: Body<InviteUser>,
) -> Reply<(StatusCode, Tagged<InvitedUser>)> {
    let now = fleet.clock.now();
    let InviteUser { name, email, title, role, filter, expires, mail } = body.value;
    let refused = |error: NotAPrincipal| Refusal::value("name", error.to_string());
    let user = PrincipalName::new(PrincipalKind::User, &name).map_err(refused)?;
    titled(&title)?;
    if !is_email(&email) {
        return Err(Refusal::value("email", format!("an address has one `@` and at most {EMAIL_BYTES} characters")));
    }
    let mailed = by_mail(&fleet, &email, mail)?;
    let latest = UnixSeconds(now.0.saturating_add(LONGEST_INVITED_S));
    let expires = expires.unwrap_or(UnixSeconds(now.0.saturating_add(INVITED_S)));
    if expires <= now || expires > latest {
        return Err(Refusal::value("expires", "an invitation works for 30 days at most, and not in the past"));
    }
    let home = who.account.name();
    let role = role.map(|role| bound(home, &user, &role, filter.as_deref()));
    if role.is_none() && filter.is_some() {
        return Err(Refusal::value("filter", "a filter needs a role"));
    }
    let role = role.transpose()?;
    let (invitation, secret) = invitation(&fleet, (home, &user), (expires, mailed))?;
    let wanted = NewUser { who: user, title, email };
    let row = who.account.invite_user(&wanted, (&invitation, role.as_ref()), body.key.as_ref(), now).await?;
    // A repetition has made nothing, so its secret is none.
    let is_new = fleet.store.service_wide().invitation_by_hash(&invitation.hash).await?.is_some();
    let invitation = is_new.then(|| secret.reveal().to_owned());
    Ok((StatusCode::CREATED, invited(row, invitation)))
}

fn bound(home: &AccountName, who: &PrincipalName, role: &str, filter: Option<&str>) -> Reply<NewBinding> {
    let Some(role) = Role::named(role) else {
        return Err(Refusal::value("role", "there is no such role; `GET /roles` lists them"));
    };
    let filter = filter.map(|text| filters::read("filter", text)).transpose()?;
    Ok(NewBinding { home: home.clone(), who: who.clone(), role: role.name.to_owned(), filter })
}

/// One user.
#[utoipa::path(get, path = "/users/{name}", tag = "users", operation_id = "show_user",
    params(("name" = String, Path, description = "The user")),
    security(("token" = ["admin"])), responses((status = 200, description = "The user", body = User)))]
async fn show(who: Caller<need::Admin>, Segments(name): Segments<String>) -> Reply<Tagged<User>> {
    Ok(tagged(who.account.user(&named(name)?).await?))
}

/// Takes away a user's right to act, or gives it back. Their roles stay, and so do sessions, which are refused until then.
#[utoipa::path(patch, path = "/users/{name}", tag = "users", operation_id = "change_user",
    params(("name" = String, Path, description = "The user"),
           ("if-match" = String, Header, description = "`ETag` that the user must still have, or `*`")),
    request_body = ChangeUser,
    security(("token" = ["admin"])), responses((status = 200, description = "The user", body = User)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<String>,
    IfMatch(at): IfMatch,
    body: Body<ChangeUser>,
) -> Reply<Tagged<User>> {
    let name = named(name)?;
    who.account.user(&name).await?;
    who.account.disable_principal(&name, (body.value.disabled, at), fleet.clock.now()).await?;
    Ok(tagged(who.account.user(&name).await?))
}

/// Takes away what a user signs in with, ends their sessions and tokens, and invites them anew for 7 days: for somebody who has lost the
/// password, the authenticator, or the invitation. Roles stay.
#[utoipa::path(post, path = "/users/{name}/reset", tag = "users", operation_id = "reset_user",
    params(("name" = String, Path, description = "The user"), ResetUserQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "The user and the invitation", body = InvitedUser)))]
async fn reset(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<String>,
    Parameters(query): Parameters<ResetUserQuery>,
) -> Reply<Tagged<InvitedUser>> {
    let now = fleet.clock.now();
    let name = named(name)?;
    let home = who.account.name();
    let mailed = by_mail(&fleet, &who.account.user(&name).await?.email, query.mail)?;
    let expires = UnixSeconds(now.0.saturating_add(INVITED_S));
    let (invitation, secret) = invitation(&fleet, (home, &name), (expires, mailed))?;
    let row = who.account.reset_user(&name, &invitation, now).await?;
    fleet.store.service_wide().end_tries(&users::subject(home, name.name())).await?;
    Ok(invited(row, Some(secret.reveal().to_owned())))
}

/// Forgets a user with their roles, and revokes their sessions and tokens.
#[utoipa::path(delete, path = "/users/{name}", tag = "users", operation_id = "delete_user",
    params(("name" = String, Path, description = "The user"),
           ("if-match" = String, Header, description = "`ETag` that the user must still have, or `*`")),
    security(("token" = ["admin"])), responses((status = 204, description = "They are forgotten")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Admin>,
    Segments(name): Segments<String>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    let name = named(name)?;
    who.account.user(&name).await?;
    who.account.delete_principal(&name, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_mail_has_two_sides_and_nothing_that_a_header_could_hide_in() {
        for good in ["anna@example.com", "a+b@x", "a.b_c@mail.example.org"] {
            assert!(is_email(good), "{good}");
        }
        for wrong in ["", "anna", "@x", "a@", "a@b@c", "a b@c", "a@b\r\nBcc: c@d", &format!("{}@x", "a".repeat(253))] {
            assert!(!is_email(wrong), "{wrong}");
        }
    }
}
