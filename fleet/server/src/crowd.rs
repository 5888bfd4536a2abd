//! At most so many connections of one device, or of one address, at a time, so that none can take the places of the others.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::authority::DeviceIdentity;

/// Counts the connections of each guest on one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Crowd<K = DeviceIdentity> {
    most: usize,
    present: Arc<Mutex<HashMap<K, usize>>>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Present<K: Clone + Eq + Hash = DeviceIdentity> {
    crowd: Crowd<K>,
    guest: K,
}

impl<K: Clone + Eq + Hash> Crowd<K> {
    /// Lets `most` connections of each guest in.
    pub(crate) fn new(most: impl Into<usize>) -> Self {
        Self { most: most.into(), present: Arc::default() }
    }

    fn present(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection of the guest, if it does not have too many.
    pub(crate) fn enter(&self, guest: &K) -> Option<Present<K>> {
        let mut present = self.present();
        let count = present.entry(guest.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Present { crowd: self.clone(), guest: guest.clone() })
    }
}

impl<K: Clone + Eq + Hash> Drop for Present<K> {
    fn drop(&mut self) {
        let mut present = self.crowd.present();
        if let Some(count) = present.get_mut(&self.guest) {
            *count -= 1;
            if *count == 0 {
                present.remove(&self.guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(endpoint: &str) -> DeviceIdentity {
        DeviceIdentity { account: "default".parse().unwrap(), endpoint: endpoint.parse().unwrap() }
    }

    #[test]
    fn one_device_cannot_take_the_places_of_another_and_gets_its_own_back() {
        let crowd = Crowd::new(2_u8);
        let held = [crowd.enter(&identity("a")), crowd.enter(&identity("a"))];
        assert!(held.iter().all(Option::is_some));
        assert!(crowd.enter(&identity("a")).is_none());
        assert!(crowd.enter(&identity("b")).is_some());
        drop(held);
        assert!(crowd.enter(&identity("a")).is_some());
        assert!(crowd.present().is_empty(), "devices that left are still counted");
    }
}
