//! Rules that come with pgvigil.

use std::time::Duration;

use super::config::{OneOrMany, RuleConfig};
use crate::core::alert::Severity;
use crate::core::lag::Certainty;
use crate::core::topology::Role;

/// The rules that apply when none are written.
pub fn preset() -> Vec<RuleConfig> {
    const MINUTE: u64 = 60;
    let rule = |name: &str, when: &str, hold_for: u64, severity: Severity| RuleConfig {
        name: name.to_owned(),
        when: Some(when.to_owned()),
        hold_for: Some(Duration::from_secs(hold_for)),
        severity: Some(severity),
        ..RuleConfig::default()
    };
    vec![
        rule("TargetDown", "target_up == 0", 10, Severity::Critical),
        rule("ReplicaLagging", "replay_lag_seconds > 5s", 15, Severity::Warning),
        RuleConfig { hold_for: None, ..rule("ReplicaLagCritical", "replay_lag_seconds > 60s", 0, Severity::Critical) },
        // The primary is lost: nothing proves that the replica has its last WAL. Slower, for it is no fault of the replica.
        RuleConfig {
            certainty: OneOrMany(vec![Certainty::AtLeast.as_str().to_owned()]),
            ..rule("ReplicaLagUnproven", "replay_lag_upper_seconds > 5m", MINUTE, Severity::Warning)
        },
        rule("ReplicaNotReceiving", "receiver_running == 0", 30, Severity::Warning),
        rule("ConnectionsNearLimit", "connections_used_ratio > 80%", MINUTE, Severity::Warning),
        rule("InactiveSlotRetainsWal", "slot_inactive_retained_bytes > 1GiB", 5 * MINUTE, Severity::Warning),
        // Lasting, for the rate of WAL has its peaks. No page at night: a limit on slots is there to have slots lost.
        rule("SlotNearlyLost", "slot_lost_in_seconds < 1h", 5 * MINUTE, Severity::Warning),
        RuleConfig { hold_for: None, ..rule("SlotLost", "slot_invalidated == 1", 0, Severity::Warning) },
        // Not at once: in a switchover the old primary's last answer may still stand beside the new one's first.
        rule("SeveralPrimaries", "primaries > 1", 5, Severity::Critical),
        // It holds locks and keeps dead rows from being removed, and nobody waits for it to end.
        rule("IdleInTransaction", "idle_in_transaction_oldest_seconds > 10m", 0, Severity::Warning),
        rule("LockWait", "lock_wait_longest_seconds > 1m", 30, Severity::Warning),
        // Pools keep a few for hours; this many hold connections that others may want.
        rule("ConnectionsIdle", "connections_idle_long > 20", 15 * MINUTE, Severity::Info),
        RuleConfig {
            role: Some(Role::Primary),
            ..rule("PrimaryPromoted", "role_change_age_seconds < 5m", 0, Severity::Info)
        },
        // A replica's restart, or its way to another upstream, is over by then.
        rule("ReplicaMissing", "standby_missing == 1", 2 * MINUTE, Severity::Warning),
        // A connection that only the replica believes in has broken by then, too (`wal_receiver_timeout`).
        rule("ReplicaFollowsElsewhere", "wrong_upstream == 1", 2 * MINUTE, Severity::Warning),
        // The control file of a replica that does not stream tells a new timeline as late as its next restartpoint.
        rule("ReplicaOnOldTimeline", "timelines_behind > 0", 5 * MINUTE, Severity::Warning),
        // A new replica is often there before it is configured here.
        rule("UndeclaredStandby", "undeclared_standbys > 0", 5 * MINUTE, Severity::Warning),
        // Commits wait. Longer than a slow beat, after which a changed setting is known.
        rule("SyncStandbysMissing", "sync_standbys_missing > 0", 30, Severity::Critical),
        rule("PoolerDown", "pooler_up == 0", 15, Severity::Warning),
        // Clients wait now and then for less; a client that has waited for so long is about to give up.
        rule("ConnectionPoolExhausted", "pooler_longest_wait_seconds > 5s", 10, Severity::Critical),
        // A worker that ends with an error is started again within seconds: one look may come in between.
        rule("SubscriptionNotRunning", "subscription_running == 0", MINUTE, Severity::Warning),
        // One large transaction, or a first copy, may well take minutes to apply.
        rule("SubscriptionLagging", "subscription_lag_seconds > 5m", MINUTE, Severity::Warning),
    ]
}
