//! What each notifier has been told, against what is true: the difference is due.

use std::time::SystemTime;

use super::alert::{AlertId, AlertView};
use super::topology::{Name, Role};

/// Something that a notifier must be told: handed to its worker, which makes one attempt and reports back.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub notifier: Name,
    /// `phase` is `Firing` or `Resolved`.
    pub alert: AlertView,
    /// The same for every attempt, and on every daemon that watches the same thing.
    pub dedup_key: String,
    /// Wall times of the alert's `active_at`, `fired_at`, `resolved_at`.
    pub active_at: SystemTime,
    pub fired_at: Option<SystemTime>,
    pub resolved_at: Option<SystemTime>,
    /// The target's role by its own last word.
    pub role: Option<Role>,
    /// What helps to judge the reading, in order of use: `("certainty", "at_least")`, `("method", "lsn")`, `("server", "15.18")`.
    pub details: Vec<(String, String)>,
    /// 1 for the first.
    pub attempt: u32,
}

/// How an attempt to tell ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub notifier: Name,
    pub alert: AlertId,
    /// Of the notice that was attempted.
    pub dedup_key: String,
    pub outcome: Result<(), SendFailure>,
}

/// Why a notice was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// Worth another attempt, after a while.
    #[error("{0}")]
    Transient(String),
    /// Will be refused again until someone acts; tried again all the same, rarely.
    #[error("{0}")]
    Permanent(String),
}
