//! A failover behind one name, followed as one event.
//!
//! RDS keeps a Multi-AZ instance under one name. When its server is lost, the name leads to the standby in another zone as
//! soon as that has taken over. To us the target is away for a while and comes back as another process, mostly on another
//! timeline: an [`Outage`]. That this was a failover, and no restart and no lost network, is RDS' own word for it
//! (`DescribeEvents`), and nothing is taken for one without that word.
//!
//! | polls | RDS tells of a failover | what it is |
//! |---|---|---|
//! | fail | no | an outage, told by rules like any other |
//! | fail | yes, shortly before or since | a failover under way |
//! | are answered again, for less than [`SETTLES_IN`] | yes | a failover that settles: its replicas come back one by one |
//! | are answered again, for longer | either | nothing any more |
//! | never failed | yes | a failover elsewhere, or one that nobody felt |

use std::time::Duration;

use super::Name;
use crate::core::discovery::RdsEvent;
use crate::core::observation::Positions;
use crate::core::snapshot::TargetView;
use crate::core::time::MonoTime;
use crate::core::wal::Timeline;

/// For so long after a target is back, what its absence left behind is still put down to it.
pub const SETTLES_IN: Duration = Duration::from_secs(30);

/// What takes longer is no failover that works: whoever is away for so long is down, whatever RDS calls it.
pub const TAKES: Duration = Duration::from_secs(5 * 60);

/// RDS may tell of a failover this long before it is felt (one that was asked for), and after it is over.
const TOLD_BEFORE: Duration = Duration::from_secs(2 * 60);
const TOLD_AFTER: Duration = Duration::from_secs(5 * 60);

/// A target that is away, or was of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it last answered before.
    pub lost_at: MonoTime,
    /// When it answered again. `None`: it is away.
    pub back_at: Option<MonoTime>,
    /// Another process answered then.
    pub is_other_process: bool,
    /// On which timeline a primary was, and is: only where these differ.
    pub timelines: Option<(Timeline, Timeline)>,
}

impl Outage {
    /// What is so after one more poll. `last` is the answer before it.
    pub fn after(
        known: Option<Self>,
        last: Option<(MonoTime, &Positions)>,
        outcome: Result<&Positions, ()>,
        at: MonoTime,
    ) -> Option<Self> {
        let (last_at, last) = last?;
        let Ok(now) = outcome else {
            return Some(match known {
                // It comes back by fits and starts, or has not come back.
                Some(known) if known.back_at.is_none_or(|back_at| at.duration_since(back_at) < SETTLES_IN) => {
                    Self { back_at: None, ..known }
                }
                _ => Self { lost_at: last_at, back_at: None, is_other_process: false, timelines: None },
            });
        };
        if let (Some(was), Some(is)) = (last.identity.system_identifier, now.identity.system_identifier)
            && was != is
        {
            return None;
        }
        let is_other_process = last.identity.started_at != now.identity.started_at;
        let timelines = last.primary().zip(now.primary()).map(|(last, now)| (last.timeline, now.timeline));
        let timelines = timelines.filter(|(was, is)| was != is);
        match known {
            Some(known) if known.back_at.is_none() => Some(Self {
                back_at: Some(at),
                is_other_process: known.is_other_process || is_other_process,
                timelines: known.timelines.or(timelines),
                ..known
            }),
            // It was away for less than it takes to be missed.
            _ if is_other_process => Some(Self { lost_at: last_at, back_at: Some(at), is_other_process, timelines }),
            _ => known,
        }
    }

    /// For how long nobody was there; until now if nobody is.
    pub fn away(&self, now: MonoTime) -> Duration {
        self.back_at.unwrap_or(now).duration_since(self.lost_at)
    }

    /// Whether RDS told of a failover of this target then.
    fn is_failover(&self, target: &Name, events: &[RdsEvent]) -> bool {
        let is_told = |event: &RdsEvent| {
            let happening = &event.happening;
            happening.source == *target
                && happening.categories.iter().any(|category| category.contains("failover"))
                && self.lost_at.duration_since(event.at) <= TOLD_BEFORE
                && self.back_at.is_none_or(|back_at| event.at.duration_since(back_at) <= TOLD_AFTER)
        };
        events.iter().any(is_told)
    }
}

/// The outage of a target, if it is a failover that is under way or settles.
pub fn of(target: &TargetView, events: &[RdsEvent], now: MonoTime) -> Option<Outage> {
    let outage = target.outage?;
    let is_fresh = outage.back_at.is_none_or(|back_at| now.duration_since(back_at) < SETTLES_IN);
    (is_fresh && outage.is_failover(&target.id.target, events)).then_some(outage)
}

/// Whether a target of RDS went away of late and is not back: RDS may have a word for it soon.
pub fn may_be_under_way(target: &TargetView, now: MonoTime) -> bool {
    let is_away = |outage: Outage| outage.back_at.is_none() && outage.away(now) < TAKES;
    target.instance.is_some() && target.outage.is_some_and(is_away)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::discovery::Happening;
    use crate::core::fixture::{self, NOW, ago, change_identity, change_positions, server_time};
    use crate::core::observation::ServerState;

    fn positions(view: &TargetView) -> Positions {
        (*view.answer.as_ref().expect("has answered").positions).clone()
    }

    /// The server, the one that takes its place, and one of another cluster.
    fn servers() -> (Positions, Positions, Positions) {
        let mut other = fixture::primary("orders", "p");
        let first = positions(&other);
        change_identity(&mut other, |identity| identity.started_at = server_time(-50));
        change_positions(&mut other, |positions| {
            if let ServerState::Primary(state) = &mut positions.state {
                state.timeline = Timeline(state.timeline.0 + 1);
            }
        });
        let second = positions(&other);
        change_identity(&mut other, |identity| identity.system_identifier = Some(9));
        (first, second, positions(&other))
    }

    #[derive(Clone, Copy, Debug)]
    enum Poll {
        Fails,
        First,
        Second,
        Foreign,
    }
    use Poll::{Fails, First, Foreign, Second};

    /// What is known after polls at so many seconds before now.
    fn after(polls: &[(f64, Poll)]) -> Option<Outage> {
        let (first, second, foreign) = servers();
        let (mut known, mut last): (Option<Outage>, Option<(MonoTime, &Positions)>) = (None, None);
        for (seconds_ago, poll) in polls {
            let at = ago(*seconds_ago);
            let outcome = match poll {
                Fails => Err(()),
                First => Ok(&first),
                Second => Ok(&second),
                Foreign => Ok(&foreign),
            };
            known = Outage::after(known, last, outcome, at);
            last = outcome.ok().map(|positions| (at, positions)).or(last);
        }
        known
    }

    #[test]
    fn an_outage_lasts_from_the_last_answer_to_the_next() {
        let timeline = servers().0.primary().expect("a primary").timeline;
        let timelines = Some((timeline, Timeline(timeline.0 + 1)));
        let told = |lost: f64, back: Option<f64>, is_other_process: bool| {
            let timelines = timelines.filter(|_| is_other_process);
            Some(Outage { lost_at: ago(lost), back_at: back.map(ago), is_other_process, timelines })
        };
        for (polls, expect) in [
            (&[(60.0, First), (59.0, First)] as &[_], None),
            // It was never there.
            (&[(60.0, Fails), (59.0, First)], None),
            (&[(60.0, First), (57.0, Fails), (50.0, Fails)], told(60.0, None, false)),
            (&[(60.0, First), (57.0, Fails), (19.0, Second), (18.0, Second)], told(60.0, Some(19.0), true)),
            // The network alone.
            (&[(60.0, First), (57.0, Fails), (19.0, First)], told(60.0, Some(19.0), false)),
            // Nobody missed it.
            (&[(60.0, First), (59.0, Second)], told(60.0, Some(59.0), true)),
            // By fits and starts.
            (&[(60.0, First), (57.0, Fails), (19.0, Second), (15.0, Fails)], {
                told(60.0, Some(19.0), true).map(|outage| Outage { back_at: None, ..outage })
            }),
            (
                &[(60.0, First), (57.0, Fails), (19.0, Second), (15.0, Fails), (9.0, Second)],
                told(60.0, Some(9.0), true),
            ),
            // Long after, it is another matter.
            (&[(99.0, First), (97.0, Fails), (89.0, Second), (15.0, Second), (14.0, Fails)], told(15.0, None, false)),
            (&[(60.0, First), (57.0, Fails), (19.0, Foreign)], None),
        ] {
            assert_eq!(after(polls), expect, "{polls:?}");
        }
        assert_eq!(after(&[(60.0, First), (57.0, Fails), (19.0, Second)]).map(|it| it.away(NOW).as_secs()), Some(41));
        assert_eq!(after(&[(60.0, First), (57.0, Fails)]).map(|it| it.away(NOW).as_secs()), Some(60));
    }

    #[test]
    fn only_rds_makes_a_failover_of_it_and_only_for_a_while() {
        let event = |seconds_ago: f64, source: &str, category: &str| RdsEvent {
            at: ago(seconds_ago),
            happening: Happening {
                source: Name::new(source),
                unix_seconds: 0,
                categories: vec![category.to_owned()],
                message: "Multi-AZ instance failover started".to_owned(),
            },
        };
        let away = &[(60.0, First), (57.0, Fails)] as &[_];
        let back = &[(60.0, First), (57.0, Fails), (19.0, Second)] as &[_];
        let long_back = &[(99.0, First), (97.0, Fails), (31.0, Second)] as &[_];
        for (polls, events, expect) in [
            (away, vec![], false),
            (away, vec![event(50.0, "p", "failover")], true),
            // It was asked for.
            (away, vec![event(179.0, "p", "failover")], true),
            (away, vec![event(181.0, "p", "failover")], false),
            (away, vec![event(50.0, "p", "availability")], false),
            (away, vec![event(50.0, "r1", "failover")], false),
            (back, vec![event(50.0, "p", "failover"), event(5.0, "p", "availability")], true),
            // Told late.
            (back, vec![event(1.0, "p", "failover")], true),
            (back, vec![], false),
            (long_back, vec![event(90.0, "p", "failover")], false),
            (&[(60.0, First), (59.0, First)], vec![event(50.0, "p", "failover")], false),
        ] {
            let mut target = fixture::primary("orders", "p");
            target.outage = after(polls);
            assert_eq!(of(&target, &events, NOW).is_some(), expect, "{polls:?} {events:?}");
        }
    }
}
