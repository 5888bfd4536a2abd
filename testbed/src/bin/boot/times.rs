//! How far a start had come when: what systemd has noted, counted from power-on.

use std::{fmt, time::Duration};

use anyhow::{Context as _, ensure};

/// Prints what [`Times::parse`] reads.
pub(crate) const SAY: [&str; 2] = [
    "systemctl show --property=FirmwareTimestampMonotonic,LoaderTimestampMonotonic",
    "systemctl show --property=ActiveEnterTimestampMonotonic multi-user.target",
];

/// Times since power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// The boot loader began.
    loader: Duration,
    /// The kernel began.
    kernel: Duration,
    /// `multi-user.target` was reached.
    pub(crate) multi_user: Duration,
    /// The device was registered with its service.
    pub(crate) registered: Option<Duration>,
}

impl Times {
    /// Reads what the commands of [`SAY`] have printed last in `text`. The kernel's clock begins with the kernel; what lies before it is
    /// told as how long before it was (org.freedesktop.systemd1, "FirmwareTimestampMonotonic").
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let value = |key: &str| {
            let line = text.lines().rev().find_map(|line| line.split_once(key)?.1.strip_prefix('='));
            let number = line.and_then(|value| value.trim().parse().ok());
            number.map(Duration::from_micros).with_context(|| format!("the system does not say `{key}`: {text}"))
        };
        let kernel = value("FirmwareTimestampMonotonic")?;
        let in_loader = value("LoaderTimestampMonotonic")?;
        let up = value("ActiveEnterTimestampMonotonic")?;
        ensure!(!kernel.is_zero() && !up.is_zero(), "the system does not know when it began: {text}");
        Ok(Self { loader: kernel.saturating_sub(in_loader), kernel, multi_user: kernel + up, registered: None })
    }

    /// With the time since the kernel began at which the device was registered.
    pub(crate) fn registered(self, since_kernel: Duration) -> Self {
        Self { registered: Some(self.kernel + since_kernel), ..self }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [loader, kernel, up] = [self.loader, self.kernel, self.multi_user].map(|time| time.as_secs_f64());
        write!(f, "loader {loader:.1} s, kernel {kernel:.1} s, up {up:.1} s")?;
        match self.registered {
            Some(time) => write!(f, ", registered {:.1} s", time.as_secs_f64()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_power_on_and_the_last_start_counts() {
        let said = "FirmwareTimestampMonotonic=1\nLoaderTimestampMonotonic=1\nActiveEnterTimestampMonotonic=1\n\
                    [  OK  ] Reached\nFirmwareTimestampMonotonic=9000000\r\nLoaderTimestampMonotonic=2000000\r\n\
                    ActiveEnterTimestampMonotonic=30000000\r\n";
        let times = Times::parse(said).unwrap().registered(Duration::from_secs(31));
        assert_eq!(times.to_string(), "loader 7.0 s, kernel 9.0 s, up 39.0 s, registered 40.0 s");
        assert!(Times::parse("FirmwareTimestampMonotonic=1\n").is_err());
        let never = "FirmwareTimestampMonotonic=0\nLoaderTimestampMonotonic=0\nActiveEnterTimestampMonotonic=1\n";
        assert!(Times::parse(never).is_err());
    }
}
