//! `pgvigil check`: what each server is, what it does not let us see, and the SQL that would change that.
//!
//! The servers are asked by the collector; a [`Report`] is decided from what they said alone. Its JSON form is for programs
//! and keeps its names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;

use crate::collect::tls::Trust;
use crate::collect::{Probe, probe};
use crate::config::Config;
use crate::core::observation::{Flavor, Identity, PollFailure, Positions, Receiver, StandbyState, StatementsAccess};
use crate::core::topology::{Name, Role};
use crate::table::{Cell, Table, Tone, painted, short};

/// Targets asked at once. Enough that a few which do not answer hold up nobody.
const AT_ONCE: usize = 64;

/// Connects to every target and asks it everything once.
pub async fn run(config: &Config) -> Report {
    let trust = Arc::new(Trust::default());
    let mut clusters = Vec::with_capacity(config.clusters.len());
    let probes = config.clusters.iter().flat_map(|cluster| &cluster.targets).map(|target| {
        let (id, conninfo) = (target.id.clone(), Arc::clone(&target.conninfo));
        probe(id, conninfo, config.poll.timeout, config.statements.enabled, Arc::clone(&trust))
    });
    let mut outcomes = futures_util::stream::iter(probes).buffered(AT_ONCE);
    for cluster in &config.clusters {
        let mut targets = Vec::with_capacity(cluster.targets.len());
        for target in &cluster.targets {
            let Some(outcome) = outcomes.next().await else { break };
            let dbname = target.conninfo.dbname().to_owned();
            targets.push(Examined { target: target.id.target.clone(), dbname, outcome });
        }
        clusters.push((cluster.name.clone(), targets));
    }
    Report::new(&clusters, config.statements.enabled)
}

/// One target as configured, with what it said.
#[derive(Debug)]
pub struct Examined {
    pub target: Name,
    /// The database that we connect to.
    pub dbname: String,
    pub outcome: Result<Probe, PollFailure>,
}

/// What was found out about all clusters.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    pub ok: bool,
    pub clusters: Vec<ClusterReport>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct ClusterReport {
    pub name: Name,
    pub targets: Vec<TargetReport>,
    /// What does not fit together.
    pub warnings: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct TargetReport {
    pub name: Name,
    pub reachable: bool,
    /// Why it is not reachable.
    pub failure: Option<String>,
    #[serde(flatten)]
    pub server: Option<ServerReport>,
    pub to_fix: Vec<Fix>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct ServerReport {
    /// `None` when its positions could not be read.
    pub role: Option<Role>,
    pub version: String,
    /// `postgresql`, `rds` or `aurora`.
    pub flavor: &'static str,
    /// A connection pooler stands in between.
    pub pooled: bool,
    pub tls: bool,
    pub user: String,
    pub missing_grants: Vec<&'static str>,
    pub missing_extensions: Vec<&'static str>,
    /// `None` when they could not be read.
    pub slots: Option<usize>,
}

/// Something that keeps us from measuring, and what would change that.
#[derive(Debug, PartialEq, Serialize)]
pub struct Fix {
    pub problem: String,
    pub not_measured: String,
    /// What to run, one statement each, and comments for what SQL cannot do.
    pub sql: Vec<String>,
    /// The target to run it on. `None` when that is not known (no primary was reached), or nothing is to be run.
    pub run_on: Option<Name>,
}

impl Report {
    /// Judges what the targets of each cluster said. `wants_statements` is `statements.enabled`.
    pub fn new(clusters: &[(Name, Vec<Examined>)], wants_statements: bool) -> Self {
        let clusters: Vec<ClusterReport> = clusters
            .iter()
            .map(|(name, targets)| {
                let primary = only_primary(targets);
                ClusterReport {
                    name: name.clone(),
                    targets: targets.iter().map(|target| report(target, primary, wants_statements)).collect(),
                    warnings: warnings(targets),
                }
            })
            .collect();
        let is_well = |cluster: &ClusterReport| {
            cluster.warnings.is_empty()
                && cluster.targets.iter().all(|target| target.reachable && target.to_fix.is_empty())
        };
        Self { ok: clusters.iter().all(is_well), clusters }
    }
}

fn positions(target: &Examined) -> Option<&Positions> {
    target.outcome.as_ref().ok()?.positions.as_ref().ok()
}

fn with_role(targets: &[Examined], role: Role) -> Vec<&Name> {
    targets
        .iter()
        .filter(|target| positions(target).is_some_and(|positions| positions.role() == role))
        .map(|target| &target.target)
        .collect()
}

fn only_primary(targets: &[Examined]) -> Option<&Name> {
    match with_role(targets, Role::Primary)[..] {
        [primary] => Some(primary),
        _ => None,
    }
}

fn report(target: &Examined, primary: Option<&Name>, wants_statements: bool) -> TargetReport {
    let probe = match &target.outcome {
        Ok(probe) => probe,
        Err(failure) => {
            return TargetReport {
                name: target.target.clone(),
                reachable: false,
                failure: Some(failure.to_string()),
                server: None,
                to_fix: Vec::new(),
            };
        }
    };
    let identity = &probe.identity;
    let role = positions(target).map(Positions::role);
    let mut missing_grants = Vec::new();
    let mut missing_extensions = Vec::new();
    let mut to_fix = Vec::new();
    // What is granted and created comes to a standby from its primary, and cannot be changed on the standby itself.
    let run_on = if role == Some(Role::Primary) { Some(&target.target) } else { primary };
    if !identity.reads_all_stats {
        missing_grants.push("pg_monitor");
        to_fix.push(Fix {
            problem: format!("role {:?} does not have pg_monitor", identity.user),
            not_measured: unseen(positions(target)),
            sql: vec![format!("GRANT pg_monitor TO {};", quote_identifier(&identity.user))],
            run_on: run_on.cloned(),
        });
    }
    if wants_statements && identity.statements != StatementsAccess::NotCreated {
        to_fix.extend(library_fix(target, identity));
    }
    if wants_statements && identity.statements == StatementsAccess::NotCreated {
        to_fix.push(Fix {
            problem: format!("extension pg_stat_statements is not created in database {:?}", target.dbname),
            not_measured: "statements: calls, execution time, rows and blocks".to_owned(),
            sql: vec!["CREATE EXTENSION pg_stat_statements;".to_owned()],
            run_on: run_on.cloned(),
        });
    }
    if wants_statements && !matches!(identity.statements, StatementsAccess::Readable { .. }) {
        missing_extensions.push("pg_stat_statements");
    }
    for (failure, what, not_measured) in [
        (probe.positions.as_ref().err(), "positions", "lag, and everything else that depends on where the WAL stands"),
        (probe.survey.as_ref().err(), "slow facts", "connections, slots, statements"),
    ] {
        if let Some(failure) = failure {
            to_fix.push(Fix {
                problem: format!("its {what} cannot be read: {failure}"),
                not_measured: not_measured.to_owned(),
                sql: Vec::new(),
                run_on: None,
            });
        }
    }
    TargetReport {
        name: target.target.clone(),
        reachable: true,
        failure: None,
        server: Some(ServerReport {
            role,
            version: identity.version.clone(),
            flavor: identity.flavor.as_str(),
            pooled: identity.pooled,
            tls: identity.tls,
            user: identity.user.clone(),
            missing_grants,
            missing_extensions,
            slots: probe.survey.as_ref().ok().and_then(|facts| Some(facts.slots.as_ref()?.len())),
        }),
        to_fix,
    }
}

/// What a role without `pg_monitor` does not see.
fn unseen(positions: Option<&Positions>) -> String {
    let mut unseen = vec![
        "what sessions of other roles do: their state, client address, transactions, idle time and waits for locks",
        "statements of other roles",
    ];
    if positions.is_some_and(|positions| positions.role() == Role::Primary || !positions.senders.is_empty()) {
        unseen.insert(0, "each standby's sent, written, flushed and replayed positions and PostgreSQL's own lags");
    }
    if positions.and_then(Positions::standby).is_some_and(|standby| standby.receiver == Receiver::Hidden) {
        unseen.insert(0, "the WAL receiver's state, upstream and last message");
    }
    unseen.join("; ")
}

/// The library is a matter of each server's own settings, standby or not.
fn library_fix(target: &Examined, identity: &Identity) -> Option<Fix> {
    if identity.statements != StatementsAccess::NotLoaded {
        return None;
    }
    let sql = match identity.flavor {
        Flavor::PostgreSql => vec![
            "SHOW shared_preload_libraries;".to_owned(),
            "-- what it shows, and pg_stat_statements; then restart the server".to_owned(),
            "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';".to_owned(),
        ],
        Flavor::Rds | Flavor::Aurora => vec![
            "-- add pg_stat_statements to shared_preload_libraries in the parameter group, then reboot the instance"
                .to_owned(),
        ],
    };
    Some(Fix {
        problem: "pg_stat_statements is not in shared_preload_libraries".to_owned(),
        not_measured: "statements: calls, execution time, rows and blocks".to_owned(),
        sql,
        run_on: Some(target.target.clone()),
    })
}

/// As SQL wants an identifier of any spelling.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What does not fit together among the targets of one cluster.
fn warnings(targets: &[Examined]) -> Vec<String> {
    let mut warnings = Vec::new();
    let all_reached = targets.iter().all(|target| target.outcome.is_ok());
    let primaries = with_role(targets, Role::Primary);
    if primaries.len() > 1 {
        warnings.push(format!(
            "{} primaries: {}; only one of them can be the one that replicas are measured against",
            primaries.len(),
            list(&primaries)
        ));
    }
    if primaries.is_empty() && all_reached {
        warnings.push("no primary: none of the targets is one, so lag is known only as far as the replicas can tell it themselves; add the primary".to_owned());
    }

    let mut systems: BTreeMap<u64, Vec<&Name>> = BTreeMap::new();
    for target in targets {
        if let Some(system) = positions(target).and_then(|positions| positions.identity.system_identifier) {
            systems.entry(system).or_default().push(&target.target);
        }
    }
    if systems.len() > 1 {
        let groups: Vec<String> = systems.iter().map(|(system, names)| format!("{} ({system})", list(names))).collect();
        warnings.push(format!(
            "not one cluster: the system identifiers differ: {}; they do not replicate each other",
            groups.join(", ")
        ));
    }

    // A standby streams from somebody. When nobody here has a WAL sender, it streams from somebody who is not listed.
    let has_senders = |target: &Examined| positions(target).is_some_and(|positions| !positions.senders.is_empty());
    if all_reached && !targets.iter().any(has_senders) {
        for target in targets {
            let standby = positions(target).and_then(Positions::standby);
            if let Some(upstream) = standby.and_then(upstream) {
                warnings.push(format!(
                    "{} streams from {upstream}, which is none of the cluster's targets; add it",
                    target.target
                ));
            }
        }
    }
    warnings
}

/// The host that a standby streams from, as it says itself.
fn upstream(standby: &StandbyState) -> Option<String> {
    let receiver = standby.receiver.running()?;
    let host = receiver.sender_host.as_deref()?;
    Some(receiver.sender_port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn list(names: &[&Name]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

impl Report {
    /// A row for each target, then what is to be fixed.
    pub fn table(&self, has_colour: bool) -> String {
        let heading =
            ["CLUSTER", "TARGET", "REACHED", "ROLE", "VERSION", "FLAVOUR", "TLS", "GRANTS", "EXTENSIONS", "SLOTS"];
        let mut table = Table::new(&heading, &["SLOTS"]);
        for cluster in &self.clusters {
            for target in &cluster.targets {
                table.row(row(cluster, target));
            }
        }
        let mut text = table.render(has_colour);
        for cluster in &self.clusters {
            // Writing to a String cannot fail.
            let _ = explain(&mut text, cluster, has_colour);
        }
        let (verdict, tone) = if self.ok { ("all well", Tone::Good) } else { ("something to fix", Tone::Doubtful) };
        let _ = writeln!(text, "\n{}", painted(verdict, tone, has_colour));
        text
    }
}

impl ClusterReport {
    /// Whether a target lacks what the same statements on the same server would give it.
    fn lacks(&self, name: &Name, fix: &Fix) -> bool {
        let target = self.targets.iter().find(|target| target.name == *name);
        target.is_some_and(|target| target.to_fix.iter().any(|own| own.sql == fix.sql && own.run_on == fix.run_on))
    }
}

fn row(cluster: &ClusterReport, target: &TargetReport) -> Vec<Cell> {
    let mut row = vec![
        Cell::from(cluster.name.as_str()),
        target.name.as_str().into(),
        if target.reachable { Cell::new("yes", Tone::Good) } else { Cell::new("no", Tone::Bad) },
    ];
    if let Some(server) = &target.server {
        let flavor = match server.flavor {
            "rds" => "RDS",
            "aurora" => "Aurora",
            _ => "PostgreSQL",
        };
        let missing = |names: &[&str]| match names {
            [] => Cell::new("ok", Tone::Good),
            names => Cell::new(&format!("no {}", names.join(", ")), Tone::Doubtful),
        };
        row.extend([
            server.role.map_or("?", |role| role.as_str()).into(),
            short(&server.version).into(),
            format!("{flavor}{}", if server.pooled { ", pooler" } else { "" }).into(),
            if server.tls { "yes" } else { "no" }.into(),
            missing(&server.missing_grants),
            missing(&server.missing_extensions),
            server.slots.map_or_else(|| "?".to_owned(), |slots| slots.to_string()).into(),
        ]);
    }
    row
}

fn explain(text: &mut String, cluster: &ClusterReport, has_colour: bool) -> std::fmt::Result {
    for target in &cluster.targets {
        let place = format!("{}/{}", cluster.name, target.name);
        if let Some(failure) = &target.failure {
            writeln!(text, "\n{}: not reached: {failure}", painted(&place, Tone::Bad, has_colour))?;
        }
        for fix in &target.to_fix {
            // One statement on the primary helps all who lack the same: it is told there, with their names.
            if fix.run_on.as_ref().is_some_and(|name| *name != target.name && cluster.lacks(name, fix)) {
                continue;
            }
            writeln!(text, "\n{}: {}", painted(&place, Tone::Doubtful, has_colour), fix.problem)?;
            writeln!(text, "  not measured: {}", fix.not_measured)?;
            if fix.sql.is_empty() {
                continue;
            }
            match &fix.run_on {
                Some(name) if *name == target.name => writeln!(text, "  run on it:")?,
                Some(name) => writeln!(text, "  run on its primary, {name}:")?,
                None => writeln!(text, "  run on its primary:")?,
            }
            fix.sql.iter().try_for_each(|statement| writeln!(text, "    {statement}"))?;
            let others: Vec<&Name> = cluster
                .targets
                .iter()
                .map(|other| &other.name)
                .filter(|other| fix.run_on.is_some() && **other != target.name && cluster.lacks(other, fix))
                .collect();
            if !others.is_empty() {
                writeln!(text, "  which is also for {}", list(&others))?;
            }
        }
    }
    for warning in &cluster.warnings {
        writeln!(text, "\n{}: {warning}", painted(cluster.name.as_str(), Tone::Doubtful, has_colour))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
