//! Drains: targets that somebody keeps reads from for a while, by hand. A drained target is watched and alerted on as ever;
//! it is out wherever somebody asks where to read, whatever the limits, until the drain ends by itself or is undone.
//!
//! An end is told by the monitor's own clock, which no NTP step moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::saved::move_time;
use super::silence::selector::is_plain;
use super::time::MonoTime;
use super::topology::TargetId;

/// What is out for longer belongs out of the configuration.
pub const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// Characters of an author's name, and of a reason.
pub const LONGEST_AUTHOR: usize = 100;
pub const LONGEST_REASON: usize = 500;

/// One target that is drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub target: TargetId,
    pub author: String,
    pub reason: Option<String>,
    pub created_at: SystemTime,
    end: MonoTime,
}

/// A drain that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDrain {
    pub target: Whom,
    pub author: String,
    pub reason: Option<String>,
    pub length: Duration,
}

/// A target as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whom {
    /// May be left out where only one cluster has a target of that name.
    pub cluster: Option<String>,
    pub target: String,
}

/// What can be asked of drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Also of a target that is drained already: then this takes its place.
    Add(NewDrain),
    Undo(Whom),
}

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key of what cannot be, and why.
    #[error("{key}: {reason}")]
    Bad { key: &'static str, reason: String },
    #[error("{0}")]
    NoSuch(String),
    #[error("{0} is not drained")]
    NotDrained(TargetId),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub drain: Drain,
    /// It was undone.
    pub is_over: bool,
    /// Whether a restart of the daemon will find it: why not.
    pub stored: Result<(), String>,
}

impl Drain {
    /// How much longer it lasts. `None` when it is over.
    pub fn left(&self, now: MonoTime) -> Option<Duration> {
        Some(self.end.duration_since(now)).filter(|left| !left.is_zero())
    }

    /// In words that follow a target's name.
    pub fn sentence(&self, left: Duration) -> String {
        let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("drained by {} for another {left}{reason}", self.author)
    }
}

impl NewDrain {
    fn check(&self) -> Result<(), Refusal> {
        let bad = |key, reason: String| Err(Refusal::Bad { key, reason });
        let texts = [("author", Some(&self.author), LONGEST_AUTHOR), ("reason", self.reason.as_ref(), LONGEST_REASON)];
        for (key, text, longest) in texts {
            if text.is_some_and(|text| !is_plain(text, longest)) {
                return bad(key, format!("must be one line of 1 to {longest} characters"));
            }
        }
        if self.length.is_zero() {
            return bad("for", "a drain must last".to_owned());
        }
        if self.length > LONGEST {
            let told = humantime::format_duration(self.length);
            return bad("for", format!("{told} is longer than 31 days; \"m\" is a minute, \"M\" a month"));
        }
        Ok(())
    }
}

impl Whom {
    /// `cluster/target`, or the target alone.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((cluster, target)) => Self { cluster: Some(cluster.to_owned()), target: target.to_owned() },
            None => Self { cluster: None, target: text.to_owned() },
        }
    }

    /// The one target that is meant.
    fn among<'a>(&self, known: impl Iterator<Item = &'a TargetId>) -> Result<TargetId, Refusal> {
        let is_meant = |id: &&TargetId| {
            id.target.as_str() == self.target && self.cluster.as_ref().is_none_or(|name| id.cluster.as_str() == name)
        };
        let meant: Vec<&TargetId> = known.filter(is_meant).collect();
        match meant[..] {
            [id] => Ok(id.clone()),
            [] => {
                let cluster = self.cluster.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
                Err(Refusal::NoSuch(format!("no target {:?} is configured", format!("{cluster}{}", self.target))))
            }
            _ => {
                let reason = format!(
                    "there are {}; write one of them",
                    meant.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                );
                Err(Refusal::Bad { key: "target", reason })
            }
        }
    }
}

/// All that are drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains {
    drains: BTreeMap<TargetId, Arc<Drain>>,
}

/// What is kept of them over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDrains(Vec<Drain>);

impl SavedDrains {
    /// The same on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        for drain in &mut self.0 {
            move_time(&mut drain.end, nanos);
        }
    }
}

impl Drains {
    /// By target.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Drain>> {
        self.drains.values()
    }

    pub fn of(&self, target: &TargetId) -> Option<&Arc<Drain>> {
        self.drains.get(target)
    }

    pub fn is_empty(&self) -> bool {
        self.drains.is_empty()
    }

    pub fn saved(&self) -> SavedDrains {
        SavedDrains(self.drains.values().map(|drain| Drain::clone(drain)).collect())
    }

    pub fn restore(&mut self, saved: SavedDrains) {
        for drain in saved.0 {
            // One that was made before it could be read is the latest word.
            self.drains.entry(drain.target.clone()).or_insert_with(|| Arc::new(drain));
        }
    }

    /// Forgets those that are over. Says whether there were any.
    pub fn forget(&mut self, now: MonoTime) -> bool {
        let before = self.drains.len();
        self.drains.retain(|_, drain| drain.left(now).is_some());
        self.drains.len() != before
    }

    /// # Errors
    /// Why it is not done. Then nothing has changed.
    pub fn change<'a>(
        &mut self,
        change: Change,
        known: impl Iterator<Item = &'a TargetId>,
        now: MonoTime,
        wall: SystemTime,
    ) -> Result<Changed, Refusal> {
        match change {
            Change::Add(new) => {
                new.check()?;
                let target = new.target.among(known)?;
                let (author, reason, end) = (new.author, new.reason, now.plus(new.length));
                let drain = Drain { target: target.clone(), author, reason, created_at: wall, end };
                self.drains.insert(target, Arc::new(drain.clone()));
                Ok(Changed { drain, is_over: false, stored: Ok(()) })
            }
            Change::Undo(whom) => {
                let target = whom.among(known)?;
                let drain = self.drains.remove(&target).ok_or(Refusal::NotDrained(target))?;
                Ok(Changed { drain: Drain::clone(&drain), is_over: true, stored: Ok(()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: MonoTime = MonoTime::from_nanos(5_000_000_000);

    fn known() -> [TargetId; 3] {
        [TargetId::new("orders", "r1"), TargetId::new("orders", "r2"), TargetId::new("billing", "r1")]
    }

    fn add(target: &str, seconds: u64) -> Change {
        let length = Duration::from_secs(seconds);
        Change::Add(NewDrain { target: Whom::parse(target), author: "ada".to_owned(), reason: None, length })
    }

    fn change(drains: &mut Drains, change: Change) -> Result<Changed, String> {
        drains.change(change, known().iter(), NOW, SystemTime::UNIX_EPOCH).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_drain_ends_by_itself_or_by_hand() {
        let mut drains = Drains::default();
        change(&mut drains, add("r2", 60)).unwrap();
        change(&mut drains, add("billing/r1", 5)).unwrap();
        assert!(!drains.forget(NOW.plus_seconds(4.9)));
        let names = |drains: &Drains| drains.all().map(|drain| drain.target.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&drains), ["billing/r1", "orders/r2"]);
        assert!(drains.forget(NOW.plus_seconds(5.0)));
        assert_eq!(names(&drains), ["orders/r2"]);
        let left = drains.of(&TargetId::new("orders", "r2")).and_then(|drain| drain.left(NOW));
        assert_eq!(left, Some(Duration::from_secs(60)));
        assert!(change(&mut drains, Change::Undo(Whom::parse("orders/r2"))).unwrap().is_over);
        assert!(drains.is_empty());
    }

    #[test]
    fn another_drain_of_a_target_takes_the_place_of_the_first() {
        let mut drains = Drains::default();
        change(&mut drains, add("r2", 60)).unwrap();
        change(&mut drains, add("r2", 5)).unwrap();
        assert_eq!(drains.all().count(), 1);
        assert!(drains.forget(NOW.plus_seconds(6.0)));
    }

    #[test]
    fn what_is_kept_has_as_much_time_left_on_another_clock() {
        let mut drains = Drains::default();
        change(&mut drains, add("r2", 60)).unwrap();
        let mut saved: SavedDrains = serde_json::from_str(&serde_json::to_string(&drains.saved()).unwrap()).unwrap();
        saved.move_times(-4_000_000_000);
        let mut restored = Drains::default();
        restored.restore(saved);
        let left = restored.all().next().and_then(|drain| drain.left(NOW.plus_seconds(-4.0)));
        assert_eq!(left, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_target_must_be_known_and_meant_alone() {
        let mut drains = Drains::default();
        for (wish, reason) in [
            (add("r1", 60), "target: there are orders/r1, billing/r1; write one of them"),
            (add("r3", 60), "no target \"r3\" is configured"),
            (add("x/r1", 60), "no target \"x/r1\" is configured"),
            (add("r2", 0), "for: a drain must last"),
            (
                add("r2", 32 * 24 * 3600),
                "for: 1month 1day 13h 26m 24s is longer than 31 days; \"m\" is a minute, \"M\" a month",
            ),
            (Change::Undo(Whom::parse("r2")), "orders/r2 is not drained"),
        ] {
            assert_eq!(change(&mut drains, wish), Err(reason.to_owned()));
        }
        assert!(drains.is_empty());
    }
}
