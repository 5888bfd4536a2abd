//! A signed file before and while its signatures are counted. Never decides what the signed part means.

use std::collections::{BTreeSet, HashMap};

use olpc_cjson::CanonicalFormatter;
use protocol_types::{Reason, ReasonCode};
use serde::Serialize;
use serde_json::Value;
use tough::schema::{
    DelegatedRole, Delegations, RoleKeys, RoleType, Root, Signature,
    decoded::{Decoded, Hex},
    key::Key,
};

use super::{MAX_METADATA_BYTES, key::verifies};

/// The keys of one role and how many of them must sign.
#[derive(Debug)]
pub(crate) struct Signers<'a> {
    keys: &'a HashMap<Decoded<Hex>, Key>,
    ids: &'a [Decoded<Hex>],
    threshold: u64,
}

impl<'a> Signers<'a> {
    /// Those of a top-level role; none if the root does not name it.
    pub(crate) fn of_root(root: &'a Root, role: RoleType) -> Option<Self> {
        let RoleKeys { keyids, threshold, .. } = root.roles.get(&role)?;
        Some(Self { keys: &root.keys, ids: keyids, threshold: threshold.get() })
    }

    /// Those of a delegated role.
    pub(crate) fn of_delegation(delegations: &'a Delegations, role: &'a DelegatedRole) -> Self {
        Self { keys: &delegations.keys, ids: &role.keyids, threshold: role.threshold.get() }
    }

    /// Whether enough of the keys are there for the threshold ever to be reached.
    pub(crate) fn can_sign(&self) -> bool {
        let known: BTreeSet<&[u8]> =
            self.ids.iter().filter(|id| self.keys.contains_key(*id)).map(AsRef::as_ref).collect();
        known.len() == self.ids.len() && u64::try_from(known.len()).is_ok_and(|n| n >= self.threshold)
    }

    /// The ids and the threshold, for telling whether keys were rotated.
    pub(crate) fn identity(&self) -> (BTreeSet<&'a [u8]>, u64) {
        (self.ids.iter().map(AsRef::as_ref).collect(), self.threshold)
    }
}

/// A file with a signed part and signatures.
#[derive(Debug)]
pub(crate) struct Envelope {
    signed: Value,
    signatures: Vec<Signature>,
}

impl Envelope {
    /// Reads the outer form. `what` names the file in refusals.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self, Reason> {
        if bytes.len() > MAX_METADATA_BYTES as usize {
            return Err(Reason::new(ReasonCode::Oversized, format!("{what} has {} bytes", bytes.len())));
        }
        let malformed = |why: &str| Reason::new(ReasonCode::MalformedMetadata, format!("{what}: {why}"));
        let value: Value = serde_json::from_slice(bytes).map_err(|e| malformed(&e.to_string()))?;
        let Value::Object(mut fields) = value else { return Err(malformed("not a JSON object")) };
        let (Some(signed), Some(signatures)) = (fields.remove("signed"), fields.remove("signatures")) else {
            return Err(malformed("`signed` or `signatures` is missing"));
        };
        let signatures: Vec<Signature> =
            serde_json::from_value(signatures).map_err(|e| malformed(&format!("signatures: {e}")))?;
        let ids: BTreeSet<&[u8]> = signatures.iter().map(|s| s.keyid.as_ref()).collect();
        if ids.len() != signatures.len() {
            return Err(malformed("two signatures by one key"));
        }
        Ok(Self { signed, signatures })
    }

    /// Counts good signatures by distinct keys (TUF specification, section 5, "threshold of keys").
    pub(crate) fn verify(&self, what: &str, signers: &Signers<'_>) -> Result<(), Reason> {
        let message =
            canonical(&self.signed).map_err(|e| Reason::new(ReasonCode::MalformedMetadata, format!("{what}: {e}")))?;
        let (mut good, mut bad) = (0_u64, 0_u64);
        for signature in self.signatures.iter().filter(|s| signers.ids.contains(&s.keyid)) {
            let Some(key) = signers.keys.get(&signature.keyid) else { continue };
            if verifies(key, &message, &signature.sig) { good += 1 } else { bad += 1 }
        }
        let needed = signers.threshold;
        if good >= needed {
            return Ok(());
        }
        let (code, why) = match (bad, good) {
            (0, 0) if self.signatures.is_empty() => (ReasonCode::BelowThreshold, "it carries no signature".to_owned()),
            (0, 0) => (ReasonCode::UnknownKey, "it is signed by no key of its role".to_owned()),
            (0, _) => (ReasonCode::BelowThreshold, format!("{good} of {needed} needed signatures are there")),
            _ => {
                (ReasonCode::BadSignature, format!("{bad} signatures do not match, {good} of {needed} needed are good"))
            }
        };
        Err(Reason::new(code, format!("{what}: {why}")))
    }

    /// The signed part; trusted only as far as [`Envelope::verify`] was asked.
    pub(crate) fn signed(&self) -> &Value {
        &self.signed
    }

    /// The signed part and the signatures; trusted only as far as [`Envelope::verify`] was asked.
    pub(crate) fn into_parts(self) -> (Value, Vec<Signature>) {
        (self.signed, self.signatures)
    }
}

/// The bytes that signatures are made over: OLPC canonical JSON.
pub(crate) fn canonical(signed: &Value) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    signed.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, CanonicalFormatter::new()))?;
    Ok(bytes)
}
