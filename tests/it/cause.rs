//! Every cause of lag, made on real servers, and what the daemon says of it: on `/metrics`, in `/healthz`, in the API and
//! in the alert.

use std::time::Duration;

use pgvigil::core::wal::Lsn;
use pgvigil::demo::{Plan, Server, Servers};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::NoTls;

use crate::support::daemon::{Daemon, SOON, cluster_toml, series};
use crate::support::proxy::{Link, Proxy};
use crate::support::{pg, until};

const CAUSE: &str = "pgvigil_replication_cause";
const DIRECTION: &str = "pgvigil_lag_direction";
/// A cause is told of a lag beyond two seconds; then it takes a survey, or some polls.
const PATIENCE: Duration = Duration::from_secs(40);

/// A daemon that polls often, surveys each second, and alerts a moment after a cause may be known.
async fn watch_as(servers: &Servers, user: &str) -> Daemon {
    let targets = pg::targets(&servers.nodes, user);
    let config = format!(
        "[poll]\ninterval = \"500ms\"\nslow_interval = \"1s\"\n\n{}\n[[rule]]\nname = \"Lagging\"\n\
         when = \"replay_lag_seconds > 7s\"\n\n[[rule]]\nname = \"NotReceiving\"\nwhen = \"receiver_running == 0\"\nfor = \"8s\"\n",
        cluster_toml("c", &targets)
    );
    Daemon::start(&config).await
}

pub(crate) async fn watch(servers: &Servers) -> Daemon {
    let daemon = watch_as(servers, "mon").await;
    for node in &servers.nodes[1..] {
        let known = |lag: Option<f64>| lag.is_some_and(|lag| lag < 1.0);
        daemon.until_series("pgvigil_replay_lag_seconds", &[("target", &node.name)], SOON, known).await;
    }
    daemon
}

/// Writes to a primary all the time, some hundred kilobytes a second, for as long as `meanwhile` takes.
pub(crate) async fn while_writing<T>(primary: &Server, rows: u32, meanwhile: impl Future<Output = T>) -> T {
    primary.sql("CREATE TABLE IF NOT EXISTS load(n int)").await.unwrap();
    let insert = format!("INSERT INTO load SELECT generate_series(1, {rows})");
    let writing = async {
        loop {
            primary.sql(&insert).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        outcome = meanwhile => outcome,
        () = writing => unreachable!(),
    }
}

/// Waits until a target's cause is this one, told in these words by `/healthz` and the API too. Gives the sentence.
pub(crate) async fn until_cause(daemon: &Daemon, target: &str, cause: &str, words: &str) -> String {
    until(&format!("{target}: {cause}"), PATIENCE, || async {
        let metrics = daemon.metrics().await;
        let told = series(&metrics, CAUSE, &[("target", target), ("cause", cause)]);
        let (_, body) = daemon.health("c", target, "").await;
        let said = body["reasons"].as_array().unwrap().iter().filter_map(|reason| reason.as_str());
        let sentence = said.clone().find(|reason| reason.contains(words));
        match sentence {
            Some(sentence) if told == Some(1.0) && body["cause"] == cause => Ok(sentence.to_owned()),
            _ => {
                let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with(CAUSE)).collect();
                Err(format!("{lines:?} {body}"))
            }
        }
    })
    .await
}

/// Waits until an alert about the target has told this.
async fn until_alert(daemon: &Daemon, rule: &str, target: &str, words: &str) {
    until_alert_within(daemon, PATIENCE, rule, target, words).await;
}

async fn until_alert_within(daemon: &Daemon, patience: Duration, rule: &str, target: &str, words: &str) {
    let head = format!("{rule} fires: c/{target} ");
    until(&format!("the alert {rule} with {words:?}"), patience, || async {
        let log = daemon.log();
        let alerts: Vec<&str> = log.lines().filter(|line| line.contains(&head)).collect();
        if alerts.iter().any(|line| line.contains(words)) { Ok(()) } else { Err(format!("{alerts:#?}")) }
    })
    .await;
}

pub(crate) async fn until_no_cause(daemon: &Daemon, target: &str) {
    daemon.until_series(CAUSE, &[("target", target)], PATIENCE, |cause| cause.is_none()).await;
}

pub(crate) async fn api(daemon: &Daemon, target: &str) -> serde_json::Value {
    let cluster = daemon.get("/api/v1/clusters/c").await.unwrap().json();
    cluster["targets"].as_array().unwrap().iter().find(|found| found["name"] == target).unwrap().clone()
}

/// Has a standby stream through a proxy before its upstream.
pub(crate) async fn through_proxy(standby: &Server, upstream: &Server) -> Proxy {
    let proxy = Proxy::start(upstream.port).await;
    standby.follow(proxy.port).await.unwrap();
    let through = format!(
        "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {}",
        proxy.port
    );
    standby.until(&through, "1", SOON).await.unwrap();
    proxy
}

fn assert_no_errors(servers: &Servers) {
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
}

#[tokio::test]
async fn paused_replay_is_told_and_so_is_its_end() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = watch(&servers).await;
    while_writing(primary, 1000, async {
        r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
        until_cause(&daemon, "r1", "replay_paused", "replay is paused").await;
        let labels = [("target", "r1")];
        daemon.until_series("pgvigil_replay_stalled", &labels, PATIENCE, |stalled| stalled == Some(1.0)).await;
        daemon
            .until_series(DIRECTION, &[("target", "r1"), ("direction", "falling_behind")], PATIENCE, |is| {
                is == Some(1.0)
            })
            .await;
        let words = "behind and falling further: replay is paused; at this rate it will not catch up";
        until_alert(&daemon, "Lagging", "r1", words).await;
        let found = api(&daemon, "r1").await;
        assert_eq!(found["cause"]["name"], "replay_paused", "{found}");
        assert_eq!(found["trend"]["direction"], "falling_behind", "{found}");
        assert!(found["trend"]["received"].as_f64() > Some(10_000.0), "{found}");
        let written = daemon.series("pgvigil_wal_write_bytes_per_second", &[("target", "primary")]).await;
        assert!(written > Some(10_000.0), "{written:?}");
        let stands = |rate| rate == Some(0.0);
        daemon.until_series("pgvigil_wal_replay_bytes_per_second", &labels, PATIENCE, stands).await;

        r1.sql("SELECT pg_wal_replay_resume()").await.unwrap();
        until_no_cause(&daemon, "r1").await;
        daemon.until_series("pgvigil_catch_up_seconds", &labels, PATIENCE, |left| left == Some(0.0)).await;
        daemon.until_series("pgvigil_replay_stalled", &labels, PATIENCE, |stalled| stalled == Some(0.0)).await;
    })
    .await;
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_delay_by_configuration_is_no_fault() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = watch(&servers).await;
    r1.configure("recovery_min_apply_delay", "1min").unwrap();
    r1.reload().await.unwrap();
    while_writing(primary, 100, async {
        until_cause(&daemon, "r1", "apply_delay", "it is configured to replay 1m late").await;
        // Replay stands at a commit, as it was told to.
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(daemon.series("pgvigil_replay_stalled", &[("target", "r1")]).await, Some(0.0));
        assert_eq!(daemon.series(CAUSE, &[("target", "r1"), ("cause", "apply_delay")]).await, Some(1.0));
    })
    .await;
    assert_no_errors(&servers);
}

/// A session on a standby that holds what its transaction has taken for as long as it is not dropped.
pub(crate) struct Reader {
    client: tokio_postgres::Client,
    connection: tokio::task::JoinHandle<()>,
}

impl Reader {
    pub(crate) async fn start(server: &Server, statements: &str) -> Self {
        let dsn = format!("host=127.0.0.1 port={} user=report dbname=postgres application_name=metabase", server.port);
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        let connection = tokio::spawn(async move { connection.await.unwrap() });
        client.simple_query(statements).await.unwrap();
        Self { client, connection }
    }

    async fn end(self) {
        drop(self.client);
        self.connection.await.unwrap();
    }
}

pub(crate) const READS: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items";

pub(crate) fn with_readers(installation: pgvigil::demo::Installation) -> Plan {
    let mut plan = Plan::new(installation)
        .standby("r1", "primary")
        .set("max_standby_streaming_delay = -1")
        .set("autovacuum = off");
    plan.setup.push(
        "CREATE ROLE report LOGIN; CREATE TABLE items AS SELECT generate_series(1, 1000) AS n; GRANT SELECT ON items TO report"
            .to_owned(),
    );
    plan
}

#[tokio::test]
async fn a_query_that_blocks_replay_is_named_on_every_major() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = Servers::start(&with_readers(installation)).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let seeing = watch(&servers).await;
        let blind = watch_as(&servers, "plain").await;
        let blocked = [("target", "r1")];

        // A lock: found without any grant.
        let reader = Reader::start(r1, READS).await;
        primary.sql("ALTER TABLE items ADD COLUMN m int").await.unwrap();
        let words = "replay is blocked by an idle transaction of user report (application metabase, pid ";
        let sentence = until_cause(&seeing, "r1", "blocked_by_query", words).await;
        assert!(!sentence.contains("SELECT"), "{sentence}");
        until_cause(&blind, "r1", "blocked_by_query", "by a session of user report (application metabase, pid ").await;
        assert_eq!(seeing.series("pgvigil_replay_blocked", &blocked).await, Some(1.0), "PostgreSQL {major}");
        assert!(seeing.series("pgvigil_replay_blocked_seconds", &blocked).await > Some(1.0), "PostgreSQL {major}");
        assert_eq!(blind.series("pgvigil_replay_blocked_seconds", &blocked).await, None, "PostgreSQL {major}");
        let by = api(&seeing, "r1").await["replay"]["blocked_by"].clone();
        assert_eq!((&by["conflict"], &by["user"]), (&"lock".into(), &"report".into()), "PostgreSQL {major}: {by}");
        reader.end().await;
        until_no_cause(&seeing, "r1").await;
        seeing.until_series("pgvigil_replay_blocked", &blocked, SOON, |blocked| blocked == Some(0.0)).await;

        // A snapshot: the blocker is the session with the oldest one.
        let reader = Reader::start(r1, READS).await;
        primary.sql("DELETE FROM items WHERE n < 900").await.unwrap();
        primary.sql("VACUUM (TRUNCATE off) items").await.unwrap();
        until_cause(&seeing, "r1", "blocked_by_query", words).await;
        let by = api(&seeing, "r1").await["replay"]["blocked_by"].clone();
        assert_eq!((&by["conflict"], &by["user"]), (&"snapshot".into(), &"report".into()), "PostgreSQL {major}: {by}");
        until_cause(&blind, "r1", "unknown", "only pg_monitor may see").await;
        assert_eq!(blind.series("pgvigil_replay_blocked", &blocked).await, None, "PostgreSQL {major}");
        if major == pg::installation().major {
            until_alert(&seeing, "Lagging", "r1", words).await;
        }
        reader.end().await;
        until_no_cause(&seeing, "r1").await;
        assert_no_errors(&servers);
    }
}

#[tokio::test]
async fn a_pinned_page_blocks_and_a_query_that_replay_ends_is_counted() {
    let servers = Servers::start(&with_readers(pg::installation())).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = watch(&servers).await;
    let reader = Reader::start(r1, "BEGIN; DECLARE c CURSOR FOR SELECT * FROM items; FETCH 1 FROM c").await;
    primary.sql("DELETE FROM items WHERE n = 1").await.unwrap();
    primary.sql("VACUUM (FREEZE) items").await.unwrap();
    let cause = until_cause(&daemon, "r1", "blocked_by_query", "of user report").await;
    assert!(cause.contains("replay is blocked"), "{cause}");
    reader.end().await;
    until_no_cause(&daemon, "r1").await;

    r1.configure("max_standby_streaming_delay", "0").unwrap();
    r1.reload().await.unwrap();
    let counted = [("target", "r1"), ("type", "lock")];
    daemon.until_series("pgvigil_recovery_conflicts_total", &counted, SOON, |count| count == Some(0.0)).await;
    let dsn = format!("host=127.0.0.1 port={} user=report dbname=postgres", r1.port);
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.simple_query(READS).await.unwrap();
    primary.sql("ALTER TABLE items ADD COLUMN m int").await.unwrap();
    daemon.until_series("pgvigil_recovery_conflicts_total", &counted, SOON, |count| count == Some(1.0)).await;
    drop(client);
    connection.await.unwrap().ok();
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_cut_receiver_is_told_from_one_that_never_connected() {
    let servers = Servers::start(&pg::plan(1).standby("c1", "r1")).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = through_proxy(r1, primary).await;
    let daemon = watch(&servers).await;
    while_writing(primary, 100, async {
        proxy.set(Link::Cut);
        until_cause(&daemon, "r1", "receiver_cut_off", "its WAL receiver is cut off from the upstream").await;
        until_alert(&daemon, "NotReceiving", "r1", "its WAL receiver is cut off from the upstream").await;
        // What is below lags for what is above.
        until_cause(&daemon, "c1", "receiver_cut_off", "its upstream r1 lags: its WAL receiver is cut off").await;
        r1.restart().await.unwrap();
        until_cause(&daemon, "r1", "never_connected", "it has not streamed since it started").await;
        proxy.set(Link::Up);
        until_no_cause(&daemon, "r1").await;
    })
    .await;
}

#[tokio::test]
async fn a_dead_link_is_told_before_the_receiver_gives_it_up() {
    let servers = Servers::start(&pg::plan(1).set("wal_receiver_timeout = '60s'").set("wal_sender_timeout = '60s'"))
        .await
        .unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = through_proxy(r1, primary).await;
    let daemon = watch(&servers).await;
    while_writing(primary, 100, async {
        proxy.set(Link::BlackHole);
        until_cause(&daemon, "r1", "receiver_cut_off", "nothing comes from its upstream though there is more").await;
    })
    .await;
}

#[tokio::test]
async fn a_slot_that_is_lost_or_gone_is_told() {
    let plan = pg::plan(1).set("max_slot_wal_keep_size = '1MB'").set("wal_keep_size = 0").set("max_wal_size = '32MB'");
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = through_proxy(r1, primary).await;
    let daemon = watch(&servers).await;
    proxy.set(Link::Cut);
    r1.until("SELECT count(*) FROM pg_stat_wal_receiver", "0", SOON).await.unwrap();
    until("the slot to be lost", SOON, || async {
        primary.sql("CREATE TABLE IF NOT EXISTS load(n int); INSERT INTO load SELECT 1").await.unwrap();
        primary.sql("SELECT pg_switch_wal()").await.unwrap();
        primary.sql("CHECKPOINT").await.unwrap();
        let status = primary.value("SELECT wal_status FROM pg_replication_slots").await.unwrap();
        if status.as_deref() == Some("lost") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    proxy.set(Link::Up);
    while_writing(primary, 100, async {
        until_cause(&daemon, "r1", "slot_lost", "its slot r1 on primary has lost WAL that it needs").await;
        until_alert(&daemon, "Lagging", "r1", "its slot r1 on primary has lost WAL that it needs").await;
        // By now the receiver has tried again and again, which gives the slot a position.
        assert_eq!(daemon.series("pgvigil_slot_retained_bytes", &[("slot", "r1")]).await, None);
        primary.sql("SELECT pg_drop_replication_slot('r1')").await.unwrap();
        until_cause(&daemon, "r1", "slot_lost", "its slot r1 on primary does not exist").await;
    })
    .await;
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_narrow_link_is_a_slow_network() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = through_proxy(r1, primary).await;
    let daemon = watch(&servers).await;
    while_writing(primary, 10_000, async {
        proxy.set(Link::Throttled(256 * 1024));
        until_cause(&daemon, "r1", "slow_network", "WAL arrives slower than it is made (").await;
        until_alert(&daemon, "Lagging", "r1", "WAL arrives slower than it is made (").await;
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_works_off_what_it_missed_is_catching_up() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let proxy = through_proxy(r1, primary).await;
    let daemon = watch(&servers).await;
    r1.stop().await.unwrap();
    while_writing(primary, 100, async {
        until_cause(&daemon, "r1", "replica_unreachable", "it does not answer (connection refused)").await;
    })
    .await;
    primary.sql("INSERT INTO load SELECT generate_series(1, 500000)").await.unwrap();
    proxy.set(Link::Throttled(2 * 1024 * 1024));
    r1.start().await.unwrap();
    until_cause(&daemon, "r1", "catching_up", "it is catching up since it started").await;
    let labels = [("target", "r1"), ("direction", "catching_up")];
    daemon.until_series(DIRECTION, &labels, PATIENCE, |is| is == Some(1.0)).await;
    let sensible = |left: Option<f64>| left.is_some_and(|left| (0.5..60.0).contains(&left));
    daemon.until_series("pgvigil_catch_up_seconds", &[("target", "r1")], PATIENCE, sensible).await;
    proxy.set(Link::Up);
    until_no_cause(&daemon, "r1").await;
}

/// Lets a process run for a hundredth of the time, for as long as it lives.
async fn slow_down(pid: Pid) {
    loop {
        kill_process(pid, Signal::STOP).unwrap();
        tokio::time::sleep(Duration::from_millis(198)).await;
        kill_process(pid, Signal::CONT).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn replay_that_is_slower_than_the_primary_writes_is_told() {
    let servers = pg::cluster(1).await;
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = watch(&servers).await;
    let pid = r1.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'").await.unwrap().unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    while_writing(primary, 30_000, async {
        tokio::select! {
            () = slow_down(pid) => unreachable!(),
            () = async {
                until_cause(&daemon, "r1", "slow_replay", "WAL is replayed slower than it is made (").await;
                until_alert(&daemon, "Lagging", "r1", "WAL is replayed slower than it is made (").await;
            } => {}
        }
        kill_process(pid, Signal::CONT).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_standby_that_lives_on_an_archive_is_told() {
    let plan = pg::plan(1)
        .set("archive_mode = on")
        .set("archive_command = 'cp %p ../archived-%f'")
        .set("restore_command = 'cp ../archived-%f %p'");
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let daemon = watch(&servers).await;
    let blind = watch_as(&servers, "plain").await;
    r1.configure("primary_conninfo", "").unwrap();
    r1.reload().await.unwrap();
    while_writing(primary, 100, async {
        until_cause(&daemon, "r1", "archive_recovery", "it has only the archive to get WAL from").await;
        // Without the grant it is told by what it does.
        let seen =
            until_cause(&blind, "r1", "archive_recovery", "it restores WAL from the archive and does not stream");
        tokio::select! {
            _ = seen => {}
            () = async {
                loop {
                    primary.sql("SELECT pg_switch_wal()").await.unwrap();
                    // Long enough for a lag in between.
                    tokio::time::sleep(Duration::from_secs(4)).await;
                }
            } => {}
        }
    })
    .await;
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_replica_ahead_of_the_fork_has_diverged() {
    let servers = pg::cluster(2).await;
    let (primary, r1, r2) = (servers.primary(), servers.node("r1"), servers.node("r2"));
    let proxy = through_proxy(r1, primary).await;
    let daemon = watch(&servers).await;
    proxy.set(Link::Cut);
    r1.until("SELECT count(*) FROM pg_stat_wal_receiver", "0", SOON).await.unwrap();
    let written = pg::write(primary).await;
    r2.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t", SOON).await.unwrap();
    let written: Lsn = written.parse().unwrap();
    until("r2 to be polled", SOON, || async {
        let lsn: Lsn = api(&daemon, "r2").await["lsn"].as_str().unwrap().parse().unwrap();
        if lsn >= written { Ok(()) } else { Err(lsn.to_string()) }
    })
    .await;
    primary.stop().await.unwrap();
    r1.promote().await.unwrap();
    r1.sql("SELECT pg_create_physical_replication_slot('r2', true)").await.unwrap();
    r2.follow(r1.port).await.unwrap();
    while_writing(r1, 100, async {
        until_cause(&daemon, "r2", "timeline_diverged", "its WAL has diverged: on timeline 1 it replayed up to ").await;
        // What lags since the promotion is held for a minute.
        let patience = PATIENCE + Duration::from_secs(60);
        until_alert_within(&daemon, patience, "Lagging", "r2", "its WAL has diverged: on timeline 1").await;
    })
    .await;
}

#[tokio::test]
async fn a_primary_that_is_down_is_why_nobody_knows() {
    let servers = pg::cluster(1).await;
    let daemon = watch(&servers).await;
    servers.primary().crash().await.unwrap();
    let words = "the primary primary does not answer (connection refused)";
    until_cause(&daemon, "r1", "primary_unreachable", words).await;
    until_alert(&daemon, "NotReceiving", "r1", words).await;
    servers.primary().start().await.unwrap();
    until_no_cause(&daemon, "r1").await;
}

/// Of a receiver that has not reached its upstream 19 shows a row, with times that it has from nobody; older ones show none.
#[tokio::test]
async fn a_receiver_that_does_not_reach_its_upstream_receives_nothing_on_any_major() {
    for installation in pg::installations().into_iter().filter(|installation| installation.major >= 18) {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation).standby("r1", "primary")).await.unwrap();
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let proxy = through_proxy(r1, primary).await;
        let daemon = watch(&servers).await;
        let labels = [("target", "r1")];
        while_writing(primary, 100, async {
            proxy.set(Link::Cut);
            daemon.until_series("pgvigil_receiver_running", &labels, SOON, |running| running == Some(0.0)).await;
            proxy.set(Link::BlackHole);
            let connecting = [("target", "r1"), ("status", "connecting")];
            let words = if major >= 19 {
                daemon.until_series("pgvigil_receiver_info", &connecting, SOON, |is| is == Some(1.0)).await;
                "its WAL receiver is connecting to the upstream, and no stream has begun"
            } else {
                "its WAL receiver is cut off from the upstream"
            };
            until_cause(&daemon, "r1", "receiver_cut_off", words).await;
            until_alert(&daemon, "NotReceiving", "r1", "receives no WAL").await;
            let metrics = daemon.metrics().await;
            assert_eq!(series(&metrics, "pgvigil_receiver_running", &labels), Some(0.0), "PostgreSQL {major}");
            assert_eq!(series(&metrics, "pgvigil_receiver_message_age_seconds", &labels), None, "PostgreSQL {major}");
            assert_eq!(series(&metrics, "pgvigil_receiver_info", &connecting).is_some(), major >= 19);
        })
        .await;
        proxy.set(Link::Cut);
        proxy.set(Link::Up);
        until_no_cause(&daemon, "r1").await;
        daemon.until_series("pgvigil_receiver_running", &labels, SOON, |running| running == Some(1.0)).await;

        // Of streamed WAL that waits for replay 19 shows since when it does.
        let age = "pgvigil_replay_chunk_age_seconds";
        if major >= 19 {
            r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
            r1.until("SELECT pg_get_wal_replay_pause_state()", "paused", SOON).await.unwrap();
            pg::write(primary).await;
            daemon.until_series(age, &labels, SOON, |age| age > Some(3.0)).await;
            r1.sql("SELECT pg_wal_replay_resume()").await.unwrap();
            daemon.until_series(age, &labels, SOON, |age| age == Some(0.0)).await;
        } else {
            assert_eq!(daemon.series(age, &labels).await, None);
        }
        assert_no_errors(&servers);
    }
}
