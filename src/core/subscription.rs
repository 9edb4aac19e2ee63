//! How far a subscription of logical replication is behind its publisher, where that is watched too: in the same
//! cluster, or in any other of the fleet.
//!
//! # Whose subscription it is
//!
//! The publisher's address is in the connection string, which only a superuser may read. But the subscription says the
//! name of its slot, and the publisher has that slot: a logical one of this name, on a single server of the fleet (on a
//! primary, should its standbys keep a copy; in use, should several primaries have one). Where more than one remains,
//! nobody can say which, and the lag is not known.
//!
//! # How far it is
//!
//! By the publisher's own word: what the subscriber has confirmed to have flushed (`flush_lsn` of the WAL sender that
//! reads from the slot, told at each fast poll in one answer with the end of the publisher's WAL; without `pg_monitor`,
//! after a reconnection, and while nothing reads from the slot, its `confirmed_flush_lsn`, told at each slow poll). That position is held against
//! the history of the publisher's WAL, as a replica's replay position is.
//!
//! WAL in which nothing is published moves the end of WAL, too. It is no lag: a WAL sender that has decoded all there is
//! tells so, the subscriber confirms it at once, and the position follows within milliseconds. So an idle publisher, and a
//! busy one of which nothing is published, read 0; a sender that is behind with decoding, and a subscriber that is
//! busy with one large transaction or waits for a lock, read as what they are. A transaction that is still open holds
//! nothing back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::lag::{Certainty, Evidence, LagEstimate, LagTracker};
use super::observation::WalSender;
use super::snapshot::{ClusterView, TargetView};
use super::survey::{Slot, Subscription, SurveyFacts};
use super::time::MonoTime;
use super::topology::{Role, TargetId};
use super::wal::{Lsn, WalBytes};

/// What is known of one subscription against its publisher.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionLag {
    pub datname: Arc<str>,
    pub name: Arc<str>,
    pub publisher: TargetId,
    /// Age of the oldest WAL that the publisher had flushed and the subscriber has not confirmed.
    pub lag: LagEstimate,
    /// WAL that the publisher has flushed and the subscriber has not confirmed.
    pub unconfirmed: Option<WalBytes>,
}

/// One cluster: who is in it, and the history of its WAL.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) view: &'a ClusterView,
    pub(crate) lag: &'a LagTracker,
}

/// A slot that a subscription may read from.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    place: Place<'a>,
    target: &'a TargetView,
    slot: &'a Slot,
}

/// The lags of all subscriptions of the fleet, by the places of their subscriber's cluster and of it therein. Those that
/// have none are left out.
pub(crate) fn lags(fleet: &[Place<'_>], now: MonoTime) -> Vec<(usize, usize, Vec<SubscriptionLag>)> {
    let targets = || {
        fleet.iter().enumerate().flat_map(|(cluster, place)| {
            place.view.targets.iter().enumerate().map(move |(position, target)| (cluster, position, target))
        })
    };
    let subscribers: Vec<(usize, usize, &[Subscription])> = targets()
        .filter_map(|(cluster, position, target)| {
            let subscriptions = target.fresh_survey(now)?.subscriptions.as_deref()?;
            (!subscriptions.is_empty()).then_some((cluster, position, subscriptions))
        })
        .collect();
    let wanted: HashSet<&str> =
        subscribers.iter().flat_map(|(_, _, subscriptions)| *subscriptions).filter_map(slot_name).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut candidates: HashMap<&str, Vec<Candidate<'_>>> = HashMap::new();
    for (cluster, _, target) in targets() {
        if target.links.same_as.is_some() {
            continue;
        }
        for slot in target.fresh_survey(now).and_then(|facts: &SurveyFacts| facts.slots.as_deref()).unwrap_or_default()
        {
            if slot.slot_type == "logical" && wanted.contains(slot.name.as_str()) {
                candidates.entry(&slot.name).or_default().push(Candidate { place: fleet[cluster], target, slot });
            }
        }
    }
    subscribers
        .into_iter()
        .map(|(cluster, position, subscriptions)| {
            let lags = subscriptions.iter().filter_map(|subscription| {
                publisher(candidates.get(slot_name(subscription)?)?)?.lag_of(subscription, now)
            });
            (cluster, position, lags.collect::<Vec<_>>())
        })
        .filter(|(_, _, lags)| !lags.is_empty())
        .collect()
}

fn slot_name(subscription: &Subscription) -> Option<&str> {
    subscription.slot_name.as_deref()
}

/// The one slot among those of a name. `None` when there is no telling.
fn publisher<'a>(candidates: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    let only = |wanted: &dyn Fn(&Candidate<'_>) -> bool| {
        let mut found = candidates.iter().filter(|candidate| wanted(candidate));
        found.next().filter(|_| found.next().is_none()).copied()
    };
    let on_primary = |candidate: &Candidate<'_>| candidate.target.last_role() == Some(Role::Primary);
    only(&|_| true)
        .or_else(|| only(&on_primary))
        .or_else(|| only(&|candidate| on_primary(candidate) && candidate.slot.active))
}

impl Candidate<'_> {
    /// `None` while the publisher does not answer, and when its WAL is not the one that its cluster's history is of.
    fn lag_of(&self, subscription: &Subscription, now: MonoTime) -> Option<SubscriptionLag> {
        let answer = self.target.fresh(now).filter(|_| self.target.is_up())?;
        let is_measured = self.place.view.is_primary_itself(self.target)
            || answer.positions.standby().is_some()
                && self.target.lag.is_some_and(|lag| lag.method.evidence != Evidence::ForeignCluster);
        if !is_measured {
            return None;
        }
        let history = self.place.lag;
        let (lsn, lag) = match self.sender(&answer.positions.senders) {
            Some(flushed) => (flushed, history.confirmed_lag(flushed, answer.asked_at, answer.answered_at)),
            None => self.by_slot(&answer.positions.senders, subscription, answer.answered_at)?,
        };
        Some(SubscriptionLag {
            datname: Arc::clone(&subscription.datname),
            name: Arc::clone(&subscription.name),
            publisher: self.target.id.clone(),
            lag,
            unconfirmed: history.flush_lsn().map(|end| end.bytes_ahead_of(lsn)),
        })
    }

    /// How far the sender is confirmed that reads from the slot. Known by its process alone: a standby may present itself
    /// with any name, a subscription's too.
    fn sender(&self, senders: &[WalSender]) -> Option<Lsn> {
        senders.iter().find(|sender| Some(sender.pid) == self.slot.active_pid)?.flush_lsn
    }

    /// What the last slow poll said of the slot. While nothing reads from it the position stands, and the lag grows.
    fn by_slot(&self, senders: &[WalSender], subscription: &Subscription, now: MonoTime) -> Option<(Lsn, LagEstimate)> {
        let lsn = self.slot.confirmed_flush_lsn?;
        let survey = self.target.survey.as_ref()?;
        let then = self.place.lag.confirmed_lag(lsn, survey.asked_at, survey.answered_at);
        let is_read = self.slot.active
            || senders.iter().any(|sender| sender.application_name.as_deref() == Some(&subscription.name));
        if is_read || now < survey.answered_at {
            return Some((lsn, then));
        }
        let today = self.place.lag.confirmed_lag(lsn, now, now);
        // Under another name a reader may have come since.
        let lower = then.lower.min(today.lower);
        let certainty = if lower < today.lower { today.certainty.max(Certainty::AtMost) } else { today.certainty };
        Some((lsn, LagEstimate { lower, certainty, ..today }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::fixture::{
        NOW, ago, change_positions, change_survey, cluster, fail, primary, replica, sender, slot,
    };
    use crate::core::observation::{Observation, SenderState};
    use crate::core::survey::SubscriptionWorkers;

    fn subscription(name: &str, slot_name: Option<&str>) -> Subscription {
        Subscription {
            datname: "app".into(),
            name: name.into(),
            enabled: true,
            slot_name: slot_name.map(Arc::from),
            workers: Some(SubscriptionWorkers::default()),
            tables: None,
            errors: Vec::new(),
            conflicts: Vec::new(),
        }
    }

    /// A primary with one subscription and no slots of its own.
    fn subscriber(slot_name: Option<&str>) -> TargetView {
        let mut view = primary("subs", "db");
        change_survey(&mut view, |facts| {
            facts.slots = Some(Vec::new());
            facts.subscriptions = Some(vec![subscription("orders", slot_name)]);
        });
        view
    }

    fn logical(active: bool, confirmed: u64) -> Slot {
        Slot {
            slot_type: "logical",
            confirmed_flush_lsn: Some(Lsn::new(confirmed)),
            active_pid: active.then_some(77),
            ..slot("orders_slot", active)
        }
    }

    fn with_slot(mut view: TargetView, slot: Slot) -> TargetView {
        change_survey(&mut view, |facts| facts.slots = Some(vec![slot]));
        view
    }

    /// A publisher with a sender (of process 77) that has `flushed`.
    fn publisher(slot: Slot, name: &str, flushed: Option<u64>) -> TargetView {
        let mut view = with_slot(primary("pubs", "db"), slot);
        change_positions(&mut view, |positions| {
            let flush_lsn = flushed.map(Lsn::new);
            positions.senders = vec![WalSender { pid: 77, flush_lsn, ..sender(name, Some(SenderState::Streaming)) }];
        });
        view
    }

    /// What is told of the subscription: publisher, lag, bytes. The publishers' WAL stood at 0/2FFF000 until 6 s ago.
    fn told(clusters: Vec<(&str, Vec<TargetView>)>) -> Option<(String, Option<f64>, Option<u64>)> {
        let views: Vec<(ClusterView, LagTracker)> = clusters
            .into_iter()
            .map(|(name, targets)| {
                let mut tracker = LagTracker::new(Duration::from_secs(1));
                for target in &targets {
                    let answer = target.answer.as_ref().expect("answered");
                    let mut positions = (*answer.positions).clone();
                    for (asked_at, lsn) in [(ago(7.01), Some(0x2FF_F000)), (ago(5.0), None), (answer.asked_at, None)] {
                        if let (Some(lsn), crate::core::observation::ServerState::Primary(state)) =
                            (lsn, &mut positions.state)
                        {
                            state.flush_lsn = Lsn::new(lsn);
                        } else {
                            positions = (*answer.positions).clone();
                        }
                        tracker.observe(&Observation {
                            target: target.id.clone(),
                            beat: 1,
                            asked_at,
                            answered_at: if asked_at == answer.asked_at { answer.answered_at } else { asked_at },
                            outcome: Ok(positions.clone()),
                        });
                    }
                }
                (cluster(name, targets, Vec::new()), tracker)
            })
            .collect();
        let places: Vec<Place<'_>> = views.iter().map(|(view, lag)| Place { view, lag }).collect();
        let found = lags(&places, NOW);
        assert!(found.len() <= 1);
        let (cluster, position, lags) = found.into_iter().next()?;
        assert_eq!((cluster, position, lags.len()), (0, 0, 1));
        let SubscriptionLag { publisher, lag, unconfirmed, .. } = &lags[0];
        let tenths = |seconds: f64| (seconds * 10.0).round() / 10.0;
        Some((publisher.to_string(), lag.value.map(tenths), unconfirmed.map(|bytes| bytes.0)))
    }

    #[test]
    fn the_publisher_is_found_by_the_slot_and_asked_by_its_sender() {
        let subs = || ("subs", vec![subscriber(Some("orders_slot"))]);
        let check = |target: TargetView, expect: Option<(f64, u64)>| {
            let expect = expect.map(|(lag, bytes)| ("pubs/db".to_owned(), Some(lag), Some(bytes)));
            assert_eq!(told(vec![subs(), ("pubs", vec![target])]), expect);
        };
        // Its process says how far it is, later than the slot does.
        check(publisher(logical(true, 0x2FF_F000), "x", Some(0x300_0000)), Some((0.0, 0)));
        check(publisher(logical(true, 0x300_0000), "x", Some(0x2FF_F000)), Some((5.5, 0x1000)));
        // Somebody of its name may be it, come back since, or be another: as of the slow poll, 4 s ago.
        check(publisher(logical(false, 0x2FF_F000), "orders", Some(0x300_0000)), Some((2.0, 0x1000)));
        // Its position may not be seen.
        check(publisher(logical(true, 0x2FF_F000), "x", None), Some((2.0, 0x1000)));
        // Nothing reads from the slot: it ages to the last answer.
        check(publisher(logical(false, 0x2FF_F000), "x", None), Some((5.5, 0x1000)));
        // Another slot, none, or one of a physical standby.
        check(publisher(slot("orders_slot", true), "orders", Some(0x300_0000)), None);
        check(publisher(Slot { name: "other".to_owned(), ..logical(true, 1) }, "orders", Some(1)), None);
        let silent = {
            let mut view = publisher(logical(true, 0x2FF_F000), "x", Some(0x300_0000));
            fail(&mut view, crate::core::observation::PollFailure::Refused);
            view
        };
        check(silent, None);
        let unnamed = vec![("subs", vec![subscriber(None)]), ("pubs", vec![publisher(logical(true, 1), "x", Some(1))])];
        assert_eq!(told(unnamed), None);
    }

    #[test]
    fn of_two_slots_of_one_name_nobody_knows_unless_one_is_a_copy_or_idle() {
        let at_rest = || publisher(logical(true, 0x300_0000), "x", Some(0x300_0000));
        let found = Some(("pubs/db".to_owned(), Some(0.0), Some(0)));
        let told_with = |others: Vec<TargetView>| {
            let pubs = ("pubs", vec![at_rest()]);
            told(vec![("subs", vec![subscriber(Some("orders_slot"))]), pubs, ("others", others)])
        };
        assert_eq!(told_with(vec![with_slot(replica("others", "r"), logical(false, 5))]), found);
        assert_eq!(told_with(vec![with_slot(primary("others", "db"), logical(false, 5))]), found);
        assert_eq!(told_with(vec![with_slot(primary("others", "db"), logical(true, 5))]), None);
    }
}
