//! What no single part can check: names, and what one section says about another.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::cloudwatch::{CloudWatch, cloudwatch};
use super::environment::Environment;
use super::error::{did_you_mean, shown};
use super::layers::KeyPath;
use super::rules::{Rules, rules};
use super::{Cluster, Config, Target, Written, WrittenCluster, WrittenPooler};
use crate::aws::Aws;
use crate::collect::PollConfig;
use crate::core::alert::DAEMON;
use crate::core::alerting::isolation;
use crate::core::glob::Glob;
use crate::core::heartbeat::Limits;
use crate::core::rule::Rule;
use crate::core::silence::selector::Selector;
use crate::core::silence::window::Window;
use crate::core::topology::{Name, TargetId};
use crate::http::AuthConfig;
use crate::notify::NotifierConfig;
use crate::notify::heartbeat::Heartbeat;

/// A server is not asked more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// What is asked less often than this is not watched.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// humantime has both.
pub(super) const MONTH_IS_MEANT: &str = "\"m\" is a minute, \"M\" a month";

/// Something wrong at a key.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) path: KeyPath,
    pub(super) reason: String,
}

/// The longest name. Names become parts of URLs and labels.
const LONGEST_NAME: usize = 63;

/// Whether a text may name a cluster, a target, a rule or a notifier.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The configuration, if all of it holds together.
pub(super) fn checked(written: Written, environment: &Environment) -> Result<Config, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut finding = |path: &[&str], reason: String| {
        findings.push(Finding { path: path.iter().map(|step| (*step).to_owned()).collect(), reason });
    };
    if let Some((key, reason)) = written.server.auth.as_ref().and_then(AuthConfig::fault) {
        finding(&["server", "auth", key], reason);
    }
    check_clusters(&written, &mut finding);
    check_logins(&written, &mut finding);
    check_poolers(&written, &mut finding);
    check_poll(&written.poll, &mut finding);
    let CloudWatch { wanted, instances } = cloudwatch(&written, &mut finding);
    let Rules { judged, awaiting } = rules(&written, &mut finding);
    let maintenance = maintenance(&written, &judged, &mut finding);
    check_notifiers(&written, &judged, &awaiting, &mut finding);
    check_heartbeat(&written, &mut finding);
    check_agent(&written, &mut finding);
    if !findings.is_empty() {
        return Err(findings);
    }

    let is_listed = |name: &str| written.cluster.iter().any(|cluster| cluster.name == *name);
    let (poolers, awaiting_poolers): (Vec<_>, Vec<_>) =
        written.pooler.iter().partition(|pooler| pooler.cluster.as_deref().is_none_or(is_listed));
    // Where none is named there is but one.
    let belongs = |pooler: &WrittenPooler, cluster: &str| pooler.cluster.as_deref().is_none_or(|own| own == cluster);
    // Those that cannot be used were found above.
    let placed = |pooler: &WrittenPooler, cluster: &str| {
        let conninfo = pooler.conninfo(&written.aws).ok()?;
        Some(Target { id: TargetId::new(cluster, &pooler.name), conninfo: Arc::new(conninfo) })
    };
    let awaiting_poolers =
        awaiting_poolers.into_iter().filter_map(|pooler| placed(pooler, pooler.cluster.as_deref()?)).collect();
    let groups = wanted.as_ref().map(|wanted| wanted.groups.clone()).unwrap_or_default();
    let redis_of = |cluster: &str| {
        let own = groups.iter().filter(|group| group.id.cluster.as_str() == cluster);
        own.map(|group| group.id.target.clone()).collect()
    };
    let cluster = |cluster: &WrittenCluster| Cluster {
        name: Name::new(&cluster.name),
        redis: redis_of(&cluster.name),
        poolers: poolers
            .iter()
            .filter(|pooler| belongs(pooler, &cluster.name))
            .filter_map(|pooler| placed(pooler, &cluster.name))
            .collect(),
        targets: cluster
            .target
            .iter()
            .filter_map(|target| {
                let conninfo = target.conninfo(&written.aws).ok()?;
                Some(Target { id: TargetId::new(&cluster.name, &target.name), conninfo: Arc::new(conninfo) })
            })
            .collect(),
    };
    let clusters = written.cluster.iter().map(cluster).collect();
    Ok(Config {
        server: written.server,
        poll: written.poll,
        statements: written.statements,
        health: written.health,
        agent_check: written.agent_check,
        metrics: written.metrics,
        heartbeat: written.heartbeat,
        store: written.store.file(|name| environment.get(name).cloned()),
        clusters,
        discover: written.discover,
        awaiting_poolers,
        wanted,
        rules: judged,
        awaiting_rules: awaiting,
        alerting: written.alerting,
        maintenance,
        aws: written.aws,
        cloudwatch: written.cloudwatch,
        instances,
        notifiers: if written.notify.is_empty() { vec![NotifierConfig::default()] } else { written.notify },
    })
}

fn check_agent(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    let agent = &written.agent_check;
    if agent.leave_at.is_zero() {
        finding(&["agent_check", "leave_at"], "every replica would leave; write for example \"10s\"".to_owned());
    }
    if agent.return_at > agent.leave_at {
        let (leave_at, return_at) = (told(agent.leave_at), told(agent.return_at));
        finding(
            &["agent_check", "return_at"],
            format!("{return_at} is more than leave_at ({leave_at}): a replica would return only to leave"),
        );
    }
    let targets = written.cluster.iter().flat_map(|cluster| {
        cluster.target.iter().map(|target| format!("{}/{}", cluster.name, target.name)).collect::<Vec<_>>()
    });
    let targets: Vec<String> = targets.collect();
    let known: Vec<&str> = targets.iter().map(String::as_str).collect();
    for (position, port) in agent.port.iter().enumerate() {
        if !known.contains(&port.target.as_str()) {
            let hint = did_you_mean(&port.target, &known);
            let reason = format!("there is no target {:?}{hint}; it is written \"cluster/target\"", port.target);
            finding(&["agent_check", "port", &position.to_string(), "target"], reason);
        }
    }
}

/// The rules alone.
pub(super) fn checked_rules(written: &Written) -> Result<Vec<Rule>, Vec<Finding>> {
    let mut findings = Vec::new();
    let rules = rules(written, &mut |path: &[&str], reason: String| {
        findings.push(Finding { path: path.iter().map(|step| (*step).to_owned()).collect(), reason });
    });
    if findings.is_empty() { Ok(rules.judged) } else { Err(findings) }
}

fn check_clusters(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    if written.cluster.is_empty() && written.discover.is_empty() {
        finding(
            &["cluster"],
            "nothing to watch; add a [[cluster]] with a [[cluster.target]], or a [[discover]]".to_owned(),
        );
    }
    for (position, discover) in written.discover.iter().enumerate() {
        if written.discover[..position].contains(discover) {
            finding(&["discover", &position.to_string()], "says the same as another [[discover]]".to_owned());
        }
        if let Err((key, reason)) = discover.check() {
            let position = position.to_string();
            let path: Vec<&str> = ["discover", &position, key].into_iter().filter(|step| !step.is_empty()).collect();
            finding(&path, reason);
        }
    }
    names("cluster", &["cluster"], written.cluster.iter().map(|cluster| cluster.name.as_str()), finding);
    for (position, cluster) in written.cluster.iter().enumerate() {
        let position = position.to_string();
        if cluster.target.is_empty() {
            finding(
                &["cluster", &position],
                "has no targets; add a [[cluster.target]] with a name and a dsn".to_owned(),
            );
        }
        let list = ["cluster", &position, "target"];
        names("target", &list, cluster.target.iter().map(|target| target.name.as_str()), finding);
    }
}

fn check_logins(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    for (place, cluster) in written.cluster.iter().enumerate() {
        for (position, target) in cluster.target.iter().enumerate() {
            if let Err(fault) = target.conninfo(&written.aws) {
                let (place, position) = (place.to_string(), position.to_string());
                let path = ["cluster", &place, "target", &position, fault.key];
                finding(if fault.key.is_empty() { &path[..4] } else { &path }, fault.reason);
            }
        }
    }
}

fn check_poolers(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    names("pooler", &["pooler"], written.pooler.iter().map(|pooler| pooler.name.as_str()), finding);
    let clusters: Vec<&str> = written.cluster.iter().map(|cluster| cluster.name.as_str()).collect();
    for (position, pooler) in written.pooler.iter().enumerate() {
        let position = position.to_string();
        let own = match &pooler.cluster {
            Some(name) => written.cluster.iter().find(|cluster| cluster.name == *name),
            None => written.cluster.first().filter(|_| clusters.len() == 1),
        };
        match (own, &pooler.cluster) {
            (Some(cluster), _) if cluster.target.iter().any(|target| target.name == pooler.name) => {
                finding(
                    &["pooler", &position, "name"],
                    format!("{:?} is taken by a target of the same cluster; give each its own", pooler.name),
                );
            }
            // What is found in AWS has names that nobody knows yet.
            (None, Some(_)) if !written.discover.is_empty() => {}
            (None, Some(name)) => {
                let hint = did_you_mean(name, &clusters);
                finding(&["pooler", &position, "cluster"], format!("there is no cluster {name:?}{hint}"));
            }
            (None, None) if clusters.len() != 1 => {
                finding(
                    &["pooler", &position],
                    "which of the clusters does it belong to? write cluster = \"...\"".to_owned(),
                );
            }
            _ => {}
        }
        if let Err(fault) = pooler.conninfo(&written.aws) {
            let path = ["pooler", &position, fault.key];
            finding(if fault.key.is_empty() { &path[..2] } else { &path }, fault.reason);
        }
        if pooler.dsn.dbname() != CONSOLE {
            finding(
                &["pooler", &position, "dsn"],
                format!(
                    "its database is {:?}; PgBouncer's admin console is the database {CONSOLE:?}: write for example \
                     postgresql://pgbouncer.example.internal:6432/{CONSOLE}",
                    pooler.dsn.dbname()
                ),
            );
        }
    }
}

/// The database that is PgBouncer's admin console. Any other would lead to a server.
const CONSOLE: &str = "pgbouncer";

fn check_poll(poll: &PollConfig, finding: &mut impl FnMut(&[&str], String)) {
    let given = [
        ("interval", Some(poll.interval), SHORTEST_INTERVAL),
        ("timeout", Some(poll.timeout), SHORTEST_INTERVAL),
        ("connect_timeout", Some(poll.connect_timeout), SHORTEST_INTERVAL),
        ("slow_interval", Some(poll.slow_interval), poll.interval),
        ("stale_after", poll.stale_after, poll.interval),
        ("burst", poll.burst, SHORTEST_INTERVAL),
        ("pooler_interval", Some(poll.pooler_interval), SHORTEST_INTERVAL),
    ];
    if let Some(burst) = poll.burst.filter(|burst| *burst > poll.interval) {
        let (burst, interval) = (told(burst), told(poll.interval));
        finding(&["poll", "burst"], format!("{burst} is longer than poll.interval ({interval}); leave it out"));
    }
    for (key, duration, shortest) in given.into_iter().filter_map(|(key, given, least)| Some((key, given?, least))) {
        if duration < shortest {
            finding(&["poll", key], format!("{} is too short; write at least \"{}\"", told(duration), told(shortest)));
        }
        if duration > LONGEST_INTERVAL {
            finding(&["poll", key], format!("{} is longer than a day; {MONTH_IS_MEANT}", told(duration)));
        }
    }
}

pub(super) fn told(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

fn check_heartbeat(written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    let Some(heartbeat) = &written.heartbeat else { return };
    let limits = Limits { answer: written.poll.stale_after(), failure: written.poll.longest_wait() };
    if let Err(fault) = Heartbeat::new(heartbeat, limits) {
        finding(&["heartbeat"], fault);
    }
    let own: Vec<Name> = written.notify.iter().enumerate().map(|(place, notifier)| notifier.name(place)).collect();
    let own: Vec<&str> = own.iter().map(Name::as_str).collect();
    match &heartbeat.notify {
        Some(name) if !own.contains(&name.as_str()) => {
            let hint = did_you_mean(name, &own);
            finding(&["heartbeat", "notify"], format!("there is no notifier {}{hint}", shown(name)));
        }
        _ => {}
    }
    let is_alertmanager = |notifier: &NotifierConfig| matches!(notifier, NotifierConfig::Alertmanager(_));
    if heartbeat.url.is_none() && heartbeat.notify.is_none() && !written.notify.iter().any(is_alertmanager) {
        finding(
            &["heartbeat"],
            "nobody would hear it; write url, or notify with the name of a notifier, or add a [[notify]] of type \"alertmanager\"".to_owned(),
        );
    }
}

/// The windows of maintenance, as far as they can be used.
fn maintenance(written: &Written, rules: &[Rule], finding: &mut impl FnMut(&[&str], String)) -> Vec<Window> {
    names("window", &["maintenance"], written.maintenance.iter().map(|window| window.name.as_str()), finding);
    let known = Known::of(written, rules);
    let mut windows = Vec::new();
    for (position, config) in written.maintenance.iter().enumerate() {
        let position = position.to_string();
        let window = match Window::parse(config) {
            Ok(window) => window,
            Err(fault) => {
                let path: Vec<&str> =
                    ["maintenance", &position, fault.key].into_iter().filter(|key| !key.is_empty()).collect();
                finding(&path, fault.reason);
                continue;
            }
        };
        known.check(&window.selector, &["maintenance", &position], finding);
        windows.push(window);
    }
    windows
}

/// Names that a selector may mean.
struct Known<'a> {
    clusters: Vec<&'a str>,
    targets: Vec<&'a str>,
    rules: Vec<&'a str>,
    /// What is found in AWS has names that nobody knows yet.
    may_be_found: bool,
}

impl<'a> Known<'a> {
    fn of(written: &'a Written, rules: &'a [Rule]) -> Self {
        let targets = written.cluster.iter().flat_map(|cluster| &cluster.target).map(|target| target.name.as_str());
        // A rule that is written but wrong is an error of its own.
        let rules = rules.iter().map(|rule| rule.name.as_str());
        Self {
            clusters: written.cluster.iter().map(|cluster| cluster.name.as_str()).collect(),
            targets: targets.chain(written.pooler.iter().map(|pooler| pooler.name.as_str())).collect(),
            rules: rules.chain(written.rule.iter().map(|rule| rule.name.as_str())).collect(),
            may_be_found: !written.discover.is_empty(),
        }
    }

    /// What a selector says that matches nothing there is, is a mistake.
    fn check(&self, selector: &Selector, place: &[&str], finding: &mut impl FnMut(&[&str], String)) {
        for (key, wanted, known) in [
            ("cluster", &selector.cluster, &self.clusters),
            ("target", &selector.target, &self.targets),
            ("rule", &selector.rule, &self.rules),
        ] {
            let may_be_found = self.may_be_found && key != "rule";
            for glob in wanted.iter().filter(|glob| !may_be_found && !known.iter().any(|name| glob.matches(name))) {
                finding(&[place, &[key]].concat(), no_such(key, glob, known));
            }
        }
    }
}

/// That a pattern matches nothing there is.
fn no_such(what: &str, glob: &Glob, known: &[&str]) -> String {
    if glob.is_pattern() {
        format!("no {what} matches {:?}", glob.as_str())
    } else {
        format!("there is no {what} {:?}{}", glob.as_str(), did_you_mean(glob.as_str(), known))
    }
}

fn check_notifiers(written: &Written, rules: &[Rule], awaiting: &[Name], finding: &mut impl FnMut(&[&str], String)) {
    let (notifiers, aws) = (&written.notify, Aws::new(written.aws.clone()));
    let own: Vec<Name> = notifiers.iter().enumerate().map(|(position, notifier)| notifier.name(position)).collect();
    names("notifier", &["notify"], own.iter().map(Name::as_str), finding);
    let mut known = Known::of(written, rules);
    // What the daemon says of itself.
    known.clusters.push(DAEMON);
    known.rules.push(isolation::RULE);
    known.rules.extend(awaiting.iter().map(Name::as_str));
    for (position, notifier) in notifiers.iter().enumerate() {
        let place = position.to_string();
        match notifier.route() {
            Ok(route) => known.check(&route, &["notify", &place], finding),
            Err(fault) => finding(&["notify", &place, fault.key], fault.reason),
        }
        if let Err(error) = notifier.clone().workers(position, &aws) {
            finding(&["notify", &place], error.fault);
        }
    }
}

/// Names of one list: each usable, none twice.
pub(super) fn names<'a>(
    what: &str,
    list: &[&str],
    names: impl Iterator<Item = &'a str>,
    finding: &mut impl FnMut(&[&str], String),
) {
    let mut seen = HashSet::new();
    for (position, name) in names.enumerate() {
        let position = position.to_string();
        let path: Vec<&str> = list.iter().copied().chain([position.as_str(), "name"]).collect();
        if !is_name(name) {
            finding(
                &path,
                format!(
                    "{name:?} cannot be a name; use letters, digits, \"-\", \"_\" and \".\", beginning with a letter or digit, at most {LONGEST_NAME}"
                ),
            );
        } else if !seen.insert(name) {
            finding(&path, format!("{name:?} is taken by another {what}; give each its own"));
        }
    }
}
