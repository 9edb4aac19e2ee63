//! From a server's fault to what the subscribers of an SNS topic get.

use std::time::{Duration, SystemTime};

use pgvigil::clock;

use crate::support::aws::{Aws, Received};
use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::pg;
use crate::support::process::Process;
use crate::support::proxy::{Link, Proxy};
use crate::support::until;

const FAMILY: &str = "pgvigil_notifications_total";

fn attribute<'a>(received: &'a Received, name: &str) -> &'a str {
    let found = received.attributes.iter().find(|(have, _)| have == name);
    found.map_or_else(|| panic!("no attribute {name}: {received:?}"), |(_, value)| value)
}

#[tokio::test]
async fn subscribers_are_told_once_that_an_alert_fires_and_once_that_it_resolved() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(1).await;
    let (text_topic, json_topic) = (aws.topic("people").await, aws.topic("machines").await);
    let (people, machines) = (aws.subscribe(&text_topic, "people").await, aws.subscribe(&json_topic, "machines").await);
    let targets = pg::targets(&servers.nodes, "mon");
    let config = cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + &format!("[[notify]]\ntype = \"sns\"\nname = \"people\"\ntopic_arn = \"{text_topic}\"\n")
        + &format!(
            "[[notify]]\ntype = \"sns\"\nname = \"machines\"\ntopic_arn = \"{json_topic}\"\nformat = \"json\"\n"
        );
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment());
    })
    .await;

    servers.node("r1").crash().await.unwrap();
    let firing = aws.receive(&people, SOON).await;
    let firing_json = aws.receive(&machines, SOON).await;
    servers.node("r1").start().await.unwrap();
    let resolved = aws.receive(&people, SOON).await;
    let resolved_json = aws.receive(&machines, SOON).await;

    for (received, state) in
        [(&firing, "firing"), (&firing_json, "firing"), (&resolved, "resolved"), (&resolved_json, "resolved")]
    {
        let attributes = ["severity", "state", "rule", "cluster", "target"].map(|name| attribute(received, name));
        assert_eq!(attributes, ["critical", state, "Down", "c", "r1"]);
        let subject = received.subject.as_deref().unwrap();
        assert!(subject.len() <= 100 && subject.contains("Down") && subject.contains("r1"), "{subject:?}");
    }
    assert!(firing.message.contains("target_up == 0"), "{}", firing.message);
    let json: serde_json::Value = serde_json::from_str(&firing_json.message).unwrap();
    assert!(json.is_object(), "{json}");

    // Told once: nothing more comes while nothing more happens.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for subscriber in [&people, &machines] {
        let more = aws.try_receive(subscriber).await;
        assert!(more.is_none(), "{more:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_fifo_topic_that_is_out_of_reach_for_a_while_gets_both_firing_and_resolved_in_order() {
    let Some(aws) = Aws::start().await else { return };
    let link = Proxy::start(aws.port).await;
    let servers = pg::cluster(1).await;
    let topic = aws.topic("alerts.fifo").await;
    let subscriber = aws.subscribe(&topic, "alerts.fifo").await;
    let targets = pg::targets(&servers.nodes, "mon");
    let config = cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + &format!("[[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"{topic}\"\n")
        + &format!("endpoint_url = \"http://127.0.0.1:{}\"\ntimeout = \"1s\"\n", link.port);
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment());
    })
    .await;
    let failed = || async {
        let metrics = daemon.metrics().await;
        ["transient", "unclear"]
            .map(|outcome| series(&metrics, FAMILY, &[("outcome", outcome)]))
            .iter()
            .flatten()
            .sum::<f64>()
    };
    let until_failed = async |more: f64| {
        let before = failed().await;
        until("failed attempts", SOON, || async {
            let now = failed().await;
            if now >= before + more { Ok(()) } else { Err(format!("{now} after {before}")) }
        })
        .await;
    };

    // Nothing arrives while the link is cut, and it is tried again until it does.
    link.set(Link::Cut);
    servers.node("r1").crash().await.unwrap();
    until_failed(2.0).await;
    assert!(aws.try_receive(&subscriber).await.is_none());
    link.set(Link::Up);
    let firing = aws.receive(&subscriber, SOON).await;
    assert_eq!(attribute(&firing, "state"), "firing");

    // The same once more: what has ended meanwhile is told when it can be.
    link.set(Link::Cut);
    servers.node("r1").start().await.unwrap();
    until_failed(1.0).await;
    link.set(Link::Up);
    let resolved = aws.receive(&subscriber, SOON).await;
    assert_eq!(attribute(&resolved, "state"), "resolved");
    assert!(aws.try_receive(&subscriber).await.is_none(), "told twice");
    assert_eq!(daemon.stop().await, Some(0));
}

/// Two daemons watch the same servers and tell the same FIFO topic, so that either may die: subscribers hear of each
/// change once.
#[tokio::test]
async fn twins_on_one_fifo_topic_are_heard_as_one() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(1).await;
    let topic = aws.topic("alerts.fifo").await;
    let subscriber = aws.subscribe(&topic, "alerts.fifo").await;
    let targets = pg::targets(&servers.nodes, "mon");
    let config = cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + &format!("[[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"{topic}\"\n");
    let start = || {
        Daemon::start_with(&config, |command| {
            command.envs(aws.environment());
        })
    };
    let twins = [start().await, start().await];
    let until_told = async |times: f64| {
        for twin in &twins {
            let of_it = [("notifier", "pager"), ("outcome", "ok")];
            twin.until_series(FAMILY, &of_it, SOON * 2, |ok| ok == Some(times)).await;
        }
    };

    // An incident has the same name on both where both see it begin within one minute of the clock.
    until("a minute with room in it", Duration::from_secs(60), || async {
        let second = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 60;
        if second < 30 { Ok(()) } else { Err(format!("second {second}")) }
    })
    .await;
    servers.node("r1").crash().await.unwrap();
    until_told(1.0).await;
    servers.node("r1").start().await.unwrap();
    until_told(2.0).await;

    for state in ["firing", "resolved"] {
        let received = aws.receive(&subscriber, SOON).await;
        assert_eq!(attribute(&received, "state"), state);
    }
    let more = aws.try_receive(&subscriber).await;
    assert!(more.is_none(), "{more:?}");
    for twin in twins {
        assert_eq!(twin.stop().await, Some(0));
    }
}

/// One notifier of each of these, and two rules, each about a target of its own: neither follows from the other.
fn formats(topics: &[(&str, &str, &str)]) -> String {
    let rule = |name: &str, severity: &str, target: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"{severity}\"\ntarget = \"{target}\"\n"
        )
    };
    let notify = |(topic, format, more): &(&str, &str, &str)| {
        format!(
            "[[notify]]\ntype = \"sns\"\nname = \"{format}\"\ntopic_arn = \"{topic}\"\nformat = \"{format}\"\n{more}\n"
        )
    };
    let rules = rule("Down", "critical", "r1") + &rule("Unwell", "warning", "r2");
    rules + &topics.iter().map(notify).collect::<String>()
}

/// A daemon that tells a cluster's alerts together.
async fn grouping(config: &str, aws: &Aws) -> Daemon {
    Daemon::start_with(config, |command| {
        command.envs(aws.environment());
        command.env("PGVIGIL_ALERTING__GROUP_BY", "cluster").env("PGVIGIL_ALERTING__GROUP_WAIT", "10s");
    })
    .await
}

#[tokio::test]
async fn each_format_arrives_as_its_readers_know_it_and_each_notifier_hears_of_its_own() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(2).await;
    let (pager, chat, machines) = (aws.topic("pager.fifo").await, aws.topic("chat").await, aws.topic("machines").await);
    let pages = aws.subscribe(&pager, "pages.fifo").await;
    let chats = aws.subscribe(&chat, "chats").await;
    let warned = aws.subscribe_where(&machines, "warned", r#"{"severity": ["warning"], "state": ["firing"]}"#).await;
    let informed = aws.subscribe_where(&machines, "informed", r#"{"severity": ["info"]}"#).await;
    let targets = pg::targets(&servers.nodes, "mon");
    let topics = [
        (pager.as_str(), "cloudwatch", "severity = \"critical\""),
        (&chat, "amazon_q", "rule = \"Un*\"\nsend_resolved = false"),
        (&machines, "json", ""),
    ];
    let daemon = grouping(&(cluster_toml("c", &targets) + &formats(&topics)), &aws).await;

    for node in ["r1", "r2"] {
        servers.node(node).crash().await.unwrap();
    }
    let json = |received: &Received| -> serde_json::Value { serde_json::from_str(&received.message).unwrap() };
    let page = aws.receive(&pages, SOON * 3).await;
    let alarm = json(&page);
    let told = ["AlarmName", "NewStateValue", "OldStateValue"].map(|key| alarm[key].as_str().unwrap());
    assert_eq!(told, ["Down c/r1", "ALARM", "OK"]);
    assert_eq!(page.subject.as_deref(), Some("ALARM: \"Down c/r1\" in US East (N. Virginia)"));
    let said = json(&aws.receive(&chats, SOON * 3).await);
    assert_eq!((&said["version"], &said["source"]), (&"1.0".into(), &"custom".into()));
    assert_eq!(said["metadata"]["additionalContext"]["rule"], "Unwell");
    // Both in one, which a policy finds by either.
    let both = aws.receive(&warned, SOON * 3).await;
    let rules: Vec<_> = json(&both)["alerts"].as_array().unwrap().iter().map(|alert| alert["rule"].clone()).collect();
    assert_eq!(rules, ["Down", "Unwell"]);
    assert_eq!(attribute(&both, "severity"), r#"["critical","warning"]"#);
    assert_eq!((attribute(&both, "state"), attribute(&both, "target")), ("firing", r#"["r1","r2"]"#));

    for node in ["r1", "r2"] {
        servers.node(node).start().await.unwrap();
    }
    let end = json(&aws.receive(&pages, SOON * 3).await);
    assert_eq!((&end["NewStateValue"], &end["AlarmName"]), (&"OK".into(), &alarm["AlarmName"]));
    daemon.until_series(FAMILY, &[("notifier", "json"), ("outcome", "ok")], SOON * 3, |ok| ok >= Some(2.0)).await;
    for quiet in [&pages, &chats, &warned, &informed] {
        let more = aws.try_receive(quiet).await;
        assert!(more.is_none(), "{more:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_test_goes_through_each_notifier_and_says_which_does_not_work() {
    let Some(aws) = Aws::start().await else { return };
    let (people, pager) = (aws.topic("people").await, aws.topic("pager.fifo").await);
    let (mails, pages) = (aws.subscribe(&people, "mails").await, aws.subscribe(&pager, "pages.fifo").await);
    let missing = people.replace("people", "nowhere");
    let topics = [(people.as_str(), "text", "severity = \"info\""), (&pager, "cloudwatch", ""), (&missing, "json", "")];
    // No server is asked.
    let config =
        cluster_toml("c", &["r1", "r2"].map(|name| (name, "postgresql://mon@127.0.0.1:1/postgres".to_owned())))
            + &formats(&topics);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pgvigil.toml"), config).unwrap();
    let test = |names: &[&str]| {
        let mut command = pgvigil();
        command.current_dir(dir.path()).args(["--config", "pgvigil.toml", "notify", "test"]).args(names);
        let output = command.envs(aws.environment()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };

    let (code, table, log) = test(&[]);
    assert_eq!(code, Some(1), "{table}{log}");
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows.len() == 4 && rows[1].starts_with("text ") && rows[1].ends_with("  delivered"), "{table}");
    assert!(rows[2].contains(&pager) && rows[2].ends_with("delivered: firing, then resolved"), "{table}");
    assert!(rows[3].contains("not delivered: SNS refused: "), "{table}");
    let mail = aws.receive(&mails, SOON).await;
    assert_eq!(mail.subject.as_deref(), Some("TEST of pgvigil, nothing is wrong: notifier text"));
    assert_eq!((attribute(&mail, "severity"), attribute(&mail, "rule")), ("info", "NotifyTest"));
    for state in ["ALARM", "OK"] {
        let page = aws.receive(&pages, SOON).await;
        assert!(page.subject.as_deref().is_some_and(|subject| subject.starts_with(&format!("{state}: "))), "{page:?}");
        assert!(page.message.contains("nothing is wrong"), "{page:?}");
    }

    // One alone, and again at once: a FIFO topic lets it through.
    assert_eq!(test(&["cloudwatch"]).0, Some(0));
    assert_eq!(attribute(&aws.receive(&pages, SOON).await, "state"), "firing");
    assert!(aws.try_receive(&mails).await.is_none());
    let (code, _, error) = test(&["pagr"]);
    assert_eq!(code, Some(64));
    assert!(error.contains("there is no notifier \"pagr\"; there are text, cloudwatch, json"), "{error}");
}

#[tokio::test]
async fn two_urls_in_the_environment_are_enough() {
    let servers = pg::cluster(1).await;
    let port = crate::support::free_port();
    let mut command = pgvigil();
    command
        .env("DATABASE_URL", pg::dsn(servers.primary(), "mon") + "?schema=public&connection_limit=100&pool_timeout=30")
        .env("DATABASE_READ_REPLICA_URL", pg::dsn(servers.node("r1"), "mon") + "?pgbouncer=true")
        .env("PGVIGIL_SERVER__LISTEN", format!("127.0.0.1:{port}"));
    let dir = tempfile::tempdir().unwrap();
    command.current_dir(dir.path());
    let process = Process::start(command);
    let daemon = Daemon { process, url: format!("http://127.0.0.1:{port}"), dir };
    let labels = [("cluster", "default"), ("target", "replica-1")];
    crate::support::until("the lag", SOON, || async {
        let metrics = daemon.get("/metrics").await?.body;
        let lag = crate::support::daemon::series(&metrics, "pgvigil_replay_lag_seconds", &labels);
        if lag.is_some_and(|lag| lag < 1.0) { Ok(()) } else { Err(format!("{lag:?}")) }
    })
    .await;
    let (status, body) = daemon.health("default", "replica-1", "?max_lag=5s").await;
    assert_eq!(status, 200, "{body}");
    let log = daemon.log();
    assert!(!log.contains("mon:mon"), "a password is in the log: {log}");
}
