//! Notification attributes of a path (OMA LwM2M 1.1 section 5.1.2).

use std::{fmt::Write as _, time::Duration};

use crate::coap::{Code, Message};

/// When a change is worth a notification. Absent means not set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attributes {
    /// At least this long between two notifications, in seconds.
    pub pmin: Option<u32>,
    /// At most this long between two notifications, in seconds.
    pub pmax: Option<u32>,
    /// Notify when the value crosses this number, seen from below.
    pub gt: Option<f64>,
    /// Notify when the value crosses this number, seen from above.
    pub lt: Option<f64>,
    /// Notify when the value has moved by this much since the last notification.
    pub st: Option<f64>,
}

/// A query that is no notification attribute, or whose value is out of range; answered with 4.00.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a notification attribute with a valid value")]
pub struct AttributeError(String);

impl AttributeError {
    /// The response code of the refusal.
    pub const fn code(&self) -> Code {
        Code::BAD_REQUEST
    }
}

impl Attributes {
    /// Reads the queries of a Write-Attributes request on top of `self`; an attribute without value is unset.
    pub fn updated(mut self, request: &Message) -> Result<Self, AttributeError> {
        for (name, text) in request.queries() {
            let wrong = || AttributeError(format!("{name}={text}").chars().take(80).collect());
            let seconds = || if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| wrong()) };
            let number = || match text.parse::<f64>() {
                _ if text.is_empty() => Ok(None),
                Ok(number) if number.is_finite() => Ok(Some(number)),
                _ => Err(wrong()),
            };
            match name {
                "pmin" => self.pmin = seconds()?,
                "pmax" => self.pmax = seconds()?,
                "gt" => self.gt = number()?,
                "lt" => self.lt = number()?,
                "st" => self.st = number()?.map_or(Ok(None), |n| if n > 0.0 { Ok(Some(n)) } else { Err(wrong()) })?,
                _ => return Err(wrong()),
            }
        }
        let crossed = self.gt.zip(self.lt).is_some_and(|(gt, lt)| lt + 2.0 * self.st.unwrap_or(0.0) >= gt);
        if crossed { Err(AttributeError("lt".to_owned())) } else { Ok(self) }
    }

    /// These attributes, with what is not set taken from `above` (a parent path).
    #[must_use]
    pub fn inherit(self, above: Self) -> Self {
        Self {
            pmin: self.pmin.or(above.pmin),
            pmax: self.pmax.or(above.pmax),
            gt: self.gt.or(above.gt),
            lt: self.lt.or(above.lt),
            st: self.st.or(above.st),
        }
    }

    /// The queries of a Write-Attributes request, or the attributes of a link, as (name, value).
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        let whole = [("pmin", self.pmin), ("pmax", self.pmax)];
        pairs.extend(whole.into_iter().filter_map(|(name, value)| Some((name, value?.to_string()))));
        for (name, value) in [("gt", self.gt), ("lt", self.lt), ("st", self.st)] {
            let mut text = String::new();
            if value.is_some_and(|value| write!(text, "{value}").is_ok()) {
                pairs.push((name, text));
            }
        }
        pairs
    }

    /// The shortest time between two notifications.
    pub fn shortest(&self) -> Duration {
        Duration::from_secs(u64::from(self.pmin.unwrap_or(0)))
    }

    /// The longest time between two notifications; a value below `pmin` is ignored, as the standard says.
    pub fn longest(&self) -> Option<Duration> {
        let pmax = self.pmax.filter(|pmax| *pmax > 0 && *pmax >= self.pmin.unwrap_or(0))?;
        Some(Duration::from_secs(u64::from(pmax)))
    }

    /// Whether a resource that held `before` at the last notification and holds `now` is worth one (section 5.1.2). Without
    /// conditions, and for values that are not numbers, every change is.
    pub fn worth(&self, before: Option<f64>, now: Option<f64>) -> bool {
        let (Some(before), Some(now)) = (before, now) else { return true };
        if self.gt.is_none() && self.lt.is_none() && self.st.is_none() {
            return true;
        }
        let crosses = |limit: Option<f64>| limit.is_some_and(|limit| (before > limit) != (now > limit));
        let crosses_down = self.lt.is_some_and(|limit| (before < limit) != (now < limit));
        crosses(self.gt) || crosses_down || self.st.is_some_and(|step| (now - before).abs() >= step)
    }
}
