//! What the settings say of a collector of traces.

use std::path::PathBuf;

use serde::Deserialize;

/// A collector of traces that speaks OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// Where spans are sent, as in `https://collector.example.com:4318/v1/traces`.
    pub endpoint: String,
    /// File whose first line is a token for the collector.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// PEM certificates of the only authorities that the collector's certificate may chain to; without it, those of the system.
    #[serde(default)]
    pub authority_file: Option<PathBuf>,
    /// One request in so many is traced, if its sender did not decide that.
    #[serde(default = "default_one_in")]
    pub one_in: u32,
    /// Spans that may wait for the collector; further ones are dropped.
    #[serde(default = "default_queue")]
    pub queue: u16,
}

const fn default_one_in() -> u32 {
    1
}

const fn default_queue() -> u16 {
    4096
}

/// What is wrong with the settings of traces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceFault {
    /// There is nothing at such an address.
    #[error("`traces.endpoint` is an address as in `https://collector.example.com:4318/v1/traces`, and `{0}` is not")]
    Endpoint(String),
    /// Names of devices would cross a network in the open.
    #[error("`traces.endpoint` begins with `https://`; `http://` is for a collector on this machine")]
    Open,
    /// None of them.
    #[error("`traces.one_in` and `traces.queue` are at least 1; leave the table `traces` out to trace nothing")]
    Nothing,
}

impl TraceSettings {
    /// Checks what no single value can show.
    pub(crate) fn check(&self) -> Result<(), TraceFault> {
        use crate::endpoint::{EndpointFault, parse};
        parse(&self.endpoint).map_err(|fault| match fault {
            EndpointFault::None => TraceFault::Endpoint(self.endpoint.clone()),
            EndpointFault::Open => TraceFault::Open,
        })?;
        if self.one_in == 0 || self.queue == 0 { Err(TraceFault::Nothing) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> TraceSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_what_would() {
        assert_eq!(
            settings("endpoint = \"collector:4318\"").check(),
            Err(TraceFault::Endpoint("collector:4318".into()))
        );
        assert_eq!(settings("endpoint = \"http://collector:4318\"").check(), Err(TraceFault::Open));
        assert_eq!(settings("endpoint = \"http://localhost:4318\"\none_in = 0").check(), Err(TraceFault::Nothing));
        assert_eq!(settings("endpoint = \"http://localhost:4318/v1/traces\"").check(), Ok(()));
    }

    #[test]
    fn the_guide_explains_every_setting() {
        let guide = include_str!("../../../../docs/guides/service.md");
        let said = format!("{:?}", settings("endpoint = \"https://x\""));
        let keys = said.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':'));
        let missing: Vec<&str> = keys.filter(|key| !guide.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "docs/guides/service.md does not explain {missing:?}");
    }
}
