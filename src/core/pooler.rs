//! A connection pooler (PgBouncer), as its admin console shows it: who waits for a server connection, for how long, and
//! whether there is one left.
//!
//! Pools are told one by one up to [`TOLD`], the busiest; the rest together as `other`. The console's totals begin anew
//! when PgBouncer restarts, and a database's when it was forgotten for want of use: [`PoolerTracker`] turns them into
//! counters that only grow.

use std::collections::{BTreeMap, HashMap};

use super::observation::PollFailure;
use super::time::MonoTime;
use super::topology::TargetId;

/// Pools, and databases, that are told one by one.
pub const TOLD: usize = 50;

/// Databases whose totals are remembered. A console with more than these is no pooler's.
const REMEMBERED: usize = 5_000;

/// What stands for those that are not told one by one.
const OTHER: &str = "other";

/// The answer of one pooler to one poll, or why there is none.
#[derive(Clone, Debug)]
pub struct PoolerObservation {
    pub pooler: TargetId,
    pub asked_at: MonoTime,
    pub answered_at: MonoTime,
    pub outcome: Result<PoolerFacts, PollFailure>,
}

/// What the console said. Its own database is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolerFacts {
    /// `SHOW VERSION`, for example `1.18.0`. `None` where it has no such answer.
    pub version: Option<String>,
    /// The session is encrypted.
    pub tls: bool,
    /// `SHOW POOLS`: one for each database and user that has had a client of late.
    pub pools: Vec<Pool>,
    /// `SHOW DATABASES`.
    pub databases: Vec<PoolDatabase>,
    /// `SHOW STATS`, by database.
    pub totals: Vec<(String, PoolTotals)>,
    /// Why rows are missing that could not be read. `None` where all were.
    pub unread: Option<Box<PollFailure>>,
}

/// A row of `SHOW POOLS`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    pub database: String,
    pub user: String,
    /// `cl_active`: linked to a server connection, or idle without waiting for one.
    pub clients_active: u64,
    /// `cl_waiting`: have asked something, and no server connection is free.
    pub clients_waiting: u64,
    /// `sv_active`: linked to a client.
    pub servers_active: u64,
    /// `sv_idle`: ready.
    pub servers_idle: u64,
    /// `sv_used`: idle for so long that they are checked before they are used again.
    pub servers_used: u64,
    /// `sv_tested`: being reset or checked.
    pub servers_tested: u64,
    /// `sv_login`: logging in.
    pub servers_login: u64,
    /// `maxwait` with `maxwait_us`: how long the first client in the queue has waited, in seconds.
    pub longest_wait: f64,
    /// Most server connections that a pool of this database may have (`pool_size` of `SHOW DATABASES`). `None` for a
    /// database that is not listed, and for `other`.
    pub size: Option<u64>,
}

/// A row of `SHOW DATABASES`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolDatabase {
    pub name: String,
    pub pool_size: Option<u64>,
    /// Server connections of all its pools.
    pub current_connections: Option<u64>,
    /// `max_connections`. `None`: no limit.
    pub max_connections: Option<u64>,
    pub paused: bool,
    pub disabled: bool,
}

/// A row of `SHOW STATS`. One that the version does not have is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolTotals {
    pub transactions: Option<u64>,
    pub queries: Option<u64>,
    pub received_bytes: Option<u64>,
    pub sent_bytes: Option<u64>,
    /// Time that clients waited for a server connection, in microseconds.
    pub wait_us: Option<u64>,
    /// Time that server connections were busy with queries, in microseconds.
    pub query_us: Option<u64>,
}

impl PoolTotals {
    fn each(&self) -> [Option<u64>; 6] {
        [self.transactions, self.queries, self.received_bytes, self.sent_bytes, self.wait_us, self.query_us]
    }

    fn of([transactions, queries, received_bytes, sent_bytes, wait_us, query_us]: [Option<u64>; 6]) -> Self {
        Self { transactions, queries, received_bytes, sent_bytes, wait_us, query_us }
    }

    /// Started again since `before`.
    fn has_restarted(&self, before: &Self) -> bool {
        self.each().iter().zip(before.each()).any(|(now, before)| *now < before)
    }

    fn plus(&self, more: &Self) -> Self {
        let mut sum = self.each();
        for (sum, more) in sum.iter_mut().zip(more.each()) {
            *sum = match (*sum, more) {
                (Some(sum), Some(more)) => Some(sum.saturating_add(more)),
                (sum, more) => sum.or(more),
            };
        }
        Self::of(sum)
    }

    fn less(&self, before: &Self) -> Self {
        let mut rest = self.each();
        for (now, before) in rest.iter_mut().zip(before.each()) {
            *now = now.map(|now| now.saturating_sub(before.unwrap_or(now)));
        }
        Self::of(rest)
    }

    /// 0 for all that is counted.
    fn zeroed(&self) -> Self {
        Self::of(self.each().map(|total| total.map(|_| 0)))
    }
}

impl PoolerFacts {
    /// The same with at most [`TOLD`] pools and databases, and pools that know their size. What is cut off is summed up.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let sizes: HashMap<&str, Option<u64>> =
            self.databases.iter().map(|database| (database.name.as_str(), database.pool_size)).collect();
        for pool in &mut self.pools {
            pool.size = sizes.get(pool.database.as_str()).copied().flatten();
        }
        let mut pools = merged(self.pools);
        if pools.len() > TOLD {
            // Those that wait are never cut off before those that do not.
            pools.sort_by(|a, b| (b.weight(), &a.database, &a.user).cmp(&(a.weight(), &b.database, &b.user)));
            for mut pool in pools.split_off(TOLD) {
                (pool.database, pool.user, pool.size) = (OTHER.to_owned(), OTHER.to_owned(), None);
                pools.push(pool);
            }
            pools = merged(pools);
        }
        self.pools = pools;
        // One that is paused is told before one that is not.
        self.databases.sort_by(|a, b| (b.paused || b.disabled, &a.name).cmp(&(a.paused || a.disabled, &b.name)));
        self.databases.dedup_by(|a, b| a.name == b.name);
        self.databases.truncate(TOLD);
        self.databases.sort_by(|a, b| a.name.cmp(&b.name));
        self.totals = Vec::new();
        self
    }

    /// Clients that wait, and the longest wait of any of them in seconds.
    pub fn waiting(&self) -> (u64, f64) {
        let longest = self.pools.iter().map(|pool| pool.longest_wait).fold(0.0, f64::max);
        (self.pools.iter().map(|pool| pool.clients_waiting).fold(0, u64::saturating_add), longest)
    }
}

impl Pool {
    /// Server connections of any state.
    pub fn servers(&self) -> u64 {
        let states = [self.servers_idle, self.servers_used, self.servers_tested, self.servers_login];
        states.into_iter().fold(self.servers_active, u64::saturating_add)
    }

    fn weight(&self) -> (u64, u64) {
        (self.clients_waiting, self.clients_active.saturating_add(self.servers()))
    }

    fn add(&mut self, more: &Self) {
        for (sum, more) in [
            (&mut self.clients_active, more.clients_active),
            (&mut self.clients_waiting, more.clients_waiting),
            (&mut self.servers_active, more.servers_active),
            (&mut self.servers_idle, more.servers_idle),
            (&mut self.servers_used, more.servers_used),
            (&mut self.servers_tested, more.servers_tested),
            (&mut self.servers_login, more.servers_login),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.longest_wait = self.longest_wait.max(more.longest_wait);
        self.size = self.size.filter(|size| more.size == Some(*size));
    }
}

/// One pool for each database and user, in their order.
fn merged(pools: Vec<Pool>) -> Vec<Pool> {
    let mut by_name: BTreeMap<(String, String), Pool> = BTreeMap::new();
    for pool in pools {
        match by_name.get_mut(&(pool.database.clone(), pool.user.clone())) {
            Some(same) => same.add(&pool),
            None => {
                by_name.insert((pool.database.clone(), pool.user.clone()), pool);
            }
        }
    }
    by_name.into_values().collect()
}

/// Makes counters of one pooler's totals, from when it was first seen.
#[derive(Debug, Default)]
pub struct PoolerTracker {
    last: HashMap<String, PoolTotals>,
    counters: BTreeMap<String, PoolTotals>,
    is_begun: bool,
}

impl PoolerTracker {
    /// Takes up what the console said, and gives the counters by database. A database that came later counts from 0;
    /// what the first look found was counted before us.
    pub fn observe(&mut self, totals: &[(String, PoolTotals)]) -> Vec<(String, PoolTotals)> {
        for (database, now) in totals.iter().take(REMEMBERED) {
            let gain = match self.last.get(database) {
                Some(before) if now.has_restarted(before) => *now,
                Some(before) => now.less(before),
                None if self.is_begun => *now,
                None => now.zeroed(),
            };
            if self.last.len() < REMEMBERED || self.last.contains_key(database) {
                self.last.insert(database.clone(), *now);
                let is_told = self.counters.contains_key(database) || self.counters.len() < TOLD;
                let told = if is_told { database.as_str() } else { OTHER };
                let counter = self.counters.entry(told.to_owned()).or_default();
                *counter = counter.plus(&gain);
            }
        }
        self.is_begun = true;
        self.counters.iter().map(|(database, totals)| (database.clone(), *totals)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(database: &str, user: &str, waiting: u64, wait: f64) -> Pool {
        Pool {
            database: database.to_owned(),
            user: user.to_owned(),
            clients_waiting: waiting,
            clients_active: 1,
            servers_active: 1,
            longest_wait: wait,
            ..Pool::default()
        }
    }

    fn database(name: &str, pool_size: u64) -> PoolDatabase {
        PoolDatabase { name: name.to_owned(), pool_size: Some(pool_size), ..PoolDatabase::default() }
    }

    #[test]
    fn pools_know_their_size_and_are_bounded_without_losing_who_waits() {
        let mut pools: Vec<Pool> = (0..TOLD + 20).map(|n| pool(&format!("db{n:03}"), "app", 0, 0.0)).collect();
        pools.push(pool("zz", "app", 3, 7.5));
        let databases = vec![database("db000", 20), database("zz", 5)];
        let facts = PoolerFacts { pools, databases, ..PoolerFacts::default() }.bounded();
        assert_eq!(facts.pools.len(), TOLD + 1);
        let of = |name: &str| facts.pools.iter().find(|pool| pool.database == name).unwrap();
        assert_eq!((of("zz").clients_waiting, of("zz").size), (3, Some(5)));
        assert_eq!(of("db000").size, Some(20));
        assert_eq!((of("other").clients_active, of("other").size), (21, None));
        let clients: u64 = facts.pools.iter().map(|pool| pool.clients_active).sum();
        assert_eq!(clients, TOLD as u64 + 21);
        assert_eq!(facts.waiting(), (3, 7.5));
    }

    #[test]
    fn a_pool_that_is_called_as_the_rest_is_counted_with_it() {
        let mut pools: Vec<Pool> = (0..TOLD).map(|n| pool(&format!("db{n:03}"), "app", 1, 1.0)).collect();
        pools.push(pool("other", "other", 9, 2.0));
        pools.push(pool("last", "app", 0, 0.0));
        let facts = PoolerFacts { pools, ..PoolerFacts::default() }.bounded();
        let other: Vec<&Pool> = facts.pools.iter().filter(|pool| pool.database == "other").collect();
        assert_eq!((other.len(), other[0].clients_waiting, other[0].longest_wait), (1, 10, 2.0));
    }

    fn totals(queries: u64, sent: u64) -> PoolTotals {
        PoolTotals { queries: Some(queries), sent_bytes: Some(sent), ..PoolTotals::default() }
    }

    #[test]
    fn counters_survive_a_restart_of_the_pooler() {
        let mut tracker = PoolerTracker::default();
        let mut look = |said: &[(&str, PoolTotals)]| {
            let said: Vec<_> = said.iter().map(|(name, totals)| ((*name).to_owned(), *totals)).collect();
            tracker.observe(&said)
        };
        let a = |queries, sent| vec![("a".to_owned(), totals(queries, sent))];
        assert_eq!(look(&[("a", totals(100, 9))]), a(0, 0));
        assert_eq!(look(&[("a", totals(110, 9))]), a(10, 0));
        // Restarted: what it counts now came since.
        assert_eq!(look(&[("a", totals(4, 40))]), a(14, 40));
        assert_eq!(look(&[]), a(14, 40));
        assert_eq!(look(&[("a", totals(5, 40)), ("b", totals(7, 1))])[1], ("b".to_owned(), totals(7, 1)));
        // What the version does not count is not counted.
        assert_eq!(look(&[("a", totals(5, 40))])[0].1.wait_us, None);
    }

    #[test]
    fn databases_beyond_the_first_are_counted_together() {
        let mut tracker = PoolerTracker::default();
        let said = |queries| -> Vec<_> { (0..TOLD + 5).map(|n| (format!("db{n:03}"), totals(queries, 0))).collect() };
        tracker.observe(&said(1));
        let counters = tracker.observe(&said(3));
        assert_eq!(counters.len(), TOLD + 1);
        assert_eq!(counters.iter().filter_map(|(_, totals)| totals.queries).sum::<u64>(), 2 * (TOLD as u64 + 5));
        assert_eq!(counters.last().unwrap(), &("other".to_owned(), totals(10, 0)));
    }
}
