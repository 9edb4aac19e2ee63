//! `pgvigil rules replay`: when each rule would have fired over the readings that a daemon kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::core::alert::{AlertId, Phase};
use crate::core::replay::{Replay, Turn};
use crate::core::rule::Rule;
use crate::core::time::MonoTime;
use crate::store::readings;

/// Rules are judged this often within a minute, whose readings stay the same: often enough for any `for`.
const TICK: Duration = Duration::from_secs(5);

const MINUTE: Duration = Duration::from_secs(60);

/// What would have happened since `since`, as text. `say` is told how far it has come.
///
/// # Errors
/// Says why there is nothing to replay.
pub fn run(
    store: &Path,
    rules: Vec<Rule>,
    poll_interval: Duration,
    since: SystemTime,
    say: impl Fn(&str),
) -> Result<String, String> {
    say("reading what was kept");
    let path = readings::beside(store);
    let mut past = readings::past(&path, since)?;
    let (Some((&first, _)), Some((&end, _))) = (past.minutes.first_key_value(), past.minutes.last_key_value()) else {
        return Err(format!("{} has no readings since {}", path.display(), told(since)));
    };
    let names: Vec<String> = rules.iter().map(|rule| rule.name.to_string()).collect();
    let mut replay = Replay::new(rules, poll_interval);
    let mut turns = Vec::new();
    for minute in first..end {
        if minute % 60 == 0 {
            say(&format!("{} of {} hours replayed", (minute - first) / 60, (end - first) / 60));
        }
        for (place, reading) in past.minutes.remove(&minute).unwrap_or_default() {
            replay.set(&past.series[place], reading);
        }
        let mut passed = Duration::ZERO;
        while passed < MINUTE {
            turns.extend(replay.judge(mono_of(minute).plus(passed), wall_of(minute) + passed));
            passed += TICK;
        }
    }
    let mut text = format!(
        "{} to {}: {} of {} minutes recorded, {} series\n",
        told(wall_of(first)),
        told(wall_of(end)),
        past.n_recorded,
        end - first,
        past.series.len()
    );
    text.push_str(&story(&turns, &names, mono_of(end)));
    Ok(text)
}

/// Minutes since 1970 on a clock of their own.
fn mono_of(minute: i64) -> MonoTime {
    MonoTime::from_nanos(minute.saturating_mul(60_000_000_000))
}

fn wall_of(minute: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + MINUTE * u32::try_from(minute).unwrap_or_default()
}

fn told(wall: SystemTime) -> String {
    // Before 1970 and after the year 9999 it could not be written.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(wall.clamp(SystemTime::UNIX_EPOCH, last)).to_string()
}

/// A line for each turn, and one for each rule.
fn story(turns: &[Turn], rules: &[String], end: MonoTime) -> String {
    let mut text = String::new();
    let mut open: BTreeMap<&AlertId, MonoTime> = BTreeMap::new();
    let mut sums: BTreeMap<&str, (u32, Duration)> = BTreeMap::new();
    for Turn { at, alert } in turns {
        let wall = SystemTime::UNIX_EPOCH + at.duration_since(MonoTime::from_nanos(0));
        let (state, severity) = (alert.phase.as_str(), alert.severity.as_str());
        let mut line = format!("{}  {state:<8}  {severity:<8}  {}", told(wall), alert.id);
        let sum = sums.entry(alert.id.rule.as_str()).or_default();
        if alert.phase == Phase::Resolved {
            let lasted = open.remove(&alert.id).map_or(Duration::ZERO, |fired_at| at.duration_since(fired_at));
            sum.1 += lasted;
            line.push_str(&format!("  after {}", humantime::format_duration(lasted)));
        } else {
            if open.insert(&alert.id, *at).is_none() {
                sum.0 += 1;
            }
            let reading = alert.reading.map_or_else(|| "unknown".to_owned(), |reading| reading.to_string());
            line.push_str(&format!("  ({}; reading {reading})", alert.condition));
        }
        text.push_str(&format!("{line}\n"));
    }
    for (id, fired_at) in open {
        sums.entry(id.rule.as_str()).or_default().1 += end.duration_since(fired_at);
        text.push_str(&format!("still firing at the end: {id}\n"));
    }
    text.push('\n');
    for rule in rules {
        text.push_str(&match sums.get(rule.as_str()) {
            None => format!("{rule}: never\n"),
            Some((times, lasted)) => {
                let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
                format!("{rule}: {times}, {} in all\n", humantime::format_duration(*lasted))
            }
        });
    }
    text
}
