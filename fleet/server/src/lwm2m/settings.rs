//! The part of a visit that is about configuration: gives the device what the documents come to now, and keeps what it says of it.

use fleet_store::{Released, StoreError};
use protocol_lwm2m::{formats::Entry, server::Operation};
use protocol_types::Reason;
use tokio::time::{Instant, sleep_until};

use super::{
    configuration,
    errands::Errand,
    management::{REPORT_PACE, Visit},
};
use crate::configuration::{DeviceSecrets, effective};

impl Visit {
    /// What the device should have, as the documents come to it at this moment. It is on record before the device hears of it.
    pub(super) async fn configuration(&mut self) -> Option<(Operation, u64)> {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        let now = self.devices.fleet.clock.now();
        let looked = async {
            let endpoint = std::slice::from_ref(&identity.endpoint);
            let layers = account.configuration_layers(endpoint, now).await?;
            let layers = layers.get(&identity.endpoint).map_or(&[][..], Vec::as_slice);
            let mut secrets = DeviceSecrets::read(&account, &identity.endpoint, now).await?;
            let is_unset = layers.is_empty() && secrets.wanted.is_empty();
            if is_unset && account.given_configuration(&identity.endpoint).await?.is_none() {
                return Ok(None);
            }
            match secrets.seal(&self.devices.fleet.authority.sealing, (&identity.account, &identity.endpoint)) {
                Ok(Some(news)) => account.keep_sent_secrets(&identity.endpoint, &news).await?,
                Ok(None) => {}
                Err(error) => tracing::error!(
                    account = %identity.account, device = %identity.endpoint, error = %crate::Chain(&error),
                    "secrets could not be sealed to a device"
                ),
            }
            let released: Vec<Released> = layers.iter().filter_map(|layer| layer.released.clone()).collect();
            let wanted = effective(layers).with_secrets(secrets.document());
            if let Some(why) = wanted.invalid {
                tracing::warn!(
                    account = %identity.account, device = %identity.endpoint, why, "a configuration does not fit together"
                );
                account.refuse_released(&identity.endpoint, &released, &why).await?;
                return Ok(None);
            }
            account.give_configuration(&identity.endpoint, &wanted.text, &released, now).await
        };
        match looked.await {
            Ok(given) => given.map(|given| (configuration::write(&given), given.generation)),
            Err(error) => {
                self.store_failed("the configuration of a device was not read", &error);
                None
            }
        }
    }

    /// The device has taken the configuration of this generation, and from now on it tells what became of it.
    pub(super) async fn configuration_taken(&mut self, generation: u64) {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        match account.acknowledge_configuration(&identity.endpoint, generation).await {
            Ok(()) => tracing::info!(
                account = %identity.account, device = %identity.endpoint, generation, "device took its configuration"
            ),
            Err(error) => self.store_failed("an acknowledgement was not recorded", &error),
        }
        if !self.tells_configuration {
            self.tells_configuration = true;
            self.errands.add(Errand::ObserveConfiguration);
        }
    }

    pub(super) async fn configuration_refused(&mut self, generation: u64, reason: Reason) {
        let identity = &self.facts.identity;
        let account = self.devices.fleet.store.account(&identity.account);
        let recorded = async {
            let given = account.given_configuration(&identity.endpoint).await?;
            let Some(given) = given.filter(|given| given.generation == generation) else { return Ok(()) };
            let said = configuration::refused(&given, reason);
            account.record_configuration(&identity.endpoint, &said, self.devices.fleet.clock.now()).await
        };
        let recorded: Result<(), StoreError> = recorded.await;
        if let Err(error) = recorded {
            self.store_failed("that a device refused its configuration was not recorded", &error);
        }
    }

    /// Keeps what the device says of its configuration.
    pub(super) async fn configuration_reported(&mut self, entries: &[Entry]) {
        sleep_until(self.next_report).await;
        self.next_report = Instant::now() + REPORT_PACE;
        let identity = &self.facts.identity;
        if !self.devices.live.is_newest(identity, &self.live) {
            // The device has registered again meanwhile: what is left of this connection is the past.
            return;
        }
        let Some(said) = configuration::report(entries) else {
            tracing::debug!(account = %identity.account, device = %identity.endpoint, "a configuration has no known state");
            return;
        };
        let account = self.devices.fleet.store.account(&identity.account);
        let now = self.devices.fleet.clock.now();
        if let Some(key) = configuration::sealing_key(entries)
            && let Err(error) = account.record_sealing_key(&identity.endpoint, &key, now).await
        {
            self.store_failed("the key for secrets of a device was not recorded", &error);
        }
        let identity = &self.facts.identity;
        let recorded = account.record_configuration(&identity.endpoint, &said, now).await;
        match recorded {
            Ok(()) => tracing::info!(
                account = %identity.account, device = %identity.endpoint, state = %said.state,
                generation = said.generation, "device told of its configuration"
            ),
            Err(error) => self.store_failed("what a device says of its configuration was not recorded", &error),
        }
    }
}
