//! Objects 0 and 1 as values: where a device may connect, and how it registers there. Never connects.

use std::{collections::BTreeMap, fmt};

use super::Path;
use crate::{
    coap::Code,
    formats::{Entry, Value},
};

/// How a server is authenticated (resource /0/x/2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityMode {
    /// A shared secret.
    PreSharedKey,
    /// Raw public keys.
    RawPublicKey,
    /// Certificates on both sides.
    Certificate,
    /// No security; this project never uses it.
    NoSec,
    /// Certificates, the client's fetched by Enrolment over Secure Transport.
    CertificateWithEst,
}

impl SecurityMode {
    const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::PreSharedKey),
            1 => Some(Self::RawPublicKey),
            2 => Some(Self::Certificate),
            3 => Some(Self::NoSec),
            4 => Some(Self::CertificateWithEst),
            _ => None,
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::PreSharedKey => 0,
            Self::RawPublicKey => 1,
            Self::Certificate => 2,
            Self::NoSec => 3,
            Self::CertificateWithEst => 4,
        }
    }
}

/// One instance of object 0.
#[derive(Clone, PartialEq, Eq)]
pub struct SecurityAccount {
    /// Server URI, for example `coaps+tcp://fleet.example:5685`.
    pub uri: String,
    /// Whether it is a bootstrap server.
    pub bootstrap: bool,
    /// How it is authenticated.
    pub mode: SecurityMode,
    /// Public key or identity of this device.
    pub public_key_or_identity: Vec<u8>,
    /// Public key or certificate of the server.
    pub server_public_key: Vec<u8>,
    /// Secret or private key; empty where the key lives in hardware.
    pub secret_key: Vec<u8>,
    /// Ties it to the instance of object 1 with the same number; absent for a bootstrap server.
    pub short_server_id: Option<u16>,
}

impl fmt::Debug for SecurityAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uri, bootstrap, mode, short_server_id, .. } = self;
        f.debug_struct("SecurityAccount")
            .field("uri", uri)
            .field("bootstrap", bootstrap)
            .field("mode", mode)
            .field("short_server_id", short_server_id)
            .finish_non_exhaustive()
    }
}

/// One instance of object 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAccount {
    /// Ties it to the instance of object 0 with the same number.
    pub short_server_id: u16,
    /// Seconds after which the server forgets a client that does not update.
    pub lifetime: u32,
    /// Default for the shortest time between two notifications, in seconds.
    pub default_pmin: u32,
    /// Default for the longest time between two notifications, in seconds.
    pub default_pmax: Option<u32>,
    /// Seconds to stay away after Disable.
    pub disable_timeout: u32,
    /// Whether notifications are kept while the server cannot be reached.
    pub store_notifications: bool,
    /// Transports, for example `T`.
    pub binding: String,
}

impl Default for ServerAccount {
    fn default() -> Self {
        Self {
            short_server_id: 1,
            lifetime: 3600,
            default_pmin: 0,
            default_pmax: None,
            disable_timeout: 86_400,
            store_notifications: false,
            binding: "T".to_owned(),
        }
    }
}

/// All instances of objects 0 and 1 by instance id: what bootstrap writes and what a device keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Object 0.
    pub security: BTreeMap<u16, SecurityAccount>,
    /// Object 1.
    pub servers: BTreeMap<u16, ServerAccount>,
}

/// Accounts that do not hold together; a client answers Bootstrap-Finish with 4.06.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountsError {
    /// A mandatory resource is missing.
    #[error("{0} is missing")]
    Missing(Path),
    /// A value is out of range or of the wrong type.
    #[error("the value of {0} is not valid")]
    Invalid(Path),
    /// There is no server to register with.
    #[error("no management server is named")]
    NoServer,
    /// Objects 0 and 1 do not name the same server exactly once each.
    #[error("short server id {0} is not in exactly one instance of objects 0 and 1 each")]
    Unpaired(u16),
}

impl AccountsError {
    /// The response code to a finish whose accounts have this fault.
    pub const fn code(&self) -> Code {
        Code::NOT_ACCEPTABLE
    }
}

impl Accounts {
    /// The server to register with: the first instance of object 0 that is no bootstrap server, its partner in object 1, and that one's id.
    pub fn management(&self) -> Option<(&SecurityAccount, u16, &ServerAccount)> {
        let security = self.security.values().find(|account| !account.bootstrap)?;
        let (id, server) =
            self.servers.iter().find(|(_, server)| Some(server.short_server_id) == security.short_server_id)?;
        Some((security, *id, server))
    }

    /// The values of every instance, as bootstrap writes them.
    pub fn entries(&self) -> Vec<Entry> {
        let security = self.security.iter().flat_map(|(id, account)| account.entries(*id));
        security.chain(self.servers.iter().flat_map(|(id, account)| account.entries(*id))).collect()
    }

    /// Reads accounts from the values of objects 0 and 1 and checks that they hold together. Values of other objects are passed over.
    pub fn from_entries(entries: &[Entry]) -> Result<Self, AccountsError> {
        let mut accounts = Self::default();
        for entry in entries {
            match *entry.path.ids() {
                [0, id, ..] if !accounts.security.contains_key(&id) => {
                    accounts.security.insert(id, SecurityAccount::read(&Fields { entries, object: 0, instance: id })?);
                }
                [1, id, ..] if !accounts.servers.contains_key(&id) => {
                    accounts.servers.insert(id, ServerAccount::read(&Fields { entries, object: 1, instance: id })?);
                }
                _ => {}
            }
        }
        accounts.check()?;
        Ok(accounts)
    }

    fn check(&self) -> Result<(), AccountsError> {
        let named = || {
            self.security.values().filter(|account| !account.bootstrap).filter_map(|account| account.short_server_id)
        };
        for id in named().chain(self.servers.values().map(|server| server.short_server_id)) {
            let in_security = named().filter(|other| *other == id).count();
            let in_servers = self.servers.values().filter(|server| server.short_server_id == id).count();
            if (in_security, in_servers) != (1, 1) {
                return Err(AccountsError::Unpaired(id));
            }
        }
        self.management().map(|_| ()).ok_or(AccountsError::NoServer)
    }
}

impl SecurityAccount {
    /// A server at `uri` that manages the device over mutual TLS and hands out certificates. Key and certificate are the device's own, so
    /// none is in the account, and nothing is said of the server's certificate.
    pub fn managed(uri: String, short_server_id: u16) -> Self {
        Self {
            uri,
            bootstrap: false,
            mode: SecurityMode::CertificateWithEst,
            public_key_or_identity: Vec::new(),
            server_public_key: Vec::new(),
            secret_key: Vec::new(),
            short_server_id: Some(short_server_id),
        }
    }

    /// The values of this account as instance `id` of object 0.
    pub fn entries(&self, id: u16) -> Vec<Entry> {
        let at = |resource, value| Entry::new(Path::resource(0, id, resource), value);
        let mut entries = vec![
            at(0, Value::String(self.uri.clone())),
            at(1, Value::Boolean(self.bootstrap)),
            at(2, Value::Integer(self.mode.number())),
            at(3, Value::Opaque(self.public_key_or_identity.clone())),
            at(4, Value::Opaque(self.server_public_key.clone())),
            at(5, Value::Opaque(self.secret_key.clone())),
        ];
        entries.extend(self.short_server_id.map(|short| at(10, Value::Integer(i64::from(short)))));
        entries
    }

    fn read(fields: &Fields<'_>) -> Result<Self, AccountsError> {
        let uri = fields.string(0)?.filter(|uri| !uri.is_empty()).ok_or_else(|| fields.missing(0))?;
        let bootstrap = fields.boolean(1)?.ok_or_else(|| fields.missing(1))?;
        let mode = fields.number(2)?.ok_or_else(|| fields.missing(2))?;
        let short_server_id = fields.id(10)?;
        if !bootstrap && short_server_id.is_none() {
            return Err(fields.missing(10));
        }
        Ok(Self {
            uri,
            bootstrap,
            mode: SecurityMode::from_number(mode).ok_or_else(|| fields.invalid(2))?,
            public_key_or_identity: fields.opaque(3)?,
            server_public_key: fields.opaque(4)?,
            secret_key: fields.opaque(5)?,
            short_server_id,
        })
    }
}

impl ServerAccount {
    /// The values of this account as instance `id` of object 1.
    pub fn entries(&self, id: u16) -> Vec<Entry> {
        let at = |resource, value| Entry::new(Path::resource(1, id, resource), value);
        let number = |number: u32| Value::Integer(i64::from(number));
        let mut entries = vec![
            at(0, Value::Integer(i64::from(self.short_server_id))),
            at(1, number(self.lifetime)),
            at(2, number(self.default_pmin)),
        ];
        entries.extend(self.default_pmax.map(|pmax| at(3, number(pmax))));
        entries.extend([
            at(5, number(self.disable_timeout)),
            at(6, Value::Boolean(self.store_notifications)),
            at(7, Value::String(self.binding.clone())),
        ]);
        entries
    }

    fn read(fields: &Fields<'_>) -> Result<Self, AccountsError> {
        let usual = Self::default();
        Ok(Self {
            short_server_id: fields.id(0)?.ok_or_else(|| fields.missing(0))?,
            lifetime: fields.seconds(1)?.filter(|lifetime| *lifetime > 0).ok_or_else(|| fields.missing(1))?,
            default_pmin: fields.seconds(2)?.unwrap_or(usual.default_pmin),
            default_pmax: fields.seconds(3)?,
            disable_timeout: fields.seconds(5)?.unwrap_or(usual.disable_timeout),
            store_notifications: fields.boolean(6)?.unwrap_or(usual.store_notifications),
            binding: fields.binding(7)?.unwrap_or(usual.binding),
        })
    }
}

/// Whether `text` is one or more of the transports `known`, each once (section 6.2).
pub(crate) fn are_transports(text: &str, known: &str) -> bool {
    (1..=known.len()).contains(&text.len()) && text.chars().all(|c| known.contains(c) && text.matches(c).count() == 1)
}

/// The values of one instance, found by resource.
struct Fields<'a> {
    entries: &'a [Entry],
    object: u16,
    instance: u16,
}

impl Fields<'_> {
    fn path(&self, resource: u16) -> Path {
        Path::resource(self.object, self.instance, resource)
    }

    fn missing(&self, resource: u16) -> AccountsError {
        AccountsError::Missing(self.path(resource))
    }

    fn invalid(&self, resource: u16) -> AccountsError {
        AccountsError::Invalid(self.path(resource))
    }

    /// The last value that was written, as `take` understands it.
    fn get<T>(&self, resource: u16, take: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, AccountsError> {
        let path = self.path(resource);
        let Some(entry) = self.entries.iter().rev().find(|entry| entry.path == path) else { return Ok(None) };
        take(&entry.value).map(Some).ok_or_else(|| self.invalid(resource))
    }

    fn string(&self, resource: u16) -> Result<Option<String>, AccountsError> {
        self.get(resource, |value| value.as_str().map(str::to_owned))
    }

    /// Transports, TCP among them: a device knows no other.
    fn binding(&self, resource: u16) -> Result<Option<String>, AccountsError> {
        self.get(resource, |value| {
            let fits = |text: &&str| are_transports(text, "UTSN") && text.contains('T');
            value.as_str().filter(fits).map(str::to_owned)
        })
    }

    fn number(&self, resource: u16) -> Result<Option<i64>, AccountsError> {
        self.get(resource, Value::as_i64)
    }

    fn seconds(&self, resource: u16) -> Result<Option<u32>, AccountsError> {
        self.get(resource, |value| u32::try_from(value.as_i64()?).ok())
    }

    /// A short server id: 1 to 65534.
    fn id(&self, resource: u16) -> Result<Option<u16>, AccountsError> {
        self.get(resource, |value| u16::try_from(value.as_i64()?).ok().filter(|id| (1..u16::MAX).contains(id)))
    }

    fn boolean(&self, resource: u16) -> Result<Option<bool>, AccountsError> {
        self.get(resource, |value| if let Value::Boolean(truth) = value { Some(*truth) } else { None })
    }

    fn opaque(&self, resource: u16) -> Result<Vec<u8>, AccountsError> {
        let bytes =
            self.get(resource, |value| if let Value::Opaque(bytes) = value { Some(bytes.clone()) } else { None });
        Ok(bytes?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn accounts() -> Accounts {
        let security = SecurityAccount {
            uri: "coaps+tcp://fleet.example:5685".to_owned(),
            bootstrap: false,
            mode: SecurityMode::CertificateWithEst,
            public_key_or_identity: Vec::new(),
            server_public_key: vec![1, 2, 3],
            secret_key: Vec::new(),
            short_server_id: Some(1),
        };
        Accounts { security: [(1, security)].into(), servers: [(1, ServerAccount::default())].into() }
    }

    #[test]
    fn accounts_read_back_as_written() {
        assert_eq!(Accounts::from_entries(&accounts().entries()), Ok(accounts()));
    }

    #[test]
    fn accounts_that_do_not_hold_together_are_refused_by_the_first_fault() {
        let mut lonely = accounts();
        lonely.servers.clear();
        assert_eq!(Accounts::from_entries(&lonely.entries()), Err(AccountsError::Unpaired(1)));
        assert_eq!(Accounts::from_entries(&[]), Err(AccountsError::NoServer));
        let entries = accounts().entries();
        for (drop, error) in [
            (0, AccountsError::Missing(Path::resource(0, 1, 0))),
            (6, AccountsError::Missing(Path::resource(0, 1, 10))),
        ] {
            let mut fewer = entries.clone();
            fewer.remove(drop);
            assert_eq!(Accounts::from_entries(&fewer), Err(error));
        }
    }

    #[test]
    fn a_binding_has_each_transport_once_and_tcp_among_them() {
        for (binding, fits) in
            [("T", true), ("UT", true), ("TSNU", true), ("", false), ("U", false), ("TT", false), ("TQ", false)]
        {
            let mut bound = accounts();
            bound.servers.insert(1, ServerAccount { binding: binding.to_owned(), ..ServerAccount::default() });
            let read = Accounts::from_entries(&bound.entries());
            let refused = Err(AccountsError::Invalid(Path::resource(1, 1, 7)));
            assert_eq!(read, if fits { Ok(bound) } else { refused }, "{binding}");
        }
    }
}
