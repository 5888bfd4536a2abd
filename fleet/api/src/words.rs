//! The words of `protocol_types` as `openapi.json` describes them, from the list by which they are read. Never adds one of its own.

use std::borrow::Cow;

use protocol_types::{
    AlertState, CommandKind, CommandState, Consent, JobState, OnFailure, Presence, RevisionStanding, RowOutcome,
    Severity, Standing, metrics::MetricStep,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// A text that is one of these.
pub(crate) fn one_of(words: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words))
}

macro_rules! forms {
    ($($form:ident of $words:ident: $description:literal;)+) => {$(
        /// Stands for the words of the same name where a schema is described.
        pub(crate) enum $form {}

        impl PartialSchema for $form {
            fn schema() -> RefOr<Schema> {
                one_of($words::ALL.iter().map(|word| word.as_str())).description(Some($description)).into()
            }
        }

        impl ToSchema for $form {
            fn name() -> Cow<'static, str> {
                stringify!($words).into()
            }
        }
    )+};
}

forms! {
    AlertStateForm of AlertState: "How far an alert is.";
    CommandKindForm of CommandKind: "What is asked of a device.";
    CommandStateForm of CommandState: "How far a command is.";
    ConsentForm of Consent: "Whose yes each device needs before it installs the release.";
    JobStateForm of JobState: "How far a job is.";
    MetricStepForm of MetricStep: "For how long a point of a time series stands.";
    OnFailureForm of OnFailure: "What happens when too many devices failed, or too few of a wave succeeded.";
    PresenceForm of Presence: "How a device stands to the schedule that it has promised.";
    RevisionStandingForm of RevisionStanding: "How a revision stands to the one of its level that is in force.";
    RowOutcomeForm of RowOutcome: "What became of a row.";
    SeverityForm of Severity: "How bad it is.";
    StandingForm of Standing: "Whether a device may take part.";
}
