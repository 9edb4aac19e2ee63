//! `pgvigil demo`, as its user runs it.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::daemon::pgvigil;
use crate::support::process::Process;
use crate::support::until;

const SOON: Duration = Duration::from_secs(60);

/// Files of the demo with this process id: there are none once it has ended.
fn files_of(demo: &Process) -> Vec<PathBuf> {
    let name = format!("pgvigil-servers-{}-", demo.pid().as_raw_nonzero());
    ["/dev/shm".into(), std::env::temp_dir()]
        .iter()
        .flat_map(|dir: &PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name)))
        .collect()
}

fn demo() -> Process {
    let mut command = pgvigil();
    command.arg("demo");
    Process::start(command)
}

#[tokio::test]
async fn the_demo_walks_through_its_incident_and_leaves_nothing() {
    let mut demo = demo();
    let status = demo.wait(3 * SOON).await;
    let said = demo.output();
    assert_eq!(status.code(), Some(0), "{said}");
    let mut rest = said.as_str();
    for expected in
        ["http://127.0.0.1:", "paused on replica-2", "pending", "503", "firing", "resumed", "resolved", "200", "ended"]
    {
        let found = rest.find(expected).unwrap_or_else(|| panic!("{expected:?} is not said in its turn:\n{said}"));
        rest = &rest[found..];
    }
    assert_eq!(files_of(&demo), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_interrupted_demo_cleans_up() {
    for (signal, when) in [(Signal::INT, "starting a primary"), (Signal::TERM, "ready")] {
        let mut demo = demo();
        demo.wait_for_output(when, SOON).await;
        demo.signal(signal);
        let status = demo.wait(Duration::from_secs(15)).await;
        assert_eq!((status.code(), files_of(&demo)), (Some(0), Vec::new()), "after {signal:?}");
    }
}

#[tokio::test]
async fn what_a_killed_demo_left_is_removed_by_the_next_one() {
    let mut killed = demo();
    killed.wait_for_output("ready", SOON).await;
    killed.signal(Signal::KILL);
    killed.wait(SOON).await;
    assert_ne!(files_of(&killed), Vec::<PathBuf>::new());

    let mut next = demo();
    next.wait_for_output("ready", SOON).await;
    next.signal(Signal::TERM);
    next.wait(SOON).await;
    assert_eq!(files_of(&killed), Vec::<PathBuf>::new());
    let dir = format!("/pgvigil-servers-{}-", killed.pid().as_raw_nonzero());
    // A server that was told to end at once needs a moment for it.
    until("its servers to be gone", SOON, || async {
        let left: Vec<PathBuf> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| std::fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.contains(&dir)))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
