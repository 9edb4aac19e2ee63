//! A process of ours that ends with the test, and what it wrote.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A running process. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
    name: String,
}

impl Process {
    /// Starts `command` and collects what it writes on both its outputs.
    pub(crate) fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        Self { child, output, name }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has written so far, both outputs together.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait(&mut self, patience: Duration) -> ExitStatus {
        let start = pgvigil::clock::now();
        loop {
            if let Some(status) = self.try_wait() {
                // What it wrote last may still be on its way through the pipe.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return status;
            }
            let took = pgvigil::clock::now().duration_since(start);
            assert!(took < patience, "{} does not end; it wrote:\n{}", self.name, self.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it has written `text`; fails at once when it ends before.
    pub(crate) async fn wait_for_output(&mut self, text: &str, patience: Duration) {
        let start = pgvigil::clock::now();
        while !self.output().contains(text) {
            let ended = self.try_wait();
            let took = pgvigil::clock::now().duration_since(start);
            assert!(
                ended.is_none() && took < patience,
                "{} ({ended:?}) did not write {text:?}, but:\n{}",
                self.name,
                self.output()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}", self.name, self.output());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    });
}

/// The same command in a mount namespace of its own, after `script` (for `sh`, with `values` as its arguments) has run there.
/// `None`: this machine gives us no namespaces.
pub(crate) fn with_mounts(command: &Command, script: &str, values: &[&OsStr]) -> Option<Command> {
    let may =
        |options: &[&str]| Command::new("unshare").args(options).arg("true").status().is_ok_and(|it| it.success());
    let options = [&["--mount"][..], &["--user", "--map-root-user", "--mount"]].into_iter().find(|it| may(it))?;
    let mut wrapped = Command::new("unshare");
    let script = format!("{script} && shift {} && exec \"$@\"", values.len());
    wrapped.args(options).args(["sh", "-c", &script, "sh"]).args(values);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    Some(wrapped)
}
