//! Rules: one signal, a threshold for each severity, how long it must hold. A rule is checked once, when it is parsed,
//! and cannot fail afterwards. It judges values with their bounds: what is proven to breach is told apart from what merely
//! seems to.
//!
//! A rule has one threshold or several, nested: what breaches a severer one breaches the milder ones too. The mildest is
//! the life of its alerts; the others say how severe they are (`alerting.rs`). A threshold to clear (`clear`) makes what
//! lies between the two a reading that neither fires nor resolves.

mod condition;
mod config;
mod fault;
mod preset;
mod selector;
mod template;

use std::time::Duration;

use super::alert::Severity;
use super::datapoints::Datapoints;
use super::signal::{Signal, Unit, Value};
use super::snapshot::{ClusterView, TargetView};
use super::topology::Name;

pub(crate) use self::condition::in_unit_of;
pub use self::condition::{Condition, Op, compared_with};
pub use self::config::{OneOrMany, RuleConfig, WhenUnknown};
pub use self::fault::{RuleError, RuleFault, TemplateFault};
pub use self::preset::{Composed, Preset, compose, preset};
pub use self::selector::Selected;
use self::selector::Selector;
pub use self::template::{Template, Values};

/// A rule that has been checked.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Name,
    /// The mildest, or only, threshold.
    pub severity: Severity,
    pub condition: Condition,
    /// Those beyond it, the mildest first.
    pub above: Vec<Level>,
    pub when_unknown: WhenUnknown,
    pub keep_firing_for: Duration,
    pub warm_up: Duration,
    /// How many of the last periods must breach, instead of a time that a breach must last.
    pub datapoints: Option<Datapoints>,
    /// What its alerts carry beside their own labels.
    pub labels: Vec<(String, String)>,
    pub summary: Option<Template>,
    pub runbook: Option<Template>,
    clear: Option<Condition>,
    hold_for: Option<Duration>,
    selector: Selector,
}

/// A severer threshold.
#[derive(Clone, Debug)]
pub struct Level {
    pub severity: Severity,
    pub condition: Condition,
}

/// What a rule makes of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not one value within the bounds breaches.
    Clear,
    /// The value does not breach, but its bounds do not exclude it, or it is not as far as the threshold to clear: not
    /// enough to fire, not enough to resolve.
    Possible,
    /// The value breaches; its bounds leave a doubt.
    Breach,
    /// Every value within the bounds breaches.
    Proven,
    /// Nothing is known, and the rule holds what it has.
    Unknown,
    /// The subject is there no more.
    Gone,
}

impl Rule {
    /// Checks all rules, and that no two have one name.
    ///
    /// # Errors
    /// The first rule that cannot be used.
    pub fn parse_all(configs: &[RuleConfig], signals: &'static [Signal]) -> Result<Vec<Self>, RuleError> {
        for (index, config) in configs.iter().enumerate() {
            if configs[..index].iter().any(|earlier| earlier.name == config.name) {
                return Err(RuleError { rule: config.name.clone(), fault: RuleFault::Duplicate });
            }
        }
        configs.iter().map(|config| Self::parse(config, signals)).collect()
    }

    /// # Errors
    /// Says what is wrong with the rule, and what would be right.
    pub fn parse(config: &RuleConfig, signals: &'static [Signal]) -> Result<Self, RuleError> {
        Self::check(config, signals).map_err(|fault| RuleError { rule: config.name.clone(), fault })
    }

    fn check(config: &RuleConfig, signals: &'static [Signal]) -> Result<Self, RuleFault> {
        let length = config.name.chars().count();
        if config.name.trim() != config.name
            || !(1..=128).contains(&length)
            || config.name.chars().any(char::is_control)
        {
            return Err(RuleFault::Name);
        }
        let mut levels = levels(config, signals)?.into_iter();
        let Level { severity, condition } = levels.next().ok_or(RuleFault::NoCondition)?;
        let signal = condition.signal;
        let template = |key, fault| RuleFault::Template { key, fault };
        let summary = config.summary.as_ref().map(|text| Template::parse(text, signal));
        let runbook = config.runbook.as_ref().map(|text| Template::parse_address(text, signal));
        Ok(Self {
            name: Name::new(&config.name),
            severity,
            above: levels.collect(),
            clear: clear(config, &condition)?,
            when_unknown: config.when_unknown.unwrap_or_default(),
            keep_firing_for: config.keep_firing_for.unwrap_or_default(),
            warm_up: config.warm_up.unwrap_or_default(),
            datapoints: datapoints(config)?,
            labels: labels(config, signal)?,
            summary: summary.transpose().map_err(|fault| template("summary", fault))?,
            runbook: runbook.transpose().map_err(|fault| template("runbook", fault))?,
            hold_for: config.hold_for,
            selector: Selector::parse(config, signal)?,
            condition,
        })
    }

    pub fn selects_cluster(&self, cluster: &ClusterView) -> bool {
        self.selector.has_cluster(cluster)
    }

    /// Whether the rule is about a target, or a pooler, of this name.
    pub fn selects_name(&self, name: &Name) -> Selected {
        self.selector.has_name(name)
    }

    /// Whether the rule is about this target of a selected cluster.
    pub fn selects(&self, target: &TargetView) -> Selected {
        self.selector.has(target)
    }

    /// Whether the rule is about the subject with these values of the signal's labels.
    pub fn selects_labels(&self, values: &[&str]) -> bool {
        self.selector.has_labels(values)
    }

    /// All thresholds, the mildest first.
    pub fn levels(&self) -> impl Iterator<Item = (Severity, &Condition)> {
        let above = self.above.iter().map(|level| (level.severity, &level.condition));
        std::iter::once((self.severity, &self.condition)).chain(above)
    }

    /// The condition of a severity; the mildest where there is none of that.
    pub fn condition_of(&self, severity: Severity) -> &Condition {
        let above = self.above.iter().find(|level| level.severity == severity);
        above.map_or(&self.condition, |level| &level.condition)
    }

    /// What the rule makes of a value read off `target` (`None` for a signal of the cluster).
    pub fn judge(&self, value: Value, target: Option<&TargetView>) -> Verdict {
        let value = self.read(value, target);
        match (self.condition.judge(value), &self.clear) {
            (Verdict::Clear, Some(clear)) if clear.judge(value) != Verdict::Proven => Verdict::Possible,
            (verdict, _) => verdict,
        }
    }

    /// What one of the severer thresholds makes of it.
    pub fn judge_level(&self, level: &Level, value: Value, target: Option<&TargetView>) -> Verdict {
        level.condition.judge(self.read(value, target))
    }

    fn read(&self, value: Value, target: Option<&TargetView>) -> Value {
        match target {
            Some(target) if self.condition.is_replay_lag() => less_apply_delay(value, target),
            _ => value,
        }
    }

    /// What the rule makes of a value shortly after the cluster got its primary by a promotion `since` ago. What a replica
    /// lags by since then is held, however well it is known: that time is for it to find the new primary. What it lagged by
    /// before is not, and what still breaches afterwards fires.
    pub fn judge_after_promotion(&self, value: Value, target: Option<&TargetView>, since: Duration) -> Verdict {
        self.held_after_promotion(value, since, |value| self.judge(value, target))
    }

    /// The same of a severer threshold.
    pub fn judge_level_after_promotion(
        &self,
        level: &Level,
        value: Value,
        target: Option<&TargetView>,
        since: Duration,
    ) -> Verdict {
        self.held_after_promotion(value, since, |value| self.judge_level(level, value, target))
    }

    fn held_after_promotion(&self, value: Value, since: Duration, judge: impl Fn(Value) -> Verdict) -> Verdict {
        let verdict = judge(value);
        if !self.condition.is_lag() || !matches!(verdict, Verdict::Breach | Verdict::Proven) {
            return verdict;
        }
        let less = |seconds: f64| (seconds - since.as_secs_f64()).max(0.0);
        let before = Value { value: less(value.value), lower: less(value.lower), upper: less(value.upper) };
        let was_behind = self.condition.signal.unit == Unit::Seconds && judge(before) == Verdict::Proven;
        if was_behind { verdict } else { Verdict::Unknown }
    }

    /// What the rule makes of a subject whose reading is not known.
    pub const fn judge_unknown(&self) -> Verdict {
        match self.when_unknown {
            WhenUnknown::Hold => Verdict::Unknown,
            WhenUnknown::Clear => Verdict::Clear,
            WhenUnknown::Breach | WhenUnknown::Alert => Verdict::Breach,
        }
    }

    /// How long a breach must last before it fires.
    pub fn hold(&self, verdict: Verdict, poll_interval: Duration) -> Duration {
        match (self.hold_for, verdict) {
            (Some(hold_for), _) => hold_for,
            (None, Verdict::Proven) => Duration::ZERO,
            (None, _) => poll_interval * 2,
        }
    }
}

/// A replica told to stay behind (`recovery_min_apply_delay`) lags by what it lags beyond that. Done here and not in the
/// signal: the number that is shown stays the lag. Until the first survey has told the delay, nothing proves that there is a breach.
fn less_apply_delay(value: Value, target: &TargetView) -> Value {
    match target.survey.as_ref().and_then(|survey| survey.facts.apply_delay_seconds) {
        Some(delay) => {
            let less = |seconds: f64| (seconds - delay).max(0.0);
            Value { value: less(value.value), lower: less(value.lower), upper: less(value.upper) }
        }
        None => Value { lower: 0.0, ..value },
    }
}

/// The thresholds as written, the mildest first.
fn levels(config: &RuleConfig, signals: &'static [Signal]) -> Result<Vec<Level>, RuleFault> {
    let written = [
        ("info", Severity::Info, &config.info),
        ("warning", Severity::Warning, &config.warning),
        ("critical", Severity::Critical, &config.critical),
    ];
    let mut written = written.into_iter().filter_map(|(key, severity, text)| Some((key, severity, text.as_ref()?)));
    let signal = match (&config.when, &config.signal) {
        (Some(when), None) => {
            if let Some((key, ..)) = written.next() {
                return Err(RuleFault::WhenAndLevel(key));
            }
            let severity = config.severity.unwrap_or(Severity::Warning);
            return Ok(vec![Level { severity, condition: Condition::parse(when, signals)? }]);
        }
        (Some(_), Some(_)) => return Err(RuleFault::WhenAndLevel("signal")),
        (None, None) => return Err(RuleFault::NoCondition),
        (None, Some(signal)) => condition::signal(signal, signals)?,
    };
    if config.severity.is_some() {
        return Err(RuleFault::SeverityAndSignal);
    }
    let mut levels: Vec<Level> = Vec::new();
    for (key, severity, text) in written {
        let condition = Condition::of(signal, key, text)?;
        if let Some(Level { severity: milder, condition: other }) = levels.last() {
            let milder = milder.as_str();
            let is_farther = match condition.op.direction().filter(|own| other.op.direction() == Some(*own)) {
                Some(condition::Direction::Up) => condition.threshold > other.threshold,
                Some(condition::Direction::Down) => condition.threshold < other.threshold,
                None => return Err(RuleFault::LevelsApart { milder, severer: key }),
            };
            if !is_farther {
                let (other, given) = (other.comparison.clone(), condition.comparison);
                return Err(RuleFault::LevelsOrder { milder, other, severer: key, given });
            }
        }
        levels.push(Level { severity, condition });
    }
    if levels.is_empty() { Err(RuleFault::NoLevel(condition::example(signal.unit))) } else { Ok(levels) }
}

/// What must hold for an alert to resolve, if that is more than that its condition does not.
fn clear(config: &RuleConfig, condition: &Condition) -> Result<Option<Condition>, RuleFault> {
    use self::condition::Direction::{Down, Up};
    let Some(text) = &config.clear else { return Ok(None) };
    let clear = Condition::of(condition.signal, "clear", text)?;
    let (own, other) = (clear.comparison.clone(), condition.text.clone());
    let Some(direction) = condition.op.direction() else { return Err(RuleFault::ClearOfEquality(other)) };
    let value = condition.comparison.trim_start_matches(['>', '<', '=']).trim();
    let overlaps = match (direction, clear.op.direction()) {
        (Up, Some(Down)) => {
            clear.threshold > condition.threshold
                || (clear.threshold >= condition.threshold && clear.op == Op::Le && condition.op == Op::Ge)
        }
        (Down, Some(Up)) => {
            clear.threshold < condition.threshold
                || (clear.threshold <= condition.threshold && clear.op == Op::Ge && condition.op == Op::Le)
        }
        (Up, _) => {
            return Err(RuleFault::ClearDirection { clear: own, condition: other, example: format!("< {value}") });
        }
        (Down, _) => {
            return Err(RuleFault::ClearDirection { clear: own, condition: other, example: format!("> {value}") });
        }
    };
    if overlaps { Err(RuleFault::ClearOverlaps { clear: own, condition: other }) } else { Ok(Some(clear)) }
}

fn datapoints(config: &RuleConfig) -> Result<Option<Datapoints>, RuleFault> {
    let (text, every) = match (&config.datapoints, config.every) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(RuleFault::EveryWithoutDatapoints),
        (Some(_), _) if config.hold_for.is_some() => return Err(RuleFault::DatapointsAndFor),
        (Some(_), None) => return Err(RuleFault::DatapointsWithoutEvery),
        (Some(text), Some(every)) => (text, every),
    };
    // Rules are judged about once a second: of shorter periods most would be unknown, and nothing would ever fire.
    if every < Duration::from_secs(1) {
        return Err(RuleFault::EveryOfNothing);
    }
    Datapoints::parse(text, every).map(Some).ok_or_else(|| RuleFault::Datapoints(text.clone()))
}

/// What a rule's own labels may not be called: every alert has these.
const TAKEN: [&str; 6] = ["alertname", "rule", "severity", "state", "cluster", "target"];

fn labels(config: &RuleConfig, signal: &'static Signal) -> Result<Vec<(String, String)>, RuleFault> {
    for (name, value) in &config.labels {
        let is_name = name.len() <= 64
            && name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(RuleFault::LabelName(name.clone()));
        }
        if TAKEN.contains(&name.as_str()) || signal.labels.contains(&name.as_str()) {
            return Err(RuleFault::LabelTaken(name.clone()));
        }
        if value.is_empty() || value.chars().count() > 256 || value.chars().any(char::is_control) {
            return Err(RuleFault::LabelValue(name.clone()));
        }
    }
    Ok(config.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
pub(crate) mod tests;
