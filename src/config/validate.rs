//! What no single part can check: names, and what one section says about another.

use std::collections::HashSet;

use super::error::did_you_mean;
use super::layers::KeyPath;
use super::{ClusterConfig, Config, parts};

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

pub(super) fn problems(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut finding = |path: &[&str], reason: String| {
        findings.push(Finding { path: path.iter().map(|step| (*step).to_owned()).collect(), reason });
    };

    if config.clusters.is_empty() {
        finding(&["cluster"], "nothing to watch; add a [[cluster]] with a [[cluster.target]]".to_owned());
    }
    names(&["cluster"], config.clusters.iter().map(|cluster| cluster.name.as_str()), &mut finding);
    for (position, cluster) in config.clusters.iter().enumerate() {
        targets(&position.to_string(), cluster, &mut finding);
    }
    names(&["rule"], config.rules.iter().map(|rule| rule.name.as_str()), &mut finding);
    names(&["notify"], config.notify.iter().map(|notifier| notifier.name()), &mut finding);
    for (position, rule) in config.rules.iter().enumerate() {
        let position = position.to_string();
        if let Err((key, reason)) = parts::check_rule(rule) {
            finding(&["rule", &position, key], reason);
        }
        let clusters: Vec<&str> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        if let Some(wanted) = &rule.cluster
            && !clusters.contains(&wanted.as_str())
        {
            finding(
                &["rule", &position, "cluster"],
                format!("there is no cluster {wanted:?}{}", did_you_mean(wanted, &clusters)),
            );
        }
        let targets: Vec<&str> =
            config.clusters.iter().flat_map(|cluster| &cluster.targets).map(|target| target.name.as_str()).collect();
        if let Some(wanted) = &rule.target
            && !targets.contains(&wanted.as_str())
        {
            finding(
                &["rule", &position, "target"],
                format!("there is no target {wanted:?}{}", did_you_mean(wanted, &targets)),
            );
        }
    }
    parts::check_poll(&config.poll, &mut finding);
    findings
}

fn targets(position: &str, cluster: &ClusterConfig, finding: &mut impl FnMut(&[&str], String)) {
    if cluster.targets.is_empty() {
        finding(&["cluster", position], "has no targets; add a [[cluster.target]] with a name and a dsn".to_owned());
    }
    let list = ["cluster", position, "target"];
    names(&list, cluster.targets.iter().map(|target| target.name.as_str()), finding);
    for (place, target) in cluster.targets.iter().enumerate() {
        if let Err(reason) = parts::check_dsn(target.dsn.expose()) {
            finding(&["cluster", position, "target", &place.to_string(), "dsn"], reason);
        }
    }
}

/// Names of one list: each usable, none twice.
fn names<'a>(list: &[&str], names: impl Iterator<Item = &'a str>, finding: &mut impl FnMut(&[&str], String)) {
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
            finding(&path, format!("{name:?} is taken by another {}; give each its own", list.last().unwrap_or(&"")));
        }
    }
}
