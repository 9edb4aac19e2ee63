//! What the tests start: PostgreSQL, a link that can be cut, the daemon, an AWS emulator, Prometheus, Alertmanager.
#![allow(dead_code, reason = "each helper serves some of the tests")]

pub(crate) mod alertmanager;
pub(crate) mod aws;
pub(crate) mod cloudwatch;
pub(crate) mod daemon;
pub(crate) mod haproxy;
pub(crate) mod http;
pub(crate) mod pg;
pub(crate) mod pgbouncer;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod rds;
pub(crate) mod receiver;
pub(crate) mod sns;
pub(crate) mod terminal;
pub(crate) mod tls;

use std::future::Future;
use std::time::Duration;

use pgvigil::clock;

/// In CI everything must be there; elsewhere a test whose component is not installed says so and passes.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Says that a component is missing, which is a failure in CI.
pub(crate) fn missing(component: &str) {
    assert!(!in_ci(), "{component} is not installed; scripts/test installs it");
    eprintln!("skipped: {component} is not installed; scripts/test installs it");
}

/// Asks until the answer is `Ok`, and gives it; panics with the last `Err` when that takes longer than `patience`.
pub(crate) async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> T {
    let start = clock::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) => {
                let took = clock::now().duration_since(start);
                assert!(took < patience, "{what}: not within {patience:?}; last: {last}");
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A port of loopback that nobody listens on now. Servers that can, are told port 0 instead.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
