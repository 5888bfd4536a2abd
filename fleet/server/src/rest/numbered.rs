//! Ids that are a prefix and a number, as in `c-7`.

use fleet_store::StoreError;

use crate::rest::Reply;

/// Characters of an unknown id that are repeated.
const REPEATED: usize = 80;

/// The number in the id of a resource of this kind; an id of another form names nothing.
pub(super) fn number_in(id: &str, (kind, prefix): (&'static str, &str)) -> Reply<u64> {
    let number = id.strip_prefix(prefix).and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| StoreError::NotFound { kind, id: id.chars().take(REPEATED).collect() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_form_names_nothing_and_is_not_repeated_at_length() {
        let command = ("command", "c-");
        assert_eq!(number_in("c-7", command).unwrap(), 7);
        for id in ["", "7", "c-", "c--7", "j-7", "c-18446744073709551616", &"ä".repeat(500)] {
            let refused = number_in(id, command).unwrap_err();
            let detail = refused.0.detail.clone();
            assert!(detail.starts_with("there is no command `") && detail.chars().count() < 110, "{detail}");
        }
    }
}
