//! Numbers as people read them: sizes and times. Programs get the plain numbers with `--json`.

use jiff::Timestamp;
use protocol_types::UnixSeconds;

/// A size with a decimal unit.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => tenths(count, 1_000, "kB"),
        1_000_000..1_000_000_000 => tenths(count, 1_000_000, "MB"),
        _ => tenths(count, 1_000_000_000, "GB"),
    }
}

fn tenths(count: u64, unit: u64, name: &str) -> String {
    let tenths = count / (unit / 10);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// A point in time in UTC, to the second.
pub(crate) fn time(at: UnixSeconds) -> String {
    let stamp = i64::try_from(at.0).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map_or_else(|| at.to_string(), |stamp| stamp.to_string())
}

/// A value or a dash.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!([bytes(999), bytes(43_790_336), bytes(1_000_000_000)], ["999 B", "43.7 MB", "1.0 GB"]);
        assert_eq!(time(UnixSeconds(1_800_000_000)), "2027-01-15T08:00:00Z");
        assert_eq!(time(UnixSeconds(u64::MAX)), u64::MAX.to_string());
    }
}
