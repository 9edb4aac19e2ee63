//! Windows of maintenance, as configured: weekly ones by the clocks of a time zone, and single ones.
//!
//! A weekly window is what people read off a clock on the wall, through changes of daylight saving time as well:
//!
//! - A time that comes twice (in autumn): the window begins with the first and ends with the second.
//! - A time that does not come at all (in spring): the moment at which the clocks are put forward stands for it. A window
//!   that lies wholly in the hour left out does not come that day.
//! - With a `duration` it is the real time that passes, however the clocks are set meanwhile.
//!
//! Whether a window is open is asked of the time of day anew each time and nothing is remembered: a clock that was
//! wrong and is put right loses none.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::selector::{Selector, SelectorConfig, is_plain};
use crate::core::rule::OneOrMany;
use crate::core::topology::Name;

/// A weekly window is over before it begins anew.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Characters of a reason.
pub const LONGEST_REASON: usize = 500;

/// A window as written under `[[maintenance]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    pub name: String,
    /// The days on which it begins (`mon`, `tuesday`). Empty: every day.
    #[serde(default)]
    pub days: OneOrMany,
    /// When it begins, by the clocks of `time_zone`: `22:00`.
    #[serde(default, deserialize_with = "time_text")]
    pub start: Option<String>,
    /// When it ends: `06:00`, on the next day if that is not after `start`; `24:00` is midnight.
    #[serde(default, deserialize_with = "time_text")]
    pub end: Option<String>,
    /// How long it lasts, instead of `end`.
    #[serde(default)]
    pub duration: Option<String>,
    /// A name of the IANA database, such as `Europe/Berlin`, or `UTC`.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Instead of all these: a single window from here (RFC 3339) ...
    #[serde(default, deserialize_with = "time_text")]
    pub from: Option<String>,
    /// ... to here.
    #[serde(default, deserialize_with = "time_text")]
    pub until: Option<String>,
    #[serde(default)]
    pub cluster: OneOrMany,
    #[serde(default)]
    pub target: OneOrMany,
    #[serde(default)]
    pub rule: OneOrMany,
    #[serde(default)]
    pub severity: OneOrMany,
    #[serde(default)]
    pub reason: Option<String>,
}

/// A string, or one of TOML's own dates and times, which come as a table with one text in it.
fn time_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let is_time = map.next_key::<String>()?.is_some_and(|key| key == "$__toml_private_datetime");
            if is_time { map.next_value() } else { Err(de::Error::invalid_type(de::Unexpected::Map, &self)) }
        }
    }
    deserializer.deserialize_any(Text).map(Some)
}

/// What is wrong with a window, and at which key. The empty key is the window as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowFault {
    pub key: &'static str,
    pub reason: String,
}

/// A window that has been checked.
#[derive(Clone, Debug)]
pub struct Window {
    pub name: Name,
    pub reason: Option<String>,
    pub selector: Selector,
    times: Times,
}

#[derive(Clone, Debug)]
enum Times {
    Weekly {
        /// Monday first.
        days: [bool; 7],
        start: Time,
        end: End,
        time_zone: TimeZone,
    },
    Once(Occurrence),
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// By the clock: so many days after the start's, at that time.
    At {
        days_later: i32,
        time: Time,
    },
    After(Duration),
}

/// One time that a window is open: `until` is no longer part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    pub from: SystemTime,
    pub until: SystemTime,
}

impl Occurrence {
    fn has(self, wall: SystemTime) -> bool {
        self.from <= wall && wall < self.until
    }
}

impl Window {
    /// # Errors
    /// The first thing that is wrong, with the way out.
    pub fn parse(config: &WindowConfig) -> Result<Self, WindowFault> {
        let selector = SelectorConfig {
            cluster: config.cluster.clone(),
            target: config.target.clone(),
            rule: config.rule.clone(),
            severity: config.severity.clone(),
            ..SelectorConfig::default()
        };
        let selector =
            Selector::parse(&selector).map_err(|fault| WindowFault { key: fault.key, reason: fault.reason })?;
        if selector.is_everything() {
            return Err(whole(
                "it would silence everything; say what with cluster, target, rule or severity, or write cluster = \"*\"",
            ));
        }
        if let Some(reason) = &config.reason
            && !is_plain(reason, LONGEST_REASON)
        {
            let reason = format!("must be one line of 1 to {LONGEST_REASON} characters");
            return Err(WindowFault { key: "reason", reason });
        }
        let times = if config.from.is_some() || config.until.is_some() { once(config)? } else { weekly(config)? };
        Ok(Self { name: Name::new(&config.name), reason: config.reason.clone(), selector, times })
    }

    /// The time that it is open at `wall`. `None` while it is not.
    pub fn open_at(&self, wall: SystemTime) -> Option<Occurrence> {
        let open = self.occurrences(wall, -8, 0).filter(|occurrence| occurrence.has(wall));
        open.max_by_key(|occurrence| occurrence.until)
    }

    /// The next time that it opens after `wall`. `None` when it does not any more.
    pub fn next_after(&self, wall: SystemTime) -> Option<Occurrence> {
        // The day on which it would open next may be the one whose hour is left out.
        self.occurrences(wall, 0, 14).find(|occurrence| occurrence.from > wall)
    }

    /// Those that begin on one of some days around `wall`, in order.
    fn occurrences(&self, wall: SystemTime, first_day: i32, last_day: i32) -> impl Iterator<Item = Occurrence> {
        let (once, weekly) = match &self.times {
            Times::Once(occurrence) => (Some(*occurrence), None),
            Times::Weekly { days, start, end, time_zone } => (None, Some((*days, *start, *end, time_zone))),
        };
        let today =
            weekly.and_then(|(.., time_zone)| Some(time_zone.to_datetime(Timestamp::try_from(wall).ok()?).date()));
        let of_days = (first_day..=last_day).filter_map(move |day| {
            let (days, start, end, time_zone) = weekly?;
            let date = today?.checked_add(day.days()).ok()?;
            let is_day = days[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())];
            if is_day { occurrence(date, start, end, time_zone) } else { None }
        });
        once.into_iter().chain(of_days)
    }
}

/// The one that begins on `date`. `None` when clocks are put forward over the whole of it.
fn occurrence(date: Date, start: Time, end: End, time_zone: &TimeZone) -> Option<Occurrence> {
    let from = instant(date.to_datetime(start), time_zone, Twice::First)?;
    let until = match end {
        End::After(duration) => from.checked_add(duration)?,
        End::At { days_later, time } => {
            instant(date.checked_add(days_later.days()).ok()?.to_datetime(time), time_zone, Twice::Second)?
        }
    };
    (from < until).then_some(Occurrence { from, until })
}

/// Which of the two is meant by a time that comes twice.
#[derive(Clone, Copy)]
enum Twice {
    First,
    Second,
}

/// The instant at which clocks show `shown`; if they leave it out, that at which they are put forward.
fn instant(shown: DateTime, time_zone: &TimeZone, twice: Twice) -> Option<SystemTime> {
    let ambiguous = time_zone.to_ambiguous_timestamp(shown);
    let timestamp = match (ambiguous.offset(), twice) {
        (AmbiguousOffset::Unambiguous { .. }, _) => ambiguous.compatible(),
        (AmbiguousOffset::Fold { .. }, Twice::First) => ambiguous.earlier(),
        (AmbiguousOffset::Fold { .. }, Twice::Second) => ambiguous.later(),
        (AmbiguousOffset::Gap { .. }, _) => {
            // Read with the offset of after, a time left out lies before the change.
            let before = ambiguous.earlier().ok()?;
            Ok(time_zone.following(before).next()?.timestamp())
        }
    };
    Some(SystemTime::from(timestamp.ok()?))
}

fn whole(reason: &str) -> WindowFault {
    WindowFault { key: "", reason: reason.to_owned() }
}

fn once(config: &WindowConfig) -> Result<Times, WindowFault> {
    let (Some(from), Some(until)) = (&config.from, &config.until) else {
        return Err(whole("a single window takes both from and until"));
    };
    let weekly = [
        ("days", !config.days.0.is_empty()),
        ("start", config.start.is_some()),
        ("end", config.end.is_some()),
        ("duration", config.duration.is_some()),
        ("time_zone", config.time_zone.is_some()),
    ];
    if let Some((key, _)) = weekly.into_iter().find(|(_, is_set)| *is_set) {
        let reason = "is for weekly windows; a single one has from and until alone".to_owned();
        return Err(WindowFault { key, reason });
    }
    let read = |key, text: &str| parse_instant(text).map_err(|reason| WindowFault { key, reason });
    let occurrence = Occurrence { from: read("from", from)?, until: read("until", until)? };
    if occurrence.until <= occurrence.from {
        return Err(WindowFault { key: "until", reason: format!("{until:?} is not after from, {from:?}") });
    }
    Ok(Times::Once(occurrence))
}

/// An instant in RFC 3339.
///
/// # Errors
/// What is wrong with it, and how it is written.
pub fn parse_instant(text: &str) -> Result<SystemTime, String> {
    text.parse::<Timestamp>().map(SystemTime::from).map_err(|_| {
        let what =
            if text.parse::<DateTime>().is_ok() { "has no offset from UTC" } else { "is not a time in RFC 3339" };
        format!("{text:?} {what}; write for example \"2026-12-05T22:00:00+01:00\" or \"2026-12-05T21:00:00Z\"")
    })
}

fn weekly(config: &WindowConfig) -> Result<Times, WindowFault> {
    let fault = |key, reason| Err(WindowFault { key, reason });
    let Some(text) = &config.start else {
        return Err(whole("it has no time; write start, end and time_zone, or from and until for a single window"));
    };
    let Some((0, start)) = parse_time(text) else {
        return fault("start", format!("{text:?} is not a time of day; write for example \"22:00\""));
    };
    let end = match (&config.end, &config.duration) {
        (Some(text), None) => {
            let Some((days_later, time)) = parse_time(text) else {
                return fault("end", format!("{text:?} is not a time of day; write for example \"06:00\""));
            };
            if time == start && days_later == 0 {
                return fault("end", format!("{text:?} is when it starts; for a whole day write duration = \"24h\""));
            }
            End::At { days_later: if days_later == 0 && time < start { 1 } else { days_later }, time }
        }
        (None, Some(text)) => {
            let Ok(duration) = humantime::parse_duration(text) else {
                return fault(
                    "duration",
                    format!("{text:?} is not a duration; write for example \"2h\" or \"1h 30m\""),
                );
            };
            if duration.is_zero() || duration > LONGEST {
                let way_out = "write more than 0 and at most \"7days\"; \"m\" is a minute, \"M\" a month";
                return fault("duration", format!("{text:?} cannot be within a week; {way_out}"));
            }
            End::After(duration)
        }
        (None, None) => return Err(whole("it does not end; write end = \"06:00\" or duration = \"2h\"")),
        (Some(_), Some(_)) => return fault("duration", "end says it already; write one of the two".to_owned()),
    };
    let Some(zone) = &config.time_zone else {
        return Err(whole("whose clocks? write for example time_zone = \"Europe/Berlin\", or \"UTC\""));
    };
    let time_zone = time_zone(zone).map_err(|reason| WindowFault { key: "time_zone", reason })?;
    let mut days = [config.days.0.is_empty(); 7];
    for text in &config.days.0 {
        let Some(day) = parse_day(text) else {
            let reason = format!("{text:?} is no day of the week; write mon, tue, wed, thu, fri, sat or sun");
            return fault("days", reason);
        };
        days[usize::from(day.to_monday_zero_offset().unsigned_abs())] = true;
    }
    Ok(Times::Weekly { days, start, end, time_zone })
}

/// `22:00`, or `24:00` for midnight of the next day: days later, and the time.
fn parse_time(text: &str) -> Option<(i32, Time)> {
    if text == "24:00" {
        return Some((1, Time::midnight()));
    }
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse::<i8>().ok() } else { None }
    };
    let minute = if minute.len() == 2 { number(minute)? } else { return None };
    Some((0, Time::new(number(hour)?, minute, 0, 0).ok()?))
}

fn parse_day(text: &str) -> Option<Weekday> {
    const DAYS: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let text = text.to_ascii_lowercase();
    DAYS.into_iter().find(|(name, _)| *name == text || name[..3] == text).map(|(_, day)| day)
}

/// By its name in the IANA database, a copy of which is built in: what a container brings along does not matter.
fn time_zone(name: &str) -> Result<TimeZone, String> {
    let database = TimeZoneDatabase::bundled();
    database.get(name).map_err(|_| {
        let plain = |text: &str| text.to_ascii_lowercase();
        // Who writes the city alone means the zone that is named after it.
        let city = |zone: &str| plain(zone.rsplit('/').next().unwrap_or_default());
        let known: Vec<String> = database.available().map(|zone| zone.as_str().to_owned()).collect();
        let near = known.iter().find(|zone| city(zone) == plain(name)).or_else(|| {
            let distance = |zone: &String| strsim::damerau_levenshtein(&plain(zone), &plain(name));
            known.iter().min_by_key(|zone| distance(zone)).filter(|zone| distance(zone) <= name.len() / 3)
        });
        let hint = near.map_or_else(
            || "; write a name such as \"Europe/Berlin\", \"America/New_York\" or \"UTC\"".to_owned(),
            |near| format!("; did you mean {near:?}?"),
        );
        format!("there is no time zone {name:?}{hint}")
    })
}

#[cfg(test)]
mod tests;
