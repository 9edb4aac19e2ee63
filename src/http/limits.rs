//! What a load balancer asks of a target: the query of `/healthz/{cluster}/{target}`. A parameter that cannot be read is
//! refused by name, never ignored: a limit that silently does not apply is worse than an error.

use std::borrow::Cow;
use std::time::Duration;

pub use crate::core::health::Limits;
use crate::core::topology::Role;

/// Longer than any lag that reads could be allowed. Catches `1M`, which is a month and not a minute.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A parameter that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{parameter}`: {reason}")]
pub struct BadParameter {
    pub parameter: String,
    pub reason: String,
}

impl Limits {
    /// The parameters that [`Limits::parse`] knows.
    pub const PARAMETERS: [&'static str; 4] = ["max_lag", "max_lag_bytes", "role", "max_age"];

    /// Reads a query such as `max_lag=5s&role=replica`.
    pub fn parse(query: Option<&str>) -> Result<Self, BadParameter> {
        let mut limits = Self::default();
        let mut seen = [false; Self::PARAMETERS.len()];
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).unwrap_or(Cow::Borrowed(name));
            let name = name.as_ref();
            let bad = |reason: String| BadParameter { parameter: name.escape_default().to_string(), reason };
            let known = Self::PARAMETERS.iter().position(|known| *known == name);
            let Some(position) = known else {
                return Err(bad(format!("not known here; known are {}", Self::PARAMETERS.join(", "))));
            };
            if std::mem::replace(&mut seen[position], true) {
                return Err(bad("given twice".to_owned()));
            }
            let value = decode_value(value).ok_or_else(|| bad("not readable as UTF-8".to_owned()))?;
            let value = value.as_ref();
            match position {
                0 => limits.max_lag_seconds = Some(duration(value).map_err(bad)?.as_secs_f64()),
                1 => limits.max_lag_bytes = Some(size(value).map_err(bad)?),
                2 => limits.role = role(value).map_err(bad)?,
                _ => limits.max_age = Some(duration(value).map_err(bad)?),
            }
        }
        Ok(limits)
    }
}

/// The value of the one parameter that a path takes. `None` when it is not given.
pub(super) fn one(query: Option<&str>, known: &str) -> Result<Option<String>, BadParameter> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).unwrap_or(Cow::Borrowed(name));
        let bad =
            |reason: &str| BadParameter { parameter: name.escape_default().to_string(), reason: reason.to_owned() };
        if name != known {
            return Err(bad(&format!("not known here; known is {known}")));
        }
        let value = decode_value(value).ok_or_else(|| bad("not readable as UTF-8"))?;
        if value.is_empty() {
            return Err(bad("has no value"));
        }
        if found.replace(value.into_owned()).is_some() {
            return Err(bad("given twice"));
        }
    }
    Ok(found)
}

/// `5s`, `1m 30s`, `500ms`; a plain number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let help = || format!("\"{}\" is not a duration; write for example 5s or 500ms", text.escape_default());
    let seconds = if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    } else {
        None
    };
    let duration = seconds.or_else(|| humantime::parse_duration(text).ok()).ok_or_else(help)?;
    if duration > LONGEST {
        return Err(format!("\"{}\" is longer than 30 days (m is a minute, M a month)", text.escape_default()));
    }
    Ok(duration)
}

/// `16MB` (a million bytes each), `16MiB`, `16kB`; a plain number is bytes.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("B", 1),
        ("kB", 1000),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    let help = || format!("\"{}\" is not a size; write for example 16MB, 16MiB or 16777216", text.escape_default());
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(help)?;
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(*factor).ok_or_else(help);
    }
    // Half a megabyte is a size, half a byte is none.
    let bytes =
        Some(*factor).filter(|factor| *factor > 1).and_then(|factor| Some(number.parse::<f64>().ok()? * factor as f64));
    let bytes = bytes.ok_or_else(help)?;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(help()) }
}

fn role(text: &str) -> Result<Option<Role>, String> {
    match text {
        "any" => Ok(None),
        "replica" => Ok(Some(Role::Replica)),
        "primary" => Ok(Some(Role::Primary)),
        other => Err(format!("\"{}\" is not a role; write replica, primary or any", other.escape_default())),
    }
}

/// Undoes `%41` in a path's segment. `None` when the bytes are not UTF-8 or a `%` is not followed by two digits.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// As [`decode`]; in a query `+` stands for a space.
pub(super) fn decode_value(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        return decode(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()));
    }
    decode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_every_parameter_is_read() {
        let none = Limits::default();
        let lag = |seconds| Limits { max_lag_seconds: Some(seconds), ..none };
        let bytes = |bytes| Limits { max_lag_bytes: Some(bytes), ..none };
        for (query, expect) in [
            ("", none),
            ("&", none),
            ("max_lag=5s", lag(5.0)),
            ("max_lag=5", lag(5.0)),
            ("max_lag=0.25", lag(0.25)),
            ("max_lag=500ms", lag(0.5)),
            ("max%5Flag=500ms", lag(0.5)),
            ("max_lag=1m+30s", lag(90.0)),
            ("max_lag=1m%2030s", lag(90.0)),
            ("max_lag=0", lag(0.0)),
            ("max_lag_bytes=0", bytes(0)),
            ("max_lag_bytes=16777216", bytes(16_777_216)),
            ("max_lag_bytes=16MB", bytes(16_000_000)),
            ("max_lag_bytes=16MiB", bytes(16_777_216)),
            ("max_lag_bytes=1.5GiB", bytes(1_610_612_736)),
            ("max_lag_bytes=16kB", bytes(16_000)),
            ("role=replica", Limits { role: Some(Role::Replica), ..none }),
            ("role=primary", Limits { role: Some(Role::Primary), ..none }),
            ("role=any", none),
            ("max_age=10s", Limits { max_age: Some(Duration::from_secs(10)), ..none }),
            (
                "role=replica&max_lag=2s&max_lag_bytes=1MB&max_age=3",
                Limits {
                    max_lag_seconds: Some(2.0),
                    max_lag_bytes: Some(1_000_000),
                    role: Some(Role::Replica),
                    max_age: Some(Duration::from_secs(3)),
                },
            ),
        ] {
            assert_eq!(Limits::parse(Some(query)), Ok(expect), "{query:?}");
        }
        assert_eq!(Limits::parse(None), Ok(none));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (query, parameter) in [
            ("max_lag=abc", "max_lag"),
            ("max_lag=", "max_lag"),
            ("max_lag", "max_lag"),
            ("max_lag=-1", "max_lag"),
            ("max_lag=1M", "max_lag"),
            ("max_lag=1e9", "max_lag"),
            ("max_lag=NaN", "max_lag"),
            ("max_lag=inf", "max_lag"),
            ("max_lag=.", "max_lag"),
            ("max_lag=5s&max_lag=6s", "max_lag"),
            ("max_lag=%ff", "max_lag"),
            ("max_lag=%4", "max_lag"),
            ("max_lag=5MB", "max_lag"),
            ("max_lag_bytes=", "max_lag_bytes"),
            ("max_lag_bytes=5s", "max_lag_bytes"),
            ("max_lag_bytes=-5", "max_lag_bytes"),
            ("max_lag_bytes=16mb", "max_lag_bytes"),
            ("max_lag_bytes=MB", "max_lag_bytes"),
            ("max_lag_bytes=0.5", "max_lag_bytes"),
            ("max_lag_bytes=1.5B", "max_lag_bytes"),
            ("max_lag_bytes=99999999999TB", "max_lag_bytes"),
            ("max_lag_bytes=18446744073709551616", "max_lag_bytes"),
            ("role=Replica", "role"),
            ("role=", "role"),
            ("role=any&role=any", "role"),
            ("max_age=soon", "max_age"),
            ("maxlag=5s", "maxlag"),
            ("max_lag=5s&x=1", "x"),
            ("%3Cscript%3E=1", "<script>"),
        ] {
            match Limits::parse(Some(query)) {
                Err(error) => assert_eq!(error.parameter, parameter, "{query:?}"),
                Ok(limits) => panic!("{query:?} was read as {limits:?}"),
            }
        }
    }
}
