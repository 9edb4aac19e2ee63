//! An alert in words: what it says of its subject, what is wrong there, and what helps to judge it. The same in every
//! message, on every page and in the API.
//!
//! It tells users, applications and pids, for people must know whom to talk to. It never tells what a session executes;
//! addresses of clients are kept apart ([`Explanation::sensitive`]), and told only where somebody asked for them.

use super::alert::{AlertId, AlertView, Gone, Phase};
use super::discovery::{Happening, RECENT, RdsEvent};
use super::lag::Certainty;
use super::ledger::Finding;
use super::pooler::Pool;
use super::quantity::{self, duration};
use super::remedy::RemedyId;
use super::signal::{Says, Signal, used_ratio};
use super::snapshot::{ClusterView, PoolerView, TargetView};
use super::survey::{Holder, Sessions, Tally};
use super::time::MonoTime;
use super::topology::failover::Outage;
use super::topology::{Name, Role};

/// Labels that tell how a subject is, and not which one it is.
const DESCRIBING: [&str; 9] =
    ["reason", "cause", "status", "state", "type", "direction", "phase", "certainty", "method"];

/// What there is to say of one alert.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// A sentence about its subject: `orders/orders-replica-1 is 1m 15s behind its primary`.
    pub state: String,
    /// The target's role by its own last word.
    pub role: Option<Role>,
    /// What is wrong with the replica that it is about. `None` when nothing is, and for anything else.
    pub diagnosis: Option<Finding>,
    /// What helps to judge the reading, in order of use: `("certainty", "at_least")`, `("pid", "4711")`.
    pub details: Vec<(String, String)>,
    /// The same of what not everybody may read: addresses of clients.
    pub sensitive: Vec<(String, String)>,
}

/// Explains `alert` by what is known of its cluster. `None`: nothing is, for the cluster is not watched any more.
pub fn explain(alert: &AlertView, cluster: Option<&ClusterView>, now: MonoTime) -> Explanation {
    let name = alert.id.target.as_ref().map(Name::as_str);
    let target = cluster.and_then(|cluster| cluster.target(name?)).map(|target| &**target);
    let pooler = cluster.and_then(|cluster| cluster.pooler(name?)).map(|pooler| &**pooler);
    let mut details = Details::default();
    // Of what has gone the present has nothing to say.
    if alert.gone.is_none() {
        match (target, pooler, cluster) {
            (Some(target), ..) => target_details(alert, target, now, &mut details),
            (None, Some(pooler), _) => pooler_details(alert, pooler, now, &mut details),
            (None, None, Some(cluster)) if name.is_none() => cluster_details(alert, cluster, now, &mut details),
            _ => {}
        }
        if let Some(cluster) = cluster {
            rds_details(alert, cluster, now, &mut details);
        }
    }
    if let Some(signal) = signal_of(alert) {
        details.add("meaning", signal.help.to_owned());
    }
    Explanation {
        state: state(alert, target, now),
        role: target.and_then(TargetView::last_role),
        diagnosis: target.filter(|_| alert.gone.is_none()).and_then(|target| finding(alert, target)),
        details: details.open,
        sensitive: details.sensitive,
    }
}

/// The sentence of an explanation alone.
pub fn state_of(alert: &AlertView, cluster: &ClusterView, now: MonoTime) -> String {
    let target = alert.id.target.as_ref().and_then(|name| cluster.target(name.as_str()));
    state(alert, target.map(|target| &**target), now)
}

/// Whom an alert is about: `orders/orders-primary`, `slot debezium of orders/orders-primary`.
pub fn subject(id: &AlertId) -> String {
    let target = id.target.as_ref().map_or_else(String::new, |target| format!("/{target}"));
    let parts: Vec<String> = id
        .labels
        .iter()
        .filter(|(name, value)| !DESCRIBING.contains(&name.as_str()) && !value.is_empty())
        .map(|(name, value)| format!("{} {value}", if name == "datname" { "database" } else { name }))
        .collect();
    match parts.as_slice() {
        [] => format!("{}{target}", id.cluster),
        parts => format!("{} of {}{target}", parts.join(", "), id.cluster),
    }
}

/// Whether it is about a part of its place, such as a slot.
pub fn names_a_part(id: &AlertId) -> bool {
    id.labels.iter().any(|(name, value)| !DESCRIBING.contains(&name.as_str()) && !value.is_empty())
}

/// Whether the part that an alert was about is known to exist, though its signal states nothing of it any more.
fn is_still_there(alert: &AlertView, target: Option<&TargetView>, now: MonoTime) -> bool {
    let Some(survey) = target.and_then(|target| target.fresh_survey(now)) else { return false };
    let (slots, subscriptions) = (survey.slots.iter().flatten(), survey.subscriptions.iter().flatten());
    match (label(alert, "slot"), label(alert, "subscription")) {
        (Some(name), _) => slots.into_iter().any(|slot| slot.name == *name),
        (None, Some(name)) => subscriptions.into_iter().any(|subscription| *subscription.name == **name),
        (None, None) => false,
    }
}

/// The signal that the alert's condition is about.
pub fn signal_of(alert: &AlertView) -> Option<&'static Signal> {
    Signal::named(alert.condition.split(' ').next()?)
}

fn state(alert: &AlertView, target: Option<&TargetView>, now: MonoTime) -> String {
    let subject = subject(&alert.id);
    match alert.gone {
        Some(Gone::Subject) if !names_a_part(&alert.id) || is_still_there(alert, target, now) => {
            return format!("{} does not apply to {subject} any more", alert.id.rule);
        }
        Some(Gone::Subject) => return format!("{subject} is gone"),
        Some(Gone::Unwatched) => return format!("{subject} is no longer watched by {}", alert.id.rule),
        None => {}
    }
    let signal = signal_of(alert);
    let none = signal.and_then(|signal| signal.none).filter(|_| !alert.is_unknown);
    let mut predicate = match (alert.reading, none) {
        (Some(reading), _) => predicate(alert, signal, reading, target, now),
        (None, Some(none)) => none.to_owned(),
        (None, None) => {
            let signal = alert.condition.split(' ').next().unwrap_or_default();
            return format!("{subject}: {signal} is not known");
        }
    };
    for (name, value) in alert.id.labels.iter().filter(|(name, _)| DESCRIBING.contains(&name.as_str())) {
        let is_said = alert.reading.is_some()
            && signal.is_some_and(
                |signal| matches!(signal.says, Says::Words(words) if words.contains(&format!("{{{name}}}"))),
            );
        if !is_said && !value.is_empty() {
            predicate.push_str(&format!(" ({value})"));
        }
    }
    if alert.is_unknown {
        return format!("{subject} {predicate}, by the last that is known: it cannot be read now");
    }
    format!("{subject} {predicate}")
}

fn predicate(
    alert: &AlertView,
    signal: Option<&Signal>,
    reading: f64,
    target: Option<&TargetView>,
    now: MonoTime,
) -> String {
    match signal {
        Some(signal) => exact_predicate(signal, alert, reading, target, now)
            .unwrap_or_else(|| signal.predicate(reading, &alert.id.labels)),
        // The daemon's own.
        None if alert.condition.starts_with("silent_targets_ratio ") && reading == 0.0 => {
            "hears all that it watches".to_owned()
        }
        None if alert.condition.starts_with("silent_targets_ratio ") => {
            format!("hears nothing of {} of what it watches", quantity::reading(alert.unit, reading))
        }
        None => format!("reads {}", quantity::reading(alert.unit, reading)),
    }
}

/// Where more is known than the number.
fn exact_predicate(
    signal: &Signal,
    alert: &AlertView,
    reading: f64,
    target: Option<&TargetView>,
    now: MonoTime,
) -> Option<String> {
    let target = target?;
    if signal.name == "rds_failover" {
        let outage = target.outage?;
        let is_multi_az = target.instance.as_ref().is_some_and(|instance| instance.facts.multi_az == Some(true));
        let what = if is_multi_az { "a Multi-AZ failover" } else { "a failover" };
        let away = duration(outage.away(now).as_secs_f64().round());
        return Some(match outage.back_at {
            Some(_) => format!("was away for {away} in {what}"),
            None => format!("has been away for {away} in {what}"),
        });
    }
    if alert.phase == Phase::Resolved {
        return None;
    }
    match signal.name {
        "connections_used_ratio" => {
            let sessions = sessions(target, now)?;
            let may = sessions.max_connections.saturating_sub(sessions.reserved_connections);
            let percent = quantity::reading(alert.unit, used_ratio(sessions)?);
            Some(format!("uses {} of {may} connections ({percent})", sessions.total))
        }
        "replay_lag_seconds" => {
            let behind = duration(reading);
            let lag = target.lag?;
            match lag.certainty {
                Certainty::AtLeast => Some(format!("is at least {behind} behind its primary")),
                Certainty::AtMost if lag.upper.is_finite() => {
                    Some(format!("is at most {} behind its primary", duration(lag.upper)))
                }
                Certainty::AtMost => Some(format!("is likely {behind} behind its primary")),
                Certainty::Exact | Certainty::Unknown => None,
            }
        }
        _ => None,
    }
}

/// Every alert about a replica tells what is wrong with it.
fn finding(alert: &AlertView, target: &TargetView) -> Option<Finding> {
    let diagnosis = target.diagnosis.as_ref()?;
    let causes = diagnosis.causes.iter().map(|told| told.cause).collect();
    let sentence = target.diagnosis_sentence()?;
    // The reading is the one that resolved it, and that may be a while ago.
    let sentence = if alert.phase == Phase::Resolved { format!("Now {sentence}") } else { sentence };
    Some(Finding { causes, sentence })
}

#[derive(Default)]
struct Details {
    open: Vec<(String, String)>,
    sensitive: Vec<(String, String)>,
}

impl Details {
    fn add(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.open.push((name.to_owned(), value));
        }
    }

    fn add_sensitive(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.sensitive.push((name.to_owned(), value));
        }
    }
}

fn target_details(alert: &AlertView, target: &TargetView, now: MonoTime, details: &mut Details) {
    let signal = signal_of(alert).map_or("", |signal| signal.name);
    if let Some(failing) = &target.failing {
        details.add("error", failing.failure.to_string());
        details.add("failing_for", duration(now.seconds_since(failing.since)));
    }
    if signal.starts_with("replay_lag_") && signal.ends_with("_seconds") {
        lag_details(target, details);
    }
    if signal.starts_with("slot_") {
        slot_details(alert, target, now, details);
    }
    if signal.starts_with("subscription_") {
        subscription_details(alert, target, now, details);
    }
    session_details(signal, target, now, details);
    match signal {
        "standby_missing" | "wrong_upstream" | "timelines_behind" | "receiver_running" => {
            let upstream = target.links.upstream.as_ref().map(ToString::to_string);
            details.add("follows", upstream.unwrap_or_default());
        }
        "undeclared_standbys" => {
            let who = target.links.undeclared.as_ref().map_or(&[][..], |undeclared| &undeclared.who);
            let names: Vec<&str> = who.iter().map(|who| who.split(" at ").next().unwrap_or(who)).collect();
            details.add("standbys", names.join(", "));
            details.add_sensitive("standbys_with_addresses", who.join(", "));
        }
        "rds_failover" => {
            if let Some(Outage { timelines, is_other_process, .. }) = target.outage {
                if is_other_process {
                    details.add("restarted", "another process answers since".to_owned());
                }
                details.add(
                    "timelines",
                    timelines.map(|(was, is)| format!("{}, then {}", was.0, is.0)).unwrap_or_default(),
                );
            }
        }
        "role_change_age_seconds" => {
            details.add("timeline", target.timeline().map(|timeline| timeline.0.to_string()).unwrap_or_default());
        }
        _ => {}
    }
    if let Some(answer) = &target.answer {
        details.add("server", answer.positions.identity.version.clone());
    }
}

fn lag_details(target: &TargetView, details: &mut Details) {
    let Some(lag) = target.lag else { return };
    details.add("certainty", lag.certainty.as_str().to_owned());
    details.add("method", lag.method.to_string());
    details.add("at_least", duration(lag.lower));
    details.add("at_most", quantity::reading(super::signal::Unit::Seconds, lag.upper));
    let delay = target.survey.as_ref().and_then(|survey| survey.facts.apply_delay_seconds);
    if let Some(delay) = delay.filter(|delay| *delay > 0.0) {
        details.add("apply_delay", duration(delay));
    }
}

fn slot_details(alert: &AlertView, target: &TargetView, now: MonoTime, details: &mut Details) {
    let Some(name) = label(alert, "slot") else { return };
    let slots = target.fresh_survey(now).and_then(|survey| survey.slots.as_ref());
    let Some(slot) = slots.and_then(|slots| slots.iter().find(|slot| slot.name == *name)) else { return };
    details.add("slot_type", slot.slot_type.to_owned());
    details.add("database", slot.datname.clone().unwrap_or_default());
    details.add("plugin", slot.plugin.clone().unwrap_or_default());
    let reader = match slot.active_pid {
        Some(pid) => format!("pid {pid}"),
        None if slot.active => String::new(),
        None => "nobody".to_owned(),
    };
    details.add("read_by", reader);
    details.add("wal_status", slot.wal_status.unwrap_or_default().to_owned());
    details.add("retained", slot.retained_bytes.map(|bytes| quantity::bytes(bytes as f64)).unwrap_or_default());
    details.add("still_safe", slot.safe_wal_size.map(|bytes| quantity::bytes(bytes as f64)).unwrap_or_default());
}

fn subscription_details(alert: &AlertView, target: &TargetView, now: MonoTime, details: &mut Details) {
    let (Some(name), Some(datname)) = (label(alert, "subscription"), label(alert, "datname")) else { return };
    let known = target.fresh_survey(now).and_then(|survey| survey.subscriptions.as_ref());
    let is_it =
        |subscription: &&super::survey::Subscription| *subscription.name == *name && *subscription.datname == *datname;
    let Some(subscription) = known.and_then(|known| known.iter().find(is_it)) else { return };
    let errors: Vec<String> = subscription
        .errors
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let why = match (subscription.enabled, errors.is_empty()) {
        (false, _) => "it is disabled".to_owned(),
        (true, false) => format!(
            "its worker ends with errors ({} since the counters were reset): the log of {} says which",
            errors.join(", "),
            target.id.target
        ),
        (true, true) if subscription.slot_name.is_none() => "it has no slot on the publisher".to_owned(),
        (true, true) => format!(
            "no error is counted: it may not reach its publisher, or lack a free worker \
             (max_logical_replication_workers); the log of {} says which",
            target.id.target
        ),
    };
    if alert.phase != Phase::Resolved && alert.condition.starts_with("subscription_running") {
        details.add("reason", why);
    }
    details.add("slot", subscription.slot_name.as_deref().unwrap_or_default().to_owned());
}

fn sessions(target: &TargetView, now: MonoTime) -> Option<&Sessions> {
    target.fresh_survey(now)?.sessions.as_ref()
}

/// Whom to talk to about connections, locks and transactions: never what they execute.
fn session_details(signal: &str, target: &TargetView, now: MonoTime, details: &mut Details) {
    let Some(sessions) = sessions(target, now) else { return };
    let activity = sessions.activity.as_deref();
    match signal {
        "transaction_oldest_seconds" => {
            holder_details("held_by", activity.and_then(|activity| activity.oldest_transaction.as_ref()), details);
        }
        "idle_in_transaction_oldest_seconds" | "connections_idle_in_transaction" => {
            holder_details("held_by", activity.and_then(|activity| activity.idle_transaction.as_ref()), details);
        }
        "lock_wait_longest_seconds" | "connections_waiting_on_locks" => {
            if let Some(activity) = activity {
                details.add("sessions_waiting", activity.waiting_on_locks.to_string());
                holder_details("lock_held_by", activity.lock_holder.as_ref(), details);
            }
        }
        name if name.starts_with("connections_") => {
            let most = |tally: &Tally| {
                let counts = tally.named.iter().take(3).map(|(name, count)| format!("{name} ({count})"));
                counts.collect::<Vec<_>>().join(", ")
            };
            let may = sessions.max_connections.saturating_sub(sessions.reserved_connections);
            details.add("connections", format!("{} of {may}", sessions.total));
            details.add("users", most(&sessions.by_user));
            details.add("applications", most(&sessions.by_application));
            details.add_sensitive("clients", most(&sessions.by_client));
        }
        _ => {}
    }
}

/// `user report, application nightly, database app, pid 4711, idle in transaction, open for 12m 3s`.
fn holder_details(name: &str, holder: Option<&Holder>, details: &mut Details) {
    let Some(holder) = holder else { return };
    let named = |kind: &str, value: &str| (!value.is_empty()).then(|| format!("{kind} {value}"));
    let parts = [
        named("user", &holder.user),
        named("application", &holder.application),
        named("database", holder.database.as_deref().unwrap_or_default()),
        holder.pid.map(|pid| format!("pid {pid}")),
        Some(format!("{} for {}", holder.state, duration(holder.seconds))),
    ];
    details.add(name, parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
    if let Some(pid) = holder.pid {
        details.add("to_end_it", RemedyId::EndSession.remedy().statement(&[("pid", &pid.to_string())]));
    }
}

/// What RDS reported shortly before the alert began, or since: the latest first. Of another server only what moves roles.
fn rds_details(alert: &AlertView, cluster: &ClusterView, now: MonoTime, details: &mut Details) {
    const NAMED: usize = 3;
    let explains = |event: &&RdsEvent| {
        let is_own = alert.id.target.as_ref().is_none_or(|target| *target == event.happening.source);
        let moves_roles = event.happening.categories.iter().any(|category| category.contains("failover"));
        (is_own || moves_roles) && alert.active_at.duration_since(event.at) < RECENT
    };
    let words = |event: &RdsEvent| {
        let ago = duration(now.duration_since(event.at).as_secs_f64().round());
        let Happening { source, categories, message, .. } = &event.happening;
        format!("{source}, {ago} ago ({}): {message}", categories.join(", "))
    };
    let events: Vec<String> = cluster.rds_events.iter().rev().filter(explains).take(NAMED).map(words).collect();
    details.add("rds_events", events.join("; "));
}

fn cluster_details(alert: &AlertView, cluster: &ClusterView, now: MonoTime, details: &mut Details) {
    if !alert.condition.starts_with("primaries ") {
        return;
    }
    let primaries = cluster.targets.iter().filter(|target| {
        let says_so = target.is_up() && target.last_role() == Some(Role::Primary) && target.fresh(now).is_some();
        says_so && cluster.is_foreign(target) != Some(true) && target.links.same_as.is_none()
    });
    let names = primaries.map(|target| match target.timeline() {
        Some(timeline) => format!("{} (timeline {})", target.id.target, timeline.0),
        None => target.id.target.to_string(),
    });
    details.add("primaries", names.collect::<Vec<_>>().join(", "));
}

fn pooler_details(alert: &AlertView, pooler: &PoolerView, now: MonoTime, details: &mut Details) {
    if let Some(failing) = &pooler.failing {
        details.add("error", failing.failure.to_string());
        details.add("failing_for", duration(now.seconds_since(failing.since)));
    }
    let Some(answer) = pooler.fresh(now) else { return };
    let is_it = |pool: &&Pool| {
        label(alert, "database") == Some(&pool.database) && label(alert, "user").is_none_or(|user| *user == pool.user)
    };
    if let Some(pool) = answer.facts.pools.iter().find(is_it) {
        let size = pool.size.map_or_else(String::new, |size| format!(" of {size}"));
        details.add("server_connections", format!("{}{size} in use", pool.servers_active));
        details.add("clients_waiting", pool.clients_waiting.to_string());
    } else {
        details.add("clients_waiting", answer.facts.waiting().0.to_string());
    }
    details.add("pooler", answer.facts.version.clone().unwrap_or_default());
}

fn label<'a>(alert: &'a AlertView, name: &str) -> Option<&'a String> {
    alert.id.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::alert::Severity;
    use crate::core::cause::{Cause, Diagnosis, Told};
    use crate::core::fixture::{self, NOW};
    use crate::core::topology::links::{Links, Undeclared, Upstream};

    fn alert(condition: &str, target: &str, labels: &[(&str, &str)]) -> AlertView {
        let mut alert = fixture::alert("R", Severity::Warning, Phase::Firing, labels);
        alert.id.target = Some(Name::new(target));
        alert.condition = condition.to_owned();
        alert.unit = signal_of(&alert).expect("a signal").unit;
        alert
    }

    fn told(alert: &AlertView, target: TargetView) -> Explanation {
        let mut told = explain(alert, Some(&fixture::cluster("orders", vec![target], Vec::new())), NOW);
        told.details.retain(|(name, _)| name != "meaning" && name != "server");
        told
    }

    fn pairs(details: &[(String, String)]) -> Vec<(&str, &str)> {
        details.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn a_reading_is_a_sentence_about_its_subject() {
        for (condition, labels, reading, expect) in [
            ("target_up == 0", &[][..], 0.0, "orders/r does not answer"),
            ("target_up == 0", &[], 1.0, "orders/r answers"),
            (
                "slot_invalidated == 1",
                &[("slot", "s"), ("reason", "wal_removed")],
                1.0,
                "slot s of orders/r can be used no more (wal_removed)",
            ),
            ("target_failure == 1", &[("reason", "timeout")], 1.0, "orders/r fails to answer (timeout)"),
            (
                "slot_inactive_retained_bytes > 1GiB",
                &[("slot", "s")],
                5e9,
                "slot s of orders/r keeps 4.7 GiB of WAL, and nothing reads it",
            ),
            (
                "subscription_running == 0",
                &[("datname", "app"), ("subscription", "s")],
                0.0,
                "database app, subscription s of orders/r does not run: nothing is applied",
            ),
            (
                "timelines_behind > 0",
                &[],
                1.0,
                "orders/r is 1 timeline behind its primary: it has not followed a promotion",
            ),
            (
                "timelines_behind > 0",
                &[],
                2.0,
                "orders/r is 2 timelines behind its primary: it has not followed a promotion",
            ),
            ("replay_lag_upper_seconds > 5m", &[], 400.0, "orders/r may be up to 6m 40s behind its primary"),
            (
                "replay_lag_upper_seconds > 5m",
                &[],
                f64::INFINITY,
                "orders/r may be any length of time behind its primary",
            ),
            ("connections_max < 5", &[], 4.0, "orders/r has connections_max at 4"),
        ] {
            let alert = AlertView { reading: Some(reading), ..alert(condition, "r", labels) };
            assert_eq!(explain(&alert, None, NOW).state, expect);
        }
        let slot = alert("slot_retained_bytes > 1GiB", "r", &[("slot", "s")]);
        let state = |alert: AlertView| explain(&alert, None, NOW).state;
        let unknown = AlertView { is_unknown: true, reading: Some(5e9), ..slot.clone() };
        assert_eq!(
            state(unknown),
            "slot s of orders/r keeps 4.7 GiB of WAL, by the last that is known: it cannot be read now"
        );
        assert_eq!(
            state(AlertView { reading: None, ..slot.clone() }),
            "slot s of orders/r: slot_retained_bytes is not known"
        );
        assert_eq!(state(AlertView { gone: Some(Gone::Subject), ..slot.clone() }), "slot s of orders/r is gone");
        assert_eq!(
            state(AlertView { gone: Some(Gone::Unwatched), ..slot }),
            "slot s of orders/r is no longer watched by R"
        );
        for (condition, labels, expect) in [
            ("lock_wait_longest_seconds > 5s", &[][..], "orders/r has no session that waits for a lock"),
            ("target_failure == 1", &[("reason", "timeout")], "orders/r does not fail in this way any more (timeout)"),
            (
                "slot_inactive_retained_bytes > 1GiB",
                &[("slot", "s")],
                "slot s of orders/r is read again, or is no more",
            ),
        ] {
            let alert = AlertView { reading: None, phase: Phase::Resolved, ..alert(condition, "r", labels) };
            assert_eq!(state(alert), expect);
        }
        let status = [("direction", "holding")];
        let mut target = fixture::primary("orders", "r");
        fixture::change_survey(&mut target, |survey| survey.slots = Some(vec![fixture::slot("s", true)]));
        let cluster = fixture::cluster("orders", vec![target], Vec::new());
        let safe =
            AlertView { gone: Some(Gone::Subject), ..alert("slot_safe_wal_bytes < 1GiB", "r", &[("slot", "s")]) };
        assert_eq!(explain(&safe, Some(&cluster), NOW).state, "R does not apply to slot s of orders/r any more");
        let standby = AlertView { gone: Some(Gone::Subject), ..alert("lag_direction == 1", "r", &status) };
        assert_eq!(state(standby), "R does not apply to orders/r any more");
        let lag = AlertView { gone: Some(Gone::Subject), ..alert("replay_lag_seconds > 5s", "r", &[]) };
        assert_eq!(state(lag), "R does not apply to orders/r any more");
    }

    #[test]
    fn what_is_wrong_after_an_alert_has_resolved_is_told_as_of_now() {
        let causes = vec![Told { cause: Cause::ReplayPaused, why: "replay is paused".to_owned() }];
        let diagnosis = Some(Arc::new(Diagnosis { lags: true, causes }));
        let target = TargetView { diagnosis, ..fixture::replica("orders", "r") };
        let lag = alert("replay_lag_seconds > 5s", "r", &[]);
        let said = |phase| {
            let alert = AlertView { phase, reading: Some(0.5), ..lag.clone() };
            told(&alert, target.clone()).diagnosis.map(|found| found.sentence)
        };
        let firing = said(Phase::Firing).expect("a diagnosis");
        assert_eq!(said(Phase::Resolved), Some(format!("Now {firing}")));
    }

    #[test]
    fn connections_are_told_as_so_many_of_so_many_and_whose_they_are() {
        let told = told(&alert("connections_used_ratio > 40%", "db-1", &[]), fixture::primary("orders", "db-1"));
        assert_eq!(told.state, "orders/db-1 uses 46 of 92 connections (50 %)");
        let expect = [
            ("connections", "46 of 92"),
            ("users", "app (40), report (5)"),
            ("applications", "web (30), nightly (16)"),
        ];
        assert_eq!(pairs(&told.details), expect);
        assert_eq!(pairs(&told.sensitive), [("clients", "10.0.0.5 (40), local (6)")]);
    }

    #[test]
    fn who_holds_a_transaction_or_a_lock_is_named_by_pid() {
        let holder = |name, state, age: &str| {
            let who = format!("user report, application nightly, database app, pid 4711, {state} for {age}");
            vec![(name, who), ("to_end_it", "SELECT pg_terminate_backend(4711)".to_owned())]
        };
        let waiting = [("sessions_waiting", "1".to_owned())].into_iter();
        for (condition, expect) in [
            ("transaction_oldest_seconds > 1m", holder("held_by", "active", "1m 31s")),
            ("idle_in_transaction_oldest_seconds > 1m", holder("held_by", "idle in transaction", "30.2s")),
            ("lock_wait_longest_seconds > 1s", waiting.chain(holder("lock_held_by", "active", "2m")).collect()),
        ] {
            let mut target = fixture::primary("orders", "db-1");
            fixture::change_sessions(&mut target, |sessions| {
                let activity = sessions.activity.as_mut().expect("is known");
                activity.lock_holder = Some(fixture::holder(120.0, "active"));
            });
            let told = told(&alert(condition, "db-1", &[]), target);
            let expect: Vec<_> = expect.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(pairs(&told.details), expect, "{condition}");
        }
    }

    #[test]
    fn a_slot_is_told_by_type_and_database() {
        let mut target = fixture::primary("orders", "db-1");
        fixture::change_survey(&mut target, |survey| {
            let mut slot = fixture::slot("debezium", false);
            slot.slot_type = "logical";
            (slot.datname, slot.plugin, slot.wal_status) = (Some("app".into()), Some("pgoutput".into()), Some("lost"));
            survey.slots = Some(vec![slot]);
        });
        let told =
            told(&alert("slot_invalidated == 1", "db-1", &[("slot", "debezium"), ("reason", "wal_removed")]), target);
        let expect = [
            ("slot_type", "logical"),
            ("database", "app"),
            ("plugin", "pgoutput"),
            ("read_by", "nobody"),
            ("wal_status", "lost"),
            ("retained", "16 MiB"),
        ];
        assert_eq!(pairs(&told.details), expect);
    }

    #[test]
    fn who_follows_whom_is_told_and_addresses_of_standbys_are_kept_apart() {
        let mut target = fixture::replica("orders", "r1");
        target.links = Arc::new(Links {
            upstream: Some(Upstream::Elsewhere(Arc::from("10.0.0.9:5432"))),
            undeclared: Some(Undeclared { at_least: 1, at_most: 1, who: vec!["app at 10.0.0.8".to_owned()] }),
            ..Links::default()
        });
        let of = |condition: &str| told(&alert(condition, "r1", &[]), target.clone());
        let follows = [("follows", "10.0.0.9:5432, which is no target of the cluster")];
        assert_eq!(pairs(&of("wrong_upstream == 1").details), follows);
        assert_eq!(pairs(&of("standby_missing == 1").details), follows);
        assert_eq!(pairs(&of("target_up == 0").details), []);
        let standbys = of("undeclared_standbys > 0");
        assert_eq!(pairs(&standbys.details), [("standbys", "app")]);
        assert_eq!(pairs(&standbys.sensitive), [("standbys_with_addresses", "app at 10.0.0.8")]);
    }
}
