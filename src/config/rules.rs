//! The rules that apply: those of presets and those that are written, and what they say about the rest.

use std::collections::HashSet;
use std::time::Duration;

use super::Written;
use super::cloudwatch::{is_read, with_named_metric};
use super::error::did_you_mean;
use super::validate::{MONTH_IS_MEANT, told};
use crate::core::glob::Glob;
use crate::core::rule::{Composed, Condition, Preset, Rule, RuleConfig, compose, preset};
use crate::core::signal::{SIGNALS, Signal, Unit};
use crate::core::topology::Name;

/// Longer than anything that an alert could wait for, or a lag that nobody would have noticed.
const LONGEST_IN_RULE: Duration = Duration::from_secs(30 * 24 * 3600 - 1);

/// The rules that apply.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) judged: Vec<Rule>,
    /// Those of presets that read what CloudWatch is not read for.
    pub(super) awaiting: Vec<Name>,
}

/// The rules that apply, as far as they can be used.
pub(super) fn rules(written: &Written, finding: &mut impl FnMut(&[&str], String)) -> Rules {
    let presets = presets(written, finding);
    let mut seen = HashSet::new();
    for (position, rule) in written.rule.iter().enumerate() {
        if !seen.insert(rule.name.as_str()) {
            let reason = format!("{:?} is taken by another rule; give each its own", rule.name);
            finding(&["rule", &position.to_string(), "name"], reason);
        }
    }
    let mut rules = Rules::default();
    let own = written.rule.iter().cloned().map(|rule| with_named_metric(rule, &written.cloudwatch.metric));
    let is_stated = |signal: &Signal| !signal.is_of_cloudwatch() || is_read(signal, written);
    for Composed { written: place, config } in compose(&presets, &own.collect::<Vec<_>>()) {
        let position = place.map(|place| place.to_string()).unwrap_or_default();
        let mut finding = |path: &[&str], reason| finding(&[&["rule", position.as_str()], path].concat(), reason);
        check_selection(&config, written, &mut finding);
        check_durations(&config, &mut finding);
        if config.when.is_none() && config.signal.is_none() {
            finding(&[], lacks_condition(&config, &presets));
            continue;
        }
        let (rule, is_judged) = match Rule::parse(&config, &SIGNALS) {
            Ok(rule) if is_stated(rule.condition.signal) => (rule, true),
            Ok(rule) if place.is_none() || !is_new(&config, &presets) => (rule, false),
            Ok(rule) => {
                let key = if config.when.is_some() { "when" } else { "signal" };
                let signal = rule.condition.signal;
                let way_out = match (written.cloudwatch.enabled, signal.name.starts_with("redis_")) {
                    (false, _) => "; write enabled = true in [cloudwatch]",
                    (true, true) => "; add a [[redis]]",
                    (true, false) => "; it needs the size of the volume, which a [[discover]] tells",
                };
                finding(&[key], format!("{} comes from CloudWatch, where it is not read{way_out}", signal.name));
                continue;
            }
            Err(error) => {
                finding(&[], error.fault.to_string());
                continue;
            }
        };
        check_thresholds(&config, &rule, &mut finding);
        match (config.enabled, is_judged) {
            (Some(false), _) => {}
            (_, true) => rules.judged.push(rule),
            (_, false) => rules.awaiting.push(rule.name),
        }
    }
    rules
}

/// The presets that are asked for by name.
fn presets(written: &Written, finding: &mut impl FnMut(&[&str], String)) -> Vec<Preset> {
    let known = Preset::ALL.map(Preset::as_str);
    let mut presets = Vec::new();
    for name in &written.preset.0 {
        match Preset::named(name) {
            Some(preset) if presets.contains(&preset) => {}
            Some(preset) => presets.push(preset),
            None => {
                let hint = did_you_mean(name, &known);
                finding(&["preset"], format!("there is no preset {name:?}; there are {}{hint}", known.join(", ")));
            }
        }
    }
    if let [first, second, ..] = presets.iter().filter(|preset| preset.is_of_postgres()).collect::<Vec<_>>()[..] {
        let (first, second) = (first.as_str(), second.as_str());
        finding(&["preset"], format!("{first:?} and {second:?} are both for PostgreSQL; choose one"));
        presets.clear();
    }
    presets
}

fn is_new(config: &RuleConfig, presets: &[Preset]) -> bool {
    !presets.iter().any(|preset| preset.rules().iter().any(|rule| rule.name == config.name))
}

/// Why a rule has no condition: it was to change a rule that there is not.
fn lacks_condition(config: &RuleConfig, presets: &[Preset]) -> String {
    let condition = "it has no condition; write for example when = \"replay_lag_seconds > 5s\"";
    if presets.is_empty() && preset().iter().any(|rule| rule.name == config.name) {
        return format!(
            "{condition}, or preset = \"default\" at the top to keep the built-in rules and change this one"
        );
    }
    let rules: Vec<RuleConfig> = presets.iter().flat_map(|preset| preset.rules()).collect();
    if rules.is_empty() {
        return condition.to_owned();
    }
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    let presets: Vec<&str> = presets.iter().map(|preset| preset.as_str()).collect();
    let hint = did_you_mean(&config.name, &names);
    format!("{condition}; {} has no rule of this name to change{hint}", presets.join(", "))
}

fn check_selection(config: &RuleConfig, written: &Written, finding: &mut impl FnMut(&[&str], String)) {
    if !written.discover.is_empty() {
        // What is found in AWS has names that nobody knows yet.
        return;
    }
    let clusters: Vec<&str> = written.cluster.iter().map(|cluster| cluster.name.as_str()).collect();
    let is_selected =
        |name: &str| config.cluster.0.is_empty() || config.cluster.0.iter().any(|own| Glob::new(own).matches(name));
    // A target elsewhere does not make a rule match that is about one cluster.
    let targets: Vec<&str> = written
        .cluster
        .iter()
        .filter(|cluster| is_selected(&cluster.name))
        .flat_map(|cluster| &cluster.target)
        .map(|target| target.name.as_str())
        .chain(written.pooler.iter().map(|pooler| pooler.name.as_str()))
        .collect();
    let place = match config.cluster.0.as_slice() {
        [] => String::new(),
        selected => format!(" in {}", selected.join(", ")),
    };
    let lists = [("cluster", &config.cluster, &clusters, ""), ("target", &config.target, &targets, place.as_str())];
    for (key, wanted, known, place) in lists {
        let has_none = |name: &&String| !known.iter().any(|known| Glob::new(name).matches(known));
        for name in wanted.0.iter().filter(has_none) {
            let reason = if Glob::new(name).is_pattern() {
                format!("no {key} matches {name:?}{place}")
            } else {
                format!("there is no {key} {name:?}{place}{}", did_you_mean(name, known))
            };
            finding(&[key], reason);
        }
    }
}

fn check_durations(config: &RuleConfig, finding: &mut impl FnMut(&[&str], String)) {
    let durations = [
        ("for", config.hold_for),
        ("every", config.every),
        ("keep_firing_for", config.keep_firing_for),
        ("warm_up", config.warm_up),
    ];
    for (key, duration) in durations {
        if let Some(duration) = duration.filter(|duration| *duration > LONGEST_IN_RULE) {
            finding(&[key], format!("{} is too long; {MONTH_IS_MEANT}", told(duration)));
        }
    }
}

fn check_thresholds(config: &RuleConfig, rule: &Rule, finding: &mut impl FnMut(&[&str], String)) {
    let is_too_long = |condition: &Condition| {
        condition.signal.unit == Unit::Seconds && condition.threshold > LONGEST_IN_RULE.as_secs_f64()
    };
    for (severity, condition) in rule.levels().filter(|(_, condition)| is_too_long(condition)) {
        let key = if config.when.is_some() { "when" } else { severity.as_str() };
        finding(&[key], format!("{:?}: the threshold is too long; {MONTH_IS_MEANT}", condition.text));
    }
}
