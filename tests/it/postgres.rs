//! Every line of SQL on every major there is, and the poll loop on servers that break.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::postgres::connect;
use pgvigil::collect::session::{Limits, SettingsBy};
use pgvigil::collect::tls::Trust;
use pgvigil::collect::{self, PollConfig, Probe, StatementsConfig, TargetSpec};
use pgvigil::core::fleet::Event;
use pgvigil::core::observation::{
    Observation, PollFailure, Receiver, ReplayPause, SenderState, ServerState, StatementsAccess,
};
use pgvigil::core::survey::{Slot, SurveyFacts};
use pgvigil::core::topology::{Name, Role, TargetId};
use pgvigil::core::wal::Timeline;
use pgvigil::demo::{Plan, Server, Servers};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::daemon::{Daemon, cluster_toml};
use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::{Link, Proxy};
use crate::support::{pg, until};

const SOON: Duration = Duration::from_secs(20);

async fn probe_at(port: u16, user: &str) -> Probe {
    let conninfo = Arc::new(Conninfo::parse(&pg::dsn_at(port, user)).unwrap());
    let id = TargetId::new("c", "t");
    collect::probe(id, conninfo, Duration::from_secs(10), true, Arc::new(Trust::default())).await.unwrap()
}

async fn probe(server: &Server, user: &str) -> Probe {
    probe_at(server.port, user).await
}

async fn survey(server: &Server, user: &str) -> SurveyFacts {
    probe(server, user).await.survey.unwrap()
}

/// A cluster that is watched, the way the daemon does it.
struct Watched {
    events: mpsc::Receiver<Event>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Watched {
    fn start(targets: &[(&str, u16)], user: &str, poll: &PollConfig) -> Self {
        let specs = targets.iter().map(|(name, port)| TargetSpec {
            name: Name::new(name),
            conninfo: Arc::new(Conninfo::parse(&pg::dsn_at(*port, user)).unwrap()),
        });
        let trust = Arc::new(Trust::default());
        let (beat, targets) =
            collect::cluster(0, &Name::new("c"), specs.collect(), poll, StatementsConfig::default(), &trust);
        let (sender, events) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(beat.run(CancellationToken::new()));
        for target in targets {
            tasks.spawn(target.run(sender.clone(), CancellationToken::new()));
        }
        Self { events, _tasks: tasks }
    }

    /// The next fast poll, of any target.
    async fn polled(&mut self) -> Observation {
        loop {
            let event = tokio::time::timeout(SOON, self.events.recv()).await.expect("no poll ended").unwrap();
            if let Event::Polled(observation) = event {
                return observation;
            }
        }
    }

    /// The first poll of `target` of which `holds`, and all polls up to it.
    async fn until(&mut self, target: &str, holds: impl Fn(&Observation) -> bool) -> (Observation, Vec<Observation>) {
        let mut before = Vec::new();
        let patience = tokio::time::Instant::now() + SOON;
        loop {
            assert!(tokio::time::Instant::now() < patience, "it never came: {before:#?}");
            let observation = self.polled().await;
            if observation.target.target.as_str() == target && holds(&observation) {
                return (observation, before);
            }
            before.push(observation);
        }
    }
}

fn role(observation: &Observation) -> Option<Role> {
    observation.outcome.as_ref().ok().map(pgvigil::core::observation::Positions::role)
}

fn assert_no_errors(servers: &Servers) {
    for node in &servers.nodes {
        assert_eq!(pg::errors_caused_by_us(node), Vec::<String>::new(), "{}", node.name);
    }
}

#[tokio::test]
async fn every_major_answers_with_and_without_a_grant_and_logs_no_error() {
    for installation in pg::installations() {
        let (major, has_statements) = (installation.major, installation.has_pg_stat_statements());
        let plan = Plan::new(installation).standby("r1", "primary").standby("c1", "r1");
        let servers = Servers::start(&plan).await.unwrap();
        let written = pg::write(servers.primary()).await;
        for node in &servers.nodes[1..] {
            node.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t", SOON).await.unwrap();
        }
        let system_identifier = servers.primary().value("SELECT system_identifier FROM pg_control_system()").await;
        let system_identifier = system_identifier.unwrap().unwrap().parse().unwrap();

        for (user, is_granted) in [("mon", true), ("plain", false)] {
            for (node, below) in [("primary", Some("r1")), ("r1", Some("c1")), ("c1", None)] {
                let what = format!("PostgreSQL {major}, {node}, {user}");
                let Probe { identity, positions, survey, checkup, refused: _ } = probe(servers.node(node), user).await;
                assert_eq!(checkup.failures, [], "{what}");
                let settings = checkup.settings.unwrap();
                // One came with 17, two come with the extension, and one is shown to pg_monitor alone.
                let n_settings =
                    20 + usize::from(major >= 17) + 2 * usize::from(has_statements) + usize::from(is_granted);
                assert_eq!(settings.len(), n_settings, "{what}: {settings:?}");
                let role = checkup.role.unwrap();
                assert_eq!((role.is_superuser, role.valid_until, role.connection_limit), (false, None, None), "{what}");
                assert!(checkup.slots.is_some() && checkup.archiver.is_some(), "{what}");
                assert_eq!(checkup.cancelled_queries, Some(0), "{what}");
                assert_eq!((checkup.certificate, checkup.by_rds_proxy), (None, false), "{what}");
                if has_statements {
                    let extension = checkup.extension.unwrap();
                    assert_eq!(Some(extension.default_version), extension.installed_version, "{what}");
                }
                assert_eq!(identity.version_num / 10_000, major, "{what}");
                assert_eq!(identity.system_identifier, Some(system_identifier), "{what}");
                assert_eq!((identity.user.as_str(), identity.reads_all_stats), (user, is_granted), "{what}");
                assert_eq!((identity.cluster_name.as_str(), identity.pooled), (node, false), "{what}");

                let positions = positions.unwrap_or_else(|failure| panic!("{what}: {failure}"));
                match positions.state {
                    ServerState::Primary(state) => {
                        assert_eq!(node, "primary", "{what}");
                        assert_eq!(state.timeline, Timeline(1), "{what}");
                        assert!(state.flush_lsn >= written.parse().unwrap(), "{what}");
                        assert!(state.checkpoint.is_some(), "{what}");
                    }
                    ServerState::Aurora(_) => panic!("{what}"),
                    ServerState::Standby(state) => {
                        assert_ne!(node, "primary", "{what}");
                        assert!(state.replay_lsn >= Some(written.parse().unwrap()), "{what}: {state:?}");
                        assert!(state.last_commit_replayed_at.is_some(), "{what}: {state:?}");
                        assert_eq!(state.control_timeline, Some(Timeline(1)), "{what}");
                        assert_eq!(state.pause, ReplayPause::NotPaused, "{what}");
                        match (is_granted, state.receiver) {
                            (true, Receiver::Running(receiver)) => {
                                assert_eq!(receiver.status, "streaming", "{what}");
                                assert_eq!(receiver.timeline, Some(Timeline(1)), "{what}");
                                assert_eq!(receiver.slot_name.as_deref(), Some(node), "{what}");
                                assert!(receiver.last_msg_sent_at.is_some(), "{what}");
                            }
                            (false, Receiver::Hidden) => {}
                            (_, receiver) => panic!("{what}: {receiver:?}"),
                        }
                    }
                }
                let senders: Vec<_> =
                    positions.senders.iter().map(|sender| (sender.application_name.as_deref(), sender.state)).collect();
                let state = is_granted.then_some(SenderState::Streaming);
                assert_eq!(senders, below.map(|name| (Some(name), state)).into_iter().collect::<Vec<_>>(), "{what}");

                let survey = survey.unwrap_or_else(|failure| panic!("{what}: {failure}"));
                assert_eq!(survey.failures, [], "{what}");
                let sessions = survey.sessions.unwrap();
                assert!(sessions.total >= 1 && sessions.max_connections >= 100, "{what}: {sessions:?}");
                let found = survey.slots.unwrap();
                let slots: Vec<_> = found.iter().map(|slot| (slot.name.as_str(), slot.active)).collect();
                assert_eq!(slots, below.map(|name| (name, true)).into_iter().collect::<Vec<_>>(), "{what}");
                assert!(found.iter().all(|slot| slot.retained_bytes.is_some()), "{what}");
                assert_eq!(survey.apply_delay_seconds, Some(0.0), "{what}");
                if has_statements {
                    assert!(matches!(identity.statements, StatementsAccess::Readable { .. }), "{what}");
                    let statements = survey.statements.unwrap();
                    assert_eq!(statements.evicted.is_some(), major >= 14, "{what}");
                    assert_eq!(statements.reset_at.is_some(), major >= 14, "{what}");
                    assert!(!statements.rows.is_empty(), "{what}");
                    // The first survey has nothing to compare it with, and asks for less.
                    assert!(statements.rows.iter().all(|row| row.since.is_none()), "{what}");
                    let others_are_hidden = statements.rows.iter().any(|row| row.key.queryid.is_none());
                    assert!(!(is_granted && others_are_hidden), "{what}");
                }
            }
        }
        assert_no_errors(&servers);
    }
}

#[tokio::test]
async fn slow_facts_are_counted_as_they_are() {
    let plan = pg::plan(1);
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let mut open = Vec::new();
    for statement in ["SELECT 1", "SELECT 1", "BEGIN"] {
        let (client, connection) =
            tokio_postgres::connect(&pg::dsn(primary, "postgres"), tokio_postgres::NoTls).await.unwrap();
        let running = tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
        open.push((client, running));
    }
    primary.sql("SELECT pg_create_physical_replication_slot('idle', true)").await.unwrap();
    pg::write(primary).await;

    let survey_of_mon = survey(primary, "mon").await;
    let expect = [("active", 1), ("idle", 2), ("idle in transaction", 1)].map(|(state, n)| (state.to_owned(), n));
    let sessions = survey_of_mon.sessions.unwrap();
    assert_eq!(sessions.by_state, expect);
    assert_eq!(sessions.total, 4);
    let slots: Vec<Slot> = survey_of_mon.slots.unwrap();
    let idle = slots.iter().find(|slot| slot.name == "idle").unwrap();
    assert!(!idle.active && idle.retained_bytes > Some(0) && idle.wal_status == Some("reserved"), "{idle:?}");

    // Without the grant they are there all the same; only their state is not known.
    let sessions = survey(primary, "plain").await.sessions.unwrap();
    let unknown = sessions.by_state.iter().find(|(state, _)| state == "unknown").map(|(_, count)| *count);
    assert!(unknown >= Some(3) && sessions.total >= 4, "{sessions:?}");

    r1.sql("ALTER SYSTEM SET recovery_min_apply_delay = '90s'").await.unwrap();
    r1.reload().await.unwrap();
    until("the delay", SOON, || async {
        let delay = survey(r1, "plain").await.apply_delay_seconds;
        if delay == Some(90.0) { Ok(()) } else { Err(format!("the delay is {delay:?}")) }
    })
    .await;
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_paused_and_severed_standby_is_seen_as_both() {
    let servers = pg::cluster(1).await;
    let r1 = servers.node("r1");
    r1.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    servers.primary().crash().await.unwrap();
    until("paused, and no receiver", SOON, || async {
        let positions = probe(r1, "plain").await.positions.unwrap();
        let state = positions.standby().unwrap().clone();
        match (state.pause, &state.receiver) {
            (ReplayPause::Paused, Receiver::Absent) => {
                assert_eq!(state.control_timeline, Some(Timeline(1)));
                Ok(())
            }
            _ => Err(format!("{state:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_promotion_is_seen_in_the_same_session_without_an_error() {
    let servers = pg::cluster(1).await;
    let targets = [("primary", servers.primary().port), ("r1", servers.node("r1").port)];
    let mut watched = Watched::start(&targets, "plain", &PollConfig::default());
    watched.until("r1", |observation| role(observation) == Some(Role::Replica)).await;
    servers.node("r1").promote().await.unwrap();
    let (promoted, before) = watched.until("r1", |observation| role(observation) == Some(Role::Primary)).await;
    assert_eq!(promoted.outcome.unwrap().primary().unwrap().timeline, Timeline(2));
    assert!(before.iter().all(|observation| observation.outcome.is_ok()), "{before:#?}");
    assert_no_errors(&servers);
}

#[tokio::test]
async fn replicas_are_asked_after_the_primary_has_answered() {
    let servers = pg::cluster(2).await;
    let targets =
        [("r1", servers.node("r1").port), ("primary", servers.primary().port), ("r2", servers.node("r2").port)];
    // Trusted: the cost of a password's hash would blur the times.
    let mut watched = Watched::start(&targets, "postgres", &PollConfig::default());
    let mut beats: BTreeMap<u64, Vec<Observation>> = BTreeMap::new();
    // From the third beat on, all roles are known.
    let is_whole = |(beat, polls): &(&u64, &Vec<Observation>)| **beat > 2 && polls.len() == 3;
    while beats.iter().filter(is_whole).count() < 3 {
        let poll = watched.polled().await;
        beats.entry(poll.beat).or_default().push(poll);
    }
    for (_, polls) in beats.iter().filter(is_whole) {
        let (primaries, replicas): (Vec<_>, Vec<_>) = polls.iter().partition(|poll| role(poll) == Some(Role::Primary));
        assert_eq!((primaries.len(), replicas.len()), (1, 2), "{polls:#?}");
        for replica in replicas {
            let waited = replica.asked_at.seconds_since(primaries[0].answered_at);
            assert!((0.0..0.5).contains(&waited), "{waited}: {polls:#?}");
        }
    }
}

#[tokio::test]
async fn a_hung_server_costs_itself_alone_and_is_seen_when_it_is_back() {
    let servers = pg::cluster(2).await;
    let poll = PollConfig { timeout: Duration::from_secs(1), ..PollConfig::default() };
    for hung in ["primary", "r1"] {
        let targets = ["primary", "r1", "r2"].map(|name| (name, servers.node(name).port));
        let mut watched = Watched::start(&targets, "postgres", &poll);
        watched.until(hung, |observation| observation.outcome.is_ok() && observation.beat > 1).await;
        servers.node(hung).freeze();
        let (failed, _) = watched.until(hung, |observation| observation.outcome.is_err()).await;
        let took = failed.answered_at.seconds_since(failed.asked_at);
        assert!((0.9..1.5).contains(&took), "{took}: {failed:?}");
        assert!(matches!(failed.outcome, Err(PollFailure::Timeout { limit_ms: 1000, .. })), "{failed:?}");

        let (_, others) = watched.until("r2", |observation| observation.beat >= failed.beat + 4).await;
        let others: Vec<_> = others.iter().filter(|poll| poll.target.target.as_str() != hung).collect();
        assert!(others.len() >= 4 && others.iter().all(|poll| poll.outcome.is_ok()), "{others:#?}");

        servers.node(hung).thaw();
        watched.until(hung, |observation| observation.outcome.is_ok()).await;
    }
}

#[tokio::test]
async fn a_restart_is_seen_at_once_and_told_from_a_lost_connection() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    let mut watched = Watched::start(&[("primary", primary.port)], "plain", &PollConfig::default());
    let (first, _) = watched.until("primary", |observation| observation.outcome.is_ok()).await;
    let started_at = first.outcome.unwrap().identity.started_at;
    primary.stop().await.unwrap();
    watched.until("primary", |observation| observation.outcome == Err(PollFailure::Refused)).await;
    primary.start().await.unwrap();
    let (again, before) = watched.until("primary", |observation| observation.outcome.is_ok()).await;
    let positions = again.outcome.unwrap();
    assert!(positions.identity.started_at > started_at);
    assert!(positions.primary().unwrap().checkpoint.is_some());
    let proven_down = |poll: &Observation| poll.outcome.as_ref().is_err_and(PollFailure::proves_down);
    assert!(before.len() <= 2 && before.iter().all(proven_down), "{before:#?}");
}

#[tokio::test]
async fn a_session_that_was_cut_is_opened_again_within_the_poll() {
    let servers = pg::cluster(0).await;
    let proxy = Proxy::start(servers.primary().port).await;
    let mut watched = Watched::start(&[("primary", proxy.port)], "plain", &PollConfig::default());
    watched.until("primary", |observation| observation.outcome.is_ok()).await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'plain'";
    for _ in 0..3 {
        let sessions = proxy.accepted();
        assert_eq!(servers.primary().value(terminate).await.unwrap().as_deref(), Some("1"));
        let (_, before) =
            watched.until("primary", |observation| observation.outcome.is_ok() && proxy.accepted() > sessions).await;
        assert!(before.iter().all(|poll| poll.outcome.is_ok()), "{before:#?}");
    }
    proxy.set(Link::Cut);
    watched.until("primary", |observation| observation.outcome.is_err()).await;
}

#[tokio::test]
async fn what_is_not_permitted_is_never_asked_and_a_grant_is_noticed() {
    let mut plan = pg::plan(0);
    let functions = ["pg_control_system()", "pg_control_checkpoint()", "pg_stat_statements(boolean)"];
    for function in functions {
        plan.setup.push(format!("REVOKE EXECUTE ON FUNCTION {function} FROM public"));
    }
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    let poll = PollConfig { slow_interval: Duration::from_millis(1500), ..PollConfig::default() };
    let mut watched = Watched::start(&[("primary", primary.port)], "plain", &poll);
    let (observation, _) = watched.until("primary", |observation| observation.beat >= 5).await;
    let positions = observation.outcome.unwrap();
    assert_eq!(positions.identity.system_identifier, None);
    assert_eq!(positions.primary().unwrap().checkpoint, None);
    // Nor is it asked by the next session.
    primary.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'plain'").await.unwrap();
    watched.until("primary", |later| later.outcome.is_ok() && later.beat > observation.beat + 2).await;
    for function in functions {
        primary.sql(&format!("GRANT EXECUTE ON FUNCTION {function} TO public")).await.unwrap();
    }
    let has_checkpoint = |later: &Observation| {
        let primary = later.outcome.as_ref().ok().and_then(|positions| positions.primary());
        primary.is_some_and(|primary| primary.checkpoint.is_some())
    };
    let (later, _) = watched.until("primary", has_checkpoint).await;
    assert!(later.outcome.unwrap().identity.system_identifier.is_some());
    assert_no_errors(&servers);
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_may_stand_in_between() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    // One refuses settings at start-up, the other drops them without a word.
    let Some(pooler) = PgBouncer::start(primary.port).await else { return };
    let Some(ignoring) = PgBouncer::start_with(primary.port, "ignore_startup_parameters = options").await else {
        return;
    };
    for pooler in [&pooler, &ignoring] {
        let Probe { identity, positions, survey, checkup, refused: _ } = probe_at(pooler.port, "mon").await;
        assert_eq!(checkup.failures, []);
        assert!(checkup.settings.is_some() && !checkup.by_rds_proxy);
        assert!(identity.pooled && identity.system_identifier.is_some(), "{identity:?}");
        assert!(positions.unwrap().primary().is_some());
        let survey = survey.unwrap();
        assert!(survey.sessions.is_some() && survey.statements.is_some() && survey.failures.is_empty(), "{survey:?}");

        let conninfo = Conninfo::parse(&pg::dsn_at(pooler.port, "mon")).unwrap();
        let limits = Limits::within(Duration::from_secs(10));
        let session = connect(&conninfo, &limits, SettingsBy::Session, &Trust::default()).await.unwrap();
        let written = session.simple_query("CREATE TABLE ours()").await.unwrap_err();
        assert!(matches!(written, PollFailure::Sql { ref sqlstate, .. } if sqlstate == "25006"), "{written:?}");
        // The refused transaction is over: the next question is not met by its ruins.
        session.simple_query("SELECT 1").await.unwrap();
    }

    // The client's session outlives the server's, and notices that the server is another process now.
    let mut watched = Watched::start(&[("primary", pooler.port)], "mon", &PollConfig::default());
    let (first, _) = watched.until("primary", |observation| observation.outcome.is_ok() && observation.beat > 1).await;
    let started_at = first.outcome.unwrap().identity.started_at;
    primary.restart().await.unwrap();
    watched
        .until("primary", |observation| {
            observation.outcome.as_ref().is_ok_and(|positions| positions.identity.started_at > started_at)
        })
        .await;
}

#[tokio::test]
async fn what_is_not_permitted_is_never_asked_and_named() {
    let mut plan = pg::plan(1);
    for (user, function) in [
        ("lacks_flush", "pg_current_wal_flush_lsn()"),
        ("lacks_role", "pg_is_in_recovery()"),
        ("lacks_replay", "pg_last_wal_replay_lsn()"),
        ("lacks_view", "pg_show_all_settings()"),
        ("lacks_setting", "current_setting(text)"),
    ] {
        plan.setup.push(format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"));
        plan.setup.push(format!("CREATE ROLE {user} LOGIN PASSWORD '{user}'; GRANT pg_monitor TO {user}"));
    }
    for (user, granted) in [
        ("lacks_flush", "pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_show_all_settings(), current_setting(text)"),
        ("lacks_role", "pg_current_wal_flush_lsn(), pg_show_all_settings(), current_setting(text)"),
        (
            "lacks_replay",
            "pg_is_in_recovery(), pg_current_wal_flush_lsn(), pg_show_all_settings(), current_setting(text)",
        ),
        (
            "lacks_view",
            "pg_is_in_recovery(), pg_current_wal_flush_lsn(), pg_last_wal_replay_lsn(), current_setting(text)",
        ),
        (
            "lacks_setting",
            "pg_is_in_recovery(), pg_current_wal_flush_lsn(), pg_last_wal_replay_lsn(), pg_show_all_settings()",
        ),
    ] {
        plan.setup.push(format!("GRANT EXECUTE ON FUNCTION {granted} TO {user}"));
    }
    let servers = Servers::start(&plan).await.unwrap();
    let (primary, r1) = (servers.primary(), servers.node("r1"));
    let target = |name, node, user| (name, pg::dsn(node, user));
    let targets = [
        target("no-flush", primary, "lacks_flush"),
        target("no-role", primary, "lacks_role"),
        target("no-replay", r1, "lacks_replay"),
        target("no-view", primary, "lacks_view"),
        target("no-setting", r1, "lacks_setting"),
    ];
    let polls = "[poll]\ninterval = \"200ms\"\nslow_interval = \"1s\"\n\n";
    let daemon = Daemon::start(&format!("{polls}{}", cluster_toml("c", &targets))).await;
    // Failures are told at each beat that is not skipped: by then a server asked again would have said so twice.
    let failed = |n: f64| move |is: Option<f64>| is >= Some(n);
    daemon.until_series("pgvigil_polls_total", &[("outcome", "sql")], SOON, failed(6.0)).await;
    for (name, is_up) in
        [("no-flush", 0.0), ("no-role", 0.0), ("no-replay", 1.0), ("no-view", 1.0), ("no-setting", 1.0)]
    {
        daemon.until_series("pgvigil_target_up", &[("target", name)], SOON, |is| is == Some(is_up)).await;
    }
    for (name, function) in [("no-flush", "pg_current_wal_flush_lsn"), ("no-role", "pg_is_in_recovery")] {
        let (status, health) = daemon.health("c", name, "").await;
        assert_eq!(status, 503);
        assert!(
            health["reasons"].to_string().contains(&format!("permission denied for function {function}")),
            "{health}"
        );
    }
    assert_eq!(daemon.series("pgvigil_replay_lag_seconds", &[("target", "no-replay")]).await, None);
    // What the role may not use is not asked for, except for the view that the first question of all needs: once.
    let errors = || [primary, r1].map(pg::errors_caused_by_us).concat();
    let only_once = |errors: &[String]| matches!(errors, [line] if line.contains("function pg_show_all_settings"));
    assert!(only_once(&errors()), "{:#?}", errors());
    let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lacks_view'";
    primary.sql(ours).await.unwrap();
    for (user, function) in [
        ("lacks_flush", "pg_current_wal_flush_lsn()"),
        ("lacks_role", "pg_is_in_recovery()"),
        ("lacks_replay", "pg_last_wal_replay_lsn()"),
    ] {
        primary.sql(&format!("GRANT EXECUTE ON FUNCTION {function} TO {user}")).await.unwrap();
    }
    for name in ["no-flush", "no-role"] {
        daemon.until_series("pgvigil_target_up", &[("target", name)], SOON, |is| is == Some(1.0)).await;
    }
    let lag = |lag: Option<f64>| lag.is_some();
    daemon.until_series("pgvigil_replay_lag_seconds", &[("target", "no-replay")], SOON, lag).await;
    assert!(only_once(&errors()), "{:#?}", errors());
}
