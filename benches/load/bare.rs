//! What the same costs at least, here and now, to compare with: tokio-postgres asking the same questions at the same
//! interval and forgetting the answers; and a task a connection that writes one and the same HTTP answer whatever is asked.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::NoTls;

use crate::Outcome;

/// The first argument that makes this program the bare loop. Number of targets, then DSN and SQL of each in turn.
pub(crate) const LOOP: &str = "bare-loop";

/// The first argument that makes this program the bare responder. The address to listen on, and the answer.
pub(crate) const RESPONDER: &str = "bare-responder";

/// Polls until its standard input ends. For each line that it reads it writes how many polls there have been.
pub(crate) fn run_loop(arguments: &[String]) -> Outcome<()> {
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

/// Answers until it is killed.
pub(crate) fn run_responder(arguments: &[String]) -> Outcome<()> {
    let [address, answer] = arguments else { return Err("not two arguments".into()) };
    let (address, answer): (SocketAddr, Arc<str>) = (address.parse()?, Arc::from(answer.as_str()));
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(respond(stream, Arc::clone(&answer)));
        }
    })
}

async fn respond(mut stream: TcpStream, answer: Arc<str>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 4096];
    // wrk sends one request at a time, whole.
    while stream.read(&mut request).await? > 0 {
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
