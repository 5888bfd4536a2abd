//! Events by e-mail, over SMTP: several of them in one message, so that a bad night is a few letters and not a thousand.

use std::{fs, time::Duration};

use fleet_store::EventRow;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MessageBuilder, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use protocol_types::AccountName;
use zeroize::Zeroizing;

use crate::{
    cloud_event::cloud_event,
    config::{Mail, MailTls},
};

/// How the address of a subscription begins that is sent by e-mail.
pub(crate) const SCHEME: &str = "mailto:";
/// Longest address, in bytes (RFC 5321, section 4.5.3.1.3).
const MAX_ADDRESS_BYTES: usize = 254;

/// The way to the mail server.
pub(super) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// Whether a text is the address of a mailbox.
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= MAX_ADDRESS_BYTES && text.parse::<Address>().is_ok()
}

impl Mailer {
    /// The way that the settings describe; a text says why there is none.
    pub(super) fn new(settings: Option<&Mail>, patience: Duration) -> Result<Self, String> {
        let Some(settings) = settings else {
            return Err("this service has no mail server; the setting `mail.server` names one".to_owned());
        };
        let from = settings.from.parse().map_err(|_| "the setting `mail.from` is no mailbox".to_owned())?;
        let parameters = || {
            TlsParameters::new(settings.server.clone())
                .map_err(|error| format!("TLS to the mail server cannot be prepared: {}", crate::Chain(&error)))
        };
        let tls = match settings.tls {
            MailTls::Wrapped => Tls::Wrapper(parameters()?),
            MailTls::Starttls => Tls::Required(parameters()?),
            MailTls::None => Tls::None,
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.server.as_str())
            .port(settings.port)
            .tls(tls)
            .timeout(Some(patience));
        if let Some(user) = &settings.user {
            transport = transport.credentials(Credentials::new(user.clone(), password(settings)?));
        }
        Ok(Self { transport: transport.build(), from })
    }

    /// Sends events to a mailbox.
    pub(super) async fn send(&self, to: &str, account: &AccountName, events: &[EventRow]) -> Result<(), String> {
        let Some(first) = events.first() else { return Ok(()) };
        // The same for each try, so that a mailbox that got it twice can tell.
        let id = format!("evt_{account}_{}.{}", first.id, events.len());
        let message = self
            .message(to, &subject(account, first, events.len()), &id)?
            .header(ContentType::TEXT_PLAIN)
            .body(body(account, events))
            .map_err(|error| format!("the message cannot be written: {}", crate::Chain(&error)))?;
        self.hand_over(message).await
    }

    /// The head of a message to a mailbox; `id` is the part of its id before the domain.
    pub(super) fn message(&self, to: &str, subject: &str, id: &str) -> Result<MessageBuilder, String> {
        let to: Address = to.parse().map_err(|_| "the address is no mailbox".to_owned())?;
        let head = Message::builder().from(self.from.clone()).to(Mailbox::new(None, to)).subject(subject);
        Ok(head.message_id(Some(format!("<{id}@{}>", self.from.email.domain()))))
    }

    /// Gives a message to the mail server. That the server has taken it means that it was accepted.
    pub(super) async fn hand_over(&self, message: Message) -> Result<(), String> {
        let sent = self.transport.send(message).await;
        sent.map(drop).map_err(|error| format!("the mail server did not take it: {}", crate::Chain(&error)))
    }
}

fn password(settings: &Mail) -> Result<String, String> {
    let Some(file) = &settings.password_file else {
        return Err("the setting `mail.user` needs `mail.password_file`".to_owned());
    };
    let text = fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| format!("the password of the mail server cannot be read: {error}"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn subject(account: &AccountName, first: &EventRow, count: usize) -> String {
    let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    format!("[{account}] {} {}{more}", first.kind, first.subject)
}

/// What a person reads: a line for each event, with its details below.
fn body(account: &AccountName, events: &[EventRow]) -> String {
    let mut text = String::new();
    for row in events {
        let event = cloud_event(account, row.clone());
        text += &format!("{} {} {}\r\n", event.time, event.kind, event.subject);
        if let Some(details) = event.data.as_object().filter(|details| !details.is_empty()) {
            // Where others turn on the order of insertion, it would depend on them.
            let mut details: Vec<_> = details.iter().collect();
            details.sort_unstable_by_key(|(name, _)| name.as_str());
            for (name, value) in details {
                text += &format!("    {name}: {value}\r\n");
            }
        }
    }
    text + &format!("\r\nEvents of the account {account} at the device management service.\r\n")
}

#[cfg(test)]
mod tests {
    use protocol_types::UnixSeconds;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_one_mailbox_and_nothing_that_could_be_two_headers() {
        for good in ["ops@example.com", "o.p-s+mbl@mail.example"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "ops", "ops@", "a@b.example, c@d.example", "a@b.example\r\nBcc: c@d.example", "Ops <a@b.example>"]
        {
            assert!(!is_address(bad), "{bad:?}");
        }
        assert!(!is_address(&format!("{}@b.example", "a".repeat(250))));
    }

    #[test]
    fn a_person_reads_what_happened_when_and_to_whom() {
        let row = EventRow {
            id: 7,
            time: UnixSeconds(1_800_000_000),
            kind: "alert.raised".into(),
            subject: "alerts/al-1/devices/gate-1".into(),
            data: json!({"severity": "critical", "rule": "gone"}),
        };
        let account = AccountName::new("acme").unwrap();
        assert_eq!(subject(&account, &row, 3), "[acme] alert.raised alerts/al-1/devices/gate-1 and 2 more");
        insta::assert_snapshot!(body(&account, &[row]).replace('\r', ""), @r#"
        2027-01-15T08:00:00Z alert.raised alerts/al-1/devices/gate-1
            rule: "gone"
            severity: "critical"

        Events of the account acme at the device management service.
        "#);
    }

    #[test]
    fn without_settings_it_says_which_are_missing() {
        let said = Mailer::new(None, Duration::from_secs(1)).err().unwrap();
        assert!(said.contains("`mail.server`"), "{said}");
    }
}
