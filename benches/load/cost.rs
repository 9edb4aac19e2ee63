//! What sampling costs: the process that samples, and the servers.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::Client;

use crate::Outcome;
use crate::process::{self, CpuTime, Measured};
use crate::rig::Rig;

/// What sampling has cost so far.
pub(crate) struct Cost {
    pub(crate) own: CpuTime,
    /// Of the servers' processes for its sessions.
    pub(crate) server: CpuTime,
    /// `pg_stat_statements`, in seconds.
    pub(crate) statements: f64,
}

/// Of `processes`, and of the sessions of `role` on the servers.
pub(crate) async fn cost(rig: &Rig, sessions: &[Client; 2], processes: &[Measured], role: &str) -> Outcome<Cost> {
    let mut cost = Cost { own: Duration::ZERO, server: Duration::ZERO, statements: 0.0 };
    for process in processes {
        cost.own += process.cpu()?;
    }
    for (session, server) in sessions.iter().zip(&rig.servers.nodes) {
        // Sessions that have ended are counted by the postmaster. Within a window only what is measured has such.
        let lock = std::fs::read_to_string(server.data.join("postmaster.pid"))?;
        cost.server += process::of_ended_children(lock.lines().next().unwrap_or_default().trim().parse()?)?;
        for row in session.query("SELECT pid FROM pg_stat_activity WHERE usename = $1::text::name", &[&role]).await? {
            let pid: i32 = row.try_get(0)?;
            cost.server += process::on_cpu(Path::new(&format!("/proc/{pid}/schedstat")))?;
        }
        let spent = "SELECT coalesce(sum(total_exec_time + total_plan_time), 0) / 1000 FROM pg_stat_statements \
                     WHERE userid = (SELECT oid FROM pg_roles WHERE rolname = $1::text::name)";
        let spent: f64 = session.query_one(spent, &[&role]).await?.try_get(0)?;
        cost.statements += spent;
    }
    Ok(cost)
}
