//! How a revision of a document stands to the one that is in force.

use crate::words::words;

words! {
    /// How a revision stands to the one of its level that is in force.
    RevisionStanding {
        /// An older one.
        Past = "past",
        /// It is the one.
        InForce = "in_force",
        /// A newer one, which a rollout may bring in force.
        Staged = "staged",
    }
}

impl RevisionStanding {
    /// How `revision` stands; both count from 1.
    pub const fn of(revision: i64, in_force: i64) -> Self {
        if revision < in_force {
            Self::Past
        } else if revision == in_force {
            Self::InForce
        } else {
            Self::Staged
        }
    }
}

/// What a service that does not say it means.
impl Default for RevisionStanding {
    fn default() -> Self {
        Self::InForce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_past_in_force_or_staged() {
        let standings = [1, 2, 3].map(|revision| RevisionStanding::of(revision, 2));
        assert_eq!(standings, [RevisionStanding::Past, RevisionStanding::InForce, RevisionStanding::Staged]);
    }
}
