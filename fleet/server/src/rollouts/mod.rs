//! Moves devices from one release to the next: `plan` decides, `reconcile` carries out.

mod plan;
mod reconcile;

pub(crate) use reconcile::reconcile;
