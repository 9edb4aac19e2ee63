//! Who follows whom, from both sides: what a standby says of its upstream, and what the upstream's senders say of it.
//!
//! Neither side is enough. A standby names the address that *it* connects to, which may be a private one, a name or a
//! proxy's; a sender names an application and a client's address, which several standbys may share. So a sender is
//! given to a standby only where one evidence, from the strongest down, fits this pair and no other:
//!
//! | evidence | |
//! |---|---|
//! | the slot | the receiver's `slot_name` is the one that the sender streams through |
//! | address and name | `client_addr` is the standby's own, and `application_name` its `cluster_name` |
//! | address | as above, loopback excepted: it is everybody's |
//! | name | as above |
//!
//! What contradicts a pair (another slot, another upstream by the standby's own word, another system identifier, a
//! logical slot) rules it out first. What fits several is *unknown*: never a guess.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::{Name, twins};
use crate::core::observation::{
    Identity, Positions, Receiver, SenderClient, SenderState, ServerAddress, StandbyState, WalReceiver, WalSender,
};
use crate::core::snapshot::TargetView;

/// As many strangers as a message names.
const NAMED: usize = 5;

/// What is known of one target's place among the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// `None` for a server that is no standby, or has not answered yet.
    pub upstream: Option<Upstream>,
    /// The sender that serves this standby.
    pub sender: Option<SenderId>,
    /// Whether no server that could be its upstream has a sender for this standby. `None` for one that is no standby, and
    /// while a server that might have one does not say.
    pub is_missing: Option<bool>,
    /// The standbys at this server's senders that are no target. `None` while its senders cannot be seen.
    pub undeclared: Option<Undeclared>,
    /// The target listed before this one that leads to the same server. `None` mostly.
    pub same_as: Option<Name>,
}

/// Where a standby receives its WAL from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Another target of the cluster.
    Target(Name),
    /// `host:port`, of no target: all of them answer, and none has a sender that could be this standby's.
    Elsewhere(Arc<str>),
    /// No WAL receiver runs.
    Nobody,
    /// The evidence is not enough, or contradicts itself.
    Unknown,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(name) => write!(f, "{name}"),
            Self::Elsewhere(host) => write!(f, "{host}, which is no target of the cluster"),
            Self::Nobody => f.write_str("nobody"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// One connection of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderId {
    pub upstream: Name,
    pub pid: i32,
}

/// Standbys that no target can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undeclared {
    pub at_least: usize,
    /// Some more may be targets that could not be told apart.
    pub at_most: usize,
    /// Name and address of the first few.
    pub who: Vec<String>,
}

/// What [`find`] reads of an answer: while this is the same, so are the links. Cheap, for it is asked at every poll.
pub fn is_same(before: &Positions, after: &Positions) -> bool {
    let (was, is) = (&before.identity, &after.identity);
    (Arc::ptr_eq(was, is)
        || (was.system_identifier, &was.cluster_name, &was.address, was.started_at)
            == (is.system_identifier, &is.cluster_name, &is.address, is.started_at))
        && before.role() == after.role()
        && before.sees_senders == after.sees_senders
        && match (before.standby(), after.standby()) {
            (None, None) => true,
            (Some(was), Some(is)) => is_same_receiver(&was.receiver, &is.receiver),
            _ => false,
        }
        && before.senders.len() == after.senders.len()
        && before.senders.iter().zip(&after.senders).all(|(was, is)| is_same_sender(was, is))
}

fn is_same_receiver(before: &Receiver, after: &Receiver) -> bool {
    match (before, after) {
        (Receiver::Hidden, Receiver::Hidden) => true,
        (was, is) if was.is_without_stream() && is.is_without_stream() => true,
        (Receiver::Running(was), Receiver::Running(is)) => {
            (&was.sender_host, was.sender_port, &was.slot_name) == (&is.sender_host, is.sender_port, &is.slot_name)
        }
        _ => false,
    }
}

fn is_same_sender(before: &WalSender, after: &WalSender) -> bool {
    let same = |was: &Option<Arc<SenderClient>>, is: &Option<Arc<SenderClient>>| match (was, is) {
        (Some(was), Some(is)) => Arc::ptr_eq(was, is) || was == is,
        (was, is) => was.is_none() && is.is_none(),
    };
    before.pid == after.pid
        && before.application_name == after.application_name
        && same(&before.client, &after.client)
        && (may_serve_standby(before), serves_standby(before)) == (may_serve_standby(after), serves_standby(after))
}

/// Not a subscriber, nor a base backup.
fn may_serve_standby(sender: &WalSender) -> bool {
    let slot = sender.client.as_ref().and_then(|client| client.slot.as_ref());
    sender.state != Some(SenderState::Backup) && !slot.is_some_and(|slot| slot.is_logical)
}

/// Surely a standby: what only stores WAL (`pg_receivewal`, the stream beside a base backup) reports no replay position.
fn serves_standby(sender: &WalSender) -> bool {
    may_serve_standby(sender)
        && sender.client.is_some()
        && sender.replay_lsn.is_some()
        && matches!(sender.state, Some(SenderState::Catchup | SenderState::Streaming | SenderState::Stopping))
}

/// The `application_name` under which a standby presents itself unless told otherwise.
pub fn known_as(cluster_name: &str) -> &str {
    if cluster_name.is_empty() { "walreceiver" } else { cluster_name }
}

/// The place of each target among the others, in their order. A server with two names has one place.
pub fn find(targets: &[Arc<TargetView>]) -> Vec<Links> {
    let firsts = twins::of_targets(targets);
    if firsts.iter().enumerate().all(|(place, first)| place == *first) {
        return find_among(targets);
    }
    // What answers stands for all its names.
    let mut speakers: BTreeMap<usize, usize> = BTreeMap::new();
    for (place, first) in firsts.iter().enumerate() {
        let speaker = speakers.entry(*first).or_insert(place);
        if !targets[*speaker].is_up() && targets[place].is_up() {
            *speaker = place;
        }
    }
    let servers: Vec<Arc<TargetView>> = speakers.values().map(|place| Arc::clone(&targets[*place])).collect();
    let found: BTreeMap<usize, Links> = speakers.into_keys().zip(find_among(&servers)).collect();
    firsts
        .iter()
        .enumerate()
        .map(|(place, first)| {
            let same_as = (place != *first).then(|| targets[*first].id.target.clone());
            Links { same_as, ..found.get(first).cloned().unwrap_or_default() }
        })
        .collect()
}

fn find_among(targets: &[Arc<TargetView>]) -> Vec<Links> {
    let servers: Vec<Server<'_>> = targets.iter().map(|target| Server::new(target)).collect();
    let rows: Vec<Row<'_>> = servers
        .iter()
        .enumerate()
        .filter(|(_, server)| server.is_up)
        .filter_map(|(place, server)| Some((place, server.positions?)))
        .flat_map(|(place, positions)| positions.senders.iter().map(move |sender| Row { upstream: place, sender }))
        .filter(|row| may_serve_standby(row.sender))
        .collect();
    let mut search = Search {
        hosts: (0..servers.len()).map(|place| hosts_of(&servers, place)).collect(),
        row_of: vec![None; servers.len()],
        is_taken: vec![false; rows.len()],
        servers,
        rows,
    };
    for evidence in Evidence::FROM_THE_STRONGEST {
        search.pair(evidence);
    }
    (0..targets.len()).map(|place| search.links(place)).collect()
}

/// One target, as far as its place depends on it.
struct Server<'a> {
    name: &'a Name,
    /// The last answer, even an old one.
    positions: Option<&'a Positions>,
    /// The last poll succeeded.
    is_up: bool,
    /// It surely serves nobody now.
    is_down: bool,
}

/// One sender of one target that may serve a standby.
#[derive(Clone, Copy)]
struct Row<'a> {
    upstream: usize,
    sender: &'a WalSender,
}

/// What a standby and a sender must have in common.
#[derive(Clone, Copy, Debug)]
enum Evidence {
    Slot,
    AddressAndName,
    Address,
    Name,
}

/// A name and an address, as far as the evidence has them.
type Key<'a> = (Option<&'a str>, Option<IpAddr>);

struct Search<'a> {
    servers: Vec<Server<'a>>,
    rows: Vec<Row<'a>>,
    /// For each target, which targets are at the address that it says it receives from.
    hosts: Vec<Vec<usize>>,
    /// For each target, the row that is surely its own.
    row_of: Vec<Option<usize>>,
    is_taken: Vec<bool>,
}

impl<'a> Server<'a> {
    fn new(target: &'a TargetView) -> Self {
        Self {
            name: &target.id.target,
            positions: target.answer.as_ref().map(|answer| &*answer.positions),
            is_up: target.is_up(),
            is_down: target.failing.as_ref().is_some_and(|failing| failing.failure.proves_down()),
        }
    }

    fn identity(&self) -> Option<&'a Identity> {
        self.positions.map(|positions| &*positions.identity)
    }

    fn standby(&self) -> Option<&'a StandbyState> {
        self.positions?.standby()
    }

    fn receiver(&self) -> Option<&'a WalReceiver> {
        self.standby()?.receiver.running()
    }

    /// Its senders are known, all of them.
    fn shows_senders(&self) -> bool {
        self.is_down || self.is_up && self.positions.is_some_and(|positions| positions.sees_senders)
    }

    fn may_be_of_cluster_of(&self, other: &Self) -> bool {
        let identifier = |server: &Self| server.identity().and_then(|identity| identity.system_identifier);
        match (identifier(self), identifier(other)) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        }
    }

    /// Its own address, if that tells it from other machines.
    fn address(&self) -> Option<IpAddr> {
        let address = &self.identity()?.address;
        let configured = || address.configured.as_ref()?.0.parse().ok();
        [address.own, configured()].into_iter().flatten().find(|address| !is_everybodys(*address))
    }

    fn known_as(&self) -> Option<&'a str> {
        self.identity().map(|identity| known_as(&identity.cluster_name))
    }
}

impl<'a> Row<'a> {
    /// `None` when it streams without one, and while that is not known.
    fn slot(&self) -> Option<&'a str> {
        Some(self.sender.client.as_ref()?.slot.as_ref()?.name.as_str())
    }

    fn address(&self) -> Option<IpAddr> {
        self.sender.client.as_ref()?.address.filter(|address| !is_everybodys(*address))
    }
}

fn is_everybodys(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

impl Evidence {
    const FROM_THE_STRONGEST: [Self; 4] = [Self::Slot, Self::AddressAndName, Self::Address, Self::Name];

    fn of_standby<'a>(self, standby: &Server<'a>) -> Option<Key<'a>> {
        let slot = || standby.receiver()?.slot_name.as_deref();
        self.key(slot, || standby.address(), || standby.known_as())
    }

    fn of_row<'a>(self, row: &Row<'a>) -> Option<Key<'a>> {
        self.key(|| row.slot(), || row.address(), || row.sender.application_name.as_deref())
    }

    fn key<'a>(
        self,
        slot: impl FnOnce() -> Option<&'a str>,
        address: impl FnOnce() -> Option<IpAddr>,
        name: impl FnOnce() -> Option<&'a str>,
    ) -> Option<Key<'a>> {
        let address = || address().map(|address| address.to_canonical());
        match self {
            Self::Slot => Some((Some(slot()?), None)),
            Self::AddressAndName => Some((Some(name()?), Some(address()?))),
            Self::Address => Some((None, Some(address()?))),
            Self::Name => Some((Some(name()?), None)),
        }
    }
}

/// The targets that are at the address which a standby says it receives from.
fn hosts_of(servers: &[Server<'_>], place: usize) -> Vec<usize> {
    let Some((host, port)) = servers[place].receiver().and_then(endpoint) else { return Vec::new() };
    (0..servers.len())
        .filter(|other| *other != place && servers[*other].may_be_of_cluster_of(&servers[place]))
        .filter(|other| servers[*other].identity().is_some_and(|identity| is_at(&identity.address, host, port)))
        .collect()
}

fn endpoint(receiver: &WalReceiver) -> Option<(&str, u16)> {
    receiver.sender_host.as_deref().zip(receiver.sender_port)
}

fn is_at(address: &ServerAddress, host: &str, port: u16) -> bool {
    let ip = host.parse::<IpAddr>().ok();
    let configured = address.configured.as_ref().is_some_and(|(name, at)| {
        *at == port
            && (name.eq_ignore_ascii_case(host)
                || ip.is_some_and(|ip| name.parse::<IpAddr>().is_ok_and(|own| own == ip)))
    });
    configured || (address.port == Some(port) && ip.is_some() && ip == address.own)
}

/// An address that means another machine on each machine.
fn is_local(host: &str) -> bool {
    host.starts_with('/') || host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_everybodys)
}

impl Search<'_> {
    /// Gives rows to standbys where `evidence` fits one pair and no other.
    fn pair(&mut self, evidence: Evidence) {
        let mut rows_with: HashMap<Key<'_>, Vec<usize>> = HashMap::new();
        for row in (0..self.rows.len()).filter(|row| !self.is_taken[*row]) {
            if let Some(key) = evidence.of_row(&self.rows[row]) {
                rows_with.entry(key).or_default().push(row);
            }
        }
        let mut fits: Vec<(usize, usize)> = Vec::new();
        for place in (0..self.servers.len()).filter(|place| self.seeks(*place)) {
            let key = evidence.of_standby(&self.servers[place]);
            let rows = key.and_then(|key| rows_with.get(&key)).into_iter().flatten();
            fits.extend(rows.filter(|row| self.is_possible(place, **row)).map(|row| (place, *row)));
        }
        let (mut rows_of, mut claims_on) = (vec![0_u32; self.servers.len()], vec![0_u32; self.rows.len()]);
        for &(place, row) in &fits {
            rows_of[place] += 1;
            claims_on[row] += 1;
        }
        for (place, row) in fits.into_iter().filter(|&(place, row)| rows_of[place] == 1 && claims_on[row] == 1) {
            self.row_of[place] = Some(row);
            self.is_taken[row] = true;
        }
    }

    /// A standby whose row is not found yet.
    fn seeks(&self, place: usize) -> bool {
        self.row_of[place].is_none() && self.servers[place].standby().is_some()
    }

    /// Whether nothing contradicts that a row that is left is this target's.
    fn is_possible(&self, place: usize, row: usize) -> bool {
        let (server, sender) = (&self.servers[place], &self.rows[row]);
        if self.is_taken[row]
            || sender.upstream == place
            || !server.may_be_of_cluster_of(&self.servers[sender.upstream])
        {
            return false;
        }
        if !server.is_up {
            // What it does now nobody knows; what it did is as good as any guess, and used only where it fits exactly.
            return true;
        }
        let Some(standby) = server.standby() else { return false };
        match &standby.receiver {
            Receiver::Absent | Receiver::Connecting => false,
            Receiver::Hidden => true,
            Receiver::Running(receiver) => {
                let hosts = &self.hosts[place];
                let knows_slot = sender.sender.client.is_some();
                (hosts.is_empty() || hosts.contains(&sender.upstream))
                    && (!knows_slot || sender.slot() == receiver.slot_name.as_deref())
            }
        }
    }

    fn links(&self, place: usize) -> Links {
        let sender = self.row_of[place].map(|row| SenderId {
            upstream: self.servers[self.rows[row].upstream].name.clone(),
            pid: self.rows[row].sender.pid,
        });
        let upstream = self.servers[place].standby().map(|standby| self.upstream(place, standby, sender.as_ref()));
        let is_missing = upstream.as_ref().and_then(|upstream| self.is_missing(place, upstream));
        Links { upstream, sender, is_missing, undeclared: self.undeclared(place), same_as: None }
    }

    fn upstream(&self, place: usize, standby: &StandbyState, sender: Option<&SenderId>) -> Upstream {
        if let Some(sender) = sender {
            return Upstream::Target(sender.upstream.clone());
        }
        if !self.servers[place].is_up {
            return Upstream::Unknown;
        }
        let receiver = match &standby.receiver {
            Receiver::Absent | Receiver::Connecting => return Upstream::Nobody,
            Receiver::Hidden => return Upstream::Unknown,
            Receiver::Running(receiver) => receiver,
        };
        let Some((host, port)) = endpoint(receiver) else { return Upstream::Unknown };
        match self.hosts[place].as_slice() {
            // By its own word alone. One that means itself by it would have a sender for this standby.
            &[host_place] => {
                let host_server = &self.servers[host_place];
                let is_contradicted = is_local(host)
                    && host_server.shows_senders()
                    && !(0..self.rows.len())
                        .any(|row| self.rows[row].upstream == host_place && self.is_possible(place, row));
                if is_contradicted { Upstream::Unknown } else { Upstream::Target(host_server.name.clone()) }
            }
            [] if self.nobody_serves(place) => {
                let is_ipv6 = host.contains(':');
                let there = if is_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                Upstream::Elsewhere(Arc::from(there))
            }
            _ => Upstream::Unknown,
        }
    }

    /// Every server that could be its upstream shows its senders, one of them at least answers, and none of what they
    /// show can be this standby's.
    fn nobody_serves(&self, place: usize) -> bool {
        let server = &self.servers[place];
        let others = || {
            let others = self.servers.iter().enumerate().filter(move |(other, _)| *other != place);
            others.map(|(_, other)| other).filter(move |other| other.may_be_of_cluster_of(server))
        };
        others().any(|other| other.is_up)
            && others().all(Server::shows_senders)
            && (0..self.rows.len()).all(|row| !self.is_possible(place, row))
    }

    fn is_missing(&self, place: usize, upstream: &Upstream) -> Option<bool> {
        if self.row_of[place].is_some() || matches!(upstream, Upstream::Elsewhere(_)) {
            return Some(false);
        }
        if self.is_served_by(place, upstream) {
            return Some(false);
        }
        self.nobody_serves(place).then_some(true)
    }

    /// It receives, from a target that has a connection which may be its own: which one it is is another matter.
    fn is_served_by(&self, place: usize, upstream: &Upstream) -> bool {
        let server = &self.servers[place];
        let receives = server.standby().is_some_and(|standby| standby.receiver.running().is_some());
        let Upstream::Target(name) = upstream else { return false };
        let of_upstream = |row: &Row<'_>| self.servers[row.upstream].is_up && self.servers[row.upstream].name == name;
        server.is_up
            && receives
            && self
                .rows
                .iter()
                .enumerate()
                .any(|(place_of_row, row)| of_upstream(row) && self.is_possible(place, place_of_row))
    }

    fn undeclared(&self, place: usize) -> Option<Undeclared> {
        let server = &self.servers[place];
        if !server.is_up || !server.shows_senders() {
            return None;
        }
        let left: Vec<usize> = (0..self.rows.len())
            .filter(|&row| self.rows[row].upstream == place && !self.is_taken[row])
            .filter(|&row| serves_standby(self.rows[row].sender))
            .collect();
        if left.is_empty() {
            return Some(Undeclared::default());
        }
        let may_be_one = |other: &usize| {
            self.row_of[*other].is_none()
                && !(self.servers[*other].is_down && self.servers[*other].positions.is_none())
                && left.iter().any(|row| self.is_possible(*other, *row))
        };
        let n_candidates = (0..self.servers.len()).filter(may_be_one).count();
        Some(Undeclared {
            at_least: left.len().saturating_sub(n_candidates),
            at_most: left.len(),
            who: left.iter().take(NAMED).map(|row| described(self.rows[*row].sender)).collect(),
        })
    }
}

fn described(sender: &WalSender) -> String {
    let name = sender.application_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("(no name)");
    match sender.client.as_ref().and_then(|client| client.address) {
        Some(address) => format!("{name} at {address}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
