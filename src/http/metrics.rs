//! `/metrics`: the text exposition of everything known, written straight from the snapshot.
//!
//! Nothing is kept between scrapes, so the series of a slot or target that has gone end with it. Each family stands
//! together under one HELP and one TYPE line; a value that is not known is not written.

pub mod postgres_exporter;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use self::postgres_exporter::{FAMILIES as EXPORTER, Family};
use crate::core::alert::{AlertView, Phase};
use crate::core::discovery::DiscoveryView;
use crate::core::shown::Shown;
use crate::core::signal::{Read, SIGNALS, Signal, Value};
use crate::core::snapshot::{ClusterView, Snapshot, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::{Name, TargetId};
use crate::self_metrics::{FAMILIES, PROCESS, SelfMetrics};

/// The format that every scraper reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const ALERT: &str = "pgvigil_alert";
const ALERT_HELP: &str = "1 for each alert that is pending or firing.";
const MUTED: &str = "pgvigil_alerts_muted";
const MUTED_HELP: &str = "Firing alerts of which nobody is told now, by reason.";
const ALERT_LABELS: [&str; 5] = ["cluster", "target", "rule", "severity", "state"];

/// Length of a piece of the page. It stays in the processor's cache while it is copied and sent, and is less than what
/// the allocator gets from the kernel anew each time.
const PIECE: usize = 96 * 1024;

/// Series that are written side by side: what is read of a server for one of them is at hand for the next.
const ABREAST: usize = 16;

/// Clusters that are written of at one go. After them others who ask have their turn.
const AT_ONE_GO: usize = 64;

const SILENCES: &str = "pgvigil_silences";
const SILENCES_HELP: &str = "Silences by state: active, or ended and still listed.";
const MAINTENANCE: &str = "pgvigil_maintenance_open";
const MAINTENANCE_HELP: &str = "1 while a window of maintenance is open, else 0.";

const DISCOVERY_UP: &str = "pgvigil_discovery_up";
const DISCOVERY_UP_HELP: &str =
    "1 when AWS last said in full what there is; 0: it did not, or nothing matched, and what was known is watched on.";
const DISCOVERY_AGE: &str = "pgvigil_discovery_age_seconds";
const DISCOVERY_AGE_HELP: &str = "How long ago AWS last said in full what there is.";
const DISCOVERY_TARGETS: &str = "pgvigil_discovery_targets";
const DISCOVERY_TARGETS_HELP: &str = "Servers that were found and are watched.";

/// `[metrics]`: what series there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Beside our own series those by the names of `postgres_exporter`.
    pub postgres_exporter_names: bool,
}

/// Of what there are series.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Everything, and the daemon's own doings.
    Whole,
    /// One cluster, by its view in the snapshot.
    Cluster(&'a Arc<ClusterView>),
    /// One target or pooler of a cluster. What is said of the cluster as such is not said of it.
    Target(&'a Arc<ClusterView>, &'a Name),
}

/// The whole page.
#[cfg(test)]
pub(crate) fn render(snapshot: Snapshot, now: MonoTime, metrics: SelfMetrics) -> String {
    Page::new(Arc::new(snapshot), now, Arc::new(metrics), MetricsConfig::default(), Part::Whole).collect()
}

/// The page, piece by piece: that of a large fleet is megabytes, and is written no faster than it is taken. However many
/// pieces there are, all are of one snapshot.
#[derive(Debug)]
pub struct Page {
    snapshot: Arc<Snapshot>,
    now: MonoTime,
    /// `None` on a page of a part: the daemon's own doings are on the whole page alone.
    metrics: Option<Arc<SelfMetrics>>,
    /// Those that the page is about.
    clusters: Vec<Arc<ClusterView>>,
    /// The only target that the page is about.
    only: Option<Name>,
    prefixes: Vec<Prefixes>,
    series: &'static [Series],
    /// The place in `series` of the first that is not yet written of all clusters.
    next_series: usize,
    /// The first cluster that the next ones are not yet written of.
    cluster: usize,
    /// Families that are being written, or go out now: header and samples of each. Empty where there are no samples.
    abreast: Vec<String>,
    /// What of them has gone out: those before this one, and so many bytes of this one.
    sent: (usize, usize),
    has_ended: bool,
}

impl Page {
    pub fn new(
        snapshot: Arc<Snapshot>,
        now: MonoTime,
        metrics: Arc<SelfMetrics>,
        config: MetricsConfig,
        part: Part<'_>,
    ) -> Self {
        let (clusters, only, metrics) = match part {
            Part::Whole => (snapshot.clusters.clone(), None, Some(metrics)),
            Part::Cluster(cluster) => (vec![Arc::clone(cluster)], None, None),
            Part::Target(cluster, name) => (vec![Arc::clone(cluster)], Some(name.clone()), None),
        };
        let prefixes = clusters.iter().map(|cluster| Prefixes::new(cluster, config)).collect();
        let n_series = if config.postgres_exporter_names { SERIES.len() } else { SIGNALS.len() };
        let series = SERIES.get(..n_series).unwrap_or_default();
        Self {
            snapshot,
            now,
            metrics,
            clusters,
            only,
            prefixes,
            series,
            next_series: 0,
            cluster: 0,
            abreast: Vec::new(),
            sent: (0, 0),
            has_ended: false,
        }
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Writes some of the next series. Says whether they are complete, and so can go out.
    fn write_on(&mut self) -> bool {
        let end = self.series.len().min(self.next_series + ABREAST);
        let series = self.series.get(self.next_series..end).unwrap_or_default();
        if self.cluster == 0 {
            self.abreast.resize_with(series.len(), String::new);
            self.sent = (series.len(), 0);
            for (family, series) in self.abreast.iter_mut().zip(series) {
                family.clear();
                family.push_str(&series.header);
            }
        }
        let clusters = self.clusters.iter().zip(&self.prefixes).skip(self.cluster).take(AT_ONE_GO);
        for (cluster, prefixes) in clusters {
            for (family, series) in self.abreast.iter_mut().zip(series) {
                series.write_all(family, cluster, prefixes, self.only.as_ref(), self.now);
            }
        }
        self.cluster += AT_ONE_GO;
        if self.cluster < self.clusters.len() {
            return false;
        }
        for (family, series) in self.abreast.iter_mut().zip(series) {
            if family.len() == series.header.len() {
                family.clear();
            }
        }
        (self.next_series, self.cluster, self.sent) = (end, 0, (0, 0));
        true
    }

    /// Puts as much into a piece as fits of what is written. Says whether it is full.
    fn fill(&mut self, out: &mut String) -> bool {
        let (family, from) = &mut self.sent;
        while let Some(rest) = self.abreast.get(*family).and_then(|text| text.get(*from..)) {
            let fits = rest.floor_char_boundary(PIECE.saturating_sub(out.len()));
            out.push_str(&rest[..fits]);
            if fits < rest.len() {
                *from += fits;
                return true;
            }
            (*family, *from) = (*family + 1, 0);
        }
        false
    }
}

/// A piece may be empty: nothing is ready yet, and it is others' turn.
impl Iterator for Page {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.has_ended {
            return None;
        }
        let mut out = String::with_capacity(PIECE);
        while !self.fill(&mut out) {
            if self.next_series == self.series.len() {
                self.render_alerts(&mut out);
                if let Some(metrics) = &self.metrics {
                    render_silences(&mut out, &self.snapshot, self.now);
                    render_discoveries(&mut out, &self.snapshot, self.now);
                    metrics.render(&mut out);
                }
                self.has_ended = true;
                break;
            }
            if !self.write_on() {
                break;
            }
        }
        Some(out)
    }
}

fn render_silences(out: &mut String, snapshot: &Snapshot, now: MonoTime) {
    let wall = snapshot.wall_time(now);
    let all = snapshot.silences.all();
    let n_active = all.iter().filter(|silence| silence.is_active(now, wall)).count();
    write_header(out, &[SILENCES], SILENCES_HELP, "gauge");
    for (state, count) in [("active", n_active), ("ended", all.len() - n_active)] {
        out.push_str(&format!("{SILENCES}{{state=\"{state}\"}} {count}\n"));
    }
    for (position, window) in snapshot.silences.windows().iter().enumerate() {
        if position == 0 {
            write_header(out, &[MAINTENANCE], MAINTENANCE_HELP, "gauge");
        }
        let is_open = u8::from(window.open_at(wall).is_some());
        // A name that was checked: nothing in it needs to be escaped.
        out.push_str(&format!("{MAINTENANCE}{{window=\"{}\"}} {is_open}\n", window.name));
    }
}

fn render_discoveries(out: &mut String, snapshot: &Snapshot, now: MonoTime) {
    type Read = fn(&DiscoveryView, MonoTime) -> Option<f64>;
    let families: [(&str, &str, Read); 3] = [
        (DISCOVERY_UP, DISCOVERY_UP_HELP, |view, _| {
            view.tried_at.map(|_| if view.failing.is_none() { 1.0 } else { 0.0 })
        }),
        (DISCOVERY_AGE, DISCOVERY_AGE_HELP, |view, now| {
            view.succeeded_at.map(|at| now.duration_since(at).as_secs_f64())
        }),
        (DISCOVERY_TARGETS, DISCOVERY_TARGETS_HELP, |view, _| view.tried_at.map(|_| view.n_targets as f64)),
    ];
    for (name, help, read) in families {
        let known: Vec<(&Name, f64)> =
            snapshot.discoveries.iter().filter_map(|view| Some((&view.name, read(view, now)?))).collect();
        if !known.is_empty() {
            write_header(out, &[name], help, "gauge");
        }
        for (discovery, value) in known {
            // A name that was checked: nothing in it needs to be escaped.
            out.push_str(&format!("{name}{{discovery=\"{discovery}\"}} {value}\n"));
        }
    }
}

/// `{cluster="...",target="..."`, escaped once a page instead of once a series.
#[derive(Debug)]
struct Prefixes {
    cluster: String,
    targets: Vec<String>,
    poolers: Vec<String>,
    /// Those of `targets` with `postgres_exporter`'s label `server`. Empty where its names are not wanted.
    exporters: Vec<String>,
}

impl Prefixes {
    fn new(view: &ClusterView, config: MetricsConfig) -> Self {
        let mut cluster = "{".to_owned();
        write_label(&mut cluster, "cluster", view.name.as_str());
        let prefix = |id: &TargetId| {
            let mut prefix = cluster.clone();
            write_label(&mut prefix, "target", id.target.as_str());
            prefix
        };
        let targets: Vec<String> = view.targets.iter().map(|target| prefix(&target.id)).collect();
        let poolers = view.poolers.iter().map(|pooler| prefix(&pooler.id)).collect();
        let with_server = |(prefix, target): (&String, &Arc<TargetView>)| {
            let mut prefix = prefix.clone();
            if let Some(server) = postgres_exporter::server(target) {
                write_label(&mut prefix, "server", &server);
            }
            prefix
        };
        let exporters = if config.postgres_exporter_names {
            targets.iter().zip(&view.targets).map(with_server).collect()
        } else {
            Vec::new()
        };
        Self { cluster, targets, poolers, exporters }
    }
}

/// What all samples of a series have in common.
#[derive(Debug)]
struct Series {
    /// HELP and TYPE.
    header: String,
    name: String,
    /// `,slot="` for each label.
    leads: Vec<String>,
    read: Read,
    shown: Option<fn(&TargetView) -> &Shown>,
    has_server: bool,
}

/// In the order of [`SIGNALS`], and then those by the names of `postgres_exporter`.
static SERIES: LazyLock<Vec<Series>> =
    LazyLock::new(|| SIGNALS.iter().map(Series::new).chain(EXPORTER.iter().map(Series::of_exporter)).collect());

fn leads(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| format!(",{label}=\"")).collect()
}

impl Series {
    fn new(signal: &Signal) -> Self {
        let mut header = String::new();
        write_header(&mut header, &["pgvigil_", signal.name], signal.help, signal.kind.as_str());
        let (leads, read, shown) = (leads(signal.labels), signal.read, signal.shown);
        Self { header, name: signal.series(), leads, read, shown, has_server: false }
    }

    fn of_exporter(family: &Family) -> Self {
        let mut header = String::new();
        write_header(&mut header, &[family.name], family.help, family.kind);
        let (leads, read, shown) = (leads(family.labels), family.read(), family.shown);
        Self { header, name: family.name.to_owned(), leads, read, shown, has_server: true }
    }

    /// All samples of one cluster, or of the `only` target of it that is meant.
    fn write_all(
        &self,
        out: &mut String,
        cluster: &ClusterView,
        prefixes: &Prefixes,
        only: Option<&Name>,
        now: MonoTime,
    ) {
        let is_meant = |id: &TargetId| only.is_none_or(|only| *only == id.target);
        match self.read {
            Read::Cluster(read) => {
                if only.is_none() {
                    read(cluster, now, &mut |labels, value| self.write(out, &prefixes.cluster, labels, value));
                }
            }
            Read::Target(read) => {
                let prefixes = if self.has_server { &prefixes.exporters } else { &prefixes.targets };
                for (target, prefix) in cluster.targets.iter().zip(prefixes).filter(|(target, _)| is_meant(&target.id))
                {
                    let shown = self.shown.map(|shown| shown(target));
                    read(cluster, target, now, &mut |labels, value| {
                        if shown.zip(labels.first()).is_none_or(|(shown, name)| shown.contains(name)) {
                            self.write(out, prefix, labels, value);
                        }
                    });
                }
            }
            Read::Pooler(read) => {
                let poolers = cluster.poolers.iter().zip(&prefixes.poolers);
                for (pooler, prefix) in poolers.filter(|(pooler, _)| is_meant(&pooler.id)) {
                    read(pooler, now, &mut |labels, value| self.write(out, prefix, labels, value));
                }
            }
        }
    }

    fn write(&self, out: &mut String, prefix: &str, labels: &[&str], value: Value) {
        if value.value.is_nan() {
            return;
        }
        out.push_str(&self.name);
        out.push_str(prefix);
        for (lead, value) in self.leads.iter().zip(labels) {
            out.push_str(lead);
            write_escaped(out, value);
            out.push('"');
        }
        out.push_str("} ");
        write_number(out, value.value);
        out.push('\n');
    }
}

impl Page {
    fn render_alerts(&self, out: &mut String) {
        let is_meant =
            |alert: &&AlertView| self.only.as_ref().is_none_or(|only| alert.id.target.as_ref() == Some(only));
        let mut seen: HashSet<String> = HashSet::new();
        for (cluster, prefixes) in self.clusters.iter().zip(&self.prefixes) {
            for alert in cluster.alerts.iter().filter(|alert| alert.phase != Phase::Resolved).filter(is_meant) {
                let series = alert_series(alert, &prefixes.cluster);
                if seen.contains(&series) {
                    continue;
                }
                if seen.is_empty() {
                    write_header(out, &[ALERT], ALERT_HELP, "gauge");
                }
                out.push_str(&series);
                out.push_str(" 1\n");
                seen.insert(series);
            }
        }
        let about_itself = if self.metrics.is_some() { &*self.snapshot.alerts } else { &[] };
        for alert in about_itself.iter().filter(|alert| alert.phase != Phase::Resolved) {
            let mut prefix = "{".to_owned();
            write_label(&mut prefix, "cluster", alert.id.cluster.as_str());
            if seen.is_empty() {
                write_header(out, &[ALERT], ALERT_HELP, "gauge");
            }
            out.push_str(&alert_series(alert, &prefix));
            out.push_str(" 1\n");
            seen.insert(prefix);
        }
        if self.only.is_none() {
            self.render_muted(out);
        }
    }

    fn render_muted(&self, out: &mut String) {
        let mut has_header = false;
        for (cluster, prefixes) in self.clusters.iter().zip(&self.prefixes) {
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            let firing = cluster.alerts.iter().filter(|alert| alert.phase == Phase::Firing);
            for mute in firing.filter_map(|alert| alert.muted.first()) {
                *counts.entry(mute.kind()).or_default() += 1;
            }
            for (reason, count) in counts {
                if !has_header {
                    has_header = true;
                    write_header(out, &[MUTED], MUTED_HELP, "gauge");
                }
                let mut series = format!("{MUTED}{}", prefixes.cluster);
                write_label(&mut series, "reason", reason);
                out.push_str(&format!("{series}}} {count}\n"));
            }
        }
    }
}

fn alert_series(alert: &AlertView, cluster_prefix: &str) -> String {
    let mut series = format!("{ALERT}{cluster_prefix}");
    if let Some(target) = &alert.id.target {
        write_label(&mut series, "target", target.as_str());
    }
    write_label(&mut series, "rule", alert.id.rule.as_str());
    write_label(&mut series, "severity", alert.severity.as_str());
    write_label(&mut series, "state", alert.phase.as_str());
    for (name, value) in &alert.id.labels {
        // A session's or a sender's `state` must not stand beside the alert's own: renamed as Prometheus renames a
        // scraped label that collides with one of its own.
        if ALERT_LABELS.contains(&name.as_str()) {
            write_label(&mut series, &format!("exported_{name}"), value);
        } else {
            write_label(&mut series, name, value);
        }
    }
    series.push('}');
    series
}

fn write_header(out: &mut String, name: &[&str], help: &str, kind: &str) {
    out.push_str("# HELP ");
    name.iter().for_each(|part| out.push_str(part));
    out.push(' ');
    for character in help.chars() {
        match character {
            '\\' => out.push_str(r"\\"),
            '\n' => out.push_str(r"\n"),
            other => out.push(other),
        }
    }
    out.push_str("\n# TYPE ");
    name.iter().for_each(|part| out.push_str(part));
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
}

/// Writes `name="value"`, after a comma unless it is the first.
fn write_label(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    write_escaped(out, value);
    out.push('"');
}

fn write_escaped(out: &mut String, value: &str) {
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        out.push_str(value);
        return;
    }
    for character in value.chars() {
        match character {
            '\\' => out.push_str(r"\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str(r"\n"),
            other => out.push(other),
        }
    }
}

fn write_number(out: &mut String, value: f64) {
    /// Whole numbers up to here are exact in a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value == f64::INFINITY {
        out.push_str("+Inf");
    } else if value == f64::NEG_INFINITY {
        out.push_str("-Inf");
    } else if value.fract() == 0.0 && value.abs() <= EXACT {
        write_whole(out, value as i64);
    } else {
        write!(out, "{value}").expect("writing to a String cannot fail");
    }
}

/// Most values are whole, and the general formatter takes longer than all the rest of a line.
fn write_whole(out: &mut String, value: i64) {
    if value < 0 {
        out.push('-');
    }
    let mut digits = [b'0'; 20];
    let mut first = digits.len() - 1;
    let mut rest = value.unsigned_abs();
    loop {
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
        first -= 1;
    }
    out.push_str(std::str::from_utf8(&digits[first..]).expect("digits are ASCII"));
}

/// The book's table of every series: name, type, labels, unit, meaning, when absent, source.
pub fn metrics_table() -> String {
    let mut table = String::from(
        "| series | type | labels | unit | meaning | absent | source |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut row = |name: &str, kind: &str, labels: &str, unit: &str, help: &str, absent: &str, source: &str| {
        let source = if source.is_empty() { "pgvigil" } else { source };
        writeln!(table, "| `{name}` | {kind} | {labels} | {unit} | {help} | {absent} | {source} |")
            .expect("writing to a String cannot fail");
    };
    for signal in SIGNALS.iter() {
        let scope: &[&str] = match signal.read {
            Read::Cluster(_) => &["cluster"],
            Read::Target(_) | Read::Pooler(_) => &["cluster", "target"],
        };
        let labels = quoted(scope.iter().chain(signal.labels));
        let (unit, kind) = (signal.unit.as_str(), signal.kind.as_str());
        row(&signal.series(), kind, &labels, unit, signal.help, signal.absent, signal.source);
    }
    let labels = format!("{}, and those of the rule's signal", quoted(ALERT_LABELS.iter()));
    row(ALERT, "gauge", &labels, "0 or 1", ALERT_HELP, "Inactive or resolved.", "rules");
    row(MUTED, "gauge", "`cluster`, `reason`", "count", MUTED_HELP, "None is muted.", "rules");
    row(SILENCES, "gauge", "`state`", "count", SILENCES_HELP, "Never.", "");
    row(MAINTENANCE, "gauge", "`window`", "0 or 1", MAINTENANCE_HELP, "Not configured.", "");
    row(
        DISCOVERY_UP,
        "gauge",
        "`discovery`",
        "0 or 1",
        DISCOVERY_UP_HELP,
        "Before AWS was asked, or not configured.",
        "DescribeDBInstances",
    );
    row(
        DISCOVERY_AGE,
        "gauge",
        "`discovery`",
        "seconds",
        DISCOVERY_AGE_HELP,
        "It never did since the start.",
        "pgvigil",
    );
    row(
        DISCOVERY_TARGETS,
        "gauge",
        "`discovery`",
        "count",
        DISCOVERY_TARGETS_HELP,
        "As for `pgvigil_discovery_up`.",
        "pgvigil",
    );
    for family in FAMILIES {
        let unit = if family.name.ends_with("_seconds") { "seconds" } else { "count" };
        row(family.name, family.kind, &quoted(family.labels.iter()), unit, family.help, "Never.", "");
    }
    for (name, kind, unit, help) in PROCESS {
        row(name, kind, "", unit, help, "Where the system has no `/proc`.", "/proc");
    }
    table
}

fn quoted<'a>(labels: impl Iterator<Item = &'a &'a str>) -> String {
    labels.map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::core::alert::Severity;
    use crate::core::fixture;
    use crate::core::lag::{Certainty, Evidence};
    use crate::core::observation::{PollFailure, SenderState};

    fn whole(snapshot: Arc<Snapshot>, metrics: SelfMetrics) -> Page {
        Page::new(snapshot, fixture::NOW, Arc::new(metrics), MetricsConfig::default(), Part::Whole)
    }

    /// What the page says of clusters, without the daemon's own doings.
    fn page_of(clusters: Vec<ClusterView>) -> String {
        let mut text: String = whole(Arc::new(fixture::snapshot(clusters)), SelfMetrics::new(&[])).collect();
        text.truncate(own_doings(&text));
        text
    }

    /// Where the daemon's own doings begin on a page: they come last.
    fn own_doings(text: &str) -> usize {
        text.find("# HELP pgvigil_build_info ").expect("is on every whole page")
    }

    fn views(targets: Vec<TargetView>, alerts: Vec<AlertView>) -> String {
        page_of(vec![fixture::cluster("orders", targets, alerts)])
    }

    /// A cluster with everything: a primary with slots and statements, a replica, one that is silent, alerts.
    fn eventful() -> String {
        let mut silent = fixture::replica("orders", "replica-2");
        fixture::fail(&mut silent, PollFailure::Refused);
        silent.lag = Some(fixture::lag(10.25, 10.0, f64::INFINITY, Certainty::AtLeast, Evidence::LowerBound));
        let alerts = vec![
            fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]),
            fixture::alert("SlotRetainingWal", Severity::Critical, Phase::Pending, &[("slot", "debezium")]),
            fixture::alert("TargetDown", Severity::Critical, Phase::Resolved, &[]),
        ];
        views(vec![fixture::primary("orders", "primary"), fixture::replica("orders", "replica-1"), silent], alerts)
    }

    /// Every series is there once, and each family stands together under one header.
    fn assert_well_formed(text: &str) {
        let (mut series, mut families, mut current) = (HashSet::new(), HashSet::new(), "");
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("# HELP ") {
                current = header.split(' ').next().unwrap_or_default();
                assert!(families.insert(current), "family {current} twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                assert!(name.starts_with(&format!("{current}{{")), "{line} under {current}");
                assert!(series.insert(name), "{name} twice");
                assert!(value.parse::<f64>().is_ok_and(|value| !value.is_nan()), "{line}");
            }
        }
    }

    #[test]
    fn the_page_is_as_it_was() {
        insta::assert_snapshot!(eventful());
    }

    #[test]
    fn a_large_page_comes_in_pieces_that_make_one_page() {
        let cluster = |number: u32| {
            let name = format!("c{number}");
            let targets = vec![fixture::primary(&name, "primary"), fixture::replica(&name, "replica-1")];
            fixture::cluster(&name, targets, vec![fixture::alert("R", Severity::Warning, Phase::Firing, &[])])
        };
        let snapshot = Arc::new(fixture::snapshot((0..100).map(cluster).collect()));
        let pieces: Vec<String> = whole(snapshot, SelfMetrics::new(&["log"])).collect();
        assert!(pieces.len() > 5, "{}", pieces.len());
        // What follows the families is on the last piece, whole.
        let (last, others) = pieces.split_last().expect("has pieces");
        assert!(others.iter().all(|piece| piece.len() <= PIECE));
        assert!(others.iter().any(|piece| piece.len() == PIECE) && others.iter().any(String::is_empty));
        assert!(last.ends_with('\n'));
        let text = pieces.concat();
        assert_well_formed(&text[..own_doings(&text)]);
        for number in 0..100 {
            assert_eq!(text.matches(&format!("pgvigil_target_up{{cluster=\"c{number}\",")).count(), 2);
        }
        assert_eq!(text.matches("# TYPE pgvigil_target_up ").count(), 1);
    }

    #[test]
    fn promtool_finds_nothing() {
        let mut text = eventful();
        SelfMetrics::new(&["log"]).render(&mut text);
        let started = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = started else {
            assert!(std::env::var_os("CI").is_none(), "promtool is not installed");
            return;
        };
        promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
        let output = promtool.wait_with_output().expect("promtool ends");
        let findings = [output.stdout, output.stderr].concat();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&findings).as_ref()), (Some(0), ""));
    }

    #[test]
    fn hostile_names_are_escaped_and_nothing_comes_twice() {
        let hostile = "a\"} 1\nb\\{é😀";
        let mut primary = fixture::primary("orders", hostile);
        fixture::change_survey(&mut primary, |survey| {
            survey.slots =
                Some(vec![fixture::slot(hostile, true), fixture::slot(hostile, false), fixture::slot("", true)]);
            let sessions = survey.sessions.as_mut().expect("has sessions");
            sessions.by_state = vec![("idle".to_owned(), 1), (hostile.to_owned(), 1), ("odd".to_owned(), 1)];
        });
        fixture::change_positions(&mut primary, |positions| {
            positions.senders = vec![fixture::sender("same", Some(SenderState::Streaming)); 3];
        });
        let twice = fixture::alert("R", Severity::Warning, Phase::Firing, &[("slot", hostile)]);
        let text = views(vec![primary], vec![twice.clone(), twice]);
        assert_well_formed(&text);
        let escaped = r#"a\"} 1\nb\\{é😀"#;
        let slot = format!("pgvigil_slot_active{{cluster=\"orders\",target=\"{escaped}\",slot=\"{escaped}\"}} 1\n");
        assert!(text.contains(&slot), "{slot}\nin\n{text}");
        assert_well_formed(&eventful());
    }

    #[test]
    fn a_pooler_stands_in_the_place_of_a_target() {
        let mut cluster = fixture::cluster("orders", Vec::new(), Vec::new());
        cluster.poolers = vec![Arc::new(fixture::pooler("orders", "pgb"))];
        let text = page_of(vec![cluster]);
        assert_well_formed(&text);
        for series in [
            "pgvigil_pooler_up{cluster=\"orders\",target=\"pgb\"} 1",
            "pgvigil_pooler_longest_wait_seconds{cluster=\"orders\",target=\"pgb\",database=\"reports\",user=\"app\"} 7.25",
        ] {
            assert!(text.lines().any(|line| line == series), "{series} in\n{text}");
        }
    }

    #[test]
    fn a_label_of_the_signal_gives_way_to_the_alerts_own() {
        let alert = fixture::alert("Sessions", Severity::Info, Phase::Firing, &[("state", "active"), ("slot", "s")]);
        let text = views(Vec::new(), vec![alert]);
        let series = "pgvigil_alert{cluster=\"orders\",target=\"replica-1\",rule=\"Sessions\",severity=\"info\",\
                      state=\"firing\",exported_state=\"active\",slot=\"s\"} 1";
        assert!(text.lines().any(|line| line == series), "{text}");
    }

    #[test]
    fn series_end_with_what_they_are_about() {
        let mut primary = fixture::primary("orders", "primary");
        let before = views(vec![primary.clone(), fixture::replica("orders", "replica-1")], Vec::new());
        assert!(before.contains("slot=\"debezium\"") && before.contains("target=\"replica-1\""));
        fixture::change_survey(&mut primary, |survey| {
            survey.slots.as_mut().expect("has slots").retain(|slot| slot.name != "debezium");
        });
        fixture::change_positions(&mut primary, |positions| positions.senders.clear());
        let after = views(vec![primary], Vec::new());
        assert!(!after.contains("debezium") && !after.contains("replica-1"), "{after}");
        assert!(after.contains("pgvigil_slot_active{") && !after.contains("pgvigil_replay_lag_seconds"), "{after}");
    }

    #[test]
    fn a_part_of_the_page_is_what_the_whole_page_says_of_it() {
        let mut orders = fixture::cluster(
            "orders",
            vec![fixture::primary("orders", "primary"), fixture::replica("orders", "replica-1")],
            vec![fixture::alert("R", Severity::Warning, Phase::Firing, &[])],
        );
        orders.poolers = vec![Arc::new(fixture::pooler("orders", "pgb"))];
        let other = fixture::cluster("other", vec![fixture::primary("other", "primary")], Vec::new());
        let snapshot = Arc::new(fixture::snapshot(vec![orders, other]));
        let names = MetricsConfig { postgres_exporter_names: true };
        let page = |part: Part<'_>| {
            let metrics = Arc::new(SelfMetrics::new(&["log"]));
            Page::new(Arc::clone(&snapshot), fixture::NOW, metrics, names, part).collect::<String>()
        };
        let (all, cluster) = (page(Part::Whole), snapshot.cluster("orders").expect("is there"));
        let samples = |text: &str, wanted: &[&str]| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.filter(|line| wanted.iter().all(|wanted| line.contains(wanted))).map(str::to_owned).collect()
        };
        let own = page(Part::Cluster(cluster));
        assert_well_formed(&own);
        assert_eq!(samples(&own, &[]), samples(&all, &["cluster=\"orders\""]));
        for name in ["primary", "replica-1", "pgb"] {
            let own = page(Part::Target(cluster, &Name::new(name)));
            assert_well_formed(&own);
            assert!(own.lines().count() > 10, "{own}");
            let of_target = format!(",target=\"{name}\"");
            assert_eq!(samples(&own, &[]), samples(&all, &["cluster=\"orders\"", &of_target]), "{name}");
        }
    }

    #[test]
    fn numbers_are_written_as_scrapers_read_them() {
        for (value, expect) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-5.0, "-5"),
            (0.12, "0.12"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1e300, &format!("{}", 1e300)),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            let mut out = String::new();
            write_number(&mut out, value);
            assert_eq!(out, expect);
        }
    }

    /// The words in a text that look like series of ours. What a rule records has a colon before it.
    fn series_named_in(text: &str) -> HashSet<&str> {
        let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
        text.match_indices("pgvigil_")
            .filter(|(start, _)| !text[..*start].ends_with(':'))
            .map(|(start, _)| {
                let rest = &text[start..];
                &rest[..rest.find(|character| !is_name(character)).unwrap_or(rest.len())]
            })
            .collect()
    }

    #[test]
    fn dashboards_and_alerts_use_only_series_that_exist() {
        let mut known: HashSet<String> = SIGNALS.iter().map(Signal::series).collect();
        known.extend([ALERT, MUTED, SILENCES, MAINTENANCE].map(str::to_owned));
        known.extend([DISCOVERY_UP, DISCOVERY_AGE, DISCOVERY_TARGETS].map(str::to_owned));
        for family in FAMILIES {
            known.insert(family.name.to_owned());
            if family.kind == "histogram" {
                known.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", family.name)));
            }
        }
        for (name, text) in DASHBOARDS.into_iter().chain(RULES) {
            let used = series_named_in(text);
            let unknown: Vec<_> = used.iter().filter(|name| !known.contains(**name)).collect();
            assert!(unknown.is_empty() && used.len() > 5, "{name}: {unknown:?}");
        }
    }

    const DASHBOARDS: [(&str, &str); 6] = [
        ("fleet", include_str!("../../dashboards/pgvigil-fleet.json")),
        ("cluster", include_str!("../../dashboards/pgvigil-cluster.json")),
        ("target", include_str!("../../dashboards/pgvigil-target.json")),
        ("statements", include_str!("../../dashboards/pgvigil-statements.json")),
        ("alerts", include_str!("../../dashboards/pgvigil-alerts.json")),
        ("aws", include_str!("../../dashboards/pgvigil-aws.json")),
    ];

    const RULES: [(&str, &str); 2] = [
        ("rules", include_str!("../../dashboards/prometheus-rules.yml")),
        ("rules-rds", include_str!("../../dashboards/prometheus-rules-rds.yml")),
    ];

    #[test]
    fn every_panel_says_what_it_shows_has_a_place_of_its_own_and_leads_somewhere() {
        for (name, text) in DASHBOARDS {
            let dashboard: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(dashboard["uid"], format!("pgvigil-{name}"));
            let (mut ids, mut places) = (HashSet::new(), HashSet::new());
            for panel in dashboard["panels"].as_array().expect("panels") {
                assert!(ids.insert(panel["id"].to_string()), "{panel}");
                let of = |key| panel["gridPos"][key].as_u64().expect("a place");
                assert!(of("x") + of("w") <= 24, "{panel}");
                for place in
                    (of("x")..of("x") + of("w")).flat_map(|x| (of("y")..of("y") + of("h")).map(move |y| (x, y)))
                {
                    assert!(places.insert(place), "{name}: {} lies on another panel", panel["title"]);
                }
                if panel["type"] != "row" {
                    assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
                    assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
                    assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{}", panel["title"]);
                }
                for link in panel["fieldConfig"]["defaults"]["links"].as_array().into_iter().flatten() {
                    let url = link["url"].as_str().expect("an address");
                    let uid = url.strip_prefix("/d/pgvigil-").and_then(|rest| rest.split('?').next());
                    assert!(DASHBOARDS.iter().any(|(name, _)| Some(*name) == uid), "{url}");
                }
            }
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_series_rendered() {
        let table = metrics_table();
        let mut text = eventful();
        SelfMetrics::new(&["log"]).render(&mut text);
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE pgvigil_")) {
            let name = name.split(' ').next().unwrap_or_default();
            assert_eq!(table.matches(&format!("| `pgvigil_{name}` |")).count(), 1, "{name}");
        }
        assert!(table.lines().all(|line| line.matches(" | ").count() == 6), "{table}");
    }
}
