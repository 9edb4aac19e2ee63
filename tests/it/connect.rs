//! Opening a session with a server that answers as told, byte by byte: what a real one says only on a bad day.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::postgres::connect;
use pgvigil::collect::session::{Limits, Session, SettingsBy};
use pgvigil::collect::tls::Trust;
use pgvigil::core::observation::PollFailure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PASSWORD: &str = "S3cr3tMarker";

/// What the server says to a session that begins.
#[derive(Clone, Copy)]
enum Greeting {
    Silence,
    Garbage,
    Hangup,
    Error {
        code: &'static str,
        message: &'static str,
    },
    AsksForPassword,
    AsksForMd5,
    /// A pooler that refuses settings at start-up.
    WelcomeWithoutOptions {
        refusal: &'static str,
    },
    /// A server that lets in, and does not show the settings that were asked for.
    WelcomeUnmoved,
}

/// All that sessions sent, in order: `options` or none at start-up, then queries.
type Heard = Arc<Mutex<Vec<String>>>;

async fn server(greeting: Greeting) -> (u16, Heard) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, greeting, Arc::clone(&told)));
        }
    });
    (port, heard)
}

async fn serve(mut stream: TcpStream, greeting: Greeting, heard: Heard) -> Option<()> {
    let mut startup = body(&mut stream).await?;
    // SSLRequest.
    if startup == 80_877_103_u32.to_be_bytes() {
        if matches!(greeting, Greeting::Silence) {
            std::future::pending::<()>().await;
        }
        stream.write_all(b"N").await.ok()?;
        startup = body(&mut stream).await?;
    }
    let has_options = startup.windows(8).any(|window| window == b"options\0");
    heard.lock().unwrap().push(if has_options { "with options" } else { "without options" }.to_owned());
    let answer = match greeting {
        Greeting::Silence => std::future::pending().await,
        Greeting::Garbage => b"HTTP/1.0 400 Bad request\r\n\r\n".to_vec(),
        Greeting::Hangup => return None,
        Greeting::Error { code, message } => error(code, message),
        Greeting::AsksForPassword => message(b'R', &3_u32.to_be_bytes()),
        Greeting::AsksForMd5 => message(b'R', &[5_u32.to_be_bytes(), *b"salt"].concat()),
        Greeting::WelcomeWithoutOptions { refusal } if has_options => error("08P01", refusal),
        Greeting::WelcomeWithoutOptions { .. } | Greeting::WelcomeUnmoved => {
            [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', b"I")].concat()
        }
    };
    stream.write_all(&answer).await.ok()?;
    if matches!(greeting, Greeting::Garbage) {
        return None;
    }
    loop {
        let kind = stream.read_u8().await.ok()?;
        let text = body(&mut stream).await?;
        if kind == b'p' {
            heard.lock().unwrap().push("password".to_owned());
            stream.write_all(&error("28P01", "password authentication failed for user \"u\"")).await.ok()?;
            return None;
        }
        let sql = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
        let mut answer: Vec<u8> = sql
            .split(';')
            .map(|statement| if statement.trim() == "boom" { error("XX000", "boom") } else { message(b'C', b"OK 1\0") })
            .collect::<Vec<_>>()
            .concat();
        answer.extend(message(b'Z', b"I"));
        heard.lock().unwrap().push(sql);
        stream.write_all(&answer).await.ok()?;
    }
}

pub(crate) async fn body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await.ok()?).ok()?;
    let mut body = vec![0; length.checked_sub(4)?];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

pub(crate) fn error(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

pub(crate) const LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn open(dsn: &str, limit: Duration) -> Result<Session, PollFailure> {
    let conninfo = Conninfo::parse_with(dsn, &|_| None).unwrap();
    connect(&conninfo, &Limits::within(limit), SettingsBy::Session, &Trust::default()).await
}

#[tokio::test]
async fn a_failed_start_is_told_by_what_it_means_and_without_secrets() {
    let refused = |reason: &str| PollFailure::Authentication { reason: reason.to_owned() };
    for (greeting, expected) in [
        (
            Greeting::Error { code: "57P03", message: "the database system is starting up" },
            PollFailure::NotAccepting { reason: "the database system is starting up".to_owned() },
        ),
        (
            Greeting::Error { code: "53300", message: "sorry, too many clients already" },
            PollFailure::TooManyConnections { reason: "sorry, too many clients already".to_owned() },
        ),
        (
            Greeting::Error { code: "08P01", message: "no more connections allowed (max_client_conn)" },
            PollFailure::TooManyConnections { reason: "no more connections allowed (max_client_conn)".to_owned() },
        ),
        (
            Greeting::Error {
                code: "28000",
                message: "no pg_hba.conf entry for host \"10.1.2.3\", user \"u\", database \"d\", no encryption",
            },
            refused(
                "no pg_hba.conf entry for this host, user \"u\", database \"d\", no encryption; the server may demand \
                 TLS: write sslmode=require",
            ),
        ),
        (
            Greeting::Error { code: "08P01", message: "\"trust\" authentication failed" },
            refused("\"trust\" authentication failed"),
        ),
        (
            Greeting::Error { code: "3D000", message: "database \"d\" does not exist" },
            PollFailure::Sql { sqlstate: "3D000".to_owned(), reason: "database \"d\" does not exist".to_owned() },
        ),
        (Greeting::AsksForPassword, refused("password authentication failed for user \"u\"")),
        (
            Greeting::Garbage,
            PollFailure::Connect { reason: "what answers there does not speak PostgreSQL's protocol".to_owned() },
        ),
        (Greeting::Hangup, PollFailure::Lost { reason: "the server closed it".to_owned() }),
    ] {
        let (port, _) = server(greeting).await;
        let dsn = format!("postgres://u:{PASSWORD}@127.0.0.1:{port}/d?sslmode=disable");
        let failure = open(&dsn, LIMIT).await.unwrap_err();
        assert!(!format!("{failure} {failure:?}").contains(PASSWORD));
        assert_eq!(failure, expected);
    }
}

#[tokio::test]
async fn a_password_that_is_asked_for_and_missing_is_named_as_such() {
    let (port, _) = server(Greeting::AsksForPassword).await;
    let failure = open(&format!("postgres://u@127.0.0.1:{port}/d?sslmode=disable"), LIMIT).await.unwrap_err();
    let reason = "the server asks for a password and there is none: not in the connection string, in PGPASSWORD, or in \
                  a password file";
    assert_eq!(failure, PollFailure::Authentication { reason: reason.to_owned() });
}

#[tokio::test]
async fn no_password_is_sent_by_a_method_that_require_auth_does_not_allow() {
    let unwanted = |asks: &str| Some(format!("authentication: the server {asks}, and require_auth does not allow it"));
    let clear = "asks for the password in clear text";
    for (require_auth, greeting, refusal) in [
        ("scram-sha-256", Greeting::AsksForPassword, unwanted(clear)),
        ("!password", Greeting::AsksForPassword, unwanted(clear)),
        ("scram-sha-256,md5", Greeting::AsksForPassword, unwanted(clear)),
        ("scram-sha-256", Greeting::AsksForMd5, unwanted("asks for the password's MD5 hash")),
        ("scram-sha-256", Greeting::WelcomeUnmoved, unwanted("lets us in without authentication")),
        ("!none", Greeting::WelcomeUnmoved, unwanted("lets us in without authentication")),
        ("password", Greeting::AsksForPassword, None),
        ("!md5", Greeting::AsksForPassword, None),
        ("md5", Greeting::AsksForMd5, None),
        ("none", Greeting::WelcomeUnmoved, None),
    ] {
        // Also where the server was asked for TLS and has none.
        for mode in ["disable", "prefer"] {
            let (port, heard) = server(greeting).await;
            let dsn = format!(
                "host=127.0.0.1 port={port} user=u password={PASSWORD} sslmode={mode} require_auth={require_auth}"
            );
            let failure = open(&dsn, LIMIT).await.err().map(|failure| failure.to_string());
            let has_password = heard.lock().unwrap().iter().any(|heard| heard == "password");
            if let Some(refusal) = &refusal {
                assert_eq!((failure.as_ref(), has_password), (Some(refusal), false), "{dsn}");
            } else {
                let is_let_in = matches!(greeting, Greeting::WelcomeUnmoved);
                assert_eq!((failure.is_none(), has_password), (is_let_in, !is_let_in), "{dsn}: {failure:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_by_the_modes_that_demand_it() {
    for (mode, is_open) in [("disable", true), ("allow", true), ("prefer", true), ("require", false)] {
        let (port, _) = server(Greeting::WelcomeUnmoved).await;
        let outcome = open(&format!("host=127.0.0.1 port={port} user=u sslmode={mode}"), LIMIT).await;
        let reason = format!("the server does not speak TLS, and sslmode={mode} demands it");
        let expected = if is_open { Ok(false) } else { Err(PollFailure::Tls { reason }) };
        assert_eq!(outcome.map(|session| session.tls()), expected, "{mode}");
    }
}

#[tokio::test]
async fn a_silent_server_costs_its_limit_and_the_failure_says_how_far_it_came() {
    for (mode, doing) in [("disable", "starting the session"), ("require", "waiting for its first answer")] {
        let (port, _) = server(Greeting::Silence).await;
        let dsn = format!("host=127.0.0.1 port={port} user=u sslmode={mode}");
        let failure = open(&dsn, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(failure, PollFailure::Timeout { doing: doing.to_owned(), limit_ms: 200 });
    }
}

#[tokio::test]
async fn the_next_host_is_tried_after_one_that_is_silent_or_starting_up_but_not_after_a_refusal() {
    let (silent, _) = server(Greeting::Silence).await;
    let (starting, _) = server(Greeting::Error { code: "57P03", message: "starting up" }).await;
    let (barred, _) = server(Greeting::Error { code: "28000", message: "go away" }).await;
    let (good, _) = server(Greeting::WelcomeUnmoved).await;
    for (ports, is_open) in [
        (vec![silent, good], true),
        (vec![starting, good], true),
        (vec![silent, starting, good], true),
        (vec![barred, good], false),
    ] {
        let hosts = vec!["127.0.0.1"; ports.len()].join(",");
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let dsn = format!("host={hosts} port={ports} user=u sslmode=disable");
        assert_eq!(open(&dsn, Duration::from_secs(2)).await.is_ok(), is_open, "{dsn}");
    }
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE;";

#[tokio::test]
async fn settings_that_a_pooler_does_not_take_at_start_up_go_with_each_question() {
    for (greeting, starts, settings) in [
        (
            Greeting::WelcomeWithoutOptions { refusal: "unsupported startup parameter: options" },
            &["with options", "without options"][..],
            SettingsBy::Transaction,
        ),
        (
            Greeting::WelcomeWithoutOptions { refusal: "unsupported startup parameter in options: jit" },
            &["with options", "without options"],
            SettingsBy::Transaction,
        ),
        (
            Greeting::WelcomeWithoutOptions {
                refusal: "Feature not supported: RDS Proxy currently doesn't support command-line options.",
            },
            &["with options", "without options"],
            SettingsBy::Role,
        ),
        // Dropped without a word.
        (Greeting::WelcomeUnmoved, &["with options", "SHOW geqo_seed"], SettingsBy::Transaction),
    ] {
        let (port, heard) = server(greeting).await;
        let dsn = format!("host=127.0.0.1 port={port} user=u sslmode=disable");
        let session = open(&dsn, LIMIT).await.unwrap();
        assert_eq!(session.settings(), settings);
        assert_eq!(heard.lock().unwrap().drain(..).collect::<Vec<_>>(), starts);

        let answer = session.simple_query("a;b").await.unwrap();
        assert_eq!(answer.len(), 2, "the transaction's own answers are taken out: {answer:?}");
        let sql = heard.lock().unwrap().pop().unwrap();
        if settings == SettingsBy::Role {
            // RDS Proxy keeps a database connection for whoever sends a SET.
            assert_eq!(sql, format!("{BEGIN}a;b\n;COMMIT"));
        } else {
            assert!(sql.starts_with(&format!("{BEGIN}SET LOCAL statement_timeout=5000;")), "{sql}");
            assert!(sql.ends_with(";a;b\n;COMMIT"), "{sql}");
        }

        assert!(session.simple_query("boom").await.is_err());
        assert_eq!(heard.lock().unwrap().last().map(String::as_str), Some("ROLLBACK"));

        // What was learned is kept for the next connection.
        heard.lock().unwrap().clear();
        let conninfo = Conninfo::parse_with(&dsn, &|_| None).unwrap();
        let again = connect(&conninfo, &Limits::within(LIMIT), session.settings(), &Trust::default()).await.unwrap();
        assert_eq!(again.settings(), settings);
        assert_eq!(*heard.lock().unwrap(), ["without options"]);
    }
}
