//! How many health questions a CPU second answers while polling goes on, and how long `/metrics` takes.

use std::time::Duration;

use pgvigil::clock;
use tokio::process::Command;

use crate::Outcome;
use crate::rig::{Rig, median};
use crate::table::Table;

const N_SCRAPES: usize = 20;

pub(crate) async fn measure_health(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let daemon = rig.daemon(100, "").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let url = format!("{}/healthz/c7/replica", daemon.url);
    let before = daemon.process.cpu()?;
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", "16", "--duration", "10s", "--latency", &url])
        .kill_on_drop(true)
        .output()
        .await?;
    let used = daemon.process.cpu()? - before;
    let said = String::from_utf8(output.stdout)?;
    let (n_requests, p99) = read(&said).ok_or_else(|| format!("wrk says: {said}"))?;
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return Err(format!("wrk says: {said}").into());
    }

    let rate = n_requests as f64 / used.as_secs_f64();
    table.judged(
        "/healthz/{cluster}/{target}: requests per CPU second",
        format!("{rate:.0}"),
        ">= 100000",
        rate >= 100_000.0,
    );
    table.told("  requests per second, wrk on the other core", format!("{:.0}", n_requests as f64 / 10.0));
    table.judged("  p99, 16 connections", format!("{:.2} ms", p99 * 1e3), "< 1 ms", p99 < 1e-3);
    Ok(())
}

/// Requests, and the 99th percentile in seconds, of wrk's report.
fn read(said: &str) -> Option<(u64, f64)> {
    let mut words = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let p99 = words.clone().find(|words| words.first() == Some(&"99%"))?;
    let total = words.find(|words| words.get(1..3) == Some(&["requests", "in"]))?;
    let p99 = p99.get(1)?;
    let (digits, unit) = p99.split_at(p99.find(|c: char| c.is_ascii_alphabetic())?);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some((total.first()?.parse().ok()?, digits.parse::<f64>().ok()? * seconds))
}

pub(crate) async fn measure_metrics(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let daemon = rig.daemon(1000, "").await?;
    tokio::time::sleep(Duration::from_secs(17)).await;
    let (mut took, mut cpu, mut size) = (Vec::new(), Vec::new(), 0);
    for _ in 0..N_SCRAPES {
        let (asked_at, before) = (clock::now(), daemon.process.cpu()?);
        size = daemon.get("/metrics")?.len();
        took.push(clock::now().duration_since(asked_at).as_secs_f64() * 1e3);
        cpu.push((daemon.process.cpu()? - before).as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(137)).await;
    }
    let (took, cpu) = (median(took), median(cpu));
    table.judged("/metrics, 1000 targets: request to last byte", format!("{took:.1} ms"), "< 25 ms", took < 25.0);
    table.told("  CPU of the daemon", format!("{cpu:.1} ms"));
    table.told("  size", format!("{:.1} MB", size as f64 / 1e6));
    Ok(())
}
