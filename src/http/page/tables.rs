//! The tables that the pages share: alerts, silences, the daemon's own health.

use maud::{Markup, html};

use super::words::{self, Level};
use crate::core::alert::{AlertView, Phase};
use crate::core::circuit::State;
use crate::core::mute::Mute;
use crate::core::snapshot::Snapshot;
use crate::http::Ask;
use crate::self_metrics::Heartbeat;

/// What keeps somebody from being told, or from being sent to.
pub(super) const SILENCES: &str = "Silences, maintenance and drains";

/// Alerts that one table shows.
const MOST_ALERTS: usize = 50;

/// A table that may be wider than a phone: it scrolls by itself, by keys as well.
pub(super) fn scrolling(label: &str, table: Markup) -> Markup {
    html! { div.scroll role="group" aria-label=(label) tabindex="0" { (table) } }
}

/// Alerts, those that fire first, then the severest, then the latest.
pub(super) fn alerts(ask: &Ask<'_>, mut alerts: Vec<&AlertView>, with_cluster: bool) -> Markup {
    if alerts.is_empty() {
        return html! { p.soft { "No alert is pending or firing, and none was resolved of late." } };
    }
    let order = |phase: Phase| match phase {
        Phase::Firing => 0,
        Phase::Pending => 1,
        Phase::Resolved => 2,
    };
    alerts.sort_by_key(|alert| {
        (order(alert.phase), std::cmp::Reverse(alert.severity), std::cmp::Reverse(alert.active_at))
    });
    let n_more = alerts.len().saturating_sub(MOST_ALERTS);
    alerts.truncate(MOST_ALERTS);
    let table = html! {
        table {
            thead { tr {
                th scope="col" { "State" } th scope="col" { "Alert" }
                @if with_cluster { th scope="col" { "Cluster" } }
                th scope="col" { "About" } th scope="col" { "Reading" } th scope="col" { "Since" } th scope="col" { "Notified" }
            } }
            tbody { @for alert in alerts { (row(ask, alert, with_cluster)) } }
        }
    };
    html! {
        (scrolling("Alerts", table))
        @if n_more > 0 { p.soft { (n_more) " more: " a href="/api/v1/alerts" { "all alerts as JSON" } "." } }
    }
}

fn row(ask: &Ask<'_>, alert: &AlertView, with_cluster: bool) -> Markup {
    let level = match alert.phase {
        Phase::Firing => Level::of_severity(alert.severity),
        Phase::Pending => Level::Unknown,
        Phase::Resolved => Level::Ok,
    };
    let since = alert.resolved_at.or(alert.fired_at).unwrap_or(alert.active_at);
    html! {
        tr {
            td { span class={ "badge " (level.class()) } { (alert.phase.as_str()) } " " span.soft { (alert.severity.as_str()) } }
            th scope="row" {
                (alert.id.rule)
                @if let Some(runbook) = alert.runbook.as_ref().filter(|runbook| is_link(runbook)) {
                    " " a href=(runbook) rel="noreferrer" { "runbook" span.unseen { " of " (alert.id.rule) } }
                }
            }
            @if with_cluster { td { (link_to(ask.snapshot.as_ref(), alert.id.cluster.as_str())) } }
            td { (words::subject(&alert.id)) @if let Some(summary) = &alert.summary { br; span.soft { (summary) } } }
            td { (words::reading(alert)) br; code { (alert.condition) } }
            td { (words::when(&ask.snapshot, since, ask.now)) }
            td { (notified(alert)) }
        }
    }
}

/// Whether notifications are sent of it. A pending alert has notified no receiver yet.
fn notified(alert: &AlertView) -> Markup {
    match (alert.muted.as_slice(), alert.phase) {
        ([], Phase::Pending) => html! { "not yet" },
        ([], Phase::Firing | Phase::Resolved) => html! { "yes" },
        (mutes, _) => muted(mutes),
    }
}

/// Only what a browser follows to another page.
fn is_link(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

fn muted(mutes: &[Mute]) -> Markup {
    html! { ul.plain { @for mute in mutes { li { "no: " (mute) } } } }
}

/// A cluster's name as a way to its page, where it is one that is watched.
pub(super) fn link_to(snapshot: &Snapshot, name: &str) -> Markup {
    html! {
        @if snapshot.cluster(name).is_some() { a href={ "/clusters/" (super::encoded(name)) } { (name) } }
        @else { (name) }
    }
}

/// Silences at work, windows that are open, and targets that are drained, of everything.
pub(super) fn silences(ask: &Ask<'_>) -> Markup {
    let wall = ask.snapshot.wall_time(ask.now);
    let active = ask.snapshot.silences.at(ask.now, wall);
    let drains = ask.snapshot.drains.all().filter_map(|drain| Some((drain, drain.left(ask.now)?)));
    let drains: Vec<_> = drains.collect();
    if active.silences.is_empty() && active.windows.is_empty() && drains.is_empty() {
        return html! { p.soft { "Nothing is silenced, no maintenance is under way, and no server is drained." } };
    }
    let table = html! {
        table {
            thead { tr { th scope="col" { "Kind" } th scope="col" { "Of" } th scope="col" { "By" } th scope="col" { "Why" } th scope="col" { "Until" } } }
            tbody {
                @for (silence, until) in &active.silences {
                    tr {
                        th scope="row" { "silence " (silence.id) }
                        td { code { (silence.selector) } } td { (silence.author) } td { (silence.reason) } td { (words::time(*until)) }
                    }
                }
                @for (window, open) in &active.windows {
                    tr {
                        th scope="row" { "maintenance" }
                        td { code { (window.selector) } } td { (window.name) } td { (window.reason.as_deref().unwrap_or("–")) } td { (words::time(open.until)) }
                    }
                }
                @for (drain, left) in &drains {
                    tr {
                        th scope="row" { "drain" }
                        td { code { (drain.target) } } td { (drain.author) } td { (drain.reason.as_deref().unwrap_or("–")) } td { (words::time(wall + *left)) }
                    }
                }
            }
        }
    };
    scrolling(SILENCES, table)
}

/// How the daemon itself is.
pub(super) fn own_health(ask: &Ask<'_>) -> Markup {
    let metrics = &ask.state.metrics;
    let isolated = ask.snapshot.alerts.iter().find(|alert| alert.phase == Phase::Firing);
    let line = |level: Level, name: &str, says: &str| {
        html! { tr { th scope="row" { (name) } td { span class={ "badge " (level.class()) } { @match level { Level::Ok => "ok", Level::Unknown => "not known", Level::Warn | Level::Bad => "trouble" } } } td { (says) } } }
    };
    let table = html! {
        table {
            thead { tr { th scope="col" { "Part" } th scope="col" { "State" } th scope="col" { "What is known" } } }
            tbody {
                @match crate::http::overall::stuck(&ask.snapshot, ask.now) {
                    Some(stuck) => (line(Level::Bad, "Engine", &stuck)),
                    None => (line(Level::Ok, "Engine", "judges and publishes")),
                }
                @if metrics.is_store_failing() { (line(Level::Bad, "Store", "cannot be written: a restart would forget what was told")) }
                @else { (line(Level::Ok, "Store", "no write has failed of late")) }
                @match isolated {
                    Some(alert) => (line(Level::Bad, "Network", &format!("{} fires: the fault is near this daemon", alert.id.rule))),
                    None => (line(Level::Ok, "Network", "not cut off")),
                }
                @for notifier in metrics.notifiers() {
                    @let tail = format!("{} told, {} failed attempts", notifier.told, notifier.failed);
                    @match notifier.last {
                        Some(kind) if kind != "ok" => (line(Level::Bad, &format!("Notifier {}", notifier.name), &format!("its last attempt failed ({kind}); {tail}"))),
                        _ => (line(Level::Ok, &format!("Notifier {}", notifier.name), &tail)),
                    }
                }
                @if let Some((last, told)) = metrics.heartbeat() {
                    @match last {
                        Heartbeat::Ok => (line(Level::Ok, "Heartbeat", &format!("{told} since the start"))),
                        Heartbeat::Failed => (line(Level::Bad, "Heartbeat", &format!("the last one was not heard; {told} since the start"))),
                        Heartbeat::Withheld => (line(Level::Bad, "Heartbeat", &format!("withheld, for want of progress; {told} since the start"))),
                    }
                }
                @for view in ask.state.aws.circuits(ask.now) {
                    @let region = view.place.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
                    @let role = view.place.role_arn.as_ref().map(|role| format!(" as {role}")).unwrap_or_default();
                    @let name = format!("{}{region}{role}", view.service.name());
                    @match view.circuit.failing() {
                        None => (line(Level::Ok, &name, "answers")),
                        Some(failing) => {
                            @let rest = if view.state == State::Open { "; it is left alone for a while" } else { "" };
                            (line(Level::Bad, &name, &format!("{}, {} in a row{rest}", failing.reason, words::counted(failing.n_failures as usize, "failure"))))
                        },
                    }
                }
                @for discovery in ask.snapshot.discoveries.iter() {
                    @let found = format!("{} in {}, {}", words::counted(discovery.n_targets, "server"), words::counted(discovery.n_clusters, "cluster"), discovery.looks_for);
                    @match &discovery.failing {
                        Some((_, fault)) => (line(Level::Bad, discovery.name.as_str(), &format!("{fault}; what was known is watched on: {found}"))),
                        None if discovery.succeeded_at.is_none() => (line(Level::Unknown, discovery.name.as_str(), &format!("AWS has not answered yet, {}", discovery.looks_for))),
                        None => (line(Level::Ok, discovery.name.as_str(), &found)),
                    }
                }
            }
        }
    };
    scrolling("The daemon's own health", table)
}
