//! The TPM's defence against guessing, and how it is turned off where nothing can be guessed. Never talks to a TPM.

use super::command;

/// The handle of the lockout hierarchy, whose authorization is empty until somebody sets one.
const LOCKOUT: u32 = 0x4000_000A;
const DICTIONARY_ATTACK_PARAMETERS: u32 = 0x13A;

/// Lets a TPM never lock out, for good: a recovery time of 0 turns the defence off ("Part 1: Architecture", "Lockout Mode
/// Configuration Parameters"). [`super::done`] reads the answer.
pub fn never_lock_out() -> Vec<u8> {
    let mut parameters = Vec::new();
    parameters.extend(u32::MAX.to_be_bytes()); // failures before a lockout
    parameters.extend(0_u32.to_be_bytes()); // seconds until a failure is forgotten
    parameters.extend(0_u32.to_be_bytes()); // seconds until a failure of the lockout authorization itself is
    command(DICTIONARY_ATTACK_PARAMETERS, &[LOCKOUT], true, &parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_bytes_of_the_specification() {
        let mut expected = vec![0x80, 2, 0, 0, 0, 39, 0, 0, 1, 0x3A, 0x40, 0, 0, 0x0A];
        expected.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        expected.extend([0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(never_lock_out(), expected);
    }
}
