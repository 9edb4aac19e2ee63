//! How many health questions a CPU second answers while polling goes on, and how long `/metrics` takes.

use std::time::Duration;

use pgvigil::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::Outcome;
use crate::bare;
use crate::process::Measured;
use crate::rig::{self, Rig, median};
use crate::table::Table;

const N_SCRAPES: usize = 20;

const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_secs(5);

pub(crate) async fn measure_health(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let daemon = rig.daemon(100, "").await?;
    let path = "/healthz/c7/replica";
    let answer = raw_answer(&daemon.address, path).await?;
    let address = format!("127.0.0.1:{}", rig::free_port()?);
    let bare = Measured::start(&std::env::current_exe()?, |command| {
        command.args([bare::RESPONDER, &address, &answer]);
    })?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (mut ours, mut bare_loads) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(wrk(&daemon.process, &format!("http://{}{path}", daemon.address)).await?);
        bare_loads.push(wrk(&bare, &format!("http://{address}{path}")).await?);
    }

    let of = |loads: &[Load], figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
    let (rate, floor) = (of(&ours, |load| load.per_cpu_second), of(&bare_loads, |load| load.per_cpu_second));
    let (p99, floor_p99) = (of(&ours, |load| load.p99), of(&bare_loads, |load| load.p99));
    table.judged(
        "/healthz/{cluster}/{target}: requests per CPU second",
        format!("{rate:.0}"),
        ">= 100000",
        rate >= 100_000.0,
    );
    table.told("  bare tokio task writing the same answer", format!("{floor:.0}"));
    table.told("  ratio", format!("{:.2}", rate / floor));
    table.told("  requests a second, wrk on the other core", format!("{:.0}", of(&ours, |load| load.per_second)));
    table.judged("  p99, 16 connections", format!("{:.2} ms", p99 * 1e3), "< 1 ms", p99 < 1e-3);
    table.told("    of the bare task", format!("{:.2} ms", floor_p99 * 1e3));
    Ok(())
}

/// What wrk showed.
struct Load {
    per_cpu_second: f64,
    per_second: f64,
    /// In seconds.
    p99: f64,
}

async fn wrk(process: &Measured, url: &str) -> Outcome<Load> {
    let before = process.cpu()?;
    let duration = format!("{}s", WINDOW.as_secs());
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", "16", "--duration", &duration, "--latency", url])
        .kill_on_drop(true)
        .output()
        .await?;
    let used = process.cpu()? - before;
    let said = String::from_utf8(output.stdout)?;
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return Err(format!("wrk says: {said}").into());
    }
    let (n_requests, p99) = read(&said).ok_or_else(|| format!("wrk says: {said}"))?;
    let n_requests = n_requests as f64;
    Ok(Load { per_cpu_second: n_requests / used.as_secs_f64(), per_second: n_requests / WINDOW.as_secs_f64(), p99 })
}

/// An answer as it goes over the wire, head and body.
async fn raw_answer(address: &str, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    Ok(String::from_utf8(answer)?)
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
    let daemon = rig.daemon(1000, rig::SELDOM).await?;
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
