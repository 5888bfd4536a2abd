//! Points in time as protocols carry them; whoever needs the present takes it as a parameter.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This time and `later` on top of it; the far end of time where that does not fit.
    pub const fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later.as_secs()))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// A time as the service tells it, for whoever asked with the nonce. Worth nothing before `protocol_time` has verified it, and from then on
/// it says that it is this late at least: who brings it may have kept it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTime {
    /// The time.
    pub time: UnixSeconds,
    /// What the asker chose.
    pub nonce: String,
    /// The ECDSA signature in ASN.1 by the time key over [`SignedTime::text`], in base64.
    pub signature: String,
}

impl SignedTime {
    /// What the time key signs.
    pub fn text(time: UnixSeconds, nonce: &str) -> String {
        format!("mbl-time-v1\n{time}\n{nonce}")
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
