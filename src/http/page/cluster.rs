//! `/clusters/{cluster}`: one cluster whole.

use maud::{Markup, html};

use super::words::{self, Level};
use super::{For, Part, Sheet, chart, fleet, tables, topology};
use crate::core::alert::AlertView;
use crate::core::cloudwatch::{self, Point};
use crate::core::quantity;
use crate::core::signal::Signal;
use crate::core::snapshot::{ClusterView, PoolerView, TargetView};
use crate::core::statements::StatementCounters;
use crate::core::survey::{Sessions, Slot, Tally};
use crate::core::topology::events::TopologyEvent;
use crate::core::topology::{Name, Role};
use crate::http::Ask;
use crate::http::overall::{self, Verdict};

/// Names of a tally that are told.
const NAMES: usize = 5;

pub(in crate::http) fn sheet(ask: &Ask<'_>, cluster: &ClusterView, whom: For) -> Sheet {
    let name = cluster.name.as_str();
    let verdict = overall::told(&ask.snapshot, cluster, ask.now, &words::REASONS);
    let title = format!("{name}: {} – pgvigil", fleet::headline(verdict.status));
    let live = format!("/live?cluster={}", super::encoded(name));
    let mut parts = vec![
        Part::Still(
            html! { nav aria-label="Where this is" { a href="/" { "All clusters" } " › " span aria-current="page" { (name) } } },
        ),
        Part::live("verdict", told(name, &verdict, &title)),
        super::as_of(ask),
        Part::live(
            "picture",
            html! { section #picture aria-labelledby="picture-title" { h2 #picture-title { "Topology" } (topology::pictures(cluster, ask.now)) } },
        ),
        Part::live(
            "targets",
            html! { section #targets aria-labelledby="targets-title" { h2 #targets-title { "Servers" } (targets(ask, cluster)) } },
        ),
        Part::Still(html! { h2 { "Replay lag" } (chart::figure(ask, cluster, whom)) }),
        Part::live("numbers", html! { div #numbers { (chart::numbers(ask, cluster)) } }),
    ];
    let alerts: Vec<&AlertView> = cluster.alerts.iter().collect();
    parts.push(Part::live("firing", html! { section #firing aria-labelledby="firing-title" { h2 #firing-title { "Alerts" } (tables::alerts(ask, alerts, false)) } }));
    parts.push(Part::live("events", html! { section #events aria-labelledby="events-title" { h2 #events-title { "Events" } (events(ask, cluster)) } }));
    if !cluster.poolers.is_empty() {
        parts.push(Part::live("poolers", html! { section #poolers aria-labelledby="poolers-title" { h2 #poolers-title { "Connection poolers" } (poolers(ask, &cluster.poolers)) } }));
    }
    parts.push(Part::Still(html! { h2 { "Each server" } }));
    for target in &cluster.targets {
        let id = super::id_of("t", target.id.target.as_str());
        parts.push(Part::live(&id, details(ask, &id, target)));
    }
    parts.push(Part::live("silences", html! { section #silences aria-labelledby="silences-title" { h2 #silences-title { (tables::SILENCES) } (tables::silences(ask)) } }));
    Sheet { title, live, parts }
}

fn told(name: &str, verdict: &Verdict, title: &str) -> Markup {
    html! {
        div #verdict class={ "verdict " (Level::of(verdict.status).class()) } data-title=(title) {
            div role="status" aria-live="polite" aria-atomic="true" { h1 { (name) ": " (fleet::headline(verdict.status)) } }
            @if verdict.reasons.is_empty() { p { "Every server answers, and no alert fires." } }
            @else { ul { @for reason in &verdict.reasons { li { (reason) } } } }
        }
    }
}

fn targets(ask: &Ask<'_>, cluster: &ClusterView) -> Markup {
    let table = html! {
        table {
            thead { tr {
                th scope="col" { "Server" } th scope="col" { "Role" } th scope="col" { "Version" } th.num scope="col" { "Replay lag" }
                th scope="col" { "How sure" } th.num scope="col" { "WAL to replay" } th scope="col" { "Direction" } th scope="col" { "Follows" } th scope="col" { "What is the matter" }
            } }
            tbody { @for target in &cluster.targets { (target_row(ask, cluster, target)) } }
        }
    };
    tables::scrolling("Servers", table)
}

fn target_row(ask: &Ask<'_>, cluster: &ClusterView, target: &TargetView) -> Markup {
    let now = ask.now;
    let lag = words::lag_of(target, now);
    let level = words::level(cluster, target, now);
    let matter = if let Some(failing) = &target.failing {
        format!(
            "{}, {} in a row",
            words::failure(&failing.failure),
            words::counted(failing.count as usize, "failed poll")
        )
    } else if target.tried() && target.fresh(now).is_none() {
        "not heard of late".to_owned()
    } else if target.diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.lags) {
        target.diagnosis_sentence().unwrap_or_default()
    } else if let Some(twin) = &target.links.same_as {
        format!("leads to the same server as {twin}")
    } else {
        String::new()
    };
    let unreplayed = target.stages.filter(|_| target.is_attended(now)).and_then(|stages| stages.unreplayed);
    html! {
        tr {
            th scope="row" { span class={ "dot " (level.class()) } {} (target.id.target) }
            td { (words::role(target, now)) }
            td { (words::version(target).unwrap_or_else(|| "–".to_owned())) }
            td.num { (lag.map_or_else(|| "–".to_owned(), words::lag)) }
            td { @if let Some(lag) = lag { (words::certainty(lag)) " " span.soft { (lag.method) } } @else { "–" } }
            td.num { (unreplayed.map_or_else(|| "–".to_owned(), |wal| words::bytes(wal.0))) }
            td { (words::direction(target, now).unwrap_or("–")) }
            td { (target.links.upstream.as_ref().filter(|_| target.fresh(now).is_some()).map_or_else(|| "–".to_owned(), words::upstream)) }
            td { @if matter.is_empty() { "nothing" } @else { (matter) } }
        }
    }
}

fn events(ask: &Ask<'_>, cluster: &ClusterView) -> Markup {
    if cluster.events.is_empty() {
        return html! { p.soft { "Every server is what it was when it first answered." } };
    }
    let says = |event: &TopologyEvent| match event.change.as_str() {
        "promoted" => "was promoted",
        "demoted" => "became a replica",
        _ => "writes a new timeline",
    };
    html! {
        ol.events {
            @for event in cluster.events.iter().rev() {
                li {
                    (words::when(&ask.snapshot, event.at, ask.now)) ": " strong { (event.target) } " " (says(event))
                    @if let Some(timeline) = event.timeline { " (timeline " (timeline.0) ")" }
                }
            }
        }
    }
}

fn poolers(ask: &Ask<'_>, poolers: &[std::sync::Arc<PoolerView>]) -> Markup {
    let table = html! {
        table {
            thead { tr { th scope="col" { "Pooler" } th scope="col" { "State" } th scope="col" { "Pool" } th.num scope="col" { "Clients waiting" } th.num scope="col" { "Longest wait" } th.num scope="col" { "Servers" } } }
            tbody {
                @for pooler in poolers {
                    @let state = if pooler.is_up(ask.now) { "up" } else { pooler.failing.as_ref().map_or("not heard of", |failing| words::failure(&failing.failure)) };
                    @match pooler.fresh(ask.now) {
                        Some(answer) if !answer.facts.pools.is_empty() => {
                            @for pool in &answer.facts.pools {
                                tr {
                                    th scope="row" { (pooler.id.target) } td { (state) } td { (pool.database) " as " (pool.user) }
                                    td.num { (pool.clients_waiting) } td.num { (words::seconds(pool.longest_wait)) } td.num { (pool.servers()) }
                                }
                            }
                        },
                        _ => tr { th scope="row" { (pooler.id.target) } td { (state) } td colspan="4" { "–" } },
                    }
                }
            }
        }
    };
    tables::scrolling("Connection poolers", table)
}

/// What the slow poll tells of one server. Folded, but for a primary's.
fn details(ask: &Ask<'_>, id: &str, target: &TargetView) -> Markup {
    let survey = target.fresh_survey(ask.now);
    let sessions = survey.and_then(|survey| survey.sessions.as_ref());
    let slots = survey.and_then(|survey| survey.slots.as_deref());
    let statements = target.statements.as_deref().filter(|_| survey.is_some());
    let is_open = target.last_role() == Some(Role::Primary);
    html! {
        details.server #(id) open[is_open] {
            summary { h3 { (target.id.target) } " " span.soft { (words::role(target, ask.now)) } }
            h4 { "Connections" }
            @match sessions { Some(sessions) => (connections(sessions, target)), None => p.soft { "Not known." } }
            h4 { "Slots" }
            @match slots {
                Some([]) => p.soft { "There are none." },
                Some(list) => (slot_table(target, list)),
                None => p.soft { "Not known." },
            }
            h4 { "Top statements" }
            @match statements {
                Some(counters) if !counters.top.is_empty() => (statement_table(target, counters)),
                _ => p.soft { "None are told: pg_stat_statements is not read here, or has counted nothing yet." },
            }
            (of_aws(ask, target))
        }
    }
}

/// What AWS and CloudWatch say of a server. Nothing where neither was asked for it.
fn of_aws(ask: &Ask<'_>, target: &TargetView) -> Markup {
    if target.instance.is_none() && target.cloudwatch.is_empty() {
        return html! {};
    }
    let yes = |is: bool| if is { "yes" } else { "no" };
    let metric = |(metric, point, is_fresh): (&Name, &Point, bool)| {
        let unit = Signal::named(metric.as_str()).map(|signal| signal.unit).or_else(|| target.cloudwatch.unit(metric));
        let value = point.value.filter(|_| is_fresh).zip(unit).map(|(value, unit)| quantity::reading(unit, value));
        (metric.clone(), value, ask.snapshot.wall_time(point.ended_at))
    };
    let metrics: Vec<_> = target.cloudwatch.all(ask.now).map(metric).collect();
    html! {
        h4 { "AWS" }
        @match target.fresh_instance(ask.now) {
            None if target.instance.is_some() => p.soft { "What RDS said of it is too old to be told." },
            None => {},
            Some(facts) => dl.facts {
                @if let Some(status) = &facts.status { dt { "Status" } dd { (status) } }
                @if let Some((_, word)) = &facts.replication { dt { "Replication, by RDS" } dd { (word) } }
                @if let Some(bytes) = facts.allocated_storage_bytes {
                    dt { "Storage" } dd { (words::bytes(bytes)) @if let Some(most) = facts.max_storage_bytes { ", grows up to " (words::bytes(most)) } }
                }
                @if let Some(is) = facts.multi_az { dt { "Multi-AZ" } dd { (yes(is)) } }
                @if let Some(days) = facts.backup_retention_days { dt { "Backups are kept for" } dd { (words::counted(days as usize, "day")) } }
                @if let Some(seconds) = target.instance.as_ref().and_then(|instance| instance.certificate_expires_in) {
                    dt { "Certificate expires in" } dd { (words::seconds(seconds)) }
                }
                @if let Some(pending) = facts.pending_maintenance.as_ref().filter(|pending| !pending.is_empty()) {
                    dt { "Pending maintenance" } dd { (pending.join(", ")) }
                }
            },
        }
        @if let Some(found) = cloudwatch::disagreement(target, ask.now) { p { (found.sentence()) } }
        @if !metrics.is_empty() {
            (tables::scrolling(&format!("CloudWatch of {}", target.id.target), html! {
                table {
                    thead { tr { th scope="col" { "By CloudWatch" } th.num scope="col" { "Value" } th.num scope="col" { "Of the period until" } } }
                    tbody { @for (metric, value, until) in &metrics {
                        tr { th scope="row" { code { (metric) } } td.num { (value.as_deref().unwrap_or("–")) } td.num { (words::time(*until)) } }
                    } }
                }
            }))
        }
    }
}

fn connections(sessions: &Sessions, target: &TargetView) -> Markup {
    let may = sessions.max_connections.saturating_sub(sessions.reserved_connections);
    let used = sessions.total as f64 / may.max(1) as f64;
    let most = |tally: &Tally| {
        let names = tally
            .named
            .iter()
            .take(NAMES)
            .map(|(name, count)| format!("{} {count}", if name.is_empty() { "(no name)" } else { name }));
        names.collect::<Vec<_>>().join(", ")
    };
    html! {
        p {
            (sessions.total) " of " (may) " in use "
            meter min="0" max=(may.max(1)) high=(may * 8 / 10) value=(sessions.total) aria-label="connections in use" { (format!("{:.0} %", used * 100.0)) }
            @if let Some(seconds) = target.connections_exhausted_in { " " strong { "exhausted in " (words::seconds(seconds)) " should they go on to grow so" } }
        }
        dl.facts {
            dt { "By state" } dd { (sessions.by_state.iter().map(|(state, count)| format!("{state} {count}")).collect::<Vec<_>>().join(", ")) }
            dt { "By user" } dd { (most(&sessions.by_user)) }
            dt { "By application" } dd { (most(&sessions.by_application)) }
            @if let Some(activity) = sessions.activity.as_deref() {
                dt { "Waiting on locks" } dd { (activity.waiting_on_locks) }
                @if let Some(oldest) = &activity.oldest_transaction {
                    dt { "Oldest transaction" } dd { (words::seconds(oldest.seconds)) ", " (oldest.state) ", user " (oldest.user) @if !oldest.application.is_empty() { ", application " (oldest.application) } }
                }
            }
        }
    }
}

fn slot_table(target: &TargetView, slots: &[Slot]) -> Markup {
    let table = html! {
        table {
            thead { tr { th scope="col" { "Slot" } th scope="col" { "Type" } th scope="col" { "Active" } th.num scope="col" { "WAL kept" } th scope="col" { "WAL status" } } }
            tbody {
                @for slot in slots {
                    tr {
                        th scope="row" { (slot.name) } td { (slot.slot_type) }
                        td { @if slot.active { "yes" } @else if slot.is_copy { "a copy" } @else { span.badge.warn { "no" } } }
                        td.num { (slot.retained_bytes.map_or_else(|| "–".to_owned(), words::bytes)) }
                        td { (slot.invalidation().or(slot.wal_status).unwrap_or("–")) }
                    }
                }
            }
        }
    };
    tables::scrolling(&format!("Slots of {}", target.id.target), table)
}

fn statement_table(target: &TargetView, counters: &StatementCounters) -> Markup {
    let has_text = counters.top.iter().any(|statement| statement.text.is_some());
    let table = html! {
        table {
            thead { tr {
                th scope="col" { "Statement" } th scope="col" { "Database" } th.num scope="col" { "Time of late" } th.num scope="col" { "Calls of late" } th.num scope="col" { "Mean time" } th.num scope="col" { "Calls in all" }
                @if has_text { th scope="col" { "Text" } }
            } }
            tbody {
                @for statement in &counters.top {
                    tr {
                        th scope="row" { code { (statement.queryid) } } td { (statement.datname) }
                        td.num { (quantity::duration(statement.recent_exec_seconds)) } td.num { (statement.recent_calls) }
                        td.num { (statement.mean_exec_seconds().map_or_else(|| "–".to_owned(), milliseconds)) }
                        td.num { (statement.totals.calls) }
                        @if has_text { td { code { (statement.text.as_deref().unwrap_or("")) } } }
                    }
                }
            }
        }
    };
    tables::scrolling(&format!("Top statements of {}", target.id.target), table)
}

fn milliseconds(seconds: f64) -> String {
    if seconds < 0.000_05 { "<0.1 ms".to_owned() } else { format!("{:.1} ms", seconds * 1000.0) }
}
