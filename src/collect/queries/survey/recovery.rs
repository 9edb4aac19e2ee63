//! How a standby gets its WAL.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, name, number};
use crate::collect::queries::Optional;
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{RecoverySettings, SurveyFacts};
use crate::core::topology::Role;
use crate::core::wal::Timeline;

pub(super) const TOPIC: Topic = Topic { name: "recovery", sql, decode };

/// The connection string itself is nobody's business, and only its readers may be told whether there is one.
const SQL: &str = "SELECT current_setting('primary_slot_name'), current_setting('restore_command') <> '', \
                   CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') \
                   THEN current_setting('primary_conninfo') <> '' END";

/// No row for who may not read it.
const VIEW: &str = ";SELECT promote_triggered, last_replayed_tli, ";
const CHUNK_AGE: &str = "CASE WHEN pg_last_wal_receive_lsn() <= last_replayed_end_lsn THEN 0 \
                         WHEN pg_last_wal_receive_lsn() > last_replayed_end_lsn \
                         THEN greatest(extract(epoch FROM clock_timestamp() - current_chunk_start_time), 0) END";
const FROM_VIEW: &str = " FROM pg_stat_recovery";

fn sql(context: Context<'_>) -> Option<String> {
    let is_standby = context.role == Some(Role::Replica) && context.about.identity.flavor != Flavor::Aurora;
    if !is_standby || !context.about.has_recovery_view {
        return is_standby.then(|| SQL.to_owned());
    }
    let chunk_age = if context.refused.contains(Optional::ReceiveLsn) { "NULL" } else { CHUNK_AGE };
    Some([SQL, VIEW, chunk_age, FROM_VIEW].concat())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
    let mut row = Fields::new("pg_settings", row);
    let state = statements.get(1).and_then(|rows| rows.first());
    let slot_name = row.required("primary_slot_name", name)?;
    let mut state = state.map(|row| Fields::new("pg_stat_recovery", row));
    let (mut promotion_requested, mut replayed_timeline, mut chunk_age_seconds) = (None, None, None);
    if let Some(state) = &mut state {
        promotion_requested = state.optional("promote_triggered", boolean)?;
        replayed_timeline = state.optional("last_replayed_tli", number)?.map(Timeline);
        chunk_age_seconds = state.optional("current_chunk_start_time", number)?;
    }
    facts.recovery = Some(RecoverySettings {
        slot_name: Some(slot_name).filter(|name| !name.is_empty()),
        restores: row.required("restore_command", boolean)?,
        streams: row.optional("primary_conninfo", boolean)?,
        promotion_requested,
        replayed_timeline,
        chunk_age_seconds,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;

    #[test]
    fn a_standby_says_how_it_gets_its_wal_and_a_primary_is_not_asked() {
        let about = about(Flavor::PostgreSql, "1.10");
        let standby = Context { role: Some(Role::Replica), ..context(&about) };
        assert!(TOPIC.sql(standby).is_some());
        assert_eq!(TOPIC.sql(context(&about)), None);
        let of_r1 = RecoverySettings { slot_name: Some("r1".to_owned()), streams: Some(true), ..Default::default() };
        let restoring = RecoverySettings { restores: true, ..RecoverySettings::default() };
        for (row, expect) in [([Some("r1"), Some("f"), Some("t")], &of_r1), ([Some(""), Some("t"), None], &restoring)] {
            let facts = decoded(&TOPIC, standby, &[vec![row.to_vec()]]);
            assert_eq!(facts, Ok(SurveyFacts { recovery: Some(expect.clone()), ..SurveyFacts::default() }));
        }
    }

    #[test]
    fn a_promotion_that_was_asked_for_is_told_where_the_view_tells_and_may_be_read() {
        let about = crate::collect::queries::identity::Introduction {
            has_recovery_view: true,
            ..about(Flavor::PostgreSql, "1.10")
        };
        let standby = Context { role: Some(Role::Replica), ..context(&about) };
        assert!(TOPIC.sql(standby).is_some_and(|sql| sql.contains(CHUNK_AGE) && sql.ends_with(FROM_VIEW)));
        let settings = vec![vec![Some(""), Some("f"), Some("t")]];
        for (rows, expect) in [
            (vec![vec![Some("t"), Some("3"), Some("1.5")]], (Some(true), Some(Timeline(3)), Some(1.5))),
            (vec![vec![Some("f"), Some("1"), None]], (Some(false), Some(Timeline(1)), None)),
            (vec![], (None, None, None)),
        ] {
            let facts = decoded(&TOPIC, standby, &[settings.clone(), rows]).expect("is read");
            let state = facts.recovery.expect("a standby");
            assert_eq!((state.promotion_requested, state.replayed_timeline, state.chunk_age_seconds), expect);
        }
    }
}
