//! The status page in a real browser, over real servers: what it looks like is judged by people, the rest here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgvigil::demo::Plan;

use crate::cloudwatch::{page, told};
use crate::support::cloudwatch::{Cloud, environment};
use crate::support::daemon::{Daemon, SOON, cluster_toml};
use crate::support::process::Process;
use crate::support::{missing, pg};

/// Chromium starts slowly on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// A command that drives the browser; `None` where there is none.
fn browser(arguments: &[&str]) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("target/browser");
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].map(PathBuf::from);
    let chromium = chromium.into_iter().find(|path| path.exists());
    let (Some(chromium), true) = (chromium, modules.join("node_modules").exists()) else {
        missing("Chromium, or what drives it,");
        return None;
    };
    let mut command = Command::new("node");
    command.arg(root.join("tests/it/browser/page.mjs")).args(arguments);
    command.env("BROWSER_MODULES", modules).env("CHROMIUM", chromium);
    Some(command)
}

async fn well(mut process: Process) {
    let status = process.wait(PATIENCE).await;
    assert!(status.success(), "{status}:\n{}", process.output());
}

fn plan() -> Plan {
    pg::plan(2).standby("cascade", "r1")
}

fn config(servers: &pgvigil::demo::Servers) -> String {
    let targets = pg::targets(&servers.nodes, "mon");
    // A second cluster, of which nothing answers.
    let gone = [("gone", "postgresql://pgvigil@127.0.0.1:1/postgres".to_owned())];
    format!("{}\n{}", cluster_toml("orders", &targets), cluster_toml("billing", &gone))
}

/// In light and dark, wide and as a phone, with scripts and without; by keys alone; judged by axe-core. Nothing goes to the
/// console, and nobody else is asked for anything. The pictures are in `target/screenshots`.
#[tokio::test]
async fn the_page_is_readable_by_everybody_and_keeps_to_itself() {
    let servers = pgvigil::demo::Servers::start(&plan()).await.unwrap();
    let cloud = Cloud::start(|asked| page(told(asked, |_| Some(40.0)))).await;
    let (of_aws, rest) = config(&servers)
        .split_once("\n[[cluster]]\nname = \"billing\"")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let config = format!(
        "[heartbeat]\ninterval = \"1s\"\nnotify = \"log\"\n[[notify]]\ntype = \"log\"\nname = \"log\"\n\
         [cloudwatch]\nenabled = true\ninterval = \"1s\"\n{of_aws}\
         cloudwatch = {{ instance = \"rds-cascade\", region = \"us-east-1\" }}\n[[cluster]]\nname = \"billing\"{rest}"
    );
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(environment(&cloud.url));
    })
    .await;
    let labels = [("cluster", "orders"), ("target", "cascade")];
    daemon.until_series("pgvigil_cpu_utilization_ratio", &labels, SOON, |value| value.is_some()).await;
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    let pictures = pictures.to_str().unwrap();
    let Some(command) = browser(&["look", &daemon.url, pictures, "/", "/clusters/orders"]) else { return };
    well(Process::start(command)).await;
}

/// A replica's replay is paused while two pages are open: each says so without being loaded again, and takes it back.
#[tokio::test]
async fn an_open_page_follows_what_happens() {
    let servers = pgvigil::demo::Servers::start(&plan()).await.unwrap();
    let daemon = Daemon::start(&config(&servers)).await;
    let follow = |path: &str, selector: &str, text: &str| browser(&["follow", &daemon.url, selector, text, path]);
    let Some(fleet) = follow("/", "#drawn-orders", "replay paused") else { return };
    let (mut fleet, mut cluster) =
        (Process::start(fleet), Process::start(follow("/clusters/orders", "#targets", "replay is paused").unwrap()));
    fleet.wait_for_output("open", PATIENCE).await;
    cluster.wait_for_output("open", PATIENCE).await;
    servers.node("r2").sql("SELECT pg_wal_replay_pause()").await.unwrap();
    pg::write(servers.primary()).await;
    well(fleet).await;
    well(cluster).await;
    let mut again = Process::start(follow("/clusters/orders", "#picture", "cascade").unwrap());
    again.wait_for_output("open", PATIENCE).await;
    servers.node("r2").sql("SELECT pg_wal_replay_resume()").await.unwrap();
    well(again).await;
}

/// A page whose daemon is gone says that what it shows is old.
#[tokio::test]
async fn an_open_page_tells_when_nobody_answers() {
    let daemon = Daemon::start(&cluster_toml("billing", &[("gone", "postgresql://x@127.0.0.1:1/x".to_owned())])).await;
    let Some(command) = browser(&["stuck", &daemon.url]) else { return };
    let mut page = Process::start(command);
    page.wait_for_output("open", PATIENCE).await;
    daemon.stop().await;
    well(page).await;
}
