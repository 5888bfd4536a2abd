//! `mbl alert`: what rules have found, who knows of it, the rules themselves, and when nobody wants to hear.

use clap::{Args, Subcommand};
use fleet_api::{
    Alert, AlertCondition, AlertQuery, AlertRule, ChangeAlertRule, Client, ClientError, CreateAlertRule, CreateSilence,
    PageQuery, Silence,
};
use protocol_types::{AlertState, GroupName, Severity, UnixSeconds, metrics::Metric};
use serde_json::json;

use crate::{
    filter::refused_filter,
    pages::all_pages,
    request::not_there,
    session::{Session, service_error},
    watch::{self, WatchArgs},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List alerts, the newest first
    List(ListArgs),
    /// Show an alert
    Show {
        /// The alert, as in `al-7`
        id: String,
    },
    /// Say that you know of an alert: there are no more reminders
    Acknowledge {
        /// The alert, as in `al-7`
        id: String,
        /// What others should know
        #[arg(long, default_value = "")]
        note: String,
    },
    /// What is to raise alerts
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Times in which alerts are raised but not told of
    #[command(subcommand)]
    Silence(SilenceCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those that are so far: `pending`, `raised` or `resolved`; without it, raised ones
    #[arg(long, value_name = "STATE", conflicts_with = "all")]
    state: Option<AlertState>,
    /// Only those of this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<GroupName>,
    /// Those that are over, and those that are not yet raised, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Make a rule
    Create(Box<CreateRuleArgs>),
    /// List the rules
    List,
    /// Show a rule
    Show {
        /// The rule
        name: GroupName,
    },
    /// Let a rule look no longer; its alerts are resolved
    Disable {
        /// The rule
        name: GroupName,
    },
    /// Let a rule look again
    Enable {
        /// The rule
        name: GroupName,
    },
    /// Forget a rule; its alerts are resolved
    Delete {
        /// The rule
        name: GroupName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateRuleArgs {
    /// Its name
    name: GroupName,
    /// What people call it
    #[arg(long, default_value = "")]
    title: String,
    /// How bad it is: `info`, `warning` or `critical`
    #[arg(long, default_value_t = Severity::Warning)]
    severity: Severity,
    /// Look only at devices for which this is true
    #[arg(long, default_value = "")]
    filter: String,
    #[command(flatten)]
    what: What,
    /// Events that raise an alert
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["absence", "when", "threshold"], default_value_t = 1)]
    events: u32,
    /// Fewer events than this end it; without it, fewer than raise it
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["absence", "when", "threshold"])]
    clear_below: Option<u32>,
    /// Seconds within which events are counted
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["absence", "when", "threshold"], default_value_t = 600)]
    within: u64,
    /// Count over the whole account and not for each device
    #[arg(long, conflicts_with_all = ["absence", "when", "threshold"])]
    whole_account: bool,
    /// The value that ends an alert; without it, the threshold itself
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["absence", "when", "count"], allow_negative_numbers = true)]
    clear: Option<f64>,
    /// Seconds after which a value is too old to raise or to end an alert
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["absence", "when", "count"], default_value_t = 3600)]
    fresh: u64,
    /// Seconds that it must hold before an alert is raised
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 300)]
    for_s: u64,
    /// Seconds that it must not hold any more before the alert is resolved
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    clear_for: u64,
    /// Seconds after which an alert that nobody has acknowledged is told again; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    remind: u64,
}

/// What a rule looks for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Devices that have broken their own promise: late or lost
    #[arg(long)]
    absence: bool,
    /// Devices for which this filter is true
    #[arg(long, value_name = "FILTER")]
    when: Option<String>,
    /// Events of this kind, as in `device.disconnected`; several, separated by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    count: Vec<String>,
    /// Devices whose newest value of a metric is beyond this, as in 'cpu.load > 0.9' or 'temperature < -20'
    #[arg(long, value_name = "THRESHOLD", value_parser = threshold)]
    threshold: Option<Threshold>,
}

/// A metric, and where its values are too far.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Threshold {
    metric: Metric,
    above: Option<f64>,
    below: Option<f64>,
}

fn threshold(text: &str) -> Result<Threshold, String> {
    let at = text.find(['>', '<']).ok_or("write it as in 'cpu.load > 0.9'")?;
    let (metric, rest) = text.split_at(at);
    let metric = metric.trim().parse::<Metric>().map_err(|error| error.to_string())?;
    let (sign, value) = rest.split_at(1);
    let value = value.trim().parse::<f64>().ok().filter(|value| value.is_finite());
    let value = value.ok_or("behind the sign there is a number, as in 'cpu.load > 0.9'")?;
    let (above, below) = if sign == ">" { (Some(value), None) } else { (None, Some(value)) };
    Ok(Threshold { metric, above, below })
}

#[derive(Debug, Subcommand)]
pub(crate) enum SilenceCommand {
    /// Make a silence
    Create {
        /// Why
        reason: String,
        /// Minutes until it is over
        #[arg(long, value_name = "MINUTES")]
        minutes: u32,
        /// Only alerts of this rule
        #[arg(long, value_name = "NAME")]
        rule: Option<GroupName>,
        /// Only alerts about devices for which this is true
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// List the silences, the newest first
    List,
    /// End a silence now
    End {
        /// The silence, as in `si-7`
        id: String,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::List(args) => list(&client, args, session).await,
        Command::Show { id } => {
            let alert = client.alert(&id).await.map_err(|e| missing(e, "alert", &id))?;
            session.printer.data(&alert, described(&alert))
        }
        Command::Acknowledge { id, note } => {
            let alert = client.acknowledge_alert(&id, &note).await.map_err(|e| missing(e, "alert", &id))?;
            session.printer.data(&alert, described(&alert))
        }
        Command::Rule(command) => rule(&client, command, session).await,
        Command::Silence(command) => silence(&client, command, session).await,
    }
}

async fn list(client: &Client, args: ListArgs, session: &Session) -> anyhow::Result<()> {
    let state = if args.all { None } else { Some(args.state.unwrap_or(AlertState::Raised)) };
    let query = AlertQuery { state, rule: args.rule, cursor: None, limit: None };
    let look = async || {
        let page =
            async |PageQuery { cursor, limit }| client.alerts(&AlertQuery { cursor, limit, ..query.clone() }).await;
        all_pages(page).await
    };
    if args.watch.watch {
        let line = |alert: &Alert| (alert.id.clone(), described(alert).replace('\n', ", "));
        return watch::list(args.watch, session, look, service_error, line).await;
    }
    let found = look().await.map_err(service_error)?;
    let head = ["ALERT", "SEVERITY", "RULE", "DEVICE", "STATE", "SINCE", "KNOWN TO"];
    session.printer.table(&found, &head, |alert| {
        vec![
            alert.id.clone(),
            alert.severity.as_str().to_owned(),
            alert.rule.to_string(),
            or_dash(alert.device.as_ref()),
            state_of(alert).to_owned(),
            time(alert.since),
            or_dash(alert.acknowledged.as_ref().map(|known| &known.by)),
        ]
    })
}

fn state_of(alert: &Alert) -> &'static str {
    if alert.state == AlertState::Raised && alert.told.is_none() { "silenced" } else { alert.state.as_str() }
}

fn described(alert: &Alert) -> String {
    let about = alert.device.as_ref().map_or_else(|| "the account".to_owned(), ToString::to_string);
    let first = format!("{} {} {}: {about}", alert.id, alert.severity.as_str(), alert.rule);
    let mut lines = vec![first, format!("state    {} since {}", state_of(alert), time(alert.since))];
    lines.extend(alert.resolved.map(|at| format!("resolved {}", time(at))));
    lines.extend(
        alert.acknowledged.as_ref().map(|known| {
            format!("known to {} since {} {}", known.by, time(known.time), known.note).trim_end().to_owned()
        }),
    );
    lines.join("\n")
}

async fn rule(client: &Client, command: RuleCommand, session: &Session) -> anyhow::Result<()> {
    match command {
        RuleCommand::Create(args) => create_rule(client, *args, session).await,
        RuleCommand::List => list_rules(client, session).await,
        RuleCommand::Show { name } => {
            let rule = client.alert_rule(&name).await.map_err(|e| missing(e, "alert rule", &name))?;
            session.printer.data(&rule, described_rule(&rule))
        }
        RuleCommand::Disable { name } => enable(client, &name, false, session).await,
        RuleCommand::Enable { name } => enable(client, &name, true, session).await,
        RuleCommand::Delete { name } => {
            client.delete_alert_rule(&name).await.map_err(|e| missing(e, "alert rule", &name))?;
            session.printer.data(&json!({ "deleted": name }), format_args!("{name} deleted"))
        }
    }
}

async fn create_rule(client: &Client, args: CreateRuleArgs, session: &Session) -> anyhow::Result<()> {
    let CreateRuleArgs { name, title, severity, filter, what, .. } = args;
    let text = what.when.clone();
    let condition = match what {
        What { when: Some(filter), .. } => AlertCondition::State { filter },
        What { absence: true, .. } => AlertCondition::Absence {},
        What { threshold: Some(Threshold { metric, above, below }), .. } => {
            AlertCondition::Threshold { metric, above, below, clear: args.clear, fresh_s: args.fresh }
        }
        What { count, .. } => AlertCondition::Rate {
            types: count,
            events: args.events,
            clear_below: args.clear_below,
            within_s: args.within,
            whole_account: args.whole_account,
        },
    };
    let wanted = CreateAlertRule {
        name,
        title,
        severity,
        filter,
        condition,
        for_s: args.for_s,
        clear_for_s: args.clear_for,
        remind_s: args.remind,
    };
    let made = client.create_alert_rule(&wanted).await.map_err(|error| {
        let of_condition = error.problem().is_some_and(|problem| problem.field.as_deref() == Some("condition"));
        refused_filter(error, if of_condition { text.as_deref() } else { Some(&wanted.filter) })
    })?;
    session.printer.data(&made, format_args!("{} looks from now on", made.name))
}

async fn enable(client: &Client, name: &GroupName, enabled: bool, session: &Session) -> anyhow::Result<()> {
    let change = ChangeAlertRule { enabled: Some(enabled), ..ChangeAlertRule::default() };
    let changed = client.change_alert_rule(name, &change, None).await.map_err(|e| missing(e, "alert rule", name))?;
    let word = if enabled { "looks from now on" } else { "looks no longer" };
    session.printer.data(&changed, format_args!("{name} {word}"))
}

async fn list_rules(client: &Client, session: &Session) -> anyhow::Result<()> {
    let found: Vec<AlertRule> = all_pages(async |page| client.alert_rules(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["RULE", "SEVERITY", "LOOKS FOR", "AT", "RAISED", "STATE"], |rule| {
        let state = match (rule.enabled, rule.is_full) {
            (false, _) => "off",
            (true, true) => "full",
            (true, false) => "on",
        };
        vec![
            rule.name.to_string(),
            rule.severity.as_str().to_owned(),
            looks_for(&rule.condition),
            or_dash(Some(&rule.filter).filter(|filter| !filter.is_empty())),
            rule.raised.to_string(),
            state.to_owned(),
        ]
    })
}

fn looks_for(condition: &AlertCondition) -> String {
    match condition {
        AlertCondition::Absence {} => "absence".to_owned(),
        AlertCondition::State { filter } => filter.clone(),
        AlertCondition::Rate { types, events, within_s, whole_account, .. } => {
            let each = if *whole_account { "in the account" } else { "of a device" };
            format!("{events} of {} {each} in {within_s} s", types.join(", "))
        }
        AlertCondition::Threshold { metric, above, below, clear, .. } => {
            let (sign, value) = if above.is_some() { ('>', above) } else { ('<', below) };
            let value = value.unwrap_or_default();
            let until = clear.filter(|clear| *clear != value).map(|clear| format!(" until {clear}"));
            format!("{metric} {sign} {value}{}", until.unwrap_or_default())
        }
    }
}

fn described_rule(rule: &AlertRule) -> String {
    let mut lines = vec![
        format!("{} {} {}", rule.name, rule.severity.as_str(), rule.title).trim_end().to_owned(),
        format!("looks for {}", looks_for(&rule.condition)),
        format!("at        {}", or_dash(Some(&rule.filter).filter(|filter| !filter.is_empty()))),
        format!("raises    after {} s, resolves after {} s", rule.for_s, rule.clear_for_s),
    ];
    if rule.remind_s > 0 {
        lines.push(format!("reminds   every {} s until somebody knows", rule.remind_s));
    }
    lines.push(format!("raised    {}{}", rule.raised, if rule.is_full { ", and no more may be" } else { "" }));
    if !rule.enabled {
        lines.push("state     off".to_owned());
    }
    lines.join("\n")
}

async fn silence(client: &Client, command: SilenceCommand, session: &Session) -> anyhow::Result<()> {
    match command {
        SilenceCommand::Create { reason, minutes, rule, filter } => {
            let until = UnixSeconds(session.now().0.saturating_add(u64::from(minutes) * 60));
            let wanted = CreateSilence { rule, filter, until, reason };
            let made = client.create_silence(&wanted).await;
            let made = made.map_err(|e| refused_filter(e, Some(&wanted.filter)))?;
            session.printer.data(&made, format_args!("{} until {}", made.id, time(made.until)))
        }
        SilenceCommand::List => list_silences(client, session).await,
        SilenceCommand::End { id } => {
            let ended = client.end_silence(&id).await.map_err(|e| missing(e, "silence", &id))?;
            session.printer.data(&ended, format_args!("{} is over", ended.id))
        }
    }
}

async fn list_silences(client: &Client, session: &Session) -> anyhow::Result<()> {
    let found: Vec<Silence> = all_pages(async |page| client.silences(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["SILENCE", "RULE", "DEVICES", "UNTIL", "BY", "REASON"], |silence| {
        vec![
            silence.id.clone(),
            or_dash(silence.rule.as_ref()),
            or_dash(Some(&silence.filter).filter(|filter| !filter.is_empty())),
            time(silence.until),
            silence.made_by.clone(),
            silence.reason.clone(),
        ]
    })
}

fn missing(error: ClientError, kind: &str, id: &impl ToString) -> anyhow::Error {
    let list = match kind {
        "alert" => "mbl alert list --all",
        "silence" => "mbl alert silence list",
        _ => "mbl alert rule list",
    };
    let missing = format!("there is no {kind} `{}`", id.to_string());
    not_there(error, missing, format!("list what there is with `{list}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_metric_a_sign_and_a_number() {
        let of = |metric, above, below| Ok(Threshold { metric, above, below });
        assert_eq!(threshold("cpu.load > 0.9"), of(Metric::CpuLoad, Some(0.9), None));
        assert_eq!(threshold("temperature<-20"), of(Metric::Temperature, None, Some(-20.0)));
        for bad in ["", "cpu.load", "cpu.load >", "cpu.load > hot", "mood > 1", "cpu.load >= 1", "cpu.load > inf"] {
            assert!(threshold(bad).is_err(), "{bad}");
        }
        assert_eq!(looks_for(&looked("cpu.load > 0.9", Some(0.8))), "cpu.load > 0.9 until 0.8");
        assert_eq!(looks_for(&looked("memory.used < 0.1", None)), "memory.used < 0.1");
    }

    fn looked(text: &str, clear: Option<f64>) -> AlertCondition {
        let Threshold { metric, above, below } = threshold(text).unwrap();
        AlertCondition::Threshold { metric, above, below, clear, fresh_s: 3600 }
    }
}
