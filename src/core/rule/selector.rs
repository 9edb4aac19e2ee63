//! What a rule is about: clusters, targets, subjects by their labels, roles, certainties, causes.

use super::RuleConfig;
use super::condition::nearest;
use super::config::OneOrMany;
use super::fault::RuleFault;
use crate::core::cause::Cause;
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
    clusters: Vec<String>,
    targets: Vec<String>,
    /// By the place of the label in those of the signal.
    labels: Vec<(usize, Vec<String>)>,
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
            Ok((place, values.clone()))
        };
        Ok(Self {
            clusters: config.cluster.0.clone(),
            targets: config.target.0.clone(),
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
        let matches = |(place, patterns): &(usize, Vec<String>)| {
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

fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
}

/// Whether `text` is what `pattern` says: `*` stands for any characters or none, `?` for one, all else for itself.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on should what follows the last star not fit: only the last one need ever be tried anew.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    (p, t) = (after_star, from + 1);
                    retry = Some((after_star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_anything() {
        for (pattern, text, expect) in [
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("orders*", "orders", true),
            ("orders*", "orders-eu", true),
            ("*-replica-?", "eu-replica-1", true),
            ("*-replica-?", "eu-replica-12", false),
            ("*-replica-?", "replica-1", false),
            ("*a*b", "xaxbxab", true),
            ("*a*b", "xaxbxabc", false),
            ("cdc_*_v?", "cdc_orders_v2", true),
            ("?", "é", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("[ab]", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expect, "{pattern} {text}");
        }
        // Many stars cost no more than their product with the text.
        assert!(!matches(&"*a".repeat(50), &"a".repeat(49)));
        assert!(matches(&"*a".repeat(50), &"ba".repeat(5000)));
    }
}
