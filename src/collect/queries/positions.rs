//! Where the WAL stands: asked each second, so only what is needed is asked, and by the cheapest calls.

use std::sync::Arc;

use super::identity::{Introduction, Layout};
use super::{Optional, Refused};
use crate::collect::decode::{
    Fields, Rows, address, boolean, interval_seconds, lsn, name, number, record, shared_name, timestamp,
};
use crate::core::escape;
use crate::core::observation::{
    Checkpoint, PollFailure, Receiver, ReplayPause, SenderClient, SenderSlot, SenderState, WalReceiver, WalSender,
};
use crate::core::time::ServerTime;
use crate::core::topology::Role;
use crate::core::wal::{Lsn, Timeline};

/// What one fast poll asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    /// The role at the last answer, whose facts alone are asked. `None`: those of both.
    pub(crate) role: Option<Role>,
    pub(crate) version_num: u32,
    pub(crate) refused: Refused,
    /// `pg_control_system()` and `pg_control_checkpoint()`, before all else.
    pub(crate) control: bool,
    /// The primary's timeline, which changes only with its role or process.
    pub(crate) timeline: bool,
    /// The control file's timeline of a standby.
    pub(crate) control_timeline: bool,
    pub(crate) senders: bool,
    /// `pg_postmaster_start_time()`, by which another server behind the same pooler is told.
    pub(crate) started_at: bool,
}

/// What it says. Fields not asked for are `None` or empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) system_identifier: Option<u64>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) clock: ServerTime,
    pub(crate) started_at: Option<ServerTime>,
    pub(crate) state: State,
    /// Without names.
    pub(crate) senders: Vec<WalSender>,
}

#[expect(clippy::large_enum_variant, reason = "most servers are standbys, so a box would save nothing")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Primary {
        flush_lsn: Lsn,
        timeline: Option<Timeline>,
    },
    Standby {
        replay_lsn: Option<Lsn>,
        receive_lsn: Option<Lsn>,
        last_commit_replayed_at: Option<ServerTime>,
        control_timeline: Option<Timeline>,
        pause: ReplayPause,
        receiver: Receiver,
    },
    /// Not the role that was asked about, or not the same one all through the statement: to be asked again about both.
    Changed,
}

impl Question {
    fn primary(self) -> bool {
        self.role != Some(Role::Replica)
    }

    fn standby(self) -> bool {
        self.role != Some(Role::Primary)
    }

    fn may(self, optional: Optional) -> bool {
        !self.refused.contains(optional)
    }

    fn system_identifier(self) -> bool {
        self.control && self.may(Optional::SystemIdentifier)
    }

    fn checkpoint(self) -> bool {
        self.control && self.may(Optional::Checkpoint)
    }

    fn control_timeline(self) -> bool {
        self.standby() && self.control_timeline && self.may(Optional::Checkpoint)
    }

    fn senders(self) -> bool {
        self.senders && self.may(Optional::WalSenders)
    }

    /// The columns of the last statement, in the order in which [`Question::decode`] reads them.
    fn columns(self) -> impl Iterator<Item = &'static str> {
        let has_pause_state = self.version_num >= 140_000;
        [
            (true, "pg_is_in_recovery()"),
            (true, "clock_timestamp()"),
            (self.started_at, "pg_postmaster_start_time()"),
            (self.primary(), "CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END"),
            (
                self.primary() && self.timeline,
                "CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END",
            ),
            (self.standby() && self.may(Optional::ReplayLsn), "pg_last_wal_replay_lsn()"),
            (self.standby() && self.may(Optional::ReceiveLsn), "pg_last_wal_receive_lsn()"),
            (self.standby() && self.may(Optional::ReplayTimestamp), "pg_last_xact_replay_timestamp()"),
            (
                self.standby() && has_pause_state,
                "CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END",
            ),
            (self.standby() && !has_pause_state, "CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END"),
            (self.standby() && self.may(Optional::WalReceiver), "pg_stat_get_wal_receiver()"),
            (self.control_timeline(), "(pg_control_checkpoint()).timeline_id"),
            // Sets are expanded side by side, and the second one has always a row: the scalars come even with no sender.
            (self.senders(), "pg_stat_get_wal_senders(), generate_series(1, 1)"),
        ]
        .into_iter()
        .filter_map(|(is_asked, column)| is_asked.then_some(column))
    }

    pub(crate) fn sql(self) -> String {
        let mut sql = String::with_capacity(512);
        if self.system_identifier() {
            sql.push_str("SELECT system_identifier FROM pg_control_system();");
        }
        if self.checkpoint() {
            sql.push_str("SELECT redo_lsn, checkpoint_time FROM pg_control_checkpoint();");
        }
        for (index, column) in self.columns().enumerate() {
            sql.push_str(if index == 0 { "SELECT " } else { ", " });
            sql.push_str(column);
        }
        sql
    }

    pub(crate) fn decode(self, about: &Introduction, statements: &[Rows<'_>]) -> Result<Reading, PollFailure> {
        let mut statements = statements.iter();
        let mut first_row = |view: &'static str| {
            statements
                .next()
                .and_then(|rows| Some((rows.first()?.as_slice(), rows)))
                .ok_or_else(|| Fields::new(view, &[]).failure("*", "no row"))
        };
        let mut system_identifier = None;
        if self.system_identifier() {
            let (row, _) = first_row("pg_control_system")?;
            system_identifier =
                Some(Fields::new("pg_control_system", row).required("system_identifier", signed_as_u64)?);
        }
        let mut checkpoint = None;
        if self.checkpoint() {
            let (row, _) = first_row("pg_control_checkpoint")?;
            let mut row = Fields::new("pg_control_checkpoint", row);
            checkpoint = Some(Checkpoint {
                redo_lsn: row.required("redo_lsn", lsn)?,
                taken_at: row.required("checkpoint_time", timestamp)?,
            });
        }

        let (row, rows) = first_row("positions")?;
        let mut row = Fields::new("positions", row);
        let in_recovery = row.required("pg_is_in_recovery", boolean)?;
        let clock = row.required("clock_timestamp", timestamp)?;
        let started_at =
            if self.started_at { Some(row.required("pg_postmaster_start_time", timestamp)?) } else { None };
        let (mut flush_lsn, mut timeline) = (None, None);
        if self.primary() {
            flush_lsn = row.optional("pg_current_wal_flush_lsn", lsn)?;
            if self.timeline {
                timeline = row.optional("pg_walfile_name", timeline_of_file)?;
            }
        }
        let mut standby = None;
        if self.standby() {
            standby = self.standby_state(about, &mut row)?;
        }
        let state = match (in_recovery, flush_lsn, standby) {
            (false, Some(flush_lsn), _) => State::Primary { flush_lsn, timeline },
            (true, _, Some(standby)) => standby,
            _ => State::Changed,
        };

        let mut senders = Vec::new();
        if let (true, Some(layout)) = (self.senders(), about.sender_layout) {
            let column = self.columns().count() - 1;
            for text in rows.iter().filter_map(|row| row.get(column).copied().flatten()) {
                senders.push(sender(layout, text)?);
            }
        }
        Ok(Reading { system_identifier, checkpoint, clock, started_at, state, senders })
    }

    /// `None` when the pause state is: the server was promoted within the statement.
    fn standby_state(self, about: &Introduction, row: &mut Fields<'_, '_>) -> Result<Option<State>, PollFailure> {
        let mut replay_lsn = None;
        if self.may(Optional::ReplayLsn) {
            replay_lsn = row.optional("pg_last_wal_replay_lsn", lsn)?;
        }
        let mut receive_lsn = None;
        if self.may(Optional::ReceiveLsn) {
            receive_lsn = row.optional("pg_last_wal_receive_lsn", lsn)?;
        }
        let mut last_commit_replayed_at = None;
        if self.may(Optional::ReplayTimestamp) {
            last_commit_replayed_at = row.optional("pg_last_xact_replay_timestamp", timestamp)?;
        }
        let pause = row.optional("pg_get_wal_replay_pause_state", pause)?;
        let mut wal_receiver = Receiver::Hidden;
        if self.may(Optional::WalReceiver) {
            wal_receiver = match row.text("pg_stat_get_wal_receiver")? {
                Some(text) => receiver(about.receiver_layout, text)?,
                None => Receiver::Absent,
            };
        }
        let mut control_timeline = None;
        if self.control_timeline() {
            control_timeline = row.optional("timeline_id", number)?.map(Timeline);
        }
        Ok(pause.map(|pause| State::Standby {
            replay_lsn,
            receive_lsn,
            last_commit_replayed_at,
            control_timeline,
            pause,
            receiver: wal_receiver,
        }))
    }
}

/// Who is at the other end of the senders with these pids.
pub(crate) fn clients_sql(pids: &[i32]) -> String {
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    clients_with(&pids.join(", "))
}

/// Who is at the other end of each sender.
pub(crate) fn all_clients_sql() -> String {
    clients_with("SELECT w.pid FROM pg_stat_get_wal_senders() w")
}

fn clients_with(pids: &str) -> String {
    format!(
        "SELECT a.pid, a.application_name, host(a.client_addr), a.client_hostname, a.backend_start, s.slot_name, \
         s.slot_type FROM pg_stat_get_activity(NULL) a LEFT JOIN pg_get_replication_slots() s ON s.active_pid = a.pid \
         WHERE a.pid IN ({pids})"
    )
}

/// What stays as long as a sender does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Client {
    pub(crate) pid: i32,
    pub(crate) application_name: Option<Arc<str>>,
    pub(crate) client: Arc<SenderClient>,
}

pub(crate) fn decode_clients(statements: &[Rows<'_>]) -> Result<Vec<Client>, PollFailure> {
    let rows = statements.first().into_iter().flatten();
    rows.map(|row| {
        let mut row = Fields::new("pg_stat_activity", row);
        let pid = row.required("pid", number)?;
        let application_name = row.optional("application_name", shared_name)?;
        let (address, hostname) = (row.optional("client_addr", address)?, row.optional("client_hostname", name)?);
        let started_at = row.optional("backend_start", timestamp)?;
        let (slot, slot_type) = (row.optional("slot_name", name)?, row.text("slot_type")?);
        let slot = slot.map(|name| SenderSlot { name, is_logical: slot_type == Some("logical") });
        let client = SenderClient { address, hostname, started_at, slot };
        Ok(Client { pid, application_name, client: Arc::new(client) })
    })
    .collect()
}

/// `bigint` in the view, though the identifier is unsigned.
fn signed_as_u64(text: &str) -> Option<u64> {
    number::<i64>(text).map(i64::cast_unsigned)
}

/// The timeline is the first eight hexadecimal digits of a WAL file's name.
fn timeline_of_file(name: &str) -> Option<Timeline> {
    u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline)
}

/// The words of 14 and later, or the boolean of 13, which says no more than that a pause was requested.
fn pause(text: &str) -> Option<ReplayPause> {
    match text {
        "not paused" | "f" => Some(ReplayPause::NotPaused),
        "pause requested" | "t" => Some(ReplayPause::Requested),
        "paused" => Some(ReplayPause::Paused),
        _ => None,
    }
}

fn sender_state(text: &str) -> Option<SenderState> {
    match text {
        "startup" => Some(SenderState::Startup),
        "catchup" => Some(SenderState::Catchup),
        "streaming" => Some(SenderState::Streaming),
        "backup" => Some(SenderState::Backup),
        "stopping" => Some(SenderState::Stopping),
        _ => None,
    }
}

fn sender(layout: Layout<12>, text: &str) -> Result<WalSender, PollFailure> {
    let columns = composite("pg_stat_get_wal_senders", text)?;
    let columns: Vec<Option<&str>> = columns.iter().map(|column| column.as_deref()).collect();
    let columns = layout.pick(&columns);
    let mut row = Fields::new("pg_stat_get_wal_senders", &columns);
    Ok(WalSender {
        pid: row.required("pid", number)?,
        application_name: None,
        client: None,
        state: row.optional("state", sender_state)?,
        sent_lsn: row.optional("sent_lsn", lsn)?,
        write_lsn: row.optional("write_lsn", lsn)?,
        flush_lsn: row.optional("flush_lsn", lsn)?,
        replay_lsn: row.optional("replay_lsn", lsn)?,
        write_lag: row.optional("write_lag", interval_seconds)?,
        flush_lag: row.optional("flush_lag", interval_seconds)?,
        replay_lag: row.optional("replay_lag", interval_seconds)?,
        sync_priority: row.optional("sync_priority", number)?,
        sync_state: row.optional("sync_state", shared_name)?,
        reply_time: row.optional("reply_time", timestamp)?,
    })
}

/// A receiver whose status is NULL runs, but the role may not see more than its pid.
fn receiver(layout: Option<Layout<11>>, text: &str) -> Result<Receiver, PollFailure> {
    let Some(layout) = layout else { return Ok(Receiver::Hidden) };
    let columns = composite("pg_stat_get_wal_receiver", text)?;
    let columns: Vec<Option<&str>> = columns.iter().map(|column| column.as_deref()).collect();
    let columns = layout.pick(&columns);
    let mut row = Fields::new("pg_stat_get_wal_receiver", &columns);
    let Some(status) = row.text("status")? else { return Ok(Receiver::Hidden) };
    if status == "connecting" {
        return Ok(Receiver::Connecting);
    }
    let written_lsn = row.optional("written_lsn", lsn)?;
    let flushed_lsn = row.optional("flushed_lsn", lsn)?;
    let timeline = row.optional("received_tli", number)?.map(Timeline);
    let last_msg_sent_at = row.optional("last_msg_send_time", timestamp)?;
    let last_msg_received_at = row.optional("last_msg_receipt_time", timestamp)?;
    // A receiver that starts sets all times to its own, and keeps the position of the one before.
    let has_message = last_msg_sent_at != last_msg_received_at;
    Ok(Receiver::Running(WalReceiver {
        status: escape::name(status).into_owned(),
        written_lsn,
        flushed_lsn,
        timeline,
        last_msg_sent_at: last_msg_sent_at.filter(|_| has_message),
        last_msg_received_at: last_msg_received_at.filter(|_| has_message),
        latest_end_lsn: row.optional("latest_end_lsn", lsn)?.filter(|_| has_message),
        latest_end_at: row.optional("latest_end_time", timestamp)?.filter(|_| has_message),
        slot_name: row.optional("slot_name", name)?,
        sender_host: row.optional("sender_host", name)?,
        sender_port: row.optional("sender_port", number)?,
    }))
}

/// The text itself stays out of the message: the receiver's has the upstream's connection string in it.
fn composite<'a>(view: &'static str, text: &'a str) -> Result<Vec<Option<std::borrow::Cow<'a, str>>>, PollFailure> {
    record(text).ok_or_else(|| Fields::new(view, &[]).failure("*", "not a row of columns"))
}

#[cfg(test)]
mod tests {
    use super::super::identity::{
        self,
        tests::{RECEIVER, SENDERS},
    };
    use super::*;

    fn about() -> Introduction {
        identity::decode(&[
            vec![vec![Some("2026-11-20 10:00:00+00"), Some("mon"), Some("t"), None]],
            vec![
                vec![Some("server_version_num"), Some("150018")],
                vec![Some("server_version"), Some("15.18")],
                vec![Some("cluster_name"), Some("")],
                vec![Some("port"), Some("5432")],
                vec![Some("max_connections"), Some("100")],
            ],
            vec![],
            vec![
                vec![Some("pg_stat_get_wal_senders"), Some(SENDERS)],
                vec![Some("pg_stat_get_wal_receiver"), Some(RECEIVER)],
            ],
        ])
        .unwrap()
    }

    const BOTH: Question = Question {
        role: None,
        version_num: 150_018,
        refused: Refused(0),
        control: true,
        timeline: true,
        control_timeline: true,
        senders: true,
        started_at: true,
    };

    const NOW: &str = "2026-11-20 10:11:12.123456+00";

    fn at(micros: i64) -> ServerTime {
        ServerTime::from_unix_micros(1_795_169_472_123_456 + micros)
    }

    #[test]
    fn a_known_role_is_asked_for_its_own_facts_alone() {
        let each = Question { control: false, timeline: false, control_timeline: false, started_at: false, ..BOTH };
        assert_eq!(
            Question { role: Some(Role::Primary), ..each }.sql(),
            "SELECT pg_is_in_recovery(), clock_timestamp(), \
             CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
             pg_stat_get_wal_senders(), generate_series(1, 1)"
        );
        assert_eq!(
            Question { role: Some(Role::Replica), senders: false, ..each }.sql(),
            "SELECT pg_is_in_recovery(), clock_timestamp(), pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn(), \
             pg_last_xact_replay_timestamp(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END, \
             pg_stat_get_wal_receiver()"
        );
        let on_13 = Question { role: Some(Role::Replica), version_num: 130_023, ..each }.sql();
        assert!(on_13.contains("pg_is_wal_replay_paused()") && !on_13.contains("pause_state"), "{on_13}");
    }

    #[test]
    fn what_is_refused_is_not_asked_and_the_rest_still_reads() {
        let mut refused = Refused::default();
        for (optional, _) in Optional::NAMES {
            refused.insert(optional);
        }
        let question = Question { refused, ..BOTH };
        for (_, name) in Optional::NAMES {
            assert!(!question.sql().contains(name), "{name}");
        }
        let row = vec![Some("t"), Some(NOW), Some(NOW), None, None, Some("paused")];
        assert_eq!(
            question.decode(&about(), &[vec![row]]),
            Ok(Reading {
                system_identifier: None,
                checkpoint: None,
                clock: at(0),
                started_at: Some(at(0)),
                state: State::Standby {
                    replay_lsn: None,
                    receive_lsn: None,
                    last_commit_replayed_at: None,
                    control_timeline: None,
                    pause: ReplayPause::Paused,
                    receiver: Receiver::Hidden,
                },
                senders: vec![],
            })
        );
    }

    #[test]
    fn who_is_behind_a_sender_reads_with_and_without_grants() {
        let sql = clients_sql(&[42, 43]);
        assert!(sql.ends_with("a.pid IN (42, 43)"), "{sql}");
        let row = |pid, rest: [Option<&'static str>; 6]| [vec![Some(pid)], rest.to_vec()].concat();
        let rows = vec![
            row("42", [Some("r1"), Some("fe80::1"), Some("db"), Some(NOW), Some("r1"), Some("physical")]),
            row("43", [Some("sub"), None, None, None, Some("sub"), Some("logical")]),
            row("44", [None; 6]),
        ];
        let client = |pid, name: Option<&str>, client| Client {
            pid,
            application_name: name.map(Arc::from),
            client: Arc::new(client),
        };
        let slot = |name: &str, is_logical| Some(SenderSlot { name: name.to_owned(), is_logical });
        let known = SenderClient {
            address: "fe80::1".parse().ok(),
            hostname: Some("db".to_owned()),
            started_at: Some(at(0)),
            slot: slot("r1", false),
        };
        assert_eq!(
            decode_clients(&[rows]),
            Ok(vec![
                client(42, Some("r1"), known),
                client(43, Some("sub"), SenderClient { slot: slot("sub", true), ..SenderClient::default() }),
                client(44, None, SenderClient::default()),
            ])
        );
    }

    #[test]
    fn a_primary_with_two_senders_reads() {
        let row = |sender| {
            let mut row = vec![Some("f"), Some(NOW), Some(NOW), Some("0/3000148"), Some("0000000A0000000000000003")];
            row.extend([None, None, None, None, None, Some("3")]);
            row.extend([Some(sender), Some("1")]);
            row
        };
        let streaming = r#"(42,streaming,0/3000148,0/3000140,0/3000130,0/3000120,00:00:00.000123,00:00:00.5,00:01:00,0,async,"2026-11-20 10:11:13.123456+00")"#;
        let hidden = "(43,,,,,,,,,,,)";
        let decoded = BOTH.decode(
            &about(),
            &[vec![vec![Some("-1")]], vec![vec![Some("0/3000110"), Some(NOW)]], vec![row(streaming), row(hidden)]],
        );
        let nothing = WalSender {
            pid: 43,
            application_name: None,
            client: None,
            state: None,
            sent_lsn: None,
            write_lsn: None,
            flush_lsn: None,
            replay_lsn: None,
            write_lag: None,
            flush_lag: None,
            replay_lag: None,
            reply_time: None,
            sync_priority: None,
            sync_state: None,
        };
        assert_eq!(
            decoded,
            Ok(Reading {
                system_identifier: Some(u64::MAX),
                checkpoint: Some(Checkpoint { redo_lsn: Lsn::new(0x300_0110), taken_at: at(0) }),
                clock: at(0),
                started_at: Some(at(0)),
                state: State::Primary { flush_lsn: Lsn::new(0x300_0148), timeline: Some(Timeline(10)) },
                senders: vec![
                    WalSender {
                        pid: 42,
                        state: Some(SenderState::Streaming),
                        sent_lsn: Some(Lsn::new(0x300_0148)),
                        write_lsn: Some(Lsn::new(0x300_0140)),
                        flush_lsn: Some(Lsn::new(0x300_0130)),
                        replay_lsn: Some(Lsn::new(0x300_0120)),
                        write_lag: Some(0.000123),
                        flush_lag: Some(0.5),
                        replay_lag: Some(60.0),
                        reply_time: Some(at(1_000_000)),
                        sync_priority: Some(0),
                        sync_state: Some(Arc::from("async")),
                        ..nothing.clone()
                    },
                    nothing,
                ],
            })
        );
    }

    /// One answer of a standby that is asked about its own facts alone.
    fn standby(row: Vec<Option<&str>>) -> Result<State, PollFailure> {
        let question = Question {
            role: Some(Role::Replica),
            control: false,
            control_timeline: false,
            senders: false,
            started_at: false,
            ..BOTH
        };
        question.decode(&about(), &[vec![row]]).map(|reading| reading.state)
    }

    #[test]
    fn a_receiver_is_absent_hidden_or_running() {
        let check = |text: Option<&str>, expect: Receiver| {
            let row = vec![Some("t"), Some(NOW), Some("0/5"), Some("0/6"), None, Some("not paused"), text];
            assert_eq!(
                standby(row),
                Ok(State::Standby {
                    replay_lsn: Some(Lsn::new(5)),
                    receive_lsn: Some(Lsn::new(6)),
                    last_commit_replayed_at: None,
                    control_timeline: None,
                    pause: ReplayPause::NotPaused,
                    receiver: expect,
                })
            );
        };
        check(None, Receiver::Absent);
        check(Some("(42,,,,,,,,,,,,,,)"), Receiver::Hidden);
        // As 19 shows one that no upstream answers.
        let time = r#""2026-11-20 10:11:12.123456+00""#;
        let connecting = format!("(42,connecting,0/03000000,1,0/03000000,0/03000000,1,{time},{time},,{time},,,,)");
        check(Some(&connecting), Receiver::Connecting);
        // It has reached its upstream, and nothing has come yet: what it says of that is an earlier receiver's.
        let silent = format!(
            "(42,streaming,0/3000000,1,0/3000000,0/3000000,1,{time},{time},0/3000150,{time},r1,10.0.0.7,5432,)"
        );
        check(
            Some(&silent),
            Receiver::Running(WalReceiver {
                status: "streaming".to_owned(),
                timeline: Some(Timeline(1)),
                written_lsn: Some(Lsn::new(0x300_0000)),
                flushed_lsn: Some(Lsn::new(0x300_0000)),
                latest_end_lsn: None,
                latest_end_at: None,
                last_msg_sent_at: None,
                last_msg_received_at: None,
                sender_host: Some("10.0.0.7".to_owned()),
                sender_port: Some(5432),
                slot_name: Some("r1".to_owned()),
            }),
        );
        check(
            Some(
                r#"(42,streaming,0/3000000,1,0/3000148,0/3000140,3,"2026-11-20 10:11:12.123456+00","2026-11-20 10:11:12.123457+00",0/3000150,"2026-11-20 10:11:12+00",r1,10.0.0.7,5432,"user=postgres password=******** dbname=replication host=10.0.0.7")"#,
            ),
            Receiver::Running(WalReceiver {
                status: "streaming".to_owned(),
                timeline: Some(Timeline(3)),
                written_lsn: Some(Lsn::new(0x300_0148)),
                flushed_lsn: Some(Lsn::new(0x300_0140)),
                latest_end_lsn: Some(Lsn::new(0x300_0150)),
                latest_end_at: Some(at(-123_456)),
                last_msg_sent_at: Some(at(0)),
                last_msg_received_at: Some(at(1)),
                sender_host: Some("10.0.0.7".to_owned()),
                sender_port: Some(5432),
                slot_name: Some("r1".to_owned()),
            }),
        );
    }

    #[test]
    fn a_role_that_changed_is_said_so() {
        // Promoted since the last poll, and promoted between two columns.
        let before =
            |in_recovery, pause| vec![Some(in_recovery), Some(NOW), Some("0/5"), Some("0/5"), None, pause, None];
        assert_eq!(standby(before("f", None)), Ok(State::Changed));
        assert_eq!(standby(before("t", None)), Ok(State::Changed));
    }

    #[test]
    fn an_unreadable_receiver_tells_nothing_of_its_connection_string() {
        let row = vec![Some("t"), Some(NOW), None, None, None, Some("paused"), Some("(password=secret")];
        assert_eq!(
            standby(row).map_err(|failure| failure.to_string()),
            Err("cannot read * of pg_stat_get_wal_receiver: not a row of columns".to_owned())
        );
    }
}
