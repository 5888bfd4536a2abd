//! Numbers of the environment, which say how much a journey does. Never anything else.

use std::{env::var_os, str::FromStr};

/// The number that `variable` holds, if it is set.
pub(crate) fn number<T: FromStr>(variable: &str) -> Option<T> {
    var_os(variable).map(|text| text.to_str().and_then(|text| text.parse().ok()).unwrap())
}
