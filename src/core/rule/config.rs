//! A rule as it is written, and how one that is written beside a preset's changes it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::core::alert::Severity;
use crate::core::topology::Role;

/// A rule as written under `[[rule]]`. What is not written is `None` or empty, so that a rule can be laid over a preset's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub name: String,
    /// `false`: as if it were not written, and a preset's rule of this name neither.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// `signal op value`: a signal's name, with or without `pgvigil_`; one of `> >= < <= == !=`; a value in the signal's
    /// unit (`5s`, `64MiB`, `80%`, `3`).
    #[serde(default)]
    pub when: Option<String>,
    /// With `when`. Not set: `warning`.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// Instead of `when`: the signal alone, and `op value` for one severity or several.
    #[serde(default)]
    pub signal: Option<String>,
    #[serde(default)]
    pub info: Option<String>,
    #[serde(default)]
    pub warning: Option<String>,
    #[serde(default)]
    pub critical: Option<String>,
    /// `op value` that must hold for the alert to resolve. Not set: that the condition no longer holds.
    #[serde(default)]
    pub clear: Option<String>,
    /// How long the condition must hold before the alert fires. Not set: a proven breach fires at once, one that rests on an
    /// estimate must last two poll intervals.
    #[serde(default, rename = "for", deserialize_with = "duration")]
    pub hold_for: Option<Duration>,
    /// Instead of `for`: in how many of the last periods the condition must have held, as `3 of 5`.
    #[serde(default)]
    pub datapoints: Option<String>,
    /// With `datapoints`: the length of a period.
    #[serde(default, deserialize_with = "duration")]
    pub every: Option<Duration>,
    /// How long the condition must be clear before the alert resolves. Not set: at once.
    #[serde(default, deserialize_with = "duration")]
    pub keep_firing_for: Option<Duration>,
    /// For so long after the daemon started nothing is made of readings: nothing fires, nothing resolves. Not set: not at all.
    #[serde(default, deserialize_with = "duration")]
    pub warm_up: Option<Duration>,
    #[serde(default)]
    pub when_unknown: Option<WhenUnknown>,
    /// Only these clusters, `*` and `?` as in a shell. Empty: all.
    #[serde(default)]
    pub cluster: OneOrMany,
    /// Only these targets, likewise. Empty: all.
    #[serde(default)]
    pub target: OneOrMany,
    /// Only subjects whose labels have these values, likewise: `{ slot = "cdc_*" }`.
    #[serde(default, rename = "where")]
    pub only: BTreeMap<String, OneOrMany>,
    /// Only targets of this role, by their own last word.
    #[serde(default)]
    pub role: Option<Role>,
    /// Only while the replica's lag is told with one of these certainties (`exact`, `at_least`, `at_most`, `unknown`). Empty: any.
    #[serde(default)]
    pub certainty: OneOrMany,
    /// Only while the replica lags, and this is the cause to act on first (`blocked_by_query`, ...). Empty: any, and none.
    #[serde(default)]
    pub cause: OneOrMany,
    /// What its alerts carry beside their own labels: `{ team = "dba" }`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// One line about the alert, with `{{ reading }}` and the like.
    #[serde(default)]
    pub summary: Option<String>,
    /// Where to read what to do: an address, likewise.
    #[serde(default)]
    pub runbook: Option<String>,
}

/// A name, or a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrManyForm")]
pub struct OneOrMany(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a name or a list of names")]
enum OneOrManyForm {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrManyForm> for OneOrMany {
    fn from(form: OneOrManyForm) -> Self {
        match form {
            OneOrManyForm::One(name) => Self(vec![name]),
            OneOrManyForm::Many(names) => Self(names),
        }
    }
}

impl OneOrMany {
    /// The later word, unless it says nothing.
    fn over(self, earlier: Self) -> Self {
        if self.0.is_empty() { earlier } else { self }
    }
}

/// What a rule makes of a reading that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnknown {
    /// The alert stays as it is: what is pending does not fire, what fires does not resolve.
    #[default]
    Hold,
    /// As if the condition did not hold.
    Clear,
    /// As if the condition held, though without proof.
    Breach,
    /// Not to know is itself what the alert is about, and it says so.
    Alert,
}

impl RuleConfig {
    /// A preset's rule with what a rule of the same name says otherwise. Keys that belong together are replaced together:
    /// how the condition is written, and how long it must hold.
    #[must_use]
    pub fn over(self, preset: Self) -> Self {
        let Self { when, severity, signal, info, warning, critical, clear, hold_for, datapoints, every, .. } = preset;
        let has_levels =
            self.signal.is_some() || self.info.is_some() || self.warning.is_some() || self.critical.is_some();
        let (when, severity, signal, [info, warning, critical], clear) = if self.when.is_some() {
            (self.when, self.severity.or(severity), self.signal, [self.info, self.warning, self.critical], self.clear)
        } else if has_levels {
            // Thresholds of another signal mean nothing for this one.
            let of_signal = when.as_deref().and_then(|when| when.split(['>', '<', '=', '!']).next());
            let named = signal.or(of_signal.map(|name| name.trim().to_owned()));
            let is_same = self.signal.is_none() || self.signal == named;
            let levels = [(self.info, info), (self.warning, warning), (self.critical, critical)]
                .map(|(own, given)| own.or(given.filter(|_| is_same)));
            let clear = self.clear.or(clear.filter(|_| is_same && when.is_none()));
            (None, self.severity, self.signal.or(named), levels, clear)
        } else {
            (when, self.severity.or(severity), signal, [info, warning, critical], self.clear.or(clear))
        };
        let (hold_for, datapoints, every) =
            if self.hold_for.is_some() || (self.datapoints.is_some() && self.every.is_some()) {
                (self.hold_for, self.datapoints, self.every)
            } else if self.datapoints.is_some() || self.every.is_some() {
                (None, self.datapoints.or(datapoints), self.every.or(every))
            } else {
                (hold_for, datapoints, every)
            };
        Self {
            name: self.name,
            enabled: self.enabled.or(preset.enabled),
            when,
            severity,
            signal,
            info,
            warning,
            critical,
            clear,
            hold_for,
            datapoints,
            every,
            keep_firing_for: self.keep_firing_for.or(preset.keep_firing_for),
            warm_up: self.warm_up.or(preset.warm_up),
            when_unknown: self.when_unknown.or(preset.when_unknown),
            cluster: self.cluster.over(preset.cluster),
            target: self.target.over(preset.target),
            only: if self.only.is_empty() { preset.only } else { self.only },
            role: self.role.or(preset.role),
            certainty: self.certainty.over(preset.certainty),
            cause: self.cause.over(preset.cause),
            labels: if self.labels.is_empty() { preset.labels } else { self.labels },
            summary: self.summary.or(preset.summary),
            runbook: self.runbook.or(preset.runbook),
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration such as \"1m\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Text).map(Some)
}
