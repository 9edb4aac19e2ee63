//! Subscriptions of logical replication.

use std::sync::Arc;

use crate::core::wal::Lsn;

/// One row of `pg_subscription`, with what its workers and counters say.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    pub datname: Arc<str>,
    pub name: Arc<str>,
    /// `subenabled`.
    pub enabled: bool,
    /// `subslotname`: the slot on the publisher. `None` when it has none.
    pub slot_name: Option<Arc<str>>,
    /// `None` when it cannot be told which are its own (PostgreSQL 13, two databases with subscriptions of one name).
    pub workers: Option<SubscriptionWorkers>,
    /// How many tables are in each of [`TABLE_STATES`]. `None` unless it belongs to the database connected to: no other
    /// shows `pg_subscription_rel`.
    pub tables: Option<[u64; TABLE_STATES.len()]>,
    /// `pg_stat_subscription_stats` (15+): by what was being done. Empty before 15.
    pub errors: Vec<(Arc<str>, u64)>,
    /// ... conflicts (18+), by their kind. Empty before 18.
    pub conflicts: Vec<(Arc<str>, u64)>,
}

/// The states of a table in `pg_subscription_rel`: the letter there, and the word for it.
pub const TABLE_STATES: [(&str, &str); 5] =
    [("i", "init"), ("d", "data_copy"), ("f", "finished_copy"), ("s", "synchronized"), ("r", "ready")];

/// The running workers of a subscription (`pg_stat_subscription`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionWorkers {
    /// `None` while it does not run.
    pub apply: Option<ApplyWorker>,
    /// Helpers of the apply worker with transactions that are streamed in parts (16+).
    pub parallel_apply: u64,
    /// Workers that copy a table, or have it catch up.
    pub table_sync: u64,
}

/// The worker that receives and applies what is published.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplyWorker {
    /// `received_lsn`. `None` before it received anything.
    pub received_lsn: Option<Lsn>,
    /// `latest_end_lsn`: the publisher's last word on how far it has sent.
    pub latest_end_lsn: Option<Lsn>,
    /// Seconds since `last_msg_receipt_time`, by the subscriber's clock. An idle publisher is silent for up to 30 s.
    pub message_age: Option<f64>,
}
