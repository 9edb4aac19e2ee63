//! Values of a series over time, as promtool writes them: `0 1 2x5` is 0, then 1, then 2 and 2 five times more.

use crate::core::replay::Reading;
use crate::core::rule::in_unit_of;
use crate::core::signal::{Signal, Value};

/// A month of a value each second would be more.
const MOST: usize = 1_000_000;

/// Reads values, separated by spaces. Each is one of:
///
/// | form | means |
/// |---|---|
/// | `5`, `5s`, `64MiB`, `80%` | a value in the signal's base unit, or as rules write it |
/// | `5[4..6]`, `5[4..]`, `5[..6]` | with the bounds that are proven; a side left out is open |
/// | `unknown` | it cannot be read |
/// | `gone` | all can be read, and this is not there |
/// | `AxN` | any of those, and N times more |
/// | `A+BxN`, `A-BxN` | A, and N times more, each time B higher or lower |
pub(super) fn values(text: &str, signal: &'static Signal) -> Result<Vec<Reading>, String> {
    let mut readings = Vec::new();
    for word in text.split_whitespace() {
        let fault = || {
            let form = "write for example \"0 5x3 5+1x10 5[4..6] unknown gone\"";
            format!("{word:?} is not a value of {}, which is in {}; {form}", signal.name, signal.unit.as_str())
        };
        let (form, more) = match repeated(word) {
            Some((form, more)) => (form, more),
            None => (word, 0),
        };
        if readings.len() + more >= MOST {
            return Err(format!("more than {MOST} values"));
        }
        match form {
            "unknown" => readings.extend(std::iter::repeat_n(Reading::Unknown, more + 1)),
            "gone" => readings.extend(std::iter::repeat_n(Reading::Gone, more + 1)),
            _ => {
                let (first, step) = stepped(form).unwrap_or((form, None));
                let first = value(first, signal).ok_or_else(fault)?;
                let step = match step {
                    None => 0.0,
                    Some((_, text)) if text.contains('[') || more == 0 => return Err(fault()),
                    Some((sign, text)) => sign * number(text, signal).ok_or_else(fault)?,
                };
                readings.extend((0..=more).map(|n| {
                    let add = |value: f64| value + step * n as f64;
                    Reading::Known(Value { value: add(first.value), lower: add(first.lower), upper: add(first.upper) })
                }));
            }
        }
    }
    if readings.is_empty() { Err("no values".to_owned()) } else { Ok(readings) }
}

/// `5x3`: what is repeated, and how many times more.
fn repeated(word: &str) -> Option<(&str, usize)> {
    let (form, count) = word.rsplit_once('x')?;
    Some((form, count.parse().ok().filter(|count| *count < MOST)?))
}

/// `5+1`, `5-1`: where it begins, and what is added each time.
fn stepped(form: &str) -> Option<(&str, Option<(f64, &str)>)> {
    let bytes = form.as_bytes();
    // The first may be a sign, and `1e-5` has one too.
    let is_step = |at: &usize| matches!(bytes[*at], b'+' | b'-') && !matches!(bytes[at - 1], b'e' | b'E' | b'[' | b'.');
    let at = (1..bytes.len()).find(is_step)?;
    let sign = if bytes[at] == b'+' { 1.0 } else { -1.0 };
    Some((form.get(..at)?, Some((sign, form.get(at + 1..)?))))
}

fn value(text: &str, signal: &'static Signal) -> Option<Value> {
    let Some((middle, bounds)) = text.split_once('[') else { return number(text, signal).map(Value::exact) };
    let (lower, upper) = bounds.strip_suffix(']')?.split_once("..")?;
    let bound = |text: &str, open: f64| if text.is_empty() { Some(open) } else { number(text, signal) };
    let value = Value {
        value: number(middle, signal)?,
        lower: bound(lower, f64::NEG_INFINITY)?,
        upper: bound(upper, f64::INFINITY)?,
    };
    (value.lower <= value.value && value.value <= value.upper).then_some(value)
}

fn number(text: &str, signal: &'static Signal) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).or_else(|| in_unit_of(signal, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(value: f64, lower: f64, upper: f64) -> Reading {
        Reading::Known(Value { value, lower, upper })
    }

    fn exact(value: f64) -> Reading {
        Reading::Known(Value::exact(value))
    }

    #[test]
    fn values_are_written_as_promtool_has_them_and_as_rules_have_them() {
        use Reading::{Gone, Unknown};
        let infinity = f64::INFINITY;
        for (signal, text, expect) in [
            ("replay_lag_seconds", "0 1x2", vec![exact(0.0), exact(1.0), exact(1.0), exact(1.0)]),
            ("replay_lag_seconds", "1m30s 2", vec![exact(90.0), exact(2.0)]),
            ("replay_lag_seconds", "2+1x2 9-2.5x1", vec![exact(2.0), exact(3.0), exact(4.0), exact(9.0), exact(6.5)]),
            ("replay_lag_seconds", "-1 1e-3", vec![exact(-1.0), exact(0.001)]),
            ("replay_lag_seconds", "unknownx1 gone", vec![Unknown, Unknown, Gone]),
            (
                "replay_lag_seconds",
                "5[4..6] 5[4..] 5[..6]",
                vec![known(5.0, 4.0, 6.0), known(5.0, 4.0, infinity), known(5.0, -infinity, 6.0)],
            ),
            ("replay_lag_seconds", "5[4..6]+1sx1", vec![known(5.0, 4.0, 6.0), known(6.0, 5.0, 7.0)]),
            ("connections_used_ratio", "80%x1", vec![exact(0.8), exact(0.8)]),
            ("replay_lag_bytes", "64MiB+64MiBx1", vec![exact(67_108_864.0), exact(134_217_728.0)]),
        ] {
            let signal = Signal::named(signal).expect("a signal");
            assert_eq!(values(text, signal), Ok(expect), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let signal = Signal::named("replay_lag_seconds").expect("a signal");
        for text in
            ["x", "x3", "5x", "5+1", "5+", "5[4..6", "5[6..7]", "5[4]", "NaN", "inf", "10MB", "5+1[1..2]x3", "é+x1"]
        {
            assert!(values(text, signal).is_err(), "{text}");
        }
    }
}
