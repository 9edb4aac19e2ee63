//! What changed of late in who is who: promotions, and how long lag rules hold their breath after one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Name, Role};
use crate::core::observation::Positions;
use crate::core::time::MonoTime;
use crate::core::wal::Timeline;

/// As many events as a cluster remembers.
const KEPT: usize = 32;

/// For so long after a promotion a lag that arose since is not held against anyone: replicas find the new primary in
/// seconds, some after their fail-over manager's next round or two.
pub const LAG_HOLD: Duration = Duration::from_secs(60);

/// A server is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyEvent {
    /// When the answer that showed it was in hand.
    pub at: MonoTime,
    pub target: Name,
    pub change: Change,
    /// The timeline that it is on now.
    pub timeline: Option<Timeline>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A replica has become a primary.
    Promoted,
    /// A primary has become a replica.
    Demoted,
    /// A primary writes another timeline: it was promoted unseen, or another server answers at its address.
    NewTimeline,
}

impl Change {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Demoted => "demoted",
            Self::NewTimeline => "new_timeline",
        }
    }

    /// What one target's answer says beside its last one. `None` when it is what it was, and when it is a server of
    /// another cluster, which was never anything else.
    pub fn between(before: &Positions, after: &Positions) -> Option<Self> {
        if let (Some(was), Some(is)) = (before.identity.system_identifier, after.identity.system_identifier)
            && was != is
        {
            return None;
        }
        match (before.role(), after.role()) {
            (Role::Replica, Role::Primary) => Some(Self::Promoted),
            (Role::Primary, Role::Replica) => Some(Self::Demoted),
            (Role::Primary, Role::Primary) => {
                let timeline = |positions: &Positions| positions.primary().map(|primary| primary.timeline);
                (timeline(before) < timeline(after)).then_some(Self::NewTimeline)
            }
            (Role::Replica, Role::Replica) => None,
        }
    }
}

/// The events with one more, the oldest of too many forgotten.
pub fn with(events: &[TopologyEvent], event: TopologyEvent) -> Arc<[TopologyEvent]> {
    let kept = events.len().min(KEPT - 1);
    events[events.len() - kept..].iter().cloned().chain([event]).collect()
}

/// How long ago the cluster got its present primary by a promotion, while lag rules hold their breath for it.
pub fn since_promotion(events: &[TopologyEvent], primary: Option<&Name>, now: MonoTime) -> Option<Duration> {
    let promoted = |event: &&TopologyEvent| {
        matches!(event.change, Change::Promoted | Change::NewTimeline) && Some(&event.target) == primary
    };
    let since = now.duration_since(events.iter().rev().find(promoted)?.at);
    (since < LAG_HOLD).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture::{NOW, ago, change_identity, change_positions, primary, replica};
    use crate::core::observation::ServerState;
    use crate::core::snapshot::TargetView;

    fn event(seconds_ago: f64, target: &str, change: Change) -> TopologyEvent {
        TopologyEvent { at: ago(seconds_ago), target: Name::new(target), change, timeline: None }
    }

    fn positions(view: &TargetView) -> &Positions {
        &view.answer.as_ref().expect("has answered").positions
    }

    #[test]
    fn an_answer_beside_the_last_one_shows_what_changed() {
        let (primary, replica) = (primary("orders", "db-1"), replica("orders", "db-1"));
        let mut later = primary.clone();
        change_positions(&mut later, |positions| match &mut positions.state {
            ServerState::Primary(state) => state.timeline = Timeline(4),
            ServerState::Standby(_) | ServerState::Aurora(_) => panic!("not a primary"),
        });
        let mut foreign = primary.clone();
        change_identity(&mut foreign, |identity| identity.system_identifier = Some(9));
        for (before, after, expect) in [
            (&primary, &primary, None),
            (&replica, &replica, None),
            (&replica, &primary, Some(Change::Promoted)),
            (&primary, &replica, Some(Change::Demoted)),
            (&primary, &later, Some(Change::NewTimeline)),
            (&later, &primary, None),
            (&replica, &foreign, None),
        ] {
            assert_eq!(Change::between(positions(before), positions(after)), expect);
        }
    }

    #[test]
    fn only_the_last_events_are_kept() {
        let events = (0..100).fold(Arc::from([]), |events: Arc<[TopologyEvent]>, n| {
            with(&events, event(200.0 - f64::from(n), "db-1", Change::Promoted))
        });
        assert_eq!(events.len(), KEPT);
        assert_eq!(events.last().map(|event| event.at), Some(ago(101.0)));
        assert_eq!(events[0].at, ago(132.0));
    }

    #[test]
    fn only_the_present_primarys_promotion_is_waited_for() {
        let check = |events: &[TopologyEvent], primary: Option<&str>, expect: Option<u64>| {
            let since = since_promotion(events, primary.map(Name::new).as_ref(), NOW);
            assert_eq!(since.map(|since| since.as_secs()), expect);
        };
        let promoted = event(30.0, "db-2", Change::Promoted);
        check(&[], Some("db-2"), None);
        check(std::slice::from_ref(&promoted), Some("db-2"), Some(30));
        check(&[event(30.0, "db-2", Change::NewTimeline)], Some("db-2"), Some(30));
        check(&[promoted.clone(), event(10.0, "db-1", Change::Demoted)], Some("db-2"), Some(30));
        // A server that calls itself a primary, but is not the one that lag is measured against.
        check(std::slice::from_ref(&promoted), Some("db-1"), None);
        check(&[promoted], None, None);
        check(&[event(61.0, "db-2", Change::Promoted)], Some("db-2"), None);
    }
}
