//! A server's WAL senders as people know them: by the standby's name, its address and the slot it uses.
//!
//! Two senders of one name on one machine without slots are told as one; and since names come from whoever connects, the
//! longest connected are told by name, and all others together.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::observation::{Positions, SenderState, WalSender};
use super::survey::Slot;
use super::time::ServerTime;
use super::topology::Role;
use super::wal::{Lsn, WalBytes};

/// As many groups of senders of a server are told by name. A server rarely lets more than a few dozen connect.
pub const SENDERS_SHOWN: usize = 40;

/// What senders are told apart by. Empty where there is none, or it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SenderName<'a> {
    pub application_name: Cow<'a, str>,
    pub client_addr: &'a str,
    pub slot: &'a str,
}

/// Senders that have one name.
#[derive(Clone, Debug, PartialEq)]
pub struct SenderGroup<'a> {
    pub name: SenderName<'a>,
    /// At least one.
    pub senders: Vec<&'a WalSender>,
}

/// The senders by name, the longest connected first. The last one may be `other`: those that are not told by name.
pub fn groups<'a>(senders: &'a [WalSender], slots: &'a [Slot]) -> Vec<SenderGroup<'a>> {
    let mut groups = all_groups(senders, slots);
    if groups.len() > SENDERS_SHOWN {
        let rest = groups.split_off(SENDERS_SHOWN);
        let name = SenderName { application_name: Cow::Borrowed("other"), ..SenderName::default() };
        // One that calls itself so belongs there.
        let (namesakes, named) = groups.into_iter().partition(|group| group.name == name);
        groups = named;
        let others: Vec<SenderGroup<'a>> = namesakes;
        let senders = others.into_iter().chain(rest).flat_map(|group| group.senders).collect();
        groups.push(SenderGroup { name, senders });
    }
    groups
}

/// How many groups are not told by name.
pub fn left_out(senders: &[WalSender], slots: &[Slot]) -> usize {
    // Most servers have fewer senders than there are places.
    if senders.len() <= SENDERS_SHOWN { 0 } else { all_groups(senders, slots).len().saturating_sub(SENDERS_SHOWN) }
}

fn all_groups<'a>(senders: &'a [WalSender], slots: &'a [Slot]) -> Vec<SenderGroup<'a>> {
    let mut by_name: BTreeMap<SenderName<'a>, Vec<&'a WalSender>> = BTreeMap::new();
    let used: Vec<(i32, &str)> = match senders {
        [] => Vec::new(),
        _ => slots.iter().filter_map(|slot| Some((slot.active_pid?, slot.name.as_str()))).collect(),
    };
    for sender in senders {
        let slot = used.iter().find(|(pid, _)| *pid == sender.pid).map_or("", |(_, slot)| slot);
        let name = SenderName {
            application_name: told_as(sender.application_name.as_deref().unwrap_or_default()),
            client_addr: sender.client_addr.as_deref().unwrap_or_default(),
            slot,
        };
        by_name.entry(name).or_default().push(sender);
    }
    let mut groups: Vec<SenderGroup<'a>> =
        by_name.into_iter().map(|(name, senders)| SenderGroup { name, senders }).collect();
    let since = |group: &SenderGroup<'_>| group.senders.iter().filter_map(|sender| sender.backend_start).min();
    groups.sort_by_key(|group| {
        let since = since(group);
        (since.is_none(), since)
    });
    groups
}

/// The workers that copy a subscription's tables have a name each, made of numbers: together they are one.
fn told_as(name: &str) -> Cow<'_, str> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name.splitn(6, '_').collect();
    match parts[..] {
        ["pg", subscription, "sync", table, system] if [subscription, table, system].into_iter().all(is_number) => {
            Cow::Borrowed("pg_sync")
        }
        _ => Cow::Borrowed(name),
    }
}

/// The end of the WAL that a server can send: flushed on a primary, received or replayed on a standby.
pub fn end_of_wal(positions: &Positions) -> Option<Lsn> {
    match (positions.role(), positions.primary(), positions.standby()) {
        (Role::Primary, Some(primary), _) => Some(primary.flush_lsn),
        (_, _, Some(standby)) => {
            let flushed = standby.receiver.running().and_then(|receiver| receiver.flushed_lsn);
            standby.receive_lsn.max(flushed).max(standby.replay_lsn)
        }
        _ => None,
    }
}

/// How much of the server's WAL a sender has not yet got to some stage. `None` in states in which positions mean nothing
/// (a sender that starts stands at 0/0, one that sends a base backup too), and where the receiver does not report it.
pub fn behind(sender: &WalSender, end: Option<Lsn>, reached: Option<Lsn>) -> Option<WalBytes> {
    match sender.state? {
        SenderState::Catchup | SenderState::Streaming | SenderState::Stopping => {
            Some(end?.bytes_ahead_of(reached.filter(|lsn| lsn.as_u64() > 0)?))
        }
        SenderState::Startup | SenderState::Backup => None,
    }
}

impl SenderGroup<'_> {
    /// The largest of the values that are known.
    pub fn worst(&self, value: impl Fn(&WalSender) -> Option<f64>) -> Option<f64> {
        self.senders.iter().filter_map(|sender| value(sender)).reduce(f64::max)
    }

    /// Since when the longest connected of them is, by the server's clock.
    pub fn since(&self) -> Option<ServerTime> {
        self.senders.iter().filter_map(|sender| sender.backend_start).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::fixture;

    fn sender(pid: i32, name: &str, addr: &str, start: i64) -> WalSender {
        let mut sender = fixture::sender(name, Some(SenderState::Streaming));
        sender.pid = pid;
        sender.client_addr = (!addr.is_empty()).then(|| Arc::from(addr));
        sender.backend_start = Some(ServerTime::from_unix_micros(start));
        sender
    }

    fn told(senders: &[WalSender], slots: &[Slot]) -> Vec<(String, usize)> {
        groups(senders, slots)
            .iter()
            .map(|group| {
                let SenderName { application_name, client_addr, slot } = &group.name;
                (format!("{application_name}|{client_addr}|{slot}"), group.senders.len())
            })
            .collect()
    }

    #[test]
    fn senders_of_one_name_are_told_apart_by_address_and_slot_or_together() {
        let senders = [
            sender(4, "r", "10.0.0.2", 9),
            sender(1, "r", "10.0.0.1", 3),
            sender(2, "r", "10.0.0.1", 2),
            sender(3, "r", "10.0.0.1", 1),
            sender(5, "pg_16389_sync_16384_7123456789", "10.0.0.3", 10),
            sender(6, "pg_16389_sync_16390_7123456789", "10.0.0.3", 11),
            sender(7, "pg_sync_x", "", 12),
        ];
        let slot = |name: &str, pid| Slot { name: name.to_owned(), active_pid: pid, ..Slot::default() };
        let slots = [slot("a", Some(3)), slot("b", None), slot("c", Some(99))];
        let expect =
            [("r|10.0.0.1|a", 1), ("r|10.0.0.1|", 2), ("r|10.0.0.2|", 1), ("pg_sync|10.0.0.3|", 2), ("pg_sync_x||", 1)];
        assert_eq!(told(&senders, &slots), expect.map(|(name, n)| (name.to_owned(), n)));
        assert_eq!(told(&[], &slots), []);
    }

    #[test]
    fn the_longest_connected_are_told_by_name_and_the_rest_together() {
        let mut senders: Vec<WalSender> =
            (0..60).map(|n| sender(n, &format!("r{n:02}"), "", i64::from(60 - n))).collect();
        senders[50].application_name = Some(Arc::from("other"));
        let groups = told(&senders, &[]);
        assert_eq!(groups.len(), SENDERS_SHOWN);
        assert_eq!(groups[0].0, "r59||");
        assert_eq!(groups[SENDERS_SHOWN - 1], ("other||".to_owned(), 21));
        assert_eq!(groups.iter().map(|(_, n)| n).sum::<usize>(), 60);
        assert_eq!((left_out(&senders, &[]), left_out(&senders[..40], &[])), (20, 0));
    }

    #[test]
    fn positions_count_only_where_they_mean_something() {
        let end = Some(Lsn::new(100));
        let check = |state, reached, expect: Option<u64>| {
            let sender = fixture::sender("r", state);
            assert_eq!(behind(&sender, end, reached), expect.map(WalBytes), "{state:?} {reached:?}");
        };
        check(Some(SenderState::Streaming), Some(Lsn::new(40)), Some(60));
        check(Some(SenderState::Catchup), Some(Lsn::new(140)), Some(0));
        check(Some(SenderState::Streaming), None, None);
        check(Some(SenderState::Streaming), Some(Lsn::new(0)), None);
        check(Some(SenderState::Startup), Some(Lsn::new(40)), None);
        check(Some(SenderState::Backup), Some(Lsn::new(40)), None);
        check(None, Some(Lsn::new(40)), None);
    }
}
