//! What the service ordered last: the wanted release and where artifacts are. Never judges a release; only the updater does.

use protocol_types::{DeviceConsent, Digest, RolloutId, TargetPath};
use serde::{Deserialize, Serialize};

use protocol_lwm2m::object::ids::release;

use crate::address::{Scheme, ServerAddress};

/// Everything that the service ordered; a later order replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// What to run; none until the service has said anything.
    pub wish: Option<Wish>,
    /// Where artifacts are.
    pub artifacts: Option<ServerAddress>,
}

/// What the service wants the device to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wish {
    /// This release.
    Release {
        /// Its path in the targets metadata.
        release: TargetPath,
        /// Digest of its document.
        digest: Digest,
        /// The rollout that asks.
        rollout: Option<RolloutId>,
        /// Whether somebody at the device is asked before it is installed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        consent: Option<DeviceConsent>,
    },
    /// No change.
    Rest,
}

/// A Write that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrdersError {
    /// The path is no target path.
    #[error("resource 0 must be a target path or empty")]
    Release,
    /// The digest is no digest, or there is none for the release.
    #[error("resource 1 must be the sha256 digest of the release in resource 0")]
    Digest,
    /// The rollout is no rollout id.
    #[error("resource 2 must be a rollout id or empty")]
    Rollout,
    /// The consent says nothing that is known.
    #[error("resource 16 must be `device`, `device until SECONDS` or empty")]
    Consent,
    /// The address is no address of artifacts.
    #[error("resource 14 must be https://HOST:PORT")]
    Artifacts,
    /// No such resource is written by a service.
    #[error("resource {0} is not written by a service")]
    Unknown(u16),
}

impl Orders {
    /// The orders of a service that wants nothing, unlike one that has not spoken.
    pub const fn none() -> Self {
        Self { wish: Some(Wish::Rest), artifacts: None }
    }

    /// These orders after a Write of texts to resources of 26241/0: all of it, or an error and none of it.
    pub fn with<'a>(&self, writes: impl IntoIterator<Item = (u16, &'a str)>) -> Result<Self, OrdersError> {
        let [mut path, mut digest, mut rollout, _] = self.texts();
        let (mut artifacts, mut consent, mut wish_written) = (self.artifacts.clone(), String::new(), false);
        for (id, text) in writes {
            match id {
                release::DESIRED_RELEASE => path = text.to_owned(),
                release::DESIRED_DIGEST => digest = text.to_owned(),
                release::DESIRED_ROLLOUT => rollout = text.to_owned(),
                release::CONSENT => consent = text.to_owned(),
                release::ARTIFACT_SERVER => {
                    let address: ServerAddress = text.parse().map_err(|_| OrdersError::Artifacts)?;
                    if address.scheme() != Scheme::Https {
                        return Err(OrdersError::Artifacts);
                    }
                    artifacts = Some(address);
                }
                other => return Err(OrdersError::Unknown(other)),
            }
            wish_written |= id != release::ARTIFACT_SERVER;
        }
        let wish = if wish_written { Some(Wish::read(path, &digest, rollout, &consent)?) } else { self.wish.clone() };
        Ok(Self { wish, artifacts })
    }

    /// Resources 0, 1, 2 and 16 as the service reads them.
    pub fn texts(&self) -> [String; 4] {
        match &self.wish {
            Some(Wish::Release { release, digest, rollout, consent }) => [
                release.to_string(),
                digest.to_string(),
                rollout.as_ref().map(RolloutId::to_string).unwrap_or_default(),
                consent.as_ref().map(DeviceConsent::to_string).unwrap_or_default(),
            ],
            Some(Wish::Rest) | None => Default::default(),
        }
    }
}

impl Wish {
    fn read(release: String, digest: &str, rollout: String, consent: &str) -> Result<Self, OrdersError> {
        let rollout = match rollout.is_empty() {
            true => None,
            false => Some(RolloutId::new(rollout).map_err(|_| OrdersError::Rollout)?),
        };
        let consent = match consent.is_empty() {
            true => None,
            false => Some(consent.parse().map_err(|_| OrdersError::Consent)?),
        };
        if release.is_empty() {
            return Ok(Self::Rest);
        }
        let release = TargetPath::new(release).map_err(|_| OrdersError::Release)?;
        let digest = digest.parse().map_err(|_| OrdersError::Digest)?;
        Ok(Self::Release { release, digest, rollout, consent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Each mostly valid, so that often all four are; else nearly valid, or anything.
    fn paths() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "releases/[A-Za-z0-9_.-]{0,12}[a-z]\\.json",
            1 => "releases/\\.{0,2}/[a-z]{1,3}\\.json",
            1 => "[a-z]{199,202}",
            1 => Just(String::new()),
            1 => any::<String>(),
        ]
    }

    fn digests() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "sha256:[0-9a-f]{64}",
            1 => "sha256:[0-9a-f]{63}[0-9A-Fg]?",
            1 => "(sha256:|sha512:|sha256|)[0-9a-f]{64}",
            1 => any::<String>(),
        ]
    }

    fn rollouts() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "[A-Za-z0-9_-]{0,64}",
            1 => "[a-z]{63,66}",
            1 => "[a-z]{1,3}[ /.][a-z]{1,3}",
            1 => any::<String>(),
        ]
    }

    fn consents() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "(device( until (0|[1-9][0-9]{0,18}))?)?",
            1 => "(device)?( until [0-9]{1,21})?",
            1 => any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn orders_are_taken_if_each_part_is_valid_and_read_back_as_written(
            path in paths(), digest in digests(), rollout in rollouts(), consent in consents(),
        ) {
            let taken = ordered().with([(0, &*path), (1, &digest), (2, &rollout), (16, &consent)]);
            let is_release = TargetPath::new(&*path).is_ok() && digest.parse::<Digest>().is_ok();
            let is_valid = (path.is_empty() || is_release)
                && (rollout.is_empty() || RolloutId::new(&*rollout).is_ok())
                && (consent.is_empty() || consent.parse::<DeviceConsent>().is_ok());
            prop_assert_eq!(taken.is_ok(), is_valid);
            if let Ok(orders) = taken {
                let texts: [String; 4] =
                    if path.is_empty() { Default::default() } else { [path, digest, rollout, consent] };
                prop_assert_eq!(orders.texts(), texts);
                prop_assert_eq!(read_back(&orders).map(|it| it.wish), Ok(orders.wish));
            }
        }

        #[test]
        fn whatever_is_written_to_any_resource_leaves_orders_that_read_back(
            text in prop_oneof![paths(), digests(), rollouts(), consents()], id in 0_u16..20,
        ) {
            if let Ok(orders) = ordered().with([(id, &*text)]) {
                prop_assert_eq!(read_back(&orders).map(|it| it.wish), Ok(orders.wish));
            }
        }
    }

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read_back(orders: &Orders) -> Result<Orders, OrdersError> {
        let [path, digest, rollout, consent] = orders.texts();
        Orders::default().with([(0, &*path), (1, &digest), (2, &rollout), (16, &consent)])
    }

    fn ordered() -> Orders {
        Orders::default()
            .with([(0, "releases/1.1.0.json"), (1, DIGEST), (2, "r-7"), (14, "https://127.0.0.1:8444")])
            .unwrap()
    }

    #[test]
    fn a_write_is_taken_whole_or_not_at_all() {
        let before = ordered();
        for (write, error) in [
            (vec![(0, "../passwd"), (1, DIGEST)], OrdersError::Release),
            (vec![(0, "releases/1.2.0.json"), (1, "sha256:00")], OrdersError::Digest),
            (vec![(0, "releases/1.2.0.json"), (1, "")], OrdersError::Digest),
            (vec![(2, "no spaces")], OrdersError::Rollout),
            (vec![(16, "somebody")], OrdersError::Consent),
            (vec![(0, "releases/1.2.0.json"), (14, "http://evil.example")], OrdersError::Artifacts),
            (vec![(14, "coaps+tcp://service.example")], OrdersError::Artifacts),
            (vec![(3, "succeeded")], OrdersError::Unknown(3)),
        ] {
            assert_eq!(before.with(write.clone()), Err(error), "{write:?}");
        }
        assert_eq!(Orders::default().with([(0, "releases/1.2.0.json")]), Err(OrdersError::Digest), "a release alone");
    }

    #[test]
    fn a_wish_that_says_nothing_of_consent_asks_nobody() {
        let asks = |orders: &Orders| match &orders.wish {
            Some(Wish::Release { consent, .. }) => *consent,
            Some(Wish::Rest) | None => None,
        };
        let asked = ordered().with([(16, "device until 7")]).unwrap();
        assert_eq!(asks(&asked), Some(DeviceConsent { deadline: Some(protocol_types::UnixSeconds(7)) }));
        assert_eq!(asks(&asked.with([(14, "https://[::1]:9")]).unwrap()), asks(&asked), "the wish was not written");
        assert_eq!(asks(&asked.with([(2, "r-8")]).unwrap()), None);
        // What an agent kept before there was consent stays readable.
        let kept = serde_json::to_string(&ordered()).unwrap();
        assert!(!kept.contains("consent"), "{kept}");
        assert_eq!(serde_json::from_str::<Orders>(&kept).unwrap(), ordered());
    }

    #[test]
    fn an_empty_release_means_rest_and_an_address_alone_leaves_the_wish() {
        let rest = ordered().with([(0, ""), (1, ""), (2, "")]).unwrap();
        assert_eq!(rest.wish, Some(Wish::Rest));
        let moved = ordered().with([(14, "https://[::1]:9")]).unwrap();
        assert_eq!(moved.wish, ordered().wish);
        assert_eq!(Orders::default().with([(14, "https://[::1]:9")]).unwrap().wish, None, "nothing was said yet");
    }
}
