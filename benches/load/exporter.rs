//! Beside prometheus-postgres-exporter on the same two servers, both sampling each second.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pgvigil::clock;
use tokio_postgres::Client;

use crate::Outcome;
use crate::process::{self, CpuTime, Measured};
use crate::rig::{self, EXPORTER, OURS, Rig};
use crate::table::Table;

const PROGRAM: &str = "/usr/bin/prometheus-postgres-exporter";
/// Two slow beats.
const WINDOW: Duration = Duration::from_secs(30);
const N_TARGETS: f64 = 2.0;

/// What sampling has cost so far.
struct Cost {
    own: CpuTime,
    /// Of the servers' processes for its sessions.
    server: CpuTime,
    /// `pg_stat_statements`, in seconds.
    statements: f64,
}

pub(crate) async fn measure(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let sessions = rig.sessions().await?;
    let theirs = exporter(rig, &sessions).await?;
    eprintln!("{:?} {:?} {:?}", theirs.own, theirs.server, theirs.statements);
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

async fn exporter(rig: &Rig, sessions: &[Client; 2]) -> Outcome<Cost> {
    let port = rig::free_port()?;
    let mut process = Measured::start(Path::new(PROGRAM), |command| {
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.env("DATA_SOURCE_NAME", rig.dsns(EXPORTER).join(",")).stderr(Stdio::null());
    })?;
    let (url, agent) = (format!("http://127.0.0.1:{port}/metrics"), ureq::agent());
    let scrape = || agent.get(&url).call().is_ok_and(|mut answer| answer.body_mut().read_to_vec().is_ok());
    for _ in 0..100 {
        if scrape() {
            break;
        }
        process.check()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    window(rig, sessions, &process, EXPORTER, || scrape().then_some(()).ok_or_else(|| "a scrape failed".into())).await
}

async fn daemon(rig: &Rig, sessions: &[Client; 2], is_scraped: bool) -> Outcome<Cost> {
    let daemon = rig.daemon(2, "").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let scrape = || if is_scraped { daemon.get("/metrics").map(|_| ()) } else { Ok(()) };
    window(rig, sessions, &daemon.process, OURS, scrape).await
}

/// Costs of one sample of one server, over one window with `each_second` in it.
async fn window(
    rig: &Rig,
    sessions: &[Client; 2],
    process: &Measured,
    role: &str,
    each_second: impl Fn() -> Outcome<()>,
) -> Outcome<Cost> {
    let before = cost(rig, sessions, process, role).await?;
    let began = clock::now();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut n_samples = 0.0;
    while clock::now().duration_since(began) < WINDOW {
        every.tick().await;
        each_second()?;
        n_samples += N_TARGETS;
    }
    let after = cost(rig, sessions, process, role).await?;
    Ok(Cost {
        own: (after.own - before.own).div_f64(n_samples),
        server: after.server.saturating_sub(before.server).div_f64(n_samples),
        statements: (after.statements - before.statements) / n_samples,
    })
}

async fn cost(rig: &Rig, sessions: &[Client; 2], process: &Measured, role: &str) -> Outcome<Cost> {
    let mut cost = Cost { own: process.cpu()?, server: Duration::ZERO, statements: 0.0 };
    for (session, server) in sessions.iter().zip(&rig.servers.nodes) {
        // Sessions that have ended are counted by the postmaster. Within a window only the measured process has such.
        let lock = std::fs::read_to_string(server.data.join("postmaster.pid"))?;
        cost.server += process::of_ended_children(lock.lines().next().unwrap_or_default().trim().parse()?)?;
        for row in session.query("SELECT pid FROM pg_stat_activity WHERE usename = $1::text::name", &[&role]).await? {
            let pid: i32 = row.try_get(0)?;
            cost.server += process::on_cpu(Path::new(&format!("/proc/{pid}/schedstat")))?;
        }
        let spent = "SELECT coalesce(sum(total_exec_time + total_plan_time), 0) / 1000 FROM pg_stat_statements \
                     WHERE userid = (SELECT oid FROM pg_roles WHERE rolname = $1::text::name)";
        let spent: f64 = session.query_one(spent, &[&role]).await?.try_get(0)?;
        cost.statements += spent;
    }
    Ok(cost)
}
