//! The command line: what can be asked of `pgvigil`.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use pgvigil::config::environment::Environment;
use pgvigil::silence::Wish;

const EXAMPLES: &str = "\
Examples:
  pgvigil demo                            see it at work, on a throw-away primary and two replicas
  DATABASE_URL=postgresql://... DATABASE_READ_REPLICA_URL=postgresql://... pgvigil
                                          watch a primary and its replica; nothing else to write
  pgvigil --config /etc/pgvigil.toml      watch what a file says
  pgvigil check --config pgvigil.toml     what each server is, what is wrong or risky, what fixes it
  pgvigil health                          whether the daemon here is alive, for a supervisor
  pgvigil notify test                     see whether alerts would arrive
  pgvigil silence add --cluster orders --for 2h --reason \"switchover\"
                                          tell nobody of its alerts meanwhile
  pgvigil poll                            one look at all lags, for a shell or a script
  pgvigil poll --watch                    keep looking, as with top

Environment:
  PGVIGIL_CONFIG                          as --config
  PGVIGIL_LOG_FORMAT                      as --log-format
  PGVIGIL_TOKEN                           for \"silence\" and \"drain\": the daemon's token
  PGVIGIL_SERVER__LISTEN, ...             any key of the file, nested by \"__\"; wins over it
  PGVIGIL_SNS_TOPIC_ARN                   tell this SNS topic of alerts
  RUST_LOG                                what to log: info (the default), debug, pgvigil=debug,warn
  NO_COLOR                                no colours, not even on a terminal

  Without a file, these say what to watch, whichever is set:
    DATABASE_URL                          the primary
    DATABASE_READ_REPLICA_URL             its replicas, separated by commas
    POSTGRES_PRIMARY_URL, POSTGRES_REPLICA_URL
                                          likewise
    DB_PRIMARY_HOST, DB_PRIMARY_PORT, DB_REPLICA_1_HOST, DB_REPLICA_1_PORT, DB_REPLICA_2_HOST, ...
                                          with DB_NAME, DB_USERNAME, DB_PASSWORD

Exit status: 0 all well; 1 something is wrong with what is watched, or the start failed;
64 bad option or configuration.";

/// Replication health for PostgreSQL: how far each replica lags, why, and since when.
#[derive(Debug, Parser)]
#[command(name = "pgvigil", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration (TOML). Without it the environment says what to watch
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How the log, on standard error, is written [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch, serve and alert until told to stop (what happens without a command, too)
    Run(RunArgs),
    /// Check the configuration, then connect and say what each server is, what is wrong or risky, and what fixes it
    Check(CheckArgs),
    /// Look at all servers once and print their lag. Exit status: 0 all answered and no critical rule breaches, 1 otherwise
    Poll(PollArgs),
    /// Ask the daemon on this machine whether it is alive, as a supervisor's health check. Exit status: 0 it is, 1 otherwise
    Health(HealthArgs),
    /// Say what the configuration will ask of AWS in a month, and its price; asks nobody but AWS, what a [[discover]] finds
    Plan(PlanArgs),
    /// Have a running daemon tell nobody of some alerts for a while
    Silence(Box<SilenceArgs>),
    /// Have a running daemon keep reads from a target for a while, wherever it is asked where to read
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(Box<DrainArgs>),
    /// Try the ways alerts take
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Test rules without any server, or over what was
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Show it at work: a throw-away primary with two replicas, a lag that grows, an alert that fires and resolves
    Demo,
    /// Print a script that completes the options in a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// Where to serve HTTP; wins over server.listen [default: 127.0.0.1:9732]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Check the configuration alone; connect to nothing
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PollArgs {
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "watch")]
    pub(crate) json: bool,
    /// Keep asking, and renew the table in place at poll.interval until q or Ctrl-C; in a pipe, one table after the other.
    /// Exit status: 0 when told to end
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Whether it is ready: has tried every target once
    #[arg(long)]
    pub(crate) ready: bool,
    /// How long to wait for its answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// Where it listens, when it was started with this option
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Other prices than those of config/aws-prices.toml, in its form
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SilenceArgs {
    #[command(subcommand)]
    pub(crate) command: SilenceCommand,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// The daemon that is asked.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Where the daemon answers, http:// or https:// [default: where server.listen of the configuration says]
    #[arg(long, global = true, value_name = "URL", help_heading = "Daemon")]
    pub(crate) url: Option<String>,
    /// Authorities (PEM) of which one must have signed the daemon's certificate [default: those of this system]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Daemon")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A file that holds the daemon's token [default: `PGVIGIL_TOKEN`, else server.token of the configuration]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Daemon")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print the daemon's answer as JSON
    #[arg(long, global = true, help_heading = "Daemon")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The target, as CLUSTER/TARGET where several clusters have one of that name
    #[arg(required_unless_present = "list")]
    pub(crate) target: Option<String>,
    /// How long, for example 10m
    #[arg(long = "for", value_name = "DURATION", required_unless_present_any = ["undo", "list"])]
    pub(crate) length: Option<String>,
    /// Why, for those who see it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Who, for those who have questions [default: $USER]
    #[arg(long, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// Let reads go there again
    #[arg(long, conflicts_with_all = ["length", "reason", "list"])]
    pub(crate) undo: bool,
    /// List what is drained
    #[arg(long, conflicts_with_all = ["target", "length", "reason"])]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

const DRAIN_EXAMPLES: &str = "\
Examples:
  pgvigil drain orders/replica-1 --for 10m --reason \"restart\"
  pgvigil drain orders/replica-1 --undo
  pgvigil drain --list";

/// Who asks, unless it is said.
fn author(given: Option<&String>, environment: &Environment) -> Result<String, String> {
    let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty()).cloned();
    let author = given.cloned().or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
    author.ok_or_else(|| "who are you? $USER is not set; write --author NAME".to_owned())
}

impl DrainArgs {
    /// What the daemon is to do. An error says what is missing.
    pub(crate) fn wish(&self, environment: &Environment) -> Result<Wish, String> {
        let Some(target) = &self.target else { return Ok(Wish::ListDrains) };
        if self.undo {
            return Ok(Wish::Undrain(target.clone()));
        }
        let author = author(self.author.as_ref(), environment)?;
        Ok(Wish::Drain(serde_json::json!({
            "target": target, "for": self.length, "author": author, "reason": self.reason,
        })))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum SilenceCommand {
    /// Make a silence. Alerts fire and are shown as ever, but nobody is told; what still fires at its end is told then
    #[command(after_help = SILENCE_EXAMPLES)]
    Add(SilenceAddArgs),
    /// List silences and windows of maintenance
    List {
        /// Also silences that have ended
        #[arg(long)]
        all: bool,
    },
    /// End silences before their time
    Expire {
        /// Their numbers
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
    },
}

const SILENCE_EXAMPLES: &str = "\
Examples:
  pgvigil silence add --cluster orders --for 2h --reason \"switchover\"
  pgvigil silence add --rule 'Replica*' --target '*-reporting' --until 2026-12-06T06:00:00+01:00 \\
      --reason \"rebuilt from a backup\"
  pgvigil silence add --rule InactiveSlotRetainsWal --label slot=debezium --for 30m --reason \"upgrade\"";

/// Names may hold * for any characters and ? for one. All that is given must be true of an alert; of an option given
/// several times, one of them.
#[derive(Debug, Args)]
pub(crate) struct SilenceAddArgs {
    /// Alerts of this cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Vec<String>,
    /// Alerts of this target, or connection pooler
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Vec<String>,
    /// Alerts of this rule
    #[arg(long, value_name = "NAME")]
    pub(crate) rule: Vec<String>,
    /// Alerts of this severity: info, warning or critical
    #[arg(long, value_name = "SEVERITY")]
    pub(crate) severity: Vec<String>,
    /// Alerts with this label, for example slot=debezium
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// All alerts
    #[arg(long)]
    pub(crate) all: bool,
    /// How long, for example 2h
    #[arg(long = "for", value_name = "DURATION", required_unless_present = "until", conflicts_with = "until")]
    pub(crate) length: Option<String>,
    /// Until when (RFC 3339), for example 2026-12-06T06:00:00+01:00
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Why, for those who see it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Who, for those who have questions [default: $USER]
    #[arg(long, value_name = "NAME")]
    pub(crate) author: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write a name and a value, for example slot=debezium".to_owned()),
    }
}

impl SilenceAddArgs {
    /// As the daemon wants it. An error says what is missing.
    pub(crate) fn body(&self, environment: &Environment) -> Result<serde_json::Value, String> {
        let author = author(self.author.as_ref(), environment)?;
        let nothing = [&self.cluster, &self.target, &self.rule, &self.severity].iter().all(|names| names.is_empty());
        if nothing && self.label.is_empty() && !self.all {
            return Err("this would silence everything; say what with --cluster, --target, --rule, --severity or \
                        --label, or write --all"
                .to_owned());
        }
        let labels: std::collections::BTreeMap<&str, &str> =
            self.label.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if labels.len() < self.label.len() {
            return Err("--label: one label is given twice; patterns stand for several values: slot=deb*".to_owned());
        }
        Ok(serde_json::json!({
            "cluster": self.cluster, "target": self.target, "rule": self.rule, "severity": self.severity,
            "labels": labels, "all": self.all, "for": self.length, "until": self.until,
            "author": author, "reason": self.reason,
        }))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum NotifyCommand {
    /// Send a message that is marked as a test through each notifier. Exit status: 0 all took it, 1 otherwise
    Test {
        /// Through these alone
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Run tests of rules: series of readings in, alerts out. Exit status: 0 all came as expected, 1 otherwise
    Test {
        /// Tests in TOML, as config/rules-test.example.toml shows them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Say when each rule would have fired over the readings that a daemon kept, which may run meanwhile
    Replay {
        /// How far back, for example "12h"; readings are kept for eight days
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
        since: Duration,
        /// The daemon's store [default: that of the configuration]
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) config: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
}

impl Request {
    /// Reads the arguments, and the variables that stand for them.
    ///
    /// # Errors
    /// Also for `--help` and `--version`, whose text the error holds.
    pub(crate) fn parse(environment: &Environment) -> Result<Self, clap::Error> {
        Self::of(Cli::try_parse()?, environment)
    }

    fn of(cli: Cli, environment: &Environment) -> Result<Self, clap::Error> {
        let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty());
        let conflict = |message: String| Cli::command().error(ErrorKind::ArgumentConflict, message);
        let command = match (cli.command, cli.run.listen) {
            (None, listen) => Command::Run(RunArgs { listen }),
            (Some(Command::Run(args)), listen) => Command::Run(RunArgs { listen: args.listen.or(listen) }),
            (Some(Command::Health(args)), listen) => {
                Command::Health(HealthArgs { listen: args.listen.or(listen), ..args })
            }
            (Some(_), Some(_)) => {
                return Err(conflict("--listen is an option of \"run\" and \"health\" alone".to_owned()));
            }
            (Some(command), None) => command,
        };
        let log_format = match (cli.log_format, variable("PGVIGIL_LOG_FORMAT")) {
            (Some(format), _) => format,
            (None, None) => LogFormat::default(),
            (None, Some(text)) => LogFormat::from_str(text, false).map_err(|_| {
                let message = format!("PGVIGIL_LOG_FORMAT is {text:?}; write \"text\" or \"json\"");
                Cli::command().error(ErrorKind::InvalidValue, message)
            })?,
        };
        Ok(Self { command, config: cli.config.or_else(|| variable("PGVIGIL_CONFIG").map(PathBuf::from)), log_format })
    }
}

/// The script that completes the options in `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgvigil", &mut script);
    script
}

/// The manual page, in roff.
pub(crate) fn manual() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Request, clap::Error> {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::of(Cli::try_parse_from([&["pgvigil"], arguments].concat())?, &environment)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_examples_fit_a_page() {
        // clap breaks what is longer, in the middle of a column.
        assert_eq!(EXAMPLES.lines().find(|line| line.chars().count() > 100), None);
    }

    #[test]
    fn options_mean_the_same_before_and_after_the_command() {
        for arguments in [
            &["--config", "a.toml", "run", "--listen", "[::]:80", "--log-format", "json"][..],
            &["--listen", "[::]:80", "--log-format", "json", "-c", "a.toml"],
            &["--listen", "[::]:80", "run", "--log-format", "json", "--config", "a.toml"],
        ] {
            let request = request(arguments, &[("PGVIGIL_CONFIG", "b.toml"), ("PGVIGIL_LOG_FORMAT", "text")]).unwrap();
            assert!(
                matches!(&request.command, Command::Run(args) if args.listen.as_deref() == Some("[::]:80")),
                "{arguments:?}"
            );
            assert_eq!((request.config, request.log_format), (Some(PathBuf::from("a.toml")), LogFormat::Json));
        }
    }

    #[test]
    fn variables_stand_for_options_unless_they_are_empty() {
        let set = request(&["poll"], &[("PGVIGIL_CONFIG", "b.toml"), ("PGVIGIL_LOG_FORMAT", "json")]).unwrap();
        assert_eq!((set.config, set.log_format), (Some(PathBuf::from("b.toml")), LogFormat::Json));
        let empty = request(&["poll"], &[("PGVIGIL_CONFIG", ""), ("PGVIGIL_LOG_FORMAT", "")]).unwrap();
        assert_eq!((empty.config, empty.log_format), (None, LogFormat::Text));
        assert!(request(&[], &[("PGVIGIL_LOG_FORMAT", "xml")]).is_err());
    }

    #[test]
    fn listen_is_refused_where_nothing_listens() {
        assert!(request(&["--listen", "[::]:80", "check"], &[]).is_err());
        assert!(request(&["check", "--listen", "[::]:80"], &[]).is_err());
        for arguments in [["health", "--listen", "[::]:80"], ["--listen", "[::]:80", "health"]] {
            let health = request(&arguments, &[]).unwrap().command;
            assert!(
                matches!(&health, Command::Health(args) if args.listen.as_deref() == Some("[::]:80")),
                "{health:?}"
            );
        }
    }
}
