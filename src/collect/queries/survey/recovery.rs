//! How a standby gets its WAL.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean, name};
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{RecoverySettings, SurveyFacts};
use crate::core::topology::Role;

pub(super) const TOPIC: Topic = Topic { name: "recovery", sql, decode };

/// The connection string itself is nobody's business, and only its readers may be told whether there is one.
const SQL: &str = "SELECT current_setting('primary_slot_name'), current_setting('restore_command') <> '', \
                   CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') \
                   THEN current_setting('primary_conninfo') <> '' END";

/// No row for who may not read it.
const VIEW: &str = ";SELECT promote_triggered FROM pg_stat_recovery";

fn sql(context: Context<'_>) -> Option<String> {
    let is_standby = context.role == Some(Role::Replica) && context.about.identity.flavor != Flavor::Aurora;
    is_standby.then(|| [SQL, if context.about.has_recovery_view { VIEW } else { "" }].concat())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
    let mut row = Fields::new("pg_settings", row);
    let state = statements.get(1).and_then(|rows| rows.first());
    let slot_name = row.required("primary_slot_name", name)?;
    facts.recovery = Some(RecoverySettings {
        slot_name: Some(slot_name).filter(|name| !name.is_empty()),
        restores: row.required("restore_command", boolean)?,
        streams: row.optional("primary_conninfo", boolean)?,
        promotion_requested: match state {
            Some(state) => Fields::new("pg_stat_recovery", state).optional("promote_triggered", boolean)?,
            None => None,
        },
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
        assert!(TOPIC.sql(standby).is_some_and(|sql| sql.ends_with(VIEW)));
        let settings = vec![vec![Some(""), Some("f"), Some("t")]];
        for (rows, expect) in
            [(vec![vec![Some("t")]], Some(true)), (vec![vec![Some("f")]], Some(false)), (vec![], None)]
        {
            let facts = decoded(&TOPIC, standby, &[settings.clone(), rows]).expect("is read");
            assert_eq!(facts.recovery.expect("a standby").promotion_requested, expect);
        }
    }
}
