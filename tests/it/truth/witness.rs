//! The truth about every replica's lag, found without the daemon: through connections of its own, every
//! [`EVERY`], the primary is asked how far its WAL is flushed (and a row is written there), and each replica how far it
//! has replayed and which rows can be read on it. It connects directly, past every proxy of the scenario.
//!
//! A truth is an interval: what was not seen in between may have happened at any time in between. On a machine too busy
//! to look often it is wide, and never wrong. One thing keeps it narrow where a server could not be asked because the
//! scenario has put it out: frozen or down, it wrote and replayed nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvigil::clock;
use pgvigil::core::time::MonoTime;
use pgvigil::core::wal::Lsn;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How often each server is looked at.
const EVERY: Duration = Duration::from_millis(50);
/// Seen so shortly before it was put out, a server stood as it was seen. Seconds.
const SHORTLY: f64 = 0.3;

/// A truth in seconds: at least, at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Truth {
    pub least: f64,
    pub most: f64,
}

impl Truth {
    /// How far a value is from it.
    pub(super) fn distance(self, value: f64) -> f64 {
        (self.least - value).max(value - self.most).max(0.0)
    }

    fn or(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}

/// "The flush position was `lsn` at some instant between these two."
#[derive(Clone, Copy, Debug)]
struct Mark {
    asked: MonoTime,
    answered: MonoTime,
    lsn: Lsn,
}

/// A row that the line's primary committed between these two instants.
#[derive(Clone, Copy, Debug)]
struct Row {
    asked: MonoTime,
    acknowledged: MonoTime,
    n: i64,
}

/// What one server wrote as the primary.
#[derive(Clone, Debug)]
struct Line {
    primary: String,
    /// Where the WAL common with the line before ends.
    fork: Lsn,
    marks: Vec<Mark>,
    rows: Vec<Row>,
}

/// Where a replica stood at some instant between these two.
#[derive(Clone, Copy, Debug)]
struct Stand {
    asked: MonoTime,
    answered: MonoTime,
    lsn: Lsn,
    /// The last row of each line that can be read on it.
    rows: [i64; 2],
}

#[derive(Clone, Debug, Default)]
struct Seen {
    lines: Vec<Line>,
    stands: HashMap<String, Vec<Stand>>,
    /// When each server answered.
    looks: HashMap<String, Vec<MonoTime>>,
    /// From when to when each server was frozen or down.
    outs: HashMap<String, Vec<(MonoTime, MonoTime)>>,
}

/// Looks on for as long as it lives.
#[derive(Debug)]
pub(super) struct Witness {
    seen: Arc<Mutex<Seen>>,
    /// Whether rows are written.
    writes: Arc<Mutex<bool>>,
    tasks: Mutex<JoinSet<()>>,
}

/// More WAL between two looks than rows of ours make. Bytes.
const MUCH: u64 = 1 << 20;

/// What the table of rows is made with.
pub(super) const SETUP: &str = "CREATE TABLE beat (line int, n bigint, filler text, PRIMARY KEY (line, n))";

impl Witness {
    pub(super) fn start(primary: (&str, u16), replicas: &[(&str, u16)]) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let witness = Self { seen, writes: Arc::default(), tasks: Mutex::default() };
        witness.begin_line(primary, Lsn::new(0));
        for &(name, port) in replicas {
            witness.seen.lock().unwrap().stands.insert(name.to_owned(), Vec::new());
            let look = look_at_replica(Arc::clone(&witness.seen), name.to_owned(), port);
            witness.tasks.lock().unwrap().spawn(look);
        }
        witness
    }

    /// `primary` has taken over; what it has beyond `fork` is its own.
    pub(super) fn begin_line(&self, (primary, port): (&str, u16), fork: Lsn) {
        let mut seen = self.seen.lock().unwrap();
        let line = Line { primary: primary.to_owned(), fork, marks: Vec::new(), rows: Vec::new() };
        seen.lines.push(line);
        let look = look_at_primary(Arc::clone(&self.seen), Arc::clone(&self.writes), seen.lines.len() - 1, port);
        self.tasks.lock().unwrap().spawn(look);
    }

    /// Whether rows are written from now on.
    pub(super) fn write(&self, writes: bool) {
        *self.writes.lock().unwrap() = writes;
    }

    /// What is known so far.
    pub(super) fn truths(&self) -> Truths {
        let seen = self.seen.lock().unwrap().clone();
        let marks = (0..seen.lines.len()).map(|line| seen.marks_of(line)).collect();
        let furthest = seen.stands.iter().map(|(name, stands)| (name.clone(), furthest(stands))).collect();
        Truths { seen, marks, furthest }
    }

    /// Whether a replica was last seen where the primary was.
    pub(super) fn is_level(&self, replica: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        let end = seen.lines.last().and_then(|line| line.marks.last()).map(|mark| mark.lsn);
        let stand = seen.stands.get(replica).and_then(|stands| stands.last()).map(|stand| stand.lsn);
        end.is_some() && stand >= end
    }

    /// The server is frozen or down from now on.
    pub(super) fn out(&self, node: &str) {
        let out = (clock::now(), MonoTime::from_nanos(i64::MAX));
        self.seen.lock().unwrap().outs.entry(node.to_owned()).or_default().push(out);
    }

    /// The server is let go on, or started, from now on.
    pub(super) fn back(&self, node: &str) {
        let mut seen = self.seen.lock().unwrap();
        let now = clock::now();
        for out in seen.outs.get_mut(node).into_iter().flatten() {
            out.1 = out.1.min(now);
        }
    }

    /// It is known that WAL began at `lsn` between two instants at which the primary could not be asked.
    pub(super) fn wrote(&self, lsn: Lsn, asked: MonoTime, answered: MonoTime) {
        let mut seen = self.seen.lock().unwrap();
        let marks = &mut seen.lines.last_mut().unwrap().marks;
        let place = marks.partition_point(|mark| mark.answered <= answered);
        marks.insert(place, Mark { asked, answered, lsn: Lsn::new(lsn.as_u64() + 1) });
    }
}

/// What the witness knew at some moment.
#[derive(Debug)]
pub(super) struct Truths {
    seen: Seen,
    /// Those of each line, with the common ones of the lines before it.
    marks: Vec<Vec<Beyond>>,
    /// Where each replica would stand, had it never come back older than it was.
    furthest: HashMap<String, Vec<Stand>>,
}

/// A mark, and the furthest position of all marks up to it.
#[derive(Clone, Copy, Debug)]
struct Beyond {
    mark: Mark,
    furthest: Lsn,
}

impl Truths {
    /// Whether the server is one that the witness knows as a replica.
    pub(super) fn knows(&self, replica: &str) -> bool {
        self.seen.stands.contains_key(replica)
    }

    /// The lags that `replica` had behind `primary` between these two instants. `None` before it was first seen.
    pub(super) fn lag(&self, replica: &str, primary: &str, between: (MonoTime, MonoTime)) -> Option<Truth> {
        self.over(&self.seen.stands, replica, primary, between, Self::behind_in_wal)
    }

    /// The same, had the replica kept all that it had ever replayed. One that is killed comes back older than it was, for
    /// a while, which is not to be known while it is out of sight.
    pub(super) fn lag_of_furthest(&self, replica: &str, primary: &str, between: (MonoTime, MonoTime)) -> Option<Truth> {
        self.over(&self.furthest, replica, primary, between, Self::behind_in_wal)
    }

    /// The same by the rows that can be read, whatever positions are stated. The lag cannot be less.
    pub(super) fn lag_by_rows(&self, replica: &str, primary: &str, between: (MonoTime, MonoTime)) -> Option<Truth> {
        self.over(&self.seen.stands, replica, primary, between, Self::behind_in_rows)
    }

    fn over(
        &self,
        stands: &HashMap<String, Vec<Stand>>,
        replica: &str,
        primary: &str,
        (from, to): (MonoTime, MonoTime),
        behind: impl Fn(&Self, usize, Stand, MonoTime) -> Truth,
    ) -> Option<Truth> {
        let seen = &self.seen;
        let line = seen.lines.iter().rposition(|line| line.primary == primary)?;
        let stands = stands.get(replica)?;
        let mut truth: Option<Truth> = None;
        let mut add = |stand: &Stand, at: MonoTime| {
            let lag = behind(self, line, *stand, at);
            truth = Some(truth.map_or(lag, |truth| truth.or(lag)));
        };
        for at in [from, to] {
            let before = stands[..stands.partition_point(|stand| stand.answered <= at)].last()?;
            let after = stands.get(stands.partition_point(|stand| stand.asked < at));
            let is_out = seen
                .outs_of(replica)
                .any(|(out, back)| out <= at && at < back && out.seconds_since(before.asked) < SHORTLY);
            for stand in std::iter::once(before).chain(after.filter(|_| !is_out)) {
                add(stand, at);
            }
        }
        let within = &stands[stands.partition_point(|stand| stand.asked < from)..];
        for stand in within.iter().take_while(|stand| stand.answered <= to) {
            add(stand, stand.asked);
            add(stand, stand.answered);
        }
        truth
    }

    /// For how long, between `from` and `to`, a server that was there could not be looked at: what the machine did not
    /// give us, it did not give the daemon either.
    pub(super) fn stall(&self, nodes: [&str; 2], (from, to): (MonoTime, MonoTime)) -> f64 {
        let mut longest: f64 = 0.0;
        for node in nodes {
            let Some(looks) = self.seen.looks.get(node) else { continue };
            let first = looks.partition_point(|look| *look <= from).saturating_sub(1);
            for pair in looks[first..].windows(2).take_while(|pair| pair[0] < to) {
                let was_out = self.seen.outs_of(node).any(|(out, back)| out < pair[1] && pair[0] < back);
                longest = longest.max(if was_out { 0.0 } else { pair[1].seconds_since(pair[0]) - 0.2 });
            }
        }
        longest
    }

    fn behind_in_wal(&self, line: usize, stand: Stand, at: MonoTime) -> Truth {
        let marks = &self.marks[line];
        // Until a row of the line can be read on it, it may still be on the one before.
        let has_followed = line == 0 || stand.rows[line] > 0;
        let lsn = if has_followed { stand.lsn } else { stand.lsn.min(self.seen.lines[line].fork) };
        let place = marks.partition_point(|mark| mark.furthest <= lsn);
        let Some(beyond) = marks.get(place) else {
            return Truth { least: 0.0, most: self.unseen(line, at) };
        };
        let before = place.checked_sub(1).map_or(beyond.mark, |k| marks[k].mark).asked;
        self.aged(line, before, beyond.mark.answered, at)
    }

    /// What a primary that died amid a large write flushed after it was last looked at, only the daemon may have seen:
    /// how old that may be.
    fn unseen(&self, line: usize, at: MonoTime) -> f64 {
        let &[.., Beyond { mark: before, .. }, Beyond { mark: last, .. }] = &self.marks[line][..] else { return 0.0 };
        let is_out = self.seen.outs_of(&self.seen.lines[line].primary).any(|(out, back)| out <= at && at < back);
        if is_out && last.lsn.bytes_ahead_of(before.lsn).0 > MUCH { at.seconds_since(last.asked) } else { 0.0 }
    }

    fn behind_in_rows(&self, line: usize, stand: Stand, at: MonoTime) -> Truth {
        // Rows of an earlier line that its successor does not have look alike: only the line's own count.
        let rows = &self.seen.lines[line].rows;
        let Some(row) = rows.get(rows.partition_point(|row| row.n <= stand.rows[line])) else {
            return Truth { least: 0.0, most: 0.0 };
        };
        self.aged(line, row.asked, row.acknowledged, at)
    }

    /// How old at `at` is what the line's primary wrote after `after` and by `by`.
    fn aged(&self, line: usize, after: MonoTime, by: MonoTime, at: MonoTime) -> Truth {
        let asleep = self
            .seen
            .outs_of(&self.seen.lines[line].primary)
            .find(|(out, back)| after <= *out && *back <= by && out.seconds_since(after) < SHORTLY);
        let after = asleep.map_or(after, |(_, back)| back);
        Truth { least: at.seconds_since(by).max(0.0), most: at.seconds_since(after).max(0.0) }
    }
}

fn furthest(stands: &[Stand]) -> Vec<Stand> {
    let mut lsn = Lsn::new(0);
    let furthest = stands.iter().map(|stand| {
        lsn = lsn.max(stand.lsn);
        Stand { lsn, ..*stand }
    });
    furthest.collect()
}

impl Seen {
    fn marks_of(&self, line: usize) -> Vec<Beyond> {
        let fork = self.lines[line].fork;
        let common = self.lines[..line].iter().flat_map(|line| &line.marks).filter(|mark| mark.lsn <= fork);
        let mut furthest = Lsn::new(0);
        let beyond = common.chain(&self.lines[line].marks).map(|mark| {
            furthest = furthest.max(mark.lsn);
            Beyond { mark: *mark, furthest }
        });
        beyond.collect()
    }

    fn outs_of(&self, node: &str) -> impl Iterator<Item = (MonoTime, MonoTime)> {
        self.outs.get(node).into_iter().flatten().copied()
    }
}

async fn connect(port: u16) -> Option<Client> {
    let config: tokio_postgres::Config = super::pg::dsn_at(port, "postgres").parse().unwrap();
    let (client, connection) = config.connect(NoTls).await.ok()?;
    // Ends with the client.
    tokio::spawn(async move { connection.await.ok() });
    Some(client)
}

/// The first row of the answer, and between which instants it was true.
async fn ask(client: &Client, sql: &str) -> Option<(MonoTime, MonoTime, Vec<Option<String>>)> {
    let asked = clock::now();
    let messages = client.simple_query(sql).await.ok()?;
    let answered = clock::now();
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|k| row.get(k).map(str::to_owned)).collect()),
        _ => None,
    });
    Some((asked, answered, row.unwrap_or_default()))
}

async fn look_at_primary(seen: Arc<Mutex<Seen>>, writes: Arc<Mutex<bool>>, line: usize, port: u16) {
    let mut client = None;
    let mut n = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        if client.is_none() {
            client = connect(port).await;
        }
        let Some(connected) = &client else { continue };
        if *writes.lock().unwrap() {
            n += 1;
            let insert = format!("INSERT INTO beat VALUES ({}, {n}, repeat('x', 200))", line + 1);
            let Some((asked, acknowledged, _)) = ask(connected, &insert).await else {
                client = None;
                continue;
            };
            seen.lock().unwrap().lines[line].rows.push(Row { asked, acknowledged, n });
        }
        let Some((asked, answered, row)) = ask(connected, "SELECT pg_current_wal_flush_lsn()").await else {
            client = None;
            continue;
        };
        let lsn = row[0].as_ref().unwrap().parse().unwrap();
        let mut seen = seen.lock().unwrap();
        let name = seen.lines[line].primary.clone();
        seen.looks.entry(name).or_default().push(answered);
        let marks = &mut seen.lines[line].marks;
        match marks.last_mut() {
            // Idle: the last sight of a position is what counts, and the first.
            Some(last) if last.lsn == lsn => last.asked = asked,
            _ => marks.push(Mark { asked, answered, lsn }),
        }
    }
}

async fn look_at_replica(seen: Arc<Mutex<Seen>>, name: String, port: u16) {
    let max = |line| format!("coalesce((SELECT max(n) FROM beat WHERE line = {line}), 0)");
    let sql = format!("SELECT pg_last_wal_replay_lsn(), {}, {}", max(1), max(2));
    let mut client = None;
    loop {
        tokio::time::sleep(EVERY).await;
        if client.is_none() {
            client = connect(port).await;
        }
        let Some(connected) = &client else { continue };
        let Some((asked, answered, row)) = ask(connected, &sql).await else {
            client = None;
            continue;
        };
        let [Some(lsn), Some(first), Some(second)] = &row[..] else { continue };
        let rows = [first.parse().unwrap(), second.parse().unwrap()];
        let stand = Stand { asked, answered, lsn: lsn.parse().unwrap(), rows };
        let mut seen = seen.lock().unwrap();
        seen.stands.get_mut(&name).unwrap().push(stand);
        seen.looks.entry(name.clone()).or_default().push(answered);
    }
}
