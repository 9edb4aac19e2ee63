//! One server under two names: two targets whose connection strings lead to the same place, by a host name and an address
//! for example, or by a mistake.
//!
//! It is told by what any role may read: a server process starts at an instant of its own, to the microsecond. An address
//! would not do: a server has several, and several servers share one behind a proxy.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::observation::Positions;
use crate::core::snapshot::TargetView;

/// Whether two answers are surely one server's.
pub fn is_one_server(one: &Positions, other: &Positions) -> bool {
    let (a, b) = (&*one.identity, &*other.identity);
    let differ = |a: Option<u64>, b: Option<u64>| matches!((a, b), (Some(a), Some(b)) if a != b);
    a.started_at == b.started_at
        && a.address.port.is_some()
        && (a.address.port, a.version_num) == (b.address.port, b.version_num)
        && !differ(a.system_identifier, b.system_identifier)
        && one.role() == other.role()
}

/// For each answer the place of the first one that is of the same server: its own, mostly.
pub fn firsts<'a>(answers: impl Iterator<Item = Option<&'a Positions>>) -> Vec<usize> {
    let mut started: HashMap<_, Vec<(usize, &Positions)>> = HashMap::new();
    let first = |(place, positions): (usize, Option<&'a Positions>)| {
        let Some(positions) = positions else { return place };
        let seen = started.entry(positions.identity.started_at).or_default();
        let known = seen.iter().find(|(_, other)| is_one_server(other, positions)).map(|(first, _)| *first);
        known.unwrap_or_else(|| {
            seen.push((place, positions));
            place
        })
    };
    answers.enumerate().map(first).collect()
}

/// The same of targets, by their last answers.
pub fn of_targets(targets: &[Arc<TargetView>]) -> Vec<usize> {
    firsts(targets.iter().map(|target| target.answer.as_ref().map(|answer| &*answer.positions)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture::{change_identity, primary, replica};
    use crate::core::time::ServerTime;

    fn at(mut view: TargetView, port: u16) -> TargetView {
        change_identity(&mut view, |identity| identity.address.port = Some(port));
        view
    }

    fn firsts_of(targets: &[TargetView]) -> Vec<usize> {
        of_targets(&targets.iter().cloned().map(Arc::new).collect::<Vec<_>>())
    }

    #[test]
    fn one_process_is_one_server_whatever_its_names_and_addresses() {
        let primary = |port| at(primary("orders", "a"), port);
        let changed = |change: fn(&mut crate::core::observation::Identity)| {
            let mut view = primary(5432);
            change_identity(&mut view, change);
            view
        };
        let by_another_address = changed(|identity| identity.address.own = "10.0.0.1".parse().ok());
        let without_the_grant = changed(|identity| identity.system_identifier = None);
        let restarted = changed(|identity| identity.started_at = ServerTime::from_unix_micros(1));
        let foreign = changed(|identity| identity.system_identifier = Some(1));
        let unknown_port = changed(|identity| identity.address.port = None);
        for (other, is_same) in [
            (primary(5432), true),
            (by_another_address, true),
            (without_the_grant, true),
            (restarted, false),
            (foreign, false),
            (unknown_port, false),
            (primary(5433), false),
            (at(replica("orders", "b"), 5432), false),
            (TargetView::new(primary(1).id, std::time::Duration::ZERO), false),
        ] {
            let expect = if is_same { [0, 0, 0] } else { [0, 1, 0] };
            assert_eq!(firsts_of(&[primary(5432), other, primary(5432)]), expect);
        }
    }
}
