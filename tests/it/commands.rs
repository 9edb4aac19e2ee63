//! What the README and the book tell people to type: commands are run against real servers, SQL is executed, configurations
//! are checked. What cannot be run here says so below it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::docs::pages;
use crate::readme::root;
use crate::support::daemon::{Daemon, SOON, cluster_toml, pgvigil};
use crate::support::process::Process;
use crate::support::{free_port, http, missing, pg, until};

/// What stands below a block whose commands are not run.
const NOT_RUN: &str = "*Not run by our tests.*";

const TOKEN: &str = "0123456789abcdef-of-a-test";

/// What stands between two fences.
struct Block {
    /// Page and line.
    place: String,
    language: String,
    code: String,
    is_run: bool,
}

/// The pages that people read: name and text.
fn texts() -> Vec<(String, String)> {
    let mut pages = pages();
    pages.insert(0, root("README.md"));
    let name = |path: &Path| path.strip_prefix(root("")).unwrap().display().to_string();
    pages.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for (page, text) in texts() {
        let mut lines = text.lines().enumerate().peekable();
        while let Some((at, line)) = lines.next() {
            let Some(language) = line.trim_start().strip_prefix("```") else { continue };
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let code = inside.collect::<Vec<_>>().join("\n");
            // It may stand after an empty line.
            while lines.next_if(|(_, line)| line.is_empty()).is_some() {}
            let is_run = lines.peek().is_none_or(|(_, line)| *line != NOT_RUN);
            found.push(Block { place: format!("{page}:{}", at + 1), language: language.to_owned(), code, is_run });
        }
    }
    found
}

/// What stands in backticks in a line of text and begins with `program` and a space.
fn named(program: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (page, text) in texts() {
        let mut is_text = true;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_text = !is_text;
            } else if is_text {
                let spans = line.split('`').skip(1).step_by(2);
                let commands = spans.filter(|span| span.split(' ').next() == Some(program) && span.contains(' '));
                found.extend(commands.map(|command| (page.clone(), command.to_owned())));
            }
        }
    }
    found
}

/// Each command of a block on a line of its own, without the remarks beside them.
fn commands(code: &str) -> Vec<String> {
    let joined = code.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// The machine of whoever reads: `pgvigil` and `curl` are installed, and the servers are where the pages say.
struct Machine {
    bin: tempfile::TempDir,
    servers: pgvigil::demo::Servers,
}

impl Machine {
    async fn new() -> Self {
        let bin = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_pgvigil"), bin.path().join("pgvigil")).unwrap();
        // As people type it; an answer that is no success is one here, too.
        let curl = bin.path().join("curl");
        std::fs::write(&curl, "#!/bin/sh\nexec /usr/bin/curl --fail-with-body \"$@\"\n").unwrap();
        std::fs::set_permissions(&curl, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { bin, servers: pg::cluster(1).await }
    }

    fn urls(&self) -> [(&'static str, String); 2] {
        ["primary", "r1"].map(|name| match name {
            "primary" => ("DATABASE_URL", pg::dsn(self.servers.node(name), "mon")),
            _ => ("DATABASE_READ_REPLICA_URL", pg::dsn(self.servers.node(name), "mon")),
        })
    }

    /// A shell on it, where the daemon listens on `port`.
    fn shell(&self, script: &str, port: u16) -> Command {
        let path = format!("{}:{}", self.bin.path().display(), std::env::var("PATH").unwrap());
        let clean = pgvigil();
        let mut command = Command::new("bash");
        // With all that a daemon of a test must not hear of.
        for (name, value) in clean.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut script = script.to_owned();
        for (written, (_, url)) in ["primary", "replica"].iter().zip(self.urls()) {
            let written = format!("postgresql://pgvigil:secret@{written}.example.internal/app?sslmode=require");
            script = script.replace(&written, &url);
        }
        for written in ["localhost:9732", "127.0.0.1:9732"] {
            script = script.replace(written, &format!("127.0.0.1:{port}"));
        }
        command.arg("-euc").arg(script).env("PATH", path).env("USER", "ada").env("PGVIGIL_TOKEN", TOKEN);
        command.env("PGVIGIL_SERVER__LISTEN", format!("127.0.0.1:{port}"));
        command
    }

    /// Runs what is typed, until it does what it is to do.
    async fn run(&self, place: &str, command: &str, port: u16) {
        // What it finds in these servers is no fault of the command's.
        let may_be: &[i32] = if command.starts_with("pgvigil check") { &[0, 1] } else { &[0] };
        until(&format!("{place}: {command}"), 6 * SOON, || async {
            let mut shell = self.shell(command, port);
            shell.envs(self.urls());
            let Output { status, stdout, stderr } =
                tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
            let told = format!("{status}: {}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            if status.code().is_some_and(|code| may_be.contains(&code)) { Ok(()) } else { Err(told) }
        })
        .await;
    }
}

#[tokio::test]
async fn commands_do_what_the_pages_say() {
    if !Path::new("/usr/bin/curl").exists() {
        return missing("curl");
    }
    let machine = Machine::new().await;
    let dsn = |name| pg::dsn(machine.servers.node(name), "mon");
    let orders = cluster_toml("orders", &[("primary", dsn("primary")), ("replica-1", dsn("r1"))]);
    let orders = Daemon::start(&format!("[server]\ntoken = \"{TOKEN}\"\n{orders}")).await;
    let orders_port: u16 = orders.url.rsplit(':').next().unwrap().parse().unwrap();
    // The page's own is the third.
    for _ in 0..2 {
        let silence = "pgvigil silence add --target nothing --for 1m --reason 'a test'";
        machine.run("before", silence, orders_port).await;
    }

    let mut by_environment: Option<(Process, u16)> = None;
    let mut n_run = 0;
    for block in blocks().into_iter().filter(|block| block.language == "sh" && block.is_run) {
        let lines = commands(&block.code);
        if lines.last().is_some_and(|line| line == "pgvigil") {
            let port = free_port();
            let script = format!("{}\nexec pgvigil", lines[..lines.len() - 1].join("\n"));
            let mut daemon = Process::start(machine.shell(&script, port));
            daemon.wait_for_output("listening on http://", SOON).await;
            until(&format!("{}: ready", block.place), 6 * SOON, || async {
                let answer = http::get(&format!("http://127.0.0.1:{port}/healthz/default/replica-1")).await?;
                if answer.status == 200 { Ok(()) } else { Err(answer.body) }
            })
            .await;
            by_environment = Some((daemon, port));
            n_run += 1;
            continue;
        }
        let is_default = block.code.contains("/default/");
        let port = if is_default { by_environment.as_ref().expect("it was started before").1 } else { orders_port };
        for command in lines {
            machine.run(&block.place, &command, port).await;
            n_run += 1;
        }
    }
    for (page, command) in named("curl") {
        machine.run(&page, &command, orders_port).await;
        n_run += 1;
    }
    assert!(n_run >= 12, "only {n_run} commands were found");
}

#[tokio::test]
async fn sql_is_what_the_server_takes() {
    let servers = pg::cluster(0).await;
    let sql: Vec<Block> = blocks().into_iter().filter(|block| block.language == "sql").collect();
    assert!(!sql.is_empty());
    for block in sql {
        let done = servers.primary().sql(&format!("BEGIN;\n{}\n;ROLLBACK", block.code)).await;
        assert!(done.is_ok(), "{}: {done:?}", block.place);
    }
}

#[test]
fn configurations_hold_together() {
    let minimal = std::fs::read_to_string(root("config/minimal.toml")).unwrap();
    let shown: Vec<Block> = blocks().into_iter().filter(|block| block.language == "toml").collect();
    assert!(shown.len() > 10);
    for block in shown.iter().filter(|block| !block.code.contains("{{#include")) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shown.toml");
        for secret in ["token", "password", "read-token", "webhook-secret"] {
            std::fs::write(dir.path().join(secret), "a-secret-of-this-test\n").unwrap();
        }
        let mut text = block.code.replace("file:/etc/pgvigil/", &format!("file:{}/", dir.path().display()));
        let mut command = pgvigil();
        if text.contains("[[test]]") {
            std::fs::write(dir.path().join("pgvigil.toml"), &minimal).unwrap();
            command.args(["rules", "test"]).arg(&file);
        } else {
            // What a page shows of a section stands beside the rest of a configuration.
            if text.trim_start().starts_with("[[cluster.target]]") {
                text = format!("[[cluster]]\nname = \"orders\"\n{text}");
            } else if !text.contains("[[cluster]]") && !text.contains("[[discover]]") {
                text = format!("{text}\n{minimal}");
            }
            if text.contains("\"billing-*\"") {
                text.push_str(&cluster_toml("billing-eu", &[("a", "host=billing".to_owned())]));
            }
            if text.contains("notify   = \"pager\"") {
                text.push_str("\n[[notify]]\ntype = \"log\"\nname = \"pager\"\n");
            }
            command.args(["check", "--offline", "--config"]).arg(&file);
        }
        std::fs::write(&file, text).unwrap();
        let Output { status, stdout, stderr } = command.output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{}: {told}", block.place);
    }
}

#[test]
fn what_the_text_names_are_commands() {
    let named = named("pgvigil");
    assert!(named.len() > 10);
    for (page, command) in named {
        // `[--option VALUE]` may be left out, `NAME...` may come again.
        let plain = command.replace(['[', ']'], "").replace("...", "");
        let said = pgvigil().args(plain.split_whitespace().skip(1)).arg("--help").output().unwrap();
        assert!(said.status.success(), "{page}: {command}: {}", String::from_utf8_lossy(&said.stderr));
    }
    for (page, text) in texts() {
        for script in text.split(['`', '\n', ' ']).filter(|word| word.starts_with("scripts/")) {
            assert!(root(script).exists(), "{page}: there is no {script}");
        }
    }
}

#[test]
fn what_stands_between_fences_is_known_and_reads() {
    for block in blocks() {
        match block.language.as_str() {
            "sh" | "sql" | "toml" => {}
            "text" => {}
            "json" => assert!(serde_json::from_str::<serde_json::Value>(&block.code).is_ok(), "{}", block.place),
            other => panic!("{}: nothing tests what is {other:?}", block.place),
        }
        assert!(block.is_run || block.language == "sh", "{}: it is tested", block.place);
    }
}
