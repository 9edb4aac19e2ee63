//! What a server, a database, a role, a pooler or a login event trigger sets has no effect on what is observed.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::postgres::connect;
use pgvigil::collect::session::{Limits, SettingsBy};
use pgvigil::collect::settings::{FORCED, LEFT};
use pgvigil::collect::tls::Trust;
use pgvigil::collect::{self, Probe};
use pgvigil::core::observation::{PollFailure, Receiver, ServerState};
use pgvigil::core::topology::{Role, TargetId};
use pgvigil::demo::{Installation, Plan, Server, Servers};

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::pgbouncer::PgBouncer;
use crate::support::random::Random;
use crate::support::{pg, until};

async fn probe(port: u16) -> Result<Probe, PollFailure> {
    let conninfo = Arc::new(Conninfo::parse(&pg::dsn_at(port, "mon")).unwrap());
    collect::probe(TargetId::new("c", "t"), conninfo, SOON, true, Arc::new(Trust::default())).await
}

/// What does not change from one look to the next, as text. All that was asked must have been answered.
async fn facts(port: u16) -> Result<String, String> {
    let Probe { identity, positions, survey, refused, checkup } =
        probe(port).await.map_err(|failure| failure.to_string())?;
    let positions = positions.map_err(|failure| failure.to_string())?;
    let mut survey = survey.map_err(|failure| failure.to_string())?;
    let mut identity = (*identity).clone();
    identity.pooled = false;
    identity.address.configured = None;
    let senders: BTreeSet<_> = positions
        .senders
        .iter()
        .map(|sender| {
            let client = sender.client.as_ref().map(|client| (client.slot.clone(), client.address));
            format!("{:?} {:?} {client:?}", sender.application_name, sender.state)
        })
        .collect();
    let state = match &positions.state {
        ServerState::Primary(primary) => format!("primary {:?} {}", primary.timeline, primary.checkpoint.is_some()),
        ServerState::Standby(standby) => {
            let receiver = match &standby.receiver {
                Receiver::Running(receiver) => {
                    format!("{} {:?} {:?}", receiver.status, receiver.slot_name, receiver.timeline)
                }
                other => format!("{other:?}"),
            };
            format!("standby {:?} {:?} {receiver}", standby.control_timeline, standby.pause)
        }
        ServerState::Aurora(_) => unreachable!(),
    };
    let sessions = survey.sessions.take().map(|sessions| (sessions.max_connections, sessions.activity.is_some()));
    let mut slots: Vec<_> = survey.slots.take().unwrap_or_default();
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let slots: Vec<_> =
        slots.into_iter().map(|slot| (slot.name, slot.slot_type, slot.active, slot.wal_status)).collect();
    let statements = survey.statements.take().map(|statements| statements.rows.is_empty());
    let (settings, role) = (checkup.settings.is_some(), checkup.role.map(|role| role.is_superuser));
    Ok(format!(
        "{identity:?}\n{senders:?}\n{state}\n{sessions:?}\n{slots:?}\n{statements:?}\n{survey:?}\n{refused:?}\n{settings} \
         {role:?}\n{:?}",
        checkup.failures
    ))
}

async fn facts_in_time(port: u16) -> Result<String, String> {
    let asked = tokio::time::timeout(2 * SOON, facts(port)).await;
    asked.unwrap_or_else(|_| Err("no answer".to_owned()))
}

#[tokio::test]
async fn each_setting_that_a_session_can_have_is_made_or_known_not_to_matter() {
    let known: HashSet<String> = FORCED
        .iter()
        .map(|setting| setting.name)
        .chain(LEFT.iter().flat_map(|(_, names)| names.split_whitespace()))
        .map(str::to_lowercase)
        .collect();
    for installation in pg::installations() {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation)).await.unwrap();
        let settable = "SELECT lower(name) FROM pg_settings WHERE name NOT LIKE '%.%' \
                        AND context IN ('user', 'superuser', 'backend', 'superuser-backend')";
        let rows = servers.primary().sql(settable).await.unwrap();
        let unknown: Vec<String> = rows.into_iter().flatten().flatten().filter(|name| !known.contains(name)).collect();
        assert_eq!(
            unknown,
            Vec::<String>::new(),
            "PostgreSQL {major}: put each into src/collect/settings.rs, into FORCED or, with the reason, into LEFT"
        );
    }
}

/// A primary with one standby of each major.
async fn pair(installation: Installation) -> Servers {
    Servers::start(&Plan::new(installation).standby("r1", "primary")).await.unwrap()
}

#[tokio::test]
async fn serializable_by_default_has_no_effect() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = pair(installation).await;
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let expected = [facts(primary.port).await.unwrap(), facts(r1.port).await.unwrap()];
        // One pools the primary's connections, the other the standby's.
        let poolers = [PgBouncer::start(primary.port).await, PgBouncer::start(r1.port).await];
        for (set, unset) in [
            (
                "ALTER ROLE mon SET default_transaction_isolation = 'serializable'; \
                 ALTER ROLE mon SET default_transaction_deferrable = on",
                "ALTER ROLE mon RESET ALL",
            ),
            (
                "ALTER DATABASE postgres SET default_transaction_isolation = 'repeatable read'",
                "ALTER DATABASE postgres RESET ALL",
            ),
        ] {
            primary.sql(set).await.unwrap();
            let is_there = "SELECT count(*) > 0 FROM pg_db_role_setting";
            r1.until(is_there, "t", SOON).await.unwrap();
            for pooler in poolers.iter().flatten() {
                pooler.command("RECONNECT postgres").await;
            }
            for (place, server) in [primary, r1].into_iter().enumerate() {
                assert_eq!(facts(server.port).await.as_ref(), Ok(&expected[place]), "{major} {set}");
                if let Some(pooler) = &poolers[place] {
                    assert_eq!(facts(pooler.port).await.as_ref(), Ok(&expected[place]), "{major} pooled {set}");
                }
            }
            primary.sql(unset).await.unwrap();
            r1.until(is_there, "f", SOON).await.unwrap();
        }
        // For the whole server: no other client can read from the standby now.
        for server in [primary, r1] {
            server.configure("default_transaction_isolation", "serializable").unwrap();
            server.configure("default_transaction_deferrable", "on").unwrap();
            server.restart().await.unwrap();
        }
        primary.until("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1", SOON).await.unwrap();
        for (server, role) in [(primary, Role::Primary), (r1, Role::Replica)] {
            let Probe { positions, survey, .. } = probe(server.port).await.unwrap();
            assert_eq!(positions.unwrap().role(), role, "{major}");
            assert_eq!(survey.unwrap().failures, [], "{major}");
        }
        for server in &servers.nodes {
            assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new(), "{major} {}", server.name);
        }
    }
}

const LOGIN_TRIGGER: &str = "\
CREATE TABLE public.logins(who text, at time);
GRANT INSERT ON public.logins TO PUBLIC;
CREATE FUNCTION public.on_login() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_is_in_recovery() THEN RETURN; END IF;
    CREATE TEMP TABLE session_storage (x int);
    -- Found before the server's own where the search path does not name the schema of temporary tables.
    CREATE TEMP TABLE pg_database (oid oid, datname name);
    CREATE TEMP TABLE pg_settings (name text, setting text, vartype text);
    -- By the search path and the clock of whoever logs in.
    INSERT INTO logins VALUES (session_user, LOCALTIME);
    PERFORM set_config('search_path', 'public', false), set_config('datestyle', 'German', false),
            set_config('client_encoding', 'LATIN1', false), set_config('default_transaction_isolation', 'serializable', false);
END $$;
CREATE EVENT TRIGGER logins ON login EXECUTE FUNCTION public.on_login()";

#[tokio::test]
async fn a_login_event_trigger_that_writes_may_write() {
    for installation in pg::installations().into_iter().filter(|installation| installation.major >= 17) {
        let major = installation.major;
        let servers = pair(installation).await;
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        let expected = [facts(primary.port).await.unwrap(), facts(r1.port).await.unwrap()];
        primary.sql(LOGIN_TRIGGER).await.unwrap();
        primary.sql("ALTER ROLE mon SET timezone = 'Asia/Kolkata'").await.unwrap();
        r1.until("SELECT count(*) FROM pg_event_trigger", "1", SOON).await.unwrap();
        for (server, expected) in [primary, r1].into_iter().zip(&expected) {
            assert_eq!(facts(server.port).await.as_ref(), Ok(expected), "{major}");
        }
        let at = "SELECT at BETWEEN (now() AT TIME ZONE 'Asia/Kolkata')::time - interval '1 minute' \
                  AND (now() AT TIME ZONE 'Asia/Kolkata')::time FROM logins WHERE who = 'mon'";
        assert_eq!(primary.value(at).await.unwrap().as_deref(), Some("t"), "{major}: its own clock");

        // Nothing is written by what we ask.
        let conninfo = Conninfo::parse(&pg::dsn(primary, "mon")).unwrap();
        let session = connect(&conninfo, &Limits::within(SOON), SettingsBy::Session, &Trust::default()).await.unwrap();
        let written = session.simple_query("INSERT INTO public.logins VALUES ('us')").await.unwrap_err();
        assert!(matches!(&written, PollFailure::Sql { sqlstate, .. } if sqlstate == "25006"), "{written:?}");
        session.end().await;
        for server in &servers.nodes {
            let errors: Vec<String> = pg::errors_caused_by_us(server);
            assert_eq!(errors.len(), usize::from(server.name == "primary"), "{errors:?}");
        }
    }
}

#[tokio::test]
async fn a_login_event_trigger_that_refuses_us_is_named_with_what_to_change() {
    for installation in pg::installations().into_iter().filter(|installation| installation.major >= 17) {
        let major = installation.major;
        let servers = Servers::start(&Plan::new(installation)).await.unwrap();
        let primary = servers.primary();
        let trigger =
            LOGIN_TRIGGER.replace("INSERT INTO logins VALUES (session_user, LOCALTIME)", "RAISE 'closed at night'");
        primary.sql(&trigger).await.unwrap();
        let failure = probe(primary.port).await.unwrap_err();
        let reason = "a login event trigger (function on_login()) refuses the session: closed at night";
        assert_eq!(
            failure,
            PollFailure::LoginTrigger { sqlstate: "P0001".to_owned(), reason: reason.to_owned() },
            "{major}"
        );
        let daemon = Daemon::start(&cluster_toml("c", &[("p", pg::dsn(primary, "mon"))])).await;
        let (status, health) = daemon.health("c", "p", "").await;
        assert_eq!(status, 503);
        assert!(health["reasons"].to_string().contains(reason), "{health}");
        let check =
            pgvigil().arg("check").arg("--config").arg(daemon.dir.path().join("pgvigil.toml")).output().unwrap();
        let check = String::from_utf8(check.stdout).unwrap();
        assert!(check.contains("IF session_user = 'mon' THEN RETURN; END IF;"), "{check}");
    }
}

/// How many drawings of settings each major gets, and the first seed: `PGVIGIL_TEST_SETTINGS`, `PGVIGIL_TEST_SEED`.
fn drawings() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("PGVIGIL_TEST_SEED").unwrap_or(1);
    first..first + number("PGVIGIL_TEST_SETTINGS").unwrap_or(3)
}

/// A setting as `pg_settings` describes it.
struct Described {
    name: String,
    kind: String,
    unit: String,
    min: f64,
    max: f64,
    words: Vec<String>,
}

/// What cannot be undone or would end the server's own work, and what our own driver or the log needs.
const NOT_DRAWN: &[&str] = &[
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
    // Each names a library that must exist.
    "local_preload_libraries",
    "session_preload_libraries",
    // The log is what shows errors, and to whom.
    "log_min_messages",
    "log_min_error_statement",
    "log_error_verbosity",
    "max_stack_depth",
    // So large a memory cannot be had.
    "temp_buffers",
];

async fn described(server: &Server) -> Vec<Described> {
    let rows = server
        .sql(
            "SELECT name, vartype, coalesce(unit, ''), coalesce(min_val, '0'), coalesce(max_val, '0'), \
             coalesce(array_to_string(enumvals, ' '), '') FROM pg_settings WHERE name NOT LIKE '%.%' \
             AND context IN ('user', 'superuser') ORDER BY name",
        )
        .await
        .unwrap();
    let rows = rows.into_iter().map(|row| {
        let text = |column: usize| row[column].clone().unwrap_or_default();
        Described {
            name: text(0),
            kind: text(1),
            unit: text(2),
            min: text(3).parse().unwrap(),
            max: text(4).parse().unwrap(),
            words: text(5).split_whitespace().map(str::to_owned).collect(),
        }
    });
    rows.filter(|setting| !NOT_DRAWN.contains(&setting.name.as_str())).collect()
}

impl Described {
    /// A value by chance, as `ALTER ROLE ... SET` takes it.
    fn draw(&self, random: &mut Random, is_pooled: bool) -> Option<String> {
        let mut pick = |words: &[&str]| words[random.below(words.len() as u64) as usize].to_owned();
        let value = match (self.name.as_str(), self.kind.as_str()) {
            ("DateStyle", _) => pick(&["German, DMY", "SQL, MDY", "Postgres, YMD"]),
            ("TimeZone", _) => pick(&["Asia/Kolkata", "America/St_Johns", "-12:34"]),
            ("search_path", _) => return Some(pick(&["shadow, pg_catalog", "shadow, public", "''"])),
            ("client_encoding", _) => pick(&["LATIN1", "SQL_ASCII", "EUC_JP"]),
            ("restrict_nonsystem_relation_kind", _) => pick(&["view", "foreign-table", "view, foreign-table"]),
            ("wal_consistency_checking" | "backtrace_functions", _) | (_, "string") => return None,
            // What is set before our first statement is waited for that long at least: it must be possible to answer.
            ("transaction_timeout" | "idle_session_timeout", _) => pick(&["1000", "2000", "60000"]),
            ("statement_timeout" | "lock_timeout", _) if is_pooled => pick(&["100", "500", "60000"]),
            ("statement_timeout" | "lock_timeout", _) => pick(&["1", "10", "60000"]),
            (_, "bool") => pick(&["on", "off"]),
            (_, "enum") => self.words[random.below(self.words.len() as u64) as usize].clone(),
            (_, "integer") if self.unit == "kB" || self.unit == "8kB" => {
                format!("{}", self.min.max(64.0) + random.below(1000) as f64)
            }
            (_, "integer") => {
                let span = (self.max - self.min).min(1e6);
                match random.below(3) {
                    0 => format!("{}", self.min),
                    1 => format!("{}", self.max),
                    _ => format!("{}", self.min + random.below(span as u64 + 1) as f64),
                }
            }
            (_, "real") => {
                let share = random.below(1000) as f64 / 1000.0;
                format!("{}", self.min + (self.max.min(1e6) - self.min) * share)
            }
            other => panic!("a setting of a new kind: {other:?}"),
        };
        Some(format!("'{value}'"))
    }
}

/// Functions and operators that answer in place of the server's own wherever a search path leads to them.
const SHADOWS: &str = "\
CREATE SCHEMA shadow; GRANT USAGE ON SCHEMA shadow TO PUBLIC;
CREATE FUNCTION shadow.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT NOT pg_catalog.pg_is_in_recovery()';
CREATE FUNCTION shadow.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''shadow''';
CREATE FUNCTION shadow.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT timestamptz ''2000-01-01''';
CREATE FUNCTION shadow.differ(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION shadow.differ(name, name) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR shadow.= (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow.differ);
CREATE OPERATOR shadow.= (LEFTARG = name, RIGHTARG = name, FUNCTION = shadow.differ);
CREATE VIEW shadow.pg_settings AS SELECT 'max_connections'::text AS name, '7'::text AS setting, 'integer'::text AS vartype;
CREATE VIEW shadow.pg_database AS SELECT 1::oid AS oid, 'shadow'::name AS datname";

/// Takes settings away one by one from those that make a difference, until each is needed.
async fn culprits(
    servers: &Servers,
    pooler: Option<&PgBouncer>,
    scope: &str,
    drawn: &[(String, String)],
    port: u16,
    expected: &str,
) -> String {
    let mut left = drawn.to_vec();
    for name in drawn.iter().map(|(name, _)| name) {
        let fewer: Vec<(String, String)> = left.iter().filter(|(other, _)| other != name).cloned().collect();
        set(servers, pooler, scope, &fewer).await;
        if facts_in_time(port).await.as_deref() != Ok(expected) {
            left = fewer;
        }
    }
    format!("{left:?}")
}

async fn set(servers: &Servers, pooler: Option<&PgBouncer>, scope: &str, settings: &[(String, String)]) {
    let primary = servers.primary();
    primary.sql(&format!("ALTER {scope} RESET ALL")).await.unwrap();
    for (name, value) in settings {
        // A value that this server, or this build, does not take is none that a role can have.
        let _ = primary.sql(&format!("ALTER {scope} SET {name} = {value}")).await;
    }
    set_has_arrived(primary, servers.node("r1")).await;
    if let Some(pooler) = pooler {
        pooler.command("RECONNECT postgres").await;
    }
}

#[tokio::test]
async fn settings_by_chance_change_nothing() {
    for installation in pg::installations() {
        let major = installation.major;
        let servers = pair(installation).await;
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        primary.sql(SHADOWS).await.unwrap();
        let pooler = PgBouncer::start(primary.port).await;
        let all = described(primary).await;
        assert!(all.len() > 120, "{}", all.len());
        let expected = [facts(primary.port).await.unwrap(), facts(r1.port).await.unwrap()];
        for seed in drawings() {
            let mut random = Random::new(seed * 100 + u64::from(major));
            let scope = ["ROLE mon", "ROLE mon IN DATABASE postgres"][random.below(2) as usize];
            for is_pooled in [false, true] {
                let share = [2, 4, 10][random.below(3) as usize];
                let drawn: Vec<(String, String)> = all
                    .iter()
                    .filter_map(|setting| {
                        let value = setting.draw(&mut random, is_pooled);
                        let is_drawn = random.one_in(share);
                        is_drawn.then_some((setting.name.clone(), value?))
                    })
                    .collect();
                let ports: Vec<(u16, &String)> = match (&pooler, is_pooled) {
                    (Some(pooler), true) => vec![(pooler.port, &expected[0])],
                    (None, true) => Vec::new(),
                    (_, false) => vec![(primary.port, &expected[0]), (r1.port, &expected[1])],
                };
                set(&servers, pooler.as_ref(), scope, &drawn).await;
                for (port, expected) in ports {
                    let seen = facts_in_time(port).await;
                    if seen.as_ref() != Ok(expected) {
                        let culprits = culprits(&servers, pooler.as_ref(), scope, &drawn, port, expected).await;
                        panic!(
                            "PostgreSQL {major}, PGVIGIL_TEST_SEED={seed}, pooled {is_pooled}, {scope}: with {culprits}\n\
                             {seen:#?}\nwithout\n{expected}"
                        );
                    }
                }
            }
            primary.sql(&format!("ALTER {scope} RESET ALL")).await.unwrap();
        }
        for server in &servers.nodes {
            // Some settings exclude each other, about which the server warns each session.
            let errors = pg::errors_caused_by_us(server).into_iter();
            let errors: Vec<String> = errors.filter(|line| !line.contains("invalid value for parameter")).collect();
            assert_eq!(errors, Vec::<String>::new(), "{major} {}", server.name);
        }
    }
}

/// As people have been seen to set them.
#[tokio::test]
async fn a_role_of_strange_habits_is_watched_as_any() {
    const HABITS: &[&str] = &[
        "datestyle = 'German'",
        "timezone = 'Asia/Kolkata'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "search_path = shadow, pg_catalog",
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "exit_on_error = on",
        "client_min_messages = 'debug5'",
        "default_transaction_read_only = on",
        "work_mem = '64kB'",
    ];
    for installation in pg::installations() {
        let major = installation.major;
        let servers = pair(installation).await;
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        primary.sql(SHADOWS).await.unwrap();
        let expected = [facts(primary.port).await.unwrap(), facts(r1.port).await.unwrap()];
        // 19 knows no other than standard strings.
        for habit in HABITS.iter().filter(|habit| major < 19 || !habit.starts_with("standard_conforming_strings")) {
            primary.sql(&format!("ALTER ROLE mon SET {habit}")).await.unwrap();
        }
        if major >= 14 {
            primary.sql("ALTER ROLE mon SET idle_session_timeout = '1s'").await.unwrap();
        }
        set_has_arrived(primary, r1).await;
        for (server, expected) in [primary, r1].into_iter().zip(&expected) {
            assert_eq!(facts(server.port).await.as_ref(), Ok(expected), "{major}");
        }
        // The session stays, although it is idle for longer than the role's may be.
        let polls = "[poll]\ninterval = \"1500ms\"\n\n";
        let daemon = Daemon::start(&format!("{polls}{}", cluster_toml("c", &[("p", pg::dsn(primary, "mon"))]))).await;
        let polled = |least: f64| move |polls: Option<f64>| polls >= Some(least);
        daemon.until_series("pgvigil_polls_total", &[("outcome", "ok")], SOON, polled(2.0)).await;
        let ours = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE application_name = 'pgvigil'";
        let before = primary.value(ours).await.unwrap();
        daemon.until_series("pgvigil_polls_total", &[("outcome", "ok")], SOON, polled(4.0)).await;
        assert_eq!(primary.value(ours).await.unwrap(), before, "{major}");
        for server in &servers.nodes {
            assert_eq!(pg::errors_caused_by_us(server), Vec::<String>::new(), "{major} {}", server.name);
        }
    }
}

async fn set_has_arrived(primary: &Server, standby: &Server) {
    let here = primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
    let there = format!("SELECT pg_last_wal_replay_lsn() >= '{here}'");
    standby.until(&there, "t", Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_pooler_that_drops_our_settings_gives_none_of_them_to_others() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    for settings in ["", "ignore_startup_parameters = options", "server_reset_query_always = 1"] {
        let Some(pooler) = PgBouncer::start_with(primary.port, settings).await else { return };
        facts(pooler.port).await.unwrap();
        // There is one server connection, which we have used.
        let dsn = pg::dsn_at(pooler.port, "mon");
        let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
        let running = tokio::spawn(connection);
        for (name, expected) in [
            ("default_transaction_read_only", "off"),
            ("statement_timeout", "0"),
            ("search_path", "\"$user\", public"),
            ("exit_on_error", "off"),
            ("geqo", "on"),
        ] {
            let messages = client.simple_query(&format!("SHOW {name}")).await.unwrap();
            let shown = messages.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            assert_eq!(shown.as_deref(), Some(expected), "{settings}: {name}");
        }
        drop(client);
        running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_standby_that_is_serializable_by_default_lets_us_in_beside_a_login_event_trigger() {
    for installation in pg::installations().into_iter().filter(|installation| installation.major >= 17) {
        let major = installation.major;
        let servers = pair(installation).await;
        let (primary, r1) = (servers.primary(), servers.node("r1"));
        primary.sql(LOGIN_TRIGGER).await.unwrap();
        r1.until("SELECT count(*) FROM pg_event_trigger", "1", SOON).await.unwrap();
        r1.configure("default_transaction_isolation", "serializable").unwrap();
        r1.restart().await.unwrap();
        let Probe { positions, survey, .. } = probe(r1.port).await.unwrap();
        assert_eq!((positions.unwrap().role(), survey.unwrap().failures), (Role::Replica, Vec::new()), "{major}");
        assert_eq!(pg::errors_caused_by_us(r1), Vec::<String>::new(), "{major}");
    }
}

/// Where the catalog may not be asked either, what is refused leaves one error each, and none again until it may have changed.
#[tokio::test]
async fn what_only_a_refusal_shows_is_asked_again_after_a_reconnect() {
    let mut plan = pg::plan(0);
    let functions = ["has_function_privilege(oid, text)", "pg_control_system()", "pg_control_checkpoint()"];
    for function in functions {
        plan.setup.push(format!("REVOKE EXECUTE ON FUNCTION {function} FROM public"));
    }
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    let polls = "[poll]\ninterval = \"200ms\"\nslow_interval = \"1s\"\n\n";
    let daemon = Daemon::start(&format!("{polls}{}", cluster_toml("c", &[("p", pg::dsn(primary, "mon"))]))).await;
    let polled = |least: f64| move |polls: Option<f64>| polls >= Some(least);
    daemon.until_series("pgvigil_polls_total", &[("outcome", "ok")], SOON, polled(20.0)).await;
    assert_eq!(pg::errors_caused_by_us(primary).len(), functions.len(), "{:#?}", pg::errors_caused_by_us(primary));
    for function in functions {
        primary.sql(&format!("GRANT EXECUTE ON FUNCTION {function} TO public")).await.unwrap();
    }
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mon'";
    primary.sql(end).await.unwrap();
    let has_identifier = || async {
        let cluster = daemon.get("/api/v1/clusters/c").await?.json();
        let is_there = !cluster["targets"][0]["server"]["system_identifier"].is_null();
        if is_there { Ok(()) } else { Err(cluster.to_string()) }
    };
    until("the identifier", SOON, has_identifier).await;
    assert_eq!(pg::errors_caused_by_us(primary).len(), functions.len(), "{:#?}", pg::errors_caused_by_us(primary));
}

#[tokio::test]
async fn sessions_that_are_lost_over_and_over_fill_no_log() {
    let mut plan = pg::plan(0);
    let functions = ["has_function_privilege(oid, text)", "pg_control_system()"];
    for function in functions {
        plan.setup.push(format!("REVOKE EXECUTE ON FUNCTION {function} FROM public"));
    }
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    let polls = "[poll]\ninterval = \"200ms\"\nslow_interval = \"1s\"\n\n";
    let daemon = Daemon::start(&format!("{polls}{}", cluster_toml("c", &[("p", pg::dsn(primary, "mon"))]))).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgvigil'";
    for _ in 0..8 {
        let polls = daemon.series("pgvigil_polls_total", &[("outcome", "ok")]).await;
        let later = |now: Option<f64>| now > polls;
        daemon.until_series("pgvigil_polls_total", &[("outcome", "ok")], SOON, later).await;
        primary.until(end, "1", SOON).await.unwrap();
    }
    let errors = pg::errors_caused_by_us(primary);
    // The first time, and three times more within ten minutes; a session that comes back asks who the server is and where
    // it stands at once, so that the second function is refused in both.
    let most = functions.len() + 3 * (functions.len() + 1);
    assert!((functions.len()..=most).contains(&errors.len()), "{errors:#?}");
}
