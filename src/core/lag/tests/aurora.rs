//! An Aurora cluster: a writer `w` and readers, whose targets have the names of their instances.

use super::*;
use crate::core::observation::{AuroraInstance, AuroraState};
use crate::core::topology::Role::{self, Primary, Replica};
use crate::core::wal::WalBytes;

const fn instance(id: &'static str) -> Row {
    Row { id, is_writer: false, lsn: None, lag: None, age: None }
}

/// A row of the table, to be varied.
#[derive(Clone, Copy)]
struct Row {
    id: &'static str,
    is_writer: bool,
    /// Of the volume for a writer, applied for a reader, which has received 10 more.
    lsn: Option<u64>,
    lag: Option<f64>,
    age: Option<f64>,
}

fn writer(id: &'static str, lsn: u64) -> Row {
    Row { is_writer: true, lsn: Some(lsn), ..instance(id) }
}

fn reader(id: &'static str, lsn: u64, lag: f64, age: Option<f64>) -> Row {
    Row { lsn: Some(lsn), lag: Some(lag), age, ..instance(id) }
}

/// `target` answers as instance of the same name.
fn answers(target: &'static str, asked: f64, role: Role, rows: &[Row]) -> Observation {
    answers_as(target, target, asked, role, rows)
}

fn answers_as(target: &'static str, id: &'static str, asked: f64, role: Role, rows: &[Row]) -> Observation {
    let instances = rows.iter().map(|row| AuroraInstance {
        id: Arc::from(row.id),
        is_writer: row.is_writer,
        durable_lsn: row.lsn.filter(|_| row.is_writer),
        highest_lsn_received: row.lsn.filter(|_| !row.is_writer).map(|lsn| lsn + 10),
        current_read_lsn: row.lsn.filter(|_| !row.is_writer),
        replica_lag: row.lag,
        age: row.age,
    });
    let state = AuroraState { role, instance: Some(Arc::from(id)), instances: instances.collect() };
    Poll { state: ServerState::Aurora(state), ..primary(target, asked, 0) }.into()
}

#[test]
fn a_reader_lags_as_the_freshest_row_about_it_says() {
    let by_writer = |age| answers("w", 10.0, Primary, &[writer("w", 900), reader("r", 800, 0.5, Some(age))]);
    let by_itself = |lag| answers("r", 10.1, Replica, &[writer("w", 900), reader("r", 880, lag, None)]);
    let by_other = answers("s", 10.1, Replica, &[reader("r", 850, 0.3, Some(0.2)), reader("s", 900, 0.0, None)]);
    let silent = || failed("r", 11.0, 0.0, PollFailure::Refused);
    let nothing = answers("r", 10.1, Replica, &[writer("w", 900), instance("r")]);
    for (what, polls, now, expected) in [
        ("its own", vec![by_writer(0.0), by_itself(0.02)], 10.2, "aurora 0.02 [0.02, 0.03] exact"),
        ("its own is NULL", vec![by_writer(0.4), nothing.clone()], 10.2, "aurora 0.5 [0.5, 1.01] exact"),
        ("a peer's", vec![by_writer(3.0), nothing.clone(), by_other], 10.2, "aurora 0.3 [0.3, 0.51] exact"),
        ("all are old", vec![by_writer(60.0), nothing.clone()], 10.2, "aurora 0.5 [0, 60.61] at_least"),
        ("nobody's", vec![nothing], 10.2, "no_position none [0, inf] unknown"),
        (
            "silent, a peer says",
            vec![by_itself(0.02), by_writer(0.0), silent()],
            11.0,
            "aurora@last_known 0.02 [0.02, 0.92] exact",
        ),
        (
            "silent for long, the writer still lists it",
            vec![
                by_itself(0.02),
                silent(),
                answers("w", 70.0, Primary, &[writer("w", 990), reader("r", 880, 0.02, Some(58.9))]),
            ],
            70.0,
            "aurora@upstream 0.02 [0, 58.92] at_least",
        ),
    ] {
        let mut tracker = tracker();
        for poll in &polls {
            tracker.observe(poll);
        }
        assert_eq!(told(tracker.estimate(&Name::new("r"), at(now))), expected, "{what}");
    }
}

#[test]
fn a_reader_is_behind_by_what_one_table_says() {
    let mut tracker = tracker();
    let (name, rows) = (Name::new("r"), [writer("w", 900), reader("r", 880, 0.1, None)]);
    tracker.observe(&answers("w", 10.0, Primary, &[writer("w", 1_000), reader("r", 880, 0.1, Some(1.0))]));
    tracker.observe(&answers("r", 10.1, Replica, &rows));
    let bytes = tracker.aurora_bytes(&name);
    assert_eq!(bytes, Some(AuroraBytes { unreceived: Some(WalBytes(10)), unread: Some(WalBytes(20)) }));
    assert_eq!(tracker.aurora_bytes(&Name::new("w")), None);
    tracker.observe(&answers("r", 11.0, Replica, &rows[1..]));
    assert_eq!(tracker.aurora_bytes(&name), None, "no end of the volume in the freshest table");
}

#[test]
fn the_writer_is_known_through_a_failover() {
    let mut tracker = tracker();
    let before = [writer("a", 900), reader("b", 900, 0.0, Some(0.1))];
    let after = [writer("b", 950), reader("a", 950, 0.01, None)];
    let mut expect = |poll: Observation, writer: Option<&str>, of_b: &str| {
        let now = poll.answered_at;
        tracker.observe(&poll);
        assert_eq!(tracker.primary().map(Name::as_str), writer, "{of_b}");
        assert_eq!(told(tracker.estimate(&Name::new("b"), now)), of_b);
    };
    expect(answers("b", 9.0, Replica, &[]), None, "no_position none [0, inf] unknown");
    expect(answers("a", 10.0, Primary, &before), Some("a"), "aurora 0 [0, 0.01] exact");
    expect(failed("a", 11.0, 0.0, PollFailure::Refused), Some("a"), "aurora 0 [0, 0.01] exact");
    expect(answers("b", 12.0, Primary, &after), Some("b"), "-");
    // Back as a reader; or still in its old belief, which its own table does not share.
    expect(answers("a", 13.0, Primary, &after), Some("b"), "-");
    expect(answers("a", 14.0, Replica, &after), Some("b"), "-");
    assert_eq!(told(tracker.estimate(&Name::new("a"), at(14.1))), "aurora 0.01 [0.01, 0.02] exact");
    // The cluster's own address leads to the same instance.
    tracker.observe(&answers_as("any", "b", 15.0, Primary, &after));
    assert_eq!(tracker.primary(), Some(&Name::new("b")));
    tracker.observe(&answers("b", 16.0, Replica, &before));
    assert_eq!(tracker.primary(), Some(&Name::new("any")));
    tracker.forget(&Name::new("any"));
    assert_eq!(tracker.primary(), None);
}

#[test]
fn what_is_no_aurora_any_more_is_measured_as_any_other() {
    let mut tracker = tracker();
    tracker.observe(&answers("p", 9.0, Primary, &[writer("p", 900)]));
    for poll in history(10..=12, writing) {
        tracker.observe(&poll);
    }
    tracker.observe(&standby("r", 12.1, 2_200).into());
    assert_eq!(told(tracker.estimate(&Name::new("r"), at(12.2))), "caught_up 0 [0, 0.11] exact");
    // And the other way round.
    tracker.observe(&answers("p", 13.0, Replica, &[writer("w", 900), reader("p", 880, 0.5, None)]));
    assert_eq!((tracker.primary(), tracker.flush_lsn()), (None, None));
    assert_eq!(told(tracker.estimate(&Name::new("p"), at(13.1))), "aurora 0.5 [0.5, 0.51] exact");
}
