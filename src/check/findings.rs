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
use crate::core::observation::{
    Flavor, Identity, PollFailure, Positions, Receiver, ReplayPause, SenderState, StatementsAccess,
};
use crate::core::pooler::PoolerFacts;
use crate::core::remedy::{RemedyId, identifier, literal};
use crate::core::standby_settings::{Capacity, Shortfall, TargetAction};
use crate::core::survey::{Sessions, Slot};
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

/// The limit that is advised for slots, where none keeps half as much already. Gigabytes.
const SLOT_LIMIT_GB: u64 = 50;

/// A slot that nothing has used for this long has no reader that merely restarts.
const LONG_UNUSED: Duration = Duration::from_secs(7 * DAY);

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

    /// What changes a setting of this server, where the remedy's own statements would not.
    fn set_elsewhere(&self, name: &str, value: &str) -> Option<String> {
        let place = match self.identity().flavor {
            Flavor::Rds | Flavor::Aurora => "in the DB parameter group",
            Flavor::PostgreSql if self.probe.checkup.on_command_line.contains(name) => {
                "on the server's command line, which says otherwise, and restart it"
            }
            Flavor::PostgreSql if self.setting("allow_alter_system") == Some("off") => {
                "by what manages the server's configuration (allow_alter_system is off)"
            }
            Flavor::PostgreSql => return None,
        };
        Some(format!("-- set {name} to {value} {place}"))
    }

    /// What changes a setting of this server.
    fn set(&self, remedy: RemedyId, name: &str, value: &str) -> Vec<String> {
        let own = || remedy.remedy().fill(&[("name", name), ("value", value)]);
        self.set_elsewhere(name, value).map_or_else(own, |elsewhere| vec![elsewhere])
    }

    /// The facts of a slot that the survey has.
    fn slot(&self, name: &str) -> Option<&'a Slot> {
        self.probe.survey.as_ref().ok()?.slots.as_ref()?.iter().find(|slot| slot.name == name)
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
    for part in [
        unread,
        grants,
        statements_rights,
        statements,
        role,
        connection,
        certificate,
        settings,
        slots,
        goes_on,
        standby,
        sender_side,
    ] {
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
    let failures = probe.survey.as_ref().into_iter().flat_map(|facts| &facts.failures);
    for (topic, failure) in failures.filter(|(topic, _)| *topic != "statements" || lacking(patient).is_empty()) {
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
    let is_explained = |name: &str| name.starts_with("pg_stat_statements") && !lacking(patient).is_empty();
    for name in patient.probe.refused.iter().filter(|name| !is_explained(name)) {
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
        // With the privileges that there are, that of the extension has another reason.
        let has_no_grant = is_managed || name.starts_with("pg_stat_statements");
        let sql = if has_no_grant { Vec::new() } else { grant(patient, is_function(name), name) };
        findings.push(finding.run(sql, patient.run_on()));
    }
}

fn is_function(name: &str) -> bool {
    name != "pg_settings"
}

/// Grants on what is in a database are given there; those on roles are given anywhere.
fn in_database(patient: Patient<'_>) -> String {
    format!("-- in database {}:", identifier(&patient.target.dbname))
}

fn grant(patient: Patient<'_>, is_function: bool, name: &str) -> Vec<String> {
    let (remedy, what) =
        if is_function { (RemedyId::GrantFunction, "function") } else { (RemedyId::GrantRelation, "relation") };
    let role = identifier(&patient.identity().user);
    let mut sql = vec![in_database(patient)];
    sql.extend(remedy.remedy().fill(&[(what, name), ("role", &role)]));
    sql
}

/// The grants that reading statements lacks.
fn lacking(patient: Patient<'_>) -> Vec<String> {
    let Some(rights) = &patient.probe.checkup.statements_rights else { return Vec::new() };
    let (role, schema) = (identifier(&patient.identity().user), identifier(&rights.schema));
    let mut sql = Vec::new();
    let mut add = |remedy: RemedyId, what, on: &str| {
        sql.extend(remedy.remedy().fill(&[(what, on), ("role", &role)]));
    };
    if !rights.uses_schema {
        add(RemedyId::GrantSchema, "schema", &schema);
    }
    if !rights.reads_rows {
        add(RemedyId::GrantFunction, "function", &format!("{schema}.pg_stat_statements(boolean)"));
    }
    if rights.executes_info == Some(false) {
        add(RemedyId::GrantFunction, "function", &format!("{schema}.pg_stat_statements_info()"));
    }
    if rights.selects_info == Some(false) {
        add(RemedyId::GrantRelation, "relation", &format!("{schema}.pg_stat_statements_info"));
    }
    sql
}

fn statements_rights(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let lacking = lacking(patient);
    // Where the extension is of no use yet, its grants are not either.
    if !patient.wants_statements
        || lacking.is_empty()
        || !matches!(patient.identity().statements, StatementsAccess::Readable { .. })
    {
        return;
    }
    let problem = format!("role {:?} may not read pg_stat_statements", patient.identity().user);
    let mut sql = vec![in_database(patient)];
    sql.extend(lacking);
    findings.push(Finding::new(Severity::Warning, problem, NOT_MEASURED).run(sql, patient.run_on()));
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
    named.filter(|_| sqlstate == "42501").unwrap_or_default()
}

fn grants(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let identity = patient.identity();
    if !identity.reads_all_stats {
        let problem = format!("role {:?} does not have pg_monitor", identity.user);
        let why = format!("not measured: {}", unseen(positions(patient.target)));
        let sql = RemedyId::GrantMonitor.remedy().fill(&[("role", &identifier(&identity.user))]);
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
            if settings.is_some_and(|settings| !settings.contains_key("pg_stat_statements.max")) {
                findings.push(not_loaded(patient));
            }
            let problem =
                format!("extension pg_stat_statements is not created in database {:?}", patient.target.dbname);
            let mut sql = vec![in_database(patient)];
            sql.extend(RemedyId::CreateStatements.remedy().fill(&[]));
            findings.push(Finding::new(Severity::Warning, problem, NOT_MEASURED).run(sql, patient.run_on()));
        }
        StatementsAccess::Readable { .. } if patient.setting("pg_stat_statements.track") == Some("none") => {
            let sql = patient.set(RemedyId::SetTrackStatements, "pg_stat_statements.track", "'top'");
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
        let mut sql = vec![in_database(patient)];
        sql.extend(RemedyId::UpdateStatements.remedy().fill(&[]));
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.run_on()));
    }
}

fn not_loaded(patient: Patient<'_>) -> Finding {
    // The library is a matter of each server's own settings, standby or not.
    let sql = preload(patient);
    let problem = "pg_stat_statements is not in shared_preload_libraries";
    Finding::new(Severity::Warning, problem, NOT_MEASURED).run(sql, patient.itself())
}

/// What adds the library to those that are loaded. The setting replaces the whole list, and the server does not start with a
/// library that it has not, so the statement is printed only where both are known.
fn preload(patient: Patient<'_>) -> Vec<String> {
    const NAME: &str = "shared_preload_libraries";
    const LIBRARY: &str = "pg_stat_statements";
    match patient.identity().flavor {
        Flavor::Rds | Flavor::Aurora => {
            return vec![format!("-- add {LIBRARY} to {NAME} in the DB parameter group, then reboot the instance")];
        }
        Flavor::PostgreSql if patient.probe.checkup.extension.is_none() => {
            return vec![format!(
                "-- install the server's contrib modules, then add {LIBRARY} to {NAME} and restart it"
            )];
        }
        Flavor::PostgreSql => {}
    }
    let Some(loaded) = patient.setting(NAME) else {
        let mut sql = RemedyId::ShowLibraries.remedy().fill(&[]);
        sql.push(format!("-- then add {LIBRARY} to what it shows in {NAME}, and restart it"));
        return sql;
    };
    let loaded = loaded.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    // Each is a string of its own: one string with commas would be the name of one library.
    let libraries: Vec<String> = loaded.chain([LIBRARY]).map(literal).collect();
    patient.set(RemedyId::PreloadStatements, NAME, &libraries.join(", "))
}

/// `1.9` is older than `1.10`. Versions of another form are not compared.
fn is_older(installed: &str, available: &str) -> bool {
    let parts = |text: &str| text.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    matches!((parts(installed), parts(available)), (Some(installed), Some(available)) if installed < available)
}

fn role(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let Some(role) = patient.probe.checkup.role else { return };
    let user = identifier(&patient.identity().user);
    if let Some(until) = role.valid_until {
        let left = until.unix_seconds() - role.clock.unix_seconds();
        let sql = RemedyId::ExtendPassword.remedy().fill(&[("role", &user)]);
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
        let own = if patient.identity().user == "pgvigil" { "pgvigil_monitor" } else { "pgvigil" };
        let sql = RemedyId::CreateMonitoringRole.remedy().fill(&[("role", own)]);
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.run_on()));
    }
    if role.connection_limit.is_some_and(|limit| limit < 2) {
        let problem = format!("role {user} may have {} at a time", counted(role.connection_limit, "session"));
        let why = "after a cut connection the server may keep the old session for a while, and lets no new one in";
        let sql = RemedyId::AllowConnections.remedy().fill(&[("role", &user)]);
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
        let sql = RemedyId::LimitRole.remedy().fill(&[("role", &identifier(&identity.user))]);
        let problem = "the pooler is RDS Proxy, to which no settings are sent";
        let why = "it would keep a database connection for us alone after a setting was changed; let the role have the limits instead";
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
        let why = "when they are all in use no client is let in any more, pgvigil included; have a pooler share them, or raise \
                   max_connections, on its standbys first (it takes a restart)";
        findings.push(Finding::new(Severity::Warning, problem, why));
    }
}

fn certificate(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let Some(certificate) = patient.probe.checkup.certificate else { return };
    let why =
        "from then on every client that verifies it is refused; replace ssl_cert_file, then have the server read it";
    let reload = || RemedyId::ReloadConfiguration.remedy().fill_only("then", &[]);
    match certificate.expires_at.duration_since(patient.wall) {
        Err(_) => {
            let finding = Finding::new(Severity::Error, "the server's certificate has expired", why);
            findings.push(finding.run(reload(), patient.itself()));
        }
        Ok(left) if left < CERTIFICATE_SOON => {
            let problem = format!("the server's certificate expires in {}", time_left(left.as_secs_f64()));
            findings.push(Finding::new(Severity::Warning, problem, why).run(reload(), patient.itself()));
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
        let sql = patient.set(RemedyId::SetTrackActivities, "track_activities", "on");
        findings.push(Finding::new(Severity::Warning, "track_activities is off", why).run(sql, patient.itself()));
    }
    if is_off("track_counts") {
        let why = "autovacuum does not see what changes, so it does not clean up";
        let sql = patient.set(RemedyId::SetTrackCounts, "track_counts", "on");
        findings.push(Finding::new(Severity::Warning, "track_counts is off", why).run(sql, patient.itself()));
    }
    if is_off("track_io_timing") {
        let why = "how long reading and writing takes is not recorded; it costs little where the clock is quick \
                   (pg_test_timing tells)";
        let sql = patient.set(RemedyId::SetTrackIoTiming, "track_io_timing", "on");
        findings.push(Finding::new(Severity::Info, "track_io_timing is off", why).run(sql, patient.itself()));
    }
    let has_logical = || patient.probe.checkup.slots.iter().flatten().any(|slot| slot.is_logical);
    match patient.setting("wal_level") {
        Some("minimal") => {
            let why = "no standby and no backup can follow it; the change takes a restart";
            let sql = patient.set(RemedyId::SetWalLevel, "wal_level", "'replica'");
            findings.push(Finding::new(Severity::Warning, "wal_level is minimal", why).run(sql, patient.itself()));
        }
        // From 19 on the server writes what logical slots need as soon as there is one (`effective_wal_level`).
        Some("replica") if has_logical() && patient.identity().version_num < 190_000 => {
            let why = "there are logical replication slots, which need more than that; the change takes a restart";
            let sql = match patient.identity().flavor {
                Flavor::PostgreSql => patient.set(RemedyId::SetWalLevel, "wal_level", "'logical'"),
                Flavor::Rds | Flavor::Aurora => RemedyId::SetLogicalReplicationOnRds.remedy().fill(&[]),
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
        findings.push(Finding::new(Severity::Error, problem, why).run(drop_lost(patient, &lost), patient.itself()));
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
        let sql = limit_slots(patient);
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

/// A limit that no slot is beyond now, for such a slot would be lost at the next checkpoint.
fn limit_slots(patient: Patient<'_>) -> Vec<String> {
    let slots = patient.probe.survey.as_ref().ok().and_then(|facts| facts.slots.as_ref());
    let kept = slots.into_iter().flatten().filter_map(|slot| slot.retained_bytes).max().unwrap_or(0);
    let gigabytes = (kept.saturating_mul(2) >> 30).max(SLOT_LIMIT_GB);
    let sql = patient.set(RemedyId::SetSlotLimit, "max_slot_wal_keep_size", &format!("'{gigabytes}GB'"));
    if slots.is_some() {
        return sql;
    }
    let is_note = |line: &String| line.starts_with("--");
    sql.into_iter()
        .map(|line| if is_note(&line) { line } else { format!("-- if no needed slot keeps more: {line}") })
        .collect()
}

/// A lost slot of a standby is made anew, for it streams by that name; any other is dropped.
fn drop_lost(patient: Patient<'_>, lost: &[&SlotState]) -> Vec<String> {
    let may_be_dropped =
        |slot: &&&SlotState| !slot.active && patient.slot(&slot.name).is_none_or(|slot| !slot.temporary);
    let own: Vec<&str> = patient.targets.iter().flat_map(own_slots).collect();
    let (of_standbys, others): (Vec<&SlotState>, Vec<&SlotState>) = lost
        .iter()
        .filter(may_be_dropped)
        .copied()
        .partition(|slot| !slot.is_logical && own.contains(&slot.name.as_str()));
    let anew = of_standbys
        .iter()
        .take(MOST_LINES)
        .flat_map(|slot| RemedyId::MakeSlotAnew.remedy().fill(&[("name", &literal(&slot.name))]));
    anew.chain(drops(&others, &format!("{} AND NOT active", lost_and_own(patient)), |_| None)).collect()
}

/// Slots without a reader. Only those that can have none are to be dropped: a standby that is down needs its slot.
fn unused(patient: Patient<'_>, inactive: &[&SlotState]) -> Finding {
    let mut why = "each keeps all WAL since its reader left, and row versions with it".to_owned();
    let mut may_be_dropped = inactive.to_vec();
    for (slot, subscription, target) in disabled_readers(patient) {
        may_be_dropped.retain(|other| other.name != slot);
        if inactive.iter().any(|other| other.name == slot) {
            let _ = write!(why, "; {slot} is the slot of subscription {subscription} on {target}");
        }
    }
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
    let condition = |slot: &SlotState| (!is_long_unused(patient, slot)).then_some("if its reader never comes back");
    finding.run(drops(&may_be_dropped, &used_by_nobody_else(patient), condition), patient.itself())
}

/// By the server's own word (17 on). One that is unused for less may have a reader that only restarts.
fn is_long_unused(patient: Patient<'_>, slot: &SlotState) -> bool {
    let since = patient.slot(&slot.name).and_then(|slot| slot.inactive_since);
    let clock = positions(patient.target).map(|positions| positions.clock);
    since.zip(clock).is_some_and(|(since, clock)| clock.seconds_since(since) > LONG_UNUSED.as_secs_f64())
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
    own.extend(disabled_readers(patient).map(|(slot, ..)| slot));
    own.sort_unstable();
    own.dedup();
    if !own.is_empty() {
        let quoted: Vec<String> = own.iter().map(|name| literal(name)).collect();
        let _ = write!(condition, " AND slot_name NOT IN ({})", quoted.join(", "));
    }
    condition
}

/// Slots that a subscription on one of the targets names: of each its slot, its own name, and the target's.
fn disabled_readers(patient: Patient<'_>) -> impl Iterator<Item = (&str, &str, &Name)> {
    patient.targets.iter().flat_map(|target| {
        let survey = target.outcome.as_ref().ok().and_then(|probe| probe.survey.as_ref().ok());
        let subscriptions = survey.and_then(|facts| facts.subscriptions.as_ref()).into_iter().flatten();
        subscriptions.filter_map(|it| Some((it.slot_name.as_deref()?, &*it.name, &target.target)))
    })
}

/// The slots that a standby streams by, or is told to.
fn own_slots(target: &Examined) -> Vec<&str> {
    let receiver = positions(target).and_then(Positions::standby).and_then(|standby| standby.receiver.running());
    let survey = target.outcome.as_ref().ok().and_then(|probe| probe.survey.as_ref().ok());
    let configured = survey.and_then(|facts| facts.recovery.as_ref()?.slot_name.as_deref());
    receiver.and_then(|receiver| receiver.slot_name.as_deref()).into_iter().chain(configured).collect()
}

/// Of many the first few, and what makes the statements for the rest.
fn drops<'a>(slots: &[&SlotState], rest: &str, condition: impl Fn(&SlotState) -> Option<&'a str>) -> Vec<String> {
    let drop = RemedyId::DropSlot.remedy();
    let lines = slots.iter().take(MOST_LINES).flat_map(|slot| {
        let name = literal(&slot.name);
        let values = [("name", name.as_str())];
        condition(slot).map_or_else(|| drop.fill(&values), |condition| drop.fill_only(condition, &values))
    });
    let mut lines: Vec<String> = lines.collect();
    if slots.len() > MOST_LINES {
        lines.push(format!("-- and {} more, after a look at what it lists:", slots.len() - MOST_LINES));
        lines.extend(RemedyId::ListUnusedSlots.remedy().fill(&[("condition", rest)]));
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

/// Whether a standby can go on replaying.
fn goes_on(patient: Patient<'_>, findings: &mut Vec<Finding>) {
    let pause = positions(patient.target).and_then(Positions::standby).map(|standby| standby.pause);
    let Some(pause) = pause.filter(|_| patient.is_standby()) else { return };
    let own = &patient.identity().standby_settings;
    let primary = patient.primary.and_then(|primary| primary.outcome.as_ref().ok());
    let primary = primary.map(|primary| primary.identity.standby_settings.capacity);
    let shortfalls = primary.map_or_else(Vec::new, |primary| own.capacity.shortfalls(primary));
    let is_paused = pause != ReplayPause::NotPaused;
    let paused = if is_paused { "replay is paused, and " } else { "" };
    let mut add = |problem, why: &str, sql| {
        findings.push(Finding::new(Severity::Warning, problem, why).run(sql, patient.itself()));
    };
    if !shortfalls.is_empty() {
        let why = if patient.identity().version_num < 140_000 {
            "it shuts down as soon as it replays the primary's restart with the higher value, and does not start again until \
             its own is as high"
        } else {
            "it pauses replay by itself as soon as it replays the primary's restart with the higher value; if replay is then \
             resumed it shuts down, and it does not start again until its own is as high"
        };
        add(format!("{paused}{}", Shortfall::list(&shortfalls)), why, raise(patient, &shortfalls));
    }
    if let Some(target) = &own.recovery_target {
        let why = match target.action {
            TargetAction::Pause => {
                "at that point it pauses replay, and promotes itself when replay is resumed: a standby that is to go on has none"
            }
            TargetAction::Promote => "at that point it promotes itself: a standby that is to go on has none",
            TargetAction::ShutDown => "at that point it shuts down: a standby that is to go on has none",
        };
        let value: String = target.value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let sql = match patient.set_elsewhere(target.setting, "nothing") {
            Some(elsewhere) => vec![elsewhere],
            None => RemedyId::ClearRecoveryTarget.remedy().fill(&[("name", target.setting)]),
        };
        add(format!("{paused}{} is '{value}'", target.setting), why, sql);
    }
    if !is_paused || !shortfalls.is_empty() || own.recovery_target.is_some() {
        return;
    }
    if own.capacity.is_known() && primary.is_some_and(Capacity::is_known) {
        let why = "reads there see the past until replay is resumed";
        let when = "when the pause is not needed any more";
        let sql = RemedyId::ResumeReplay.remedy().fill_only(when, &[]);
        add("replay is paused".to_owned(), why, sql);
    } else {
        let why = "the settings of its primary are not known: if one is lower here, the server shuts down when replay is \
                   resumed; its log says why it paused";
        add("replay is paused, and by what is not known".to_owned(), why, Vec::new());
    }
}

/// All of them, then one restart.
fn raise(patient: Patient<'_>, shortfalls: &[Shortfall]) -> Vec<String> {
    let mut sql: Vec<String> = Vec::new();
    for Shortfall { setting, primary, .. } in shortfalls {
        let lines = patient.set(RemedyId::RaiseStandbySetting, setting, &primary.to_string());
        // What does not differ comes once, at the end.
        sql.retain(|line| !lines.contains(line));
        sql.extend(lines);
    }
    sql
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
        let sql = patient.set(RemedyId::SetStandbyDelay, "max_standby_streaming_delay", "'5min'");
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
        let sql = patient.set(RemedyId::SetStandbyFeedback, "hot_standby_feedback", "on");
        findings.push(Finding::new(Severity::Info, problem, why).run(sql, patient.itself()));
    }
    if patient.setting("wal_receiver_status_interval") == Some("0") {
        let why = "its upstream hears of its progress only when it must: the positions there are old, synchronous commits and \
                   feedback wait, and its slot keeps more WAL";
        let sql = patient.set(RemedyId::SetStatusInterval, "wal_receiver_status_interval", "'10s'");
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
        let sql = give_slot(patient, primary);
        findings.push(Finding::new(Severity::Info, problem, why).run(sql, patient.run_on()));
    }
}

/// A slot on the primary, and its name on the standby. A cascading standby would stop streaming, for its upstream has no such
/// slot, so nothing is printed where another standby might be its upstream.
fn give_slot(patient: Patient<'_>, primary: &Probe) -> Vec<String> {
    if patient.identity().flavor != Flavor::PostgreSql {
        return vec!["-- raise wal_keep_size in the primary's DB parameter group".to_owned()];
    }
    let serves = |target: &Examined| {
        positions(target).is_none_or(|positions| positions.role() == Role::Replica && !positions.senders.is_empty())
    };
    let taken =
        |name: &str| primary.checkup.slots.as_ref().is_none_or(|slots| slots.iter().any(|slot| slot.name == name));
    let name = slot_name(patient.target.target.as_str());
    if patient.targets.iter().any(serves) || taken(&name) {
        return Vec::new();
    }
    let values = [("name", literal(&name))];
    let values = values.each_ref().map(|(place, value)| (*place, value.as_str()));
    let mut sql = RemedyId::CreateSlot.remedy().fill(&values);
    sql.push(format!("-- then on {}:", patient.target.target));
    sql.extend(RemedyId::UseSlot.remedy().fill(&values).into_iter().map(|line| format!("-- {line}")));
    sql
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
        let when = "only if writing matters more than a second copy";
        let sql = patient.set(RemedyId::SetSyncStandbys, "synchronous_standby_names", "''");
        let sql = sql.into_iter().map(|line| if line.starts_with("--") { line } else { format!("-- {when}: {line}") });
        let sql = sql.collect();
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
        let sql =
            RemedyId::NameStandby.remedy().fill_only("on each of them, with a name of its own", &[("name", "'...'")]);
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
        let name = identifier(&database.name);
        let values = [("database", name.as_str())];
        if database.paused {
            let finding = Finding::new(Severity::Warning, format!("database {name} is paused"), "its clients wait");
            let when = "when the work that it was paused for is done";
            findings.push(finding.run(RemedyId::ResumeDatabase.remedy().fill_only(when, &values), None));
        }
        if database.disabled {
            let why = "no new client is let in";
            let finding = Finding::new(Severity::Warning, format!("database {name} is disabled"), why);
            let when = "when it is to be used again";
            findings.push(finding.run(RemedyId::EnableDatabase.remedy().fill_only(when, &values), None));
        }
    }
    findings
}

/// Seconds that a client may wait before it is told.
const LONG_WAIT: f64 = 1.0;

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
