//! Replication slots.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, lsn, number};
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{Slot, SurveyFacts};
use crate::core::wal::Lsn;

pub(super) const TOPIC: Topic = Topic { name: "slots", sql, decode };

const SLOTS: &str = "SELECT slot_name, slot_type, active, restart_lsn, confirmed_flush_lsn, wal_status, safe_wal_size, active_pid \
                     FROM pg_get_replication_slots()";

fn sql(context: Context<'_>) -> Option<String> {
    // Aurora has no WAL of its own, and raises an error when asked for its end.
    let end_of_wal = match context.about.identity.flavor {
        Flavor::Aurora => "NULL",
        Flavor::PostgreSql | Flavor::Rds => {
            "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"
        }
    };
    Some(format!("SELECT {end_of_wal};{SLOTS}"))
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let [server, slots] = statements else {
        return Err(Fields::new("pg_replication_slots", &[]).failure("*", "not the two results that were asked for"));
    };
    let server = server.first().map(Vec::as_slice).unwrap_or_default();
    let end_of_wal = Fields::new("server", server).optional("end of WAL", lsn)?;
    facts.slots = Some(slots.iter().map(|row| slot(row, end_of_wal)).collect::<Result<_, _>>()?);
    Ok(())
}

fn slot(row: &[Option<&str>], end_of_wal: Option<Lsn>) -> Result<Slot, PollFailure> {
    let mut row = Fields::new("pg_replication_slots", row);
    let name = row.required("slot_name", |text| Some(text.to_owned()))?;
    let slot_type = row.required("slot_type", |text| Some(text.to_owned()))?;
    let active = row.required("active", boolean)?;
    let restart_lsn = row.optional("restart_lsn", lsn)?;
    Ok(Slot {
        name,
        slot_type,
        active,
        restart_lsn,
        confirmed_flush_lsn: row.optional("confirmed_flush_lsn", lsn)?,
        wal_status: row.text("wal_status")?.map(str::to_owned),
        safe_wal_size: row.optional("safe_wal_size", number)?,
        active_pid: row.optional("active_pid", number)?,
        retained_bytes: end_of_wal.zip(restart_lsn).map(|(end, restart)| end.bytes_ahead_of(restart).0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;

    #[test]
    fn slots_read_as_the_server_says_them() {
        let about = about(Flavor::PostgreSql, "1.10");
        let answer = [
            vec![vec![Some("0/3000100")]],
            vec![
                vec![
                    Some("r1"),
                    Some("physical"),
                    Some("t"),
                    Some("0/3000000"),
                    None,
                    Some("reserved"),
                    None,
                    Some("42"),
                ],
                vec![Some("cdc"), Some("logical"), Some("f"), None, Some("0/2"), Some("lost"), Some("-1"), None],
            ],
        ];
        let slots = vec![
            Slot {
                name: "r1".to_owned(),
                slot_type: "physical".to_owned(),
                active: true,
                restart_lsn: Some(Lsn::new(0x300_0000)),
                confirmed_flush_lsn: None,
                wal_status: Some("reserved".to_owned()),
                safe_wal_size: None,
                active_pid: Some(42),
                retained_bytes: Some(0x100),
            },
            Slot {
                name: "cdc".to_owned(),
                slot_type: "logical".to_owned(),
                active: false,
                restart_lsn: None,
                confirmed_flush_lsn: Some(Lsn::new(2)),
                wal_status: Some("lost".to_owned()),
                safe_wal_size: Some(-1),
                active_pid: None,
                retained_bytes: None,
            },
        ];
        let expect = SurveyFacts { slots: Some(slots), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(expect));
    }
}
