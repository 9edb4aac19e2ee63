//! Replication slots.

use std::sync::Arc;

use super::{Context, Topic};
use crate::collect::decode::{self, Fields, Rows, boolean, lsn, number, timestamp};
use crate::collect::queries::Optional;
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{Slot, SurveyFacts};
use crate::core::wal::Lsn;

pub(super) const TOPIC: Topic = Topic { name: "slots", sql, decode };

/// Columns of `pg_get_replication_slots()` that not every major has.
pub(crate) const NEWER_COLUMNS: [&str; 7] =
    ["two_phase", "conflicting", "invalidation_reason", "inactive_since", "failover", "synced", "slotsync_skip_reason"];

/// The function, and not the view over it, whose only other column is the name of the database: that is another topic's,
/// which may wait for a lock.
const COLUMNS: &str = "SELECT slot_name, slot_type, active, restart_lsn, confirmed_flush_lsn, wal_status, \
                       safe_wal_size, temporary, active_pid, datoid, plugin, age(xmin), age(catalog_xmin)";
const FUNCTION: &str = " FROM pg_get_replication_slots()";

const TYPES: &[&str] = &["physical", "logical"];
const WAL_STATUSES: &[&str] = &["reserved", "extended", "unreserved", "lost"];
const REASONS: &[&str] = &["wal_removed", "rows_removed", "wal_level_insufficient", "idle_timeout"];
const SKIP_REASONS: &[&str] = &["wal_or_rows_removed", "wal_not_flushed", "no_consistent_snapshot", "slot_invalidated"];

fn sql(context: Context<'_>) -> Option<String> {
    // Aurora has no WAL of its own, and raises an error when asked for its end.
    let has_wal = context.about.identity.flavor != Flavor::Aurora;
    let end_of_wal = if has_wal {
        "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"
    } else {
        "NULL"
    };
    let may_receive = has_wal && !context.refused.contains(Optional::ReceiveLsn);
    let received = if may_receive { "pg_last_wal_receive_lsn()" } else { "NULL" };
    let size_of = |setting: &str| format!("pg_size_bytes(current_setting('{setting}'))");
    let mut sql = format!(
        "SELECT {end_of_wal}, pg_is_in_recovery(), {received}, {}, {}, {};{COLUMNS}",
        size_of("wal_segment_size"),
        size_of("wal_keep_size"),
        size_of("max_slot_wal_keep_size"),
    );
    for (column, is_there) in NEWER_COLUMNS.iter().zip(context.about.slot_columns) {
        sql.push_str(", ");
        sql.push_str(if is_there { column } else { "NULL" });
    }
    sql.push_str(FUNCTION);
    Some(sql)
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let [server, slots] = statements else {
        return Err(Fields::new("pg_replication_slots", &[]).failure("*", "not the two results that were asked for"));
    };
    let server = Server::read(server.first().map(Vec::as_slice).unwrap_or_default())?;
    let databases = facts.databases.as_deref().unwrap_or(&[]);
    let mut slots: Vec<Slot> = slots.iter().map(|row| slot(row, &server, databases)).collect::<Result<_, _>>()?;
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    facts.slots = Some(slots);
    Ok(())
}

/// What the server is, as far as its slots depend on it.
struct Server {
    end_of_wal: Option<Lsn>,
    /// `None` on a primary, which says itself how much is safe.
    standby: Option<Standby>,
}

/// From which settings a standby decides which slots lose their WAL.
struct Standby {
    /// What it has received or replayed, whichever is more.
    end: Option<Lsn>,
    segment: u64,
    /// How much it keeps for slots at most. `None`: no limit.
    keep: Option<u64>,
}

impl Server {
    fn read(row: &[Option<&str>]) -> Result<Self, PollFailure> {
        let mut row = Fields::new("server", row);
        let end_of_wal = row.optional("end of WAL", lsn)?;
        let in_recovery = row.required("pg_is_in_recovery", boolean)?;
        let received = row.optional("pg_last_wal_receive_lsn", lsn)?;
        let segment: u64 = row.required("wal_segment_size", number)?;
        let wal_keep_size: u64 = row.required("wal_keep_size", number)?;
        let max_slot_wal_keep_size: i64 = row.required("max_slot_wal_keep_size", number)?;
        let keep = u64::try_from(max_slot_wal_keep_size).ok().map(|size| size.max(wal_keep_size));
        let standby = in_recovery.then(|| Standby { end: end_of_wal.max(received), segment: segment.max(1), keep });
        Ok(Self { end_of_wal, standby })
    }
}

impl Standby {
    /// What a primary would say as `safe_wal_size`: up to the end of the segment behind the last one that may be kept.
    fn safe_wal_size(&self, restart_lsn: Lsn) -> Option<i64> {
        let segments = |bytes: u64| i128::from(bytes / self.segment);
        let first_lost = segments(restart_lsn.as_u64()) + segments(self.keep?) + 1;
        i64::try_from(first_lost * i128::from(self.segment) - i128::from(self.end?.as_u64())).ok()
    }
}

fn slot(row: &[Option<&str>], server: &Server, databases: &[(u32, Arc<str>)]) -> Result<Slot, PollFailure> {
    let mut row = Fields::new("pg_replication_slots", row);
    let name = row.required("slot_name", decode::name)?;
    let slot_type = row.required("slot_type", |text| Some(word(text, TYPES)))?;
    let active = row.required("active", boolean)?;
    let restart_lsn = row.optional("restart_lsn", lsn)?;
    let confirmed_flush_lsn = row.optional("confirmed_flush_lsn", lsn)?;
    let wal_status = row.optional("wal_status", |text| Some(word(text, WAL_STATUSES)))?;
    // The server computes one from 0/0 for a slot without a position, which is in no danger.
    let safe_wal_size = row.optional("safe_wal_size", number)?.filter(|_| restart_lsn.is_some());
    let behind = |end: Option<Lsn>, lsn: Option<Lsn>| end.zip(lsn).map(|(end, lsn)| end.bytes_ahead_of(lsn).0);
    let last_written = server.standby.as_ref().map_or(server.end_of_wal, |standby| standby.end);
    let mut slot = Slot {
        name,
        slot_type,
        active,
        restart_lsn,
        confirmed_flush_lsn,
        wal_status,
        safe_wal_size: match &server.standby {
            None => safe_wal_size,
            Some(standby) => restart_lsn.filter(|_| safe_wal_size.is_some()).and_then(|lsn| standby.safe_wal_size(lsn)),
        },
        // A receiver that tries again and again gives a lost slot a position for which nothing is kept.
        retained_bytes: behind(last_written, restart_lsn.filter(|_| wal_status != Some("lost"))),
        unconfirmed_bytes: behind(server.end_of_wal, confirmed_flush_lsn),
        temporary: row.required("temporary", boolean)?,
        active_pid: row.optional("active_pid", number)?,
        datname: row.optional("datoid", number::<u32>)?.and_then(|oid| {
            let (_, name) = databases.iter().find(|(known, _)| *known == oid)?;
            Some(name.to_string())
        }),
        plugin: row.optional("plugin", decode::name)?,
        xmin_age: row.optional("xmin", number)?,
        catalog_xmin_age: row.optional("catalog_xmin", number)?,
        two_phase: row.optional("two_phase", boolean)?,
        conflicting: row.optional("conflicting", boolean)?,
        invalidation_reason: row.optional("invalidation_reason", |text| Some(word(text, REASONS)))?,
        inactive_since: row.optional("inactive_since", timestamp)?,
        failover: row.optional("failover", boolean)?,
        synced: row.optional("synced", boolean)?,
        is_copy: false,
        sync_skip_reason: row
            .optional("slotsync_skip_reason", |text| Some(Some(word(text, SKIP_REASONS)).filter(|_| text != "none")))?
            .flatten(),
    };
    slot.is_copy = slot.synced == Some(true) && server.standby.is_some();
    Ok(slot)
}

/// The word among those that are known.
fn word(text: &str, known: &[&'static str]) -> &'static str {
    known.iter().find(|word| **word == text).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::time::ServerTime;

    const MIB: u64 = 1 << 20;

    fn server<'a>(end: &'a str, in_recovery: &'a str, received: Option<&'a str>, keep: &'a str) -> Rows<'a> {
        vec![vec![Some(end), Some(in_recovery), received, Some("16777216"), Some("67108864"), Some(keep)]]
    }

    fn physical<'a>(
        name: &'a str,
        restart: Option<&'a str>,
        status: &'a str,
        safe: Option<&'a str>,
    ) -> Vec<Option<&'a str>> {
        let mut row = vec![Some(name), Some("physical"), Some("t"), restart, None, Some(status), safe, Some("f")];
        row.extend([Some("4711"), None, None, Some("12"), None]);
        row.extend([None; 7]);
        row
    }

    #[test]
    fn slots_read_as_the_server_says_them_in_the_order_of_their_names() {
        let about = about(Flavor::PostgreSql, "1.10");
        let logical = [
            [Some("cdc"), Some("logical"), Some("f"), None, Some("0/3000000")].as_slice(),
            &[Some("lost"), Some("-1"), Some("t"), None, Some("16384"), Some("pgoutput"), None, Some("900")],
            &[Some("t"), Some("f"), Some("wal_removed"), Some("1970-01-01 00:00:01+00"), Some("t"), Some("t"), None],
        ];
        let answer = [
            server("0/3000100", "f", None, "-1"),
            vec![physical("r1", Some("0/3000000"), "dazed", None), logical.concat()],
        ];
        let slots = vec![
            Slot {
                name: "cdc".to_owned(),
                slot_type: "logical",
                confirmed_flush_lsn: Some(Lsn::new(0x300_0000)),
                wal_status: Some("lost"),
                unconfirmed_bytes: Some(0x100),
                temporary: true,
                datname: Some("app".to_owned()),
                plugin: Some("pgoutput".to_owned()),
                catalog_xmin_age: Some(900),
                two_phase: Some(true),
                conflicting: Some(false),
                invalidation_reason: Some("wal_removed"),
                inactive_since: Some(ServerTime::from_unix_micros(1_000_000)),
                failover: Some(true),
                // Left from the time when it was a standby's.
                synced: Some(true),
                ..Slot::default()
            },
            Slot {
                name: "r1".to_owned(),
                slot_type: "physical",
                active: true,
                active_pid: Some(4711),
                restart_lsn: Some(Lsn::new(0x300_0000)),
                wal_status: Some("other"),
                retained_bytes: Some(0x100),
                xmin_age: Some(12),
                ..Slot::default()
            },
        ];
        let mut facts = SurveyFacts { databases: Some(vec![(16384, Arc::from("app"))]), ..SurveyFacts::default() };
        let expect = SurveyFacts { slots: Some(slots), ..facts.clone() };
        assert_eq!(TOPIC.decode(context(&about), &answer, &mut facts).map(|()| facts), Ok(expect));
    }

    #[test]
    fn a_standby_does_not_know_what_is_safe_so_it_is_worked_out() {
        let about = about(Flavor::PostgreSql, "1.10");
        // As every major from 13 to 19 says it: 6 segments from 0/0, wherever the standby stands.
        let safe = |server: Rows<'static>, restart, reported| {
            let answer = [server, vec![physical("s", restart, "reserved", reported)]];
            decoded(&TOPIC, context(&about), &answer).map(|facts| facts.slots.unwrap_or_default()[0].safe_wal_size)
        };
        let (restart, reported) = (Some("0/1500708"), Some("100663296"));
        let six = 6 * 16 * MIB;
        for (end, received, limit, expect) in [
            ("0/19F04B8", None, "67108864", Some(six - 0x19F_04B8)),
            ("0/19F04B8", Some("0/2000000"), "67108864", Some(six - 0x200_0000)),
            ("0/19F04B8", Some("0/1000000"), "1048576", Some(six - 0x19F_04B8)),
            ("0/19F04B8", None, "134217728", Some(10 * 16 * MIB - 0x19F_04B8)),
        ] {
            let expect = expect.map(u64::cast_signed);
            assert_eq!(safe(server(end, "t", received, limit), restart, reported), Ok(expect), "{end} {limit}");
        }
        assert_eq!(
            safe(server("0/6F04B80", "t", None, "67108864"), restart, reported),
            Ok(Some(100_663_296 - 0x6F0_4B80))
        );
        // No limit, or nothing to lose.
        assert_eq!(safe(server("0/19F04B8", "t", None, "-1"), restart, None), Ok(None));
        assert_eq!(safe(server("0/19F04B8", "t", None, "67108864"), None, None), Ok(None));
    }

    #[test]
    fn a_slot_without_a_position_keeps_nothing_and_is_in_no_danger() {
        let about = about(Flavor::PostgreSql, "1.10");
        for in_recovery in ["f", "t"] {
            let mut row = physical("never_used", None, "", Some("-50332144"));
            row[5] = None;
            let answer = [server("0/6F04B80", in_recovery, None, "67108864"), vec![row]];
            let slots = decoded(&TOPIC, context(&about), &answer).map(|facts| facts.slots.unwrap_or_default());
            let kept = slots.map(|slots| (slots[0].safe_wal_size, slots[0].retained_bytes, slots[0].wal_status));
            assert_eq!(kept, Ok((None, None, None)), "in recovery: {in_recovery}");
        }
    }

    #[test]
    fn a_copy_is_one_on_a_standby_alone_and_what_it_keeps_is_counted_from_what_was_received() {
        let about = about(Flavor::PostgreSql, "1.10");
        let read = |in_recovery, received, reason| {
            let mut row = physical("cdc", Some("0/3000000"), "reserved", None);
            let last = row.len() - 1;
            (row[4], row[last - 1], row[last]) = (Some("0/3000000"), Some("t"), reason);
            let answer = [server("0/3000100", in_recovery, received, "-1"), vec![row]];
            let slots = decoded(&TOPIC, context(&about), &answer).map(|facts| facts.slots.unwrap_or_default());
            slots.map(|slots| {
                let slot = &slots[0];
                (slot.is_copy, slot.retained_bytes, slot.unconfirmed_bytes, slot.sync_skip_reason)
            })
        };
        assert_eq!(read("f", None, None), Ok((false, Some(0x100), Some(0x100), None)));
        assert_eq!(read("t", Some("0/3000900"), Some("none")), Ok((true, Some(0x900), Some(0x100), None)));
        let skipped = read("t", Some("0/2000000"), Some("wal_not_flushed"));
        assert_eq!(skipped, Ok((true, Some(0x100), Some(0x100), Some("wal_not_flushed"))));
        assert_eq!(read("t", None, Some("tired")).map(|read| read.3), Ok(Some("other")));
    }

    #[test]
    fn a_lost_slot_keeps_nothing_whatever_position_it_has() {
        let about = about(Flavor::PostgreSql, "1.10");
        let retained = |status| {
            let answer = [server("0/3000100", "f", None, "-1"), vec![physical("s", Some("0/3000000"), status, None)]];
            decoded(&TOPIC, context(&about), &answer).map(|facts| facts.slots.unwrap_or_default()[0].retained_bytes)
        };
        assert_eq!(retained("unreserved"), Ok(Some(0x100)));
        assert_eq!(retained("lost"), Ok(None));
    }

    #[test]
    fn only_columns_that_are_there_are_asked_for() {
        let mut about = about(Flavor::PostgreSql, "1.10");
        about.slot_columns = [true, true, false, false, false, false, false];
        let sql = sql(context(&about)).unwrap_or_default();
        assert!(sql.contains("age(catalog_xmin), two_phase, conflicting, NULL, NULL, NULL, NULL, NULL FROM"), "{sql}");
    }
}
