//! Messages about the connection itself (RFC 8323 section 5). Their option numbers are spaces of their own, one a code.

use super::{Code, Message, OptionNumber, Options};

const MAX_MESSAGE_SIZE: OptionNumber = OptionNumber(2);
const BLOCK_WISE_TRANSFER: OptionNumber = OptionNumber(4);
const CUSTODY: OptionNumber = OptionNumber(2);
const ALTERNATIVE_ADDRESS: OptionNumber = OptionNumber(2);
const HOLD_OFF: OptionNumber = OptionNumber(4);
const BAD_CSM_OPTION: OptionNumber = OptionNumber(2);

/// What a peer can take: Capabilities and Settings (section 5.3). The default holds until the peer says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The largest message in bytes.
    pub max_message_size: u32,
    /// Whether it knows Block1 and Block2; BERT too if its messages may be larger than 1152 bytes.
    pub block_wise: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { max_message_size: 1152, block_wise: false }
    }
}

impl Capabilities {
    /// Whether blocks of several kilobytes may be sent to the peer (section 6).
    pub const fn bert(&self) -> bool {
        self.block_wise && self.max_message_size > 1152
    }

    /// The message that announces them.
    pub fn message(&self) -> Message {
        let message = Message::new(Code::CSM).with_uint(MAX_MESSAGE_SIZE, self.max_message_size);
        if self.block_wise { message.with_uint(BLOCK_WISE_TRANSFER, 0) } else { message }
    }

    /// These capabilities, changed by what a CSM names; what it does not name stays (section 5.3).
    pub fn updated(mut self, csm: &Message) -> Result<Self, Signal> {
        if let Some(number) = unknown_critical(csm) {
            return Err(Signal::Abort { bad_csm_option: Some(number), why: "unknown critical option".to_owned() });
        }
        if let Some(size) = raw_uint(&csm.options, MAX_MESSAGE_SIZE) {
            self.max_message_size = size;
        }
        self.block_wise |= raw(&csm.options, BLOCK_WISE_TRANSFER).is_some();
        Ok(self)
    }
}

/// A signal other than CSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Wants a Pong.
    Ping {
        /// Only when everything before it has been dealt with.
        custody: bool,
    },
    /// The answer to a Ping.
    Pong {
        /// Everything before the Ping has been dealt with.
        custody: bool,
    },
    /// The peer wants the connection to end kindly.
    Release {
        /// Other addresses to connect to.
        alternatives: Vec<String>,
        /// Seconds to stay away.
        hold_off: Option<u32>,
    },
    /// The peer ends the connection at once.
    Abort {
        /// The CSM option that it could not process.
        bad_csm_option: Option<u16>,
        /// What it says.
        why: String,
    },
}

impl Signal {
    /// Reads a signal; `None` for codes that are not known, which are passed over (section 5.2), and an Abort to send if it has
    /// an unknown critical option.
    pub fn read(message: &Message) -> Option<Result<Self, Self>> {
        let options = &message.options;
        let signal = match message.code {
            Code::PING => Self::Ping { custody: raw(options, CUSTODY).is_some() },
            Code::PONG => Self::Pong { custody: raw(options, CUSTODY).is_some() },
            Code::RELEASE => Self::Release {
                alternatives: options
                    .iter()
                    .filter(|(number, _)| *number == ALTERNATIVE_ADDRESS)
                    .filter_map(|(_, value)| String::from_utf8(value.to_vec()).ok())
                    .collect(),
                hold_off: raw_uint(options, HOLD_OFF),
            },
            Code::ABORT => Self::Abort {
                bad_csm_option: raw_uint(options, BAD_CSM_OPTION).and_then(|number| u16::try_from(number).ok()),
                why: message.diagnostic(),
            },
            _ => return None,
        };
        Some(match unknown_critical(message) {
            Some(_) if message.code != Code::ABORT => {
                Err(Self::Abort { bad_csm_option: None, why: "unknown critical option".to_owned() })
            }
            _ => Ok(signal),
        })
    }

    /// The message for it, without token.
    pub fn message(&self) -> Message {
        match self {
            Self::Ping { custody } => with_custody(Code::PING, *custody),
            Self::Pong { custody } => with_custody(Code::PONG, *custody),
            Self::Release { alternatives, hold_off } => {
                let mut message = Message::new(Code::RELEASE);
                alternatives.iter().for_each(|to| message.options.push(ALTERNATIVE_ADDRESS, to.as_bytes()));
                if let Some(seconds) = hold_off { message.with_uint(HOLD_OFF, *seconds) } else { message }
            }
            Self::Abort { bad_csm_option, why } => {
                let message = Message::refusal(Code::ABORT, why);
                match bad_csm_option {
                    Some(number) => message.with_uint(BAD_CSM_OPTION, u32::from(*number)),
                    None => message,
                }
            }
        }
    }
}

/// The message to send before a connection is closed because its bytes cannot be read.
pub fn abort(why: &str) -> Message {
    Signal::Abort { bad_csm_option: None, why: why.to_owned() }.message()
}

fn with_custody(code: Code, custody: bool) -> Message {
    let message = Message::new(code);
    if custody { message.with_uint(CUSTODY, 0) } else { message }
}

/// The value of a signal's option: the rules for lengths that requests and responses have do not hold here.
fn raw(options: &Options, number: OptionNumber) -> Option<&[u8]> {
    options.iter().find(|(given, _)| *given == number).map(|(_, value)| value)
}

fn raw_uint(options: &Options, number: OptionNumber) -> Option<u32> {
    let value = raw(options, number).filter(|value| value.len() <= 4)?;
    Some(value.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte)))
}

/// Every option of RFC 8323's signals is elective, so any critical one is unknown.
fn unknown_critical(message: &Message) -> Option<u16> {
    message.options.iter().find(|(number, _)| number.is_critical()).map(|(number, _)| number.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_read_back_as_written() {
        for signal in [
            Signal::Ping { custody: true },
            Signal::Pong { custody: false },
            Signal::Release { alternatives: vec!["a.example:5684".to_owned()], hold_off: Some(30) },
            Signal::Abort { bad_csm_option: Some(9), why: "no".to_owned() },
        ] {
            assert_eq!(Signal::read(&signal.message()), Some(Ok(signal)));
        }
    }

    #[test]
    fn a_csm_changes_only_what_it_names_and_never_takes_block_wise_back() {
        let all = Capabilities { max_message_size: 70_000, block_wise: true };
        assert_eq!(Capabilities::default().updated(&all.message()), Ok(all));
        assert_eq!(all.updated(&Message::new(Code::CSM)), Ok(all));
        assert!(all.bert() && !Capabilities { max_message_size: 1152, block_wise: true }.bert());
    }

    #[test]
    fn a_csm_with_an_unknown_critical_option_is_answered_with_an_abort_that_names_it() {
        let csm = Message::new(Code::CSM).with_uint(OptionNumber(9), 1);
        let abort = Capabilities::default().updated(&csm).unwrap_err();
        assert!(matches!(abort, Signal::Abort { bad_csm_option: Some(9), .. }));
    }
}
