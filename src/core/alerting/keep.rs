//! What alerting keeps over a restart of the daemon, and how it takes it up again.

use std::collections::BTreeMap;

use super::{Alert, Alerting, Place, Watch};
use crate::core::alert::{AlertId, AlertState, Gone, Phase, Recent};
use crate::core::ledger::SavedAccount;
use crate::core::rule::Rule;
use crate::core::saved::SavedAlert;
use crate::core::time::MonoTime;

impl Alerting {
    /// What is to be kept. Asked after [`Alerting::due`] and before its notices leave, it knows that they may be heard.
    pub fn saved(&self) -> BTreeMap<AlertId, SavedAlert> {
        let mut accounts: BTreeMap<&AlertId, SavedAccount> = self.ledger.saved().collect();
        let mut saved = BTreeMap::new();
        for watch in &self.rules {
            for (place, alerts) in &watch.alerts {
                for alert in alerts {
                    let id = watch.id(place, alert);
                    let account = accounts.remove(&id);
                    let Alert { state, episode, resolved, recent, .. } = *alert;
                    saved.insert(id, SavedAlert { state, episode, resolved, recent, account });
                }
            }
        }
        // Of what is forgotten somebody may still have to hear.
        for (id, account) in accounts {
            let (state, episode) = (AlertState::Inactive, account.episode);
            saved.insert(
                id.clone(),
                SavedAlert { state, episode, resolved: None, recent: Recent::default(), account: Some(account) },
            );
        }
        saved
    }

    /// Takes up what was kept. Until its signal is known again an alert stays as it was. One whose rule is no more, or
    /// is about something else now, has ended: who heard of it is told so.
    pub fn restore(&mut self, saved: BTreeMap<AlertId, SavedAlert>, now: MonoTime) {
        // The map's order is that of the labels, in which the alerts of a place stand.
        for (id, saved) in saved {
            let watch = self.rules.iter_mut().find(|watch| watch.has(&id));
            let (is_kept, resolved) = (watch.is_some(), saved.resolved);
            if let Some(watch) = watch
                && (saved.state != AlertState::Inactive || resolved.is_some())
            {
                let place = Place { cluster: id.cluster.clone(), target: id.target.clone() };
                watch.alerts.entry(place).or_default().push(Alert {
                    labels: id.labels.iter().map(|(_, value)| value.clone()).collect(),
                    state: saved.state,
                    episode: saved.episode,
                    reading: None,
                    is_unknown: saved.state != AlertState::Inactive,
                    recent: saved.recent,
                    resolved,
                    round: 0,
                });
            }
            if let Some(mut account) = saved.account {
                if !is_kept && account.alert.phase == Phase::Firing {
                    account.alert.phase = Phase::Resolved;
                    account.alert.resolved_at = Some(now);
                    account.alert.gone = Some(Gone::Unwatched);
                }
                self.ledger.restore(id, account, now);
            }
        }
        self.show();
    }
}

impl Watch {
    fn id(&self, place: &Place, alert: &Alert) -> AlertId {
        let labels = self.rule.condition.signal.labels.iter().map(|&name| name.to_owned());
        AlertId {
            rule: self.rule.name.clone(),
            cluster: place.cluster.clone(),
            target: place.target.clone(),
            labels: labels.zip(alert.labels.iter().cloned()).collect(),
        }
    }

    /// Whether this rule can have this alert: its signal may have been exchanged.
    fn has(&self, id: &AlertId) -> bool {
        let Rule { name, condition, .. } = &self.rule;
        let names = id.labels.iter().map(|(name, _)| name.as_str());
        *name == id.rule && (id.labels.is_empty() || condition.signal.labels.iter().copied().eq(names))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{alerting, at, cluster, delivery, exact, lagging, one, replica, tick, wall};
    use super::*;
    use crate::core::ledger::SendFailure;
    use crate::core::rule::RuleConfig;
    use crate::core::saved::Saved;
    use crate::core::snapshot::ClusterView;

    /// The same after a restart: what was kept has been text meanwhile.
    fn restarted(before: &Alerting, rules: &[RuleConfig], second: f64) -> Alerting {
        let kept: Vec<(String, String)> = before
            .saved()
            .iter()
            .map(|(id, alert)| (serde_json::to_string(id).expect("text"), serde_json::to_string(alert).expect("text")))
            .collect();
        let read = kept.iter().map(|(id, alert)| {
            (serde_json::from_str(id).expect("an id"), serde_json::from_str(alert).expect("an alert"))
        });
        let mut after = alerting(rules);
        after.restore(read.collect(), at(second));
        after
    }

    fn nobody_answers() -> Vec<Arc<ClusterView>> {
        one(None)
    }

    #[test]
    fn what_was_told_is_not_told_again_and_its_end_is() {
        let rules = [lagging(None)];
        let mut alerting = alerting(&rules);
        assert_eq!(tick(&mut alerting, 0.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
        let mut alerting = restarted(&alerting, &rules, 10.0);
        // Nothing is known yet: it goes on firing, and nobody hears of it.
        assert_eq!(tick(&mut alerting, 10.0, &nobody_answers()), [""; 0]);
        assert_eq!(alerting.views(&crate::core::topology::Name::new("orders"))[0].phase, Phase::Firing);
        assert_eq!(tick(&mut alerting, 11.0, &one(exact(9.0))), [""; 0]);
        let mut alerting = restarted(&alerting, &rules, 20.0);
        assert_eq!(tick(&mut alerting, 20.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);
        let mut alerting = restarted(&alerting, &rules, 30.0);
        assert_eq!(tick(&mut alerting, 30.0, &one(exact(0.0))), [""; 0]);
    }

    #[test]
    fn a_clock_that_ran_goes_on_running() {
        let rules = [lagging(Some(60))];
        let mut alerting = alerting(&rules);
        assert_eq!(tick(&mut alerting, 0.0, &one(exact(6.0))), [""; 0]);
        let mut alerting = restarted(&alerting, &rules, 40.0);
        assert_eq!(tick(&mut alerting, 59.0, &one(exact(65.0))), [""; 0]);
        assert_eq!(tick(&mut alerting, 60.0, &one(exact(66.0))), ["firing Lag orders/r1 66"]);
    }

    #[test]
    fn an_attempt_that_was_under_way_counts_as_heard_or_not_whichever_is_safe() {
        let rules = [lagging(None)];
        let mut before = alerting(&rules);
        before.judge(&one(exact(6.0)), at(0.0), wall(0.0));
        // Nobody has been handed anything: it is told after the restart.
        let mut never = restarted(&before, &rules, 1.0);
        assert_eq!(tick(&mut never, 1.0, &one(exact(7.0))), ["firing Lag orders/r1 7"]);
        // ... and not at all when it has ended.
        let mut never = restarted(&before, &rules, 1.0);
        assert_eq!(tick(&mut never, 1.0, &one(exact(0.0))), [""; 0]);

        // Handed out, and the daemon died before the answer: it is told again, with the same key.
        let first = before.due(&one(exact(6.0)), at(0.0), wall(0.0)).remove(0);
        let mut again = restarted(&before, &rules, 1.0);
        again.judge(&one(exact(7.0)), at(1.0), wall(1.0));
        let second = again.due(&one(exact(7.0)), at(1.0), wall(1.0)).remove(0);
        assert_eq!(first.dedup_key, second.dedup_key);
        // ... and someone who may have heard that it fires hears that it ended.
        let mut ended = restarted(&before, &rules, 1.0);
        assert_eq!(tick(&mut ended, 1.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);

        // The attempt to say that it ended was under way: it is made again.
        let mut before = alerting(&rules);
        assert_eq!(tick(&mut before, 0.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
        before.judge(&one(exact(0.0)), at(1.0), wall(1.0));
        assert_eq!(before.due(&one(exact(0.0)), at(1.0), wall(1.0)).len(), 1);
        let mut after = restarted(&before, &rules, 2.0);
        assert_eq!(tick(&mut after, 2.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);
    }

    #[test]
    fn a_failed_attempt_is_made_again_after_the_restart() {
        let rules = [lagging(None)];
        let mut before = alerting(&rules);
        before.judge(&one(exact(6.0)), at(0.0), wall(0.0));
        let notice = before.due(&one(exact(6.0)), at(0.0), wall(0.0)).remove(0);
        before.record(&delivery(&notice, Err(SendFailure::Permanent("forbidden".to_owned()))), at(0.0));
        let mut after = restarted(&before, &rules, 1.0);
        assert_eq!(tick(&mut after, 1.0, &one(exact(7.0))), ["firing Lag orders/r1 7"]);
    }

    #[test]
    fn what_is_no_more_has_ended_for_those_who_heard_of_it() {
        let rules = [lagging(None)];
        let mut before = alerting(&rules);
        assert_eq!(tick(&mut before, 0.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
        // The rule is no more.
        let mut after = restarted(&before, &[], 10.0);
        assert_eq!(tick(&mut after, 10.0, &one(exact(6.0))), ["resolved Lag orders/r1 6"]);
        assert_eq!(after.saved(), BTreeMap::new());
        // The target is no more.
        let mut after = restarted(&before, &rules, 10.0);
        assert_eq!(tick(&mut after, 10.0, &cluster(vec![replica("r2", exact(0.0))])), ["resolved Lag orders/r1 ?"]);
    }

    #[test]
    fn on_another_clock_the_time_that_passed_is_the_same() {
        let rules = [lagging(Some(60))];
        let mut before = alerting(&rules);
        assert_eq!(tick(&mut before, 1000.0, &one(exact(6.0))), [""; 0]);
        // The machine booted: the clock that showed 1,030 shows 5 now.
        let kept = Saved { alerts: before.saved(), ..Saved::default() }.moved((5 - 1030) * 1_000_000_000);
        let mut after = alerting(&rules);
        after.restore(kept.alerts, at(5.0));
        assert_eq!(tick(&mut after, 34.0, &one(exact(39.0))), [""; 0]);
        assert_eq!(tick(&mut after, 35.0, &one(exact(40.0))), ["firing Lag orders/r1 40"]);
    }

    #[test]
    fn quiet_subjects_keep_nothing() {
        let mut alerting = alerting(&[lagging(None)]);
        assert_eq!(tick(&mut alerting, 0.0, &one(exact(0.0))), [""; 0]);
        assert_eq!(alerting.saved(), BTreeMap::new());
    }
}
