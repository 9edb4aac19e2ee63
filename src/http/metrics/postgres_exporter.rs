//! The names that `postgres_exporter`'s users have in their dashboards and rules, for those who have asked for them.
//!
//! A name means what it means there, as far as that is measured here; what is not measured has no name. What is not known
//! is absent, where the exporter says 0: the lag of a replica that lost its primary, sessions that the role may not see.
//! All have the labels `cluster` and `target`, and `server` as the exporter writes it, so that they still match one another.

use std::collections::BTreeMap;

use crate::core::observation::Positions;
use crate::core::senders::{end_of_wal, groups};
use crate::core::shown::Shown;
use crate::core::signal::{Coverage, Emit, Read, Signal, Value, sender_state};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::survey::{Sessions, Slot};
use crate::core::time::MonoTime;
use crate::core::topology::Role;

/// One name of `postgres_exporter`'s.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    /// The word of the TYPE line.
    pub kind: &'static str,
    /// After `cluster`, `target` and `server`.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    source: Source,
    pub shown: Option<fn(&TargetView) -> &Shown>,
}

type ReadTarget = fn(&ClusterView, &TargetView, MonoTime, Emit<'_>) -> Coverage;

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The same as one of our signals.
    Signal(&'static str),
    Own(ReadTarget),
}

impl Family {
    /// How it is read off a view.
    pub fn read(&self) -> Read {
        match self.source {
            Source::Signal(name) => {
                Signal::named(name).map_or(Read::Target(|_, _, _, _| Coverage::Complete), |signal| signal.read)
            }
            Source::Own(read) => Read::Target(read),
        }
    }
}

const fn gauge(name: &'static str, source: Source, help: &'static str) -> Family {
    Family { name, kind: "gauge", labels: &[], help, source, shown: None }
}

const fn counter(name: &'static str, source: Source, help: &'static str) -> Family {
    Family { kind: "counter", ..gauge(name, source, help) }
}

const fn with(labels: &'static [&'static str], family: Family) -> Family {
    Family { labels, ..family }
}

const fn of_slots(labels: &'static [&'static str], family: Family) -> Family {
    Family { labels, shown: Some(shown_slots), ..family }
}

const SENDER: &[&str] = &["application_name", "client_addr", "slot_name", "state"];
const STATEMENT: &[&str] = &["datname", "queryid"];
const BY_DATABASE: &[&str] = &["slot_name", "database"];
const BY_TYPE: &[&str] = &["slot_name", "slot_type"];
const BY_STATUS: &[&str] = &["slot_name", "slot_type", "wal_status"];

/// In the order of `/metrics`. Slots are there by the names that they had before 0.20, and since.
pub static FAMILIES: [Family; 30] = [
    gauge("pg_up", Source::Signal("target_up"), "1 when the last poll succeeded."),
    gauge("pg_exporter_last_scrape_error", Source::Own(last_error), "1 when the last poll failed."),
    Family {
        kind: "untyped",
        ..with(
            &["version", "short_version"],
            gauge("pg_static", Source::Own(version), "The server's version; always 1."),
        )
    },
    gauge(
        "pg_postmaster_start_time_seconds",
        Source::Signal("server_start_time_seconds"),
        "When the server started, in seconds since 1970.",
    ),
    gauge(
        "pg_replication_lag_seconds",
        Source::Signal("replay_lag_seconds"),
        "Replay lag as pgvigil measures it; absent on a primary, and while it is not known.",
    ),
    gauge(
        "pg_replication_lag",
        Source::Signal("replay_lag_seconds"),
        "As pg_replication_lag_seconds: its name before 0.13, and in many queries of one's own.",
    ),
    gauge("pg_replication_is_replica", Source::Own(is_replica), "1 on a replica, 0 on a primary."),
    gauge(
        "pg_replication_last_replay_seconds",
        Source::Own(last_replay),
        "Age of the last commit that the replica has replayed, by the two servers' clocks. No lag: it grows on an idle primary.",
    ),
    with(
        &["datname", "state"],
        gauge("pg_stat_activity_count", Source::Own(activity_count), "Client sessions by database and state."),
    ),
    with(
        &["datname", "state"],
        gauge(
            "pg_stat_activity_max_tx_duration",
            Source::Own(max_tx_duration),
            "Age of the oldest transaction of a client session, in seconds, by database and state.",
        ),
    ),
    with(
        &["datname"],
        gauge(
            "pg_stat_database_numbackends",
            Source::Signal("connections_by_database"),
            "Client sessions by database, those of lesser ones under `other`.",
        ),
    ),
    gauge("pg_settings_max_connections", Source::Signal("connections_max"), "The setting max_connections."),
    gauge(
        "pg_settings_superuser_reserved_connections",
        Source::Signal("connections_superuser_reserved"),
        "The setting superuser_reserved_connections.",
    ),
    with(
        SENDER,
        gauge(
            "pg_stat_replication_pg_current_wal_lsn_bytes",
            Source::Own(sender_end_of_wal),
            "The server's end of WAL, for each WAL sender.",
        ),
    ),
    with(
        SENDER,
        gauge(
            "pg_stat_replication_pg_wal_lsn_diff",
            Source::Own(sender_diff),
            "WAL that the standby has not replayed, in bytes.",
        ),
    ),
    of_slots(
        BY_DATABASE,
        gauge(
            "pg_replication_slots_active",
            Source::Own(|_, t, now, emit| by_database(t, now, emit, |slot| Some(flag(slot.active)))),
            "1 while something reads from the slot.",
        ),
    ),
    of_slots(
        BY_DATABASE,
        gauge(
            "pg_replication_slots_pg_wal_lsn_diff",
            Source::Own(|_, t, now, emit| by_database(t, now, emit, retained)),
            "WAL that the server keeps for the slot, in bytes.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slots_slot_is_active",
            Source::Own(slot_is_active),
            "1 while something reads from the slot.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slots_slot_current_wal_lsn",
            Source::Own(slot_end_of_wal),
            "The server's end of WAL, for each slot.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slots_slot_confirmed_flush_lsn",
            Source::Own(slot_confirmed),
            "Up to where the consumer of a logical slot has confirmed.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slots_safe_wal_size_bytes",
            Source::Own(slot_safe),
            "WAL that can still be written before the slot may be lost; absent without a limit.",
        ),
    ),
    of_slots(
        BY_STATUS,
        gauge("pg_replication_slots_wal_status", Source::Own(slot_status), "1 for the slot's wal_status."),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slot_slot_is_active",
            Source::Own(slot_is_active),
            "As pg_replication_slots_slot_is_active: its name before 0.20.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slot_slot_current_wal_lsn",
            Source::Own(slot_end_of_wal),
            "As pg_replication_slots_slot_current_wal_lsn: its name before 0.20.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slot_slot_confirmed_flush_lsn",
            Source::Own(slot_confirmed),
            "As pg_replication_slots_slot_confirmed_flush_lsn: its name before 0.20.",
        ),
    ),
    of_slots(
        BY_TYPE,
        gauge(
            "pg_replication_slot_safe_wal_size_bytes",
            Source::Own(slot_safe),
            "As pg_replication_slots_safe_wal_size_bytes: its name before 0.20.",
        ),
    ),
    of_slots(
        BY_STATUS,
        gauge(
            "pg_replication_slot_wal_status",
            Source::Own(slot_status),
            "As pg_replication_slots_wal_status: its name before 0.20.",
        ),
    ),
    with(
        STATEMENT,
        counter(
            "pg_stat_statements_calls_total",
            Source::Signal("statement_calls_total"),
            "Executions of the statements that take the most time, since they came among them; `other`: of all others of the database.",
        ),
    ),
    with(
        STATEMENT,
        counter(
            "pg_stat_statements_seconds_total",
            Source::Signal("statement_exec_seconds_total"),
            "Execution time, likewise.",
        ),
    ),
    with(
        STATEMENT,
        counter("pg_stat_statements_rows_total", Source::Signal("statement_rows_total"), "Rows, likewise."),
    ),
];

/// The states of a session that the exporter has a series for, whether or not there is such a session.
const STATES: [&str; 6] =
    ["active", "disabled", "fastpath function call", "idle", "idle in transaction", "idle in transaction (aborted)"];

/// The label `server`: the address that is connected to. `None` while no single one is known.
pub(super) fn server(target: &TargetView) -> Option<String> {
    let (host, port) = target.answer.as_ref()?.positions.identity.address.configured.as_ref()?;
    Some(format!("{host}:{port}"))
}

const fn flag(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

fn positions(target: &TargetView, now: MonoTime) -> Option<&Positions> {
    target.fresh(now).map(|answer| &*answer.positions)
}

fn state(emit: Emit<'_>, value: Option<f64>) -> Coverage {
    if let Some(value) = value {
        emit(&[], Value::exact(value));
    }
    Coverage::Complete
}

fn last_error(_: &ClusterView, target: &TargetView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, target.tried().then(|| flag(target.failing.is_some())))
}

fn version(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if let Some(positions) = positions(target, now) {
        let number = positions.identity.version_num;
        let short = format!("{}.{}.0", number / 10_000, number % 10_000);
        emit(&[&format!("PostgreSQL {}", positions.identity.version), &short], Value::exact(1.0));
    }
    Coverage::Complete
}

fn is_replica(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, positions(target, now).map(|positions| flag(positions.role() == Role::Replica)))
}

fn last_replay(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let age = || {
        let answer = target.fresh(now)?;
        let replayed_at = answer.positions.standby()?.last_commit_replayed_at?;
        Some(answer.positions.clock.seconds_since(replayed_at) + now.seconds_since(answer.answered_at))
    };
    state(emit, age())
}

fn sessions(target: &TargetView, now: MonoTime) -> Option<&Sessions> {
    target.fresh_survey(now)?.sessions.as_ref()
}

/// By database and state: how many sessions, and the age of their oldest transaction. Lesser databases are one, `other`.
/// Where all sessions are seen, the states that none is in are there too.
fn activity(sessions: &Sessions) -> BTreeMap<(&str, &str), (u64, Option<f64>)> {
    const OTHER: &str = "other";
    let mut found: BTreeMap<(&str, &str), (u64, Option<f64>)> = BTreeMap::new();
    let Some(databases) = &sessions.by_database else { return found };
    if sessions.hidden == 0 {
        for (database, _) in &databases.named {
            found.extend(STATES.map(|state| ((database.as_str(), state), (0, Some(0.0)))));
        }
    }
    for alike in &sessions.by_database_and_state {
        let is_named = databases.named.iter().any(|(name, _)| *name == alike.database);
        let database = if is_named { alike.database.as_str() } else { OTHER };
        let (count, oldest) = found.entry((database, &alike.state)).or_default();
        *count = count.saturating_add(alike.count);
        *oldest = alike.oldest_transaction_seconds.into_iter().chain(*oldest).reduce(f64::max);
    }
    found
}

fn activity_count(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    for ((database, state), (count, _)) in sessions(target, now).map(activity).unwrap_or_default() {
        emit(&[database, state], Value::exact(count as f64));
    }
    Coverage::Complete
}

fn max_tx_duration(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    for ((database, state), (_, oldest)) in sessions(target, now).map(activity).unwrap_or_default() {
        if let Some(oldest) = oldest {
            emit(&[database, state], Value::exact(oldest));
        }
    }
    Coverage::Complete
}

fn senders(
    target: &TargetView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&Positions, &crate::core::senders::SenderGroup<'_>) -> Option<f64>,
) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    for group in groups(&positions.senders) {
        if let Some(value) = value(positions, &group) {
            let state = sender_state(group.senders.first().and_then(|sender| sender.state));
            let name = &group.name;
            emit(&[&name.application_name, &name.client_addr, name.slot, state], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn sender_end_of_wal(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    senders(target, now, emit, |positions, _| Some(end_of_wal(positions)?.as_u64() as f64))
}

fn sender_diff(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    senders(target, now, emit, |positions, group| {
        let end = end_of_wal(positions);
        group.worst(|sender| Some(crate::core::senders::behind(sender, end, sender.replay_lsn)?.0 as f64))
    })
}

static ALL: Shown = Shown::all();

fn shown_slots(target: &TargetView) -> &Shown {
    target.slots.as_ref().map_or(&ALL, |outlook| &outlook.shown)
}

/// Each once: a name in two rows is two looks at one slot.
fn slots(target: &TargetView, now: MonoTime) -> impl Iterator<Item = &Slot> {
    let slots = target.fresh_survey(now).and_then(|survey| survey.slots.as_deref()).unwrap_or_default();
    let is_first =
        |(place, slot): &(usize, &Slot)| slots[..*place].last().is_none_or(|before| before.name != slot.name);
    slots.iter().enumerate().filter(is_first).map(|(_, slot)| slot)
}

fn retained(slot: &Slot) -> Option<f64> {
    slot.retained_bytes.map(|bytes| bytes as f64)
}

fn by_database(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: fn(&Slot) -> Option<f64>) -> Coverage {
    for slot in slots(target, now) {
        if let Some(value) = value(slot) {
            emit(&[&slot.name, slot.datname.as_deref().unwrap_or_default()], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn by_type(target: &TargetView, now: MonoTime, emit: Emit<'_>, value: impl Fn(&Slot) -> Option<f64>) -> Coverage {
    for slot in slots(target, now) {
        if let Some(value) = value(slot) {
            emit(&[&slot.name, slot.slot_type], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn slot_is_active(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    by_type(target, now, emit, |slot| Some(flag(slot.active)))
}

fn slot_end_of_wal(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let end = positions(target, now).and_then(end_of_wal);
    by_type(target, now, emit, |_| Some(end?.as_u64() as f64))
}

fn slot_confirmed(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    by_type(target, now, emit, |slot| Some(slot.confirmed_flush_lsn?.as_u64() as f64))
}

fn slot_safe(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    by_type(target, now, emit, |slot| Some(slot.safe_wal_size? as f64))
}

fn slot_status(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    for slot in slots(target, now) {
        if let Some(status) = slot.wal_status {
            emit(&[&slot.name, slot.slot_type, status], Value::exact(1.0));
        }
    }
    Coverage::Complete
}

/// The book's table of these names.
pub fn table() -> String {
    let mut table = "| name | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for family in &FAMILIES {
        let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let source = match family.source {
            Source::Signal(name) => format!(" (`pgvigil_{name}`)"),
            Source::Own(_) => String::new(),
        };
        table.push_str(&format!("| `{}` | {} | {labels} | {}{source} |\n", family.name, family.kind, family.help));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{MetricsConfig, Page, Part};
    use super::*;
    use crate::core::fixture;
    use crate::core::observation::PollFailure;
    use crate::core::snapshot::Snapshot;
    use crate::core::survey::Alike;
    use crate::self_metrics::SelfMetrics;

    fn page(targets: Vec<TargetView>, config: MetricsConfig) -> String {
        let snapshot: Arc<Snapshot> =
            Arc::new(fixture::snapshot(vec![fixture::cluster("orders", targets, Vec::new())]));
        Page::new(snapshot, fixture::NOW, Arc::new(SelfMetrics::new(&[])), config, Part::Whole).collect()
    }

    /// The lines of these names alone.
    fn named(targets: Vec<TargetView>) -> String {
        let text = page(targets, MetricsConfig { postgres_exporter_names: true });
        text.lines().filter(|line| line.starts_with("pg_")).map(|line| format!("{line}\n")).collect()
    }

    fn placed(mut target: TargetView, host: &str) -> TargetView {
        fixture::change_positions(&mut target, |positions| {
            let mut identity = (*positions.identity).clone();
            identity.address.configured = Some((host.to_owned(), 5432));
            positions.identity = Arc::new(identity);
        });
        target
    }

    #[test]
    fn the_names_are_there_for_those_who_ask() {
        let targets = || {
            let mut silent = placed(fixture::replica("orders", "replica-2"), "db-3");
            fixture::fail(&mut silent, PollFailure::Refused);
            silent.lag = None;
            vec![
                placed(fixture::primary("orders", "primary"), "db-1"),
                placed(fixture::replica("orders", "replica-1"), "db-2"),
                silent,
            ]
        };
        insta::assert_snapshot!(named(targets()));
        let without = page(targets(), MetricsConfig::default());
        assert!(!without.lines().any(|line| line.starts_with("pg_") || line.starts_with("# TYPE pg_")), "{without}");
        for family in &FAMILIES {
            if let Source::Signal(name) = family.source {
                let signal = Signal::named(name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(signal.labels, family.labels, "{name}");
                assert_eq!(signal.kind.as_str(), family.kind, "{name}");
            }
        }
    }

    #[test]
    fn sessions_that_are_hidden_leave_no_zeros() {
        let mut primary = fixture::primary("orders", "primary");
        fixture::change_survey(&mut primary, |survey| {
            let sessions = survey.sessions.as_mut().expect("has sessions");
            sessions.hidden = 3;
            let alike = |database: &str, state: &str| Alike {
                database: database.to_owned(),
                state: state.to_owned(),
                count: 3,
                oldest_transaction_seconds: None,
            };
            sessions.by_database_and_state =
                vec![alike("app", "unknown"), alike("small", "idle"), alike("smaller", "idle")];
        });
        let text = named(vec![primary]);
        let told: Vec<&str> = text.lines().filter(|line| line.starts_with("pg_stat_activity_")).collect();
        let expect = [
            "pg_stat_activity_count{cluster=\"orders\",target=\"primary\",datname=\"app\",state=\"unknown\"} 3",
            "pg_stat_activity_count{cluster=\"orders\",target=\"primary\",datname=\"other\",state=\"idle\"} 6",
        ];
        assert_eq!(told, expect);
    }
}
