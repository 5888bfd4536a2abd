//! What the settings say of a bucket, and whether it makes sense.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use crate::endpoint::{EndpointFault, parse};

/// A bucket of an S3-compatible object store, which holds artifacts instead of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    /// Its name.
    pub name: String,
    /// Where the object store is, as in `https://objects.example.com`; without it, AWS in `region`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The region that signatures name.
    #[serde(default = "default_region")]
    pub region: String,
    /// What the names of all objects begin with, without a slash at either end.
    #[serde(default)]
    pub prefix: String,
    /// Whether the bucket's name is the first part of each path, rather than of the host's name.
    #[serde(default = "default_path_style")]
    pub path_style: bool,
    /// The id of the key. Without one the credentials of the machine are asked for, as AWS offers them to its instances.
    #[serde(default)]
    pub access_key: Option<String>,
    /// File whose first line is the secret of the key.
    #[serde(default)]
    pub secret_key_file: Option<PathBuf>,
    /// PEM certificates of the only authorities that the object store's certificate may chain to; without it, those of the system.
    #[serde(default)]
    pub authority_file: Option<PathBuf>,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

const fn default_path_style() -> bool {
    true
}

/// What is wrong with the settings of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketFault {
    /// The name breaks the rules of S3.
    #[error("`bucket.name` is 3 to 63 lower-case letters, digits, dots and dashes, and `{0}` is not")]
    Name(String),
    /// There is nothing at such an address.
    #[error("`bucket.endpoint` is an address as in `https://objects.example.com`, and `{0}` is not")]
    Endpoint(String),
    /// Artifacts would cross a network in the open.
    #[error("`bucket.endpoint` begins with `https://`; `http://` is for an object store on this machine")]
    Open,
    /// Objects would have names that not every object store takes.
    #[error(
        "`bucket.prefix` is words of letters, digits, `.`, `_` and `-` with slashes between them, and `{0}` is not"
    )]
    Prefix(String),
    /// Half of a key.
    #[error("`bucket.access_key` and `bucket.secret_key_file` go together; set both or neither")]
    HalfKey,
}

impl BucketSettings {
    /// Checks what no single value can show.
    pub(crate) fn check(&self) -> Result<(), BucketFault> {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let name = self.name.as_bytes();
        let well_named = (3..=63).contains(&name.len())
            && name.iter().all(|&byte| is_letter(byte) || byte == b'.' || byte == b'-')
            && name.first().zip(name.last()).is_some_and(|(&first, &last)| is_letter(first) && is_letter(last));
        if !well_named {
            return Err(BucketFault::Name(self.name.clone()));
        }
        let is_word = |word: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !word.is_empty() && word != "." && word != ".." && word.bytes().all(is_plain)
        };
        if !self.prefix.is_empty() && !self.prefix.split('/').all(is_word) {
            return Err(BucketFault::Prefix(self.prefix.clone()));
        }
        if self.access_key.is_some() != self.secret_key_file.is_some() {
            return Err(BucketFault::HalfKey);
        }
        self.address().map(drop)
    }

    /// Where requests go, with the name of the bucket in front of the host's if it is not in the path; `None` for AWS.
    pub(super) fn address(&self) -> Result<Option<Url>, BucketFault> {
        let Some(text) = &self.endpoint else { return Ok(None) };
        let fault = || BucketFault::Endpoint(text.clone());
        let mut url = parse(text).map_err(|why| match why {
            EndpointFault::None => fault(),
            EndpointFault::Open => BucketFault::Open,
        })?;
        if url.path() != "/" || url.query().is_some() {
            return Err(fault());
        }
        if !self.path_style {
            let host = format!("{}.{}", self.name, url.host_str().unwrap_or_default());
            url.set_host(Some(&host)).map_err(|_| fault())?;
        }
        Ok(Some(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> BucketSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_what_would() {
        for (text, fault) in [
            ("name = \"Fleet\"", BucketFault::Name("Fleet".to_owned())),
            ("name = \"a-\"", BucketFault::Name("a-".to_owned())),
            (
                "name = \"fleet\"\nendpoint = \"objects.example.com\"",
                BucketFault::Endpoint("objects.example.com".into()),
            ),
            ("name = \"fleet\"\nendpoint = \"ftp://objects\"", BucketFault::Endpoint("ftp://objects".into())),
            ("name = \"fleet\"\nendpoint = \"https://objects/x\"", BucketFault::Endpoint("https://objects/x".into())),
            ("name = \"fleet\"\nendpoint = \"http://objects.example.com\"", BucketFault::Open),
            ("name = \"fleet\"\nprefix = \"/mbl\"", BucketFault::Prefix("/mbl".to_owned())),
            ("name = \"fleet\"\nprefix = \"a/../b\"", BucketFault::Prefix("a/../b".to_owned())),
            ("name = \"fleet\"\naccess_key = \"AK\"", BucketFault::HalfKey),
        ] {
            assert_eq!(settings(text).check(), Err(fault), "{text}");
        }
        let whole = "name = \"fleet\"\nendpoint = \"http://127.0.0.1:9000\"\nprefix = \"mbl/one\"\naccess_key = \"AK\"\n\
                     secret_key_file = \"/run/secret\"";
        assert_eq!(settings(whole).check(), Ok(()));
        assert!(
            toml::from_str::<BucketSettings>("name = \"fleet\"\nsecret_key = \"x\"").is_err(),
            "no secret in settings"
        );
    }

    #[test]
    fn the_name_of_the_bucket_is_in_the_path_or_in_front_of_the_host() {
        let address = |text: &str| settings(text).address().unwrap().map(String::from);
        assert_eq!(address("name = \"fleet\""), None);
        let endpoint = "name = \"fleet\"\nendpoint = \"https://objects.example.com:9000\"";
        assert_eq!(address(endpoint).as_deref(), Some("https://objects.example.com:9000/"));
        let hosted = format!("{endpoint}\npath_style = false");
        assert_eq!(address(&hosted).as_deref(), Some("https://fleet.objects.example.com:9000/"));
    }

    #[test]
    fn the_guide_explains_every_setting() {
        let guide = include_str!("../../../../docs/guides/service.md");
        let said = format!("{:?}", settings("name = \"fleet\""));
        let keys = said.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':'));
        let missing: Vec<&str> = keys.filter(|key| !guide.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "docs/guides/service.md does not explain {missing:?}");
    }
}
