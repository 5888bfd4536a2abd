//! What can be brought to devices: artifacts, and the signed metadata that lists releases of them.

pub(crate) mod artifacts;
pub(crate) mod repository;

use utoipa_axum::router::OpenApiRouter;

use crate::fleet::Fleet;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().merge(artifacts::router()).merge(repository::router())
}
