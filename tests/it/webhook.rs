//! From a server's fault to what an HTTP address is sent.

use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::pg;
use crate::support::receiver::{Receiver, Request};

const FAMILY: &str = "pgvigil_notifications_total";

/// The signature by another hand.
fn hmac(secret: &str, request: &Request) -> String {
    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let script = "import sys, hmac, hashlib, base64\n\
        key, text = sys.argv[1].encode(), sys.argv[2].encode()\n\
        print('v1,' + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode())";
    let text = format!("{id}.{timestamp}.{}", request.body);
    let output = Command::new("python3").args(["-c", script, secret, &text]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_notice_is_signed_and_tried_again_until_it_is_taken() {
    let hook = Receiver::start().await;
    hook.answer("503 Service Unavailable");
    let servers = pg::cluster(1).await;
    let targets = pg::targets(&servers.nodes, "mon");
    let config = cluster_toml("c", &targets)
        + "[[rule]]\nname = \"Down\"\nwhen = \"target_up == 0\"\nfor = \"1s\"\nseverity = \"critical\"\n"
        + &format!("[[notify]]\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{}/T0/s3cr3t?a=b\"\n", hook.port)
        + "secret = \"${HOOK_SECRET}\"\nheaders = { X-Team = \"orders\" }\n";
    let daemon = Daemon::start_with(&config, |command| {
        command.env("HOOK_SECRET", "hush");
    })
    .await;

    servers.node("r1").crash().await.unwrap();
    let twice = hook.until(2, SOON).await;
    hook.answer("200 OK");
    let outcomes = |outcome: &'static str| [("notifier", "webhook-1"), ("outcome", outcome)];
    daemon.until_series(FAMILY, &outcomes("ok"), SOON, |ok| ok == Some(1.0)).await;
    for request in &twice {
        assert_eq!(request.line, "POST /T0/s3cr3t?a=b HTTP/1.1");
        assert_eq!((request.header("content-type"), request.header("x-team")), ("application/json", "orders"));
        assert_eq!(request.header("webhook-signature"), hmac("hush", request));
    }
    // Attempts to tell one thing have one id.
    assert_eq!(twice[0].header("webhook-id"), twice[1].header("webhook-id"));
    let body = twice[0].json();
    assert!(body["version"].is_number() && body["source"] == "pgvigil", "{body:#}");

    // Redirects are not followed, and what is refused for good is not asked again at once.
    hook.answer("302 Found\r\nlocation: http://127.0.0.1:1/elsewhere");
    let before = hook.requests().len();
    servers.node("r1").start().await.unwrap();
    daemon.until_series(FAMILY, &outcomes("permanent"), SOON, |refused| refused == Some(1.0)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(hook.requests().len(), before + 1);
    let log = daemon.log();
    assert!(log.contains("redirects are not followed"), "{log}");
    assert!(!log.contains("s3cr3t") && !log.contains("hush"), "{log}");
    assert_eq!(daemon.stop().await, Some(0));
}
