//! The rows of the vocabulary.

use super::{Kind, Read, Signal, Unit, read};

const ANSWER: &str = "The last answer is older than `poll.stale_after`, or there is none.";
const STANDBY: &str = "On a primary, and while the last answer is stale.";
const LAG: &str = "On a primary, and when the lag is not known (`pgvigil_replay_lag_info` says why).";
const STAGE: &str = "On a primary, and when either position is not known.";
const OWN: &str = "Caught up and idle (NULL in the view), no row for the replica, or no `pg_monitor` upstream.";
const SURVEY: &str = "The last slow poll is older than three slow beats, or there is none.";
const STATEMENTS: &str = "`pg_stat_statements` is not readable, or the last slow poll is stale.";
const SLOT: &str = "The slot has gone, or the last slow poll is stale.";
const SLOTS: &str = "pg_replication_slots";
const PGSS: &str = "pg_stat_statements";

const fn per_target(name: &'static str, unit: Unit, read: ReadTarget) -> Signal {
    Signal {
        name,
        unit,
        kind: Kind::Gauge,
        help: "",
        absent: "Never.",
        source: "",
        labels: &[],
        read: Read::Target(read),
    }
}

const fn per_cluster(name: &'static str, unit: Unit, read: ReadCluster) -> Signal {
    Signal {
        name,
        unit,
        kind: Kind::Gauge,
        help: "",
        absent: "Never.",
        source: "",
        labels: &[],
        read: Read::Cluster(read),
    }
}

type ReadTarget = fn(
    &crate::core::snapshot::ClusterView,
    &crate::core::snapshot::TargetView,
    crate::core::time::MonoTime,
    super::Emit<'_>,
) -> super::Coverage;

type ReadCluster =
    fn(&crate::core::snapshot::ClusterView, crate::core::time::MonoTime, super::Emit<'_>) -> super::Coverage;

impl Signal {
    const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    const fn absent(mut self, absent: &'static str) -> Self {
        self.absent = absent;
        self
    }

    const fn from(mut self, source: &'static str) -> Self {
        self.source = source;
        self
    }

    const fn labels(mut self, labels: &'static [&'static str]) -> Self {
        self.labels = labels;
        self
    }

    const fn counter(mut self) -> Self {
        self.kind = Kind::Counter;
        self
    }
}

/// Every number there is, in the order of `/metrics`.
pub static SIGNALS: &[Signal] = &[
    // The cluster.
    per_cluster("cluster_targets", Unit::Count, read::cluster_targets)
        .help("Targets of the cluster that are watched.")
        .from("configuration"),
    per_cluster("cluster_targets_up", Unit::Count, read::cluster_targets_up)
        .help("Targets of the cluster whose last poll succeeded.")
        .absent("Before each target was tried once.")
        .from("pgvigil"),
    per_cluster("primaries", Unit::Count, read::primaries)
        .help("Targets that answer and say they are a primary; more than 1 is a split brain.")
        .absent("Before each target was tried once.")
        .from("pg_is_in_recovery()"),
    per_cluster("system_identifiers", Unit::Count, read::system_identifiers)
        .help("Different system identifiers among the targets that answer; more than 1 means a target of another cluster.")
        .absent("No target that answers says its identifier.")
        .from("pg_control_system()"),
    // The target.
    per_target("target_up", Unit::Bool, read::target_up)
        .help("1 when the last poll succeeded.")
        .absent("Before the first poll ended.")
        .from("pgvigil"),
    per_target("target_failure", Unit::Bool, read::target_failure)
        .labels(&["reason"])
        .help("1 for the kind of failure that the last poll ended with.")
        .absent("The last poll succeeded.")
        .from("pgvigil"),
    per_target("target_info", Unit::Bool, read::target_info)
        .labels(&["role", "server_version", "flavor", "tls", "pooled"])
        .help("What the target is by its own word; always 1.")
        .absent(ANSWER)
        .from("pg_is_in_recovery(), server_version"),
    per_target("observation_age_seconds", Unit::Seconds, read::observation_age)
        .help("Age of the last answer, that is, of what is shown.")
        .absent("Before the first answer.")
        .from("pgvigil"),
    per_target("survey_age_seconds", Unit::Seconds, read::survey_age)
        .help("Age of the last slow facts: connections, slots, statements.")
        .absent("Before the first slow poll succeeded.")
        .from("pgvigil"),
    per_target("missing", Unit::Bool, read::missing)
        .labels(&["what"])
        .help("1 for each grant or extension without which something is not measured; the check command prints the SQL that helps.")
        .absent("Nothing is missing, or the last answer is stale.")
        .from("pg_has_role(), pg_extension"),
    per_target("server_start_time_seconds", Unit::Seconds, read::server_start_time)
        .help("When the server started, in seconds since 1970 by the server's clock.")
        .absent(ANSWER)
        .from("pg_postmaster_start_time()"),
    per_target("timeline", Unit::Count, read::timeline)
        .help("The timeline that the server writes or replays.")
        .absent(ANSWER)
        .from("pg_walfile_name(), pg_control_checkpoint(), pg_stat_wal_receiver"),
    per_target("wal_position_bytes", Unit::Bytes, read::wal_position)
        .help("The WAL position as a number of bytes: flushed on a primary, replayed on a replica.")
        .absent(ANSWER)
        .from("pg_current_wal_flush_lsn(), pg_last_wal_replay_lsn()"),
    // The lag.
    per_target("replay_lag_seconds", Unit::Seconds, read::replay_lag)
        .help("Age of the oldest WAL that the primary has flushed and the replica has not replayed; 0 when it has replayed everything.")
        .absent(LAG)
        .from("pgvigil's history of the primary's flush LSN"),
    per_target("replay_lag_lower_seconds", Unit::Seconds, read::replay_lag_lower)
        .help("Proven lower bound of the replay lag.")
        .absent(LAG)
        .from("pgvigil's history of the primary's flush LSN"),
    per_target("replay_lag_upper_seconds", Unit::Seconds, read::replay_lag_upper)
        .help("Proven upper bound of the replay lag; +Inf when there is none.")
        .absent(LAG)
        .from("pgvigil's history of the primary's flush LSN"),
    per_target("replay_lag_info", Unit::Bool, read::replay_lag_info)
        .labels(&["certainty", "method"])
        .help("How sure the replay lag is and how it was found; always 1.")
        .absent("On a primary, and before anything can be said.")
        .from("pgvigil"),
    per_target("send_lag_bytes", Unit::Bytes, read::send_lag_bytes)
        .help("WAL that the primary has flushed and the replica's upstream has not sent to it.")
        .absent(STAGE)
        .from("pg_stat_replication.sent_lsn"),
    per_target("receive_lag_bytes", Unit::Bytes, read::receive_lag_bytes)
        .help("WAL that the primary has flushed and the replica has not received.")
        .absent(STAGE)
        .from("pg_stat_replication.write_lsn, pg_last_wal_receive_lsn()"),
    per_target("flush_lag_bytes", Unit::Bytes, read::flush_lag_bytes)
        .help("WAL that the primary has flushed and the replica has not flushed to its disk.")
        .absent(STAGE)
        .from("pg_stat_replication.flush_lsn, pg_last_wal_receive_lsn()"),
    per_target("replay_lag_bytes", Unit::Bytes, read::replay_lag_bytes)
        .help("WAL that the primary has flushed and the replica has not replayed.")
        .absent(STAGE)
        .from("pg_last_wal_replay_lsn()"),
    per_target("sender_write_lag_seconds", Unit::Seconds, read::sender_write_lag)
        .help("PostgreSQL's own measurement of the past: write_lag that the replica's upstream last saw.")
        .absent(OWN)
        .from("pg_stat_replication.write_lag"),
    per_target("sender_flush_lag_seconds", Unit::Seconds, read::sender_flush_lag)
        .help("PostgreSQL's own measurement of the past: flush_lag that the replica's upstream last saw.")
        .absent(OWN)
        .from("pg_stat_replication.flush_lag"),
    per_target("sender_replay_lag_seconds", Unit::Seconds, read::sender_replay_lag)
        .help("PostgreSQL's own measurement of the past: replay_lag that the replica's upstream last saw.")
        .absent(OWN)
        .from("pg_stat_replication.replay_lag"),
    per_target("receiver_running", Unit::Bool, read::receiver_running)
        .help("1 while a WAL receiver runs on the replica.")
        .absent(STANDBY)
        .from("pg_stat_wal_receiver"),
    per_target("receiver_message_age_seconds", Unit::Seconds, read::receiver_message_age)
        .help("Age of the last message from the upstream, by the replica's clock; an idle stream is silent for up to 30 s.")
        .absent("No WAL receiver runs, no `pg_monitor`, on a primary, and while the last answer is stale.")
        .from("pg_stat_wal_receiver.last_msg_receipt_time"),
    per_target("replay_paused", Unit::Bool, read::replay_paused)
        .help("1 while replay is paused, or a pause is requested.")
        .absent(STANDBY)
        .from("pg_get_wal_replay_pause_state()"),
    per_target("apply_delay_seconds", Unit::Seconds, read::apply_delay)
        .help("The delay that the replica is configured to replay with; contained in its replay lag.")
        .absent("On a primary, and while the last slow poll is stale.")
        .from("recovery_min_apply_delay"),
    per_target("wal_senders", Unit::Count, read::wal_senders)
        .labels(&["state"])
        .help("Standbys connected to this server, by the state of their WAL sender; unknown without pg_monitor.")
        .absent("The last answer is stale; a state that no sender is in, except streaming, which is then 0 if all senders' states may be seen.")
        .from("pg_stat_replication"),
    // Connections.
    per_target("connections", Unit::Count, read::connections)
        .labels(&["state"])
        .help("Client sessions by state; unknown where the role may not see the state.")
        .absent(SURVEY)
        .from("pg_stat_activity"),
    per_target("connections_max", Unit::Count, read::connections_max)
        .help("The limit of connections to the server.")
        .absent(SURVEY)
        .from("max_connections"),
    per_target("connections_reserved", Unit::Count, read::connections_reserved)
        .help("Connections that ordinary roles may not use.")
        .absent(SURVEY)
        .from("superuser_reserved_connections, reserved_connections"),
    per_target("connections_used_ratio", Unit::Ratio, read::connections_used_ratio)
        .help("Client sessions in use, as a share of those that ordinary roles may use.")
        .absent(SURVEY)
        .from("pg_stat_activity, max_connections"),
    // Slots.
    per_target("slot_active", Unit::Bool, read::slot_active)
        .labels(&["slot"])
        .help("1 while something reads from the replication slot.")
        .absent(SLOT)
        .from(SLOTS),
    per_target("slot_retained_bytes", Unit::Bytes, read::slot_retained)
        .labels(&["slot"])
        .help("WAL that the server keeps for the slot.")
        .absent("The slot keeps none, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    per_target("slot_inactive_retained_bytes", Unit::Bytes, read::slot_inactive_retained)
        .labels(&["slot"])
        .help("WAL that the server keeps for a slot that nothing reads from.")
        .absent("The slot is active, keeps none, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    per_target("slot_safe_wal_bytes", Unit::Bytes, read::slot_safe_wal)
        .labels(&["slot"])
        .help("WAL that can still be written before the slot may be invalidated; negative when it may be already.")
        .absent("There is no limit (max_slot_wal_keep_size), the slot has gone, or the last slow poll is stale.")
        .from(SLOTS),
    per_target("slot_wal_status", Unit::Bool, read::slot_wal_status)
        .labels(&["slot", "status"])
        .help("1 for the slot's wal_status: reserved, extended, unreserved or lost.")
        .absent("The slot keeps no WAL yet, has gone, or the last slow poll is stale.")
        .from(SLOTS),
    // Statements, summed by database.
    per_target("statements_calls_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.calls as f64))
        .counter()
        .labels(&["datname"])
        .help("Executions of all statements of the database, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_exec_seconds_total", Unit::Seconds, |_, target, now, emit| read::databases(target, now, emit, |t| t.exec_seconds))
        .counter()
        .labels(&["datname"])
        .help("Execution time of all statements of the database, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_rows_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.rows as f64))
        .counter()
        .labels(&["datname"])
        .help("Rows that all statements of the database returned or changed, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_hit_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.shared_blks_hit as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements found in the cache, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_read_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.shared_blks_read as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements read from outside the cache, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_dirtied_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.shared_blks_dirtied as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements dirtied, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_shared_blocks_written_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.shared_blks_written as f64))
        .counter()
        .labels(&["datname"])
        .help("Shared blocks that the database's statements wrote, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_temp_blocks_read_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.temp_blks_read as f64))
        .counter()
        .labels(&["datname"])
        .help("Temporary blocks that the database's statements read, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_temp_blocks_written_total", Unit::Count, |_, target, now, emit| read::databases(target, now, emit, |t| t.temp_blks_written as f64))
        .counter()
        .labels(&["datname"])
        .help("Temporary blocks that the database's statements wrote, since pgvigil began to watch.")
        .absent(STATEMENTS)
        .from(PGSS),
    per_target("statements_evictions_total", Unit::Count, read::statements_evictions)
        .counter()
        .help("Entries that the server evicted from pg_stat_statements to make room, since its statistics were last reset.")
        .absent("Extension older than 1.9, not readable, or the last slow poll is stale.")
        .from("pg_stat_statements_info.dealloc"),
    per_target("statements_resets_total", Unit::Count, read::statements_resets)
        .counter()
        .help("Times that entries of pg_stat_statements were seen to start again.")
        .absent(STATEMENTS)
        .from(PGSS),
    // The statements that take the most time, one by one.
    per_target("statement_calls_total", Unit::Count, |_, target, now, emit| read::top(target, now, emit, |t| t.calls as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Executions of one of the statements that take the most time, since it was first among them.")
        .absent("Not among the top of the last slow beat, or as `pgvigil_statements_calls_total`.")
        .from(PGSS),
    per_target("statement_exec_seconds_total", Unit::Seconds, |_, target, now, emit| read::top(target, now, emit, |t| t.exec_seconds))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Execution time of one of the statements that take the most time, since it was first among them.")
        .absent("Not among the top of the last slow beat, or as `pgvigil_statements_calls_total`.")
        .from(PGSS),
    per_target("statement_rows_total", Unit::Count, |_, target, now, emit| read::top(target, now, emit, |t| t.rows as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Rows of one of the statements that take the most time, since it was first among them.")
        .absent("Not among the top of the last slow beat, or as `pgvigil_statements_calls_total`.")
        .from(PGSS),
    per_target("statement_shared_blocks_hit_total", Unit::Count, |_, target, now, emit| read::top(target, now, emit, |t| t.shared_blks_hit as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Shared blocks that one of the statements that take the most time found in the cache.")
        .absent("Not among the top of the last slow beat, or as `pgvigil_statements_calls_total`.")
        .from(PGSS),
    per_target("statement_shared_blocks_read_total", Unit::Count, |_, target, now, emit| read::top(target, now, emit, |t| t.shared_blks_read as f64))
        .counter()
        .labels(&["datname", "queryid"])
        .help("Shared blocks that one of the statements that take the most time read from outside the cache.")
        .absent("Not among the top of the last slow beat, or as `pgvigil_statements_calls_total`.")
        .from(PGSS),
];
