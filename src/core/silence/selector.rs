//! Which alerts are meant: by cluster, target, rule, severity and labels.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::alert::{AlertId, Severity};
use crate::core::glob::Glob;
use crate::core::rule::OneOrMany;
use crate::core::topology::Name;

/// Patterns under one key, and keys of labels.
pub const MOST: usize = 100;

/// Characters of a pattern or of a label's name.
pub const LONGEST: usize = 256;

/// As written, under the same keys in the configuration and in the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectorConfig {
    pub cluster: OneOrMany,
    pub target: OneOrMany,
    pub rule: OneOrMany,
    pub severity: OneOrMany,
    pub labels: BTreeMap<String, String>,
}

/// What is wrong with a selector, and at which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorFault {
    pub key: &'static str,
    pub reason: String,
}

/// Everything that is said must be true of an alert; of several patterns under one key, one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    pub cluster: Vec<Glob>,
    pub target: Vec<Glob>,
    pub rule: Vec<Glob>,
    pub severity: Vec<Severity>,
    pub labels: BTreeMap<String, Glob>,
}

impl Selector {
    /// # Errors
    /// The first pattern that cannot be one.
    pub fn parse(config: &SelectorConfig) -> Result<Self, SelectorFault> {
        let fault = |key, reason| SelectorFault { key, reason };
        let globs = |key: &'static str, patterns: &OneOrMany| -> Result<Vec<Glob>, SelectorFault> {
            if patterns.0.len() > MOST {
                return Err(fault(key, format!("more than {MOST} patterns")));
            }
            let glob = |pattern: &String| glob(pattern).map_err(|reason| fault(key, reason));
            patterns.0.iter().map(glob).collect()
        };
        let severity = |word: &String| {
            let known = [Severity::Info, Severity::Warning, Severity::Critical];
            known
                .into_iter()
                .find(|severity| severity.as_str() == word)
                .ok_or_else(|| fault("severity", format!("{word:?} is not one of \"info\", \"warning\", \"critical\"")))
        };
        if config.labels.len() > MOST {
            return Err(fault("labels", format!("more than {MOST} labels")));
        }
        let label = |(name, pattern): (&String, &String)| {
            if !is_plain(name, LONGEST) {
                return Err(fault("labels", format!("{name:?} cannot be the name of a label")));
            }
            let pattern = glob(pattern).map_err(|reason| fault("labels", format!("{name}: {reason}")))?;
            Ok((name.clone(), pattern))
        };
        Ok(Self {
            cluster: globs("cluster", &config.cluster)?,
            target: globs("target", &config.target)?,
            rule: globs("rule", &config.rule)?,
            severity: config.severity.0.iter().map(severity).collect::<Result<_, _>>()?,
            labels: config.labels.iter().map(label).collect::<Result<_, _>>()?,
        })
    }

    /// Nothing is said: every alert is meant.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// An alert of a cluster as a whole is not meant by a selector of targets, nor one without a label by one of that label.
    pub fn matches(&self, alert: &AlertId, severity: Severity) -> bool {
        let one_of = |globs: &[Glob], name: Option<&str>| {
            globs.is_empty() || name.is_some_and(|name| globs.iter().any(|glob| glob.matches(name)))
        };
        let label = |name: &str| alert.labels.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        one_of(&self.cluster, Some(alert.cluster.as_str()))
            && one_of(&self.target, alert.target.as_ref().map(Name::as_str))
            && one_of(&self.rule, Some(alert.rule.as_str()))
            && (self.severity.is_empty() || self.severity.contains(&severity))
            && self.labels.iter().all(|(name, glob)| label(name).is_some_and(|value| glob.matches(value)))
    }
}

impl fmt::Display for Selector {
    /// For example `cluster=orders rule=ReplicaLagging|SlotRetainingWal slot=debezium`; `everything` when nothing is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        let severities: Vec<Glob> = self.severity.iter().map(|severity| Glob::new(severity.as_str())).collect();
        let named =
            [("cluster", &self.cluster), ("target", &self.target), ("rule", &self.rule), ("severity", &severities)];
        let mut parts: Vec<String> = named
            .into_iter()
            .filter(|(_, globs)| !globs.is_empty())
            .map(|(key, globs)| format!("{key}={}", globs.iter().map(Glob::as_str).collect::<Vec<_>>().join("|")))
            .collect();
        parts.extend(self.labels.iter().map(|(name, glob)| format!("{name}={glob}")));
        f.write_str(&parts.join(" "))
    }
}

fn glob(pattern: &str) -> Result<Glob, String> {
    if is_plain(pattern, LONGEST) {
        Ok(Glob::new(pattern))
    } else {
        Err(format!("{pattern:?} cannot be a pattern; write a name, with * for any characters and ? for one"))
    }
}

/// One line with something in it, of at most so many characters.
pub(in crate::core) fn is_plain(text: &str, longest: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= longest && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> OneOrMany {
        OneOrMany(text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    fn selector(cluster: &str, target: &str, rule: &str, severity: &str, labels: &[(&str, &str)]) -> Selector {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (cluster, target, rule, severity) = (one(cluster), one(target), one(rule), one(severity));
        Selector::parse(&SelectorConfig { cluster, target, rule, severity, labels }).expect("a selector")
    }

    #[test]
    fn all_that_is_said_must_be_true() {
        let slot = AlertId {
            rule: Name::new("SlotRetainingWal"),
            cluster: Name::new("orders"),
            target: Some(Name::new("orders-primary")),
            labels: vec![("slot".to_owned(), "debezium".to_owned())],
        };
        let whole = AlertId { target: None, labels: vec![], ..slot.clone() };
        for (selector, of_slot, of_cluster) in [
            (selector("", "", "", "", &[]), true, true),
            (selector("orders", "", "", "", &[]), true, true),
            (selector("billing,ord*", "", "", "", &[]), true, true),
            (selector("billing", "", "", "", &[]), false, false),
            (selector("orders", "*-primary", "", "", &[]), true, false),
            (selector("", "*", "", "", &[]), true, false),
            (selector("", "replica", "", "", &[]), false, false),
            (selector("", "", "Slot*", "", &[]), true, true),
            (selector("", "", "", "info,critical", &[]), true, true),
            (selector("", "", "", "warning", &[]), false, false),
            (selector("", "", "", "", &[("slot", "deb*")]), true, false),
            (selector("", "", "", "", &[("slot", "deb*"), ("x", "*")]), false, false),
        ] {
            assert_eq!(selector.matches(&slot, Severity::Critical), of_slot, "{selector}");
            assert_eq!(selector.matches(&whole, Severity::Critical), of_cluster, "{selector}");
        }
    }

    #[test]
    fn it_reads_as_it_is_written() {
        let all = selector("orders,bill*", "r1", "Lag", "critical", &[("slot", "a b")]);
        assert_eq!(all.to_string(), "cluster=orders|bill* target=r1 rule=Lag severity=critical slot=a b");
        assert_eq!(Selector::default().to_string(), "everything");
        let kept = serde_json::to_string(&all).expect("JSON");
        assert_eq!(serde_json::from_str::<Selector>(&kept).expect("a selector"), all);
    }

    #[test]
    fn what_cannot_be_a_pattern_is_named() {
        let long = "x".repeat(257);
        for (config, key, says) in [
            (SelectorConfig { cluster: one("orders, "), ..SelectorConfig::default() }, "cluster", "\" \" cannot be"),
            (SelectorConfig { target: one("a\nb"), ..SelectorConfig::default() }, "target", "\"a\\nb\" cannot be"),
            (SelectorConfig { rule: one(&long), ..SelectorConfig::default() }, "rule", "cannot be a pattern"),
            (
                SelectorConfig { severity: one("urgent"), ..SelectorConfig::default() },
                "severity",
                "\"urgent\" is not one of",
            ),
            (
                SelectorConfig { rule: OneOrMany(vec!["x".to_owned(); 101]), ..SelectorConfig::default() },
                "rule",
                "more than 100",
            ),
            (
                SelectorConfig {
                    labels: BTreeMap::from([("slot".to_owned(), String::new())]),
                    ..SelectorConfig::default()
                },
                "labels",
                "slot: \"\" cannot be",
            ),
        ] {
            let fault = Selector::parse(&config).expect_err("a fault");
            assert!(fault.key == key && fault.reason.contains(says), "{fault:?}");
        }
    }
}
