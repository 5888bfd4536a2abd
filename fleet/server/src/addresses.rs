//! Where the service listens, as a file that other programs wait for. Never written before every port is bound.

use std::{io, net::SocketAddr, path::Path};

use serde::{Deserialize, Serialize};

use crate::durable::{self, Audience};

/// The addresses of the four ports, as `DATA_DIR/addresses.json` holds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// REST over HTTPS.
    pub api: SocketAddr,
    /// LwM2M bootstrap and enrolment, CoAP over TLS.
    pub bootstrap: SocketAddr,
    /// LwM2M device management, CoAP over TLS.
    pub lwm2m: SocketAddr,
    /// Artifacts and metadata for devices, HTTPS with client certificates.
    pub artifacts: SocketAddr,
    /// Names and addresses under which the outside reaches the service; the first one is given to devices.
    pub public_hosts: Vec<String>,
    /// The process.
    pub pid: u32,
}

impl Addresses {
    /// Name of the file in the data directory.
    pub const FILE: &str = "addresses.json";

    /// The first public host as it stands in addresses: an IPv6 address is in brackets (RFC 3986, section 3.2.2).
    pub(crate) fn public_host(&self) -> String {
        // The configuration refuses an empty list of hosts.
        let host = self.public_hosts.first().map(String::as_str).unwrap_or_default();
        if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
    }

    pub(crate) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        durable::write(&data_dir.join(Self::FILE), &text, Audience::Everybody)
    }

    /// Takes the file away, so that nobody dials a service that is gone.
    pub(crate) fn remove(data_dir: &Path) -> io::Result<()> {
        durable::remove(&data_dir.join(Self::FILE))
    }
}
