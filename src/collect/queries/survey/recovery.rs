//! How a standby gets its WAL.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, boolean};
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{RecoverySettings, SurveyFacts};
use crate::core::topology::Role;

pub(super) const TOPIC: Topic = Topic { name: "recovery", sql, decode };

/// The connection string itself is nobody's business, and only its readers may be told whether there is one.
const SQL: &str = "SELECT current_setting('primary_slot_name'), current_setting('restore_command') <> '', \
                   CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') \
                   THEN current_setting('primary_conninfo') <> '' END";

fn sql(context: Context<'_>) -> Option<String> {
    let is_standby = context.role == Some(Role::Replica) && context.about.identity.flavor != Flavor::Aurora;
    is_standby.then(|| SQL.to_owned())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
    let mut row = Fields::new("pg_settings", row);
    let slot_name = row.required("primary_slot_name", |text| Some(text.to_owned()))?;
    facts.recovery = Some(RecoverySettings {
        slot_name: Some(slot_name).filter(|name| !name.is_empty()),
        restores: row.required("restore_command", boolean)?,
        streams: row.optional("primary_conninfo", boolean)?,
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
        for (row, expect) in [
            (
                [Some("r1"), Some("f"), Some("t")],
                RecoverySettings { slot_name: Some("r1".to_owned()), restores: false, streams: Some(true) },
            ),
            ([Some(""), Some("t"), None], RecoverySettings { slot_name: None, restores: true, streams: None }),
        ] {
            let facts = decoded(&TOPIC, standby, &[vec![row.to_vec()]]);
            assert_eq!(facts, Ok(SurveyFacts { recovery: Some(expect), ..SurveyFacts::default() }));
        }
    }
}
