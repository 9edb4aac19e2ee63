//! `pgvigil`: arguments, logging, configuration, and then the daemon or one of its commands.

mod cli;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use tracing::{error, info};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use cli::{Command, LogFormat, Request};
use pgvigil::config::environment::{self, Environment};
use pgvigil::config::{self, Inputs, Loaded, Overrides};

/// A bad option or configuration: `EX_USAGE` of sysexits.h.
const BAD_USAGE: u8 = 64;

fn main() -> ExitCode {
    let environment = environment::of_process();
    let request = match Request::parse(&environment) {
        Ok(request) => request,
        Err(error) => {
            let told = error.print();
            return if error.use_stderr() || told.is_err() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let default_level = if matches!(request.command, Command::Run(_)) { "info" } else { "warn" };
    if let Err(error) = start_log(request.log_format, default_level, &environment) {
        return refuse(&format!("RUST_LOG: {error}; write for example \"info\" or \"pgvigil=debug,warn\""));
    }
    let file = request.config.as_deref();
    match request.command {
        Command::Run(args) => run(file, &environment, Overrides { listen: args.listen }),
        Command::Check(args) => match load(file, &environment, Overrides::default()) {
            Ok(loaded) if args.offline => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(exit) => exit,
        },
        Command::Poll(_) => ExitCode::FAILURE,
        Command::Demo => ExitCode::FAILURE,
        Command::Completions { shell } => print(&cli::completions(shell)),
        Command::Man => cli::manual().map_or(ExitCode::FAILURE, |page| print(&page)),
    }
}

fn run(file: Option<&Path>, environment: &Environment, overrides: Overrides) -> ExitCode {
    let loaded = match load(file, environment, overrides) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %loaded.config.server.listen,
        clusters = loaded.config.clusters.len(),
        targets = loaded.config.clusters.iter().map(|cluster| cluster.targets.len()).sum::<usize>(),
        source = loaded.sources.join(", "),
        "starting"
    );
    ExitCode::SUCCESS
}

fn load(file: Option<&Path>, environment: &Environment, overrides: Overrides) -> Result<Loaded, ExitCode> {
    let loaded = config::load(&Inputs { file, environment, overrides: &overrides })
        .map_err(|error| refuse(&error.to_string()))?;
    if !loaded.ignored.is_empty() {
        info!(
            variables = loaded.ignored.join(", "),
            "these variables are ignored: the configuration file says what to watch"
        );
    }
    Ok(loaded)
}

/// Starts the log on standard error. What to log is `RUST_LOG`'s word, or else `default_level`.
fn start_log(format: LogFormat, default_level: &str, environment: &Environment) -> Result<(), ParseError> {
    let wanted = environment.get("RUST_LOG").filter(|wanted| !wanted.is_empty()).map_or(default_level, String::as_str);
    let filter = EnvFilter::builder().parse(wanted)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(has_colour(&std::io::stderr(), environment)).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
    Ok(())
}

fn has_colour(stream: &impl IsTerminal, environment: &Environment) -> bool {
    stream.is_terminal() && environment.get("NO_COLOR").is_none_or(String::is_empty)
}

/// Says on standard error why nothing is done.
fn refuse(reason: &str) -> ExitCode {
    // When even standard error is closed, the exit status still tells.
    let _ = writeln!(std::io::stderr().lock(), "pgvigil: {reason}");
    ExitCode::from(BAD_USAGE)
}

/// Writes to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &[u8]) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            error!(%error, "cannot write to standard output");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
