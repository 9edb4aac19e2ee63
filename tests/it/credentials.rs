//! Logging in with what AWS keeps or signs: secrets that are rotated, IAM tokens, and what is said when AWS does not answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Passwords, channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::passfile::Password;
use pgvigil::collect::postgres::connect;
use pgvigil::collect::session::{Limits, SettingsBy};
use pgvigil::collect::tls::Trust;
use pgvigil::demo::{Server, Servers};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::connect::LIMIT;
use crate::support::aws::Aws;
use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil, series};
use crate::support::receiver::Receiver;
use crate::support::tls::Certificates;
use crate::support::{pg, until};

/// What AWS tools find in the environment of a process, to sign with.
const KEYS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
    ("AWS_SESSION_TOKEN", "Sess/ion+Token=="),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// A primary with a role whose password counts.
async fn server_with_role() -> Servers {
    let mut plan = pg::plan(0);
    plan.setup.push("CREATE ROLE rotated LOGIN PASSWORD 'pass-0'; GRANT pg_monitor TO rotated".to_owned());
    plan.hba.push("host all rotated 127.0.0.1/32 scram-sha-256".to_owned());
    Servers::start(&plan).await.unwrap()
}

fn secret_string(server: &Server, password: &str) -> String {
    json!({"username": "rotated", "password": password, "engine": "postgres", "host": "127.0.0.1", "port": server.port.to_string(),
        "dbname": "postgres"})
    .to_string()
}

/// Ends the daemon's session, and waits until it has another.
async fn log_in_anew(server: &Server) {
    let backend = "SELECT pid FROM pg_stat_activity WHERE usename = 'rotated'";
    let old =
        until("a session", SOON, || async { server.value(backend).await.unwrap().ok_or("none".to_owned()) }).await;
    server.sql(&format!("SELECT pg_terminate_backend({old})")).await.unwrap();
    until("another session", SOON, || async {
        match server.value(backend).await.unwrap() {
            Some(pid) if pid != old => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_rotation_costs_no_poll_at_any_of_its_steps() {
    let Some(aws) = Aws::start().await else { return };
    let servers = server_with_role().await;
    let primary = servers.primary();
    let made =
        aws.secrets("CreateSecret", json!({"Name": "db", "SecretString": secret_string(primary, "pass-0")})).await;
    let mut current = made["VersionId"].as_str().unwrap().to_owned();
    // Two names of one server: one secret for both.
    let config =
        "[aws]\nregion = \"us-east-1\"\n[[cluster]]\nname = \"c\"\n[[cluster.target]]\nname = \"p\"\nsecret = \"db\"\n";
    let daemon = Daemon::start_with(config, |command| {
        command.envs(aws.environment()).env("RUST_LOG", "trace");
    })
    .await;
    daemon.until_series("pgvigil_target_up", &[("target", "p")], SOON, |up| up == Some(1.0)).await;

    for round in 1..=2 {
        let password = format!("pass-{round}");
        // The four steps of AWS' own rotation: a new version is made, the password set, tried, and the version made current.
        let pending = aws
            .secrets(
                "PutSecretValue",
                json!({"SecretId": "db", "SecretString": secret_string(primary, &password), "VersionStages": ["AWSPENDING"]}),
            )
            .await;
        let pending = pending["VersionId"].as_str().unwrap().to_owned();
        log_in_anew(primary).await;
        primary.sql(&format!("ALTER ROLE rotated PASSWORD '{password}'")).await.unwrap();
        log_in_anew(primary).await;
        aws.secrets(
            "UpdateSecretVersionStage",
            json!({"SecretId": "db", "VersionStage": "AWSCURRENT", "MoveToVersionId": pending, "RemoveFromVersionId": current}),
        )
        .await;
        // AWS moves this label with the next version; the emulator would have it on both.
        aws.secrets(
            "UpdateSecretVersionStage",
            json!({"SecretId": "db", "VersionStage": "AWSPENDING", "RemoveFromVersionId": pending}),
        )
        .await;
        current = pending;
        log_in_anew(primary).await;
    }

    let metrics = daemon.metrics().await;
    assert_eq!(series(&metrics, "pgvigil_polls_total", &[("outcome", "authentication")]), Some(0.0));
    let asked = [("api", "secretsmanager:GetSecretValue"), ("outcome", "ok")];
    assert!(series(&metrics, "pgvigil_aws_requests_total", &asked).unwrap() >= 3.0, "{metrics}");
    let log = daemon.log();
    assert!(!log.contains("pass-"), "{log}");
}

#[tokio::test]
async fn what_the_dsn_leaves_out_is_the_secrets_and_what_it_says_holds() {
    let Some(aws) = Aws::start().await else { return };
    let servers = server_with_role().await;
    let primary = servers.primary();
    let managed = json!({"username": "rotated", "password": "pass-0"}).to_string();
    aws.secrets("CreateSecret", json!({"Name": "managed", "SecretString": managed})).await;
    let elsewhere =
        secret_string(primary, "pass-0").replace("127.0.0.1", "db.invalid").replace("\"postgres\"", "\"nowhere\"");
    let elsewhere = elsewhere.replace("\"engine\":\"nowhere\"", "\"engine\":\"postgresql\"");
    aws.secrets("CreateSecret", json!({"Name": "elsewhere", "SecretString": elsewhere})).await;
    let target = |name: &str, secret: &str, dsn: &str| {
        format!("[[cluster.target]]\nname = \"{name}\"\nsecret = \"{secret}\"\ndsn = \"{dsn}\"\n")
    };
    let dsn = format!("host=127.0.0.1 port={} dbname=postgres", primary.port);
    let config = "[[cluster]]\nname = \"c\"\n".to_owned()
        + &target("managed", "managed", &dsn)
        + &target("elsewhere", "elsewhere", "host=127.0.0.1 dbname=postgres user=nobody")
        + &target("nowhere", "managed", "dbname=postgres")
        + &target("none", "no-such-secret", &dsn);
    let (report, _) = check(&config, &aws.environment().map(|(name, value)| (name, value))).await;
    let failures: Vec<Option<&str>> =
        report["clusters"][0]["targets"].as_array().unwrap().iter().map(|target| target["failure"].as_str()).collect();
    assert_eq!(failures[..2], [None, None]);
    assert!(failures[2].unwrap().contains("neither the dsn nor the secret says the host"), "{failures:?}");
    assert!(failures[3].unwrap().contains("ResourceNotFoundException"), "{failures:?}");
}

/// The report of `pgvigil check`, and what it logged.
async fn check(config: &str, environment: &[(&str, String)]) -> (Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = pgvigil();
    command.args(["check", "--json", "--config"]).arg(&file).env("RUST_LOG", "trace");
    for (name, value) in environment {
        command.env(name, value);
    }
    // On a thread of its own: what it asks may be answered on this one.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|error| panic!("{error}: {log}")), log)
}

#[tokio::test]
async fn check_names_the_action_that_aws_denies() {
    let aws = Receiver::start().await;
    aws.answer("400 Bad Request\r\nx-amzn-errortype: AccessDeniedException");
    let config = format!(
        "[aws]\nregion = \"eu-west-1\"\nsecretsmanager_endpoint_url = \"http://127.0.0.1:{}\"\n\
         [[cluster]]\nname = \"c\"\n[[cluster.target]]\nname = \"p\"\nsecret = \"db\"\n",
        aws.port
    );
    let keys = KEYS.map(|(name, value)| (name, value.to_owned()));
    let (report, log) = check(&config, &keys).await;
    let failure = report["clusters"][0]["targets"][0]["failure"].as_str().unwrap();
    assert_eq!(
        failure,
        "authentication: cannot read secret db: AWS denies secretsmanager:GetSecretValue: add the action to the policy (no reason)"
    );
    assert!(!log.contains("wJalrXUtnFEMI") && !log.contains("Sess/ion"), "{log}");
}

#[tokio::test]
async fn aws_that_does_not_answer_delays_neither_the_start_nor_other_servers() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = pg::cluster(0).await;
    let config = format!("[aws]\nregion = \"eu-west-1\"\nendpoint_url = \"http://{}\"\n", deaf.local_addr().unwrap())
        + &cluster_toml("c", &[("plain", pg::dsn(servers.primary(), "mon"))])
        + "[[cluster.target]]\nname = \"kept\"\nsecret = \"db\"\n";
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(KEYS);
    })
    .await;
    daemon.until_series("pgvigil_target_up", &[("target", "plain")], SOON, |up| up == Some(1.0)).await;
    daemon.until_series("pgvigil_target_up", &[("target", "kept")], SOON, |up| up == Some(0.0)).await;
    drop(deaf);
    // Refused now: three questions that fail, and it is left alone, with the reason.
    until("a circuit that is open", Duration::from_secs(90), || async {
        let services = daemon.get("/api/v1/aws").await?.json();
        match services["services"][0]["reason"].as_str() {
            Some("it cannot be reached" | "no answer in time") => Ok(()),
            _ => Err(services.to_string()),
        }
    })
    .await;
    let polls = daemon.series("pgvigil_polls_total", &[("outcome", "ok")]).await.unwrap();
    daemon.until_series("pgvigil_polls_total", &[("outcome", "ok")], SOON, |now| now > Some(polls)).await;
}

/// A port that asks whoever comes over TLS for a password, in clear text as RDS does for a token, keeps it and refuses.
pub(crate) fn asking(certificates: &Certificates) -> (u16, Passwords<String>) {
    let chain =
        CertificateDer::pem_file_iter(certificates.path("server.crt")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, passwords) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who does not like the certificate leaves.
            if hear(stream, &config, &heard).is_err() && heard.send("nothing".to_owned()).is_err() {
                return;
            }
        }
    });
    (port, passwords)
}

fn hear(
    mut stream: TcpStream,
    config: &Arc<rustls::ServerConfig>,
    heard: &mpsc::Sender<String>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    let mut ssl_request = [0; 8];
    stream.read_exact(&mut ssl_request)?;
    stream.write_all(b"S")?;
    let connection = rustls::ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut length = [0; 4];
    let mut message = |stream: &mut rustls::StreamOwned<_, TcpStream>| {
        stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut body).map(|()| body)
    };
    message(&mut stream)?;
    // AuthenticationCleartextPassword.
    stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3])?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let password = message(&mut stream)?;
    let password = String::from_utf8_lossy(password.strip_suffix(&[0]).unwrap_or(&password)).into_owned();
    let refusal = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0";
    stream.write_all(b"E")?;
    stream.write_all(&(refusal.len() as u32 + 4).to_be_bytes())?;
    stream.write_all(refusal)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    heard.send(password).map_err(std::io::Error::other)
}

fn iam_config(port: u16, ca: &str) -> String {
    format!(
        "[aws]\nregion = \"eu-west-1\"\n[[cluster]]\nname = \"c\"\n[[cluster.target]]\nname = \"p\"\nauth = \"iam\"\nuser = \"vigil & co\"\n\
         dsn = \"postgresql://localhost:{port}/postgres?sslrootcert={ca}\"\n"
    )
}

#[tokio::test]
async fn a_token_is_made_for_each_session_and_a_server_takes_it_as_a_password_over_verified_tls() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let (port, passwords) = asking(&certificates);
    let ca = certificates.path("ca.crt").display().to_string();
    let keys = KEYS.map(|(name, value)| (name, value.to_owned()));
    let heard = || passwords.recv_timeout(SOON).unwrap();

    // Of a server that is somebody else nobody hears a token.
    let (report, _) = check(&iam_config(port, &others.path("ca.crt").display().to_string()), &keys).await;
    let failure = report["clusters"][0]["targets"][0]["failure"].as_str().unwrap();
    assert!(failure.starts_with("TLS: invalid peer certificate"), "{failure}");
    assert_eq!(heard(), "nothing");

    let (report, log) = check(&iam_config(port, &ca), &keys).await;
    let failure = report["clusters"][0]["targets"][0]["failure"].as_str().unwrap();
    assert_eq!(failure, "authentication: password authentication failed");
    let token = heard();
    assert!(token.starts_with(&format!("localhost:{port}/?Action=connect&DBUser=vigil%20%26%20co&")), "{token}");
    for part in [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256",
        "%2Feu-west-1%2Frds-db%2Faws4_request",
        "X-Amz-Expires=900",
        "X-Amz-Security-Token=Sess%2Fion%2BToken%3D%3D",
        "X-Amz-Signature=",
    ] {
        assert!(token.contains(part), "{token}");
    }
    assert!(!log.contains("X-Amz-Signature") && !log.contains("Sess"), "{log}");
    let date = |token: &str| token.split("X-Amz-Date=").nth(1).unwrap()[..16].to_owned();
    until("a token of another second", SOON, || async {
        check(&iam_config(port, &ca), &keys).await;
        let next = heard();
        if date(&next) > date(&token) { Ok(()) } else { Err(next) }
    })
    .await;

    // A real server, with that token for a password.
    let mut plan = certificates.serve(pg::plan(0));
    plan.setup.push(format!("CREATE ROLE \"vigil & co\" LOGIN; SET password_encryption = 'md5'; ALTER ROLE \"vigil & co\" PASSWORD '{token}'"));
    plan.hba.push("hostssl all \"vigil & co\" 127.0.0.1/32 password".to_owned());
    let servers = Servers::start(&plan).await.unwrap();
    let dsn =
        format!("host=localhost port={} dbname=postgres sslmode=verify-full sslrootcert={ca}", servers.primary().port);
    let conninfo = Conninfo::parse_with(&dsn, &|_| None).unwrap().with_user("vigil & co");
    let open = async |password: &str| {
        let conninfo = conninfo.clone().with_password(Password::new(password));
        connect(&conninfo, &Limits::within(LIMIT), SettingsBy::Session, &Trust::default()).await
    };
    assert!(open(&token).await.unwrap().tls());
    assert_eq!(open(&token.replace("900", "901")).await.unwrap_err().kind(), "authentication");
}
