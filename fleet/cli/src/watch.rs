//! Looks at something again and again and prints what has changed. Never knows the service's paths: what to look at comes as a function.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::{Duration, Instant},
};

use clap::Args;
use fleet_api::ClientError;
use serde::Serialize;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    printer::Printer,
    session::Session,
};

/// Options of a command that shows something, and can go on showing it.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WatchArgs {
    /// Go on and show what changes, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
    /// Seconds after which to end
    #[arg(long, value_name = "SECONDS", requires = "watch")]
    time_limit: Option<u64>,
}

/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that takes long is followed by a pause of so many times that, so that who watches a large fleet does not keep the service busy.
const REST: u32 = 4;

/// Looks until `take` has what was waited for. A service that is away meanwhile, as in a restart, is waited for.
pub(crate) async fn follow<T, R>(
    session: &Session,
    every: Duration,
    look: impl AsyncFn() -> Result<T, ClientError>,
    explain: impl Fn(ClientError) -> anyhow::Error,
    mut take: impl FnMut(T) -> anyhow::Result<Option<R>>,
) -> anyhow::Result<R> {
    let mut is_away = false;
    loop {
        let begun = Instant::now();
        match look().await {
            Ok(found) => {
                if std::mem::take(&mut is_away) {
                    session.printer.say("the service answers again");
                }
                if let Some(end) = take(found)? {
                    return Ok(end);
                }
            }
            Err(ClientError::Unreachable { address, .. }) => {
                if !std::mem::replace(&mut is_away, true) {
                    session.printer.say(format_args!("the service at {address} does not answer; waiting for it"));
                }
            }
            Err(error) => return Err(explain(error)),
        }
        tokio::time::sleep(every.max(begun.elapsed() * REST)).await;
    }
}

/// Watches for so many seconds at most; `late` says what it means if that was not enough.
pub(crate) async fn within<T>(
    limit: Option<u64>,
    watching: impl Future<Output = anyhow::Result<T>>,
    late: impl FnOnce(u64) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(seconds) = limit else { return watching.await };
    match tokio::time::timeout(Duration::from_secs(seconds), watching).await {
        Ok(ended) => ended,
        Err(_) => late(seconds),
    }
}

/// That something was not over when its time was: it goes on, and the command that watches it is the way to see the end.
pub(crate) fn not_ended(what: &str, id: &dyn Display, seconds: u64) -> anyhow::Error {
    Failure::new(Exit::WatchedFailed, format!("{what} {id} did not end within {seconds} s"))
        .hint(format!("it goes on; look again with `mbl {what} watch {id}`"))
        .into()
}

/// Shows a list, then each element of it that changes, comes or goes. `describe` gives the name of an element and its line.
pub(crate) async fn list<T: Serialize>(
    args: WatchArgs,
    session: &Session,
    look: impl AsyncFn() -> Result<Vec<T>, ClientError>,
    explain: impl Fn(ClientError) -> anyhow::Error,
    describe: impl Fn(&T) -> (String, String),
) -> anyhow::Result<()> {
    let (mut shown, has_seen) = (Shown::default(), Cell::new(false));
    let watching = follow(session, LOOK_EVERY, look, explain, |items: Vec<T>| {
        has_seen.set(true);
        let mut names = BTreeSet::new();
        for item in &items {
            let (name, line) = describe(item);
            shown.show(&session.printer, &name, item, line)?;
            names.insert(name);
        }
        for name in shown.forget_others(&names) {
            session.printer.line(&json!({ "gone": name }), format_args!("{name} gone"))?;
        }
        Ok(None)
    });
    // Who names a time wants to see what happens until then.
    within(args.time_limit, watching, |seconds| {
        if has_seen.get() {
            return Ok(());
        }
        let message = format!("the service did not answer within {seconds} s");
        Err(Failure::new(Exit::NotReached, message).hint("check that it runs and that the network reaches it").into())
    })
    .await
}

/// Shows one thing, and shows it again whenever its line changes.
pub(crate) async fn one<T: Serialize>(
    args: WatchArgs,
    session: &Session,
    look: impl AsyncFn() -> Result<T, ClientError>,
    explain: impl Fn(ClientError) -> anyhow::Error,
    describe: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let look = async || look().await.map(|item| vec![item]);
    list(args, session, look, explain, |item: &T| (String::new(), describe(item))).await
}

/// What was shown last of each thing.
#[derive(Debug, Default)]
pub(crate) struct Shown(BTreeMap<String, String>);

impl Shown {
    /// Prints a line, unless it is the one that was printed last for this name.
    pub(crate) fn show(
        &mut self,
        printer: &Printer,
        name: &str,
        value: &impl Serialize,
        line: String,
    ) -> anyhow::Result<()> {
        if self.is_news(name, &line) {
            printer.line(value, &line)?;
            self.0.insert(name.to_owned(), line);
        }
        Ok(())
    }

    fn is_news(&self, name: &str, line: &str) -> bool {
        self.0.get(name).is_none_or(|last| last != line)
    }

    /// Forgets what is not among these, and names it.
    fn forget_others(&mut self, names: &BTreeSet<String>) -> Vec<String> {
        let gone: Vec<String> = self.0.keys().filter(|name| !names.contains(*name)).cloned().collect();
        self.0.retain(|name, _| names.contains(name));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_is_shown_and_what_comes_back_is_news() {
        let mut shown = Shown(BTreeMap::from([("a".to_owned(), "a is up".to_owned())]));
        assert!(!shown.is_news("a", "a is up") && shown.is_news("a", "a is down") && shown.is_news("b", "b is up"));
        assert_eq!(shown.forget_others(&BTreeSet::from(["b".to_owned()])), ["a"]);
        assert!(shown.forget_others(&BTreeSet::new()).is_empty(), "it is told once");
        assert!(shown.is_news("a", "a is up"));
    }
}
