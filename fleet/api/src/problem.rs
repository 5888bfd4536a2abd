//! Refusals as RFC 9457 problem details: a stable code for programs, a sentence and a hint for people.

use std::fmt;

use protocol_types::Reason;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $title:literal, $hint:literal;)+) => {
        /// Every kind of refusal that the service itself gives. A released code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemCode {
            $($(#[$doc])* $variant,)+
        }

        impl ProblemCode {
            /// All codes, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as it stands in the reply.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The HTTP status of the reply.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// What all refusals of this kind have in common.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// What a person can do about it; empty where nothing general can be said.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint),+ }
            }
        }
    };
}

problems! {
    /// The body is not JSON, or not of the form of this request.
    MalformedBody = "malformed_body", 400, "The body cannot be read", "compare the body with openapi.json";
    /// A query parameter, path part or header does not have its form.
    MalformedRequest = "malformed_request", 400, "The request cannot be read", "compare the request with openapi.json";
    /// A filter cannot be read; `at` and `length` say which characters are to blame.
    MalformedFilter = "malformed_filter", 422, "The filter cannot be read", "the language is described in docs/formats/filter.md";
    /// A policy cannot be read, or speaks of what there is not; `at` and `length` say which characters are to blame.
    MalformedPolicy = "malformed_policy", 422, "The policy cannot be read", "what policies may speak of is at `/access-schema`";
    /// A value has the right form but is not allowed.
    InvalidValue = "invalid_value", 422, "A value is not allowed", "";
    /// The path is kept from commands.
    ProtectedPath = "protected_path", 422, "The path is kept from commands", "docs/guides/live-commands.md says which paths have doors of their own";
    /// No token was sent.
    TokenMissing = "token_missing", 401, "A token is needed", "send `Authorization: Bearer mblt_…`";
    /// The token is not one of this service.
    TokenUnknown = "token_unknown", 401, "The token is not known", "make a token with `mbl service token`";
    /// The token's time is over.
    TokenExpired = "token_expired", 401, "The token has expired", "sign in with `mbl user sign-in`, or make a token with `mbl service token`";
    /// The token was revoked.
    TokenRevoked = "token_revoked", 401, "The token was revoked", "sign in with `mbl user sign-in`, or make a token with `mbl service token`";
    /// The user or service account may not act.
    PrincipalDisabled = "principal_disabled", 401, "The principal is disabled", "ask an administrator of its account";
    /// Account, name, password or code is not right; which one is not said.
    SignInRefused = "sign_in_refused", 401, "Signing in was refused", "check account, name and password, and wait for the next code of the authenticator";
    /// The invitation is not known, was used, or its time is over.
    InvitationRefused = "invitation_refused", 401, "The invitation does not work", "ask for another one: an administrator makes it with `mbl user reset`";
    /// Signing in with the identity provider came to nothing.
    SingleSignOnRefused = "single_sign_on_refused", 401, "Single sign-on was refused", "begin again; an administrator sees more in the log of the service";
    /// The account signs in with its identity provider alone.
    SingleSignOnRequired = "single_sign_on_required", 403, "The account signs in with its identity provider", "sign in with `mbl user sign-in --sso`";
    /// The token works but does not allow this.
    ScopeMissing = "scope_missing", 403, "The token does not allow this", "use a token with the scope that the detail names";
    /// No role of the caller allows this, or a policy forbids it.
    AccessDenied = "access_denied", 403, "The policies do not allow this", "an administrator sees why with `mbl access check`";
    /// The account has nothing there.
    NotFound = "not_found", 404, "There is nothing here", "check the name; a token sees only its own account";
    /// The resource does not know this method.
    MethodNotAllowed = "method_not_allowed", 405, "The method is not allowed here", "compare the request with openapi.json";
    /// The sender was too slow.
    TooSlow = "too_slow", 408, "The request took too long to arrive", "send the request again over a faster connection";
    /// Something of that name is there already.
    AlreadyExists = "already_exists", 409, "It exists already", "choose another name";
    /// The resource is in a state that forbids this.
    WrongState = "wrong_state", 409, "Not possible in this state", "";
    /// Who started a rollout cannot be who approves it.
    SecondPerson = "second_person_needed", 409, "A second person is needed", "have somebody else approve the rollout, with a token of their own";
    /// Another request is busy with the same upload.
    UploadBusy = "upload_busy", 409, "Another upload of these bytes is under way", "wait for it, or ask for the offset and continue";
    /// The upload does not continue where the received bytes end.
    OffsetMismatch = "offset_mismatch", 409, "The offset is not where the upload ended", "ask for the offset with HEAD and continue there";
    /// Artifacts that the metadata names were not uploaded.
    ArtifactsMissing = "artifacts_missing", 409, "Artifacts are missing", "upload the artifacts that the detail names, then publish again";
    /// `If-Match` names another revision.
    Stale = "stale", 412, "The resource has changed", "read it again and repeat the change on what it is now";
    /// The request does not say which revision it changes.
    PreconditionRequired = "precondition_required", 428, "`If-Match` is needed", "send the `ETag` of what you have read, or `If-Match: *` to change it whatever it is now";
    /// The body is longer than this request may be.
    TooLarge = "too_large", 413, "The body is too large", "";
    /// The body is not of a type that this request takes.
    UnsupportedMediaType = "unsupported_media_type", 415, "The type of the body is not supported", "send the content type that openapi.json names";
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used before", "use a fresh key for each request";
    /// The bytes do not have the digest that was announced.
    DigestMismatch = "digest_mismatch", 422, "The bytes do not have the announced digest", "upload the artifact again from the build";
    /// The account would hold more than it may.
    OverQuota = "over_quota", 422, "The account is full", "raise `limits.account_bytes` of the service";
    /// The account, or one above it, has as much of something as its quota allows.
    QuotaExceeded = "quota_exceeded", 422, "A quota is used up", "remove something, or have an administrator of an account above raise it: `mbl account quota`";
    /// The account asks more often than it may.
    RateLimited = "rate_limited", 429, "The account asks too often", "wait as long as `Retry-After` says; `limits.account_requests_per_s` of the service sets the rate";
    /// Too many requests without a token came from one address, or too many of them were refused.
    AddressLocked = "address_locked", 429, "This address asks too often without a token", "wait as long as `Retry-After` says; what needs a token is not held up";
    /// Too many tries to sign in failed.
    SignInLocked = "sign_in_locked", 429, "Too many tries failed", "wait as long as `Retry-After` says; an administrator can help with `mbl user reset`";
    /// The service failed; its log says more.
    Internal = "internal", 500, "The service failed", "look for the request id in the log of the service";
    /// The identity provider of the account does not do what it should.
    ProviderFailed = "provider_failed", 503, "The identity provider does not answer as it should", "try again; an administrator checks `mbl identity-provider show`";
    /// The service cannot answer now.
    Unavailable = "unavailable", 503, "The service cannot answer now", "try again soon";
    /// The disk of the service is full.
    NoRoom = "no_room", 507, "The service has no room left", "give the data directory of the service more room";
}

/// A refusal, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI for this kind of problem: `urn:mbl:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What all problems of this kind have in common.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, in one sentence.
    pub detail: String,
    /// The request, as the log of the service names it: `urn:mbl:request:` and its `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The stable code.
    pub code: String,
    /// The field of the request that is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// In a text in that field: how many characters stand before those that are to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u32>,
    /// How many characters are to blame; 0 if something is missing there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of the service's own list.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let hint = code.hint();
        Self {
            kind: format!("urn:mbl:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            instance: None,
            code: code.as_str().to_owned(),
            field: None,
            at: None,
            length: None,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        }
    }

    /// A refusal of signed metadata, under the same code that a device would give.
    pub fn refused_release(reason: &Reason) -> Self {
        Self {
            kind: format!("urn:mbl:problem:{}", reason.code),
            title: "A device would refuse this".to_owned(),
            status: 422,
            detail: reason.text.clone(),
            instance: None,
            code: reason.code.to_string(),
            field: None,
            at: None,
            length: None,
            hint: Some(reason.code.hint().to_owned()),
        }
    }

    /// Names the field that is to blame.
    #[must_use]
    pub fn in_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_back_as_itself() {
        for code in ProblemCode::ALL {
            let problem = Problem::new(*code, "because").in_field("size");
            let text = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
            assert!((400..=599).contains(&problem.status));
        }
    }
}
