//! Logging in to real servers: every `sslmode` with and without TLS, certificates, passwords, and what is said when it
//! fails. No word of it may show a password.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use pgvigil::collect::session::Session;
use pgvigil::core::observation::PollFailure;
use pgvigil::demo::{Server, Servers};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::SimpleQueryMessage;

use crate::connect::{LIMIT, PASSWORD, open};
use crate::support::daemon::{Daemon, cluster_toml, pgvigil};
use crate::support::tls::Certificates;
use crate::support::{free_port, pg, until};

/// Whether a session was opened, and encrypted; or the kind of the failure and a part of what it says.
type Expected = Result<bool, (&'static str, &'static str)>;

async fn assert_opens(dsn: &str, expected: Expected) {
    let outcome = open(dsn, LIMIT).await.map(|session| session.tls());
    match (&outcome, expected) {
        (Ok(tls), Ok(expected)) => assert_eq!(*tls, expected, "{dsn}"),
        (Err(failure), Err((kind, says))) => {
            assert_eq!(failure.kind(), kind, "{dsn}: {failure}");
            assert!(failure.to_string().contains(says), "{dsn}: {failure}");
        }
        _ => panic!("{dsn}: {outcome:?}, not {expected:?}"),
    }
    assert!(!format!("{outcome:?}").contains(PASSWORD), "{outcome:?}");
}

/// A plan whose role `marked` has the password that is looked for.
fn marked(plan: pgvigil::demo::Plan) -> pgvigil::demo::Plan {
    let mut plan = plan;
    plan.setup.push(format!("CREATE ROLE marked LOGIN PASSWORD '{PASSWORD}'; GRANT pg_monitor TO marked"));
    plan.hba.push("host all marked 127.0.0.1/32 scram-sha-256".to_owned());
    plan
}

fn at(server: &Server, user: &str, rest: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} password={user} dbname=postgres {rest}", server.port)
}

#[tokio::test]
async fn every_sslmode_does_with_a_tls_server_what_libpq_does() {
    let (ours, other) = (Certificates::make(), Certificates::make());
    let servers = Servers::start(&ours.serve(pg::plan(0))).await.unwrap();
    let primary = servers.primary();
    let (ca, wrong_ca) = (ours.path("ca.crt"), other.path("ca.crt"));
    let (ca, wrong_ca) = (format!("sslrootcert={}", ca.display()), format!("sslrootcert={}", wrong_ca.display()));
    let elsewhere = |user: &str, rest: &str| {
        at(primary, user, &format!("hostaddr=127.0.0.1 {rest}")).replace("host=127.0.0.1", "host=db.example")
    };
    let unknown: Expected = Err(("tls", "certificate"));

    for (user, rest, expected) in [
        ("mon", "sslmode=disable".to_owned(), Ok(false)),
        ("mon", "sslmode=allow".to_owned(), Ok(false)),
        ("mon", "sslmode=prefer".to_owned(), Ok(true)),
        ("mon", "sslmode=require".to_owned(), Ok(true)),
        ("mon", format!("sslmode=verify-ca {ca}"), Ok(true)),
        // By its IP address.
        ("mon", format!("sslmode=verify-full {ca}"), Ok(true)),
        // A role that may come by TLS alone.
        ("tlsonly", "sslmode=disable".to_owned(), Err(("authentication", "pg_hba.conf rejects"))),
        ("tlsonly", "sslmode=allow".to_owned(), Ok(true)),
        ("tlsonly", "sslmode=prefer".to_owned(), Ok(true)),
        // A root file makes of `require` what `verify-ca` is.
        ("mon", format!("sslmode=require {ca}"), Ok(true)),
        ("mon", format!("sslmode=require {wrong_ca}"), unknown),
        ("mon", format!("sslmode=verify-ca {wrong_ca}"), unknown),
        ("mon", format!("sslmode=verify-full {wrong_ca}"), unknown),
        ("mon", format!("sslmode=prefer {wrong_ca}"), Ok(false)),
        ("tlsonly", format!("sslmode=prefer {wrong_ca}"), unknown),
        ("mon", "sslmode=verify-ca".to_owned(), Err(("tls", "needs root certificates and there are none"))),
        ("mon", "sslmode=verify-full sslrootcert=system".to_owned(), unknown),
        ("mon", "sslmode=require channel_binding=require".to_owned(), Ok(true)),
        ("mon", "sslmode=disable channel_binding=require".to_owned(), Err(("authentication", "channel binding"))),
    ] {
        assert_opens(&at(primary, user, &rest), expected).await;
    }
    assert_opens(&at(primary, "mon", &format!("sslmode=verify-full {ca}")).replace("127.0.0.1", "localhost"), Ok(true))
        .await;
    assert_opens(&elsewhere("mon", "sslmode=require"), Ok(true)).await;
    assert_opens(&elsewhere("mon", &format!("sslmode=verify-ca {ca}")), Ok(true)).await;
    assert_opens(&elsewhere("mon", &format!("sslmode=verify-full {ca}")), Err(("tls", "db.example"))).await;

    // A client's certificate, and its key as libpq wants it.
    let (certificate, key) = (ours.path("client.crt"), ours.path("client.key"));
    let with_key =
        |key: &Path| format!("sslmode=verify-full {ca} sslcert={} sslkey={}", certificate.display(), key.display());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_opens(&at(primary, "tlscert", &with_key(&key)), Ok(true)).await;
    assert_opens(&at(primary, "tlscert", "sslmode=require"), Err(("authentication", "certificate"))).await;
    let open_key = ours.path("open.key");
    fs::copy(&key, &open_key).unwrap();
    fs::set_permissions(&open_key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_opens(&at(primary, "tlscert", &with_key(&open_key)), Err(("tls", "chmod 600"))).await;
    let not_its_key = with_key(&ours.path("server.key"));
    assert_opens(&at(primary, "tlscert", &not_its_key), Err(("tls", "not the key of the certificate"))).await;
}

#[tokio::test]
async fn require_auth_and_revocation_lists_hold_with_tls() {
    let ours = Certificates::make();
    let servers = Servers::start(&ours.serve(pg::plan(0))).await.unwrap();
    let primary = servers.primary();
    let ca = format!("sslmode=verify-full sslrootcert={}", ours.path("ca.crt").display());
    for (require_auth, expected) in [
        ("scram-sha-256", Ok(true)),
        ("!password,!md5", Ok(true)),
        ("password", Err(("authentication", "asks for SCRAM-SHA-256, and require_auth does not allow it"))),
        ("none", Err(("authentication", "require_auth"))),
    ] {
        assert_opens(&at(primary, "mon", &format!("{ca} require_auth={require_auth}")), expected).await;
    }

    let lists = |name: &str| ours.path(name).display().to_string();
    let of = |name: &str| at(primary, "mon", &format!("{ca} sslcrl={}", lists(name)));
    ours.revoke(&[], "none.crl");
    assert_opens(&of("none.crl"), Ok(true)).await;
    ours.revoke(&["server.crt"], "revoked.crl");
    assert_opens(&of("revoked.crl"), Err(("tls", "is revoked"))).await;
    // Where the chain is not checked, neither is this.
    let unverified = format!("sslmode=require sslcrl={}", lists("revoked.crl"));
    assert_opens(&at(primary, "mon", &unverified), Ok(true)).await;
    let other = Certificates::make();
    other.revoke(&[], "other.crl");
    let foreign = at(primary, "mon", &format!("{ca} sslcrl={}", other.path("other.crl").display()));
    assert_opens(&foreign, Err(("tls", "another authority of the same name"))).await;
    assert_opens(&of("absent.crl"), Err(("tls", "(sslcrl): no such file"))).await;

    let directory = ours.path("crls");
    fs::create_dir(&directory).unwrap();
    let hashed = at(primary, "mon", &format!("{ca} sslcrldir={}", directory.display()));
    assert_opens(&hashed, Err(("tls", "it holds no list named by its hash"))).await;
    fs::copy(ours.path("revoked.crl"), directory.join("0a1b2c3d.r0")).unwrap();
    assert_opens(&hashed, Err(("tls", "is revoked"))).await;
}

#[tokio::test]
async fn a_server_on_a_socket_must_run_as_the_user_of_requirepeer() {
    let mut plan = pg::plan(0).set("unix_socket_directories = '.'");
    plan.hba.push("local all mon scram-sha-256".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let primary = servers.primary();
    let uid = fs::metadata(&primary.data).unwrap().uid().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[2] == uid).unwrap();
    let dsn = |peer: &str| {
        at(primary, "mon", &format!("requirepeer={peer}"))
            .replace("host=127.0.0.1", &format!("host={}", primary.data.display()))
    };
    assert_opens(&dsn(entry[0]), Ok(false)).await;
    let refusal = format!("the server at the socket is run by {}, and requirepeer asks for somebody", entry[0]);
    let failure = open(&dsn("somebody"), LIMIT).await.unwrap_err();
    assert_eq!(failure, PollFailure::Authentication { reason: refusal });
}

#[tokio::test]
async fn what_a_server_without_tls_refuses_is_told_by_what_it_means() {
    let servers = Servers::start(&marked(pg::plan(0)).set("max_connections = 8")).await.unwrap();
    let primary = servers.primary();
    for mode in ["disable", "allow", "prefer"] {
        assert_opens(&at(primary, "mon", &format!("sslmode={mode}")), Ok(false)).await;
    }
    let ca = Certificates::make();
    for mode in ["require", "verify-ca", "verify-full"] {
        let rest = format!("sslmode={mode} sslrootcert={}", ca.path("ca.crt").display());
        assert_opens(&at(primary, "mon", &rest), Err(("tls", "does not speak TLS"))).await;
    }

    // The password file, as strict as libpq; and the second host, when nobody is at the first.
    let passfile = tempfile::NamedTempFile::new().unwrap();
    fs::write(passfile.path(), format!("127.0.0.1:{}:*:marked:{PASSWORD}\n", primary.port)).unwrap();
    let file = passfile.path().display();
    let (dead, port) = (free_port(), primary.port);
    for hosts in [format!("host=127.0.0.1 port={port}"), format!("host=127.0.0.1,127.0.0.1 port={dead},{port}")] {
        let dsn = format!("{hosts} user=marked dbname=postgres passfile={file}");
        fs::set_permissions(passfile.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_opens(&dsn, Ok(false)).await;
        fs::set_permissions(passfile.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_opens(&dsn, Err(("authentication", "was ignored because others may read it: chmod 600"))).await;
    }
    let wrong = format!("host=127.0.0.1 port={port} user=mon password=not{PASSWORD}");
    assert_opens(&wrong, Err(("authentication", "password authentication failed for user \"mon\""))).await;
    let nowhere = format!("host=127.0.0.1 port={dead} user=mon password={PASSWORD}");
    assert_opens(&nowhere, Err(("refused", "connection refused"))).await;
    let no_such = format!("host=127.0.0.1 port={port} user=marked password={PASSWORD} dbname=nowhere");
    assert_opens(&no_such, Err(("sql", "database \"nowhere\" does not exist"))).await;

    // All that a role without privileges may take: eight, less three for superusers.
    let marked = format!("host=127.0.0.1 port={port} user=marked password={PASSWORD} dbname=postgres");
    let mut held: Vec<Session> = Vec::new();
    let full = loop {
        match open(&marked, LIMIT).await {
            Ok(session) => held.push(session),
            Err(failure) => break failure,
        }
        assert!(held.len() <= 5, "more than there can be");
    };
    assert!(matches!(&full, PollFailure::TooManyConnections { reason } if reason.contains("slots")), "{full:?}");
    held.truncate(1);

    // A smart shutdown waits for the session that is left, and lets nobody in.
    let lock = fs::read_to_string(primary.data.join("postmaster.pid")).unwrap();
    let pid = lock.lines().next().and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let stopping = until("the shutdown", LIMIT, || async {
        match open(&marked, LIMIT).await {
            Err(PollFailure::NotAccepting { reason }) => Ok(reason),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(stopping, "the database system is shutting down");
}

#[tokio::test]
async fn a_session_is_read_only_and_bounded_and_says_who_asks() {
    let servers = pg::cluster(0).await;
    let dsn = at(servers.primary(), "mon", "options='-c statement_timeout=0 -c search_path=public'");
    let session = open(&dsn, Duration::from_secs(4)).await.unwrap();
    for (setting, expected) in [
        ("application_name", "pgvigil"),
        ("transaction_read_only", "on"),
        ("statement_timeout", "4s"),
        ("lock_timeout", "500ms"),
        ("idle_in_transaction_session_timeout", "4s"),
        ("search_path", "pg_catalog, pg_temp"),
    ] {
        let messages = session.simple_query(&format!("SHOW {setting}")).await.unwrap();
        let value = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(value, Some(expected), "{setting}");
    }
}

#[tokio::test]
async fn no_password_is_shown_anywhere_whatever_fails() {
    let certificates = Certificates::make();
    let servers = Servers::start(&certificates.serve(marked(pg::plan(0)))).await.unwrap();
    let port = servers.primary().port;
    let dead = free_port();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("*:*:*:*:{PASSWORD}\n")).unwrap();
    let passfile = file.path().display();
    let url = |user: &str, password: &str, port: u16, rest: &str| {
        format!("postgresql://{user}:{password}@127.0.0.1:{port}/postgres{rest}")
    };
    let targets = [
        ("good", url("marked", PASSWORD, port, ""), None),
        ("wrong", url("mon", PASSWORD, port, ""), Some("authentication")),
        ("unknown", url("nobody", PASSWORD, port, "?sslmode=require"), Some("authentication")),
        ("barred", url("tlsonly", PASSWORD, port, "?sslmode=disable"), Some("authentication")),
        ("dead", url("marked", PASSWORD, dead, ""), Some("refused")),
        ("untrusted", url("marked", PASSWORD, port, "?sslmode=verify-full&sslrootcert=system"), Some("tls")),
        ("nowhere", url("marked", PASSWORD, port, "").replace("/postgres", "/nowhere"), Some("sql")),
        ("lost", format!("host=no.such.host.invalid user=marked password={PASSWORD}"), Some("lookup")),
        (
            "filed",
            format!("host=127.0.0.1 port={port} user=mon dbname=postgres passfile={passfile}"),
            Some("authentication"),
        ),
    ];
    let dsns: Vec<(&str, String)> = targets.iter().map(|(name, dsn, _)| (*name, dsn.clone())).collect();
    let config = format!("[poll]\ntimeout = \"10s\"\nslow_interval = \"1s\"\n\n{}", cluster_toml("c", &dsns));
    let daemon = Daemon::start_with(&config, |command| {
        command.env("RUST_LOG", "debug");
    })
    .await;
    // A name that is not found, a refusal and a hash take their time on a busy machine.
    until("every target is as it should be", Duration::from_secs(30), || async {
        let json = daemon.get("/api/v1/clusters/c").await.unwrap().json();
        let kind = |name: &str| {
            let target = json["targets"].as_array().unwrap().iter().find(|target| target["name"] == name).unwrap();
            target["failure"]["kind"].as_str().map(str::to_owned)
        };
        let wrong: Vec<_> = targets.iter().filter(|(name, _, expected)| kind(name).as_deref() != *expected).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} in {json}")) }
    })
    .await;
    let mut told = String::new();
    for path in ["/api/v1/clusters", "/api/v1/clusters/c", "/api/v1/alerts", "/metrics", "/healthz", "/healthz/c", "/"]
    {
        told += &daemon.get(path).await.unwrap().body;
    }
    for (name, ..) in &targets {
        told += &daemon.health("c", name, "").await.1.to_string();
    }
    for command in [&["check"][..], &["check", "--json"], &["check", "--offline"], &["poll"], &["poll", "--json"]] {
        let output =
            pgvigil().args(command).arg("--config").arg(daemon.dir.path().join("pgvigil.toml")).output().unwrap();
        told += &String::from_utf8_lossy(&output.stdout);
        told += &String::from_utf8_lossy(&output.stderr);
    }
    told += &daemon.log();
    assert!(told.contains("password authentication failed"), "{told}");
    let shown: Vec<&str> = told.lines().filter(|line| line.contains(PASSWORD)).collect();
    assert_eq!(shown, Vec::<&str>::new());
}
