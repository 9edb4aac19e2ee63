//! A throw-away cluster: a primary, its standbys and theirs, on free ports of loopback, gone when dropped.
//!
//! It is up in about a second: `initdb` without syncing, then copies of the data directory that has never been
//! started (so they all are the same cluster), then all servers at once. Standbys ask for their slots until the
//! primary has made them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};

use super::ServersError;
use super::installation::{Installation, Unprivileged};
use super::server::{Server, primary_conninfo};

/// What every server of ours is set to: small, unsynced, quick to notice a cut link, and on loopback alone.
const SETTINGS: &[&str] = &[
    "listen_addresses = '127.0.0.1'",
    "unix_socket_directories = ''",
    "shared_buffers = '16MB'",
    "fsync = off",
    "jit = off",
    "wal_level = logical",
    "wal_log_hints = on",
    "wal_keep_size = '64MB'",
    "min_wal_size = '32MB'",
    "max_wal_size = '512MB'",
    "checkpoint_timeout = '30min'",
    // Not below what initdb stored in pg_control: a standby refuses to start with less than its primary had.
    "max_wal_senders = 16",
    "max_replication_slots = 16",
    "max_worker_processes = 12",
    "hot_standby = on",
    "wal_receiver_status_interval = '1s'",
    "wal_retrieve_retry_interval = '100ms'",
    "wal_sender_timeout = '10s'",
    "wal_receiver_timeout = '10s'",
    "password_encryption = 'scram-sha-256'",
    "logging_collector = off",
    "log_line_prefix = '%m [%p] %q%u@%d/%a '",
];

/// Directories of ours are named so, then with our process id, so that what a killed process left can be told.
const PREFIX: &str = "pgvigil-servers-";

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    pub installation: Installation,
    /// Name, and the name of the server it receives from.
    pub standbys: Vec<(String, String)>,
    /// Lines added to every server's `postgresql.conf`.
    pub settings: Vec<String>,
    /// Lines put before the others in every server's `pg_hba.conf`.
    pub hba: Vec<String>,
    /// Files put into every data directory, readable by the server alone.
    pub files: Vec<(String, Vec<u8>)>,
    /// Statements run on the primary, in database `postgres`, before anything is handed out.
    pub setup: Vec<String>,
}

impl Plan {
    /// A primary called `primary`, and nothing else yet.
    pub fn new(installation: Installation) -> Self {
        Self {
            installation,
            standbys: Vec::new(),
            settings: Vec::new(),
            hba: Vec::new(),
            files: Vec::new(),
            setup: Vec::new(),
        }
    }

    /// Adds a standby that receives from `upstream`, through a slot with its own name.
    #[must_use]
    pub fn standby(mut self, name: &str, upstream: &str) -> Self {
        self.standbys.push((name.to_owned(), upstream.to_owned()));
        self
    }

    /// Adds a line to every server's configuration.
    #[must_use]
    pub fn set(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }
}

/// Running servers. Dropping it stops them at once and removes their files.
#[derive(Debug)]
pub struct Servers {
    /// The primary of the beginning first, then the standbys as planned.
    pub nodes: Vec<Server>,
    /// Where their files lie.
    pub dir: PathBuf,
}

impl Servers {
    /// Starts the servers, waits until every standby streams.
    ///
    /// The superuser is `postgres`, trusted on loopback; `mon`, with password `mon`, has `pg_monitor`; `plain`, with
    /// password `plain`, may log in and nothing else. The database `app` exists, and `pg_stat_statements` in both.
    ///
    /// # Errors
    /// A server cannot be started; its log is in the error. Nothing is left behind.
    pub async fn start(plan: &Plan) -> Result<Self, ServersError> {
        let user = Unprivileged::find()?;
        let names = std::iter::once("primary").chain(plan.standbys.iter().map(|(name, _)| name.as_str()));
        let dir = make_dir(&user)?;
        let nodes = names
            .zip(free_ports())
            .map(|(name, port)| Server {
                name: name.to_owned(),
                port,
                data: dir.join(name),
                log_file: dir.join(format!("{name}.log")),
                installation: plan.installation.clone(),
                user: user.clone(),
                child: Mutex::new(None),
            })
            .collect();
        // From here on, dropping cleans up.
        let servers = Self { nodes, dir };
        servers.make_data(plan, &user).await?;
        let standbys = try_join_all(servers.nodes.iter().skip(1).map(Server::start));
        tokio::try_join!(servers.boot_primary(plan), standbys)?;
        servers.wait_for_streams(plan).await?;
        Ok(servers)
    }

    /// A server by its name.
    ///
    /// # Panics
    /// There is none of that name: the plan did not have it.
    pub fn node(&self, name: &str) -> &Server {
        self.nodes.iter().find(|node| node.name == name).expect("the plan named this server")
    }

    /// The server that was the primary at the start.
    pub fn primary(&self) -> &Server {
        self.node("primary")
    }

    async fn make_data(&self, plan: &Plan, user: &Unprivileged) -> Result<(), ServersError> {
        let primary = self.primary();
        let mut initdb = plan.installation.command("initdb", user);
        initdb.arg("-D").arg(&primary.data).current_dir(&self.dir);
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(initdb, "initdb").await?;

        let mut settings: Vec<String> = SETTINGS.iter().map(|line| (*line).to_owned()).collect();
        if plan.installation.has_pg_stat_statements() {
            settings.push("shared_preload_libraries = 'pg_stat_statements'".to_owned());
        }
        settings.extend_from_slice(&plan.settings);
        write(user, &primary.data.join("postgresql.conf"), settings.join("\n") + "\n")?;
        let hba = "host all mon,plain 127.0.0.1/32 scram-sha-256\n\
                   host all all 127.0.0.1/32 trust\n\
                   host replication all 127.0.0.1/32 trust\n";
        let added: String = plan.hba.iter().map(|line| format!("{line}\n")).collect();
        write(user, &primary.data.join("pg_hba.conf"), added + hba)?;
        for (name, contents) in &plan.files {
            write(user, &primary.data.join(name), contents)?;
        }

        for node in &self.nodes[1..] {
            let mut copy = user.command("cp");
            copy.arg("-a").arg(&primary.data).arg(&node.data).current_dir(&self.dir);
            run(copy, "cp").await?;
        }
        for node in &self.nodes {
            node.configure("port", &node.port.to_string())?;
            node.configure("cluster_name", &node.name)?;
        }
        for (name, upstream) in &plan.standbys {
            let node = self.node(name);
            node.configure("primary_conninfo", &primary_conninfo(name, self.node(upstream).port))?;
            node.configure("primary_slot_name", &slot_of(name))?;
            write(user, &node.data.join("standby.signal"), "")?;
        }
        Ok(())
    }

    async fn boot_primary(&self, plan: &Plan) -> Result<(), ServersError> {
        let primary = self.primary();
        primary.start().await?;
        let mut setup: Vec<String> = plan
            .standbys
            .iter()
            .filter(|(_, upstream)| upstream == "primary")
            .map(|(name, _)| make_slot(name))
            .collect();
        setup.push("CREATE ROLE mon LOGIN PASSWORD 'mon'; GRANT pg_monitor TO mon".to_owned());
        setup.push("CREATE ROLE plain LOGIN PASSWORD 'plain'".to_owned());
        if plan.installation.has_pg_stat_statements() {
            setup.push("CREATE EXTENSION pg_stat_statements".to_owned());
        }
        setup.extend_from_slice(&plan.setup);
        primary.sql(&setup.join(";\n")).await?;
        primary.sql("CREATE DATABASE app").await?;
        if plan.installation.has_pg_stat_statements() {
            primary.sql_in("app", "CREATE EXTENSION pg_stat_statements").await?;
        }
        Ok(())
    }

    async fn wait_for_streams(&self, plan: &Plan) -> Result<(), ServersError> {
        for (name, upstream) in plan.standbys.iter().filter(|(_, upstream)| upstream != "primary") {
            self.node(upstream).sql(&make_slot(name)).await?;
        }
        for (name, upstream) in &plan.standbys {
            let state = format!("SELECT state FROM pg_stat_replication WHERE application_name = '{name}'");
            self.node(upstream).until(&state, "streaming", Duration::from_secs(30)).await?;
        }
        // What was set up on the primary is on every standby before anyone looks.
        let end = self.primary().value("SELECT pg_current_wal_lsn()").await?.unwrap_or_default();
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        for (name, _) in &plan.standbys {
            self.node(name).until(&replayed, "t", Duration::from_secs(30)).await?;
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Standbys first: a primary that stops waits for nobody then.
        for node in self.nodes.iter().rev() {
            node.abandon();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// The slot of a standby: its name, in the letters that a slot's name may have.
fn slot_of(standby: &str) -> String {
    standby.replace('-', "_")
}

fn make_slot(standby: &str) -> String {
    format!("SELECT pg_create_physical_replication_slot('{}', true)", slot_of(standby))
}

pub(super) async fn run(command: std::process::Command, name: &'static str) -> Result<(), ServersError> {
    let path = PathBuf::from(command.get_program());
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| ServersError::Io { what: "run", path, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(ServersError::Command { name, said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

fn write(user: &Unprivileged, path: &Path, contents: impl AsRef<[u8]>) -> Result<(), ServersError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, contents)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)))
        .and_then(|()| user.give(path))
        .map_err(|source| ServersError::Io { what: "write", path: path.to_owned(), source })
}

/// Ports of loopback that nobody listens on. They lie below the range from which Linux takes the local ports of
/// outgoing connections, and each process begins at another one, so that a port found free stays free.
fn free_ports() -> impl Iterator<Item = u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::iter::repeat_with(|| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        15_000 + u16::try_from((std::process::id().wrapping_mul(64) + n) % 16_000).unwrap_or(0)
    })
    .filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

/// A new directory for one cluster, in memory where there is room for it.
fn make_dir(user: &Unprivileged) -> Result<PathBuf, ServersError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let memory = Path::new("/dev/shm");
    // Containers often have 64 MB there, of which the servers' own shared memory takes some.
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize > 2 << 30);
    let parent = if roomy { memory.to_owned() } else { std::env::temp_dir() };
    sweep(&parent);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("{PREFIX}{}-{n}", std::process::id()));
    std::fs::create_dir(&dir).and_then(|()| user.give(&dir)).map_err(|source| ServersError::Io {
        what: "create",
        path: dir.clone(),
        source,
    })?;
    Ok(dir)
}

/// Removes what processes like this one left when they were killed: servers still running, and files.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split_once('-'));
        let Some((owner, _)) = owner else { continue };
        if !Path::new("/proc/self").exists() || Path::new("/proc").join(owner).exists() {
            continue;
        }
        end_orphans(&entry.path());
        std::fs::remove_dir_all(entry.path()).ok();
    }
}

/// Ends the processes that were started on files in `dir`: postmasters, and a demo's daemon.
fn end_orphans(dir: &Path) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command_line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let Some(file) = command_line.split('\0').skip(1).map(Path::new).find(|file| file.starts_with(dir)) else {
            continue;
        };
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw) {
            // An immediate shutdown for a postmaster, which ends its children too; it may be frozen. A daemon has its
            // configuration there, and may have been started by a shell that has it ignore milder signals.
            let is_daemon = file.extension().is_some_and(|extension| extension == "toml");
            kill_process(pid, if is_daemon { Signal::KILL } else { Signal::QUIT }).ok();
            kill_process(pid, Signal::CONT).ok();
        }
    }
}
