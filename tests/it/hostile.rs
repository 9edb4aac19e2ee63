//! Servers that lie, rave, hang and die, each on its own target: it fails with a reason, and nobody else notices.

use std::time::Duration;

use pgvigil::core::observation::PollFailure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::connect::{PASSWORD, body, error, message, open};
use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::{pg, until};

/// How a server misbehaves.
#[derive(Clone, Copy, Debug)]
enum Vice {
    /// From the first byte on.
    Silent,
    Garbage,
    HangsInTls,
    EndsInTls,
    /// In place of letting in.
    StartsWith(Words),
    RepeatsThePassword,
    /// Lets in, and answers a question so.
    Answers(Words),
    /// Lets in, answers so, and hangs up.
    AnswersAndEnds(Words),
    /// Lets in, and resets the connection when asked.
    Resets,
    /// Lets in, and answers each question when the time is up.
    Late,
    /// A whole PostgreSQL whose every number is as large as it can be.
    Enormous {
        is_replica: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Words {
    Nothing,
    HalfARow,
    NoticesWithoutEnd,
    ParametersWithoutEnd,
    RowsWithoutEnd,
    EmptyRowsWithoutEnd,
    OneGigabyte,
    NegativeLength,
    UnknownTag,
    FewerColumnsThanDescribed,
    MoreColumnsThanDescribed,
    FewerColumnsThanAsked,
    TextForANumber,
    ARowWithoutDescription,
    CopyIn,
    NoResults,
    AnError,
    ANoticeAndAnError,
}

/// What is told of our own question: a statement, a line of a log, a colour.
const FORGED: &str = "at \"S3cr3tMarker\"\n2026-01-01T00:00:00Z ERROR pgvigil: forged \x1b[31m";

impl Words {
    /// What is said once, and what is said then over and over.
    fn bytes(self) -> (Vec<u8>, Vec<u8>) {
        let row = |values: &[&str]| {
            let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
            for value in values {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.as_bytes());
            }
            message(b'D', &body)
        };
        let described = |n_columns: u16| {
            let mut body = n_columns.to_be_bytes().to_vec();
            for _ in 0..n_columns {
                body.extend(b"c\0");
                body.extend([0; 18]);
            }
            message(b'T', &body)
        };
        let complete = || message(b'C', b"SELECT 1\0");
        let ready = || message(b'Z', b"I");
        // The first question has four statements; the first of them six columns.
        let rest = || [complete(), complete(), complete(), ready()].concat();
        let once = |said: &[Vec<u8>]| (said.concat(), Vec::new());
        match self {
            Self::Nothing => once(&[]),
            Self::HalfARow => once(&[described(1), b"D\0\0\0\x40\0\x01".to_vec()]),
            Self::NoticesWithoutEnd => {
                (Vec::new(), message(b'N', format!("SWARNING\0C01000\0M{}\0\0", "noise".repeat(200)).as_bytes()))
            }
            Self::ParametersWithoutEnd => (Vec::new(), message(b'S', b"name\0value\0")),
            Self::RowsWithoutEnd => (described(1), row(&["a value"])),
            Self::EmptyRowsWithoutEnd => (described(0), row(&[])),
            Self::OneGigabyte => ([described(1), b"D\x40\0\0\0".to_vec()].concat(), vec![b' '; 1000]),
            Self::NegativeLength => once(&[b"D\xFF\xFF\xFF\xFF".to_vec()]),
            Self::UnknownTag => once(&[message(b'?', b"")]),
            Self::FewerColumnsThanDescribed => once(&[described(6), row(&["150000"]), complete(), rest()]),
            Self::MoreColumnsThanDescribed => once(&[described(1), row(&["150000", "15.0"]), complete(), rest()]),
            Self::FewerColumnsThanAsked => once(&[described(1), row(&["150000"]), complete(), rest()]),
            Self::TextForANumber => once(&[described(1), row(&[FORGED]), complete(), rest()]),
            Self::ARowWithoutDescription => once(&[row(&["150000"]), complete(), rest()]),
            Self::CopyIn => once(&[message(b'G', &[0, 0, 0])]),
            Self::NoResults => once(&[ready()]),
            Self::AnError => once(&[error("42601", FORGED), ready()]),
            Self::ANoticeAndAnError => {
                once(&[message(b'N', b"SWARNING\0C01000\0Mnoise\0\0"), error("42601", FORGED), ready()])
            }
        }
    }
}

async fn serve(vice: Vice) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(misbehave(stream, vice));
        }
    });
    port
}

/// Ends when the client does, which is why every error is the end.
async fn misbehave(mut stream: TcpStream, vice: Vice) -> Option<()> {
    match vice {
        Vice::Silent => std::future::pending::<()>().await,
        Vice::Garbage => stream.write_all(&[0xA5; 400]).await.ok()?,
        _ => {}
    }
    let mut startup = body(&mut stream).await?;
    if startup == 80_877_103_u32.to_be_bytes() {
        match vice {
            Vice::HangsInTls | Vice::EndsInTls => {
                stream.write_all(b"S").await.ok()?;
                stream.read_u8().await.ok()?;
                if matches!(vice, Vice::HangsInTls) {
                    std::future::pending::<()>().await;
                }
                return None;
            }
            _ => stream.write_all(b"N").await.ok()?,
        }
        startup = body(&mut stream).await?;
    }
    drop(startup);
    match vice {
        Vice::StartsWith(words) => return say(&mut stream, words).await,
        Vice::RepeatsThePassword => {
            stream.write_all(&message(b'R', &3_u32.to_be_bytes())).await.ok()?;
            stream.read_u8().await.ok()?;
            let password = String::from_utf8_lossy(&body(&mut stream).await?).trim_end_matches('\0').to_owned();
            stream.write_all(&error("28P01", &format!("\"{password}\" is not it"))).await.ok()?;
            return None;
        }
        _ => {}
    }
    let welcome = [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', b"I")];
    stream.write_all(&welcome.concat()).await.ok()?;
    loop {
        stream.read_u8().await.ok()?;
        let sql = String::from_utf8_lossy(&body(&mut stream).await?).trim_end_matches('\0').to_owned();
        // Not yet: what a session begins with.
        if sql.starts_with("SHOW ") {
            let description = [b"\0\x01c\0".as_slice(), &[0; 18]].concat();
            let row = message(b'D', b"\0\x01\0\0\0\x070.40961");
            let shown = [message(b'T', &description), row, Words::NoResults.bytes().0];
            stream.write_all(&shown.concat()).await.ok()?;
            continue;
        }
        if sql.starts_with("SET ") {
            stream.write_all(&Words::NoResults.bytes().0).await.ok()?;
            continue;
        }
        match vice {
            Vice::Answers(words) => say(&mut stream, words).await?,
            Vice::AnswersAndEnds(words) => {
                stream.write_all(&words.bytes().0).await.ok()?;
                return None;
            }
            Vice::Resets => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).ok()?;
                return None;
            }
            Vice::Late => {
                tokio::time::sleep(Duration::from_millis(3300)).await;
                stream.write_all(&Words::NoResults.bytes().0).await.ok()?;
            }
            Vice::Enormous { is_replica } => stream.write_all(&enormous(&sql, is_replica)).await.ok()?,
            _ => return None,
        }
    }
}

/// Says it until the client has had enough.
async fn say(stream: &mut TcpStream, words: Words) -> Option<()> {
    let (once, again) = words.bytes();
    stream.write_all(&once).await.ok()?;
    let mut n: u64 = 0;
    while !again.is_empty() {
        let mut chunk = Vec::with_capacity(100_000);
        while chunk.len() < 64_000 {
            if matches!(words, Words::ParametersWithoutEnd) {
                chunk.extend(message(b'S', format!("name{n}\0{}\0", "value".repeat(200)).as_bytes()));
                n += 1;
            } else {
                chunk.extend(&again);
            }
        }
        stream.write_all(&chunk).await.ok()?;
    }
    Some(())
}

/// The right number of rows and columns for each statement, and in them what is at the edge of what can be read.
fn enormous(sql: &str, is_replica: bool) -> Vec<u8> {
    let sender = "(2147483647,streaming,FFFFFFFF/FFFFFFFF,0/0,0/0,0/0,2000000000:59:59,00:00:00,00:00:00,0,async,\
                  \"9999-12-31 23:59:59+00\")";
    let receiver = "(1,streaming,0/0,1,0/0,0/0,4294967295,\"0001-01-01 00:00:00+00\",\"9999-12-31 23:59:59+00\",\
                    FFFFFFFF/FFFFFFFF,\"9999-12-31 23:59:59+00\",slot,host,65535,)";
    let number = "18446744073709551615";
    let value = |expression: &str| -> Option<String> {
        let known = [
            ("current_setting('recovery_min_apply_delay')", "9999999999d"),
            ("pg_postmaster_start_time()", "0001-01-01 00:00:00+00"),
            ("wal_segment_size", "0"),
            ("max_slot_wal_keep_size", "9223372036854775807"),
            ("wal_keep_size", number),
            ("pg_has_role", "t"),
            ("current_user", "u"),
            ("pg_last_wal_replay_lsn", "0/0"),
            ("pg_current_wal_flush_lsn", "FFFFFFFF/FFFFFFFF"),
            ("pg_walfile_name", "FFFFFFFF0000000000000001"),
            ("pg_last_wal_receive_lsn", "FFFFFFFF/FFFFFFFF"),
            ("pg_last_xact_replay_timestamp", "9999-12-31 23:59:59+00"),
            ("clock_timestamp()", "290000-12-31 23:59:59.999999+00"),
            ("pause_state", "paused"),
            ("timeline_id", "4294967295"),
            ("pg_stat_get_wal_receiver()", receiver),
            ("pg_stat_get_wal_senders()", sender),
            ("generate_series", "1"),
            ("system_identifier", "-1"),
            ("redo_lsn", "FFFFFFFF/FFFFFFFF"),
            ("checkpoint_time", "290000-12-31 23:59:59.999999+00"),
        ];
        let is_absent =
            if is_replica { expression.contains("NOT pg_is_in_recovery()") } else { expression.contains("replay") };
        if expression == "pg_is_in_recovery()" {
            return Some(if is_replica { "t" } else { "f" }.to_owned());
        }
        let found = known
            .iter()
            .find(|(part, _)| expression.contains(part))
            .filter(|(part, _)| !is_absent || part.contains("delay"));
        found.map(|(_, value)| (*value).to_owned())
    };
    let some = |values: &[&str]| values.iter().map(|value| Some((*value).to_owned())).collect::<Vec<_>>();
    let mut said = Vec::new();
    for statement in sql.split(';') {
        let rows = if statement.contains("FROM pg_settings") {
            let known = [("server_version_num", "150018"), ("server_version", "15.18"), ("cluster_name", "e")];
            let enormous = ["max_connections", "superuser_reserved_connections", "reserved_connections"];
            let enormous = enormous.map(|name| (name, number));
            known.iter().chain(&enormous).map(|(name, value)| some(&[name, value])).collect()
        } else if statement.contains("FROM pg_extension") {
            Vec::new()
        } else if statement.contains("FROM pg_proc") {
            let senders = "pid,state,sent_lsn,write_lsn,flush_lsn,replay_lsn,write_lag,flush_lag,replay_lag,sync_priority,sync_state,reply_time";
            let receiver = "pid,status,receive_start_lsn,receive_start_tli,written_lsn,flushed_lsn,received_tli,\
                            last_msg_send_time,last_msg_receipt_time,latest_end_lsn,latest_end_time,slot_name,sender_host,\
                            sender_port,conninfo";
            vec![some(&["pg_stat_get_wal_senders", senders]), some(&["pg_stat_get_wal_receiver", receiver])]
        } else if statement.contains("a.application_name") {
            vec![some(&["2147483647", "e", "::1", "h", "9999-12-31 23:59:59+00", "s", "odd"])]
        } else if statement.contains("pg_stat_get_activity") {
            let session = |hidden: &str, name: &str| {
                let pid = "2147483647";
                let mut row = some(&[number, hidden, "4294967295", name, "a", "::1", "idle in transaction", "t"]);
                row.extend(some(&[number, "1e308", pid, "1e308", pid, "1e308", "t"]));
                row
            };
            let unknown = some(&[number, "t"]).into_iter().chain([const { None }; 13]).collect();
            vec![session("f", "u"), session("f", "other"), session("t", "u"), unknown]
        } else if statement.contains("FROM pg_database") {
            vec![some(&["4294967295", "d"])]
        } else if statement.contains("pg_get_replication_slots") {
            let (limit, age) = ("-9223372036854775808", "9223372036854775807");
            let mut slot = some(&["s", "physical", "t", "FFFFFFFF/FFFFFFFF", "0/0", "lost", limit, "f"]);
            slot.extend(some(&[
                "2147483647",
                "d",
                "p",
                age,
                limit,
                "t",
                "t",
                "why",
                "0001-01-01 00:00:00+00",
                "t",
                "t",
            ]));
            vec![slot]
        } else {
            let columns = statement.trim_start_matches("SELECT ").split(" FROM ").next().unwrap_or_default();
            vec![
                columns
                    .split(", ")
                    .filter_map(|part| if part == "1)" || part.starts_with('\'') { None } else { Some(value(part)) })
                    .collect(),
            ]
        };
        let n_columns = rows.first().map_or(1, Vec::len);
        let mut description = u16::try_from(n_columns).unwrap().to_be_bytes().to_vec();
        for _ in 0..n_columns {
            description.extend(b"c\0");
            description.extend([0; 18]);
        }
        said.extend(message(b'T', &description));
        for row in &rows {
            let mut data = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
            for value in row {
                match value {
                    Some(value) => {
                        data.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                        data.extend(value.as_bytes());
                    }
                    None => data.extend([0xFF; 4]),
                }
            }
            said.extend(message(b'D', &data));
        }
        said.extend(message(b'C', b"SELECT 1\0"));
    }
    said.extend(message(b'Z', b"I"));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_is_cut_off() {
    for words in [
        Words::NoticesWithoutEnd,
        Words::ParametersWithoutEnd,
        Words::RowsWithoutEnd,
        Words::EmptyRowsWithoutEnd,
        Words::OneGigabyte,
    ] {
        let port = serve(Vice::Answers(words)).await;
        let dsn = format!("host=127.0.0.1 port={port} user=u sslmode=disable");
        let session = open(&dsn, SOON).await.unwrap();
        let failure = timeout(SOON * 3, session.simple_query("SELECT 1")).await.expect("it has no end").unwrap_err();
        let reason = "its answer is longer than any should be".to_owned();
        assert_eq!(failure, PollFailure::Connect { reason }, "{words:?}");
        assert!(session.is_closed(), "{words:?}");
    }
}

/// The most memory that a process has had, in MiB.
fn peak_mib(pid: rustix::process::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_server_fails_with_a_reason_and_harms_nobody() {
    use Vice::{Answers, AnswersAndEnds, StartsWith};
    let foreign = "does not speak PostgreSQL's protocol";
    let too_much = "its answer is longer than any should be";
    let vices = [
        ("silent", Vice::Silent, "timeout", "waiting for its first answer"),
        ("garbage", Vice::Garbage, "connect", foreign),
        ("tls-hang", Vice::HangsInTls, "timeout", "negotiating TLS"),
        ("tls-end", Vice::EndsInTls, "tls", ""),
        ("start-silent", StartsWith(Words::Nothing), "lost", "the server closed it"),
        ("start-notices", StartsWith(Words::NoticesWithoutEnd), "connect", foreign),
        ("start-rows", StartsWith(Words::RowsWithoutEnd), "connect", foreign),
        ("start-gigabyte", StartsWith(Words::OneGigabyte), "connect", foreign),
        ("start-error", StartsWith(Words::AnError), "sql", "forged"),
        ("password", Vice::RepeatsThePassword, "authentication", "\"...\" is not it"),
        ("nothing", Answers(Words::Nothing), "timeout", "asking who it is"),
        ("half", Answers(Words::HalfARow), "timeout", "asking who it is"),
        ("half-end", AnswersAndEnds(Words::HalfARow), "lost", ""),
        ("flood", Answers(Words::RowsWithoutEnd), "connect", too_much),
        ("negative", Answers(Words::NegativeLength), "lost", ""),
        ("tag", Answers(Words::UnknownTag), "lost", ""),
        ("fewer", Answers(Words::FewerColumnsThanDescribed), "lost", ""),
        ("more", Answers(Words::MoreColumnsThanDescribed), "lost", ""),
        (
            "short",
            Answers(Words::FewerColumnsThanAsked),
            "decode",
            "server_version_num of pg_settings: the setting is missing",
        ),
        ("text", Answers(Words::TextForANumber), "decode", "server_version_num of pg_settings: the setting is missing"),
        ("bare", Answers(Words::ARowWithoutDescription), "lost", ""),
        ("copy", Answers(Words::CopyIn), "lost", ""),
        ("no-results", Answers(Words::NoResults), "decode", "not the results"),
        ("error", Answers(Words::ANoticeAndAnError), "sql", "at \"...\""),
        ("reset", Vice::Resets, "lost", ""),
        ("late", Vice::Late, "timeout", "asking who it is"),
    ];
    let servers = pg::cluster(1).await;
    let mut config = "[poll]\ntimeout = \"3s\"\nslow_interval = \"2s\"\n\n".to_owned();
    config += &cluster_toml("good", &pg::targets(&servers.nodes, "mon"));
    for (name, vice, ..) in &vices {
        let port = serve(*vice).await;
        let mode = if name.starts_with("tls") { "require" } else { "prefer" };
        let dsn = format!("postgresql://u:{PASSWORD}@127.0.0.1:{port}/d?sslmode={mode}");
        config += &cluster_toml(name, &[("t", dsn)]);
    }
    let (whole_primary, whole_replica) =
        (serve(Vice::Enormous { is_replica: false }).await, serve(Vice::Enormous { is_replica: true }).await);
    let enormous = [("primary", whole_primary), ("replica", whole_replica)];
    config +=
        &cluster_toml("enormous", &enormous.map(|(name, port)| (name, format!("postgresql://u@127.0.0.1:{port}/d"))));
    let mut daemon = Daemon::start_with(&config, |command| {
        command.env("RUST_LOG", "info");
    })
    .await;

    for (name, _, kind, says) in &vices {
        // On a busy machine time may be up before one or the other comes to its point.
        until(name, Duration::from_secs(30), || async {
            let body = daemon.get(&format!("/api/v1/clusters/{name}")).await.unwrap().json();
            let failure = &body["targets"][0]["failure"];
            let told = failure["message"].as_str().unwrap_or_default();
            let is_tidy = told.chars().count() < 400 && !told.contains(char::is_control);
            let is_told = failure["kind"] == *kind && told.contains(says) && is_tidy;
            if is_told { Ok(()) } else { Err(format!("{failure}, not {kind}: {says}")) }
        })
        .await;
    }
    for (target, _) in enormous {
        until(target, SOON, || async {
            let body = daemon.get("/api/v1/clusters/enormous").await.unwrap().json();
            let found =
                body["targets"].as_array().unwrap().iter().find(|found| found["name"] == target).unwrap().clone();
            let is_whole = found["failure"].is_null() && !found["connections"].is_null();
            if is_whole { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }

    let end = pgvigil::clock::now().plus(Duration::from_secs(4));
    while pgvigil::clock::now() < end {
        for target in ["primary", "r1"] {
            let (status, body) = daemon.health("good", target, "?role=any&max_age=5s").await;
            assert_eq!(status, 200, "{body}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(daemon.process.try_wait().is_none());
    let peak = peak_mib(daemon.process.pid());
    assert!(peak < 400, "{peak} MiB");

    let mut told = daemon.metrics().await;
    for path in ["/api/v1/clusters", "/api/v1/alerts", "/healthz", "/readyz"] {
        told += &daemon.get(path).await.unwrap().body;
    }
    for (name, ..) in &vices {
        told += &daemon.get(&format!("/api/v1/clusters/{name}")).await.unwrap().body;
        told += &daemon.health(name, "t", "").await.1.to_string();
    }
    let mut check = pgvigil();
    check.arg("check").arg("--config").arg(daemon.dir.path().join("pgvigil.toml"));
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    told += &String::from_utf8_lossy(&output.stdout);
    told += &String::from_utf8_lossy(&output.stderr);
    told += &daemon.log();
    for never in [PASSWORD, "\u{1b}[31m", "noise", "panicked"] {
        let shown: Vec<&str> = told.lines().filter(|line| line.contains(never)).take(3).collect();
        assert_eq!(shown, Vec::<&str>::new(), "{never:?}");
    }
    assert!(!told.lines().any(|line| line.starts_with("2026-01-01")), "a line of the log is forged");
    assert_eq!(daemon.stop().await, Some(0));
}
