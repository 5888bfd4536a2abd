//! The factory step: the device key is born, a request goes out, one document and one certificate come in, and that is that.
//! Accepts once, ever; never prints or returns the key.

use std::io::{Read, Write};

use protocol_types::{AccountName, Digest, EndpointName, FactoryDocument};
use serde::Deserialize;

use crate::{
    durable::{self, DurableError},
    identity::{Identity, IdentityError, MAX_CHAIN_BYTES},
    key_store::{KeyStore, KeyStoreError},
    layout::DeviceFolder,
};

/// The longest package in bytes: both parts in JSON, where a line break takes two bytes.
const MAX_PACKAGE_BYTES: u64 = 2 * (FactoryDocument::MAX_BYTES as u64 + MAX_CHAIN_BYTES as u64);

/// What the factory hands to the device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    document: FactoryDocument,
    /// PEM chain, the device's own certificate first.
    certificate: String,
}

/// Why the factory step did not end well; the device accepts a better package afterwards, unless it was provisioned before.
#[derive(Debug, thiserror::Error)]
pub enum FactoryStepError {
    /// It was done before.
    #[error("this device was provisioned before; the factory step is done once")]
    Done,
    /// The key store does not answer.
    #[error("cannot use the key store")]
    KeyStore(#[from] KeyStoreError),
    /// The request cannot be handed out.
    #[error("cannot hand out the certificate request")]
    Output(#[source] std::io::Error),
    /// The package is not the expected JSON.
    #[error("the package is not a JSON object with `document` and `certificate` of the expected form")]
    Package(#[source] serde_json::Error),
    /// The document is for another device.
    #[error("the document is for {account}/{endpoint}, not for this device")]
    OtherDevice {
        /// The account it names.
        account: AccountName,
        /// The endpoint it names.
        endpoint: EndpointName,
    },
    /// Document, certificate and key do not belong together.
    #[error("the package does not fit this device")]
    Unfit(#[from] IdentityError),
    /// A file cannot be written.
    #[error("cannot store the package")]
    Store(#[from] DurableError),
}

/// Does the factory step for `endpoint` of `account`: writes a PEM request to `output`, then reads one JSON text from `input`.
pub fn provision(
    folder: &DeviceFolder,
    (account, endpoint): (&AccountName, &EndpointName),
    input: impl Read,
    mut output: impl Write,
) -> Result<(), FactoryStepError> {
    let store = KeyStore::new(folder.keys());
    if store.accepted_document()?.is_some() {
        return Err(FactoryStepError::Done);
    }
    // A key without an accepted document is left from a step that was interrupted; it never left the device, so it stays.
    let key = match store.device_key()? {
        Some(key) => key,
        None => store.create_device_key()?,
    };
    let request = key.request(account, endpoint)?;
    let request = pem::encode_config(
        &pem::Pem::new("CERTIFICATE REQUEST", request.as_ref()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    );
    output.write_all(request.as_bytes()).and_then(|()| output.flush()).map_err(FactoryStepError::Output)?;

    let mut input = serde_json::Deserializer::from_reader(input.take(MAX_PACKAGE_BYTES));
    let Package { document, certificate } = Package::deserialize(&mut input).map_err(FactoryStepError::Package)?;
    if (&document.account, &document.endpoint) != (account, endpoint) {
        return Err(FactoryStepError::OtherDevice { account: document.account, endpoint: document.endpoint });
    }
    let bytes = serde_json::to_vec_pretty(&document).map_err(FactoryStepError::Package)?;
    let document = FactoryDocument::parse(&bytes).map_err(IdentityError::from)?;
    let identity = Identity::check(document, &certificate, key)?;

    durable::make_folder(&folder.factory(), false)?;
    durable::replace(&folder.factory_certificate(), certificate.as_bytes(), 0o444)?;
    durable::replace(&folder.factory_document(), &bytes, 0o444)?;
    // Last, since this is what ends the step: a power cut before it leaves a device that still takes a package.
    store.accept_document(Digest::of(&bytes))?;
    tracing::info!(endpoint = %identity.document().endpoint, "factory document accepted");
    Ok(())
}
