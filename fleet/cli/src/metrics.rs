//! `mbl metrics`: how a device is and was, in numbers.

use std::{cell::Cell, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use fleet_api::{
    Client, ClientError, DeviceMetrics, ExportFormat, MetricExportQuery, MetricPoint, MetricQuery, MetricSummaryQuery,
};
use protocol_types::{EndpointName, UnixSeconds, metrics::Metric, metrics::MetricStep};

use crate::{
    device::missing,
    export::{deliver, export_format},
    filter::refused_filter,
    session::Session,
    watch::{follow, within},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a device measured last; with a metric or a time, how it was
    Show(ShowArgs),
    /// Summarise a metric over many devices, by their newest values
    Summary(SummaryArgs),
    /// Write the time series of a device to a file or to the standard output
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The device
    endpoint: EndpointName,
    /// How this metric was, as in cpu.load
    #[arg(long, value_name = "METRIC")]
    metric: Option<Metric>,
    #[command(flatten)]
    range: RangeArgs,
    /// Go on with what comes from now on, until interrupted
    #[arg(long, conflicts_with_all = ["hours", "from", "until", "step"])]
    watch: bool,
    /// Seconds after which to end
    #[arg(long, value_name = "SECONDS", requires = "watch")]
    time_limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    /// The metric, as in cpu.load
    metric: Metric,
    /// Apart for each value of this field, as in os.version
    #[arg(long, value_name = "FIELD")]
    by: Option<String>,
    /// Only devices that this filter is true for
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Seconds after which a value is too old to count
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    fresh: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The device
    endpoint: EndpointName,
    /// Only this metric, as in cpu.load
    #[arg(long, value_name = "METRIC")]
    metric: Option<Metric>,
    #[command(flatten)]
    range: RangeArgs,
    /// csv, or jsonl for a JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "csv", value_parser = export_format)]
    format: ExportFormat,
    /// The file; it is there only once it is whole
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Which time.
#[derive(Clone, Copy, Debug, Args)]
struct RangeArgs {
    /// The last so many hours; a day without
    #[arg(long, value_name = "N", conflicts_with = "from")]
    hours: Option<u32>,
    /// From this time on, in Unix seconds
    #[arg(long, value_name = "SECONDS")]
    from: Option<u64>,
    /// Before this time, in Unix seconds
    #[arg(long, value_name = "SECONDS")]
    until: Option<u64>,
    /// What a point stands for: sample, five_minutes or hour; without it, what fits the time
    #[arg(long, value_name = "STEP")]
    step: Option<MetricStep>,
}

impl RangeArgs {
    /// The first second that is asked about.
    fn begin(&self, now: UnixSeconds) -> Option<u64> {
        let end = self.until.unwrap_or(now.0);
        self.from.or_else(|| self.hours.map(|hours| end.saturating_sub(u64::from(hours) * 3600)))
    }
}

/// How long between two looks at a watched device.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Points that one request brings.
const AT_ONCE: u32 = 500;

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Show(args) if args.watch => watch(&client, &args, session).await,
        Command::Show(args) => show(&client, &args, session).await,
        Command::Summary(args) => summarise(&client, args, session).await,
        Command::Export(args) => export(&client, args, session).await,
    }
}

async fn show(client: &Client, args: &ShowArgs, session: &Session) -> anyhow::Result<()> {
    let RangeArgs { hours, from, until, step } = args.range;
    if args.metric.is_none() && hours.is_none() && from.is_none() && until.is_none() && step.is_none() {
        let latest = client.device_metrics(&args.endpoint).await.map_err(|e| missing(e, &args.endpoint))?;
        return session.printer.data(&latest, described(&latest));
    }
    let mut query =
        MetricQuery { metric: args.metric, from: args.range.begin(session.now()), until, step, limit: Some(AT_ONCE) };
    let mut found: Vec<MetricPoint> = Vec::new();
    loop {
        let part = client.metric_points(&args.endpoint, &query).await.map_err(|e| missing(e, &args.endpoint))?;
        found.extend(part.items);
        // What comes next is asked for in the step of the first part.
        query.step = Some(part.step);
        match part.next {
            Some(next) => query.from = Some(next.0),
            None => break,
        }
    }
    session.printer.table(&found, &["TIME", "METRIC", "SAMPLES", "MEAN", "LEAST", "MOST", "LAST", "UNIT"], |point| {
        vec![
            time(point.time),
            point.metric.to_string(),
            point.count.to_string(),
            point.mean.to_string(),
            point.least.to_string(),
            point.most.to_string(),
            point.last.to_string(),
            point.unit.clone(),
        ]
    })
}

fn described(latest: &DeviceMetrics) -> String {
    let Some(at) = latest.time else { return "nothing was measured yet".to_owned() };
    let mut lines = vec![format!("measured {}", time(at))];
    let width = latest.values.iter().map(|value| value.metric.as_str().len()).max().unwrap_or(0);
    lines.extend(latest.values.iter().map(|value| {
        let name = value.metric.as_str();
        format!("  {name:width$}  {} {}", value.value, value.unit)
    }));
    if latest.dropped > 0 {
        lines.push(format!("{} samples were dropped since the agent began", latest.dropped));
    }
    lines.join("\n")
}

/// Shows each sample as it comes.
async fn watch(client: &Client, args: &ShowArgs, session: &Session) -> anyhow::Result<()> {
    let endpoint = &args.endpoint;
    // What is measured now is reported later: the newest sample that is known is where watching begins.
    let latest = client.device_metrics(endpoint).await.map_err(|e| missing(e, endpoint))?;
    let next = Cell::new(latest.time.unwrap_or(session.now()).0);
    let look = async || {
        let query = MetricQuery {
            metric: args.metric,
            from: Some(next.get()),
            step: Some(MetricStep::Sample),
            limit: Some(AT_ONCE),
            ..MetricQuery::default()
        };
        match client.metric_points(endpoint, &query).await {
            // The clock of the service is behind what is asked for: there is nothing yet.
            Err(error) if is_ahead(&error) => Ok(Vec::new()),
            part => part.map(|part| part.items),
        }
    };
    let watching = follow(
        session,
        LOOK_EVERY,
        look,
        |error| missing(error, endpoint),
        |points: Vec<MetricPoint>| {
            for point in &points {
                session.printer.line(point, line(point))?;
                next.set(point.time.0.saturating_add(1));
            }
            Ok(None)
        },
    );
    within(args.time_limit, watching, |_| Ok(())).await
}

fn is_ahead(error: &ClientError) -> bool {
    error.problem().is_some_and(|problem| problem.field.as_deref() == Some("from"))
}

fn line(point: &MetricPoint) -> String {
    format!("{} {} {} {}", time(point.time), point.metric, point.last, point.unit)
}

async fn summarise(client: &Client, args: SummaryArgs, session: &Session) -> anyhow::Result<()> {
    let SummaryArgs { metric, by, filter, fresh } = args;
    let query = MetricSummaryQuery { metric: Some(metric), by, filter, fresh_s: Some(fresh) };
    let found = client.summarise_metric(&query).await.map_err(|e| refused_filter(e, query.filter.as_deref()))?;
    if found.more {
        session.printer.say("there are more values; a filter makes them fewer");
    }
    let field = query.by.as_deref().unwrap_or_default().to_uppercase();
    let head = [field.as_str(), "DEVICES", "MEAN", "LEAST", "MEDIAN", "P90", "P99", "MOST"];
    session.printer.table(&found.items, &head, |summary| {
        let numbers = [summary.mean, summary.least, summary.median, summary.p90, summary.p99, summary.most];
        let mut row = vec![or_dash(summary.value.as_ref()), summary.devices.to_string()];
        row.extend(numbers.map(|number| number.to_string()));
        row
    })
}

async fn export(client: &Client, args: ExportArgs, session: &Session) -> anyhow::Result<()> {
    let query = MetricExportQuery {
        format: Some(args.format),
        metric: args.metric,
        from: args.range.begin(session.now()),
        until: args.range.until,
        step: args.range.step,
    };
    let answer = client.export_metrics(&args.endpoint, &query).await.map_err(|e| missing(e, &args.endpoint))?;
    deliver(answer, args.output.as_deref(), session).await
}

#[cfg(test)]
mod tests {
    use fleet_api::MetricValue;

    use super::*;

    #[test]
    fn the_newest_values_are_one_line_each() {
        let value = |metric: Metric, value| MetricValue { metric, value, unit: metric.unit().to_owned() };
        let values = vec![value(Metric::CpuLoad, 0.125), value(Metric::Temperature, 48.2)];
        let latest = DeviceMetrics { time: Some(UnixSeconds(1_800_000_000)), dropped: 3, values };
        let expected = "measured 2027-01-15T08:00:00Z\n  cpu.load     0.125 /\n  temperature  48.2 Cel\n3 samples were dropped since the agent began";
        assert_eq!(described(&latest), expected);
        assert_eq!(
            described(&DeviceMetrics { time: None, dropped: 0, values: Vec::new() }),
            "nothing was measured yet"
        );
    }
}
