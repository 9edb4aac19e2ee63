//! What outlives a restart, in one SQLite file: alerts, what notifiers have been told, silences, the history of each
//! cluster's WAL.
//!
//! A thread of its own writes behind the engine, so that a slow disk holds up neither polls nor judgements. Notices wait
//! for it: each leaves for its notifier only after it is written that it may have been heard. So however the daemon
//! ends, nothing that was due is forgotten, and who may have heard "firing" hears "resolved".
//!
//! When the file cannot be written, notices leave all the same: an alert that is told beats one that is kept. When it
//! cannot be read, at the start or later, it is put aside and a new one begun. One that was deleted, or that another took
//! the place of, is written anew.

pub mod readings;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction};
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::core::alert::AlertId;
use crate::core::drain::{Drains, SavedDrains};
use crate::core::lag::SavedLag;
use crate::core::saved::{Saved, SavedAlert};
use crate::core::silence::Silences;
use crate::core::time::MonoTime;
use crate::core::topology::Name;

/// What leads from each version of the schema to the next; from none to the first. Steps are added and never changed: the
/// version of a file, in `PRAGMA user_version`, is how many of them it has behind it.
const STEPS: [&str; 3] = [TABLES, SILENCES, DRAINS];

const SCHEMA: i64 = STEPS.len() as i64;

const TABLES: &str = "\
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT NOT NULL, mono INTEGER NOT NULL, wall INTEGER NOT NULL) STRICT;\
CREATE TABLE alert (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;\
CREATE TABLE lag (cluster TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;";

/// Few, and changed by hand: one text holds them all.
const SILENCES: &str = "CREATE TABLE silences (one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL) STRICT;";

/// Likewise.
const DRAINS: &str = "CREATE TABLE drains (one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL) STRICT;";

/// After a failure the file is opened again this much later.
const RETRY: Duration = Duration::from_secs(30);

/// How long one attempt to open a file that another process has takes.
const BUSY: Duration = Duration::from_millis(500);

/// A daemon that stops has its file for as long as it is given to stop. Its successor waits somewhat longer.
const TAKEN_FOR: Duration = Duration::from_secs(12);

/// The clocks, read together.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// Tells boots of machines apart. Empty where there is no telling.
    pub boot: String,
    pub mono: MonoTime,
    pub wall: SystemTime,
}

impl Clocks {
    fn wall_nanos(&self) -> i64 {
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}

/// What the engine hands over to be kept.
#[derive(Debug)]
pub struct Mail {
    /// Counts them: what waits for this one may go on once it is written, or a later one.
    pub number: u64,
    pub clocks: Clocks,
    pub alerts: BTreeMap<AlertId, SavedAlert>,
    pub silences: Arc<Silences>,
    pub drains: Arc<Drains>,
    /// `None`: as they were.
    pub lags: Option<BTreeMap<Name, SavedLag>>,
}

/// How the writing went.
#[derive(Debug)]
pub struct Written {
    /// The last mail that it was about.
    pub number: u64,
    pub outcome: Result<(), String>,
    /// What a file held that could not be opened before: nobody has taken it up yet.
    pub found: Option<Saved>,
}

#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<Letters>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Letters {
    mail: Option<Mail>,
    is_closed: bool,
}

/// The engine's end of the store.
#[derive(Debug)]
pub struct Store {
    mailbox: Arc<Mailbox>,
    written: mpsc::UnboundedReceiver<Written>,
}

/// The other end: writes, for as long as there is something to write.
pub struct Writer {
    mailbox: Arc<Mailbox>,
    /// Before `tell`: who waits for the end waits for the file to be closed.
    file: File,
    tell: mpsc::UnboundedSender<Written>,
}

impl Writer {
    /// Whether the file could be opened.
    pub fn has_file(&self) -> bool {
        self.file.connection.is_some()
    }

    /// Blocks; it wants a thread of its own.
    pub fn run(mut self) {
        while let Some(mail) = self.mailbox.wait() {
            let (found, outcome) = match self.file.write(&mail) {
                Ok(None) => (None, Ok(())),
                Ok(found) => (found, Err("the store is only just taken up".to_owned())),
                Err(fault) => (None, Err(fault.reason().to_owned())),
            };
            if self.tell.send(Written { number: mail.number, outcome, found }).is_err() {
                break;
            }
        }
    }
}

/// `[store]`: where alerts and what was told of them are kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// A file, or `:memory:` for nothing that is kept. Not set: `state.db` in the state directory of the service manager
    /// (`$STATE_DIRECTORY`) or of the user (`$XDG_STATE_HOME/pgvigil`, `~/.local/state/pgvigil`).
    #[serde(deserialize_with = "path")]
    pub path: Option<PathBuf>,
}

/// SQLite takes an empty path for a file that is gone with the process.
fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<PathBuf>::deserialize(deserializer)?;
    match path {
        Some(path) if path.as_os_str().is_empty() => {
            Err(D::Error::custom("is empty; name a file, or \":memory:\" to keep nothing"))
        }
        path => Ok(path),
    }
}

impl StoreConfig {
    /// The file. `None`: nothing is kept.
    pub fn file(&self, variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let variable = |name| variable(name).filter(|value| value.starts_with('/'));
        match &self.path {
            Some(path) if path.as_os_str() == ":memory:" => None,
            Some(path) => Some(path.clone()),
            None => {
                let of_service = variable("STATE_DIRECTORY").and_then(|list| list.split(':').next().map(PathBuf::from));
                let of_user = || variable("XDG_STATE_HOME").map(|home| PathBuf::from(home).join("pgvigil"));
                let at_home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state/pgvigil"));
                Some(of_service.or_else(of_user).or_else(at_home)?.join("state.db"))
            }
        }
    }
}

impl Store {
    /// Opens the file and reads what was kept. A file that cannot be read is put aside; one that cannot be opened now is
    /// tried again later, and the daemon goes on with nothing kept.
    pub fn open(path: PathBuf, clocks: &Clocks) -> (Self, Writer, Saved) {
        let mut file = File::new(path);
        let mut patience = TAKEN_FOR;
        let saved = loop {
            match file.read_or_begin(clocks) {
                Ok(saved) => break saved,
                Err(Fault::Taken) if !patience.is_zero() => {
                    if patience == TAKEN_FOR {
                        info!(path = %file.path.display(), "another process has the store; waiting until it ends");
                    }
                    // With the time that the attempt itself takes.
                    std::thread::sleep(BUSY);
                    patience = patience.saturating_sub(2 * BUSY);
                }
                Err(fault) => break file.give_up(&fault, clocks),
            }
        };
        let mailbox = Arc::new(Mailbox::default());
        let (tell, written) = mpsc::unbounded_channel();
        let writer = Writer { mailbox: Arc::clone(&mailbox), tell, file };
        (Self { mailbox, written }, writer, saved)
    }

    /// Hands it over. What is not yet written of the last mail is written with this.
    pub fn put(&self, mut mail: Mail) {
        let mut letters = self.mailbox.lock();
        if let Some(waiting) = letters.mail.take() {
            mail.lags = mail.lags.or(waiting.lags);
        }
        letters.mail = Some(mail);
        drop(letters);
        self.mailbox.arrived.notify_one();
    }

    /// The next that is written, or cannot be. `None`: the store has ended, and nothing more will be.
    pub async fn written(&mut self) -> Option<Written> {
        self.written.recv().await
    }

    /// Waits until all that was handed over is written, and ends.
    pub async fn close(mut self) {
        self.mailbox.lock().is_closed = true;
        self.mailbox.arrived.notify_one();
        while self.written.recv().await.is_some() {}
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.mailbox.lock().is_closed = true;
        self.mailbox.arrived.notify_one();
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        // Whoever panicked left whole letters behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Option<Mail> {
        let mut letters = self.lock();
        loop {
            if let Some(mail) = letters.mail.take() {
                return Some(mail);
            }
            if letters.is_closed {
                return None;
            }
            letters = self.arrived.wait(letters).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Why the file gave nothing.
#[derive(Debug)]
enum Fault {
    /// It is no store of ours, or a damaged one: to be put aside.
    Unreadable(String),
    /// Another process has it open.
    Taken,
    /// It cannot be opened or written.
    Unavailable(String),
}

impl Fault {
    fn reason(&self) -> &str {
        match self {
            Self::Unreadable(reason) | Self::Unavailable(reason) => reason,
            Self::Taken => "another process has it open; is another pgvigil using it? store.path names another file",
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Unreadable(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Taken,
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// The thread's end.
struct File {
    path: PathBuf,
    /// `None` while it cannot be opened.
    connection: Option<Connection>,
    /// Device and inode of the file that is open.
    identity: Option<(u64, u64)>,
    /// Whether what it held has been taken up: from then on what is known here is newer.
    is_taken_up: bool,
    /// What the file holds of alerts: only what differs is written.
    alerts: BTreeMap<AlertId, SavedAlert>,
    /// The silences that were last written. `None`: those that were read.
    silences: Option<Arc<Silences>>,
    /// Likewise.
    drains: Option<Arc<Drains>>,
    retry_at: Option<MonoTime>,
}

impl File {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            connection: None,
            identity: None,
            is_taken_up: false,
            alerts: BTreeMap::new(),
            silences: None,
            drains: None,
            retry_at: None,
        }
    }

    fn read(&mut self, clocks: &Clocks) -> Result<Saved, Fault> {
        let connection = open(&self.path)?;
        let (saved, strange) = read(&connection, clocks)?;
        if !strange.is_empty() {
            self.set_apart(&connection, &strange, clocks)?;
        }
        self.identity = identity(&self.path);
        self.connection = Some(connection);
        self.alerts.clone_from(&saved.alerts);
        self.silences = None;
        self.drains = None;
        self.is_taken_up = true;
        Ok(saved)
    }

    /// The same; one that cannot be read is put aside first.
    fn read_or_begin(&mut self, clocks: &Clocks) -> Result<Saved, Fault> {
        match self.read(clocks) {
            Err(Fault::Unreadable(reason)) => {
                self.put_aside(clocks, &reason);
                self.read(clocks)
            }
            read => read,
        }
    }

    /// Keeps a copy of a file some of whose alerts cannot be read, and goes on without them.
    fn set_apart(&self, connection: &Connection, strange: &[Strange], clocks: &Clocks) -> Result<(), Fault> {
        let aside = self.aside(clocks);
        let first = strange.first().map_or("", |strange| strange.reason.as_str());
        connection.execute("VACUUM INTO ?1", [aside.to_string_lossy()])?;
        for strange in strange {
            match &strange.alert {
                Some(id) => connection.execute("DELETE FROM alert WHERE id = ?1", [id])?,
                None => connection.execute("DELETE FROM silences", [])?,
            };
        }
        error!(
            path = %self.path.display(), aside = %aside.display(), error = first,
            "{} of what the store held cannot be read and is forgotten; a copy of it all is kept aside", strange.len()
        );
        Ok(())
    }

    fn aside(&self, clocks: &Clocks) -> PathBuf {
        let seconds = clocks.wall_nanos() / 1_000_000_000;
        beside(&self.path, &format!(".bad-{seconds}"))
    }

    fn give_up(&mut self, fault: &Fault, clocks: &Clocks) -> Saved {
        error!(
            path = %self.path.display(), error = fault.reason(),
            "the store cannot be used: alerts are kept in memory alone, and a restart forgets them"
        );
        self.retry_at = Some(clocks.mono.plus(RETRY));
        Saved::default()
    }

    fn put_aside(&mut self, clocks: &Clocks, reason: &str) {
        let aside = self.aside(clocks);
        let moved = fs::rename(&self.path, &aside);
        for suffix in ["-wal", "-shm"] {
            // They need not be there.
            let _ = fs::rename(beside(&self.path, suffix), beside(&aside, suffix));
        }
        match moved {
            Ok(()) => error!(
                path = %self.path.display(), aside = %aside.display(), error = reason,
                "the store cannot be read: it is put aside, and a new one begun; alerts told before may be told again"
            ),
            Err(error) => warn!(path = %self.path.display(), %error, "the store cannot be put aside"),
        }
    }

    /// `Some`: nothing is written yet, for the file held what nobody has taken up.
    fn write(&mut self, mail: &Mail) -> Result<Option<Saved>, Fault> {
        let mut written = self.try_write(mail);
        if let Err(Fault::Unreadable(reason)) = &written {
            self.connection = None;
            self.put_aside(&mail.clocks, reason);
            self.retry_at = None;
            written = self.try_write(mail);
        }
        if written.is_err() {
            // Whatever it is, a fresh look at the file is better than going on with this one.
            self.connection = None;
            self.retry_at = self.retry_at.or_else(|| Some(mail.clocks.mono.plus(RETRY)));
        }
        written
    }

    fn try_write(&mut self, mail: &Mail) -> Result<Option<Saved>, Fault> {
        if self.connection.is_some() && identity(&self.path) != self.identity {
            warn!(path = %self.path.display(), "the store is no longer where it was: it is written anew");
            self.connection = None;
            // What is left of ours would be taken for a part of it.
            for suffix in ["-wal", "-shm"] {
                let _ = fs::remove_file(beside(&self.path, suffix));
            }
        }
        if self.connection.is_none() {
            if self.retry_at.is_some_and(|at| mail.clocks.mono < at) {
                return Err(Fault::Unavailable("the store cannot be opened".to_owned()));
            }
            self.retry_at = None;
            let is_new = !self.is_taken_up;
            let found = self.read(&mail.clocks)?;
            let has_drains = found.drains != SavedDrains::default();
            if is_new && (!found.alerts.is_empty() || !found.silences.silences.is_empty() || has_drains) {
                return Ok(Some(found));
            }
            // Else what the file holds is older than what is known here.
        }
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let transaction = connection.transaction()?;
        write(&transaction, mail, &self.alerts)?;
        if !self.silences.as_ref().is_some_and(|written| Arc::ptr_eq(written, &mail.silences)) {
            let body = json(&mail.silences.saved())?;
            transaction.execute("INSERT OR REPLACE INTO silences VALUES (1, ?1)", [body])?;
        }
        if !self.drains.as_ref().is_some_and(|written| Arc::ptr_eq(written, &mail.drains)) {
            let body = json(&mail.drains.saved())?;
            transaction.execute("INSERT OR REPLACE INTO drains VALUES (1, ?1)", [body])?;
        }
        transaction.commit()?;
        self.alerts.clone_from(&mail.alerts);
        self.silences = Some(Arc::clone(&mail.silences));
        self.drains = Some(Arc::clone(&mail.drains));
        Ok(None)
    }
}

/// Something in a file that is not as it was written.
#[derive(Debug)]
struct Strange {
    /// Its key. `None`: the silences.
    alert: Option<String>,
    reason: String,
}

/// Device and inode. `None` where there is no file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|about| (about.dev(), about.ino()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open(path: &Path) -> Result<Connection, Fault> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)
            .map_err(|error| Fault::Unavailable(format!("cannot make {}: {error}", directory.display())))?;
    }
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(Fault::Unavailable("it is no file; store.path names a file of pgvigil's own".to_owned()));
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // One daemon, one file: two that tell from one ledger would each believe that the other's word was its own.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 && connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))? > 0 {
        let reason = "it is a database of something else; store.path names a file of pgvigil's own";
        return Err(Fault::Unavailable(reason.to_owned()));
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let done = usize::try_from(version).ok();
    let Some(steps) = done.and_then(|done| STEPS.get(done..)) else {
        return Err(Fault::Unreadable(format!("it was written by another version of pgvigil (schema {version})")));
    };
    if !steps.is_empty() {
        let steps = steps.concat();
        connection.execute_batch(&format!("BEGIN IMMEDIATE;{steps}PRAGMA user_version = {SCHEMA};COMMIT"))?;
    }
    Ok(connection)
}

/// What it holds, and what of it cannot be made out: one alert that another version wrote must not cost all others.
fn read(connection: &Connection, clocks: &Clocks) -> Result<(Saved, Vec<Strange>), Fault> {
    let mut strange = Vec::new();
    let mut saved = Saved {
        alerts: rows(connection, "SELECT id, body FROM alert", &mut strange)?,
        lags: BTreeMap::new(),
        at: None,
        silences: one(connection, "SELECT body FROM silences", &mut strange)?,
        drains: one(connection, "SELECT body FROM drains", &mut strange)?,
    };
    let clock = "SELECT boot, mono, wall FROM clock";
    let then = connection
        .query_row(clock, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        .optional()?;
    saved.at = then.as_ref().map(|(_, mono, _)| MonoTime::from_nanos(*mono));
    match then {
        Some((boot, _, _)) if boot == clocks.boot && !boot.is_empty() => {
            // One that cannot be made out is written anew within a minute.
            saved.lags = rows(connection, "SELECT cluster, body FROM lag", &mut Vec::new())?;
        }
        Some((_, mono, wall)) => {
            let elapsed = clocks.wall_nanos().saturating_sub(wall).max(0);
            saved = saved.moved(clocks.mono.as_nanos().saturating_sub(mono).saturating_sub(elapsed));
        }
        None => {}
    }
    Ok((saved, strange))
}

/// The one text of a table, or what stands for none.
fn one<T: DeserializeOwned + Default>(
    connection: &Connection,
    sql: &str,
    strange: &mut Vec<Strange>,
) -> Result<T, Fault> {
    let body = connection.query_row(sql, [], |row| row.get::<_, String>(0)).optional()?;
    let Some(body) = body else { return Ok(T::default()) };
    Ok(serde_json::from_str(&body).unwrap_or_else(|error| {
        strange.push(Strange { alert: None, reason: error.to_string() });
        T::default()
    }))
}

fn rows<K: DeserializeOwned + Ord, V: DeserializeOwned>(
    connection: &Connection,
    sql: &str,
    strange: &mut Vec<Strange>,
) -> Result<BTreeMap<K, V>, Fault> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut read = BTreeMap::new();
    for row in rows {
        let (key, value) = row?;
        match serde_json::from_str(&key).and_then(|key| Ok((key, serde_json::from_str(&value)?))) {
            Ok((key, value)) => {
                read.insert(key, value);
            }
            Err(error) => strange.push(Strange { alert: Some(key), reason: error.to_string() }),
        }
    }
    Ok(read)
}

/// Writes what differs from `before`, and the clocks by which it is to be read.
fn write(transaction: &Transaction<'_>, mail: &Mail, before: &BTreeMap<AlertId, SavedAlert>) -> rusqlite::Result<()> {
    for id in before.keys().filter(|id| !mail.alerts.contains_key(id)) {
        transaction.execute("DELETE FROM alert WHERE id = ?1", [json(id)?])?;
    }
    for (id, alert) in mail.alerts.iter().filter(|(id, alert)| before.get(id) != Some(alert)) {
        transaction.execute("INSERT OR REPLACE INTO alert VALUES (?1, ?2)", [json(id)?, json(alert)?])?;
    }
    if let Some(lags) = &mail.lags {
        transaction.execute("DELETE FROM lag", [])?;
        for (cluster, lag) in lags {
            transaction.execute("INSERT INTO lag VALUES (?1, ?2)", [json(cluster)?, json(lag)?])?;
        }
    }
    let Clocks { boot, mono, .. } = &mail.clocks;
    transaction.execute(
        "INSERT OR REPLACE INTO clock VALUES (1, ?1, ?2, ?3)",
        (boot, mono.as_nanos(), mail.clocks.wall_nanos()),
    )?;
    Ok(())
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::alert::{AlertState, Spell, Track};
    use crate::core::glob::Glob;
    use crate::core::ledger::Episode;
    use crate::core::silence::selector::Selector;
    use crate::core::silence::{Change, Length, NewSilence};

    fn clocks(boot: &str, mono: i64, wall: u64) -> Clocks {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(wall);
        Clocks { boot: boot.to_owned(), mono: MonoTime::from_nanos(mono * 1_000_000_000), wall }
    }

    fn pending(name: &str, second: i64) -> (AlertId, SavedAlert) {
        let id = AlertId { rule: Name::new(name), cluster: Name::new("orders"), target: None, labels: vec![] };
        let state = AlertState::Pending(Spell::begin(MonoTime::from_nanos(second * 1_000_000_000)));
        let track = Track { state, points: None };
        let episode = Episode::begin(SystemTime::UNIX_EPOCH, None);
        (
            id,
            SavedAlert {
                track,
                above: vec![],
                worst: None,
                episode,
                resolved: None,
                recent: crate::core::alert::Recent::default(),
                account: None,
            },
        )
    }

    fn mail(clocks: Clocks, alerts: BTreeMap<AlertId, SavedAlert>) -> Mail {
        let (silences, drains) = (Arc::default(), Arc::default());
        Mail { number: 1, clocks, alerts, silences, drains, lags: None }
    }

    fn file(path: &Path) -> File {
        File::new(path.to_owned())
    }

    #[test]
    fn what_was_written_is_read_and_what_is_gone_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/the/way/state.db");
        let clocks = clocks("b", 10, 100);
        let mut writing = file(&path);
        assert_eq!(writing.read(&clocks).unwrap(), Saved::default());
        let both = BTreeMap::from([pending("A", 1), pending("B", 2)]);
        writing.write(&mail(clocks.clone(), both.clone())).unwrap();
        let one = BTreeMap::from([pending("B", 2)]);
        writing.write(&mail(clocks.clone(), one.clone())).unwrap();
        drop(writing);
        assert_eq!(file(&path).read(&clocks).unwrap().alerts, one);
    }

    #[test]
    fn after_a_boot_instants_are_moved_by_the_time_of_day() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut writing = file(&path);
        writing.read(&clocks("one", 1000, 5000)).unwrap();
        writing.write(&mail(clocks("one", 1000, 5000), BTreeMap::from([pending("A", 990)]))).unwrap();
        drop(writing);
        // Ten seconds before it was written, which was a minute ago.
        let read = file(&path).read(&clocks("two", 30, 5060)).unwrap();
        assert_eq!(read.alerts, BTreeMap::from([pending("A", 30 - 60 - 10)]));
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_put_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        fs::write(&path, "these are my notes, please do not lose them; ".repeat(100)).unwrap();
        let (store, writer, saved) = Store::open(path.clone(), &clocks("b", 1, 777));
        assert_eq!(saved, Saved::default());
        drop((store, writer));
        let aside = fs::read_to_string(dir.path().join("state.db.bad-777")).unwrap();
        assert!(aside.starts_with("these are my notes"));
        assert_eq!(file(&path).read(&clocks("b", 2, 778)).unwrap(), Saved::default());
    }

    /// Silences with one that lasts for a minute from second 10 of the clock.
    fn silenced() -> Silences {
        let mut silences = Silences::new(Vec::new());
        let new = NewSilence {
            selector: Selector { rule: vec![Glob::new("A")], ..Selector::default() },
            all: false,
            author: "ada".to_owned(),
            reason: "a test".to_owned(),
            length: Length::For(Duration::from_secs(60)),
        };
        let at = clocks("b", 10, 100);
        silences.change(Change::Add(new), at.mono, at.wall).unwrap();
        silences
    }

    #[test]
    fn silences_are_kept_also_by_a_file_of_the_first_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{}PRAGMA user_version = 1", STEPS[0])).unwrap();
        let (id, alert) = pending("A", 1);
        old.execute("INSERT INTO alert VALUES (?1, ?2)", [json(&id).unwrap(), json(&alert).unwrap()]).unwrap();
        drop(old);
        let alerts = BTreeMap::from([(id, alert)]);
        let mut writing = file(&path);
        assert_eq!(writing.read(&clocks("b", 10, 100)).unwrap(), Saved { alerts: alerts.clone(), ..Saved::default() });
        let silences = Arc::new(silenced());
        writing.write(&Mail { silences: Arc::clone(&silences), ..mail(clocks("b", 10, 100), alerts.clone()) }).unwrap();
        // Written once, and not when it did not change.
        writing.connection.as_ref().unwrap().execute("UPDATE silences SET body = '{}'", []).unwrap();
        writing.write(&Mail { silences: Arc::clone(&silences), ..mail(clocks("b", 11, 101), alerts.clone()) }).unwrap();
        assert!(file_body(&writing) == "{}");
        let again = Arc::new(Silences::clone(&silences));
        writing.write(&Mail { silences: again, ..mail(clocks("b", 11, 101), alerts.clone()) }).unwrap();
        drop(writing);
        let read = file(&path).read(&clocks("b", 20, 110)).unwrap();
        assert_eq!((read.silences, read.alerts), (silences.saved(), alerts));
        // After a boot it has as much time left.
        let read = file(&path).read(&clocks("c", 5, 120)).unwrap();
        let mut after = Silences::new(Vec::new());
        after.restore(read.silences);
        let left = |mono, wall| after.all()[0].is_active(clocks("c", mono, wall).mono, clocks("c", mono, wall).wall);
        assert!(left(5 + 39, 159) && !left(5 + 40, 160));
    }

    fn file_body(file: &File) -> String {
        file.connection.as_ref().unwrap().query_row("SELECT body FROM silences", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn of_a_newer_schema_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        drop(Store::open(path, &clocks("b", 1, 777)));
        let version: i64 = Connection::open(dir.path().join("state.db.bad-777"))
            .unwrap()
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 99);
    }

    #[test]
    fn a_file_that_another_has_open_is_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut first = file(&path);
        first.read(&clocks("b", 1, 1)).unwrap();
        let mut second = file(&path);
        let fault = second.read(&clocks("b", 1, 1)).unwrap_err();
        assert!(fault.reason().contains("another pgvigil"), "{fault:?}");
        let saved = second.give_up(&fault, &clocks("b", 1, 1));
        assert_eq!(saved, Saved::default());
        let alerts = BTreeMap::from([pending("A", 1)]);
        assert!(second.write(&mail(clocks("b", 2, 2), alerts.clone())).is_err());
        drop(first);
        assert!(second.write(&mail(clocks("b", 30, 30), alerts.clone())).is_err(), "too soon");
        second.write(&mail(clocks("b", 31, 31), alerts.clone())).unwrap();
        drop(second);
        assert_eq!(file(&path).read(&clocks("b", 32, 32)).unwrap().alerts, alerts);
    }

    #[test]
    fn what_the_other_kept_is_taken_up_late_and_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut first = file(&path);
        first.read(&clocks("b", 1, 1)).unwrap();
        let (theirs, ours) = (BTreeMap::from([pending("A", 1)]), BTreeMap::from([pending("B", 2)]));
        let silences = Arc::new(silenced());
        first.write(&Mail { silences: Arc::clone(&silences), ..mail(clocks("b", 2, 2), theirs.clone()) }).unwrap();
        let mut second = file(&path);
        let fault = second.read(&clocks("b", 3, 3)).unwrap_err();
        second.give_up(&fault, &clocks("b", 3, 3));
        drop(first);
        let found = second.write(&mail(clocks("b", 40, 40), ours.clone())).unwrap().unwrap();
        assert_eq!((found.alerts, found.silences), (theirs, silences.saved()));
        assert_eq!(second.write(&mail(clocks("b", 41, 41), ours.clone())).unwrap(), None);
        drop(second);
        assert_eq!(file(&path).read(&clocks("b", 42, 42)).unwrap().alerts, ours);
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_is_damaged_or_deleted_under_the_daemon_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let alerts = BTreeMap::from([pending("A", 1)]);
        let mut writing = file(&path);
        writing.read(&clocks("b", 1, 1)).unwrap();
        writing.write(&mail(clocks("b", 2, 2), alerts.clone())).unwrap();

        fs::remove_file(&path).unwrap();
        writing.write(&mail(clocks("b", 3, 3), alerts.clone())).unwrap();
        assert!(names(dir.path()).contains(&"state.db".to_owned()), "{:?}", names(dir.path()));

        // Another file in its place, and none of ours.
        fs::write(dir.path().join("other"), "no database at all; ".repeat(300)).unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        writing.write(&mail(clocks("b", 4, 4), alerts.clone())).unwrap();
        assert!(names(dir.path()).contains(&"state.db.bad-4".to_owned()), "{:?}", names(dir.path()));
        drop(writing);
        assert_eq!(file(&path).read(&clocks("b", 5, 5)).unwrap().alerts, alerts);
    }

    #[test]
    fn one_alert_that_cannot_be_made_out_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut writing = file(&path);
        writing.read(&clocks("b", 1, 1)).unwrap();
        let both = BTreeMap::from([pending("A", 1), pending("B", 2)]);
        writing.write(&mail(clocks("b", 2, 2), both)).unwrap();
        let connection = writing.connection.take().unwrap();
        connection
            .execute("UPDATE alert SET body = '{\"is\": \"from the future\"}' WHERE id LIKE '%\"A\"%'", [])
            .unwrap();
        drop(connection);
        let left = BTreeMap::from([pending("B", 2)]);
        let mut reading = file(&path);
        assert_eq!(reading.read(&clocks("b", 3, 777)).unwrap().alerts, left);
        drop(reading);
        // A copy has it, and the next start finds nothing strange any more.
        assert_eq!(file(&path).read(&clocks("b", 4, 778)).unwrap().alerts, left);
        assert_eq!(names(dir.path()), ["state.db", "state.db.bad-777"]);
        let count = "SELECT count(*) FROM alert";
        let copy = Connection::open(dir.path().join("state.db.bad-777")).unwrap();
        assert_eq!(copy.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    }

    #[test]
    fn the_database_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.db");
        let theirs = Connection::open(&path).unwrap();
        theirs.execute_batch("CREATE TABLE customers (name TEXT)").unwrap();
        drop(theirs);
        let before = fs::read(&path).unwrap();
        let mut file = file(&path);
        let fault = file.read_or_begin(&clocks("b", 1, 1)).unwrap_err();
        assert!(fault.reason().contains("something else"), "{fault:?}");
        file.give_up(&fault, &clocks("b", 1, 1));
        assert!(file.write(&mail(clocks("b", 60, 60), BTreeMap::new())).is_err());
        drop(file);
        let tables = "SELECT group_concat(name) FROM sqlite_schema";
        let connection = Connection::open(&path).unwrap();
        assert_eq!(connection.query_row(tables, [], |row| row.get::<_, String>(0)).unwrap(), "customers");
        assert_eq!((names(dir.path()), fs::read(&path).unwrap().len()), (vec!["shop.db".to_owned()], before.len()));
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&socket, dir.path(), Path::new("/dev/full")] {
            let fault = file(path).read_or_begin(&clocks("b", 1, 1)).unwrap_err();
            assert!(fault.reason().contains("no file"), "{}: {fault:?}", path.display());
        }
        assert_eq!(names(dir.path()), ["socket"]);
    }

    #[tokio::test]
    async fn each_mail_is_answered_even_when_it_cannot_be_written() {
        // A directory cannot be opened as a file.
        let dir = tempfile::tempdir().unwrap();
        for (path, is_written) in [(dir.path().join("state.db"), true), (dir.path().to_owned(), false)] {
            let (mut store, writer, _) = Store::open(path, &clocks("b", 1, 1));
            let thread = std::thread::spawn(|| writer.run());
            for number in 2..4 {
                store.put(Mail { number, ..mail(clocks("b", 2, 1), BTreeMap::new()) });
            }
            loop {
                let written = store.written().await.unwrap();
                assert_eq!(written.outcome.is_ok(), is_written);
                if written.number == 3 {
                    break;
                }
            }
            store.close().await;
            thread.join().unwrap();
        }
    }

    #[test]
    fn the_file_is_where_state_is_kept() {
        let at = |path: Option<&str>, variables: &[(&str, &str)]| {
            let config = StoreConfig { path: path.map(PathBuf::from) };
            let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
            config.file(value).map(|path| path.to_str().unwrap().to_owned())
        };
        let home = ("HOME", "/home/me");
        for (path, variables, expect) in [
            (Some(":memory:"), &[home][..], None),
            (Some("x.db"), &[home], Some("x.db")),
            (None, &[], None),
            (None, &[("HOME", "")], None),
            (None, &[home], Some("/home/me/.local/state/pgvigil/state.db")),
            (None, &[home, ("XDG_STATE_HOME", "/s")], Some("/s/pgvigil/state.db")),
            (None, &[home, ("STATE_DIRECTORY", "/var/lib/pgvigil:/other")], Some("/var/lib/pgvigil/state.db")),
        ] {
            assert_eq!(at(path, variables).as_deref(), expect, "{path:?} {variables:?}");
        }
    }
}
