//! The picture of a cluster: who follows whom. Drawn twice, from left to right for wide screens and as an indented tree for
//! narrow ones, of which the style shows one. The table of targets beside it says the same in words.

use maud::{Markup, html};

use super::words::{self, Level};
use crate::core::observation::Flavor;
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;
use crate::core::topology::links::Upstream;

/// Servers that are drawn. Nobody oversees more in a picture; the table has them all.
const MOST: usize = 40;

const BOX_HEIGHT: f64 = 62.0;

/// A server of the picture.
struct Node<'a> {
    /// `None`: a server that is not watched and has a standby that is.
    target: Option<&'a TargetView>,
    /// Its place in the list of nodes.
    parent: Option<usize>,
    /// The WAL is known to come from there.
    is_sure: bool,
    depth: usize,
    x: f64,
    y: f64,
}

/// The two pictures.
pub(super) fn pictures(cluster: &ClusterView, now: MonoTime) -> Markup {
    let mut nodes = nodes(cluster);
    let n_hidden = nodes.len().saturating_sub(MOST);
    nodes.truncate(MOST);
    let label = text_of(cluster, &nodes, now);
    html! {
        div.picture.wide { (wide(cluster, &mut nodes, &label, now)) }
        div.picture.narrow { (narrow(cluster, &mut nodes, &label, now)) }
        @if n_hidden > 0 { p.soft { (n_hidden) " more are in the table of servers." } }
    }
}

/// Servers in the order of a walk through the trees: each before those that follow it.
fn nodes(cluster: &ClusterView) -> Vec<Node<'_>> {
    let servers: Vec<&TargetView> =
        cluster.targets.iter().filter(|target| target.links.same_as.is_none()).map(|target| &**target).collect();
    let place = |name: &str| {
        let name = cluster.target(name)?.server();
        servers.iter().position(|server| server.id.target == *name)
    };
    let primary = cluster.primary.as_ref().and_then(|primary| place(primary.as_str()));
    // `Err`: from a server that is not watched.
    let upstream_of = |(own, server): (usize, &TargetView)| -> (Result<Option<usize>, ()>, bool) {
        let fallback = primary.filter(|primary| *primary != own);
        if server.last_role() != Some(Role::Replica) {
            return (Ok(None), true);
        }
        match &server.links.upstream {
            Some(Upstream::Target(name)) => (Ok(place(name.as_str()).filter(|up| *up != own)), true),
            Some(Upstream::Elsewhere(_)) => (Err(()), true),
            // An Aurora reader follows nobody: it shares the writer's volume.
            Some(Upstream::Nobody | Upstream::Unknown) | None => (Ok(fallback), false),
        }
    };
    let upstreams: Vec<_> = servers.iter().copied().enumerate().map(upstream_of).collect();
    let mut nodes: Vec<Node<'_>> = Vec::new();
    let mut drawn = vec![false; servers.len()];
    let mut stack: Vec<(usize, Option<usize>, usize)> = Vec::new();
    // The primary first, then other roots, then what goes round in circles.
    let is_root = |at: &usize| upstreams[*at].0 == Ok(None);
    let roots = primary
        .into_iter()
        .chain((0..servers.len()).filter(is_root))
        .chain((0..servers.len()).filter(|at| upstreams[*at].0 == Err(())).collect::<Vec<_>>());
    let order: Vec<usize> = roots.chain(0..servers.len()).collect();
    let mut stranger = None;
    for root in order {
        if drawn[root] {
            continue;
        }
        let mut parent = None;
        if upstreams[root].0 == Err(()) {
            parent = Some(*stranger.get_or_insert_with(|| {
                nodes.push(Node { target: None, parent: None, is_sure: true, depth: 0, x: 0.0, y: 0.0 });
                nodes.len() - 1
            }));
        }
        stack.push((root, parent, usize::from(parent.is_some())));
        while let Some((at, parent, depth)) = stack.pop() {
            if std::mem::replace(&mut drawn[at], true) {
                continue;
            }
            let is_sure = upstreams[at].1;
            nodes.push(Node { target: Some(servers[at]), parent, is_sure, depth, x: 0.0, y: 0.0 });
            let own = nodes.len() - 1;
            let followers = (0..servers.len()).rev().filter(|other| upstreams[*other].0 == Ok(Some(at)));
            stack.extend(followers.map(|other| (other, Some(own), depth + 1)));
        }
    }
    nodes
}

fn wide(cluster: &ClusterView, nodes: &mut [Node<'_>], label: &str, now: MonoTime) -> Markup {
    const WIDTH: f64 = 212.0;
    const GAP: f64 = 178.0;
    const PITCH: f64 = 88.0;
    let mut next_row = 0.0;
    let has_followers: Vec<bool> =
        (0..nodes.len()).map(|at| nodes.iter().any(|node| node.parent == Some(at))).collect();
    for (node, has_followers) in nodes.iter_mut().zip(&has_followers) {
        node.x = 1.0 + node.depth as f64 * (WIDTH + GAP);
        if !has_followers {
            node.y = 1.0 + next_row;
            next_row += PITCH;
        }
    }
    // A server stands in the middle of those that follow it.
    for at in (0..nodes.len()).rev().filter(|at| has_followers[*at]) {
        let rows: Vec<f64> = nodes.iter().filter(|node| node.parent == Some(at)).map(|node| node.y).collect();
        nodes[at].y = f64::midpoint(rows[0], rows[rows.len() - 1]);
    }
    let width = nodes.iter().fold(0.0, |widest, node| node.x.max(widest)) + WIDTH + 1.0;
    // What stands at the last edge may reach below its box.
    let height = (next_row - PITCH).max(0.0) + BOX_HEIGHT + 8.0;
    let edge = |from: &Node<'_>, to: &Node<'_>| {
        let (x1, y1) = (from.x + WIDTH, from.y + BOX_HEIGHT / 2.0);
        let (x2, y2) = (to.x - 7.0, to.y + BOX_HEIGHT / 2.0);
        let turn = x1 + 26.0;
        (format!("M{x1} {y1}H{turn}V{y2}H{x2}"), turn + 10.0, y2)
    };
    drawing(cluster, nodes, label, now, (width, height, WIDTH), edge)
}

fn narrow(cluster: &ClusterView, nodes: &mut [Node<'_>], label: &str, now: MonoTime) -> Markup {
    const WIDTH: f64 = 320.0;
    const INDENT: f64 = 22.0;
    const LABEL: f64 = 60.0;
    let mut y = 1.0;
    for node in nodes.iter_mut() {
        node.x = 1.0 + node.depth.min(5) as f64 * INDENT;
        if node.parent.is_some() {
            y += LABEL;
        } else if y > 1.0 {
            y += 14.0;
        }
        node.y = y;
        y += BOX_HEIGHT;
    }
    let edge = |from: &Node<'_>, to: &Node<'_>| {
        let (x, y1, y2) = (from.x + 11.0, from.y + BOX_HEIGHT, to.y + BOX_HEIGHT / 2.0);
        (format!("M{x} {y1}V{y2}H{}", to.x - 7.0), to.x + 8.0, to.y - 37.0)
    };
    drawing(cluster, nodes, label, now, (WIDTH + 2.0, y + 1.0, WIDTH - 5.0 * INDENT), edge)
}

fn drawing(
    cluster: &ClusterView,
    nodes: &[Node<'_>],
    label: &str,
    now: MonoTime,
    (width, height, box_width): (f64, f64, f64),
    edge: impl Fn(&Node<'_>, &Node<'_>) -> (String, f64, f64),
) -> Markup {
    // Where ways overlap, the worst is seen.
    let mut ways: Vec<&Node<'_>> = nodes.iter().filter(|node| node.parent.is_some()).collect();
    ways.sort_by_key(|node| node.target.map(|target| words::level(cluster, target, now)));
    html! {
        svg.topology role="img" aria-label=(label) width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) } {
            @for node in ways {
                @if let (Some(parent), Some(target)) = (node.parent, node.target) {
                    @let (path, x, y) = edge(&nodes[parent], node);
                    @let is_dashed = !node.is_sure || !target.is_attended(now) || target.failing.is_some();
                    @let level = words::level(cluster, target, now).class();
                    path class={ "edge " (level) @if is_dashed { " dashed" } } d=(path) {}
                    path class={ "tip " (level) }
                        d={ "M" (node.x - 1.0) " " (node.y + BOX_HEIGHT / 2.0) "l-9 -5v10z" } {}
                    (edge_words(target, x, y, node.is_sure, now))
                }
            }
            @for node in nodes { (server(cluster, node, box_width, now)) }
        }
    }
}

fn is_aurora(target: &TargetView) -> bool {
    target.answer.as_ref().is_some_and(|answer| answer.positions.identity.flavor == Flavor::Aurora)
}

/// What stands at an edge: how far behind, how sure that is, why and whither.
fn edge_words(target: &TargetView, x: f64, y: f64, is_sure: bool, now: MonoTime) -> Markup {
    let lag = words::lag_of(target, now);
    let value = lag.map_or_else(|| "lag not known".to_owned(), words::lag);
    let sureness = lag.filter(|lag| lag.value.is_some()).map(words::certainty);
    let cause = words::cause(target, now);
    let second = match (&cause, words::direction(target, now)) {
        _ if target.is_fed_by_archive() == Some(true) => Some("from an archive".to_owned()),
        _ if !is_sure && target.links.upstream == Some(Upstream::Nobody) => Some("no WAL receiver".to_owned()),
        (Some(cause), _) => Some(cause.clone()),
        _ if is_aurora(target) => Some("shares the volume".to_owned()),
        _ if !is_sure => Some("upstream not known".to_owned()),
        (None, direction) => direction.map(str::to_owned),
    };
    let third = cause.is_some().then(|| words::direction(target, now)).flatten();
    html! {
        text.lag x=(x) y=(y - 6.0) {
            (value)
            @if let Some(sureness) = sureness { tspan.soft dx="6" { (sureness) } }
        }
        @if let Some(second) = second { text.why x=(x) y=(y + 15.0) { (words::clipped(&second, 24)) } }
        @if let Some(third) = third { text.soft x=(x) y=(y + 30.0) { (third) } }
    }
}

fn server(cluster: &ClusterView, node: &Node<'_>, width: f64, now: MonoTime) -> Markup {
    let (x, y) = (node.x, node.y);
    let Some(target) = node.target else {
        return html! {
            rect.box.stranger x=(x) y=(y) width=(width) height=(BOX_HEIGHT) rx="8" {}
            text.name x=(x + 16.0) y=(y + 27.0) { "not watched" }
            text.soft x=(x + 16.0) y=(y + 46.0) { "a server of no target" }
        };
    };
    let level = words::level(cluster, target, now);
    let version = words::version(target).map_or_else(String::new, |version| version.replace("PostgreSQL", "PG"));
    let role = words::role(target, now);
    html! {
        g class={ "server " (level.class()) } {
            title { (target.id.target) ": " (role) }
            rect.box x=(x) y=(y) width=(width) height=(BOX_HEIGHT) rx="8" {}
            rect.bar x=(x) y=(y) width="6" height=(BOX_HEIGHT) rx="3" {}
            text.name x=(x + 16.0) y=(y + 27.0) { (words::clipped(target.id.target.as_str(), 23)) }
            text.role x=(x + 16.0) y=(y + 47.0) { (role) }
            text.soft.version x=(x + width - 10.0) y=(y + 47.0) text-anchor="end" { (version) }
            @if level > Level::Ok { text.mark x=(x + width - 18.0) y=(y + 24.0) { (mark(level)) } }
        }
    }
}

/// A sign for whoever does not see the colours.
const fn mark(level: Level) -> &'static str {
    match level {
        Level::Ok => "",
        Level::Unknown => "?",
        Level::Warn => "!",
        Level::Bad => "✕",
    }
}

/// The picture for who cannot see it.
fn text_of(cluster: &ClusterView, nodes: &[Node<'_>], now: MonoTime) -> String {
    let sentence = |node: &Node<'_>| {
        let target = node.target?;
        let role = words::role(target, now);
        let upstream = node.parent.map(|parent| {
            nodes[parent].target.map_or("a server that is not watched", |target| target.id.target.as_str())
        });
        let lag = words::lag_of(target, now).map(|lag| format!(", lag {}", words::lag(lag))).unwrap_or_default();
        let follows = upstream.map(|name| format!(" follows {name}")).unwrap_or_default();
        Some(format!("{} ({role}){follows}{lag}.", target.id.target))
    };
    let sentences: Vec<String> = nodes.iter().filter_map(sentence).collect();
    format!("Replication of {}: {}", cluster.name, sentences.join(" "))
}
