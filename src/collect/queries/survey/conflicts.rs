//! Whom a standby's replay had to end.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, number};
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{Conflicts, SurveyFacts};
use crate::core::topology::Role;

pub(super) const TOPIC: Topic = Topic { name: "conflicts", sql, decode };

/// `pg_stat_database_conflicts.confl_active_logicalslot`.
const LOGICAL_SLOT_SINCE: u32 = 160_000;

fn sql(context: Context<'_>) -> Option<String> {
    let identity = &context.about.identity;
    if context.role != Some(Role::Replica) || identity.flavor == Flavor::Aurora {
        return None;
    }
    let logical_slot =
        if identity.version_num >= LOGICAL_SLOT_SINCE { "sum(confl_active_logicalslot)" } else { "NULL" };
    Some(format!(
        "SELECT sum(confl_tablespace), sum(confl_lock), sum(confl_snapshot), sum(confl_bufferpin), \
         sum(confl_deadlock), {logical_slot} FROM pg_stat_database_conflicts"
    ))
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
    let mut row = Fields::new("pg_stat_database_conflicts", row);
    facts.conflicts = Some(Conflicts {
        tablespace: row.required("confl_tablespace", number)?,
        lock: row.required("confl_lock", number)?,
        snapshot: row.required("confl_snapshot", number)?,
        bufferpin: row.required("confl_bufferpin", number)?,
        deadlock: row.required("confl_deadlock", number)?,
        logical_slot: row.optional("confl_active_logicalslot", number)?,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;

    #[test]
    fn conflicts_are_summed_over_databases_in_the_columns_that_there_are() {
        let fifteen = about(Flavor::PostgreSql, "1.10");
        let mut sixteen = about(Flavor::PostgreSql, "1.10");
        sixteen.identity.version_num = 160_000;
        assert_eq!(TOPIC.sql(context(&fifteen)), None);
        for (about, has_logical_slots) in [(&fifteen, false), (&sixteen, true)] {
            let sql = TOPIC.sql(Context { role: Some(Role::Replica), ..context(about) });
            assert_eq!(sql.map(|sql| sql.contains("logicalslot")), Some(has_logical_slots));
        }
        let row = vec![Some("1"), Some("2"), Some("3"), Some("4"), Some("5"), None];
        let conflicts =
            Conflicts { tablespace: 1, lock: 2, snapshot: 3, bufferpin: 4, deadlock: 5, logical_slot: None };
        let facts = decoded(&TOPIC, context(&fifteen), &[vec![row]]);
        assert_eq!(facts, Ok(SurveyFacts { conflicts: Some(conflicts), ..SurveyFacts::default() }));
    }
}
