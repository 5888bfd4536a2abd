//! Refusals on their way into the audit log. Of each principal a few are told one by one and the others together once a minute, so that
//! nobody can fill a log by asking for what they may not do. Counted in this process, and kept nowhere else until they are told.

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_store::{AccountScope, Acting, LeftOut, Store};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protocol_types::AccountName;
use tokio::time::sleep;

use crate::fleet::Fleet;

/// Refusals of one principal that are told one by one after a rest: more than somebody meets who tries an API out.
const AT_ONCE: u32 = 30;
/// The same in each minute, as long as they come: a few megabytes of log in a day.
const PER_MINUTE: u32 = 6;
/// How long the others wait to be told together.
const WINDOW: Duration = Duration::from_secs(60);

/// Whose refusals are counted together, and in whose log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asker {
    account: AccountName,
    home: AccountName,
    /// Not the address: whoever has one token may have many addresses.
    principal: String,
}

/// What each principal was refused lately.
#[derive(Debug)]
pub(crate) struct Refusals {
    rates: DefaultKeyedRateLimiter<Asker>,
    left_out: Mutex<HashMap<Asker, LeftOut>>,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        let [at_once, per_minute] = [AT_ONCE, PER_MINUTE].map(|most| NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN));
        let rates = RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(at_once));
        Self { rates, left_out: Mutex::default() }
    }

    fn left_out(&self) -> MutexGuard<'_, HashMap<Asker, LeftOut>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a refusal in the log of the account, or counts it if the principal was refused too often. `outcome` is its code.
    pub(super) async fn note(&self, account: &AccountScope, acting: Acting, outcome: &str) {
        let principal = acting.principal.clone();
        let asker = Asker { account: account.name().clone(), home: acting.home.clone(), principal };
        if self.rates.check_key(&asker).is_err() {
            self.leave_out(asker, LeftOut::new(acting, outcome));
        } else if let Err(error) = account.note_refused(&acting, outcome).await {
            tracing::error!(error = %crate::Chain(&error), "a refusal was not written into the audit log");
        }
    }

    fn leave_out(&self, asker: Asker, more: LeftOut) {
        match self.left_out().entry(asker) {
            Entry::Occupied(mut so_far) => so_far.get_mut().add(more),
            Entry::Vacant(place) => {
                place.insert(more);
            }
        }
    }

    /// Tells what was left out. What cannot be told waits for the next time.
    pub(crate) async fn tell(&self, store: &Store) {
        self.rates.retain_recent();
        let left_out = std::mem::take(&mut *self.left_out());
        for (asker, left_out) in left_out {
            if let Err(error) = store.account(&asker.account).note_left_out(&left_out).await {
                tracing::error!(error = %crate::Chain(&error), "refusals were not written into the audit log yet");
                self.leave_out(asker, left_out);
            }
        }
    }
}

/// Tells once a minute what was left out, until the service stops; what is left then is told after the last request.
pub(crate) async fn tell_left_out(fleet: Fleet) {
    while fleet.stop.run_until_cancelled(sleep(WINDOW)).await.is_some() {
        fleet.refusals.tell(&fleet.store).await;
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::UnixSeconds;

    use super::*;
    use crate::test_service::TestService;

    #[tokio::test]
    async fn what_cannot_be_told_now_is_counted_on() {
        let service = TestService::start().await;
        let account = service.account("acme").await;
        let acting = Acting {
            request: "r1".into(),
            principal: "service/ci".into(),
            home: account.name().clone(),
            credential: "t1".into(),
            address: "192.0.2.1".into(),
            action: "create_group".into(),
            resource: "groups".into(),
            time: UnixSeconds(1),
        };
        let refusals = Refusals::new();
        while refusals.left_out().is_empty() {
            refusals.note(&account, acting.clone(), "access_denied").await;
        }
        let kept = refusals.left_out().clone();
        service.fleet.store.close().await;
        refusals.tell(&service.fleet.store).await;
        assert_eq!(*refusals.left_out(), kept);
    }
}
