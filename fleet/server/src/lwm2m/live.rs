//! Which devices are connected to this process, and what their connections must look at again. Never carries state: whoever is
//! called reads the store.

use std::{
    collections::HashMap,
    ops::BitOr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use protocol_types::{AccountName, EndpointName};
use tokio::sync::Notify;

use crate::authority::DeviceIdentity;

/// What a connection must look at; several at once, each once however often it was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attention(u8);

impl Attention {
    /// What the device should run or do has changed.
    pub(crate) const WISH: Self = Self(1);
    /// The device was suspended, resumed, quarantined or deleted.
    pub(crate) const STANDING: Self = Self(2);
    /// The device has registered on another connection.
    pub(crate) const REPLACED: Self = Self(4);
    /// What the device should have as its configuration may have changed.
    pub(crate) const CONFIGURATION: Self = Self(8);
    /// A command of the device was asked for, or taken back.
    pub(crate) const COMMANDS: Self = Self(64);

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Attention {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One registered connection.
#[derive(Debug, Default)]
pub(crate) struct Live {
    calls: AtomicU8,
    called: Notify,
}

impl Live {
    fn call(&self, attention: Attention) {
        self.calls.fetch_or(attention.0, Ordering::AcqRel);
        self.called.notify_one();
    }

    /// Waits until there is something to look at, and takes it. Safe to drop at any time.
    pub(crate) async fn attention(&self) -> Attention {
        loop {
            let calls = self.calls.swap(0, Ordering::AcqRel);
            if calls != 0 {
                return Attention(calls);
            }
            self.called.notified().await;
        }
    }
}

/// The registered connections of this process.
#[derive(Debug, Default)]
pub(crate) struct LiveDevices {
    devices: Mutex<HashMap<DeviceIdentity, Arc<Live>>>,
}

impl LiveDevices {
    fn devices(&self) -> MutexGuard<'_, HashMap<DeviceIdentity, Arc<Live>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the device's new connection; an earlier one is called away.
    pub(crate) fn enter(&self, identity: &DeviceIdentity, live: &Arc<Live>) {
        let before = self.devices().insert(identity.clone(), live.clone());
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, live)) {
            before.call(Attention::REPLACED);
        }
    }

    /// Whether this is the device's newest connection here.
    pub(crate) fn is_newest(&self, identity: &DeviceIdentity, live: &Arc<Live>) -> bool {
        self.devices().get(identity).is_some_and(|current| Arc::ptr_eq(current, live))
    }

    /// Takes a connection out, unless a newer one of the device has its place.
    pub(crate) fn leave(&self, identity: &DeviceIdentity, live: &Arc<Live>) {
        let mut devices = self.devices();
        if devices.get(identity).is_some_and(|current| Arc::ptr_eq(current, live)) {
            devices.remove(identity);
        }
    }

    /// Calls the connection of one device, if it is here.
    pub(crate) fn call(&self, account: &AccountName, endpoint: &EndpointName, attention: Attention) {
        let identity = DeviceIdentity { account: account.clone(), endpoint: endpoint.clone() };
        if let Some(live) = self.devices().get(&identity) {
            live.call(attention);
        }
    }

    /// Calls every connection of an account.
    pub(crate) fn call_account(&self, account: &AccountName, attention: Attention) {
        for (_, live) in self.devices().iter().filter(|(identity, _)| identity.account == *account) {
            live.call(attention);
        }
    }

    /// Calls every connection.
    pub(crate) fn call_all(&self, attention: Attention) {
        for live in self.devices().values() {
            live.call(attention);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> DeviceIdentity {
        DeviceIdentity {
            account: AccountName::new("default").unwrap(),
            endpoint: EndpointName::new("gate-42").unwrap(),
        }
    }

    #[tokio::test]
    async fn a_newer_connection_calls_the_older_one_away_and_stays_when_it_leaves() {
        let (devices, old, new) = (LiveDevices::default(), Arc::new(Live::default()), Arc::new(Live::default()));
        devices.enter(&identity(), &old);
        devices.enter(&identity(), &new);
        assert_eq!(old.attention().await, Attention::REPLACED);
        assert!(devices.is_newest(&identity(), &new) && !devices.is_newest(&identity(), &old));
        devices.leave(&identity(), &old);
        devices.call_all(Attention::WISH);
        assert_eq!(new.attention().await, Attention::WISH, "the newer connection is no longer known");
    }

    #[tokio::test]
    async fn calls_while_a_connection_is_busy_are_neither_lost_nor_doubled() {
        let (devices, live) = (LiveDevices::default(), Arc::new(Live::default()));
        devices.enter(&identity(), &live);
        let identity = identity();
        for _ in 0..3 {
            devices.call(&identity.account, &identity.endpoint, Attention::WISH);
        }
        devices.call_all(Attention::STANDING);
        assert_eq!(live.attention().await, Attention::WISH | Attention::STANDING);
        let more = tokio::time::timeout(std::time::Duration::from_millis(20), live.attention()).await;
        assert!(more.is_err(), "called again without reason: {more:?}");
    }
}
