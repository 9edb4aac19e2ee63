//! `pgvigil`: arguments, logging, configuration, and then the daemon or one of its commands.

mod cli;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use cli::{
    CheckArgs, Command, DaemonArgs, DrainArgs, HealthArgs, LogFormat, NotifyCommand, PlanArgs, PollArgs, Request,
    RulesCommand, SilenceArgs, SilenceCommand,
};
use pgvigil::app;
use pgvigil::config::environment::{self, Environment};
use pgvigil::config::{self, Config, ConfigError, Inputs, Loaded, Overrides, Source};
use pgvigil::core::topology::Name;
use pgvigil::discovery::Sought;
use pgvigil::http::ServerConfig;
use pgvigil::http::health_check::{self, Question};
use pgvigil::notify::trial;
use pgvigil::plan::Prices;
use pgvigil::poll::watch;
use pgvigil::silence::{Daemon, Wish};

/// A bad option or configuration: `EX_USAGE` of sysexits.h.
const BAD_USAGE: u8 = 64;

fn main() -> ExitCode {
    let environment = match environment::of_process() {
        Ok(environment) => environment,
        Err(error) => return complain(&error.to_string(), BAD_USAGE),
    };
    let request = match Request::parse(&environment) {
        Ok(request) => request,
        Err(error) => {
            let told = error.print();
            return if error.use_stderr() || told.is_err() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // What other commands have to say is on standard output. What a server tells its sessions names no server here, and
    // what matters of it we say ourselves.
    let logs = matches!(request.command, Command::Run(_) | Command::Notify(_));
    let default_level = if logs { "info,tokio_postgres=warn" } else { "error" };
    if let Err(error) = start_log(request.log_format, default_level, &environment) {
        return complain(
            &format!("RUST_LOG: {error}; write for example \"info\" or \"pgvigil=debug,warn\""),
            BAD_USAGE,
        );
    }
    let file = request.config.as_deref();
    match request.command {
        Command::Run(args) => run(file, &environment, Overrides { listen: args.listen }),
        Command::Check(args) => check(file, &environment, &args),
        Command::Poll(args) => poll(file, &environment, &args),
        Command::Health(args) => health(file, &environment, &args),
        Command::Plan(args) => plan(file, &environment, &args),
        Command::Silence(args) => silence(file, &environment, &args),
        Command::Drain(args) => drain(file, &environment, &args),
        Command::Notify(NotifyCommand::Test { names }) => notify_test(file, &environment, &names),
        Command::Rules(RulesCommand::Test { files }) => {
            let outcome = pgvigil::rules::test::run(&files);
            print(outcome.text.as_bytes(), outcome.ok)
        }
        Command::Rules(RulesCommand::Replay { since, store }) => replay(file, &environment, since, store),
        Command::Demo => demo(),
        Command::Completions { shell } => print(&cli::completions(shell), true),
        Command::Man => cli::manual().map_or(ExitCode::FAILURE, |page| print(&page, true)),
    }
}

fn run(file: Option<&Path>, environment: &Environment, overrides: Overrides) -> ExitCode {
    let loaded = match load(file, environment, overrides.clone()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %loaded.config.server.listen,
        clusters = loaded.config.clusters.len(),
        targets = loaded.config.n_targets(),
        source = loaded.sources.join(", "),
        "starting"
    );
    let source = Source { file: file.map(Path::to_path_buf), environment: environment.clone(), overrides };
    match wait_for(app::run(loaded.config, source, loaded.files)) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(failure)) => {
            error!(error = chain(&failure), "stopped");
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    }
}

fn demo() -> ExitCode {
    match wait_for(pgvigil::demo::run()) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(failure)) => complain(&chain(&failure), 1),
        None => ExitCode::FAILURE,
    }
}

/// An error with its reasons, each told once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut reason = error.source();
    while let Some(error) = reason {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        reason = error.source();
    }
    text
}

fn check(file: Option<&Path>, environment: &Environment, args: &CheckArgs) -> ExitCode {
    let loaded = match load(file, environment, Overrides::default()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if args.offline {
        let text = if args.json { lines(&loaded.summary_json()) } else { format!("{}\n", loaded.summary()) };
        return print(text.as_bytes(), true);
    }
    let status = Status::new(environment);
    let look = async {
        let (config, sought) = pgvigil::discovery::once(loaded.config).await;
        pgvigil::check::run(&config, |what| status.say(what)).await.with_discoveries(sought)
    };
    let report = wait_for(look);
    status.clear();
    let Some(report) = report else { return ExitCode::FAILURE };
    let text =
        if args.json { lines(&report) } else { report.table(has_colour(&std::io::stdout(), environment), width()) };
    print(text.as_bytes(), report.ok)
}

fn poll(file: Option<&Path>, environment: &Environment, args: &PollArgs) -> ExitCode {
    let loaded = match load(file, environment, Overrides::default()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if args.watch {
        return watch(loaded.config, environment);
    }
    let status = Status::new(environment);
    let look = async {
        let (config, sought) = pgvigil::discovery::once(loaded.config).await;
        (pgvigil::poll::look(config, |what| status.say(what)).await, sought)
    };
    let looked = wait_for(look);
    status.clear();
    let Some((snapshot, sought)) = looked else { return ExitCode::FAILURE };
    let faults = not_found(&sought);
    for fault in &faults {
        let _ = writeln!(std::io::stderr().lock(), "pgvigil: {fault}");
    }
    let text = if args.json {
        lines(&pgvigil::poll::json(&snapshot))
    } else {
        pgvigil::poll::table(&snapshot, has_colour(&std::io::stdout(), environment), width())
    };
    print(text.as_bytes(), faults.is_empty() && pgvigil::poll::is_well(&snapshot))
}

/// Why some servers could not be looked for.
fn not_found(sought: &[Sought]) -> Vec<String> {
    let faults = sought.iter().filter_map(|sought| Some((sought.fault.as_ref()?, sought)));
    faults.map(|(fault, sought)| format!("{} ({}): {fault}", sought.name, sought.looks_for)).collect()
}

fn watch(config: Config, environment: &Environment) -> ExitCode {
    let stdout = std::io::stdout();
    let in_place = stdout.is_terminal() && !is_dumb(environment);
    let output = watch::Output { in_place, has_colour: has_colour(&stdout, environment), width };
    let watched = wait_for(async {
        let (config, sought) = pgvigil::discovery::once(config).await;
        watch::watch(&config, &not_found(&sought), output).await
    });
    match watched {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => complain(&format!("cannot write to standard output: {error}"), 1),
        None => ExitCode::FAILURE,
    }
}

fn health(file: Option<&Path>, environment: &Environment, args: &HealthArgs) -> ExitCode {
    let overrides = Overrides { listen: args.listen.clone() };
    let server = match config::server(file, environment, &overrides) {
        Ok(server) => server,
        Err(error) => return complain(&error.to_string(), BAD_USAGE),
    };
    let question = if args.ready { Question::Ready } else { Question::Alive };
    match wait_for(health_check::ask(&server, question, args.timeout)) {
        Some(Ok(says)) => print(format!("{says}\n").as_bytes(), true),
        Some(Err(reason)) => complain(&reason, 1),
        None => ExitCode::FAILURE,
    }
}

fn plan(file: Option<&Path>, environment: &Environment, args: &PlanArgs) -> ExitCode {
    let loaded = match load(file, environment, Overrides::default()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let prices = match &args.prices {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
            text.and_then(|text| Prices::parse(&text)).map_err(|reason| format!("{}: {reason}", path.display()))
        }
        None => Prices::built_in(),
    };
    let prices = match prices {
        Ok(prices) => prices,
        Err(reason) => return complain(&reason, BAD_USAGE),
    };
    let Some((config, sought)) = wait_for(pgvigil::discovery::once(loaded.config)) else { return ExitCode::FAILURE };
    print(pgvigil::plan::run(&config, &prices, &sought).as_bytes(), true)
}

fn silence(file: Option<&Path>, environment: &Environment, args: &SilenceArgs) -> ExitCode {
    let reads = matches!(args.command, SilenceCommand::List { .. });
    let daemon = match daemon(file, environment, &args.daemon, reads) {
        Ok(daemon) => daemon,
        Err(reason) => return complain(&reason, BAD_USAGE),
    };
    let wish = match &args.command {
        SilenceCommand::Add(add) => match add.body(environment) {
            Ok(body) => Wish::Add(body),
            Err(reason) => return complain(&reason, BAD_USAGE),
        },
        SilenceCommand::List { all } => Wish::List { all: *all },
        SilenceCommand::Expire { ids } => Wish::Expire(ids.clone()),
    };
    ask(&daemon, &wish, args.daemon.json)
}

fn drain(file: Option<&Path>, environment: &Environment, args: &DrainArgs) -> ExitCode {
    let wish = args.wish(environment).and_then(|wish| Ok((wish, daemon(file, environment, &args.daemon, args.list)?)));
    match wish {
        Ok((wish, daemon)) => ask(&daemon, &wish, args.daemon.json),
        Err(reason) => complain(&reason, BAD_USAGE),
    }
}

fn ask(daemon: &Daemon, wish: &Wish, as_json: bool) -> ExitCode {
    let Some(answer) = wait_for(daemon.ask(wish, as_json)) else { return ExitCode::FAILURE };
    match answer {
        Ok(told) => {
            for reason in told.warnings.iter().chain(&told.failures) {
                // As for complaints, the exit status tells in any case.
                let _ = writeln!(std::io::stderr().lock(), "pgvigil: {reason}");
            }
            print(told.text.as_bytes(), told.failures.is_empty())
        }
        Err(reason) => complain(&reason, 1),
    }
}

fn notify_test(file: Option<&Path>, environment: &Environment, names: &[String]) -> ExitCode {
    let loaded = match load(file, environment, Overrides::default()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let notifiers = match trial::chosen(loaded.config.notifiers, names) {
        Ok(notifiers) => notifiers,
        Err(error) => return complain(&error.to_string(), BAD_USAGE),
    };
    let aws = pgvigil::aws::Aws::new(loaded.config.aws);
    match wait_for(trial::run(notifiers, &aws, pgvigil::clock::wall())) {
        Some(Ok(trial)) => print(trial.table().as_bytes(), trial.is_well()),
        Some(Err(error)) => complain(&error.to_string(), BAD_USAGE),
        None => ExitCode::FAILURE,
    }
}

fn replay(file: Option<&Path>, environment: &Environment, since: Duration, store: Option<PathBuf>) -> ExitCode {
    let rules = match config::rules(file, environment) {
        Ok(rules) => rules,
        Err(error) => return complain(&error.to_string(), BAD_USAGE),
    };
    let Some(store) = store.or(rules.store) else {
        return complain("no store: name it with --store FILE", BAD_USAGE);
    };
    let since = pgvigil::clock::wall().checked_sub(since).unwrap_or(std::time::SystemTime::UNIX_EPOCH);
    let status = Status::new(environment);
    let say = |what: &str| status.say(what);
    let replayed = pgvigil::rules::replay::run(&store, rules.rules, rules.poll_interval, since, say);
    status.clear();
    match replayed {
        Ok(text) => print(text.as_bytes(), true),
        Err(reason) => complain(&reason, 1),
    }
}

/// The daemon that is meant. The configuration is read only for what is not said otherwise; who only reads needs no token.
fn daemon(file: Option<&Path>, environment: &Environment, args: &DaemonArgs, reads: bool) -> Result<Daemon, String> {
    let mut token = match &args.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| format!("--token-file: cannot read {}: {error}", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => environment.get("PGVIGIL_TOKEN").filter(|token| !token.is_empty()).cloned(),
    };
    let mut url = args.url.clone();
    if url.is_none() || (token.is_none() && !reads) {
        let overrides = Overrides::default();
        match config::load(&Inputs { file, environment, overrides: &overrides }) {
            Ok(loaded) => {
                let server = loaded.config.server;
                token = token.or_else(|| server.token.as_ref().map(|token| token.secret().to_owned()));
                url = url.or_else(|| Some(server.url()));
            }
            // A daemon may be asked from where nothing is configured.
            Err(ConfigError::NothingToWatch) => {}
            Err(_) if url.is_some() => {}
            Err(error) => return Err(format!("{error}\n(with --url and --token-file no configuration is needed)")),
        }
    }
    let url = url.unwrap_or_else(|| ServerConfig::default().url());
    Ok(Daemon { url, token, ca_file: args.ca_file.clone() })
}

/// Runs to its end what has to wait for others. `None` when the system does not give what that takes.
fn wait_for<T>(work: impl Future<Output = T>) -> Option<T> {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(work);
            // A name lookup that hangs in the system's resolver must not hold up the end.
            runtime.shutdown_background();
            Some(outcome)
        }
        Err(error) => {
            error!(%error, "cannot start threads");
            None
        }
    }
}

/// A value as indented JSON.
fn lines(value: &impl serde::Serialize) -> String {
    // Names and numbers always have a JSON form.
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

fn load(file: Option<&Path>, environment: &Environment, overrides: Overrides) -> Result<Loaded, ExitCode> {
    let loaded = config::load(&Inputs { file, environment, overrides: &overrides })
        .map_err(|error| complain(&error.to_string(), BAD_USAGE))?;
    if !loaded.ignored.is_empty() {
        info!(
            variables = loaded.ignored.join(", "),
            "these variables are ignored: the configuration file says what to watch"
        );
    }
    let awaiting: Vec<&str> = loaded.config.awaiting_rules.iter().map(Name::as_str).collect();
    if !awaiting.is_empty() {
        warn!(
            rules = awaiting.join(", "),
            "these rules are not judged: what they read comes from CloudWatch, and is not read there (cloudwatch.enabled; storage_free_ratio needs a [[discover]] as well)"
        );
    }
    for target in loaded.config.clusters.iter().flat_map(|cluster| &cluster.targets) {
        let ignored = target.conninfo.ignored_keys();
        if !ignored.is_empty() {
            let (cluster, target) = (&target.id.cluster, &target.id.target);
            debug!(%cluster, %target, parameters = ignored.join(", "), "parameters of the connection string that are not used");
        }
    }
    Ok(loaded)
}

/// Asked for all that they do, these write out what is signed and sent: secrets, credentials, tokens.
const TALKATIVE: [&str; 7] =
    ["aws_config", "aws_runtime", "aws_sigv4", "aws_smithy_http_client", "aws_smithy_runtime", "hyper", "hyper_util"];

/// Starts the log on standard error. What to log is `RUST_LOG`'s word, or else `default_level`.
fn start_log(format: LogFormat, default_level: &str, environment: &Environment) -> Result<(), ParseError> {
    let wanted = environment.get("RUST_LOG").filter(|wanted| !wanted.is_empty()).map_or(default_level, String::as_str);
    let mut filter = EnvFilter::builder().parse(wanted)?;
    for library in TALKATIVE {
        filter = filter.add_directive(format!("{library}=warn").parse()?);
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(has_colour(&std::io::stderr(), environment)).init(),
        // The module would be called `target`, which is what servers are called.
        LogFormat::Json => {
            log.with_target(false).json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
    Ok(())
}

/// A line on standard error that says how far a command has come: whoever sits at it should know why it takes a while. A
/// script is told nothing.
struct Status {
    is_shown: bool,
}

impl Status {
    fn new(environment: &Environment) -> Self {
        Self { is_shown: std::io::stderr().is_terminal() && !is_dumb(environment) }
    }

    /// In place of what was said before.
    fn say(&self, what: &str) {
        self.put(&format!("\r\x1b[Kpgvigil: {what} ..."));
    }

    fn clear(&self) {
        self.put("\r\x1b[K");
    }

    fn put(&self, text: &str) {
        if self.is_shown {
            let _ = write!(std::io::stderr().lock(), "{text}");
        }
    }
}

/// Where somebody sees them, unless it is asked otherwise.
fn has_colour(stream: &impl IsTerminal, environment: &Environment) -> bool {
    stream.is_terminal() && !is_dumb(environment) && environment.get("NO_COLOR").is_none_or(String::is_empty)
}

/// Whether the terminal only ever writes on.
fn is_dumb(environment: &Environment) -> bool {
    environment.get("TERM").is_some_and(|term| term == "dumb")
}

/// How wide the terminal is that standard output goes to. `None` for a file or a pipe.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col >= NARROWEST).then_some(usize::from(size.ws_col))
}

/// Some terminals say that they have no width at all.
const NARROWEST: u16 = 40;

/// Says on standard error why nothing is done.
fn complain(reason: &str, status: u8) -> ExitCode {
    // When even standard error is closed, the exit status still tells.
    let _ = writeln!(std::io::stderr().lock(), "pgvigil: {reason}");
    ExitCode::from(status)
}

/// Writes to standard output; the exit status then says whether all is well. A reader that has gone (`| head`) is no failure.
fn print(text: &[u8], is_well: bool) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            error!(%error, "cannot write to standard output");
            ExitCode::FAILURE
        }
        _ if is_well => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
