//! PgBouncer in transaction mode, as our users run it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::process::Process;

/// A running PgBouncer. Dropping it kills it.
pub(crate) struct PgBouncer {
    pub process: Process,
    pub port: u16,
    program: &'static str,
    dir: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one before a server on loopback, with one server connection, or says that it is missing.
    pub(crate) async fn start(upstream: u16) -> Option<Self> {
        Self::start_with(upstream, "").await
    }

    /// As [`PgBouncer::start`], with further lines of its configuration.
    pub(crate) async fn start_with(upstream: u16, settings: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
        let Some(program) = program.into_iter().find(|program| std::path::Path::new(program).exists()) else {
            super::missing("pgbouncer");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let port = super::free_port();
        let users = dir.path().join("users.txt");
        let names = ["mon", "stats", "admin"].map(|name| format!("\"{name}\" \"{name}\"\n"));
        std::fs::write(&users, names.concat()).unwrap();
        // A database that is there by `*` alone may be missed by SHOW DATABASES, when its first client logs in slowly.
        let config = format!(
            "[databases]\npostgres = host=127.0.0.1 port={upstream}\n* = host=127.0.0.1 port={upstream}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 1\nmax_client_conn = 1000\nstats_users = stats\nadmin_users = admin\n{settings}\n",
            users.display()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root; any other user will do.
            for path in [dir.path().to_owned(), file, users] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let process = launch(program, dir.path()).await;
        Some(Self { process, port, program, dir })
    }

    /// Starts it again on the same port after [`PgBouncer::stop`]: its totals begin anew.
    pub(crate) async fn start_again(&mut self) {
        self.process = launch(self.program, self.dir.path()).await;
    }

    /// Kills it.
    pub(crate) async fn stop(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(Duration::from_secs(10)).await;
    }

    /// Runs a command of the console as its administrator.
    pub(crate) async fn command(&self, command: &str) {
        let dsn = format!("postgresql://admin:admin@127.0.0.1:{}/pgbouncer", self.port);
        let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
        let running = tokio::spawn(connection);
        client.simple_query(command).await.unwrap();
        drop(client);
        running.await.unwrap().unwrap();
    }
}

const NOBODY: u32 = 65534;

async fn launch(program: &str, dir: &Path) -> Process {
    let mut command = Command::new(program);
    command.arg(dir.join("pgbouncer.ini"));
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut process = Process::start(command);
    process.wait_for_output("process up", Duration::from_secs(10)).await;
    process
}
