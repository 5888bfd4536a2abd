//! The few TPM 2.0 commands that the version floor, the factory document and the boot phases need, as bytes. Never talks to a TPM.
//!
//! The floor lives in an NV index of type BITS: the TPM lets nobody clear a bit, so the floor, which is the position of the
//! highest bit, can only rise (`docs/decisions/0006-the-floor-in-the-tpm.md`). The digest of the factory document lives in an
//! ordinary index that is locked for good after its one write. Whoever has a device file writes a command of
//! this module to it and hands the answer back to the matching reader. Seven commands are less than any library for them: the
//! pure Rust ones cover the whole specification and change with each release, the others bind the C library of the TSS.
//! Numbers are from "TPM 2.0 Library, Part 2: Structures" and "Part 3: Commands".

pub mod lockout;

use crate::{Digest, SecurityVersion};

/// The handle of the floor's index, in the range that owners may use freely.
pub const FLOOR_INDEX: u32 = 0x0181_4D42;
/// The handle of the index that holds the digest of the factory document.
pub const FACTORY_INDEX: u32 = 0x0181_4D43;
/// The highest floor that the index can hold: one bit a level.
pub const HIGHEST_FLOOR: SecurityVersion = SecurityVersion(64);
/// The longest answer that is read.
pub const MAX_ANSWER: usize = 4096;

/// BITS, read and written with the index's own (empty) authorization, without dictionary attack protection.
const FLOOR_ATTRIBUTES: u32 = TYPE_BITS | AUTH_WRITE | AUTH_READ | NO_DA;
/// An ordinary index with the same authorization; WRITEDEFINE lets a lock last for as long as the index does.
const FACTORY_ATTRIBUTES: u32 = AUTH_WRITE | WRITE_DEFINE | AUTH_READ | NO_DA;
const TYPE_BITS: u32 = 0x2 << 4;
const AUTH_WRITE: u32 = 1 << 2;
const WRITE_LOCKED: u32 = 1 << 11;
const WRITE_DEFINE: u32 = 1 << 13;
const AUTH_READ: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
/// Set by the TPM itself with the first write.
const WRITTEN: u32 = 1 << 29;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const OWNER: u32 = 0x4000_0001;
const PASSWORD_SESSION: u32 = 0x4000_0009;
const SHA256: u16 = 0x000B;
const FLOOR_BYTES: u16 = 8;
const FACTORY_BYTES: u16 = 32;

const NV_DEFINE_SPACE: u32 = 0x12A;
const NV_SET_BITS: u32 = 0x135;
const NV_WRITE: u32 = 0x137;
const NV_WRITE_LOCK: u32 = 0x138;
const PCR_EVENT: u32 = 0x13C;
const NV_READ: u32 = 0x14E;
const NV_READ_PUBLIC: u32 = 0x169;

/// `TPM_RC_HANDLE` for the first handle: there is no such index.
const NO_SUCH_INDEX: u32 = 0x18B;
/// `TPM_RC_NV_UNINITIALIZED`: the index was never written.
const NEVER_WRITTEN: u32 = 0x14A;

/// Why an answer of the TPM is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The TPM answered with an error.
    #[error("the TPM answered with code {0:#x}")]
    Refused(u32),
    /// The bytes are no answer to the command.
    #[error("the answer of the TPM is malformed")]
    Malformed,
    /// Somebody else's index has the handle of one of ours.
    #[error("index {index:#x} of the TPM has attributes {attributes:#x}, which are not those of this system's")]
    Foreign {
        /// Its handle.
        index: u32,
        /// Its attributes.
        attributes: u32,
    },
    /// A floor that the index cannot hold.
    #[error("the floor cannot be {0}: this key store holds at most {HIGHEST_FLOOR}")]
    TooHigh(SecurityVersion),
}

/// A command under construction: header without length, handles, then a password session if it is authorized.
fn command(code: u32, handles: &[u32], authorized: bool, parameters: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for handle in handles {
        body.extend(handle.to_be_bytes());
    }
    if authorized {
        body.extend(9_u32.to_be_bytes()); // length of the authorization: handle, nonce, attributes, password
        body.extend(PASSWORD_SESSION.to_be_bytes());
        body.extend([0, 0, 0, 0, 0]);
    }
    body.extend(parameters);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).saturating_add(10);
    let mut bytes = Vec::new();
    bytes.extend(if authorized { SESSIONS } else { NO_SESSIONS }.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(code.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Asks what an index is.
fn ask_about(index: u32) -> Vec<u8> {
    command(NV_READ_PUBLIC, &[index], false, &[])
}

/// Asks for the whole content of an index.
fn ask_content(index: u32, bytes: u16) -> Vec<u8> {
    let mut parameters = bytes.to_be_bytes().to_vec();
    parameters.extend(0_u16.to_be_bytes());
    command(NV_READ, &[index, index], true, &parameters)
}

/// Makes an index with an empty authorization.
fn define(index: u32, attributes: u32, bytes: u16) -> Vec<u8> {
    let mut parameters = Vec::new();
    parameters.extend(0_u16.to_be_bytes()); // its authorization: empty
    parameters.extend(14_u16.to_be_bytes()); // length of what follows
    parameters.extend(index.to_be_bytes());
    parameters.extend(SHA256.to_be_bytes());
    parameters.extend(attributes.to_be_bytes());
    parameters.extend(0_u16.to_be_bytes()); // no policy
    parameters.extend(bytes.to_be_bytes());
    command(NV_DEFINE_SPACE, &[OWNER], true, &parameters)
}

/// Asks what the floor's index is.
pub fn ask_about_floor() -> Vec<u8> {
    ask_about(FLOOR_INDEX)
}

/// Asks for the content of the floor's index.
pub fn ask_floor() -> Vec<u8> {
    ask_content(FLOOR_INDEX, FLOOR_BYTES)
}

/// Makes the floor's index; it then stands at 0.
pub fn define_floor() -> Vec<u8> {
    define(FLOOR_INDEX, FLOOR_ATTRIBUTES, FLOOR_BYTES)
}

/// Asks what the index of the factory document is.
pub fn ask_about_factory() -> Vec<u8> {
    ask_about(FACTORY_INDEX)
}

/// Asks for the digest of the factory document.
pub fn ask_factory() -> Vec<u8> {
    ask_content(FACTORY_INDEX, FACTORY_BYTES)
}

/// Makes the index of the factory document; it is then to be written, and to be locked.
pub fn define_factory() -> Vec<u8> {
    define(FACTORY_INDEX, FACTORY_ATTRIBUTES, FACTORY_BYTES)
}

/// Writes the digest of the factory document.
pub fn write_factory(digest: &Digest) -> Vec<u8> {
    let mut parameters = FACTORY_BYTES.to_be_bytes().to_vec();
    parameters.extend(digest.as_bytes());
    parameters.extend(0_u16.to_be_bytes()); // from the first byte on
    command(NV_WRITE, &[FACTORY_INDEX, FACTORY_INDEX], true, &parameters)
}

/// Lets nobody write the digest of the factory document again.
pub fn lock_factory() -> Vec<u8> {
    command(NV_WRITE_LOCK, &[FACTORY_INDEX, FACTORY_INDEX], true, &[])
}

/// Raises the floor; one that is already higher stays.
///
/// # Errors
/// If the index cannot hold the floor.
pub fn raise_floor(floor: SecurityVersion) -> Result<Vec<u8>, TpmError> {
    if floor > HIGHEST_FLOOR {
        return Err(TpmError::TooHigh(floor));
    }
    let bit = floor.0.checked_sub(1).map_or(0, |position| 1_u64 << position);
    Ok(command(NV_SET_BITS, &[FLOOR_INDEX, FLOOR_INDEX], true, &bit.to_be_bytes()))
}

/// Measures a word into a register, in every bank; text longer than a TPM takes in one command is cut.
pub fn measure(register: u8, word: &str) -> Vec<u8> {
    let word = word.as_bytes().get(..word.len().min(1024)).unwrap_or_default();
    let mut parameters = u16::try_from(word.len()).unwrap_or_default().to_be_bytes().to_vec();
    parameters.extend(word);
    command(PCR_EVENT, &[u32::from(register)], true, &parameters)
}

/// The floor's index, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorIndex {
    /// No index: nothing was ever raised.
    Missing,
    /// The index is ours; whether it was ever written is for [`floor`] to say.
    Ours,
}

/// Reads the answer to [`ask_about_floor`].
///
/// # Errors
/// If the answer is malformed or an error, or the index is not the one that [`define_floor`] makes.
pub fn about_floor(answer: &[u8]) -> Result<FloorIndex, TpmError> {
    let Some(attributes) = about(answer, FLOOR_INDEX, FLOOR_BYTES)? else { return Ok(FloorIndex::Missing) };
    match attributes & !WRITTEN {
        FLOOR_ATTRIBUTES => Ok(FloorIndex::Ours),
        _ => Err(TpmError::Foreign { index: FLOOR_INDEX, attributes }),
    }
}

/// How far the index of the factory document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactoryIndex {
    /// There is none.
    Missing,
    /// It was made, but holds nothing.
    Empty,
    /// It was written; power failed before it was locked, or it is about to be.
    Open,
    /// It was written and locked.
    Locked,
}

/// Reads the answer to [`ask_about_factory`].
///
/// # Errors
/// If the answer is malformed or an error, or the index is not the one that [`define_factory`] makes.
pub fn about_factory(answer: &[u8]) -> Result<FactoryIndex, TpmError> {
    let Some(attributes) = about(answer, FACTORY_INDEX, FACTORY_BYTES)? else { return Ok(FactoryIndex::Missing) };
    match (attributes & !(WRITTEN | WRITE_LOCKED), attributes & WRITTEN != 0, attributes & WRITE_LOCKED != 0) {
        (FACTORY_ATTRIBUTES, false, false) => Ok(FactoryIndex::Empty),
        (FACTORY_ATTRIBUTES, true, false) => Ok(FactoryIndex::Open),
        (FACTORY_ATTRIBUTES, true, true) => Ok(FactoryIndex::Locked),
        _ => Err(TpmError::Foreign { index: FACTORY_INDEX, attributes }),
    }
}

/// Reads the answer to a question about an index: its attributes, if it is there.
fn about(answer: &[u8], expected: u32, bytes: u16) -> Result<Option<u32>, TpmError> {
    let mut rest = match body(answer, NO_SESSIONS) {
        Err(TpmError::Refused(NO_SUCH_INDEX)) => return Ok(None),
        other => other?,
    };
    let mut public = sized(&mut rest)?;
    let (index, algorithm) = (u32::from_be_bytes(take(&mut public)?), u16::from_be_bytes(take(&mut public)?));
    let attributes = u32::from_be_bytes(take(&mut public)?);
    let policy = sized(&mut public)?;
    let size = u16::from_be_bytes(take(&mut public)?);
    if index != expected || !public.is_empty() {
        return Err(TpmError::Malformed);
    }
    if algorithm != SHA256 || !policy.is_empty() || size != bytes {
        return Err(TpmError::Foreign { index, attributes });
    }
    Ok(Some(attributes))
}

/// Reads the answer to [`ask_floor`].
///
/// # Errors
/// If the answer is malformed or an error other than that nothing was ever written.
pub fn floor(answer: &[u8]) -> Result<SecurityVersion, TpmError> {
    let bits = match content(answer) {
        Err(TpmError::Refused(NEVER_WRITTEN)) => return Ok(SecurityVersion(0)),
        other => u64::from_be_bytes(other?),
    };
    Ok(SecurityVersion(u64::BITS - bits.leading_zeros()))
}

/// Reads the answer to [`ask_factory`].
///
/// # Errors
/// If the answer is malformed or an error.
pub fn factory(answer: &[u8]) -> Result<Digest, TpmError> {
    content(answer).map(Digest::from_bytes)
}

/// Reads the answer to a question for the content of an index of `N` bytes.
fn content<const N: usize>(answer: &[u8]) -> Result<[u8; N], TpmError> {
    let mut rest = body(answer, SESSIONS)?;
    let length = u32::from_be_bytes(take(&mut rest)?);
    let mut parameters = split(&mut rest, usize::try_from(length).map_err(|_| TpmError::Malformed)?)?;
    let mut data = sized(&mut parameters)?;
    let content = take(&mut data)?;
    if data.is_empty() && parameters.is_empty() { Ok(content) } else { Err(TpmError::Malformed) }
}

/// Reads the answer to a command that only does something.
///
/// # Errors
/// If the answer is malformed or an error.
pub fn done(answer: &[u8]) -> Result<(), TpmError> {
    body(answer, SESSIONS).map(|_| ())
}

/// What follows the header of a good answer.
fn body(answer: &[u8], tag: u16) -> Result<&[u8], TpmError> {
    let mut rest = answer;
    let (given, length) = (u16::from_be_bytes(take(&mut rest)?), u32::from_be_bytes(take(&mut rest)?));
    let code = u32::from_be_bytes(take(&mut rest)?);
    if answer.len() > MAX_ANSWER || usize::try_from(length) != Ok(answer.len()) {
        return Err(TpmError::Malformed);
    }
    match code {
        0 if given == tag => Ok(rest),
        0 => Err(TpmError::Malformed),
        code => Err(TpmError::Refused(code)),
    }
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], TpmError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(TpmError::Malformed)?;
    *rest = tail;
    Ok(head)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TpmError> {
    split(rest, N)?.try_into().map_err(|_| TpmError::Malformed)
}

fn sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], TpmError> {
    let length = u16::from_be_bytes(take(rest)?);
    split(rest, usize::from(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = tag.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(body.len() + 10).unwrap().to_be_bytes());
        bytes.extend(code.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn floor_content(bits: u64) -> Vec<u8> {
        let mut body = 10_u32.to_be_bytes().to_vec();
        body.extend(8_u16.to_be_bytes());
        body.extend(bits.to_be_bytes());
        body.extend([0, 0, 1, 0, 0]); // the session's answer
        answer(SESSIONS, 0, &body)
    }

    fn public(attributes: u32) -> Vec<u8> {
        public_of(FLOOR_INDEX, attributes, 8)
    }

    fn public_of(index: u32, attributes: u32, bytes: u8) -> Vec<u8> {
        let mut body = 14_u16.to_be_bytes().to_vec();
        body.extend(index.to_be_bytes());
        body.extend(SHA256.to_be_bytes());
        body.extend(attributes.to_be_bytes());
        body.extend([0, 0, 0, bytes]);
        body.extend([0, 2, 0, 0]); // the name
        answer(NO_SESSIONS, 0, &body)
    }

    #[test]
    fn the_command_that_asks_for_the_floor_is_that_of_the_specification() {
        assert_eq!(
            hex::encode(ask_floor()),
            "8002000000230000014e01814d4201814d4200000009400000090000000000\
             00080000"
        );
    }

    #[test]
    fn no_index_and_an_unwritten_index_mean_a_floor_of_zero() {
        assert_eq!(about_floor(&answer(NO_SESSIONS, NO_SUCH_INDEX, &[])), Ok(FloorIndex::Missing));
        assert_eq!(floor(&answer(NO_SESSIONS, NEVER_WRITTEN, &[])), Ok(SecurityVersion(0)));
    }

    #[test]
    fn an_index_that_could_be_lowered_is_not_a_floor() {
        assert_eq!(about_floor(&public(FLOOR_ATTRIBUTES)), Ok(FloorIndex::Ours));
        assert_eq!(about_floor(&public(FLOOR_ATTRIBUTES | WRITTEN)), Ok(FloorIndex::Ours));
        let ordinary = FLOOR_ATTRIBUTES & !TYPE_BITS;
        assert_eq!(about_floor(&public(ordinary)), Err(TpmError::Foreign { index: FLOOR_INDEX, attributes: ordinary }));
    }

    #[test]
    fn the_factory_index_says_how_far_it_is_and_one_that_can_be_rewritten_is_foreign() {
        let about = |attributes| about_factory(&public_of(FACTORY_INDEX, attributes, 32));
        assert_eq!(about_factory(&answer(NO_SESSIONS, NO_SUCH_INDEX, &[])), Ok(FactoryIndex::Missing));
        assert_eq!(about(FACTORY_ATTRIBUTES), Ok(FactoryIndex::Empty));
        assert_eq!(about(FACTORY_ATTRIBUTES | WRITTEN), Ok(FactoryIndex::Open));
        assert_eq!(about(FACTORY_ATTRIBUTES | WRITTEN | WRITE_LOCKED), Ok(FactoryIndex::Locked));
        let unlocked = FACTORY_ATTRIBUTES & !WRITE_DEFINE | WRITTEN | WRITE_LOCKED;
        assert_eq!(about(unlocked), Err(TpmError::Foreign { index: FACTORY_INDEX, attributes: unlocked }));
    }

    #[test]
    fn the_digest_of_the_factory_document_is_read_as_it_was_written() {
        let digest = Digest::of(b"factory");
        let mut body = 34_u32.to_be_bytes().to_vec();
        body.extend(32_u16.to_be_bytes());
        body.extend(digest.as_bytes());
        body.extend([0, 0, 1, 0, 0]);
        assert_eq!(factory(&answer(SESSIONS, 0, &body)), Ok(digest));
        assert_eq!(factory(&answer(SESSIONS, NEVER_WRITTEN, &[])), Err(TpmError::Refused(NEVER_WRITTEN)));
    }

    #[test]
    fn any_other_error_of_the_tpm_is_not_a_floor_of_zero() {
        assert_eq!(floor(&answer(NO_SESSIONS, 0x922, &[])), Err(TpmError::Refused(0x922)));
        assert_eq!(about_floor(&answer(NO_SESSIONS, 0x101, &[])), Err(TpmError::Refused(0x101)));
    }

    #[test]
    fn a_floor_above_the_highest_is_refused() {
        assert!(raise_floor(HIGHEST_FLOOR).is_ok());
        assert_eq!(raise_floor(SecurityVersion(65)), Err(TpmError::TooHigh(SecurityVersion(65))));
    }

    proptest! {
        #[test]
        fn setting_bits_gives_the_highest_floor_that_was_ever_set(floors: Vec<u8>) {
            let floors: Vec<_> = floors.into_iter().map(|f| SecurityVersion(u32::from(f % 65))).collect();
            let mut bits = 0;
            for f in &floors {
                let command = raise_floor(*f).unwrap();
                bits |= u64::from_be_bytes(command[command.len() - 8..].try_into().unwrap());
            }
            prop_assert_eq!(floor(&floor_content(bits)), Ok(floors.into_iter().max().unwrap_or_default()));
        }

        #[test]
        fn any_answer_is_read_without_panic(bytes: Vec<u8>) {
            let floor = [floor(&bytes).is_err(), about_floor(&bytes).is_err(), done(&bytes).is_err()];
            let factory = [factory(&bytes).is_err(), about_factory(&bytes).is_err()];
            prop_assert!(bytes.len() >= 10 || (floor == [true; 3] && factory == [true; 2]));
        }

        #[test]
        fn an_answer_with_any_byte_missing_is_refused(cut in 0_usize..33) {
            let whole = floor_content(7);
            prop_assert!(floor(&whole[..cut.min(whole.len() - 1)]).is_err());
        }
    }
}
