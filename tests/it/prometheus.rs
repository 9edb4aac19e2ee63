//! What users of Prometheus and Grafana see: a real Prometheus scrapes the daemon, and what `dashboards` holds works in it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::prometheus::{Prometheus, check_rules, lint};
use crate::support::{pg, until};

/// Panels of what these servers have none of.
const MAY_BE_EMPTY: [&str; 5] = ["Slots", "Subscription", "Pooler", "Idle in transaction", "Waits for locks"];

/// Every query of the dashboard, with the title of its panel, as Grafana would send it.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/replication.json"));
    let dashboard: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let query = |panel: &Value, target: &Value| {
        let mut expr = target["expr"].as_str().unwrap().to_owned();
        for (variable, value) in [("$cluster", ".*"), ("$target", ".*"), ("$__rate_interval", "2m")] {
            expr = expr.replace(variable, value);
        }
        assert!(!expr.contains('$'), "{expr}");
        (panel["title"].as_str().unwrap().to_owned(), expr)
    };
    panels
        .iter()
        .flat_map(|panel| {
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            targets.iter().map(|target| query(panel, target)).collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
async fn prometheus_scrapes_judges_and_draws_what_is_watched() {
    let servers = pg::cluster(2).await;
    let primary = servers.primary();
    primary.sql("SELECT pg_create_physical_replication_slot('unread', true)").await.unwrap();
    // One replica is seen without grants and one rule always holds, so that there is something in every panel. It fires
    // after the first scrape, which is some five seconds after the start: an increase needs the sample before it.
    let targets = [
        ("primary", pg::dsn(primary, "mon")),
        ("r1", pg::dsn(servers.node("r1"), "mon")),
        ("r2", pg::dsn(servers.node("r2"), "plain")),
    ];
    let config = "[poll]\nslow_interval = \"2s\"\n\n".to_owned()
        + &cluster_toml("c", &targets)
        + "\n[[rule]]\nname = \"Always\"\nwhen = \"replay_lag_seconds >= 0s\"\nfor = \"15s\"\n";
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

        for (panel, query) in queries() {
            // A rate takes two samples after a change.
            if MAY_BE_EMPTY.iter().any(|title| panel.starts_with(title)) {
                // That Prometheus takes it is all that can be asked.
                prometheus.query(&query).await;
                continue;
            }
            let found = until(&format!("{panel}: {query}"), Duration::from_secs(40), || async {
                let found = prometheus.query(&query).await;
                if found.is_empty() { Err("no data".to_owned()) } else { Ok(found) }
            })
            .await;
            assert!(found.iter().all(|(_, value)| !value.is_nan()), "{panel}: {query}: {found:?}");
        }

        let rules = prometheus.rules().await;
        assert!(rules.len() > 5, "{rules:#?}");
        for rule in &rules {
            assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule:#}");
            assert_eq!(rule["state"], "inactive", "{rule:#}");
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

#[test]
fn promtool_takes_the_rules() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/alerts.yml");
    let Some((is_well, words)) = check_rules(&file) else { return };
    assert!(is_well && words.contains("SUCCESS"), "{words}");
}
