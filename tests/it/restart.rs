//! What outlives the end of the daemon, however it ends.

use std::path::Path;
use std::time::Duration;

use crate::support::aws::{Aws, Received, Subscriber};
use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::pg;
use crate::support::proxy::{Link, Proxy};
use crate::support::until;
use pgvigil::demo::Servers;

const DOWN: &str = "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n";

fn watching(servers: &Servers, rest: &str) -> String {
    let targets = pg::targets(&servers.nodes, "mon");
    cluster_toml("c", &targets) + rest
}

async fn start(config: &str, store: &Path, aws: Option<&Aws>) -> Daemon {
    Daemon::start_with(config, |command| {
        command.env("PGVIGIL_STORE__PATH", store);
        command.envs(aws.map(Aws::environment).into_iter().flatten());
    })
    .await
}

fn state(received: &Received) -> &str {
    received.attributes.iter().find(|(name, _)| name == "state").map_or("", |(_, value)| value.as_str())
}

async fn receive_all(aws: &Aws, from: &Subscriber) -> Vec<String> {
    let mut states = Vec::new();
    while let Some(received) = aws.try_receive(from).await {
        states.push(state(&received).to_owned());
    }
    states
}

/// The daemon is killed at odd moments of incidents, half of the time while SNS is out of reach: whoever is on call hears
/// of each incident, and of its end after it.
#[tokio::test]
async fn nothing_that_was_due_is_lost_when_the_daemon_is_killed() {
    let Some(aws) = Aws::start().await else { return };
    let link = Proxy::start(aws.port).await;
    let servers = pg::cluster(1).await;
    let r1 = servers.node("r1");
    let topic = aws.topic("alerts").await;
    let subscriber = aws.subscribe(&topic, "alerts").await;
    let notify = format!(
        "[[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"{topic}\"\nendpoint_url = \"http://127.0.0.1:{}\"\n\
         timeout = \"1s\"\n",
        link.port
    );
    let config = watching(&servers, &(DOWN.to_owned() + &notify));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let mut daemon = start(&config, &store, Some(&aws)).await;
    let mut duplicates = 0;
    // Milliseconds after a fault, and after its end, at which the daemon is killed.
    for (incident, (after_fault, after_end)) in
        [(300, 2400), (1200, 150), (1900, 900), (2600, 1700)].into_iter().enumerate()
    {
        for (is_fault, moment, expect) in [(true, after_fault, "firing"), (false, after_end, "resolved")] {
            link.set(if incident % 2 == 0 { Link::Up } else { Link::Cut });
            if is_fault {
                r1.crash().await.unwrap();
            } else {
                r1.start().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(moment)).await;
            drop(daemon);
            link.set(Link::Up);
            daemon = start(&config, &store, Some(&aws)).await;
            let told = aws.receive(&subscriber, SOON).await;
            assert_eq!(state(&told), expect, "incident {incident}");
            // Until the receipt is kept, the next kill may rightly have it told again.
            until("the receipt", SOON, || async {
                let metrics = daemon.metrics().await;
                let due = series(&metrics, "pgvigil_alert", &[("rule", "Down"), ("state", expect)]);
                if expect == "resolved" || due == Some(1.0) { Ok(()) } else { Err(format!("{due:?}")) }
            })
            .await;
            let more = receive_all(&aws, &subscriber).await;
            assert!(more.iter().all(|state| state == expect), "incident {incident}: {more:?} after {expect}");
            duplicates += more.len();
        }
    }
    assert!(duplicates <= 8, "{duplicates} told twice");
    let log = daemon.log();
    assert_eq!(daemon.stop().await, Some(0), "{log}");
}

/// A clean stop and a start: what was told is not told again, what ended meanwhile is told, and the lag is exact at once.
#[tokio::test]
async fn a_restart_pages_nobody_again_and_keeps_the_lag_exact() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(2).await;
    let (r1, r2) = (servers.node("r1"), servers.node("r2"));
    let topic = aws.topic("alerts").await;
    let subscriber = aws.subscribe(&topic, "alerts").await;
    let notify = format!("[[notify]]\ntype = \"sns\"\nname = \"pager\"\ntopic_arn = \"{topic}\"\n");
    let config = watching(&servers, &(DOWN.to_owned() + &notify));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");

    let daemon = start(&config, &store, Some(&aws)).await;
    r2.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    pg::write(servers.primary()).await;
    r1.crash().await.unwrap();
    assert_eq!(state(&aws.receive(&subscriber, SOON).await), "firing");
    let lag = [("target", "r2")];
    daemon.until_series("pgvigil_replay_lag_seconds", &lag, SOON, |lag| lag > Some(3.0)).await;
    let before = daemon.series("pgvigil_replay_lag_seconds", &lag).await.unwrap();
    let stopped_at = pgvigil::clock::now();
    assert_eq!(daemon.stop().await, Some(0));

    // The file holds no password and no connection string.
    let kept = String::from_utf8_lossy(&std::fs::read(&store).unwrap()).into_owned();
    assert!(!dir.path().join("state.db-wal").exists(), "the file is closed before the daemon ends");
    assert!(kept.contains("Down") && !kept.contains("mon:mon") && !kept.contains("postgresql://"));

    let daemon = start(&config, &store, Some(&aws)).await;
    let certain = [("target", "r2"), ("certainty", "exact")];
    daemon.until_series("pgvigil_replay_lag_info", &certain, SOON, |exact| exact == Some(1.0)).await;
    let passed = pgvigil::clock::now().duration_since(stopped_at).as_secs_f64();
    let after = daemon.series("pgvigil_replay_lag_seconds", &lag).await.unwrap();
    assert!(after >= before && after <= before + passed + 2.5, "{before} s, and {after} s after {passed} s");
    daemon.until_series("pgvigil_alert", &[("rule", "Down"), ("state", "firing")], SOON, |on| on == Some(1.0)).await;
    assert_eq!(receive_all(&aws, &subscriber).await, [""; 0]);
    assert_eq!(daemon.stop().await, Some(0));

    // It ends while nobody watches.
    r1.start().await.unwrap();
    let daemon = start(&config, &store, Some(&aws)).await;
    assert_eq!(state(&aws.receive(&subscriber, SOON).await), "resolved");
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(receive_all(&aws, &subscriber).await, [""; 0]);
}

#[tokio::test]
async fn without_a_file_to_write_it_goes_on_and_says_so() {
    let servers = pg::cluster(0).await;
    let daemon = start(&watching(&servers, ""), Path::new("/proc/none/state.db"), None).await;
    let failed = [("outcome", "failed")];
    daemon.until_series("pgvigil_store_writes_total", &failed, SOON, |failed| failed >= Some(1.0)).await;
    let health = daemon.get("/healthz").await.unwrap();
    assert!(health.status == 200 && health.body.contains("degraded") && health.body.contains("store"), "{health:?}");
    daemon.until_log("the store cannot be used").await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_damaged_file_is_kept_aside() {
    let servers = pg::cluster(0).await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    std::fs::write(&store, "SQLite format 3\0 and then nothing that would follow").unwrap();
    let daemon = start(&watching(&servers, ""), &store, None).await;
    daemon.until_series("pgvigil_store_writes_total", &[("outcome", "ok")], SOON, |ok| ok >= Some(1.0)).await;
    assert_eq!(daemon.stop().await, Some(0));
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".bad-"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// The chart has what was known before the restart, and a gap where nobody watched.
#[tokio::test]
async fn charts_begin_before_the_restart() {
    let servers = pg::cluster(1).await;
    let config = watching(&servers, "");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let daemon = start(&config, &store, None).await;
    daemon.until_series("pgvigil_replay_lag_seconds", &[("target", "r1")], SOON, |lag| lag.is_some()).await;
    assert_eq!(daemon.stop().await, Some(0));
    // Nobody waits for hours: what was kept becomes an hour older.
    let readings = rusqlite::Connection::open(dir.path().join("state.db.readings")).unwrap();
    let older = "UPDATE reading SET minute = minute - 60; UPDATE run SET first = first - 60, last = last - 60";
    readings.execute_batch(older).unwrap();
    drop(readings);

    let daemon = start(&config, &store, None).await;
    daemon.until_series("pgvigil_replay_lag_seconds", &[("target", "r1")], SOON, |lag| lag.is_some()).await;
    until("the chart has both ends", SOON, || async {
        let chart = daemon.get("/api/v1/clusters/c/lag").await.unwrap().json();
        let lags = chart["series"][0]["seconds"].as_array().cloned().unwrap_or_default();
        let known: Vec<usize> = (0..lags.len()).filter(|place| lags[*place].is_number()).collect();
        let (Some(first), Some(last)) = (known.first(), known.last()) else { return Err(format!("{chart}")) };
        let gap = known.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        // Points are 15 s apart.
        if last - first > 220 && gap > 200 && *last + 2 >= lags.len() { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
    assert_eq!(daemon.stop().await, Some(0));
}
