//! The settings of the service: one TOML file, overridden by the command line. Unknown keys are refused by name.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    artifact_store::{BucketFault, BucketSettings},
    outgoing::Network,
    traces::{TraceFault, TraceSettings},
};

/// Lifetimes of a registration that make sense, in seconds.
const REGISTRATION_LIFETIMES: RangeInclusive<u32> = 60..=7 * 24 * 60 * 60;

/// The file of the embedded database in the data directory.
pub(crate) const EMBEDDED_DATABASE: &str = "mbl.db";

/// All settings; `docs/guides/service.md` explains each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The one directory in which everything lies that the service keeps.
    pub data_dir: PathBuf,
    /// Names and addresses under which the outside reaches the service; the first one is given to devices.
    pub public_hosts: Vec<String>,
    /// Address of the API as people and browsers reach it, if it is another than the first public host at the port of the API: a proxy
    /// stands in front of it.
    pub public_address: Option<String>,
    /// Where it listens.
    pub listen: Listen,
    /// How much it takes.
    pub limits: Limits,
    /// Who stands in front of the API and says where requests come from.
    pub proxies: Proxies,
    /// How events are sent to webhooks.
    pub webhooks: Webhooks,
    /// How much is known of how devices are, and how long.
    pub metrics: DeviceMetrics,
    /// How identity providers of accounts are asked.
    pub single_sign_on: SingleSignOn,
    /// The mail server; without it nothing is sent by e-mail.
    pub mail: Option<Mail>,
    /// `postgres://…` instead of the embedded database in the data directory.
    pub database_url: Option<String>,
    /// Holds whole artifacts instead of the data directory.
    pub bucket: Option<BucketSettings>,
    /// The collector of traces; without it nothing is traced.
    pub traces: Option<TraceSettings>,
    /// Logs as one JSON object a line.
    pub log_json: bool,
    /// Seconds that requests under way have to end when the service stops.
    pub grace_s: u64,
    /// Seconds after which a device that says nothing counts as late; it updates its registration before.
    pub registration_lifetime_s: u32,
}

/// The four ports; port 0 takes any free one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// REST over HTTPS.
    pub api: SocketAddr,
    /// LwM2M bootstrap and enrolment, CoAP over TLS.
    pub bootstrap: SocketAddr,
    /// LwM2M device management, CoAP over TLS.
    pub lwm2m: SocketAddr,
    /// Artifacts and metadata for devices, HTTPS with client certificates.
    pub artifacts: SocketAddr,
}

/// Upper bounds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one artifact.
    pub artifact_bytes: u64,
    /// Bytes of all artifacts of an account.
    pub account_bytes: u64,
    /// Requests of one account in a second, as long as it asks.
    pub account_requests_per_s: u32,
    /// Requests that one account may send at once after a rest.
    pub account_burst: u32,
    /// Requests without a token that one address may send in a minute, as long as it asks.
    pub open_requests_per_minute: u32,
    /// Requests without a token that one address may send at once after a rest. One that is refused counts as six.
    pub open_burst: u32,
    /// Connections to the API at a time.
    pub api_connections: usize,
    /// Connections of devices at a time, to each of their ports.
    pub device_connections: usize,
    /// Seconds that a sender over HTTPS has for the head of a request or for a JSON body, and may be silent in an upload.
    pub slow_sender_s: u64,
}

/// Who stands in front of the API and says where requests come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxies {
    /// Addresses and networks of the proxies; what anybody else says is not looked at.
    pub trusted: Vec<Network>,
    /// The header in which they say it. They must overwrite or extend it: whatever they pass on unseen could be the client's.
    pub header: ForwardedHeader,
}

impl Proxies {
    /// Whether what comes from this address may say where it came from.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

/// The header in which a proxy says where a request came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// How identity providers of accounts are asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SingleSignOn {
    /// Addresses and networks that may be reached although they are private, also without TLS.
    pub allow: Vec<Network>,
    /// Seconds that a provider has to answer.
    pub answer_s: u64,
}

impl Default for SingleSignOn {
    fn default() -> Self {
        Self { allow: Vec::new(), answer_s: 10 }
    }
}

/// How events are sent to webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    /// Addresses and networks that may be reached although they are private, also without TLS.
    pub allow: Vec<Network>,
    /// Webhooks that are sent to at a time.
    pub at_once: usize,
    /// Tries of one event before it becomes a dead letter.
    pub tries: u32,
    /// Longest wait between two tries, in seconds.
    pub longest_wait_s: u64,
    /// Seconds that a receiver has to answer.
    pub answer_s: u64,
}

/// How much is known of how devices are, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceMetrics {
    /// Bytes that one device may send in a day to say how it is; 0 for nothing.
    pub bytes_per_day: u64,
    /// Days that samples are kept; at least 2.
    pub sample_days: u64,
    /// Days that points of five minutes are kept.
    pub fine_days: u64,
    /// Days that points of an hour are kept.
    pub hour_days: u64,
}

impl Default for DeviceMetrics {
    fn default() -> Self {
        Self { bytes_per_day: 128 * 1024, sample_days: 2, fine_days: 14, hour_days: 400 }
    }
}

/// The mail server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// Its name.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    #[serde(default)]
    pub tls: MailTls,
    /// Who the service is there.
    #[serde(default)]
    pub user: Option<String>,
    /// File whose first line is the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The sender of all messages, as in `Fleet <fleet@example.com>`.
    pub from: String,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// From the first byte on.
    #[default]
    Wrapped,
    /// After `STARTTLS`, without which nothing is sent.
    Starttls,
    /// Not at all, to a server on the same machine.
    None,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { allow: Vec::new(), at_once: 256, tries: 30, longest_wait_s: 3600, answer_s: 10 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/mbl-service"),
            public_hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            public_address: None,
            listen: Listen::default(),
            limits: Limits::default(),
            proxies: Proxies::default(),
            webhooks: Webhooks::default(),
            metrics: DeviceMetrics::default(),
            single_sign_on: SingleSignOn::default(),
            mail: None,
            database_url: None,
            bucket: None,
            traces: None,
            log_json: false,
            grace_s: 10,
            registration_lifetime_s: 300,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { api: local(8443), bootstrap: local(5684), lwm2m: local(5685), artifacts: local(8444) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            artifact_bytes: 4 << 30,
            account_bytes: 64 << 30,
            account_requests_per_s: 500,
            account_burst: 5000,
            open_requests_per_minute: 30,
            open_burst: 120,
            api_connections: 1024,
            device_connections: 100_000,
            slow_sender_s: 30,
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the settings in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The text is not TOML of the known form.
    #[error("the settings are not understood")]
    Malformed(#[source] toml::de::Error),
    /// Messages would leave the machine in the open.
    #[error("`mail.tls = \"none\"` is for a server on this machine; name it as `localhost` or `127.0.0.1`")]
    OpenMail,
    /// Samples would be gone before late ones can be condensed.
    #[error("`metrics.sample_days` is at least 2")]
    SampleDays,
    /// The public address is none of an API over HTTPS.
    #[error("`public_address` is not the beginning of an address over HTTPS, as in `https://fleet.example.com`")]
    PublicAddress,
    /// The bucket makes no sense.
    #[error(transparent)]
    Bucket(#[from] BucketFault),
    /// The collector of traces makes no sense.
    #[error(transparent)]
    Traces(#[from] TraceFault),
    /// There is no name under which the service can be reached.
    #[error("`public_hosts` is empty; name at least one host or address")]
    NoPublicHost,
    /// Devices would do nothing but update, or be missed only after weeks.
    #[error("`registration_lifetime_s` is {0}; it must be 60 to 604800, which is a week")]
    RegistrationLifetime(u32),
}

impl Limits {
    /// How long a slow sender is waited for.
    pub(crate) const fn slow_sender(&self) -> Duration {
        Duration::from_secs(self.slow_sender_s)
    }
}

impl Config {
    /// Reads the text of a settings file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(ConfigError::Malformed)
    }

    /// Reads a settings file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Where the database is if the settings name no other.
    pub(crate) fn embedded_database(&self) -> PathBuf {
        self.data_dir.join(EMBEDDED_DATABASE)
    }

    /// Checks what no single value can show.
    pub fn check(self) -> Result<Self, ConfigError> {
        if self.public_hosts.is_empty() {
            return Err(ConfigError::NoPublicHost);
        }
        if !REGISTRATION_LIFETIMES.contains(&self.registration_lifetime_s) {
            return Err(ConfigError::RegistrationLifetime(self.registration_lifetime_s));
        }
        if self.metrics.sample_days < 2 {
            return Err(ConfigError::SampleDays);
        }
        if self.public_address.as_deref().is_some_and(|address| !is_origin(address)) {
            return Err(ConfigError::PublicAddress);
        }
        let is_here = |mail: &Mail| ["localhost", "127.0.0.1", "::1"].contains(&mail.server.as_str());
        if self.mail.as_ref().is_some_and(|mail| mail.tls == MailTls::None && !is_here(mail)) {
            return Err(ConfigError::OpenMail);
        }
        if let Some(bucket) = &self.bucket {
            bucket.check()?;
        }
        if let Some(traces) = &self.traces {
            traces.check()?;
        }
        Ok(self)
    }
}

/// Whether an address is nothing but `https`, a host and perhaps a port.
fn is_origin(address: &str) -> bool {
    let Ok(url) = url::Url::parse(address) else { return false };
    let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    url.scheme() == "https" && bare && url.query().is_none() && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_is_an_origin_over_https() {
        let check = |address: &str| Config::parse(&format!("public_address = \"{address}\"")).unwrap().check();
        for good in ["https://fleet.example.com", "https://fleet.example.com:8443/", "https://[2001:db8::1]:8443"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for wrong in
            ["", "fleet.example.com", "http://fleet.example.com", "https://a@b.example", "https://b.example/x?y"]
        {
            assert!(matches!(check(wrong), Err(ConfigError::PublicAddress)), "{wrong}");
        }
    }

    #[test]
    fn a_proxy_says_where_requests_come_from_in_the_header_that_the_settings_name() {
        let config = Config::parse("[proxies]\ntrusted = [\"10.0.0.0/8\"]\nheader = \"forwarded\"").unwrap();
        assert_eq!(config.proxies.header, ForwardedHeader::Forwarded);
        assert!(
            config.proxies.trusts("10.1.2.3".parse().unwrap())
                && !Config::default().proxies.trusts("::1".parse().unwrap())
        );
        assert!(Config::parse("[proxies]\nheader = \"x-real-ip\"").is_err());
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        for text in ["data_dri = \"/x\"", "[listen]\nrest = \"127.0.0.1:1\"", "[limits]\nartefact_bytes = 1"] {
            let ConfigError::Malformed(why) = Config::parse(text).unwrap_err() else { panic!("{text}") };
            assert!(why.to_string().contains("unknown field"), "{why}");
        }
    }

    #[test]
    fn the_guide_explains_every_setting() {
        let guide = include_str!("../../../docs/guides/service.md");
        let config = format!("{:?}", Config::default());
        let keys = config.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':'));
        let missing: Vec<&str> = keys.filter(|key| !guide.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "docs/guides/service.md does not explain {missing:?}");
    }

    #[test]
    fn an_address_that_webhooks_may_reach_is_checked_when_the_settings_are_read() {
        let config = Config::parse("[webhooks]\nallow = [\"10.0.0.0/8\", \"::1\"]\ntries = 3").unwrap();
        assert_eq!((config.webhooks.allow.len(), config.webhooks.tries, config.webhooks.answer_s), (2, 3, 10));
        let ConfigError::Malformed(why) = Config::parse("[webhooks]\nallow = [\"10.0.0.0/33\"]").unwrap_err() else {
            panic!("a network of 33 bits")
        };
        assert!(why.to_string().contains("`10.0.0.0/33` is neither an address nor a network"), "{why}");
    }

    #[test]
    fn mail_leaves_the_machine_encrypted_or_not_at_all() {
        let mail = |server: &str, tls: &str| {
            let text = format!("[mail]\nserver = \"{server}\"\nport = 25\nfrom = \"a@b.example\"\n{tls}");
            Config::parse(&text).unwrap().check()
        };
        assert_eq!(mail("mail.example", "").unwrap().mail.unwrap().tls, MailTls::Wrapped);
        assert!(mail("mail.example", "tls = \"starttls\"").is_ok() && mail("127.0.0.1", "tls = \"none\"").is_ok());
        assert!(matches!(mail("mail.example", "tls = \"none\""), Err(ConfigError::OpenMail)));
    }

    #[test]
    fn a_registration_lives_for_a_minute_at_least_and_a_week_at_most() {
        let checked = |seconds: u32| Config::parse(&format!("registration_lifetime_s = {seconds}")).unwrap().check();
        assert!(checked(60).is_ok() && checked(604_800).is_ok());
        for seconds in [0, 59, 604_801] {
            let refused = checked(seconds);
            assert!(matches!(refused, Err(ConfigError::RegistrationLifetime(it)) if it == seconds), "{refused:?}");
        }
    }

    #[test]
    fn what_the_file_does_not_say_has_its_default() {
        let config = Config::parse("[listen]\napi = \"0.0.0.0:443\"").unwrap();
        assert_eq!(config.listen.lwm2m, Listen::default().lwm2m);
        assert_eq!(config.listen.api.port(), 443);
    }
}
