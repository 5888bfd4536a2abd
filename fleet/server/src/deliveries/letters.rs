//! Sends invitations by mail, again and again until the mail server takes them or they are over. A letter that was taken when the service
//! died is sent twice; both hold the same secret, which works once.

use std::time::Duration;

use fleet_api::InvitationFile;
use fleet_store::{DueLetter, StoreError};
use lettre::message::{Attachment, MultiPart, SinglePart, header::ContentType};
use protocol_types::UnixSeconds;

use super::{
    LOOK_AGAIN, is_event,
    mailer::Mailer,
    retry::{self, Before, Failure, Limits},
};
use crate::{fleet::Fleet, pacer::Pacer, rest::access::secret::InvitationSecret, users};

/// Shortest time between two looks.
const REST: Duration = Duration::from_millis(200);
/// Letters of one look.
const TOGETHER: u32 = 20;
/// Longest reason that is kept, in characters.
const REASON_CHARACTERS: usize = 300;

/// Runs until the service stops.
pub(crate) async fn send_invitations(fleet: Fleet) {
    let patience = Duration::from_secs(fleet.config.webhooks.answer_s);
    let mailer = Mailer::new(fleet.config.mail.as_ref(), patience);
    let mut pacer = Pacer::new(&fleet, REST, is_event);
    while !fleet.stop.is_cancelled() {
        let sent = tokio::select! {
            // A letter under way is sent again after the next start.
            () = fleet.stop.cancelled() => break,
            sent = round(&fleet, &mailer) => sent,
        };
        let pause = match sent {
            Ok(0) => LOOK_AGAIN,
            Ok(_) => REST,
            Err(error) => {
                tracing::error!(error = %crate::Chain(&error), "invitations could not be sent");
                LOOK_AGAIN
            }
        };
        pacer.wait(pause).await;
    }
}

/// Tries the letters whose time has come, one after the other; answers how many there were.
async fn round(fleet: &Fleet, mailer: &Result<Mailer, String>) -> Result<usize, StoreError> {
    let due = fleet.store.service_wide().due_letters(fleet.clock.now(), TOGETHER).await?;
    for letter in &due {
        let account = fleet.store.account(&letter.account);
        match Box::pin(send(fleet, mailer.as_ref(), letter)).await {
            Ok(()) => {
                tracing::info!(account = %letter.account, user = %letter.who, "an invitation was sent");
                account.letter_sent(letter, fleet.clock.now()).await?;
            }
            Err(reason) => {
                let reason: String = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARACTERS).collect();
                tracing::warn!(account = %letter.account, user = %letter.who, reason, "an invitation was not taken");
                account.letter_failed(letter, (&reason, next_try(fleet, letter))).await?;
            }
        }
    }
    Ok(due.len())
}

/// When a letter is tried again: after the waits of events that are not accepted.
fn next_try(fleet: &Fleet, letter: &DueLetter) -> UnixSeconds {
    let failure = Failure { reason: String::new(), gone: false, retry_after_s: None };
    let tries = u32::try_from(letter.tries).unwrap_or(u32::MAX);
    let limits = Limits { tries: u32::MAX, longest_wait_s: fleet.config.webhooks.longest_wait_s };
    // Without chance the wait is the longest of those that chance would give.
    let roll = fleet.random.bytes::<8>().map(u64::from_be_bytes).unwrap_or_default();
    let before = Before { tries, failures: tries };
    retry::after_failure((0, before), failure, limits, fleet.clock.now(), roll).next_try
}

async fn send(fleet: &Fleet, mailer: Result<&Mailer, &String>, letter: &DueLetter) -> Result<(), String> {
    let mailer = mailer.map_err(Clone::clone)?;
    let sealed_for = users::letter_sealed_for(&letter.account, letter.who.name());
    let secret = fleet.authority.sealing.unseal(&sealed_for, &letter.secret).map_err(|error| error.to_string())?;
    let secret = str::from_utf8(&secret).ok().and_then(InvitationSecret::parse);
    let secret = secret.ok_or("the secret of the invitation is damaged")?;
    let file = InvitationFile {
        service: fleet.public_address(),
        authority: fleet.authority.service.certificate_pem().to_owned(),
        invitation: secret.reveal().to_owned(),
    };
    let attached = toml::to_string(&file).map_err(|error| error.to_string())?;
    let kind = ContentType::parse("application/toml").map_err(|error| error.to_string())?;
    let attachment = Attachment::new(file_name(letter)).body(attached, kind);
    let parts = MultiPart::mixed().singlepart(SinglePart::plain(text(letter, &file.service))).singlepart(attachment);
    // The same for each try, so that a mailbox that got it twice can tell.
    let id = format!("invitation_{}_{}", letter.account, secret.id());
    let message = mailer.message(&letter.email, &format!("[{}] Your invitation", letter.account), &id)?;
    let message = message.multipart(parts);
    mailer.hand_over(message.map_err(|error| format!("the message cannot be written: {}", crate::Chain(&error)))?).await
}

fn file_name(letter: &DueLetter) -> String {
    format!("{}.invitation", letter.who.name())
}

/// What a person reads.
fn text(letter: &DueLetter, service: &str) -> String {
    let DueLetter { account, account_title, expires, .. } = letter;
    let title = if account_title.is_empty() { String::new() } else { format!(" ({account_title})") };
    let (name, file) = (letter.who.name(), file_name(letter));
    let until = jiff::Timestamp::from_second(i64::try_from(expires.0).unwrap_or(i64::MAX));
    let until = until.map_or_else(|_| "its end".to_owned(), |until| until.to_string());
    format!(
        "You are invited to the account {account}{title} of the device management service\r\n\
         {service}, as the user {name}.\r\n\r\n\
         The attached file works once, until {until}. Whoever has it becomes the user, so\r\n\
         pass it on to nobody. Save it and run\r\n\r\n    \
         mbl user accept {file} --recovery-output recovery-codes\r\n\r\n\
         If you expect no invitation, delete this letter.\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_where_they_are_invited_to_until_when_and_what_to_type() {
        let letter = DueLetter {
            account: "acme".parse().unwrap(),
            account_title: "Acme".into(),
            who: "user/anna".parse().unwrap(),
            email: "anna@example.com".into(),
            secret: "sealed".into(),
            expires: UnixSeconds(1_800_000_000),
            tries: 0,
        };
        insta::assert_snapshot!(text(&letter, "https://fleet.example.com").replace('\r', ""), @r"
        You are invited to the account acme (Acme) of the device management service
        https://fleet.example.com, as the user anna.

        The attached file works once, until 2027-01-15T08:00:00Z. Whoever has it becomes the user, so
        pass it on to nobody. Save it and run

            mbl user accept anna.invitation --recovery-output recovery-codes

        If you expect no invitation, delete this letter.
        ");
    }
}
