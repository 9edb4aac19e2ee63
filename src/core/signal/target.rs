//! Signals of a target by itself: whether it answers, and what it is.

use super::row::{bool_value, per_target, positions, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::observation::{Positions, StatementsAccess};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;

const ANSWER: &str = "The last answer is older than `poll.stale_after`, or there is none.";

pub(super) const ROWS: &[Signal] = &[
    per_target("target_up", Unit::Bool, target_up)
        .states("does not answer", "answers")
        .help("1 when the last poll succeeded.")
        .absent("Before the first poll ended.")
        .from("pgvigil"),
    per_target("target_failure", Unit::Bool, target_failure)
        .labels(&["reason"])
        .says("fails to answer ({reason})")
        .none("does not fail in this way any more")
        .help("1 for the kind of failure that the last poll ended with.")
        .absent("The last poll succeeded.")
        .from("pgvigil"),
    per_target("target_info", Unit::Bool, target_info)
        .labels(&["role", "server_version", "flavor", "tls", "pooled"])
        .help("What the target is by its own word; always 1.")
        .absent(ANSWER)
        .from("pg_is_in_recovery(), server_version"),
    per_target("observation_age_seconds", Unit::Seconds, observation_age)
        .says("answered last {} ago")
        .help("Age of the last answer, that is, of what is shown.")
        .absent("Before the first answer.")
        .from("pgvigil"),
    per_target("survey_age_seconds", Unit::Seconds, survey_age)
        .says("told its slow facts last {} ago")
        .help("Age of the last slow facts: connections, slots, statements.")
        .absent("Before the first slow poll succeeded.")
        .from("pgvigil"),
    per_target("survey_failure", Unit::Bool, survey_failure)
        .labels(&["topic", "reason"])
        .help("1 for each matter that the last slow poll asked about in vain, and why.")
        .absent("All was answered, or the last slow poll is stale.")
        .from("pgvigil"),
    per_target("dropped_series_total", Unit::Count, dropped_series)
        .counter()
        .labels(&["family"])
        .help("Subjects (slots, ...) that got no series of their own because there were too many, added up over slow polls.")
        .absent("Before the first slow poll, or the last one is stale.")
        .from("pgvigil"),
    per_target("missing", Unit::Bool, missing)
        .labels(&["what"])
        .help("1 for each grant or extension without which something is not measured; the check command prints the SQL that helps.")
        .absent("Nothing is missing, or the last answer is stale.")
        .from("pg_has_role(), pg_extension"),
    per_target("drained", Unit::Bool, drained)
        .says("is drained")
        .none("is drained no more")
        .help("1 while somebody keeps reads from the target by hand.")
        .absent("Nobody does.")
        .from("pgvigil"),
    per_target("server_start_time_seconds", Unit::Seconds, server_start_time)
        .help("When the server started, in seconds since 1970 by the server's clock.")
        .absent(ANSWER)
        .from("pg_postmaster_start_time()"),
    per_target("timeline", Unit::Count, timeline)
        .help("The timeline that the server writes or replays.")
        .absent(ANSWER)
        .from("pg_walfile_name(), pg_control_checkpoint(), pg_stat_wal_receiver"),
    per_target("wal_position_bytes", Unit::Bytes, wal_position)
        .help("The WAL position as a number of bytes: flushed on a primary, replayed on a replica.")
        .absent(ANSWER)
        .from("pg_current_wal_flush_lsn(), pg_last_wal_replay_lsn()"),
];

fn target_up(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    // An answer that has gone stale without a failure means that nobody asks any more: it is not seen to be up.
    let up = target.is_up() && target.fresh(now).is_some();
    state(emit, target.tried().then(|| bool_value(up)))
}

fn target_failure(_: &ClusterView, target: &TargetView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    if let Some(failing) = &target.failing {
        emit(&[failing.failure.kind()], Value::exact(1.0));
    }
    if target.tried() { Coverage::Complete } else { Coverage::Unknown }
}

fn target_info(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    let identity = &positions.identity;
    // `15.18 (Debian 15.18-1)`: the packager's part is of no use in a label.
    let version = identity.version.split(' ').next().unwrap_or_default();
    let yes_no = |holds: bool| if holds { "true" } else { "false" };
    emit(
        &[positions.role().as_str(), version, identity.flavor.as_str(), yes_no(identity.tls), yes_no(identity.pooled)],
        Value::exact(1.0),
    );
    Coverage::Complete
}

fn drained(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if target.drained(now).is_some() {
        emit(&[], Value::exact(1.0));
    }
    if target.tried() { Coverage::Complete } else { Coverage::Unknown }
}

fn observation_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, target.answer.as_ref().map(|answer| now.duration_since(answer.answered_at).as_secs_f64()))
}

fn survey_age(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, target.survey.as_ref().map(|survey| now.duration_since(survey.answered_at).as_secs_f64()))
}

fn survey_failure(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(survey) = target.fresh_survey(now) else { return Coverage::Unknown };
    for (topic, failure) in &survey.failures {
        emit(&[topic, failure.kind()], Value::exact(1.0));
    }
    Coverage::Complete
}

fn dropped_series(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    if target.fresh_survey(now).is_none() {
        return Coverage::Unknown;
    }
    for (family, left_out) in target.dropped.iter() {
        emit(&[family], Value::exact(left_out as f64));
    }
    Coverage::Complete
}

/// What a role or a database lacks, so that something is not measured. At most three words, in this order.
pub fn lacking(positions: &Positions) -> impl Iterator<Item = &'static str> {
    let identity = &positions.identity;
    [
        (!identity.reads_all_stats).then_some("pg_monitor"),
        match identity.statements {
            StatementsAccess::NotCreated => Some("pg_stat_statements_extension"),
            StatementsAccess::NotLoaded => Some("pg_stat_statements_library"),
            StatementsAccess::Readable { .. } => None,
        },
        identity.system_identifier.is_none().then_some("system_identifier"),
    ]
    .into_iter()
    .flatten()
}

fn missing(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(positions) = positions(target, now) else { return Coverage::Unknown };
    for what in lacking(positions) {
        emit(&[what], Value::exact(1.0));
    }
    Coverage::Complete
}

fn server_start_time(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, positions(target, now).map(|positions| positions.identity.started_at.unix_seconds()))
}

fn timeline(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let timeline = target.fresh(now).and_then(|_| target.timeline());
    state(emit, timeline.map(|timeline| f64::from(timeline.0)))
}

fn wal_position(_: &ClusterView, target: &TargetView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let lsn = target.fresh(now).and_then(|_| target.lsn());
    state(emit, lsn.map(|lsn| lsn.as_u64() as f64))
}
