//! `dashboards/`: what is written from the code is as the code would write it, Prometheus and Grafana know every word of it, and
//! every panel has something to show.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use pgvigil::core::rule::Preset;
use pgvigil::demo::{Plan, Servers};
use pgvigil::rules::prometheus;
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use crate::cloudwatch::{page, told};
use crate::support::cloudwatch::{Cloud, environment};
use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::pgbouncer::PgBouncer;
use crate::support::prometheus::Prometheus;
use crate::support::rds::{Instance, Rds};
use crate::support::receiver::Receiver;
use crate::support::{missing, pg};

fn dashboards(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(name)
}

/// Compares a file with what it should be, or writes it so.
fn is_current(name: &str, expect: Option<&str>) -> Result<(), String> {
    let path = dashboards(name);
    let have = std::fs::read_to_string(&path).ok();
    if have.as_deref() == expect {
        return Ok(());
    }
    if std::env::var_os("UPDATE_DASHBOARDS").is_some() {
        expect.map_or_else(|| std::fs::remove_file(&path), |expect| std::fs::write(&path, expect)).unwrap();
        return Ok(());
    }
    let differs = have.unwrap_or_default();
    let differs = differs.lines().zip(expect.unwrap_or_default().lines()).find(|(have, expect)| have != expect);
    Err(format!(
        "dashboards/{name} is behind the code, first at {differs:#?}\n\
         to bring it up to date: UPDATE_DASHBOARDS=1 cargo test --test it dashboards::"
    ))
}

fn promtool(arguments: &[&str], file: &str) -> Option<Output> {
    let output = Command::new("promtool").args(arguments).arg(file).current_dir(dashboards("")).output();
    if output.is_err() {
        missing("promtool");
    }
    output.ok()
}

#[test]
fn the_rules_for_prometheus_are_those_of_the_presets() {
    let mut behind = Vec::new();
    for preset in Preset::ALL {
        let (rules, tests) = (prometheus::rules_file(preset), prometheus::tests_file(preset));
        for (name, text) in [(prometheus::rules_name(preset), &rules), (prometheus::tests_name(preset), &tests)] {
            behind.extend(is_current(&name, text.as_deref()).err());
        }
        if let Some(rules) = rules {
            // Each rule of the preset is there, by its name and with each of its severities, or is named as left out.
            for rule in preset.rules() {
                let alert = format!("- alert: {}\n", rule.name);
                assert!(
                    rules.contains(&alert)
                        || rules.lines().any(|line| line.starts_with("# Not here") && line.contains(&rule.name))
                );
            }
        }
    }
    assert!(behind.is_empty(), "{}", behind.join("\n"));
}

#[test]
fn promtool_takes_the_rules_and_they_do_as_they_say() {
    let mut n_files = 0;
    for preset in Preset::ALL {
        let (rules, tests) = (prometheus::rules_name(preset), prometheus::tests_name(preset));
        if !dashboards(&rules).exists() {
            continue;
        }
        n_files += 1;
        for (arguments, file) in [(["check", "rules"], rules), (["test", "rules"], tests)] {
            let Some(output) = promtool(&arguments, &file) else { return };
            let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success() && words.contains("SUCCESS"), "{file}: {words}");
        }
    }
    assert!(n_files >= 4, "{n_files}");
}

/// The dashboards, by name.
fn all() -> Vec<(String, Value)> {
    ["fleet", "cluster", "target", "statements", "alerts", "aws"]
        .map(|name| {
            let text = std::fs::read_to_string(dashboards(&format!("pgvigil-{name}.json"))).unwrap();
            (name.to_owned(), serde_json::from_str(&text).unwrap())
        })
        .to_vec()
}

#[test]
fn the_dashboards_are_as_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("python3").arg(dashboards("generate.py")).arg(dir.path()).output();
    let Ok(output) = output else { return missing("python3") };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut names: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expect: Vec<String> = all().iter().map(|(name, _)| format!("pgvigil-{name}.json")).collect();
    expect.sort();
    assert_eq!(names, expect);
    for name in names {
        let written = std::fs::read_to_string(dir.path().join(&name)).unwrap();
        let is_same = std::fs::read_to_string(dashboards(&name)).unwrap() == written;
        assert!(is_same, "dashboards/{name} is not what dashboards/generate.py writes: run it");
    }
}

/// Where `scripts/install-grafana-types` has put them.
fn grafana() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/grafana");
    if dir.join("node_modules/@grafana/schema").exists() && dir.join("venv/bin/python").exists() {
        return Some(dir);
    }
    missing("@grafana/schema");
    None
}

/// Types, round trip: what each says of these files; empty when all is well.
fn findings(grafana: &Path, files: &[PathBuf]) -> (String, String) {
    let work = tempfile::tempdir_in(grafana).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let words = [output.stdout, output.stderr].concat();
        if output.status.success() { String::new() } else { String::from_utf8_lossy(&words).into_owned() }
    };
    let source = work.path().join("dashboards.ts");
    let written = run(Command::new("node").arg(dashboards("check/types.mjs")).arg(&source).args(files));
    assert_eq!(written, "");
    let types = run(Command::new(grafana.join("node_modules/.bin/tsc"))
        .args(["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext"])
        .args(["--target", "es2022", "--types", ""])
        .arg(&source)
        .current_dir(work.path()));
    let lost = run(Command::new(grafana.join("venv/bin/python")).arg(dashboards("check/roundtrip.py")).args(files));
    (types, lost)
}

#[test]
fn grafana_knows_every_field_of_the_dashboards() {
    let Some(grafana) = grafana() else { return };
    let files: Vec<PathBuf> = all().iter().map(|(name, _)| dashboards(&format!("pgvigil-{name}.json"))).collect();
    assert_eq!(findings(&grafana, &files), (String::new(), String::new()));
    // And it would find what is wrong: a colour mode that there is none of, an option misspelt, a field in the wrong place.
    let text = std::fs::read_to_string(&files[0]).unwrap();
    let wrong = tempfile::tempdir().unwrap();
    for (from, to, by_types) in [
        ("\"colorMode\": \"background\"", "\"colorMode\": \"backdrop\"", true),
        ("\"cellHeight\":", "\"cellheight\":", true),
        ("\"noValue\":", "\"novalue\":", false),
    ] {
        let file = wrong.path().join("wrong.json");
        assert!(text.contains(from), "{from}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let (types, lost) = findings(&grafana, &[file]);
        assert!(!types.is_empty() && (by_types || !lost.is_empty()), "{to}: {types} {lost}");
    }
}

/// Queries that find nothing on the servers of the test, and why that is right.
const MAY_BE_EMPTY: [(&str, &str); 2] =
    [("Slow poll", "nothing is asked about in vain"), ("Pending maintenance", "there is none")];

/// Every query of a dashboard: of its variables, its annotations and its panels, as Grafana would send it.
fn queries(name: &str, dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(values) = variable["query"]["query"].as_str() else { continue };
        let (series, label) = values.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
        found.push((
            format!("{name}: ${}", variable["name"]),
            format!("count by ({}) ({series})", label.trim_end_matches(')')),
        ));
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        found.push((format!("{name}: {}", annotation["name"]), annotation["expr"].as_str().unwrap().to_owned()));
    }
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap();
            found.push((format!("{name}: {title}"), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for (place, expr) in &mut found {
        for (variable, value) in [("$cluster", ".*"), ("$target", ".*"), ("$__rate_interval", "5m")] {
            *expr = expr.replace(variable, value);
        }
        assert!(!expr.contains('$'), "{place}: {expr}");
    }
    found
}

/// A session that does `statement`, and stays.
async fn session(port: u16, statement: &'static str) -> Client {
    let (client, connection) = tokio_postgres::connect(&pg::dsn_at(port, "mon"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
    client
}

/// Has the dashboards drawn with what is known by now: into the documentation, after another minute, where that is asked for.
async fn draw(prometheus: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (folder, seconds) = if std::env::var_os("DRAW_DASHBOARDS").is_some() {
        tokio::time::sleep(Duration::from_secs(60)).await;
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/images"), "180")
    } else {
        (dir.path().to_path_buf(), "60")
    };
    let mut command = Command::new("python3");
    command.arg(dashboards("draw.py")).arg(prometheus).arg(&folder).arg(seconds);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, dashboard) in all() {
        let drawing = std::fs::read_to_string(folder.join(format!("pgvigil-{name}.svg"))).unwrap();
        assert!(drawing.len() < 150_000, "{name}: {}", drawing.len());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            let begins: String = title.chars().take(12).collect();
            assert!(drawing.contains(&begins.replace('\'', "&#x27;")), "{name}: {title}");
        }
    }
}

/// An ElastiCache that has one group of two nodes, whatever it is asked.
async fn elasticache() -> Receiver {
    const GROUPS: &str = "<DescribeReplicationGroupsResponse><DescribeReplicationGroupsResult><ReplicationGroups>\
        <ReplicationGroup><ReplicationGroupId>cache</ReplicationGroupId><MemberClusters><ClusterId>cache-001</ClusterId>\
        <ClusterId>cache-002</ClusterId></MemberClusters></ReplicationGroup></ReplicationGroups>\
        </DescribeReplicationGroupsResult></DescribeReplicationGroupsResponse>";
    let receiver = Receiver::start().await;
    receiver.tell(GROUPS.to_owned());
    receiver
}

/// A primary and its replica as RDS lists them.
fn listed(servers: &Servers) -> Vec<Instance> {
    let mut primary = Instance::new("rds", "127.0.0.1", servers.primary().port);
    primary.replicas = vec!["rds-r1".to_owned()];
    let replica = Instance {
        source: Some("rds".to_owned()),
        replicates: Some(true),
        ..Instance::new("rds-r1", "127.0.0.1", servers.node("r1").port)
    };
    vec![primary, replica]
}

/// Servers with something of everything: a replica that replays nothing and one that is seen without grants, slots that are
/// unread, in danger and lost, sessions that idle in transactions and wait for locks, a subscription, a pooler, alerts that fire and
/// are muted; and an AWS that lists two more and has a number for every metric. Every query of every panel finds something there.
#[tokio::test]
async fn no_panel_is_empty() {
    let plan = pg::plan(2).set("max_slot_wal_keep_size = '100GB'");
    let small = Plan::new(pg::installation()).set("wal_keep_size = 0").set("max_slot_wal_keep_size = '1MB'");
    let theirs = pg::plan(1);
    let (servers, others, theirs) =
        tokio::try_join!(Servers::start(&plan), Servers::start(&small), Servers::start(&theirs)).unwrap();
    let (primary, other) = (servers.primary(), others.primary());
    let Some(pooler) = PgBouncer::start(primary.port).await else { return };

    let table = "CREATE TABLE orders(id int PRIMARY KEY); GRANT ALL ON orders TO mon";
    for server in [primary, other] {
        server.sql(table).await.unwrap();
    }
    primary.sql("CREATE PUBLICATION orders FOR TABLE orders").await.unwrap();
    primary.sql("SELECT pg_create_physical_replication_slot('unread', true)").await.unwrap();
    let subscribe = format!(
        "CREATE SUBSCRIPTION orders CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=postgres' PUBLICATION orders",
        primary.port
    );
    other.sql(&subscribe).await.unwrap();
    other.sql("SELECT pg_create_physical_replication_slot('lost', true)").await.unwrap();
    for _ in 0..4 {
        pg::write(other).await;
        other.sql("SELECT pg_switch_wal()").await.unwrap();
    }
    other.sql("CHECKPOINT").await.unwrap();
    servers.node("r1").sql("SELECT pg_wal_replay_pause()").await.unwrap();
    let _holder = session(primary.port, "BEGIN; LOCK TABLE orders").await;
    let waiter = session(primary.port, "SELECT 1").await;
    let waiting = tokio::spawn(async move { waiter.batch_execute("BEGIN; LOCK TABLE orders").await });

    let clusters = [
        cluster_toml(
            "c",
            &[
                ("primary", pg::dsn(primary, "mon")),
                ("r1", pg::dsn(servers.node("r1"), "mon")),
                ("r2", pg::dsn(servers.node("r2"), "plain")),
            ],
        ),
        cluster_toml("other", &[("other", pg::dsn(other, "mon"))]),
    ];
    let pooled = format!(
        "[[pooler]]\nname = \"pgb\"\ncluster = \"c\"\ndsn = \"postgresql://stats:stats@127.0.0.1:{}/pgbouncer\"\n",
        pooler.port
    );
    // The first alerts fire after the first scrapes: an increase needs the sample before it. One is pending for all the time.
    let rule = |name: &str, when: &str, hold: &str| {
        format!("[[rule]]\nname = \"{name}\"\nwhen = \"{when}\"\nfor = \"{hold}\"\n")
    };
    let rules = rule("Always", "target_up == 1", "15s")
        + &rule("Pending", "target_up == 1", "1h")
        + &rule("Muted", "target_up == 1", "0s");
    let config = format!(
        "[poll]\nslow_interval = \"2s\"\npooler_interval = \"1s\"\n[heartbeat]\ninterval = \"1s\"\nnotify = \"log-1\"\n{}\n{pooled}\n{rules}\n\
         [[notify]]\ntype = \"log\"\nname = \"log-1\"\n\
         [[maintenance]]\nname = \"always\"\nrule = \"Muted\"\nstart = \"00:00\"\nduration = \"24h\"\ntime_zone = \"UTC\"\n",
        clusters.join("\n")
    );
    let (rds, cache) = (Rds::start().await, elasticache().await);
    let cloud = Cloud::start(|asked| page(told(asked, |_| Some(40.0)))).await;
    rds.with(|state| {
        state.instances.insert("us-east-1".to_owned(), listed(&theirs));
        state.events.push(("rds", "backup", "Backing up DB instance", 30));
    });
    let aws = "[cloudwatch]\nenabled = true\ninterval = \"1s\"\n\
               [[redis]]\nname = \"cache\"\nreplication_group = \"cache\"\nregion = \"us-east-1\"\ncluster = \"c\"\n\
               [[discover]]\nregion = \"us-east-1\"\ninstance = \"rds\"\nuser = \"mon\"\npassword = \"mon\"\n\
               sslmode = \"disable\"\ninterval = \"1s\"\n";
    let daemon = Daemon::start_within(&format!("{config}{aws}"), SOON * 4, |command| {
        command.envs(environment(&cloud.url)).env("AWS_ENDPOINT_URL_RDS", &rds.url);
        command.env("AWS_ENDPOINT_URL_ELASTICACHE", format!("http://127.0.0.1:{}", cache.port));
    })
    .await;
    let Some(prometheus) = Prometheus::start(daemon.url.trim_start_matches("http://")).await else { return };
    let through = session(pooler.port, "SELECT 1").await;
    let writing = async {
        loop {
            pg::write(primary).await;
            through.batch_execute("SELECT count(*) FROM pg_class").await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let looking = async {
        let mut n_queries = 0;
        let mut empty = Vec::new();
        for (name, dashboard) in all() {
            for (place, query) in queries(&name, &dashboard) {
                n_queries += 1;
                let title = place.split_once(": ").unwrap().1;
                if MAY_BE_EMPTY.iter().any(|(may, _)| *may == title) {
                    // That Prometheus takes it is all that can be asked.
                    prometheus.query(&query).await;
                    continue;
                }
                // A rate takes two samples after a change. When one is empty, the others are not waited for as long.
                let patience = if empty.is_empty() { SOON * 4 } else { Duration::from_secs(1) };
                let start = pgvigil::clock::now();
                let found = loop {
                    let found = prometheus.query(&query).await;
                    if !found.is_empty() || pgvigil::clock::now().duration_since(start) > patience {
                        break found;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                };
                if found.is_empty() {
                    empty.push(format!("{place}: {query}"));
                }
                assert!(found.iter().all(|(_, value)| !value.is_nan()), "{place}: {query}: {found:?}");
            }
        }
        assert!(empty.is_empty(), "{empty:#?}");
        assert!(n_queries > 150, "{n_queries}");
        draw(&prometheus.url).await;
    };
    tokio::select! {
        () = looking => {}
        () = writing => unreachable!(),
    }
    waiting.abort();
}
