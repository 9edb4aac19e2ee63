//! What a server pays for being watched, with `pg_stat_statements` full and large.

use std::time::Duration;

use tokio_postgres::Client;

use crate::Outcome;
use crate::cost::cost;
use crate::rig::{OURS, Rig};
use crate::table::Table;

/// The first survey comes with the first answers; the others keep their own time after it.
const WARM_UP: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(60);
const N_SERVERS: f64 = 2.0;

const N_STATEMENTS: u32 = 5000;
const N_COLUMNS: u32 = 100;
/// Each statement's text, so that all together are 200 MB.
const TEXT: usize = 40_000;

pub(crate) async fn measure(rig: &Rig, table: &mut Table) -> Outcome<()> {
    let sessions = rig.sessions().await?;
    fill(&sessions[0]).await?;
    let (without_time, without_cpu) = minute(rig, &sessions, "[statements]\nenabled = false").await?;
    let (with_time, with_cpu) = minute(rig, &sessions, "").await?;
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    table.told("a server's time in a minute of being watched, without statements", ms(without_time));
    table.told("  its CPU", ms(without_cpu));
    table.told("with statements, 5000 entries and 200 MB of text on one of two servers", ms(with_time));
    table.told("  its CPU", ms(with_cpu));
    // Four beats a minute, and on one server of two. The time is by the clock, so others on this machine are in it.
    let beat = |with: f64, without: f64| (with - without) * N_SERVERS / 4.0;
    table.told("  time of one beat's statements there", ms(beat(with_time, without_time)));
    let cpu = beat(with_cpu, without_cpu);
    table.judged("  its CPU", ms(cpu), "< 10 ms", cpu < 10e-3);
    Ok(())
}

/// Execution time (`pg_stat_statements`) and CPU of one server, in seconds.
async fn minute(rig: &Rig, sessions: &[Client; 2], config: &str) -> Outcome<(f64, f64)> {
    let daemon = rig.daemon(2, config).await?;
    tokio::time::sleep(WARM_UP).await;
    let processes = std::slice::from_ref(&daemon.process);
    let before = cost(rig, sessions, processes, OURS).await?;
    tokio::time::sleep(WINDOW).await;
    let after = cost(rig, sessions, processes, OURS).await?;
    let cpu = after.server.saturating_sub(before.server).as_secs_f64();
    Ok(((after.statements - before.statements) / N_SERVERS, cpu / N_SERVERS))
}

/// Different statements, each with a long text. Names of columns tell statements apart, constants do not.
async fn fill(session: &Client) -> Outcome<()> {
    let columns: Vec<String> = (0..N_COLUMNS).map(|column| format!("c{column} int")).collect();
    session.batch_execute(&format!("CREATE TABLE wide ({})", columns.join(", "))).await?;
    let padding = "x".repeat(TEXT);
    for number in 0..N_STATEMENTS {
        let (left, right) = (number % N_COLUMNS, number / N_COLUMNS);
        session.batch_execute(&format!("SELECT c{left} /* {padding} */, c{right} FROM wide")).await?;
    }
    Ok(())
}
