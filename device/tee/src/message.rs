//! What goes to the TEE's driver and comes back, as `linux/tee.h` lays it out, and what an answer means. Never calls the kernel.

use std::fmt;

/// An application's name, as RFC 4122 writes its sixteen bytes.
pub type Uuid = [u8; 16];

/// How many parameters a command has: the most that the GlobalPlatform interfaces have, so that none is left over.
pub const PARAMETERS: usize = 4;
/// How many 32-bit words they hold, two each.
pub const WORDS: usize = 2 * PARAMETERS;

/// `TEE_IOCTL_PARAM_ATTR_TYPE_NONE`.
const NONE: u64 = 0;
/// `TEE_IOCTL_PARAM_ATTR_TYPE_VALUE_INPUT`.
const VALUE_INPUT: u64 = 1;
/// `TEE_IOCTL_PARAM_ATTR_TYPE_VALUE_OUTPUT`.
const VALUE_OUTPUT: u64 = 2;

/// What a command gives and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Nothing,
    /// One word in.
    OneIn(u32),
    /// One word out.
    OneOut,
    /// Eight words in.
    AllIn([u32; WORDS]),
    /// Eight words out.
    AllOut,
}

/// `struct tee_ioctl_param`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Parameter {
    /// Its kind and direction.
    pub attributes: u64,
    /// The first word, in the lower half.
    pub a: u64,
    /// The second word, in the lower half.
    pub b: u64,
    /// Not used by values.
    pub c: u64,
}

/// `struct tee_ioctl_open_session_arg` with [`PARAMETERS`] parameters.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OpenSession {
    pub(crate) application: Uuid,
    pub(crate) client: Uuid,
    pub(crate) login: u32,
    pub(crate) cancel_id: u32,
    pub(crate) session: u32,
    pub(crate) result: u32,
    pub(crate) origin: u32,
    pub(crate) count: u32,
    pub(crate) parameters: [Parameter; PARAMETERS],
}

/// `struct tee_ioctl_invoke_arg` with [`PARAMETERS`] parameters.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Invoke {
    pub(crate) command: u32,
    pub(crate) session: u32,
    pub(crate) cancel_id: u32,
    pub(crate) result: u32,
    pub(crate) origin: u32,
    pub(crate) count: u32,
    pub(crate) parameters: [Parameter; PARAMETERS],
}

/// `struct tee_ioctl_close_session_arg`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct CloseSession {
    pub(crate) session: u32,
}

/// [`PARAMETERS`] as the kernel takes their number.
pub(crate) const COUNT: u32 = 4;
/// `TEE_IOCTL_LOGIN_USER`: the kernel tells the application which user asks.
pub(crate) const LOGIN_USER: u32 = 1;

/// The parameters of a command.
pub fn parameters(shape: Shape) -> [Parameter; PARAMETERS] {
    let mut parameters = [Parameter { attributes: NONE, ..Parameter::default() }; PARAMETERS];
    let [first, ..] = &mut parameters;
    match shape {
        Shape::Nothing => {}
        Shape::OneIn(word) => *first = Parameter { attributes: VALUE_INPUT, a: word.into(), ..Parameter::default() },
        Shape::OneOut => first.attributes = VALUE_OUTPUT,
        Shape::AllIn(words) => {
            for (parameter, [a, b]) in parameters.iter_mut().zip(words.as_chunks().0) {
                *parameter = Parameter { attributes: VALUE_INPUT, a: (*a).into(), b: (*b).into(), c: 0 };
            }
        }
        Shape::AllOut => parameters.fill(Parameter { attributes: VALUE_OUTPUT, ..Parameter::default() }),
    }
    parameters
}

/// The words of an answer; `None` if one is no word.
pub fn words(parameters: &[Parameter; PARAMETERS]) -> Option<[u32; WORDS]> {
    let mut words = [0; WORDS];
    let found = parameters.iter().flat_map(|parameter| [parameter.a, parameter.b]);
    for (word, found) in words.iter_mut().zip(found) {
        *word = found.try_into().ok()?;
    }
    Some(words)
}

/// The thirty-two bytes of eight words, lowest byte first.
pub fn to_bytes(words: &[u32; WORDS]) -> [u8; 4 * WORDS] {
    let mut bytes = [0; 4 * WORDS];
    for (four, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *four = word.to_le_bytes();
    }
    bytes
}

/// Eight words of thirty-two bytes, lowest byte first.
pub fn from_bytes(bytes: &[u8; 4 * WORDS]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, four) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*four);
    }
    words
}

/// A result that is no success (TEE Internal Core API 1.3.1, 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// `TEE_ERROR_CORRUPT_OBJECT`.
    pub const CORRUPT_OBJECT: Self = Self(0xF010_0001);
    /// `TEE_ERROR_STORAGE_NOT_AVAILABLE`.
    pub const STORAGE_NOT_AVAILABLE: Self = Self(0xF010_0003);
    /// `TEE_ERROR_ACCESS_DENIED`.
    pub const ACCESS_DENIED: Self = Self(0xFFFF_0001);
    /// `TEE_ERROR_ACCESS_CONFLICT`.
    pub const ACCESS_CONFLICT: Self = Self(0xFFFF_0003);
    /// `TEE_ERROR_ITEM_NOT_FOUND`.
    pub const ITEM_NOT_FOUND: Self = Self(0xFFFF_0008);
    /// `TEE_ERROR_NO_DATA`.
    pub const NO_DATA: Self = Self(0xFFFF_000B);
    /// `TEE_ERROR_COMMUNICATION`.
    pub const COMMUNICATION: Self = Self(0xFFFF_000E);
    /// `TEE_ERROR_SECURITY`.
    pub const SECURITY: Self = Self(0xFFFF_000F);
    /// `TEE_ERROR_TARGET_DEAD`.
    pub const TARGET_DEAD: Self = Self(0xFFFF_3024);

    /// Whether it says that the TEE's storage was damaged, as opposed to being out of reach.
    pub const fn is_damage(self) -> bool {
        matches!(self, Self::CORRUPT_OBJECT | Self::SECURITY)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match *self {
            Self::CORRUPT_OBJECT | Self::SECURITY => "what it stored is damaged",
            Self::STORAGE_NOT_AVAILABLE => "its storage is out of reach",
            Self::ACCESS_DENIED => "it may not be asked that by this user or at this time of the boot",
            Self::ACCESS_CONFLICT => "it holds something else already",
            Self::ITEM_NOT_FOUND => "it was not found",
            Self::NO_DATA => "it holds none",
            Self::COMMUNICATION => "its supplicant is gone",
            Self::TARGET_DEAD => "it has crashed and stays dead until the next boot",
            Self(_) => "it failed",
        };
        write!(f, "{meaning} (code {:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernels() {
        assert_eq!(size_of::<Parameter>(), 32);
        assert_eq!(size_of::<OpenSession>(), 56 + 4 * 32);
        assert_eq!(size_of::<Invoke>(), 24 + 4 * 32);
        assert_eq!(COUNT as usize, PARAMETERS);
    }

    #[test]
    fn a_command_without_parameters_says_so_for_each() {
        assert!(parameters(Shape::Nothing).iter().all(|parameter| *parameter == Parameter::default()));
        let one = parameters(Shape::OneIn(7));
        assert_eq!(one.map(|parameter| (parameter.attributes, parameter.a)), [(1, 7), (0, 0), (0, 0), (0, 0)]);
        assert_eq!(parameters(Shape::AllOut).map(|parameter| parameter.attributes), [2; 4]);
    }

    proptest! {
        #[test]
        fn words_that_go_in_come_out_the_same(words_in: [u32; WORDS]) {
            prop_assert_eq!(words(&parameters(Shape::AllIn(words_in))), Some(words_in));
            prop_assert_eq!(from_bytes(&to_bytes(&words_in)), words_in);
        }

        #[test]
        fn a_value_of_more_than_32_bits_is_no_word(at in 0..PARAMETERS, second: bool, value in (1_u64 << 32)..) {
            let mut answer = parameters(Shape::AllOut);
            if second { answer[at].b = value } else { answer[at].a = value }
            prop_assert_eq!(words(&answer), None);
        }
    }
}
