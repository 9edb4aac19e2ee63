//! What pgvigil costs: its table of figures, each beside its goal. `scripts/bench` runs it.
//!
//! The measured process has one CPU to itself (the last one); servers, load generator and this harness share the first.
//! CPU time is the scheduler's own count of nanoseconds. What is compared is compared within one run.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is what it is for")]
#![expect(clippy::unchecked_time_subtraction, reason = "a count of CPU time only grows")]

mod bare;
mod cost;
mod exporter;
mod fleet;
mod http;
mod poll;
mod process;
mod rig;
mod server;
mod table;

use std::error::Error;
use std::process::ExitCode;

use table::Table;
use tokio::signal::unix::{SignalKind, signal};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PHASES: [&str; 6] = ["poll", "fleet", "http", "metrics", "exporter", "server"];

fn main() -> ExitCode {
    // Cargo adds `--bench`; without it this is a run of all targets' tests, where nothing is to be timed.
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(bare::LOOP) => return told(bare::run_loop(&arguments[1..])),
        Some(bare::RESPONDER) => return told(bare::run_responder(&arguments[1..])),
        _ => {}
    }
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    arguments.retain(|argument| !argument.starts_with("--"));
    if let Some(unknown) = arguments.iter().find(|argument| !PHASES.contains(&argument.as_str())) {
        return told(Err(format!("there is no phase {unknown}; there are {}", PHASES.join(", ")).into()));
    }
    if !is_bench {
        return ExitCode::SUCCESS;
    }
    if arguments.is_empty() {
        arguments = PHASES.map(str::to_owned).to_vec();
    }
    told(run(&arguments))
}

fn told(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(phases: &[String]) -> Outcome<()> {
    process::pin_self()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Dropping the work stops all that it has started.
        tokio::select! {
            outcome = measure(phases) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })
}

async fn measure(phases: &[String]) -> Outcome<()> {
    let rig = rig::Rig::start().await?;
    let mut table = Table::default();
    let mut failed = Vec::new();
    for phase in phases {
        eprintln!("measuring: {phase}");
        let outcome = match phase.as_str() {
            "poll" => poll::measure(&rig, &mut table).await,
            "fleet" => fleet::measure(&rig, &mut table).await,
            "http" => http::measure_health(&rig, &mut table).await,
            "metrics" => http::measure_metrics(&rig, &mut table).await,
            "server" => server::measure(&rig, &mut table).await,
            _ => exporter::measure(&rig, &mut table).await,
        };
        // The others' figures are worth having all the same.
        if let Err(error) = outcome {
            failed.push(format!("{phase}: {error}"));
        }
    }
    println!("{table}");
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}
