//! How soon many targets have answered, and CPU and memory of the daemon with them, both beats as they are by default.

use std::time::Duration;

use pgvigil::clock;

use crate::Outcome;
use crate::rig::{self, Rig, Way};
use crate::table::Table;

/// More than a slow beat, so that each target has had one.
const WARM_UP: Duration = Duration::from_secs(17);
/// One slow beat.
const WINDOW: Duration = Duration::from_secs(15);

pub(crate) async fn measure(rig: &Rig, table: &mut Table) -> Outcome<()> {
    for (way, how) in [(Way::Plain, "without TLS"), (Way::Tls, "with TLS")] {
        let daemon = rig.daemon_by(2000, rig::SELDOM, way).await?;
        let (_, n_failed) = daemon.polls()?;
        let is_soon = daemon.took <= Duration::from_secs(60);
        let took = format!("{:.0} s", daemon.took.as_secs_f64());
        table.judged(format!("until 2000 targets have answered, {how}"), took, "<= 60 s", is_soon);
        table.told("  polls that failed", n_failed.to_string());
    }
    for n_targets in [100, 1000, 2000] {
        let mut daemon = rig.daemon(n_targets, rig::SELDOM).await?;
        tokio::time::sleep(WARM_UP).await;
        let (counted_from, (n_before, _)) = (clock::now(), daemon.polls()?);
        let (watched_from, cpu_before) = (clock::now(), daemon.process.cpu()?);
        tokio::time::sleep(WINDOW).await;
        let used = (daemon.process.cpu()? - cpu_before).as_secs_f64();
        let share = used / clock::now().duration_since(watched_from).as_secs_f64();
        let (counted_to, (n_after, n_failed)) = (clock::now(), daemon.polls()?);
        let rate = (n_after - n_before) as f64 / counted_to.duration_since(counted_from).as_secs_f64();
        daemon.process.check()?;
        let memory = daemon.process.memory()?;

        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let goal = (25 << 20) + n_targets as u64 * (24 << 10);
        let of = format!("{n_targets} targets at 1 s");
        table.told(format!("CPU of one core, {of}"), format!("{:.1} %", share * 100.0));
        if n_targets == 2000 {
            let enough = rate >= 0.99 * n_targets as f64;
            table.judged("  polls a second, on one core", format!("{rate:.0}"), ">= 1980", enough);
        } else {
            table.told("  polls a second", format!("{rate:.0}"));
        }
        if n_failed > 0 {
            table.told("  polls that failed", n_failed.to_string());
        }
        table.judged("  resident memory", mib(memory.rss), format!("<= {}", mib(goal)), memory.rss <= goal);
        table.told("  proportional share (PSS)", mib(memory.pss));
    }
    Ok(())
}
