//! `/`: everything that is watched, the worst first.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::words::{self, Level};
use super::{For, HasFilter, Part, Piece, Sheet, chart, tables, topology};
use crate::core::alert::{AlertView, Phase};
use crate::core::snapshot::ClusterView;
use crate::http::Ask;
use crate::http::overall::{self, Overall, Verdict};

/// Clusters that are drawn here, and not only on their own page: all of a small fleet, else the worst that are not well.
const DRAWN: usize = 4;

/// Reasons that a row tells.
const REASONS: usize = 2;

struct Judged<'a> {
    cluster: &'a ClusterView,
    verdict: Verdict,
}

pub(in crate::http) fn sheet(ask: &Ask<'_>, whom: For) -> Sheet {
    let judged =
        |cluster: &'_ std::sync::Arc<ClusterView>| overall::told(&ask.snapshot, cluster, ask.now, &words::REASONS);
    let mut clusters: Vec<Judged<'_>> =
        ask.snapshot.clusters.iter().map(|cluster| Judged { verdict: judged(cluster), cluster }).collect();
    clusters.sort_by_key(|one| (Reverse(one.verdict.status), Reverse(n_firing(one.cluster)), one.cluster.name.clone()));
    let overall = overall::of_all(&ask.snapshot, ask.now).status;
    let is_small = clusters.len() <= DRAWN;
    let drawn = clusters.iter().filter(|one| is_small || one.verdict.status != Overall::Ok);
    let drawn: Vec<&ClusterView> = drawn.map(|one| one.cluster).take(DRAWN).collect();
    let alerts: Vec<&AlertView> = ask
        .snapshot
        .clusters
        .iter()
        .flat_map(|cluster| cluster.alerts.iter())
        .chain(ask.snapshot.alerts.iter())
        .collect();

    let mut parts = vec![
        Part::live("verdict", verdict(overall, &clusters)),
        super::as_of(ask),
        Part::Rows {
            id: "clusters",
            title: "Clusters",
            heads: &["Status", "Cluster", "Servers", "Worst lag", "Alerts", "Last hour"],
            has_filter: if clusters.len() > DRAWN { HasFilter::Yes } else { HasFilter::No },
            rows: clusters.iter().map(|one| row(ask, one)).collect(),
        },
        Part::live(
            "firing",
            html! { section #firing aria-labelledby="firing-title" { h2 #firing-title { "Alerts" } (tables::alerts(ask, alerts, true)) } },
        ),
    ];
    let drawing = |cluster: &&ClusterView| {
        let name = cluster.name.as_str();
        html! {
            section id=(super::id_of("drawn", name)) aria-label={ "Topology and lag of " (name) } {
                h2 { a href={ "/clusters/" (super::encoded(name)) } { (name) } }
                (topology::pictures(cluster, ask.now))
                (chart::figure(ask, cluster, whom))
            }
        }
    };
    parts.push(Part::live("drawn", html! { div #drawn { @for cluster in &drawn { (drawing(cluster)) } } }));
    parts.push(Part::live("silences", html! { section #silences aria-labelledby="silences-title" { h2 #silences-title { (tables::SILENCES) } (tables::silences(ask)) } }));
    parts.push(Part::live("own", html! { section #own aria-labelledby="own-title" { h2 #own-title { "pgvigil itself" } (tables::own_health(ask)) } }));
    Sheet { title: format!("{} – pgvigil", headline(overall)), live: "/live".to_owned(), parts }
}

/// The whole page in two words.
pub(super) const fn headline(overall: Overall) -> &'static str {
    match overall {
        Overall::Ok => "All is well",
        Overall::Degraded => "Needs attention",
        Overall::Critical => "Critical",
        Overall::Stale => "Not known",
    }
}

fn verdict(overall: Overall, clusters: &[Judged<'_>]) -> Markup {
    let n_of = |status| clusters.iter().filter(|one| one.verdict.status == status).count();
    let n_servers: usize = clusters.iter().map(|one| one.cluster.targets.len()).sum();
    let n_alerts: usize = clusters.iter().map(|one| n_firing(one.cluster)).sum();
    let troubles: Vec<String> = [Overall::Critical, Overall::Stale, Overall::Degraded]
        .into_iter()
        .map(|status| (n_of(status), status))
        .filter(|(count, _)| *count > 0)
        .map(|(count, status)| format!("{count} {}", status.as_str()))
        .collect();
    let alerts = match n_alerts {
        0 => "no alert fires".to_owned(),
        1 => "1 alert fires".to_owned(),
        many => format!("{many} alerts fire"),
    };
    html! {
        div #verdict class={ "verdict " (Level::of(overall).class()) } data-title={ (headline(overall)) " – pgvigil" } {
            div role="status" aria-live="polite" aria-atomic="true" { h1 { (headline(overall)) span.unseen { ": " (alerts) } } }
            p {
                (words::counted(clusters.len(), "cluster")) ", " (words::counted(n_servers, "server")) "; "
                @if troubles.is_empty() { "all answer" } @else { (troubles.join(", ")) }
                "; " (alerts) "."
            }
        }
    }
}

fn n_firing(cluster: &ClusterView) -> usize {
    cluster.alerts.iter().filter(|alert| alert.phase == Phase::Firing).count()
}

fn row(ask: &Ask<'_>, one: &Judged<'_>) -> Piece {
    let Judged { cluster, verdict } = one;
    let name = cluster.name.as_str();
    let id = super::id_of("c", name);
    let n_up = cluster.targets.iter().filter(|target| target.is_up() && target.fresh(ask.now).is_some()).count();
    let lags = cluster.targets.iter().filter_map(|target| Some((target, words::lag_of(target, ask.now)?)));
    // A lag that is not known is worse than any that is.
    let worst = lags.max_by(|(_, a), (_, b)| {
        let rank = |value: Option<f64>| value.unwrap_or(f64::INFINITY);
        rank(a.value).total_cmp(&rank(b.value))
    });
    let n_alerts = n_firing(cluster);
    let html = html! {
        // On a phone a row is a card: the roles say that it is a row all the same.
        tr #(id) role="row" data-name=(name) {
            td role="cell" { (words::badge(verdict.status)) }
            th role="rowheader" scope="row" {
                a href={ "/clusters/" (super::encoded(name)) } { (name) }
                @for reason in verdict.reasons.iter().take(REASONS) { div.reason { (reason) } }
                @if verdict.reasons.len() > REASONS { div.reason { "and " (verdict.reasons.len() - REASONS) " more" } }
            }
            td role="cell" { (n_up) " of " (cluster.targets.len()) " up" }
            td role="cell" {
                @match worst {
                    Some((target, lag)) => { span.brief { "lag " } (words::lag(lag)) @if lag.value.is_none_or(|lag| lag >= 0.1) { " " span.soft { (target.id.target) } } },
                    None => "–",
                }
            }
            td role="cell" { @if n_alerts == 0 { "none" span.brief { " firing" } } @else { (n_alerts) " firing" } }
            td role="cell" { (chart::spark(ask, cluster)) }
        }
    };
    Piece { id, html: html.into_string() }
}
