use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::known_keys;
use super::*;
use crate::aws::{cloudwatch as cloudwatch_of_aws, publish};
use crate::core::alert::Severity;
use crate::core::rule::{WhenUnknown, preset};
use crate::core::topology::Name;
use crate::notify::{alertmanager, heartbeat, log, sns, webhook};

const FLEET: &str = r#"
[[cluster]]
name = "orders"

  [[cluster.target]]
  name = "orders-primary"
  dsn = "postgresql://pgvigil:hunter2@primary.example/postgres"

  [[cluster.target]]
  name = "orders-replica-1"
  dsn = "postgresql://pgvigil:hunter2@replica.example/postgres"
"#;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The configuration of a file with this text, for tests of what follows from it.
pub(crate) fn of_text(text: &str) -> Config {
    load_text(text, &[]).unwrap().config
}

/// Loads `text` as a file, with these variables. Errors come with the file's path as `pgvigil.toml`.
fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgvigil.toml");
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides::default();
    let environment = environment(variables);
    let inputs = Inputs { file: Some(&path), environment: &environment, overrides: &overrides };
    load(&inputs).map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn load_environment(variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let inputs = Inputs { file: None, environment: &environment(variables), overrides: &Overrides::default() };
    load(&inputs).map_err(|error| error.to_string())
}

/// The password in all of these connection strings.
const SECRET: &str = "hunter2";

#[test]
fn what_is_wrong_is_told_with_its_place_its_reason_and_the_way_out() {
    for (head, expected) in [
        // Unknown keys.
        ("[poll]\nintervall = \"1s\"", "pgvigil.toml: poll: unknown key \"intervall\"; did you mean \"interval\"?"),
        (
            "[poll]\nslow-interval = \"1s\"",
            "pgvigil.toml: poll: unknown key \"slow-interval\"; did you mean \"slow_interval\"?",
        ),
        ("[poll]\nlisten = \"[::]:80\"", "pgvigil.toml: poll: unknown key \"listen\"; did you mean server.listen?"),
        ("[sever]\nlisten = \"[::]:80\"", "pgvigil.toml: unknown key \"sever\"; did you mean \"server\"?"),
        (
            "[exporters]\npostgres = true",
            "pgvigil.toml: unknown key \"exporters\"; known keys here are server, poll, statements, health, agent_check, metrics, heartbeat, store, cluster, discover, pooler, preset, rule, alerting, aws, cloudwatch, redis, maintenance, notify",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\nfore = \"1m\"",
            "pgvigil.toml: rule \"a\": unknown key \"fore\"; did you mean \"for\"?",
        ),
        (
            "[[notify]]\ntype = \"sns\"\ntopic = \"arn\"",
            "pgvigil.toml: notify[0]: unknown key \"topic\"; did you mean \"topic_arn\"?",
        ),
        // Wrong types and units.
        ("poll = 3", "pgvigil.toml: poll: 3 where a table is needed"),
        ("[rule]\nname = \"a\"", "pgvigil.toml: rule: a table where a list of tables is needed; write [[rule]]"),
        (
            "[poll]\ninterval = 5",
            "pgvigil.toml: poll.interval: 5 where a duration in quotes, for example \"5s\", is needed",
        ),
        (
            "[poll]\ninterval = \"5\"",
            "pgvigil.toml: poll.interval: \"5\" is not a duration; write for example \"5s\" or \"1m 30s\"",
        ),
        (
            "[poll]\ninterval = \"64MiB\"",
            "pgvigil.toml: poll.interval: \"64MiB\" is not a duration; write for example \"5s\" or \"1m 30s\"",
        ),
        ("[poll]\ninterval = \"1ms\"", "pgvigil.toml: poll.interval: 1ms is too short; write at least \"100ms\""),
        (
            "[poll]\nslow_interval = \"1M\"",
            "pgvigil.toml: poll.slow_interval: 1month is longer than a day; \"m\" is a minute, \"M\" a month",
        ),
        ("[poll]\ninterval = \"1m\"", "pgvigil.toml: poll.slow_interval: 15s is too short; write at least \"1m\""),
        ("[server]\nauth = { user = \"ops\" }", "pgvigil.toml: server.auth.password: is missing: user needs one"),
        (
            "[server]\nauth = { user = \"ops\", password = \"sesame\" }",
            "pgvigil.toml: server.auth.password: is shorter than 8 characters; make one with for example \"openssl rand -base64 12\"",
        ),
        (
            "[server.auth]\nmetrics = true",
            "pgvigil.toml: server.auth.user: is missing: name user and password, or token; without the section everybody may read",
        ),
        ("[server.tls]\ncert = \"a\"", "pgvigil.toml: server.tls: key \"key\" is missing"),
        ("[server]\ntoken = 1234567890123456", "pgvigil.toml: server.token: is a number; write it in quotes"),
        (
            "[server]\ntoken = \"hunter2\"",
            "pgvigil.toml: server.token: is shorter than 16 characters; make one with for example \"openssl rand -hex 16\"",
        ),
        (
            "[server]\ntoken = \"\"",
            "pgvigil.toml: server.token: is empty; make one with for example \"openssl rand -hex 16\", or leave the key out",
        ),
        (
            "[server]\ntoken = \"hunter2 and what else\"",
            "pgvigil.toml: server.token: holds a space or another character that no header can; make one with for \
             example \"openssl rand -hex 16\"",
        ),
        // Maintenance.
        (
            "[[maintenance]]\nname = \"nightly\"\ncluster = \"orders\"\nstart = \"22:00\"\nend = \"06:00\"\n\
             time_zone = \"Berlin\"",
            "pgvigil.toml: maintenance \"nightly\": time_zone: there is no time zone \"Berlin\"; did you mean \
             \"Europe/Berlin\"?",
        ),
        (
            "[[maintenance]]\nname = \"nightly\"\ncluster = \"orders\"\nstart = \"22:00\"\ntime_zone = \"UTC\"",
            "pgvigil.toml: maintenance \"nightly\": it does not end; write end = \"06:00\" or duration = \"2h\"",
        ),
        (
            "[[maintenance]]\nname = \"nightly\"\ncluster = \"order\"\nfrom = \"2026-12-05T22:00:00Z\"\n\
             until = \"2026-12-06T22:00:00Z\"",
            "pgvigil.toml: maintenance \"nightly\": cluster: there is no cluster \"order\"; did you mean \"orders\"?",
        ),
        (
            "[[maintenance]]\nname = \"nightly\"\ntarget = [\"billing-*\"]\nfrom = \"2026-12-05T22:00:00Z\"\n\
             until = \"2026-12-06T22:00:00Z\"",
            "pgvigil.toml: maintenance \"nightly\": target: no target matches \"billing-*\"",
        ),
        (
            "[[maintenance]]\nname = \"nightly\"\nrule = \"ReplicaLaging\"\nfrom = \"2026-12-05T22:00:00Z\"\n\
             until = \"2026-12-06T22:00:00Z\"",
            "pgvigil.toml: maintenance \"nightly\": rule: there is no rule \"ReplicaLaging\"; did you mean \
             \"ReplicaLagging\"?",
        ),
        (
            "[[maintenance]]\nname = \"nightly\"\ncluster = \"*\"\nfrom = 2026-12-05T22:00:00Z\n\
             until = 2026-12-05T21:00:00Z",
            "pgvigil.toml: maintenance \"nightly\": until: \"2026-12-05T21:00:00Z\" is not after from, \
             \"2026-12-05T22:00:00Z\"",
        ),
        (
            "[[maintenance]]\nname = \"nightly\"\ncluster = \"*\"\nstart = 22:00:00\nend = \"06:00\"\n\
             time_zone = \"UTC\"",
            "pgvigil.toml: maintenance \"nightly\": start: \"22:00:00\" is not a time of day; write for example \"22:00\"",
        ),
        (
            "[[maintenance]]\nname = \"n\"\nday = \"mon\"",
            "pgvigil.toml: maintenance \"n\": unknown key \"day\"; did you mean \"days\"?",
        ),
        (
            "[server]\nlisten = \"localhost\"",
            "pgvigil.toml: server.listen: \"localhost\" is not an address and a port; write for example \"127.0.0.1:9732\" or \"[::]:9732\"",
        ),
        ("[statements]\nenabled = \"yes\"", "pgvigil.toml: statements.enabled: \"yes\" where true or false is needed"),
        ("[statements]\ntop = \"many\"", "pgvigil.toml: statements.top: \"many\" where a whole number is needed"),
        ("[statements]\ntop = -1", "pgvigil.toml: statements.top: -1 where a whole number is needed"),
        (
            "[health]\non_unknown = \"fial\"",
            "pgvigil.toml: health.on_unknown: \"fial\" is not one of \"pass\", \"fail\"; did you mean \"fail\"?",
        ),
        ("[health]\npanic_threshold = 2", "pgvigil.toml: health.panic_threshold: 2 is not between 0 and 1"),
        // Rules.
        (
            "[[rule]]\nname = \"a\"",
            "pgvigil.toml: rule \"a\": it has no condition; write for example when = \"replay_lag_seconds > 5s\"",
        ),
        (
            "[[rule]]\nname = \"replica-behind\"\nwhen = \"replay_lag_seconds > 10MB\"",
            "pgvigil.toml: rule \"replica-behind\": threshold \"10MB\" is a size, but replay_lag_seconds is a duration; write for example \"10s\"",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"replay_lag_second > 10s\"",
            "pgvigil.toml: rule \"a\": there is no signal \"replay_lag_second\"; the nearest is \"replay_lag_seconds\"",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"replay_lag_seconds > 1M\"",
            "pgvigil.toml: rule \"a\": when: \"replay_lag_seconds > 1M\": the threshold is too long; \"m\" is a minute, \"M\" a month",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\nfor = \"1M\"",
            "pgvigil.toml: rule \"a\": for: 1month is too long; \"m\" is a minute, \"M\" a month",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\nfor = \"1x\"",
            "pgvigil.toml: rule \"a\": for: \"1x\" where a duration such as \"1m\" is needed",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\nseverity = \"urgent\"",
            "pgvigil.toml: rule \"a\": severity: \"urgent\" is not one of \"info\", \"warning\", \"critical\"",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\ncluster = \"order\"",
            "pgvigil.toml: rule \"a\": cluster: there is no cluster \"order\"; did you mean \"orders\"?",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\ntarget = [\"x\"]",
            "pgvigil.toml: rule \"a\": target: there is no target \"x\"",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"5s < replay_lag_seconds\"",
            "pgvigil.toml: rule \"a\": cannot read \"5s < replay_lag_seconds\"; write for example \
             \"replay_lag_seconds > 5s\", with one of > >= < <= == !=",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\n[[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"",
            "pgvigil.toml: rule[1]: name: \"a\" is taken by another rule; give each its own",
        ),
        // Notifiers.
        (
            "[[notify]]\ntype = \"sms\"",
            "pgvigil.toml: notify[0]: type: \"sms\" is not one of \"log\", \"sns\", \"alertmanager\", \"webhook\"; did you mean \"sns\"?",
        ),
        (
            "[[notify]]\ntype = \"log\"\ncluster = \"ordres\"",
            "pgvigil.toml: notify[0]: cluster: there is no cluster \"ordres\"; did you mean \"orders\"?",
        ),
        (
            "[[notify]]\ntype = \"log\"\nname = \"pager\"\nrule = [\"MonitorIsolated\", \"ReplicaLaging\"]",
            "pgvigil.toml: notify \"pager\": rule: there is no rule \"ReplicaLaging\"; did you mean \"ReplicaLagging\"?",
        ),
        ("[[notify]]\ntype = \"log\"\nrule = \"Redis*\"", "pgvigil.toml: notify[0]: rule: no rule matches \"Redis*\""),
        (
            "[[notify]]\ntype = \"log\"\nseverity = \"page\"",
            "pgvigil.toml: notify[0]: severity: \"page\" is not one of \"info\", \"warning\", \"critical\"",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurl = \"http://a:9093\"",
            "pgvigil.toml: notify[0]: unknown key \"url\"; did you mean \"urls\"?",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurls = []",
            "pgvigil.toml: notify[0]: urls: there is none; write for example [\"http://alertmanager.example:9093\"]",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurls = [\"http://a/api/v2/alerts\"]",
            "pgvigil.toml: notify[0]: urls[0]: leave out /api/v2/alerts, which is added to it",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurls = [\"a:9093\"]",
            "pgvigil.toml: notify[0]: urls[0]: this URL must begin with http:// or https:// and a host",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurls = [\"http://a\"]\nlabels = { severity = \"page\" }",
            "pgvigil.toml: notify[0]: labels: \"severity\" is set by each alert; take another name",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurls = [\"http://a\"]\nlabels = { a-b = \"c\" }",
            "pgvigil.toml: notify[0]: labels: \"a-b\" cannot be the name of a label; use letters, digits and \"_\"",
        ),
        (
            "[[notify]]\ntype = \"alertmanager\"\nurls = [\"http://a\"]\nusername = \"hunter2\"",
            "pgvigil.toml: notify[0]: username needs password; write for example \"file:PATH\"",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://hunter2:hunter2@a/hunter2\"",
            "pgvigil.toml: notify[0]: url: a user and a password cannot be part of this URL",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://a b/hunter2\"",
            "pgvigil.toml: notify[0]: url: this is no URL; write for example \"https://example.com/path\"",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://a/hunter2\"\nsecret = \"whsec_hunter2!\"",
            "pgvigil.toml: notify[0]: secret: base64 must follow \"whsec_\", as Standard Webhooks has it",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://a/hunter2\"\nheaders = { \"a b\" = \"hunter2\" }",
            "pgvigil.toml: notify[0]: headers: \"a b\" cannot be the name of a header",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://a/hunter2\"\nca_file = \"/nowhere.pem\"",
            "pgvigil.toml: notify[0]: ca_file: cannot read /nowhere.pem: No such file or directory (os error 2)",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://a/hunter2\"\nkey_file = \"/nowhere.pem\"",
            "pgvigil.toml: notify[0]: key_file needs cert_file, the key's certificate",
        ),
        (
            "[heartbeat]\ninterval = \"1m\"",
            "pgvigil.toml: heartbeat: nobody would hear it; write url, or notify with the name of a notifier, or add a [[notify]] of type \"alertmanager\"",
        ),
        (
            "[heartbeat]\nnotify = \"pagr\"\n[[notify]]\ntype = \"log\"\nname = \"pager\"",
            "pgvigil.toml: heartbeat.notify: there is no notifier \"pagr\"; did you mean \"pager\"?",
        ),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://h/x\"\nheaders = \"Bearer hunter2\"",
            "pgvigil.toml: notify[0]: a string where a map is needed",
        ),
        ("[store]\npath = \"\"", "pgvigil.toml: store.path: is empty; name a file, or \":memory:\" to keep nothing"),
        (
            "[[notify]]\ntype = \"webhook\"\nurl = \"https://h:99999/hunter2\"",
            "pgvigil.toml: notify[0]: url: the port in this URL must be a number from 1 to 65535",
        ),
        (
            "[heartbeat]\nurl = \"hc-ping.com/hunter2\"",
            "pgvigil.toml: heartbeat: url: this is no URL; write for example \"https://example.com/path\"",
        ),
        (
            "[heartbeat]\nurl = \"https://a\"\ninterval = \"7d\"",
            "pgvigil.toml: heartbeat.interval: \"7d\" is not between 1s and 1d",
        ),
        ("[[notify]]\nname = \"a\"", "pgvigil.toml: notify \"a\": key \"type\" is missing"),
        (
            "[[notify]]\ntype = \"log\"\nname = \"a b\"",
            "pgvigil.toml: notify[0]: name: \"a b\" cannot be a name; use letters, digits, \"-\", \"_\" and \".\", beginning with a letter or digit, at most 63",
        ),
        (
            "[[notify]]\ntype = \"log\"\nname = \"a\"\n[[notify]]\ntype = \"log\"\nname = \"a\"",
            "pgvigil.toml: notify[1]: name: \"a\" is taken by another notifier; give each its own",
        ),
        // Secrets kept elsewhere.
        ("[poll]\ninterval = \"${NOPE}\"", "pgvigil.toml: poll.interval: environment variable NOPE is not set"),
        (
            "[poll]\ninterval = \"${NOPE\"",
            "pgvigil.toml: poll.interval: \"${\" is not closed by \"}\"; write \"$${\" for the characters themselves",
        ),
        (
            "[poll]\ninterval = \"${A-B}\"",
            "pgvigil.toml: poll.interval: \"${...}\" must hold the name of an environment variable; write \"$${\" for the characters themselves",
        ),
        (
            "[poll]\ninterval = \"${SECRET}\"",
            "pgvigil.toml: poll.interval: \"${SECRET}\" is not a duration; write for example \"5s\" or \"1m 30s\"",
        ),
        (
            "[health]\non_unknown = \"${SECRET}\"",
            "pgvigil.toml: health.on_unknown: \"${SECRET}\" is not one of \"pass\", \"fail\"",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen = \"${SECRET}\"",
            "pgvigil.toml: rule \"a\": cannot read \"${SECRET}\"; write for example \"replay_lag_seconds > 5s\", with one of > >= < <= == !=",
        ),
        (
            "[poll]\ninterval = \"file:nope\"",
            "pgvigil.toml: poll.interval: cannot read nope: No such file or directory (os error 2)",
        ),
        (
            "[poll]\ninterval = \"postgresql://u:hunter2@h/x\"",
            "pgvigil.toml: poll.interval: \"postgresql://***@h/x\" is not a duration; write for example \"5s\" or \"1m 30s\"",
        ),
        // Not TOML. The line itself is not shown: it may hold a password.
        ("x = \"hunter2", "pgvigil.toml:1:13: not TOML: invalid basic string"),
        ("[poll", "pgvigil.toml:1:6: not TOML: invalid table header, expected `.`, `]`"),
        (
            "[poll]\ninterval = \"1s\"\ninterval = \"1s\"",
            "pgvigil.toml:3:1: not TOML: duplicate key `interval` in table `poll`",
        ),
        // Poolers.
        (
            "[[pooler]]\nname = \"pgb\"\ndsn = \"postgresql://u:hunter2@h/app\"",
            "pgvigil.toml: pooler \"pgb\": dsn: its database is \"app\"; PgBouncer's admin console is the database \"pgbouncer\": write for example postgresql://pgbouncer.example.internal:6432/pgbouncer",
        ),
        (
            "[[pooler]]\nname = \"pgb\"\ndsn = \"host=h dbname=pgbouncer\"\ncluster = \"order\"",
            "pgvigil.toml: pooler \"pgb\": cluster: there is no cluster \"order\"; did you mean \"orders\"?",
        ),
        (
            "[[pooler]]\nname = \"orders-primary\"\ndsn = \"host=h dbname=pgbouncer\"",
            "pgvigil.toml: pooler \"orders-primary\": name: \"orders-primary\" is taken by a target of the same cluster; give each its own",
        ),
        (
            "[[cluster]]\nname = \"b\"\ntarget = [{ name = \"x\", dsn = \"host=h\" }]\n[[pooler]]\nname = \"pgb\"\ndsn = \"host=h dbname=pgbouncer\"",
            "pgvigil.toml: pooler \"pgb\": which of the clusters does it belong to? write cluster = \"...\"",
        ),
        (
            "[[pooler]]\nname = \"pgb\"\ndsn = \"host=h dbname=pgbouncer\"\nclustre = \"orders\"",
            "pgvigil.toml: pooler \"pgb\": unknown key \"clustre\"; did you mean \"cluster\"?",
        ),
        (
            "[poll]\npooler_interval = \"5\"",
            "pgvigil.toml: poll.pooler_interval: \"5\" is not a duration; write for example \"5s\" or \"1m 30s\"",
        ),
        // Targets.
        (
            "[[cluster]]\nname = \"orders\"\ntarget = [{ name = \"x\", dsn = \"host=h\" }]",
            "pgvigil.toml: cluster[1]: name: \"orders\" is taken by another cluster; give each its own",
        ),
        (
            "[[cluster]]\nname = \"a/b\"\ntarget = [{ name = \"x\", dsn = \"host=h\" }]",
            "pgvigil.toml: cluster[0]: name: \"a/b\" cannot be a name; use letters, digits, \"-\", \"_\" and \".\", beginning with a letter or digit, at most 63",
        ),
        (
            "[[cluster]]\nname = \"a\"",
            "pgvigil.toml: cluster \"a\": has no targets; add a [[cluster.target]] with a name and a dsn",
        ),
        (
            "[[cluster]]\nname = \"a\"\ntarget = [{ name = \"x\" }]",
            "pgvigil.toml: cluster \"a\", target \"x\": key \"dsn\" is missing",
        ),
        (
            "[[cluster]]\nname = \"a\"\ntarget = [{ name = \"x\", dsn = \"host=h pasword=hunter2\" }]",
            "pgvigil.toml: cluster \"a\", target \"x\": dsn: connection string: no known parameter \"pasword\"; did you mean password?",
        ),
        (
            "[[cluster]]\nname = \"a\"\ntarget = [{ name = \"x\", dsn = \"postgresql://u:hunter2@h:port/x\" }]",
            "pgvigil.toml: cluster \"a\", target \"x\": dsn: connection string: port: expected a number from 1 to 65535 (in a URL, a password's : / ? # @ % are written %3A %2F %3F %23 %40 %25)",
        ),
        (
            "[[cluster]]\nname = \"a\"\ntarget = [{ name = \"x\", dsn = \"host=h\" }, { name = \"x\", dsn = \"host=h\" }, { dsn = \"host=h\" }]",
            "pgvigil.toml: cluster \"a\", target[2]: key \"name\" is missing",
        ),
        (
            "[[cluster]]\nname = \"a\"\ntarget = [{ name = \"x\", dsn = \"host=h\" }, { name = \"x\", dsn = \"host=h\" }]",
            "pgvigil.toml: cluster \"a\", target[1]: name: \"x\" is taken by another target; give each its own",
        ),
    ] {
        let error = load_text(&format!("{head}\n{FLEET}"), &[("SECRET", SECRET)]).map(drop).unwrap_err();
        assert_eq!(error, expected, "{head}");
    }
    assert_eq!(
        load_text("", &[]).map(drop).unwrap_err(),
        "pgvigil.toml: cluster: nothing to watch; add a [[cluster]] with a [[cluster.target]], or a [[discover]]"
    );
}

#[test]
fn a_secret_with_quotes_in_it_is_not_shown_either() {
    let secret = "hunter2\"\\\n";
    for key in ["[health]\non_unknown", "[poll]\ninterval", "[server]\nlisten", "[statements]\ntop"] {
        let text = format!("{key} = \"${{SECRET}}\"\n{FLEET}");
        let error = load_text(&text, &[("SECRET", secret)]).map(drop).unwrap_err();
        assert!(error.contains("\"${SECRET}\"") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn all_that_does_not_fit_together_is_told_at_once() {
    let text = "[poll]\ninterval = \"1ms\"\n[[cluster]]\nname = \"a b\"\n[[cluster]]\nname = \"c\"";
    let expected = "\
pgvigil.toml: cluster[0]: name: \"a b\" cannot be a name; use letters, digits, \"-\", \"_\" and \".\", beginning with a letter or digit, at most 63
pgvigil.toml: cluster[0]: has no targets; add a [[cluster.target]] with a name and a dsn
pgvigil.toml: cluster \"c\": has no targets; add a [[cluster.target]] with a name and a dsn
pgvigil.toml: poll.interval: 1ms is too short; write at least \"100ms\"";
    assert_eq!(load_text(text, &[]).map(drop).unwrap_err(), expected);
}

#[test]
fn what_is_wrong_in_a_variable_is_told_by_the_variable() {
    for (name, value, expected) in [
        (
            "PGVIGIL_POLL__INTERVAL",
            "5x",
            "environment variable PGVIGIL_POLL__INTERVAL: \"5x\" is not a duration; write for example \"5s\" or \"1m 30s\"",
        ),
        (
            "PGVIGIL_POLL__INTERVALL",
            "5s",
            "environment variable PGVIGIL_POLL__INTERVALL: unknown key \"intervall\"; did you mean PGVIGIL_POLL__INTERVAL?",
        ),
        (
            "PGVIGIL_LISTEN",
            "[::]:80",
            "environment variable PGVIGIL_LISTEN: unknown key \"listen\"; did you mean PGVIGIL_SERVER__LISTEN?",
        ),
        ("PGVIGIL_POLL", "5s", "environment variable PGVIGIL_POLL: a string where a table is needed"),
        (
            "PGVIGIL_NOTIFY",
            "[{url=\"https://h/hunter2\"}",
            "environment variable PGVIGIL_NOTIFY: a string where a list is needed",
        ),
        (
            "PGVIGIL_SERVER__AUTH",
            "{user=\"a\", password=\"hunter2\"",
            "environment variable PGVIGIL_SERVER__AUTH: a string where a table is needed",
        ),
        (
            "PGVIGIL_HEARTBEAT__NOTIFY",
            "https://h/hunter2",
            "environment variable PGVIGIL_HEARTBEAT__NOTIFY: there is no notifier (a URL)",
        ),
        (
            "PGVIGIL_SERVER__LISTEN",
            "${NOPE}",
            "environment variable PGVIGIL_SERVER__LISTEN: environment variable NOPE is not set",
        ),
        (
            "PGVIGIL_SNS_TOPIC_ARN",
            "alerts",
            "environment variable PGVIGIL_SNS_TOPIC_ARN: \"alerts\" is not the ARN of an SNS topic; write for example \"arn:aws:sns:us-east-1:123456789012:alerts\"",
        ),
    ] {
        let error = load_text(FLEET, &[(name, value)]).map(drop).unwrap_err();
        assert!(error.starts_with(expected), "{name}={value}: {error}");
    }
    let both = [("PGVIGIL_SNS_TOPIC_ARN", "arn:aws:sns:eu-west-1:1:a"), ("PGVIGIL_NOTIFY", "[{type=\"log\"}]")];
    let expected =
        "environment variable PGVIGIL_SNS_TOPIC_ARN: PGVIGIL_NOTIFY says the same as this one; set one of them";
    assert_eq!(load_text(FLEET, &both).map(drop).unwrap_err(), expected);
}

#[test]
fn a_higher_layer_wins_key_by_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgvigil.toml");
    let file = format!("[server]\nlisten = \"127.0.0.2:2\"\n[poll]\ninterval = \"2s\"\ntimeout = \"2s\"\n{FLEET}");
    std::fs::write(&path, file).unwrap();
    let loaded = |variables: &[(&str, &str)], listen: Option<&str>| {
        let overrides = Overrides { listen: listen.map(str::to_owned) };
        load(&Inputs { file: Some(&path), environment: &environment(variables), overrides: &overrides }).unwrap()
    };
    let told = |loaded: &Loaded| {
        let (poll, listen) = (&loaded.config.poll, loaded.config.server.listen);
        (listen.to_string(), poll.interval.as_secs(), poll.timeout.as_secs(), poll.slow_interval.as_secs())
    };
    let variables = [("PGVIGIL_SERVER__LISTEN", "127.0.0.3:3"), ("PGVIGIL_POLL__INTERVAL", "3s")];
    assert_eq!(told(&loaded(&[], None)), ("127.0.0.2:2".to_owned(), 2, 2, 15));
    assert_eq!(told(&loaded(&variables, None)), ("127.0.0.3:3".to_owned(), 3, 2, 15));
    let all = loaded(&variables, Some("[::1]:4"));
    assert_eq!(told(&all), ("[::1]:4".to_owned(), 3, 2, 15));
    let file = path.display().to_string();
    assert_eq!(all.sources, [&file, "PGVIGIL_POLL__INTERVAL", "PGVIGIL_SERVER__LISTEN", "--listen"]);
}

/// The servers watched: `cluster/target`, host, user and database, and whether a password was found.
fn servers(loaded: &Loaded) -> Vec<String> {
    let targets = loaded.config.clusters.iter().flat_map(|cluster| &cluster.targets);
    targets
        .map(|target| {
            let hosts: Vec<String> = target.conninfo.hosts().iter().map(ToString::to_string).collect();
            let (user, dbname) = (target.conninfo.user(), target.conninfo.dbname());
            format!("{} {} {user} {dbname}", target.id, hosts.join(","))
        })
        .collect()
}

#[test]
fn the_variables_of_applications_are_enough() {
    for (variables, expected) in [
        (
            &[("DATABASE_URL", "postgresql://u:p@h:5433/app?schema=public&connection_limit=100&pool_timeout=30")][..],
            &["default/primary h:5433 u app"][..],
        ),
        (
            &[
                ("DATABASE_URL", "postgresql://u:p@h1,h2:5433/app?schema=public"),
                (
                    "DATABASE_READ_REPLICA_URL",
                    "postgresql://u:p@r1,r2/app?target_session_attrs=standby, postgres://u@r3/app,",
                ),
            ],
            &[
                "default/primary h1:5432,h2:5433 u app",
                "default/replica-1 r1:5432,r2:5432 u app",
                "default/replica-2 r3:5432 u app",
            ],
        ),
        (
            &[("POSTGRES_PRIMARY_URL", "postgres://u@h/app"), ("POSTGRES_REPLICA_URL", "postgres://u@r/app")],
            &["default/primary h:5432 u app", "default/replica-1 r:5432 u app"],
        ),
        (
            &[
                ("DB_PRIMARY_HOST", "h"),
                ("DB_PRIMARY_PORT", "5433"),
                ("DB_NAME", "my app"),
                ("DB_USERNAME", "o'neill"),
                ("DB_PASSWORD", "it's ${a} \\ file:"),
                ("DB_REPLICA_2_HOST", "r2"),
                ("DB_REPLICA_10_HOST", "r10"),
                ("DB_REPLICA_1_HOST", "r1"),
                ("DB_REPLICA_1_PORT", "5434"),
                ("DB_REPLICA_3_HOST", ""),
            ],
            &[
                "default/primary h:5433 o'neill my app",
                "default/replica-1 r1:5434 o'neill my app",
                "default/replica-2 r2:5432 o'neill my app",
                "default/replica-3 r10:5432 o'neill my app",
            ],
        ),
        // A password is taken literally, and an empty variable is none.
        (
            &[
                ("DATABASE_URL", "postgresql://u:${x}$${y}@h/app"),
                ("DATABASE_READ_REPLICA_URL", ""),
                ("POSTGRES_PRIMARY_URL", " "),
            ],
            &["default/primary h:5432 u app"],
        ),
    ] {
        assert_eq!(servers(&load_environment(variables).unwrap()), expected);
    }
}

#[test]
fn the_environment_alone_reaches_an_sns_topic() {
    let topic_arn = "arn:aws:sns:us-east-1:123456789012:alerts";
    let variables = [
        ("DATABASE_URL", "postgresql://u@h/app"),
        ("PGVIGIL_SNS_TOPIC_ARN", topic_arn),
        ("PGVIGIL_SERVER__LISTEN", "[::]:80"),
    ];
    let loaded = load_environment(&variables).unwrap();
    assert!(matches!(&loaded.config.notifiers[..], [NotifierConfig::Sns(sns)] if sns.topic_arn == topic_arn));
    assert_eq!(loaded.config.server.listen.to_string(), "[::]:80");
    assert_eq!(loaded.sources, ["DATABASE_URL", "PGVIGIL_SERVER__LISTEN", "PGVIGIL_SNS_TOPIC_ARN"]);
}

#[test]
fn a_start_that_says_too_little_or_too_much_is_refused() {
    for (variables, expected) in [
        (
            &[
                ("DATABASE_URL", "postgres://h"),
                ("POSTGRES_PRIMARY_URL", "postgres://h"),
                ("POSTGRES_REPLICA_URL", "postgres://r"),
            ][..],
            "the environment names the databases twice: DATABASE_URL, and POSTGRES_PRIMARY_URL, POSTGRES_REPLICA_URL; unset one of them, or name a file with --config",
        ),
        (
            &[("DB_REPLICA_1_HOST", "r1")],
            "environment variable DB_REPLICA_1_HOST: names a replica, but DB_PRIMARY_HOST is not set; set it to the primary",
        ),
        (
            &[
                ("DATABASE_URL", "postgres://h"),
                ("DATABASE_READ_REPLICA_URL", "postgres://r1,postgres://u:hunter2@r2?sslmod=x"),
            ],
            "environment variable DATABASE_READ_REPLICA_URL: cluster \"default\", target \"replica-2\": dsn: connection string: no known parameter \"sslmod\"; did you mean sslmode?",
        ),
    ] {
        assert_eq!(load_environment(variables).map(drop).unwrap_err(), expected);
    }
    // Not ours: options, what Kubernetes sets for a service named pgvigil, and what is empty.
    let others = [
        ("PGVIGIL_CONFIG", "x"),
        ("PGVIGIL_SERVICE_HOST", "10.0.0.1"),
        ("PGVIGIL_SERVICE_PORT_HTTP", "9732"),
        ("PGVIGIL_PORT", "tcp://10.0.0.1:9732"),
        ("PGVIGIL_PORT_9732_TCP_ADDR", "10.0.0.1"),
        ("PGVIGIL_SERVER__LISTEN", ""),
    ];
    assert_eq!(load_environment(&others).map(drop).unwrap_err(), ConfigError::NothingToWatch.to_string());
    assert!(ConfigError::NothingToWatch.to_string().contains("DATABASE_READ_REPLICA_URL="));
}

#[test]
fn a_file_sets_the_variables_of_applications_aside() {
    let variables = [("DATABASE_URL", "postgres://elsewhere"), ("DB_PRIMARY_HOST", "elsewhere")];
    let loaded = load_text(FLEET, &variables).unwrap();
    let expected = [
        "orders/orders-primary primary.example:5432 pgvigil postgres",
        "orders/orders-replica-1 replica.example:5432 pgvigil postgres",
    ];
    assert_eq!(servers(&loaded), expected);
    assert_eq!(loaded.ignored, ["DATABASE_URL", "DB_PRIMARY_HOST"]);
}

#[test]
fn strings_take_in_variables_and_files() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("dsn"), "postgresql://u:hunter2@${host}.example/app\n").unwrap();
    let path = directory.path().join("pgvigil.toml");
    let text = r#"
[[cluster]]
name = "${CLUSTER}"
target = [
  { name = "a", dsn = "file:dsn" },
  { name = "b", dsn = "host=b user=$${u} dbname='a$b' password='${PGVIGIL_PASSWORD}'" },
]
"#;
    std::fs::write(&path, text.replace("file:dsn", "file:${WHERE}")).unwrap();
    let variables = environment(&[("CLUSTER", "orders"), ("WHERE", "dsn"), ("PGVIGIL_PASSWORD", SECRET)]);
    let inputs = Inputs { file: Some(&path), environment: &variables, overrides: &Overrides::default() };
    let loaded = load(&inputs).unwrap();
    assert_eq!(servers(&loaded), ["orders/a ${host}.example:5432 u app", "orders/b b:5432 ${u} a$b"]);
    assert!(!format!("{loaded:?}{}", loaded.summary()).contains(SECRET));
}

#[test]
fn without_rules_and_notifiers_there_are_the_built_in_rules_and_the_log() {
    let config = load_text(FLEET, &[]).unwrap().config;
    let names = |rules: Vec<&str>| rules.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let preset = preset();
    assert_eq!(
        names(config.rules.iter().map(|rule| rule.name.as_str()).collect()),
        names(preset.iter().map(|rule| rule.name.as_str()).collect())
    );
    assert_eq!(config.notifiers, [NotifierConfig::Log(log::Config::default())]);
}

/// `config/example.toml` with every key that stands there as a comment.
fn complete_example() -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let lines = EXAMPLE.lines().map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

const EXAMPLE: &str = include_str!("../../config/example.toml");

fn written(text: &str) -> Written {
    Value::from(toml(text)).deserialize().unwrap()
}

fn toml(text: &str) -> Dict {
    use figment::providers::Format;
    figment::providers::Toml::from_str(text).unwrap()
}

#[test]
fn the_example_shows_every_key() {
    let example = toml(&complete_example());
    let shown = |value: &Value| value.as_dict().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let shown_in_list = |list: &Value| list.as_array().unwrap().iter().flat_map(shown).collect::<BTreeSet<_>>();
    let known = |keys: &[&[&str]]| keys.concat().iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(shown(&Value::from(example.clone())), known(&[known_keys::<Written>("")]));
    for section in ["server", "poll", "statements", "health", "metrics", "heartbeat", "alerting", "agent_check", "aws"]
    {
        assert_eq!(shown(&example[section]), known(&[known_keys::<Written>(section)]), "{section}");
    }
    assert_eq!(shown_in_list(&example["cluster"]), known(&[known_keys::<WrittenCluster>("")]));
    assert_eq!(shown_in_list(&example["redis"]), known(&[known_keys::<cloudwatch_of_aws::RedisConfig>("")]));
    let cloudwatch = example["cloudwatch"].as_dict().unwrap();
    assert_eq!(shown(&example["cloudwatch"]), known(&[known_keys::<cloudwatch_of_aws::Config>("")]));
    assert_eq!(shown_in_list(&cloudwatch["metric"]), known(&[known_keys::<cloudwatch_of_aws::MetricConfig>("")]));
    assert_eq!(shown(&cloudwatch["publish"]), known(&[known_keys::<publish::Config>("")]));
    let cluster = example["cluster"].as_array().unwrap()[0].as_dict().unwrap();
    assert_eq!(shown_in_list(&cluster["target"]), known(&[known_keys::<WrittenTarget>("")]));
    let mut shown_of_discover = shown_in_list(&example["discover"]);
    assert!(EXAMPLE.contains("password = \"${...}\"") && shown_of_discover.insert("password".to_owned()));
    assert_eq!(shown_of_discover, known(&[known_keys::<discovery::Config>("")]));
    assert_eq!(shown_in_list(&example["pooler"]), known(&[known_keys::<WrittenPooler>("")]));
    assert_eq!(shown_in_list(&example["rule"]), known(&[known_keys::<RuleConfig>("")]));
    assert_eq!(shown_in_list(&example["maintenance"]), known(&[known_keys::<WindowConfig>("")]));
    let notifiers = [
        known_keys::<log::Config>(""),
        known_keys::<sns::Config>(""),
        known_keys::<alertmanager::Config>(""),
        known_keys::<webhook::Config>(""),
        &["type"],
    ];
    // Secrets, and files that are nowhere, are told in words.
    let mut shown = shown_in_list(&example["notify"]);
    for key in ["username", "password", "bearer_token", "ca_file", "cert_file", "key_file", "secret"] {
        assert!(EXAMPLE.contains(key) && shown.insert(key.to_owned()), "{key}");
    }
    assert_eq!(shown, known(&notifiers));
}

#[test]
fn the_example_shows_the_defaults() {
    let example = written(&complete_example());
    let default = Written::default();
    assert_eq!(example.poll.stale_after, Some(default.poll.stale_after()));
    assert_eq!(PollConfig { stale_after: None, burst: None, ..example.poll }, default.poll);
    let shown = AgentConfig { listen: None, port: Vec::new(), ..example.agent_check };
    assert_eq!(shown, AgentConfig::default());
    assert!(example.server.token.is_some() && example.server.auth.is_some() && example.server.tls.is_some());
    assert_eq!(
        (
            ServerConfig { token: None, auth: None, tls: None, ..example.server },
            example.statements,
            example.health,
            example.metrics,
            example.alerting
        ),
        (default.server, default.statements, default.health, default.metrics, default.alerting)
    );

    let [rule, other] = &example.rule[..] else { panic!("two rules are shown") };
    let named = |name: &str| RuleConfig { name: name.to_owned(), ..RuleConfig::default() };
    assert_eq!((rule.severity, rule.when_unknown), (Some(Severity::Warning), Some(WhenUnknown::Hold)));
    assert_eq!((rule.keep_firing_for, rule.warm_up), (Some(Duration::ZERO), Some(Duration::ZERO)));
    assert_eq!(rule.enabled, Some(true));
    let (cluster, target, certainty, cause) = Default::default();
    assert_eq!((&rule.cluster, &rule.target, &rule.certainty, &rule.cause), (&cluster, &target, &certainty, &cause));
    // Whatever else is shown has no default, and says so.
    assert_eq!((other.name.as_str(), &other.cluster, other.severity), ("SlotKeepsWal", &cluster, named("").severity));

    let least = discovery::Config {
        region: OneOrMany(vec!["us-east-1".to_owned()]),
        instance: Some("tuition-centre-primary".to_owned()),
        user: Some("pgvigil".to_owned()),
        ..discovery::Config::default()
    };
    assert_eq!(example.discover[0], least);
    let cloudwatch = cloudwatch_of_aws::Config {
        enabled: false,
        metrics: None,
        metric: Vec::new(),
        publish: None,
        ..example.cloudwatch.clone()
    };
    assert_eq!(cloudwatch, cloudwatch_of_aws::Config::default());
    let all: Vec<&str> = crate::core::cloudwatch::DATABASE.iter().map(|metric| metric.name).collect();
    assert_eq!(example.cloudwatch.metrics.as_ref().unwrap().iter().map(String::as_str).collect::<Vec<_>>(), all);
    let publish = publish::Config { region: None, ..example.cloudwatch.publish.unwrap() };
    assert_eq!(publish, publish::Config::default());

    let heartbeat = heartbeat::Config { url: None, notify: None, ..example.heartbeat.unwrap() };
    assert_eq!(heartbeat, heartbeat::Config::default());

    let [_, NotifierConfig::Sns(sns), NotifierConfig::Alertmanager(alertmanager), NotifierConfig::Webhook(webhook)] =
        &example.notify[..]
    else {
        panic!("one of each kind is shown")
    };
    let least = format!("[[notify]]\ntype = \"sns\"\ntopic_arn = \"{}\"", sns.topic_arn);
    let shown = sns::Config { name: None, region: None, endpoint_url: None, ..sns.clone() };
    assert_eq!(NotifierConfig::Sns(shown), written(&least).notify.remove(0));
    let least = "[[notify]]\ntype = \"alertmanager\"\nurls = []";
    let shown = alertmanager::Config { name: None, urls: Vec::new(), labels: BTreeMap::new(), ..alertmanager.clone() };
    assert_eq!(NotifierConfig::Alertmanager(shown), written(least).notify.remove(0));
    let least = "[[notify]]\ntype = \"webhook\"\nurl = \"https://hooks.example.com/pgvigil\"";
    let shown = webhook::Config { name: None, headers: BTreeMap::new(), ..webhook.clone() };
    assert_eq!(NotifierConfig::Webhook(shown), written(least).notify.remove(0));
}

#[test]
fn the_examples_can_be_used_as_they_are() {
    for text in [EXAMPLE, &complete_example(), include_str!("../../config/minimal.toml")] {
        let secrets = ["PGVIGIL_TOKEN", "STATUS_READ_TOKEN", "STATUS_PASSWORD"];
        let loaded = load_text(text, &secrets.map(|name| (name, "a-secret-of-this-test"))).unwrap();
        let expected = [
            "orders/orders-primary orders.example.internal:5432 pgvigil postgres",
            "orders/orders-replica-1 orders-r1.example.internal:5432 pgvigil postgres",
        ];
        // What logs in by AWS stands there as a comment.
        let by_dsn = servers(&loaded).into_iter().take(expected.len()).collect::<Vec<_>>();
        assert_eq!(by_dsn, expected);
    }
}

#[test]
fn a_rule_about_a_target_of_another_cluster_would_match_nothing() {
    let rule = |cluster: &str| {
        format!(
            "[[cluster]]\nname = \"a\"\ntarget = [{{ name = \"a-1\", dsn = \"host=a\" }}]\n\
             [[cluster]]\nname = \"b\"\ntarget = [{{ name = \"b-1\", dsn = \"host=b\" }}]\n\
             [[rule]]\nname = \"R\"\nwhen = \"target_up == 0\"\ntarget = \"b-1\"\n{cluster}"
        )
    };
    let reason = "pgvigil.toml: rule \"R\": target: there is no target \"b-1\" in a";
    let outcome = |cluster: &str| load_text(&rule(cluster), &[]).map(drop);
    assert_eq!(outcome(""), Ok(()));
    assert_eq!(outcome("cluster = [\"a\", \"b\"]"), Ok(()));
    let error = outcome("cluster = \"a\"").unwrap_err();
    assert!(error.starts_with(reason), "{error}");
}

#[test]
fn a_pooler_belongs_to_its_cluster() {
    let pooler = |name: &str, cluster: &str| {
        format!("[[pooler]]\nname = \"{name}\"\ndsn = \"host=h dbname=pgbouncer\"\n{cluster}\n")
    };
    let cluster =
        |name: &str| format!("[[cluster]]\nname = \"{name}\"\ntarget = [{{ name = \"x\", dsn = \"host=h\" }}]\n");
    let poolers = |text: String| -> Vec<String> {
        let config = super::validate::checked(written(&text), &Environment::new()).unwrap();
        config.clusters.iter().flat_map(|cluster| &cluster.poolers).map(|pooler| pooler.id.to_string()).collect()
    };
    assert_eq!(poolers(cluster("a") + &pooler("p", "") + &pooler("q", "cluster = \"a\"")), ["a/p", "a/q"]);
    let two = cluster("a") + &cluster("b") + &pooler("p", "cluster = \"b\"") + &pooler("q", "cluster = \"a\"");
    assert_eq!(poolers(two), ["a/q", "b/p"]);
}

#[test]
fn a_rule_that_cannot_be_used_says_what_would_be_right() {
    for (rule, reason) in [
        (
            "when = \"target_up == 0\"\nwarning = \"> 5s\"",
            "`when` and `warning` are two ways to write a condition; write signal = \"replay_lag_seconds\" and warning = \"> 5s\", or when = \"replay_lag_seconds > 5s\" and severity = \"warning\"",
        ),
        (
            "when = \"target_up == 0\"\nsignal = \"target_up\"",
            "`when` and `signal` are two ways to write a condition; write signal = \"replay_lag_seconds\" and warning = \"> 5s\", or when = \"replay_lag_seconds > 5s\" and severity = \"warning\"",
        ),
        (
            "signal = \"replay_lag_seconds\"\nwarning = \"> 5s\"\nseverity = \"critical\"",
            "`severity` goes with `when`; with `signal`, each threshold stands under its severity: warning = \"> 5s\"",
        ),
        (
            "signal = \"slot_retained_bytes\"",
            "`signal` needs a threshold under info, warning or critical; write for example warning = \"> 64MiB\"",
        ),
        (
            "signal = \"slot_retained_byte\"\nwarning = \"> 5s\"",
            "there is no signal \"slot_retained_byte\"; the nearest is \"slot_retained_bytes\"",
        ),
        (
            "signal = \"replay_lag_seconds\"\nwarning = \"5s\"",
            "warning = \"5s\" cannot be read; write for example warning = \"> 10s\", with one of > >= < <= == !=",
        ),
        (
            "signal = \"replay_lag_seconds\"\nwarning = \"> 5s\"\ncritical = \"> 60\"",
            "threshold \"60\" is a plain number, but replay_lag_seconds is a duration; write for example \"10s\"",
        ),
        (
            "signal = \"replay_lag_seconds\"\nwarning = \"> 60s\"\ncritical = \"> 5s\"",
            "critical = \"> 5s\" is reached no later than warning = \"> 60s\"; the severer threshold must be the farther one",
        ),
        (
            "signal = \"slot_lost_in_seconds\"\ninfo = \"< 1h\"\ncritical = \"< 1h\"",
            "critical = \"< 1h\" is reached no later than info = \"< 1h\"; the severer threshold must be the farther one",
        ),
        (
            "signal = \"replay_lag_seconds\"\nwarning = \"> 5s\"\ncritical = \"< 60s\"",
            "warning and critical must look the same way, both with > or >=, or both with < or <=",
        ),
        (
            "signal = \"target_up\"\nwarning = \"== 0\"\ncritical = \"== 0\"",
            "warning and critical must look the same way, both with > or >=, or both with < or <=",
        ),
        (
            "when = \"replay_lag_seconds > 5s\"\nclear = \"> 3s\"",
            "clear = \"> 3s\" does not look away from \"replay_lag_seconds > 5s\"; write for example clear = \"< 5s\"",
        ),
        (
            "when = \"replay_lag_seconds > 5s\"\nclear = \"< 8s\"",
            "clear = \"< 8s\" holds while \"replay_lag_seconds > 5s\" still does; the two may meet, but not overlap",
        ),
        (
            "when = \"slot_lost_in_seconds <= 1h\"\nclear = \">= 1h\"",
            "clear = \">= 1h\" holds while \"slot_lost_in_seconds <= 1h\" still does; the two may meet, but not overlap",
        ),
        (
            "when = \"target_up == 0\"\nclear = \"== 1\"",
            "`clear` goes with > >= < <=; \"target_up == 0\" is over as soon as it no longer holds",
        ),
        (
            "when = \"target_up == 0\"\ndatapoints = \"5 of 3\"\nevery = \"1m\"",
            "datapoints = \"5 of 3\" cannot be read; write for example \"3 of 5\", at most of 100",
        ),
        (
            "when = \"target_up == 0\"\ndatapoints = \"3 of 5\"\nevery = \"1m\"\nfor = \"1m\"",
            "`datapoints` and `for` are two ways to say how long; write one of them",
        ),
        (
            "when = \"target_up == 0\"\ndatapoints = \"3 of 5\"",
            "`datapoints` needs the length of a period; write for example every = \"1m\"",
        ),
        (
            "when = \"target_up == 0\"\nevery = \"1m\"",
            "`every` goes with `datapoints`; write for example datapoints = \"3 of 5\"",
        ),
        (
            "when = \"target_up == 0\"\ndatapoints = \"1 of 1\"\nevery = \"0s\"",
            "every is less than a second, which is no period that could be counted; write for example every = \"1m\"",
        ),
        (
            "when = \"target_up == 0\"\nwarm_up = \"1M\"",
            "warm_up: 1month is too long; \"m\" is a minute, \"M\" a month",
        ),
        (
            "signal = \"replay_lag_seconds\"\ncritical = \"> 1M\"",
            "critical: \"replay_lag_seconds > 1M\": the threshold is too long; \"m\" is a minute, \"M\" a month",
        ),
        (
            "when = \"target_up == 0\"\nwhen_unknown = \"fire\"",
            "when_unknown: \"fire\" is not one of \"hold\", \"clear\", \"breach\", \"alert\"",
        ),
        ("when = \"target_up == 0\"\ntarget = \"x-*\"", "target: no target matches \"x-*\""),
        ("when = \"target_up == 0\"\ncluster = \"order??\"", "cluster: no cluster matches \"order??\""),
        (
            "when = \"slot_retained_bytes > 1GiB\"\nwhere = { slt = \"a\" }",
            "where: slot_retained_bytes has no label \"slt\"; it has slot",
        ),
        ("when = \"target_up == 0\"\nwhere = { slot = \"a\" }", "where: target_up has no label \"slot\"; it has none"),
        ("when = \"target_up == 0\"\nwhere = { slot = 3 }", "where.slot: a name or a list of names"),
        (
            "when = \"target_up == 0\"\nlabels = { \"team-name\" = \"a\" }",
            "labels: \"team-name\" cannot name a label; use letters, digits and \"_\", beginning with a letter",
        ),
        (
            "when = \"target_up == 0\"\nlabels = { severity = \"a\" }",
            "labels: \"severity\" is a label that every alert has already",
        ),
        (
            "when = \"target_up == 0\"\nlabels = { team = \"\" }",
            "labels: the value of \"team\" must have 1 to 256 characters, none of them a control character",
        ),
        (
            "when = \"target_up == 0\"\nsummary = \"{{ value }}\"",
            "summary: there is no placeholder \"value\"; there are rule, cluster, target, severity, reading, threshold, cause",
        ),
        (
            "when = \"target_up == 0\"\nsummary = \"{{ target\"",
            "summary: \"{{\" at \"{{ target\" is not closed by \"}}\"",
        ),
        (
            "when = \"target_up == 0\"\nrunbook = \"wiki\"",
            "runbook: it must be an address that begins with https:// or http://",
        ),
    ] {
        let text = format!("{FLEET}\n[[rule]]\nname = \"a\"\n{rule}\n");
        let error = load_text(&text, &[]).map(drop).unwrap_err();
        let first = error.lines().next().unwrap_or_default();
        assert_eq!(first, format!("pgvigil.toml: rule \"a\": {reason}"), "{rule}");
    }
}

#[test]
fn presets_are_named_and_their_rules_changed() {
    let load = |preset: &str, rules: &str| load_text(&format!("preset = {preset}\n{FLEET}\n{rules}"), &[]);
    let error = |preset: &str, rules: &str| load(preset, rules).map(drop).unwrap_err();
    let known = "there are default, rds, rds-strict, self-managed, redis";
    assert_eq!(
        error("\"rsd\"", ""),
        format!("pgvigil.toml: preset: there is no preset \"rsd\"; {known}; did you mean \"rds\"?")
    );
    assert_eq!(error("[\"aurora\"]", ""), format!("pgvigil.toml: preset: there is no preset \"aurora\"; {known}"));
    assert_eq!(
        error("[\"rds\", \"redis\", \"self-managed\"]", ""),
        "pgvigil.toml: preset: \"rds\" and \"self-managed\" are both for PostgreSQL; choose one"
    );
    assert_eq!(error("3", ""), "pgvigil.toml: preset: a name or a list of names");
    let condition = "it has no condition; write for example when = \"replay_lag_seconds > 5s\"";
    let off = |name: &str| format!("[[rule]]\nname = \"{name}\"\nenabled = false");
    assert_eq!(
        error("\"rds\"", &off("ReplicaLags")),
        format!(
            "pgvigil.toml: rule \"ReplicaLags\": {condition}; rds has no rule of this name to change; did you mean \"ReplicaLag\"?"
        )
    );
    assert_eq!(
        error("[]", &off("TargetDown")),
        format!(
            "pgvigil.toml: rule \"TargetDown\": {condition}, or preset = \"default\" at the top to keep the built-in rules and change this one"
        )
    );
    assert_eq!(
        error("\"rds\"", "[[rule]]\nname = \"ReplicaLag\"\nwarning = \"> 90s\""),
        "pgvigil.toml: rule \"ReplicaLag\": critical = \"> 60s\" is reached no later than warning = \"> 90s\"; the severer threshold must be the farther one"
    );
    // A threshold that is not judged yet is checked all the same.
    assert_eq!(
        error("\"rds\"", "[[rule]]\nname = \"CpuUtilization\"\nwarning = \"> 80\""),
        "pgvigil.toml: rule \"CpuUtilization\": threshold \"80\" is a plain number, but cpu_utilization_ratio is a ratio; write for example \"80%\""
    );
    assert_eq!(
        error("\"rds\"", "[[rule]]\nname = \"MyCpu\"\nsignal = \"cpu_utilization_ratio\"\nwarning = \"> 80%\""),
        "pgvigil.toml: rule \"MyCpu\": signal: cpu_utilization_ratio comes from CloudWatch, where it is not read; write enabled = true in [cloudwatch]"
    );

    let names = |loaded: &Loaded| loaded.config.rules.iter().map(|rule| rule.name.to_string()).collect::<Vec<_>>();
    let rds = load("\"rds\"", "").unwrap();
    let awaiting: Vec<&str> = rds.config.awaiting_rules.iter().map(Name::as_str).collect();
    assert_eq!(awaiting, ["CpuUtilization", "FreeStorage", "FreeableMemory", "ReadLatency", "WriteLatency"]);
    assert!(rds.summary().contains("24 rules (5 more read CloudWatch, which is not read)"), "{}", rds.summary());
    let changed = load(
        "\"rds\"",
        "[[rule]]\nname = \"ReplicaLag\"\ncritical = \"> 30s\"\n\
         [[rule]]\nname = \"IdleSessions\"\nenabled = false\n\
         [[rule]]\nname = \"FreeStorage\"\nenabled = false\n\
         [[rule]]\nname = \"Own\"\nwhen = \"primaries > 2\"",
    )
    .unwrap();
    let mut expect = names(&rds);
    expect.retain(|name| name != "IdleSessions");
    expect.push("Own".to_owned());
    assert_eq!(names(&changed), expect);
    assert_eq!(changed.config.awaiting_rules.len(), 4);
    let lag = changed.config.rules.iter().find(|rule| rule.name.as_str() == "ReplicaLag").unwrap();
    let levels: Vec<_> = lag.levels().map(|(severity, condition)| (severity, condition.text.as_str())).collect();
    let expect = [(Severity::Warning, "replay_lag_seconds > 5s"), (Severity::Critical, "replay_lag_seconds > 30s")];
    assert_eq!(levels, expect);
    // Redis is watched beside PostgreSQL, not instead.
    let redis = load("\"redis\"", "").unwrap();
    assert_eq!(names(&redis), names(&load("[]", "").unwrap()));
    assert_eq!(redis.config.awaiting_rules.len(), 6);
}

/// Two instances of RDS and a server that is none.
const RDS: &str = r#"
[[cluster]]
name = "orders"
target = [
  { name = "a", dsn = "host=orders-a.c9akciq32.us-east-1.rds.amazonaws.com" },
  { name = "b", dsn = "host=b.example", cloudwatch = { instance = "orders-b", region = "eu-west-1" } },
  { name = "c", dsn = "host=c.example" },
]
"#;

#[test]
fn cloudwatch_is_read_of_what_it_knows() {
    let load = |text: &str| load_text(&format!("{RDS}{text}"), &[]).unwrap().config;
    let told = |config: &Config| {
        let instance = |known: &cloudwatch_of_aws::Instance| format!("{} {} {}", known.id, known.instance, known.place);
        config.instances.iter().map(instance).collect::<Vec<_>>()
    };
    let off = load("");
    assert_eq!(told(&off), ["orders/a orders-a us-east-1", "orders/b orders-b eu-west-1"]);
    assert!(off.wanted.is_none());
    let on =
        load("[cloudwatch]\nenabled = true\n[[redis]]\nname = \"sessions\"\nreplication_group = \"sessions-prod\"");
    let wanted = on.wanted.as_ref().unwrap();
    assert_eq!((wanted.metrics.len(), wanted.groups[0].group.as_str()), (15, "sessions-prod"));
    assert_eq!(on.fleet_spec().clusters[0].redis, [Name::new("sessions")]);
    // What reads CloudWatch is judged, now that it is read.
    let preset = |text: &str| {
        let loaded = load_text(&format!("preset = [\"rds\", \"redis\"]\n{RDS}{text}"), &[]).unwrap();
        loaded.config.awaiting_rules.iter().map(Name::to_string).collect::<Vec<_>>()
    };
    assert_eq!(preset("").len(), 11);
    assert_eq!(preset("[cloudwatch]\nenabled = true").len(), 6);
    assert_eq!(
        preset("[cloudwatch]\nenabled = true\n[[redis]]\nname = \"s\"\nreplication_group = \"s\""),
        Vec::<String>::new()
    );
}

#[test]
fn a_rule_may_call_a_metric_by_the_name_that_it_was_given() {
    let metric = "[cloudwatch]\nenabled = true\n[[cloudwatch.metric]]\nsignal = \"swap\"\nnamespace = \"AWS/RDS\"\n\
                  name = \"SwapUsage\"\nunit = \"bytes\"\ndimensions = { DBInstanceIdentifier = \"{instance}\" }\n";
    let rule = |rule: &str| load_text(&format!("{RDS}{metric}[[rule]]\nname = \"R\"\n{rule}"), &[]);
    for text in ["when = \"swap > 1GiB\"", "signal = \"swap\"\nwarning = \"> 1GiB\""] {
        let loaded = rule(text).unwrap();
        assert_eq!(loaded.config.rules[0].condition.text, "cloudwatch_bytes > 1GiB");
        assert!(loaded.config.rules[0].selects_labels(&["swap"]) && !loaded.config.rules[0].selects_labels(&["other"]));
    }
    let error = rule("when = \"swap > 5s\"").unwrap_err();
    assert!(error.contains("\"5s\" is a duration, but cloudwatch_bytes is a size"), "{error}");
}

#[test]
fn what_is_wrong_about_cloudwatch_is_told() {
    let on = "[cloudwatch]\nenabled = true\n";
    let metric = |rest: &str| {
        format!(
            "{on}[[cloudwatch.metric]]\nsignal = \"swap\"\nnamespace = \"AWS/RDS\"\nname = \"SwapUsage\"\nunit = \"bytes\"\n{rest}"
        )
    };
    for (text, expect) in [
        (
            format!("{on}metrics = [\"CPUUtilisation\"]"),
            "cloudwatch.metrics: there is no signal for \"CPUUtilisation\"; did you mean \"CPUUtilization\"?; any other metric \
             is a [[cloudwatch.metric]]",
        ),
        (
            "[[redis]]\nname = \"s\"\nreplication_group = \"s\"".to_owned(),
            "redis \"s\": it is watched through CloudWatch, which is not read; write enabled = true in [cloudwatch]",
        ),
        (
            format!("{on}[[redis]]\nname = \"s\"\nreplication_group = \"s\"\ncluster = \"order\""),
            "redis \"s\": cluster: there is no cluster \"order\"; did you mean \"orders\"?",
        ),
        (metric("statistic = \"avg\""), "metric \"SwapUsage\": statistic: \"avg\" is not one of Average"),
        (
            metric("dimensions = { A = \"{instance}\" }\nregion = \"us-east-1\""),
            "metric \"SwapUsage\": region: it is asked for where each instance is; leave this out",
        ),
        (
            metric("").replace("\"swap\"", "\"target_up\""),
            "metric \"SwapUsage\": signal: \"target_up\" is the name of a signal that there is; choose another",
        ),
        (metric("").replace("\"swap\"", "\"Swap\""), "metric \"SwapUsage\": signal: \"Swap\" cannot be a name"),
        (
            "[cloudwatch.publish]\nmetrics = [\"replay_lag_secs\"]".to_owned(),
            "cloudwatch.publish.metrics: there is no signal \"replay_lag_secs\"; did you mean \"replay_lag_seconds\"?",
        ),
        (
            "[cloudwatch.publish]\nnamespace = \"AWS/RDS\"".to_owned(),
            "cloudwatch.publish.namespace: \"AWS/RDS\" cannot be a namespace",
        ),
        ("[cloudwatch]\ninterval = \"2d\"".to_owned(), "cloudwatch.interval: \"2d\" is not between 1s and 1h"),
    ] {
        let error = load_text(&format!("{RDS}{text}"), &[]).map(drop).expect_err(expect);
        assert!(error.contains(expect), "{error}\nis not\n{expect}");
    }
    let target = |cloudwatch: &str| {
        let cluster =
            format!("[[cluster]]\nname = \"c\"\ntarget = [{{ name = \"t\", dsn = \"host=t\"{cloudwatch} }}]\n");
        load_text(&format!("{cluster}{on}"), &[]).map(drop).unwrap_err()
    };
    for (cloudwatch, expect) in [
        ("", "cloudwatch.enabled: no target is known to be an instance of RDS"),
        (", cloudwatch = { instance = \"i\" }", "target \"t\": cloudwatch: in which region is \"i\"?"),
        (", cloudwatch = { region = \"us-east-1\" }", "target \"t\": cloudwatch: which instance is it?"),
    ] {
        let error = target(cloudwatch);
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn a_preset_may_be_named_in_the_environment() {
    let loaded = load_text(FLEET, &[("PGVIGIL_PRESET", "self-managed")]).unwrap();
    assert!(loaded.config.rules.iter().any(|rule| rule.name.as_str() == "SlowStatements"));
}

#[test]
fn a_discovery_says_where_and_what_and_never_everything_by_mistake() {
    let cluster = "[[cluster]]\nname = \"c\"\ntarget = [{ name = \"t\", dsn = \"host=h user=u\" }]\n";
    for (keys, expect) in [
        ("instance = \"a\"", "discover[0]: region: where? Write for example region = \"us-east-1\""),
        ("region = []\nall = true", "discover[0]: region: where?"),
        ("region = \"us-east-1\"", "discover[0]: what? Write instance = \"...\""),
        ("region = \"us-east-1\"\ntags = {}", "discover[0]: what?"),
        ("region = \"us-east-1\"\nall = false", "discover[0]: what?"),
        ("region = \"us-east-1\"\ninstance = \"\"", "discover[0]: instance: is empty, and matches nothing"),
        (
            "region = \"us-east-1\"\ninstance = \"a\"\nall = true",
            "discover[0]: all: instance and all exclude one another",
        ),
        ("region = \"us-east-1\"\nall = true\ninterval = \"10ms\"", "is not between 1s and 1d"),
        ("region = \"us-east-1\"\nall = true\nsslmode = \"verify\"", "sslmode: expected disable"),
    ] {
        let error = load_text(&format!("{cluster}[[discover]]\n{keys}\n"), &[]).expect_err(keys);
        assert!(error.contains(expect), "{keys}: {error}");
    }
    let twice = "[[discover]]\nregion = \"us-east-1\"\nall = true\n".repeat(2);
    let error = load_text(&twice, &[]).expect_err("twice");
    assert!(error.contains("discover[1]: says the same as another [[discover]]"), "{error}");
    // It is enough by itself, and rules may be about what it will find.
    let alone = "[[discover]]\nregion = \"us-east-1\"\nall = true\npassword = \"s3cr3t\"\n\
                 [[rule]]\nname = \"a\"\nwhen = \"target_up == 0\"\ncluster = \"orders\"\n";
    let loaded = load_text(alone, &[]).expect("is enough");
    assert!(loaded.config.clusters.is_empty() && !format!("{loaded:?}").contains("s3cr3t"), "{loaded:?}");
}

#[test]
fn what_is_to_be_found_is_known_to_cloudwatch_when_it_is_found() {
    let discover = "[[discover]]\nregion = \"us-east-1\"\nall = true\nuser = \"u\"\npassword = \"p\"\n";
    let read = "[cloudwatch]\nenabled = true\n";
    let plain = "[[cluster]]\nname = \"c\"\ntarget = [{ name = \"t\", dsn = \"host=c.example\" }]\n";
    let error = load_text(&format!("{plain}{read}"), &[]).map(drop).unwrap_err();
    assert!(error.contains("cloudwatch.enabled: no target is known to be an instance of RDS"), "{error}");
    assert!(load_text(&format!("{plain}{discover}{read}"), &[]).is_ok());
    // What stands beside a cluster that is to be found waits for it.
    let beside = "[[redis]]\nname = \"sessions\"\nreplication_group = \"sessions-prod\"\ncluster = \"orders\"\n\
                  [[pooler]]\nname = \"pgb\"\ncluster = \"orders\"\ndsn = \"host=b.example dbname=pgbouncer\"\nsecret = \"pgb\"\n";
    let mut config =
        load_text(&format!("preset = [\"rds-strict\", \"redis\"]\n{discover}{read}{beside}"), &[]).unwrap().config;
    assert_eq!((config.n_poolers(), config.awaiting_rules.len(), config.instances.len()), (0, 0, 0));
    let id = TargetId::new("orders", "orders-1");
    let conninfo = Arc::new(Conninfo::parse("host=h user=u").unwrap());
    let cluster = Cluster {
        name: Name::new("orders"),
        targets: vec![Target { id: id.clone(), conninfo }],
        poolers: Vec::new(),
        redis: Vec::new(),
    };
    let instance = cloudwatch_of_aws::Instance {
        id,
        instance: "orders-1".to_owned(),
        place: crate::aws::Place { region: Some("us-east-1".to_owned()), role_arn: Some("arn".to_owned()) },
    };
    config.add(&discovery::Clusters {
        clusters: vec![cluster],
        instances: vec![instance.clone()],
        ..discovery::Clusters::default()
    });
    assert_eq!(config.instances, [instance]);
    assert_eq!(config.clusters[0].redis, [Name::new("sessions")]);
    let pooler = &config.clusters[0].poolers[0];
    assert_eq!(pooler.id, TargetId::new("orders", "pgb"));
    assert_eq!(config.secrets(), [crate::aws::SecretRef::new("pgb", None, None)]);
    // How large a volume is, only a discovery tells.
    let strict = load_text(&format!("preset = \"rds-strict\"\n{RDS}{read}"), &[]).unwrap().config;
    assert_eq!(strict.awaiting_rules, [Name::new("FreeStorage")]);
    let own = format!("{RDS}{read}[[rule]]\nname = \"Own\"\nwhen = \"storage_free_ratio < 10%\"\n");
    let error = load_text(&own, &[]).map(drop).unwrap_err();
    assert!(error.contains("it needs the size of the volume, which a [[discover]] tells"), "{error}");
    let nowhere =
        format!("{plain}[[pooler]]\nname = \"pgb\"\ncluster = \"orders\"\ndsn = \"host=b dbname=pgbouncer\"\n");
    assert!(load_text(&nowhere, &[]).map(drop).unwrap_err().contains("there is no cluster \"orders\""));
    let regional = nowhere.replace("cluster = \"orders\"", "cluster = \"c\"\nregion = \"us-east-1\"");
    assert!(load_text(&regional, &[]).map(drop).unwrap_err().contains("region: goes with secret"));
}
