//! A server's WAL senders as people know them: by the standby's name, its address and the slot it uses.
//!
//! Two senders of one name on one machine without slots are told as one; and since names come from whoever connects, the
//! longest connected are told by name, and all others together.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::observation::{Positions, SenderState, WalSender};
use super::time::ServerTime;
use super::topology::Role;
use super::wal::{Lsn, WalBytes};

/// As many groups of senders of a server are told by name. A server rarely lets more than a few dozen connect.
pub const SENDERS_SHOWN: usize = 40;

/// What senders are told apart by. Empty where there is none, or it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SenderName<'a> {
    pub application_name: Cow<'a, str>,
    pub client_addr: String,
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
pub fn groups(senders: &[WalSender]) -> Vec<SenderGroup<'_>> {
    let mut groups = all_groups(senders);
    if groups.len() > SENDERS_SHOWN {
        let rest = groups.split_off(SENDERS_SHOWN);
        let name = SenderName { application_name: Cow::Borrowed("other"), ..SenderName::default() };
        // One that calls itself so belongs there.
        let (namesakes, named) = groups.into_iter().partition(|group| group.name == name);
        groups = named;
        let namesakes: Vec<SenderGroup<'_>> = namesakes;
        let senders = namesakes.into_iter().chain(rest).flat_map(|group| group.senders).collect();
        groups.push(SenderGroup { name, senders });
    }
    groups
}

/// How many groups are not told by name.
pub fn left_out(senders: &[WalSender]) -> usize {
    // Most servers have fewer senders than there are places.
    if senders.len() <= SENDERS_SHOWN { 0 } else { all_groups(senders).len().saturating_sub(SENDERS_SHOWN) }
}

fn all_groups(senders: &[WalSender]) -> Vec<SenderGroup<'_>> {
    let mut by_name: BTreeMap<SenderName<'_>, Vec<&WalSender>> = BTreeMap::new();
    for sender in senders {
        let client = sender.client.as_deref();
        let name = SenderName {
            application_name: told_as(sender.application_name.as_deref().unwrap_or_default()),
            client_addr: client
                .and_then(|client| client.address)
                .map(|address| address.to_string())
                .unwrap_or_default(),
            slot: client.and_then(|client| client.slot.as_ref()).map_or("", |slot| slot.name.as_str()),
        };
        by_name.entry(name).or_default().push(sender);
    }
    let mut groups: Vec<SenderGroup<'_>> =
        by_name.into_iter().map(|(name, senders)| SenderGroup { name, senders }).collect();
    groups.sort_by_key(|group| {
        let since = group.since();
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
        self.senders.iter().filter_map(|sender| sender.client.as_ref()?.started_at).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::fixture;
    use crate::core::observation::{SenderClient, SenderSlot};

    fn sender(name: &str, addr: &str, slot: &str, start: i64) -> WalSender {
        let slot = (!slot.is_empty()).then(|| SenderSlot { name: slot.to_owned(), is_logical: false });
        let started_at = Some(ServerTime::from_unix_micros(start));
        let client = SenderClient { address: addr.parse().ok(), started_at, slot, ..SenderClient::default() };
        WalSender { client: Some(Arc::new(client)), ..fixture::sender(name, Some(SenderState::Streaming)) }
    }

    fn told(senders: &[WalSender]) -> Vec<(String, usize)> {
        groups(senders)
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
            sender("r", "10.0.0.2", "", 9),
            sender("r", "10.0.0.1", "", 3),
            sender("r", "10.0.0.1", "", 2),
            sender("r", "10.0.0.1", "a", 1),
            sender("pg_16389_sync_16384_7123456789", "fe80::1", "", 10),
            sender("pg_16389_sync_16390_7123456789", "fe80::1", "", 11),
            sender("pg_sync_x", "", "", 12),
            WalSender { client: None, ..sender("new", "", "", 0) },
        ];
        let expect = [
            ("r|10.0.0.1|a", 1),
            ("r|10.0.0.1|", 2),
            ("r|10.0.0.2|", 1),
            ("pg_sync|fe80::1|", 2),
            ("pg_sync_x||", 1),
            ("new||", 1),
        ];
        assert_eq!(told(&senders), expect.map(|(name, n)| (name.to_owned(), n)));
        assert_eq!(told(&[]), []);
    }

    #[test]
    fn the_longest_connected_are_told_by_name_and_the_rest_together() {
        let mut senders: Vec<WalSender> = (0..60).map(|n| sender(&format!("r{n:02}"), "", "", 60 - n)).collect();
        senders[50].application_name = Some(Arc::from("other"));
        let groups = told(&senders);
        assert_eq!(groups.len(), SENDERS_SHOWN);
        assert_eq!(groups[0].0, "r59||");
        assert_eq!(groups[SENDERS_SHOWN - 1], ("other||".to_owned(), 21));
        assert_eq!(groups.iter().map(|(_, n)| n).sum::<usize>(), 60);
        assert_eq!((left_out(&senders), left_out(&senders[..40])), (20, 0));
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
