//! Between the unsigned numbers of the product and the signed ones of SQL. Never wraps around.

use protocol_types::UnixSeconds;

/// For storing; what no database integer holds becomes the largest one.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// From storage; a negative number, which is never written, becomes zero.
pub(crate) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A time from storage.
pub(crate) fn time(number: i64) -> UnixSeconds {
    UnixSeconds(from_sql(number))
}
