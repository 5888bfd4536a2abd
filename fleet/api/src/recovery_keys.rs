//! Recovery keys of devices: sealed to the account, which alone can open them.

use protocol_types::{
    EndpointName, UnixSeconds,
    boot_record::Format1,
    recovery::{RecoveryKey, Sealed, SealedRecoveryKey, VolumeId},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError};

/// A recovery key of a device's state, sealed to the account: the service cannot open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRecoveryKey {
    /// The volume that the key opens: the UUID that `cryptsetup luksUUID` prints.
    #[schema(value_type = String)]
    pub volume: VolumeId,
    /// The recovery key of the account whose private half opens it.
    #[schema(value_type = String)]
    pub recipient: RecoveryKey,
    /// Encapsulated key and ciphertext of HPKE (RFC 9180) in hexadecimal digits.
    #[schema(value_type = String)]
    pub sealed: Sealed,
    /// When it came, in Unix seconds.
    #[schema(value_type = u64)]
    pub received: UnixSeconds,
}

impl DeviceRecoveryKey {
    /// As the device sealed it.
    pub fn into_sealed(self) -> SealedRecoveryKey {
        let Self { volume, recipient, sealed, received: _ } = self;
        SealedRecoveryKey { format: Format1, recipient, volume, sealed }
    }
}

/// The recovery keys of a device: that of its state, and those of states before its last factory resets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRecoveryKeys {
    /// The newest first; at most four.
    pub items: Vec<DeviceRecoveryKey>,
}

impl Client {
    /// The sealed recovery keys of a device; that they were fetched goes on record.
    pub async fn recovery_keys(&self, endpoint: &EndpointName) -> Result<DeviceRecoveryKeys, ClientError> {
        self.get(&format!("/devices/{endpoint}/recovery"), &()).await
    }
}
