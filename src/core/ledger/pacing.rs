//! When a group's notice leaves, so that a storm of alerts is not one of messages.
//!
//! | the group | its notice leaves |
//! |---|---|
//! | nothing of it was told as firing | `group_wait` after its first news: what fails together fires within seconds |
//! | was told, and something severer fires | `group_wait` after that |
//! | was told, and all of it is over | `group_wait` after the end |
//! | was told, and something else changed | `group_interval` after its last notice, and not before `group_wait` |
//! | was told, and a critical alert fires on | `repeat_interval` after that was told |
//! | an alert of it begins to flap, or is calm | `group_wait` after that |

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{Account, Line, Purpose, SendFailure};
use crate::core::alert::{AlertId, Phase, Severity};
use crate::core::time::MonoTime;

/// Changes of an alert are counted over this time.
pub(super) const FLAPPING_WITHIN: Duration = Duration::from_secs(60 * 60);

/// An alert that flapped is calm when it has not changed for this long.
pub(super) const CALM_AFTER: Duration = Duration::from_secs(15 * 60);

const MINUTE: Duration = Duration::from_secs(60);

/// What the alerts of one notice have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    #[default]
    Cluster,
    /// One notice for each alert.
    Alert,
}

/// `[alerting]`: how notices are grouped, paced and held.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertingConfig {
    pub group_by: GroupBy,
    /// What is new waits this long for what comes with it.
    #[serde(deserialize_with = "wait")]
    pub group_wait: Duration,
    /// What changes in a group of which people know waits until its last notice is this old.
    #[serde(deserialize_with = "interval")]
    pub group_interval: Duration,
    /// A critical alert that fires on is told again after this long. 0s: never.
    #[serde(deserialize_with = "repeat")]
    pub repeat_interval: Duration,
    /// An alert that fires and resolves more often than this within an hour flaps. 0: none ever does.
    pub flapping: u32,
    /// A notifier is sent no more notices than this in a minute.
    #[serde(deserialize_with = "at_least_two")]
    pub max_per_minute: u32,
}

impl Default for AlertingConfig {
    fn default() -> Self {
        Self {
            group_by: GroupBy::default(),
            group_wait: Duration::from_secs(5),
            group_interval: MINUTE,
            repeat_interval: MINUTE * 4 * 60,
            flapping: 6,
            max_per_minute: 20,
        }
    }
}

impl AlertingConfig {
    /// Every change is told at once.
    pub(crate) const IMMEDIATE: Self = Self {
        group_by: GroupBy::Cluster,
        group_wait: Duration::ZERO,
        group_interval: Duration::ZERO,
        repeat_interval: Duration::ZERO,
        flapping: 0,
        max_per_minute: u32::MAX,
    };
}

/// An alert waits for so long, so a slip of the pen (`5M` is five months) must not swallow it.
fn wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let most = 60 * MINUTE;
    duration(deserializer, |wait| wait <= most, "a duration of at most \"1h\" (\"m\" is a minute, \"M\" a month)")
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let most = 24 * 60 * MINUTE;
    duration(
        deserializer,
        |interval| interval <= most,
        "a duration of at most \"1d\" (\"m\" is a minute, \"M\" a month)",
    )
}

fn repeat<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let most = 366 * 24 * 60 * MINUTE;
    let is_good = |repeat: Duration| repeat.is_zero() || (MINUTE..=most).contains(&repeat);
    duration(deserializer, is_good, "a duration of at least \"1m\" and at most a year, or \"0s\"")
}

fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_good: impl Fn(Duration) -> bool,
    expected: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .ok()
        .filter(|duration| is_good(*duration))
        .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &expected))
}

/// One for the summary of what is held, and one for something that is not.
fn at_least_two<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if number < 2 {
        return Err(de::Error::invalid_value(de::Unexpected::Unsigned(number.into()), &"a number from 2 up"));
    }
    Ok(number)
}

/// What one notifier was sent of late.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Within the last minute.
    sent: VecDeque<MonoTime>,
    told_of_held: Option<MonoTime>,
    /// Its last attempt did not reach it.
    pub(super) is_cut_off: bool,
}

impl Desk {
    /// How many notices it may be sent now.
    pub(super) fn left(&mut self, max_per_minute: usize, now: MonoTime) -> usize {
        while self.sent.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.sent.pop_front();
        }
        max_per_minute.saturating_sub(self.sent.len())
    }

    /// Whether it is to be told now that something is held: once a minute.
    pub(super) fn tells_of_held(&mut self, now: MonoTime) -> bool {
        let is_due = self.told_of_held.is_none_or(|at| now.duration_since(at) >= MINUTE);
        if is_due {
            self.told_of_held = Some(now);
        }
        is_due
    }

    pub(super) fn sent(&mut self, n_notices: usize, now: MonoTime) {
        self.sent.extend(std::iter::repeat_n(now, n_notices));
    }

    pub(super) fn record(&mut self, outcome: &Result<(), SendFailure>) {
        self.is_cut_off =
            matches!(outcome, Err(SendFailure::Transient(_) | SendFailure::Later { .. } | SendFailure::Unclear(_)));
    }
}

/// The alerts of a group, each with its account and the line of one notifier.
pub(super) type Members<'a> = Vec<(&'a AlertId, &'a Account, &'a Line)>;

/// What the group must be told now, if anything. The most urgent purpose first: others follow it.
pub(super) fn due(members: &Members<'_>, config: &AlertingConfig, now: MonoTime) -> Option<Purpose> {
    [Purpose::Alerts, Purpose::Flapping, Purpose::Calm, Purpose::Repeat]
        .into_iter()
        .find(|purpose| is_due(members, *purpose, config, now))
}

fn is_due(members: &Members<'_>, purpose: Purpose, config: &AlertingConfig, now: MonoTime) -> bool {
    let told = |line: &Line| line.told.filter(|told| told.phase == Phase::Firing && !told.is_flapping);
    let last_at = members.iter().filter_map(|(_, _, line)| Some(line.told?.at)).max();
    let told_severity: Option<Severity> = members.iter().filter_map(|(_, _, line)| Some(told(line)?.severity)).max();
    let is_over = members.iter().all(|(_, account, _)| account.alert.phase == Phase::Resolved);
    members.iter().any(|(_, account, line)| {
        let Some((_, since)) = line.news.filter(|news| news.0 == purpose) else { return false };
        if line.next_at > now {
            return false;
        }
        if line.attempts > 0 {
            // It was attempted, and only the failure makes it wait.
            return true;
        }
        let waited = now.duration_since(since) >= config.group_wait;
        match purpose {
            // The waits are behind it.
            Purpose::Repeat => true,
            Purpose::Flapping
            | Purpose::Calm
            | Purpose::Held
            | Purpose::Standing
            | Purpose::Heartbeat { .. }
            | Purpose::Test => waited,
            Purpose::Alerts => {
                let is_severer = account.alert.phase == Phase::Firing && Some(account.alert.severity) > told_severity;
                let is_urgent = told_severity.is_none() || is_severer || is_over;
                let paced = last_at.is_none_or(|at| now.duration_since(at) >= config.group_interval);
                waited && (is_urgent || paced)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_swallows_no_alert_and_repeats_none_each_second() {
        for (key, text, is_good) in [
            ("group_wait", "1h", true),
            ("group_wait", "5M", false),
            ("group_wait", "584542046090y", false),
            ("group_interval", "1d", true),
            ("group_interval", "1M", false),
            ("repeat_interval", "0s", true),
            ("repeat_interval", "1m", true),
            ("repeat_interval", "1ns", false),
            ("repeat_interval", "9y", false),
        ] {
            let read = serde_json::from_str::<AlertingConfig>(&format!("{{\"{key}\": \"{text}\"}}"));
            assert_eq!(read.is_ok(), is_good, "{key} = {text}: {read:?}");
        }
    }
}
