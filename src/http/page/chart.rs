//! The lag of the last hours: as a picture that needs no script, and as JSON for the script that draws a better one.

use std::fmt::Write;
use std::time::Duration;

use maud::{Markup, html};
use schemars::JsonSchema;
use serde::Serialize;

use super::words::{self, Level};
use super::{For, tables};
use crate::core::alert::Severity;
use crate::core::snapshot::{ClusterView, Snapshot};
use crate::core::time::MonoTime;
use crate::http::Ask;
use crate::http::api::time_of_day;
use crate::http::history::{Hours, STEP};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// Points of a line: more cannot be seen.
const POINTS: usize = 360;

/// Colours there are for lines; more replicas share them.
const COLOURS: usize = 6;

/// What the small picture of the fleet's table shows.
pub(super) const SPARK: Duration = Duration::from_secs(3600);

/// The picture of the last hours. It stands still: scripts put a live one in its place.
pub(super) fn figure(ask: &Ask<'_>, cluster: &ClusterView, whom: For) -> Markup {
    let name = cluster.name.as_str();
    let path = format!("/api/v1/clusters/{}/lag", super::encoded(name));
    // The script leaves alone what is to be kept.
    let (id, label) = (super::id_of("lag", name), format!("Replay lag of {name}"));
    if whom == For::Listeners {
        return html! { figure.chart #(id) data-keep data-lag=(path) aria-label=(label) {} };
    }
    let hours = ask.state.history.of(name, ask.now);
    html! {
        figure.chart #(id) data-keep data-lag=(path) aria-label=(label) {
            @if hours.n_points() < 2 { p.soft { "The chart begins when there are some samples." } }
            @else { (drawing(&ask.snapshot, cluster, &hours)) }
        }
    }
}

/// Now, and the worst of late: what the chart says, in numbers.
pub(super) fn numbers(ask: &Ask<'_>, cluster: &ClusterView) -> Markup {
    let hours = ask.state.history.of(cluster.name.as_str(), ask.now);
    let worst = |lags: &[Option<f32>]| {
        let worst = lags.iter().flatten().copied().reduce(f32::max);
        worst.map_or_else(|| "not known".to_owned(), |lag| words::seconds(f64::from(lag)))
    };
    let last_hour = (3600 / STEP.as_secs()) as usize;
    let table = html! {
        table {
            caption { "Replay lag, the worst of each time" }
            thead { tr { th scope="col" { "Replica" } th.num scope="col" { "Now" } th.num scope="col" { "Last hour" } th.num scope="col" { "Last 6 hours" } } }
            tbody {
                @for (place, (name, lags)) in hours.series.iter().enumerate() {
                    @let now = cluster.target(name.as_str()).and_then(|target| words::lag_of(target, ask.now));
                    tr {
                        th scope="row" { span class={ "swatch s" (place % COLOURS) } {} (name) }
                        td.num { (now.map_or_else(|| "–".to_owned(), words::lag)) }
                        td.num { (worst(&lags[lags.len().saturating_sub(last_hour)..])) }
                        td.num { (worst(lags)) }
                    }
                }
            }
        }
    };
    tables::scrolling("Replay lag in numbers", table)
}

fn drawing(snapshot: &Snapshot, cluster: &ClusterView, hours: &Hours) -> Markup {
    let from = hours.from.unwrap_or(snapshot.published_at);
    let n = hours.n_points();
    let length = n as f64 * STEP.as_secs_f64();
    let lags = || hours.series.iter().flat_map(|(_, lags)| lags.iter().flatten().copied());
    let top = nice(f64::from(lags().fold(1.0_f32, f32::max)));
    let x_of = |seconds: f64| LEFT + (seconds / length).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
    let y_of = |lag: f64| TOP + (1.0 - lag / top) * (HEIGHT - TOP - BOTTOM);
    let each = n.div_ceil(POINTS).max(1);
    let line = |lags: &[Option<f32>]| {
        let mut path = String::new();
        let mut is_down = false;
        for (place, part) in lags.chunks(each).enumerate() {
            let Some(lag) = part.iter().flatten().copied().reduce(f32::max) else {
                is_down = false;
                continue;
            };
            let letter = if is_down { 'L' } else { 'M' };
            let x = x_of((place * each) as f64 * STEP.as_secs_f64());
            // Writing to a String cannot fail.
            let _ = write!(path, "{letter}{x:.1} {:.1}", y_of(f64::from(lag)));
            if !is_down {
                // A point alone is seen as well.
                path.push_str("h.1");
            }
            is_down = true;
        }
        path
    };
    let summary = format!(
        "Replay lag of {} over the last {}: at worst {}.",
        words::counted(hours.series.len(), "replica"),
        crate::core::quantity::duration(length),
        words::seconds(f64::from(lags().fold(0.0_f32, f32::max)))
    );
    html! {
        svg.lags role="img" aria-label=(summary) width=(WIDTH) height=(HEIGHT) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } {
            @for span in &hours.spans {
                @let (x1, x2) = (x_of(span.from.seconds_since(from)), span.until.map_or(WIDTH - RIGHT, |until| x_of(until.seconds_since(from))));
                rect class={ "span " (Level::of_severity(span.severity).class()) } x=(fixed(x1)) y=(TOP) width=(fixed((x2 - x1).max(1.5))) height=(HEIGHT - TOP - BOTTOM) {
                    title { (span.alert.rule) ": " (words::subject(&span.alert)) }
                }
            }
            @for part in [0.0, 0.5, 1.0] {
                @let y = y_of(top * part);
                path.grid d={ "M" (LEFT) " " (y) "H" (WIDTH - RIGHT) } {}
                text.tick x=(LEFT - 8.0) y=(y + 4.0) text-anchor="end" { (if part == 0.0 { "0s".to_owned() } else { words::seconds(top * part) }) }
            }
            @for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
                @let at = snapshot.wall_time(from.plus_seconds(length * part));
                @let anchor = if part == 0.0 { "start" } else if part == 1.0 { "end" } else { "middle" };
                text.tick x=(x_of(length * part)) y=(HEIGHT - 6.0) text-anchor=(anchor) { (time_of_day(at).map_or_else(String::new, |text| text[11..16].to_owned())) }
            }
            @for (place, (name, lags)) in hours.series.iter().enumerate() {
                path class={ "line s" (place % COLOURS) } d=(line(lags)) { title { (cluster.name) "/" (name) } }
            }
        }
    }
}

fn fixed(value: f64) -> String {
    format!("{value:.1}")
}

/// A round number not below.
fn nice(value: f64) -> f64 {
    [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0]
        .into_iter()
        .find(|round| *round >= value)
        .unwrap_or_else(|| (value / 86_400.0).ceil() * 86_400.0)
}

/// The small picture of a cluster's last hour. It says nothing that the row does not, so it is not read out.
pub(super) fn spark(ask: &Ask<'_>, cluster: &ClusterView) -> Markup {
    const PARTS: usize = 60;
    let lags = ask.state.history.worst(cluster.name.as_str(), SPARK, PARTS, ask.now);
    let top = f64::from(lags.iter().flatten().copied().fold(1.0_f32, f32::max));
    let mut path = String::new();
    let mut is_down = false;
    for (place, lag) in lags.iter().enumerate() {
        let Some(lag) = lag else {
            is_down = false;
            continue;
        };
        let letter = if is_down { 'L' } else { 'M' };
        // Writing to a String cannot fail.
        let _ = write!(path, "{letter}{} {:.0}", place * 2, 22.0 - f64::from(*lag) / top * 20.0);
        if !is_down {
            path.push_str("h.1");
        }
        is_down = true;
    }
    html! { svg.spark aria-hidden="true" width="120" height="24" viewBox="0 0 120 24" { path.base d="M0 22.5H120" {} path d=(path) {} } }
}

/// `/api/v1/clusters/{cluster}/lag`.
#[derive(Serialize, JsonSchema)]
pub(in crate::http) struct Lags<'a> {
    cluster: &'a str,
    at: Option<String>,
    /// Each point is the worst of so long.
    step_seconds: u64,
    /// When each point begins, in seconds since 1970.
    times: Vec<u64>,
    series: Vec<Line>,
    /// When alerts fired, the earliest first.
    alerts: Vec<Fired>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LagSeries")]
struct Line {
    target: String,
    /// `null` where the lag was not known.
    seconds: Vec<Option<f64>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "FiredAlert")]
struct Fired {
    rule: String,
    target: Option<String>,
    subject: String,
    #[schemars(with = "Severity")]
    severity: &'static str,
    from: Option<String>,
    /// `null` while it fires.
    until: Option<String>,
}

pub(in crate::http) fn lags<'a>(ask: &Ask<'_>, cluster: &'a ClusterView) -> Lags<'a> {
    let hours = ask.state.history.of(cluster.name.as_str(), ask.now);
    let time = |at: MonoTime| time_of_day(ask.snapshot.wall_time(at));
    let first = hours.from.map(|from| ask.snapshot.wall_time(from));
    let first = first.and_then(|first| first.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default().as_secs();
    let millis = |lag: f32| (f64::from(lag) * 1000.0).round() / 1000.0;
    Lags {
        cluster: cluster.name.as_str(),
        at: time(ask.now),
        step_seconds: STEP.as_secs(),
        times: (0..hours.n_points() as u64).map(|place| first + place * STEP.as_secs()).collect(),
        alerts: hours
            .spans
            .iter()
            .map(|span| Fired {
                rule: span.alert.rule.to_string(),
                target: span.alert.target.as_ref().map(ToString::to_string),
                subject: words::subject(&span.alert),
                severity: span.severity.as_str(),
                from: time(span.from),
                until: span.until.and_then(time),
            })
            .collect(),
        series: hours
            .series
            .into_iter()
            .map(|(name, lags)| Line {
                target: name.to_string(),
                seconds: lags.into_iter().map(|lag| lag.map(millis)).collect(),
            })
            .collect(),
    }
}
