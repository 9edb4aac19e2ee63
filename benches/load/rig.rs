//! One real primary and its replica, a light write load on them, and daemons that see them as many clusters.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgvigil::clock;
use pgvigil::demo::{Installation, Plan, Servers};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::Outcome;
use crate::process::Measured;

/// Enough for 2,000 targets, half of them on each server.
const SETTINGS: [&str; 4] =
    ["max_connections = 1200", "autovacuum = off", "shared_buffers = '64MB'", "log_checkpoints = off"];

/// The roles that measured processes log in as.
pub(crate) const OURS: &str = "bench";
pub(crate) const EXPORTER: &str = "exporter";

/// A thousand targets that are one server ask it a thousand times for what each of a thousand ought to be asked once: about
/// all of a thousand sessions. So slow beats are rarer where there are many.
pub(crate) const SELDOM: &str = "slow_interval = \"2m\"";

/// For so long the targets of a daemon that has started may be silent.
const PATIENCE: Duration = Duration::from_secs(180);

/// How sessions are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    Tls,
}

impl Way {
    const fn sslmode(self) -> &'static str {
        match self {
            Self::Plain => "disable",
            Self::Tls => "require",
        }
    }
}

pub(crate) struct Rig {
    pub(crate) servers: Servers,
    writer: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start() -> Outcome<Self> {
        let installation = Installation::newest().ok_or(pgvigil::demo::ServersError::NotInstalled)?;
        let mut plan = Plan::new(installation).standby("replica", "primary");
        plan.settings.extend(SETTINGS.map(str::to_owned));
        certify(&mut plan)?;
        for role in [OURS, EXPORTER] {
            plan.hba.push(format!("host all {role} 127.0.0.1/32 trust"));
            plan.setup.push(format!("CREATE ROLE {role} LOGIN; GRANT pg_monitor TO {role}"));
        }
        let servers = Servers::start(&plan).await?;
        let client = connect(servers.primary().port).await?;
        let writer = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(50));
            // Ends with the servers.
            while client.simple_query("SELECT txid_current()").await.is_ok() {
                every.tick().await;
            }
        });
        Ok(Self { servers, writer })
    }

    /// The ports of the primary and of the replica.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.servers.nodes[0].port, self.servers.nodes[1].port]
    }

    pub(crate) fn dsns(&self, role: &str) -> [String; 2] {
        self.dsns_by(role, Way::Plain)
    }

    fn dsns_by(&self, role: &str, way: Way) -> [String; 2] {
        let sslmode = way.sslmode();
        self.ports().map(|port| format!("postgresql://{role}@127.0.0.1:{port}/postgres?sslmode={sslmode}"))
    }

    /// Returns once nothing is left on the servers of who was measured before: to end thousands of sessions takes a server
    /// a while, which would be counted as somebody else's.
    pub(crate) async fn quiet(&self) -> Outcome<()> {
        let left = format!("SELECT count(*) FROM pg_stat_activity WHERE usename IN ('{OURS}', '{EXPORTER}')");
        let began = clock::now();
        for session in self.sessions().await? {
            while session.query_one(&left, &[]).await?.try_get::<_, i64>(0)? > 0 {
                if clock::now().duration_since(began) > PATIENCE {
                    return Err(
                        format!("sessions of who was measured before are still there after {PATIENCE:?}").into()
                    );
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        // A process outlives its row.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// The daemon with `n_targets` targets, two in each cluster, once all of them answer.
    pub(crate) async fn daemon(&self, n_targets: usize, poll: &str) -> Outcome<Daemon> {
        self.daemon_by(n_targets, poll, Way::Plain).await
    }

    pub(crate) async fn daemon_by(&self, n_targets: usize, poll: &str, way: Way) -> Outcome<Daemon> {
        self.quiet().await?;
        let [primary, replica] = self.dsns_by(OURS, way);
        let mut config = format!("[poll]\n{poll}\n");
        for cluster in 1..=n_targets / 2 {
            config.push_str(&format!(
                "[[cluster]]\nname = \"c{cluster}\"\n\
                 [[cluster.target]]\nname = \"primary\"\ndsn = \"{primary}\"\n\
                 [[cluster.target]]\nname = \"replica\"\ndsn = \"{replica}\"\n"
            ));
        }
        Daemon::start(&config).await
    }

    /// A superuser's session on each server, to be kept open.
    pub(crate) async fn sessions(&self) -> Outcome<[Client; 2]> {
        let [primary, replica] = self.ports();
        Ok([connect(primary).await?, connect(replica).await?])
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Has the servers offer TLS, with a certificate that nobody verifies.
fn certify(plan: &mut Plan) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let arguments = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -keyout server.key -out server.crt";
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output()?;
    if !output.status.success() {
        return Err(format!("openssl: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    for (setting, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
        plan.files.push((file.to_owned(), std::fs::read(dir.path().join(file))?));
        plan.settings.push(format!("{setting} = '{file}'"));
    }
    plan.settings.push("ssl = on".to_owned());
    Ok(())
}

async fn connect(port: u16) -> Outcome<Client> {
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A measured daemon.
pub(crate) struct Daemon {
    pub(crate) process: Measured,
    /// From its start until all targets had answered.
    pub(crate) took: Duration,
    /// Where it listens.
    pub(crate) address: String,
    agent: ureq::Agent,
    _dir: tempfile::TempDir,
}

impl Daemon {
    async fn start(config: &str) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("pgvigil.toml");
        std::fs::write(&file, config)?;
        let port = free_port()?;
        let listen = format!("127.0.0.1:{port}");
        let process = Measured::start(Path::new(env!("CARGO_BIN_EXE_pgvigil")), |command| {
            forget_configuration(command);
            command.arg("run").arg("--config").arg(&file);
            command
                .env("PGVIGIL_SERVER__LISTEN", &listen)
                .env("RUST_LOG", "off")
                .env("PGVIGIL_STORE__PATH", ":memory:");
        })?;
        let took = Duration::ZERO;
        let mut daemon = Self { process, took, address: listen, agent: ureq::agent(), _dir: dir };
        let began = clock::now();
        while clock::now().duration_since(began) < PATIENCE {
            if daemon.get("/readyz").is_ok() && daemon.silent()? == 0 {
                daemon.took = clock::now().duration_since(began);
                return Ok(daemon);
            }
            daemon.process.check()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("{} targets have not answered the daemon in {PATIENCE:?}", daemon.silent()?).into())
    }

    /// The body of a page; anything but 200 is an error.
    pub(crate) fn get(&self, path: &str) -> Outcome<String> {
        let mut answer = self.agent.get(format!("http://{}{path}", self.address)).call()?;
        Ok(answer.body_mut().with_config().limit(1 << 30).read_to_string()?)
    }

    /// How many targets do not answer.
    fn silent(&self) -> Outcome<usize> {
        let is_down = |line: &&str| line.starts_with("pgvigil_target_up{") && line.ends_with(" 0");
        Ok(self.get("/metrics")?.lines().filter(is_down).count())
    }

    /// Polls so far: that went well, and that did not.
    pub(crate) fn polls(&self) -> Outcome<(u64, u64)> {
        let metrics = self.get("/metrics")?;
        let (mut good, mut bad) = (0, 0);
        for line in metrics.lines().filter(|line| line.starts_with("pgvigil_polls_total{")) {
            let count: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            let sum = if line.contains("outcome=\"ok\"") { &mut good } else { &mut bad };
            *sum += count as u64;
        }
        Ok((good, bad))
    }
}

/// Nothing of our environment that the daemon would read as configuration.
fn forget_configuration(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PG", "AWS_", "DATABASE_", "POSTGRES_", "DB_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env_remove("NOTIFY_SOCKET");
}

pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
