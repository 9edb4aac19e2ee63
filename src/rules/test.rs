//! `pgvigil rules test`: series of readings in, alerts out. The notation of the values is promtool's, with `unknown`, `gone`
//! and bounds beside it.

mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use self::values::values;
use crate::collect::PollConfig;
use crate::config;
use crate::config::environment::Environment;
use crate::config::toml_fault;
use crate::core::alert::{AlertView, Phase, Severity};
use crate::core::replay::{Reading, Replay, Series};
use crate::core::rule::{Rule, RuleConfig, preset};
use crate::core::signal::{Read, SIGNALS, Signal};
use crate::core::time::MonoTime;
use crate::core::topology::Name;

/// The cluster of series and alerts that name none.
const CLUSTER: &str = "default";

/// Long enough for any rule, and judged within seconds.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// How a file fared: what to print, and whether all is as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub text: String,
    pub ok: bool,
}

/// Runs all tests of these files.
pub fn run(files: &[PathBuf]) -> Outcome {
    let mut outcome = Outcome { text: String::new(), ok: true };
    for path in files {
        let shown = path.display();
        match file(path) {
            Err(reason) => {
                outcome.ok = false;
                outcome.text.push_str(&format!("{shown}: {reason}\n"));
            }
            Ok(tests) => {
                let failed: Vec<&(String, String)> = tests.iter().filter(|(_, diff)| !diff.is_empty()).collect();
                for (name, diff) in &failed {
                    outcome.text.push_str(&format!("{shown}: {name}\n{diff}"));
                }
                outcome.ok &= failed.is_empty();
                let n_tests = tests.len();
                let counted = format!("{n_tests} test{}", if n_tests == 1 { "" } else { "s" });
                let fared = if failed.is_empty() { "ok".to_owned() } else { format!("{} failed", failed.len()) };
                outcome.text.push_str(&format!("{shown}: {counted}, {fared}\n"));
            }
        }
    }
    outcome
}

/// A file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// A configuration whose rules and poll interval are tested, seen from this file's directory.
    #[serde(default)]
    config: Option<PathBuf>,
    /// Rules as in a configuration. With neither, the built-in ones.
    #[serde(default)]
    rule: Vec<RuleConfig>,
    #[serde(default)]
    test: Vec<Test>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    /// Between two values of a series.
    #[serde(default = "minute", deserialize_with = "duration")]
    interval: Duration,
    /// `replay_lag_seconds{target="r1"}` and its values.
    series: BTreeMap<String, String>,
    expect: Vec<Expect>,
}

/// What there must be at a time: these alerts pending or firing, and no others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(deserialize_with = "duration")]
    at: Duration,
    alerts: Vec<Expected>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    rule: String,
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "firing")]
    state: Phase,
    /// Not set: any.
    #[serde(default)]
    severity: Option<Severity>,
}

const fn minute() -> Duration {
    Duration::from_secs(60)
}

const fn firing() -> Phase {
    Phase::Firing
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(&text) };
    duration.map_err(|_| D::Error::custom(format!("{text:?} is no duration; write for example \"5m\"")))
}

/// The tests of a file: name, and what is not as expected.
fn file(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))?;
    let written: Written = toml::from_str(&text).map_err(|error| toml_fault(&text, &error))?;
    let (rules, poll_interval) = rules(&written, path.parent().unwrap_or(Path::new("")))?;
    if written.test.is_empty() {
        return Err("no tests; add a [[test]] with a name, series and what to expect".to_owned());
    }
    let mut names = BTreeSet::new();
    let mut fared = Vec::new();
    for test in &written.test {
        if !names.insert(&test.name) {
            return Err(format!("two tests are called {:?}", test.name));
        }
        let diff = test.run(&rules, poll_interval).map_err(|reason| format!("{}: {reason}", test.name))?;
        fared.push((test.name.clone(), diff));
    }
    Ok(fared)
}

fn rules(written: &Written, directory: &Path) -> Result<(Vec<Rule>, Duration), String> {
    if let Some(path) = &written.config {
        if !written.rule.is_empty() {
            return Err("it has a config and rules of its own; leave one of them out".to_owned());
        }
        let set = config::rules(Some(&directory.join(path)), &Environment::new()).map_err(|error| error.to_string())?;
        return Ok((set.rules, set.poll_interval));
    }
    let own = if written.rule.is_empty() { preset() } else { written.rule.clone() };
    let rules = Rule::parse_all(&own, &SIGNALS).map_err(|error| error.to_string())?;
    Ok((rules, PollConfig::default().interval))
}

impl Test {
    /// What is not as expected. Empty when all is.
    fn run(&self, rules: &[Rule], poll_interval: Duration) -> Result<String, String> {
        let series = self.series.iter().map(|(name, text)| {
            let series = series(name)?;
            let readings = values(text, series.signal).map_err(|reason| format!("{name}: {reason}"))?;
            Ok((series, readings))
        });
        let series = series.collect::<Result<Vec<(Series, Vec<Reading>)>, String>>()?;
        if self.interval < Duration::from_millis(100) {
            return Err("the interval is shorter than 100ms".to_owned());
        }
        for expected in self.expect.iter().flat_map(|expect| &expect.alerts) {
            expected.check(rules)?;
        }
        let mut expects: Vec<&Expect> = self.expect.iter().collect();
        expects.sort_by_key(|expect| expect.at);
        let end = expects.last().ok_or("it expects nothing; add a [[test.expect]]")?.at;
        if end > LONGEST {
            return Err(format!("{} is longer than a month", humantime::format_duration(end)));
        }

        let mut replay = Replay::new(rules.to_vec(), poll_interval);
        let tick = poll_interval.min(Duration::from_secs(1));
        let mut expects = expects.into_iter().peekable();
        let mut diff = String::new();
        let mut passed = Duration::ZERO;
        while let Some(next) = expects.peek() {
            // The daemon judges now and then; whoever asks at an instant wants it judged then.
            passed = passed.min(next.at);
            let place = (passed.as_nanos() / self.interval.as_nanos()) as usize;
            for (series, readings) in &series {
                // The last value stays.
                if let Some(reading) = readings.get(place).or(readings.last()) {
                    replay.set(series, *reading);
                }
            }
            replay.judge(start().plus(passed), wall(passed));
            while let Some(expect) = expects.next_if(|expect| expect.at <= passed) {
                diff.push_str(&expect.diff(&replay.alerts()));
            }
            passed += tick;
        }
        Ok(diff)
    }
}

/// The instant at which tests begin: late enough for anything to have begun before.
fn start() -> MonoTime {
    MonoTime::from_nanos(0).plus(LONGEST)
}

/// 2026-01-01T00:00:00Z and later.
fn wall(passed: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600) + passed
}

impl Expected {
    /// An alert that can never be is a slip of the pen.
    fn check(&self, rules: &[Rule]) -> Result<(), String> {
        let Some(rule) = rules.iter().find(|rule| rule.name.as_str() == self.rule) else {
            let names = rules.iter().map(|rule| rule.name.as_str());
            return Err(format!("there is no rule {:?}{}", self.rule, nearest(&self.rule, names)));
        };
        let signal = rule.condition.signal;
        check_target(signal, self.target.is_some()).map_err(|reason| format!("{}: {reason}", self.rule))?;
        let unknown = self.labels.keys().find(|label| !signal.labels.contains(&label.as_str()));
        unknown.map_or(Ok(()), |label| Err(format!("{}: {}", self.rule, no_label(signal, label))))
    }

    fn is(&self, alert: &AlertView) -> bool {
        let id = &alert.id;
        // A label that a series left out is empty.
        let has = |(name, value): &(String, String)| self.labels.get(name).map_or("", String::as_str) == value;
        id.rule.as_str() == self.rule
            && id.cluster.as_str() == self.cluster.as_deref().unwrap_or(CLUSTER)
            && id.target.as_ref().map(Name::as_str) == self.target.as_deref()
            && id.labels.iter().all(has)
            && alert.phase == self.state
            && self.severity.is_none_or(|severity| severity == alert.severity)
    }

    fn line(&self) -> String {
        let mut line = format!("{:<8}  {}", self.state.as_str(), self.severity.map_or("any", Severity::as_str));
        while line.len() < "resolved  critical  ".len() {
            line.push(' ');
        }
        let cluster = self.cluster.as_deref().unwrap_or(CLUSTER);
        let target = self.target.as_ref().map_or_else(String::new, |target| format!("/{target}"));
        let labels: String = self.labels.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        format!("{line}{} {cluster}{target}{labels}", self.rule)
    }
}

impl Expect {
    /// What is not as expected, in the form of a diff. Empty when all is.
    fn diff(&self, alerts: &[AlertView]) -> String {
        let mut have: Vec<&AlertView> = alerts.iter().collect();
        let mut lines = Vec::new();
        let mut differs = false;
        for expected in &self.alerts {
            if let Some(place) = have.iter().position(|alert| expected.is(alert)) {
                lines.push(format!("    {}", expected.line()));
                have.remove(place);
            } else {
                differs = true;
                lines.push(format!("  - {}", expected.line()));
            }
        }
        for alert in have {
            // What has resolved is over. It is worth a line where something is missing.
            let counts = alert.phase != Phase::Resolved;
            differs |= counts;
            lines.push(format!("  {} {}", if counts { "+" } else { " " }, line(alert)));
        }
        if !differs {
            return String::new();
        }
        let at = humantime::format_duration(self.at);
        let mut diff = format!("  at {at} (- expected, + what there is):\n");
        for line in lines {
            diff.push_str(&format!("  {line}\n"));
        }
        diff
    }
}

fn line(alert: &AlertView) -> String {
    let mut line = format!("{:<8}  {:<8}  {}", alert.phase.as_str(), alert.severity.as_str(), alert.id);
    let since = alert.active_at.duration_since(start());
    let _ = write!(line, "  ({}", alert.condition);
    let _ = match alert.reading {
        Some(reading) => write!(line, "; reading {reading}"),
        None => write!(line, "; no reading"),
    };
    let _ = write!(line, "{}, since {})", if alert.is_unknown { ", unknown now" } else { "" }, told(since));
    line
}

fn told(duration: Duration) -> String {
    humantime::format_duration(Duration::from_millis(duration.as_millis() as u64)).to_string()
}

/// `replay_lag_seconds{cluster="orders", target="r1"}`.
fn series(text: &str) -> Result<Series, String> {
    let form = || format!("{text:?} is no series; write for example 'replay_lag_seconds{{target=\"r1\"}}'");
    let (name, labels) = match text.split_once('{') {
        Some((name, rest)) => (name, rest.trim_end().strip_suffix('}').ok_or_else(form)?),
        None => (text, ""),
    };
    let name = name.trim();
    let name = name.strip_prefix("pgvigil_").unwrap_or(name);
    let signal = Signal::named(name).ok_or_else(|| {
        let names = SIGNALS.iter().map(|signal| signal.name);
        format!("there is no signal {name:?}{}", nearest(name, names))
    })?;
    let mut given = BTreeMap::new();
    let mut rest = labels.trim();
    while !rest.is_empty() {
        let (label, after) = rest.split_once('=').ok_or_else(form)?;
        let value = after.trim_start().strip_prefix('"').ok_or_else(form)?;
        let (value, after) = quoted(value).ok_or_else(form)?;
        if given.insert(label.trim().to_owned(), value).is_some() {
            return Err(format!("{text}: label {:?} is there twice", label.trim()));
        }
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if rest.is_empty() => rest,
            None => return Err(form()),
        };
    }
    let cluster = given.remove("cluster").unwrap_or_else(|| CLUSTER.to_owned());
    let target = given.remove("target");
    check_target(signal, target.is_some()).map_err(|reason| format!("{text}: {reason}"))?;
    let labels = signal.labels.iter().map(|label| given.remove(*label).unwrap_or_default()).collect();
    if let Some(label) = given.keys().next() {
        return Err(format!("{text}: {}", no_label(signal, label)));
    }
    Ok(Series { signal, cluster: Name::new(&cluster), target: target.as_deref().map(Name::new), labels })
}

/// A text up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn check_target(signal: &Signal, has_target: bool) -> Result<(), String> {
    match (signal.read, has_target) {
        (Read::Cluster(_), true) => {
            Err(format!("{} is one number for a whole cluster; leave the target out", signal.name))
        }
        (Read::Target(_) | Read::Pooler(_), false) => Err(format!("{} needs a target", signal.name)),
        _ => Ok(()),
    }
}

fn no_label(signal: &Signal, label: &str) -> String {
    let known: Vec<&str> = match signal.read {
        Read::Cluster(_) => vec!["cluster"],
        Read::Target(_) | Read::Pooler(_) => vec!["cluster", "target"],
    };
    let known: Vec<&str> = known.into_iter().chain(signal.labels.iter().copied()).collect();
    format!("{} has no label {label:?}; it has {}", signal.name, known.join(", "))
}

/// The nearest of the names that there are, if there are any.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .max_by(|a, b| strsim::sorensen_dice(name, a).total_cmp(&strsim::sorensen_dice(name, b)))
        .map_or_else(String::new, |known| format!("; the nearest is {known:?}"))
}

#[cfg(test)]
mod tests;
