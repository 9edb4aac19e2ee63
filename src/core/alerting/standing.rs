//! For notifiers that take an alert for resolved when they no longer hear of it.
//!
//! They are told as all others are, alert by alert, and the ledger knows of it. Besides, once a minute and before anything
//! else after a start, they are sent all that they were told and that still fires. It makes no difference whether its
//! reading is known, or whether somebody has muted it since: it has not resolved, and nobody may take it for that.
//! One that was muted before they heard of it is not theirs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Alerting;
use crate::core::alert::{AlertView, Phase};
use crate::core::ledger::{Group, Notice, Purpose};
use crate::core::snapshot::ClusterView;
use crate::core::time::MonoTime;
use crate::core::topology::Name;

/// How often all that stands is sent. Prometheus' own figure.
const EVERY: Duration = Duration::from_secs(60);

/// How long what resolved is sent. An Alertmanager that loses its memory meanwhile can still say so.
const RESOLVED_FOR: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Default)]
pub(super) struct Standing {
    notifiers: Vec<Name>,
    /// `None` before the first time.
    next_at: Option<MonoTime>,
}

impl Standing {
    pub(super) fn set_notifiers(&mut self, notifiers: Vec<Name>) {
        if self.notifiers != notifiers {
            // Who is new hears at once of what stands.
            (self.notifiers, self.next_at) = (notifiers, None);
        }
    }
}

impl Alerting {
    /// These of the notifiers hear of a firing alert again and again.
    #[must_use]
    pub fn with_standing(mut self, notifiers: Vec<Name>) -> Self {
        self.standing.notifiers = notifiers;
        self
    }

    /// What stands, when its time has come.
    pub(super) fn stand(&mut self, clusters: &[Arc<ClusterView>], now: MonoTime, wall: SystemTime) -> Vec<Notice> {
        if self.standing.notifiers.is_empty() || self.standing.next_at.is_some_and(|next_at| now < next_at) {
            return Vec::new();
        }
        self.standing.next_at = Some(now.plus(EVERY));
        self.standing.notifiers.iter().filter_map(|notifier| self.standing(notifier, clusters, now, wall)).collect()
    }

    fn standing(
        &self,
        notifier: &Name,
        clusters: &[Arc<ClusterView>],
        now: MonoTime,
        wall: SystemTime,
    ) -> Option<Notice> {
        let stands = |alert: &&AlertView| match (alert.phase, alert.resolved_at) {
            (Phase::Firing, _) => self.ledger.has_heard(notifier, &alert.id),
            (Phase::Resolved, Some(resolved_at)) => {
                self.ledger.takes(notifier, alert) && now.duration_since(resolved_at) < RESOLVED_FOR
            }
            _ => false,
        };
        let alerts = self.views.values().flat_map(|views| views.iter());
        let own = self.isolation.shown(now);
        let alerts = alerts.chain(&own).filter(stands);
        let alerts: Vec<_> =
            alerts.map(|alert| self.entry(alert.clone(), String::new(), clusters, now, wall)).collect();
        (!alerts.is_empty()).then(|| Notice {
            notifier: notifier.clone(),
            group: Group::All,
            purpose: Purpose::Standing,
            alerts,
            also_firing: Vec::new(),
            dedup_key: "standing".to_owned(),
            attempt: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{alerting, at, delivery, exact, lagging, one, wall};
    use super::*;
    use crate::core::lag::LagEstimate;
    use crate::core::ledger::SendFailure;

    /// What is handed out at `second`, all of it taken or none.
    fn tick(alerting: &mut Alerting, second: f64, lag: Option<LagEstimate>, is_taken: bool) -> Vec<String> {
        let clusters = one(lag);
        let now = at(second);
        alerting.judge(&clusters, now, wall(second));
        let notices = alerting.due(&clusters, now, wall(second));
        for notice in &notices {
            let failure = SendFailure::Transient("away".to_owned());
            alerting.record(&delivery(notice, if is_taken { Ok(()) } else { Err(failure) }), now);
        }
        let words = |notice: &Notice| {
            let alerts = notice.alerts.iter().map(|entry| format!("{} {}", entry.alert.phase.as_str(), entry.alert.id));
            format!("{:?}: {}", notice.purpose, alerts.collect::<Vec<_>>().join(", "))
        };
        notices.iter().map(words).collect()
    }

    fn standing() -> Alerting {
        let alerting = alerting(&[lagging(None)]);
        alerting.with_standing(vec![Name::new("pager")])
    }

    #[test]
    fn what_fires_is_sent_each_minute_until_it_has_resolved_and_then_for_five_minutes() {
        let mut alerting = standing();
        assert_eq!(tick(&mut alerting, 0.0, exact(6.0), true), ["Alerts: firing Lag orders/r1"]);
        assert_eq!(tick(&mut alerting, 59.0, exact(6.0), true), [""; 0]);
        let firing = ["Standing: firing Lag orders/r1"];
        let resolved = ["Standing: resolved Lag orders/r1"];
        assert_eq!(tick(&mut alerting, 60.0, exact(6.0), true), firing);
        assert_eq!(tick(&mut alerting, 61.0, exact(6.0), true), [""; 0]);
        assert_eq!(
            tick(&mut alerting, 130.0, exact(0.0), true),
            ["Standing: resolved Lag orders/r1", "Alerts: resolved Lag orders/r1"]
        );
        for second in [190.0, 250.0, 310.0, 370.0] {
            assert_eq!(tick(&mut alerting, second, exact(0.0), true), resolved);
        }
        assert_eq!(tick(&mut alerting, 430.0, exact(0.0), true), [""; 0]);
    }

    #[test]
    fn what_was_never_told_does_not_stand() {
        let mut alerting = standing();
        assert_eq!(tick(&mut alerting, 0.0, exact(6.0), false), ["Alerts: firing Lag orders/r1"]);
        assert!(!tick(&mut alerting, 60.0, exact(6.0), false).iter().any(|notice| notice.starts_with("Standing")));
    }
}
