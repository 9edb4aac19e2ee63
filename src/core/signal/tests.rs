use std::collections::HashSet;
use std::sync::Arc;

use super::{Coverage, Kind, Read, SIGNALS, Signal, Unit, Value};
use crate::core::cause::{Cause, Diagnosis, Told};
use crate::core::fixture::*;
use crate::core::lag::{Certainty, Evidence};
use crate::core::observation::{
    Blocker, Flavor, PollFailure, Receiver, ReplayPause, ReplayWait, SenderClient, SenderSlot, SenderState,
    StatementsAccess, WaitsOn, WalSender,
};
use crate::core::skew::ClockSkew;
use crate::core::slots::{SLOTS_SHOWN, SlotTracker};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::subscription::SubscriptionLag;
use crate::core::survey::{
    ApplyWorker, AuroraGlobal, AuroraReaderLag, AuroraRegion, BaseBackup, Conflicts, RecoverySettings, Slot,
    Subscription, SubscriptionWorkers,
};
use crate::core::time::ServerTime;
use crate::core::topology::TargetId;
use crate::core::trend::{Direction, Trend};
use crate::core::wal::{Lsn, WalBytes};

/// What a signal states of the target at `position` (of the cluster, for a signal of the cluster).
fn read(name: &str, cluster: &ClusterView, position: usize) -> (Vec<(Vec<String>, Value)>, Coverage) {
    let signal = Signal::named(name).unwrap_or_else(|| panic!("no signal {name}"));
    let mut stated = Vec::new();
    let mut emit = |labels: &[&str], value: Value| {
        assert_eq!(labels.len(), signal.labels.len(), "{name}");
        stated.push((labels.iter().map(|label| (*label).to_owned()).collect(), value));
    };
    let coverage = match signal.read {
        Read::Cluster(read) => read(cluster, NOW, &mut emit),
        Read::Pooler(read) => read(&cluster.poolers[position], NOW, &mut emit),
        Read::Target(read) => read(cluster, &cluster.targets[position], NOW, &mut emit),
    };
    (stated, coverage)
}

/// A signal's name, the values it states under their labels, and what its silence means.
type Statement<'a> = (&'a str, &'a [(&'a [&'a str], f64)], Coverage);

/// Checks what signals state of the second of two targets, a primary and the one given.
fn check(target: TargetView, expect: &[Statement<'_>]) {
    let cluster = cluster("orders", vec![primary("orders", "primary"), target], Vec::new());
    for (name, stated, coverage) in expect {
        let (found, found_coverage) = read(name, &cluster, 1);
        let found: Vec<(Vec<&str>, f64)> =
            found.iter().map(|(labels, value)| (labels.iter().map(String::as_str).collect(), value.value)).collect();
        let stated: Vec<(Vec<&str>, f64)> = stated.iter().map(|(labels, value)| (labels.to_vec(), *value)).collect();
        assert_eq!((found, found_coverage), (stated, *coverage), "{name}");
    }
}

use Coverage::{Complete, Unknown};
const NO: &[&str] = &[];

#[test]
fn names_are_unique_and_follow_the_conventions_of_prometheus() {
    let mut names = HashSet::new();
    for signal in SIGNALS.iter() {
        let name = signal.name;
        assert!(names.insert(name), "{name} twice");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), signal.kind == Kind::Counter, "{name}");
        let base = name.strip_suffix("_total").unwrap_or(name);
        assert_eq!(base.ends_with("_seconds"), signal.unit == Unit::Seconds, "{name}");
        assert_eq!(base.ends_with("_bytes"), signal.unit == Unit::Bytes, "{name}");
        assert_eq!(base.ends_with("_bytes_per_second"), signal.unit == Unit::BytesPerSecond, "{name}");
        assert_eq!(base.ends_with("_ratio"), signal.unit == Unit::Ratio, "{name}");
        for text in [signal.help, signal.absent] {
            assert!(text.ends_with('.') && !text.contains('|'), "{name}: {text:?}");
        }
        assert!(!signal.source.is_empty() && !signal.source.contains('|'), "{name}");
        assert!(!signal.labels.contains(&"cluster") && !signal.labels.contains(&"target"), "{name}");
    }
}

#[test]
fn a_healthy_replica_states_its_lag_with_bounds() {
    check(
        replica("orders", "replica-1"),
        &[
            ("target_up", &[(NO, 1.0)], Complete),
            ("replay_lag_seconds", &[(NO, 0.12)], Complete),
            ("replay_lag_lower_seconds", &[(NO, 0.1)], Complete),
            ("replay_lag_upper_seconds", &[(NO, 0.15)], Complete),
            ("replay_lag_info", &[(&["exact", "lsn+ts"], 1.0)], Complete),
            ("replay_lag_bytes", &[(NO, 256.0)], Complete),
            ("receive_lag_bytes", &[(NO, 0.0)], Complete),
            ("sender_replay_lag_seconds", &[(NO, 0.12)], Complete),
            ("receiver_running", &[(NO, 1.0)], Complete),
            ("receiver_message_age_seconds", &[(NO, 2.0)], Complete),
            ("replay_paused", &[(NO, 0.0)], Complete),
            ("timeline", &[(NO, 3.0)], Complete),
            ("observation_age_seconds", &[(NO, 0.5)], Complete),
            ("target_info", &[(&["replica", "15.18", "postgresql", "true", "false"], 1.0)], Complete),
            // Nothing was surveyed yet.
            ("connections_max", &[], Unknown),
            ("slot_active", &[], Unknown),
            ("apply_delay_seconds", &[], Unknown),
            ("statements_calls_total", &[], Unknown),
        ],
    );
}

#[test]
fn a_primary_has_no_lag_and_that_is_known() {
    check(
        primary("orders", "other"),
        &[
            ("replay_lag_seconds", &[], Complete),
            ("replay_lag_info", &[], Complete),
            ("replay_lag_bytes", &[], Complete),
            ("receiver_running", &[], Complete),
            ("apply_delay_seconds", &[], Complete),
            ("target_failure", &[], Complete),
        ],
    );
}

#[test]
fn a_silent_replica_states_its_estimated_lag_and_nothing_it_once_said() {
    let mut silent = replica("orders", "replica-1");
    fail(&mut silent, PollFailure::Refused);
    let mut estimate = lag(11.0, 0.0, 12.0, Certainty::AtMost, Evidence::Lsn);
    estimate.method.last_known = true;
    silent.lag = Some(estimate);
    silent.survey = Some(survey());
    age(&mut silent, 60.0);
    check(
        silent,
        &[
            ("target_up", &[(NO, 0.0)], Complete),
            ("target_failure", &[(&["refused"], 1.0)], Complete),
            ("observation_age_seconds", &[(NO, 60.0)], Complete),
            ("replay_lag_seconds", &[(NO, 11.0)], Complete),
            ("replay_lag_info", &[(&["at_most", "lsn@last_known"], 1.0)], Complete),
            ("sender_replay_lag_seconds", &[], Unknown),
            ("target_info", &[], Unknown),
            ("receiver_running", &[], Unknown),
            ("replay_paused", &[], Unknown),
            ("timeline", &[], Unknown),
            ("wal_senders", &[], Unknown),
            ("connections", &[], Unknown),
            ("slot_retained_bytes", &[], Unknown),
            ("statements_calls_total", &[], Unknown),
            ("missing", &[], Unknown),
        ],
    );
}

#[test]
fn a_sample_that_went_stale_without_a_failure_states_no_lag() {
    let mut stuck = replica("orders", "replica-1");
    age(&mut stuck, 11.0);
    check(
        stuck,
        &[
            ("target_up", &[(NO, 0.0)], Complete),
            ("replay_lag_seconds", &[], Unknown),
            ("replay_lag_bytes", &[], Unknown),
            ("replay_lag_info", &[], Unknown),
        ],
    );
}

#[test]
fn a_lag_that_is_judged_as_of_now_is_stated_before_a_poll_has_failed() {
    let mut overdue = replica("orders", "replica-1");
    let mut estimate = lag(11.0, 0.0, 12.0, Certainty::AtMost, Evidence::Lsn);
    estimate.method.last_known = true;
    overdue.lag = Some(estimate);
    age(&mut overdue, 11.0);
    check(
        overdue,
        &[
            ("target_up", &[(NO, 0.0)], Complete),
            ("replay_lag_seconds", &[(NO, 11.0)], Complete),
            ("replay_lag_info", &[(&["at_most", "lsn@last_known"], 1.0)], Complete),
            ("sender_replay_lag_seconds", &[], Unknown),
        ],
    );
}

#[test]
fn a_lag_without_a_value_states_only_why() {
    let mut warming = replica("orders", "replica-1");
    warming.lag = Some(unknown_lag(Evidence::Warming));
    check(
        warming,
        &[
            ("replay_lag_seconds", &[], Unknown),
            ("replay_lag_lower_seconds", &[], Unknown),
            ("replay_lag_upper_seconds", &[], Unknown),
            ("replay_lag_info", &[(&["unknown", "warming"], 1.0)], Complete),
        ],
    );
}

#[test]
fn a_target_that_was_never_tried_states_nothing() {
    let mut new = replica("orders", "replica-1");
    new = TargetView::new(new.id, new.stale_after);
    let cluster = cluster("orders", vec![primary("orders", "primary"), new], Vec::new());
    for signal in SIGNALS.iter().filter(|signal| matches!(signal.read, Read::Target(_))) {
        assert_eq!(read(signal.name, &cluster, 1), (Vec::new(), Unknown), "{}", signal.name);
    }
    assert_eq!(read("primaries", &cluster, 0), (Vec::new(), Unknown));
}

#[test]
fn bytes_are_bounded_only_while_both_ends_are_heard() {
    let bounds = |primary_fails, replica_fails| {
        let (mut one, mut two) = (primary("orders", "primary"), replica("orders", "replica-1"));
        if primary_fails {
            fail(&mut one, PollFailure::Refused);
        }
        if replica_fails {
            fail(&mut two, PollFailure::Refused);
        }
        let cluster = cluster("orders", vec![one, two], Vec::new());
        let (stated, _) = read("replay_lag_bytes", &cluster, 1);
        (stated[0].1.lower, stated[0].1.upper)
    };
    assert_eq!(bounds(false, false), (256.0, 256.0));
    assert_eq!(bounds(true, false), (256.0, f64::INFINITY));
    assert_eq!(bounds(false, true), (0.0, 256.0));
    assert_eq!(bounds(true, true), (0.0, f64::INFINITY));
}

#[test]
fn a_primary_that_fell_silent_may_still_be_one() {
    let primaries = |failure: Option<PollFailure>| {
        let mut second = primary("orders", "second");
        if let Some(failure) = failure {
            fail(&mut second, failure);
        }
        let cluster = cluster("orders", vec![primary("orders", "primary"), second], Vec::new());
        read("primaries", &cluster, 0).0[0].1
    };
    assert_eq!(primaries(None), Value::exact(2.0));
    assert_eq!(primaries(Some(PollFailure::Refused)), Value::exact(1.0));
    let silent = PollFailure::Timeout { doing: "querying".to_owned(), limit_ms: 3000 };
    assert_eq!(primaries(Some(silent)), Value { value: 1.0, lower: 1.0, upper: 2.0 });
}

#[test]
fn what_may_not_be_seen_is_not_zero() {
    let mut view = primary("orders", "blind");
    change_identity(&mut view, |identity| {
        identity.reads_all_stats = false;
        identity.statements = StatementsAccess::NotCreated;
        identity.system_identifier = None;
    });
    change_positions(&mut view, |positions| {
        positions.senders = vec![sender("a", None), sender("b", None), sender("c", Some(SenderState::Streaming))];
    });
    view.statements = None;
    check(
        view,
        &[
            ("wal_senders", &[(&["streaming"], 1.0), (&["unknown"], 2.0)], Unknown),
            (
                "missing",
                &[(&["pg_monitor"], 1.0), (&["pg_stat_statements_extension"], 1.0), (&["system_identifier"], 1.0)],
                Complete,
            ),
            ("statements_calls_total", &[], Complete),
        ],
    );
    check(
        primary("orders", "sees"),
        &[("wal_senders", &[(&["streaming"], 1.0)], Complete), ("missing", &[], Complete)],
    );
}

#[test]
fn a_server_without_standbys_streams_to_none() {
    let mut view = primary("orders", "alone");
    change_positions(&mut view, |positions| positions.senders.clear());
    check(view, &[("wal_senders", &[(&["streaming"], 0.0)], Complete)]);
}

#[test]
fn a_stream_that_is_not_meant_to_be_is_not_missed() {
    use crate::core::survey::RecoverySettings;
    use crate::core::topology::links::{Links, Upstream};
    type Stated<'a> = &'a [(&'a [&'a str], f64)];
    let without_receiver = |settings: Option<(bool, Option<bool>)>, requested: Option<u64>| {
        let mut view = replica("orders", "replica-1");
        change_standby(&mut view, |standby| {
            standby.receiver = Receiver::Absent;
            standby.receive_lsn = requested.map(Lsn::new);
        });
        change_survey(&mut view, |survey| {
            let of = |(restores, streams)| RecoverySettings { restores, streams, ..RecoverySettings::default() };
            survey.recovery = settings.map(of);
        });
        view.links = Arc::new(Links { upstream: Some(Upstream::Nobody), is_missing: Some(true), ..Links::default() });
        view
    };
    let fault: (Stated<'_>, Stated<'_>, _) = (&[(NO, 0.0)], &[(NO, 1.0)], Complete);
    for (settings, requested, expect) in [
        (Some((true, Some(false))), None, (&[][..], &[][..], Complete)),
        (Some((true, Some(false))), Some(9), (&[], &[], Complete)),
        (Some((true, Some(true))), None, fault),
        // It gets WAL from nowhere.
        (Some((false, Some(false))), None, fault),
        (Some((false, None)), None, fault),
        // What the role may not read shows by what the server did.
        (Some((true, None)), Some(9), fault),
        (Some((true, None)), None, (&[], &[], Unknown)),
        (None, None, (&[], &[], Unknown)),
        (None, Some(9), fault),
    ] {
        let (running, missing, coverage) = expect;
        let mut view = without_receiver(settings, requested);
        check(view.clone(), &[("receiver_running", running, coverage), ("standby_missing", missing, coverage)]);
        fail(&mut view, PollFailure::Refused);
        check(view, &[("standby_missing", missing, coverage)]);
    }
    // A receiver that runs is stronger than a setting that was read before.
    let mut view = without_receiver(Some((true, Some(false))), None);
    change_standby(&mut view, |standby| standby.receiver = Receiver::Hidden);
    check(view, &[("receiver_running", &[(NO, 1.0)], Complete), ("standby_missing", &[(NO, 1.0)], Complete)]);
}

#[test]
fn a_hidden_receiver_runs_and_an_absent_one_does_not() {
    for (receiver, running) in [(Receiver::Hidden, 1.0), (Receiver::Absent, 0.0), (Receiver::Connecting, 0.0)] {
        let mut view = replica("orders", "replica-1");
        change_standby(&mut view, |standby| {
            standby.receiver = receiver;
            standby.pause = ReplayPause::Requested;
        });
        check(
            view,
            &[
                ("receiver_running", &[(NO, running)], Complete),
                ("receiver_message_age_seconds", &[], Unknown),
                ("replay_paused", &[(NO, 1.0)], Complete),
            ],
        );
    }
}

#[test]
fn slots_and_sessions_are_told_once_each_with_bounded_labels() {
    let mut view = primary("orders", "primary-2");
    change_survey(&mut view, |survey| {
        let mut lost = slot("lost", false);
        lost.wal_status = Some("other");
        lost.retained_bytes = None;
        lost.safe_wal_size = Some(-5);
        survey.slots = Some(vec![slot("a", true), slot("a", false), slot("b", false), lost]);
        let states = [("idle", 1), ("idle", 2), ("dancing", 4), ("singing", 1)];
        let sessions = survey.sessions.as_mut().expect("has sessions");
        sessions.by_state = states.map(|(state, count)| (state.to_owned(), count)).to_vec();
        sessions.total = 8;
        sessions.max_connections = 24;
    });
    check(
        view,
        &[
            ("slot_active", &[(&["a"], 1.0), (&["b"], 0.0), (&["lost"], 0.0)], Complete),
            ("slot_retained_bytes", &[(&["a"], 16_777_216.0), (&["b"], 16_777_216.0)], Complete),
            ("slot_inactive_retained_bytes", &[(&["b"], 16_777_216.0)], Complete),
            ("slot_safe_wal_bytes", &[(&["lost"], -5.0)], Complete),
            (
                "slot_wal_status",
                &[(&["a", "reserved"], 1.0), (&["b", "reserved"], 1.0), (&["lost", "other"], 1.0)],
                Complete,
            ),
            ("connections", &[(&["idle"], 3.0), (&["other"], 5.0)], Complete),
            ("connections_used_ratio", &[(NO, 0.5)], Complete),
        ],
    );
}

#[test]
fn a_server_that_reserves_every_connection_has_no_ratio() {
    let mut view = primary("orders", "primary-2");
    change_sessions(&mut view, |sessions| sessions.reserved_connections = 100);
    check(view, &[("connections_used_ratio", &[], Unknown), ("connections_reserved", &[(NO, 100.0)], Complete)]);
}

#[test]
fn statements_are_counted_by_database_and_one_by_one() {
    let mut view = primary("orders", "primary-2");
    view.statements = Some(std::sync::Arc::new(statements()));
    check(
        view,
        &[
            ("statements_calls_total", &[(&["app"], 100.0), (&["postgres"], 1.0)], Complete),
            ("statements_exec_seconds_total", &[(&["app"], 25.0), (&["postgres"], 0.25)], Complete),
            (
                "statement_calls_total",
                &[
                    (&["app", "-77"], 60.0),
                    (&["app", "42"], 9.0),
                    (&["app", "other"], 31.0),
                    (&["postgres", "other"], 1.0),
                ],
                Complete,
            ),
            // One of them was not executed of late.
            ("statement_mean_seconds", &[(&["app", "-77"], 0.25)], Complete),
            ("statements_evictions_total", &[(NO, 5.0)], Complete),
            ("statements_resets_total", &[(NO, 1.0)], Complete),
        ],
    );
}

#[test]
fn sessions_are_told_by_whom_they_belong_to() {
    let mut view = primary("orders", "primary-2");
    view.connections_exhausted_in = Some(600.0);
    check(
        view.clone(),
        &[
            ("connections_by_user", &[(&["app"], 40.0), (&["report"], 5.0), (&["other"], 1.0)], Complete),
            ("connections_by_application", &[(&["web"], 30.0), (&["nightly"], 16.0)], Complete),
            ("connections_by_client", &[(&["10.0.0.5"], 40.0), (&["local"], 6.0)], Complete),
            ("connections_by_database", &[(&["app"], 46.0)], Complete),
            ("connections_superuser_reserved", &[(NO, 3.0)], Complete),
            ("connections_exhausted_in_seconds", &[(NO, 600.0)], Complete),
            ("connections_idle_in_transaction", &[(NO, 2.0)], Complete),
            ("connections_idle_long", &[(NO, 7.0)], Complete),
            ("connections_waiting_on_locks", &[(NO, 1.0)], Complete),
            ("lock_wait_longest_seconds", &[(NO, 1.5)], Complete),
            ("transaction_oldest_seconds", &[(NO, 90.5)], Complete),
            ("idle_in_transaction_oldest_seconds", &[(NO, 30.25)], Complete),
        ],
    );
    // Nobody holds anything: that is known, and an alert on it is over.
    view.connections_exhausted_in = None;
    change_sessions(&mut view, |sessions| sessions.activity = Some(Box::default()));
    check(
        view.clone(),
        &[
            ("connections_exhausted_in_seconds", &[], Complete),
            ("connections_waiting_on_locks", &[(NO, 0.0)], Complete),
            ("lock_wait_longest_seconds", &[], Complete),
            ("transaction_oldest_seconds", &[], Complete),
            ("idle_in_transaction_oldest_seconds", &[], Complete),
        ],
    );
    // Sessions are hidden: nobody knows.
    change_sessions(&mut view, |sessions| sessions.activity = None);
    check(
        view,
        &[
            ("connections_by_user", &[(&["app"], 40.0), (&["report"], 5.0), (&["other"], 1.0)], Complete),
            ("connections_idle_in_transaction", &[], Unknown),
            ("connections_idle_long", &[], Unknown),
            ("connections_waiting_on_locks", &[], Unknown),
            ("transaction_oldest_seconds", &[], Unknown),
            ("idle_in_transaction_oldest_seconds", &[], Unknown),
        ],
    );
}

#[test]
fn a_pooler_states_its_pools_while_its_answer_is_fresh() {
    let mut cluster = cluster("orders", orders(), Vec::new());
    cluster.poolers = vec![std::sync::Arc::new(pooler("orders", "pgb"))];
    let check = |cluster: &ClusterView, name: &str, expect: &[(&[&str], f64)], coverage: Coverage| {
        let (found, found_coverage) = read(name, cluster, 0);
        let found: Vec<(Vec<&str>, f64)> =
            found.iter().map(|(labels, value)| (labels.iter().map(String::as_str).collect(), value.value)).collect();
        let expect: Vec<(Vec<&str>, f64)> = expect.iter().map(|(labels, value)| (labels.to_vec(), *value)).collect();
        assert_eq!((found, found_coverage), (expect, coverage), "{name}");
    };
    let both = |a: f64, b: f64| [(vec!["app", "app"], a), (vec!["reports", "app"], b)];
    for (name, [(a, first), (b, second)]) in
        [("pooler_longest_wait_seconds", both(0.0, 7.25)), ("pooler_pool_used_ratio", both(0.5, 1.0))]
    {
        check(&cluster, name, &[(&a, first), (&b, second)], Complete);
    }
    check(
        &cluster,
        "pooler_clients",
        &[
            (&["app", "app", "active"], 3.0),
            (&["app", "app", "waiting"], 0.0),
            (&["reports", "app", "active"], 3.0),
            (&["reports", "app", "waiting"], 4.0),
        ],
        Complete,
    );
    check(&cluster, "pooler_database_paused", &[(&["app"], 0.0), (&["reports"], 1.0)], Complete);
    check(&cluster, "pooler_database_connections_max", &[], Complete);
    check(&cluster, "pooler_queries_total", &[(&["app"], 20.0)], Complete);
    check(&cluster, "pooler_client_wait_seconds_total", &[(&["app"], 1.5)], Complete);
    // Its version does not count it.
    check(&cluster, "pooler_sent_bytes_total", &[], Complete);
    check(&cluster, "pooler_up", &[(&[], 1.0)], Complete);
    check(&cluster, "pooler_info", &[(&["1.18.0", "true"], 1.0)], Complete);

    let silent = |pooler: &mut crate::core::snapshot::PoolerView| {
        pooler.answer.as_mut().unwrap().answered_at = ago(16.0);
    };
    silent(std::sync::Arc::make_mut(&mut cluster.poolers[0]));
    check(&cluster, "pooler_up", &[(&[], 0.0)], Complete);
    check(&cluster, "pooler_observation_age_seconds", &[(&[], 16.0)], Complete);
    for signal in SIGNALS.iter().filter(|signal| matches!(signal.read, Read::Pooler(_))) {
        if !["pooler_up", "pooler_observation_age_seconds", "pooler_failure"].contains(&signal.name) {
            check(&cluster, signal.name, &[], Unknown);
        }
    }
}

#[test]
fn a_subscription_states_its_workers_tables_lag_and_counts() {
    let subscription = Subscription {
        datname: "app".into(),
        name: "orders".into(),
        enabled: true,
        slot_name: Some("orders".into()),
        workers: Some(SubscriptionWorkers {
            apply: Some(ApplyWorker { received_lsn: None, latest_end_lsn: None, message_age: Some(1.5) }),
            parallel_apply: 0,
            table_sync: 2,
        }),
        tables: Some([3, 2, 0, 0, 40]),
        errors: vec![("apply".into(), 7)],
        conflicts: vec![("insert_exists".into(), 1)],
    };
    let mut target = primary("orders", "subscriber");
    change_survey(&mut target, |survey| survey.subscriptions = Some(vec![subscription.clone()]));
    let labels: &[&str] = &["app", "orders"];
    check(
        target.clone(),
        &[
            ("subscription_enabled", &[(labels, 1.0)], Complete),
            ("subscription_running", &[(labels, 1.0)], Complete),
            (
                "subscription_workers",
                &[
                    (&["app", "orders", "apply"], 1.0),
                    (&["app", "orders", "parallel_apply"], 0.0),
                    (&["app", "orders", "table_sync"], 2.0),
                ],
                Complete,
            ),
            (
                "subscription_tables",
                &[
                    (&["app", "orders", "init"], 3.0),
                    (&["app", "orders", "data_copy"], 2.0),
                    (&["app", "orders", "finished_copy"], 0.0),
                    (&["app", "orders", "synchronized"], 0.0),
                    (&["app", "orders", "ready"], 40.0),
                ],
                Complete,
            ),
            ("subscription_message_age_seconds", &[(labels, 1.5)], Complete),
            ("subscription_errors_total", &[(&["app", "orders", "apply"], 7.0)], Complete),
            ("subscription_conflicts_total", &[(&["app", "orders", "insert_exists"], 1.0)], Complete),
            // Whose publisher is not watched.
            ("subscription_lag_seconds", &[], Unknown),
            ("subscription_lag_bytes", &[], Unknown),
        ],
    );
    target.subscription_lags = [SubscriptionLag {
        datname: "app".into(),
        name: "orders".into(),
        publisher: TargetId::new("a", "b"),
        lag: lag(4.0, 3.0, 5.0, Certainty::Exact, Evidence::Lsn),
        unconfirmed: Some(WalBytes(512)),
    }]
    .into();
    let of_lag: &[Statement<'_>] = &[
        ("subscription_lag_seconds", &[(labels, 4.0)], Complete),
        ("subscription_lag_lower_seconds", &[(labels, 3.0)], Complete),
        ("subscription_lag_upper_seconds", &[(labels, 5.0)], Complete),
        ("subscription_lag_bytes", &[(labels, 512.0)], Complete),
    ];
    check(target.clone(), of_lag);
    // Disabled: nobody wants it to run, and it does not.
    let disabled = Subscription { enabled: false, workers: Some(SubscriptionWorkers::default()), ..subscription };
    change_survey(&mut target, |survey| survey.subscriptions = Some(vec![disabled]));
    check(
        target.clone(),
        &[
            ("subscription_enabled", &[(labels, 0.0)], Complete),
            ("subscription_running", &[], Complete),
            ("subscription_message_age_seconds", &[], Complete),
        ],
    );
    change_survey(&mut target, |survey| survey.subscriptions = Some(Vec::new()));
    check(target.clone(), &[("subscription_running", &[], Complete), ("subscription_lag_seconds", &[], Complete)]);
    change_survey(&mut target, |survey| survey.subscriptions = None);
    check(target, &[("subscription_running", &[], Unknown), ("subscription_lag_seconds", &[], Unknown)]);
}

#[test]
fn the_regions_of_a_global_database_are_stated_once_a_cluster_and_no_sentinel_is() {
    let region = |region: &str, lag: Option<f64>, age| AuroraRegion {
        region: region.to_owned(),
        durability_lag: lag,
        rpo_lag: lag,
        age,
    };
    let reader = |instance: &str, visibility_lag| AuroraReaderLag {
        instance: instance.to_owned(),
        region: "us-east-1".to_owned(),
        visibility_lag,
    };
    let writer = |lag, age| {
        let mut writer = primary("orders", "primary");
        change_identity(&mut writer, |identity| identity.flavor = Flavor::Aurora);
        change_survey(&mut writer, |survey| {
            survey.aurora_global = Some(Box::new(AuroraGlobal {
                regions: vec![region("eu-west-1", None, None), region("us-east-1", lag, age)],
                readers: vec![reader("w", None), reader("r", Some(1.5)), reader("r", Some(9.0))],
            }));
        });
        writer
    };
    let check = |targets: Vec<TargetView>, expect: &[Statement<'_>]| {
        let cluster = cluster("orders", targets, Vec::new());
        for (name, stated, coverage) in expect {
            let (found, found_coverage) = read(name, &cluster, 0);
            let found: Vec<(Vec<&str>, f64)> = found
                .iter()
                .map(|(labels, value)| (labels.iter().map(String::as_str).collect(), value.value))
                .collect();
            let stated: Vec<(Vec<&str>, f64)> =
                stated.iter().map(|(labels, value)| (labels.to_vec(), *value)).collect();
            assert_eq!((found, found_coverage), (stated, *coverage), "{name}");
        }
    };
    let (durability, visibility) = ("aurora_global_durability_lag_seconds", "aurora_global_visibility_lag_seconds");
    let mut surveyed_before = writer(Some(7.0), Some(1.0));
    surveyed_before.survey.iter_mut().for_each(|survey| survey.answered_at = ago(20.0));
    check(
        vec![surveyed_before, writer(Some(0.083), Some(1.0))],
        &[
            (durability, &[(&["us-east-1"], 0.083)], Complete),
            ("aurora_global_rpo_lag_seconds", &[(&["us-east-1"], 0.083)], Complete),
            (visibility, &[(&["us-east-1", "r"], 1.5)], Complete),
        ],
    );
    check(vec![writer(Some(0.083), Some(600.0))], &[(durability, &[], Unknown)]);
    check(vec![writer(Some(0.083), None)], &[(durability, &[], Unknown)]);
    let mut silent = writer(Some(0.083), Some(1.0));
    age(&mut silent, 60.0);
    check(vec![silent], &[(durability, &[], Unknown), (visibility, &[], Unknown)]);
    check(orders(), &[(durability, &[], Complete), (visibility, &[], Complete)]);
}

const INFINITE: f64 = f64::INFINITY;

/// A primary whose slots are these, with this rate of WAL.
fn with_slots(slots: Vec<Slot>, write_rate: Option<f64>) -> TargetView {
    let mut view = primary("orders", "primary-2");
    change_survey(&mut view, |survey| survey.slots = Some(slots));
    view.trend = Some(Trend { write_rate, ..Trend::default() });
    view
}

fn limited(name: &str, active: bool, safe: i64) -> Slot {
    Slot { safe_wal_size: Some(safe), ..slot(name, active) }
}

#[test]
fn a_slot_says_what_it_is_and_what_it_holds_back() {
    let logical = Slot {
        slot_type: "logical",
        datname: Some("app".to_owned()),
        plugin: Some("pgoutput".to_owned()),
        unconfirmed_bytes: Some(512),
        catalog_xmin_age: Some(7),
        two_phase: Some(false),
        failover: Some(true),
        synced: Some(false),
        inactive_since: Some(ServerTime::from_unix_micros((1_795_176_000 - 60) * 1_000_000)),
        ..slot("cdc", false)
    };
    let physical = Slot { two_phase: Some(false), xmin_age: Some(9), temporary: true, ..slot("r1", true) };
    check(
        with_slots(vec![logical, physical], None),
        &[
            (
                "slots",
                &[
                    (&["physical", "true"], 1.0),
                    (&["physical", "false"], 0.0),
                    (&["logical", "true"], 0.0),
                    (&["logical", "false"], 1.0),
                ],
                Complete,
            ),
            (
                "slot_info",
                &[
                    (&["cdc", "logical", "app", "pgoutput", "false", "false", "true", "false"], 1.0),
                    (&["r1", "physical", "", "", "true", "", "", ""], 1.0),
                ],
                Complete,
            ),
            ("slot_confirmed_flush_lag_bytes", &[(&["cdc"], 512.0)], Complete),
            ("slot_inactive_seconds", &[(&["cdc"], 60.0)], Complete),
            ("slot_xmin_age", &[(&["r1"], 9.0)], Complete),
            ("slot_catalog_xmin_age", &[(&["cdc"], 7.0)], Complete),
            ("slot_invalidated", &[], Complete),
            // Without a limit no slot is ever lost, whatever the rate of WAL, which is not known here.
            ("slot_lost_in_seconds", &[], Complete),
        ],
    );
}

#[test]
fn an_idle_slot_is_lost_when_the_safe_wal_is_written() {
    let slots = vec![limited("a", false, 1_000_000), limited("b", false, -1), slot("free", false)];
    let stated: &[(&[&str], f64)] = &[(&["a"], 500.0), (&["b"], 0.0)];
    check(with_slots(slots.clone(), Some(2000.0)), &[("slot_lost_in_seconds", stated, Complete)]);
    let never: &[(&[&str], f64)] = &[(&["a"], INFINITE), (&["b"], 0.0)];
    check(with_slots(slots.clone(), Some(0.0)), &[("slot_lost_in_seconds", never, Complete)]);
    // Not known is not gone: an alert of it stays.
    check(with_slots(slots.clone(), None), &[("slot_lost_in_seconds", &[], Unknown)]);
    let mut silent = with_slots(slots.clone(), Some(2000.0));
    age(&mut silent, 11.0);
    check(silent, &[("slot_lost_in_seconds", &[], Unknown)]);
    let mut standby = with_slots(slots, None);
    standby.trend = Some(Trend { replay_rate: Some(1000.0), receive_rate: Some(5000.0), ..Trend::default() });
    check(standby, &[("slot_lost_in_seconds", &[(&["a"], 1000.0), (&["b"], 0.0)], Complete)]);
}

#[test]
fn a_copy_of_the_primarys_slot_is_no_fault_of_the_standby() {
    let inactive_since = Some(ServerTime::from_unix_micros((1_795_176_000 - 60) * 1_000_000));
    let copy = |name: &str| Slot {
        synced: Some(true),
        is_copy: true,
        inactive_since,
        sync_skip_reason: Some("wal_not_flushed"),
        ..limited(name, false, -1)
    };
    let lost = Slot { wal_status: Some("lost"), safe_wal_size: None, retained_bytes: None, ..copy("lost") };
    // On the primary that it becomes by a promotion it is a slot as others are, though it is still called synced.
    let own = Slot { is_copy: false, sync_skip_reason: None, ..copy("own") };
    let mut view = with_slots(vec![copy("copy"), lost, own], Some(2000.0));
    check(
        view.clone(),
        &[
            ("slot_inactive_retained_bytes", &[(&["own"], 16_777_216.0)], Complete),
            ("slot_lost_in_seconds", &[(&["own"], 0.0)], Complete),
            ("slot_invalidated", &[], Complete),
            ("slot_inactive_seconds", &[(&["own"], 60.0)], Complete),
            (
                "slot_sync_skipped",
                &[(&["copy", "wal_not_flushed"], 1.0), (&["lost", "wal_not_flushed"], 1.0)],
                Complete,
            ),
            ("slot_retained_bytes", &[(&["copy"], 16_777_216.0), (&["own"], 16_777_216.0)], Complete),
        ],
    );
    age(&mut view, 3600.0);
    check(view, &[("slot_sync_skipped", &[], Unknown)]);
}

#[test]
fn a_slot_whose_reader_keeps_up_is_in_no_danger_however_much_is_written() {
    let slots = |retained: u64| {
        let with = |name, active| Slot { retained_bytes: Some(retained), ..limited(name, active, 1_000_000) };
        vec![with("behind", true), Slot { retained_bytes: Some(100), ..with("keeps_up", true) }, with("idle", false)]
    };
    let mut tracker = SlotTracker::default();
    tracker.observe(&slots(0), ago(60.0), None);
    let mut view = with_slots(slots(6000), Some(50_000.0));
    let stated: &[(&[&str], f64)] = &[(&["idle"], 20.0)];
    check(view.clone(), &[("slot_lost_in_seconds", stated, Complete)]);
    view.slots = Some(Arc::new(tracker.observe(&slots(6000), NOW, None)));
    let stated: &[(&[&str], f64)] = &[(&["behind"], 10_000.0), (&["keeps_up"], INFINITE), (&["idle"], 20.0)];
    check(view, &[("slot_lost_in_seconds", stated, Complete)]);
}

#[test]
fn a_slot_of_no_more_use_says_why() {
    let gone = Slot { wal_status: Some("lost"), retained_bytes: None, ..slot("gone", false) };
    let idle = Slot { invalidation_reason: Some("idle_timeout"), ..slot("idle", false) };
    let stated: &[(&[&str], f64)] = &[(&["gone", "wal_removed"], 1.0), (&["idle", "idle_timeout"], 1.0)];
    check(with_slots(vec![gone, idle, slot("well", true)], None), &[("slot_invalidated", stated, Complete)]);
}

#[test]
fn rules_read_every_slot_and_the_page_those_that_are_shown() {
    let slots: Vec<Slot> = (0..10_000).map(|n| slot(&format!("s{n:05}"), false)).collect();
    let mut view = with_slots(slots.clone(), None);
    view.slots = Some(Arc::new(SlotTracker::default().observe(&slots, NOW, None)));
    view.dropped.add("slots", 9_800);
    let cluster = cluster("orders", vec![primary("orders", "primary"), view], Vec::new());
    assert_eq!(read("slot_inactive_retained_bytes", &cluster, 1).0.len(), 10_000);
    let page = crate::http::metrics::render(snapshot(vec![cluster]), NOW, crate::self_metrics::SelfMetrics::new(&[]));
    let lines = |series: &str| {
        let start = format!("pgvigil_{series}{{cluster=\"orders\",target=\"primary-2\"");
        page.lines().filter(|line| line.starts_with(&start)).collect::<Vec<_>>()
    };
    assert_eq!(lines("slot_inactive_retained_bytes").len(), SLOTS_SHOWN);
    assert_eq!(lines("slot_wal_status").len(), SLOTS_SHOWN);
    assert_eq!(lines("slots").len(), 4);
    let dropped = "pgvigil_dropped_series_total{cluster=\"orders\",target=\"primary-2\",family=\"slots\"} 9800";
    assert_eq!(lines("dropped_series_total"), [dropped]);
}

#[test]
fn senders_are_told_by_name_and_by_the_worst_of_one_name() {
    let mut view = primary("orders", "primary-2");
    change_positions(&mut view, |positions| {
        let mut far = sender("r", Some(SenderState::Catchup));
        far.sent_lsn = Some(Lsn::new(0x02FF_0000));
        (far.replay_lsn, far.replay_lag, far.write_lag) = (None, Some(5.0), None);
        let mut copy = sender("pg_basebackup", Some(SenderState::Backup));
        copy.sync_state = Some(Arc::from("sync"));
        copy.sync_priority = Some(1);
        let slot = Some(SenderSlot { name: "backup".to_owned(), is_logical: false });
        copy.client = Some(Arc::new(SenderClient { slot, ..SenderClient::default() }));
        positions.senders = vec![sender("r", Some(SenderState::Streaming)), far, copy];
    });
    let r: &[&str] = &["r", "", ""];
    check(
        view.clone(),
        &[
            (
                "wal_sender_info",
                &[
                    (&["pg_basebackup", "", "backup", "backup", "sync"], 1.0),
                    (&["r", "", "", "catchup", "async"], 1.0),
                    (&["r", "", "", "streaming", "async"], 1.0),
                ],
                Complete,
            ),
            ("wal_sender_unsent_bytes", &[(r, 65_536.0)], Complete),
            ("wal_sender_unreplayed_bytes", &[(r, 256.0)], Complete),
            ("wal_sender_write_lag_seconds", &[(&["pg_basebackup", "", "backup"], 0.001), (r, 0.001)], Complete),
            ("wal_sender_replay_lag_seconds", &[(&["pg_basebackup", "", "backup"], 0.12), (r, 5.0)], Complete),
            ("wal_sender_sync_priority", &[(&["pg_basebackup", "", "backup"], 1.0)], Complete),
            ("wal_sender_start_time_seconds", &[], Complete),
        ],
    );
    // Without the grant there are names and nothing else.
    change_positions(&mut view, |positions| {
        for sender in &mut positions.senders {
            *sender =
                WalSender { state: None, sync_state: None, sync_priority: None, replay_lag: None, ..sender.clone() };
        }
    });
    check(
        view,
        &[
            (
                "wal_sender_info",
                &[(&["pg_basebackup", "", "backup", "unknown", ""], 1.0), (&["r", "", "", "unknown", ""], 2.0)],
                Unknown,
            ),
            ("wal_sender_unsent_bytes", &[], Unknown),
            ("wal_sender_replay_lag_seconds", &[], Unknown),
        ],
    );
}

#[test]
fn backups_in_progress_are_counted_and_summed() {
    let files = |streamed_bytes, total_bytes| BaseBackup {
        phase: Some("streaming database files"),
        streamed_bytes: Some(streamed_bytes),
        total_bytes,
    };
    let stated = |backups: Option<Vec<BaseBackup>>, expect: &[Statement<'_>]| {
        let mut view = primary("orders", "primary-2");
        change_survey(&mut view, |survey| survey.backups = backups);
        check(view, expect);
    };
    stated(
        Some(vec![files(10, Some(100)), files(5, Some(200))]),
        &[
            ("base_backups", &[(&["streaming database files"], 2.0)], Complete),
            ("base_backup_streamed_bytes", &[(NO, 15.0)], Complete),
            ("base_backup_total_bytes", &[(NO, 300.0)], Complete),
        ],
    );
    stated(
        Some(vec![files(10, None), BaseBackup::default()]),
        &[
            ("base_backups", &[(&["streaming database files"], 1.0), (&["unknown"], 1.0)], Complete),
            ("base_backup_streamed_bytes", &[], Unknown),
            ("base_backup_total_bytes", &[], Unknown),
        ],
    );
    stated(Some(vec![]), &[("base_backups", &[], Complete), ("base_backup_streamed_bytes", &[], Complete)]);
    stated(None, &[("base_backups", &[], Unknown), ("base_backup_streamed_bytes", &[], Unknown)]);
}

#[test]
fn a_receiver_says_whom_it_follows_and_how_far_it_got() {
    let server_time = |seconds: i64| ServerTime::from_unix_micros((1_795_176_000 + seconds) * 1_000_000);
    let mut view = replica("orders", "replica-1");
    change_standby(&mut view, |standby| {
        let Receiver::Running(receiver) = &mut standby.receiver else { return };
        receiver.written_lsn = Some(Lsn::new(0x0300_0010));
        // The clocks are an hour apart.
        receiver.last_msg_sent_at = Some(server_time(3600 - 2));
        receiver.latest_end_at = Some(server_time(3600 - 12));
    });
    view.skew = ClockSkew { of_server: Some((-0.25, 0.75)), of_upstream: Some(-3600.0) };
    check(
        view.clone(),
        &[
            ("receiver_info", &[(&["streaming", "10.0.0.1", "5432", ""], 1.0)], Complete),
            ("receiver_written_position_bytes", &[(NO, 50_331_664.0)], Complete),
            ("receiver_flushed_position_bytes", &[(NO, 50_331_648.0)], Complete),
            ("receiver_latest_end_position_bytes", &[(NO, 50_331_648.0)], Complete),
            ("receiver_latest_end_age_seconds", &[(NO, 12.0)], Complete),
            ("receiver_timeline", &[(NO, 3.0)], Complete),
            ("upstream_clock_skew_seconds", &[(NO, -3600.0)], Complete),
            ("clock_skew_seconds", &[(NO, 0.25)], Complete),
        ],
    );
    let bounds = |name| {
        let cluster = cluster("orders", vec![primary("orders", "primary"), view.clone()], Vec::new());
        let stated = read(name, &cluster, 1).0[0].1;
        (stated.lower, stated.upper)
    };
    assert_eq!(bounds("upstream_clock_skew_seconds"), (f64::NEG_INFINITY, -3600.0));
    assert_eq!(bounds("clock_skew_seconds"), (-0.25, 0.75));
    for (receiver, coverage) in [(Receiver::Hidden, Unknown), (Receiver::Absent, Complete)] {
        let mut view = replica("orders", "replica-1");
        change_standby(&mut view, |standby| standby.receiver = receiver);
        check(
            view,
            &[
                ("receiver_info", &[], coverage),
                ("receiver_written_position_bytes", &[], coverage),
                ("receiver_latest_end_age_seconds", &[], coverage),
                ("upstream_clock_skew_seconds", &[], Unknown),
            ],
        );
    }
    check(
        primary("orders", "primary-2"),
        &[
            ("receiver_info", &[], Complete),
            ("receiver_timeline", &[], Complete),
            ("upstream_clock_skew_seconds", &[], Complete),
        ],
    );
}

#[test]
fn a_trend_is_stated_in_the_role_that_has_it() {
    check(
        replica("orders", "replica-1"),
        &[
            ("wal_write_bytes_per_second", &[], Complete),
            ("wal_receive_bytes_per_second", &[(NO, 2e6)], Complete),
            ("wal_replay_bytes_per_second", &[(NO, 1_999_900.0)], Complete),
            ("lag_direction", &[(&["holding"], 1.0)], Complete),
            ("catch_up_seconds", &[(NO, 0.0)], Complete),
            ("replay_stalled", &[(NO, 0.0)], Complete),
            ("replay_stalled_seconds", &[(NO, 0.0)], Complete),
        ],
    );
    check(
        primary("orders", "other"),
        &[
            ("wal_write_bytes_per_second", &[(NO, 2e6)], Complete),
            ("wal_replay_bytes_per_second", &[], Complete),
            ("lag_direction", &[], Complete),
            ("replay_stalled", &[], Complete),
        ],
    );
}

#[test]
fn what_does_not_catch_up_or_is_stale_has_no_time_to_say() {
    let mut falling = replica("orders", "replica-1");
    falling.trend = Some(Trend {
        direction: Some(Direction::FallingBehind),
        catch_up_seconds: None,
        standing_seconds: Some(7.0),
        stalled: Some(true),
        ..Trend::default()
    });
    check(
        falling.clone(),
        &[
            ("lag_direction", &[(&["falling_behind"], 1.0)], Complete),
            // Not that it has caught up: an alert about too long a time holds.
            ("catch_up_seconds", &[], Unknown),
            ("replay_stalled", &[(NO, 1.0)], Complete),
            ("replay_stalled_seconds", &[(NO, 7.0)], Complete),
            ("wal_replay_bytes_per_second", &[], Unknown),
        ],
    );
    age(&mut falling, 60.0);
    check(falling, &[("lag_direction", &[], Unknown), ("replay_stalled", &[], Unknown)]);
}

#[test]
fn the_cause_to_act_on_first_is_stated_while_it_lags() {
    let told = |cause| Told { cause, why: String::new() };
    let causes = vec![told(Cause::ReplayPaused), told(Cause::SlowNetwork)];
    let mut lagging = replica("orders", "replica-1");
    lagging.diagnosis = Some(std::sync::Arc::new(Diagnosis { lags: true, causes: causes.clone() }));
    let paused: &[(&[&str], f64)] = &[(&["replay_paused"], 1.0)];
    check(lagging.clone(), &[("replication_cause", paused, Complete)]);
    let mut silent = lagging.clone();
    age(&mut silent, 60.0);
    check(silent.clone(), &[("replication_cause", &[], Unknown)]);
    fail(&mut silent, PollFailure::Refused);
    check(silent.clone(), &[("replication_cause", paused, Complete)]);
    silent.diagnosis = None;
    check(silent, &[("replication_cause", &[], Unknown)]);
    lagging.diagnosis = Some(std::sync::Arc::new(Diagnosis { lags: false, causes }));
    check(lagging, &[("replication_cause", &[], Complete)]);
    check(primary("orders", "other"), &[("replication_cause", &[], Complete), ("replay_blocked", &[], Complete)]);
    let mut unknown = replica("orders", "replica-1");
    unknown.lag = Some(unknown_lag(Evidence::NoPrimary));
    check(unknown, &[("replication_cause", &[], Unknown)]);
}

#[test]
fn a_blocked_replay_says_for_how_long_as_far_as_it_may_be_seen() {
    let clock = replica("orders", "replica-1").answer.expect("has an answer").positions.clock;
    let ago = |age: i64| ServerTime::from_unix_micros(clock.unix_micros() - age * 1_000_000);
    let blocker = |age: Option<i64>| Blocker {
        pid: None,
        user: None,
        application: String::new(),
        is_idle: None,
        since: age.map(ago),
    };
    for (on, age, blocked, seconds) in [
        (None, None, Some(0.0), Some(0.0)),
        (Some(WaitsOn::Lock), Some(360), Some(1.0), Some(360.0)),
        (Some(WaitsOn::Lock), None, Some(1.0), None),
        (Some(WaitsOn::Io), None, Some(0.0), Some(0.0)),
        (Some(WaitsOn::Hidden), None, None, None),
    ] {
        let mut view = replica("orders", "replica-1");
        change_standby(&mut view, |standby| {
            standby.wait =
                on.map(|on| std::sync::Arc::new(ReplayWait { on, blocker: Some(blocker(age)), n_holders: 1 }));
        });
        let stated = |value: Option<f64>| value.map(|value| vec![(NO, value)]).unwrap_or_default();
        let coverage = |value: Option<f64>| if value.is_some() { Complete } else { Unknown };
        check(
            view,
            &[
                ("replay_blocked", &stated(blocked), coverage(blocked)),
                ("replay_blocked_seconds", &stated(seconds), coverage(seconds)),
            ],
        );
    }
}

#[test]
fn replay_that_stands_is_not_said_to_be_free_before_it_was_asked() {
    let mut standing = replica("orders", "replica-1");
    standing.trend = Some(Trend { standing_seconds: Some(1.0), ..Trend::default() });
    check(standing.clone(), &[("replay_blocked", &[], Unknown), ("replay_blocked_seconds", &[], Unknown)]);
    change_standby(&mut standing, |standby| standby.pause = ReplayPause::Paused);
    check(standing, &[("replay_blocked", &[(NO, 0.0)], Complete)]);
}

#[test]
fn a_promotion_is_wanted_or_not_or_nobody_tells() {
    let mut view = replica("orders", "replica-1");
    check(view.clone(), &[("promotion_requested", &[], Unknown)]);
    change_survey(&mut view, |survey| {
        survey.recovery = Some(RecoverySettings { promotion_requested: Some(true), ..RecoverySettings::default() });
    });
    check(view, &[("promotion_requested", &[(NO, 1.0)], Complete)]);
    check(primary("orders", "primary"), &[("promotion_requested", &[], Complete)]);
}

#[test]
fn conflicts_are_counted_by_type_where_the_server_counts_them() {
    let mut view = replica("orders", "replica-1");
    check(view.clone(), &[("recovery_conflicts_total", &[], Unknown)]);
    change_survey(&mut view, |survey| {
        survey.conflicts = Some(Conflicts { lock: 3, snapshot: 1, ..Conflicts::default() });
    });
    let stated: &[(&[&str], f64)] =
        &[(&["tablespace"], 0.0), (&["lock"], 3.0), (&["snapshot"], 1.0), (&["bufferpin"], 0.0), (&["deadlock"], 0.0)];
    check(view, &[("recovery_conflicts_total", stated, Complete)]);
}

#[test]
fn where_a_replica_gets_its_wal_is_told_with_what_is_known_of_it() {
    use crate::core::topology::Name;
    use crate::core::topology::links::{Links, Upstream};
    let linked = |upstream, is_missing| {
        let mut target = replica("orders", "replica-1");
        target.links = Arc::new(Links { upstream: Some(upstream), is_missing, ..Links::default() });
        target
    };
    let one: &[(&[&str], f64)] = &[(NO, 1.0)];
    let zero: &[(&[&str], f64)] = &[(NO, 0.0)];
    for (upstream, is_missing, labels, missing, wrong) in [
        (Upstream::Target(Name::new("primary")), Some(false), ["target", "primary"], zero, zero),
        (Upstream::Elsewhere(Arc::from("10.0.0.9:5432")), Some(false), ["elsewhere", ""], zero, one),
        (Upstream::Nobody, Some(true), ["none", ""], one, zero),
        (Upstream::Unknown, None, ["unknown", ""], &[], &[]),
    ] {
        let coverage = |stated: &[_]| if stated.is_empty() { Unknown } else { Complete };
        check(
            linked(upstream, is_missing),
            &[
                ("upstream_info", &[(&labels, 1.0)], Complete),
                ("standby_missing", missing, coverage(missing)),
                ("wrong_upstream", wrong, coverage(wrong)),
            ],
        );
    }
    check(
        primary("orders", "other"),
        &[
            ("upstream_info", &[], Complete),
            ("standby_missing", &[], Complete),
            ("wrong_upstream", &[], Complete),
            ("timelines_behind", &[], Complete),
            ("undeclared_standbys", &[], Unknown),
        ],
    );
    // The others' senders tell of a silent replica; its own last word on where it gets its WAL is too old.
    let mut silent = linked(Upstream::Unknown, Some(true));
    fail(&mut silent, PollFailure::Refused);
    check(
        silent,
        &[("standby_missing", one, Complete), ("wrong_upstream", &[], Unknown), ("upstream_info", &[], Unknown)],
    );
    // Another cluster's, whatever it follows.
    let mut foreign = linked(Upstream::Unknown, None);
    change_identity(&mut foreign, |identity| identity.system_identifier = Some(1));
    check(foreign, &[("wrong_upstream", one, Complete), ("timelines_behind", &[], Unknown)]);
}

fn on(receiver: &mut Receiver, timeline: u32) {
    if let Receiver::Running(running) = receiver {
        running.timeline = Some(crate::core::wal::Timeline(timeline));
    }
}

#[test]
fn a_replica_on_an_old_timeline_is_told_as_surely_as_its_receiver_tells_it() {
    use crate::core::wal::Timeline;
    let bounds = |receiver: fn(&mut Receiver), control: u32| {
        let mut target = replica("orders", "replica-1");
        change_standby(&mut target, |standby| {
            standby.control_timeline = Some(Timeline(control));
            receiver(&mut standby.receiver);
        });
        let cluster = cluster("orders", vec![primary("orders", "primary"), target], Vec::new());
        let (stated, _) = read("timelines_behind", &cluster, 1);
        stated.first().map(|(_, value)| (value.value, value.lower, value.upper))
    };
    // The primary is on 3.
    assert_eq!(bounds(|_| {}, 1), Some((0.0, 0.0, 0.0)));
    assert_eq!(bounds(|receiver| on(receiver, 2), 1), Some((1.0, 1.0, 1.0)));
    assert_eq!(bounds(|receiver| on(receiver, 4), 1), Some((0.0, 0.0, 0.0)));
    assert_eq!(bounds(|receiver| *receiver = Receiver::Absent, 1), Some((2.0, 0.0, 2.0)));
    assert_eq!(bounds(|receiver| *receiver = Receiver::Hidden, 1), Some((0.0, 0.0, 2.0)));
    assert_eq!(bounds(|receiver| *receiver = Receiver::Hidden, 3), Some((0.0, 0.0, 0.0)));
}

#[test]
fn synchronous_standbys_are_held_against_what_is_asked_for() {
    use crate::core::topology::synchronous::SyncStandbys;
    use SenderState::{Catchup, Streaming};
    let told = |setting: Option<&str>, senders: &[(&str, SenderState)]| {
        let mut target = primary("orders", "primary");
        change_survey(&mut target, |survey| survey.sync_standbys = setting.and_then(SyncStandbys::parse));
        change_positions(&mut target, |positions| {
            let row = |(sync, state): &(&str, SenderState)| {
                let mut row = sender("r", Some(*state));
                row.sync_state = Some(Arc::from(*sync));
                row
            };
            positions.senders = senders.iter().map(row).collect();
        });
        let cluster = cluster("orders", vec![target], Vec::new());
        ["sync_standbys", "sync_standbys_required", "sync_standbys_missing"]
            .map(|name| read(name, &cluster, 0).0.first().map(|(_, value)| value.value))
    };
    let some = |numbers: [f64; 3]| numbers.map(Some);
    assert_eq!(told(Some(""), &[("async", Streaming)]), some([0.0, 0.0, 0.0]));
    assert_eq!(told(Some("a"), &[("sync", Streaming), ("potential", Streaming)]), some([1.0, 1.0, 0.0]));
    assert_eq!(told(Some("a"), &[("potential", Catchup)]), some([0.0, 1.0, 1.0]));
    assert_eq!(told(Some("ANY 2 (*)"), &[("quorum", Streaming), ("quorum", Catchup)]), some([1.0, 2.0, 1.0]));
    assert_eq!(told(Some("ANY 1 (*)"), &[("quorum", Streaming), ("quorum", Streaming)]), some([2.0, 1.0, 0.0]));
    assert_eq!(told(None, &[("async", Streaming)]), [Some(0.0), None, None]);
    let mut blind = primary("orders", "primary");
    change_positions(&mut blind, |positions| positions.sees_senders = false);
    let cluster = cluster("orders", vec![blind], Vec::new());
    assert_eq!(read("sync_standbys", &cluster, 0), (vec![], Unknown));
}

#[test]
fn a_primary_of_another_cluster_splits_no_brain() {
    let mut foreign = primary("orders", "other");
    change_identity(&mut foreign, |identity| identity.system_identifier = Some(1));
    check(foreign, &[("primaries", &[(NO, 1.0)], Complete), ("wrong_upstream", &[(NO, 1.0)], Complete)]);
    check(primary("orders", "other"), &[("primaries", &[(NO, 2.0)], Complete)]);
}
