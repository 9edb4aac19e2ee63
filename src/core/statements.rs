//! Counters of `pg_stat_statements` that only go up, whatever is evicted or reset on the server.
//!
//! The server's own entries come and go: the least used are evicted when the table is full, come back smaller, and
//! anyone may reset them. So what is stated is the sum of what was *seen to be added* between two surveys; nothing is
//! ever counted twice. What an entry gained between the last survey and its eviction is lost, and so is the part of an
//! entry's counters that it had before: one that went, came back and has overtaken all of them before it was missed,
//! which takes as many surveys as there are slices (17+ tells by `stats_since`).
//!
//! A few statements are told one by one, and all others of their database as one: the two together are the database's
//! totals, at every survey. Which ones are told changes reluctantly, for each is a series: one that is told begins at
//! 0, and what it had is added to the others when it leaves.

pub mod text;

use std::collections::HashMap;
use std::sync::Arc;

use super::survey::{StatementKey, StatementRow, Statements, Told};
use super::time::ServerTime;

/// A statement that is told stays for so many surveys at least: no more than a whole top's worth of series is new in them.
const MIN_STAY: u64 = 20;

/// One that is not told takes the place of one that is when it took so many times its execution time.
const TO_REPLACE: f64 = 2.0;

/// How much of what a statement takes on average is what it took of late.
const WEIGHT: f64 = 0.2;

/// Totals since this daemon began to watch the target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementCounters {
    /// By database, sorted by name.
    pub databases: Vec<DatabaseCounters>,
    /// Those of the statements that take the most execution time, the dearest of late first.
    pub top: Vec<TopStatement>,
    /// Statements that were executed since the last beat and are not among the top.
    pub left_out: usize,
    /// Entries that the server evicted (`pg_stat_statements_info.dealloc`). `None` before extension version 1.9.
    pub evictions: Option<u64>,
    /// Times that an entry, or all of them, were seen to start again.
    pub resets: u64,
}

/// What the statements of one database added up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatabaseCounters {
    pub datname: Arc<str>,
    pub totals: StatementTotals,
    /// All but what is told of [`StatementCounters::top`].
    pub others: StatementTotals,
}

/// What a statement, or all of a database's, added up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StatementTotals {
    pub calls: u64,
    /// Execution time in microseconds.
    pub exec_us: u64,
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
    /// Since this statement came among the top.
    pub totals: StatementTotals,
    /// Since the last beat.
    pub recent_calls: u64,
    pub recent_exec_seconds: f64,
    /// Its first line without literals, where that is wanted and was read.
    pub text: Option<Arc<str>>,
}

impl TopStatement {
    /// Mean execution time since the last beat. `None` when it was not executed.
    pub fn mean_exec_seconds(&self) -> Option<f64> {
        (self.recent_calls > 0).then(|| self.recent_exec_seconds / self.recent_calls as f64)
    }
}

impl StatementTotals {
    fn of(row: &StatementRow) -> Self {
        Self {
            calls: row.calls,
            exec_us: row.exec_us,
            rows: row.rows,
            shared_blks_hit: row.shared_blks_hit,
            shared_blks_read: row.shared_blks_read,
            shared_blks_dirtied: row.shared_blks_dirtied,
            shared_blks_written: row.shared_blks_written,
            temp_blks_read: row.temp_blks_read,
            temp_blks_written: row.temp_blks_written,
        }
    }

    pub fn exec_seconds(&self) -> f64 {
        self.exec_us as f64 / 1e6
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.exec_us += other.exec_us;
        self.rows += other.rows;
        self.shared_blks_hit += other.shared_blks_hit;
        self.shared_blks_read += other.shared_blks_read;
        self.shared_blks_dirtied += other.shared_blks_dirtied;
        self.shared_blks_written += other.shared_blks_written;
        self.temp_blks_read += other.temp_blks_read;
        self.temp_blks_written += other.temp_blks_written;
    }

    /// What was added since `earlier`. `None` when any counter went back, or another moved without a call: the entry
    /// started again, and since one counter may have overtaken its old value while another has not, a single one speaks
    /// for the whole row.
    fn since(&self, earlier: &Self) -> Option<Self> {
        let added = Self {
            calls: self.calls.checked_sub(earlier.calls)?,
            exec_us: self.exec_us.checked_sub(earlier.exec_us)?,
            rows: self.rows.checked_sub(earlier.rows)?,
            shared_blks_hit: self.shared_blks_hit.checked_sub(earlier.shared_blks_hit)?,
            shared_blks_read: self.shared_blks_read.checked_sub(earlier.shared_blks_read)?,
            shared_blks_dirtied: self.shared_blks_dirtied.checked_sub(earlier.shared_blks_dirtied)?,
            shared_blks_written: self.shared_blks_written.checked_sub(earlier.shared_blks_written)?,
            temp_blks_read: self.temp_blks_read.checked_sub(earlier.temp_blks_read)?,
            temp_blks_written: self.temp_blks_written.checked_sub(earlier.temp_blks_written)?,
        };
        (added.calls > 0 || added == Self::default()).then_some(added)
    }
}

/// What the server's entry, or all that share its key, held at the last survey.
#[derive(Debug)]
struct Entry {
    datname: Arc<str>,
    totals: StatementTotals,
    /// `None` where the server does not say, or was not asked.
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
    databases: Databases,
    shown: Vec<Member>,
    surveys: u64,
    resets: u64,
    evicted: Option<u64>,
    /// The survey that saw the last eviction.
    evicted_at: Option<u64>,
    reset_at: Option<ServerTime>,
}

/// By name, sorted: most servers have one or two.
#[derive(Debug, Default)]
struct Databases(Vec<(Arc<str>, Database)>);

impl Databases {
    fn of(&mut self, datname: &Arc<str>) -> &mut Database {
        let place = self.0.binary_search_by(|(known, _)| known.cmp(datname)).unwrap_or_else(|place| {
            self.0.reserve_exact(1);
            self.0.insert(place, (Arc::clone(datname), Database::default()));
            place
        });
        &mut self.0[place].1
    }
}

#[derive(Debug, Default)]
struct Database {
    totals: StatementTotals,
    others: StatementTotals,
}

/// A statement that is told by itself.
#[derive(Debug)]
struct Member {
    datname: Arc<str>,
    queryid: i64,
    totals: StatementTotals,
    recent: StatementTotals,
    /// Execution time between two surveys, on average.
    usual_exec_seconds: f64,
    /// The survey that it came with.
    came_at: u64,
    text: Option<Arc<str>>,
    /// Whether its text was asked for.
    was_asked: bool,
}

/// Entries as last seen, and what tells that they were not all reset since.
#[derive(Clone, Copy, Debug)]
pub struct KnownEntries<'a> {
    /// As in [`Statements`].
    pub reset_at: Option<ServerTime>,
    entries: &'a [(StatementKey, Entry)],
}

impl<'a> KnownEntries<'a> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Each with what it holds.
    pub fn totals(&self) -> impl Iterator<Item = (&'a StatementKey, &'a StatementTotals)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.totals))
    }
}

impl StatementTracker {
    /// Takes in one survey's entries; `top` is how many statements are told one by one. A part of the
    /// entries of a server whose others are not known moves nothing.
    pub fn observe(&mut self, statements: &Statements, server_started_at: ServerTime, top: usize) -> StatementCounters {
        let is_baseline = self.server_started_at != Some(server_started_at);
        if is_baseline {
            self.forget();
            if statements.told != Told::All {
                return self.counters(0);
            }
            self.server_started_at = Some(server_started_at);
        }
        let was_reset = !is_baseline && self.reset_at < statements.reset_at && self.reset_at.is_some();
        self.surveys += 1;
        if !is_baseline && statements.evicted > self.evicted {
            self.evicted_at = Some(self.surveys);
        }
        (self.evicted, self.reset_at) = (statements.evicted, statements.reset_at);

        let current = entries(&statements.rows);
        let mut recent: HashMap<(Arc<str>, i64), StatementTotals> = HashMap::new();
        let mut restarted_entries = false;
        for (key, entry) in &current {
            let database = self.databases.of(&entry.datname);
            if is_baseline {
                continue;
            }
            let kept = match entry_of(&self.previous, key) {
                Some(earlier) if earlier.since.zip(entry.since).is_some_and(|(earlier, since)| earlier != since) => {
                    None
                }
                Some(earlier) => entry.totals.since(&earlier.totals),
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
            database.totals.add(&added);
            match key.queryid {
                Some(queryid) if added.calls > 0 => {
                    recent.entry((Arc::clone(&entry.datname), queryid)).or_default().add(&added);
                }
                _ => database.others.add(&added),
            }
        }
        self.keep(current, statements.told);
        // One that was evicted and came back was not reset.
        let may_be_evicted = self.evicted_at.is_some_and(|at| self.surveys - at <= u64::from(StatementKey::SLICES));
        self.resets += u64::from(was_reset || (restarted_entries && !may_be_evicted));
        let left_out = self.choose(recent, top);
        self.counters(left_out)
    }

    /// The entries as last seen. `None` at the beginning, when all are to be told.
    pub fn known(&self) -> Option<KnownEntries<'_>> {
        let is_known = self.server_started_at.is_some();
        is_known.then_some(KnownEntries { reset_at: self.reset_at, entries: &self.previous })
    }

    /// The entries are not known any more; the counters stay.
    pub fn forget(&mut self) {
        self.server_started_at = None;
        self.previous.clear();
    }

    /// Statements among the top whose text was never asked for.
    pub fn untold(&self) -> Vec<i64> {
        self.shown.iter().filter(|member| !member.was_asked).map(|member| member.queryid).collect()
    }

    /// Takes in the texts that were found, by queryid. Those in `asked` are not asked for again.
    pub fn tell(&mut self, asked: &[i64], texts: &HashMap<i64, Arc<str>>) {
        for member in self.shown.iter_mut().filter(|member| asked.contains(&member.queryid)) {
            member.was_asked = true;
            member.text = texts.get(&member.queryid).cloned();
        }
    }

    fn keep(&mut self, current: Vec<(StatementKey, Entry)>, told: Told) {
        let Told::Moved { slice } = told else {
            self.previous = current;
            return;
        };
        // Those of the slice that were not told have gone.
        self.previous.retain(|(key, _)| key.slice() != Some(slice) || entry_of(&current, key).is_some());
        let mut new = Vec::new();
        for (key, entry) in current {
            match self.previous.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(position) => self.previous[position].1 = entry,
                Err(_) => new.push((key, entry)),
            }
        }
        if !new.is_empty() {
            self.previous.append(&mut new);
            self.previous.sort_by_key(|(key, _)| *key);
            self.previous.shrink_to_fit();
        }
    }

    /// Shares what was added out among the statements that are told and the others, and chooses who is told. Says how
    /// many were left out.
    fn choose(&mut self, mut recent: HashMap<(Arc<str>, i64), StatementTotals>, top: usize) -> usize {
        for member in &mut self.shown {
            member.recent = recent.remove(&(Arc::clone(&member.datname), member.queryid)).unwrap_or_default();
            member.totals.add(&member.recent);
            member.usual_exec_seconds += WEIGHT * (member.recent.exec_seconds() - member.usual_exec_seconds);
        }
        let mut others: Vec<_> = recent.into_iter().collect();
        others.sort_by(|(left_key, left), (right_key, right)| {
            right.exec_us.cmp(&left.exec_us).then_with(|| left_key.cmp(right_key))
        });
        let mut may_leave = (top / 4).max(1);
        let mut left_out = 0;
        for ((datname, queryid), added) in others {
            let mut has_room = self.shown.len() < top;
            if !has_room && may_leave > 0 {
                has_room = self.make_room(added.exec_seconds());
                // What comes after it takes even less.
                may_leave = if has_room { may_leave - 1 } else { 0 };
            }
            if has_room {
                // Never more than there is room for.
                self.shown.reserve_exact(1);
                self.shown.push(Member {
                    datname,
                    queryid,
                    totals: added,
                    recent: added,
                    usual_exec_seconds: added.exec_seconds(),
                    came_at: self.surveys,
                    text: None,
                    was_asked: false,
                });
            } else {
                left_out += 1;
                self.databases.of(&datname).others.add(&added);
            }
        }
        left_out
    }

    /// Has the least of those that are told leave, if what takes its place takes that much more.
    fn make_room(&mut self, exec_seconds: f64) -> bool {
        let surveys = self.surveys;
        let least = (0..self.shown.len())
            .filter(|position| surveys - self.shown[*position].came_at >= MIN_STAY)
            .min_by(|left, right| {
                self.shown[*left].usual_exec_seconds.total_cmp(&self.shown[*right].usual_exec_seconds)
            })
            .filter(|least| exec_seconds > TO_REPLACE * self.shown[*least].usual_exec_seconds);
        let Some(least) = least else { return false };
        let member = self.shown.swap_remove(least);
        self.databases.of(&member.datname).others.add(&member.totals);
        true
    }

    fn counters(&self, left_out: usize) -> StatementCounters {
        let mut top: Vec<TopStatement> = self
            .shown
            .iter()
            .map(|member| TopStatement {
                datname: Arc::clone(&member.datname),
                queryid: member.queryid,
                totals: member.totals,
                recent_calls: member.recent.calls,
                recent_exec_seconds: member.recent.exec_seconds(),
                text: member.text.clone(),
            })
            .collect();
        top.sort_by(|left, right| {
            let by_time = right.recent_exec_seconds.total_cmp(&left.recent_exec_seconds);
            by_time.then_with(|| (&left.datname, left.queryid).cmp(&(&right.datname, right.queryid)))
        });
        let databases = self.databases.0.iter().map(|(datname, database)| DatabaseCounters {
            datname: Arc::clone(datname),
            totals: database.totals,
            others: database.others,
        });
        StatementCounters {
            databases: databases.collect(),
            top,
            left_out,
            evictions: self.evicted,
            resets: self.resets,
        }
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
            exec_us: (exec_ms * 1e3) as u64,
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
        Statements { rows, told: Told::All, evicted: Some(0), reset_at: None }
    }

    fn observe(tracker: &mut StatementTracker, rows: Vec<StatementRow>) -> StatementCounters {
        tracker.observe(&survey(rows), STARTED, 2)
    }

    /// The one database.
    fn app(counters: &StatementCounters) -> StatementTotals {
        assert_eq!(counters.databases.iter().map(|d| &*d.datname).collect::<Vec<_>>(), ["app"]);
        counters.databases[0].totals
    }

    fn totals(calls: u64, exec_seconds: f64) -> StatementTotals {
        StatementTotals { calls, exec_us: (exec_seconds * 1e6) as u64, rows: calls * 2, ..StatementTotals::default() }
    }

    /// Feeds surveys and gives the calls and seconds of database `app`, and of each shown statement, after each.
    fn check(surveys: Vec<Vec<StatementRow>>, expect: &[(StatementTotals, &[(i64, u64)])]) {
        let mut tracker = StatementTracker::default();
        for (rows, (database, top)) in surveys.into_iter().zip(expect) {
            let counters = observe(&mut tracker, rows);
            assert_eq!(app(&counters), *database);
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
                (totals(10, 1.0), &[(1, 10)]),
                (totals(14, 1.5), &[(1, 14)]),
                (totals(15, 2.5), &[(1, 15)]),
            ],
        );
    }

    #[test]
    fn one_counter_that_went_back_means_the_whole_entry_started_again() {
        // After the reset the calls have already overtaken the old value; the time has not.
        let mut tracker = StatementTracker::default();
        observe(&mut tracker, vec![row(1, 10, 9000.0)]);
        let counters = observe(&mut tracker, vec![row(1, 50, 1000.0)]);
        assert_eq!(app(&counters), totals(50, 1.0));
        assert_eq!(counters.resets, 1);
    }

    #[test]
    fn an_entry_reset_by_itself_is_known_by_its_stats_since() {
        let mut tracker = StatementTracker::default();
        let since = |micros| Some(ServerTime::from_unix_micros(micros));
        observe(&mut tracker, vec![StatementRow { since: since(5), ..row(1, 10, 1000.0) }]);
        let counters = observe(&mut tracker, vec![StatementRow { since: since(9), ..row(1, 20, 2000.0) }]);
        assert_eq!(app(&counters), totals(20, 2.0));
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
        observe(&mut tracker, vec![row(1, 10, 0.0)]);
        observe(&mut tracker, vec![row(1, 12, 0.0)]);
        let other = ServerTime::from_unix_micros(2);
        let counters = tracker.observe(&survey(vec![row(1, 5000, 0.0)]), other, 2);
        assert_eq!(app(&counters), totals(2, 0.0));
        let counters = tracker.observe(&survey(vec![row(1, 5001, 0.0)]), other, 2);
        assert_eq!(app(&counters), totals(3, 0.0));
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

    /// Numbers that look random, the same at every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    /// Calls and execution time of the entries that are known, by queryid, and the slice that is asked for in full.
    type Asked = (HashMap<i64, (u64, u64)>, u8);

    /// A server's entries and what was really executed on it.
    #[derive(Default)]
    struct Server {
        /// Calls, milliseconds, and when it began, by queryid.
        entries: std::collections::BTreeMap<i64, (u64, f64, i64)>,
        n_entries: i64,
        /// Whether it tells when an entry began, as 17 does.
        tells_since: bool,
        evicted: u64,
        resets: i64,
    }

    impl Server {
        fn work(&mut self, dice: &mut Dice) {
            for _ in 0..30 {
                let queryid = dice.below(60) as i64;
                self.n_entries += 1;
                let entry = self.entries.entry(queryid).or_insert((0, 0.0, self.n_entries));
                entry.0 += 1 + dice.below(3);
                entry.1 += (queryid % 7) as f64 * dice.below(1000) as f64;
            }
            // The least used are evicted, one is reset by itself, or all are.
            if self.entries.len() > 40 {
                let mut calls: Vec<u64> = self.entries.values().map(|(calls, ..)| *calls).collect();
                calls.sort_unstable();
                let least = calls[10];
                self.entries.retain(|_, (calls, ..)| *calls > least);
                self.evicted += 1;
            }
            match dice.below(20) {
                0 => self.entries.retain(|queryid, _| queryid % 5 != 0),
                1 => {
                    self.entries.clear();
                    self.evicted = 0;
                    self.resets += 1;
                }
                _ => {}
            }
        }

        /// All entries, or those that are not among the known and those of the slice.
        fn survey(&self, known: Option<&Asked>) -> Statements {
            let since = |began: i64| self.tells_since.then(|| ServerTime::from_unix_micros(began));
            let rows = self.entries.iter().map(|(queryid, (calls, ms, began))| StatementRow {
                since: since(*began),
                ..row(*queryid, *calls, *ms)
            });
            let is_told = |row: &StatementRow| {
                known.is_none_or(|(known, slice)| {
                    let has_moved = row.key.queryid.and_then(|id| known.get(&id)) != Some(&(row.calls, row.exec_us));
                    has_moved || row.key.slice() == Some(*slice)
                })
            };
            Statements {
                rows: rows.filter(is_told).collect(),
                told: known.map_or(Told::All, |(_, slice)| Told::Moved { slice: *slice }),
                evicted: Some(self.evicted),
                reset_at: Some(ServerTime::from_unix_micros(self.resets)),
            }
        }
    }

    #[test]
    fn the_top_and_the_others_are_the_totals_whatever_the_server_drops() {
        for seed in 0..20 {
            let (mut dice, mut server) = (Dice(seed), Server::default());
            let mut tracker = StatementTracker::default();
            let mut before: Option<StatementCounters> = None;
            let mut n_changes = 0;
            for _ in 0..200 {
                server.work(&mut dice);
                let counters = tracker.observe(&server.survey(None), STARTED, 5);
                let Some(database) = counters.databases.first() else { continue };
                let mut sum = database.others;
                counters.top.iter().for_each(|statement| sum.add(&statement.totals));
                assert_eq!((sum.calls, sum.rows), (database.totals.calls, database.totals.rows), "seed {seed}");
                assert_eq!(sum.exec_us, database.totals.exec_us, "seed {seed}");
                assert!(counters.top.len() <= 5);
                if let Some(before) = &before {
                    let earlier = &before.databases[0];
                    assert!(database.totals.since(&earlier.totals).is_some(), "the totals went back");
                    assert!(database.others.since(&earlier.others).is_some(), "the others went back");
                    for statement in &counters.top {
                        match before.top.iter().find(|earlier| earlier.queryid == statement.queryid) {
                            Some(earlier) => assert!(statement.totals.since(&earlier.totals).is_some()),
                            None => n_changes += 1,
                        }
                    }
                }
                before = Some(counters);
            }
            assert!(n_changes <= 5 * 200 / MIN_STAY, "seed {seed}: {n_changes} series came and went in 200 surveys");
        }
    }

    #[test]
    fn entries_that_have_not_moved_need_not_be_told() {
        for (seed, tells_since) in (0..10).flat_map(|seed| [(seed, false), (seed, true)]) {
            let (mut dice, mut server) = (Dice(seed), Server { tells_since, ..Server::default() });
            let (mut all, mut moved) = (StatementTracker::default(), StatementTracker::default());
            let mut n_partial = 0;
            for round in 0..200 {
                server.work(&mut dice);
                let expect = all.observe(&server.survey(None), STARTED, 5);
                // As the server decides: all entries where all were reset.
                let known =
                    moved.known().filter(|known| known.reset_at == Some(ServerTime::from_unix_micros(server.resets)));
                let known: Option<Asked> = known.map(|known| {
                    let totals = |(key, totals): (&StatementKey, &StatementTotals)| {
                        Some((key.queryid?, (totals.calls, totals.exec_us)))
                    };
                    (known.totals().filter_map(totals).collect(), round % StatementKey::SLICES)
                });
                n_partial += usize::from(known.is_some());
                let counters = moved.observe(&server.survey(known.as_ref()), STARTED, 5);
                let calls =
                    |counters: &StatementCounters| counters.databases.iter().map(|app| app.totals.calls).sum::<u64>();
                let (calls, expect) = (calls(&counters), calls(&expect));
                // Lost is what was evicted and came back with more than it had, unless it says when it began.
                let lost = 1.0 - calls as f64 / expect.max(1) as f64;
                let is_late = round == 199;
                assert!(calls <= expect, "seed {seed}: counted twice");
                assert!(!is_late || lost < if tells_since { 0.005 } else { 0.03 }, "seed {seed}: {lost} is lost");
            }
            assert!(n_partial > 150, "{n_partial}");
        }
    }

    #[test]
    fn a_part_of_the_entries_of_an_unknown_server_says_nothing() {
        let mut tracker = StatementTracker::default();
        let part = |rows| Statements { told: Told::Moved { slice: 0 }, ..survey(rows) };
        assert_eq!(tracker.observe(&part(vec![row(1, 10, 0.0)]), STARTED, 2).databases, []);
        assert!(tracker.known().is_none());
        observe(&mut tracker, vec![row(1, 10, 0.0), row(2, 5, 0.0)]);
        assert_eq!(tracker.known().map(|known| known.count()), Some(2));
        let counters = tracker.observe(&part(vec![row(2, 6, 0.0), row(3, 1, 0.0)]), STARTED, 2);
        assert_eq!(app(&counters), totals(2, 0.0));
        assert_eq!(tracker.known().map(|known| known.count()), Some(3));
        let counters = tracker.observe(&part(vec![row(2, 9, 0.0)]), ServerTime::from_unix_micros(2), 2);
        assert_eq!(app(&counters), totals(2, 0.0));
        assert!(tracker.known().is_none(), "another server's entries");
    }

    #[test]
    fn an_entry_that_is_gone_is_missed_in_its_slice() {
        let mut tracker = StatementTracker::default();
        observe(&mut tracker, vec![row(1, 10, 0.0), row(9, 10, 0.0), row(-6, 10, 0.0), row(-7, 10, 0.0)]);
        let mut part = |slice, rows| {
            tracker.observe(&Statements { told: Told::Moved { slice }, ..survey(rows) }, STARTED, 2);
            tracker.known().unwrap().totals().filter_map(|(key, _)| key.queryid).collect::<Vec<_>>()
        };
        assert_eq!(part(3, vec![]), [-7, -6, 1, 9]);
        assert_eq!(part(2, vec![]), [-7, 1, 9]);
        assert_eq!(part(1, vec![row(9, 10, 0.0), row(4, 1, 0.0)]), [4, 9]);
    }

    #[test]
    fn one_that_moved_without_a_call_is_another_entry() {
        let mut tracker = StatementTracker::default();
        observe(&mut tracker, vec![row(1, 1, 10.0)]);
        let counters = observe(&mut tracker, vec![row(1, 1, 30.0)]);
        assert_eq!((app(&counters), counters.resets), (totals(1, 0.03), 1));
    }

    #[test]
    fn what_was_evicted_and_came_back_was_not_reset() {
        let mut tracker = StatementTracker::default();
        observe(&mut tracker, vec![row(1, 10, 0.0)]);
        let mut part = |evicted, calls| {
            let moved = Statements {
                told: Told::Moved { slice: 0 },
                evicted: Some(evicted),
                ..survey(vec![row(1, calls, 0.0)])
            };
            let counters = tracker.observe(&moved, STARTED, 2);
            (app(&counters).calls, counters.resets)
        };
        assert_eq!(part(1, 3), (3, 0));
        for _ in 0..StatementKey::SLICES {
            assert_eq!(part(1, 3), (3, 0));
        }
        assert_eq!(part(1, 2), (5, 1));
    }

    #[test]
    fn one_that_is_told_stays_until_another_takes_much_more() {
        let mut tracker = StatementTracker::default();
        let top = |counters: StatementCounters| counters.top.iter().map(|t| t.queryid).collect::<Vec<_>>();
        let mut total = [0.0; 3];
        let mut round = 0;
        let mut beat = |took: [f64; 3]| {
            round += 1;
            total.iter_mut().zip(took).for_each(|(total, took)| *total += took);
            top(observe(&mut tracker, (1..).zip(total).map(|(queryid, ms)| row(queryid, round, ms)).collect()))
        };
        beat([0.0; 3]);
        assert_eq!(beat([1000.0, 900.0, 800.0]), [1, 2]);
        // More than the second, but not twice as much.
        for _ in 0..2 * MIN_STAY {
            assert_eq!(beat([1000.0, 900.0, 1500.0]), [1, 2]);
        }
        assert_eq!(beat([1000.0, 900.0, 2000.0]), [3, 1]);
        // The newest stays for a while, whatever the others take; the first has stayed long enough.
        assert_eq!(beat([0.0, 9000.0, 0.0]), [2, 3]);
        for _ in 0..MIN_STAY - 2 {
            assert_eq!(beat([9000.0, 9000.0, 0.0]), [2, 3]);
        }
        assert_eq!(beat([9000.0, 9000.0, 0.0]), [1, 2]);
    }

    #[test]
    fn the_mean_is_of_the_last_interval() {
        let mut tracker = StatementTracker::default();
        let mut mean = |rows| observe(&mut tracker, rows).top.first().and_then(TopStatement::mean_exec_seconds);
        assert_eq!(mean(vec![row(1, 1000, 1_000_000.0)]), None);
        assert_eq!(mean(vec![row(1, 1004, 1_002_000.0)]), Some(0.5));
        assert_eq!(mean(vec![row(1, 1012, 1_003_000.0)]), Some(0.125));
        assert_eq!(mean(vec![row(1, 1012, 1_003_000.0)]), None);
    }

    #[test]
    fn a_text_is_asked_for_once() {
        let mut tracker = StatementTracker::default();
        observe(&mut tracker, vec![]);
        observe(&mut tracker, vec![row(1, 1, 2.0), row(2, 1, 1.0)]);
        assert_eq!(tracker.untold(), [1, 2]);
        tracker.tell(&[1, 2], &HashMap::from([(1, Arc::from("SELECT ?"))]));
        assert_eq!(tracker.untold(), Vec::<i64>::new());
        let counters = observe(&mut tracker, vec![row(1, 1, 2.0), row(2, 1, 1.0)]);
        let texts: Vec<_> = counters.top.iter().map(|statement| statement.text.as_deref()).collect();
        assert_eq!(texts, [Some("SELECT ?"), None]);
    }
}
