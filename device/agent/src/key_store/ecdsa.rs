//! The form of ECDSA signatures and points on P-256: what tokens give, and what X.509 and TLS want. Never signs.

/// DER of the object identifier of P-256 (RFC 5480, section 2.1.1.1).
pub(super) const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The uncompressed point (SEC 1, section 2.3.3) in the DER octet string that tokens give (PKCS#11 2.40, section 2.3.3).
pub(super) fn point(der: &[u8]) -> Option<Vec<u8>> {
    der.strip_prefix(&[4, 65]).filter(|point| point.len() == 65 && point.first() == Some(&4)).map(<[u8]>::to_vec)
}

/// `r` and `s` one after the other, as tokens answer, as the DER sequence of RFC 3279, section 2.2.3.
pub(super) fn der_signature(raw: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = raw.split_at_checked(32).filter(|(_, s)| s.len() == 32)?;
    let mut body = Vec::with_capacity(72);
    for number in [r, s] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = number.get(zeros..).filter(|digits| !digits.is_empty())?;
        // A leading one bit would make the number negative.
        let padding: &[u8] = if digits.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
        body.extend([2, u8::try_from(padding.len() + digits.len()).ok()?]);
        body.extend_from_slice(padding);
        body.extend_from_slice(digits);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).ok()?];
    der.append(&mut body);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_signature_become_shortest_positive_integers() {
        let mut raw = [0; 64];
        (raw[31], raw[32]) = (0x80, 0x7f);
        let der = der_signature(&raw).unwrap();
        assert_eq!(der[..6], [0x30, 38, 2, 2, 0, 0x80]);
        assert_eq!(der[6..9], [2, 32, 0x7f]);
    }

    #[test]
    fn what_is_no_signature_or_no_point_is_refused() {
        assert_eq!(der_signature(&[1; 63]), None);
        assert_eq!(der_signature(&[1; 65]), None);
        assert_eq!(der_signature(&[0; 64]), None, "zero is no part of a signature");
        assert_eq!(point(&[4; 66]), None);
        assert_eq!(point(&[&[4, 65, 2][..], &[1; 64]].concat()), None, "a compressed point");
        assert_eq!(point(&[&[4, 65, 4][..], &[1; 64]].concat()).unwrap().len(), 65);
    }
}
