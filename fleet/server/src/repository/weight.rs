//! How many bytes a release is, with everything that its components name. What a device has already it does not fetch again, so this
//! is the most that an update can cost.

use std::collections::BTreeSet;

use fleet_store::AccountScope;
use protocol_release::document::Release;

use super::{
    parts::{DEPTH, Part, named},
    publish::document,
};
use crate::{fleet::Fleet, rest::Refusal};

/// Bytes of all artifacts of a release, each counted once.
pub(crate) async fn weight(fleet: &Fleet, account: &AccountScope, release: &Release) -> Result<u64, Refusal> {
    let mut all = BTreeSet::new();
    for component in &release.components {
        let mut level = BTreeSet::from([Part { digest: component.digest, size: component.size }]);
        for _ in 0..=DEPTH {
            all.extend(level.iter().copied());
            let mut deeper = BTreeSet::new();
            for part in level {
                let Some(bytes) = document(fleet, account, part).await? else { continue };
                // What was published was looked into then; an artifact that cannot be read names nothing.
                let Ok(inside) = named(&component.path, &bytes) else { continue };
                all.extend(inside.blobs);
                deeper.extend(inside.documents);
            }
            level = deeper;
        }
    }
    Ok(all.iter().fold(0, |sum: u64, part| sum.saturating_add(part.size)))
}
