//! Reads the kernel's tables about processors, memory, network and temperature. Functions of text: total, and never a guess for what is
//! not there.

/// Ticks of all processors since the start of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    /// In which they worked.
    pub(super) busy: u64,
    /// In all.
    pub(super) all: u64,
}

/// Bytes over the network since the start of the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// `/proc/stat`: everything but idling and waiting for storage is work. The time of guests is in that of users already.
pub(super) fn ticks(stat: &str) -> Option<Ticks> {
    let mut columns = stat.lines().next()?.split_ascii_whitespace();
    if columns.next() != Some("cpu") {
        return None;
    }
    let ticks: Vec<u64> = columns.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [_user, _nice, _system, idle, waiting, ..] = ticks.as_slice() else { return None };
    let all = ticks.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks))?;
    Some(Ticks { busy: all.checked_sub(*idle)?.checked_sub(*waiting)?, all })
}

/// Kibibytes of memory in use and in all, from `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let (all, available) = (of("MemTotal")?, of("MemAvailable")?);
    Some((all.saturating_sub(available), all))
}

/// `/proc/net/dev`: all interfaces but loopback and the host's ends of containers' cables, whose bytes pass another interface too.
pub(super) fn traffic(dev: &str) -> Option<Traffic> {
    let mut sum = None;
    for line in dev.lines() {
        let Some((name, columns)) = line.split_once(':') else { continue };
        if name.trim() == "lo" || name.trim().starts_with("veth") {
            continue;
        }
        let columns: Vec<u64> = columns.split_ascii_whitespace().map_while(|column| column.parse().ok()).collect();
        if let [received, _, _, _, _, _, _, _, sent, ..] = columns.as_slice() {
            let before: Traffic = sum.unwrap_or_default();
            sum = Some(Traffic {
                received: before.received.saturating_add(*received),
                sent: before.sent.saturating_add(*sent),
            });
        }
    }
    sum
}

/// Thousandths of a degree Celsius, as a thermal zone shows them; what no board survives is no temperature.
pub(super) fn temperature(temp: &str) -> Option<i64> {
    temp.trim().parse().ok().filter(|thousandths| (-100_000..=300_000).contains(thousandths))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernel_s_tables_say_how_the_device_is() {
        let stat = "cpu  1000 200 300 5000 400 50 50 0 7 7\ncpu0 500 100 150 2500 200 25 25 0 0 0\nintr 7\n";
        assert_eq!(ticks(stat), Some(Ticks { busy: 1600, all: 7000 }));
        let table = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     600 kB\n";
        assert_eq!(memory(table), Some((400, 1000)));
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0\nvethab1: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n wlan0:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(dev), Some(Traffic { received: 105, sent: 46 }));
        assert_eq!(
            (temperature("47500\n"), temperature("-12000"), temperature("-2147483648")),
            (Some(47_500), Some(-12_000), None)
        );
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        for text in ["", "\n", "cpu", "cpu x 1 2 3 4", "cpu  1 2 3", ":::", "a:1\nb:\nlo: 1", "MemTotal: 9 kB\n", "-1"]
        {
            assert_eq!((ticks(text), memory(text), traffic(text)), (None, None, None), "{text:?}");
        }
        assert_eq!((temperature(""), temperature("warm"), temperature("9999999999999999999999")), (None, None, None));
        let large = format!("cpu  {0} {0} {0} {0} {0}", u64::MAX);
        assert_eq!(ticks(&large), None, "more ticks than there can be");
        assert_eq!(memory("MemTotal: 5 kB\nMemAvailable: 9 kB\n"), Some((0, 5)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_passed_over(text in "[a-z0-9: \n-]{0,200}|.{0,200}") {
            if let Some(ticks) = ticks(&text) {
                prop_assert!(ticks.busy <= ticks.all);
            }
            if let Some((used, all)) = memory(&text) {
                prop_assert!(used <= all);
            }
            let _ends = (traffic(&text), temperature(&text));
        }
    }
}
