//! What a rule is about: clusters, targets, subjects by their labels, roles, certainties, causes.

use super::RuleConfig;
use super::condition::nearest;
use super::config::OneOrMany;
use super::fault::RuleFault;
use crate::core::cause::Cause;
use crate::core::glob::Glob;
use crate::core::lag::Certainty;
use crate::core::signal::{Read, Signal};
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::topology::{Name, Role};

/// Whether a rule is about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    Yes,
    No,
    /// It cannot be told, because the target has not yet said its role.
    Unknown,
}

/// What a rule keeps to. Each list that is empty lets all pass.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    clusters: Vec<Glob>,
    targets: Vec<Glob>,
    /// By the place of the label in those of the signal.
    labels: Vec<(usize, Vec<Glob>)>,
    role: Option<Role>,
    certainties: Vec<Certainty>,
    causes: Vec<Cause>,
}

impl Selector {
    pub(super) fn parse(config: &RuleConfig, signal: &'static Signal) -> Result<Self, RuleFault> {
        let about = match signal.read {
            Read::Cluster(_) => "one number for a whole cluster",
            Read::Pooler(_) => "of a connection pooler",
            Read::Target(_) => "",
        };
        let by_name = !config.target.0.is_empty() && matches!(signal.read, Read::Cluster(_));
        let selectors = [
            (by_name, "target"),
            (config.role.is_some(), "role"),
            (!config.certainty.0.is_empty(), "certainty"),
            (!config.cause.0.is_empty(), "cause"),
        ];
        if let Some((_, selector)) = selectors.into_iter().find(|(is_set, _)| *is_set && !about.is_empty()) {
            return Err(RuleFault::Selector { selector, signal: signal.name, about });
        }
        let certainty = |word: &String| {
            [Certainty::Exact, Certainty::AtLeast, Certainty::AtMost, Certainty::Unknown]
                .into_iter()
                .find(|certainty| certainty.as_str() == word)
                .ok_or_else(|| RuleFault::Certainty(word.clone()))
        };
        let cause = |word: &String| {
            Cause::named(word).ok_or_else(|| RuleFault::Cause {
                name: word.clone(),
                nearest: nearest(word, Cause::ALL.into_iter().map(Cause::as_str)),
            })
        };
        let label = |(name, OneOrMany(values)): (&String, &OneOrMany)| {
            let place = signal.labels.iter().position(|label| label == name);
            let place = place.ok_or_else(|| RuleFault::Where {
                name: name.clone(),
                signal: signal.name,
                has: match signal.labels {
                    [] => "it has none".to_owned(),
                    labels => format!("it has {}", labels.join(", ")),
                },
            })?;
            Ok((place, globs(values)))
        };
        Ok(Self {
            clusters: globs(&config.cluster.0),
            targets: globs(&config.target.0),
            labels: config.only.iter().map(label).collect::<Result<_, _>>()?,
            role: config.role,
            certainties: config.certainty.0.iter().map(certainty).collect::<Result<_, _>>()?,
            causes: config.cause.0.iter().map(cause).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn has_cluster(&self, cluster: &ClusterView) -> bool {
        any_matches(&self.clusters, cluster.name.as_str())
    }

    pub(super) fn has_name(&self, name: &Name) -> Selected {
        if any_matches(&self.targets, name.as_str()) { Selected::Yes } else { Selected::No }
    }

    /// Whether it is about the subject with these values of the signal's labels. The place as a whole has none, and
    /// nothing to tell it by.
    pub(super) fn has_labels(&self, values: &[&str]) -> bool {
        let matches = |(place, patterns): &(usize, Vec<Glob>)| {
            values.get(*place).is_none_or(|value| any_matches(patterns, value))
        };
        self.labels.iter().all(matches)
    }

    pub(super) fn has(&self, target: &TargetView) -> Selected {
        if self.has_name(&target.id.target) == Selected::No {
            return Selected::No;
        }
        if let Some(role) = self.role {
            match target.last_role() {
                None => return Selected::Unknown,
                Some(own) if own != role => return Selected::No,
                Some(_) => {}
            }
        }
        if !self.certainties.is_empty() {
            let certainty = target.lag.map_or(Certainty::Unknown, |lag| lag.certainty);
            if !self.certainties.contains(&certainty) {
                return Selected::No;
            }
        }
        if !self.causes.is_empty() {
            let cause = target.diagnosis.as_ref().and_then(|diagnosis| diagnosis.cause());
            if !cause.is_some_and(|told| self.causes.contains(&told.cause)) {
                return Selected::No;
            }
        }
        Selected::Yes
    }
}

fn globs(patterns: &[String]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::new(pattern)).collect()
}

fn any_matches(patterns: &[Glob], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}
