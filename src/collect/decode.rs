//! PostgreSQL's text output into our types, strictly: what does not read as expected is a [`PollFailure::Decode`] that
//! names view and column, never a default.
//!
//! Text is UTF-8 by the time it is read here, whatever bytes the server sent: see [`super::messages`]. A name that someone
//! has chosen is read with [`name`] or [`shared_name`], so that it is shown alike wherever it is shown.
//!
//! Sessions run with `TimeZone = UTC`, `DateStyle = ISO` and `IntervalStyle = postgres`, see [`super::session::Limits`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use tokio_postgres::SimpleQueryMessage;

use crate::core::escape;
use crate::core::observation::PollFailure;
use crate::core::time::ServerTime;
use crate::core::wal::Lsn;

/// The rows of one statement, each as its columns' texts.
pub(crate) type Rows<'a> = Vec<Vec<Option<&'a str>>>;

/// Stands for a text that is not UTF-8, of which there is none. It reads neither as a number nor as a position.
const UNREADABLE: &str = "(unreadable)";

/// Sorts the answer to a message of several statements: one entry a statement, empty for one that returns no rows.
pub(crate) fn by_statement(messages: &[SimpleQueryMessage]) -> Vec<Rows<'_>> {
    let mut statements = Vec::new();
    let mut rows = Rows::new();
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|column| row.try_get(column).unwrap_or(Some(UNREADABLE))).collect());
            }
            SimpleQueryMessage::CommandComplete(_) => statements.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    statements
}

/// The columns of one row, read from left to right.
pub(crate) struct Fields<'a, 'b> {
    view: &'static str,
    values: &'b [Option<&'a str>],
    next: usize,
}

impl<'a, 'b> Fields<'a, 'b> {
    /// `view` is what failures name.
    pub(crate) fn new(view: &'static str, values: &'b [Option<&'a str>]) -> Self {
        Self { view, values, next: 0 }
    }

    pub(crate) fn failure(&self, column: &str, reason: impl Into<String>) -> PollFailure {
        PollFailure::Decode { view: self.view.to_owned(), column: column.to_owned(), reason: reason.into() }
    }

    /// The next column's text. `None` for NULL.
    pub(crate) fn text(&mut self, column: &str) -> Result<Option<&'a str>, PollFailure> {
        let value = self.values.get(self.next).ok_or_else(|| self.failure(column, "the column is missing"))?;
        self.next += 1;
        Ok(*value)
    }

    /// The next column as `parse` reads it. `None` for NULL.
    pub(crate) fn optional<T>(
        &mut self,
        column: &str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, PollFailure> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.failure(column, format!("not of the expected type: {}", shortened(text)))),
        }
    }

    /// The next column as `parse` reads it; NULL is a failure.
    pub(crate) fn required<T>(
        &mut self,
        column: &str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, PollFailure> {
        self.optional(column, parse)?.ok_or_else(|| self.failure(column, "NULL where a value must be"))
    }
}

/// The rows that can be read, as `read` reads them, and the first failure of the others, which says how many they are.
pub(crate) fn each<T, R>(
    rows: impl IntoIterator<Item = R>,
    read: impl FnMut(R) -> Result<T, PollFailure>,
) -> (Vec<T>, Option<PollFailure>) {
    let mut failures = Vec::new();
    let read =
        rows.into_iter().map(read).filter_map(|row| row.map_err(|failure| failures.push(failure)).ok()).collect();
    let n_others = failures.len().saturating_sub(1);
    let mut first = failures.into_iter().next();
    if let Some(PollFailure::Decode { reason, .. }) = &mut first
        && n_others > 0
    {
        reason.push_str(&format!(" (and {n_others} more like it)"));
    }
    (read, first)
}

/// A name that someone has chosen.
#[expect(clippy::unnecessary_wraps, reason = "it reads a column")]
pub(crate) fn name(text: &str) -> Option<String> {
    Some(escape::name(text).into_owned())
}

/// The same, to be shared.
#[expect(clippy::unnecessary_wraps, reason = "it reads a column")]
pub(crate) fn shared_name(text: &str) -> Option<Arc<str>> {
    Some(Arc::from(escape::name(text)))
}

/// An unexpected value in a message: enough of it to understand, without any control characters.
fn shortened(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    format!("{start:?}")
}

/// `t` or `f`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

pub(crate) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

pub(crate) fn lsn(text: &str) -> Option<Lsn> {
    text.parse().ok()
}

/// A `timestamptz` in ISO style: `2026-11-20 10:00:00.123456+00`. Neither infinity nor years before Christ.
pub(crate) fn timestamp(text: &str) -> Option<ServerTime> {
    let (date, time) = text.split_once(' ')?;
    let mut date_parts = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date_parts.next()??, date_parts.next()??, date_parts.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let sign_at = time.find(['+', '-'])?;
    let (time, offset) = time.split_at(sign_at);
    let (sign, offset) = offset.split_at(1);
    let mut offset_seconds = 0;
    for (part, unit) in offset.splitn(3, ':').zip([3600, 60, 1]) {
        offset_seconds += digits(part)? * unit;
    }
    if sign == "-" {
        offset_seconds = -offset_seconds;
    }
    let micros = clock_micros(time)?;
    let seconds = days_from_civil(year, month, day) * 86_400 - offset_seconds;
    seconds.checked_mul(1_000_000)?.checked_add(micros).map(ServerTime::from_unix_micros)
}

/// An `interval` made of hours, minutes and seconds, as the lag columns are: seconds.
pub(crate) fn interval_seconds(text: &str) -> Option<f64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let seconds = clock_micros(text)? as f64 / 1e6;
    Some(if negative { -seconds } else { seconds })
}

/// A setting of type integer with unit `ms`, as `current_setting` shows it (`0`, `250ms`, `3s`, `5min`, `2h`, `1d`): seconds.
pub(crate) fn setting_seconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(unit_at);
    let milliseconds = match unit {
        "ms" | "" => 1.0,
        "s" => 1e3,
        "min" => 60e3,
        "h" => 3_600e3,
        "d" => 86_400e3,
        _ => return None,
    };
    Some(digits(amount)? as f64 * milliseconds / 1e3)
}

/// The columns of a composite value's text: `(42,streaming,0/3000148,,"a ""quoted"" one")`. An empty column is NULL.
pub(crate) fn record(text: &str) -> Option<Vec<Option<Cow<'_, str>>>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let mut columns = Vec::with_capacity(16);
    let mut rest = inner;
    loop {
        let (column, after) = if rest.starts_with('"') { quoted(rest)? } else { plain(rest) };
        columns.push(column);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return after.is_empty().then_some(columns),
        }
    }
}

fn plain(text: &str) -> (Option<Cow<'_, str>>, &str) {
    let (column, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
    ((!column.is_empty()).then_some(Cow::Borrowed(column)), rest)
}

/// A column in double quotes: within them a quote or a backslash is written twice, or after a backslash.
fn quoted(text: &str) -> Option<(Option<Cow<'_, str>>, &str)> {
    let within = text.strip_prefix('"')?;
    let end = within.bytes().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (plain, rest) = within.split_at(end);
    // Most have nothing in them that is doubled or escaped.
    if let Some(rest) = rest.strip_prefix('"').filter(|rest| !rest.starts_with('"')) {
        return Some((Some(Cow::Borrowed(plain)), rest));
    }
    let mut column = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if characters.next_if(|(_, next)| *next == '"').is_some() => column.push('"'),
            '"' => return Some((Some(Cow::Owned(column)), &text[at + 1..])),
            '\\' => column.push(characters.next()?.1),
            other => column.push(other),
        }
    }
    None
}

/// `HH:MM:SS[.ffffff]` in microseconds. Hours may exceed 23.
fn clock_micros(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = whole.splitn(3, ':').map(digits);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if fraction.len() > 6 || minutes > 59 || seconds > 60 {
        return None;
    }
    let fraction = digits(fraction)? * 10_i64.pow(6 - fraction.len() as u32);
    ((hours * 60 + minutes) * 60 + seconds).checked_mul(1_000_000)?.checked_add(fraction)
}

/// Digits alone: neither sign nor space, and no more than any date or duration has.
fn digits(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years are taken to begin in March, so that the
/// leap day is the last of its year, and 400 years are 146,097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_to_the_microsecond_in_any_offset() {
        for (text, micros) in [
            ("1970-01-01 00:00:00+00", 0),
            ("1970-01-01 00:00:00.000001+00", 1),
            ("1969-12-31 23:59:59.5+00", -500_000),
            ("2000-02-29 12:00:00+00", 951_825_600_000_000),
            ("2026-11-20 10:11:12.123456+00", 1_795_169_472_123_456),
            ("2026-11-20 15:41:12.123456+05:30", 1_795_169_472_123_456),
            ("2026-11-20 02:11:12.123456-08", 1_795_169_472_123_456),
            ("1900-03-01 00:00:00+00", -2_203_891_200_000_000),
            ("9999-12-31 23:59:59.999999+00", 253_402_300_799_999_999),
        ] {
            assert_eq!(timestamp(text), Some(ServerTime::from_unix_micros(micros)), "{text}");
        }
        for text in [
            "",
            "infinity",
            "-infinity",
            "2026-11-20",
            "2026-11-20 10:11:12",
            "20/11/2026 10:11:12+00",
            "2026-13-20 10:11:12+00",
            "2026-11-20 10:11:12.1234567+00",
            "2026-11-20 10:61:12+00",
            "0044-03-15 10:00:00+00 BC",
        ] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn lag_intervals_read_in_seconds() {
        for (text, seconds) in [
            ("00:00:00", 0.0),
            ("00:00:00.000123", 0.000123),
            ("00:01:02.5", 62.5),
            ("100:00:00", 360_000.0),
            ("-00:00:01", -1.0),
        ] {
            assert_eq!(interval_seconds(text), Some(seconds), "{text}");
        }
        for text in ["", "1 day 00:00:00", "PT1S", "00:00", "00:00:00.", "00:00:0x", "9999999999:00:00"] {
            assert_eq!(interval_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn settings_of_time_read_with_the_unit_the_server_chose() {
        for (text, seconds) in
            [("0", 0.0), ("250ms", 0.25), ("3s", 3.0), ("5min", 300.0), ("2h", 7200.0), ("1d", 86_400.0)]
        {
            assert_eq!(setting_seconds(text), Some(seconds), "{text}");
        }
        for text in ["", "s", "-1", "3 s", "3us"] {
            assert_eq!(setting_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_splits_into_columns() {
        let check = |text: &str, expect: Option<&[Option<&str>]>| {
            let columns = record(text);
            let read: Option<Vec<Option<&str>>> =
                columns.as_ref().map(|columns| columns.iter().map(|column| column.as_deref()).collect());
            assert_eq!(read.as_deref(), expect, "{text}");
        };
        check("()", Some(&[None]));
        check("(42)", Some(&[Some("42")]));
        check("(42,,x)", Some(&[Some("42"), None, Some("x")]));
        check("(,)", Some(&[None, None]));
        check(r#"(1,"2026-11-20 10:00:00+00","")"#, Some(&[Some("1"), Some("2026-11-20 10:00:00+00"), Some("")]));
        check(r#"("a ""b"" \\ c, d)")"#, Some(&[Some(r#"a "b" \ c, d)"#)]));
        check(r#"("é,ü",1)"#, Some(&[Some("é,ü"), Some("1")]));
        for broken in ["", "42", "(42", r#"("open)"#, r#"("a"b)"#] {
            check(broken, None);
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_costs_no_other() {
        let read = |text: &str| Fields::new("view", &[Some(text)]).required("n", number::<u32>);
        let failure = |reason: &str| PollFailure::Decode {
            view: "view".to_owned(),
            column: "n".to_owned(),
            reason: format!("not of the expected type: {reason}"),
        };
        assert_eq!(each(["1", "2"], read), (vec![1, 2], None));
        assert_eq!(each(["1", "x", "3"], read), (vec![1, 3], Some(failure("\"x\""))));
        assert_eq!(each(["y", "x", "3"], read), (vec![3], Some(failure("\"y\" (and 1 more like it)"))));
    }

    #[test]
    fn names_are_shown_in_one_line() {
        assert_eq!(name("a\nb"), Some(r"a\x0Ab".to_owned()));
        assert_eq!(shared_name("a\u{202e}b").as_deref(), Some(r"a\xE2\x80\xAEb"));
    }

    #[test]
    fn a_wrong_value_names_view_and_column() {
        let mut fields = Fields::new("pg_stat_replication", &[Some("x1"), None]);
        assert_eq!(
            fields.required("pid", number::<i32>),
            Err(PollFailure::Decode {
                view: "pg_stat_replication".to_owned(),
                column: "pid".to_owned(),
                reason: "not of the expected type: \"x1\"".to_owned(),
            })
        );
        assert_eq!(
            fields.required("state", number::<i32>).map_err(|failure| failure.to_string()),
            Err("cannot read state of pg_stat_replication: NULL where a value must be".to_owned())
        );
        assert_eq!(
            fields.text("sent_lsn").map_err(|failure| failure.to_string()),
            Err("cannot read sent_lsn of pg_stat_replication: the column is missing".to_owned())
        );
    }
}
