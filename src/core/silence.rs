//! Silences: alerts that somebody knows of, and that nobody is to be told of meanwhile.
//!
//! Two kinds. A [`Silence`] is made at run time, has an author, a reason and an end, and is kept over a restart. A
//! [`Window`] of maintenance is configured and comes again each week. Neither touches an alert: it fires and is shown, with
//! why it is not told.
//!
//! An end is told by the clock by which it was asked for. A silence "for two hours" ends by the monitor's own clock,
//! which no NTP step moves; one "until six o'clock", and every window, by the time of day. What has ended is kept until
//! there is too much of it, and never for its age: a time of day that was wrong for a moment loses nothing.

pub mod selector;
pub mod window;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use self::selector::{Selector, is_plain};
use self::window::{LONGEST_REASON, Occurrence, Window};
use super::alert::{AlertId, Severity};
use super::mute::Mute;
use super::saved::move_time;
use super::time::MonoTime;

/// Silences at work at once. Nobody oversees more.
pub const MOST_ACTIVE: usize = 500;

/// Silences kept after their end, the latest ones.
pub const MOST_ENDED: usize = 100;

/// Longer than that is a change of the rules.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Characters of an author's name.
pub const LONGEST_AUTHOR: usize = 100;

/// Alerts that are not told until it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    pub id: u64,
    pub selector: Selector,
    pub author: String,
    pub reason: String,
    pub created_at: SystemTime,
    end: End,
    /// When it was ended before its time.
    expired_at: Option<SystemTime>,
    /// The last time that it was seen to be at work: which of those that ended are the latest.
    last_active: MonoTime,
}

/// When a silence ends, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By the monitor's own clock.
    After(MonoTime),
    /// By the time of day.
    At(SystemTime),
}

/// A silence that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSilence {
    pub selector: Selector,
    /// Everything is meant, if nothing is selected.
    pub all: bool,
    pub author: String,
    pub reason: String,
    pub length: Length,
}

/// How long a silence is to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    For(Duration),
    Until(SystemTime),
}

/// What can be asked of silences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Add(NewSilence),
    Expire { id: u64 },
}

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key of what cannot be, and why.
    #[error("{key}: {reason}")]
    Bad { key: &'static str, reason: String },
    #[error("there is no silence {0}")]
    NoSuch(u64),
    #[error("silence {0} has ended already")]
    Ended(u64),
    #[error("there are {MOST_ACTIVE} silences already; expire some first")]
    TooMany,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub silence: Silence,
    /// When it ends by the time of day, or when it was ended.
    pub until: SystemTime,
    /// Alerts that it holds back now.
    pub alerts: Vec<AlertId>,
    /// What it can never match as it stands: a name that nothing has.
    pub remarks: Vec<String>,
    /// Whether a restart of the daemon will find it: why not.
    pub stored: Result<(), String>,
}

impl NewSilence {
    fn check(&self, wall: SystemTime) -> Result<(), Refusal> {
        let bad = |key, reason: String| Err(Refusal::Bad { key, reason });
        if self.selector.is_everything() && !self.all {
            return bad("all", "it would silence everything; say what, or that all is meant".to_owned());
        }
        if self.all && !self.selector.is_everything() {
            return bad("all", format!("all is meant, and {}; say one of the two", self.selector));
        }
        for (key, text, longest) in [("author", &self.author, LONGEST_AUTHOR), ("reason", &self.reason, LONGEST_REASON)]
        {
            if !is_plain(text, longest) {
                return bad(key, format!("must be one line of 1 to {longest} characters"));
            }
        }
        match self.length {
            Length::For(duration) if duration.is_zero() => bad("for", "a silence must last".to_owned()),
            Length::For(duration) if duration > LONGEST => {
                let told = humantime::format_duration(duration);
                bad("for", format!("{told} is longer than a year; \"m\" is a minute, \"M\" a month"))
            }
            Length::Until(until) if until <= wall => bad("until", format!("{} is past", told(until))),
            Length::Until(until) if until.duration_since(wall).is_ok_and(|length| length > LONGEST) => {
                bad("until", format!("{} is more than a year ahead", told(until)))
            }
            _ => Ok(()),
        }
    }
}

/// Two clocks are never read at quite the same time: without this an end would be another one each time it is told.
fn to_the_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() + u64::from(since.subsec_millis() >= 500))
}

/// A time of day in RFC 3339, to the second.
fn told(time: SystemTime) -> String {
    // Later than the year 9999 it could not be written.
    let longest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, longest)).to_string()
}

impl Silence {
    pub fn is_active(&self, now: MonoTime, wall: SystemTime) -> bool {
        self.expired_at.is_none()
            && match self.end {
                End::After(end) => now < end,
                End::At(end) => wall < end,
            }
    }

    /// When it ends, or ended, by the time of day.
    pub fn until(&self, now: MonoTime, wall: SystemTime) -> SystemTime {
        match (self.expired_at, self.end) {
            (Some(expired_at), _) => expired_at,
            (None, End::At(end)) => end,
            (None, End::After(end)) => {
                let (ahead, behind) = (end.duration_since(now), now.duration_since(end));
                to_the_second(wall.checked_add(ahead).and_then(|at| at.checked_sub(behind)).unwrap_or(wall))
            }
        }
    }

    pub fn was_expired(&self) -> bool {
        self.expired_at.is_some()
    }
}

/// All silences and windows.
#[derive(Clone, Debug, Default)]
pub struct Silences {
    /// In the order in which they were made.
    silences: Vec<Silence>,
    next_id: u64,
    windows: Arc<[Window]>,
}

/// What is kept of them over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSilences {
    pub silences: Vec<Silence>,
    pub next_id: u64,
}

impl SavedSilences {
    /// The same on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        for silence in &mut self.silences {
            move_time(&mut silence.last_active, nanos);
            if let End::After(end) = &mut silence.end {
                move_time(end, nanos);
            }
        }
    }
}

impl Silences {
    pub fn new(windows: Vec<Window>) -> Self {
        Self { silences: Vec::new(), next_id: 1, windows: Arc::from(windows) }
    }

    /// These windows take the place of those there were. Silences made at run time stay.
    pub fn set_windows(&mut self, windows: Vec<Window>) {
        self.windows = Arc::from(windows);
    }

    /// In the order in which they were made; those that have ended as well.
    pub fn all(&self) -> &[Silence] {
        &self.silences
    }

    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    pub fn saved(&self) -> SavedSilences {
        SavedSilences { silences: self.silences.clone(), next_id: self.next_id }
    }

    pub fn restore(&mut self, saved: SavedSilences) {
        // Some may have been made before it could be read: those that were kept have their numbers for longer.
        let made_since = std::mem::replace(&mut self.silences, saved.silences);
        self.next_id = saved.next_id.max(self.next_id);
        for mut silence in made_since {
            if self.silences.iter().any(|kept| kept.id == silence.id) {
                silence.id = self.next_id;
                self.next_id += 1;
            }
            self.silences.push(silence);
        }
    }

    /// # Errors
    /// Why it is not done. Then nothing has changed.
    pub fn change(&mut self, change: Change, now: MonoTime, wall: SystemTime) -> Result<Silence, Refusal> {
        match change {
            Change::Add(new) => self.add(new, now, wall),
            Change::Expire { id } => {
                let found = self.silences.iter_mut().find(|silence| silence.id == id).ok_or(Refusal::NoSuch(id))?;
                if !found.is_active(now, wall) {
                    return Err(Refusal::Ended(id));
                }
                found.expired_at = Some(wall);
                found.last_active = now;
                Ok(found.clone())
            }
        }
    }

    fn add(&mut self, new: NewSilence, now: MonoTime, wall: SystemTime) -> Result<Silence, Refusal> {
        new.check(wall)?;
        let n_active = self.silences.iter().filter(|silence| silence.is_active(now, wall)).count();
        if n_active >= MOST_ACTIVE {
            return Err(Refusal::TooMany);
        }
        self.forget(now, wall);
        let silence = Silence {
            id: self.next_id,
            selector: new.selector,
            author: new.author,
            reason: new.reason,
            created_at: wall,
            end: match new.length {
                Length::For(duration) => End::After(now.plus(duration)),
                Length::Until(until) => End::At(until),
            },
            expired_at: None,
            last_active: now,
        };
        self.next_id += 1;
        self.silences.push(silence.clone());
        Ok(silence)
    }

    /// Of those that have ended, forgets all but the latest.
    fn forget(&mut self, now: MonoTime, wall: SystemTime) {
        for silence in self.silences.iter_mut().filter(|silence| silence.is_active(now, wall)) {
            silence.last_active = now;
        }
        let ended = self.silences.iter().filter(|silence| !silence.is_active(now, wall));
        let mut ended: Vec<(MonoTime, u64)> = ended.map(|silence| (silence.last_active, silence.id)).collect();
        ended.sort_unstable();
        ended.truncate(ended.len().saturating_sub(MOST_ENDED));
        self.silences.retain(|silence| !ended.iter().any(|(_, id)| *id == silence.id));
    }

    /// What holds alerts back at this moment.
    pub fn at(&self, now: MonoTime, wall: SystemTime) -> Active<'_> {
        Active {
            silences: self
                .silences
                .iter()
                .filter(|silence| silence.is_active(now, wall))
                .map(|silence| (silence, silence.until(now, wall)))
                .collect(),
            windows: self.windows.iter().filter_map(|window| Some((window, window.open_at(wall)?))).collect(),
        }
    }
}

/// The silences at work and the windows that are open.
#[derive(Clone, Debug)]
pub struct Active<'a> {
    /// Each with its end.
    pub silences: Vec<(&'a Silence, SystemTime)>,
    pub windows: Vec<(&'a Window, Occurrence)>,
}

impl Active<'_> {
    /// Why nobody is told of an alert; empty when nothing holds it back.
    pub fn mutes(&self, alert: &AlertId, severity: Severity) -> Vec<Mute> {
        let silences = self.silences.iter().filter(|(silence, _)| silence.selector.matches(alert, severity));
        let windows = self.windows.iter().filter(|(window, _)| window.selector.matches(alert, severity));
        let silences = silences.map(|(silence, until)| Mute::Silence {
            id: silence.id.to_string(),
            author: silence.author.clone(),
            reason: silence.reason.clone(),
            until: *until,
        });
        let windows =
            windows.map(|(window, open)| Mute::Maintenance { name: window.name.to_string(), until: open.until });
        silences.chain(windows).collect()
    }
}

#[cfg(test)]
mod tests;
