//! Counters of `pg_stat_statements` that only go up, whatever is evicted or reset on the server.
//!
//! The server's own entries come and go: the least used are evicted when the table is full, come back smaller, and
//! anyone may reset them. So what is stated is the sum of what was *seen to be added* between two surveys. What an entry
//! gained between the last survey and its eviction is lost; nothing is ever counted twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::survey::{StatementKey, StatementRow, Statements};
use super::time::ServerTime;

/// Statements whose counters are remembered, as a multiple of those shown: one that leaves the top for a while goes on
/// counting where it was.
const REMEMBERED_PER_SHOWN: usize = 4;

/// Totals since this daemon began to watch the target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementCounters {
    /// Sums over all statements of a database, sorted by name.
    pub databases: Vec<(Arc<str>, StatementTotals)>,
    /// The statements that took the most execution time since the last beat, the dearest first.
    pub top: Vec<TopStatement>,
    /// Entries that the server evicted (`pg_stat_statements_info.dealloc`). `None` before extension version 1.9.
    pub evictions: Option<u64>,
    /// Times that an entry, or all of them, were seen to start again.
    pub resets: u64,
}

/// What a statement, or all of a database's, added up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StatementTotals {
    pub calls: u64,
    pub exec_seconds: f64,
    pub rows: u64,
    pub shared_blks_hit: u64,
    pub shared_blks_read: u64,
    pub shared_blks_dirtied: u64,
    pub shared_blks_written: u64,
    pub temp_blks_read: u64,
    pub temp_blks_written: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopStatement {
    pub datname: Arc<str>,
    pub queryid: i64,
    /// Since this statement was first among the top.
    pub totals: StatementTotals,
    /// Execution time since the last beat, by which the top is chosen.
    pub recent_exec_seconds: f64,
}

impl StatementTotals {
    fn of(row: &StatementRow) -> Self {
        Self {
            calls: row.calls,
            exec_seconds: row.exec_ms / 1e3,
            rows: row.rows,
            shared_blks_hit: row.shared_blks_hit,
            shared_blks_read: row.shared_blks_read,
            shared_blks_dirtied: row.shared_blks_dirtied,
            shared_blks_written: row.shared_blks_written,
            temp_blks_read: row.temp_blks_read,
            temp_blks_written: row.temp_blks_written,
        }
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.exec_seconds += other.exec_seconds;
        self.rows += other.rows;
        self.shared_blks_hit += other.shared_blks_hit;
        self.shared_blks_read += other.shared_blks_read;
        self.shared_blks_dirtied += other.shared_blks_dirtied;
        self.shared_blks_written += other.shared_blks_written;
        self.temp_blks_read += other.temp_blks_read;
        self.temp_blks_written += other.temp_blks_written;
    }

    /// What was added since `earlier`. `None` when any counter went back: the entry started again, and since one counter
    /// may have overtaken its old value while another has not, a single decrease speaks for the whole row.
    fn since(&self, earlier: &Self) -> Option<Self> {
        if self.exec_seconds < earlier.exec_seconds {
            return None;
        }
        Some(Self {
            calls: self.calls.checked_sub(earlier.calls)?,
            exec_seconds: self.exec_seconds - earlier.exec_seconds,
            rows: self.rows.checked_sub(earlier.rows)?,
            shared_blks_hit: self.shared_blks_hit.checked_sub(earlier.shared_blks_hit)?,
            shared_blks_read: self.shared_blks_read.checked_sub(earlier.shared_blks_read)?,
            shared_blks_dirtied: self.shared_blks_dirtied.checked_sub(earlier.shared_blks_dirtied)?,
            shared_blks_written: self.shared_blks_written.checked_sub(earlier.shared_blks_written)?,
            temp_blks_read: self.temp_blks_read.checked_sub(earlier.temp_blks_read)?,
            temp_blks_written: self.temp_blks_written.checked_sub(earlier.temp_blks_written)?,
        })
    }
}

/// What the server's entry, or all that share its key, held at the last survey.
#[derive(Debug)]
struct Entry {
    datname: Arc<str>,
    totals: StatementTotals,
    since: Option<ServerTime>,
}

/// Rows as entries, sorted by key. Those that share a key are one entry.
fn entries(rows: &[StatementRow]) -> Vec<(StatementKey, Entry)> {
    let entry = |row: &StatementRow| Entry {
        datname: Arc::clone(&row.datname),
        totals: StatementTotals::of(row),
        since: row.since,
    };
    let mut entries: Vec<_> = rows.iter().map(|row| (row.key, entry(row))).collect();
    entries.sort_by_key(|(key, _)| *key);
    entries.dedup_by(|(key, entry), (first_key, first)| {
        let is_same = key == first_key;
        if is_same {
            first.totals.add(&entry.totals);
        }
        is_same
    });
    entries.shrink_to_fit();
    entries
}

fn entry_of<'a>(entries: &'a [(StatementKey, Entry)], key: &StatementKey) -> Option<&'a Entry> {
    let position = entries.binary_search_by_key(key, |(key, _)| *key).ok()?;
    entries.get(position).map(|(_, entry)| entry)
}

/// Turns the server's entries, survey by survey, into counters.
#[derive(Debug, Default)]
pub struct StatementTracker {
    /// The server process whose entries `previous` holds. Another one starts from a new baseline: behind one name there
    /// may now be another server, whose entries have nothing to do with the former's.
    server_started_at: Option<ServerTime>,
    /// Sorted by key, without room to spare: there may be thousands, for each target.
    previous: Vec<(StatementKey, Entry)>,
    databases: BTreeMap<Arc<str>, StatementTotals>,
    /// Statements that are or were among the top, each with the number of the survey when it last was.
    shown: HashMap<(Arc<str>, i64), (StatementTotals, u64)>,
    surveys: u64,
    resets: u64,
    last_reset_at: Option<ServerTime>,
}

impl StatementTracker {
    /// Takes in one survey's entries; `top` is how many statements are told one by one.
    pub fn observe(&mut self, statements: &Statements, server_started_at: ServerTime, top: usize) -> StatementCounters {
        let is_baseline = self.server_started_at != Some(server_started_at);
        if is_baseline {
            self.previous.clear();
            self.server_started_at = Some(server_started_at);
        }
        let was_reset = !is_baseline && self.last_reset_at < statements.reset_at && self.last_reset_at.is_some();
        self.last_reset_at = statements.reset_at;
        self.surveys += 1;

        let current = entries(&statements.rows);
        let mut recent: HashMap<(Arc<str>, i64), StatementTotals> = HashMap::new();
        let mut restarted_entries = false;
        for (key, entry) in &current {
            let database = self.databases.entry(Arc::clone(&entry.datname)).or_default();
            if is_baseline {
                continue;
            }
            let kept = match entry_of(&self.previous, key) {
                Some(earlier) if earlier.since == entry.since => entry.totals.since(&earlier.totals),
                Some(_) => None,
                // An entry that was not there at the last survey: all it has was added since.
                None => Some(entry.totals),
            };
            let added = match (kept, key.queryid) {
                (Some(added), _) => added,
                (None, Some(_)) => {
                    restarted_entries = true;
                    entry.totals
                }
                // Statements one may not tell apart share a key: when one of them is evicted, what the others added is unknown.
                (None, None) => StatementTotals::default(),
            };
            database.add(&added);
            if let Some(queryid) = key.queryid
                && added.calls > 0
            {
                recent.entry((Arc::clone(&entry.datname), queryid)).or_default().add(&added);
            }
        }
        self.previous = current;
        self.resets += u64::from(was_reset || restarted_entries);

        StatementCounters {
            databases: self.databases.iter().map(|(name, totals)| (Arc::clone(name), *totals)).collect(),
            top: self.rank(recent, top),
            evictions: statements.evicted,
            resets: self.resets,
        }
    }

    /// Chooses the statements to show and moves the counters of all that are remembered.
    fn rank(&mut self, recent: HashMap<(Arc<str>, i64), StatementTotals>, top: usize) -> Vec<TopStatement> {
        for (key, added) in &recent {
            if let Some((totals, _)) = self.shown.get_mut(key) {
                totals.add(added);
            }
        }
        let mut ranked: Vec<_> = recent.into_iter().collect();
        ranked.sort_by(|(left_key, left), (right_key, right)| {
            right.exec_seconds.total_cmp(&left.exec_seconds).then_with(|| left_key.cmp(right_key))
        });
        ranked.truncate(top);
        let shown = ranked
            .into_iter()
            .map(|(key, added)| {
                let entry = self.shown.entry(key.clone()).or_insert((added, 0));
                entry.1 = self.surveys;
                TopStatement {
                    datname: key.0,
                    queryid: key.1,
                    totals: entry.0,
                    recent_exec_seconds: added.exec_seconds,
                }
            })
            .collect();
        self.forget_stale(top * REMEMBERED_PER_SHOWN);
        shown
    }

    /// Drops those that were longest not among the top, down to `limit`.
    fn forget_stale(&mut self, limit: usize) {
        if self.shown.len() <= limit {
            return;
        }
        let mut surveys: Vec<u64> = self.shown.values().map(|(_, survey)| *survey).collect();
        surveys.sort_unstable_by(|left, right| right.cmp(left));
        let oldest_kept = surveys.get(limit).copied().unwrap_or(0);
        self.shown.retain(|_, (_, survey)| *survey > oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: ServerTime = ServerTime::from_unix_micros(1);

    fn row(queryid: i64, calls: u64, exec_ms: f64) -> StatementRow {
        StatementRow {
            key: StatementKey { userid: 10, dbid: 5, queryid: Some(queryid), toplevel: true },
            datname: Arc::from("app"),
            calls,
            exec_ms,
            rows: calls * 2,
            shared_blks_hit: 0,
            shared_blks_read: 0,
            shared_blks_dirtied: 0,
            shared_blks_written: 0,
            temp_blks_read: 0,
            temp_blks_written: 0,
            since: None,
        }
    }

    fn survey(rows: Vec<StatementRow>) -> Statements {
        Statements { rows, evicted: Some(0), reset_at: None }
    }

    fn totals(calls: u64, exec_seconds: f64) -> StatementTotals {
        StatementTotals { calls, exec_seconds, rows: calls * 2, ..StatementTotals::default() }
    }

    /// Feeds surveys and gives the calls and seconds of database `app`, and of each shown statement, after each.
    fn check(surveys: Vec<Vec<StatementRow>>, expect: &[(StatementTotals, &[(i64, u64)])]) {
        let mut tracker = StatementTracker::default();
        for (rows, (database, top)) in surveys.into_iter().zip(expect) {
            let counters = tracker.observe(&survey(rows), STARTED, 2);
            assert_eq!(counters.databases, vec![(Arc::from("app"), *database)]);
            let shown: Vec<(i64, u64)> = counters.top.iter().map(|s| (s.queryid, s.totals.calls)).collect();
            assert_eq!(shown, *top);
        }
    }

    #[test]
    fn what_was_there_at_the_first_survey_is_not_counted() {
        check(
            vec![vec![row(1, 100, 1000.0)], vec![row(1, 103, 1500.0)]],
            &[(totals(0, 0.0), &[]), (totals(3, 0.5), &[(1, 3)])],
        );
    }

    #[test]
    fn an_evicted_entry_that_comes_back_counts_from_where_it_was() {
        check(
            vec![
                vec![row(1, 100, 1000.0)],
                vec![row(1, 110, 2000.0)],
                vec![],
                vec![row(1, 4, 500.0)],
                vec![row(1, 5, 1500.0)],
            ],
            &[
                (totals(0, 0.0), &[]),
                (totals(10, 1.0), &[(1, 10)]),
                (totals(10, 1.0), &[]),
                (totals(14, 1.5), &[(1, 14)]),
                (totals(15, 2.5), &[(1, 15)]),
            ],
        );
    }

    #[test]
    fn one_counter_that_went_back_means_the_whole_entry_started_again() {
        // After the reset the calls have already overtaken the old value; the time has not.
        let mut tracker = StatementTracker::default();
        tracker.observe(&survey(vec![row(1, 10, 9000.0)]), STARTED, 2);
        let counters = tracker.observe(&survey(vec![row(1, 50, 1000.0)]), STARTED, 2);
        assert_eq!(counters.databases, vec![(Arc::from("app"), totals(50, 1.0))]);
        assert_eq!(counters.resets, 1);
    }

    #[test]
    fn an_entry_reset_by_itself_is_known_by_its_stats_since() {
        let mut tracker = StatementTracker::default();
        let since = |micros| Some(ServerTime::from_unix_micros(micros));
        tracker.observe(&survey(vec![StatementRow { since: since(5), ..row(1, 10, 1000.0) }]), STARTED, 2);
        let counters =
            tracker.observe(&survey(vec![StatementRow { since: since(9), ..row(1, 20, 2000.0) }]), STARTED, 2);
        assert_eq!(counters.databases, vec![(Arc::from("app"), totals(20, 2.0))]);
        assert_eq!(counters.resets, 1);
    }

    #[test]
    fn users_and_nesting_of_one_statement_are_summed() {
        let nested = |calls| {
            let mut row = row(1, calls, 0.0);
            row.key.toplevel = false;
            row.key.userid = 11;
            row
        };
        check(
            vec![vec![row(1, 1, 0.0), nested(1)], vec![row(1, 3, 0.0), nested(6)]],
            &[(totals(0, 0.0), &[]), (totals(7, 0.0), &[(1, 7)])],
        );
    }

    #[test]
    fn the_top_is_by_execution_time_since_the_last_beat() {
        check(
            vec![
                vec![row(1, 1, 90_000.0), row(2, 1, 10.0), row(3, 1, 20.0)],
                vec![row(1, 2, 90_250.0), row(2, 2, 1010.0), row(3, 2, 520.0)],
            ],
            &[(totals(0, 0.0), &[]), (totals(3, 1.75), &[(2, 1), (3, 1)])],
        );
    }

    #[test]
    fn another_server_behind_the_name_is_a_new_baseline() {
        let mut tracker = StatementTracker::default();
        tracker.observe(&survey(vec![row(1, 10, 0.0)]), STARTED, 2);
        tracker.observe(&survey(vec![row(1, 12, 0.0)]), STARTED, 2);
        let other = ServerTime::from_unix_micros(2);
        let counters = tracker.observe(&survey(vec![row(1, 5000, 0.0)]), other, 2);
        assert_eq!(counters.databases, vec![(Arc::from("app"), totals(2, 0.0))]);
        let counters = tracker.observe(&survey(vec![row(1, 5001, 0.0)]), other, 2);
        assert_eq!(counters.databases, vec![(Arc::from("app"), totals(3, 0.0))]);
    }

    #[test]
    fn statements_that_may_not_be_seen_count_for_the_database_only() {
        let hidden = |calls| {
            let mut row = row(0, calls, 0.0);
            row.key.queryid = None;
            row
        };
        check(
            vec![vec![hidden(1), hidden(100)], vec![hidden(5), hidden(101)], vec![hidden(5)]],
            &[(totals(0, 0.0), &[]), (totals(5, 0.0), &[]), (totals(5, 0.0), &[])],
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut tracker = StatementTracker::default();
        tracker.observe(&survey(vec![]), STARTED, 2);
        for queryid in 0..1000 {
            tracker.observe(&survey(vec![row(queryid, 1, 1.0)]), STARTED, 2);
            assert!(tracker.shown.len() <= 8, "{}", tracker.shown.len());
        }
    }
}
