//! Rules: one signal, one comparison, how long it must hold. A rule is checked once, when it is parsed, and cannot fail
//! afterwards. It judges values with their bounds: what is proven to breach is told apart from what merely seems to.

use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::alert::Severity;
use super::cause::Cause;
use super::lag::Certainty;
use super::signal::{Read, Signal, Unit, Value};
use super::snapshot::{ClusterView, TargetView};
use super::topology::{Name, Role};

/// A rule as written under `[[rule]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub name: String,
    /// `signal op value`: a signal's name, with or without `pgvigil_`; one of `> >= < <= == !=`; a value in the signal's
    /// unit (`5s`, `64MiB`, `80%`, `3`).
    pub when: String,
    /// How long the condition must hold before the alert fires. Not set: a proven breach fires at once, one that rests on an
    /// estimate must last two poll intervals.
    #[serde(default, rename = "for", deserialize_with = "duration")]
    pub hold_for: Option<Duration>,
    /// How long the condition must be clear before the alert resolves. Not set: at once.
    #[serde(default, deserialize_with = "duration")]
    pub keep_firing_for: Option<Duration>,
    #[serde(default = "default_severity")]
    pub severity: Severity,
    /// Only these clusters. Empty: all.
    #[serde(default)]
    pub cluster: OneOrMany,
    /// Only these targets. Empty: all.
    #[serde(default)]
    pub target: OneOrMany,
    /// Only targets of this role, by their own last word.
    #[serde(default)]
    pub role: Option<Role>,
    /// Only while the replica's lag is told with one of these certainties (`exact`, `at_least`, `at_most`, `unknown`). Empty: any.
    #[serde(default)]
    pub certainty: OneOrMany,
    /// Only while the replica lags, and this is the cause to act on first (`blocked_by_query`, ...). Empty: any, and none.
    #[serde(default)]
    pub cause: OneOrMany,
    #[serde(default)]
    pub when_unknown: WhenUnknown,
}

const fn default_severity() -> Severity {
    Severity::Warning
}

/// A name, or a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrManyForm")]
pub struct OneOrMany(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a name or a list of names")]
enum OneOrManyForm {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrManyForm> for OneOrMany {
    fn from(form: OneOrManyForm) -> Self {
        match form {
            OneOrManyForm::One(name) => Self(vec![name]),
            OneOrManyForm::Many(names) => Self(names),
        }
    }
}

/// What a rule makes of a reading that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnknown {
    /// The alert stays as it is: what is pending does not fire, what fires does not resolve.
    #[default]
    Hold,
    /// As if the condition did not hold.
    Clear,
    /// As if the condition held, though without proof.
    Breach,
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}: {fault}")]
pub struct RuleError {
    pub rule: String,
    pub fault: RuleFault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    #[error("a rule needs a name of 1 to 128 characters without control characters")]
    Name,
    #[error("two rules have this name")]
    Duplicate,
    #[error("cannot read {0:?}; write for example \"replay_lag_seconds > 5s\", with one of > >= < <= == !=")]
    Form(String),
    #[error("there is no signal {name:?}; the nearest is {nearest:?}")]
    Signal { name: String, nearest: &'static str },
    #[error("threshold {text:?} is {given}, but {signal} is {wanted}; write for example {example:?}")]
    Unit { text: String, given: &'static str, signal: &'static str, wanted: &'static str, example: &'static str },
    #[error("it selects by {selector}, but {signal} is {about}")]
    Selector { selector: &'static str, signal: &'static str, about: &'static str },
    #[error("there is no cause {name:?}; the nearest is {nearest:?}")]
    Cause { name: String, nearest: &'static str },
    #[error("there is no certainty {0:?}; write one of exact, at_least, at_most, unknown")]
    Certainty(String),
}

/// A rule that has been checked.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Name,
    pub severity: Severity,
    pub condition: Condition,
    pub when_unknown: WhenUnknown,
    pub keep_firing_for: Duration,
    hold_for: Option<Duration>,
    clusters: Vec<String>,
    targets: Vec<String>,
    role: Option<Role>,
    certainties: Vec<Certainty>,
    causes: Vec<Cause>,
}

/// One comparison of a signal with a threshold.
#[derive(Clone, Debug)]
pub struct Condition {
    pub signal: &'static Signal,
    pub op: Op,
    /// In the signal's base unit: seconds, bytes, a fraction of 1, a count.
    pub threshold: f64,
    /// As written, for example `replay_lag_seconds > 5s`.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Gt,
    Ge,
    Lt,
    Le,
    Eq,
    Ne,
}

/// What a rule makes of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not one value within the bounds breaches.
    Clear,
    /// The value does not breach, but its bounds do not exclude it: not enough to fire, not enough to resolve.
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

/// Whether a rule is about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    Yes,
    No,
    /// It cannot be told, because the target has not yet said its role.
    Unknown,
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
        let condition = Condition::parse(&config.when, signals)?;
        let about = match condition.signal.read {
            Read::Cluster(_) => "one number for a whole cluster",
            Read::Pooler(_) => "of a connection pooler",
            Read::Target(_) => "",
        };
        let by_name = !config.target.0.is_empty() && matches!(condition.signal.read, Read::Cluster(_));
        let selectors = [
            (by_name, "target"),
            (config.role.is_some(), "role"),
            (!config.certainty.0.is_empty(), "certainty"),
            (!config.cause.0.is_empty(), "cause"),
        ];
        if let Some((_, selector)) = selectors.into_iter().find(|(is_set, _)| *is_set && !about.is_empty()) {
            return Err(RuleFault::Selector { selector, signal: condition.signal.name, about });
        }
        let certainty = |word: &String| {
            [Certainty::Exact, Certainty::AtLeast, Certainty::AtMost, Certainty::Unknown]
                .into_iter()
                .find(|certainty| certainty.as_str() == word)
                .ok_or_else(|| RuleFault::Certainty(word.clone()))
        };
        let cause = |word: &String| {
            Cause::named(word).ok_or_else(|| RuleFault::Cause {
                name: word.clone(),
                nearest: nearest(word, Cause::ALL.into_iter().map(Cause::as_str)),
            })
        };
        Ok(Self {
            name: Name::new(&config.name),
            severity: config.severity,
            condition,
            when_unknown: config.when_unknown,
            keep_firing_for: config.keep_firing_for.unwrap_or_default(),
            hold_for: config.hold_for,
            clusters: config.cluster.0.clone(),
            targets: config.target.0.clone(),
            role: config.role,
            certainties: config.certainty.0.iter().map(certainty).collect::<Result<_, _>>()?,
            causes: config.cause.0.iter().map(cause).collect::<Result<_, _>>()?,
        })
    }

    pub fn selects_cluster(&self, cluster: &ClusterView) -> bool {
        self.clusters.is_empty() || self.clusters.iter().any(|name| name == cluster.name.as_str())
    }

    /// Whether the rule is about a target, or a pooler, of this name.
    pub fn selects_name(&self, name: &Name) -> Selected {
        let is_named = self.targets.is_empty() || self.targets.iter().any(|own| own == name.as_str());
        if is_named { Selected::Yes } else { Selected::No }
    }

    /// Whether the rule is about this target of a selected cluster.
    pub fn selects(&self, target: &TargetView) -> Selected {
        if self.selects_name(&target.id.target) == Selected::No {
            return Selected::No;
        }
        if let Some(role) = self.role {
            match target.last_role() {
                None => return Selected::Unknown,
                Some(own) if own != role => return Selected::No,
                Some(_) => {}
            }
        }
        if !self.certainties.is_empty() {
            let certainty = target.lag.map_or(Certainty::Unknown, |lag| lag.certainty);
            if !self.certainties.contains(&certainty) {
                return Selected::No;
            }
        }
        if !self.causes.is_empty() {
            let cause = target.diagnosis.as_ref().and_then(|diagnosis| diagnosis.cause());
            if !cause.is_some_and(|told| self.causes.contains(&told.cause)) {
                return Selected::No;
            }
        }
        Selected::Yes
    }

    /// What the rule makes of a value read off `target` (`None` for a signal of the cluster).
    pub fn judge(&self, value: Value, target: Option<&TargetView>) -> Verdict {
        let value = match target {
            Some(target) if self.condition.is_replay_lag() => less_apply_delay(value, target),
            _ => value,
        };
        self.condition.judge(value)
    }

    /// What the rule makes of a value shortly after the cluster got its primary by a promotion `since` ago. What a replica
    /// lags by since then is held, however well it is known: that time is for it to find the new primary. What it lagged by
    /// before is not, and what still breaches afterwards fires.
    pub fn judge_after_promotion(&self, value: Value, target: Option<&TargetView>, since: Duration) -> Verdict {
        let verdict = self.judge(value, target);
        if !self.condition.is_lag() || !matches!(verdict, Verdict::Breach | Verdict::Proven) {
            return verdict;
        }
        let less = |seconds: f64| (seconds - since.as_secs_f64()).max(0.0);
        let before = Value { value: less(value.value), lower: less(value.lower), upper: less(value.upper) };
        let was_behind = self.condition.signal.unit == Unit::Seconds && self.judge(before, target) == Verdict::Proven;
        if was_behind { verdict } else { Verdict::Unknown }
    }

    /// What the rule makes of a subject whose reading is not known.
    pub const fn judge_unknown(&self) -> Verdict {
        match self.when_unknown {
            WhenUnknown::Hold => Verdict::Unknown,
            WhenUnknown::Clear => Verdict::Clear,
            WhenUnknown::Breach => Verdict::Breach,
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

impl Condition {
    fn parse(when: &str, signals: &'static [Signal]) -> Result<Self, RuleFault> {
        let form = || RuleFault::Form(when.to_owned());
        let start = when.find(['>', '<', '=', '!']).ok_or_else(form)?;
        let (op, op_text) = Op::at_start_of(&when[start..]).ok_or_else(form)?;
        let (name, text) = (when[..start].trim(), when[start + op_text.len()..].trim());
        // `5s < replay_lag_seconds` is the wrong way round, and `5s` no signal's name spelt badly.
        if !name.starts_with(|first: char| first.is_ascii_alphabetic())
            || text.is_empty()
            || text.contains(['>', '<', '=', '!'])
        {
            return Err(form());
        }
        let name = name.strip_prefix("pgvigil_").unwrap_or(name);
        let signal = signals.iter().find(|signal| signal.name == name).ok_or_else(|| RuleFault::Signal {
            name: name.to_owned(),
            nearest: nearest(name, signals.iter().map(|signal| signal.name)),
        })?;
        let threshold = threshold(text, signal)?;
        Ok(Self { signal, op, threshold, text: format!("{name} {op_text} {text}") })
    }

    /// Whether the signal is a replay lag in seconds, which rules read less the delay that was asked for.
    pub fn is_replay_lag(&self) -> bool {
        matches!(self.signal.name, "replay_lag_seconds" | "replay_lag_lower_seconds" | "replay_lag_upper_seconds")
    }

    /// Whether the signal is a lag of any kind, in seconds or in bytes.
    fn is_lag(&self) -> bool {
        self.signal.name.contains("_lag_")
    }

    fn judge(&self, Value { value, lower, upper }: Value) -> Verdict {
        if value.is_nan() {
            return Verdict::Unknown;
        }
        let t = self.threshold;
        #[expect(clippy::float_cmp, reason = "`==` and `!=` are for counts and 0/1, which are exact")]
        let (all, one, any) = match self.op {
            Op::Gt => (lower > t, value > t, upper > t),
            Op::Ge => (lower >= t, value >= t, upper >= t),
            Op::Lt => (upper < t, value < t, lower < t),
            Op::Le => (upper <= t, value <= t, lower <= t),
            Op::Eq => (lower == t && upper == t, value == t, lower <= t && t <= upper),
            Op::Ne => (t < lower || upper < t, value != t, lower != t || upper != t),
        };
        match (all, one, any) {
            (true, true, _) => Verdict::Proven,
            (_, true, _) => Verdict::Breach,
            (_, false, true) => Verdict::Possible,
            (_, false, false) => Verdict::Clear,
        }
    }
}

impl Op {
    fn at_start_of(text: &str) -> Option<(Self, &'static str)> {
        [(Self::Ge, ">="), (Self::Le, "<="), (Self::Eq, "=="), (Self::Ne, "!="), (Self::Gt, ">"), (Self::Lt, "<")]
            .into_iter()
            .find(|(_, op)| text.starts_with(op))
    }
}

fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    known
        .map(|known| (strsim::sorensen_dice(name, known), known))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or("", |(_, name)| name)
}

/// A value, written as in a rule, in the base unit of its signal.
pub(crate) fn in_unit_of(signal: &'static Signal, text: &str) -> Option<f64> {
    threshold(text, signal).ok()
}

/// A threshold in the base unit of its signal.
fn threshold(text: &str, signal: &'static Signal) -> Result<f64, RuleFault> {
    let plain = text.parse::<f64>().ok().filter(|number| number.is_finite());
    let value = match signal.unit {
        Unit::Seconds => seconds(text),
        Unit::Bytes => bytes(text),
        Unit::BytesPerSecond => bytes(text.strip_suffix("/s").unwrap_or(text)),
        // A plain 80 would be 8,000 %: surely not what was meant.
        Unit::Ratio => percent(text).or(plain.filter(|ratio| (-1.0..=1.0).contains(ratio))),
        Unit::Count => plain,
        Unit::Bool => plain.filter(|bit| [0.0, 1.0].contains(bit)),
    };
    value.ok_or_else(|| RuleFault::Unit {
        text: text.to_owned(),
        given: if bytes(text).is_some() && plain.is_none() {
            "a size"
        } else if seconds(text).is_some() && plain.is_none() {
            "a duration"
        } else if percent(text).is_some() {
            "a ratio"
        } else if plain.is_some() {
            "a plain number"
        } else {
            "not a value"
        },
        signal: signal.name,
        wanted: match signal.unit {
            Unit::Seconds => "a duration",
            Unit::Bytes => "a size",
            Unit::BytesPerSecond => "a rate",
            Unit::Ratio => "a ratio",
            Unit::Count => "a count",
            Unit::Bool => "0 or 1",
        },
        example: match signal.unit {
            Unit::Seconds => "10s",
            Unit::Bytes => "64MiB",
            Unit::BytesPerSecond => "10MB/s",
            Unit::Ratio => "80%",
            Unit::Count => "3",
            Unit::Bool => "0",
        },
    })
}

fn seconds(text: &str) -> Option<f64> {
    humantime::parse_duration(text).ok().map(|duration| duration.as_secs_f64())
}

fn percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?.trim_end().parse::<f64>().ok()?;
    number.is_finite().then_some(number / 100.0)
}

/// A size: a number and `B`, `kB`/`KB`, `MB`, `GB`, `TB` (powers of 1000) or `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024).
fn bytes(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim_start() {
        "" if number == "0" => 1.0,
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration such as \"1m\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Text).map(Some)
}

/// The rules that apply when none are written.
pub fn preset() -> Vec<RuleConfig> {
    const MINUTE: u64 = 60;
    let rule = |name: &str, when: &str, hold_for: u64, severity: Severity| RuleConfig {
        name: name.to_owned(),
        when: when.to_owned(),
        hold_for: Some(Duration::from_secs(hold_for)),
        keep_firing_for: None,
        severity,
        cluster: OneOrMany::default(),
        target: OneOrMany::default(),
        role: None,
        certainty: OneOrMany::default(),
        cause: OneOrMany::default(),
        when_unknown: WhenUnknown::Hold,
    };
    vec![
        rule("TargetDown", "target_up == 0", 10, Severity::Critical),
        rule("ReplicaLagging", "replay_lag_seconds > 5s", 15, Severity::Warning),
        RuleConfig { hold_for: None, ..rule("ReplicaLagCritical", "replay_lag_seconds > 60s", 0, Severity::Critical) },
        // The primary is lost: nothing proves that the replica has its last WAL. Slower, for it is no fault of the replica.
        RuleConfig {
            certainty: OneOrMany(vec![Certainty::AtLeast.as_str().to_owned()]),
            ..rule("ReplicaLagUnproven", "replay_lag_upper_seconds > 5m", MINUTE, Severity::Warning)
        },
        rule("ReplicaNotReceiving", "receiver_running == 0", 30, Severity::Warning),
        rule("ConnectionsNearLimit", "connections_used_ratio > 80%", MINUTE, Severity::Warning),
        rule("InactiveSlotRetainsWal", "slot_inactive_retained_bytes > 1GiB", 5 * MINUTE, Severity::Warning),
        // Lasting, for the rate of WAL has its peaks. No page at night: a limit on slots is there to have slots lost.
        rule("SlotNearlyLost", "slot_lost_in_seconds < 1h", 5 * MINUTE, Severity::Warning),
        RuleConfig { hold_for: None, ..rule("SlotLost", "slot_invalidated == 1", 0, Severity::Warning) },
        // Not at once: in a switchover the old primary's last answer may still stand beside the new one's first.
        rule("SeveralPrimaries", "primaries > 1", 5, Severity::Critical),
        // It holds locks and keeps dead rows from being removed, and nobody waits for it to end.
        rule("IdleInTransaction", "idle_in_transaction_oldest_seconds > 10m", 0, Severity::Warning),
        rule("LockWait", "lock_wait_longest_seconds > 1m", 30, Severity::Warning),
        // Pools keep a few for hours; this many hold connections that others may want.
        rule("ConnectionsIdle", "connections_idle_long > 20", 15 * MINUTE, Severity::Info),
        RuleConfig {
            role: Some(Role::Primary),
            ..rule("PrimaryPromoted", "role_change_age_seconds < 5m", 0, Severity::Info)
        },
        // A replica's restart, or its way to another upstream, is over by then.
        rule("ReplicaMissing", "standby_missing == 1", 2 * MINUTE, Severity::Warning),
        // A connection that only the replica believes in has broken by then, too (`wal_receiver_timeout`).
        rule("ReplicaFollowsElsewhere", "wrong_upstream == 1", 2 * MINUTE, Severity::Warning),
        // The control file of a replica that does not stream tells a new timeline as late as its next restartpoint.
        rule("ReplicaOnOldTimeline", "timelines_behind > 0", 5 * MINUTE, Severity::Warning),
        // A new replica is often there before it is configured here.
        rule("UndeclaredStandby", "undeclared_standbys > 0", 5 * MINUTE, Severity::Warning),
        // Commits wait. Longer than a slow beat, after which a changed setting is known.
        rule("SyncStandbysMissing", "sync_standbys_missing > 0", 30, Severity::Critical),
        rule("PoolerDown", "pooler_up == 0", 15, Severity::Warning),
        // Clients wait now and then for less; a client that has waited for so long is about to give up.
        rule("ConnectionPoolExhausted", "pooler_longest_wait_seconds > 5s", 10, Severity::Critical),
        // A worker that ends with an error is started again within seconds: one look may come in between.
        rule("SubscriptionNotRunning", "subscription_running == 0", MINUTE, Severity::Warning),
        // One large transaction, or a first copy, may well take minutes to apply.
        rule("SubscriptionLagging", "subscription_lag_seconds > 5m", MINUTE, Severity::Warning),
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::lag::LagEstimate;
    use crate::core::signal::{Coverage, Kind, Says};
    use crate::core::topology::TargetId;

    const fn signal(name: &'static str, unit: Unit, labels: &'static [&'static str], read: Read) -> Signal {
        Signal {
            name,
            unit,
            kind: Kind::Gauge,
            help: "A number.",
            absent: "",
            source: "",
            says: Says::Number,
            labels,
            read,
            shown: None,
        }
    }

    fn lag(target: &TargetView, emit: &mut dyn FnMut(&[&str], Value), of: fn(&LagEstimate) -> Value) -> Coverage {
        match &target.lag {
            Some(lag) => {
                emit(&[], of(lag));
                Coverage::Complete
            }
            None => Coverage::Unknown,
        }
    }

    /// As many signals as the tests of rules need.
    pub(crate) static SIGNALS: &[Signal] = &[
        signal(
            "target_up",
            Unit::Bool,
            &[],
            Read::Target(|_, target, _, emit| {
                if target.tried() {
                    emit(&[], Value::exact(f64::from(u8::from(target.is_up()))));
                }
                Coverage::Unknown
            }),
        ),
        signal(
            "replay_lag_seconds",
            Unit::Seconds,
            &[],
            Read::Target(|_, target, _, emit| {
                lag(target, emit, |lag| Value {
                    value: lag.value.unwrap_or(f64::NAN),
                    lower: lag.lower,
                    upper: lag.upper,
                })
            }),
        ),
        signal(
            "replay_lag_upper_seconds",
            Unit::Seconds,
            &[],
            Read::Target(|_, target, _, emit| lag(target, emit, |lag| Value::exact(lag.upper))),
        ),
        signal("pooler_up", Unit::Bool, &[], Read::Pooler(|_, _, _| Coverage::Unknown)),
        signal(
            "pooler_longest_wait_seconds",
            Unit::Seconds,
            &["database", "user"],
            Read::Pooler(|pooler, now, emit| {
                let Some(answer) = pooler.fresh(now) else { return Coverage::Unknown };
                for pool in &answer.facts.pools {
                    emit(&[&pool.database, &pool.user], Value::exact(pool.longest_wait));
                }
                Coverage::Complete
            }),
        ),
        signal("receiver_running", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("wal_write_bytes_per_second", Unit::BytesPerSecond, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("role_change_age_seconds", Unit::Seconds, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("standby_missing", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("wrong_upstream", Unit::Bool, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("timelines_behind", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("undeclared_standbys", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("sync_standbys_missing", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal(
            "subscription_running",
            Unit::Bool,
            &["datname", "subscription"],
            Read::Target(|_, _, _, _| Coverage::Unknown),
        ),
        signal(
            "subscription_lag_seconds",
            Unit::Seconds,
            &["datname", "subscription"],
            Read::Target(|_, _, _, _| Coverage::Unknown),
        ),
        signal("connections_used_ratio", Unit::Ratio, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("idle_in_transaction_oldest_seconds", Unit::Seconds, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("lock_wait_longest_seconds", Unit::Seconds, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("connections_idle_long", Unit::Count, &[], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal(
            "slot_inactive_retained_bytes",
            Unit::Bytes,
            &["slot"],
            Read::Target(|_, target, now, emit| {
                let Some(facts) = target.fresh_survey(now) else { return Coverage::Unknown };
                for slot in facts.slots.iter().flatten().filter(|slot| !slot.active) {
                    if let Some(retained) = slot.retained_bytes {
                        emit(&[&slot.name], Value::exact(retained as f64));
                    }
                }
                Coverage::Complete
            }),
        ),
        signal("slot_lost_in_seconds", Unit::Seconds, &["slot"], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal("slot_invalidated", Unit::Bool, &["slot", "reason"], Read::Target(|_, _, _, _| Coverage::Unknown)),
        signal(
            "primaries",
            Unit::Count,
            &[],
            Read::Cluster(|cluster, _, emit| {
                let n_primaries = cluster.targets.iter().filter(|t| t.last_role() == Some(Role::Primary)).count();
                emit(&[], Value::exact(n_primaries as f64));
                Coverage::Complete
            }),
        ),
    ];

    pub(crate) fn config(name: &str, when: &str) -> RuleConfig {
        RuleConfig {
            name: name.to_owned(),
            when: when.to_owned(),
            hold_for: None,
            keep_firing_for: None,
            severity: Severity::Warning,
            cluster: OneOrMany::default(),
            target: OneOrMany::default(),
            role: None,
            certainty: OneOrMany::default(),
            cause: OneOrMany::default(),
            when_unknown: WhenUnknown::Hold,
        }
    }

    fn condition(when: &str) -> Result<(&'static str, Op, f64), String> {
        Rule::parse(&config("R", when), SIGNALS)
            .map(|Rule { condition, .. }| (condition.signal.name, condition.op, condition.threshold))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_threshold_is_read_in_the_unit_of_its_signal() {
        for (when, signal, op, threshold) in [
            ("replay_lag_seconds > 5s", "replay_lag_seconds", Op::Gt, 5.0),
            ("pgvigil_replay_lag_seconds>=1m 30s", "replay_lag_seconds", Op::Ge, 90.0),
            ("replay_lag_seconds < 250ms", "replay_lag_seconds", Op::Lt, 0.25),
            ("slot_inactive_retained_bytes > 64MiB", "slot_inactive_retained_bytes", Op::Gt, 67_108_864.0),
            ("slot_inactive_retained_bytes <= 1.5 GB", "slot_inactive_retained_bytes", Op::Le, 1.5e9),
            ("slot_inactive_retained_bytes > 0", "slot_inactive_retained_bytes", Op::Gt, 0.0),
            ("connections_used_ratio > 80%", "connections_used_ratio", Op::Gt, 0.8),
            ("connections_used_ratio > 0.8", "connections_used_ratio", Op::Gt, 0.8),
            ("wal_write_bytes_per_second < 10MB/s", "wal_write_bytes_per_second", Op::Lt, 1e7),
            ("wal_write_bytes_per_second < 1KiB", "wal_write_bytes_per_second", Op::Lt, 1024.0),
            ("primaries != 1", "primaries", Op::Ne, 1.0),
            ("  target_up  ==  0 ", "target_up", Op::Eq, 0.0),
        ] {
            assert_eq!(condition(when), Ok((signal, op, threshold)), "{when}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_used_says_what_would_be_right() {
        let lag_is = "but replay_lag_seconds is a duration; write for example \"10s\"";
        let form = "with one of > >= < <= == !=";
        for (when, fault) in [
            ("replay_lag_seconds > 10MB", format!("threshold \"10MB\" is a size, {lag_is}")),
            ("replay_lag_seconds > 5", format!("threshold \"5\" is a plain number, {lag_is}")),
            ("replay_lag_seconds > 5%", format!("threshold \"5%\" is a ratio, {lag_is}")),
            ("replay_lag_seconds > soon", format!("threshold \"soon\" is not a value, {lag_is}")),
            (
                "connections_used_ratio > 80",
                "threshold \"80\" is a plain number, but connections_used_ratio is a ratio; write for example \"80%\""
                    .into(),
            ),
            (
                "primaries > 10s",
                "threshold \"10s\" is a duration, but primaries is a count; write for example \"3\"".into(),
            ),
            (
                "target_up == 2",
                "threshold \"2\" is a plain number, but target_up is 0 or 1; write for example \"0\"".into(),
            ),
            ("replica_lag > 5s", "there is no signal \"replica_lag\"; the nearest is \"replay_lag_seconds\"".into()),
            (
                "primaries = 1",
                format!("cannot read \"primaries = 1\"; write for example \"replay_lag_seconds > 5s\", {form}"),
            ),
            ("primaries", format!("cannot read \"primaries\"; write for example \"replay_lag_seconds > 5s\", {form}")),
            (
                "1 < primaries < 3",
                format!("cannot read \"1 < primaries < 3\"; write for example \"replay_lag_seconds > 5s\", {form}"),
            ),
        ] {
            assert_eq!(condition(when), Err(format!("rule \"R\": {fault}")));
        }
    }

    #[test]
    fn a_rule_over_a_whole_cluster_selects_no_target() {
        let role = RuleConfig { role: Some(Role::Replica), ..config("R", "primaries > 1") };
        let target = RuleConfig { target: OneOrMany(vec!["a".into()]), ..config("R", "primaries > 1") };
        for (config, selector) in [(role, "role"), (target, "target")] {
            assert_eq!(
                Rule::parse(&config, SIGNALS).map(drop).map_err(|error| error.fault),
                Err(RuleFault::Selector { selector, signal: "primaries", about: "one number for a whole cluster" })
            );
        }
    }

    #[test]
    fn a_rule_may_be_about_some_causes_alone() {
        use crate::core::cause::{Cause, Diagnosis, Told};
        let about = |causes: &[&str]| RuleConfig {
            cause: OneOrMany(causes.iter().map(|&cause| cause.to_owned()).collect()),
            ..config("R", "replay_lag_seconds > 5s")
        };
        let misspelt = Rule::parse(&about(&["blocked_by_querry"]), SIGNALS).map(drop);
        assert_eq!(
            misspelt.map_err(|error| error.to_string()),
            Err("rule \"R\": there is no cause \"blocked_by_querry\"; the nearest is \"blocked_by_query\"".to_owned())
        );
        let rule = Rule::parse(&about(&["replay_paused", "blocked_by_query"]), SIGNALS).expect("a good rule");
        let mut target = TargetView::new(TargetId::new("orders", "r1"), Duration::from_secs(10));
        assert_eq!(rule.selects(&target), Selected::No);
        for (lags, first, expect) in [
            (true, Cause::BlockedByQuery, Selected::Yes),
            (true, Cause::SlowReplay, Selected::No),
            (false, Cause::BlockedByQuery, Selected::No),
        ] {
            let told = |cause| Told { cause, why: String::new() };
            let causes = vec![told(first), told(Cause::ReplayPaused)];
            target.diagnosis = Some(std::sync::Arc::new(Diagnosis { lags, causes }));
            assert_eq!(rule.selects(&target), expect, "{first:?}");
        }
    }

    #[test]
    fn a_rule_over_poolers_selects_by_name_alone() {
        let about = "of a connection pooler";
        let role = RuleConfig { role: Some(Role::Replica), ..config("R", "pooler_up == 0") };
        assert_eq!(
            Rule::parse(&role, SIGNALS).map(drop).map_err(|error| error.fault),
            Err(RuleFault::Selector { selector: "role", signal: "pooler_up", about })
        );
        let target = RuleConfig { target: OneOrMany(vec!["pgb".into()]), ..config("R", "pooler_up == 0") };
        let rule = Rule::parse(&target, SIGNALS).unwrap();
        assert_eq!(["pgb", "other"].map(|name| rule.selects_name(&Name::new(name))), [Selected::Yes, Selected::No]);
    }

    #[test]
    fn two_rules_of_one_name_are_refused() {
        let rules = [config("A", "primaries > 1"), config("B", "primaries > 1"), config("A", "primaries > 2")];
        let error = Rule::parse_all(&rules, SIGNALS).map(drop).map_err(|error| error.to_string());
        assert_eq!(error, Err("rule \"A\": two rules have this name".to_owned()));
    }

    #[test]
    fn a_rule_is_read_as_written() {
        let text = r#"{"name": "ReplicaLagging", "when": "replay_lag_seconds > 5s", "for": "1m", "keep_firing_for": "30s",
            "severity": "critical", "cluster": "orders", "target": ["a", "b"], "role": "replica", "when_unknown": "breach"}"#;
        let expect = RuleConfig {
            hold_for: Some(Duration::from_secs(60)),
            keep_firing_for: Some(Duration::from_secs(30)),
            severity: Severity::Critical,
            cluster: OneOrMany(vec!["orders".into()]),
            target: OneOrMany(vec!["a".into(), "b".into()]),
            role: Some(Role::Replica),
            when_unknown: WhenUnknown::Breach,
            ..config("ReplicaLagging", "replay_lag_seconds > 5s")
        };
        assert_eq!(serde_json::from_str::<RuleConfig>(text).map_err(|error| error.to_string()), Ok(expect));
        let least = serde_json::from_str::<RuleConfig>(r#"{"name": "R", "when": "primaries > 1"}"#);
        assert_eq!(least.map_err(|error| error.to_string()), Ok(config("R", "primaries > 1")));
        for (text, reason) in [
            (r#"{"name": "R", "when": "x", "for": 5}"#, "expected a duration such as \"1m\""),
            (r#"{"name": "R", "when": "x", "for": "5"}"#, "expected a duration such as \"1m\""),
            (r#"{"name": "R", "when": "x", "while": "5s"}"#, "unknown field `while`"),
            (r#"{"name": "R", "when": "x", "cluster": 3}"#, "a name or a list of names"),
        ] {
            let error = serde_json::from_str::<RuleConfig>(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_preset_is_made_of_good_rules() {
        let rules = Rule::parse_all(&preset(), SIGNALS).expect("the preset parses");
        let lines: Vec<_> = rules
            .iter()
            .map(|rule| {
                let hold_for = rule.hold_for.map_or("-".to_owned(), |hold_for| format!("{hold_for:?}"));
                format!("{}: {}, {hold_for}, {}", rule.name, rule.condition.text, rule.severity.as_str())
            })
            .collect();
        assert_eq!(
            lines,
            [
                "TargetDown: target_up == 0, 10s, critical",
                "ReplicaLagging: replay_lag_seconds > 5s, 15s, warning",
                "ReplicaLagCritical: replay_lag_seconds > 60s, -, critical",
                "ReplicaLagUnproven: replay_lag_upper_seconds > 5m, 60s, warning",
                "ReplicaNotReceiving: receiver_running == 0, 30s, warning",
                "ConnectionsNearLimit: connections_used_ratio > 80%, 60s, warning",
                "InactiveSlotRetainsWal: slot_inactive_retained_bytes > 1GiB, 300s, warning",
                "SlotNearlyLost: slot_lost_in_seconds < 1h, 300s, warning",
                "SlotLost: slot_invalidated == 1, -, warning",
                "SeveralPrimaries: primaries > 1, 5s, critical",
                "IdleInTransaction: idle_in_transaction_oldest_seconds > 10m, 0ns, warning",
                "LockWait: lock_wait_longest_seconds > 1m, 30s, warning",
                "ConnectionsIdle: connections_idle_long > 20, 900s, info",
                "PrimaryPromoted: role_change_age_seconds < 5m, 0ns, info",
                "ReplicaMissing: standby_missing == 1, 120s, warning",
                "ReplicaFollowsElsewhere: wrong_upstream == 1, 120s, warning",
                "ReplicaOnOldTimeline: timelines_behind > 0, 300s, warning",
                "UndeclaredStandby: undeclared_standbys > 0, 300s, warning",
                "SyncStandbysMissing: sync_standbys_missing > 0, 30s, critical",
                "PoolerDown: pooler_up == 0, 15s, warning",
                "ConnectionPoolExhausted: pooler_longest_wait_seconds > 5s, 10s, critical",
                "SubscriptionNotRunning: subscription_running == 0, 60s, warning",
                "SubscriptionLagging: subscription_lag_seconds > 5m, 60s, warning",
            ]
        );
    }

    fn value(value: f64, lower: f64, upper: f64) -> Value {
        Value { value, lower, upper }
    }

    #[test]
    fn bounds_tell_what_is_proven_from_what_may_be() {
        use Verdict::{Breach, Clear, Possible, Proven, Unknown};
        for (op, value, expect) in [
            (">", value(10.0, 6.0, 12.0), Proven),
            (">", value(10.0, 5.0, 12.0), Breach),
            (">", value(10.0, 0.0, f64::INFINITY), Breach),
            (">", value(0.0, 0.0, f64::INFINITY), Possible),
            (">", value(4.0, 0.0, 5.0), Clear),
            (">", value(5.0, 5.0, 5.0), Clear),
            (">", value(f64::NAN, 0.0, 9.0), Unknown),
            (">=", value(5.0, 5.0, 5.0), Proven),
            (">=", value(4.0, 0.0, 5.0), Possible),
            ("<", value(4.0, 3.0, 4.5), Proven),
            ("<", value(4.0, 3.0, 5.0), Breach),
            ("<", value(6.0, 3.0, 8.0), Possible),
            ("<", value(6.0, 5.0, 8.0), Clear),
            ("<=", value(5.0, 5.0, 5.0), Proven),
            ("==", value(5.0, 5.0, 5.0), Proven),
            ("==", value(5.0, 4.0, 6.0), Breach),
            ("==", value(4.0, 4.0, 6.0), Possible),
            ("==", value(4.0, 4.0, 4.5), Clear),
            ("!=", value(4.0, 4.0, 4.5), Proven),
            ("!=", value(4.0, 4.0, 6.0), Breach),
            ("!=", value(5.0, 4.0, 6.0), Possible),
            ("!=", value(5.0, 5.0, 5.0), Clear),
        ] {
            let rule = Rule::parse(&config("R", &format!("replay_lag_seconds {op} 5s")), SIGNALS).expect("a good rule");
            assert_eq!(rule.judge(value, None), expect, "{value:?} {op} 5");
        }
    }

    #[test]
    fn what_a_replica_lags_by_since_a_promotion_is_held() {
        use Verdict::{Clear, Possible, Proven, Unknown};
        let check = |when: &str, value, expect| {
            let rule = Rule::parse(&config("R", when), SIGNALS).expect("a good rule");
            let judged = rule.judge_after_promotion(value, None, Duration::from_secs(30));
            assert_eq!(judged, expect, "{value:?} {when}");
        };
        let lag = "replay_lag_seconds > 5s";
        check(lag, value(30.0, 30.0, 30.0), Unknown);
        check(lag, value(35.0, 34.9, 35.1), Unknown);
        // It was behind before.
        check(lag, value(36.0, 35.5, 37.0), Proven);
        check(lag, value(90.0, 36.0, f64::INFINITY), Proven);
        check(lag, value(90.0, 1.0, f64::INFINITY), Unknown);
        // What does not breach is judged as ever.
        check(lag, value(4.0, 3.0, 5.0), Clear);
        check(lag, value(4.0, 3.0, 6.0), Possible);
        check(lag, value(f64::NAN, 3.0, 6.0), Unknown);
        // Nothing but lag waits for a replica to find its way.
        check("primaries > 1", value(2.0, 2.0, 2.0), Proven);
        check("connections_used_ratio > 80%", value(0.9, 0.9, 0.9), Proven);
    }

    #[test]
    fn only_a_breach_without_for_and_without_proof_waits_two_polls() {
        let poll_interval = Duration::from_secs(5);
        let at_once = Duration::ZERO;
        for (hold_for, verdict, expect) in [
            (None, Verdict::Proven, at_once),
            (None, Verdict::Breach, poll_interval * 2),
            (Some(at_once), Verdict::Breach, at_once),
            (Some(poll_interval), Verdict::Proven, poll_interval),
        ] {
            let config = RuleConfig { hold_for, ..config("R", "replay_lag_seconds > 5s") };
            let rule = Rule::parse(&config, SIGNALS).expect("a good rule");
            assert_eq!(rule.hold(verdict, poll_interval), expect, "{hold_for:?} {verdict:?}");
        }
    }

    #[test]
    fn the_delay_that_was_asked_for_is_no_lag_to_a_rule() {
        use crate::core::snapshot::SurveyView;
        use crate::core::survey::{Sessions, SurveyFacts};
        use std::sync::Arc;
        let rule = Rule::parse(&config("R", "replay_lag_seconds > 5s"), SIGNALS).expect("a good rule");
        let mut target = TargetView::new(TargetId::new("orders", "r1"), Duration::from_secs(10));
        // Nobody knows yet whether there is a delay.
        assert_eq!(rule.judge(value(3604.0, 3603.0, 3604.0), Some(&target)), Verdict::Breach);
        target.survey = Some(SurveyView {
            asked_at: crate::core::time::MonoTime::from_nanos(0),
            answered_at: crate::core::time::MonoTime::from_nanos(0),
            facts: Arc::new(SurveyFacts {
                sessions: Some(Sessions { max_connections: 100, reserved_connections: 3, ..Sessions::default() }),
                slots: Some(vec![]),
                apply_delay_seconds: Some(3600.0),
                ..SurveyFacts::default()
            }),
            stale_after: Duration::from_secs(45),
        });
        assert_eq!(rule.judge(value(3604.0, 3603.0, 3604.0), Some(&target)), Verdict::Clear);
        assert_eq!(rule.judge(value(3606.0, 3605.5, 3606.5), Some(&target)), Verdict::Proven);
        assert_eq!(rule.judge(value(3606.0, 3606.0, f64::INFINITY), Some(&target)), Verdict::Proven);
    }
}
