//! What was shown, step by step: on screen as it happens, and in `demo-report.json` in the end.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};

/// One step and what was observed in it.
#[derive(Debug, Serialize)]
struct Step {
    id: String,
    name: String,
    ok: bool,
    seconds: f64,
    evidence: Value,
}

/// All steps so far.
#[derive(Debug)]
pub(crate) struct Report {
    path: PathBuf,
    steps: Vec<Step>,
}

impl Report {
    /// A report that will lie in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { path: folder.join("demo-report.json"), steps: Vec::new() }
    }

    /// Does one step. Its evidence, or what went wrong, goes into the report; after a failure the remaining steps are not tried.
    pub(crate) fn step(
        &mut self,
        id: &str,
        name: &str,
        act: impl FnOnce() -> anyhow::Result<Value>,
    ) -> anyhow::Result<()> {
        say(&format!("\n({id}) {name}"));
        let began = Instant::now();
        let done = act();
        let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let (ok, evidence) = match &done {
            Ok(evidence) => (true, evidence.clone()),
            Err(error) => (false, json!({ "error": format!("{error:#}") })),
        };
        say(&format!("    {} after {seconds} s", if ok { "seen to hold" } else { "FAILED" }));
        self.steps.push(Step { id: id.to_owned(), name: name.to_owned(), ok, seconds, evidence });
        self.write()?;
        done.map(drop).with_context(|| format!("step ({id}) did not hold"))
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&json!({ "steps": self.steps }))?;
        fs::write(&self.path, text + "\n").with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Tells where it lies.
    pub(crate) fn tell_where(&self) {
        say(&format!("\nthe report is {}", self.path.display()));
    }
}

/// Tells the person who watches.
pub(crate) fn say(text: &str) {
    // A terminal that is gone must not stop what runs.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Tells a detail of a step.
pub(crate) fn note(text: &str) {
    say(&format!("    {text}"));
}
