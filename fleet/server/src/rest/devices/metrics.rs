//! `/devices/{endpoint}/metrics`, `…/metric-points` and `…/metric-export`: how a device is and was, in numbers; `/metric-summaries`: how many are.

use axum::{
    Json,
    body::{Body as Payload, Bytes},
    extract::State,
    http::{HeaderName, header},
};
use fleet_api::{
    DeviceMetrics, ExportFormat, MetricExportQuery, MetricPoint, MetricPoints, MetricQuery, MetricSummaries,
    MetricSummary, MetricSummaryQuery, MetricValue,
};
use fleet_store::{AccountScope, CountBy, MetricRange, NotCountable, SummaryQuery};
use futures_util::{Stream, TryStreamExt as _, stream};
use protocol_types::{EndpointName, UnixSeconds, metrics::Metric, metrics::MetricStep};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Parameters, Segments},
        caller::{Caller, need},
        devices::inventory::{csv_lines, json_lines, wanted},
        paging::Paging,
    },
};

const HOUR_S: u64 = 60 * 60;
const DAY_S: u64 = 24 * HOUR_S;
/// Times that an export reads at once.
const BATCH: usize = 500;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(points))
        .routes(routes!(export))
        .routes(routes!(summarise))
}

/// The step in which a time is shown if nobody names one.
const fn fitting(seconds: u64) -> MetricStep {
    if seconds <= 6 * HOUR_S {
        MetricStep::Sample
    } else if seconds <= 3 * DAY_S {
        MetricStep::FiveMinutes
    } else {
        MetricStep::Hour
    }
}

/// The range that a query asks for.
fn range(
    (from, until): (Option<u64>, Option<u64>),
    step: Option<MetricStep>,
    now: UnixSeconds,
) -> Reply<(MetricRange, MetricStep)> {
    let until = until.unwrap_or_else(|| now.0.saturating_add(1));
    let from = from.unwrap_or_else(|| until.saturating_sub(DAY_S));
    if from >= until {
        return Err(Refusal::value("from", "the time that is asked about ends before it begins"));
    }
    let step = step.unwrap_or(fitting(until - from));
    Ok((MetricRange { metric: None, step, from: UnixSeconds(from), until: UnixSeconds(until) }, step))
}

fn view(point: &fleet_store::MetricPoint) -> MetricPoint {
    let real = |steps| point.metric.real(steps);
    MetricPoint {
        time: point.time,
        metric: point.metric,
        unit: point.metric.unit().to_owned(),
        count: point.count,
        mean: real(point.mean),
        least: real(point.least),
        most: real(point.most),
        last: real(point.last),
    }
}

/// What a device measured last.
#[utoipa::path(get, path = "/devices/{endpoint}/metrics", tag = "metrics", operation_id = "show_device_metrics",
    params(("endpoint" = String, Path, description = "The device")), security(("token" = ["read"])),
    responses((status = 200, description = "The newest values", body = DeviceMetrics)))]
async fn show(who: Caller<need::Read>, Segments(endpoint): Segments<EndpointName>) -> Reply<Json<DeviceMetrics>> {
    // A device that is not there is no device that says nothing.
    who.account.device(&endpoint).await?;
    let Some(latest) = who.account.latest_metrics(&endpoint).await? else {
        return Ok(Json(DeviceMetrics { time: None, dropped: 0, values: Vec::new() }));
    };
    let values = latest.readings.iter().map(|(metric, steps)| MetricValue {
        metric,
        value: metric.real(steps),
        unit: metric.unit().to_owned(),
    });
    Ok(Json(DeviceMetrics { time: Some(latest.time), dropped: latest.dropped, values: values.collect() }))
}

/// A part of the time series of a device.
#[utoipa::path(get, path = "/devices/{endpoint}/metric-points", tag = "metrics", operation_id = "list_metric_points",
    params(("endpoint" = String, Path, description = "The device"), MetricQuery), security(("token" = ["read"])),
    responses((status = 200, description = "Points, and where they go on", body = MetricPoints)))]
async fn points(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Parameters<MetricQuery>,
) -> Reply<Json<MetricPoints>> {
    who.account.device(&endpoint).await?;
    let limit = usize::try_from(Paging::limit(query.limit)?).unwrap_or(usize::MAX);
    let (range, step) = range((query.from, query.until), query.step, fleet.clock.now())?;
    let range = MetricRange { metric: query.metric, ..range };
    let series = who.account.metric_points(&endpoint, &range, limit).await?;
    Ok(Json(MetricPoints { step, items: series.points.iter().map(view).collect(), next: series.next }))
}

/// The time series of a device as a file: a line for each metric at each time, the oldest first. A file that breaks off is not whole.
#[utoipa::path(get, path = "/devices/{endpoint}/metric-export", tag = "metrics", operation_id = "export_metrics",
    params(("endpoint" = String, Path, description = "The device"), MetricExportQuery), security(("token" = ["read"])),
    responses((status = 200, description = "The points",
        content((String = "text/csv"), (String = "application/jsonl")))))]
async fn export(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Parameters<MetricExportQuery>,
) -> Reply<([(HeaderName, &'static str); 1], Payload)> {
    who.account.device(&endpoint).await?;
    let (range, _) = range((query.from, query.until), query.step, fleet.clock.now())?;
    let range = MetricRange { metric: query.metric, ..range };
    let format = query.format.unwrap_or(ExportFormat::Csv);
    let media_type = match format {
        ExportFormat::Csv => "text/csv; charset=utf-8",
        ExportFormat::Jsonl => "application/jsonl",
    };
    let lines = lines(who.account, endpoint, (range, format)).map_err(|refusal| *refusal.0);
    Ok(([(header::CONTENT_TYPE, media_type)], Payload::from_stream(lines)))
}

/// Values that a summary tells apart.
const VALUES: u32 = 1000;
/// Longest age of values that count: thirty days.
const OLDEST_S: u64 = 30 * DAY_S;

/// How a metric is now over many devices, by their newest values; of the most frequent values of a field first.
#[utoipa::path(get, path = "/metric-summaries", tag = "metrics", operation_id = "summarise_metric",
    params(MetricSummaryQuery), security(("token" = ["read"])),
    responses((status = 200, description = "The summaries", body = MetricSummaries)))]
async fn summarise(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<MetricSummaryQuery>,
) -> Reply<Json<MetricSummaries>> {
    let metric = query.metric.unwrap_or(Metric::CpuLoad);
    let by = query.by.as_deref().map(str::parse::<CountBy>).transpose();
    let fresh_s = query.fresh_s.unwrap_or(HOUR_S);
    if !(1..=OLDEST_S).contains(&fresh_s) {
        return Err(Refusal::value("fresh_s", format!("values count for 1 to {OLDEST_S} s")));
    }
    let query = SummaryQuery {
        metric,
        filter: wanted(query.filter.as_deref())?,
        by: by.map_err(|error: NotCountable| Refusal::value("by", error.to_string()))?,
        fresh_s,
    };
    let mut rows = who.account.summarise_metric(&query, fleet.clock.now(), VALUES + 1).await?;
    let most = usize::try_from(VALUES).unwrap_or(usize::MAX);
    let more = rows.len() > most;
    rows.truncate(most);
    let items = rows.into_iter().map(|row| MetricSummary {
        value: row.value,
        devices: row.devices,
        mean: row.mean / f64::from(metric.steps_per_unit()),
        least: metric.real(row.least),
        most: metric.real(row.most),
        median: metric.real(row.median),
        p90: metric.real(row.p90),
        p99: metric.real(row.p99),
    });
    Ok(Json(MetricSummaries { metric, unit: metric.unit().to_owned(), items: items.collect(), more }))
}

const HEAD: [&str; 8] = ["time", "metric", "unit", "count", "mean", "least", "most", "last"];

/// One point in the order of [`HEAD`].
fn csv_fields(point: &MetricPoint) -> [String; 8] {
    [
        point.time.to_string(),
        point.metric.to_string(),
        point.unit.clone(),
        point.count.to_string(),
        point.mean.to_string(),
        point.least.to_string(),
        point.most.to_string(),
        point.last.to_string(),
    ]
}

/// Where an export is: before its head, at a time, or at its end.
enum Place {
    Head,
    At(UnixSeconds),
    End,
}

/// The export, a batch at a time; only what is being sent is in memory.
fn lines(
    account: AccountScope,
    endpoint: EndpointName,
    (range, format): (MetricRange, ExportFormat),
) -> impl Stream<Item = Result<Bytes, Refusal>> {
    stream::try_unfold((account, endpoint, Place::Head), move |(account, endpoint, place)| async move {
        let from = match place {
            Place::End => return Ok(None),
            Place::Head if format == ExportFormat::Csv => {
                let head = csv_lines([HEAD.map(str::to_owned)])?;
                return Ok(Some((head, (account, endpoint, Place::At(range.from)))));
            }
            Place::Head => range.from,
            Place::At(from) => from,
        };
        let series = account.metric_points(&endpoint, &MetricRange { from, ..range }, BATCH).await?;
        let points: Vec<MetricPoint> = series.points.iter().map(view).collect();
        let bytes = match format {
            ExportFormat::Csv => csv_lines(points.iter().map(csv_fields))?,
            ExportFormat::Jsonl => json_lines(&points)?,
        };
        let next = series.next.map_or(Place::End, Place::At);
        Ok(Some((bytes, (account, endpoint, next))))
    })
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use fleet_store::MetricReport;
    use http_body_util::BodyExt as _;
    use protocol_types::metrics::{Batch, Readings, Sample};
    use serde_json::json;

    use super::*;
    use crate::test_service::{Caller, TestService};

    /// A device measured its temperature once a minute, so long ago at first, in seconds; when it said so.
    async fn measured(service: &TestService, device: &EndpointName, ages: std::ops::Range<u64>) -> u64 {
        let ages: Vec<u64> = ages.step_by(60).collect();
        let samples = ages.iter().rev().zip(1..).map(|(age_s, number)| {
            let warm = 400 + i64::try_from(age_s / 60 % 10).unwrap();
            let readings = Readings::default().with(Metric::Temperature, warm).with(Metric::CpuLoad, 125);
            Sample { number, age_s: *age_s, readings }
        });
        let batch = Batch { epoch: 1, dropped: 2, samples: samples.collect() };
        let report =
            MetricReport { account: "default".parse().unwrap(), endpoint: device.clone(), batch, least_gap_s: 1 };
        let now = service.now();
        service.fleet.store.service_wide().record_metrics(&[report], now).await.unwrap();
        now.0
    }

    #[tokio::test]
    async fn a_device_shows_what_it_measured_last_and_its_time_series_part_by_part() {
        let service = TestService::start().await;
        let caller = service.caller("default").await;
        let gate = service.device("default", "gate-1").await;
        let (status, shown) = caller.get("/devices/gate-1/metrics").await;
        assert_eq!((status, shown), (StatusCode::OK, json!({"dropped": 0, "values": []})));
        let now = measured(&service, &gate, 0..36_000).await;
        let (_, shown) = caller.get("/devices/gate-1/metrics").await;
        let values = json!([
            {"metric": "cpu.load", "value": 0.125, "unit": "/"}, {"metric": "temperature", "value": 40.0, "unit": "Cel"},
        ]);
        assert_eq!(shown, json!({"time": now, "dropped": 2, "values": values}));

        let (_, all) =
            caller.get(&format!("/devices/gate-1/metric-points?step=sample&limit=500&from={}", now - 1770)).await;
        assert_eq!((all["items"].as_array().unwrap().len(), &all["next"]), (60, &json!(null)));
        let (mut from, mut seen) = (now - 86_400, 0);
        loop {
            let asked = format!("/devices/gate-1/metric-points?step=sample&metric=temperature&limit=250&from={from}");
            let (status, part) = caller.get(&asked).await;
            assert_eq!(status, StatusCode::OK, "{part}");
            seen += part["items"].as_array().unwrap().len();
            match part["next"].as_u64() {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(seen, 600);
        let (_, day) = caller.get("/devices/gate-1/metric-points?metric=temperature&limit=500").await;
        assert_eq!(day["step"], json!("five_minutes"));
        let counts = day["items"].as_array().unwrap().iter().map(|point| point["count"].as_u64().unwrap());
        assert_eq!(counts.sum::<u64>(), 600);
        let (_, month) = caller.get(&format!("/devices/gate-1/metric-points?from={}", now - 30 * 86_400)).await;
        assert_eq!(month["step"], json!("hour"));
        for (asked, field) in [("from=10&until=5", "from"), ("limit=0", "limit")] {
            let (status, refused) = caller.get(&format!("/devices/gate-1/metric-points?{asked}")).await;
            assert_eq!((status, &refused["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)), "{asked}");
        }
        assert!(caller.get("/devices/gate-1/metric-points?metric=mood").await.0.is_client_error());
        for path in ["metrics", "metric-points", "metric-export"] {
            assert_eq!(caller.get(&format!("/devices/gate-2/{path}")).await.0, StatusCode::NOT_FOUND);
        }
    }

    async fn text(caller: &Caller, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = caller.raw(request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_export_has_every_point_in_both_forms() {
        let service = TestService::start().await;
        let caller = service.caller("default").await;
        let gate = service.device("default", "gate-1").await;
        measured(&service, &gate, 0..72_000).await;
        let lines = text(&caller, "/devices/gate-1/metric-export?step=sample&metric=cpu.load").await;
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!((lines.len(), lines[0]), (1201, "time,metric,unit,count,mean,least,most,last"));
        assert!(lines[1..].iter().all(|line| line.ends_with(",cpu.load,/,1,0.125,0.125,0.125,0.125")), "{}", lines[1]);
        let lines = text(&caller, "/devices/gate-1/metric-export?step=hour&format=jsonl").await;
        let points: Vec<MetricPoint> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let temperatures = points.iter().filter(|point| point.metric == Metric::Temperature);
        assert_eq!(temperatures.map(|point| point.count).sum::<u32>(), 1200);
    }

    #[tokio::test]
    async fn a_summary_is_about_the_devices_of_a_filter() {
        let service = TestService::start().await;
        let caller = service.caller("default").await;
        for name in ["gate-1", "gate-2"] {
            let device = service.device("default", name).await;
            measured(&service, &device, 0..120).await;
        }
        let (status, all) = caller.get("/metric-summaries?metric=temperature").await;
        let expected =
            json!({"devices": 2, "mean": 40.0, "least": 40.0, "most": 40.0, "median": 40.0, "p90": 40.0, "p99": 40.0});
        assert_eq!(status, StatusCode::OK, "{all}");
        let whole = json!({"metric": "temperature", "unit": "Cel", "items": [expected], "more": false});
        assert_eq!(all, whole);
        let (_, one) = caller.get("/metric-summaries?by=name&filter=name%20%3D%20%22gate-2%22").await;
        assert_eq!((&one["items"][0]["value"], &one["items"][0]["mean"]), (&json!("gate-2"), &json!(0.125)));
        for (asked, field) in [("by=group", "by"), ("fresh_s=0", "fresh_s"), ("filter=no.such%20%3D%201", "filter")] {
            let (status, refused) = caller.get(&format!("/metric-summaries?{asked}")).await;
            assert_eq!((status, &refused["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)), "{asked}");
        }
    }
}
