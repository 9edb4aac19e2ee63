//! What polling costs at least: tokio-postgres asking the same questions at the same interval, and forgetting the answers.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::NoTls;

use crate::Outcome;

/// The first argument that makes this program the bare loop. Number of targets, then DSN and SQL of each in turn.
pub(crate) const ARGUMENT: &str = "bare-loop";

/// Polls until its standard input ends. For each line that it reads it writes how many polls there have been.
pub(crate) fn run(arguments: &[String]) -> Outcome<()> {
    let (n_targets, questions) = arguments.split_first().ok_or("no arguments")?;
    let n_targets: u32 = n_targets.parse()?;
    let questions: Vec<(String, String)> =
        questions.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let n_polls = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Runtime::new()?;
    for (i, (dsn, sql)) in (0..n_targets).zip(questions.iter().cycle()) {
        let start = Duration::from_secs(1) * i / n_targets;
        runtime.spawn(poll(dsn.clone(), sql.clone(), start, Arc::clone(&n_polls)));
    }
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", n_polls.load(Ordering::Relaxed))?;
        out.flush()?;
    }
    Ok(())
}

async fn poll(dsn: String, sql: String, start: Duration, n_polls: Arc<AtomicU64>) {
    let asking = async {
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
        tokio::spawn(connection);
        let mut every = tokio::time::interval_at(tokio::time::Instant::now() + start, Duration::from_secs(1));
        loop {
            every.tick().await;
            client.simple_query(&sql).await?;
            n_polls.fetch_add(1, Ordering::Relaxed);
        }
    };
    let ended: Result<(), tokio_postgres::Error> = asking.await;
    if let Err(error) = ended {
        eprintln!("the bare loop: {error}");
    }
}
