use super::*;

/// Runs the tests of a file of this text.
fn fared(text: &str) -> Outcome {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("t.toml");
    std::fs::write(&path, text).expect("written");
    let Outcome { text, ok } = run(&[path]);
    Outcome { text: text.replace(&format!("{}/", dir.path().display()), ""), ok }
}

#[test]
fn the_example_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/rules-test.example.toml");
    let outcome = run(&[path]);
    assert!(outcome.ok, "{}", outcome.text);
    assert!(outcome.text.ends_with("3 tests, ok\n"), "{}", outcome.text);
}

const RULE: &str = "[[rule]]\nname = \"Lag\"\nwhen = \"replay_lag_seconds > 5s\"\nfor = \"1m\"\n";

#[test]
fn what_is_not_as_expected_is_shown_beside_what_there_is() {
    let test = r#"
        [[test]]
        name = "a lag"
        series = { 'replay_lag_seconds{target="r1"}' = "0 10x9", 'replay_lag_seconds{target="r2"}' = "10" }
        [[test.expect]]
        at = "90s"
        alerts = [{ rule = "Lag", target = "r1", severity = "critical" }, { rule = "Lag", target = "r2" }]
        [[test.expect]]
        at = "2m"
        alerts = [{ rule = "Lag", target = "r1" }, { rule = "Lag", target = "r2", severity = "warning" }]
    "#;
    let expect = "\
t.toml: a lag
  at 1m 30s (- expected, + what there is):
    - firing    critical  Lag default/r1
      firing    any       Lag default/r2
    + pending   warning   Lag default/r1  (replay_lag_seconds > 5s; reading 10, since 1m)
t.toml: 1 test, 1 failed
";
    assert_eq!(fared(&format!("{RULE}{test}")), Outcome { text: expect.to_owned(), ok: false });
}

#[test]
fn the_rules_of_a_configuration_are_tested_without_its_passwords() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = "[poll]\ninterval = \"10s\"\n[[cluster]]\nname = \"orders\"\n[[cluster.target]]\nname = \"r1\"\n\
                  dsn = \"postgresql://u:${NO_SUCH_VARIABLE}@h/d\"\n\
                  [[rule]]\nname = \"Lag\"\nwhen = \"replay_lag_seconds > 5s\"\ncluster = \"orders\"\n";
    std::fs::write(dir.path().join("pgvigil.toml"), config).expect("written");
    // Without `for` an estimate must last two polls: 20 s of them.
    let test = r#"
        config = "pgvigil.toml"
        [[test]]
        name = "an estimate"
        interval = "10s"
        series = { 'replay_lag_seconds{cluster="orders", target="r1"}' = "0 10[0..]x9" }
        [[test.expect]]
        at = "29s"
        alerts = [{ rule = "Lag", cluster = "orders", target = "r1", state = "pending" }]
        [[test.expect]]
        at = "30s"
        alerts = [{ rule = "Lag", cluster = "orders", target = "r1" }]
    "#;
    let path = dir.path().join("t.toml");
    std::fs::write(&path, test).expect("written");
    let outcome = run(&[path]);
    assert!(outcome.ok, "{}", outcome.text);
}

#[test]
fn roles_causes_certainties_and_delays_select_as_in_the_daemon() {
    let rules = r#"
        [[rule]]
        name = "Unproven"
        when = "replay_lag_upper_seconds > 5s"
        for = "0s"
        certainty = "at_least"
        [[rule]]
        name = "Blocked"
        when = "replay_lag_seconds > 5s"
        for = "0s"
        cause = "blocked_by_query"
        [[rule]]
        name = "PrimaryFull"
        when = "connections_used_ratio > 80%"
        for = "0s"
        role = "primary"
        [[rule]]
        name = "Delayed"
        when = "replay_lag_seconds > 10m"
        for = "0s"
    "#;
    let test = r#"
        [[test]]
        name = "selectors"
        [test.series]
        'replay_lag_info{target="r1", certainty="at_least", method="lsn"}' = "0 1"
        'replay_lag_upper_seconds{target="r1"}' = "60"
        'replay_lag_seconds{target="r2"}' = "1h"
        'replication_cause{target="r2", cause="replay_paused"}' = "1 gone"
        'replication_cause{target="r2", cause="blocked_by_query"}' = "gone 1"
        'apply_delay_seconds{target="r2"}' = "55m 1m"
        'connections_used_ratio{target="a"}' = "90%"
        'connections_used_ratio{target="b"}' = "90%"
        'target_info{target="a", role="primary"}' = "1"
        'target_info{target="b", role="replica"}' = "1"
        [[test.expect]]
        at = "30s"
        alerts = [{ rule = "PrimaryFull", target = "a" }]
        [[test.expect]]
        at = "90s"
        alerts = [
          { rule = "PrimaryFull", target = "a" },
          { rule = "Unproven", target = "r1" },
          { rule = "Blocked", target = "r2" },
          { rule = "Delayed", target = "r2" },
        ]
    "#;
    let outcome = fared(&format!("{rules}{test}"));
    assert!(outcome.ok, "{}", outcome.text);
}

#[test]
fn a_slip_of_the_pen_is_named_with_what_would_be_right() {
    let check = |series: &str, values: &str, alert: &str, expect: &str| {
        let test = format!(
            "{RULE}[[test]]\nname = \"t\"\nseries = {{ '{series}' = \"{values}\" }}\n\
             expect = [{{ at = \"1m\", alerts = [{{ {alert} }}] }}]\n"
        );
        let outcome = fared(&test);
        assert!(!outcome.ok && outcome.text.contains(expect), "{}", outcome.text);
    };
    let (lag, alert) = (r#"replay_lag_seconds{target="r1"}"#, r#"rule = "Lag", target = "r1""#);
    check(
        r#"replay_lag_second{target="r1"}"#,
        "0",
        alert,
        "no signal \"replay_lag_second\"; the nearest is \"replay_lag_seconds\"",
    );
    check("replay_lag_seconds", "0", alert, "replay_lag_seconds needs a target");
    check(r#"primaries{target="r1"}"#, "1", alert, "leave the target out");
    check(r#"replay_lag_seconds{target="r1", slot="x"}"#, "0", alert, "no label \"slot\"; it has cluster, target");
    check("replay_lag_seconds{target=r1}", "0", alert, "is no series; write for example");
    check(lag, "0 10MB", alert, "\"10MB\" is not a value of replay_lag_seconds, which is in seconds");
    check(lag, "5[6..7]", alert, "\"5[6..7]\" is not a value");
    check(lag, "1x99999999", alert, "\"1x99999999\" is not a value");
    check(lag, "", alert, "no values");
    check(lag, "0", r#"rule = "Lagg", target = "r1""#, "there is no rule \"Lagg\"; the nearest is \"Lag\"");
    check(lag, "0", r#"rule = "Lag""#, "needs a target");
    check(lag, "0", r#"rule = "Lag", target = "r1", labels = { slot = "x" }"#, "no label \"slot\"");
    check(lag, "0", r#"rule = "Lag", target = "r1", sevrity = "info""#, "unknown field `sevrity`");
    check(lag, "0", r#"rule = "Lag", target = "r1", state = "burning""#, "unknown variant `burning`");
    assert!(fared("[[tests]]\n").text.contains("unknown field `tests`"));
    assert!(fared("").text.contains("no tests; add a [[test]]"));
    assert!(!run(&[PathBuf::from("/no/such/file")]).ok);
}
