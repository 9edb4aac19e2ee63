//! CPU per poll against the bare loop, turn by turn.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use pgvigil::clock;

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
        ours.push(cost(&daemon.process, || Ok(daemon.polls()?.0)).await?);
        drop(daemon);
        bare.push(bare_loop(rig, &questions).await?);
    }
    let rate = |costs: &[Cost]| median(costs.iter().map(|cost| cost.rate).collect());
    let rates = format!("{:.0}, {:.0}", rate(&ours), rate(&bare));
    let per_poll = |costs: &[Cost]| median(costs.iter().map(|cost| cost.per_poll).collect());
    let (ours, bare) = (per_poll(&ours), per_poll(&bare));
    table.told(format!("CPU per poll, {N_TARGETS} targets at 1 s"), format!("{ours:.1} µs"));
    table.told("  bare tokio-postgres loop of the same queries", format!("{bare:.1} µs"));
    table.told("  polls a second, ours and bare", rates);
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

async fn bare_loop(rig: &Rig, questions: &[String; 2]) -> Outcome<Cost> {
    let mut process = Measured::start(&std::env::current_exe()?, |command| {
        command.arg(bare::LOOP).arg(N_TARGETS.to_string());
        for (dsn, sql) in rig.dsns(OURS).iter().zip(questions) {
            command.arg(dsn).arg(sql);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    })?;
    let mut counter = process.child().stdin.take().ok_or("no standard input")?;
    let mut counts = BufReader::new(process.child().stdout.take().ok_or("no standard output")?).lines();
    tokio::time::sleep(WARM_UP).await;
    cost(&process, || {
        counter.write_all(b"\n")?;
        Ok(counts.next().ok_or("the bare loop has ended")??.parse()?)
    })
    .await
}

/// What one window showed.
struct Cost {
    /// Polls a second.
    rate: f64,
    /// CPU time of one poll in microseconds.
    per_poll: f64,
}

async fn cost(process: &Measured, mut n_polls: impl FnMut() -> Outcome<u64>) -> Outcome<Cost> {
    // To count the daemon's polls costs it some CPU: that stays outside.
    let (counted_from, n_before) = (clock::now(), n_polls()?);
    let (watched_from, cpu_before) = (clock::now(), process.cpu()?);
    tokio::time::sleep(WINDOW).await;
    let cpu = process.cpu()? - cpu_before;
    let watched = clock::now().duration_since(watched_from);
    let (counted_to, n_after) = (clock::now(), n_polls()?);
    let rate = (n_after - n_before) as f64 / counted_to.duration_since(counted_from).as_secs_f64();
    Ok(Cost { rate, per_poll: cpu.as_secs_f64() * 1e6 / (rate * watched.as_secs_f64()) })
}
