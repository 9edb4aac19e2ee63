//! Beside prometheus-postgres-exporter on the same two servers, both sampling each second.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pgvigil::clock;
use tokio_postgres::Client;

use crate::Outcome;
use crate::cost::{Cost, cost};
use crate::process::Measured;
use crate::rig::{self, EXPORTER, OURS, Rig};
use crate::table::Table;

const PROGRAM: &str = "/usr/bin/prometheus-postgres-exporter";
/// Two slow beats.
const WINDOW: Duration = Duration::from_secs(30);
const N_TARGETS: f64 = 2.0;

pub(crate) async fn measure(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let sessions = rig.sessions().await?;
    let theirs = exporters(rig, &sessions).await?;
    let quiet = daemon(rig, &sessions, false).await?;
    let scraped = daemon(rig, &sessions, true).await?;

    let us = |seconds: f64| format!("{:.0} µs", seconds * 1e6);
    let mut rows = |what: &str, of: fn(&Cost) -> f64, digits: usize| {
        let (theirs, quiet, scraped) = (of(&theirs), of(&quiet), of(&scraped));
        let ratio = |ours: f64| format!("1/{:.digits$}", theirs / ours);
        table.told(format!("{what} per sample, prometheus-postgres-exporter"), us(theirs));
        table.told("  pgvigil, both beats", us(quiet));
        table.judged("  ratio", ratio(quiet), "<= 1/20", quiet <= theirs / 20.0);
        (us(scraped), ratio(scraped))
    };
    let (scraped_cpu, scraped_ratio) = rows("CPU", |cost| cost.own.as_secs_f64(), 1);
    rows("server CPU", |cost| cost.server.as_secs_f64(), 1);
    rows("time in pg_stat_statements", |cost| cost.statements, 1);
    table.told("CPU per sample when /metrics is scraped each second too", scraped_cpu);
    table.told("  ratio", scraped_ratio);
    Ok(())
}

/// One exporter for each server: this version cannot serve several without the same series twice.
async fn exporters(rig: &Rig, sessions: &[Client; 2]) -> Outcome<Cost> {
    rig.quiet().await?;
    let (agent, mut processes, mut urls) = (ureq::agent(), Vec::new(), Vec::new());
    for dsn in rig.dsns(EXPORTER) {
        let port = rig::free_port()?;
        let process = Measured::start(Path::new(PROGRAM), |command| {
            command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
            command.env("DATA_SOURCE_NAME", dsn).stderr(Stdio::null());
        })?;
        processes.push(process);
        urls.push(format!("http://127.0.0.1:{port}/metrics"));
    }
    let scrape = || -> Outcome<()> {
        for url in &urls {
            agent.get(url).call()?.body_mut().read_to_vec()?;
        }
        Ok(())
    };
    for _ in 0..100 {
        if scrape().is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    window(rig, sessions, &processes, EXPORTER, scrape).await
}

async fn daemon(rig: &Rig, sessions: &[Client; 2], is_scraped: bool) -> Outcome<Cost> {
    let daemon = rig.daemon(2, "").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let scrape = || if is_scraped { daemon.get("/metrics").map(|_| ()) } else { Ok(()) };
    window(rig, sessions, std::slice::from_ref(&daemon.process), OURS, scrape).await
}

/// Costs of one sample of one server, over one window with `each_second` in it.
async fn window(
    rig: &Rig,
    sessions: &[Client; 2],
    processes: &[Measured],
    role: &str,
    each_second: impl Fn() -> Outcome<()>,
) -> Outcome<Cost> {
    let before = cost(rig, sessions, processes, role).await?;
    let began = clock::now();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut n_samples = 0.0;
    while clock::now().duration_since(began) < WINDOW {
        every.tick().await;
        each_second()?;
        n_samples += N_TARGETS;
    }
    let after = cost(rig, sessions, processes, role).await?;
    Ok(Cost {
        own: (after.own - before.own).div_f64(n_samples),
        server: after.server.saturating_sub(before.server).div_f64(n_samples),
        statements: (after.statements - before.statements) / n_samples,
    })
}
