//! Settings that decide whether a standby can go on replaying: those that must not be lower than on its primary, and a
//! recovery target. All are fixed from a server's start to its stop, and readable by any role.
//!
//! A standby whose settings are too low does not go on: from PostgreSQL 14 it pauses replay by itself and shuts down when
//! replay is resumed; before, it shuts down at once; and it does not start again until they are raised. A standby that has
//! reached its recovery target pauses too, and promotes itself when replay is resumed.

use std::fmt::Write as _;

/// What one server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbySettings {
    pub capacity: Capacity,
    /// `None`: none is set, as it should be on a standby that is to go on.
    pub recovery_target: Option<RecoveryTarget>,
}

/// The settings of [`Capacity::NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity([Option<u64>; Capacity::NAMES.len()]);

impl Capacity {
    /// Settings that must not be lower on a standby than on its primary (manual, "Hot Standby", administrator's overview).
    pub const NAMES: [&'static str; 5] = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    ];

    /// By what `read` gives for each name; `None` where a setting is not known.
    pub fn new(read: impl FnMut(&'static str) -> Option<u64>) -> Self {
        Self(Self::NAMES.map(read))
    }

    /// Whether every setting is known.
    pub fn is_known(self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// The higher of both, setting by setting.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let mut most = self;
        for (most, other) in most.0.iter_mut().zip(other.0) {
            *most = (*most).max(other);
        }
        most
    }

    /// What is lower here than on the primary. What is not known of either is left out.
    pub fn shortfalls(self, primary: Self) -> Vec<Shortfall> {
        let each = Self::NAMES.into_iter().zip(self.0.into_iter().zip(primary.0));
        each.filter_map(|(setting, (own, primary))| Some(Shortfall { setting, own: own?, primary: primary? }))
            .filter(|shortfall| shortfall.own < shortfall.primary)
            .collect()
    }
}

/// A setting that is lower on a standby than on its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub setting: &'static str,
    pub own: u64,
    pub primary: u64,
}

impl Shortfall {
    /// `max_connections is 100 and 200 on its primary, max_wal_senders is 5 and 10 there`.
    pub fn list(shortfalls: &[Self]) -> String {
        let mut list = String::new();
        for (place, Self { setting, own, primary }) in shortfalls.iter().enumerate() {
            let place = if place == 0 { ("", "on its primary") } else { (", ", "there") };
            // Writing to a String cannot fail.
            let _ = write!(list, "{}{setting} is {own} and {primary} {}", place.0, place.1);
        }
        list
    }
}

/// The one setting of [`RecoveryTarget::NAMES`] that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryTarget {
    pub setting: &'static str,
    pub value: String,
    pub action: TargetAction,
}

impl RecoveryTarget {
    pub const NAMES: [&'static str; 5] = [
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    ];

    /// By what `read` gives for each name, and for `recovery_target_action`.
    pub fn new<'a>(read: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let (setting, value) =
            Self::NAMES.into_iter().find_map(|name| Some((name, read(name).filter(|value| !value.is_empty())?)))?;
        let action = match read("recovery_target_action") {
            Some("promote") => TargetAction::Promote,
            Some("shutdown") => TargetAction::ShutDown,
            _ => TargetAction::Pause,
        };
        Some(Self { setting, value: value.to_owned(), action })
    }
}

/// `recovery_target_action`: what the server does at its recovery target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// It pauses replay; resuming ends recovery.
    Pause,
    /// It promotes itself.
    Promote,
    ShutDown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(values: [Option<u64>; 5]) -> Capacity {
        let mut values = values.into_iter();
        Capacity::new(|_| values.next().flatten())
    }

    #[test]
    fn only_what_is_lower_than_on_the_primary_falls_short() {
        let primary = capacity([Some(200), Some(8), Some(10), None, Some(64)]);
        let standby = capacity([Some(100), Some(8), Some(5), Some(0), Some(128)]);
        let shortfalls = standby.shortfalls(primary);
        assert_eq!(
            Shortfall::list(&shortfalls),
            "max_connections is 100 and 200 on its primary, max_wal_senders is 5 and 10 there"
        );
        assert_eq!(standby.shortfalls(Capacity::default()), []);
        assert_eq!(Capacity::default().shortfalls(primary), []);
        assert_eq!((standby.is_known(), primary.is_known()), (true, false));
        let most = standby.max(primary);
        assert_eq!(most, capacity([Some(200), Some(8), Some(10), Some(0), Some(128)]));
    }

    #[test]
    fn a_recovery_target_is_the_setting_that_is_not_empty() {
        let read = |settings: &'static [(&'static str, &'static str)]| {
            RecoveryTarget::new(|name| settings.iter().find(|(other, _)| *other == name).map(|(_, value)| *value))
        };
        assert_eq!(read(&[("recovery_target_time", ""), ("recovery_target_action", "promote")]), None);
        let target = |setting, value: &str, action| Some(RecoveryTarget { setting, value: value.to_owned(), action });
        let expect = target("recovery_target", "immediate", TargetAction::Pause);
        assert_eq!(read(&[("recovery_target", "immediate"), ("recovery_target_action", "pause")]), expect);
        let expect = target("recovery_target_xid", "7", TargetAction::ShutDown);
        assert_eq!(read(&[("recovery_target_xid", "7"), ("recovery_target_action", "shutdown")]), expect);
    }
}
