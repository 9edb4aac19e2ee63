//! `[server.tls]` and `[server.auth]` of the real daemon.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::process::Process;
use crate::support::tls::Certificates;
use crate::support::{free_port, until};

struct Here {
    process: Process,
    port: u16,
    dir: tempfile::TempDir,
}

fn config(port: u16, dir: &Path, server: &str) -> String {
    let targets = cluster_toml("orders", &[("gone", "postgresql://x@127.0.0.1:1/x".to_owned())]);
    let (cert, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\n{server}\n[server.tls]\ncert = \"{}\"\nkey = \"{}\"\n{targets}",
        cert.display(),
        key.display()
    )
}

fn command(dir: &Path, config: &str) -> Command {
    let file = dir.join("pgvigil.toml");
    fs::write(&file, config).unwrap();
    let mut command = pgvigil();
    command.arg("run").arg("--config").arg(file);
    command
}

/// Puts a certificate and its key where the daemon looks: each is whole at every moment.
fn install(certificates: &Certificates, dir: &Path) {
    for (from, to) in [("server.key", "tls.key"), ("server.crt", "tls.crt")] {
        fs::copy(certificates.path(from), dir.join("new")).unwrap();
        fs::rename(dir.join("new"), dir.join(to)).unwrap();
    }
}

async fn start(certificates: &Certificates, server: &str) -> Here {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    install(certificates, dir.path());
    let mut process = Process::start(command(dir.path(), &config(port, dir.path(), server)));
    process.wait_for_output("listening on https://", SOON).await;
    Here { process, port, dir }
}

/// The answer to a request of a client that knows this authority and speaks these versions.
async fn ask(
    port: u16,
    authority: &Certificates,
    versions: &[&'static SupportedProtocolVersion],
    request: &str,
) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn https_is_spoken_and_a_new_certificate_taken_up() {
    let (first, second) = (Certificates::make(), Certificates::make());
    let here = start(&first, "auth = { user = \"ops\", password = \"open sesame\" }").await;
    for version in BOTH {
        let answer = ask(here.port, &first, &[version], LIVEZ).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let page = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let refused = ask(here.port, &first, &BOTH, &format!("{page}\r\n")).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("www-authenticate: Basic realm="), "{refused}");
    // "ops:open sesame".
    let shown = format!("{page}authorization: Basic b3BzOm9wZW4gc2VzYW1l\r\n\r\n");
    let answer = ask(here.port, &first, &BOTH, &shown).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("<h1>"), "{answer}");
    assert!(ask(here.port, &second, &BOTH, LIVEZ).await.is_err(), "nobody vouches for it");
    // Who does not speak TLS is closed, and holds up no one.
    let mut plain = TcpStream::connect(("127.0.0.1", here.port)).await.unwrap();
    plain.write_all(LIVEZ.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    install(&second, here.dir.path());
    until("the new certificate", 3 * SOON, || async {
        ask(here.port, &second, &BOTH, LIVEZ).await.map(|answer| assert!(answer.starts_with("HTTP/1.1 200")))
    })
    .await;
    // One that cannot be used changes nothing.
    fs::write(here.dir.path().join("tls.crt"), "no certificate").unwrap();
    until("a word of it", 3 * SOON, || async {
        let log = here.process.output();
        if log.contains("the one before is kept") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(ask(here.port, &second, &BOTH, LIVEZ).await.is_ok());
    assert!(!here.process.output().contains("sesame"));
}

#[tokio::test]
async fn what_is_wrong_with_the_files_is_told_at_the_start() {
    let (certificates, other) = (Certificates::make(), Certificates::make());
    let cert = fs::read(certificates.path("server.crt")).unwrap();
    let key = fs::read(certificates.path("server.key")).unwrap();
    let others = fs::read(other.path("server.key")).unwrap();
    let locked = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n".to_vec();
    for (cert, key, says) in [
        (None, Some(&key), ["server.tls.cert: ", "tls.crt: cannot be read: there is no such file"]),
        (Some(&cert), None, ["server.tls.key: ", "tls.key: cannot be read: there is no such file"]),
        (Some(&key), Some(&key), ["server.tls.cert: ", "tls.crt: holds no certificate"]),
        (Some(&cert), Some(&cert), ["server.tls.key: ", "tls.key: holds no private key"]),
        (Some(&cert), Some(&locked), ["server.tls.key: ", "tls.key: has a passphrase; "]),
        (Some(&cert), Some(&others), ["server.tls.key: ", "tls.key: does not belong to the certificate in"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("tls.crt", cert), ("tls.key", key)] {
            if let Some(content) = content {
                fs::write(dir.path().join(name), content).unwrap();
            }
        }
        let mut process = Process::start(command(dir.path(), &config(free_port(), dir.path(), "")));
        let status = process.wait(SOON).await;
        let log = process.output();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(says.iter().all(|part| log.contains(part)), "{says:?}: {log}");
    }
}

#[tokio::test]
async fn silences_and_drains_are_asked_for_over_https_too() {
    let (certificates, other) = (Certificates::make(), Certificates::make());
    let here = start(&certificates, "token = \"hush-hush-hush-hush\"").await;
    let file = here.dir.path().join("pgvigil.toml");
    let plain = Daemon::start(&cluster_toml("orders", &[("gone", "postgresql://x@127.0.0.1:1/x".to_owned())])).await;
    let (ca, others, port) = (certificates.path("ca.crt"), other.path("ca.crt"), here.port);
    let ask = |url: Option<String>, ca: Option<&Path>, token: Option<&str>, arguments: &[&str]| {
        let mut command = pgvigil();
        command.args(arguments).env("USER", "grace");
        match url {
            Some(url) => command.arg("--url").arg(url),
            None => command.arg("--config").arg(&file),
        };
        command.args(ca.iter().flat_map(|ca| [Path::new("--ca-file"), ca]));
        if let Some(token) = token {
            command.env("PGVIGIL_TOKEN", token);
        }
        async move {
            let output = tokio::process::Command::from(command).output().await.unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        }
    };
    let https = || Some(format!("https://127.0.0.1:{port}"));
    let drain = ["drain", "orders/gone", "--for", "10m"];

    // The configuration says where it is, that it is HTTPS, and its token.
    let (status, told, complaint) = ask(None, Some(&ca), None, &drain).await;
    assert!(status == Some(0) && told.starts_with("orders/gone is drained until "), "{told}{complaint}");
    let (status, told, complaint) = ask(https(), Some(&ca), None, &["drain", "--list"]).await;
    assert!(status == Some(0) && told.contains("orders/gone"), "{told}{complaint}");
    let silence = ["silence", "add", "--cluster", "orders", "--for", "1h", "--reason", "test"];
    let (status, told, complaint) = ask(https(), Some(&ca), Some("hush-hush-hush-hush"), &silence).await;
    assert!(status == Some(0) && told.contains("silence 1 until "), "{told}{complaint}");

    let list = ["silence", "list"];
    for (url, ca, token, arguments, says) in [
        (https(), Some(&others), None, &list[..], ["BadSignature", "--ca-file names the authority"]),
        (https(), None, None, &list, ["UnknownIssuer", "--ca-file names the authority"]),
        (https(), Some(&file), None, &list, ["--ca-file: ", "no certificate in "]),
        (Some(format!("http://127.0.0.1:{port}")), Some(&ca), None, &list, ["does it speak HTTPS?", "write https://"]),
        (Some(plain.url.replace("http:", "https:")), Some(&ca), None, &list, ["plain HTTP", "write http://"]),
        (
            Some(format!("127.0.0.1:{port}")),
            Some(&ca),
            None,
            &list,
            ["--url: this URL must begin with", "write for example"],
        ),
        (
            Some(format!("https://u:p@127.0.0.1:{port}")),
            Some(&ca),
            None,
            &list,
            ["--url: a user and a pass", "write for"],
        ),
        (https(), Some(&ca), Some("loud"), &silence, ["token", "PGVIGIL_TOKEN give another"]),
        (https(), Some(&ca), None, &silence, ["server.token", "--token-file"]),
    ] {
        let (status, told, complaint) = ask(url, ca.map(|ca| &**ca), token, arguments).await;
        assert!(status == Some(1) && told.is_empty(), "{status:?} {told}{complaint}");
        assert!(says.iter().all(|part| complaint.contains(part)), "{says:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(!complaint.contains("hush") && !complaint.contains("loud"), "{complaint}");
    }
}
