//! Decides what is written where: data to standard output, talk to standard error, and how much of it.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use clap::{ArgAction, Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure;

/// Options that every command has.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Write data as JSON
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Write nothing but data and errors
    #[arg(short, long, global = true, help_heading = "Output", conflicts_with = "verbose")]
    quiet: bool,
    /// Say more about what is being done
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value = "auto", help_heading = "Output")]
    color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    /// If standard error is a terminal and NO_COLOR is not set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Talk {
    Quiet,
    Normal,
    Verbose,
}

/// Writes what a command has to show and to say.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    json: bool,
    talk: Talk,
    color: bool,
}

impl Printer {
    /// The printer that the options ask for; `no_color` is whether the environment asks for none.
    pub(crate) fn new(args: &OutputArgs, no_color: bool) -> Self {
        let talk = match (args.quiet, args.verbose) {
            (true, _) => Talk::Quiet,
            (false, 0) => Talk::Normal,
            (false, _) => Talk::Verbose,
        };
        let color = match args.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !no_color && io::stderr().is_terminal(),
        };
        Self { json: args.json, talk, color }
    }

    /// Says something to the person at the terminal.
    pub(crate) fn say(&self, text: impl Display) {
        if self.talk >= Talk::Normal {
            self.to_stderr(format_args!("{text}\n"));
        }
    }

    /// Says something only to a person who asked for more.
    pub(crate) fn detail(&self, text: impl Display) {
        if self.talk >= Talk::Verbose {
            self.to_stderr(format_args!("{text}\n"));
        }
    }

    /// Writes one document: `value` as JSON if that is wanted, otherwise `text`.
    pub(crate) fn data(&self, value: &impl Serialize, text: impl Display) -> anyhow::Result<()> {
        if self.json { self.to_stdout(serde_json::to_string_pretty(value)?) } else { self.to_stdout(text) }
    }

    /// Writes a part of a file as it is.
    #[expect(clippy::unused_self, reason = "one place decides about output")]
    pub(crate) fn bytes(&self, part: &[u8]) -> anyhow::Result<()> {
        let written = io::stdout().lock().write_all(part);
        written.map_err(|error| anyhow::Error::new(error).context("cannot write to standard output"))
    }

    /// Writes one element of a stream: `value` as one line of JSON if that is wanted, otherwise `text`.
    pub(crate) fn line(&self, value: &impl Serialize, text: impl Display) -> anyhow::Result<()> {
        if self.json { self.to_stdout(serde_json::to_string(value)?) } else { self.to_stdout(text) }
    }

    /// Writes a list: `items` as a JSON array if that is wanted, otherwise a table with one row an item.
    pub(crate) fn table<T: Serialize>(
        &self,
        items: &[T],
        head: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        if self.json {
            return self.to_stdout(serde_json::to_string_pretty(items)?);
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(head.to_vec());
        for item in items {
            table.add_row(row(item));
        }
        // `comfy-table` pads the last column; a terminal does not need it and a test cannot see it.
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().map(|line| line.trim_end().trim_start_matches(' ')).collect();
        self.to_stdout(lines.join("\n"))
    }

    /// A progress bar on standard error, hidden where talk is not wanted or nobody watches.
    pub(crate) fn progress(&self, length: u64, template: &str) -> ProgressBar {
        let hidden = self.talk == Talk::Quiet || self.json || !io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        }
    }

    /// Shows what a person must see to answer a question, however quiet the talk is.
    pub(crate) fn ask(&self, text: impl Display) {
        self.to_stderr(text);
    }

    /// Writes what can be typed, to a person who typed too little.
    pub(crate) fn help(&self, text: impl Display) {
        self.to_stderr(text);
    }

    /// Writes an error, its causes and its hint.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.to_stderr(format_args!("{}: {error:#}\n", self.paint("1;31", "error")));
        if let (_, Some(hint)) = failure::way_out(error) {
            self.to_stderr(format_args!("{}: {hint}\n", self.paint("36", "hint")));
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Standard error may be gone; there is nobody left to tell.
    #[expect(clippy::unused_self, reason = "one place decides about output")]
    fn to_stderr(&self, text: impl Display) {
        drop(write!(io::stderr().lock(), "{text}"));
    }

    #[expect(clippy::unused_self, reason = "one place decides about output")]
    fn to_stdout(&self, text: impl Display) -> anyhow::Result<()> {
        let mut to = io::stdout().lock();
        writeln!(to, "{text}")
            .and_then(|()| to.flush())
            .map_err(|error| anyhow::Error::new(error).context("cannot write to standard output"))
    }
}
