//! At most so many connections of one device at a time, so that no device can take the places of the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::authority::DeviceIdentity;

/// Counts the connections of each device on one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    most: u8,
    present: Arc<Mutex<HashMap<DeviceIdentity, u8>>>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Present {
    crowd: Crowd,
    identity: DeviceIdentity,
}

impl Crowd {
    /// Lets `most` connections of each device in.
    pub(crate) fn new(most: u8) -> Self {
        Self { most, present: Arc::default() }
    }

    fn present(&self) -> MutexGuard<'_, HashMap<DeviceIdentity, u8>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection of the device, if it does not have too many.
    pub(crate) fn enter(&self, identity: &DeviceIdentity) -> Option<Present> {
        let mut present = self.present();
        let count = present.entry(identity.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Present { crowd: self.clone(), identity: identity.clone() })
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut present = self.crowd.present();
        if let Some(count) = present.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                present.remove(&self.identity);
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
        let crowd = Crowd::new(2);
        let held = [crowd.enter(&identity("a")), crowd.enter(&identity("a"))];
        assert!(held.iter().all(Option::is_some));
        assert!(crowd.enter(&identity("a")).is_none());
        assert!(crowd.enter(&identity("b")).is_some());
        drop(held);
        assert!(crowd.enter(&identity("a")).is_some());
        assert!(crowd.present().is_empty(), "devices that left are still counted");
    }
}
