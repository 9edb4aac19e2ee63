//! PgBouncer in transaction mode, as our users run it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::process::Process;

/// A running PgBouncer. Dropping it kills it.
pub(crate) struct PgBouncer {
    pub process: Process,
    pub port: u16,
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
        std::fs::write(&users, "\"mon\" \"mon\"\n").unwrap();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={upstream}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 1\nmax_client_conn = 1000\n{settings}\n",
            users.display()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command.arg(&file);
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root; any other user will do.
            for path in [dir.path().to_owned(), file, users] {
                std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
            }
            command.uid(65534).gid(65534);
        }
        let mut process = Process::start(command);
        process.wait_for_output("process up", Duration::from_secs(10)).await;
        Some(Self { process, port, dir })
    }
}
