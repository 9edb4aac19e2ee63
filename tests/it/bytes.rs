//! Names are any bytes: roles and databases of a server without an encoding, of one with several, and users of a pooler.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::tls::Trust;
use pgvigil::collect::{self, Probe};
use pgvigil::core::survey::{SurveyFacts, Tally};
use pgvigil::core::topology::TargetId;
use pgvigil::demo::{Plan, Server, Servers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::pgbouncer::PgBouncer;
use crate::support::tls::Certificates;
use crate::support::{pg, until};

/// A client that speaks the protocol byte by byte, and stays until it is dropped.
struct Raw(TcpStream);

impl Raw {
    /// Logs in without a password.
    async fn open(port: u16, user: &[u8], database: &[u8]) -> Self {
        let mut body = vec![0, 3, 0, 0];
        for (name, value) in [(&b"user"[..], user), (b"database", database), (b"client_encoding", b"SQL_ASCII")] {
            body.extend([name, b"\0", value, b"\0"].concat());
        }
        body.push(0);
        let mut raw = Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        raw.send(None, &body).await;
        raw.until_ready().await;
        raw
    }

    async fn send(&mut self, tag: Option<u8>, body: &[u8]) {
        let mut message = Vec::from_iter(tag);
        message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend(body);
        self.0.write_all(&message).await.unwrap();
    }

    async fn until_ready(&mut self) {
        loop {
            let tag = self.0.read_u8().await.unwrap();
            let length = self.0.read_u32().await.unwrap();
            let mut body = vec![0; length as usize - 4];
            self.0.read_exact(&mut body).await.unwrap();
            match tag {
                b'E' => panic!("{}", String::from_utf8_lossy(&body)),
                b'Z' => return,
                _ => {}
            }
        }
    }

    async fn query(&mut self, sql: &[u8]) {
        self.send(Some(b'Q'), &[sql, b"\0"].concat()).await;
        self.until_ready().await;
    }
}

/// Roles by their bytes, and how each is shown where names come as they are stored.
const ROLES: [(&[u8], &str); 5] = [
    (b"zo\xeb", r"zo\xEB"),
    (b"zo\xff", r"zo\xFF"),
    (b"zo\xc3\xab", "zo\u{eb}"),
    (br"zo\xEB", r"zo\x5CxEB"),
    (b"zo\t\xeb", r"zo\x09\xEB"),
];

const DATABASE: &[u8] = b"caf\xe9";

/// Databases of several encodings in one cluster, and roles whose names are of none of them all.
async fn make(server: &Server) -> Vec<Raw> {
    for (name, encoding) in [("legacy", "SQL_ASCII"), ("latin", "LATIN1"), ("japanese", "EUC_JP")] {
        server.sql(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'")).await.unwrap();
        server.sql_in(name, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await.unwrap();
    }
    let mut admin = Raw::open(server.port, b"postgres", b"legacy").await;
    admin.query(&[b"CREATE DATABASE \"", DATABASE, b"\" TEMPLATE template0 ENCODING 'SQL_ASCII'"].concat()).await;
    let mut clients = vec![admin];
    for (role, _) in ROLES {
        clients[0].query(&[b"CREATE ROLE \"", role, b"\" LOGIN"].concat()).await;
        clients.push(Raw::open(server.port, role, DATABASE).await);
    }
    let table = [b"SELECT 1 AS \"", DATABASE, b"\""].concat();
    clients[1].query(&table).await;
    clients
}

async fn survey(dsn: &str) -> SurveyFacts {
    let conninfo = Arc::new(Conninfo::parse(dsn).unwrap());
    let probe = collect::probe(TargetId::new("c", "t"), conninfo, SOON, true, Arc::new(Trust::default())).await;
    let Probe { survey, .. } = probe.unwrap();
    survey.unwrap()
}

fn counts(tally: &Tally) -> BTreeMap<&str, u64> {
    tally.named.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

/// All roles are counted, each by a name of its own, and nothing has failed.
fn assert_counted(facts: &SurveyFacts, roles: [&str; 5], database: &str, what: &str) {
    assert_eq!(facts.failures, [], "{what}");
    let sessions = facts.sessions.as_ref().unwrap();
    let by_user = counts(&sessions.by_user);
    for role in roles {
        assert_eq!(by_user.get(role), Some(&1), "{what}: {by_user:?}");
    }
    let by_database = counts(sessions.by_database.as_ref().unwrap());
    assert_eq!(by_database.get(database), Some(&5), "{what}: {by_database:?}");
}

#[tokio::test]
async fn names_of_any_bytes_are_counted_whatever_encoding_the_monitored_database_has() {
    let stored = ROLES.map(|(_, shown)| shown);
    for installation in pg::installations() {
        let major = installation.major;
        let certificates = Certificates::make();
        let servers = Servers::start(&certificates.serve(Plan::new(installation))).await.unwrap();
        let primary = servers.primary();
        let _clients = make(primary).await;
        let of = |database: &str, rest: &str| {
            format!("{}{rest}", pg::dsn(primary, "mon").replace("/postgres", &format!("/{database}")))
        };
        for rest in ["?sslmode=disable", "?sslmode=require"] {
            // Nothing is converted here, whether the server checks it or not.
            for database in ["postgres", "legacy"] {
                let facts = survey(&of(database, rest)).await;
                assert_counted(&facts, stored, r"caf\xE9", &format!("{major} {database}{rest}"));
            }
            // Every byte is a character here.
            let latin = ["zo\u{eb}", "zo\u{ff}", "zo\u{c3}\u{ab}", r"zo\x5CxEB", "zo\\x09\u{eb}"];
            assert_counted(&survey(&of("latin", rest)).await, latin, "caf\u{e9}", &format!("{major} latin"));
        }
        assert_eq!(pg::errors_caused_by_us(primary), Vec::<String>::new(), "{major}");
        // Here most are none, so that the server refuses to convert them, and is not asked to again.
        assert_counted(&survey(&of("japanese", "")).await, stored, r"caf\xE9", &format!("{major} japanese"));
        let refused = pg::errors_caused_by_us(primary);
        let is_refusal = |line: &String| line.contains("invalid byte sequence") || line.contains("has no equivalent");
        assert!((1..=2).contains(&refused.len()) && refused.iter().all(is_refusal), "{major}: {refused:#?}");
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_changes_nothing_about_it() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    let _clients = make(primary).await;
    let Some(pooler) = PgBouncer::start(primary.port).await else { return };
    let stored = ROLES.map(|(_, shown)| shown);
    for database in ["postgres", "legacy"] {
        let dsn = pg::dsn_at(pooler.port, "mon").replace("/postgres", &format!("/{database}"));
        assert_counted(&survey(&dsn).await, stored, r"caf\xE9", database);
    }
    assert_eq!(pg::errors_caused_by_us(primary), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_is_shown_alike_in_series_api_page_log_and_alert() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    let clients = make(primary).await;
    let dsn = pg::dsn(primary, "mon").replace("/postgres", "/legacy");
    let rule = "[[rule]]\nname = \"Crowd\"\nwhen = \"connections_by_user >= 1\"\nfor = \"0s\"\n";
    let daemon =
        Daemon::start(&format!("[poll]\nslow_interval = \"1s\"\n\n{}\n{rule}", cluster_toml("c", &[("primary", dsn)])))
            .await;
    for (_, shown) in ROLES {
        // Where a backslash is written twice.
        let label = shown.replace('\\', r"\\");
        let labels = [("target", "primary"), ("usename", label.as_str())];
        daemon.until_series("pgvigil_connections_by_user", &labels, SOON, |count| count == Some(1.0)).await;
    }
    let metrics = daemon.metrics().await;
    let database = [("target", "primary"), ("datname", r"caf\\xE9")];
    assert_eq!(series(&metrics, "pgvigil_connections_by_database", &database), Some(5.0), "{metrics}");

    let firing = until("all fire", SOON, || async {
        let answer = daemon.get("/api/v1/alerts").await?.json();
        let alerts = answer["alerts"].as_array().unwrap().clone();
        let users: Vec<String> =
            alerts.iter().filter_map(|alert| alert["labels"]["usename"].as_str().map(str::to_owned)).collect();
        let is_there = |(_, shown): &(&[u8], &str)| users.iter().any(|user| user == shown);
        if ROLES.iter().all(is_there) { Ok(users) } else { Err(format!("{users:?}")) }
    })
    .await;
    assert!(firing.len() >= ROLES.len(), "{firing:?}");
    let page = daemon.get("/").await.unwrap().body + &daemon.get("/c").await.unwrap().body;
    assert!(page.contains(r"zo\xEB") && page.contains(r"zo\x5CxEB") && page.contains(r"zo\x09\xEB"), "{page}");
    daemon.until_log(r"zo\xEB").await;
    let _ = clients;
}

/// A client of a pooler, whose name is no UTF-8, costs nothing but its name's look.
#[tokio::test]
async fn a_pooler_with_clients_of_any_name_is_shown_whole() {
    let servers = pg::cluster(0).await;
    let primary = servers.primary();
    let _clients = make(primary).await;
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.txt");
    let mut lines = b"\"mon\" \"mon\"\n\"stats\" \"stats\"\n\"admin\" \"admin\"\n".to_vec();
    for (role, _) in &ROLES[..4] {
        lines.extend([b"\"", *role, b"\" \"\"\n"].concat());
    }
    fs::write(&users, lines).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&users, Some(65534), Some(65534)).unwrap();
    }
    let settings = format!("auth_file = {}\nauth_type = trust\n", users.display());
    let Some(pooler) = PgBouncer::start_with(primary.port, &settings).await else { return };
    let mut pooled = Vec::new();
    for (role, _) in &ROLES[..4] {
        let mut client = Raw::open(pooler.port, role, DATABASE).await;
        client.query(b"SELECT 1").await;
        pooled.push(client);
    }
    let daemon = Daemon::start(&format!(
        "[poll]\npooler_interval = \"200ms\"\n\n{}\n[[pooler]]\nname = \"pgb\"\n\
         dsn = \"postgresql://stats:stats@127.0.0.1:{}/pgbouncer\"\n",
        cluster_toml("c", &[("primary", pg::dsn(primary, "mon"))]),
        pooler.port
    ))
    .await;
    for (_, shown) in &ROLES[..4] {
        let label = shown.replace('\\', r"\\");
        let labels = [("target", "pgb"), ("database", r"caf\\xE9"), ("user", label.as_str()), ("state", "active")];
        daemon.until_series("pgvigil_pooler_clients", &labels, SOON, |clients| clients == Some(1.0)).await;
    }
    assert_eq!(daemon.series("pgvigil_pooler_up", &[("target", "pgb")]).await, Some(1.0));
    assert_eq!(daemon.series("pgvigil_pooler_failure", &[("target", "pgb")]).await, None);
    assert!(!daemon.log().contains("cannot be polled"), "{}", daemon.log());
}

#[test]
fn a_file_or_a_variable_that_is_not_utf8_is_refused_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pgvigil.toml");
    let refusal = |variable: Option<&str>| {
        let mut command = pgvigil();
        command.args(["check", "--config"]).arg(&config);
        if let Some(variable) = variable {
            command.env(variable, std::ffi::OsString::from_vec(b"caf\xe9".to_vec()));
        }
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    fs::write(&config, b"# a note\n[server]\ntoken = \"caf\xe9\"\n").unwrap();
    let told = refusal(None);
    let place = format!("{}:3:13: not UTF-8: \\xE9; save the file as UTF-8", config.display());
    assert!(told.contains(&place), "{told}");
    fs::write(&config, cluster_toml("c", &[("t", "postgresql://127.0.0.1:1/x".to_owned())])).unwrap();
    for variable in ["PGVIGIL_SERVER__TOKEN", "DATABASE_URL"] {
        let told = refusal(Some(variable));
        assert!(told.contains(&format!("environment variable {variable}: it is not UTF-8")), "{told}");
    }
}
