//! What is found about one server: decided from what it said alone.
//!
//! Each finding says what is so, why it matters, and what would change it. An [`Severity::Info`] is worth knowing, and
//! may well be meant; the others are something to fix.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Examined, list, positions};
use crate::collect::Probe;
use crate::collect::tls::RDS_COPIED_ON;
use crate::core::checkup::{SlotState, Verified};
use crate::core::discovery::Endpoint;
use crate::core::observation::{Flavor, Identity, PollFailure, Positions, Receiver, SenderState, StatementsAccess};
use crate::core::pooler::PoolerFacts;
use crate::core::survey::Sessions;
use crate::core::topology::{Name, Role};

/// From least to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// What is so.
    pub problem: String,
    /// Why it matters.
    pub why: String,
    /// What to run, one statement each, and comments for what SQL cannot do. Empty where nothing is to be run.
    pub sql: Vec<String>,
    /// The target to run it on. `None` when that is not known (no primary was reached), or nothing is to be run.
    pub run_on: Option<Name>,
}

impl Finding {
    fn new(severity: Severity, problem: impl Into<String>, why: impl Into<String>) -> Self {
        Self { severity, problem: problem.into(), why: why.into(), sql: Vec::new(), run_on: None }
    }

    fn run(mut self, sql: Vec<String>, on: Option<&Name>) -> Self {
        self.sql = sql;
        self.run_on = on.cloned();
        self
    }
}

/// A password that expires within this time is told.
const PASSWORD_SOON: Duration = Duration::from_secs(14 * DAY);

/// A certificate that expires within this time is told.
const CERTIFICATE_SOON: Duration = Duration::from_secs(30 * DAY);

const DAY: u64 = 24 * 3600;

/// The share of connections in use from which it is told.
const NEARLY_FULL: f64 = 0.8;

/// Transactions that feedback or a slot may hold back before it is told: some hours of a busy server.
const OLD_XMIN: u64 = 10_000_000;

/// PostgreSQL's own slot for subscriptions with `retain_dead_tuples` (19+): it keeps rows and no WAL, and nothing drops it.
const CONFLICT_SLOT: &str = "pg_conflict_detection";

/// WAL kept for any standby, below which a standby without a slot is lost by a short outage: `wal_keep_size` in MB.
const SMALL_KEEP_MB: u64 = 1024;

/// As many of a kind are told one by one.
const MOST_LINES: usize = 10;

/// One server and what stands around it.
#[derive(Clone, Copy)]
pub(super) struct Patient<'a> {
    pub(super) target: &'a Examined,
    pub(super) probe: &'a Probe,
    pub(super) role: Option<Role>,
    /// All of its cluster, itself among them.
    pub(super) targets: &'a [Examined],
    /// The only primary of its cluster, itself perhaps.
    pub(super) primary: Option<&'a Examined>,
    pub(super) wants_statements: bool,
    pub(super) wall: SystemTime,
}

impl<'a> Patient<'a> {
    fn identity(&self) -> &'a Identity {
        &self.probe.identity
    }

    fn itself(&self) -> Option<&'a Name> {
        Some(&self.target.target)
    }

    /// What is granted and created comes to a standby from its primary, and cannot be changed on the standby itself.
    fn run_on(&self) -> Option<&'a Name> {
        if self.role == Some(Role::Primary) {
            return self.itself();
        }
        self.primary.map(|primary| &primary.target)
    }

    fn setting(&self, name: &str) -> Option<&'a str> {
        setting(self.probe, name)
    }

    fn is_standby(&self) -> bool {
        self.role == Some(Role::Replica)
    }

    /// What changes a setting of this server.
    fn set(&self, name: &str, value: &str) -> Vec<String> {
        match self.identity().flavor {
            Flavor::PostgreSql => {
                vec![format!("ALTER SYSTEM SET {name} = {value};"), "SELECT pg_reload_conf();".to_owned()]
            }
            Flavor::Rds | Flavor::Aurora => vec![format!("-- set {name} to {value} in the DB parameter group")],
        }
    }
}

fn setting<'a>(probe: &'a Probe, name: &str) -> Option<&'a str> {
    probe.checkup.settings.as_ref()?.get(name).map(String::as_str)
}

/// An address that leads to another server from time to time cannot be watched: a lag, a slot, a session would be anybody's.
pub(super) fn of_endpoint(endpoint: Endpoint) -> Finding {
    let sees = match endpoint {
        Endpoint::Proxy => {
            "a proxy hands each session to whichever server it has, hides who is connected, and ends what it calls idle"
        }
        Endpoint::Writer => {
            "after a failover it leads to another instance, under the old name and with another's history"
        }
        Endpoint::Reader | Endpoint::Custom => {
            "each connection may lead to another instance, so that the lag of none is known"
        }
    };
    let way_out = "name the endpoint of each instance instead, or let [[discover]] find them";
    Finding::new(Severity::Warning, format!("its host is {}", endpoint.as_str()), format!("{sees}: {way_out}"))
}

/// What can be done about a server that lets no session begin.
pub(super) fn of_failure(target: &Examined, failure: &PollFailure) -> Option<Finding> {
    let PollFailure::LoginTrigger { sqlstate, .. } = failure else { return None };
    let user = target.user.replace('\'', "''");
    let mut sql = vec![format!("-- first in the trigger's function: IF session_user = '{user}' THEN RETURN; END IF;")];
    let mut why = "no session of ours begins, so nothing is measured; let the trigger pass this role".to_owned();
    // read_only_sql_transaction
    if sqlstate == "25006" {
        why.push_str(
            ". A session of ours is read-only only once it has begun: here the server is a standby, or the role, the \
             database or the server is set to default_transaction_read_only",
        );
        sql.push(
            "-- where it writes and a standby lets it run: IF pg_is_in_recovery() THEN RETURN; END IF;".to_owned(),
        );
    }
    let finding = Finding::new(Severity::Error, failure.to_string(), why);
    Some(finding.run(sql, Some(&target.target)))
}

/// All that is found about one server, the worst first.
pub(super) fn of_target(patient: Patient<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for part in [unread, grants, statements, role, connection, certificate, settings, slots, standby, sender_side] {
        part(patient, &mut findings);
    }
    findings.extend(patient.target.endpoint.map(of_endpoint));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// What could not be read at all.
fn unread(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let probe = patient.probe;
    for (failure, what, not_measured) in [
        (probe.positions.as_ref().err(), "positions", "lag, and everything else that depends on where the WAL stands"),
        (probe.survey.as_ref().err(), "slow facts", "connections, slots, statements"),
    ] {
        if let Some(failure) = failure {
            let problem = format!("its {what} cannot be read: {failure}");
            let finding = Finding::new(Severity::Error, problem, format!("not measured: {not_measured}"));
            findings.push(finding.run(grant_for(patient, failure), patient.run_on()));
        }
    }
    for (topic, failure) in probe.survey.as_ref().into_iter().flat_map(|facts| &facts.failures) {
        let problem = format!("its {topic} cannot be read: {failure}");
        let finding = Finding::new(Severity::Warning, problem, format!("not measured: what is told of {topic}"));
        findings.push(finding.run(grant_for(patient, failure), patient.run_on()));
    }
    refused(patient, findings);
    for (topic, failure) in &probe.checkup.failures {
        let problem = format!("its {topic} could not be looked at: {failure}");
        let why = "whether something is to be fixed there is not known";
        findings.push(Finding::new(Severity::Info, problem, why));
    }
}

/// What the server refuses and is done without.
fn refused(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    for name in &patient.probe.refused {
        let lost = match *name {
            "pg_control_system" => "that a server belongs to another cluster (its system identifier)",
            "pg_control_checkpoint" => {
                "the timeline of a standby without a WAL receiver, and where WAL ended before a restart"
            }
            "pg_stat_get_wal_senders" => "which standbys are connected and how far they are",
            "pg_stat_get_wal_receiver" => "what a standby receives, and from whom",
            "pg_last_wal_receive_lsn" => "how far a standby has received",
            "pg_last_wal_replay_lsn" => "how far a standby has replayed, and with it its lag",
            "pg_last_xact_replay_timestamp" => "when what a standby replays was committed",
            "pg_settings" => "nothing: the settings are read one by one",
            "pg_lock_status" => "which session holds up replay",
            name if name.starts_with("pg_stat_statements") => "statements, or whether they were reset",
            _ => "what it alone tells",
        };
        // A managed server has its reasons, and nobody there could change it.
        let is_managed = patient.identity().flavor != Flavor::PostgreSql;
        let is_harmless = is_managed || lost.starts_with("nothing");
        let severity = if is_harmless { Severity::Info } else { Severity::Warning };
        let finding =
            Finding::new(severity, format!("the server refuses {name} to us"), format!("not measured: {lost}"));
        let sql = if is_managed { Vec::new() } else { vec![grant(patient, is_function(name), name)] };
        findings.push(finding.run(sql, patient.run_on()));
    }
}

fn is_function(name: &str) -> bool {
    !matches!(name, "pg_settings" | "pg_stat_statements" | "pg_stat_statements_info")
}

fn grant(patient: Patient<'_>, is_function: bool, name: &str) -> String {
    let what = if is_function { "EXECUTE ON FUNCTION" } else { "SELECT ON" };
    format!("GRANT {what} {name} TO {};", quote_identifier(&patient.identity().user))
}

/// The grant that a refusal asks for, by the server's own words. Empty where they are others.
fn grant_for(patient: Patient<'_>, failure: &PollFailure) -> Vec<String> {
    let PollFailure::Sql { sqlstate, reason } = failure else { return Vec::new() };
    let named =
        [("function ", true), ("view ", false), ("table ", false)].into_iter().find_map(|(kind, is_function)| {
            let name = reason.strip_prefix("permission denied for ")?.strip_prefix(kind)?;
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            is_plain.then(|| grant(patient, is_function, name))
        });
    named.filter(|_| sqlstate == "42501").into_iter().collect()
}

fn grants(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let identity = patient.identity();
    if !identity.reads_all_stats {
        let problem = format!("role {:?} does not have pg_monitor", identity.user);
        let why = format!("not measured: {}", unseen(positions(patient.target)));
        let sql = vec![format!("GRANT pg_monitor TO {};", quote_identifier(&identity.user))];
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.run_on()));
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
        unseen.insert(0, "the WAL receiver's state, upstream, slot and last message");
    }
    unseen.join("; ")
}

const NOT_MEASURED: &str = "not measured: statements: calls, execution time, rows and blocks";

fn statements(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    if !patient.wants_statements {
        return;
    }
    match &patient.identity().statements {
        StatementsAccess::NotLoaded => findings.push(not_loaded(patient)),
        StatementsAccess::NotCreated => {
            // Each by itself is of no use, so both are told at once.
            let settings = patient.probe.checkup.settings.as_ref();
            if settings.is_some_and(|settings| !settings.contains_key("pg_stat_statements.track")) {
                findings.push(not_loaded(patient));
            }
            let problem =
                format!("extension pg_stat_statements is not created in database {:?}", patient.target.dbname);
            let sql = vec!["CREATE EXTENSION pg_stat_statements;".to_owned()];
            findings.push(Finding::new(Severity::Warning, problem, NOT_MEASURED).run(sql, patient.run_on()));
        }
        StatementsAccess::Readable { .. } if patient.setting("pg_stat_statements.track") == Some("none") => {
            let sql = patient.set("pg_stat_statements.track", "'top'");
            let problem = "pg_stat_statements.track is none";
            let why = "the extension is there and counts nothing: its totals stand still";
            findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.itself()));
        }
        StatementsAccess::Readable { .. } => {}
    }
    if let Some(extension) = &patient.probe.checkup.extension
        && let Some(installed) = &extension.installed_version
        && is_older(installed, &extension.default_version)
    {
        let available = &extension.default_version;
        let problem = format!("extension pg_stat_statements is {installed}, and the server has {available}");
        let why =
            "the older version has fewer columns, so that less is told; an upgrade of the server leaves it behind";
        let sql = vec!["ALTER EXTENSION pg_stat_statements UPDATE;".to_owned()];
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.run_on()));
    }
}

fn not_loaded(patient: Patient<'_>) -> Finding {
    // The library is a matter of each server's own settings, standby or not.
    let sql = match patient.identity().flavor {
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
    let problem = "pg_stat_statements is not in shared_preload_libraries";
    Finding::new(Severity::Warning, problem, NOT_MEASURED).run(sql, patient.itself())
}

/// `1.9` is older than `1.10`. Versions of another form are not compared.
fn is_older(installed: &str, available: &str) -> bool {
    let parts = |text: &str| text.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    matches!((parts(installed), parts(available)), (Some(installed), Some(available)) if installed < available)
}

fn role(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let Some(role) = patient.probe.checkup.role else { return };
    let user = quote_identifier(&patient.identity().user);
    if let Some(until) = role.valid_until {
        let left = until.unix_seconds() - role.clock.unix_seconds();
        let sql = vec![
            format!("ALTER ROLE {user} VALID UNTIL 'infinity';"),
            "-- or a later day, with a new password".to_owned(),
        ];
        let why = "from then on no new session is let in by it, and nothing is measured";
        let (severity, problem) = if left <= 0.0 {
            (Severity::Error, format!("the password of role {user} has expired"))
        } else if left < PASSWORD_SOON.as_secs_f64() {
            (Severity::Warning, format!("the password of role {user} expires in {}", time_left(left)))
        } else {
            (Severity::Info, String::new())
        };
        if severity > Severity::Info {
            findings.push(Finding::new(severity, problem, why).run(sql, patient.run_on()));
        }
    }
    if role.is_superuser {
        let problem = format!("role {user} is a superuser");
        let why = "whoever gets hold of its password owns the server; pg_monitor is all that is needed, and its sessions \
                   take the connections that are reserved for rescue";
        let sql =
            vec!["CREATE ROLE pgvigil LOGIN PASSWORD '...';".to_owned(), "GRANT pg_monitor TO pgvigil;".to_owned()];
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.run_on()));
    }
    if role.connection_limit.is_some_and(|limit| limit < 2) {
        let problem = format!("role {user} may have {} at a time", counted(role.connection_limit, "session"));
        let why = "after a cut connection the server may keep the old session for a while, and lets no new one in";
        let sql = vec![format!("ALTER ROLE {user} CONNECTION LIMIT 5;")];
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.run_on()));
    }
}

/// How we get there.
fn connection(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let identity = patient.identity();
    if identity.pooled {
        let problem = "a connection pooler is in between";
        let why = "its next answer may come from another server, whose WAL position is not this one's: lag is right only \
                   if the pooler leads to one server; name the server itself in the dsn";
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
    if patient.probe.checkup.by_rds_proxy {
        let user = quote_identifier(&identity.user);
        let sql = vec![
            format!("ALTER ROLE {user} SET statement_timeout = '5s';"),
            format!("ALTER ROLE {user} SET lock_timeout = '2s';"),
        ];
        let problem = "the pooler is RDS Proxy, to which no settings are sent";
        let why =
            "it would keep a database connection for us alone after any SET; let the role have the limits instead";
        findings.push(Finding::new(Severity::Info, problem, why).run(sql, patient.run_on()));
    }
    if !identity.tls && !patient.target.is_local {
        let why = "who can listen on the way sees queries and answers; write sslmode=require, or better verify-full";
        findings.push(Finding::new(Severity::Warning, "the connection is not encrypted", why));
    }
    if let Some(sessions) = patient.probe.survey.as_ref().ok().and_then(|facts| facts.sessions.as_ref()) {
        connections(sessions, findings);
    }
}

fn connections(sessions: &Sessions, findings: &mut Vec<Finding>) {
    let usable = sessions.max_connections.saturating_sub(sessions.reserved_connections);
    if sessions.total as f64 >= NEARLY_FULL * usable as f64 {
        let problem = format!("{} of the {usable} connections that ordinary roles may have are in use", sessions.total);
        let why = "when they are all in use nobody is let in any more, us included; raise max_connections (it takes a \
                   restart), or have a pooler share them";
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
}

fn certificate(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let Some(certificate) = patient.probe.checkup.certificate else { return };
    let why =
        "from then on every client that verifies it is refused; replace ssl_cert_file, then SELECT pg_reload_conf()";
    match certificate.expires_at.duration_since(patient.wall) {
        Err(_) => findings.push(Finding::new(Severity::Error, "the server's certificate has expired", why)),
        Ok(left) if left < CERTIFICATE_SOON => {
            let problem = format!("the server's certificate expires in {}", time_left(left.as_secs_f64()));
            findings.push(Finding::new(Severity::Warning, problem, why));
        }
        Ok(_) => {}
    }
    if patient.target.trusts_copy {
        let problem =
            format!("the server's certificate is verified with a copy of RDS' authorities of {RDS_COPIED_ON}");
        let why = "an authority that AWS has added since is not in it; name a newer bundle by sslrootcert=FILE";
        findings.push(Finding::new(Severity::Info, problem, why));
    }
    let unverified = match certificate.verified {
        Verified::Nothing => "the server's certificate is not verified",
        Verified::Chain => "the server's certificate is verified, but not that it is for this host",
        Verified::ChainAndName => return,
    };
    if !patient.target.is_local {
        let why = "somebody on the way could stand in for the server; write sslmode=verify-full and name the CA by sslrootcert";
        findings.push(Finding::new(Severity::Info, unverified, why));
    }
}

fn settings(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let is_off = |name| patient.setting(name) == Some("off");
    if is_off("track_activities") {
        let why = "what sessions do is not recorded: no session has a state, and nobody sees who blocks whom";
        let sql = patient.set("track_activities", "on");
        findings.push(Finding::new(Severity::Warning, "track_activities is off", why).run(sql, patient.itself()));
    }
    if is_off("track_counts") {
        let why = "autovacuum does not see what changes, so it does not clean up";
        let sql = patient.set("track_counts", "on");
        findings.push(Finding::new(Severity::Warning, "track_counts is off", why).run(sql, patient.itself()));
    }
    if is_off("track_io_timing") {
        let why = "how long reading and writing takes is not recorded; it costs little where the clock is quick \
                   (pg_test_timing tells)";
        let sql = patient.set("track_io_timing", "on");
        findings.push(Finding::new(Severity::Info, "track_io_timing is off", why).run(sql, patient.itself()));
    }
    let has_logical = || patient.probe.checkup.slots.iter().flatten().any(|slot| slot.is_logical);
    match patient.setting("wal_level") {
        Some("minimal") => {
            let why = "no standby and no backup can follow it; the change takes a restart";
            let sql = patient.set("wal_level", "'replica'");
            findings.push(Finding::new(Severity::Warning, "wal_level is minimal", why).run(sql, patient.itself()));
        }
        // From 19 on the server writes what logical slots need as soon as there is one (`effective_wal_level`).
        Some("replica") if has_logical() && patient.identity().version_num < 190_000 => {
            let why = "there are logical replication slots, which need more than that; the change takes a restart";
            let sql = match patient.identity().flavor {
                Flavor::PostgreSql => patient.set("wal_level", "'logical'"),
                Flavor::Rds | Flavor::Aurora => {
                    vec!["-- set rds.logical_replication to 1 in the DB parameter group".to_owned()]
                }
            };
            findings.push(Finding::new(Severity::Error, "wal_level is replica", why).run(sql, patient.run_on()));
        }
        _ => {}
    }
    if let Some(archiver) = patient.probe.checkup.archiver
        && archiver.last_failed_at > archiver.last_archived_at
    {
        let times = if archiver.failed_count == 1 { "once" } else { &format!("{} times", archiver.failed_count) };
        let problem = format!("archiving WAL fails: it has failed {times}, the last time later than it last succeeded");
        let why = "WAL that is not archived is kept until the disk is full, and backups have a gap; the server's log says \
                   why archive_command or archive_library fails";
        findings.push(Finding::new(Severity::Error, problem, why));
    }
}

fn slots(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let Some(slots) = &patient.probe.checkup.slots else { return };
    // A standby's copies are the primary's to look after: they cannot be dropped, and are made anew when they are lost.
    let own = || slots.iter().filter(|slot| !slot.is_copy && slot.name != CONFLICT_SLOT);
    let lost: Vec<&SlotState> = own().filter(|slot| slot.is_lost).collect();
    let unread = || own().filter(|slot| !slot.is_lost && !slot.active);
    let inactive: Vec<&SlotState> = unread().filter(|slot| !slot.is_unused).collect();
    let never_used: Vec<&SlotState> = unread().filter(|slot| slot.is_unused).collect();
    if !lost.is_empty() {
        let problem = format!("{} lost: {}", counted_are(lost.len(), "replication slot"), names(&lost));
        let why = "the WAL that its reader still needed is gone: a standby must be made anew (or fed from an archive), a \
                   subscription copied again";
        findings.push(
            Finding::new(Severity::Error, problem, why).run(drops(&lost, &lost_and_own(patient)), patient.itself()),
        );
    }
    if !inactive.is_empty() {
        findings.push(unused(patient, &inactive));
    }
    if !never_used.is_empty() {
        let count = match never_used.len() {
            1 => "1 replication slot was".to_owned(),
            count => format!("{count} replication slots were"),
        };
        let problem = format!("{count} never used: {}", names(&never_used));
        let why = "it keeps no WAL before its reader has connected for the first time, so a standby that is set up for it may \
                   find that WAL removed: start that standby; a slot that no standby is to use may be dropped";
        findings.push(Finding::new(Severity::Info, problem, why));
    }
    if own().next().is_some()
        && patient.setting("max_slot_wal_keep_size") == Some("-1")
        // Aurora keeps its WAL elsewhere.
        && patient.identity().flavor != Flavor::Aurora
    {
        let problem = "max_slot_wal_keep_size is unlimited, and there are replication slots";
        let why = "a reader that stays away fills the server's disk with WAL, and the server stops; with a limit the slot \
                   is lost instead: choose what the disk can spare";
        let sql = patient.set("max_slot_wal_keep_size", "'50GB'");
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.itself()));
    }
    let is_old = |slot: &&SlotState| slot.xmin_age > Some(OLD_XMIN);
    if slots.iter().filter(is_old).any(|slot| slot.name == CONFLICT_SLOT) {
        let problem = format!(
            "row versions of more than {} million transactions are kept for subscriptions with retain_dead_tuples",
            OLD_XMIN / 1_000_000
        );
        let why = "vacuum cannot remove them before these subscriptions have applied all that was written meanwhile: enable \
                   or bring up to date the one that has not";
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
    let old: Vec<&SlotState> = own().filter(is_old).collect();
    if !old.is_empty() {
        let problem = format!(
            "row versions of more than {} million transactions are kept for {}",
            OLD_XMIN / 1_000_000,
            names(&old)
        );
        let why = "vacuum cannot remove them: tables grow, and transaction ids run out in the end; bring its reader up to \
                   date, or drop the slot";
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
}

/// Slots without a reader. Only those that can have none are to be dropped: a standby that is down needs its slot.
fn unused(patient: Patient<'_>, inactive: &[&SlotState]) -> Finding {
    let mut why = "each keeps all WAL since its reader left, and row versions with it".to_owned();
    let mut may_be_dropped = inactive.to_vec();
    for target in patient.targets {
        let own = own_slots(target);
        if let Some(slot) = inactive.iter().find(|slot| own.contains(&slot.name.as_str())) {
            may_be_dropped.retain(|slot| !own.contains(&slot.name.as_str()));
            let _ = write!(why, "; {} is the slot of {}: see why that does not stream by it", slot.name, target.target);
        }
    }
    let away: Vec<&Name> =
        patient.targets.iter().filter(|target| target.outcome.is_err()).map(|target| &target.target).collect();
    if !may_be_dropped.is_empty() {
        let advice = match away[..] {
            [] => "; if nobody comes back, drop it".to_owned(),
            [one] => format!(
                "; {one} is not reached and may be its reader: start that first; drop the slot only if it never comes back"
            ),
            _ => format!(
                "; {} are not reached and may be its reader: start those first; drop the slot only if they never come back",
                list(&away)
            ),
        };
        why.push_str(&advice);
    }
    let problem =
        format!("{} used by nobody now: {}", counted_are(inactive.len(), "replication slot"), names(inactive));
    let finding = Finding::new(Severity::Warning, problem, why);
    if !away.is_empty() || may_be_dropped.is_empty() {
        return finding;
    }
    finding.run(drops(&may_be_dropped, &used_by_nobody_else(patient)), patient.itself())
}

/// The lost slots, as SQL has it.
fn lost_and_own(patient: Patient<'_>) -> String {
    format!("wal_status = 'lost'{}", no_copy(patient))
}

/// That a slot is no standby's copy of its primary's, as SQL has it.
fn no_copy(patient: Patient<'_>) -> &'static str {
    if patient.identity().version_num >= 170_000 { " AND NOT (synced AND pg_is_in_recovery())" } else { "" }
}

/// The slots that [`unused`] says may be dropped, as SQL has it.
fn used_by_nobody_else(patient: Patient<'_>) -> String {
    let mut condition = "NOT active AND restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'".to_owned();
    condition.push_str(no_copy(patient));
    let mut own: Vec<&str> = patient.targets.iter().flat_map(own_slots).collect();
    own.sort_unstable();
    own.dedup();
    if !own.is_empty() {
        let quoted: Vec<String> = own.iter().map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
        let _ = write!(condition, " AND slot_name NOT IN ({})", quoted.join(", "));
    }
    condition
}

/// The slots that a standby streams by, or is told to.
fn own_slots(target: &Examined) -> Vec<&str> {
    let receiver = positions(target).and_then(Positions::standby).and_then(|standby| standby.receiver.running());
    let survey = target.outcome.as_ref().ok().and_then(|probe| probe.survey.as_ref().ok());
    let configured = survey.and_then(|facts| facts.recovery.as_ref()?.slot_name.as_deref());
    receiver.and_then(|receiver| receiver.slot_name.as_deref()).into_iter().chain(configured).collect()
}

/// Of many the first few, and what makes the statements for the rest.
fn drops(slots: &[&SlotState], rest: &str) -> Vec<String> {
    let first = slots.iter().take(MOST_LINES);
    let mut lines: Vec<String> =
        first.map(|slot| format!("SELECT pg_drop_replication_slot('{}');", slot.name.replace('\'', "''"))).collect();
    if slots.len() > MOST_LINES {
        lines.push(format!("-- and {} more, after a look at what it lists:", slots.len() - MOST_LINES));
        lines.push(format!(
            "SELECT format('SELECT pg_drop_replication_slot(%L);', slot_name) FROM pg_replication_slots WHERE {rest};"
        ));
    }
    lines
}

fn names(slots: &[&SlotState]) -> String {
    let mut names = slots.iter().take(MOST_LINES).map(|slot| slot.name.as_str()).collect::<Vec<_>>().join(", ");
    if slots.len() > MOST_LINES {
        let _ = write!(names, " and {} more", slots.len() - MOST_LINES);
    }
    names
}

/// What a standby is told to do.
fn standby(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    if !patient.is_standby() || patient.identity().flavor == Flavor::Aurora {
        return;
    }
    let delay_ms = patient.setting("max_standby_streaming_delay").and_then(|text| text.parse::<i64>().ok());
    if delay_ms == Some(-1) {
        let why = "a query here may hold up replay for as long as it runs, and the lag grows with it; a limit cancels the \
                   query instead";
        let sql = patient.set("max_standby_streaming_delay", "'5min'");
        let problem = "max_standby_streaming_delay is -1: replay waits for queries for ever";
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.itself()));
    }
    let cancelled = patient.probe.checkup.cancelled_queries.filter(|cancelled| *cancelled > 0);
    if patient.setting("hot_standby_feedback") == Some("off")
        && let Some(cancelled) = cancelled
    {
        let problem =
            format!("{cancelled} queries were cancelled here to let replay go on, and hot_standby_feedback is off");
        let why = "with feedback the primary keeps the row versions that queries here still see, at the price of bloat while \
                   they run; or allow replay to wait longer (max_standby_streaming_delay)";
        let sql = patient.set("hot_standby_feedback", "on");
        findings.push(Finding::new(Severity::Info, problem, why).run(sql, patient.itself()));
    }
    if patient.setting("wal_receiver_status_interval") == Some("0") {
        let why = "its upstream hears of its progress only when it must: the positions there are old, synchronous commits and \
                   feedback wait, and its slot keeps more WAL";
        let sql = patient.set("wal_receiver_status_interval", "'10s'");
        let problem = "wal_receiver_status_interval is 0";
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.itself()));
    }
    without_slot(patient, findings);
}

fn without_slot(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let receiver =
        positions(patient.target).and_then(Positions::standby).and_then(|standby| standby.receiver.running());
    if receiver.is_none_or(|receiver| receiver.slot_name.is_some()) {
        return;
    }
    // Of a cascading standby it is another server that keeps the WAL; the primary's setting is then a good guess.
    let Some(primary) = patient.primary.and_then(|primary| primary.outcome.as_ref().ok()) else { return };
    let keep_mb = setting(primary, "wal_keep_size").and_then(|text| text.parse::<u64>().ok());
    if let Some(keep_mb) = keep_mb.filter(|keep_mb| *keep_mb < SMALL_KEEP_MB) {
        let problem =
            format!("it streams without a replication slot, and wal_keep_size is {keep_mb} MB on the primary");
        let why = "after a short outage the WAL that it still needs may be gone, and it must be made anew unless there is an \
                   archive; give it a slot (primary_slot_name), or keep more WAL";
        let name = slot_name(patient.target.target.as_str());
        let sql = match patient.identity().flavor {
            Flavor::PostgreSql => vec![
                format!("SELECT pg_create_physical_replication_slot('{name}');"),
                format!(
                    "-- then on {}: ALTER SYSTEM SET primary_slot_name = '{name}'; SELECT pg_reload_conf();",
                    patient.target.target
                ),
            ],
            Flavor::Rds | Flavor::Aurora => {
                vec!["-- raise wal_keep_size in the primary's DB parameter group".to_owned()]
            }
        };
        findings.push(Finding::new(Severity::Info, problem, why).run(sql, patient.run_on()));
    }
}

/// Slots have lower case letters, digits and underscores.
fn slot_name(target: &str) -> String {
    let lower = target.to_ascii_lowercase();
    lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// What its standbys do to a server.
fn sender_side(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    if patient.probe.checkup.oldest_feedback > Some(OLD_XMIN) {
        let problem = format!(
            "by hot_standby_feedback a standby holds back row versions of more than {} million transactions",
            OLD_XMIN / 1_000_000
        );
        let why = "vacuum cannot remove them and tables grow: end the long query on the standby";
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
    if let Some(positions) = positions(patient.target) {
        same_names(positions, findings);
    }
    let wants_sync = patient.setting("synchronous_standby_names").is_some_and(|names| !names.trim().is_empty());
    let Some(positions) = positions(patient.target).filter(|positions| positions.role() == Role::Primary) else {
        return;
    };
    if wants_sync
        && patient.identity().reads_all_stats
        && !positions.senders.iter().any(|sender| matches!(sender.sync_state.as_deref(), Some("sync" | "quorum")))
    {
        let problem = "synchronous_standby_names asks for standbys, and none is synchronous now";
        let why = "every commit waits until one is (unless synchronous_commit is local or off): bring the standby back, see \
                   that its application_name is among the names, or go on without";
        let sql = patient.set("synchronous_standby_names", "''");
        findings.push(Finding::new(Severity::Error, problem, why).run(sql, patient.itself()));
    }
}

/// Standbys that present themselves by one name, so that what is said of one cannot be told from what is said of another.
fn same_names(positions: &Positions, findings: &mut Vec<Finding>) {
    let mut names: Vec<&str> = positions
        .senders
        .iter()
        .filter(|sender| sender.state != Some(SenderState::Backup))
        .filter_map(|sender| sender.application_name.as_deref())
        .collect();
    names.sort_unstable();
    for same in names.chunk_by(|a, b| a == b).filter(|same| same.len() > 1) {
        let problem = format!("{} standbys stream from it under one name, {:?}", same.len(), same[0]);
        let why = "its own lag and state of each cannot be told apart; the name is application_name in primary_conninfo, or \
                   else cluster_name";
        let sql = vec!["-- on each of them, then restart it: ALTER SYSTEM SET cluster_name = '...';".to_owned()];
        findings.push(Finding::new(Severity::Info, problem, why).run(sql, None));
    }
}

/// All that is found about one connection pooler, the worst first.
pub(super) fn of_pooler(facts: &PoolerFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pool in facts.pools.iter().filter(|pool| pool.longest_wait >= LONG_WAIT) {
        let waiting = match pool.clients_waiting {
            1 => "1 client waits".to_owned(),
            count => format!("{count} clients wait"),
        };
        let (database, user, longest) = (&pool.database, &pool.user, pool.longest_wait);
        let problem = format!("{waiting} in {database}/{user} for a server connection, the first for {longest:.0} s");
        let of = pool.size.map_or_else(String::new, |size| format!(" of {size}"));
        let why = format!(
            "{}{of} server connections are in use: end what holds them (long transactions, sessions idle in one), or raise \
             default_pool_size, as far as max_connections of the server allows",
            pool.servers_active
        );
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
    for database in &facts.databases {
        let name = quote_identifier(&database.name);
        if database.paused {
            let finding = Finding::new(Severity::Warning, format!("database {name} is paused"), "its clients wait");
            findings.push(finding.run(vec![format!("RESUME {name};")], None));
        }
        if database.disabled {
            let why = "no new client is let in";
            let finding = Finding::new(Severity::Warning, format!("database {name} is disabled"), why);
            findings.push(finding.run(vec![format!("ENABLE {name};")], None));
        }
    }
    findings
}

/// Seconds that a client may wait before it is told.
const LONG_WAIT: f64 = 1.0;

/// As SQL wants an identifier of any spelling.
pub(super) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn time_left(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole / DAY {
        0 => counted(u32::try_from(whole / 3600).ok(), "hour"),
        days => counted(u32::try_from(days).ok(), "day"),
    }
}

fn counted(count: Option<u32>, noun: &str) -> String {
    match count {
        Some(1) => format!("1 {noun}"),
        Some(count) => format!("{count} {noun}s"),
        None => format!("many {noun}s"),
    }
}

fn counted_are(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun} is") } else { format!("{count} {noun}s are") }
}

#[cfg(test)]
mod tests;
