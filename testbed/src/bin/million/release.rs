//! A release that a rollout can be about: one configuration document, signed with keys that live as long as this program.

use std::collections::BTreeMap;

use fleet_api::{Client, PublishMetadata};
use protocol_release::{
    document::{Component, FormatOne, Health, Kind, Release},
    signing::{Algorithm, Holders, RootDraft, SigningKey, TargetsDraft},
};
use protocol_types::{Digest, SecurityVersion, TargetPath, UnixSeconds};

/// Its version.
pub(crate) const VERSION: &str = "2.0.0";
const FAR: UnixSeconds = UnixSeconds(4_000_000_000);

/// Publishes it.
pub(crate) async fn publish(client: &Client) -> anyhow::Result<()> {
    let keys = client.repository_keys().await?;
    let (officer, targets) = (SigningKey::generate(Algorithm::Ed25519)?, SigningKey::generate(Algorithm::Ed25519)?);
    let root = RootDraft {
        version: 1,
        expires: FAR,
        root: Holders::one(officer.public()),
        targets: Holders::one(targets.public()),
        snapshot: Holders::one(&serde_json::from_value(keys.snapshot)?),
        timestamp: Holders::one(&serde_json::from_value(keys.timestamp)?),
    };
    let configuration = b"{}".to_vec();
    let component = Component {
        kind: Kind::Configuration { name: "base".parse()? },
        path: TargetPath::new("configuration/base/2.0.0.json")?,
        digest: Digest::of(&configuration),
        size: u64::try_from(configuration.len())?,
        version: VERSION.parse()?,
        boards: Vec::new(),
        architectures: Vec::new(),
        minimum_updater: 1,
    };
    let release = Release {
        format: FormatOne,
        version: VERSION.parse()?,
        security_version: SecurityVersion(1),
        raises_floor: false,
        health: Health { time_limit_s: 90, no_contact_limit_s: 600 },
        components: vec![component],
    };
    let document = release.to_bytes()?;
    let mut draft = TargetsDraft::new(1, FAR);
    draft.insert(release.target_path()?, &document);
    draft.insert(release.components[0].path.clone(), &configuration);
    for bytes in [configuration, document] {
        let digest = Digest::of(&bytes);
        client.begin_artifact(digest, u64::try_from(bytes.len())?).await?;
        client.send_piece(&digest, 0, bytes).await?;
    }
    let signed = [root.sign(&[officer.source()]).await?, draft.sign(&[targets.source()]).await?];
    let mut files = BTreeMap::new();
    for file in signed {
        files.insert(file.name, String::from_utf8(file.bytes)?);
    }
    client.publish_metadata(&PublishMetadata { files }).await?;
    Ok(())
}
