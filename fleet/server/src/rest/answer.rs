//! Refusals as HTTP: the one table from what went wrong inside to what a caller hears.

use std::{any::Any, io};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleet_api::{Problem, ProblemCode};
use fleet_store::StoreError;

use crate::{
    rest::{gate::RefusedBecause, observe::instance},
    users::NotVerified,
};

/// What a handler answers.
pub(crate) type Reply<T> = Result<T, Refusal>;

/// A problem on its way to the caller, and in how many seconds it is worth to ask again, if that is known.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Box<Problem>, pub(crate) Option<u64>);

impl Refusal {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// The same refusal, which says in how many seconds it is worth to ask again.
    #[must_use]
    pub(crate) fn again_after(self, seconds: u64) -> Self {
        Self(self.0, Some(seconds))
    }

    /// A value of the request that is not allowed.
    pub(crate) fn value(field: &str, detail: impl Into<String>) -> Self {
        Problem::new(ProblemCode::InvalidValue, detail).in_field(field).into()
    }

    /// Something inside failed: the log has the whole story, the caller hears that it happened.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %crate::Chain(error), "a request failed");
        Self::new(ProblemCode::Internal, "the service could not do what it was asked")
    }

    /// The disk, or the object store, did not do what it should.
    pub(crate) fn storage(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                tracing::error!(%error, "the data directory is full");
                Self::new(ProblemCode::NoRoom, "the disk of the service is full")
            }
            io::ErrorKind::NotConnected => {
                tracing::error!(error = %crate::Chain(error), "the object store does not answer");
                Self::new(ProblemCode::Unavailable, "the object store of the service does not answer")
            }
            _ => Self::internal(error),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem), None)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if error.is_disk_full() {
            tracing::error!(error = %crate::Chain(&error), "the database has no room left");
            return Self::new(ProblemCode::NoRoom, "the disk of the service is full");
        }
        let code = match &error {
            StoreError::NotFound { .. } => ProblemCode::NotFound,
            StoreError::Exists { .. } => ProblemCode::AlreadyExists,
            StoreError::Stale { .. } => ProblemCode::Stale,
            StoreError::WrongState { .. } => ProblemCode::WrongState,
            StoreError::SecondPerson { .. } => ProblemCode::SecondPerson,
            // In the words of every other refusal to sign in.
            StoreError::CodeRefused { .. } => return NotVerified::Wrong(None).into(),
            StoreError::KeyReused => ProblemCode::IdempotencyKeyReused,
            StoreError::OverQuota { .. } => ProblemCode::OverQuota,
            StoreError::QuotaExceeded { .. } => ProblemCode::QuotaExceeded,
            StoreError::TooMany { .. }
            | StoreError::GroupInItself { .. }
            | StoreError::AccountInItself { .. }
            | StoreError::FilterTooLarge { .. } => ProblemCode::InvalidValue,
            StoreError::Damaged { .. }
            | StoreError::TooNew { .. }
            | StoreError::MigrationChanged { .. }
            | StoreError::Database { .. } => return Self::internal(&error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<crate::random::RandomError> for Refusal {
    fn from(error: crate::random::RandomError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let problem = Problem { instance: instance(), ..*self.0 };
        // A problem is text and numbers alone, so it always has a JSON form.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.extensions_mut().insert(RefusedBecause(problem.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.1 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What a caller hears when a handler panicked; the panic itself stands in the log.
pub(crate) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a request handler panicked");
    Refusal::new(ProblemCode::Internal, "the service could not do what it was asked").into_response()
}
