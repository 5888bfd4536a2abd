//! In which order the changed sectors of one operation reach the medium. Never touches it.
//!
//! Power may fail at any moment, and what was written since the last flush may have arrived in part and in any order. What each
//! order below keeps true at every such moment: a name leads to a whole chain of clusters, no two names lead to the same
//! clusters, and a renamed file has the old name or the new one.

use std::io;

use super::{
    geometry::{ENTRIES, Geometry, Purpose, Sector, entry},
    overlay::Change,
};

/// What an operation does to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file comes into being or gets longer: clusters first, then the name that leads to them.
    Grow,
    /// A file goes or gets shorter: first nobody knows of the clusters, then they are free.
    Shrink,
    /// A file gets another name, and nothing else happens.
    Rename,
}

/// Sectors to write before the next flush.
pub(super) type Batch = Vec<(u64, Sector)>;

/// Orders the changes. `is_free` says whether the table on the medium calls the cluster of a sector free.
///
/// # Errors
/// If a rename would change more than one sector of folders, or anything changed that no operation may change.
pub(super) fn batches(
    geometry: &Geometry,
    changes: &[Change],
    kind: Kind,
    is_free: impl Fn(u64) -> io::Result<bool>,
) -> io::Result<Vec<Batch>> {
    let of = |purpose| changes.iter().filter(move |change| geometry.purpose(change.sector) == purpose);
    if of(Purpose::Description).next().is_some() {
        return Err(io::Error::other("the description of the boot partition would change"));
    }
    let whole = |changes: Vec<&Change>| changes.into_iter().map(|c| (c.sector, c.after)).collect::<Batch>();
    let alone = |change: &Change| vec![(change.sector, change.after)];
    let (table, data): (Vec<&Change>, Vec<&Change>) = (of(Purpose::Table).collect(), of(Purpose::Data).collect());
    let (mut last, mut order) = (vec![whole(of(Purpose::Info).collect())], Vec::new());
    match kind {
        Kind::Rename => {
            if !table.is_empty() || data.len() > 1 {
                let text = "its folder of boot entries is too crowded: old and new name do not fit into one sector";
                return Err(io::Error::other(text));
            }
            order.extend(data.into_iter().map(alone));
            last.clear();
        }
        Kind::Grow => {
            // What is linked to nothing yet comes first, and the link to it after that.
            let (fresh, linked): (Vec<_>, Vec<_>) = table.into_iter().partition(|change| takes_free_entries(change));
            let mut first = whole(fresh);
            let mut folders = Vec::new();
            for change in data {
                if is_free(change.sector)? {
                    first.push((change.sector, change.after));
                } else {
                    folders.push(change);
                }
            }
            order.extend([first, whole(linked)]);
            // A long name stands before the short one that makes it count.
            order.extend(folders.into_iter().map(alone));
        }
        Kind::Shrink => {
            order.extend(data.into_iter().rev().map(alone));
            // The new end of a chain comes before what follows it is free.
            let (frees, ends): (Vec<_>, Vec<_>) = table.into_iter().partition(|change| only_frees(change));
            order.extend([whole(ends), whole(frees)]);
        }
    }
    order.append(&mut last);
    order.retain(|batch| !batch.is_empty());
    Ok(order)
}

/// Entries that differ, before and after.
fn differences(change: &Change) -> impl Iterator<Item = (u32, u32)> {
    let numbers = 0..usize::try_from(ENTRIES).unwrap_or(0);
    numbers.map(|n| (entry(&change.before, n), entry(&change.after, n))).filter(|(before, after)| before != after)
}

fn takes_free_entries(change: &Change) -> bool {
    differences(change).all(|(before, _)| before == 0)
}

fn only_frees(change: &Change) -> bool {
    differences(change).all(|(_, after)| after == 0)
}
