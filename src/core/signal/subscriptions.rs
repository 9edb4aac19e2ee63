//! Signals of logical replication into a target.

use super::row::{bool_value, per_target};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::subscription::SubscriptionLag;
use crate::core::survey::{ApplyWorker, Subscription, SubscriptionWorkers, TABLE_STATES};
use crate::core::time::MonoTime;

const LABELS: &[&str] = &["datname", "subscription"];
const SUBSCRIPTION: &str = "The subscription has gone, the server is a standby, or the last slow poll is stale.";
const APPLY: &str = "No apply worker runs, the subscription has gone, or the last slow poll is stale.";
const LAG: &str = "Its publisher is not watched, does not answer, or cannot be told from another by the slot's name.";
const COUNTS: &str = "The subscription has gone, the last slow poll is stale, or the server is too old.";
const CONFIRMED: &str =
    "pgvigil's history of the publisher's flush LSN, pg_stat_replication.flush_lsn, confirmed_flush_lsn";

pub(super) const ROWS: &[Signal] = &[
    per_target("subscription_enabled", Unit::Bool, enabled)
        .labels(LABELS)
        .states("is disabled", "is enabled")
        .help("1 while the subscription is enabled.")
        .absent(SUBSCRIPTION)
        .from("pg_subscription.subenabled"),
    per_target("subscription_running", Unit::Bool, running)
        .labels(LABELS)
        .states("does not run: nothing is applied", "runs")
        .help("1 while the apply worker of an enabled subscription runs; one that fails is started again every few seconds.")
        .absent("The subscription is disabled or has gone, the server is a standby, or the last slow poll is stale.")
        .from("pg_stat_subscription"),
    per_target("subscription_workers", Unit::Count, workers)
        .labels(&["datname", "subscription", "type"])
        .help("Running workers of the subscription: apply, parallel_apply, table_sync.")
        .absent(SUBSCRIPTION)
        .from("pg_stat_subscription"),
    per_target("subscription_tables", Unit::Count, tables)
        .labels(&["datname", "subscription", "state"])
        .help("Tables of the subscription by the state of their copy: init, data_copy, finished_copy, synchronized, ready.")
        .absent("The subscription is another database's than the one connected to, has gone, or the last slow poll is stale.")
        .from("pg_subscription_rel"),
    per_target("subscription_message_age_seconds", Unit::Seconds, message_age)
        .labels(LABELS)
        .says("heard last from its publisher {} ago")
        .help("Age of the last message from the publisher, by the subscriber's clock; an idle stream is silent for up to 30 s.")
        .absent(APPLY)
        .from("pg_stat_subscription.last_msg_receipt_time"),
    per_target("subscription_lag_seconds", Unit::Seconds, lag_seconds)
        .labels(LABELS)
        .says("is {} behind its publisher")
        .help("Age of the oldest WAL that the publisher has flushed and the subscriber has not confirmed; 0 when it has confirmed everything.")
        .absent(LAG)
        .from(CONFIRMED),
    per_target("subscription_lag_lower_seconds", Unit::Seconds, lag_lower_seconds)
        .labels(LABELS)
        .says("is at least {} behind its publisher")
        .help("Proven lower bound of the subscription's lag.")
        .absent(LAG)
        .from(CONFIRMED),
    per_target("subscription_lag_upper_seconds", Unit::Seconds, lag_upper_seconds)
        .labels(LABELS)
        .says("may be up to {} behind its publisher")
        .help("Proven upper bound of the subscription's lag; +Inf when there is none.")
        .absent(LAG)
        .from(CONFIRMED),
    per_target("subscription_lag_bytes", Unit::Bytes, lag_bytes)
        .labels(LABELS)
        .says("has not confirmed {} of WAL")
        .help("WAL that the publisher has flushed and the subscriber has not confirmed, published or not.")
        .absent(LAG)
        .from(CONFIRMED),
    per_target("subscription_errors_total", Unit::Count, errors)
        .labels(&["datname", "subscription", "type"])
        .help("Errors while changes were applied (apply) or tables (sync) or sequences (sync_seq, 19+) were synchronized, by the server's count.")
        .absent(COUNTS)
        .from("pg_stat_subscription_stats (15+)")
        .counter(),
    per_target("subscription_conflicts_total", Unit::Count, conflicts)
        .labels(&["datname", "subscription", "type"])
        .help("Conflicts of applied changes with what the subscriber has, by the server's count and names.")
        .absent(COUNTS)
        .from("pg_stat_subscription_stats (18+)")
        .counter(),
];

fn subscriptions(target: &TargetView, now: MonoTime) -> Option<&[Subscription]> {
    target.fresh_survey(now)?.subscriptions.as_deref()
}

/// States values for each subscription. One of which `state` says `None` is unknown.
fn of_each(
    target: &TargetView,
    now: MonoTime,
    mut state: impl FnMut(&Subscription, [&str; 2]) -> Option<()>,
) -> Coverage {
    let Some(subscriptions) = subscriptions(target, now) else { return Coverage::Unknown };
    let mut coverage = Coverage::Complete;
    for subscription in subscriptions {
        if state(subscription, [&subscription.datname, &subscription.name]).is_none() {
            coverage = Coverage::Unknown;
        }
    }
    coverage
}

fn enabled(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, labels| {
        emit(&labels, Value::exact(bool_value(subscription.enabled)));
        Some(())
    })
}

fn running(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, labels| {
        if subscription.enabled {
            let workers = subscription.workers.as_ref()?;
            emit(&labels, Value::exact(bool_value(workers.apply.is_some())));
        }
        Some(())
    })
}

fn workers(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, [datname, name]| {
        let SubscriptionWorkers { apply, parallel_apply, table_sync } = subscription.workers.as_ref()?;
        for (kind, count) in
            [("apply", u64::from(apply.is_some())), ("parallel_apply", *parallel_apply), ("table_sync", *table_sync)]
        {
            emit(&[datname, name, kind], Value::exact(count as f64));
        }
        Some(())
    })
}

fn tables(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, [datname, name]| {
        for ((_, state), count) in TABLE_STATES.iter().zip(subscription.tables.as_ref()?) {
            emit(&[datname, name, state], Value::exact(*count as f64));
        }
        Some(())
    })
}

fn message_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, labels| {
        let apply: Option<&ApplyWorker> = subscription.workers.as_ref()?.apply.as_ref();
        if let Some(age) = apply.and_then(|apply| apply.message_age) {
            emit(&labels, Value::exact(age.max(0.0)));
        }
        Some(())
    })
}

fn of_lags(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    part: impl Fn(&SubscriptionLag) -> Option<Value>,
) -> Coverage {
    of_each(target, now, |subscription, labels| {
        emit(&labels, part(target.subscription_lag(subscription)?)?);
        Some(())
    })
}

fn lag_seconds(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lags(target, now, emit, |SubscriptionLag { lag, .. }| {
        Some(Value { value: lag.value?, lower: lag.lower, upper: lag.upper })
    })
}

fn lag_lower_seconds(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lags(target, now, emit, |SubscriptionLag { lag, .. }| lag.value.map(|_| Value::exact(lag.lower)))
}

fn lag_upper_seconds(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lags(target, now, emit, |SubscriptionLag { lag, .. }| lag.value.map(|_| Value::exact(lag.upper)))
}

fn lag_bytes(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_lags(target, now, emit, |lag| Some(Value::exact(lag.unconfirmed?.0 as f64)))
}

fn errors(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, [datname, name]| {
        for (what, count) in &subscription.errors {
            emit(&[datname, name, what], Value::exact(*count as f64));
        }
        Some(())
    })
}

fn conflicts(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_each(target, now, |subscription, [datname, name]| {
        for (kind, count) in &subscription.conflicts {
            emit(&[datname, name, kind], Value::exact(*count as f64));
        }
        Some(())
    })
}
