//! What was written for `postgres_exporter` works with our series by its names: the same rules, in a real Prometheus, over our
//! series and over those of the exporter itself, on the same servers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgvigil::demo::Server;
use tokio_postgres::NoTls;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::process::Process;
use crate::support::prometheus::{Prometheus, lint};
use crate::support::{free_port, http, missing, pg, until};

const PROGRAM: &str = "prometheus-postgres-exporter";

/// What some version of the exporter has that Debian's oldest has not.
const NEWER: [&str; 19] = [
    "pg_postmaster_start_time_seconds",
    "pg_replication_lag_seconds",
    "pg_replication_lag",
    "pg_replication_is_replica",
    "pg_replication_last_replay_seconds",
    "pg_settings_superuser_reserved_connections",
    "pg_replication_slots_slot_is_active",
    "pg_replication_slots_slot_current_wal_lsn",
    "pg_replication_slots_slot_confirmed_flush_lsn",
    "pg_replication_slots_safe_wal_size_bytes",
    "pg_replication_slots_wal_status",
    "pg_replication_slot_slot_is_active",
    "pg_replication_slot_slot_current_wal_lsn",
    "pg_replication_slot_slot_confirmed_flush_lsn",
    "pg_replication_slot_safe_wal_size_bytes",
    "pg_replication_slot_wal_status",
    "pg_stat_statements_calls_total",
    "pg_stat_statements_seconds_total",
    "pg_stat_statements_rows_total",
];

/// Labels of the exporter's that these have not: they would be a series for each user, application or wait.
const NOT_TOLD: [(&str, &[&str]); 6] = [
    ("pg_stat_activity_count", &["usename", "application_name", "backend_type", "wait_event", "wait_event_type"]),
    (
        "pg_stat_activity_max_tx_duration",
        &["usename", "application_name", "backend_type", "wait_event", "wait_event_type"],
    ),
    ("pg_stat_database_numbackends", &["datid"]),
    ("pg_stat_statements_calls_total", &["user"]),
    ("pg_stat_statements_seconds_total", &["user"]),
    ("pg_stat_statements_rows_total", &["user"]),
];

/// A running exporter of one server.
struct Exporter {
    _process: Process,
    address: String,
}

impl Exporter {
    async fn start(server: &Server) -> Option<Self> {
        if Command::new(PROGRAM).arg("--version").output().is_err() {
            missing(PROGRAM);
            return None;
        }
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(PROGRAM);
        command.env("DATA_SOURCE_NAME", format!("{}?sslmode=disable", pg::dsn(server, "mon")));
        command.arg(format!("--web.listen-address={address}"));
        let exporter = Self { _process: Process::start(command), address };
        until(PROGRAM, Duration::from_secs(30), || async { exporter.metrics().await.map(drop) }).await;
        Some(exporter)
    }

    async fn metrics(&self) -> Result<String, String> {
        let answer = http::get(&format!("http://{}/metrics", self.address)).await?;
        if answer.status == 200 { Ok(answer.body) } else { Err(format!("{answer:?}")) }
    }
}

/// The families in the text of a page: the type, and the names of the labels.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE pg_").and_then(|rest| rest.split_once(' ')) {
            families.insert(format!("pg_{name}"), (kind.to_owned(), BTreeSet::new()));
        } else if line.starts_with("pg_") {
            let name = line.split(['{', ' ']).next().unwrap();
            let labels = line.match_indices("=\"").map(|(end, _)| {
                let start = line[..end].rfind(['{', ',']).unwrap() + 1;
                line[start..end].to_owned()
            });
            families.entry(name.to_owned()).or_default().1.extend(labels);
        }
    }
    families
}

/// Which rules fire for which instances of a job.
async fn firing(prometheus: &Prometheus, job: &str) -> BTreeSet<(String, String)> {
    let alerts = prometheus.query(&format!("ALERTS{{alertstate=\"firing\",job=\"{job}\"}}")).await;
    let word = |labels: &serde_json::Value, name: &str| labels[name].as_str().unwrap_or_default().to_owned();
    alerts.iter().map(|(labels, _)| (word(labels, "alertname"), word(labels, "instance"))).collect()
}

#[tokio::test]
async fn rules_for_postgres_exporter_fire_alike_over_our_series_and_over_its_own() {
    let servers = pg::cluster(1).await;
    let (primary, replica) = (servers.primary(), servers.node("r1"));
    let (Some(of_primary), Some(of_replica)) = (Exporter::start(primary).await, Exporter::start(replica).await) else {
        return;
    };
    let config = "[poll]\nslow_interval = \"2s\"\n[metrics]\npostgres_exporter_names = true\n\n".to_owned()
        + &cluster_toml("c", &[("primary", pg::dsn(primary, "mon")), ("r1", pg::dsn(replica, "mon"))]);
    let daemon = Daemon::start(&config).await;
    let scrape = format!(
        "- job_name: ours\n  http_sd_configs: [{{url: '{}/api/v1/sd', refresh_interval: 1s}}]\n\
         - job_name: theirs\n  static_configs:\n  - {{targets: ['{}'], labels: {{instance: c/primary}}}}\n\
         \x20 - {{targets: ['{}'], labels: {{instance: c/r1}}}}\n",
        daemon.url, of_primary.address, of_replica.address
    );
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/postgres_exporter/rules.yml");
    let Some(prometheus) = Prometheus::start_with(&scrape, &rules).await else { return };

    // A slot that nobody reads, a standby that replays nothing, a transaction that nobody ends.
    primary.sql("SELECT pg_create_physical_replication_slot('unread', true)").await.unwrap();
    replica.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    let dsn = format!("{}?application_name=idler", pg::dsn(primary, "mon"));
    let (idler, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    idler.batch_execute("BEGIN").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..4 {
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        others.push((client, tokio::spawn(connection)));
    }
    for _ in 0..30 {
        pg::write(primary).await;
    }

    let pair = |(alert, instance): (&str, &str)| (alert.to_owned(), instance.to_owned());
    let both = [
        ("IdleTransaction", "c/primary"),
        ("OneOf", ""),
        ("SlotKeepsWal", "c/primary"),
        ("SlotUnused", "c/primary"),
        ("StandbyBehind", "c/primary"),
        ("TooManyConnections", "c/primary"),
    ];
    let later = [
        ("Calls", ""),
        ("ReplicationLag", "c/r1"),
        ("Restarted", "c/primary"),
        ("Restarted", "c/r1"),
        ("SlotStatus", "c/primary"),
    ];
    let alike: BTreeSet<_> = both.into_iter().map(pair).collect();
    let ours: BTreeSet<_> = both.into_iter().chain(later).map(pair).collect();
    let patience = SOON * 3;
    until("our alerts", patience, || async {
        let found = firing(&prometheus, "ours").await;
        if found == ours { Ok(()) } else { Err(format!("{found:#?}")) }
    })
    .await;
    until("theirs", patience, || async {
        let found = firing(&prometheus, "theirs").await;
        let missing: Vec<_> = alike.difference(&found).collect();
        // A newer exporter fires some of the others as well, and none besides.
        if missing.is_empty() && found.is_subset(&ours) { Ok(()) } else { Err(format!("{found:#?}")) }
    })
    .await;

    let (text, theirs) = (daemon.metrics().await, families(&of_primary.metrics().await.unwrap()));
    assert_eq!(lint_of_ours(&text), "");
    let ours = families(&text);
    assert!(ours.len() > 25, "{ours:#?}");
    for (name, (kind, labels)) in &ours {
        match theirs.get(name) {
            None => assert!(NEWER.contains(&name.as_str()), "{name} is not the exporter's"),
            Some((its_kind, its_labels)) => {
                assert_eq!(kind, its_kind, "{name}");
                let not_told = NOT_TOLD.iter().find(|(family, _)| family == name).map_or(&[][..], |(_, labels)| labels);
                let lacking: Vec<_> =
                    its_labels.difference(labels).filter(|label| !not_told.contains(&label.as_str())).collect();
                assert!(lacking.is_empty(), "{name} lacks {lacking:?}");
            }
        }
    }

    // Of a server that is down nothing else is said: whether it is a replica is not known now.
    replica.crash().await.unwrap();
    until("its alerts", patience, || async {
        let found: Vec<_> = firing(&prometheus, "ours").await.into_iter().filter(|(_, of)| of == "c/r1").collect();
        let expect = [("InstanceDown", "c/r1"), ("ScrapeFailed", "c/r1")].map(pair);
        if found == expect { Ok(()) } else { Err(format!("{found:#?}")) }
    })
    .await;
    connection.abort();
    others.iter().for_each(|(_, connection)| connection.abort());
}

/// What the linter says of our own choice of names: theirs break its rules here and there.
fn lint_of_ours(text: &str) -> String {
    lint(text).lines().filter(|line| !line.starts_with("pg_")).collect()
}

#[tokio::test]
async fn prometheus_scrapes_target_by_target_what_it_finds() {
    let servers = pg::cluster(1).await;
    let targets = [("primary", pg::dsn(servers.primary(), "mon")), ("r1", pg::dsn(servers.node("r1"), "mon"))];
    let daemon = Daemon::start(&cluster_toml("c", &targets)).await;
    let address = daemon.url.trim_start_matches("http://");
    let scrape = format!(
        "- job_name: found\n  http_sd_configs: [{{url: '{}/api/v1/sd', refresh_interval: 1s}}]\n\
         \x20 relabel_configs: [{{source_labels: [__meta_pgvigil_role], target_label: role}}]\n\
         - job_name: named\n  metrics_path: /probe\n  static_configs: [{{targets: [c/primary, c/r1]}}]\n\
         \x20 relabel_configs:\n  - {{source_labels: [__address__], target_label: __param_target}}\n\
         \x20 - {{source_labels: [__param_target], target_label: instance}}\n\
         \x20 - {{target_label: __address__, replacement: '{address}'}}\n\
         - job_name: cluster\n  params: {{cluster: [c]}}\n  static_configs: [{{targets: ['{address}']}}]\n",
        daemon.url
    );
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/postgres_exporter/rules.yml");
    let Some(prometheus) = Prometheus::start_with(&scrape, &rules).await else { return };
    for (query, expect) in [
        ("up", 5.0),
        (
            "pgvigil_target_up{job=\"found\",instance=\"c/primary\",role=\"primary\",cluster=\"c\",target=\"primary\"}",
            1.0,
        ),
        ("pgvigil_target_up{job=\"found\",instance=\"c/r1\",role=\"replica\",cluster=\"c\",target=\"r1\"}", 1.0),
        ("pgvigil_target_up{job=\"named\",instance=\"c/r1\",target=\"r1\"}", 1.0),
        ("pgvigil_target_up{job=\"cluster\"}", 2.0),
        ("pgvigil_cluster_targets{job=\"cluster\"}", 2.0),
    ] {
        prometheus.until_result(&format!("sum({query}) == {expect}"), SOON * 2).await;
    }
    // A page of one target is about that alone, and none of these about the daemon.
    for query in ["pgvigil_build_info", "pgvigil_cluster_targets{job!=\"cluster\"}", "exported_cluster"] {
        assert_eq!(prometheus.query(query).await, [], "{query}");
    }
}
