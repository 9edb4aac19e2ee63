//! What users of Prometheus see: a real one scrapes the daemon and judges by our rules.

use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::pg;
use crate::support::prometheus::{Prometheus, lint};

#[tokio::test]
async fn prometheus_scrapes_and_judges_what_is_watched() {
    let servers = pg::cluster(2).await;
    let primary = servers.primary();
    primary.sql("SELECT pg_create_physical_replication_slot('unread', true)").await.unwrap();
    let targets = [
        ("primary", pg::dsn(primary, "mon")),
        ("r1", pg::dsn(servers.node("r1"), "mon")),
        ("r2", pg::dsn(servers.node("r2"), "plain")),
    ];
    let config = "[poll]\nslow_interval = \"2s\"\n\n".to_owned() + &cluster_toml("c", &targets);
    let daemon = Daemon::start(&config).await;
    let address = daemon.url.trim_start_matches("http://").to_owned();
    let Some(prometheus) = Prometheus::start(&address).await else { return };
    let writing = async {
        loop {
            pg::write(primary).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let looking = async {
        for target in ["r1", "r2"] {
            let lag = format!("pgvigil_replay_lag_seconds{{target=\"{target}\"}}");
            let found = prometheus.until_result(&lag, SOON).await;
            assert_eq!(found.len(), 1, "{found:?}");
            let labels = serde_json::json!({
                "__name__": "pgvigil_replay_lag_seconds", "cluster": "c", "target": target, "instance": address, "job": "pgvigil",
            });
            assert_eq!(found[0].0, labels);
            assert!(found[0].1 < 2.0, "{found:?}");
        }
        assert!(prometheus.query("pgvigil_replay_lag_seconds{target=\"primary\"}").await.is_empty());
        for (query, expect) in [
            ("pgvigil_target_up", 3.0),
            ("pgvigil_target_info{role=\"primary\"}", 1.0),
            ("pgvigil_target_info{role=\"replica\"}", 2.0),
            ("pgvigil_slot_active{target=\"primary\"}", 3.0),
            ("pgvigil_build_info", 1.0),
        ] {
            let counted = format!("count({query}) == {expect}");
            prometheus.until_result(&counted, SOON).await;
        }

        let rules = prometheus.rules().await;
        assert!(rules.len() > 5, "{rules:#?}");
        for rule in &rules {
            assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule:#}");
            // What is recorded has no state, and one waits for the first scrape.
            let waits = rule["name"] == "PgvigilSilent" && rule["state"] == "pending";
            assert!(rule["state"].is_null() || rule["state"] == "inactive" || waits, "{rule:#}");
        }
        servers.node("r2").crash().await.unwrap();
        let down = prometheus.until_result("ALERTS{alertname=\"TargetDown\"}", SOON).await;
        assert_eq!((down.len(), &down[0].0["target"]), (1, &"r2".into()), "{down:?}");
        assert_eq!(lint(&daemon.metrics().await), "");
    };
    tokio::select! {
        () = looking => {}
        () = writing => unreachable!(),
    }
}
