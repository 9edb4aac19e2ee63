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

#[path = "../../docs/clients/server_for.rs"]
#[allow(unreachable_pub, reason = "it is shown as it would stand in an application")]
mod server_for;

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

/// A folder with what a client of `docs/clients` is made of, what it needs beside it, and its scripts compiled.
async fn compiled(folder: &str, modules: PathBuf, also: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).unwrap();
    let own = std::fs::read_dir(root("docs/clients").join(folder)).unwrap().map(|entry| entry.unwrap().path());
    for file in own.chain(also.iter().map(|file| root("docs/clients").join(file))) {
        std::fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    if folder == "prisma" {
        let mut generate = Command::new("node");
        generate.args(["node_modules/prisma/build/index.js", "generate"]).current_dir(dir.path());
        // It looks for the program that migrations need, which is not there, and does not run it.
        generate.env("PRISMA_SCHEMA_ENGINE_BINARY", "/bin/true").env("CHECKPOINT_DISABLE", "1");
        succeed(generate).await;
    }
    let mut compile = Command::new("node");
    compile.arg("node_modules/typescript/bin/tsc").current_dir(dir.path());
    succeed(compile).await;
    dir
}

async fn succeed(mut command: Command) {
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&words));
}

#[tokio::test]
async fn the_client_in_typescript_reads_its_own_writes() {
    let modules = root("target/clients/node/node_modules");
    if !modules.exists() {
        return missing("node-postgres");
    }
    let dir = compiled("typescript", modules, &[]).await;
    let rig = start().await;
    rig.check(|| {
        let mut command = Command::new("node");
        command.arg("dist/read-own-write.js").current_dir(dir.path());
        command
    })
    .await;
}

#[tokio::test]
async fn the_client_with_prisma_reads_its_own_writes() {
    let modules = root("target/clients/prisma/node_modules");
    if !modules.exists() {
        return missing("Prisma");
    }
    let dir = compiled("prisma", modules, &["typescript/route.ts"]).await;
    let rig = start().await;
    for _ in 0..2 {
        let mut command = Command::new("node");
        command.arg("dist/read-own-write.js").current_dir(dir.path());
        let told: Value = serde_json::from_str(&rig.run(command).await).unwrap();
        assert_eq!((&told["found"], &told["fallback"]), (&json!(true), &json!(false)), "{told}");
        let port = |name| u64::from(rig.servers.node(name).port);
        assert!(told["port"].as_u64().is_some_and(|told| [port("r1"), port("r2")].contains(&told)), "{told}");
    }
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

impl Rig {
    /// Writes a row, and gives the position behind it.
    async fn written(&self, text: &str) -> String {
        let primary = self.servers.primary();
        primary.sql("CREATE TABLE IF NOT EXISTS shown(text text)").await.unwrap();
        primary.sql(&format!("INSERT INTO shown VALUES ('{text}')")).await.unwrap();
        primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap()
    }

    /// A replica listens there, and has that row.
    async fn has(&self, (host, port): (&str, u16), text: &str) {
        let server = self.servers.nodes.iter().find(|node| node.port == port).unwrap();
        assert!(host == "127.0.0.1" && ["r1", "r2"].contains(&server.name.as_str()), "{host} {}", server.name);
        let count = server.value(&format!("SELECT count(*) FROM shown WHERE text = '{text}'")).await.unwrap();
        assert_eq!(count.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn the_client_in_rust_reads_its_own_writes() {
    let rig = start().await;
    for text in ["one", "two", "three"] {
        let (lsn, url) = (rig.written(text).await, rig.daemon.url.clone());
        let asked = tokio::task::spawn_blocking(move || server_for::server_for(&url, "orders", &lsn, "30s"));
        let (host, port) = asked.await.unwrap().unwrap();
        rig.has((&host, port), text).await;
    }
    // Nobody is there: the primary it is.
    let asked = tokio::task::spawn_blocking(|| server_for::server_for("http://127.0.0.1:1", "orders", "0/1", "1s"));
    assert_eq!(asked.await.unwrap(), None);
}

#[tokio::test]
async fn the_client_in_go_reads_its_own_writes() {
    if Command::new("go").arg("version").output().is_err() {
        return missing("go");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(dir.path().join("client")).arg(".").current_dir(root("docs/clients/go"));
    build.env("GOCACHE", root("target/clients-go")).env("GOFLAGS", "-mod=readonly").env("CGO_ENABLED", "0");
    succeed(build).await;
    let rig = start().await;
    for text in ["one", "two", "three"] {
        let mut client = Command::new(dir.path().join("client"));
        client.env("LSN", rig.written(text).await);
        let told: Value = serde_json::from_str(&rig.run(client).await).unwrap();
        assert_eq!(told["fallback"], false, "{told}");
        let port = u16::try_from(told["port"].as_u64().unwrap()).unwrap();
        rig.has((told["host"].as_str().unwrap(), port), text).await;
    }
}
