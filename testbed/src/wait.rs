//! Waiting for a fact with a limit: the one place where a test lets time pass.

use std::time::{Duration, Instant};

/// How long [`until`] waits between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks again and again until `look` finds something.
///
/// # Errors
/// After `limit`, with `what` in words and the last obstacle that `look` told.
pub fn until<T>(limit: Duration, what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    until_every(LOOK_EVERY, limit, what, look)
}

/// Like [`until`], but waits only `pause` between two looks, for what is over in an instant.
///
/// # Errors
/// As [`until`].
pub fn until_every<T>(
    pause: Duration,
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut obstacle = None;
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(e) => obstacle = Some(e),
        }
        if start.elapsed() >= limit {
            let waited = format!("waited {} s for {what}", limit.as_secs());
            return Err(obstacle.map_or_else(|| anyhow::anyhow!("{waited}"), |e| e.context(waited.clone())));
        }
        rest(pause);
    }
}

#[expect(clippy::disallowed_methods, reason = "every wait of the testbed ends up here, with a limit around it")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}
