//! One throw-away PostgreSQL server on loopback: a process that is ours, its files, and the levers of its faults.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::ServersError;
use super::installation::{Installation, Unprivileged};
use super::servers::run;
use crate::clock;

/// How long a server may take to start or to stop before that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state that is waited for is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// A row as text, as the simple query protocol gives it; NULL is `None`.
pub type Row = Vec<Option<String>>;

/// A throw-away server. It may be running or not.
#[derive(Debug)]
pub struct Server {
    pub name: String,
    /// On 127.0.0.1.
    pub port: u16,
    /// Its data directory.
    pub data: PathBuf,
    pub(super) log_file: PathBuf,
    pub(super) installation: Installation,
    pub(super) user: Unprivileged,
    /// The postmaster, while it runs.
    pub(super) child: Mutex<Option<Child>>,
}

impl Server {
    /// Starts it and waits until it answers queries.
    ///
    /// # Errors
    /// It cannot be started, ends by itself (the end of its log is in the error), or takes too long.
    pub async fn start(&self) -> Result<(), ServersError> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_file)
            .map_err(|e| self.io("open the log of", e))?;
        let errors = log.try_clone().map_err(|e| self.io("open the log of", e))?;
        let mut command = self.installation.command("postgres", &self.user);
        command.arg("-D").arg(&self.data).current_dir(&self.data).stdout(Stdio::from(log)).stderr(Stdio::from(errors));
        let child = command.spawn().map_err(|e| self.io("start", e))?;
        let pid = child.id();
        *self.lock() = Some(child);
        self.wait_for(|| {
            if self.reap() {
                return Err(ServersError::Ended { name: self.name.clone(), log: self.tail() });
            }
            // The postmaster's own word, in the eighth line of its lock file, is what pg_ctl waits for too.
            let lock = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            let ours = lock.lines().next().is_some_and(|first| first.trim() == pid.to_string());
            Ok(ours && lock.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
        })
        .await
    }

    /// Stops it in good order (a fast shutdown): a standby is told, a shutdown checkpoint is written.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn stop(&self) -> Result<(), ServersError> {
        self.end(Signal::INT).await
    }

    /// Stops it as a crash would (an immediate shutdown): the next start recovers.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn crash(&self) -> Result<(), ServersError> {
        self.end(Signal::QUIT).await
    }

    /// Kills every process of it at once, as a machine that loses its power does: the next start recovers.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn kill(&self) -> Result<(), ServersError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // One that stands still starts no further children.
        self.signal(Signal::STOP);
        let children = children_of(pid);
        for process in children.iter().copied().chain([pid]) {
            kill_process(process, Signal::KILL).ok();
        }
        // While one of them is left, its shared memory is in use and the server would not start.
        self.wait_for(|| Ok(self.reap() && !children.iter().any(|child| is_alive(*child)))).await
    }

    /// Stops it in good order and starts it again.
    ///
    /// # Errors
    /// As [`Server::stop`] and [`Server::start`].
    pub async fn restart(&self) -> Result<(), ServersError> {
        self.stop().await?;
        self.start().await
    }

    /// Makes a standby a primary, and waits until it is one.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub async fn promote(&self) -> Result<(), ServersError> {
        self.sql("SELECT pg_promote(true, 60)").await.map(|_| ())
    }

    /// Stops every process of the server where it stands. The port still accepts connections (the kernel does), and
    /// nobody answers: a hung machine.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Undoes [`Server::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Stops the WAL receiver of a standby where it stands: its connection stays open, and is not read from.
    pub fn freeze_receiver(&self) {
        self.signal_receiver(Signal::STOP);
    }

    /// Undoes [`Server::freeze_receiver`].
    pub fn thaw_receiver(&self) {
        self.signal_receiver(Signal::CONT);
    }

    /// Whether its postmaster runs.
    pub fn is_running(&self) -> bool {
        self.pid().is_some() && !self.reap()
    }

    /// Runs statements as the superuser in database `postgres`, and gives the rows of all of them.
    ///
    /// # Errors
    /// It cannot be reached, or refuses a statement.
    pub async fn sql(&self, statements: &str) -> Result<Vec<Row>, ServersError> {
        self.sql_in("postgres", statements).await
    }

    /// As [`Server::sql`], in a database of choice.
    ///
    /// # Errors
    /// As [`Server::sql`].
    pub async fn sql_in(&self, database: &str, statements: &str) -> Result<Vec<Row>, ServersError> {
        let failed = |source| ServersError::Sql { name: self.name.clone(), source };
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .application_name("pgvigil-demo")
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
            .await
            .map_err(failed)?;
        let work = async move { client.simple_query(statements).await };
        let (messages, _) = tokio::join!(work, connection);
        let rows = messages.map_err(failed)?.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the first row, as text; `None` for NULL and for no row.
    ///
    /// # Errors
    /// As [`Server::sql`].
    pub async fn value(&self, statement: &str) -> Result<Option<String>, ServersError> {
        Ok(self.sql(statement).await?.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    /// Waits until [`Server::value`] is `expected`.
    ///
    /// # Errors
    /// It never is within `patience`: the error tells the last answer.
    pub async fn until(&self, statement: &str, expected: &str, patience: Duration) -> Result<(), ServersError> {
        let start = clock::now();
        loop {
            let last = self.value(statement).await;
            if matches!(&last, Ok(Some(value)) if value == expected) {
                return Ok(());
            }
            if clock::now().duration_since(start) > patience {
                return Err(ServersError::Never {
                    name: self.name.clone(),
                    statement: statement.to_owned(),
                    expected: expected.to_owned(),
                    last: format!("{last:?}"),
                });
            }
            tokio::time::sleep(GLANCE * 4).await;
        }
    }

    /// Adds a setting to its configuration, which the next start or [`Server::reload`] reads.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, name: &str, value: &str) -> Result<(), ServersError> {
        use std::io::Write as _;
        let mut file = File::options()
            .append(true)
            .open(self.data.join("postgresql.conf"))
            .map_err(|e| self.io("configure", e))?;
        writeln!(file, "{name} = '{}'", value.replace('\'', "''")).map_err(|e| self.io("configure", e))
    }

    /// Has it read its configuration again.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn reload(&self) -> Result<(), ServersError> {
        self.sql("SELECT pg_reload_conf()").await.map(|_| ())
    }

    /// Has a standby receive from another port on loopback: another server, or a proxy before one.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn follow(&self, port: u16) -> Result<(), ServersError> {
        self.configure("primary_conninfo", &primary_conninfo(&self.name, port))?;
        self.reload().await
    }

    /// Runs a program of its installation, as the owner of its files.
    ///
    /// # Errors
    /// It cannot be run, or fails: what it wrote is in the error.
    pub async fn run(&self, program: &'static str, arguments: &[&str]) -> Result<(), ServersError> {
        let mut command = self.installation.command(program, &self.user);
        command.args(arguments).current_dir(&self.data);
        run(command, program).await
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        // Names in it may be any bytes.
        String::from_utf8_lossy(&std::fs::read(&self.log_file).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Stops it at once, however it stands, without an executor: for `Drop`.
    pub(super) fn abandon(&self) {
        if self.pid().is_none() || self.reap() {
            return;
        }
        self.signal(Signal::QUIT);
        self.thaw();
        let start = clock::now();
        while !self.reap() {
            if clock::now().duration_since(start) > Duration::from_secs(10) {
                self.signal_all(Signal::KILL);
            }
            std::thread::sleep(GLANCE);
        }
    }

    async fn end(&self, how: Signal) -> Result<(), ServersError> {
        if self.pid().is_none() {
            return Ok(());
        }
        self.thaw();
        self.signal(how);
        self.wait_for(|| Ok(self.reap())).await
    }

    async fn wait_for(&self, mut done: impl FnMut() -> Result<bool, ServersError>) -> Result<(), ServersError> {
        let start = clock::now();
        while !done()? {
            if clock::now().duration_since(start) > PATIENCE {
                return Err(ServersError::TooSlow { name: self.name.clone(), log: self.tail() });
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pid(&self) -> Option<Pid> {
        self.lock().as_ref().map(Pid::from_child)
    }

    /// Whether the postmaster has ended, or never ran.
    fn reap(&self) -> bool {
        let mut child = self.lock();
        let ended = child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            *child = None;
        }
        ended
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended this instant; that is what callers look at next.
            kill_process(pid, signal).ok();
        }
    }

    /// To the postmaster first, so that it starts no further children, then to the children.
    fn signal_all(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        let children = children_of(pid);
        self.signal(signal);
        for child in children.into_iter().chain(children_of(pid)) {
            kill_process(child, signal).ok();
        }
    }

    fn signal_receiver(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        let is_receiver = |child: &Pid| file_of(*child, "cmdline").contains("walreceiver");
        for receiver in children_of(pid).into_iter().filter(is_receiver) {
            kill_process(receiver, signal).ok();
        }
    }

    fn io(&self, what: &'static str, source: std::io::Error) -> ServersError {
        ServersError::Io { what, path: Path::new(&self.name).to_owned(), source }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// How a standby of ours reaches the server on `port`. Its name there is its own.
pub(super) fn primary_conninfo(name: &str, port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres application_name={name} connect_timeout=3")
}

/// The processes whose parent is `parent`, as `/proc` shows them.
fn children_of(parent: Pid) -> Vec<Pid> {
    let line = format!("PPid:\t{}", parent.as_raw_nonzero());
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let pid = Pid::from_raw(pid)?;
            file_of(pid, "status").lines().any(|l| l == line).then_some(pid)
        })
        .collect()
}

/// Whether a process runs. One that has ended and was not waited for does not.
fn is_alive(pid: Pid) -> bool {
    file_of(pid, "status").lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// A file of a process below `/proc`; empty when the process is gone.
fn file_of(pid: Pid, name: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
