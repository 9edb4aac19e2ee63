//! CPU per poll against the bare loop, turn by turn.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use crate::Outcome;
use crate::bare;
use crate::process::Measured;
use crate::rig::{OURS, Rig, median};
use crate::table::Table;

const N_TARGETS: usize = 500;
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_secs(8);

pub(crate) async fn measure(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Without slow beats: the same questions alone.
        let daemon = rig.daemon(N_TARGETS, "slow_interval = \"1h\"").await?;
        tokio::time::sleep(WARM_UP).await;
        let questions = questions(rig).await?;
        ours.push(per_poll(&daemon.process, || Ok(daemon.polls()?.0)).await?);
        drop(daemon);
        bare.push(bare_loop(rig, &questions).await?);
    }
    let (ours, bare) = (median(ours), median(bare));
    table.told(format!("CPU per poll, {N_TARGETS} targets at 1 s"), format!("{ours:.1} µs"));
    table.told("  bare tokio-postgres loop of the same queries", format!("{bare:.1} µs"));
    table.judged("  ratio", format!("{:.2}", ours / bare), "<= 1.5", ours <= 1.5 * bare);
    Ok(())
}

/// What the daemon asks each server at each fast beat: what most of its sessions have asked last.
async fn questions(rig: &Rig) -> Outcome<[String; 2]> {
    let sql = format!(
        "SELECT mode() WITHIN GROUP (ORDER BY query) FROM pg_stat_activity WHERE usename = '{OURS}' AND query <> ''"
    );
    let [primary, replica] = rig.sessions().await?;
    Ok([primary.query_one(&sql, &[]).await?.try_get(0)?, replica.query_one(&sql, &[]).await?.try_get(0)?])
}

async fn bare_loop(rig: &Rig, questions: &[String; 2]) -> Outcome<f64> {
    let mut process = Measured::start(&std::env::current_exe()?, |command| {
        command.arg(bare::ARGUMENT).arg(N_TARGETS.to_string());
        for (dsn, sql) in rig.dsns(OURS).iter().zip(questions) {
            command.arg(dsn).arg(sql);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    })?;
    let mut counter = process.child().stdin.take().ok_or("no standard input")?;
    let mut counts = BufReader::new(process.child().stdout.take().ok_or("no standard output")?).lines();
    tokio::time::sleep(WARM_UP).await;
    per_poll(&process, || {
        counter.write_all(b"\n")?;
        Ok(counts.next().ok_or("the bare loop has ended")??.parse()?)
    })
    .await
}

/// CPU time of one poll in microseconds, over one window.
async fn per_poll(process: &Measured, mut n_polls: impl FnMut() -> Outcome<u64>) -> Outcome<f64> {
    // To count the daemon's polls costs it some CPU: that stays outside.
    let (counted_from, n_before) = (pgvigil::clock::now(), n_polls()?);
    let cpu_before = process.cpu()?;
    tokio::time::sleep(WINDOW).await;
    let cpu = process.cpu()? - cpu_before;
    let (counted_to, n_after) = (pgvigil::clock::now(), n_polls()?);
    let rate = (n_after - n_before) as f64 / counted_to.duration_since(counted_from).as_secs_f64();
    if rate < 0.97 * N_TARGETS as f64 {
        return Err(format!("only {rate:.0} of {N_TARGETS} polls a second").into());
    }
    Ok(cpu.as_secs_f64() * 1e6 / (rate * WINDOW.as_secs_f64()))
}
