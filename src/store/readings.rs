//! The past of what rules judge: one reading a minute of every gauge, for `pgvigil rules replay` and for charts after a
//! restart. In a file of its own beside the store's: it may be read while the daemon runs, and however large or damaged it
//! is, no alert depends on it.
//!
//! A thread of its own takes samples off the published snapshots and writes them, once a minute, together. Polls and
//! judgements never wait for it. A minute is written where it differs from the one before, and whole once an hour, so that
//! old hours can be left behind.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use tokio::sync::watch;
use tracing::warn;

use crate::clock;
use crate::core::replay::{Reading, Series};
use crate::core::signal::{Coverage, Kind, Read, SIGNALS, Seen, Signal, Value};
use crate::core::snapshot::Snapshot;
use crate::core::time::MonoTime;
use crate::core::topology::{Name, TargetId};

/// The schema's version, in `PRAGMA user_version`.
const SCHEMA: i64 = 1;

/// `state`: 0 known, 1 unknown, 2 gone. `low` and `high` are what is proven of all samples of the minute, `NULL` where they
/// are `last`. `run`: the minutes from which to which somebody wrote.
const TABLES: &str = "\
CREATE TABLE series (id INTEGER PRIMARY KEY, cluster TEXT NOT NULL, target TEXT, signal TEXT NOT NULL, labels TEXT NOT NULL) STRICT;\
CREATE TABLE reading (minute INTEGER NOT NULL, series INTEGER NOT NULL, state INTEGER NOT NULL, last REAL, low REAL, high REAL, PRIMARY KEY (minute, series)) STRICT, WITHOUT ROWID;\
CREATE TABLE run (first INTEGER PRIMARY KEY, last INTEGER NOT NULL) STRICT;";

/// How often samples are taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Somewhat more than the week that people ask for.
const KEPT_MINUTES: i64 = 8 * 24 * 60;

/// The file's most bytes; the oldest hours go first.
const MOST_BYTES: i64 = 256 * 1024 * 1024;

const UNKNOWN: i64 = 1;
const GONE: i64 = 2;

/// Where the readings beside a store are.
pub fn beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".readings");
    PathBuf::from(name)
}

/// A signal at one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    cluster: Name,
    target: Option<Name>,
    signal: &'static str,
}

/// What signals said of their subjects, which are told apart by their labels.
type Minutes = HashMap<Place, BTreeMap<Vec<String>, Minute>>;

/// What the samples of a minute say together.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Minute {
    Known { last: f64, low: f64, high: f64 },
    Unknown,
    Gone,
}

/// Samples, and what is written of them.
#[derive(Debug, Default)]
struct Recorder {
    /// Of this minute.
    samples: Minutes,
    /// Of the last minute that was written.
    written: Minutes,
    ids: HashMap<(Place, Vec<String>), i64>,
    connection: Option<Connection>,
    /// The first and the last minute written without a gap.
    run: Option<(i64, i64)>,
    is_failing: bool,
}

/// Writes what the snapshots say until the other end of `end` is dropped. Blocks; it wants a thread of its own.
pub fn run(path: &Path, snapshots: &watch::Receiver<Arc<Snapshot>>, end: &Receiver<()>) {
    let mut recorder = Recorder::default();
    let mut minute = minute_of(clock::wall());
    loop {
        let is_end = end.recv_timeout(SAMPLE_EVERY) != Err(RecvTimeoutError::Timeout);
        let present = minute_of(clock::wall());
        if present != minute {
            recorder.keep(path, minute);
            minute = present;
        }
        let snapshot = Arc::clone(&snapshots.borrow());
        recorder.sample(&snapshot, clock::now());
        if is_end {
            recorder.keep(path, minute);
            return;
        }
    }
}

fn minute_of(wall: SystemTime) -> i64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| (since.as_secs() / 60) as i64)
}

/// Whether a signal is kept. Counters only ever grow, and statements are their own history.
fn is_kept(signal: &Signal) -> bool {
    signal.kind == Kind::Gauge && !signal.name.starts_with("statement")
}

impl Recorder {
    fn sample(&mut self, snapshot: &Snapshot, now: MonoTime) {
        for signal in SIGNALS.iter().filter(|signal| is_kept(signal)) {
            for cluster in &snapshot.clusters {
                match signal.read {
                    Read::Cluster(_) => self.read(signal, &cluster.name, None, Seen::Cluster(cluster), now),
                    Read::Target(_) => {
                        for target in &cluster.targets {
                            let name = Some(&target.id.target);
                            self.read(signal, &cluster.name, name, Seen::Target(cluster, target), now);
                        }
                    }
                    Read::Pooler(_) => {
                        for pooler in &cluster.poolers {
                            let name = Some(&pooler.id.target);
                            self.read(signal, &cluster.name, name, Seen::Pooler(pooler), now);
                        }
                    }
                }
            }
        }
    }

    fn read(&mut self, signal: &'static Signal, cluster: &Name, target: Option<&Name>, seen: Seen<'_>, now: MonoTime) {
        let mut stated = BTreeMap::new();
        let coverage = signal.read_off(seen, now, &mut |labels, value| {
            if !value.value.is_nan() {
                stated.insert(labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>(), value);
            }
        });
        let place = Place { cluster: cluster.clone(), target: target.cloned(), signal: signal.name };
        let silent = if coverage == Coverage::Unknown { Minute::Unknown } else { Minute::Gone };
        let before = self.written.get(&place);
        let subjects = self.samples.entry(place).or_default();
        // What was stated before and is not now.
        for labels in before.into_iter().flat_map(BTreeMap::keys) {
            subjects.entry(labels.clone()).or_insert(silent);
        }
        for (labels, minute) in subjects.iter_mut() {
            if !stated.contains_key(labels) {
                *minute = silent;
            }
        }
        if signal.labels.is_empty() && stated.is_empty() {
            // Whether it was ever known or not: a rule may be about its silence.
            subjects.insert(Vec::new(), silent);
        }
        for (labels, Value { value: last, lower: low, upper: high }) in stated {
            let minute = match subjects.get(&labels) {
                Some(Minute::Known { low: lowest, high: highest, .. }) => {
                    Minute::Known { last, low: low.min(*lowest), high: high.max(*highest) }
                }
                _ => Minute::Known { last, low, high },
            };
            subjects.insert(labels, minute);
        }
    }

    /// Writes the minute that has ended. What cannot be written is left out: it is the past, and time goes on.
    fn keep(&mut self, path: &Path, minute: i64) {
        if self.samples.is_empty() {
            return;
        }
        let samples = std::mem::take(&mut self.samples);
        match self.write(path, minute, &samples) {
            Ok(()) => {
                self.is_failing = false;
                self.written = samples;
                for subjects in self.written.values_mut() {
                    subjects.retain(|labels, minute| labels.is_empty() || *minute != Minute::Gone);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!(path = %path.display(), %error, "readings cannot be kept: rules cannot be replayed over them");
                }
                if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
                    put_aside(path);
                }
                *self = Self { is_failing: true, ..Self::default() };
            }
        }
    }

    fn write(&mut self, path: &Path, minute: i64, samples: &Minutes) -> rusqlite::Result<()> {
        if self.connection.is_none() {
            self.connection = Some(open(path)?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        // The machine slept, or its time of day was set: nothing is known of the minutes between.
        let run = self.run.filter(|(_, last)| last + 1 == minute);
        // After a gap, and once an hour, all is written.
        let is_whole = run.is_none() || minute % 60 == 0;
        let transaction = connection.transaction()?;
        if run.is_none() {
            // A minute belongs to one run: this one takes over what a daemon wrote of it that has ended since. By a time of
            // day that was wrong, some may also have been written for minutes that are yet to come.
            transaction.execute("DELETE FROM reading WHERE minute >= ?1", [minute])?;
            transaction.execute("DELETE FROM run WHERE first >= ?1", [minute])?;
            transaction.execute("UPDATE run SET last = ?1 - 1 WHERE last >= ?1", [minute])?;
        }
        if is_whole {
            self.ids = known(&transaction)?;
        }
        let mut insert = transaction.prepare("INSERT OR REPLACE INTO reading VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        let subjects =
            samples.iter().flat_map(|(place, subjects)| subjects.iter().map(move |subject| (place, subject)));
        for (place, (labels, sample)) in subjects {
            if !is_whole && self.written.get(place).and_then(|before| before.get(labels)) == Some(sample) {
                continue;
            }
            let key = (place.clone(), labels.clone());
            let id = if let Some(id) = self.ids.get(&key) {
                *id
            } else {
                let id = add(&transaction, place, labels)?;
                self.ids.insert(key, id);
                id
            };
            let unless_last = |bound: f64, last: f64| (bound != last).then_some(bound);
            let (state, last, low, high) = match *sample {
                Minute::Known { last, low, high } => (0, Some(last), unless_last(low, last), unless_last(high, last)),
                Minute::Unknown => (UNKNOWN, None, None, None),
                Minute::Gone => (GONE, None, None, None),
            };
            insert.execute(params![minute, id, state, last, low, high])?;
        }
        drop(insert);
        let first = run.map_or(minute, |(first, _)| first);
        transaction.execute("INSERT OR REPLACE INTO run VALUES (?1, ?2)", [first, minute])?;
        if is_whole {
            leave_behind(&transaction, minute)?;
            self.ids = known(&transaction)?;
        }
        transaction.commit()?;
        self.run = Some((first, minute));
        Ok(())
    }
}

/// Whole hours that are too old, or too much.
fn leave_behind(connection: &Connection, minute: i64) -> rusqlite::Result<()> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    let mut before = minute - KEPT_MINUTES;
    let pages = number("PRAGMA page_count")?.unwrap_or(0) - number("PRAGMA freelist_count")?.unwrap_or(0);
    if pages * number("PRAGMA page_size")?.unwrap_or(0) > MOST_BYTES {
        let oldest = number("SELECT min(minute) FROM reading")?.unwrap_or(minute);
        before = before.max(oldest + ((minute - oldest) / 8).max(60));
    }
    // An hour is written whole at its beginning.
    let before = before - before.rem_euclid(60);
    connection.execute("DELETE FROM reading WHERE minute < ?1", [before])?;
    connection.execute("DELETE FROM run WHERE last < ?1", [before])?;
    connection.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM reading)", [])?;
    Ok(())
}

/// All series at once: a fleet has tens of thousands, and to look for each of them alone takes hours.
fn known(connection: &Connection) -> rusqlite::Result<HashMap<(Place, Vec<String>), i64>> {
    let mut statement = connection.prepare("SELECT id, cluster, target, signal, labels FROM series")?;
    let mut rows = statement.query([])?;
    let mut ids = HashMap::new();
    while let Some(row) = rows.next()? {
        let Some(signal) = Signal::named(&row.get::<_, String>(3)?) else { continue };
        let Ok(labels) = serde_json::from_str(&row.get::<_, String>(4)?) else { continue };
        let (cluster, target): (String, Option<String>) = (row.get(1)?, row.get(2)?);
        let target = target.as_deref().map(Name::new);
        ids.insert((Place { cluster: Name::new(&cluster), target, signal: signal.name }, labels), row.get(0)?);
    }
    Ok(ids)
}

fn add(connection: &Connection, place: &Place, labels: &[String]) -> rusqlite::Result<i64> {
    let target = place.target.as_ref().map(Name::as_str);
    let labels = serde_json::Value::from(labels).to_string();
    let new = "INSERT INTO series (cluster, target, signal, labels) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare(new)?.execute(params![place.cluster.as_str(), target, place.signal, labels])?;
    Ok(connection.last_insert_rowid())
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // The last minutes may be lost with the machine's power; nothing else is.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
        SCHEMA => {}
        0 => connection.execute_batch(&format!("BEGIN IMMEDIATE;{TABLES}PRAGMA user_version = {SCHEMA};COMMIT"))?,
        _ => {
            drop(connection);
            put_aside(path);
            return open(path);
        }
    }
    Ok(connection)
}

fn put_aside(path: &Path) {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    // They need not be there.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::rename(with(suffix), with(&format!(".bad{suffix}")));
    }
}

/// What was kept, by minute.
#[derive(Debug, Default)]
pub struct Past {
    pub series: Vec<Series>,
    /// What changed in each minute: places in `series`, and what they say from then on. A minute in which nobody wrote any
    /// more has all of them unknown.
    pub minutes: BTreeMap<i64, Vec<(usize, Reading)>>,
    /// How many minutes were recorded.
    pub n_recorded: i64,
}

/// The last reading of each minute that a target's signal without labels was known in.
pub type Known = Vec<(TargetId, Vec<(SystemTime, f64)>)>;

/// What was known of one signal of targets since `since`. Nothing where nothing was kept yet.
///
/// # Errors
/// Says why what there is cannot be read.
pub fn known_of(path: &Path, since: SystemTime, signal: &str) -> Result<Known, String> {
    if !path.exists() {
        return Ok(Known::new());
    }
    let past = past_of(path, since, Some(signal))?;
    let mut present: Vec<Option<f64>> = vec![None; past.series.len()];
    let mut known: Vec<Vec<(SystemTime, f64)>> = vec![Vec::new(); past.series.len()];
    let mut minutes = past.minutes.into_iter().peekable();
    while let Some((minute, changes)) = minutes.next() {
        for (place, reading) in changes {
            present[place] = if let Reading::Known(value) = reading { Some(value.value) } else { None };
        }
        // What is written last is that nobody wrote any more.
        let until = minutes.peek().map_or(minute, |(next, _)| *next);
        for minute in minute..until {
            let begins = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(minute).unwrap_or(0) * 60);
            for (known, value) in known.iter_mut().zip(&present) {
                known.extend(value.map(|value| (begins, value)));
            }
        }
    }
    let told = past.series.into_iter().zip(known).filter(|(_, known)| !known.is_empty());
    Ok(told
        .filter_map(|(series, known)| Some((TargetId { cluster: series.cluster, target: series.target? }, known)))
        .collect())
}

/// Reads what was kept since `since`, also while a daemon writes.
///
/// # Errors
/// Says why there is nothing to read.
pub fn past(path: &Path, since: SystemTime) -> Result<Past, String> {
    past_of(path, since, None)
}

/// The same, of one signal.
fn past_of(path: &Path, since: SystemTime, signal: Option<&str>) -> Result<Past, String> {
    let fault = |error: rusqlite::Error| format!("cannot read {}: {error}", path.display());
    if !path.exists() {
        return Err(format!("there are no readings at {}; a daemon keeps them beside its store", path.display()));
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(fault)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(fault)?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map_err(fault)?;
    if version == 0 {
        return Err(format!("{} has no readings yet", path.display()));
    }
    if version != SCHEMA {
        return Err(format!("{} was written by another version of pgvigil (schema {version})", path.display()));
    }
    // All that is read is of one instant.
    connection.execute_batch("BEGIN").map_err(fault)?;
    read(&connection, minute_of(since), minute_of(clock::wall()), signal).map_err(fault)
}

/// What is told of minutes that are yet to come, a time of day that was wrong has written.
fn read(connection: &Connection, since: i64, present: i64, signal: Option<&str>) -> rusqlite::Result<Past> {
    let mut past = Past::default();
    let mut places = HashMap::new();
    let mut statement =
        connection.prepare("SELECT id, cluster, target, signal, labels FROM series WHERE ?1 IS NULL OR signal = ?1")?;
    let mut rows = statement.query([signal])?;
    while let Some(row) = rows.next()? {
        let (id, signal): (i64, String) = (row.get(0)?, row.get(3)?);
        let labels: Vec<String> = serde_json::from_str(&row.get::<_, String>(4)?).unwrap_or_default();
        // A signal that is no more has nothing to judge.
        if let Some(signal) = Signal::named(&signal).filter(|signal| signal.labels.len() == labels.len()) {
            let target: Option<String> = row.get(2)?;
            let cluster = Name::new(&row.get::<_, String>(1)?);
            places.insert(id, past.series.len());
            past.series.push(Series { signal, cluster, target: target.as_deref().map(Name::new), labels });
        }
    }
    // What has not changed since is told by the beginning of the hour, or of a run within it.
    let mut statement = connection.prepare(
        "SELECT minute, series, state, last, low, high FROM reading WHERE minute BETWEEN ?1 AND ?2 \
             AND (?3 IS NULL OR series IN (SELECT id FROM series WHERE signal = ?3))",
    )?;
    let mut rows = statement.query(params![since - since.rem_euclid(60), present, signal])?;
    while let Some(row) = rows.next()? {
        let Some(&place) = places.get(&row.get::<_, i64>(1)?) else { continue };
        let reading = match (row.get::<_, i64>(2)?, row.get::<_, Option<f64>>(3)?) {
            (0, Some(value)) => Reading::Known(Value {
                value,
                lower: row.get::<_, Option<f64>>(4)?.unwrap_or(value),
                upper: row.get::<_, Option<f64>>(5)?.unwrap_or(value),
            }),
            (GONE, _) => Reading::Gone,
            _ => Reading::Unknown,
        };
        past.minutes.entry(row.get::<_, i64>(0)?.max(since)).or_default().push((place, reading));
    }
    let mut statement = connection.prepare("SELECT first, last FROM run WHERE last >= ?1 ORDER BY first")?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get::<_, i64>(1)?.min(present));
        if first > last {
            continue;
        }
        past.n_recorded += last - first.max(since) + 1;
        // Another run may begin in the very next minute, and then tells all anew.
        let silence = (0..past.series.len()).map(|place| (place, Reading::Unknown));
        past.minutes.entry(last + 1).or_default().splice(0..0, silence);
    }
    Ok(past)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture::{self, NOW};

    fn snapshot() -> Snapshot {
        fixture::snapshot(vec![fixture::cluster(
            "orders",
            vec![fixture::primary("orders", "p"), fixture::replica("orders", "r1")],
            vec![],
        )])
    }

    fn wall(minute: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(minute as u64 * 60)
    }

    fn of<'a>(past: &'a Past, signal: &str, target: &str) -> Vec<(i64, &'a Reading)> {
        let is = |series: &Series| {
            series.signal.name == signal && series.target.as_ref().is_some_and(|name| name.as_str() == target)
        };
        let place = past.series.iter().position(is).unwrap_or_else(|| panic!("no {signal} of {target}"));
        let minutes = past.minutes.iter();
        minutes.flat_map(|(minute, all)| all.iter().filter(|(at, _)| *at == place).map(|(_, r)| (*minute, r))).collect()
    }

    #[test]
    fn a_minute_is_kept_with_its_lowest_and_highest_and_only_where_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db.readings");
        let mut recorder = Recorder::default();
        let mut snapshot = snapshot();
        let mut lag_by = |recorder: &mut Recorder, seconds: f64| {
            let cluster = Arc::make_mut(&mut snapshot.clusters[0]);
            let lag = cluster.targets.iter_mut().find_map(|target| Arc::make_mut(target).lag.as_mut()).expect("a lag");
            (lag.value, lag.lower, lag.upper) = (Some(seconds), seconds, seconds);
            recorder.sample(&snapshot, NOW);
        };
        for (minute, lags) in [(601, &[1.0, 9.0, 4.0][..]), (602, &[5.0]), (603, &[5.0]), (604, &[6.0])] {
            for lag in lags {
                lag_by(&mut recorder, *lag);
            }
            recorder.keep(&path, minute);
        }
        // While it is open for writing, it can be read.
        let past = past(&path, wall(600)).unwrap();
        let known = |value, lower, upper| Reading::Known(Value { value, lower, upper });
        let target = snapshot.clusters[0].targets.iter().find(|target| target.lag.is_some()).unwrap();
        assert_eq!(
            of(&past, "replay_lag_seconds", target.id.target.as_str()),
            [
                (601, &known(4.0, 1.0, 9.0)),
                (602, &known(5.0, 5.0, 5.0)),
                (604, &known(6.0, 6.0, 6.0)),
                (605, &Reading::Unknown)
            ]
        );
        assert_eq!(past.n_recorded, 4);
        let known: Known = known_of(&path, wall(602), "replay_lag_seconds").unwrap();
        assert_eq!(known, [(target.id.clone(), vec![(wall(602), 5.0), (wall(603), 5.0), (wall(604), 6.0)])]);
        drop(recorder);
        assert_eq!(super::past(&path, wall(700)).unwrap().n_recorded, 0);
    }

    #[test]
    fn a_time_of_day_that_is_set_leaves_a_gap_and_nothing_of_the_future() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut recorder = Recorder::default();
        // Five hours ahead, and back.
        for minute in [600, 601, 901, 902, 603, 604] {
            recorder.sample(&snapshot(), NOW);
            recorder.keep(&path, minute);
        }
        let ahead = "INSERT INTO run VALUES (99999999999, 999999999999); INSERT INTO reading VALUES (99999999999, 1, 1, NULL, NULL, NULL)";
        Connection::open(&path).unwrap().execute_batch(ahead).unwrap();
        let past = past(&path, wall(590)).unwrap();
        assert_eq!(past.n_recorded, 4);
        let minutes: Vec<i64> = past.minutes.keys().copied().collect();
        assert_eq!(minutes, [600, 602, 603, 605]);
        let known = known_of(&path, wall(590), "target_up").unwrap();
        let of_primary = known.iter().find(|(id, _)| id.target.as_str() == "p").expect("a series");
        let times: Vec<SystemTime> = of_primary.1.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [600, 601, 603, 604].map(wall));
        assert_eq!(known_of(&dir.path().join("none"), wall(590), "target_up"), Ok(Vec::new()));
        let up: Vec<(i64, bool)> = of(&past, "target_up", "p")
            .into_iter()
            .map(|(minute, reading)| (minute, *reading != Reading::Unknown))
            .collect();
        assert_eq!(up, [(600, true), (602, false), (603, true), (605, false)]);
    }

    #[test]
    fn a_restart_within_a_minute_leaves_no_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        for minutes in [&[600, 601][..], &[601], &[601, 602]] {
            let mut recorder = Recorder::default();
            for minute in minutes {
                recorder.sample(&snapshot(), NOW);
                recorder.keep(&path, *minute);
            }
        }
        let past = past(&path, wall(590)).unwrap();
        assert_eq!(past.n_recorded, 3);
        let known = known_of(&path, wall(590), "target_up").unwrap();
        let of_primary = known.iter().find(|(id, _)| id.target.as_str() == "p").expect("a series");
        let times: Vec<SystemTime> = of_primary.1.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [600, 601, 602].map(wall));
    }

    #[test]
    fn a_series_keeps_its_number_over_hours_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut counts = Vec::new();
        for minutes in [[599, 600, 601], [602, 660, 661]] {
            let mut recorder = Recorder::default();
            for minute in minutes {
                recorder.sample(&snapshot(), NOW);
                recorder.keep(&path, minute);
                let count = "SELECT count(*), count(DISTINCT cluster || target || signal || labels) FROM series WHERE target IS NOT NULL";
                let of = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
                counts.push(Connection::open(&path).unwrap().query_row(count, [], of).unwrap());
            }
        }
        assert!(counts.iter().all(|count| *count == counts[0] && count.0 == count.1 && count.0 > 10), "{counts:?}");
    }

    #[test]
    fn what_is_old_goes_by_whole_hours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut recorder = Recorder::default();
        for minute in [599, 600, 660, 660 + KEPT_MINUTES] {
            recorder.sample(&snapshot(), NOW);
            recorder.keep(&path, minute);
        }
        let oldest: i64 = Connection::open(&path)
            .unwrap()
            .query_row("SELECT min(minute) FROM reading", [], |row| row.get(0))
            .unwrap();
        assert_eq!(oldest, 660);
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_put_aside_and_one_that_cannot_be_written_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        fs::write(&path, "these are my notes, please do not lose them; ".repeat(100)).unwrap();
        let mut recorder = Recorder::default();
        for minute in 1..3 {
            recorder.sample(&snapshot(), NOW);
            recorder.keep(&path, minute);
        }
        assert!(fs::read_to_string(dir.path().join("r.bad")).unwrap().starts_with("these are my notes"));
        assert_eq!(past(&path, wall(0)).unwrap().n_recorded, 1);
        recorder = Recorder::default();
        recorder.sample(&snapshot(), NOW);
        recorder.keep(Path::new("/proc/none/r"), 1);
        assert!(recorder.is_failing);
        assert!(past(Path::new("/proc/none/r"), wall(0)).unwrap_err().contains("there are no readings"));
    }
}
