//! One comparison of a signal with a threshold, as it is written and as it judges values with their bounds.

use super::Verdict;
use super::fault::RuleFault;
use crate::core::signal::{Signal, Unit, Value};

/// One comparison of a signal with a threshold.
#[derive(Clone, Debug)]
pub struct Condition {
    pub signal: &'static Signal,
    pub op: Op,
    /// In the signal's base unit: seconds, bytes, a fraction of 1, a count.
    pub threshold: f64,
    /// As written, for example `replay_lag_seconds > 5s`.
    pub text: String,
    /// The comparison alone: `> 5s`.
    pub comparison: String,
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

impl Condition {
    /// `signal op value`.
    pub(super) fn parse(when: &str, signals: &'static [Signal]) -> Result<Self, RuleFault> {
        let form = || RuleFault::Form(when.to_owned());
        let start = when.find(['>', '<', '=', '!']).ok_or_else(form)?;
        let (name, comparison) = (when[..start].trim(), when[start..].trim());
        // `5s < replay_lag_seconds` is the wrong way round, and `5s` no signal's name spelt badly.
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Err(form());
        }
        let (op, op_text, text) = compared(comparison).ok_or_else(form)?;
        Self::new(signal(name, signals)?, op, op_text, text)
    }

    /// `op value` that stands under `key`.
    pub(super) fn of(signal: &'static Signal, key: &'static str, written: &str) -> Result<Self, RuleFault> {
        let (op, op_text, text) = compared(written.trim()).ok_or_else(|| RuleFault::Comparison {
            key,
            text: written.to_owned(),
            example: example(signal.unit),
        })?;
        Self::new(signal, op, op_text, text)
    }

    fn new(signal: &'static Signal, op: Op, op_text: &str, text: &str) -> Result<Self, RuleFault> {
        let comparison = format!("{op_text} {text}");
        Ok(Self {
            signal,
            op,
            threshold: threshold(text, signal)?,
            text: format!("{} {comparison}", signal.name),
            comparison,
        })
    }

    /// Whether the signal is a replay lag in seconds, which rules read less the delay that was asked for.
    pub fn is_replay_lag(&self) -> bool {
        matches!(self.signal.name, "replay_lag_seconds" | "replay_lag_lower_seconds" | "replay_lag_upper_seconds")
    }

    /// Whether the signal is a lag of any kind, in seconds or in bytes.
    pub(super) fn is_lag(&self) -> bool {
        self.signal.name.contains("_lag_")
    }

    pub(super) fn judge(&self, Value { value, lower, upper }: Value) -> Verdict {
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
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Eq => "==",
            Self::Ne => "!=",
        }
    }

    fn at_start_of(text: &str) -> Option<(Self, &'static str)> {
        [(Self::Ge, ">="), (Self::Le, "<="), (Self::Eq, "=="), (Self::Ne, "!="), (Self::Gt, ">"), (Self::Lt, "<")]
            .into_iter()
            .find(|(_, op)| text.starts_with(op))
    }

    /// Whether large values hold (`>`), small ones do (`<`), or neither.
    pub(super) const fn direction(self) -> Option<Direction> {
        match self {
            Self::Gt | Self::Ge => Some(Direction::Up),
            Self::Lt | Self::Le => Some(Direction::Down),
            Self::Eq | Self::Ne => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// `op value`, in its parts.
fn compared(text: &str) -> Option<(Op, &'static str, &str)> {
    let (op, op_text) = Op::at_start_of(text)?;
    let value = text[op_text.len()..].trim();
    (!value.is_empty() && !value.contains(['>', '<', '=', '!'])).then_some((op, op_text, value))
}

/// The signal of this name, with or without the prefix of the series.
pub(super) fn signal(name: &str, signals: &'static [Signal]) -> Result<&'static Signal, RuleFault> {
    let name = name.strip_prefix("pgvigil_").unwrap_or(name);
    signals.iter().find(|signal| signal.name == name).ok_or_else(|| RuleFault::Signal {
        name: name.to_owned(),
        nearest: nearest(name, signals.iter().map(|signal| signal.name)),
    })
}

/// A threshold as it may be written for this unit.
pub(super) const fn example(unit: Unit) -> &'static str {
    match unit {
        Unit::Seconds => "10s",
        Unit::Bytes => "64MiB",
        Unit::BytesPerSecond => "10MB/s",
        Unit::Ratio => "80%",
        Unit::Count => "3",
        Unit::Bool => "0",
    }
}

pub(super) fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    known
        .map(|known| (strsim::sorensen_dice(name, known), known))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or("", |(_, name)| name)
}

/// What an alert's condition compares with, in the unit. `None` for one that compares with nothing: `... is unknown`.
pub fn compared_with(condition: &str, unit: Unit) -> Option<(Op, f64)> {
    let (_, comparison) = condition.split_once(' ')?;
    let (op, _, text) = compared(comparison)?;
    Some((op, in_unit(text, unit)?))
}

/// A value, written as in a rule, in the base unit of its signal.
pub(crate) fn in_unit_of(signal: &'static Signal, text: &str) -> Option<f64> {
    in_unit(text, signal.unit)
}

fn in_unit(text: &str, unit: Unit) -> Option<f64> {
    let plain = number(text);
    match unit {
        Unit::Seconds => seconds(text),
        Unit::Bytes => bytes(text),
        Unit::BytesPerSecond => bytes(text.strip_suffix("/s").unwrap_or(text)),
        // A plain 80 would be 8,000 %: surely not what was meant.
        Unit::Ratio => percent(text).or(plain.filter(|ratio| (-1.0..=1.0).contains(ratio))),
        Unit::Count => plain,
        Unit::Bool => plain.filter(|bit| [0.0, 1.0].contains(bit)),
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// A threshold in the base unit of its signal.
fn threshold(text: &str, signal: &'static Signal) -> Result<f64, RuleFault> {
    let plain = number(text);
    in_unit(text, signal.unit).ok_or_else(|| RuleFault::Unit {
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
        example: example(signal.unit),
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
