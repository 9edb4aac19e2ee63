//! The clients that we show read their own writes from a replica of a real cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgvigil::demo::Servers;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, cluster_toml};
use crate::support::{missing, pg};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

struct Rig {
    servers: Servers,
    daemon: Daemon,
}

async fn start() -> Rig {
    let servers = pg::cluster(2).await;
    let role = "CREATE ROLE app LOGIN PASSWORD 'app'; GRANT ALL ON SCHEMA public TO app";
    servers.primary().sql(role).await.unwrap();
    let dsn = |name| pg::dsn(servers.node(name), "mon");
    let targets = [("primary", dsn("primary")), ("r1", dsn("r1")), ("r2", dsn("r2"))];
    let daemon = Daemon::start(&cluster_toml("orders", &targets)).await;
    Rig { servers, daemon }
}

impl Rig {
    /// What a client prints that finds all it needs in the environment. It waits for a replica for as long as may be.
    async fn run(&self, mut command: Command) -> String {
        command.env("PRIMARY_URL", pg::dsn(self.servers.primary(), "app"));
        command.env("PGVIGIL_URL", &self.daemon.url).env("CLUSTER", "orders").env("WAIT", "30s");
        command.stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        stdout.trim().to_owned()
    }

    /// A client that prints JSON: it read what it wrote, from a replica, time after time.
    async fn check(&self, client: impl Fn() -> Command) {
        for _ in 0..3 {
            let told: Value = serde_json::from_str(&self.run(client()).await).unwrap();
            assert_eq!((&told["found"], &told["fallback"]), (&json!(true), &json!(false)), "{told}");
            assert!(told["target"] == "r1" || told["target"] == "r2", "{told}");
        }
    }
}

#[tokio::test]
async fn the_client_in_python_reads_its_own_writes() {
    let python = root("target/clients/venv/bin/python");
    if !python.exists() {
        return missing("psycopg");
    }
    let rig = start().await;
    rig.check(|| {
        let mut command = Command::new(&python);
        command.arg(root("docs/clients/python/read_own_write.py"));
        command
    })
    .await;
}

#[tokio::test]
async fn the_client_in_typescript_reads_its_own_writes() {
    let modules = root("target/clients/node/node_modules");
    if !modules.exists() {
        return missing("node-postgres");
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).unwrap();
    for file in ["package.json", "tsconfig.json", "route.ts", "read-own-write.ts"] {
        std::fs::copy(root("docs/clients/typescript").join(file), dir.path().join(file)).unwrap();
    }
    let mut compile = Command::new("node");
    compile.arg("node_modules/typescript/bin/tsc").current_dir(dir.path()).stdin(Stdio::null());
    let compiled = tokio::task::spawn_blocking(move || compile.output().unwrap()).await.unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stdout));
    let rig = start().await;
    rig.check(|| {
        let mut command = Command::new("node");
        command.arg("dist/read-own-write.js").current_dir(dir.path());
        command
    })
    .await;
}

#[tokio::test]
async fn the_client_in_a_shell_reads_its_own_writes() {
    let rig = start().await;
    for _ in 0..2 {
        let told = rig.run(Command::new(root("docs/clients/read-own-write.sh"))).await;
        let (server, text) = told.split_once(' ').unwrap();
        assert_eq!(text, "from a shell");
        let replica = |name| format!("127.0.0.1:{}", rig.servers.node(name).port);
        assert!([replica("r1"), replica("r2")].contains(&server.to_owned()), "{told}");
    }
}
