//! Devices that are taken out of service for good: their credentials and all that let them in go, they and their history stay. Such a
//! device comes back only by an enrolment that names it and was made afterwards.

use protocol_types::{EndpointName, UnixSeconds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use crate::{
    AccountScope, DeviceRow, StoreError, configurations::staging::FORGET_RELEASED, error::cannot, numbers::to_sql,
    transaction::Transaction,
};

impl AccountScope {
    /// Takes a device out of service; a second time changes nothing.
    pub async fn decommission_device(
        &self,
        endpoint: &EndpointName,
        reason: &str,
        now: UnixSeconds,
    ) -> Result<DeviceRow, StoreError> {
        let mut tx = self.write().await?;
        self.decommission(&mut tx, (endpoint, reason), now).await?;
        tx.commit().await?;
        self.device(endpoint).await
    }

    /// Takes a device out of service; answers whether it was in service.
    pub(crate) async fn decommission(
        &self,
        tx: &mut Transaction,
        (endpoint, reason): (&EndpointName, &str),
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let doing = "decommission a device";
        let row = sqlx::query(
            "UPDATE devices SET standing = 'decommissioned', standing_reason = $3, decommissioned = $4, presence_due = NULL
             WHERE account = $1 AND endpoint = $2 AND standing <> 'decommissioned' RETURNING factory_fingerprint",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(Some(reason).filter(|reason| !reason.is_empty()))
        .bind(to_sql(now.0))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(false) };
        for table in ["device_certificates", "enrolments", "group_members", "desired_releases"] {
            let sql = format!("DELETE FROM {table} WHERE account = $1 AND endpoint = $2");
            sqlx::query(AssertSqlSafe(sql))
                .bind(self.id())
                .bind(endpoint.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
        sqlx::query(FORGET_RELEASED)
            .bind(self.id())
            .bind(endpoint.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let print: Option<Vec<u8>> = row.try_get("factory_fingerprint").map_err(cannot(doing))?;
        if let Some(print) = print {
            sqlx::query("DELETE FROM listed_certificates WHERE account = $1 AND fingerprint = $2")
                .bind(self.id())
                .bind(print)
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
        self.standing_changed(tx, endpoint);
        self.tell(tx, endpoint, ("device.decommissioned", json!({ "reason": reason })), now).await?;
        Ok(true)
    }

    /// Whether somebody let a decommissioned device join again: by its name, or by a list, after it was taken out of service.
    pub(crate) async fn is_enrolled_anew(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        listed: Option<UnixSeconds>,
    ) -> Result<bool, StoreError> {
        let doing = "look for a new enrolment of a device";
        // Older enrolments by name went with the device.
        let row = sqlx::query(
            "SELECT d.decommissioned, (SELECT COUNT(*) FROM enrolments e WHERE e.account = $1 AND e.endpoint = $2) AS named
             FROM devices d WHERE d.account = $1 AND d.endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let at: Option<i64> = row.try_get("decommissioned").map_err(cannot(doing))?;
        let named: i64 = row.try_get("named").map_err(cannot(doing))?;
        Ok(named > 0 || listed.is_some_and(|listed| to_sql(listed.0) >= at.unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::{ReasonCode, Standing};

    use super::*;
    use crate::{
        DeviceChange, DeviceEvent, EnrolmentRule, FactoryIdentity, GroupChange, ListBatch, ListLine, ListedCertificate,
        NewAuthority, NewCertificate, OperationRequest, Parent, PresenceFact, Promise, Verdict,
        tests::{Database, NOW},
    };

    const PRINT: [u8; 32] = [7; 32];

    fn gate() -> EndpointName {
        EndpointName::new("gate-1").unwrap()
    }

    async fn admit(account: &AccountScope) -> Verdict {
        let device = FactoryIdentity { endpoint: &gate(), authority: "ca-1", serial: "f1", fingerprint: &PRINT };
        account.admit(device, NOW).await.unwrap()
    }

    async fn issue(account: &AccountScope, parent: Parent<&str>, serial: &str) -> Verdict {
        let certificate = NewCertificate { serial, parent, not_after: UnixSeconds(NOW.0 + 1000) };
        account.record_certificate(&gate(), certificate, NOW).await.unwrap()
    }

    async fn presence(db: &Database, account: &AccountScope, what: DeviceEvent) -> Verdict {
        let fact = PresenceFact { account: account.name().clone(), endpoint: gate(), what };
        db.store.service_wide().record_presence(&[fact], NOW).await.unwrap().remove(0).unwrap()
    }

    fn registers() -> DeviceEvent {
        DeviceEvent::Registers { serial: "o1".into(), session: 1, promise: Promise::new(300, false) }
    }

    async fn list(account: &AccountScope) {
        let request = OperationRequest::EnrolList { file: "list".into() };
        let operation = account.create_operation(&request, None, None, NOW).await.unwrap().number;
        let listed = ListedCertificate { fingerprint: PRINT, endpoint: Some(gate()), labels: DeviceChange::default() };
        let lines = [ListLine { line: 2, read: Ok(listed) }];
        account
            .enrol_listed(operation, &ListBatch { at: "", lines: &lines, next: "", is_end: true }, NOW)
            .await
            .unwrap();
    }

    /// A registered device whose authority, name and certificate are all enrolled.
    async fn in_service() -> (Database, AccountScope) {
        let db = Database::new().await;
        let account = db.account("one").await;
        let authority = NewAuthority {
            name: "factory".into(),
            subject: "CN=factory".into(),
            fingerprint: "00".repeat(32),
            certificate: vec![0x30, 0x00],
            not_after: NOW,
        };
        account.add_authority(&authority, None, NOW).await.unwrap();
        account.add_enrolment(&EnrolmentRule::Authority("ca-1".into()), NOW).await.unwrap();
        account.add_enrolment(&EnrolmentRule::Endpoint(gate()), NOW).await.unwrap();
        list(&account).await;
        admit(&account).await.unwrap();
        issue(&account, Parent::Factory("f1"), "o1").await.unwrap();
        presence(&db, &account, registers()).await.unwrap();
        let group = GroupChange { add: vec![gate()], ..GroupChange::default() };
        account.create_group(&"doors".parse().unwrap(), &group, None, NOW).await.unwrap();
        (db, account)
    }

    #[tokio::test]
    async fn a_decommissioned_device_has_lost_what_let_it_in_and_stays_in_the_directory() {
        let (db, account) = in_service().await;
        let row = account.decommission_device(&gate(), "sold", NOW).await.unwrap();
        assert_eq!((row.standing, row.standing_reason.as_deref()), (Standing::Decommissioned, Some("sold")));
        assert!(account.device_certificates(&gate(), NOW).await.unwrap().is_empty());
        assert!(account.group_members_after(&"doors".parse().unwrap(), "", 10).await.unwrap().is_empty());
        assert_eq!(presence(&db, &account, registers()).await, Err(ReasonCode::Decommissioned));
        assert_eq!(issue(&account, Parent::Operational("o1"), "o2").await, Err(ReasonCode::Decommissioned));
        assert_eq!(issue(&account, Parent::Factory("f1"), "o2").await, Err(ReasonCode::Decommissioned));
        assert_eq!(account.may_install(&gate(), "o1").await.unwrap(), Err(ReasonCode::Decommissioned));
        // The enrolment of its whole authority names nobody.
        assert_eq!(admit(&account).await, Err(ReasonCode::Decommissioned));
        let denied = account.denials_before(None, 10).await.unwrap();
        assert!(denied.iter().any(|denial| denial.reason == "decommissioned"), "{denied:?}");

        for refused in [
            account.resume_device(&gate(), NOW).await.unwrap_err(),
            account.suspend_device(&gate(), "", NOW).await.unwrap_err(),
        ] {
            assert!(matches!(refused, StoreError::WrongState { kind: "device", .. }), "{refused}");
        }
        let events = account.last_event().await.unwrap();
        account.decommission_device(&gate(), "again", NOW).await.unwrap();
        assert_eq!(account.last_event().await.unwrap(), events, "a second time changes nothing");
        presence(&db, &account, DeviceEvent::Left { session: 1 }).await.unwrap();
        assert_eq!(db.store.service_wide().tell_overdue(10, UnixSeconds(NOW.0 + 1_000_000)).await.unwrap(), 0);
        let unknown = account.decommission_device(&EndpointName::new("gate-9").unwrap(), "", NOW).await.unwrap_err();
        assert!(matches!(unknown, StoreError::NotFound { kind: "device", .. }), "{unknown}");
    }

    #[tokio::test]
    async fn only_an_enrolment_that_names_it_lets_a_decommissioned_device_come_back_with_its_history() {
        for by_list in [false, true] {
            let (_db, account) = in_service().await;
            account.decommission_device(&gate(), "sold", NOW).await.unwrap();
            assert_eq!(admit(&account).await, Err(ReasonCode::Decommissioned));
            if by_list {
                list(&account).await;
            } else {
                account.add_enrolment(&EnrolmentRule::Endpoint(gate()), NOW).await.unwrap();
            }
            assert_eq!(admit(&account).await, Ok(Standing::Active), "by list: {by_list}");
            assert_eq!(issue(&account, Parent::Factory("f1"), "o2").await, Ok(Standing::Active));
            let row = account.device(&gate()).await.unwrap();
            assert_eq!((row.standing, row.standing_reason), (Standing::Active, None));
            let history = account.device_history(&gate(), None, 100).await.unwrap();
            let kinds: Vec<&str> = history.iter().map(|event| event.kind.as_str()).collect();
            let wanted = [
                "device.certificate_issued",
                "device.enrolled",
                "device.denied",
                "device.decommissioned",
                "device.connected",
                "device.certificate_issued",
                "device.enrolled",
            ];
            assert_eq!(kinds, wanted, "the newest first");
            let older = account.device_history(&gate(), Some(history[2].id), 2).await.unwrap();
            assert_eq!(older, history[3..5]);
            account.delete_device(&gate(), NOW).await.unwrap();
            assert_eq!(account.device_history(&gate(), None, 1).await.unwrap()[0].kind, "device.deleted");
        }
    }
}
