//! `pgvigil check`: what each server is, what is wrong or risky with it, what it does not let us see, and the SQL that would
//! change that.
//!
//! The servers are asked by the collector; a [`Report`] is decided from what they said alone. Its JSON form is for programs
//! and keeps its names.

mod findings;
mod services;

use std::cell::Cell as Count;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use crate::aws::Aws;
use crate::clock;
use crate::collect::tls::{Roots, Trust};
use crate::collect::{Probe, probe, probe_pooler};
use crate::config::{Cluster, Config, Target};
use crate::core::alert::AlertId;
use crate::core::discovery::Endpoint;
use crate::core::ledger::Recipient;
use crate::core::observation::{PollFailure, Positions, StandbyState, StatementsAccess};
use crate::core::pooler::PoolerFacts;
use crate::core::topology::{Name, Role, twins};
use crate::discovery::Sought;
use crate::notify::NotifierConfig;
use crate::table::{Cell, Table, Tone, painted, short, wrapped};

pub use self::findings::{Finding, Severity};
use self::findings::{Patient, of_endpoint, of_failure, of_pooler, of_target};
pub use self::services::AwsReport;

/// Targets asked at once. Enough that a few which do not answer hold up nobody.
const AT_ONCE: usize = 64;

/// Connects to every target and asks it everything once, and AWS what it allows. `say` is told how far it has come.
pub async fn run(config: &Config, say: impl Fn(&str)) -> Report {
    let aws = Aws::new(config.aws.clone());
    let trust = Arc::new(Trust::new(aws.clone()));
    let (clusters, aws) = tokio::join!(examine(config, &trust, say), services::ask(config, &aws));
    let report = Report::new(&clusters, config.statements.enabled, clock::wall());
    let waits = |pooler: &&Target| config.clusters.iter().all(|cluster| cluster.name != pooler.id.cluster);
    let waiting: Vec<String> = config.awaiting_poolers.iter().filter(waits).map(|it| it.id.to_string()).collect();
    let ok = report.ok && waiting.is_empty() && aws.iter().all(|report| report.fault.is_none());
    Report { ok, notifiers: notifiers(config), untold: untold(config), waiting, aws, ..report }
}

/// What the servers and poolers of each cluster say.
async fn examine(config: &Config, trust: &Arc<Trust>, say: impl Fn(&str)) -> Vec<ExaminedCluster> {
    let mut clusters = Vec::with_capacity(config.clusters.len());
    let total: usize = config.clusters.iter().map(|cluster| cluster.targets.len() + cluster.poolers.len()).sum();
    let n_done = Count::new(0);
    let tell = || say(&format!("{} of {total} servers and poolers asked", n_done.get()));
    let done = || {
        n_done.set(n_done.get() + 1);
        tell();
    };
    tell();
    let limit = config.poll.timeout.max(config.poll.connect_timeout);
    let probes = config.clusters.iter().flat_map(|cluster| &cluster.targets).map(|target| {
        let (id, conninfo) = (target.id.clone(), Arc::clone(&target.conninfo));
        probe(id, conninfo, limit, config.statements.enabled, Arc::clone(trust)).inspect(|_| done())
    });
    let mut outcomes = futures_util::stream::iter(probes).buffered(AT_ONCE);
    let pooler_probes = config
        .clusters
        .iter()
        .flat_map(|cluster| &cluster.poolers)
        .map(|pooler| probe_pooler(Arc::clone(&pooler.conninfo), limit, Arc::clone(trust)).inspect(|_| done()));
    let mut pooler_outcomes = futures_util::stream::iter(pooler_probes).buffered(AT_ONCE);
    for cluster in &config.clusters {
        let mut targets = Vec::with_capacity(cluster.targets.len());
        for target in &cluster.targets {
            let Some(outcome) = outcomes.next().await else { break };
            let dbname = target.conninfo.dbname().to_owned();
            let user = target.conninfo.user().to_owned();
            let is_local = target.conninfo.is_local();
            let endpoint = target.conninfo.host_names().find_map(Endpoint::of);
            let trusts_copy = target.conninfo.tls().roots == Roots::Rds;
            let name = target.id.target.clone();
            targets.push(Examined { target: name, dbname, user, is_local, endpoint, trusts_copy, outcome });
        }
        let mut poolers = Vec::with_capacity(cluster.poolers.len());
        for pooler in &cluster.poolers {
            let Some(outcome) = pooler_outcomes.next().await else { break };
            poolers.push((pooler.id.target.clone(), outcome.map(PoolerFacts::bounded)));
        }
        clusters.push(ExaminedCluster { name: cluster.name.clone(), targets, poolers });
    }
    clusters
}

/// Who is told of alerts, as configured. Whether they can be reached is for `pgvigil notify test` to find out.
fn notifiers(config: &Config) -> Vec<NotifierReport> {
    let report = |(position, notifier): (usize, &NotifierConfig)| {
        let names = notifier.names(position).into_iter().zip(notifier.places());
        let (kind, told_of) = (notifier.kind(), notifier.told_of());
        let report = move |(name, place)| NotifierReport { name, kind, place, told_of: told_of.clone() };
        names.map(report).collect::<Vec<_>>()
    };
    config.notifiers.iter().enumerate().flat_map(report).collect()
}

/// Alerts that no notifier takes: `ReplicaLagging (warning)`.
fn untold(config: &Config) -> Vec<String> {
    let recipients: Vec<Recipient> = config.fleet_spec().recipients;
    let mut untold = Vec::new();
    for rule in &config.rules {
        let severities = std::iter::once(rule.severity).chain(rule.above.iter().map(|level| level.severity));
        for severity in severities {
            let is_told = |cluster: &Cluster| {
                let (rule, cluster) = (rule.name.clone(), cluster.name.clone());
                let alert = AlertId { rule, cluster, target: None, labels: Vec::new() };
                recipients.iter().any(|recipient| recipient.takes(&alert, severity))
            };
            let clusters: Vec<&str> = config
                .clusters
                .iter()
                .filter(|cluster| !is_told(cluster))
                .map(|cluster| cluster.name.as_str())
                .collect();
            let is_all = clusters.len() == config.clusters.len();
            match clusters.as_slice() {
                [] => {}
                _ if is_all => untold.push(format!("{} ({})", rule.name, severity.as_str())),
                clusters => untold.push(format!("{} ({}) in {}", rule.name, severity.as_str(), clusters.join(", "))),
            }
        }
    }
    untold
}

/// One cluster as configured, with what its servers and poolers said.
#[derive(Debug)]
pub struct ExaminedCluster {
    pub name: Name,
    pub targets: Vec<Examined>,
    pub poolers: Vec<(Name, Result<PoolerFacts, PollFailure>)>,
}

/// One target as configured, with what it said.
#[derive(Debug)]
pub struct Examined {
    pub target: Name,
    /// The database that we connect to.
    pub dbname: String,
    /// The role that we log in as.
    pub user: String,
    /// The way to it does not leave this machine.
    pub is_local: bool,
    /// Its address leads to whichever server it is at the time.
    pub endpoint: Option<Endpoint>,
    /// Its certificate is verified against the built-in copy of the authorities of RDS.
    pub trusts_copy: bool,
    pub outcome: Result<Probe, PollFailure>,
}

/// What was found out about all clusters.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    pub ok: bool,
    /// What was looked for in AWS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub discoveries: Vec<Sought>,
    pub clusters: Vec<ClusterReport>,
    /// Who is told of alerts.
    pub notifiers: Vec<NotifierReport>,
    /// Alerts of which nobody is told.
    pub untold: Vec<String>,
    /// Poolers before clusters that were not found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// Whether AWS allows what it will be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aws: Vec<AwsReport>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct NotifierReport {
    pub name: Name,
    /// Its `type`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Without secrets.
    pub place: String,
    pub told_of: String,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct ClusterReport {
    pub name: Name,
    pub targets: Vec<TargetReport>,
    pub poolers: Vec<PoolerReport>,
    /// What does not fit together.
    pub warnings: Vec<Misfit>,
}

/// What does not fit together among the targets of a cluster.
#[derive(Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Misfit {
    /// JSON has the words alone.
    #[serde(skip)]
    pub severity: Severity,
    pub words: String,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct TargetReport {
    pub name: Name,
    pub reachable: bool,
    /// Why it is not reachable.
    pub failure: Option<String>,
    #[serde(flatten)]
    pub server: Option<ServerReport>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct PoolerReport {
    pub name: Name,
    pub reachable: bool,
    /// Why it is not reachable.
    pub failure: Option<String>,
    pub version: Option<String>,
    pub tls: Option<bool>,
    /// Databases that it leads to, by name.
    pub databases: Option<Vec<String>>,
    /// The worst first.
    pub findings: Vec<Finding>,
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

impl Report {
    /// Judges what the targets of each cluster said. `wants_statements` is `statements.enabled`.
    pub fn new(clusters: &[ExaminedCluster], wants_statements: bool, wall: SystemTime) -> Self {
        let clusters: Vec<ClusterReport> = clusters
            .iter()
            .map(|ExaminedCluster { name, targets, poolers }| ClusterReport {
                name: name.clone(),
                targets: targets.iter().map(|target| report(target, targets, wants_statements, wall)).collect(),
                poolers: poolers.iter().map(|(name, outcome)| pooler_report(name, outcome)).collect(),
                warnings: warnings(targets),
            })
            .collect();
        let harmless = |findings: &[Finding]| findings.iter().all(|finding| finding.severity == Severity::Info);
        let is_well = |cluster: &ClusterReport| {
            cluster.warnings.is_empty()
                && cluster.targets.iter().all(|target| target.reachable && harmless(&target.findings))
                && cluster.poolers.iter().all(|pooler| pooler.reachable && harmless(&pooler.findings))
        };
        Self {
            ok: clusters.iter().all(is_well),
            discoveries: Vec::new(),
            clusters,
            notifiers: Vec::new(),
            untold: Vec::new(),
            waiting: Vec::new(),
            aws: Vec::new(),
        }
    }

    /// With what was looked for in AWS.
    #[must_use]
    pub fn with_discoveries(self, discoveries: Vec<Sought>) -> Self {
        Self { ok: self.ok && discoveries.iter().all(|sought| sought.fault.is_none()), discoveries, ..self }
    }
}

fn positions(target: &Examined) -> Option<&Positions> {
    target.outcome.as_ref().ok()?.positions.as_ref().ok()
}

/// The primaries, each under the first of its names.
fn primaries(targets: &[Examined]) -> Vec<&Examined> {
    let firsts = twins::firsts(targets.iter().map(positions));
    let is_primary = |target: &Examined| positions(target).is_some_and(|positions| positions.role() == Role::Primary);
    let is_first = |place: usize| firsts[place] == place;
    targets
        .iter()
        .enumerate()
        .filter(|(place, target)| is_first(*place) && is_primary(target))
        .map(|(_, it)| it)
        .collect()
}

fn only_primary(targets: &[Examined]) -> Option<&Examined> {
    match primaries(targets)[..] {
        [primary] => Some(primary),
        _ => None,
    }
}

fn report(target: &Examined, targets: &[Examined], wants_statements: bool, wall: SystemTime) -> TargetReport {
    let probe = match &target.outcome {
        Ok(probe) => probe,
        Err(failure) => {
            return TargetReport {
                name: target.target.clone(),
                reachable: false,
                failure: Some(failure.to_string()),
                server: None,
                findings: target.endpoint.map(of_endpoint).into_iter().chain(of_failure(target, failure)).collect(),
            };
        }
    };
    let identity = &probe.identity;
    let role = positions(target).map(Positions::role);
    let lacks_statements = wants_statements && !matches!(identity.statements, StatementsAccess::Readable { .. });
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
            missing_grants: (!identity.reads_all_stats).then_some("pg_monitor").into_iter().collect(),
            missing_extensions: lacks_statements.then_some("pg_stat_statements").into_iter().collect(),
            slots: probe.survey.as_ref().ok().and_then(|facts| Some(facts.slots.as_ref()?.len())),
        }),
        findings: of_target(Patient {
            target,
            probe,
            role,
            targets,
            primary: only_primary(targets),
            wants_statements,
            wall,
        }),
    }
}

fn pooler_report(name: &Name, outcome: &Result<PoolerFacts, PollFailure>) -> PoolerReport {
    let facts = outcome.as_ref().ok();
    PoolerReport {
        name: name.clone(),
        reachable: facts.is_some(),
        failure: outcome.as_ref().err().map(ToString::to_string),
        version: facts.and_then(|facts| facts.version.clone()),
        tls: facts.map(|facts| facts.tls),
        databases: facts.map(|facts| facts.databases.iter().map(|database| database.name.clone()).collect()),
        findings: facts.map_or_else(Vec::new, of_pooler),
    }
}

/// What does not fit together among the targets of one cluster.
fn warnings(targets: &[Examined]) -> Vec<Misfit> {
    let mut warnings = Vec::new();
    let mut add = |severity, words| warnings.push(Misfit { severity, words });
    let all_reached = targets.iter().all(|target| target.outcome.is_ok());
    let firsts = twins::firsts(targets.iter().map(positions));
    for (place, first) in firsts.iter().enumerate().filter(|(place, first)| place != *first) {
        let (one, other) = (&targets[*first].target, &targets[place].target);
        let words = format!(
            "{one} and {other} lead to one server (the same process): it counts once; name another server in the dsn of \
             one of them, or remove it"
        );
        add(Severity::Warning, words);
    }
    let primaries: Vec<&Name> = primaries(targets).into_iter().map(|primary| &primary.target).collect();
    if primaries.len() > 1 {
        let words = format!(
            "{} primaries: {}; only one of them can be the one that replicas are measured against",
            primaries.len(),
            list(&primaries)
        );
        add(Severity::Error, words);
    }
    if primaries.is_empty() && all_reached {
        let words = "no primary: none of the targets is one, so lag is known only as far as the replicas can tell it themselves; add the primary";
        add(Severity::Warning, words.to_owned());
    }

    let mut systems: BTreeMap<u64, Vec<&Name>> = BTreeMap::new();
    for target in targets {
        if let Some(system) = positions(target).and_then(|positions| positions.identity.system_identifier) {
            systems.entry(system).or_default().push(&target.target);
        }
    }
    if systems.len() > 1 {
        let groups: Vec<String> = systems.iter().map(|(system, names)| format!("{} ({system})", list(names))).collect();
        let words = format!(
            "not one cluster: the system identifiers differ: {}; they do not replicate each other",
            groups.join(", ")
        );
        add(Severity::Error, words);
    }

    // A standby streams from somebody. When nobody here has a WAL sender, it streams from somebody who is not listed.
    let has_senders = |target: &Examined| positions(target).is_some_and(|positions| !positions.senders.is_empty());
    if all_reached && !targets.iter().any(has_senders) {
        for target in targets {
            let standby = positions(target).and_then(Positions::standby);
            if let Some(upstream) = standby.and_then(upstream) {
                let words = format!(
                    "{} streams from {upstream}, which is none of the cluster's targets; add it",
                    target.target
                );
                add(Severity::Warning, words);
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
    /// A row for each target, then what was found. Lines are broken to `width`, where there is one.
    pub fn table(&self, has_colour: bool, width: Option<usize>) -> String {
        let heading = ["CLUSTER", "TARGET", "ROLE", "VERSION", "FLAVOUR", "TLS", "GRANTS", "EXTENSION", "SLOTS"];
        let mut table = Table::new(&heading, &["SLOTS"]);
        for cluster in &self.clusters {
            for target in &cluster.targets {
                table.row(row(cluster, target));
            }
        }
        let paper = Paper { has_colour, width };
        let mut text = table.render_within(has_colour, width);
        text.push_str(&self.poolers(paper));
        for cluster in &self.clusters {
            explain(&mut text, cluster, paper);
        }
        text.push_str(&self.told(paper));
        for sought in &self.discoveries {
            let found = format!("{} found {} of {}", sought.name, sought.targets, sought.looks_for);
            let _ = match &sought.fault {
                None => writeln!(text, "\n{found}"),
                Some(fault) => writeln!(text, "\n{} {found}: {fault}", painted("error", Tone::Bad, has_colour)),
            };
        }
        for pooler in &self.waiting {
            let error = painted("error", Tone::Bad, has_colour);
            text.push_str(&format!(
                "\n{error} pooler {pooler} is not watched: no [[discover]] has found its cluster\n"
            ));
        }
        text.push_str(&self.of_aws(paper));
        let (verdict, tone) = if self.ok { ("all well", Tone::Good) } else { ("something to fix", Tone::Doubtful) };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}{}", painted(verdict, tone, has_colour), self.counts());
        text
    }

    /// A row for each notifier, and what they leave out.
    fn told(&self, paper: Paper) -> String {
        if self.notifiers.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["NOTIFIER", "TYPE", "WHERE", "TOLD OF"], &[]);
        for notifier in &self.notifiers {
            let place = notifier.place.as_str();
            table.row(vec![
                notifier.name.as_str().into(),
                notifier.kind.into(),
                place.into(),
                (&*notifier.told_of).into(),
            ]);
        }
        let mut text = format!("\n{}", table.render_within(paper.has_colour, paper.width));
        if self.notifiers.iter().all(|notifier| notifier.kind == "log") {
            text.push_str("Alerts go to the log alone, which wakes nobody: add a [[notify]].\n");
        }
        if let Some((first, others)) = self.untold.split_first() {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            text.push_str(&format!("Nobody is told of {first}{more}.\n"));
        }
        text
    }

    /// A row for each pooler. Nothing where there are none.
    fn poolers(&self, paper: Paper) -> String {
        let mut table = Table::new(&["CLUSTER", "POOLER", "REACHED", "VERSION", "TLS", "DATABASES"], &["DATABASES"]);
        let mut is_empty = true;
        for cluster in &self.clusters {
            for pooler in &cluster.poolers {
                is_empty = false;
                let reached = if pooler.reachable { Cell::new("yes", Tone::Good) } else { Cell::new("no", Tone::Bad) };
                let tls = pooler.tls.map_or("", |tls| if tls { "yes" } else { "no" });
                let databases = pooler.databases.as_ref().map_or_else(String::new, |list| list.len().to_string());
                table.row(vec![
                    cluster.name.as_str().into(),
                    pooler.name.as_str().into(),
                    reached,
                    pooler.version.as_deref().unwrap_or_default().into(),
                    tls.into(),
                    databases.into(),
                ]);
            }
        }
        if is_empty { String::new() } else { format!("\n{}", table.render_within(paper.has_colour, paper.width)) }
    }

    /// How many findings there are of each severity. What is not reached or not allowed is an error.
    fn counts(&self) -> String {
        let severities = || {
            self.clusters.iter().flat_map(|cluster| {
                let of_targets = cluster.targets.iter().flat_map(|target| &target.findings);
                let findings = of_targets.chain(cluster.poolers.iter().flat_map(|pooler| &pooler.findings));
                let not_reached = cluster.failures().map(|_| Severity::Error);
                let misfits = cluster.warnings.iter().map(|misfit| misfit.severity);
                findings.map(|finding| finding.severity).chain(not_reached).chain(misfits)
            })
        };
        let n_not_found = self.discoveries.iter().filter(|sought| sought.fault.is_some()).count();
        let n_faults = n_not_found + self.waiting.len() + self.aws_faults().len();
        let severities = || severities().chain(std::iter::repeat_n(Severity::Error, n_faults));
        let counts: Vec<String> =
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")]
                .into_iter()
                .map(|(severity, noun)| (severities().filter(|found| *found == severity).count(), noun))
                .filter(|(count, _)| *count > 0)
                .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }))
                .collect();
        if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) }
    }
}

impl ClusterReport {
    /// What is not reached, and why.
    fn failures(&self) -> impl Iterator<Item = (&Name, &str)> {
        let of_targets = self.targets.iter().map(|target| (&target.name, target.failure.as_deref()));
        let of_poolers = self.poolers.iter().map(|pooler| (&pooler.name, pooler.failure.as_deref()));
        of_targets.chain(of_poolers).filter_map(|(name, failure)| Some((name, failure?)))
    }

    /// Whether a target lacks what the same statements on the same server would give it.
    fn lacks(&self, name: &Name, finding: &Finding) -> bool {
        let is_same = |own: &Finding| own.sql == finding.sql && own.run_on == finding.run_on;
        let target = self.targets.iter().find(|target| target.name == *name);
        !finding.sql.is_empty() && target.is_some_and(|target| target.findings.iter().any(is_same))
    }
}

fn row(cluster: &ClusterReport, target: &TargetReport) -> Vec<Cell> {
    let mut row = vec![Cell::from(cluster.name.as_str()), target.name.as_str().into()];
    if !target.reachable {
        row.push(Cell::new("down", Tone::Bad));
    }
    if let Some(server) = &target.server {
        let flavor = match server.flavor {
            "rds" => "RDS",
            "aurora" => "Aurora",
            _ => "PostgreSQL",
        };
        let missing = |names: &[&str]| match names {
            [] => Cell::new("ok", Tone::Good),
            _ => Cell::new("missing", Tone::Doubtful),
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

/// What is written on.
#[derive(Clone, Copy)]
struct Paper {
    has_colour: bool,
    width: Option<usize>,
}

fn explain(text: &mut String, cluster: &ClusterReport, paper: Paper) {
    let mut paragraph = |place: &str, tone: Tone, words: &str, rest: &[String]| {
        let line = wrapped(&format!("{place}: {words}"), paper.width, 4);
        let told = line.strip_prefix(place).unwrap_or(&line);
        text.push_str(&format!("\n{}{told}\n", painted(place, tone, paper.has_colour)));
        rest.iter().for_each(|line| text.push_str(&format!("{line}\n")));
    };
    for (name, failure) in cluster.failures() {
        let (tone, words) = headline(Severity::Error, &format!("not reached: {failure}"));
        paragraph(&format!("{}/{name}", cluster.name), tone, &words, &[]);
    }
    for target in &cluster.targets {
        let place = format!("{}/{}", cluster.name, target.name);
        for finding in &target.findings {
            // One statement on the primary helps all who lack the same: it is told there, with their names.
            let is_elsewhere = finding.run_on.as_ref().is_some_and(|name| *name != target.name);
            if is_elsewhere && finding.run_on.as_ref().is_some_and(|name| cluster.lacks(name, finding)) {
                continue;
            }
            let (tone, words) = headline(finding.severity, &finding.problem);
            paragraph(&place, tone, &words, &details(cluster, target, finding, paper));
        }
    }
    for pooler in &cluster.poolers {
        let place = format!("{}/{}", cluster.name, pooler.name);
        for finding in &pooler.findings {
            let (tone, words) = headline(finding.severity, &finding.problem);
            let mut rest = vec![wrapped(&format!("  {}", finding.why), paper.width, 2)];
            rest.extend(finding.sql.iter().map(|command| format!("    {command}")));
            paragraph(&place, tone, &words, &rest);
        }
    }
    for warning in &cluster.warnings {
        let (tone, words) = headline(warning.severity, &warning.words);
        paragraph(cluster.name.as_str(), tone, &words, &[]);
    }
}

fn headline(severity: Severity, problem: &str) -> (Tone, String) {
    let tone = match severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Doubtful,
        Severity::Info => Tone::Faint,
    };
    (tone, format!("{}: {problem}", severity.as_str()))
}

/// Why a finding matters, and what would change it.
fn details(cluster: &ClusterReport, target: &TargetReport, finding: &Finding, paper: Paper) -> Vec<String> {
    let mut lines = vec![wrapped(&format!("  {}", finding.why), paper.width, 2)];
    if finding.sql.is_empty() {
        return lines;
    }
    let is_note = finding.sql.iter().all(|statement| statement.starts_with("--"));
    lines.push(match &finding.run_on {
        _ if is_note => "  to do:".to_owned(),
        Some(name) if *name == target.name => "  run on it:".to_owned(),
        Some(name) => format!("  run on its primary, {name}:"),
        None => "  run on its primary:".to_owned(),
    });
    lines.extend(finding.sql.iter().map(|statement| format!("    {statement}")));
    let others: Vec<&Name> = cluster
        .targets
        .iter()
        .map(|other| &other.name)
        .filter(|other| finding.run_on.is_some() && **other != target.name && cluster.lacks(other, finding))
        .collect();
    if !others.is_empty() {
        lines.push(format!("  which is also for {}", list(&others)));
    }
    lines
}

#[cfg(test)]
mod tests;
