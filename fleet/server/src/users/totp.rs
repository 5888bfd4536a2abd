//! Codes of authenticators: TOTP (RFC 6238) with SHA-1, 6 digits and 30 seconds, which every authenticator knows.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign},
};
use data_encoding::BASE32_NOPAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol_types::{AccountName, UnixSeconds};
use zeroize::Zeroizing;

use crate::{Random, random::RandomError};

/// Seconds that a code is shown.
const STEP_S: u64 = 30;
const DIGITS: usize = 6;
/// Bytes of a secret: as many as SHA-1 gives out (RFC 4226, section 4).
const BYTES: usize = 20;
/// How many steps a clock may be early or late (RFC 6238, section 5.2).
const DRIFT: u64 = 1;

/// What an authenticator holds.
pub(crate) struct TotpSecret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TotpSecret")
    }
}

impl TotpSecret {
    pub(crate) fn new(random: &Random) -> Result<Self, RandomError> {
        Ok(Self(Zeroizing::new(Zeroizing::new(random.bytes::<BYTES>()?).to_vec())))
    }

    pub(crate) const fn of(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As people type it into an authenticator.
    pub(crate) fn base32(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&self.0))
    }

    /// As authenticators read it from a picture.
    pub(crate) fn address(&self, account: &AccountName, name: &str) -> Zeroizing<String> {
        let label = format!("MBL {account}:{name}");
        let label = utf8_percent_encode(&label, NON_ALPHANUMERIC);
        Zeroizing::new(format!("otpauth://totp/{label}?secret={}&issuer=MBL%20{account}", *self.base32()))
    }

    /// The code of a time step (RFC 4226, section 5.3).
    pub(crate) fn code(&self, step: u64) -> String {
        let tag = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0), &step.to_be_bytes());
        let tag = tag.as_ref();
        let at = tag.last().map_or(0, |last| usize::from(last & 0x0f));
        let word = tag.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |four| u32::from_be_bytes(*four));
        format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
    }

    /// The time step whose code this is, if it is that of the present or of the step before or after.
    pub(crate) fn step_of(&self, code: &str, now: UnixSeconds) -> Option<u64> {
        if code.len() != DIGITS {
            return None;
        }
        let present = now.0 / STEP_S;
        let mut found = None;
        // All are compared, whichever it is.
        for step in present.saturating_sub(DRIFT)..=present.saturating_add(DRIFT) {
            if verify_slices_are_equal(self.code(step).as_bytes(), code.as_bytes()).is_ok() {
                found = Some(step);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> TotpSecret {
        TotpSecret::of(Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn the_codes_are_those_of_the_standard() {
        let secret = secret(b"12345678901234567890");
        // RFC 6238, appendix B, the last six of its eight digits.
        for (time, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(secret.code(time / STEP_S), code, "{time}");
            assert_eq!(secret.step_of(code, UnixSeconds(time)), Some(time / STEP_S));
        }
        // RFC 4226, appendix D.
        let codes: Vec<String> = (0..4).map(|counter| secret.code(counter)).collect();
        assert_eq!(codes, ["755224", "287082", "359152", "969429"]);
    }

    #[test]
    fn a_clock_may_be_one_step_early_or_late_and_no_more() {
        let secret = secret(b"12345678901234567890");
        let step = 1_800_000_000 / STEP_S;
        let now = UnixSeconds(step * STEP_S + 7);
        for other in step - 3..=step + 3 {
            let found = secret.step_of(&secret.code(other), now);
            assert_eq!(found, (other.abs_diff(step) <= 1).then_some(other));
        }
        for wrong in ["", "12345", "1234567", "abcdef", "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}"] {
            assert_eq!(secret.step_of(wrong, now), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_address_names_account_and_user_and_shows_nothing_else_unescaped() {
        let address = secret(b"12345678901234567890").address(&AccountName::new("acme").unwrap(), "anna@example.com");
        assert_eq!(
            *address,
            "otpauth://totp/MBL%20acme%3Aanna%40example%2Ecom?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=MBL%20acme"
        );
    }
}
