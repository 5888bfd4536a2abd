//! An `enum` whose variants are words that the API, the logs and the tables write alike. Never adds a meaning.

/// A text that is none of the words of an `enum`; the message names them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of {}", .0.join(", "))]
pub struct UnknownWord(pub(crate) &'static [&'static str]);

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As the API, the logs and the tables write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                found.ok_or($crate::UnknownWord(&[$($text),+]))
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use std::{
        fmt::{Debug, Display},
        str::FromStr,
    };

    use serde::{Serialize, de::DeserializeOwned};

    use super::UnknownWord;
    use crate::{
        AlertState, CommandKind, CommandState, ConfigurationState, Consent, DeviceState, JobState, LogLevel, OnFailure,
        OperationState, Presence, RevisionStanding, RolloutAction, RolloutState, RowOutcome, Severity, Standing,
        WaitingFor, metrics::MetricStep,
    };

    fn reads_back<T>(all: &[T])
    where
        T: Copy + Debug + Display + PartialEq + Serialize + DeserializeOwned + FromStr<Err = UnknownWord>,
    {
        for word in all {
            let text = word.to_string();
            assert_eq!(text.parse::<T>(), Ok(*word));
            assert_eq!(serde_json::to_string(word).unwrap(), format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<T>(&format!("\"{text}\"")).unwrap(), *word);
            assert!(text.to_uppercase().parse::<T>().is_err(), "{text} has one spelling");
        }
        assert!("moon".parse::<T>().is_err());
    }

    #[test]
    fn every_word_of_every_list_is_read_as_it_is_written_in_json_and_in_text() {
        reads_back(AlertState::ALL);
        reads_back(CommandKind::ALL);
        reads_back(CommandState::ALL);
        reads_back(ConfigurationState::ALL);
        reads_back(Consent::ALL);
        reads_back(DeviceState::ALL);
        reads_back(JobState::ALL);
        reads_back(LogLevel::ALL);
        reads_back(MetricStep::ALL);
        reads_back(OnFailure::ALL);
        reads_back(OperationState::ALL);
        reads_back(Presence::ALL);
        reads_back(RevisionStanding::ALL);
        reads_back(RolloutAction::ALL);
        reads_back(RolloutState::ALL);
        reads_back(RowOutcome::ALL);
        reads_back(Severity::ALL);
        reads_back(Standing::ALL);
        reads_back(WaitingFor::ALL);
    }

    #[test]
    fn an_unknown_word_is_told_which_are_known() {
        let known = "not one of start, pause, resume, abort, close, approve, ask-again";
        assert_eq!("Start".parse::<RolloutAction>().unwrap_err().to_string(), known);
    }
}
