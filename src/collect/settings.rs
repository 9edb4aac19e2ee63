//! What a session of ours is set to, whatever a server, a database, a role, a pooler or a login event trigger has set:
//! each setting that a session can have is either made by us or cannot matter, and the reason is here.
//!
//! At start-up only that is set which no login event trigger can notice, so that one that writes, or that reads the clock
//! or the search path, works as it does for everybody. All else is set ahead of the first question.

use super::session::{Encoding, Limits};

/// A setting that we make.
#[derive(Clone, Copy, Debug)]
pub struct Forced {
    pub name: &'static str,
    value: Value,
    /// The first major that has it. 0: each one.
    since: u32,
    scope: Scope,
    /// What else it could do.
    pub otherwise: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    /// As SQL has it.
    Sql(&'static str),
    /// [`Limits::statement`].
    Statement,
    /// [`Limits::lock`].
    Lock,
    /// [`Encoding::name`].
    Encoding,
}

/// Where a setting is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// In a session of our own, and in each transaction through a pooler.
    Everywhere,
    /// In a session of our own alone: a transaction through a pooler has it from `BEGIN`, or it concerns the connection,
    /// which is the pooler's.
    Session,
}

const ENCODING: Forced = Forced {
    name: "client_encoding",
    value: Value::Encoding,
    since: 0,
    scope: Scope::Session,
    otherwise: "names cannot be read",
};

/// The settings that we make.
pub const FORCED: &[Forced] = &[
    forced("default_transaction_isolation", "'read committed'", Scope::Session, "a standby refuses serializable"),
    forced("default_transaction_deferrable", "off", Scope::Session, "a transaction waits for others to end"),
    forced("default_transaction_read_only", "on", Scope::Session, "we could write"),
    limit("statement_timeout", Value::Statement, "none, or one that no answer comes within"),
    limit("lock_timeout", Value::Lock, "none, or one that no lock is got within"),
    limit("idle_in_transaction_session_timeout", Value::Statement, "a lost client's transaction stays"),
    since(17, forced("transaction_timeout", "0", Scope::Everywhere, "it ends the session; statements have a limit")),
    since(14, forced("idle_session_timeout", "0", Scope::Session, "each poll needs a new session")),
    forced("tcp_user_timeout", "0", Scope::Session, "a distant server drops the connection"),
    forced("exit_on_error", "off", Scope::Everywhere, "a refused question costs the session"),
    forced("client_min_messages", "error", Scope::Everywhere, "each answer comes with a flood of notices"),
    // The schema of temporary tables would come first if it were not named.
    forced("search_path", "pg_catalog, pg_temp", Scope::Everywhere, "another function of that name is called"),
    forced("datestyle", "'ISO'", Scope::Everywhere, "times cannot be read"),
    forced("timezone", "'UTC'", Scope::Everywhere, "times cannot be read"),
    forced("intervalstyle", "postgres", Scope::Everywhere, "intervals cannot be read"),
    forced("extra_float_digits", "1", Scope::Everywhere, "numbers are rounded"),
    ENCODING,
    forced("jit", "off", Scope::Everywhere, "a question takes longer to compile than to answer"),
    forced(
        "geqo",
        "off",
        Scope::Everywhere,
        "a join of two tables is planned by its settings, with memory without limit",
    ),
    forced("max_parallel_workers_per_gather", "0", Scope::Everywhere, "a question takes worker processes"),
    forced("work_mem", "'4MB'", Scope::Everywhere, "what is sorted goes to disk, which may be forbidden"),
    since(15, forced("stats_fetch_consistency", "cache", Scope::Everywhere, "each question copies all statistics")),
];

const fn forced(name: &'static str, value: &'static str, scope: Scope, otherwise: &'static str) -> Forced {
    Forced { name, value: Value::Sql(value), since: 0, scope, otherwise }
}

const fn limit(name: &'static str, value: Value, otherwise: &'static str) -> Forced {
    Forced { name, value, since: 0, scope: Scope::Everywhere, otherwise }
}

const fn since(major: u32, setting: Forced) -> Forced {
    Forced { since: major, ..setting }
}

/// Why a setting cannot matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It chooses among plans of the same result. What is asked is small, and reads functions rather than tables.
    Plan,
    /// `jit` is off.
    NoJit,
    /// `max_parallel_workers_per_gather` is 0.
    NoWorkers,
    /// Nothing is written, created, maintained or replicated.
    NoWrites,
    /// What it governs no statement of ours uses: large objects, XML, text search, `bytea`, numbers and dates in words, array literals, casts of names, policies, extensions' files.
    NotUsed,
    /// No statement of ours has a backslash.
    NoBackslash,
    /// What a failure means is read from its SQLSTATE and the names in it, never from words that are translated.
    Sqlstate,
    /// How it reads and how much memory it may take: what is asked is small.
    Resources,
    /// How either side notices that the other is gone.
    Network,
    /// What the server logs of us, or counts about us, is its owner's choice and mostly a superuser's to make; `check` reports what would log each poll.
    ServerLog,
    /// It has had its effect when the session begins; what fails then is reported with the server's own words.
    AtLogin,
    /// Only for servers whose files are damaged.
    Damage,
    /// Of one transaction: it begins with its default, which is ours.
    OfTransaction,
    /// Set at start-up to what no one else would, to see whether what we set there holds: [`MARK`].
    IsOurMark,
}

/// The settings that are left as they are, by the reason. Each that a session may have is here or in [`FORCED`], for
/// every major: a test compares them with `pg_settings`.
pub const LEFT: &[(Why, &str)] = &[
    (Why::IsOurMark, "geqo_seed"),
    (
        Why::Plan,
        "constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction \
         default_statistics_target effective_cache_size enable_async_append enable_bitmapscan \
         enable_distinct_reordering enable_eager_aggregate enable_gathermerge enable_group_by_reordering \
         enable_hashagg enable_hashjoin enable_incremental_sort enable_indexonlyscan enable_indexscan \
         enable_material enable_memoize enable_mergejoin enable_nestloop enable_parallel_append \
         enable_parallel_hash enable_partition_pruning enable_partitionwise_aggregate \
         enable_partitionwise_join enable_presorted_aggregate enable_self_join_elimination enable_seqscan \
         enable_sort enable_tidscan from_collapse_limit geqo_effort geqo_generations geqo_pool_size \
         geqo_selection_bias geqo_threshold gin_fuzzy_search_limit join_collapse_limit \
         min_eager_agg_group_size plan_cache_mode random_page_cost recursive_worktable_factor seq_page_cost \
         synchronize_seqscans",
    ),
    (
        Why::NoJit,
        "jit_above_cost jit_debugging_support jit_dump_bitcode jit_expressions jit_inline_above_cost \
         jit_optimize_above_cost jit_profiling_support jit_tuple_deforming",
    ),
    (
        Why::NoWorkers,
        "debug_parallel_query force_parallel_mode max_parallel_maintenance_workers max_parallel_workers \
         min_parallel_index_scan_size min_parallel_table_scan_size parallel_leader_participation \
         parallel_setup_cost parallel_tuple_cost",
    ),
    (
        Why::NoWrites,
        "allow_in_place_tablespaces allow_system_table_mods backend_flush_after check_function_bodies \
         commit_delay commit_siblings createrole_self_grant deadlock_timeout \
         debug_logical_replication_streaming default_table_access_method default_tablespace \
         default_toast_compression file_copy_method gin_pending_list_limit lo_compat_privileges \
         log_replication_commands logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem \
         md5_password_warnings output_plugin_libraries password_encryption scram_iterations \
         session_replication_role synchronous_commit temp_buffers temp_tablespaces trace_notify \
         vacuum_buffer_usage_limit vacuum_cleanup_index_scale_factor vacuum_cost_delay vacuum_cost_limit \
         vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss vacuum_failsafe_age \
         vacuum_freeze_min_age vacuum_freeze_table_age vacuum_max_eager_freeze_failure_rate \
         vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age \
         vacuum_truncate wal_compression wal_consistency_checking wal_init_zero wal_receiver_timeout \
         wal_recycle wal_sender_shutdown_timeout wal_sender_timeout wal_skip_threshold",
    ),
    (
        Why::NotUsed,
        "array_nulls bytea_output default_text_search_config dynamic_library_path extension_control_path \
         extension_destdir icu_validation_level lc_monetary lc_numeric lc_time operator_precedence_warning \
         quote_all_identifiers restrict_nonsystem_relation_kind row_security timezone_abbreviations \
         transform_null_equals xmlbinary xmloption",
    ),
    (Why::NoBackslash, "backslash_quote escape_string_warning standard_conforming_strings"),
    (Why::Sqlstate, "lc_messages"),
    (
        Why::Resources,
        "debug_discard_caches effective_io_concurrency hash_mem_multiplier io_combine_limit max_stack_depth \
         temp_file_limit",
    ),
    (Why::Network, "client_connection_check_interval tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval"),
    (
        Why::ServerLog,
        "application_name backtrace_functions compute_query_id debug_pretty_print debug_print_parse \
         debug_print_plan debug_print_raw_parse debug_print_rewritten log_connections log_disconnections \
         log_duration log_error_verbosity log_executor_stats log_lock_failures log_lock_waits \
         log_min_duration_sample log_min_duration_statement log_min_error_statement log_min_messages \
         log_parameter_max_length log_parameter_max_length_on_error log_parser_stats log_planner_stats \
         log_statement log_statement_sample_rate log_statement_stats log_temp_files \
         log_transaction_sample_rate timing_clock_source trace_sort track_activities track_cost_delay_timing \
         track_counts track_functions track_io_timing track_wal_io_timing update_process_title",
    ),
    (
        Why::AtLogin,
        "event_triggers ignore_system_indexes local_preload_libraries post_auth_delay \
         session_preload_libraries",
    ),
    (Why::Damage, "ignore_checksum_failure zero_damaged_pages"),
    (Why::OfTransaction, "transaction_deferrable transaction_isolation transaction_read_only"),
];

/// The setting by which it is seen whether those of the start-up hold, and its value. A pooler may drop them, and what is
/// then set for a session would stay with its connection, and meet others. It needs no privilege to read, and nothing we ask
/// joins as many tables as it takes to matter.
pub(super) const MARK: (&str, &str) = ("geqo_seed", "0.40961");

impl Forced {
    /// As `SET` takes it.
    fn sql(&self, limits: &Limits, encoding: Encoding) -> String {
        // 0 would switch a limit off.
        let ms = |limit: std::time::Duration| limit.as_millis().max(1).to_string();
        match self.value {
            Value::Sql(value) => value.to_owned(),
            Value::Statement => ms(limits.statement),
            Value::Lock => ms(limits.lock),
            Value::Encoding => format!("'{}'", encoding.name()),
        }
    }

    /// What `pg_settings` shows where it has a value that does as well. `None`: any value does.
    pub fn shown(&self) -> Option<String> {
        match self.value {
            Value::Sql(value) => Some(value.trim_matches('\'').to_owned()),
            Value::Encoding => Some(Encoding::Utf8.name().to_owned()),
            Value::Statement | Value::Lock => None,
        }
    }
}

/// The start-up parameter `options`: the connection string's own, then ours, which win.
///
/// No login event trigger has to do with a limit of statements or with the level of isolation (on a standby it could not
/// run at another); a lock that it waits for must not outlast our patience, or each attempt would leave a process waiting.
pub(super) fn startup_options(limits: &Limits, own: Option<&str>) -> String {
    let ms = limits.statement.as_millis().max(1);
    let (mark, value) = MARK;
    let ours = format!(
        "-c statement_timeout={ms} -c lock_timeout={ms} -c default_transaction_isolation=read\\ committed \
         -c {mark}={value}"
    );
    match own {
        Some(own) => format!("{own} {ours}"),
        None => ours,
    }
}

/// What goes ahead of a session's first question. `major`: the server's.
pub(super) fn opening(limits: &Limits, major: u32, encoding: Encoding) -> String {
    let settings = FORCED.iter().filter(|setting| setting.since <= major);
    settings.map(|setting| format!("SET {}={};", setting.name, setting.sql(limits, encoding))).collect()
}

/// What opens a transaction of ours.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE;";

/// What opens a transaction with the same settings, with the number of statements it takes.
pub(super) fn prologue(limits: &Limits, major: u32, encoding: Encoding) -> (String, usize) {
    let mut sql = BEGIN.to_owned();
    let mut n_statements = 1;
    let settings = FORCED.iter().filter(|setting| setting.scope == Scope::Everywhere && setting.since <= major);
    // A pooler's connection has our encoding from the start-up, as far as it is the start-up's.
    let encodings = std::iter::once(&ENCODING).filter(|_| encoding == Encoding::AsStored);
    for setting in settings.chain(encodings) {
        sql.push_str(&format!("SET LOCAL {}={};", setting.name, setting.sql(limits, encoding)));
        n_statements += 1;
    }
    (sql, n_statements)
}

/// The major of what a server calls its version: `15.18 (Debian 15.18-0+deb12u1)`, `19beta1`. 0 where it does not say.
pub(super) fn major(server_version: Option<&str>) -> u32 {
    let version = server_version.unwrap_or_default();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_setting_is_made_or_left_and_not_both() {
        let left = LEFT.iter().flat_map(|(_, names)| names.split_whitespace());
        let mut seen = HashSet::new();
        for name in FORCED.iter().map(|setting| setting.name).chain(left) {
            assert!(seen.insert(name), "{name} is there twice");
        }
    }

    #[test]
    fn our_options_follow_those_of_the_connection_string_and_no_limit_is_off() {
        let limits = Limits { connect: Duration::ZERO, statement: Duration::from_secs(3), lock: Duration::ZERO };
        assert_eq!(
            startup_options(&limits, Some("-c search_path=x -c geqo_seed=1")),
            "-c search_path=x -c geqo_seed=1 -c statement_timeout=3000 -c lock_timeout=3000 \
             -c default_transaction_isolation=read\\ committed -c geqo_seed=0.40961"
        );
        assert!(startup_options(&limits, None).starts_with("-c statement_timeout=3000"));
        assert!(opening(&limits, 13, Encoding::Utf8).contains(";SET lock_timeout=1;"));
    }

    #[test]
    fn a_major_is_sent_only_what_it_knows() {
        let limits = Limits::within(Duration::from_secs(2));
        for (major, known, unknown) in
            [(13, "jit=", "idle_session_timeout"), (16, "idle_session_timeout=0;", "transaction_timeout")]
        {
            let sql = opening(&limits, major, Encoding::Utf8);
            assert!(sql.contains(known) && !sql.contains(unknown), "{sql}");
        }
        assert!(opening(&limits, 17, Encoding::Utf8).contains("SET transaction_timeout=0;"));
        assert_eq!(major(Some("15.18 (Debian 15.18-0+deb12u1)")), 15);
        assert_eq!((major(Some("19beta1")), major(Some("?")), major(None)), (19, 0, 0));
    }

    #[test]
    fn the_prologue_has_as_many_statements_as_it_says() {
        for encoding in [Encoding::Utf8, Encoding::AsStored] {
            let (sql, n_statements) = prologue(&Limits::within(Duration::from_secs(2)), 18, encoding);
            assert_eq!(sql.matches(';').count(), n_statements);
            assert_eq!(sql.contains("client_encoding='SQL_ASCII'"), encoding == Encoding::AsStored);
        }
        let (sql, n_statements) = prologue(&Limits::within(Duration::from_secs(2)), 18, Encoding::Utf8);
        assert_eq!(sql.matches(';').count(), n_statements);
        assert!(sql.starts_with(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE;SET LOCAL statement_timeout=2000;\
             SET LOCAL lock_timeout=250;"
        ));
    }
}
