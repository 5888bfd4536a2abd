//! The factory step: the device key is born, a request goes out, one document and one certificate come in, and that is that.
//! Accepts once, ever; never prints or returns the key.

use std::io::Read;

use protocol_types::{AccountName, BoardName, Digest, EndpointName, FactoryDocument};
use serde::Deserialize;

use crate::{
    durable::{self, DurableError},
    identity::{Identity, IdentityError, MAX_CHAIN_BYTES},
    key_store::{DeviceKey, KeyStore, KeyStoreError},
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
    /// The document is for another kind of board: once it is kept, no release would fit this one.
    #[error(
        "the document is for a board {document}, and this is a {here}: name it with `--board` and `--architecture`"
    )]
    OtherBoard {
        /// The board and architecture that it names.
        document: String,
        /// Those of this device.
        here: String,
    },
    /// Document, certificate and key do not belong together.
    #[error("the package does not fit this device")]
    Unfit(#[from] IdentityError),
    /// A file cannot be written.
    #[error("cannot store the package")]
    Store(#[from] DurableError),
}

/// A device in its factory step.
#[derive(Debug)]
pub struct FactoryStep {
    folder: DeviceFolder,
    store: KeyStore,
    key: DeviceKey,
    /// Who the device is to be, if it was told so beforehand.
    who: Option<(AccountName, EndpointName)>,
    /// The board that the running system was made for, if it says so.
    board: Option<BoardName>,
}

/// What is left to do.
#[derive(Debug)]
pub enum Begun {
    /// A package is to come.
    Waiting(Box<FactoryStep>),
    /// A package had been accepted when power failed; now it is in place.
    Finished(Digest),
}

impl FactoryStep {
    /// Begins, or goes on where a cut of power ended it: the key is there after this.
    pub fn begin(
        folder: DeviceFolder,
        store: KeyStore,
        who: Option<(AccountName, EndpointName)>,
        board: Option<BoardName>,
    ) -> Result<Begun, FactoryStepError> {
        store.prepare()?;
        if let Some(recorded) = store.accepted_document()? {
            return finish(&folder, recorded).map(Begun::Finished);
        }
        // A key without an accepted document is left from a step that was interrupted; it never left the device, so it stays.
        let key = match store.device_key()? {
            Some(key) => key,
            None => store.create_device_key()?,
        };
        Ok(Begun::Waiting(Box::new(Self { folder, store, key, who, board })))
    }

    /// The request for a certificate as PEM.
    pub fn request(&self) -> Result<String, FactoryStepError> {
        let request = match &self.who {
            Some((account, endpoint)) => self.key.request(account, endpoint),
            None => self.key.unnamed_request(),
        }?;
        Ok(pem::encode_config(
            &pem::Pem::new("CERTIFICATE REQUEST", request.as_ref()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        ))
    }

    /// Reads one JSON text from `input` and, if it fits this device, keeps it for good.
    pub fn accept(self, input: impl Read) -> Result<Digest, FactoryStepError> {
        let Self { folder, store, key, who, board } = self;
        let mut input = serde_json::Deserializer::from_reader(input.take(MAX_PACKAGE_BYTES));
        let Package { document, certificate } = Package::deserialize(&mut input).map_err(FactoryStepError::Package)?;
        if who.is_some_and(|who| who != (document.account.clone(), document.endpoint.clone())) {
            return Err(FactoryStepError::OtherDevice { account: document.account, endpoint: document.endpoint });
        }
        if let Some(board) = board {
            let (document, here) = (
                format!("{} ({})", document.board, document.architecture),
                format!("{board} ({})", std::env::consts::ARCH),
            );
            if document != here {
                return Err(FactoryStepError::OtherBoard { document, here });
            }
        }
        let bytes = serde_json::to_vec_pretty(&document).map_err(FactoryStepError::Package)?;
        let document = FactoryDocument::parse(&bytes).map_err(IdentityError::from)?;
        let identity = Identity::check(document, &certificate, key)?;

        durable::make_folder(&folder.factory(), false)?;
        durable::replace(&folder.factory_certificate(), certificate.as_bytes(), 0o444)?;
        durable::replace(&folder.staged_document(), &bytes, 0o444)?;
        // This is what ends the step: a power cut before it leaves a device that still takes a package, one after it leaves only
        // the document to be put in its place.
        let digest = Digest::of(&bytes);
        store.accept_document(digest)?;
        finish(&folder, digest)?;
        tracing::info!(endpoint = %identity.document().endpoint, "factory document accepted");
        Ok(digest)
    }
}

/// Puts the document that was recorded in its place, which is last since its being there says that a device is provisioned.
fn finish(folder: &DeviceFolder, recorded: Digest) -> Result<Digest, FactoryStepError> {
    let staged = durable::read(&folder.staged_document(), FactoryDocument::MAX_BYTES)?;
    if staged.is_none_or(|bytes| Digest::of(&bytes) != recorded) {
        return Err(FactoryStepError::Done);
    }
    durable::rename(&folder.staged_document(), &folder.factory_document())?;
    Ok(recorded)
}
