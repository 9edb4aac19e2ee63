//! Other rules and other notifiers than before, while alerts fire.

use std::collections::HashMap;
use std::time::Duration;

use super::{Alerting, Watch};
use crate::core::alert::{Gone, Track};
use crate::core::ledger::pacing::AlertingConfig;
use crate::core::ledger::{Ledger, Recipient};
use crate::core::rule::Rule;
use crate::core::time::MonoTime;
use crate::core::topology::Name;

impl Alerting {
    /// Judges by these rules from now on. A rule that keeps its name and its signal keeps its alerts, whatever else of it
    /// has changed: they are judged anew at the next judgement. The alerts of all others end.
    pub(in crate::core) fn set_rules(&mut self, rules: Vec<Rule>, poll_interval: Duration, now: MonoTime) {
        self.poll_interval = poll_interval;
        let before = std::mem::take(&mut self.rules);
        let mut before: HashMap<Name, Watch> =
            before.into_iter().map(|watch| (watch.rule.name.clone(), watch)).collect();
        for rule in rules {
            let known = before.remove(&rule.name);
            let watch = match known {
                Some(watch) if is_same_matter(&watch.rule, &rule) => watch.judged_by(rule),
                known => {
                    known.into_iter().for_each(|watch| watch.end(&mut self.ledger, now));
                    Watch { rule, alerts: HashMap::new() }
                }
            };
            self.rules.push(watch);
        }
        before.into_values().for_each(|watch| watch.end(&mut self.ledger, now));
    }

    /// Tells these from now on, in this way.
    pub(in crate::core) fn set_recipients(
        &mut self,
        recipients: Vec<Recipient>,
        config: AlertingConfig,
        now: MonoTime,
    ) {
        let standing = recipients.iter().filter(|recipient| recipient.is_standing);
        self.standing.set_notifiers(standing.map(|recipient| recipient.name.clone()).collect());
        self.ledger.set_recipients(recipients, config, now);
    }

    /// Forgets who followed whom in clusters that are watched no more.
    pub(in crate::core) fn forget_upstreams(&mut self, is_watched: impl Fn(&Name) -> bool) {
        self.upstreams.retain(is_watched);
    }
}

/// Whether the alerts of one rule can be those of the other.
fn is_same_matter(before: &Rule, after: &Rule) -> bool {
    let (before, after) = (before.condition.signal, after.condition.signal);
    before.name == after.name && before.labels == after.labels
}

impl Watch {
    fn judged_by(mut self, rule: Rule) -> Self {
        for alert in self.alerts.values_mut().flatten().filter(|alert| !alert.above.is_empty()) {
            let mut tracks: HashMap<_, Track> =
                self.rule.above.iter().map(|level| level.severity).zip(alert.above.drain(..)).collect();
            alert.above = rule.above.iter().map(|level| tracks.remove(&level.severity).unwrap_or_default()).collect();
        }
        self.rule = rule;
        self
    }

    /// Ends all alerts.
    fn end(mut self, ledger: &mut Ledger, now: MonoTime) {
        for (place, alerts) in &mut self.alerts {
            for alert in alerts {
                let before = alert.standing(&self.rule);
                alert.track = Track::default();
                // Nothing begins, so the time of day is of no use.
                alert.after_step(
                    &self.rule,
                    before,
                    Some(Gone::Unwatched),
                    place,
                    ledger,
                    (now, std::time::SystemTime::UNIX_EPOCH),
                );
            }
        }
    }
}
