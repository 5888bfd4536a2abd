//! An event as everybody outside sees it: CloudEvents 1.0, structured JSON. Never decides who may see it.

use fleet_api::Event;
use fleet_store::EventRow;
use jiff::Timestamp;
use protocol_types::AccountName;

/// The event of an account as CloudEvents writes it.
pub(crate) fn cloud_event(account: &AccountName, row: EventRow) -> Event {
    let seconds = i64::try_from(row.time.0).unwrap_or(i64::MAX);
    Event {
        specversion: "1.0".to_owned(),
        id: row.id.to_string(),
        source: format!("/accounts/{account}"),
        kind: row.kind,
        subject: row.subject,
        time: Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string(),
        datacontenttype: "application/json".to_owned(),
        data: row.data,
    }
}
