//! What alerting keeps over a restart of the daemon, and how it takes it up again.

use std::collections::BTreeMap;

use super::isolation::Isolation;
use super::{Alert, Alerting, Place, Watch};
use crate::core::alert::{AlertId, AlertState, Gone, Phase, Recent, Track};
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
                    let Alert { track, above, worst, episode, resolved, recent, .. } = alert.clone();
                    // While one fires and no clock of its runs, it is not written at every reading.
                    let is_counting = track.is_counting() || above.iter().any(Track::is_counting);
                    let recent = if is_counting { recent } else { recent.settled() };
                    let severities = watch.rule.above.iter().map(|level| level.severity);
                    let above = severities.zip(above).collect();
                    saved.insert(id, SavedAlert { track, above, worst, episode, resolved, recent, account });
                }
            }
        }
        // Of what is forgotten somebody may still have to hear.
        for (id, account) in accounts {
            let (track, episode, above) = (Track::default(), account.episode, Vec::new());
            let (account, resolved, recent) = (Some(account), None, Recent::default());
            saved.insert(id.clone(), SavedAlert { track, above, worst: None, episode, resolved, recent, account });
        }
        saved
    }

    /// Takes up what was kept. Until its signal is known again an alert stays as it was. One whose rule is no more, or
    /// is about something else now, has ended: who heard of it is told so.
    pub fn restore(&mut self, saved: BTreeMap<AlertId, SavedAlert>, now: MonoTime) {
        for (id, mut saved) in saved {
            // Of another matter no reading says that this one got well.
            let is_about = |watch: &Watch| {
                let signal = saved.account.as_ref().and_then(|account| account.alert.condition.split(' ').next());
                signal.is_none_or(|signal| signal == watch.rule.condition.signal.name)
            };
            let watch = self.rules.iter_mut().find(|watch| watch.has(&id) && is_about(watch));
            let is_own = id == Isolation::id();
            let (is_kept, resolved) = (watch.is_some() || is_own, saved.resolved);
            if let Some(watch) = watch
                && (saved.track != Track::default() || resolved.is_some())
            {
                let place = Place { cluster: id.cluster.clone(), target: id.target.clone() };
                let level = |severity| {
                    saved
                        .above
                        .iter()
                        .find(|(of, _)| *of == severity)
                        .map_or_else(Track::default, |(_, track)| track.clone())
                };
                let mut alert = Alert {
                    labels: id.labels.iter().map(|(_, value)| value.clone()).collect(),
                    above: watch.rule.above.iter().map(|above| level(above.severity)).collect(),
                    is_unknown: saved.track.state != AlertState::Inactive,
                    track: saved.track,
                    worst: saved.worst,
                    episode: saved.episode,
                    reading: None,
                    recent: saved.recent,
                    cause: None,
                    resolved,
                    round: 0,
                };
                // Unless it is known since when: nothing is, from now on.
                alert.tracks().for_each(|track| track.hold(now));
                // The rule may be a severer one now, which is news.
                if let Some(account) = &mut saved.account
                    && account.alert.phase == Phase::Firing
                {
                    account.alert.severity = alert.standing(&watch.rule).1;
                }
                let alerts = watch.alerts.entry(place).or_default();
                // Taken up late, it may have begun here as well: what nobody was told of here gives way.
                match alerts.binary_search_by(|known| known.labels.cmp(&alert.labels)) {
                    Ok(_) if self.ledger.has(&id) => {}
                    Ok(place) => alerts[place] = alert,
                    Err(place) => alerts.insert(place, alert),
                }
            }
            if let Some(mut account) = saved.account {
                if is_own && account.alert.phase == Phase::Firing {
                    self.isolation.restore(account.alert.active_at, account.episode);
                }
                if !is_kept && account.alert.phase == Phase::Firing {
                    account.alert.phase = Phase::Resolved;
                    account.alert.resolved_at = Some(now);
                    account.alert.gone = Some(Gone::Unwatched);
                }
                self.ledger.restore(id, account, now);
            }
        }
        self.show(&[], now, None);
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
    use crate::core::alert::Severity;
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
    fn a_clock_that_ran_goes_on_running_and_the_outage_is_unknown() {
        let rules = [lagging(Some(60))];
        let mut alerting = alerting(&rules);
        assert_eq!(tick(&mut alerting, 0.0, &one(exact(6.0))), [""; 0]);
        assert_eq!(tick(&mut alerting, 40.0, &one(exact(46.0))), [""; 0]);
        // Written at 40, started again at 90, first answered at 100: a minute of nothing.
        let saved = Saved { alerts: alerting.saved(), at: Some(at(40.0)), ..Saved::default() };
        let mut alerting = super::super::tests::alerting(&rules);
        alerting.restore(saved.silent_alerts(), at(90.0));
        assert_eq!(tick(&mut alerting, 100.0, &one(exact(106.0))), [""; 0]);
        assert_eq!(tick(&mut alerting, 119.0, &one(exact(125.0))), [""; 0]);
        assert_eq!(tick(&mut alerting, 120.0, &one(exact(126.0))), ["firing Lag orders/r1 126"]);
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
    fn a_rule_that_is_severer_after_a_restart_is_told_so_and_a_milder_one_is_not() {
        let with = |severity| RuleConfig { severity: Some(severity), ..lagging(None) };
        let mut before = alerting(&[with(Severity::Warning)]);
        assert_eq!(tick(&mut before, 0.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
        let mut severer = restarted(&before, &[with(Severity::Critical)], 10.0);
        assert_eq!(tick(&mut severer, 10.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
        assert_eq!(tick(&mut severer, 11.0, &one(exact(6.0))), [""; 0]);
        let mut milder = restarted(&severer, &[with(Severity::Info)], 20.0);
        assert_eq!(tick(&mut milder, 20.0, &one(exact(6.0))), [""; 0]);
        assert_eq!(tick(&mut milder, 21.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);
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
        // It is about something else, which has nothing to do with what was told.
        let other = RuleConfig { when: Some("target_up == 0".to_owned()), ..lagging(None) };
        let mut after = restarted(&before, &[other], 10.0);
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
        // It was written 10 s before.
        let kept = Saved { alerts: before.saved(), at: Some(at(1020.0)), ..Saved::default() };
        let mut after = alerting(&rules);
        after.restore(kept.moved((5 - 1030) * 1_000_000_000).silent_alerts(), at(5.0));
        assert_eq!(tick(&mut after, 5.0, &one(exact(10.0))), [""; 0]);
        assert_eq!(tick(&mut after, 44.0, &one(exact(49.0))), [""; 0]);
        assert_eq!(tick(&mut after, 45.0, &one(exact(50.0))), ["firing Lag orders/r1 50"]);
    }

    #[test]
    fn while_nothing_turns_there_is_little_to_write() {
        let rules = [lagging(Some(60))];
        let mut alerting = alerting(&rules);
        let mut saved = Vec::new();
        for second in 0..260 {
            tick(&mut alerting, f64::from(second), &one(exact(10.0 + f64::from(second))));
            saved.push(alerting.saved());
        }
        let changes = |from: usize, to: usize| saved[from..to].windows(2).filter(|pair| pair[0] != pair[1]).count();
        // How long a breach has held must be known to the second; of one that fires, a reading a minute is kept.
        assert_eq!(changes(0, 60), 59);
        assert!((2..=3).contains(&changes(62, 260)), "{}", changes(62, 260));
    }

    #[test]
    fn what_another_daemon_told_is_taken_up_late() {
        let rules = [lagging(None)];
        let mut theirs = alerting(&rules);
        assert_eq!(tick(&mut theirs, 0.0, &one(exact(6.0))), ["firing Lag orders/r1 6"]);
        let saved = theirs.saved();

        // Here nothing fires, and whoever heard there hears of the end.
        let mut ours = alerting(&rules);
        assert_eq!(tick(&mut ours, 10.0, &one(exact(0.0))), [""; 0]);
        ours.restore(saved.clone(), at(11.0));
        assert_eq!(tick(&mut ours, 11.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);

        // Here it fires as well: it is told once more at the most, and its end once.
        let mut ours = alerting(&rules);
        assert_eq!(tick(&mut ours, 10.0, &one(exact(8.0))), ["firing Lag orders/r1 8"]);
        ours.restore(saved.clone(), at(11.0));
        assert_eq!(tick(&mut ours, 11.0, &one(exact(9.0))), [""; 0]);
        assert_eq!(tick(&mut ours, 12.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);

        // It fires here, nobody could be told, and it ends: they hear of it from us.
        let mut ours = alerting(&rules);
        ours.judge(&one(exact(8.0)), at(10.0), wall(10.0));
        ours.restore(saved, at(11.0));
        assert_eq!(tick(&mut ours, 12.0, &one(exact(0.0))), ["resolved Lag orders/r1 0"]);
    }

    #[test]
    fn quiet_subjects_keep_nothing() {
        let mut alerting = alerting(&[lagging(None)]);
        assert_eq!(tick(&mut alerting, 0.0, &one(exact(0.0))), [""; 0]);
        assert_eq!(alerting.saved(), BTreeMap::new());
    }
}
