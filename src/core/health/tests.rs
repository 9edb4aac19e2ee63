use super::*;
use crate::core::cause::{Cause, Diagnosis, Told};
use crate::core::fixture::{self, NOW, method};
use crate::core::observation::PollFailure;
use crate::core::wal::WalBytes;

const PASS: HealthConfig = HealthConfig { on_unknown: OnUnknown::Pass, panic_threshold: Share(0.0) };
const FAIL: HealthConfig = HealthConfig { on_unknown: OnUnknown::Fail, panic_threshold: Share(0.0) };

fn judged(targets: Vec<TargetView>, target: &str, query: &str, config: HealthConfig) -> Verdict {
    let snapshot = fixture::snapshot(vec![fixture::cluster("orders", targets, Vec::new())]);
    let limits = Limits::parse(Some(query)).expect("a query that can be read");
    fitness(&snapshot, NOW, "orders", target, &limits, config).expect("configured")
}

/// `replica-1` after `change`, beside a primary and another replica. `None` expects it to be fit, without a word.
fn check(change: impl FnOnce(&mut TargetView), query: &str, expect: Option<&str>) {
    let mut targets = fixture::orders();
    change(&mut targets[1]);
    let verdict = judged(targets, "replica-1", query, PASS);
    let status = if expect.is_none() { Status::Ok } else { Status::Unfit };
    let reasons: Vec<&str> = verdict.reasons.iter().map(String::as_str).collect();
    assert_eq!((verdict.status, reasons), (status, expect.into_iter().collect::<Vec<_>>()), "{query}");
}

fn estimate(value: f64, lower: f64, upper: f64, certainty: Certainty, evidence: Evidence) -> impl Fn(&mut TargetView) {
    move |view| view.lag = Some(fixture::lag(value, lower, upper, certainty, evidence))
}

#[test]
fn a_replica_is_told_in_full() {
    assert_eq!(
        judged(fixture::orders(), "replica-1", "max_lag=5s&max_lag_bytes=1kB&role=replica&max_age=1s", PASS),
        Verdict {
            status: Status::Ok,
            reasons: Vec::new(),
            role: Some(Role::Replica),
            lag_seconds: Some(0.12),
            lag_bytes: Some(256),
            lag_certainty: Certainty::Exact,
            lag_method: Some(method(Evidence::LsnAndTimestamp)),
            cause: None,
            other_causes: Vec::new(),
            sample_age_ms: Some(500),
        }
    );
}

#[test]
fn the_primary_has_no_lag_to_wait_for() {
    assert_eq!(
        judged(fixture::orders(), "primary", "max_lag=0&max_lag_bytes=0", PASS),
        Verdict {
            status: Status::Ok,
            reasons: Vec::new(),
            role: Some(Role::Primary),
            lag_seconds: Some(0.0),
            lag_bytes: Some(0),
            lag_certainty: Certainty::Exact,
            lag_method: None,
            cause: None,
            other_causes: Vec::new(),
            sample_age_ms: Some(500),
        }
    );
}

#[test]
fn a_server_that_cannot_serve_is_out_whatever_is_asked() {
    let down = |view: &mut TargetView| fixture::fail(view, PollFailure::Refused);
    check(down, "", Some("the last poll failed: connection refused"));
    let one_failure = |view: &mut TargetView| {
        fixture::fail(view, PollFailure::Refused);
        fixture::age(view, 0.5);
    };
    check(one_failure, "", Some("the last poll failed: connection refused"));
    check(|view| fixture::age(view, 10.5), "", Some("the sample is 10.5s old; the limit is 10s"));
    check(|view| fixture::age(view, 10.5), "max_age=60s", Some("the sample is 10.5s old; the limit is 10s"));
    check(|view| fixture::age(view, 2.5), "max_age=2s", Some("the sample is 2.5s old; the limit is 2s"));
    check(|view| fixture::age(view, 2.5), "max_age=3s", None);
    check(|view| *view = TargetView::new(view.id.clone(), view.stale_after), "", Some("not polled yet"));
    let foreign = |view: &mut TargetView| view.lag = Some(fixture::unknown_lag(Evidence::ForeignCluster));
    check(foreign, "", Some("its system identifier is another cluster's"));
    check(
        |view| *view = fixture::primary("orders", "replica-1"),
        "",
        Some("it is a second primary; the cluster's is primary"),
    );
}

#[test]
fn the_role_asked_for_is_the_role_it_has() {
    check(|_| (), "role=replica", None);
    check(|_| (), "role=any", None);
    check(|_| (), "role=primary", Some("it is a replica, not a primary"));
    let primary = judged(fixture::orders(), "primary", "role=replica", PASS);
    assert_eq!((primary.status, primary.reasons), (Status::Unfit, vec!["it is a primary, not a replica".to_owned()]));
}

#[test]
fn a_lag_proven_or_told_above_the_limit_is_out() {
    use Certainty::{AtLeast, AtMost, Exact};
    use Evidence::{LowerBound, Lsn, Timestamp};
    check(estimate(60.0, 59.0, 61.0, Exact, Lsn), "", None);
    check(estimate(4.9, 4.0, 5.5, Exact, Lsn), "max_lag=5s", None);
    check(estimate(5.1, 4.9, 5.5, Exact, Lsn), "max_lag=5s", Some("replay lag is 5.1s; the limit is 5s"));
    check(estimate(7.0, 6.0, 8.0, Exact, Lsn), "max_lag=5s", Some("replay lag is 7s (proven: 6s); the limit is 5s"));
    check(estimate(4.0, 0.0, 4.1, AtMost, Timestamp), "max_lag=5s", None);
    check(estimate(9.0, 0.0, 9.1, AtMost, Timestamp), "max_lag=5s", Some("replay lag is 9s; the limit is 5s"));
    check(
        estimate(1.0, 1.0, f64::INFINITY, AtLeast, LowerBound),
        "max_lag=5s",
        Some("replay lag is at least 1s and may be above 5s"),
    );
    check(
        |view| view.lag = Some(fixture::unknown_lag(Evidence::Warming)),
        "max_lag=5s",
        Some("the replay lag is not known"),
    );
    check(|view| view.lag = None, "max_lag=5s", Some("the replay lag is not known"));
    check(|view| view.lag = None, "", None);
}

#[test]
fn bytes_are_held_to_their_limit() {
    let bytes = |bytes| {
        move |view: &mut TargetView| {
            if let Some(stages) = &mut view.stages {
                stages.unreplayed = bytes;
            }
        }
    };
    check(bytes(Some(WalBytes(1000))), "max_lag_bytes=1kB", None);
    check(
        bytes(Some(WalBytes(1001))),
        "max_lag_bytes=1kB",
        Some("1001 bytes of WAL are not replayed; the limit is 1000"),
    );
    check(bytes(None), "max_lag_bytes=1kB", Some("the lag in bytes is not known"));
    check(
        |view| {
            estimate(7.0, 7.0, 7.0, Certainty::Exact, Evidence::Lsn)(view);
            bytes(Some(WalBytes(1001)))(view);
        },
        "max_lag=5s&max_lag_bytes=1kB",
        Some(
            "replay lag is 7s (proven: 7s); the limit is 5s; \
             1001 bytes of WAL are not replayed; the limit is 1000",
        ),
    );
}

#[test]
fn an_outage_of_the_primary_is_not_an_outage_of_reads_unless_asked_to_be() {
    use Certainty::{AtLeast, AtMost, Exact};
    let lost = |value, lower, upper, certainty, evidence| {
        let mut lag = fixture::lag(value, lower, upper, certainty, evidence);
        lag.method.primary_lost = true;
        Some(lag)
    };
    let inf = f64::INFINITY;
    // (what is known of the lag, with `pass`, with `fail`)
    for (lag, pass, fail) in [
        (lost(0.0, 0.0, 40.0, AtLeast, Evidence::PrimaryLost), Status::Ok, Status::Unfit),
        (lost(0.0, 0.0, 3.0, AtLeast, Evidence::Receiver), Status::Ok, Status::Ok),
        (lost(1.0, 1.0, inf, AtLeast, Evidence::Lsn), Status::Ok, Status::Unfit),
        (lost(8.0, 7.0, inf, AtLeast, Evidence::Lsn), Status::Unfit, Status::Unfit),
        (lost(8.0, 0.0, inf, AtLeast, Evidence::Lsn), Status::Unfit, Status::Unfit),
        (lost(3600.0, 0.0, 3600.0, AtMost, Evidence::TimestampOnly), Status::Ok, Status::Unfit),
        (lost(2.0, 1.9, 5.1, Exact, Evidence::Lsn), Status::Ok, Status::Ok),
        (Some(fixture::unknown_lag(Evidence::NoPrimary)), Status::Ok, Status::Unfit),
        (Some(fixture::unknown_lag(Evidence::NoPosition)), Status::Unfit, Status::Unfit),
        (None, Status::Ok, Status::Unfit),
    ] {
        let status = |config| {
            let mut targets = fixture::orders();
            fixture::fail(&mut targets[0], PollFailure::Refused);
            targets[1].lag = lag;
            let verdict = judged(targets, "replica-1", "max_lag=5s", config);
            assert!(verdict.status == Status::Ok || !verdict.reasons.is_empty(), "{lag:?}");
            verdict.status
        };
        assert_eq!((status(PASS), status(FAIL)), (pass, fail), "{lag:?}");
    }
    for (config, expect) in [(PASS, Status::Ok), (FAIL, Status::Unfit)] {
        let mut targets = fixture::orders();
        fixture::fail(&mut targets[0], PollFailure::Refused);
        assert_eq!(judged(targets, "replica-1", "max_lag_bytes=1kB", config).status, expect);
    }
    // Without a limit, too: with "fail" a replica takes no reads while its lag is unknown for want of the primary. Its
    // answer may be overdue before a poll of it has failed; an estimate that is missing says nothing of that.
    // (what is known of the lag, with `fail` before a poll of the primary has failed, and after)
    for (lag, overdue, fail) in [
        (lost(0.0, 0.0, 40.0, AtLeast, Evidence::PrimaryLost), Status::Unfit, Status::Unfit),
        (lost(2.0, 1.9, 5.1, Exact, Evidence::Lsn), Status::Ok, Status::Ok),
        (None, Status::Ok, Status::Unfit),
    ] {
        let mut targets = fixture::orders();
        targets[1].lag = lag;
        assert_eq!(judged(targets.clone(), "replica-1", "", FAIL).status, overdue, "{lag:?}");
        fixture::fail(&mut targets[0], PollFailure::Refused);
        assert_eq!(judged(targets.clone(), "replica-1", "", PASS).status, Status::Ok, "{lag:?}");
        assert_eq!(judged(targets, "replica-1", "", FAIL).status, fail, "{lag:?}");
    }
}

#[test]
fn a_cluster_that_never_had_a_primary_serves_what_can_be_reached() {
    let mut only = fixture::replica("orders", "replica-1");
    only.lag = Some(fixture::unknown_lag(Evidence::NoPrimary));
    assert_eq!(judged(vec![only.clone()], "replica-1", "max_lag=5s", PASS).status, Status::Ok);
    assert_eq!(judged(vec![only], "replica-1", "max_lag=5s", FAIL).status, Status::Unfit);
}

#[test]
fn limits_that_would_empty_the_pool_are_given_up_but_not_for_the_dead() {
    let config = |share| HealthConfig { panic_threshold: Share(share), ..PASS };
    let behind = |view: &mut TargetView| estimate(60.0, 59.0, 61.0, Certainty::Exact, Evidence::Lsn)(view);
    // One of two replicas meets the limit.
    let mut half = fixture::orders();
    behind(&mut half[1]);
    assert_eq!(judged(half.clone(), "replica-1", "max_lag=5s", config(0.5)).status, Status::Unfit);
    let kept = judged(half, "replica-1", "max_lag=5s", config(0.6));
    assert_eq!(
        (kept.status, kept.reasons),
        (
            Status::Ok,
            vec![
                "replay lag is 1m (proven: 59s); the limit is 5s".to_owned(),
                "kept in: with these limits fewer than 60 % of the cluster's replicas would remain".to_owned(),
            ]
        )
    );
    // None meets it, and one is down: that one stays out.
    let mut none = fixture::orders();
    behind(&mut none[1]);
    fixture::fail(&mut none[2], PollFailure::Refused);
    assert_eq!(judged(none.clone(), "replica-1", "max_lag=5s", config(0.5)).status, Status::Ok);
    assert_eq!(judged(none.clone(), "replica-2", "max_lag=5s", config(0.5)).status, Status::Unfit);
    assert_eq!(judged(none, "replica-1", "max_lag=5s", PASS).status, Status::Unfit);
}

#[test]
fn only_a_name_that_is_not_configured_has_no_verdict() {
    let snapshot = fixture::snapshot(vec![fixture::cluster("orders", fixture::orders(), Vec::new())]);
    for (cluster, target, expect) in
        [("orders", "replica-1", true), ("orders", "replica-9", false), ("Orders", "replica-1", false), ("", "", false)]
    {
        let found = fitness(&snapshot, NOW, cluster, target, &Limits::default(), PASS);
        assert_eq!(found.is_some(), expect, "{cluster}/{target}");
    }
}

#[test]
fn the_configuration_says_shares_as_people_do() {
    let read = |json: &str| serde_json::from_str::<HealthConfig>(json).map_err(|error| error.to_string());
    let threshold = |share| Ok(HealthConfig { panic_threshold: Share(share), ..PASS });
    assert_eq!(read("{}"), Ok(PASS));
    assert_eq!(read(r#"{"on_unknown":"fail"}"#), Ok(FAIL));
    assert_eq!(read(r#"{"panic_threshold":"50%"}"#), threshold(0.5));
    assert_eq!(read(r#"{"panic_threshold":"0.5"}"#), threshold(0.5));
    assert_eq!(read(r#"{"panic_threshold":0.5}"#), threshold(0.5));
    assert_eq!(read(r#"{"panic_threshold":1}"#), threshold(1.0));
    for wrong in [
        r#"{"panic_threshold":"150%"}"#,
        r#"{"panic_threshold":-1}"#,
        r#"{"panic_threshold":"many"}"#,
        r#"{"panic_threshold":"NaN"}"#,
        r#"{"on_unknown":"maybe"}"#,
        r#"{"on_unknwon":"fail"}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_replica_that_lags_says_why_in_or_out() {
    let told = |cause, why: &str| Told { cause, why: why.to_owned() };
    let diagnosis = |lags| Diagnosis {
        lags,
        causes: vec![told(Cause::ReplayPaused, "replay is paused"), told(Cause::SlowNetwork, "WAL arrives slowly")],
    };
    let mut targets = fixture::orders();
    targets[1].lag = Some(fixture::lag(7.0, 7.0, 7.1, Certainty::Exact, Evidence::Lsn));
    targets[1].diagnosis = Some(std::sync::Arc::new(diagnosis(true)));
    let sentence = "replica-1 is 7s behind: replay is paused; also WAL arrives slowly";
    let verdict = judged(targets.clone(), "replica-1", "max_lag=10s", PASS);
    assert_eq!((verdict.status, verdict.reasons), (Status::Ok, vec![sentence.to_owned()]));
    assert_eq!((verdict.cause, verdict.other_causes), (Some(Cause::ReplayPaused), vec![Cause::SlowNetwork]));
    let verdict = judged(targets.clone(), "replica-1", "max_lag=5s", PASS);
    let limit = "replay lag is 7s (proven: 7s); the limit is 5s";
    assert_eq!((verdict.status, verdict.reasons), (Status::Unfit, vec![limit.to_owned(), sentence.to_owned()]));
    // What is about to make it lag is no reason yet.
    targets[1].diagnosis = Some(std::sync::Arc::new(diagnosis(false)));
    let verdict = judged(targets, "replica-1", "max_lag=10s", PASS);
    assert_eq!((verdict.reasons, verdict.cause), (Vec::<String>::new(), None));
}
